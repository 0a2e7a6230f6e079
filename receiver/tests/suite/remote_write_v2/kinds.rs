//! Start timestamps, metadata, exemplars and native histograms in remote write 2.0.

use super::*;

fn histogram(schema: i32) -> Histogram {
    Histogram {
        integer: true,
        schema,
        count: 6.0,
        sum: 3.5,
        positive_spans: vec![Span { offset: 0, length: 3 }],
        positive_buckets: vec![1.0, 2.0, 3.0],
        ..Histogram::default()
    }
}

#[test]
fn start_timestamps_are_carried_and_never_an_error() {
    for start in [0, NOW - 1_000, NOW, NOW + 1_000_000, -5] {
        let stand = Stand::default();
        let sample = FloatSample {
            at: NOW,
            value: 1.0,
            start,
        };
        let mut encoder = V2Encoder::default();
        encoder.series(
            UP.iter().copied(),
            Points {
                floats: &[sample],
                ..Points::default()
            },
            None,
        );
        check(&stand.v2(&encoder.finish()), 204, [1, 0, 0]);
        assert_eq!(stored(&stand, UP).starts.get(&NOW).copied().unwrap_or(0), start);
    }
    let stand = Stand::default();
    let sample = HistogramSample {
        at: NOW,
        start: NOW - 7,
        histogram: Arc::new(histogram(0)),
    };
    let mut encoder = V2Encoder::default();
    encoder.series(
        UP.iter().copied(),
        Points {
            histograms: &[sample],
            ..Points::default()
        },
        None,
    );
    check(&stand.v2(&encoder.finish()), 204, [0, 1, 0]);
    assert_eq!(stored(&stand, UP).starts.get(&NOW), Some(&(NOW - 7)));
}

#[test]
fn histograms_are_counted_apart_from_samples() {
    let stand = Stand::default();
    let sample = |at, histogram| HistogramSample {
        at,
        start: 0,
        histogram: Arc::new(histogram),
    };
    let custom = Histogram {
        custom_values: vec![1.0, 2.0],
        ..histogram(CUSTOM_BUCKETS_SCHEMA)
    };
    let stale = Histogram {
        sum: f64::from_bits(STALE_NAN_BITS),
        ..Histogram::default()
    };
    let histograms = [
        sample(NOW, histogram(3)),
        sample(NOW + 1, custom),
        sample(NOW + 2, stale),
        sample(NOW + 3, histogram(20)),
    ];
    let mut encoder = V2Encoder::default();
    encoder.series(
        UP.iter().copied(),
        Points {
            histograms: &histograms,
            ..Points::default()
        },
        None,
    );
    encoder.series(
        DOWN.iter().copied(),
        Points {
            floats: &[float(NOW, 1.0)],
            ..Points::default()
        },
        None,
    );
    check(&stand.v2(&encoder.finish()), 204, [1, 4, 0]);
    assert_eq!(
        stored(&stand, UP).samples[&NOW],
        Stored::Histogram(Arc::new(histogram(3)))
    );
}

#[test]
fn a_series_with_both_samples_and_histograms_is_accepted() {
    let stand = Stand::default();
    let sample = HistogramSample {
        at: NOW + 1,
        start: 0,
        histogram: Arc::new(histogram(0)),
    };
    let mut encoder = V2Encoder::default();
    let points = Points {
        floats: &[float(NOW, 1.0)],
        histograms: &[sample],
        ..Points::default()
    };
    encoder.series(UP.iter().copied(), points, None);
    check(&stand.v2(&encoder.finish()), 204, [1, 1, 0]);
}

#[test]
fn a_histogram_that_contradicts_itself_is_refused_alone() {
    let stand = Stand::default();
    let sample = |at, histogram| HistogramSample {
        at,
        start: 0,
        histogram: Arc::new(histogram),
    };
    let bad = Histogram {
        count: 99.0,
        ..histogram(0)
    };
    let mut encoder = V2Encoder::default();
    let mixed = [sample(NOW, bad.clone()), sample(NOW + 1, histogram(0))];
    encoder.series(
        UP.iter().copied(),
        Points {
            histograms: &mixed,
            ..Points::default()
        },
        None,
    );
    encoder.series(
        DOWN.iter().copied(),
        Points {
            histograms: &[sample(NOW, bad)],
            ..Points::default()
        },
        None,
    );
    let answer = stand.v2(&encoder.finish());
    check(&answer, 400, [0, 1, 0]);
    assert!(
        answer
            .body
            .contains("rejected 2 of 3 samples, the others are stored: 2 invalid_histogram"),
        "{}",
        answer.body
    );
    assert_eq!(stand.taker.all_labels(&Tenant::default()).len(), 1);
}

fn exemplar(trace: &str, at: i64) -> Exemplar {
    Exemplar {
        labels: Labels::new([("trace_id", trace)]).unwrap(),
        value: 0.5,
        at,
    }
}

fn with_exemplars(exemplars: &[Exemplar]) -> Vec<u8> {
    let mut encoder = V2Encoder::default();
    encoder.series(
        UP.iter().copied(),
        Points {
            floats: &[float(NOW, 1.0)],
            exemplars,
            ..Points::default()
        },
        None,
    );
    encoder.finish()
}

#[test]
fn exemplars_are_stored_and_counted_with_or_without_a_timestamp() {
    let stand = Stand::default();
    check(
        &stand.v2(&with_exemplars(&[exemplar("a", NOW - 1), exemplar("b", NOW)])),
        204,
        [1, 0, 2],
    );
    assert_eq!(
        stored(&stand, UP).exemplars,
        [exemplar("a", NOW - 1), exemplar("b", NOW)]
    );
    let stand = Stand::default();
    check(&stand.v2(&with_exemplars(&[exemplar("a", 0)])), 204, [1, 0, 1]);
    assert_eq!(stored(&stand, UP).exemplars, [exemplar("a", NOW)]);
}

#[test]
fn the_same_exemplar_again_counts_as_written() {
    let stand = Stand::default();
    check(&stand.v2(&with_exemplars(&[exemplar("a", NOW)])), 204, [1, 0, 1]);
    check(&stand.v2(&with_exemplars(&[exemplar("a", NOW)])), 204, [1, 0, 1]);
}

#[test]
fn an_exemplar_that_is_not_stored_forbids_a_success_but_costs_no_sample() {
    let cases = [
        with_exemplars(&[exemplar("b", NOW), exemplar("a", NOW - 10)]),
        with_exemplars(&[exemplar("b", NOW), exemplar(&"x".repeat(129), NOW)]),
    ];
    for message in cases {
        let stand = Stand::default();
        let answer = stand.v2(&message);
        check(&answer, 400, [1, 0, 1]);
        assert!(
            answer
                .body
                .contains("rejected 1 of 3 samples, the others are stored: 1 invalid_exemplar"),
            "{}",
            answer.body
        );
        assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
    }
}

#[test]
fn an_exemplar_with_broken_references_is_refused_alone() {
    for refs in [&[1u8, 99][..], &[1]] {
        let mut exemplar = Vec::new();
        put_bytes(&mut exemplar, 1, refs);
        put_double(&mut exemplar, 2, 1.0);
        put_integer(&mut exemplar, 3, NOW as u64);
        let mut series = raw_series(&[1, 2, 3, 4]);
        put_bytes(&mut series, 4, &exemplar);
        let stand = Stand::default();
        let answer = stand.v2(&raw(&SYMBOLS, &[series]));
        check(&answer, 400, [1, 0, 0]);
        assert!(answer.body.contains("1 invalid_exemplar"), "{}", answer.body);
    }
}

#[test]
fn metadata_comes_with_the_series_in_all_types() {
    let types = [
        MetricType::Unknown,
        MetricType::Counter,
        MetricType::Gauge,
        MetricType::Histogram,
        MetricType::GaugeHistogram,
        MetricType::Summary,
        MetricType::Info,
        MetricType::StateSet,
    ];
    for kind in types {
        for (help, unit) in [("Some help.", "seconds"), ("", ""), ("Only help.", "")] {
            let stand = Stand::default();
            let metadata = Metadata {
                family: "up".into(),
                kind,
                help: help.into(),
                unit: unit.into(),
            };
            let mut encoder = V2Encoder::default();
            encoder.series(
                UP.iter().copied(),
                Points {
                    floats: &[float(NOW, 1.0)],
                    ..Points::default()
                },
                Some(&metadata),
            );
            check(&stand.v2(&encoder.finish()), 204, [1, 0, 0]);
            let said_something = kind != MetricType::Unknown || !help.is_empty();
            assert_eq!(
                stand.taker.metadata(&Tenant::default(), "up"),
                said_something.then_some(metadata)
            );
        }
    }
}

#[test]
fn metadata_that_changes_is_noticed_and_metadata_that_stays_is_not_sent_on() {
    let stand = Stand::default();
    let send = |help: &str, at| {
        let metadata = Metadata {
            kind: MetricType::Counter,
            help: help.into(),
            ..Metadata::default()
        };
        let mut encoder = V2Encoder::default();
        encoder.series(
            UP.iter().copied(),
            Points {
                floats: &[float(at, 1.0)],
                ..Points::default()
            },
            Some(&metadata),
        );
        check(&stand.v2(&encoder.finish()), 204, [1, 0, 0]);
        stand.taker.metadata(&Tenant::default(), "up").unwrap().help
    };
    assert_eq!(send("old", NOW), "old");
    assert_eq!(send("old", NOW + 1), "old");
    assert_eq!(stand.metric("narthex_receiver_route_hits_total"), 1.0);
    assert_eq!(send("new", NOW + 2), "new");
    assert_eq!(stand.metric("narthex_receiver_route_misses_total"), 2.0);
    assert_eq!(stand.floats(UP).len(), 3);
}

#[test]
fn type_and_unit_become_labels_where_that_is_switched_on() {
    let settings = ReceiverSettings {
        type_and_unit_labels: true,
        ..ReceiverSettings::default()
    };
    let stand = Stand::new(settings, MemoryTaker::default());
    let send = |kind, unit: &str, at| {
        let metadata = Metadata {
            kind,
            unit: unit.into(),
            ..Metadata::default()
        };
        let mut encoder = V2Encoder::default();
        encoder.series(
            UP.iter().copied(),
            Points {
                floats: &[float(at, 1.0)],
                ..Points::default()
            },
            Some(&metadata),
        );
        check(&stand.v2(&encoder.finish()), 204, [1, 0, 0]);
    };
    let typed = |more: &[(&'static str, &'static str)]| stand.floats(&[UP, more].concat()).len();
    send(MetricType::Counter, "bytes", NOW);
    send(MetricType::Counter, "bytes", NOW + 1);
    // Another type is another series, also for who repeats labels and symbols.
    send(MetricType::Gauge, "bytes", NOW + 2);
    send(MetricType::Unknown, "", NOW + 3);
    assert_eq!(typed(&[("__type__", "counter"), ("__unit__", "bytes")]), 2);
    assert_eq!(typed(&[("__type__", "gauge"), ("__unit__", "bytes")]), 1);
    assert_eq!(typed(&[]), 1);
}

#[test]
fn series_without_metadata_and_without_start_timestamps_are_accepted() {
    check(
        &Stand::default().v2(&floats(&[(&[("__name__", "requests_total")], &[(NOW, 1.0)])])),
        204,
        [1, 0, 0],
    );
}
