//! The write loop: pushes a [`Workload`] through several connections, scrape after scrape, as real senders do.
//!
//! Each connection owns a part of the series, so the samples of a series always travel in order, and has one request in
//! flight. A request that fails in a way that may pass (5xx, 429, connection lost) is sent again with the same body, with
//! growing pauses, as the remote write protocol asks. Whoever needs to know the fate of each sample gives an
//! [`Observer`].

use crate::{
    http::{Client, Url},
    outcome::{Outcome, Tally},
    population::{Workload, mix},
    wire::{Body, LabelTable, Protocol, check_timestamps},
};
use anyhow::ensure;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// In which order a connection sends its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The same in every scrape, as Prometheus does between reshardings.
    Steady,
    /// Another one in every scrape: the worst case for a receiver that predicts.
    Shuffled,
}

/// What to send and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to; the path is that of the write endpoint.
    pub url: Url,
    /// Headers on every request (tenant, credentials).
    pub headers: Vec<(String, String)>,
    /// Scrapes to send.
    pub scrapes: u64,
    /// Timestamp of scrape 0 in milliseconds.
    pub start: i64,
    /// Milliseconds between scrapes.
    pub step: i64,
    /// Samples per request at most.
    pub batch: usize,
    /// Scrapes that travel in one request (a sender that catches up sends several samples per series).
    pub samples_each: usize,
    /// Connections, each with its own share of the series.
    pub connections: usize,
    /// Samples per second over all connections; `None` sends as fast as answers come.
    pub rate: Option<f64>,
    /// Order of the series.
    pub order: Order,
    /// Message type.
    pub protocol: Protocol,
    /// How often a request is sent again before its samples are given up.
    pub retries: u32,
    /// Longest pause before sending again.
    pub backoff_max: Duration,
    /// Bound for connecting and for each wait for an answer.
    pub timeout: Duration,
}

impl Plan {
    /// A plan with the defaults of a benchmark: 200 scrapes every 15 s up to now, 2,000 samples per request, four
    /// connections, as fast as possible, 1.0 messages in steady order.
    pub fn new(url: Url, now: i64) -> Self {
        let (scrapes, step) = (200, 15_000);
        Self {
            url,
            headers: Vec::new(),
            scrapes,
            start: last_scrapes_start(now, scrapes, step),
            step,
            batch: 2_000,
            samples_each: 1,
            connections: 4,
            rate: None,
            order: Order::Steady,
            protocol: Protocol::V1,
            retries: 10,
            backoff_max: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.step > 0, "the step between scrapes must be positive");
        ensure!(
            self.batch > 0 && self.connections > 0,
            "batch and connections must be at least 1"
        );
        ensure!(
            (1..=self.batch).contains(&self.samples_each),
            "samples per series ({}) must be between 1 and the batch ({})",
            self.samples_each,
            self.batch
        );
        ensure!(self.rate.is_none_or(|rate| rate > 0.0), "the rate must be positive");
        check_timestamps(
            self.start,
            self.start.saturating_add(self.step.saturating_mul(self.scrapes as i64)),
        )
    }
}

/// Start such that the last of `scrapes` lies just before `now`. It is 7 ms past a multiple of the step, so that no
/// sample falls on the edge of a query's window, where versions of Prometheus differ.
pub fn last_scrapes_start(now: i64, scrapes: u64, step: i64) -> i64 {
    (now / step - scrapes as i64) * step + 7
}

/// Like [`last_scrapes_start`], but earlier if that keeps all scrapes inside one two-hour window: a benchmark then makes
/// one block whenever it runs.
pub fn one_window_start(now: i64, scrapes: u64, step: i64) -> i64 {
    const WINDOW_MS: i64 = 2 * 60 * 60 * 1000;
    let start = last_scrapes_start(now, scrapes, step);
    let span = scrapes as i64 * step;
    let into_window = (start + span).rem_euclid(WINDOW_MS);
    if span > WINDOW_MS || into_window >= span {
        start
    } else {
        last_scrapes_start(now - into_window, scrapes, step)
    }
}

/// A request, as its observer sees it: these series, each with the scrapes from `first_scrape` on.
pub struct Part<'a> {
    /// Numbers of the series.
    pub series: &'a [usize],
    /// First scrape in the request.
    pub first_scrape: u64,
    /// Number of scrapes in the request.
    pub scrapes: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// 2xx: the server promised to keep it.
    Acknowledged,
    /// The server said that it will never take all of it; what part it took is not known.
    Refused,
    /// Given up after errors that might have passed; the server may hold it or not.
    Unknown,
}

/// Learns the fate of each sample. Called by several threads, each for its own series.
pub trait Observer: Sync {
    /// The request is about to leave for the first time.
    fn sending(&self, part: &Part<'_>);

    /// Nothing more will happen to the request.
    fn ended(&self, part: &Part<'_>, ending: Ending);
}

/// The observer that looks away.
impl Observer for () {
    fn sending(&self, _part: &Part<'_>) {}

    fn ended(&self, _part: &Part<'_>, _ending: Ending) {}
}

/// Sends `workload` as `plan` says until it is done or `stop` is set. `progress` hears the number of samples of each
/// request that ended.
pub fn write<W: Workload>(
    plan: &Plan,
    workload: &W,
    observer: &dyn Observer,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Outcome> {
    plan.check()?;
    let lanes: Vec<Lane<'_, W>> = (0..plan.connections)
        .map(|lane| Lane::new(plan, workload, lane, observer, stop, progress))
        .collect();
    let started = Instant::now();
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .into_iter()
            .map(|lane| scope.spawn(move || lane.run(started)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a connection's thread does not panic"))
            .collect()
    });
    let mut total = Tally::new();
    for tally in tallies {
        total.join(tally);
    }
    Ok(total.outcome(started.elapsed()))
}

/// One connection with its share of the series.
struct Lane<'a, W> {
    plan: &'a Plan,
    workload: &'a W,
    observer: &'a dyn Observer,
    stop: &'a AtomicBool,
    progress: &'a (dyn Fn(u64) + Sync),
    number: usize,
    /// Numbers of its series in the workload, and their labels in the same order.
    series: Vec<usize>,
    labels: LabelTable,
    client: Client,
    encoder: snap::raw::Encoder,
    compressed: Vec<u8>,
    tally: Tally,
}

impl<'a, W: Workload> Lane<'a, W> {
    fn new(
        plan: &'a Plan,
        workload: &'a W,
        number: usize,
        observer: &'a dyn Observer,
        stop: &'a AtomicBool,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Self {
        // Whole batches go round the connections, so that batches stay full.
        let per_batch = plan.batch / plan.samples_each;
        let series: Vec<usize> = (0..workload.series())
            .filter(|series| series / per_batch % plan.connections == number)
            .collect();
        Self {
            plan,
            workload,
            observer,
            stop,
            progress,
            number,
            labels: LabelTable::new(plan.protocol, workload, &series),
            series,
            client: Client::new(&plan.url, &plan.headers, plan.timeout),
            encoder: snap::raw::Encoder::new(),
            compressed: Vec::new(),
            tally: Tally::new(),
        }
    }

    fn run(mut self, started: Instant) -> Tally {
        let per_batch = self.plan.batch / self.plan.samples_each;
        let mut members: Vec<u32> = (0..self.series.len() as u32).collect();
        let mut bodies: Vec<Body> = Vec::new();
        let share = self.series.len() as f64 / self.workload.series().max(1) as f64;
        let rate = self.plan.rate.map(|rate| rate * share);
        let mut sent = 0;
        let mut numbers = Vec::new();
        for first_scrape in (0..self.plan.scrapes).step_by(self.plan.samples_each) {
            let scrapes = (self.plan.samples_each as u64).min(self.plan.scrapes - first_scrape);
            let reuse = self.plan.order == Order::Steady && scrapes == self.plan.samples_each as u64;
            if self.plan.order == Order::Shuffled {
                shuffle(&mut members, mix(first_scrape ^ (self.number as u64) << 48));
            }
            for (batch, members) in members.chunks(per_batch).enumerate() {
                if bodies.len() <= batch || !reuse {
                    bodies.truncate(batch);
                    bodies.push(self.labels.body(members, scrapes as usize));
                }
                numbers.clear();
                numbers.extend(members.iter().map(|&member| self.series[member as usize]));
                let part = Part {
                    series: &numbers,
                    first_scrape,
                    scrapes,
                };
                self.fill(&mut bodies[batch], &part);
                let due = rate.map_or_else(Instant::now, |rate| {
                    started + Duration::from_secs_f64(sent as f64 / rate)
                });
                if !self.wait_until(due) {
                    return self.tally;
                }
                sent += bodies[batch].samples() as u64;
                self.deliver(&bodies[batch], &part, due);
            }
        }
        self.tally
    }

    fn fill(&self, body: &mut Body, part: &Part<'_>) {
        let mut sample = 0;
        for &series in part.series {
            for scrape in part.first_scrape..part.first_scrape + part.scrapes {
                let timestamp = self.plan.start + scrape as i64 * self.plan.step;
                body.set(sample, self.workload.value(series, scrape, timestamp), timestamp);
                sample += 1;
            }
        }
    }

    /// Sends one request until it is answered for good, refused, or given up.
    fn deliver(&mut self, body: &Body, part: &Part<'_>, due: Instant) {
        self.compressed
            .resize(snap::raw::max_compress_len(body.bytes().len()), 0);
        let length = self
            .encoder
            .compress(body.bytes(), &mut self.compressed)
            .expect("the buffer is large enough");
        self.tally.message_bytes += body.bytes().len() as u64;
        self.tally.body_bytes += length as u64;
        self.observer.sending(part);
        let ending = self.attempt_all(length);
        self.observer.ended(part, ending);
        let samples = body.samples() as u64;
        match ending {
            Ending::Acknowledged => {
                self.tally.samples += samples;
                let waited = due.elapsed().as_micros() as u64;
                self.tally.acks.record(waited).expect("the histogram grows as needed");
            }
            Ending::Refused => self.tally.refused += samples,
            Ending::Unknown => self.tally.unknown += samples,
        }
        (self.progress)(samples);
    }

    fn attempt_all(&mut self, length: usize) -> Ending {
        let mut pause = Duration::from_millis(30);
        for attempt in 0..=self.plan.retries {
            let mut headers = self.plan.protocol.headers().to_owned();
            if attempt > 0 {
                headers.push_str(&format!("Retry-Attempt: {attempt}\r\n"));
            }
            let answer = self
                .client
                .post(&self.plan.url.path, &headers, &self.compressed[..length]);
            let mut wait = pause;
            match answer {
                Ok(answer) if (200..300).contains(&answer.status) => return Ending::Acknowledged,
                Ok(answer) if answer.status >= 500 || answer.status == 429 => {
                    self.tally.count_error(answer.status.to_string());
                    let asked = answer.header("retry-after").and_then(|value| value.parse().ok());
                    wait = asked.map_or(pause, Duration::from_secs).min(self.plan.backoff_max);
                }
                Ok(answer) => {
                    self.tally.count_error(answer.status.to_string());
                    self.tally.first_refusal.get_or_insert_with(|| answer.text());
                    return Ending::Refused;
                }
                Err(error) => self.tally.count_error(format!("connection: {}", error.kind())),
            }
            if attempt == self.plan.retries || !self.wait_until(Instant::now() + wait) {
                break;
            }
            pause = (pause * 2).min(self.plan.backoff_max);
        }
        Ending::Unknown
    }

    /// Waits; `false` when the run is to stop.
    fn wait_until(&self, due: Instant) -> bool {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// Puts `members` in an order that depends on `seed` alone (Fisher-Yates).
fn shuffle(members: &mut [u32], seed: u64) {
    for last in (1..members.len()).rev() {
        let other = mix(seed.wrapping_add(last as u64)) % (last as u64 + 1);
        members.swap(last, other as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::population::Population;
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
        for (order, protocol, samples_each) in [
            (Order::Steady, Protocol::V1, 1),
            (Order::Shuffled, Protocol::V1, 2),
            (Order::Shuffled, Protocol::V2, 1),
        ] {
            let (url, bodies) = serve(Vec::new());
            let plan = Plan {
                order,
                protocol,
                samples_each,
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
}
