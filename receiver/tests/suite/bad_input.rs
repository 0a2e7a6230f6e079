//! Bodies that no honest sender makes: each gets its code and a clear text, none panics, and the good part is stored.

use crate::common::*;
use model::label::Labels;
use model::push::memory::MemoryTaker;
use model::sample::Exemplar;
use proptest::prelude::*;
use proto::compression::snappy;
use proto::protobuf::{put_bytes, put_double, put_integer, put_tag, put_varint};
use proto::remote_write::encode::{Points, V1Encoder, V2Encoder};
use receiver::{LabelLimits, ReceiverSettings, WriteAnswer};

const UP: &[(&str, &str)] = &[("__name__", "up"), ("job", "a")];

fn good_v1() -> Vec<u8> {
    v1_floats(&[
        (UP, &[(NOW, 1.0), (NOW + 1, 2.0)]),
        (&[("__name__", "down")], &[(NOW, 3.0)]),
    ])
}

fn good_v2() -> Vec<u8> {
    let mut encoder = V2Encoder::default();
    let exemplar = Exemplar {
        labels: Labels::new([("trace_id", "t")]).unwrap(),
        value: 1.0,
        at: NOW,
    };
    let points = Points {
        floats: &[float(NOW, 1.0)],
        exemplars: &[exemplar],
        ..Points::default()
    };
    encoder.series(UP.iter().copied(), points, None);
    encoder.series(
        [("__name__", "down")],
        Points {
            floats: &[float(NOW, 3.0)],
            ..Points::default()
        },
        None,
    );
    encoder.finish()
}

#[track_caller]
fn refused(answer: &WriteAnswer, status: u16, phrase: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.body);
    assert!(answer.body.contains(phrase), "{:?} lacks {phrase:?}", answer.body);
    assert!(answer.body.len() < 9_000 && answer.body.ends_with('\n'));
}

#[test]
fn compression_faults_are_named() {
    let stand = Stand::default();
    let send = |encoding: &str, body: &[u8]| stand.write(request(V1, encoding, body.to_vec()));
    let four_gib = [0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3];
    refused(&send("snappy", &four_gib), 400, "limit of 33554432 bytes");
    let mut large = Vec::new();
    put_varint(&mut large, 33 << 20);
    refused(&send("snappy", &large), 400, "it declares 34603008");
    refused(&send("snappy", b""), 400, "no valid snappy data");
    refused(&send("snappy", b"\x05\x00a"), 400, "no valid snappy data");
    refused(
        &send("snappy", b"\xff\x06\x00\x00sNaPpY\x01"),
        400,
        "snappy framed format",
    );
    refused(&send("", b"\xff\x06\x00\x00sNaPpY\x01"), 400, "snappy framed format");
    refused(&send("snappy", &good_v1()), 400, "no valid snappy data");
    refused(&send("zstd", &good_v1()), 415, "zstd");
    refused(&send("gzip", &snappy(&good_v1())), 415, "gzip");
    refused(&send("snappy, gzip", &good_v1()), 415, "one at a time");
    refused(&send("deflate", &good_v1()), 415, "not supported");
    refused(&send("gzip", b"\x1f\x8b\x08\x00broken"), 400, "no valid gzip data");
    refused(&send("zstd", b"\x28\xb5\x2f\xfdbroken"), 400, "no valid zstd data");
    // Compressed once too often: the layer below is no protobuf.
    refused(&send("snappy", &snappy(&snappy(&good_v1()))), 400, "invalid protobuf");
    assert_eq!(stand.taker.sample_count(), 0);
    assert_eq!(send("snappy", &snappy(b"")).status, 204);
}

#[test]
fn bombs_end_at_the_limit() {
    use std::io::Write;
    let settings = ReceiverSettings {
        decoded_bytes_max: 1 << 20,
        ..ReceiverSettings::default()
    };
    let stand = Stand::new(settings, MemoryTaker::new());
    let zeros = vec![0u8; 64 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&zeros).unwrap();
    let mut undeclared = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    undeclared.write_all(&zeros).unwrap();
    for (encoding, body) in [
        ("gzip", gzip.finish().unwrap()),
        ("zstd", undeclared.finish().unwrap()),
        ("zstd", zstd::bulk::compress(&zeros, 1).unwrap()),
        ("snappy", snappy(&zeros)),
        ("identity", zeros[..(1 << 20) + 1].to_vec()),
    ] {
        refused(&stand.write(request(V1, encoding, body)), 400, "limit of 1048576 bytes");
    }
}

#[test]
fn messages_cut_at_any_byte_are_400_or_the_shorter_message() {
    for (version, good) in [(V1, good_v1()), (V2, good_v2())] {
        let mut accepted = 0;
        for cut in 0..good.len() {
            let stand = Stand::default();
            let answer = stand.write(request(version, "identity", good[..cut].to_vec()));
            match answer.status.as_u16() {
                204 => accepted += 1,
                400 => assert!(!answer.body.is_empty(), "cut at {cut}"),
                status => panic!("{status} at cut {cut}: {}", answer.body),
            }
        }
        // Cuts between top-level fields leave a message that is whole: nothing, symbols, one series.
        assert!((1..=10).contains(&accepted), "{accepted} cuts of {version} accepted");
    }
}

#[test]
fn wrong_wire_types_bad_tags_and_endless_varints_are_400() {
    let stand = Stand::default();
    let bodies: [(&[u8], &str); 9] = [
        (b"\x08\x01", "WriteRequest: field 1 has wire type 0"),
        (b"\x0d\x01\x02\x03\x04", "WriteRequest: field 1 has wire type 5"),
        (b"\x02\x00", "2 is no field tag"),
        (b"\x0e\x00", "14 is no field tag"),
        (
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            "a varint does not fit 64 bits",
        ),
        (b"\x0a\xff\xff\xff\xff\x7f", "a length points beyond the end"),
        (b"\x0a\x02\x10\x01", "TimeSeries: field 2 has wire type 0"),
        (b"\x0a\x04\x12\x02\x08\x01", "Sample: field 1 has wire type 0"),
        (b"\x7b\x7b\x7b", "a length points beyond the end"),
    ];
    for (body, phrase) in bodies {
        refused(&stand.v1(body), 400, phrase);
        refused(&stand.v1(body), 400, "invalid protobuf in ");
    }
    let mut label = Vec::new();
    put_bytes(&mut label, 1, b"\x08\x01");
    put_bytes(&mut label, 2, &sample(NOW, 1.0));
    let mut message = Vec::new();
    put_bytes(&mut message, 1, &label);
    refused(&stand.v1(&message), 400, "Label: field 1 has wire type 0");
}

fn sample(at: i64, value: f64) -> Vec<u8> {
    let mut sample = Vec::new();
    put_double(&mut sample, 1, value);
    put_integer(&mut sample, 2, at as u64);
    sample
}

#[test]
fn a_fault_behind_good_series_stores_them_or_nothing_but_is_always_400() {
    let stand = Stand::default();
    let mut message = good_v1();
    message.extend(b"\x0a\xff");
    refused(&stand.v1(&message), 400, "invalid protobuf in WriteRequest");
    // Repeating the good part later is a success either way.
    assert_eq!(stand.v1(&good_v1()).status, 204);
}

#[test]
fn groups_unknown_fields_and_repeated_members_are_legal() {
    let mut series = Vec::new();
    for (name, value) in UP {
        let mut label = Vec::new();
        // The last of two names holds.
        put_bytes(&mut label, 1, b"overwritten");
        put_bytes(&mut label, 1, name.as_bytes());
        put_integer(&mut label, 9, 7);
        put_bytes(&mut label, 2, value.as_bytes());
        put_bytes(&mut series, 1, &label);
    }
    put_tag(&mut series, 12, 3);
    put_integer(&mut series, 1, 1);
    put_tag(&mut series, 12, 4);
    let mut twice = sample(0, 9.0);
    twice.extend(sample(NOW, 1.0));
    put_bytes(&mut series, 2, &twice);
    let mut message = Vec::new();
    put_double(&mut message, 1_000, 1.0);
    put_bytes(&mut message, 1, &series);
    let stand = Stand::default();
    let answer = stand.v1(&message);
    assert_eq!(answer.status, 204, "{}", answer.body);
    assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
}

#[test]
fn hostile_labels_are_refused_by_name_beside_good_ones() {
    let many: Vec<(String, String)> = (0..10_000)
        .map(|number| (format!("l{number:05}"), "x".to_owned()))
        .collect();
    let mut many: Vec<(&str, &str)> = many
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    many.push(("__name__", "many"));
    let (mebibyte, long_name) = ("v".repeat(1 << 20), "n".repeat(2_000));
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&many, "1 too_many_labels"),
        (
            &[("__name__", "huge"), ("value", &mebibyte)],
            "the value has 1048576 bytes, at most 65536 are allowed",
        ),
        (
            &[("__name__", "huge"), (&long_name, "v")],
            "the name has 2000 bytes, at most 1024 are allowed",
        ),
        (&[("__name__", "<script>\u{1b}[31m"), ("", "x")], "\\u{1b}"),
        (
            &[("__name__", "a"), ("a", "1"), ("b", "2"), ("a", "3")],
            "duplicated label a",
        ),
    ];
    for (labels, phrase) in cases {
        let stand = Stand::default();
        let answer = stand.v1(&v1_floats(&[(labels, &[(NOW, 1.0)]), (UP, &[(NOW, 1.0)])]));
        refused(&answer, 400, phrase);
        assert!(!answer.body.contains('\u{1b}'), "control characters are escaped");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!((stand.floats(UP).len(), stand.taker.sample_count()), (1, 1));
    }
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    for bad in [&b"\xff"[..], b"\xed\xa0\x80", b"ok\xc3"] {
        for (name, value) in [(bad, &b"v"[..]), (b"n", bad)] {
            let (mut label, mut series, mut message) = (Vec::new(), Vec::new(), Vec::new());
            put_bytes(&mut label, 1, name);
            put_bytes(&mut label, 2, value);
            put_bytes(&mut series, 1, b"\x0a\x08__name__\x12\x02up");
            put_bytes(&mut series, 1, &label);
            put_bytes(&mut series, 2, &sample(NOW, 1.0));
            put_bytes(&mut message, 1, &series);
            refused(&Stand::default().v1(&message), 400, "is not UTF-8");
        }
    }
}

#[test]
fn limits_of_labels_are_settings() {
    let labels = LabelLimits {
        labels_max: 3,
        ..LabelLimits::default()
    };
    let stand = Stand::new(
        ReceiverSettings {
            labels,
            ..ReceiverSettings::default()
        },
        MemoryTaker::new(),
    );
    let three: &[(&str, &str)] = &[("__name__", "up"), ("a", "1"), ("b", "2")];
    let four: &[(&str, &str)] = &[("__name__", "up"), ("a", "1"), ("b", "2"), ("c", "3")];
    assert_eq!(stand.v1(&v1_floats(&[(three, &[(NOW, 1.0)])])).status, 204);
    refused(
        &stand.v1(&v1_floats(&[(four, &[(NOW, 1.0)])])),
        400,
        "a series has more than 3 labels",
    );
    let mut encoder = V2Encoder::default();
    let thousand: Vec<(String, String)> = (0..1_000).map(|number| (format!("l{number}"), "x".into())).collect();
    let pairs = thousand.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    encoder.series(
        pairs,
        Points {
            floats: &[float(NOW, 1.0)],
            ..Points::default()
        },
        None,
    );
    refused(&stand.v2(&encoder.finish()), 400, "a series has more than 3 labels");
}

#[test]
fn too_many_symbols_are_refused_by_their_limit() {
    let settings = ReceiverSettings {
        symbols_max: 10,
        ..ReceiverSettings::default()
    };
    let stand = Stand::new(settings, MemoryTaker::new());
    let mut message = Vec::new();
    (0..11).for_each(|_| put_bytes(&mut message, 4, b""));
    refused(&stand.v2(&message), 400, "limit of 10 symbols");
}

#[test]
fn one_series_cannot_outgrow_a_slice() {
    let stand = Stand::default();
    let samples: Vec<(i64, f64)> = (0..300_000).map(|step| (NOW - step, 1.0)).collect();
    refused(
        &stand.v1(&v1_floats(&[(UP, &samples)])),
        400,
        "one series of the request has more than",
    );
    let fewer = &samples[..200_000];
    assert_eq!(stand.v1(&v1_floats(&[(UP, fewer)])).status, 204);
}

#[test]
fn memory_in_progress_is_bounded_and_says_so() {
    let settings = ReceiverSettings {
        in_flight_bytes_max: 1_000,
        ..ReceiverSettings::default()
    };
    let stand = Stand::new(settings, MemoryTaker::new());
    let labels: &[(&str, &str)] = &[("__name__", "up"), ("long", &"x".repeat(2_000))];
    for version in [V1, V2] {
        let answer = stand.write(request(
            version,
            "snappy",
            snappy(&v1_floats(&[(labels, &[(NOW, 1.0)])])),
        ));
        refused(&answer, 503, "of 1000 bytes; send again later");
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(written(&answer)[0], (version == V2).then_some(0));
    }
    assert_eq!(stand.metric("narthex_receiver_overloads_total"), 2.0);
    assert_eq!(stand.v1(&v1_floats(&[(UP, &[(NOW, 1.0)])])).status, 204);
    assert_eq!(stand.metric("narthex_receiver_in_flight_bytes"), 0.0);
}

#[test]
fn every_refusal_is_counted_by_its_reason() {
    let stand = Stand::default();
    stand.v1(&v1_floats(&[
        (&[("job", "x")], &[(NOW, 1.0), (NOW + 1, 1.0)]),
        (UP, &[(NOW, 1.0), (NOW, 2.0)]),
    ]));
    let counted = |reason: &str| {
        stand.metric(&format!(
            "narthex_receiver_samples_rejected_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!(counted("missing_metric_name"), 2.0);
    assert_eq!(counted("duplicate_timestamp"), 1.0);
    assert_eq!(counted("too_old"), 0.0);
    assert_eq!(
        stand.metric("narthex_receiver_samples_written_total{kind=\"float\"}"),
        1.0
    );
    assert_eq!(
        stand.metric("narthex_receiver_write_requests_total{version=\"1.0\",code=\"400\"}"),
        1.0
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300), encoding in 0usize..5) {
        let stand = Stand::default();
        let encoding = ["snappy", "zstd", "gzip", "identity", ""][encoding];
        for version in [V1, V2] {
            let answer = stand.write(request(version, encoding, bytes.clone()));
            prop_assert!([204, 400, 415].contains(&answer.status.as_u16()), "{}", answer.status);
        }
    }

    #[test]
    fn damaged_messages_get_an_answer(at in any::<prop::sample::Index>(), byte: u8, insert: bool) {
        for (version, mut message) in [(V1, good_v1()), (V2, good_v2())] {
            let at = at.index(message.len());
            if insert { message.insert(at, byte) } else { message[at] = byte }
            let answer = Stand::default().write(request(version, "identity", message));
            prop_assert!([204, 400, 415].contains(&answer.status.as_u16()), "{}", answer.status);
        }
    }
}

#[test]
fn a_million_empty_things_are_answered() {
    let stand = Stand::default();
    let repeated = |piece: &[u8]| piece.repeat(1_000_000);
    assert_eq!(stand.v1(&repeated(b"\x0a\x00")).status, 204, "empty series");
    refused(
        &stand.v1(&repeated(b"\x0a\x02\x12\x00")),
        400,
        "1000000 missing_metric_name",
    );
    let mut one = Vec::new();
    put_bytes(&mut one, 1, &[repeated(b"\x0a\x00"), sample_field()].concat());
    refused(&stand.v1(&one), 400, "1 missing_metric_name");
    refused(
        &stand.v2(&[b"\x22\x00".to_vec(), repeated(b"\x2a\x00")].concat()),
        400,
        "1000000 no_samples",
    );
    let mut encoder = V1Encoder::default();
    encoder.series(UP.iter().copied(), Points::default());
    assert_eq!(stand.v1(&encoder.finish()).status, 204);
    assert_eq!(stand.taker.sample_count(), 0);
}

fn sample_field() -> Vec<u8> {
    let mut field = Vec::new();
    put_bytes(&mut field, 2, &sample(NOW, 1.0));
    field
}
