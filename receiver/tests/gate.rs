//! What `make gate` counts here: walking a request, and the whole way of a known series up to a taker that does nothing.

mod common;

use common::{NOW, V1, V2, env, float, request};
use futures::{executor::block_on, future::BoxFuture};
use model::{
    push::{Push, PushError, SeriesId, SeriesRef, WriteBatch, WriteOutcome},
    time::Timestamp,
};
use prometheus_client::registry::Registry;
use proto::{
    compression::{Decompressor, Encoding, snappy},
    remote_write::{
        encode::{Points, V1Encoder, V2Encoder},
        v1,
    },
};
use receiver::{Receiver, ReceiverSettings, WriteRequest};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

const SERIES: usize = 2_000;
const ROUNDS: i64 = 20;

/// Numbers new series and throws everything away.
#[derive(Default)]
struct Void(AtomicU64);

impl Push for Void {
    fn push<'a>(&'a self, batch: &'a WriteBatch, _: Timestamp) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        let mut outcome = WriteOutcome::default();
        let series = (0u32..).zip(&batch.series);
        for (index, _) in series.filter(|(_, series)| matches!(series.id, SeriesId::New(_))) {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            outcome.refs.push((index, SeriesRef(number)));
        }
        Box::pin(async { Ok(outcome) })
    }
}

/// Ten labels as a container exporter gives them.
fn labels(index: usize) -> Vec<(&'static str, String)> {
    let target = index / 50;
    vec![
        (
            "__name__",
            format!("container_network_receive_{:02}_bytes_total", index % 50),
        ),
        ("cluster", "production-eu-1".to_owned()),
        ("container", format!("service-{:02}", target % 37)),
        ("image", "registry.example/app:1.42".to_owned()),
        ("instance", format!("10.0.{}.{}:9100", target / 256, target % 256)),
        ("interface", format!("eth{}", target % 3)),
        ("job", "kubelet-cadvisor".to_owned()),
        ("namespace", format!("team-{:02}", target % 23)),
        ("node", format!("worker-{target:04}")),
        ("pod", format!("service-{:02}-{:08x}", target % 37, target * 0x9e37)),
    ]
}

/// Whether the symbol table of 2.0 is the same in each round.
#[derive(Clone, Copy, PartialEq)]
enum Table {
    Same,
    Other,
}

/// A request with one sample of each series from `first` on.
fn body(version: &str, table: Table, first: usize, round: i64) -> Vec<u8> {
    let (mut one, mut two) = (V1Encoder::default(), V2Encoder::default());
    if table == Table::Other {
        two.symbol(&format!("of round {round}"));
    }
    for index in first..first + SERIES {
        let labels = labels(index);
        let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
        let floats = [float(NOW + round * 15_000, (index as i64 * 7_919 + round * 13) as f64)];
        let points = Points {
            floats: &floats,
            ..Points::default()
        };
        match version {
            V1 => one.series(labels, points),
            _ => two.series(labels, points, None),
        }
    }
    match version {
        V1 => one.finish(),
        _ => two.finish(),
    }
}

/// The bodies of a request per round, each decompressed.
fn bodies(version: &str, table: Table) -> Vec<Vec<u8>> {
    (0..ROUNDS).map(|round| body(version, table, 0, round)).collect()
}

#[inline(never)]
fn counted_walk(bodies: &[Vec<u8>]) -> i64 {
    let mut sum = 0;
    for body in bodies {
        let mut entries = v1::entries(body);
        while let Some(entry) = entries.next_entry().unwrap() {
            let v1::Entry::Series(series) = entry else { continue };
            let mut points = series.points();
            while let Some(v1::Point::Sample(sample)) = points.next_point().unwrap() {
                sum += sample.at;
            }
            sum += series.leading_labels().len() as i64;
        }
    }
    sum
}

#[inline(never)]
fn counted_decompress(decompressor: &mut Decompressor, wire: &[Vec<u8>]) -> usize {
    let len = |body: &Vec<u8>| decompressor.decompress(Encoding::Snappy, body, 32 << 20).unwrap().len();
    wire.iter().map(len).sum()
}

#[inline(never)]
fn counted_write(receiver: &Receiver, requests: Vec<WriteRequest>) {
    for request in requests {
        assert_eq!(block_on(receiver.write(request)).status, 204);
    }
}

fn tell_samples() {
    eprintln!("samples {}", SERIES as i64 * ROUNDS);
}

fn write(version: &'static str, table: Table) {
    let taker = Arc::new(Void::default());
    let receiver = Receiver::new(
        env(),
        ReceiverSettings::default(),
        taker.clone(),
        &mut Registry::default(),
    );
    let mut requests: Vec<_> = bodies(version, table)
        .iter()
        .map(|body| request(version, "snappy", snappy(body)))
        .collect();
    assert_eq!(block_on(receiver.write(requests[0].clone())).status, 204);
    requests.rotate_left(1);
    counted_write(&receiver, requests);
    assert_eq!(
        taker.0.load(Ordering::Relaxed),
        SERIES as u64,
        "every series was known the second time"
    );
    tell_samples();
}

#[test]
#[ignore = "counted by `make gate`"]
fn decode() {
    let bodies = bodies(V1, Table::Same);
    let wire: Vec<_> = bodies.iter().map(|body| snappy(body)).collect();
    let unpacked = counted_decompress(&mut Decompressor::default(), &wire);
    assert_eq!(unpacked, bodies.iter().map(Vec::len).sum::<usize>());
    tell_samples();
}

#[test]
#[ignore = "counted by `make gate`"]
fn walk() {
    assert!(counted_walk(&bodies(V1, Table::Same)) > 0);
    tell_samples();
}

#[test]
#[ignore = "counted by `make gate`"]
fn resolve_1() {
    write(V1, Table::Same);
}

#[test]
#[ignore = "counted by `make gate`"]
fn resolve_2() {
    write(V2, Table::Same);
}

#[test]
#[ignore = "counted by `make gate`"]
fn resolve_2_other_table() {
    write(V2, Table::Other);
}

/// Series that nobody saw before: decoded, checked, numbered and learnt.
#[test]
#[ignore = "counted by `make gate`"]
fn new_series() {
    let taker = Arc::new(Void::default());
    let receiver = Receiver::new(
        env(),
        ReceiverSettings::default(),
        taker.clone(),
        &mut Registry::default(),
    );
    let requests = (0..ROUNDS).map(|round| body(V1, Table::Same, round as usize * SERIES, round));
    let requests = requests.map(|body| request(V1, "snappy", snappy(&body))).collect();
    counted_write(&receiver, requests);
    assert_eq!(taker.0.load(Ordering::Relaxed), SERIES as u64 * ROUNDS as u64);
    tell_samples();
}
