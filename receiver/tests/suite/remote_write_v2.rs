//! What the remote write 2.0 specification and Prometheus's own receiver ask of a receiver, duty by duty.

mod kinds;

use crate::common::*;
use http::StatusCode;
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, Histogram, Span};
use model::label::Labels;
use model::metadata::{Metadata, MetricType};
use model::push::PushError;
use model::push::memory::{MemoryTaker, Stored};
use model::sample::{Exemplar, FloatSample, HistogramSample, STALE_NAN_BITS};
use model::tenant::Tenant;
use proto::compression::snappy;
use proto::protobuf::{put_bytes, put_double, put_integer, put_varint};
use proto::remote_write::encode::{Points, V2Encoder};
use receiver::{ReceiverSettings, WriteAnswer};
use std::sync::Arc;
use std::time::Duration;

const UP: &[(&str, &str)] = &[("__name__", "up"), ("job", "a")];
const DOWN: &[(&str, &str)] = &[("__name__", "down"), ("job", "a")];

fn floats(series: &[FloatSeries<'_>]) -> Vec<u8> {
    let mut encoder = V2Encoder::default();
    for (labels, samples) in series {
        let floats: Vec<FloatSample> = samples.iter().map(|(at, value)| float(*at, *value)).collect();
        encoder.series(
            labels.iter().copied(),
            Points {
                floats: &floats,
                ..Points::default()
            },
            None,
        );
    }
    encoder.finish()
}

/// A message by hand: symbols, then series, each given as its bytes.
fn raw(symbols: &[&str], series: &[Vec<u8>]) -> Vec<u8> {
    let mut message = Vec::new();
    symbols
        .iter()
        .for_each(|symbol| put_bytes(&mut message, 4, symbol.as_bytes()));
    series.iter().for_each(|series| put_bytes(&mut message, 5, series));
    message
}

/// A series by hand: packed references and one sample.
fn raw_series(refs: &[u64]) -> Vec<u8> {
    let (mut packed, mut series) = (Vec::new(), Vec::new());
    refs.iter().for_each(|number| put_varint(&mut packed, *number));
    put_bytes(&mut series, 1, &packed);
    put_bytes(&mut series, 2, &raw_sample(NOW, 1.0));
    series
}

fn raw_sample(at: i64, value: f64) -> Vec<u8> {
    let mut sample = Vec::new();
    put_double(&mut sample, 1, value);
    put_integer(&mut sample, 2, at as u64);
    sample
}

fn check(answer: &WriteAnswer, status: u16, counts: [u64; 3]) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(written(answer), counts.map(Some), "{}", answer.body);
}

fn stored(stand: &Stand, labels: &[(&str, &str)]) -> model::push::memory::StoredSeries {
    stand
        .taker
        .series(&Tenant::default(), &Labels::new(labels.iter().copied()).unwrap())
        .unwrap_or_default()
}

const SYMBOLS: [&str; 5] = ["", "__name__", "up", "job", "a"];

/// A broken series by hand beside a good one: 400 with `phrase`, the good one stored and counted.
fn one_bad_of_two(bad: Vec<u8>, phrase: &str) {
    let stand = Stand::default();
    let answer = stand.v2(&raw(&SYMBOLS, &[bad, raw_series(&[1, 2, 3, 4])]));
    check(&answer, 400, [1, 0, 0]);
    assert!(answer.body.contains(phrase), "{:?} lacks {phrase:?}", answer.body);
    assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
    assert_eq!(stand.taker.sample_count(), 1);
}

#[test]
fn a_request_that_is_stored_is_204_with_exact_counts() {
    let stand = Stand::default();
    let answer = stand.v2(&floats(&[(UP, &[(NOW, 1.0), (NOW + 1, 2.0)]), (DOWN, &[(NOW, 3.0)])]));
    check(&answer, 204, [3, 0, 0]);
    assert_eq!(answer.body, "");
    assert_eq!(stand.floats(UP), [(NOW, 1.0), (NOW + 1, 2.0)]);
}

#[test]
fn the_written_counts_are_on_every_answer() {
    let good = floats(&[(UP, &[(NOW, 1.0)])]);
    let stand = Stand::default();
    check(&stand.v2(b""), 204, [0; 3]);
    check(&stand.v2(b"\x2a\xff"), 400, [0; 3]);
    check(&stand.write(request(V2, "snappy", "not snappy")), 400, [0; 3]);
    check(&stand.write(request(V2, "br", good.clone())), 415, [0; 3]);
    let mut wrong_tenant = request(V2, "snappy", snappy(&good));
    wrong_tenant.tenant = Some("a/b".to_owned());
    check(&stand.write(wrong_tenant), 400, [0; 3]);
    stand.taker.fail(Some(PushError::Unavailable {
        reason: "starting".into(),
        retry_after: Duration::from_secs(1),
    }));
    let answer = stand.v2(&good);
    check(&answer, 503, [0; 3]);
    assert!(answer.headers.contains_key("retry-after"));
}

#[test]
fn a_duplicate_counts_as_written() {
    let stand = Stand::default();
    let message = floats(&[(UP, &[(NOW, 1.0), (NOW + 1, f64::from_bits(STALE_NAN_BITS))])]);
    check(&stand.v2(&message), 204, [2, 0, 0]);
    check(&stand.v2(&message), 204, [2, 0, 0]);
    assert_eq!(stand.floats(UP).len(), 2);
}

#[test]
fn a_partial_write_is_400_with_the_counts_of_what_was_stored() {
    let stand = Stand::new(
        ReceiverSettings::default(),
        MemoryTaker::new().with_out_of_order_window(0),
    );
    check(&stand.v2(&floats(&[(UP, &[(NOW, 1.0)])])), 204, [1, 0, 0]);
    let message = floats(&[
        (UP, &[(NOW, 2.0), (NOW - 1, 1.0), (NOW + 1, 1.0)]),
        (&[("job", "nameless")], &[(NOW, 1.0)]),
        (DOWN, &[(NOW, 1.0)]),
    ]);
    let answer = stand.v2(&message);
    check(&answer, 400, [2, 0, 0]);
    for phrase in [
        "rejected 3 of 5 samples",
        "out of order sample for series {__name__=\"up\", job=\"a\"}",
        "duplicate sample for timestamp for series {__name__=\"up\", job=\"a\"}",
        "invalid metric name or labels, got {job=\"nameless\"}",
    ] {
        assert!(answer.body.contains(phrase), "{:?} lacks {phrase:?}", answer.body);
    }
}

#[test]
fn references_outside_of_the_table_refuse_their_series_alone() {
    one_bad_of_two(
        raw_series(&[1, 999, 3, 4]),
        "labelRefs 1 (name) = 999 (value) outside of symbols table (size 5)",
    );
    one_bad_of_two(
        raw_series(&[5, 2]),
        "labelRefs 5 (name) = 2 (value) outside of symbols table (size 5)",
    );
    one_bad_of_two(
        raw_series(&[1, u64::from(u32::MAX) + 3]),
        "outside of symbols table (size 5)",
    );
    one_bad_of_two(raw_series(&[1, u64::MAX]), "outside of symbols table (size 5)");
}

#[test]
fn an_odd_number_of_references_refuses_its_series_alone() {
    one_bad_of_two(
        raw_series(&[1, 2, 3]),
        "parsing labels for series [1, 2, 3]: invalid labelRefs length 3",
    );
    one_bad_of_two(raw_series(&[1]), "invalid labelRefs length 1");
}

#[test]
fn metadata_references_outside_of_the_table_refuse_their_series_alone() {
    for (field, name) in [(3, "help_ref"), (4, "unit_ref")] {
        let mut metadata = Vec::new();
        put_integer(&mut metadata, 1, 1);
        put_integer(&mut metadata, field, 999);
        let mut series = raw_series(&[1, 2]);
        put_bytes(&mut series, 5, &metadata);
        one_bad_of_two(
            series,
            &format!("metadata {name} 999 outside of symbols table (size 5)"),
        );
    }
}

#[test]
fn a_series_without_samples_and_histograms_is_refused() {
    let mut only_metadata = Vec::new();
    put_bytes(&mut only_metadata, 1, &[1, 2]);
    put_bytes(&mut only_metadata, 5, &[0x08, 0x01]);
    one_bad_of_two(
        only_metadata,
        "TimeSeries must contain at least one sample or histogram for series {__name__=\"up\"}",
    );
    let mut only_exemplar = Vec::new();
    put_bytes(&mut only_exemplar, 1, &[1, 2]);
    put_bytes(&mut only_exemplar, 4, &{
        let mut exemplar = vec![0x0a, 2, 3, 4];
        put_integer(&mut exemplar, 3, NOW as u64);
        exemplar
    });
    one_bad_of_two(
        only_exemplar,
        "TimeSeries must contain at least one sample or histogram",
    );
}

#[test]
fn labels_must_have_a_name_and_no_repetition() {
    one_bad_of_two(raw_series(&[3, 4]), "invalid metric name or labels, got {job=\"a\"}");
    one_bad_of_two(raw_series(&[1, 0]), "invalid metric name or labels, got {}");
    one_bad_of_two(raw_series(&[]), "invalid metric name or labels, got {}");
    one_bad_of_two(raw_series(&[1, 2, 3, 4, 3, 4]), "duplicated label job");
    one_bad_of_two(raw_series(&[1, 2, 0, 4]), "a label name is empty");
}

#[test]
fn references_to_zero_are_the_empty_string() {
    let stand = Stand::default();
    check(&stand.v2(&raw(&SYMBOLS, &[raw_series(&[1, 2, 3, 0])])), 204, [1, 0, 0]);
    assert_eq!(stand.floats(&[("__name__", "up")]), [(NOW, 1.0)]);
}

#[test]
fn symbol_zero_must_be_empty() {
    let stand = Stand::default();
    let answer = stand.v2(&raw(&["x", "__name__", "up"], &[raw_series(&[1, 2])]));
    check(&answer, 400, [0; 3]);
    assert!(answer.body.contains("symbols[0]"), "{}", answer.body);
    assert_eq!(stand.taker.sample_count(), 0);
}

#[test]
fn unsorted_labels_are_sorted() {
    let stand = Stand::default();
    check(
        &stand.v2(&floats(&[(&[("job", "a"), ("__name__", "up")], &[(NOW, 1.0)])])),
        204,
        [1, 0, 0],
    );
    assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
}

#[test]
fn the_numbers_of_symbols_do_not_matter_only_their_text() {
    let stand = Stand::default();
    check(&stand.v2(&raw(&SYMBOLS, &[raw_series(&[1, 2, 3, 4])])), 204, [1, 0, 0]);
    let renumbered = ["", "a", "job", "unused", "up", "__name__"];
    check(
        &stand.v2(&raw(&renumbered, &[raw_series(&[5, 4, 2, 1])])),
        204,
        [1, 0, 0],
    );
    assert_eq!(stand.taker.all_labels(&Tenant::default()).len(), 1);
    assert_eq!(
        stand.metric("narthex_receiver_route_hits_total"),
        1.0,
        "the second one was known"
    );
    // The same numbers with other text are another series.
    let other = ["", "__name__", "down", "job", "a"];
    check(&stand.v2(&raw(&other, &[raw_series(&[1, 2, 3, 4])])), 204, [1, 0, 0]);
    assert_eq!(stand.floats(DOWN), [(NOW, 1.0)]);
}

#[test]
fn a_series_may_be_known_from_1_0() {
    let stand = Stand::default();
    assert_eq!(stand.v1(&v1_floats(&[(UP, &[(NOW, 1.0)])])).status, 204);
    check(
        &stand.v2(&floats(&[(UP, &[(NOW, 1.0), (NOW + 1, 2.0)])])),
        204,
        [2, 0, 0],
    );
    assert_eq!(stand.floats(UP), [(NOW, 1.0), (NOW + 1, 2.0)]);
}

#[test]
fn symbols_may_stand_behind_the_series_that_use_them() {
    let mut message = raw(&[], &[raw_series(&[1, 2, 3, 4])]);
    message.extend(raw(&SYMBOLS, &[]));
    let stand = Stand::default();
    check(&stand.v2(&message), 204, [1, 0, 0]);
    assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
}

#[test]
fn references_may_be_packed_or_not_and_stand_anywhere() {
    let mut series = Vec::new();
    put_bytes(&mut series, 2, &raw_sample(NOW, 1.0));
    put_integer(&mut series, 1, 1);
    put_bytes(&mut series, 1, &[2, 3]);
    put_integer(&mut series, 1, 4);
    let stand = Stand::default();
    check(&stand.v2(&raw(&SYMBOLS, &[series])), 204, [1, 0, 0]);
    assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
}

#[test]
fn unknown_fields_such_as_the_removed_created_timestamp_are_ignored() {
    let mut series = raw_series(&[1, 2, 3, 4]);
    put_integer(&mut series, 6, NOW as u64);
    put_double(&mut series, 99, 1.0);
    let mut message = raw(&SYMBOLS, &[series]);
    put_bytes(&mut message, 77, b"whatever");
    let stand = Stand::default();
    check(&stand.v2(&message), 204, [1, 0, 0]);
}

#[test]
fn utf8_names_and_special_values_are_accepted() {
    let stand = Stand::default();
    let labels: &[(&str, &str)] = &[("__name__", "größe.in bytes"), ("a b", "ü")];
    let samples: Vec<_> = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        -0.0,
        f64::from_bits(STALE_NAN_BITS),
    ]
    .into_iter()
    .zip(NOW..)
    .map(|(value, at)| (at, value))
    .collect();
    check(&stand.v2(&floats(&[(labels, &samples)])), 204, [5, 0, 0]);
    let bits = |samples: &[(i64, f64)]| {
        samples
            .iter()
            .map(|(at, value)| (*at, value.to_bits()))
            .collect::<Vec<_>>()
    };
    assert_eq!(bits(&stand.floats(labels)), bits(&samples));
}

#[test]
fn one_bad_series_of_four_leaves_three_written() {
    let stand = Stand::default();
    let name = |name| [("__name__", name)];
    let (a, b, c) = (name("a"), name("b"), name("c"));
    let message = floats(&[
        (&a, &[(NOW, 1.0)]),
        (&b, &[(NOW, 1.0)]),
        (&[("x", "y")], &[(NOW, 1.0)]),
        (&c, &[(NOW, 1.0)]),
    ]);
    check(&stand.v2(&message), 400, [3, 0, 0]);
    assert_eq!(stand.taker.sample_count(), 3);
}

#[test]
fn a_message_of_1_0_under_a_2_0_content_type_is_415_and_not_a_silent_loss() {
    let stand = Stand::default();
    let answer = stand.v2(&v1_floats(&[(UP, &[(NOW, 1.0)])]));
    check(&answer, 415, [0; 3]);
    assert!(
        answer.body.contains("the body is a message of remote write 1.0"),
        "{}",
        answer.body
    );
}

#[test]
fn both_versions_are_accepted_by_the_same_receiver() {
    let stand = Stand::default();
    check(&stand.v2(&floats(&[(UP, &[(NOW, 1.0)])])), 204, [1, 0, 0]);
    let answer = stand.v1(&v1_floats(&[(UP, &[(NOW + 1, 1.0)])]));
    assert_eq!((answer.status, written(&answer)), (StatusCode::NO_CONTENT, [None; 3]));
    assert_eq!(stand.floats(UP).len(), 2);
}

#[test]
fn bodies_that_cannot_be_read_are_400_and_types_or_encodings_that_are_not_known_415() {
    let good = floats(&[(UP, &[(NOW, 1.0)])]);
    let stand = Stand::default();
    check(&stand.write(request(V2, "snappy", good.clone())), 400, [0; 3]);
    check(&stand.v2(&good[..good.len() - 3]), 400, [0; 3]);
    check(&stand.write(request(V2, "gzip", snappy(&good))), 415, [0; 3]);
    check(&stand.write(request(V2, "deflate", snappy(&good))), 415, [0; 3]);
    let answer = stand.write(request(
        "application/x-protobuf;proto=io.prometheus.write.v3.Request",
        "snappy",
        snappy(&good),
    ));
    assert_eq!(answer.status, 415);
    assert_eq!(stand.taker.sample_count(), 0);
}
