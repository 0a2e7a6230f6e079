//! What every [`Push`] must do, whoever implements it. Each implementation's tests call [`check`].

use super::{Exception, Push, SampleKind, SeriesId, SeriesRef, WriteBatch, WriteOutcome};
use crate::{
    histogram::{Histogram, Span},
    label::Labels,
    metadata::Metadata,
    sample::{FloatSample, HistogramSample, STALE_NAN},
    tenant::Tenant,
    time::Timestamp,
    verdict::{Reason, Verdict},
};
use std::sync::Arc;

/// Runs every check against a taker that holds nothing yet, at the time `now`. Panics with the broken promise.
pub async fn check(push: &dyn Push, now: Timestamp) {
    a_new_series_gets_a_number_that_works(push, now).await;
    an_unknown_number_is_told_and_nothing_of_it_stored(push, now).await;
    the_same_sample_again_is_a_duplicate(push, now).await;
    another_value_for_a_timestamp_is_rejected(push, now).await;
    a_bad_sample_costs_no_good_one(push, now).await;
    tenants_do_not_share_numbers_or_samples(push, now).await;
    a_series_may_stand_twice_in_a_batch(push, now).await;
    histograms_are_judged_one_by_one(push, now).await;
    nan_values_are_compared_by_their_bits(push, now).await;
    metadata_alone_is_fine(push, now).await;
}

fn labels(test: &str) -> Labels {
    Labels::new([("__name__", "conformance"), ("test", test)]).expect("two distinct names")
}

fn batch(tenant: &str, series: impl IntoIterator<Item = (SeriesId, Vec<(Timestamp, f64)>)>) -> WriteBatch {
    let tenant = Tenant::new(tenant).expect("a valid tenant");
    let mut batch = WriteBatch {
        tenant,
        ..WriteBatch::default()
    };
    for (id, samples) in series {
        batch.floats.extend(
            samples
                .into_iter()
                .map(|(at, value)| FloatSample { at, value, start: 0 }),
        );
        batch.finish_series(id);
    }
    batch
}

fn new(test: &str) -> SeriesId {
    SeriesId::New(labels(test))
}

async fn take(push: &dyn Push, batch: &WriteBatch, now: Timestamp) -> WriteOutcome {
    push.push(batch, now).await.expect("the taker is available")
}

fn float(series: u32, sample: u32, verdict: Verdict) -> Exception {
    Exception {
        series,
        sample,
        kind: SampleKind::Float,
        verdict,
    }
}

fn sorted(mut exceptions: Vec<Exception>) -> Vec<Exception> {
    exceptions.sort_by_key(|exception| (exception.series, exception.sample));
    exceptions
}

async fn a_new_series_gets_a_number_that_works(push: &dyn Push, now: Timestamp) {
    let first = batch("c", [(new("n1"), vec![(now, 1.0)]), (new("n2"), vec![(now, 2.0)])]);
    let outcome = take(push, &first, now).await;
    assert!(
        outcome.exceptions.is_empty() && outcome.unknown.is_empty(),
        "{outcome:?}"
    );
    let mut refs = outcome.refs;
    refs.sort_unstable();
    assert_eq!(
        refs.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
        [0, 1],
        "one number for each new series"
    );
    assert_ne!(refs[0].1, refs[1].1, "two series have two numbers");
    let known = refs
        .iter()
        .map(|(_, reference)| (SeriesId::Known(*reference), vec![(now + 1, 3.0)]));
    let outcome = take(push, &batch("c", known), now).await;
    assert_eq!(outcome, WriteOutcome::default(), "known numbers are simply written");
}

async fn an_unknown_number_is_told_and_nothing_of_it_stored(push: &dyn Push, now: Timestamp) {
    let number = SeriesId::Known(SeriesRef(u64::MAX - 7));
    let mixed = batch("c", [(number, vec![(now, 1.0)]), (new("u"), vec![(now, 2.0)])]);
    let outcome = take(push, &mixed, now).await;
    assert_eq!(
        (&outcome.unknown[..], outcome.refs.len()),
        (&[0][..], 1),
        "only the unknown one is unknown"
    );
    assert!(
        outcome.exceptions.is_empty(),
        "samples of an unknown series get no verdict: {outcome:?}"
    );
}

async fn the_same_sample_again_is_a_duplicate(push: &dyn Push, now: Timestamp) {
    let twice = batch("c", [(new("d"), vec![(now, 1.0), (now + 1, 2.0)])]);
    take(push, &twice, now).await;
    let outcome = take(push, &twice, now).await;
    let expected = [float(0, 0, Verdict::Duplicate), float(0, 1, Verdict::Duplicate)];
    assert_eq!(sorted(outcome.exceptions), expected, "a repetition is a success");
}

async fn another_value_for_a_timestamp_is_rejected(push: &dyn Push, now: Timestamp) {
    take(push, &batch("c", [(new("v"), vec![(now, 1.0)])]), now).await;
    let outcome = take(push, &batch("c", [(new("v"), vec![(now, 2.0)])]), now).await;
    assert_eq!(
        outcome.exceptions,
        [float(0, 0, Verdict::Rejected(Reason::DuplicateTimestamp))]
    );
    let outcome = take(push, &batch("c", [(new("v"), vec![(now, 1.0)])]), now).await;
    assert_eq!(
        outcome.exceptions,
        [float(0, 0, Verdict::Duplicate)],
        "the first value stays"
    );
}

async fn a_bad_sample_costs_no_good_one(push: &dyn Push, now: Timestamp) {
    let far = now + 365 * 24 * 3_600_000;
    let mixed = batch(
        "c",
        [
            (new("g1"), vec![(now, 1.0)]),
            (new("g2"), vec![(now, 1.0), (far, 2.0), (now + 1, 3.0)]),
            (new("g3"), vec![(now, 1.0)]),
        ],
    );
    let outcome = take(push, &mixed, now).await;
    assert_eq!(
        outcome.exceptions,
        [float(1, 2, Verdict::Rejected(Reason::TooFarInFuture))],
        "indices are of the column"
    );
    let again = sorted(take(push, &mixed, now).await.exceptions);
    let verdicts: Vec<_> = again
        .iter()
        .map(|exception| exception.verdict == Verdict::Duplicate)
        .collect();
    assert_eq!(
        verdicts,
        [true, true, false, true, true],
        "the good ones were stored: {again:?}"
    );
}

async fn tenants_do_not_share_numbers_or_samples(push: &dyn Push, now: Timestamp) {
    let outcome = take(push, &batch("one", [(new("t"), vec![(now, 1.0)])]), now).await;
    let number = SeriesId::Known(outcome.refs[0].1);
    let outcome = take(push, &batch("two", [(number, vec![(now, 9.0)])]), now).await;
    assert_eq!(
        outcome.unknown,
        [0],
        "the number of one tenant means nothing to another"
    );
    let outcome = take(push, &batch("two", [(new("t"), vec![(now, 2.0)])]), now).await;
    assert!(
        outcome.exceptions.is_empty(),
        "the same labels are another series: {outcome:?}"
    );
}

async fn a_series_may_stand_twice_in_a_batch(push: &dyn Push, now: Timestamp) {
    let double = batch(
        "c",
        [
            (new("w"), vec![(now, 1.0)]),
            (new("w"), vec![(now + 1, 2.0)]),
            (new("w"), vec![(now, 1.0)]),
        ],
    );
    let outcome = take(push, &double, now).await;
    assert_eq!(outcome.exceptions, [float(2, 2, Verdict::Duplicate)]);
    let numbers: Vec<_> = outcome.refs.iter().map(|(_, reference)| *reference).collect();
    assert!(
        numbers.len() == 3 && numbers.iter().all(|number| *number == numbers[0]),
        "{:?}",
        outcome.refs
    );
}

async fn histograms_are_judged_one_by_one(push: &dyn Push, now: Timestamp) {
    let histogram = |count: f64| {
        Arc::new(Histogram {
            integer: true,
            count,
            sum: count,
            positive_spans: vec![Span { offset: 0, length: 1 }],
            positive_buckets: vec![count],
            ..Histogram::default()
        })
    };
    let mut batch = batch("c", []);
    for (at, count) in [(now, 1.0), (now + 1, 2.0), (now, 1.0), (now + 1, 3.0)] {
        batch.histograms.push(HistogramSample {
            at,
            start: 0,
            histogram: histogram(count),
        });
    }
    batch.finish_series(new("h"));
    let outcome = take(push, &batch, now).await;
    let exception = |sample, verdict| Exception {
        series: 0,
        sample,
        kind: SampleKind::Histogram,
        verdict,
    };
    let expected = [
        exception(2, Verdict::Duplicate),
        exception(3, Verdict::Rejected(Reason::DuplicateTimestamp)),
    ];
    assert_eq!(sorted(outcome.exceptions), expected);
}

async fn nan_values_are_compared_by_their_bits(push: &dyn Push, now: Timestamp) {
    take(
        push,
        &batch("c", [(new("s"), vec![(now, STALE_NAN), (now + 1, f64::NAN)])]),
        now,
    )
    .await;
    let outcome = take(
        push,
        &batch("c", [(new("s"), vec![(now, STALE_NAN), (now + 1, STALE_NAN)])]),
        now,
    )
    .await;
    let expected = [
        float(0, 0, Verdict::Duplicate),
        float(0, 1, Verdict::Rejected(Reason::DuplicateTimestamp)),
    ];
    assert_eq!(sorted(outcome.exceptions), expected);
}

async fn metadata_alone_is_fine(push: &dyn Push, now: Timestamp) {
    let mut batch = batch("c", []);
    batch.metadata.push(Metadata {
        family: "conformance".into(),
        help: "text".into(),
        ..Metadata::default()
    });
    assert_eq!(take(push, &batch, now).await, WriteOutcome::default());
}
