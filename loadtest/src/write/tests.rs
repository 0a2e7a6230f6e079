//! The write loop against a server that answers by a script.

use super::*;
use crate::{
    fleet::{Fleet, Shape},
    population::Population,
};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::Mutex,
};

/// A server that answers with the statuses given, then 204, and keeps every body.
fn serve(statuses: Vec<u16>) -> (Url, std::sync::Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/api/v1/write", listener.local_addr().unwrap())).unwrap();
    let bodies = std::sync::Arc::new(Mutex::new(Vec::new()));
    let (kept, script) = (bodies.clone(), std::sync::Arc::new(Mutex::new(statuses.into_iter())));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (kept, script) = (kept.clone(), script.clone());
            thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                loop {
                    let (mut line, mut length) = (String::new(), 0);
                    while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                        if let Some(value) = line.strip_prefix("Content-Length: ") {
                            length = value.trim().parse().unwrap();
                        }
                        line.clear();
                    }
                    if length == 0 {
                        return;
                    }
                    let mut body = vec![0; length];
                    stream.read_exact(&mut body).unwrap();
                    kept.lock().unwrap().push(body);
                    let status = script.lock().unwrap().next().unwrap_or(204);
                    if status == 0 {
                        return;
                    }
                    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nno");
                    let answer = if status == 204 {
                        "HTTP/1.1 204 X\r\n\r\n".to_owned()
                    } else {
                        answer
                    };
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    (url, bodies)
}

#[derive(Default)]
struct Fates(Mutex<HashMap<(usize, u64), Option<Ending>>>);

impl Observer for Fates {
    fn sending(&self, part: &Part<'_>) {
        self.note(part, None);
    }

    fn ended(&self, part: &Part<'_>, ending: Ending) {
        self.note(part, Some(ending));
    }
}

impl Fates {
    fn note(&self, part: &Part<'_>, ending: Option<Ending>) {
        for &series in part.series {
            for scrape in part.first_scrape..part.first_scrape + part.scrapes {
                self.0.lock().unwrap().insert((series, scrape), ending);
            }
        }
    }
}

fn plan(url: Url) -> Plan {
    let mut plan = Plan::new(url, 1_700_000_000_000);
    plan.scrapes = 5;
    plan.batch = 100;
    plan.connections = 3;
    plan.backoff_max = Duration::from_millis(40);
    plan
}

#[test]
fn every_sample_is_sent_once_in_any_order_and_protocol() {
    for (order, protocol, samples_each, snappy) in [
        (Order::Steady, Protocol::V1, 1, Snappy::Standard),
        (Order::Steady, Protocol::V1, 1, Snappy::Patched),
        (Order::Shuffled, Protocol::V1, 2, Snappy::Standard),
        (Order::Shuffled, Protocol::V2, 1, Snappy::Patched),
    ] {
        let (url, bodies) = serve(Vec::new());
        let plan = Plan {
            order,
            protocol,
            samples_each,
            snappy,
            ..plan(url)
        };
        let fates = Fates::default();
        let population = Population::new(730, Vec::new());
        let outcome = write(&plan, &population, &fates, &AtomicBool::new(false), &|_| ()).unwrap();
        assert_eq!((outcome.samples, outcome.refused, outcome.unknown), (730 * 5, 0, 0));
        assert_eq!(outcome.requests as usize, bodies.lock().unwrap().len());
        let fates = fates.0.into_inner().unwrap();
        assert_eq!(fates.len(), 730 * 5);
        assert!(fates.values().all(|ending| *ending == Some(Ending::Acknowledged)));
    }
}

#[test]
fn tenants_churn_and_late_samples_are_sent_as_asked() {
    let (url, bodies) = serve(Vec::new());
    let late = Late {
        share: 0.2,
        age_max: 60_000,
    };
    let plan = Plan {
        scrapes: 20,
        late: Some(late),
        ..plan(url)
    };
    let fleet = Fleet::new(Shape {
        churn: 0.25,
        tenants: 9,
        replicas: 2,
        ..Shape::plain(1_500, plan.step)
    })
    .unwrap();
    let fates = Fates::default();
    let outcome = write(&plan, &fleet, &fates, &AtomicBool::new(false), &|_| ()).unwrap();
    let pairs = || (0..3_000).flat_map(|series| (0..20).map(move |scrape| (series, scrape)));
    let mut moments: Vec<_> = pairs()
        .filter_map(|(series, scrape)| Some((series, late.scrape(series, scrape, plan.step)?)))
        .collect();
    let extra = moments.len();
    assert!((8_000..12_000).contains(&extra), "{extra} late samples");
    moments.sort_unstable();
    moments.dedup();
    assert_eq!(moments.len(), extra, "a late sample is sent once");
    assert_eq!(outcome.samples, 3_000 * 20 + extra as u64);
    // 167 series of a tenant and replica do not fit into one request of 100.
    assert!(bodies.lock().unwrap().len() >= 20 * 9 * 2 * 2);
    let fates = fates.0.into_inner().unwrap();
    assert_eq!(fates.len(), 3_000 * 20);
    assert!(fates.values().all(|ending| *ending == Some(Ending::Acknowledged)));
}

#[test]
fn a_passing_failure_is_sent_again_with_the_same_body() {
    let (url, bodies) = serve(vec![503, 0, 500]);
    let plan = Plan {
        connections: 1,
        ..plan(url)
    };
    let population = Population::new(50, Vec::new());
    let outcome = write(&plan, &population, &(), &AtomicBool::new(false), &|_| ()).unwrap();
    assert_eq!((outcome.samples, outcome.unknown), (250, 0));
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), 5 + 3);
    assert!(
        bodies[..4].iter().all(|body| *body == bodies[0]),
        "the body changed between attempts"
    );
    assert_ne!(bodies[4], bodies[0]);
    // The closed connection was opened again on the spot and is no error of the server's.
    assert_eq!(outcome.errors.values().sum::<u64>(), 2, "{:?}", outcome.errors);
    // The first request waited 30, then 40 ms; the time until its acknowledgement counts all of that.
    assert!((60.0..5_000.0).contains(&outcome.ack_ms.max), "{:?}", outcome.ack_ms);
    assert!(
        outcome.ack_ms.p50 > 0.0 && outcome.ack_ms.p50 < outcome.ack_ms.max,
        "{:?}",
        outcome.ack_ms
    );
}

#[test]
fn a_refusal_is_not_repeated_and_its_text_is_kept() {
    let (url, bodies) = serve(vec![400]);
    let plan = Plan {
        connections: 1,
        ..plan(url)
    };
    let population = Population::new(50, Vec::new());
    let outcome = write(&plan, &population, &(), &AtomicBool::new(false), &|_| ()).unwrap();
    assert_eq!((outcome.samples, outcome.refused), (200, 50));
    assert_eq!(bodies.lock().unwrap().len(), 5);
    assert_eq!(outcome.first_refusal.as_deref(), Some("no"));
}

#[test]
fn a_benchmark_stays_in_one_window() {
    let window = 2 * 60 * 60 * 1000;
    for minutes in 0..240 {
        let now = 1_700_000_000_000 + minutes * 60_000 + 11;
        let start = one_window_start(now, 200, 15_000);
        let last = start + 199 * 15_000;
        assert_eq!(start.div_euclid(window), last.div_euclid(window), "{minutes} minutes");
        assert!(last < now && now - last < window, "{minutes} minutes");
        assert_eq!(start.rem_euclid(15_000), 7);
    }
    // What does not fit is left where it is.
    assert_eq!(
        one_window_start(1_700_000_000_000, 1_000, 15_000),
        last_scrapes_start(1_700_000_000_000, 1_000, 15_000)
    );
}

#[test]
fn a_rate_is_kept() {
    let (url, _) = serve(Vec::new());
    let plan = Plan {
        rate: Some(5_000.0),
        ..plan(url)
    };
    let population = Population::new(300, Vec::new());
    let outcome = write(&plan, &population, &(), &AtomicBool::new(false), &|_| ()).unwrap();
    assert_eq!(outcome.samples, 1500);
    assert!(
        (0.2..2.0).contains(&outcome.seconds),
        "{} s instead of 0.3",
        outcome.seconds
    );
}
