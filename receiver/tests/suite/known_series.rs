//! Series that are known by their bytes: what a steady sender, a restarted taker and an odd encoder make of them.

use crate::common::*;
use futures::executor::block_on;
use futures::future::BoxFuture;
use model::label::Labels;
use model::push::memory::MemoryTaker;
use model::push::{Push, PushError, SeriesId, SeriesRef, WriteBatch, WriteOutcome};
use model::tenant::Tenant;
use model::time::Timestamp;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use proto::compression::snappy;
use proto::protobuf::{put_bytes, put_double, put_integer};
use proto::remote_write::encode::{Points, V1Encoder, V2Encoder};
use receiver::{Receiver, ReceiverSettings};
use std::collections::BTreeMap;
use std::sync::Arc;

const UP: &[(&str, &str)] = &[("__name__", "up"), ("job", "a")];

fn name(number: usize) -> [(&'static str, String); 2] {
    [("__name__", "metric".to_owned()), ("number", number.to_string())]
}

/// One sample at `at` for each of the series `numbers`.
fn scrape(numbers: impl IntoIterator<Item = usize>, at: Timestamp) -> Vec<u8> {
    let mut encoder = V1Encoder::default();
    for number in numbers {
        let labels = name(number);
        let floats = [float(at, number as f64)];
        let points = Points {
            floats: &floats,
            ..Points::default()
        };
        encoder.series(labels.iter().map(|(name, value)| (*name, value.as_str())), points);
    }
    encoder.finish()
}

#[test]
fn a_series_is_decoded_once_and_then_known() {
    let stand = Stand::default();
    for round in 0..5 {
        assert_eq!(stand.v1(&scrape(0..100, NOW + round)).status, 204);
    }
    assert_eq!(stand.metric("narthex_receiver_route_misses_total"), 100.0);
    assert_eq!(stand.metric("narthex_receiver_route_hits_total"), 400.0);
    assert_eq!(stand.metric("narthex_receiver_route_spellings"), 100.0);
    assert_eq!(stand.taker.sample_count(), 500);
}

#[test]
fn series_keep_their_samples_in_whatever_order_they_are_sent() {
    let stand = Stand::default();
    let orders: [Vec<usize>; 5] = [
        (0..50).collect(),
        (0..50).rev().collect(),
        (0..50).map(|number| number * 7 % 50).collect(),
        (25..75).collect(),
        (0..100).step_by(3).collect(),
    ];
    let mut expected: BTreeMap<usize, Vec<(Timestamp, f64)>> = BTreeMap::new();
    for (round, order) in orders.iter().cycle().take(15).enumerate() {
        let at = NOW + round as i64;
        assert_eq!(stand.v1(&scrape(order.iter().copied(), at)).status, 204);
        order
            .iter()
            .for_each(|number| expected.entry(*number).or_default().push((at, *number as f64)));
    }
    for (number, samples) in expected {
        let labels = name(number);
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(stand.floats(&labels), samples, "series {number}");
    }
}

/// Where the labels of an expected series end is not looked for again; what begins like it is another series all the same.
#[test]
fn a_series_that_begins_like_the_expected_one_is_another() {
    let stand = Stand::default();
    let (first, second) = (&[("__name__", "a")][..], &[("__name__", "b"), ("x", "1")][..]);
    let longer = &[("__name__", "b"), ("x", "1"), ("y", "2")][..];
    let shorter = &[("__name__", "b")][..];
    let send = |at: Timestamp, series: [&[(&str, &str)]; 3]| {
        let mut encoder = V1Encoder::default();
        for labels in series {
            let floats = [float(at, at as f64)];
            let points = Points {
                floats: &floats,
                ..Points::default()
            };
            encoder.series(labels.iter().copied(), points);
        }
        assert_eq!(stand.v1(&encoder.finish()).status, 204);
    };
    let rounds = NOW..NOW + 4;
    rounds.clone().for_each(|at| send(at, [UP, first, second]));
    send(NOW + 4, [UP, first, longer]);
    send(NOW + 5, [UP, first, shorter]);
    send(NOW + 6, [UP, first, second]);
    let expected = |times: &[Timestamp]| -> Vec<_> { times.iter().map(|&at| (at, at as f64)).collect() };
    let rounds: Vec<_> = rounds.chain([NOW + 6]).collect();
    assert_eq!(stand.floats(second), expected(&rounds));
    assert_eq!(stand.floats(longer), expected(&[NOW + 4]));
    assert_eq!(stand.floats(shorter), expected(&[NOW + 5]));
}

#[test]
fn a_taker_that_restarted_is_sent_the_labels_once_more() {
    let stand = Stand::default();
    assert_eq!(stand.v1(&scrape(0..10, NOW)).status, 204);
    stand.taker.restart();
    // Some known and forgotten, some new, in one request.
    assert_eq!(stand.v1(&scrape(5..15, NOW + 1)).status, 204);
    assert_eq!(stand.taker.sample_count(), 20);
    assert_eq!(stand.metric("narthex_receiver_routes_refused_total"), 5.0);
    let batches = stand.taker.batches();
    assert_eq!(stand.v1(&scrape(5..15, NOW + 2)).status, 204);
    assert_eq!(stand.taker.batches(), batches + 1, "the new numbers were learnt");
    assert_eq!(stand.metric("narthex_receiver_routes_refused_total"), 5.0);
}

#[test]
fn samples_of_forgotten_series_are_counted_once() {
    let stand = Stand::default();
    let send = |at| {
        let mut encoder = V2Encoder::default();
        for labels in [UP, &[("__name__", "down")][..]] {
            let floats = [float(at, 1.0), float(at + 1, 2.0)];
            encoder.series(
                labels.iter().copied(),
                Points {
                    floats: &floats,
                    ..Points::default()
                },
                None,
            );
        }
        let answer = stand.v2(&encoder.finish());
        (answer.status.as_u16(), written(&answer)[0])
    };
    assert_eq!(send(NOW), (204, Some(4)));
    stand.taker.restart();
    assert_eq!(
        send(NOW + 1),
        (400, Some(2)),
        "one of each series is there with another value"
    );
    stand.taker.restart();
    assert_eq!(send(NOW + 10), (204, Some(4)));
}

#[test]
fn a_refused_number_beside_refused_samples_gives_each_its_verdict() {
    let stand = Stand::default();
    assert_eq!(stand.v1(&scrape(0..3, NOW)).status, 204);
    stand.taker.restart();
    let mut message = scrape(0..3, NOW + 1);
    message.extend(v1_floats(&[
        (UP, &[(NOW, 1.0), (NOW, 2.0)]),
        (&[("job", "x")], &[(NOW, 1.0)]),
    ]));
    let answer = stand.v1(&message);
    assert_eq!(answer.status, 400);
    assert!(answer.body.starts_with("rejected 2 of 6 samples"), "{}", answer.body);
    assert_eq!(stand.taker.sample_count(), 7);
}

/// A label, or a sample.
type Part<'a> = Result<(&'a str, &'a str), (Timestamp, f64)>;

/// A series by hand: its label fields at the given places among its samples.
fn scattered(parts: &[Part<'_>]) -> Vec<u8> {
    let mut series = Vec::new();
    for part in parts {
        let mut message = Vec::new();
        match part {
            Ok((name, value)) => {
                put_bytes(&mut message, 1, name.as_bytes());
                put_bytes(&mut message, 2, value.as_bytes());
                put_bytes(&mut series, 1, &message);
            }
            Err((at, value)) => {
                put_double(&mut message, 1, *value);
                put_integer(&mut message, 2, *at as u64);
                put_bytes(&mut series, 2, &message);
            }
        }
    }
    let mut request = Vec::new();
    put_bytes(&mut request, 1, &series);
    request
}

#[test]
fn labels_may_stand_anywhere_among_the_samples() {
    let stand = Stand::default();
    let (up, job) = (Ok(("__name__", "up")), Ok(("job", "a")));
    let orders: [[_; 4]; 4] = [
        [Err((NOW, 1.0)), Err((NOW + 1, 2.0)), up, job],
        [up, Err((NOW + 2, 1.0)), job, Err((NOW + 3, 2.0))],
        [up, Err((NOW + 4, 1.0)), Err((NOW + 5, 2.0)), job],
        [Err((NOW + 6, 1.0)), job, Err((NOW + 7, 2.0)), up],
    ];
    for order in &orders {
        assert_eq!(stand.v1(&scattered(order)).status, 204);
    }
    assert_eq!(stand.floats(UP).len(), 8);
    // A beginning that is known must not be taken for the whole.
    assert_eq!(stand.v1(&scattered(&[up, Err((NOW, 9.0))])).status, 204);
    assert_eq!(stand.v1(&scattered(&[up, Err((NOW + 9, 9.0)), job])).status, 204);
    assert_eq!(stand.floats(&[("__name__", "up")]), [(NOW, 9.0)]);
    assert_eq!(stand.floats(UP).last(), Some(&(NOW + 9, 9.0)));
}

#[test]
fn a_taker_that_does_not_know_labels_either_is_unavailable() {
    struct Amnesia;
    impl Push for Amnesia {
        fn push<'a>(&'a self, batch: &'a WriteBatch, _: Timestamp) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
            let unknown = (0..batch.series.len() as u32).collect();
            Box::pin(async {
                Ok(WriteOutcome {
                    unknown,
                    ..WriteOutcome::default()
                })
            })
        }
    }
    let receiver = Receiver::new(
        env(),
        ReceiverSettings::default(),
        Arc::new(Amnesia),
        &mut Registry::default(),
    );
    let answer = block_on(receiver.write(request(V1, "snappy", snappy(&scrape(0..3, NOW)))));
    assert_eq!(answer.status, 503);
}

#[test]
fn outcomes_with_numbers_beyond_the_batch_do_no_harm() {
    struct Liar;
    impl Push for Liar {
        fn push<'a>(&'a self, batch: &'a WriteBatch, _: Timestamp) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
            use model::push::{Exception, SampleKind};
            use model::verdict::{Reason, Verdict};
            let exception = Exception {
                series: 99,
                sample: u32::MAX,
                kind: SampleKind::Histogram,
                verdict: Verdict::Rejected(Reason::TooOld),
            };
            let first = batch.floats.len() > 1;
            Box::pin(async move {
                Ok(WriteOutcome {
                    exceptions: vec![exception],
                    refs: vec![(u32::MAX, SeriesRef(1))],
                    unknown: if first { vec![77] } else { Vec::new() },
                })
            })
        }
    }
    let receiver = Receiver::new(
        env(),
        ReceiverSettings::default(),
        Arc::new(Liar),
        &mut Registry::default(),
    );
    let answer = block_on(receiver.write(request(V1, "snappy", snappy(&scrape(0..3, NOW)))));
    assert_eq!(answer.status, 400);
}

#[test]
fn few_spellings_may_be_remembered_and_still_all_is_stored() {
    let settings = ReceiverSettings {
        spellings_max: 20,
        ..ReceiverSettings::default()
    };
    let stand = Stand::new(settings, MemoryTaker::new());
    for round in 0..6 {
        assert_eq!(stand.v1(&scrape(0..50, NOW + round)).status, 204);
        assert_eq!(stand.v1(&scrape(0..5, NOW + 100 + round)).status, 204);
    }
    assert_eq!(stand.taker.sample_count(), 6 * 55);
    assert!(stand.metric("narthex_receiver_route_spellings") <= 110.0);
}

#[test]
fn a_large_request_is_pushed_in_parts_of_bounded_size() {
    struct Widest(MemoryTaker, Mutex<Vec<usize>>);
    impl Push for Widest {
        fn push<'a>(&'a self, batch: &'a WriteBatch, at: Timestamp) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
            self.1.lock().push(batch.floats.len());
            self.0.push(batch, at)
        }
    }
    let taker = Arc::new(Widest(MemoryTaker::new(), Mutex::default()));
    let receiver = Receiver::new(
        env(),
        ReceiverSettings::default(),
        taker.clone(),
        &mut Registry::default(),
    );
    let answer = block_on(receiver.write(request(V1, "snappy", snappy(&scrape(0..200_000, NOW)))));
    assert_eq!(answer.status, 204);
    let parts = taker.1.lock();
    assert!(
        parts.len() > 3 && parts.iter().all(|floats| *floats <= 65_536),
        "{parts:?}"
    );
    assert_eq!(taker.0.sample_count(), 200_000);
}

#[test]
fn only_the_first_push_of_a_series_carries_labels() {
    struct Watch(MemoryTaker, Mutex<Vec<bool>>);
    impl Push for Watch {
        fn push<'a>(&'a self, batch: &'a WriteBatch, at: Timestamp) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
            self.1
                .lock()
                .extend(batch.series.iter().map(|series| matches!(series.id, SeriesId::New(_))));
            self.0.push(batch, at)
        }
    }
    let taker = Arc::new(Watch(MemoryTaker::new(), Mutex::default()));
    let receiver = Receiver::new(
        env(),
        ReceiverSettings::default(),
        taker.clone(),
        &mut Registry::default(),
    );
    for round in 0..2 {
        block_on(receiver.write(request(V1, "snappy", snappy(&scrape(0..2, NOW + round)))));
    }
    assert_eq!(*taker.1.lock(), [true, true, false, false]);
}

#[test]
fn many_senders_at_once_lose_and_mix_nothing() {
    // Few spellings, so that routes are learnt, fade and are forgotten while others read them.
    let settings = ReceiverSettings {
        spellings_max: 150,
        ..ReceiverSettings::default()
    };
    let stand = Stand::new(settings, MemoryTaker::new());
    std::thread::scope(|scope| {
        for sender in 0..4 {
            let stand = &stand;
            scope.spawn(move || {
                for round in 0..60 {
                    // Half of the series are those of the next sender, at timestamps of one's own.
                    let series = sender * 20..sender * 20 + 40;
                    let at = NOW - 100_000 + (round * 4 + sender) as i64;
                    assert_eq!(stand.v1(&scrape(series, at)).status, 204);
                    if round % 20 == 10 {
                        stand.taker.restart();
                    }
                }
            });
        }
    });
    assert_eq!(stand.taker.sample_count(), 4 * 60 * 40);
    for number in 0..100 {
        let labels = name(number);
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let samples = stand.floats(&labels);
        assert!(
            !samples.is_empty() && samples.iter().all(|(_, value)| *value == number as f64),
            "{number}"
        );
    }
}

#[derive(Debug, Clone)]
struct Sent {
    order: Vec<usize>,
    version_2: bool,
    restart: bool,
    shuffled_labels: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    (
        prop::collection::vec(0usize..30, 0..60),
        any::<bool>(),
        prop::bool::weighted(0.2),
        any::<bool>(),
    )
        .prop_map(|(order, version_2, restart, shuffled_labels)| Sent {
            order,
            version_2,
            restart,
            shuffled_labels,
        })
}

proptest! {
    /// Whatever the order, the version, the spelling, restarts and forgetting: each sample lands in its own series.
    #[test]
    fn every_sample_lands_in_its_own_series(requests in prop::collection::vec(sent(), 1..12), spellings_max in 2usize..100) {
        let stand = Stand::new(ReceiverSettings { spellings_max, ..ReceiverSettings::default() }, MemoryTaker::new());
        let mut expected: BTreeMap<usize, BTreeMap<Timestamp, f64>> = BTreeMap::new();
        let mut at = NOW - 1_000_000;
        for sent in requests {
            if sent.restart {
                stand.taker.restart();
            }
            let (mut v1, mut v2) = (V1Encoder::default(), V2Encoder::default());
            for number in &sent.order {
                at += 1;
                let owned = name(*number);
                let mut labels: Vec<(&str, &str)> = owned.iter().map(|(name, value)| (*name, value.as_str())).collect();
                if sent.shuffled_labels {
                    labels.reverse();
                }
                let floats = [float(at, *number as f64)];
                let points = Points { floats: &floats, ..Points::default() };
                if sent.version_2 { v2.series(labels, points, None) } else { v1.series(labels, points) }
                expected.entry(*number).or_default().insert(at, *number as f64);
            }
            let answer = if sent.version_2 { stand.v2(&v2.finish()) } else { stand.v1(&v1.finish()) };
            prop_assert_eq!(answer.status.as_u16(), 204, "{}", answer.body);
        }
        let stored = stand.taker.all_labels(&Tenant::default());
        prop_assert_eq!(stored.len(), expected.len());
        for (number, samples) in expected {
            let labels = Labels::new(name(number)).unwrap();
            let pairs: Vec<(&str, &str)> = labels.iter().collect();
            prop_assert_eq!(stand.floats(&pairs), samples.into_iter().collect::<Vec<_>>());
        }
    }
}
