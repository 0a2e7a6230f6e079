//! Remote write requests, encoded and walked: what goes in comes out, and no bytes do harm.

use model::label::Labels;
use model::metadata::{Metadata, MetricType};
use model::sample::{Exemplar, FloatSample};
use proptest::prelude::*;
use proto::protobuf::WireError;
use proto::remote_write::encode::{Points, V1Encoder, V2Encoder};
use proto::remote_write::{v1, v2};

type Pairs = Vec<(String, String)>;

/// A series as it was sent and as it is found again: floats by their bits.
#[derive(Debug, Clone, PartialEq, Default)]
struct Sent {
    labels: Pairs,
    floats: Vec<(i64, u64, i64)>,
    exemplars: Vec<(Pairs, u64, i64)>,
    metadata: Option<(MetricType, String, String)>,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z_]{1,12}", "\\PC{0,8}", "x{130,140}"]
}

fn timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![1_600_000_000_000i64..1_800_000_000_000, any::<i64>(), -5i64..5]
}

fn sent() -> impl Strategy<Value = Sent> {
    let labels = prop::collection::vec((text(), text()), 0..12);
    let floats = prop::collection::vec((timestamp(), any::<u64>(), prop_oneof![Just(0), timestamp()]), 0..5);
    let exemplars = prop::collection::vec(
        (
            prop::collection::btree_map("[a-z]{1,9}", "[a-z]{1,9}", 0..3),
            any::<u64>(),
            timestamp(),
        ),
        0..3,
    );
    let kinds = prop::sample::select(vec![
        MetricType::Counter,
        MetricType::Gauge,
        MetricType::Histogram,
        MetricType::StateSet,
    ]);
    let metadata = prop::option::of((kinds, text(), text()));
    (labels, floats, exemplars, metadata).prop_map(|(labels, floats, exemplars, metadata)| Sent {
        labels,
        floats,
        exemplars: exemplars
            .into_iter()
            .map(|(labels, value, at)| (labels.into_iter().collect(), value, at))
            .collect(),
        metadata,
    })
}

impl Sent {
    fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn floats(&self) -> Vec<FloatSample> {
        let float = |(at, bits, start): &(i64, u64, i64)| FloatSample {
            at: *at,
            value: f64::from_bits(*bits),
            start: *start,
        };
        self.floats.iter().map(float).collect()
    }

    fn exemplars(&self) -> Vec<Exemplar> {
        let exemplar = |(labels, bits, at): &(Pairs, u64, i64)| Exemplar {
            labels: Labels::new(labels.iter().map(|(name, value)| (name, value))).unwrap(),
            value: f64::from_bits(*bits),
            at: *at,
        };
        self.exemplars.iter().map(exemplar).collect()
    }
}

fn encode_v1(series: &[Sent]) -> Vec<u8> {
    let mut encoder = V1Encoder::default();
    for sent in series {
        let (floats, exemplars) = (sent.floats(), sent.exemplars());
        encoder.series(
            sent.labels(),
            Points {
                floats: &floats,
                exemplars: &exemplars,
                ..Points::default()
            },
        );
        if let Some((kind, help, unit)) = &sent.metadata {
            let family = "family".to_owned();
            encoder.metadata(&Metadata {
                family,
                kind: *kind,
                help: help.clone(),
                unit: unit.clone(),
            });
        }
    }
    encoder.finish()
}

fn encode_v2(series: &[Sent]) -> Vec<u8> {
    let mut encoder = V2Encoder::default();
    for sent in series {
        let (floats, exemplars) = (sent.floats(), sent.exemplars());
        let metadata = sent.metadata.clone().map(|(kind, help, unit)| Metadata {
            family: String::new(),
            kind,
            help,
            unit,
        });
        let points = Points {
            floats: &floats,
            exemplars: &exemplars,
            ..Points::default()
        };
        encoder.series(sent.labels(), points, metadata.as_ref());
    }
    encoder.finish()
}

fn owned((name, value): (&[u8], &[u8])) -> (String, String) {
    (
        String::from_utf8(name.to_vec()).unwrap(),
        String::from_utf8(value.to_vec()).unwrap(),
    )
}

fn walk_v1(body: &[u8]) -> Result<Vec<Sent>, WireError> {
    let mut all: Vec<Sent> = Vec::new();
    let mut entries = v1::entries(body);
    while let Some(entry) = entries.next_entry()? {
        match entry {
            v1::Entry::Series(series) => all.push(walk_v1_series(series)?),
            v1::Entry::Metadata(bytes) => {
                let metadata = v1::metadata(bytes)?;
                if let Some(last) = all.last_mut() {
                    last.metadata = Some((metadata.kind, metadata.help, metadata.unit));
                }
            }
            v1::Entry::Version2 => {}
        }
    }
    Ok(all)
}

fn walk_v1_series(series: v1::Series<'_>) -> Result<Sent, WireError> {
    let mut sent = Sent::default();
    for pair in series.labels() {
        sent.labels.push(lossy(pair?));
    }
    let mut points = series.points();
    while let Some(point) = points.next_point()? {
        match point {
            v1::Point::Sample(sample) => sent.floats.push((sample.at, sample.value.to_bits(), sample.start)),
            v1::Point::Exemplar(bytes) => {
                let exemplar = v1::exemplar(bytes)?;
                let labels: Result<Vec<_>, _> = exemplar.labels.map(|pair| pair.map(lossy)).collect();
                sent.exemplars.push((labels?, exemplar.value.to_bits(), exemplar.at));
            }
            v1::Point::Histogram(bytes) => drop(proto::histogram::decode(bytes)),
            v1::Point::Label(_) => {}
        }
    }
    Ok(sent)
}

fn lossy((name, value): (&[u8], &[u8])) -> (String, String) {
    (
        String::from_utf8_lossy(name).into_owned(),
        String::from_utf8_lossy(value).into_owned(),
    )
}

fn walk_v2(body: &[u8]) -> Result<Vec<Sent>, WireError> {
    let mut symbols: Vec<&[u8]> = Vec::new();
    v2::symbols(body, |symbol| {
        symbols.push(symbol);
        Ok::<(), WireError>(())
    })?;
    let text =
        |number: u32| String::from_utf8_lossy(symbols.get(number as usize).copied().unwrap_or(b"?")).into_owned();
    let pairs = |refs: &[u32]| -> Pairs {
        refs.chunks_exact(2)
            .map(|pair| (text(pair[0]), text(pair[1])))
            .collect()
    };
    let mut all = Vec::new();
    let mut entries = v2::entries(body);
    while let Some(entry) = entries.next_entry()? {
        let v2::Entry::Series(series) = entry else { continue };
        let (mut sent, mut refs) = (Sent::default(), Vec::new());
        let mut fields = series.fields();
        while let Some(field) = fields.next_field()? {
            match field {
                v2::Field::LabelRefs(more) => drop(more.append_to(&mut refs, 10_000)?),
                v2::Field::Sample(sample) => sent.floats.push((sample.at, sample.value.to_bits(), sample.start)),
                v2::Field::Exemplar(bytes) => {
                    let exemplar = v2::exemplar(bytes)?;
                    let mut refs = Vec::new();
                    exemplar.label_refs(&mut refs, 10_000)?;
                    sent.exemplars
                        .push((pairs(&refs), exemplar.value.to_bits(), exemplar.at));
                }
                v2::Field::Metadata(metadata) => {
                    sent.metadata = Some((metadata.kind, text(metadata.help), text(metadata.unit)));
                }
                v2::Field::Histogram(bytes) => drop(proto::histogram::decode(bytes)),
            }
        }
        sent.labels = pairs(&refs);
        all.push(sent);
    }
    Ok(all)
}

proptest! {
    #[test]
    fn what_is_encoded_as_1_0_is_walked_again(mut series in prop::collection::vec(sent(), 0..6)) {
        let walked = walk_v1(&encode_v1(&series)).unwrap();
        // 1.0 knows no start timestamps.
        series.iter_mut().flat_map(|sent| &mut sent.floats).for_each(|float| float.2 = 0);
        prop_assert_eq!(walked, series);
    }

    #[test]
    fn what_is_encoded_as_2_0_is_walked_again(series in prop::collection::vec(sent(), 0..6)) {
        prop_assert_eq!(walk_v2(&encode_v2(&series)).unwrap(), series);
    }

    #[test]
    fn concatenated_messages_are_one(one in prop::collection::vec(sent(), 0..4), two in prop::collection::vec(sent(), 0..4)) {
        let mut both = encode_v1(&one);
        both.extend(encode_v1(&two));
        let expected: Vec<Sent> = walk_v1(&encode_v1(&one)).unwrap().into_iter().chain(walk_v1(&encode_v1(&two)).unwrap()).collect();
        // Metadata that stands first belongs to no series of its message.
        prop_assert_eq!(walk_v1(&both).unwrap(), expected);
    }

    #[test]
    fn cut_and_damaged_messages_are_walked_or_refused(
        series in prop::collection::vec(sent(), 1..4),
        place in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        for mut body in [encode_v1(&series), encode_v2(&series)] {
            let place = place.index(body.len());
            let _ = (walk_v1(&body[..place]), walk_v2(&body[..place]));
            body[place] = byte;
            let _ = (walk_v1(&body), walk_v2(&body));
        }
    }

    #[test]
    fn any_bytes_are_walked_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (walk_v1(&body), walk_v2(&body));
        let _ = proto::histogram::decode(&body);
    }

    /// Label fields in two places give the same bytes to compare as in one.
    #[test]
    fn scattered_labels_are_gathered(sent in sent(), cut in any::<prop::sample::Index>()) {
        let fields: Vec<Vec<u8>> = sent.labels().map(|(name, value)| {
            let mut label = Vec::new();
            proto::protobuf::put_bytes(&mut label, 1, name.as_bytes());
            proto::protobuf::put_bytes(&mut label, 2, value.as_bytes());
            let mut field = Vec::new();
            proto::protobuf::put_bytes(&mut field, 1, &label);
            field
        }).collect();
        let cut = cut.index(fields.len() + 1);
        let sample = [0x12u8, 0x02, 0x10, 0x07];
        let scattered = [fields[..cut].concat(), sample.to_vec(), fields[cut..].concat()].concat();
        let series = v1::Series::new(&scattered).unwrap();
        let mut gathered = Vec::new();
        series.gather_labels(&mut gathered).unwrap();
        prop_assert_eq!(gathered, fields.concat());
        let labels: Vec<_> = series.labels().map(|pair| owned(pair.unwrap())).collect();
        prop_assert_eq!(labels, sent.labels);
    }

    /// Who knows where the labels end divides the series as the walk does; no label is left behind.
    #[test]
    fn labels_end_where_they_are_known_to_end(sent in sent()) {
        let body = encode_v1(std::slice::from_ref(&sent));
        let mut entries = v1::entries(&body);
        let Some(v1::Entry::Series(bytes)) = entries.next_with(Ok).unwrap() else { panic!("a series was encoded") };
        let walked = v1::Series::new(bytes).unwrap();
        let end = walked.leading_labels().len();
        let divided = v1::Series::divided(bytes, end).unwrap();
        prop_assert_eq!(divided.leading_labels(), walked.leading_labels());
        prop_assert_eq!(walk_v1_series(divided).unwrap(), walk_v1_series(walked).unwrap());
        let longer = [&bytes[..end], &[0x0a, 0x00]].concat();
        prop_assert!(v1::Series::divided(&longer, end).is_none());
        prop_assert!(v1::Series::divided(bytes, bytes.len() + 1).is_none());
    }
}

/// The example that the specification of 2.0 gives for the symbol table.
#[test]
fn symbols_are_written_once_and_the_first_is_empty() {
    let mut encoder = V2Encoder::default();
    for code in ["200", "500"] {
        let labels = [
            ("__name__", "http_requests_total"),
            ("code", code),
            ("job", "http_requests_total"),
            ("empty", ""),
        ];
        let points = Points {
            floats: &[FloatSample {
                at: 1,
                value: 1.0,
                start: 0,
            }],
            ..Points::default()
        };
        encoder.series(labels, points, None);
    }
    let body = encoder.finish();
    let mut symbols: Vec<&[u8]> = Vec::new();
    v2::symbols(&body, |symbol| {
        symbols.push(symbol);
        Ok::<(), WireError>(())
    })
    .unwrap();
    let expected: [&[u8]; 8] = [
        b"",
        b"__name__",
        b"http_requests_total",
        b"code",
        b"200",
        b"job",
        b"empty",
        b"500",
    ];
    assert_eq!(symbols, expected);
}

#[test]
fn no_cut_of_a_message_passes_for_the_whole() {
    let series = [Sent {
        labels: vec![("__name__".into(), "up".into()), ("job".into(), "a".into())],
        floats: vec![(1_700_000_000_000, 1.5f64.to_bits(), 7), (-1, 0, 0)],
        exemplars: vec![(vec![("trace_id".into(), "x".into())], 0, 5)],
        metadata: Some((MetricType::Counter, "help".into(), "unit".into())),
    }];
    let (one, two) = (encode_v1(&series), encode_v2(&series));
    for cut in 0..one.len() {
        assert_ne!(walk_v1(&one[..cut]), walk_v1(&one), "cut at {cut}");
    }
    for cut in 0..two.len() {
        assert_ne!(walk_v2(&two[..cut]), walk_v2(&two), "cut at {cut}");
    }
}
