//! What `make gate` counts: the functions `counted_…`, on fixed data.

use super::{BATCH, BEGIN, labels, open, register, scrape, value};
use crate::{
    commit,
    core::Core,
    head::chunk::{Blocks, Hot},
    ingester::Ingester,
    wal::floats::{FloatsEncoder, FloatsScratch},
};
use model::{
    push::{SeriesId, WriteBatch},
    sample::FloatSample,
    time::Timestamp,
};
use std::sync::Arc;

const GATE_SERIES: usize = 10_000;
const GATE_STEPS: u64 = 10;

/// Values of some scrapes, series by series in each.
fn gate_values() -> Vec<(u64, Timestamp, u64)> {
    let scrape = |step: u64| {
        let at = BEGIN + step as i64 * 15_000;
        (0..GATE_SERIES).map(move |number| (number as u64, at, value(number, step).to_bits()))
    };
    (0..GATE_STEPS).flat_map(scrape).collect()
}

fn tell_samples() {
    eprintln!("samples {}", GATE_SERIES as u64 * GATE_STEPS);
}

#[inline(never)]
fn counted_append(series: &mut [Hot], blocks: &mut Blocks, samples: &[(u64, Timestamp, u64)]) {
    for &(number, at, bits) in samples {
        let hot = &mut series[number as usize];
        assert!(!hot.must_cut(at));
        hot.append(blocks, at, bits);
    }
}

#[test]
#[ignore = "counted by `make gate`"]
fn append() {
    let mut series: Vec<Hot> = (1..=GATE_SERIES as u64).map(|number| Hot::new(number, 0)).collect();
    counted_append(&mut series, &mut Blocks::new(), &gate_values());
    tell_samples();
}

#[inline(never)]
fn counted_log(samples: &[(u64, Timestamp, u64)], bases: &mut [u64], out: &mut Vec<u8>, scratch: &mut FloatsScratch) {
    for part in samples.chunks(BATCH) {
        let mut encoder = FloatsEncoder::new(out, scratch);
        for &(number, at, bits) in part {
            let base = std::mem::replace(&mut bases[number as usize], bits);
            encoder.push(number, at, bits, base);
        }
        encoder.finish();
    }
}

#[test]
#[ignore = "counted by `make gate`"]
fn log() {
    let (samples, mut out) = (gate_values(), Vec::with_capacity(4 << 20));
    counted_log(&samples, &mut [0; GATE_SERIES], &mut out, &mut FloatsScratch::default());
    assert!(out.len() < samples.len() * 5, "{} bytes", out.len());
    tell_samples();
}

#[inline(never)]
fn counted_commit(core: &Core, batches: &[WriteBatch]) -> u64 {
    let one = |batch: &WriteBatch| {
        let written = commit::commit(core, batch, batch.floats[0].at).written;
        let mut log = core.wal().expect("it is ready").log();
        log.take().into_iter().for_each(|part| log.recycle(part.bytes));
        written
    };
    batches.iter().map(one).sum()
}

/// An ingester with series, and scrapes of them.
fn gate_world() -> (tempfile::TempDir, Arc<Ingester>, Vec<WriteBatch>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let dir = tempfile::tempdir().expect("a folder");
    let (ingester, refs) = runtime.expect("a runtime").block_on(async {
        let ingester = open(dir.path()).await;
        let refs = register(&ingester, GATE_SERIES).await;
        (ingester, refs)
    });
    let order: Vec<u32> = (0..GATE_SERIES as u32).collect();
    let batches = (1..=GATE_STEPS).flat_map(|step| scrape(&refs, &order, step)).collect();
    (dir, ingester, batches)
}

#[test]
#[ignore = "counted by `make gate`"]
fn commit() {
    let (_dir, ingester, batches) = gate_world();
    let written = counted_commit(ingester.core(), &batches);
    assert_eq!(written, GATE_SERIES as u64 * GATE_STEPS);
    tell_samples();
}

#[test]
#[ignore = "counted by `make gate`"]
fn new_series() {
    let (_dir, ingester, _) = gate_world();
    let batch = |numbers: Vec<usize>| {
        let mut batch = WriteBatch::default();
        for number in numbers {
            batch.floats.push(FloatSample {
                at: BEGIN,
                value: value(number, 0),
                start: 0,
            });
            batch.finish_series(SeriesId::New(labels(number)));
        }
        batch
    };
    let batches: Vec<_> = (0..5)
        .map(|part| batch((GATE_SERIES + part * BATCH..GATE_SERIES + (part + 1) * BATCH).collect()))
        .collect();
    assert_eq!(counted_commit(ingester.core(), &batches), 5 * BATCH as u64);
    eprintln!("samples {}", 5 * BATCH);
}
