//! Samples that come late: behind newer ones of their series, behind the cut of their window, twice, or too late.

use crate::support::*;
use ingest::{Ingester, OutOfOrderWindows};
use model::{
    histogram::{Histogram, Span},
    push::{Push as _, PushError, SeriesId, WriteBatch},
    sample::{FloatSample, HistogramSample, SampleBuffer},
    select::{Select as _, SelectRequest, SelectTenants as _},
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp, block_start},
    verdict::{Reason, Verdict},
};
use std::{path::Path, sync::Arc, time::Duration};
use storage::{block::Block, disk::Disk};
use ulid::Ulid;

const TENANT: &str = "default-tenant";
const W0: Timestamp = block_start(NOW);
const MINUTE: i64 = 60_000;
const HOUR: Duration = Duration::from_secs(3600);

/// Samples each minute in `[begin, end)`.
fn minutes(begin: Timestamp, end: Timestamp) -> Vec<(Timestamp, f64)> {
    (begin..end)
        .step_by(MINUTE as usize)
        .map(|at| (at, (at / MINUTE) as f64 / 7.0))
        .collect()
}

fn verdicts(outcome: &model::push::WriteOutcome) -> Vec<Verdict> {
    outcome.exceptions.iter().map(|exception| exception.verdict).collect()
}

fn local_blocks(dir: &Path) -> Vec<Block> {
    let mut blocks = Vec::new();
    for entry in std::fs::read_dir(dir.join("blocks")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Ulid::from_string(&name).is_ok() {
            blocks.push(Block::open(&Disk, &dir.join("blocks").join(name)).unwrap());
        }
    }
    blocks.sort_by_key(|block| block.meta().ulid);
    blocks
}

/// Reads all series of a block; chunks of a series must not overlap.
async fn clean_content(block: &Block) -> Content {
    let mut set = block.select(SelectRequest::new(vec![], TimeRange::ALL)).await.unwrap();
    let mut content = Content::new();
    while let Some(batch) = set.next().await {
        for series in batch.unwrap() {
            let chunks = series.samples.chunks().unwrap();
            assert!(
                chunks.windows(2).all(|pair| pair[0].max_time < pair[1].min_time),
                "chunks of {} overlap",
                series.labels
            );
            let mut buffer = SampleBuffer::default();
            series.samples.read(TimeRange::ALL, &mut buffer).unwrap();
            let bits = buffer.values.iter().map(|value| value.to_bits());
            let samples = buffer.timestamps.iter().copied().zip(bits).collect();
            content.insert(series.labels.to_string(), samples);
        }
    }
    content
}

async fn push_in_parts(ingester: &Ingester, number: usize, samples: &[(Timestamp, f64)], now: Timestamp) {
    for part in samples.chunks(7) {
        let outcome = ingester.push(&batch(&[(series(number), part)]), now).await.unwrap();
        assert_eq!(outcome.exceptions, [], "{part:?}");
    }
}

#[tokio::test]
async fn a_backlog_behind_newer_samples_is_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let now = W0 + BLOCK_RANGE_MS + 30 * MINUTE;
    let all = minutes(now - 120 * MINUTE, now);
    let (older, newer) = all.split_at(60);
    push_in_parts(&ingester, 1, newer, now).await;
    // The backlog comes backwards, the worst order of all.
    for part in older.chunks(5).rev() {
        let outcome = ingester.push(&batch(&[(series(1), part)]), now).await.unwrap();
        assert_eq!(outcome.exceptions, []);
        let known = &content(&ingester, TENANT).await[&series(1).to_string()];
        assert!(known.contains_key(&part[0].0), "a late sample is read at once");
    }
    let expected = expected(&[(series(1), &all)]);
    let mut ingester = ingester;
    for _ in 0..3 {
        assert_eq!(content(&ingester, TENANT).await, expected);
        for _ in 0..2 {
            let again = ingester.push(&batch(&[(series(1), &all)]), now).await.unwrap();
            assert_eq!(verdicts(&again), vec![Verdict::Duplicate; 120]);
        }
        let other = ingester
            .push(&batch(&[(series(1), &[(older[3].0, 0.25)])]), now)
            .await
            .unwrap();
        assert_eq!(verdicts(&other), [Verdict::Rejected(Reason::DuplicateTimestamp)]);
        ingester.shutdown().await;
        ingester.shutdown().await;
        drop(ingester);
        ingester = world.open().await;
    }
    let blocks = ingester.cut_now().await.unwrap();
    assert_eq!(blocks.len(), 2, "one for each window");
    let mut joined = Content::new();
    for block in local_blocks(dir.path()) {
        for (labels, samples) in clean_content(&block).await {
            joined.entry(labels).or_default().extend(samples);
        }
    }
    assert_eq!(joined, expected, "the cut brings both together");
    let again = ingester.push(&batch(&[(series(1), &all)]), now).await.unwrap();
    assert_eq!(verdicts(&again), vec![Verdict::Duplicate; 120], "also behind the cut");
    ingester.shutdown().await;
}

#[tokio::test]
async fn what_comes_behind_the_cut_gets_a_block_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let now = W0 + BLOCK_RANGE_MS;
    let all = minutes(W0, now);
    let even: Vec<_> = all.iter().copied().step_by(2).collect();
    let odd: Vec<_> = all.iter().copied().skip(1).step_by(2).collect();
    push_in_parts(&ingester, 1, &even, now).await;
    push_in_parts(&ingester, 2, &all, now).await;
    ingester.cut_now().await.unwrap();
    push_in_parts(&ingester, 1, &odd, now).await;
    let expected = expected(&[(series(1), &all), (series(2), &all)]);
    assert_eq!(content(&ingester, TENANT).await, expected);
    let again = ingester
        .push(&batch(&[(series(1), &all), (series(2), &all)]), now)
        .await
        .unwrap();
    assert_eq!(verdicts(&again), vec![Verdict::Duplicate; 240]);

    // A crash in front of the second cut, and one behind it: nothing is lost, nothing is cut twice.
    ingester.shutdown().await;
    drop(ingester);
    let ingester = world.open().await;
    assert_eq!(content(&ingester, TENANT).await, expected);
    let blocks = ingester.cut_now().await.unwrap();
    assert_eq!(blocks.len(), 1);
    assert_eq!(blocks[0].samples, odd.len() as u64, "only what the first block has not");
    ingester.shutdown().await;
    ingester.shutdown().await;
    drop(ingester);
    let ingester = world.open().await;
    assert_eq!(content(&ingester, TENANT).await, expected);
    assert_eq!(ingester.cut_now().await.unwrap(), []);
    let again = ingester.push(&batch(&[(series(1), &all)]), now).await.unwrap();
    assert_eq!(verdicts(&again), vec![Verdict::Duplicate; 120]);
    ingester.shutdown().await;
}

#[tokio::test]
async fn a_cut_that_the_log_still_holds_is_not_cut_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on_disk(dir.path());
    // Blocks are cut and cannot leave, so no image lets the log go.
    let bucket = std::mem::replace(&mut world.bucket, Arc::new(object_store::memory::InMemory::new()));
    world.bucket = Arc::new(object_store::throttle::ThrottledStore::new(
        object_store::memory::InMemory::new(),
        object_store::throttle::ThrottleConfig {
            wait_put_per_call: HOUR,
            ..Default::default()
        },
    ));
    let now = W0 + BLOCK_RANGE_MS;
    let all = minutes(W0 + 30 * MINUTE, now);
    let (older, newer) = all.split_at(40);
    let ingester = world.open().await;
    push_in_parts(&ingester, 1, newer, now).await;
    push_in_parts(&ingester, 1, older, now).await;
    let cut = tokio::time::timeout(Duration::from_secs(2), ingester.cut_now()).await;
    assert!(cut.is_err(), "the upload hangs");
    assert_eq!(local_blocks(dir.path()).len(), 1);
    ingester.shutdown().await;
    drop(ingester);
    world.bucket = bucket;
    let ingester = world.open_when_free().await;
    assert_eq!(content(&ingester, TENANT).await, expected(&[(series(1), &all)]));
    let blocks = ingester.cut_now().await.unwrap();
    assert_eq!(blocks.len(), 1, "the block that waited, and no other");
    assert_eq!(blocks[0].samples, all.len() as u64);
    ingester.shutdown().await;
}

#[tokio::test]
async fn the_window_hangs_on_the_series_and_on_the_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on_disk(dir.path());
    world.settings.out_of_order = OutOfOrderWindows::all(HOUR).with_tenants(|tenant| match tenant.as_str() {
        "strict" => Some(Duration::ZERO),
        "patient" => Some(72 * HOUR),
        _ => None,
    });
    let ingester = world.open().await;
    let hours = |count: i64| count * 60 * MINUTE;
    let story: &[(&str, i64, Option<Reason>)] = &[
        (TENANT, hours(1), None),
        (TENANT, hours(1) + 1, Some(Reason::TooOld)),
        ("strict", 1, Some(Reason::OutOfOrder)),
        ("strict", hours(100), Some(Reason::TooOld)),
        ("patient", hours(72), None),
        ("patient", hours(72) + 1, Some(Reason::TooOld)),
    ];
    for &(tenant, back, expected) in story {
        // Another series of the tenant is far ahead, as with a clock that runs fast.
        push(&ingester, &batch_of(tenant, &[(series(9), &[(NOW + 9 * MINUTE, 1.0)])])).await;
        push(&ingester, &batch_of(tenant, &[(series(1), &[(NOW, 1.0)])])).await;
        let late = batch_of(tenant, &[(series(1), &[(NOW - back, 2.0)])]);
        let outcome = ingester.push(&late, NOW).await.unwrap();
        let expected: Vec<_> = expected.map(Verdict::Rejected).into_iter().collect();
        assert_eq!(verdicts(&outcome), expected, "{tenant}, {back} ms back");
    }
    let future = ingester
        .push(&batch(&[(series(1), &[(NOW + 11 * MINUTE, 1.0)])]), NOW)
        .await
        .unwrap();
    assert_eq!(verdicts(&future), [Verdict::Rejected(Reason::TooFarInFuture)]);
    // A series whose sender is hours behind is judged by its own newest sample.
    let behind = NOW - hours(2);
    push_in_parts(&ingester, 5, &[(behind, 1.0)], NOW).await;
    push_in_parts(&ingester, 5, &[(behind - hours(1), 1.0), (behind + MINUTE, 1.0)], NOW).await;
    ingester.shutdown().await;
}

fn histogram(integer: bool, count: f64) -> Arc<Histogram> {
    Arc::new(Histogram {
        integer,
        schema: if count > 50.0 { -53 } else { 2 },
        zero_threshold: if count > 50.0 { 0.0 } else { 1e-6 },
        count,
        sum: count * 1.5,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_buckets: vec![1.0, count - 1.0],
        custom_values: if count > 50.0 { vec![1.0, 2.5] } else { vec![] },
        ..Histogram::default()
    })
}

/// Floats and histograms of every kind in one series, one each minute.
fn mixed(begin: Timestamp, end: Timestamp) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (index, at) in (begin..end).step_by(MINUTE as usize).enumerate() {
        let number = at / MINUTE % 40;
        if number % 5 == 4 {
            batch.floats.push(FloatSample {
                at,
                value: number as f64,
                start: 0,
            });
        } else {
            let count = if number >= 20 { 60.0 } else { 2.0 } + index as f64;
            batch.histograms.push(HistogramSample {
                at,
                start: 0,
                histogram: histogram(number % 3 == 0, count),
            });
        }
    }
    batch.finish_series(SeriesId::New(series(3)));
    batch
}

async fn read_mixed(ingester: &Ingester) -> SampleBuffer {
    let select = ingester.tenant(&Tenant::default());
    let mut set = select.select(SelectRequest::new(vec![], TimeRange::ALL)).await.unwrap();
    let mut buffer = SampleBuffer::default();
    while let Some(batch) = set.next().await {
        for series in batch.unwrap() {
            series.samples.read(TimeRange::ALL, &mut buffer).unwrap();
        }
    }
    for sample in &mut buffer.histograms {
        let mut plain = (*sample.histogram).clone();
        plain.reset_hint = Default::default();
        plain.compact();
        sample.histogram = Arc::new(plain);
    }
    buffer
}

#[tokio::test]
async fn histograms_of_every_kind_come_late_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let mut ingester = world.open().await;
    let now = W0 + BLOCK_RANGE_MS - 5 * MINUTE;
    let parts = [
        mixed(now - 30 * MINUTE, now),
        mixed(now - 100 * MINUTE, now - 30 * MINUTE),
    ];
    for part in &parts {
        assert_eq!(ingester.push(part, now).await.unwrap().exceptions, []);
    }
    let mut expected = SampleBuffer::default();
    for part in parts.iter().rev() {
        for sample in &part.floats {
            expected.push_float(sample.at, sample.value);
        }
        expected.histograms.extend(part.histograms.iter().cloned());
    }
    for round in 0..3 {
        assert_eq!(read_mixed(&ingester).await, expected, "round {round}");
        for part in &parts {
            let again = ingester.push(part, now).await.unwrap();
            assert_eq!(
                verdicts(&again),
                vec![Verdict::Duplicate; part.floats.len() + part.histograms.len()]
            );
        }
        match round {
            0 => {
                ingester.shutdown().await;
                ingester.shutdown().await;
                drop(ingester);
                ingester = world.open().await;
            }
            _ => drop(ingester.cut_now().await.unwrap()),
        }
    }
    for block in local_blocks(dir.path()) {
        clean_content(&block).await;
    }
    ingester.shutdown().await;
}

#[tokio::test]
async fn memory_for_late_samples_is_bounded_and_costs_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on_disk(dir.path());
    world.settings.out_of_order_bytes_max = 2000;
    let ingester = world.open().await;
    push(&ingester, &batch(&[(series(1), &[(NOW, 1.0)])])).await;
    let mut taken = Vec::new();
    let refused = loop {
        let at = NOW - MINUTE - taken.len() as i64;
        let both = batch(&[
            (series(1), &[(at, 1.0)]),
            (series(2), &[(NOW + taken.len() as i64, 1.0)]),
        ]);
        match ingester.push(&both, NOW).await {
            Ok(outcome) => assert_eq!(outcome.exceptions, []),
            Err(error) => break error,
        }
        taken.push(at);
        assert!(taken.len() < 1000, "there is no bound");
    };
    let PushError::Unavailable { reason, .. } = refused;
    assert!(reason.contains("out of order"), "{reason}");
    assert!(taken.len() > 20);
    // Who sends in order does not notice, and what was in order beside the refused one is stored.
    push_in_parts(&ingester, 1, &[(NOW + MINUTE, 2.0)], NOW).await;
    assert_eq!(
        content(&ingester, TENANT).await[&series(2).to_string()].len(),
        taken.len() + 1
    );
    ingester.cut_now().await.unwrap();
    push_in_parts(&ingester, 1, &[(NOW - 2 * MINUTE, 2.0)], NOW).await;
    ingester.shutdown().await;
}
