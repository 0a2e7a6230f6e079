//! Metadata, exemplars and native histograms in remote write 1.0.

use super::*;

fn histogram(schema: i32) -> Histogram {
    Histogram {
        integer: true,
        schema,
        count: 6.0,
        sum: 3.5,
        positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }],
        positive_buckets: vec![1.0, 2.0, 3.0],
        ..Histogram::default()
    }
}

fn with_histogram(labels: &[(&str, &str)], histogram: Histogram) -> Vec<u8> {
    let sample = HistogramSample {
        at: NOW,
        start: 0,
        histogram: Arc::new(histogram),
    };
    let mut encoder = V1Encoder::default();
    encoder.series(
        labels.iter().copied(),
        Points {
            histograms: &[sample],
            ..Points::default()
        },
    );
    encoder.finish()
}

fn stored(stand: &Stand, labels: &[(&str, &str)]) -> Option<Stored> {
    let labels = Labels::new(labels.iter().copied()).unwrap();
    let series = stand.taker.series(&Tenant::default(), &labels)?;
    series.samples.into_values().next()
}
#[test]
fn metadata_alone_is_a_success_and_kept() {
    let stand = Stand::default();
    let metadata = Metadata {
        family: "up".into(),
        kind: MetricType::Gauge,
        unit: "unit".into(),
        help: "Whether up.".into(),
    };
    let mut encoder = V1Encoder::default();
    encoder.metadata(&metadata);
    assert_eq!(stand.v1(&encoder.finish()).status, 204);
    assert_eq!(stand.taker.metadata(&Tenant::default(), "up"), Some(metadata));
}

#[test]
fn metadata_that_is_unusable_fails_nothing() {
    let stand = Stand::default();
    let mut encoder = V1Encoder::default();
    encoder.metadata(&Metadata::default());
    encoder.metadata(&Metadata {
        family: "x".into(),
        help: "h".repeat(1 << 20),
        ..Metadata::default()
    });
    let mut message = encoder.finish();
    message.extend(v1_floats(&[(UP, &[(NOW, 1.0)])]));
    assert_eq!(stand.v1(&message).status, 204);
    assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
    assert_eq!(stand.metric("narthex_receiver_metadata_dropped_total"), 2.0);
}

#[test]
fn exemplars_never_fail_a_request() {
    let stand = Stand::default();
    let exemplar = |labels: &[(&str, &str)], at| Exemplar {
        labels: Labels::new(labels.iter().copied()).unwrap(),
        value: 1.0,
        at,
    };
    let long = "x".repeat(200);
    let exemplars = [
        exemplar(&[("trace_id", "a")], NOW),
        exemplar(&[("trace_id", &long)], NOW),
        exemplar(&[("trace_id", "b")], NOW - 5),
    ];
    let mut encoder = V1Encoder::default();
    encoder.series(
        UP.iter().copied(),
        Points {
            floats: &[float(NOW, 1.0)],
            exemplars: &exemplars,
            ..Points::default()
        },
    );
    encoder.series(
        [("job", "nameless")],
        Points {
            exemplars: &exemplars[..1],
            ..Points::default()
        },
    );
    let answer = stand.v1(&encoder.finish());
    assert_eq!(answer.status, 204, "{}", answer.body);
    let series = stand
        .taker
        .series(&Tenant::default(), &Labels::new(UP.iter().copied()).unwrap())
        .unwrap();
    assert_eq!(series.exemplars, exemplars[..1]);
    assert_eq!(stand.metric("narthex_receiver_exemplars_dropped_total"), 3.0);
}

#[test]
fn an_exemplar_without_a_timestamp_takes_that_of_its_sample() {
    let stand = Stand::default();
    let exemplar = Exemplar {
        labels: Labels::new([("trace_id", "a")]).unwrap(),
        value: 1.0,
        at: 0,
    };
    let mut encoder = V1Encoder::default();
    let points = Points {
        floats: &[float(NOW - 1, 1.0), float(NOW, 2.0)],
        exemplars: &[exemplar],
        ..Points::default()
    };
    encoder.series(UP.iter().copied(), points);
    assert_eq!(stand.v1(&encoder.finish()).status, 204);
    let series = stand
        .taker
        .series(&Tenant::default(), &Labels::new(UP.iter().copied()).unwrap())
        .unwrap();
    assert_eq!(series.exemplars[0].at, NOW);
}

#[test]
fn exemplars_may_come_in_entries_of_their_own() {
    let stand = Stand::default();
    let exemplar = Exemplar {
        labels: Labels::new([("trace_id", "a")]).unwrap(),
        value: 1.0,
        at: NOW,
    };
    let mut encoder = V1Encoder::default();
    encoder.series(
        UP.iter().copied(),
        Points {
            floats: &[float(NOW, 1.0)],
            ..Points::default()
        },
    );
    encoder.series(
        UP.iter().copied(),
        Points {
            exemplars: std::slice::from_ref(&exemplar),
            ..Points::default()
        },
    );
    assert_eq!(stand.v1(&encoder.finish()).status, 204);
    let series = stand
        .taker
        .series(&Tenant::default(), &Labels::new(UP.iter().copied()).unwrap())
        .unwrap();
    assert_eq!((series.samples.len(), series.exemplars), (1, vec![exemplar]));
}

#[test]
fn native_histograms_of_all_kinds_are_stored() {
    let custom = Histogram {
        positive_spans: vec![Span { offset: 0, length: 3 }],
        custom_values: vec![1.0, 2.0],
        ..histogram(CUSTOM_BUCKETS_SCHEMA)
    };
    let float = Histogram {
        integer: false,
        count: 6.5,
        zero_count: 0.5,
        ..histogram(2)
    };
    let negative = Histogram {
        positive_spans: vec![],
        positive_buckets: vec![],
        negative_spans: vec![Span { offset: -4, length: 1 }],
        negative_buckets: vec![6.0],
        ..histogram(0)
    };
    let zero_only = Histogram {
        integer: true,
        count: 3.0,
        zero_count: 3.0,
        zero_threshold: 0.5,
        sum: 0.1,
        ..Histogram::default()
    };
    for expected in [
        histogram(0),
        histogram(-4),
        histogram(8),
        custom,
        float,
        negative,
        zero_only,
    ] {
        let stand = Stand::default();
        let answer = stand.v1(&with_histogram(UP, expected.clone()));
        assert_eq!(answer.status, 204, "{}", answer.body);
        assert_eq!(stored(&stand, UP), Some(Stored::Histogram(Arc::new(expected))));
    }
}

#[test]
fn histograms_finer_than_stored_are_merged() {
    for schema in [9, 20, 52] {
        let stand = Stand::default();
        assert_eq!(stand.v1(&with_histogram(UP, histogram(schema))).status, 204);
        let Some(Stored::Histogram(merged)) = stored(&stand, UP) else {
            panic!("nothing stored")
        };
        assert_eq!((merged.schema, merged.positive_buckets.iter().sum::<f64>()), (8, 6.0));
    }
}

#[test]
fn a_histogram_that_contradicts_itself_is_400_and_the_rest_stored() {
    let cases: [(Histogram, &str); 6] = [
        (
            Histogram {
                count: 7.0,
                ..histogram(0)
            },
            "the buckets hold 6 observations, the count is 7",
        ),
        (histogram(53), "schema 53"),
        (histogram(-5), "schema -5"),
        (
            Histogram {
                positive_spans: vec![],
                ..histogram(0)
            },
            "positive spans have 0 buckets, but 3 are given",
        ),
        (
            Histogram {
                custom_values: vec![1.0],
                ..histogram(0)
            },
            "custom bounds",
        ),
        (
            Histogram {
                custom_values: vec![2.0, 1.0],
                ..histogram(CUSTOM_BUCKETS_SCHEMA)
            },
            "1 follows 2",
        ),
    ];
    for (bad, phrase) in cases {
        let phrases = [
            "1 invalid_histogram",
            "invalid histogram for series {__name__=\"up\", job=\"a\"}",
            phrase,
        ];
        one_bad_of_two(&with_histogram(UP, bad), &phrases);
    }
}

#[test]
fn a_stale_histogram_is_stored_as_such() {
    let stand = Stand::default();
    let stale = Histogram {
        sum: f64::from_bits(STALE_NAN_BITS),
        count: -1.0,
        ..histogram(77)
    };
    assert_eq!(stand.v1(&with_histogram(UP, stale)).status, 204);
    let Some(Stored::Histogram(stored)) = stored(&stand, UP) else {
        panic!("nothing stored")
    };
    assert!(stored.is_stale());
}
