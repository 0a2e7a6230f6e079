//! Native histograms: the data model shared by wire, chunks and PromQL.
//!
//! Facts follow the Prometheus native histogram specification: schema -4 to 8 are exponential with base
//! 2^(2^-schema), schema -53 has custom upper bounds.

pub mod validate;
pub mod buckets;
mod layout;
pub mod arithmetic;
pub mod compensated;
pub mod reset;
pub mod quantile;
pub mod trim;
pub mod text;

/// Schema of histograms with custom bucket bounds.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// A run of consecutive buckets. The offset counts from the end of the previous span (the first: from bucket 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Gap to the previous span in buckets; only the first span's may be negative.
    pub offset: i32,
    /// Number of buckets in the span.
    pub length: u32,
}

/// What is known about a reset between this histogram and the one before it in the series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResetHint {
    /// Nothing is known; buckets must be compared.
    #[default]
    Unknown,
    /// There was a reset.
    Reset,
    /// There was none.
    NotReset,
    /// The histogram is a gauge; resets have no meaning.
    Gauge,
}

/// A native histogram. Counts are floats; those of an integer histogram are whole.
///
/// Buckets hold absolute counts, not deltas. Wire and chunk codecs convert.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// Whether counts came as integers and are to be stored in the integer encoding.
    pub integer: bool,
    /// Knowledge about a counter reset before this sample.
    pub reset_hint: ResetHint,
    /// Resolution: -4..=8, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket: observations in `[-zero_threshold, zero_threshold]`.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations.
    pub count: f64,
    /// Sum of all observations; the stale NaN marks a stale histogram.
    pub sum: f64,
    /// Where the positive buckets lie.
    pub positive_spans: Vec<Span>,
    /// Where the negative buckets lie.
    pub negative_spans: Vec<Span>,
    /// Counts of the positive buckets, one for each bucket of the spans.
    pub positive_buckets: Vec<f64>,
    /// Counts of the negative buckets.
    pub negative_buckets: Vec<f64>,
    /// Upper bounds when the schema is [`CUSTOM_BUCKETS_SCHEMA`], strictly increasing, without the infinite one.
    pub custom_values: Vec<f64>,
}
