//! Batches whose series come in no order, such as those of senders that shuffle: they are committed in another order than sent, and
//! nobody can tell.

use crate::support::*;
use model::{
    push::{Exception, SampleKind, SeriesId, SeriesRef, WriteBatch},
    sample::FloatSample,
    tenant::Tenant,
    verdict::Verdict,
};
use std::collections::BTreeMap;

/// More than two shards of them.
const SERIES: usize = 10_000;

/// A permutation of the series.
fn scattered(step: usize) -> impl Iterator<Item = usize> {
    (0..SERIES).map(move |index| (index * 7_919 + step) % SERIES)
}

fn add(batch: &mut WriteBatch, id: SeriesId, samples: &[(i64, f64)]) {
    let floats = samples.iter().map(|&(at, value)| FloatSample { at, value, start: 0 });
    batch.floats.extend(floats);
    batch.finish_series(id);
}

#[tokio::test]
async fn scattered_batches_store_what_ordered_ones_would_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let mut expected: BTreeMap<usize, Vec<(i64, f64)>> = BTreeMap::new();
    let mut first = WriteBatch::default();
    for number in 0..SERIES {
        let sample = (NOW, number as f64);
        add(&mut first, SeriesId::New(series(number)), &[sample]);
        expected.entry(number).or_default().push(sample);
    }
    let outcome = push(&ingester, &first).await;
    let mut refs = vec![SeriesRef(0); SERIES];
    outcome
        .refs
        .iter()
        .for_each(|(index, series_ref)| refs[*index as usize] = *series_ref);

    for step in 1..4 {
        let at = NOW + step as i64 * 15_000;
        let (mut batch, mut again) = (WriteBatch::default(), Vec::new());
        for (position, number) in scattered(step).enumerate() {
            let mut samples = vec![(at, number as f64 / 3.0)];
            if position % 3 == 0 {
                samples.push((at + 1, -1.0));
            }
            // Some by their labels, some under a number that nobody gave.
            let id = match position % 100 {
                7 => SeriesId::New(series(number)),
                9 => SeriesId::Known(SeriesRef(refs[number].0 ^ 1 << 40)),
                _ => SeriesId::Known(refs[number]),
            };
            add(&mut batch, id, &samples);
            if position % 100 != 9 {
                expected.entry(number).or_default().extend(&samples);
            } else {
                again.push(position as u32);
            }
        }
        // Series that stand in the batch once more: their samples come after the others, or say the same again.
        for number in [5, 4_999, 9_999] {
            let newest = *expected[&number].last().unwrap();
            add(
                &mut batch,
                SeriesId::Known(refs[number]),
                &[newest, (newest.0 + 5, 8.0)],
            );
            expected.entry(number).or_default().push((newest.0 + 5, 8.0));
        }
        let outcome = push(&ingester, &batch).await;
        assert_eq!(outcome.unknown, again);
        let twice = |series: usize, sample: usize| Exception {
            series: series as u32,
            sample: sample as u32,
            kind: SampleKind::Float,
            verdict: Verdict::Duplicate,
        };
        let mut exceptions = outcome.exceptions;
        exceptions.sort_by_key(|exception| exception.sample);
        let floats = batch.floats.len();
        let three = [0, 1, 2].map(|index| twice(SERIES + index, floats - 6 + 2 * index));
        assert_eq!(exceptions, three);
    }

    let samples: Vec<_> = expected
        .iter()
        .map(|(number, samples)| (series(*number), &samples[..]))
        .collect();
    let expected = crate::support::expected(&samples);
    assert!(content(&ingester, Tenant::default().as_str()).await == expected);
    ingester.shutdown().await;
    drop(ingester);
    let ingester = world.open().await;
    assert!(
        content(&ingester, Tenant::default().as_str()).await == expected,
        "after a restart"
    );
    ingester.shutdown().await;
}
