//! What became of each sample: one bad sample never costs a good one.

use std::fmt;

/// What became of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is stored as durably as the policy says.
    Written,
    /// The very same sample was stored before; a success (promise P2).
    Duplicate,
    /// It can never be stored, however often it is sent.
    Rejected(Reason),
}

/// Why a sample can never be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Older than the newest sample of its series, outside the out-of-order window.
    OutOfOrder,
    /// The timestamp is taken by another value.
    DuplicateTimestamp,
    /// Older than anything that is still accepted.
    TooOld,
    /// Further ahead of our clock than is allowed.
    TooFarInFuture,
    /// No `__name__`.
    MissingMetricName,
    /// Not UTF-8, empty name, or beyond a length limit.
    InvalidLabel,
    /// A label name stands twice.
    DuplicateLabel,
    /// More labels than allowed.
    TooManyLabels,
    /// A histogram that contradicts itself.
    InvalidHistogram,
    /// The tenant has as many series as it may; known series are still accepted.
    SeriesLimit,
    /// A remote write 2.0 series points outside the symbol table.
    InvalidSymbolRef,
    /// A remote write 2.0 series without samples and histograms.
    NoSamples,
    /// An exemplar out of order or otherwise unusable.
    InvalidExemplar,
}

impl Reason {
    /// Every reason, for metrics that are to exist from the start.
    pub const ALL: [Reason; 13] = [
        Reason::OutOfOrder,
        Reason::DuplicateTimestamp,
        Reason::TooOld,
        Reason::TooFarInFuture,
        Reason::MissingMetricName,
        Reason::InvalidLabel,
        Reason::DuplicateLabel,
        Reason::TooManyLabels,
        Reason::InvalidHistogram,
        Reason::SeriesLimit,
        Reason::InvalidSymbolRef,
        Reason::NoSamples,
        Reason::InvalidExemplar,
    ];

    /// A stable id for metrics and answers.
    pub const fn id(self) -> &'static str {
        match self {
            Reason::OutOfOrder => "out_of_order",
            Reason::DuplicateTimestamp => "duplicate_timestamp",
            Reason::TooOld => "too_old",
            Reason::TooFarInFuture => "too_far_in_future",
            Reason::MissingMetricName => "missing_metric_name",
            Reason::InvalidLabel => "invalid_label",
            Reason::DuplicateLabel => "duplicate_label",
            Reason::TooManyLabels => "too_many_labels",
            Reason::InvalidHistogram => "invalid_histogram",
            Reason::SeriesLimit => "series_limit",
            Reason::InvalidSymbolRef => "invalid_symbol_ref",
            Reason::NoSamples => "no_samples",
            Reason::InvalidExemplar => "invalid_exemplar",
        }
    }
}

/// The phrases that senders and Grafana look for in an answer.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::OutOfOrder => "out of order sample",
            Reason::DuplicateTimestamp => "duplicate sample for timestamp",
            Reason::TooOld => "too old sample",
            Reason::TooFarInFuture => "out of bounds: timestamp is too far in the future",
            Reason::MissingMetricName => "invalid metric name or labels: __name__ is missing",
            Reason::InvalidLabel => "invalid metric name or labels",
            Reason::DuplicateLabel => "invalid labels: a label name stands twice",
            Reason::TooManyLabels => "too many labels",
            Reason::InvalidHistogram => "invalid histogram",
            Reason::SeriesLimit => "the tenant's limit of active series is reached",
            Reason::InvalidSymbolRef => "outside of symbols table",
            Reason::NoSamples => "TimeSeries must contain at least one sample or histogram",
            Reason::InvalidExemplar => "invalid exemplar",
        })
    }
}
