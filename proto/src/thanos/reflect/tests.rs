//! What is written by hand, held against the interface descriptions.

use super::*;
use crate::{
    remote_write::encode::{Points, V1Encoder},
    thanos::{message as wire, series},
};
use model::{
    histogram::{Histogram, Span},
    label::Labels,
    sample::{Exemplar, FloatSample, HistogramSample},
    select::Chunk,
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

/// Asserts that the description of the message `name` knows every field of `bytes`, and of all that is in it, and writes them alike.
#[track_caller]
fn assert_described(name: &str, bytes: &[u8]) {
    let message = read(name, bytes);
    assert_eq!(
        message.encode_to_vec().len(),
        bytes.len(),
        "{name} is written otherwise"
    );
}

#[track_caller]
fn read(name: &str, bytes: &[u8]) -> DynamicMessage {
    let pool = DescriptorPool::decode(INTERFACE).unwrap();
    let descriptor = pool.get_message_by_name(name).unwrap_or_else(|| panic!("no {name}"));
    let message = DynamicMessage::decode(descriptor, bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(!bytes.is_empty(), "{name}: nothing to look at");
    assert_known(name, &message);
    message
}

fn assert_known(place: &str, message: &DynamicMessage) {
    let unknown: Vec<_> = message.unknown_fields().collect();
    assert!(unknown.is_empty(), "{place} has unknown fields {unknown:?}");
    for (field, value) in message.fields() {
        assert_value_known(&format!("{place}.{}", field.name()), value);
    }
}

fn assert_value_known(place: &str, value: &Value) {
    match value {
        Value::Message(message) => assert_known(place, message),
        Value::List(values) => values.iter().for_each(|value| assert_value_known(place, value)),
        Value::Map(values) => values.values().for_each(|value| assert_value_known(place, value)),
        _ => {}
    }
}

#[test]
fn every_service_that_is_told_is_described() {
    add_reflection(Routes::default(), true).unwrap();
    let pool = DescriptorPool::decode(INTERFACE).unwrap();
    for service in SERVICES.iter().skip(1).chain([&TAKING]) {
        let described = pool.get_service_by_name(service);
        assert!(
            described.is_some_and(|service| service.methods().len() > 0),
            "{service}"
        );
    }
}

#[test]
#[should_panic(expected = "unknown fields")]
fn a_field_that_is_not_described_is_found() {
    // Field 99, a number.
    assert_described("thanos.Label", &[0x98, 0x06, 0x01]);
}

fn matchers() -> Vec<wire::LabelMatcher> {
    let matcher = wire::LabelMatcher {
        kind: 3,
        name: "a".into(),
        value: "b.*".into(),
    };
    vec![matcher]
}

fn some_any() -> Option<wire::Any> {
    Some(wire::Any {
        type_url: "type.googleapis.com/hintspb.SeriesRequestHints".into(),
        value: vec![1].into(),
    })
}

fn label_set() -> Option<wire::LabelSet> {
    let label = wire::Label {
        name: "n".into(),
        value: "v".into(),
    };
    Some(wire::LabelSet { labels: vec![label] })
}

#[test]
fn questions_are_written_as_described() {
    let hints = wire::QueryHints {
        step_millis: 1,
        function: Some(wire::Function { name: "rate".into() }),
        grouping: Some(wire::Grouping {
            by: true,
            labels: vec!["l".into()],
        }),
        range: Some(wire::Range { millis: 2 }),
    };
    let shard = wire::ShardInfo {
        shard_index: 1,
        total_shards: 2,
        by: true,
        labels: vec!["l".into()],
    };
    let series = wire::SeriesRequest {
        min_time: 1,
        max_time: 2,
        matchers: matchers(),
        max_resolution_window: 3,
        aggregates: vec![1, 5],
        partial_response_disabled: true,
        partial_response_strategy: 1,
        skip_chunks: true,
        hints: some_any(),
        query_hints: Some(hints),
        shard_info: Some(shard),
        without_replica_labels: vec!["r".into()],
        limit: 4,
        response_batch_size: 5,
    };
    assert_described("thanos.SeriesRequest", &series.encode_to_vec());
    let names = wire::LabelNamesRequest {
        partial_response_disabled: true,
        partial_response_strategy: 1,
        start: 1,
        end: 2,
        hints: some_any(),
        matchers: matchers(),
        without_replica_labels: vec!["r".into()],
        limit: 4,
    };
    assert_described("thanos.LabelNamesRequest", &names.encode_to_vec());
    let values = wire::LabelValuesRequest {
        label: "l".into(),
        partial_response_disabled: true,
        partial_response_strategy: 1,
        start: 1,
        end: 2,
        hints: some_any(),
        matchers: matchers(),
        without_replica_labels: vec!["r".into()],
        limit: 4,
    };
    assert_described("thanos.LabelValuesRequest", &values.encode_to_vec());
    let exemplars = wire::ExemplarsRequest {
        query: "up".into(),
        start: 1,
        end: 2,
        partial_response_strategy: 1,
    };
    assert_described("thanos.ExemplarsRequest", &exemplars.encode_to_vec());
    let metadata = wire::MetadataRequest {
        metric: "up".into(),
        limit: 1,
        partial_response_strategy: 1,
    };
    assert_described("thanos.MetricMetadataRequest", &metadata.encode_to_vec());
}

#[test]
fn series_are_written_as_described() {
    let labels = Labels::new([("__name__", "up"), ("job", "x")]).unwrap();
    let chunk = Chunk {
        min_time: 1,
        max_time: 2,
        encoding: 1,
        data: vec![0, 1, 2, 3].into(),
    };
    let series = series::encode(&labels, &[chunk]);
    // Written by hand, with the encoding named where it is 0 as well, which protobuf leaves out.
    let shown = format!("{:?}", read("thanos.Series", &series).get_field_by_name("chunks"));
    assert!(shown.contains(r#"Bytes(b"\0\x01\x02\x03")"#), "{shown}");
    let results = [
        wire::SeriesResult::Series(series.clone()),
        wire::SeriesResult::Warning("w".into()),
        wire::SeriesResult::Hints(some_any().unwrap()),
        wire::SeriesResult::Batch(wire::SeriesBatch {
            series: vec![series.clone(), series],
        }),
    ];
    for result in results {
        let frame = wire::SeriesResponse { result: Some(result) };
        read("thanos.SeriesResponse", &frame.encode_to_vec());
    }
}

#[test]
fn other_answers_are_written_as_described() {
    let (list, warnings) = (vec!["a".to_owned()], vec!["w".to_owned()]);
    let names = wire::LabelNamesResponse {
        names: list.clone(),
        warnings: warnings.clone(),
        hints: some_any(),
    };
    assert_described("thanos.LabelNamesResponse", &names.encode_to_vec());
    let values = wire::LabelValuesResponse {
        values: list,
        warnings,
        hints: some_any(),
    };
    assert_described("thanos.LabelValuesResponse", &values.encode_to_vec());
    let hints = wire::SeriesRequestHints {
        block_matchers: matchers(),
    };
    assert_described("hintspb.SeriesRequestHints", &hints.encode_to_vec());
    let told = wire::SeriesResponseHints {
        queried_blocks: vec![wire::Block { id: "01A".into() }],
    };
    assert_described("hintspb.SeriesResponseHints", &told.encode_to_vec());
    let data = wire::ExemplarData {
        series_labels: label_set(),
        exemplars: vec![wire::Exemplar {
            labels: label_set(),
            value: 1.5,
            at: 3,
        }],
    };
    let frame = wire::ExemplarsResponse {
        result: Some(wire::ExemplarsResult::Data(data)),
    };
    assert_described("thanos.ExemplarsResponse", &frame.encode_to_vec());
    let meta = wire::Meta {
        kind: "counter".into(),
        help: "h".into(),
        unit: "u".into(),
    };
    let entry = wire::MetaEntry { metas: vec![meta] };
    let map = wire::MetaMap {
        metadata: [("up".to_owned(), entry)].into(),
    };
    let frame = wire::MetadataResponse {
        result: Some(wire::MetadataResult::Metadata(map)),
    };
    assert_described("thanos.MetricMetadataResponse", &frame.encode_to_vec());
    let info = wire::InfoResponse {
        label_sets: label_set().into_iter().collect(),
        component_type: "store".into(),
        store: Some(wire::StoreInfo {
            min_time: 1,
            max_time: 2,
            supports_sharding: true,
            supports_without_replica_labels: true,
            tsdb_infos: vec![wire::TsdbInfo {
                labels: label_set(),
                min_time: 1,
                max_time: 2,
            }],
        }),
        metric_metadata: Some(wire::Served {}),
        exemplars: Some(wire::ExemplarsInfo {
            min_time: 1,
            max_time: 2,
        }),
        narthex: Some(wire::NarthexInfo { isolates_tenants: true }),
    };
    assert_described("thanos.info.InfoResponse", &info.encode_to_vec());
}

#[test]
fn writes_are_read_as_described() {
    let histogram = Histogram {
        integer: true,
        schema: 1,
        zero_threshold: 0.1,
        zero_count: 1.0,
        count: 9.0,
        sum: 3.0,
        positive_spans: vec![Span { offset: -1, length: 2 }],
        negative_spans: vec![Span { offset: 3, length: 1 }],
        positive_buckets: vec![2.0, 3.0],
        negative_buckets: vec![3.0],
        ..Histogram::default()
    };
    let samples = [true, false].map(|integer| HistogramSample {
        at: 5,
        histogram: Histogram {
            integer,
            ..histogram.clone()
        }
        .into(),
        start: 0,
    });
    let exemplar = Exemplar {
        labels: Labels::new([("trace", "t")]).unwrap(),
        value: 1.0,
        at: 4,
    };
    let points = Points {
        floats: &[FloatSample {
            at: 7,
            value: 2.5,
            start: 0,
        }],
        histograms: &samples,
        exemplars: &[exemplar],
    };
    let mut encoder = V1Encoder::default();
    encoder.series([("__name__", "up")], points);
    let message = read("thanos.WriteRequest", &encoder.finish());
    let shown = format!("{message:?}");
    for part in ["2.5", "count_int", "count_float", "\"trace\""] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}
