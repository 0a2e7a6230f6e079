//! Native histograms on their way through head, log, image and block, beside floats of the same series.

use crate::support::*;
use model::{
    env::memory::MemoryFs,
    histogram::{Histogram, ResetHint, Span},
    matcher::Matcher,
    push::{SeriesId, WriteBatch},
    sample::{FloatSample, HistogramSample, STALE_NAN, SampleBuffer},
    select::{SelectRequest, SelectTenants},
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp},
    verdict::{Reason, Verdict},
};
use std::{sync::Arc, time::Duration};

/// A histogram with `buckets` counts from bucket 0 on.
fn histogram(integer: bool, buckets: &[f64]) -> Histogram {
    let count = buckets.iter().sum();
    Histogram {
        integer,
        schema: 2,
        zero_threshold: 1e-6,
        count,
        sum: count * 1.5,
        positive_spans: vec![Span {
            offset: 0,
            length: buckets.len() as u32,
        }],
        positive_buckets: buckets.to_vec(),
        ..Histogram::default()
    }
}

fn batch_of_histograms(number: usize, samples: &[(Timestamp, Histogram)]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    let sample = |(at, histogram): &(Timestamp, Histogram)| HistogramSample {
        at: *at,
        start: 0,
        histogram: Arc::new(histogram.clone()),
    };
    batch.histograms.extend(samples.iter().map(sample));
    batch.finish_series(SeriesId::New(series(number)));
    batch
}

async fn read(ingester: &ingest::Ingester, number: usize) -> SampleBuffer {
    let select = ingester.tenant(&Tenant::default());
    let matchers = vec![Matcher::equal("series", &number.to_string())];
    let mut set = select
        .select(SelectRequest::new(matchers, TimeRange::ALL))
        .await
        .unwrap();
    let mut buffer = SampleBuffer::default();
    while let Some(batch) = set.next().await {
        for series in batch.unwrap() {
            series.samples.read(TimeRange::ALL, &mut buffer).unwrap();
        }
    }
    buffer
}

/// Histograms as text without what storing may add: knowledge about resets, empty buckets.
fn plain(histogram: &Histogram) -> String {
    let mut plain = Histogram {
        reset_hint: ResetHint::Unknown,
        ..histogram.clone()
    };
    plain.compact();
    format!("{plain:?}")
}

/// Growing buckets, resets, gaps, float ones, stale ones.
fn samples() -> Vec<(Timestamp, Histogram)> {
    (0..700i64)
        .map(|index| {
            let grown = (index % 200) as f64;
            let mut histogram = match index / 100 {
                0 | 1 => histogram(true, &[1.0 + grown, 2.0, 0.0, 4.0]),
                2 | 3 => histogram(true, &[1.0 + grown, 2.0, 0.0, 4.0, grown]),
                4 => histogram(false, &[0.5 + grown, 2.25]),
                5 if index % 10 == 0 => Histogram {
                    sum: STALE_NAN,
                    ..Histogram::default()
                },
                _ => histogram(index % 2 == 0, &[1.0, 2.0, 3.0]),
            };
            histogram.integer |= histogram.sum.is_nan();
            (NOW + index * 30_000, histogram)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn histograms_are_stored_and_survive_everything() {
    let fs = MemoryFs::new();
    let mut world = World::in_memory(&fs);
    world.settings.segment_bytes_max = 10_000;
    // An image whenever somebody looks.
    world.settings.image_bytes = 1;
    world.settings.maintenance_interval = Duration::from_secs(30);
    let samples = samples();
    let expected: Vec<_> = samples.iter().map(|(at, histogram)| (*at, plain(histogram))).collect();
    let found = |buffer: &SampleBuffer| -> Vec<_> {
        buffer
            .histograms
            .iter()
            .map(|sample| (sample.at, plain(&sample.histogram)))
            .collect()
    };
    let mut ingester = world.open().await;
    for part in samples.chunks(50) {
        let outcome = model::push::Push::push(&*ingester, &batch_of_histograms(1, part), part[49].0)
            .await
            .unwrap();
        assert_eq!(outcome.exceptions, []);
    }
    assert_eq!(found(&read(&ingester, 1).await), expected);
    let mut fs = fs;
    for round in 0..4 {
        if round == 1 {
            tokio::time::sleep(Duration::from_secs(31)).await;
            let names = model::env::Fs::list(&fs, std::path::Path::new("/data/wal")).unwrap();
            assert!(names.iter().any(|entry| entry.name.ends_with(".image")), "{names:?}");
        }
        if round == 2 {
            // Part of it goes into blocks, and an image takes the place of the log.
            world.clock.set(NOW + 6 * BLOCK_RANGE_MS);
            assert!(!ingester.cut_now().await.unwrap().is_empty());
        }
        drop(ingester);
        fs = fs.power_loss(round);
        world.next_process(&fs);
        ingester = world.open().await;
        assert_eq!(found(&read(&ingester, 1).await), expected, "round {round}");
        let again = batch_of_histograms(1, &samples);
        let outcome = model::push::Push::push(&*ingester, &again, samples[699].0)
            .await
            .unwrap();
        assert_eq!(outcome.exceptions.len(), 700);
        assert!(
            outcome
                .exceptions
                .iter()
                .all(|exception| exception.verdict == Verdict::Duplicate),
            "round {round}"
        );
    }
}

#[tokio::test]
async fn floats_and_histograms_may_take_turns_in_one_series() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let mut floats = Vec::new();
    for step in 0..200i64 {
        let at = NOW + step * 10_000;
        if step / 7 % 2 == 0 {
            push(&ingester, &batch(&[(series(1), &[(at, step as f64)])])).await;
            floats.push(at);
        } else {
            push(
                &ingester,
                &batch_of_histograms(1, &[(at, histogram(true, &[step as f64]))]),
            )
            .await;
        }
    }
    for restart in [false, true] {
        let ingester = if restart {
            ingester.shutdown().await;
            world.open().await
        } else {
            Arc::clone(&ingester)
        };
        let buffer = read(&ingester, 1).await;
        assert_eq!(buffer.timestamps, floats);
        assert_eq!(buffer.histograms.len(), 200 - floats.len());
        let float_again = push(&ingester, &batch(&[(series(1), &[(NOW, 0.0), (NOW + 70_000, 1.0)])])).await;
        let verdicts: Vec<_> = float_again
            .exceptions
            .iter()
            .map(|exception| exception.verdict)
            .collect();
        assert_eq!(
            verdicts,
            [Verdict::Duplicate, Verdict::Rejected(Reason::DuplicateTimestamp)]
        );
    }
}

#[tokio::test]
async fn a_histogram_that_contradicts_itself_is_refused_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ingester = World::on_disk(dir.path()).open().await;
    let broken = Histogram {
        positive_buckets: vec![1.0, 2.0],
        ..histogram(true, &[1.0])
    };
    let mut batch = batch_of_histograms(1, &[(NOW, histogram(true, &[1.0])), (NOW + 1, broken)]);
    batch.floats.push(FloatSample {
        at: NOW,
        value: 1.0,
        start: 0,
    });
    batch.finish_series(SeriesId::New(series(2)));
    let outcome = push(&ingester, &batch).await;
    assert_eq!(outcome.exceptions.len(), 1);
    assert_eq!(
        outcome.exceptions[0].verdict,
        Verdict::Rejected(Reason::InvalidHistogram)
    );
    assert_eq!(
        (
            read(&ingester, 1).await.histograms.len(),
            read(&ingester, 2).await.timestamps.len()
        ),
        (1, 1)
    );
}
