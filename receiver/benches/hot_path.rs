//! Time per sample of a steady sender: 2,000 series of about ten labels and 230 label bytes, one sample each, all known.
//!
//! `cargo bench -p receiver` prints the stages one on top of the other: snappy, the walk, and the whole write up to a
//! taker that does nothing. No harness: the median of many rounds on one thread says enough.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{NOW, V1, V2, env, float, request};
use futures::{executor::block_on, future::BoxFuture};
use model::metadata::{Metadata, MetricType};
use model::push::{Push, PushError, SeriesId, SeriesRef, WriteBatch, WriteOutcome};
use model::time::Timestamp;
use prometheus_client::registry::Registry;
use proto::compression::{Decompressor, Encoding, snappy};
use proto::remote_write::encode::{Points, V1Encoder, V2Encoder};
use proto::remote_write::{v1, v2};
use receiver::{Receiver, ReceiverSettings};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const SERIES: usize = 2_000;
const ROUNDS: usize = 3_000;

/// Numbers new series and throws everything away.
#[derive(Default)]
struct Void {
    next: AtomicU64,
    known: AtomicU64,
}

impl Push for Void {
    fn push<'a>(&'a self, batch: &'a WriteBatch, _: Timestamp) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        let mut outcome = WriteOutcome::default();
        for (index, series) in batch.series.iter().enumerate() {
            if matches!(series.id, SeriesId::New(_)) {
                outcome
                    .refs
                    .push((index as u32, SeriesRef(self.next.fetch_add(1, Ordering::Relaxed))));
            }
        }
        self.known
            .fetch_add((batch.series.len() - outcome.refs.len()) as u64, Ordering::Relaxed);
        Box::pin(async { Ok(outcome) })
    }
}

/// Labels as a container exporter gives them.
fn labels(group: usize, index: usize) -> Vec<(&'static str, String)> {
    let metric = index % 50;
    let target = group * (SERIES / 50) + index / 50;
    vec![
        ("__name__", format!("container_network_receive_{metric:02}_bytes_total")),
        ("cluster", "production-eu-1".to_owned()),
        ("container", format!("service-{:02}", target % 37)),
        ("image", "registry.example/app:1.42".to_owned()),
        (
            "instance",
            format!("10.{}.{}.{}:9100", target % 4, target / 256 % 256, target % 256),
        ),
        ("interface", format!("eth{}", target % 3)),
        ("job", "kubelet-cadvisor".to_owned()),
        ("namespace", format!("team-{:02}", target % 23)),
        ("node", format!("worker-{:04}", target % 1_000)),
        (
            "pod",
            format!(
                "service-{:02}-{:08x}",
                target % 37,
                target.wrapping_mul(0x9e37_79b1) as u32
            ),
        ),
    ]
}

fn value(index: usize, round: usize) -> f64 {
    ((index * 7_919 + round * 13) % 1_000_003) as f64
}

fn v1_body(group: usize, round: usize) -> Vec<u8> {
    let mut encoder = V1Encoder::default();
    for index in 0..SERIES {
        let labels = labels(group, index);
        let floats = [float(NOW + round as i64 * 15_000, value(index, round))];
        let points = Points {
            floats: &floats,
            ..Points::default()
        };
        encoder.series(labels.iter().map(|(name, value)| (*name, value.as_str())), points);
    }
    encoder.finish()
}

fn v2_body(group: usize, round: usize) -> Vec<u8> {
    let mut encoder = V2Encoder::default();
    let metadata = Metadata {
        kind: MetricType::Counter,
        help: "Bytes received".into(),
        unit: "bytes".into(),
        ..Metadata::default()
    };
    for index in 0..SERIES {
        let labels = labels(group, index);
        let floats = [float(NOW + round as i64 * 15_000, value(index, round))];
        let points = Points {
            floats: &floats,
            ..Points::default()
        };
        encoder.series(
            labels.iter().map(|(name, value)| (*name, value.as_str())),
            points,
            Some(&metadata),
        );
    }
    encoder.finish()
}

/// Runs `work` for each body in turn and prints the best and the median time per sample.
fn measure(name: &str, bodies: &[Vec<u8>], mut work: impl FnMut(&[u8])) {
    let mut nanos: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let body = &bodies[round % bodies.len()];
            let begun = Instant::now();
            work(body);
            begun.elapsed().as_nanos() as f64 / SERIES as f64
        })
        .collect();
    nanos.sort_by(f64::total_cmp);
    println!(
        "{name:<44} best {:7.1}   median {:7.1} ns/sample",
        nanos[0],
        nanos[ROUNDS / 2]
    );
}

fn write(name: &str, content_type: &str, bodies: &[Vec<u8>]) {
    let void = Arc::new(Void::default());
    let receiver = Receiver::new(
        env(),
        ReceiverSettings::default(),
        void.clone(),
        &mut Registry::default(),
    );
    let requests: Vec<_> = bodies
        .iter()
        .map(|body| request(content_type, "snappy", body.clone()))
        .collect();
    for request in &requests {
        assert_eq!(block_on(receiver.write(request.clone())).status, 204);
    }
    let new = void.next.load(Ordering::Relaxed);
    let mut next = 0;
    measure(name, bodies, |_| {
        let answer = block_on(receiver.write(requests[next % requests.len()].clone()));
        next += 1;
        assert_eq!(answer.status, 204);
    });
    assert_eq!(void.next.load(Ordering::Relaxed), new, "every series was found");
    assert!(void.known.load(Ordering::Relaxed) >= (ROUNDS * SERIES) as u64);
}

fn main() {
    // One scrape of 2,000 series over and over, then 100,000 and a million series, which no cache of the processor holds.
    for groups in [1, 50, 500] {
        let bodies: Vec<Vec<u8>> = (0..groups).map(|group| v1_body(group, 1)).collect();
        let wire: Vec<Vec<u8>> = bodies.iter().map(|body| snappy(body)).collect();
        let bytes: usize = bodies.iter().map(Vec::len).sum();
        println!(
            "1.0, {} series, {} bytes each",
            groups * SERIES,
            bytes / groups / SERIES
        );
        let mut decompressor = Decompressor::default();
        measure("  snappy", &wire, |body| {
            black_box(decompressor.decompress(Encoding::Snappy, body, 32 << 20).unwrap().len());
        });
        measure("  walk", &bodies, |body| {
            let mut entries = v1::entries(body);
            let mut sum = 0;
            while let Some(entry) = entries.next_entry().unwrap() {
                let v1::Entry::Series(series) = entry else { continue };
                let mut points = series.points();
                while let Some(v1::Point::Sample(sample)) = points.next_point().unwrap() {
                    sum += sample.at;
                }
                sum += series.leading_labels().len() as i64;
            }
            black_box(sum);
        });
        write("  write, all of it", V1, &wire);

        let bodies: Vec<Vec<u8>> = (0..groups).map(|group| v2_body(group, 1)).collect();
        let wire: Vec<Vec<u8>> = bodies.iter().map(|body| snappy(body)).collect();
        let bytes: usize = bodies.iter().map(Vec::len).sum();
        println!(
            "2.0, {} series, {} bytes each",
            groups * SERIES,
            bytes / groups / SERIES
        );
        measure("  snappy", &wire, |body| {
            black_box(decompressor.decompress(Encoding::Snappy, body, 32 << 20).unwrap().len());
        });
        measure("  walk", &bodies, |body| {
            let mut entries = v2::entries(body);
            let mut refs = Vec::new();
            while let Some(v2::Entry::Series(series)) = entries.next_entry().unwrap() {
                let mut fields = series.fields();
                while let Some(field) = fields.next_field().unwrap() {
                    if let v2::Field::LabelRefs(found) = field {
                        refs.clear();
                        found.append_to(&mut refs, 1_000).unwrap();
                    }
                }
            }
            black_box(refs.len());
        });
        write("  write, all of it", V2, &wire);
    }
}
