//! Series descriptions and what they unfold to.

use super::*;
use model::histogram::{ResetHint, Span as BucketSpan};
use model::sample::is_stale;

#[track_caller]
fn floats(text: &str) -> Vec<Option<f64>> {
    let series = parse_series(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    series
        .items
        .into_iter()
        .map(|item| match item {
            Item::Gap => None,
            Item::Float(value) => Some(value),
            Item::Histogram { .. } => panic!("a histogram in {text}"),
        })
        .collect()
}

#[test]
fn sequences_unfold() {
    let some = |values: &[f64]| values.iter().copied().map(Some).collect::<Vec<_>>();
    assert_eq!(floats("m"), []);
    assert_eq!(floats("m 1 -2\t.5 1e3"), some(&[1.0, -2.0, 0.5, 1000.0]));
    assert_eq!(floats("m 5x2"), some(&[5.0; 3]));
    assert_eq!(floats("m 1+2x3"), some(&[1.0, 3.0, 5.0, 7.0]));
    assert_eq!(floats("m 0-10x2 -1+.5x1"), some(&[0.0, -10.0, -20.0, -1.0, -0.5]));
    assert_eq!(floats("m _ 1 _x3"), [None, Some(1.0), None, None, None]);
    assert_eq!(
        floats("m Inf -Inf +Inf"),
        some(&[f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY])
    );
    let special = floats("m stale NaN Infx1");
    assert!(is_stale(special[0].unwrap()));
    assert!(special[1].unwrap().is_nan() && !is_stale(special[1].unwrap()));
    assert_eq!(special[2..], some(&[f64::INFINITY; 2]));
}

#[test]
fn labels_may_hold_anything_that_is_quoted() {
    let series = parse_series(r#"{"my.metric", "a b"="}\"x", c='y z'} 1"#).unwrap();
    assert_eq!(
        series.labels,
        Labels::new([("__name__", "my.metric"), ("a b", "}\"x"), ("c", "y z")]).unwrap()
    );
    assert_eq!(series.items, [Item::Float(1.0)]);
}

#[test]
fn histograms_unfold() {
    let text = "m {{schema:1 sum:-0.3 count:3.1 z_bucket:7.1 z_bucket_w:0.05 buckets:[5.1 10] offset:-3 n_buckets:[4.1] \
                n_offset:-5 counter_reset_hint:gauge}} {{}}x1 {{sum:1 count:2 buckets:[1 1]}}+{{sum:2 count:1 buckets:[1]}}x1";
    let series = parse_series(text).unwrap();
    let histograms: Vec<_> = series
        .items
        .iter()
        .map(|item| match item {
            Item::Histogram { histogram, hint_stated } => (histogram, *hint_stated),
            Item::Gap | Item::Float(_) => panic!("no histogram"),
        })
        .collect();
    let expected = Histogram {
        reset_hint: ResetHint::Gauge,
        schema: 1,
        sum: -0.3,
        count: 3.1,
        zero_count: 7.1,
        zero_threshold: 0.05,
        positive_spans: vec![BucketSpan { offset: -3, length: 2 }],
        positive_buckets: vec![5.1, 10.0],
        negative_spans: vec![BucketSpan { offset: -5, length: 1 }],
        negative_buckets: vec![4.1],
        ..Histogram::default()
    };
    assert_eq!((&**histograms[0].0, histograms[0].1), (&expected, true));
    assert_eq!((&**histograms[1].0, histograms[1].1), (&Histogram::default(), false));
    assert_eq!(histograms.len(), 5);
    let last = histograms[4].0;
    assert_eq!(
        (last.sum, last.count, last.positive_buckets.as_slice()),
        (3.0, 3.0, [2.0, 1.0].as_slice())
    );
}

#[test]
fn start_timestamps_are_relative_durations() {
    assert!(is_starts("m{a=\"@st\"}@st 0"));
    assert!(!is_starts("m{a=\"@st\"} 0"));
    let (labels, starts) = parse_starts("m@st _ -30s-1mx2 _x2 0 1ms -0msx1").unwrap();
    assert_eq!(labels.metric_name(), "m");
    let expected = [
        None,
        Some(-30_000),
        Some(-90_000),
        Some(-150_000),
        None,
        None,
        Some(0),
        Some(1),
        Some(0),
        Some(0),
    ];
    assert_eq!(starts, expected);
}

#[test]
fn what_is_no_series_says_where() {
    for (text, message) in [
        ("m 1foo", "1:3: parse error: unexpected \"1foo\" in series values"),
        ("m 1+2", "1:6: parse error: unexpected \"\" in series values"),
        ("m abc", "1:3: parse error: unexpected \"abc\" in series values"),
        (
            "m 1x",
            "1:5: parse error: expected a number of repetitions behind \"x\"",
        ),
        ("m 1x99999999999", "1:5: parse error: more than 1000000 values"),
        (
            "m {{sum:1 sum:2}}",
            "1:3: parse error: duplicate key \"sum\" in histogram",
        ),
        (
            "m {{sums:1}}",
            "1:3: parse error: bad histogram descriptor found: \"sums\"",
        ),
        (
            "m {{sum:1",
            "1:5: parse error: histogram description is not closed by \"}}\"",
        ),
        ("m{a=\"1\",a=\"2\"} 1", "1:1: parse error: duplicated label a"),
        ("m{a=1} 1", "1:5: parse error: unexpected character inside braces: '1'"),
        (
            "m{a!=\"1\"} 1",
            "1:4: parse error: unexpected <op:!=> in label set, expected \"=\"",
        ),
        ("{{}} 1", "1:2: parse error: unexpected left brace '{'"),
    ] {
        assert_eq!(parse_series(text).unwrap_err().to_string(), message, "{text}");
    }
}
