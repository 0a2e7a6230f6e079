//! What the remote write 1.0 specification and Prometheus's own receiver ask of a receiver, duty by duty.

mod kinds;

use crate::common::*;
use http::StatusCode;
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, Histogram, Span};
use model::label::Labels;
use model::metadata::{Metadata, MetricType};
use model::push::PushError;
use model::push::memory::{MemoryTaker, Stored};
use model::sample::{Exemplar, HistogramSample, STALE_NAN_BITS};
use model::tenant::Tenant;
use proto::compression::snappy;
use proto::remote_write::encode::{Points, V1Encoder};
use receiver::ReceiverSettings;
use std::sync::Arc;
use std::time::Duration;

const UP: &[(&str, &str)] = &[("__name__", "up"), ("job", "a")];
const DOWN: &[(&str, &str)] = &[("__name__", "down"), ("job", "a")];

/// A message of one good series and a bad one; the good one must be stored and the bad one be told by `phrases`.
fn one_bad_of_two(bad: &[u8], phrases: &[&str]) {
    let stand = Stand::default();
    let mut message = bad.to_vec();
    message.extend(v1_floats(&[(DOWN, &[(NOW, 5.0)])]));
    let answer = stand.v1(&message);
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
    for phrase in phrases {
        assert!(answer.body.contains(phrase), "{:?} lacks {phrase:?}", answer.body);
    }
    assert_eq!(stand.floats(DOWN), [(NOW, 5.0)], "the good series is stored");
    assert_eq!(stand.taker.all_labels(&Tenant::default()).len(), 1, "and nothing else");
}

#[test]
fn a_request_that_is_stored_is_answered_204_without_a_body() {
    let stand = Stand::default();
    let answer = stand.v1(&v1_floats(&[
        (UP, &[(NOW, 1.0), (NOW + 1, 2.0)]),
        (DOWN, &[(NOW, 3.0)]),
    ]));
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(stand.floats(UP), [(NOW, 1.0), (NOW + 1, 2.0)]);
    assert_eq!(stand.floats(DOWN), [(NOW, 3.0)]);
}

#[test]
fn answers_to_1_0_never_carry_written_counts() {
    let stand = Stand::default();
    let good = v1_floats(&[(UP, &[(NOW, 1.0)])]);
    let bad = v1_floats(&[(&[("job", "a")], &[(NOW, 1.0)])]);
    let check = |answer: receiver::WriteAnswer, status: u16| {
        assert_eq!(answer.status, status);
        assert_eq!(written(&answer), [None; 3], "{status}");
    };
    check(stand.v1(&good), 204);
    check(stand.v1(&bad), 400);
    check(stand.v1(b"\x0a\xff"), 400);
    check(stand.write(request(V1, "br", good.clone())), 415);
    stand.taker.fail(Some(PushError::Unavailable {
        reason: "full".into(),
        retry_after: Duration::ZERO,
    }));
    check(stand.v1(&good), 503);
}

#[test]
fn a_missing_content_type_or_proto_parameter_means_1_0() {
    let message = snappy(&v1_floats(&[(UP, &[(NOW, 1.0)])]));
    for content_type in [
        "",
        "application/x-protobuf",
        V1,
        "application/x-protobuf; charset=utf-8",
    ] {
        let stand = Stand::default();
        assert_eq!(
            stand.write(request(content_type, "snappy", message.clone())).status,
            204,
            "{content_type}"
        );
        assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
    }
}

#[test]
fn other_content_types_and_messages_are_415() {
    let message = snappy(&v1_floats(&[(UP, &[(NOW, 1.0)])]));
    for content_type in [
        "application/json",
        "image/png",
        "text/plain",
        "application/x-protobuf;proto=prometheus.Other",
        "application/x-protobuf;proto=",
    ] {
        let stand = Stand::default();
        let answer = stand.write(request(content_type, "snappy", message.clone()));
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type}");
        assert_eq!(stand.taker.sample_count(), 0);
    }
}

#[test]
fn the_version_header_is_not_looked_at() {
    let message = snappy(&v1_floats(&[(UP, &[(NOW, 1.0)])]));
    for version in ["0.1.0", "2.0.0", "nonsense"] {
        let stand = Stand::default();
        let mut request = request(V1, "snappy", message.clone());
        request
            .headers
            .insert("x-prometheus-remote-write-version", version.parse().unwrap());
        assert_eq!(stand.write(request).status, 204, "{version}");
    }
}

#[test]
fn an_empty_message_is_a_success() {
    assert_eq!(Stand::default().v1(b"").status, 204);
    assert_eq!(Stand::default().write(request(V1, "identity", "")).status, 204);
}

#[test]
fn every_encoding_of_known_senders_is_accepted() {
    use std::io::Write;
    let message = v1_floats(&[(UP, &[(NOW, 1.0)])]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&message).unwrap();
    let bodies = [
        ("snappy", snappy(&message)),
        ("", snappy(&message)),
        ("", message.clone()),
        ("identity", message.clone()),
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::bulk::compress(&message, 1).unwrap()),
        ("SNAPPY", snappy(&message)),
    ];
    for (encoding, body) in bodies {
        let stand = Stand::default();
        let answer = stand.write(request(V1, encoding, body));
        assert_eq!(answer.status, 204, "{encoding}: {}", answer.body);
        assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
    }
}

#[test]
fn unsorted_labels_are_sorted() {
    let stand = Stand::default();
    let unsorted: &[(&str, &str)] = &[("job", "a"), ("zone", "z"), ("__name__", "up"), ("instance", "i")];
    assert_eq!(stand.v1(&v1_floats(&[(unsorted, &[(NOW, 1.0)])])).status, 204);
    let labels = stand.taker.all_labels(&Tenant::default());
    assert_eq!(
        labels[0].to_string(),
        r#"{__name__="up", instance="i", job="a", zone="z"}"#
    );
}

#[test]
fn both_orders_of_labels_are_one_series() {
    let stand = Stand::default();
    let unsorted: &[(&str, &str)] = &[("job", "a"), ("__name__", "up")];
    for round in 0..3 {
        assert_eq!(
            stand.v1(&v1_floats(&[(unsorted, &[(NOW + 2 * round, 1.0)])])).status,
            204
        );
        assert_eq!(stand.v1(&v1_floats(&[(UP, &[(NOW + 2 * round + 1, 1.0)])])).status, 204);
    }
    assert_eq!(stand.floats(UP).len(), 6);
    assert_eq!(stand.taker.all_labels(&Tenant::default()).len(), 1);
}

#[test]
fn labels_with_empty_values_are_dropped() {
    let stand = Stand::default();
    let padded: &[(&str, &str)] = &[("__name__", "up"), ("empty", ""), ("job", "a")];
    assert_eq!(stand.v1(&v1_floats(&[(padded, &[(NOW, 1.0)])])).status, 204);
    assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
}

#[test]
fn utf8_names_are_accepted() {
    let stand = Stand::default();
    for name in ["with.dots", "with spaces", "größe", "日本", "a-b/c", "\u{0}nul", "<b>"] {
        let labels: &[(&str, &str)] = &[("__name__", name), ("a label.with é", "x")];
        assert_eq!(stand.v1(&v1_floats(&[(labels, &[(NOW, 1.0)])])).status, 204, "{name:?}");
        assert_eq!(stand.floats(labels), [(NOW, 1.0)], "{name:?}");
    }
}

#[test]
fn a_series_without_a_name_is_400_and_the_rest_stored() {
    let nameless = v1_floats(&[(&[("job", "x")], &[(NOW, 1.0), (NOW + 1, 2.0)])]);
    one_bad_of_two(
        &nameless,
        &[
            "rejected 2 of 3 samples, the others are stored: 2 missing_metric_name",
            &format!("at timestamp {NOW}: invalid metric name or labels, got {{job=\"x\"}}"),
        ],
    );
    one_bad_of_two(
        &v1_floats(&[(&[], &[(NOW, 1.0)])]),
        &["1 missing_metric_name", "got {}"],
    );
    one_bad_of_two(
        &v1_floats(&[(&[("__name__", "")], &[(NOW, 1.0)])]),
        &["1 missing_metric_name"],
    );
}

#[test]
fn a_label_that_stands_twice_is_400_and_the_rest_stored() {
    let twice: &[(&str, &str)] = &[("__name__", "up"), ("a", "1"), ("a", "1")];
    one_bad_of_two(
        &v1_floats(&[(twice, &[(NOW, 1.0)])]),
        &["1 duplicate_label", "duplicated label a"],
    );
}

#[test]
fn an_empty_label_name_is_400_and_the_rest_stored() {
    let unnamed: &[(&str, &str)] = &[("__name__", "up"), ("", "1")];
    one_bad_of_two(
        &v1_floats(&[(unnamed, &[(NOW, 1.0)])]),
        &["1 invalid_label", "a label name is empty"],
    );
}

#[test]
fn the_same_sample_again_is_a_success() {
    let stand = Stand::default();
    let message = v1_floats(&[(UP, &[(NOW, f64::NAN), (NOW + 1, 2.0)])]);
    for _ in 0..3 {
        assert_eq!(stand.v1(&message).status, 204);
    }
    assert_eq!(stand.floats(UP).len(), 2);
}

#[test]
fn another_value_for_a_timestamp_is_400_with_the_phrase_that_senders_look_for() {
    let stand = Stand::default();
    assert_eq!(stand.v1(&v1_floats(&[(UP, &[(NOW, 1.0)])])).status, 204);
    let answer = stand.v1(&v1_floats(&[(UP, &[(NOW, 2.0), (NOW + 1, 3.0)])]));
    assert_eq!(answer.status, 400);
    let expected = format!(
        "rejected 1 of 2 samples, the others are stored: 1 duplicate_timestamp\nfirst at timestamp {NOW}: duplicate \
         sample for timestamp for series {{__name__=\"up\", job=\"a\"}}\n"
    );
    assert_eq!(answer.body, expected);
    assert_eq!(stand.floats(UP), [(NOW, 1.0), (NOW + 1, 3.0)]);
}

#[test]
fn a_sample_out_of_order_is_400_and_costs_no_other_sample() {
    let stand = Stand::new(
        ReceiverSettings::default(),
        MemoryTaker::new().with_out_of_order_window(0),
    );
    let answer = stand.v1(&v1_floats(&[
        (UP, &[(NOW, 1.0), (NOW - 1, 2.0), (NOW + 1, 3.0)]),
        (DOWN, &[(NOW, 4.0)]),
    ]));
    assert_eq!(answer.status, 400);
    let phrase = format!(
        "at timestamp {}: out of order sample for series {{__name__=\"up\", job=\"a\"}}",
        NOW - 1
    );
    assert!(answer.body.contains(&phrase), "{}", answer.body);
    assert_eq!(stand.floats(UP), [(NOW, 1.0), (NOW + 1, 3.0)]);
    assert_eq!(stand.floats(DOWN), [(NOW, 4.0)]);
}

#[test]
fn a_sample_too_far_in_the_future_is_400_by_name() {
    for at in [NOW + 11 * 60_000, i64::MAX] {
        let stand = Stand::default();
        let answer = stand.v1(&v1_floats(&[(UP, &[(at, 1.0), (NOW, 2.0)])]));
        assert_eq!(answer.status, 400);
        assert!(
            answer
                .body
                .contains("out of bounds: timestamp is too far in the future"),
            "{}",
            answer.body
        );
        assert_eq!(stand.floats(UP), [(NOW, 2.0)]);
    }
}

#[test]
fn any_timestamp_that_fits_is_carried() {
    let stand = Stand::default();
    let times = [i64::MIN, -1, 0, 1, NOW, NOW + 60_000];
    let samples: Vec<_> = times.iter().map(|at| (*at, 1.5)).collect();
    assert_eq!(stand.v1(&v1_floats(&[(UP, &samples)])).status, 204);
    assert_eq!(stand.floats(UP), samples);
}

#[test]
fn values_are_carried_bit_by_bit() {
    let bits = [
        STALE_NAN_BITS,
        f64::NAN.to_bits(),
        0x7ff8_0000_dead_beef,
        0xfff0_0000_0000_0001,
        f64::INFINITY.to_bits(),
        f64::NEG_INFINITY.to_bits(),
        5e-324f64.to_bits(),
        (-0.0f64).to_bits(),
        0,
        f64::MAX.to_bits(),
    ];
    let stand = Stand::default();
    let samples: Vec<_> = bits
        .iter()
        .zip(NOW..)
        .map(|(bits, at)| (at, f64::from_bits(*bits)))
        .collect();
    assert_eq!(stand.v1(&v1_floats(&[(UP, &samples)])).status, 204);
    let stored: Vec<u64> = stand.floats(UP).iter().map(|(_, value)| value.to_bits()).collect();
    assert_eq!(stored, bits);
}

#[test]
fn an_unavailable_taker_is_503_with_a_time_to_come_again() {
    let stand = Stand::default();
    let retry_after = Duration::from_secs(7);
    stand.taker.fail(Some(PushError::Unavailable {
        reason: "disk full".into(),
        retry_after,
    }));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let answer = stand.v1(&v1_floats(&[(UP, &[(NOW, 1.0)])]));
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "disk full\n")
        );
        let seconds: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((7..=14).contains(&seconds), "{seconds}");
        seen.insert(seconds);
    }
    assert!(seen.len() > 3, "senders do not come back all at once: {seen:?}");
    stand.taker.fail(None);
    assert_eq!(stand.v1(&v1_floats(&[(UP, &[(NOW, 1.0)])])).status, 204);
}

#[test]
fn the_first_256_bytes_of_a_refusal_say_what_and_where() {
    let stand = Stand::default();
    let long = "v".repeat(60_000);
    let labels: &[(&str, &str)] = &[("__name__", "up"), ("long", &long)];
    assert_eq!(stand.v1(&v1_floats(&[(labels, &[(NOW, 1.0)])])).status, 204);
    let answer = stand.v1(&v1_floats(&[(labels, &[(NOW, 2.0)])]));
    let head = &answer.body[..256];
    for phrase in [
        "rejected 1 of 1",
        "duplicate sample for timestamp",
        &NOW.to_string(),
        "__name__=\"up\"",
    ] {
        assert!(head.contains(phrase), "{head}");
    }
    assert!(answer.body.len() < 2_000, "{}", answer.body.len());
}

#[test]
fn concatenated_messages_are_one_request() {
    let stand = Stand::default();
    let mut encoder = V1Encoder::default();
    encoder.metadata(&Metadata {
        family: "up".into(),
        ..Metadata::default()
    });
    let mut message = v1_floats(&[(UP, &[(NOW, 1.0)])]);
    message.extend(encoder.finish());
    message.extend(v1_floats(&[(DOWN, &[(NOW, 2.0)])]));
    assert_eq!(stand.v1(&message).status, 204);
    assert_eq!(
        (stand.floats(UP), stand.floats(DOWN)),
        (vec![(NOW, 1.0)], vec![(NOW, 2.0)])
    );
    assert!(stand.taker.metadata(&Tenant::default(), "up").is_some());
}

#[test]
fn a_series_without_samples_is_nothing() {
    let stand = Stand::default();
    assert_eq!(stand.v1(&v1_floats(&[(UP, &[]), (DOWN, &[(NOW, 1.0)])])).status, 204);
    assert_eq!(stand.taker.all_labels(&Tenant::default()).len(), 1);
}

#[test]
fn a_message_of_2_0_under_a_1_0_content_type_is_415_and_not_a_silent_loss() {
    use proto::remote_write::encode::V2Encoder;
    let stand = Stand::default();
    let mut encoder = V2Encoder::default();
    encoder.series(
        UP.iter().copied(),
        Points {
            floats: &[float(NOW, 1.0)],
            ..Points::default()
        },
        None,
    );
    let answer = stand.v1(&encoder.finish());
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(
        answer.body.contains("the body is a message of remote write 2.0"),
        "{}",
        answer.body
    );
}

#[test]
fn tenants_are_kept_apart_and_contradictions_are_400() {
    let stand = Stand::default();
    let send = |tenant: Option<&str>, headers: &[(&'static str, &str)], value| {
        let mut request = request(V1, "snappy", snappy(&v1_floats(&[(UP, &[(NOW, value)])])));
        request.tenant = tenant.map(str::to_owned);
        headers
            .iter()
            .for_each(|(name, value)| drop(request.headers.insert(*name, value.parse().unwrap())));
        stand.write(request).status.as_u16()
    };
    assert_eq!(send(None, &[], 0.0), 204);
    assert_eq!(send(None, &[("thanos-tenant", "one")], 1.0), 204);
    assert_eq!(send(None, &[("x-scope-orgid", "two")], 2.0), 204);
    assert_eq!(send(Some("three"), &[], 3.0), 204);
    assert_eq!(send(Some("three"), &[("x-scope-orgid", "two")], 9.0), 400);
    assert_eq!(
        send(None, &[("thanos-tenant", "one"), ("x-scope-orgid", "two")], 9.0),
        400
    );
    assert_eq!(send(Some("../etc"), &[], 9.0), 400);
    for (tenant, value) in [("default-tenant", 0.0), ("one", 1.0), ("two", 2.0), ("three", 3.0)] {
        assert_eq!(stand.floats_of(tenant, UP), [(NOW, value)], "{tenant}");
    }
    assert_eq!(stand.taker.sample_count(), 4);
}
