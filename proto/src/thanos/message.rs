//! The messages of Thanos's StoreAPI and its neighbours, field by field as they are on the wire.
//!
//! Written by hand from the published interface: the derive makes of each attribute what a generator would, and the tests hold
//! the numbers against bytes. Fields that nobody reads are left out; protobuf passes over them. Series stay bytes here, since
//! [`super::series`] takes them apart in place.

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};
use std::collections::HashMap;

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(crate) enum MatcherType {
    Equal = 0,
    NotEqual = 1,
    Regex = 2,
    NotRegex = 3,
}

/// A condition on a label.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LabelMatcher {
    #[prost(enumeration = "MatcherType", tag = "1")]
    pub(crate) kind: i32,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) value: String,
}

/// A label of a series.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Label {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// A label set as a message of its own.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LabelSet {
    #[prost(message, repeated, tag = "1")]
    pub(crate) labels: Vec<Label>,
}

/// A message whose type stands beside it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

/// What the types of hints call themselves.
pub(crate) const REQUEST_HINTS: &str = "type.googleapis.com/hintspb.SeriesRequestHints";
pub(crate) const RESPONSE_HINTS: &str = "type.googleapis.com/hintspb.SeriesResponseHints";

impl Any {
    /// Whether this is a message of a type, whoever is said to describe it.
    pub(crate) fn is_a(&self, type_url: &str) -> bool {
        let name = type_url.rsplit('/').next();
        self.type_url.rsplit('/').next() == name
    }
}

/// Which blocks a caller means.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SeriesRequestHints {
    #[prost(message, repeated, tag = "1")]
    pub(crate) block_matchers: Vec<LabelMatcher>,
}

/// A block that was looked into.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Block {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

/// What a caller that gave hints learns at the end.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SeriesResponseHints {
    #[prost(message, repeated, tag = "1")]
    pub(crate) queried_blocks: Vec<Block>,
}

/// What to do when a source does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(crate) enum PartialResponse {
    Warn = 0,
    Abort = 1,
}

/// What the samples of a downsampled chunk stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(crate) enum Aggregate {
    Raw = 0,
    Count = 1,
    Sum = 2,
    Min = 3,
    Max = 4,
    Counter = 5,
}

/// The function around a selector.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Function {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// The labels of an aggregation around a selector.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Grouping {
    #[prost(bool, tag = "1")]
    pub(crate) by: bool,
    #[prost(string, repeated, tag = "3")]
    pub(crate) labels: Vec<String>,
}

/// The range of a selector.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Range {
    #[prost(int64, tag = "1")]
    pub(crate) millis: i64,
}

/// What the samples are for.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct QueryHints {
    #[prost(int64, tag = "1")]
    pub(crate) step_millis: i64,
    #[prost(message, optional, tag = "2")]
    pub(crate) function: Option<Function>,
    #[prost(message, optional, tag = "4")]
    pub(crate) grouping: Option<Grouping>,
    #[prost(message, optional, tag = "5")]
    pub(crate) range: Option<Range>,
}

/// Which share of the series is wanted.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ShardInfo {
    #[prost(int64, tag = "1")]
    pub(crate) shard_index: i64,
    #[prost(int64, tag = "2")]
    pub(crate) total_shards: i64,
    #[prost(bool, tag = "3")]
    pub(crate) by: bool,
    #[prost(string, repeated, tag = "4")]
    pub(crate) labels: Vec<String>,
}

/// Asks for series.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SeriesRequest {
    #[prost(int64, tag = "1")]
    pub(crate) min_time: i64,
    #[prost(int64, tag = "2")]
    pub(crate) max_time: i64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) matchers: Vec<LabelMatcher>,
    #[prost(int64, tag = "4")]
    pub(crate) max_resolution_window: i64,
    #[prost(enumeration = "Aggregate", repeated, tag = "5")]
    pub(crate) aggregates: Vec<i32>,
    #[prost(bool, tag = "6")]
    pub(crate) partial_response_disabled: bool,
    #[prost(enumeration = "PartialResponse", tag = "7")]
    pub(crate) partial_response_strategy: i32,
    #[prost(bool, tag = "8")]
    pub(crate) skip_chunks: bool,
    #[prost(message, optional, tag = "9")]
    pub(crate) hints: Option<Any>,
    #[prost(message, optional, tag = "12")]
    pub(crate) query_hints: Option<QueryHints>,
    #[prost(message, optional, tag = "13")]
    pub(crate) shard_info: Option<ShardInfo>,
    #[prost(string, repeated, tag = "14")]
    pub(crate) without_replica_labels: Vec<String>,
    #[prost(int64, tag = "15")]
    pub(crate) limit: i64,
    #[prost(int64, tag = "16")]
    pub(crate) response_batch_size: i64,
}

/// Several series in one frame.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SeriesBatch {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) series: Vec<Bytes>,
}

/// What a frame of an answer holds.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum SeriesResult {
    #[prost(bytes = "bytes", tag = "1")]
    Series(Bytes),
    #[prost(string, tag = "2")]
    Warning(String),
    #[prost(message, tag = "3")]
    Hints(Any),
    #[prost(message, tag = "4")]
    Batch(SeriesBatch),
}

/// A frame of an answer.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SeriesResponse {
    #[prost(oneof = "SeriesResult", tags = "1, 2, 3, 4")]
    pub(crate) result: Option<SeriesResult>,
}

/// Asks for label names.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LabelNamesRequest {
    #[prost(bool, tag = "1")]
    pub(crate) partial_response_disabled: bool,
    #[prost(enumeration = "PartialResponse", tag = "2")]
    pub(crate) partial_response_strategy: i32,
    #[prost(int64, tag = "3")]
    pub(crate) start: i64,
    #[prost(int64, tag = "4")]
    pub(crate) end: i64,
    #[prost(message, optional, tag = "5")]
    pub(crate) hints: Option<Any>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) matchers: Vec<LabelMatcher>,
    #[prost(string, repeated, tag = "7")]
    pub(crate) without_replica_labels: Vec<String>,
    #[prost(int64, tag = "8")]
    pub(crate) limit: i64,
}

/// Label names.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LabelNamesResponse {
    #[prost(string, repeated, tag = "1")]
    pub(crate) names: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) warnings: Vec<String>,
    #[prost(message, optional, tag = "3")]
    pub(crate) hints: Option<Any>,
}

/// Asks for values of a label.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LabelValuesRequest {
    #[prost(string, tag = "1")]
    pub(crate) label: String,
    #[prost(bool, tag = "2")]
    pub(crate) partial_response_disabled: bool,
    #[prost(enumeration = "PartialResponse", tag = "3")]
    pub(crate) partial_response_strategy: i32,
    #[prost(int64, tag = "4")]
    pub(crate) start: i64,
    #[prost(int64, tag = "5")]
    pub(crate) end: i64,
    #[prost(message, optional, tag = "6")]
    pub(crate) hints: Option<Any>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) matchers: Vec<LabelMatcher>,
    #[prost(string, repeated, tag = "8")]
    pub(crate) without_replica_labels: Vec<String>,
    #[prost(int64, tag = "9")]
    pub(crate) limit: i64,
}

/// Values of a label.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LabelValuesResponse {
    #[prost(string, repeated, tag = "1")]
    pub(crate) values: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) warnings: Vec<String>,
    #[prost(message, optional, tag = "3")]
    pub(crate) hints: Option<Any>,
}

/// Asks what an endpoint serves.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct InfoRequest {}

/// What one label set of an endpoint covers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TsdbInfo {
    #[prost(message, optional, tag = "1")]
    pub(crate) labels: Option<LabelSet>,
    #[prost(int64, tag = "2")]
    pub(crate) min_time: i64,
    #[prost(int64, tag = "3")]
    pub(crate) max_time: i64,
}

/// What the store of an endpoint covers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoreInfo {
    #[prost(int64, tag = "1")]
    pub(crate) min_time: i64,
    #[prost(int64, tag = "2")]
    pub(crate) max_time: i64,
    #[prost(bool, tag = "3")]
    pub(crate) supports_sharding: bool,
    #[prost(bool, tag = "5")]
    pub(crate) supports_without_replica_labels: bool,
    #[prost(message, repeated, tag = "6")]
    pub(crate) tsdb_infos: Vec<TsdbInfo>,
}

/// Says that an API is served.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Served {}

/// The span of the exemplars that are served.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExemplarsInfo {
    #[prost(int64, tag = "1")]
    pub(crate) min_time: i64,
    #[prost(int64, tag = "2")]
    pub(crate) max_time: i64,
}

/// What only Narthex says of itself. The number is far beyond those of Thanos, which passes over it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NarthexInfo {
    /// Whether the endpoint shows a caller only what belongs to the tenant that its metadata names.
    #[prost(bool, tag = "1")]
    pub(crate) isolates_tenants: bool,
}

/// What an endpoint serves.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct InfoResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) label_sets: Vec<LabelSet>,
    #[prost(string, tag = "2")]
    pub(crate) component_type: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) store: Option<StoreInfo>,
    #[prost(message, optional, tag = "5")]
    pub(crate) metric_metadata: Option<Served>,
    #[prost(message, optional, tag = "7")]
    pub(crate) exemplars: Option<ExemplarsInfo>,
    #[prost(message, optional, tag = "10901")]
    pub(crate) narthex: Option<NarthexInfo>,
}

/// Asks for exemplars.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExemplarsRequest {
    #[prost(string, tag = "1")]
    pub(crate) query: String,
    #[prost(int64, tag = "2")]
    pub(crate) start: i64,
    #[prost(int64, tag = "3")]
    pub(crate) end: i64,
    #[prost(enumeration = "PartialResponse", tag = "4")]
    pub(crate) partial_response_strategy: i32,
}

/// An exemplar.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Exemplar {
    #[prost(message, optional, tag = "1")]
    pub(crate) labels: Option<LabelSet>,
    #[prost(double, tag = "2")]
    pub(crate) value: f64,
    #[prost(int64, tag = "3")]
    pub(crate) at: i64,
}

/// Exemplars of a series.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExemplarData {
    #[prost(message, optional, tag = "1")]
    pub(crate) series_labels: Option<LabelSet>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) exemplars: Vec<Exemplar>,
}

/// What a frame of an answer about exemplars holds.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum ExemplarsResult {
    #[prost(message, tag = "1")]
    Data(ExemplarData),
    #[prost(string, tag = "2")]
    Warning(String),
}

/// A frame of an answer about exemplars.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExemplarsResponse {
    #[prost(oneof = "ExemplarsResult", tags = "1, 2")]
    pub(crate) result: Option<ExemplarsResult>,
}

/// Asks for metadata.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetadataRequest {
    #[prost(string, tag = "1")]
    pub(crate) metric: String,
    #[prost(int32, tag = "2")]
    pub(crate) limit: i32,
    #[prost(enumeration = "PartialResponse", tag = "3")]
    pub(crate) partial_response_strategy: i32,
}

/// Type, help and unit of a metric family.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Meta {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) help: String,
    #[prost(string, tag = "3")]
    pub(crate) unit: String,
}

/// What is known of one metric family.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetaEntry {
    #[prost(message, repeated, tag = "2")]
    pub(crate) metas: Vec<Meta>,
}

/// Metadata by metric family.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetaMap {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) metadata: HashMap<String, MetaEntry>,
}

/// What a frame of an answer about metadata holds.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum MetadataResult {
    #[prost(message, tag = "1")]
    Metadata(MetaMap),
    #[prost(string, tag = "2")]
    Warning(String),
}

/// A frame of an answer about metadata.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetadataResponse {
    #[prost(oneof = "MetadataResult", tags = "1, 2")]
    pub(crate) result: Option<MetadataResult>,
}
