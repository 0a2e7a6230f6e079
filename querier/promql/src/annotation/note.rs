//! The notes and their texts, which are those that Prometheus's users and tools know.

use crate::{
    ast::{AggregateOp, BinaryOp},
    format::quote,
};
use model::histogram::text::Shortest;
use std::{borrow::Cow, fmt};

/// An operation that combined histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum HistogramOperation {
    Addition,
    Subtraction,
    Aggregation,
}

/// Something to say about a result. Names of metrics may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Note<'a> {
    // Warnings.
    InvalidRatio { got: Bits, capped: i8 },
    InvalidQuantile(Bits),
    BadBucketLabel { metric: Cow<'a, str>, value: Cow<'a, str> },
    FloatsAndHistograms(Cow<'a, str>),
    FloatsAndHistogramsAggregated,
    ClassicAndNative(Cow<'a, str>),
    NotCounterHistogram(Cow<'a, str>),
    NotGaugeHistogram(Cow<'a, str>),
    ExponentialAndCustom(Cow<'a, str>),
    IncompatibleLayouts(BinaryOp),
    ConflictingResets(HistogramOperation),
    StartOverlap(Cow<'a, str>),
    SortInRange,
    // Infos.
    PossibleNonCounter(Cow<'a, str>),
    PossibleNonCounterType { metric: Cow<'a, str>, kind: Cow<'a, str> },
    ForcedMonotonicity(Cow<'a, str>),
    IncompatibleTypes { left: Kind, op: BinaryOp, right: Kind },
    HistogramIgnored(AggregateOp),
    HistogramIgnoredInRange(Cow<'a, str>),
    NanQuantile(Cow<'a, str>),
    SkewedQuantile(Cow<'a, str>),
    NanInFraction(Cow<'a, str>),
    ReconciledBounds(HistogramOperation),
}

/// Kind of a sample, as operators name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Float,
    Histogram,
}

/// A float that can be compared and hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Bits(u64);

impl From<f64> for Bits {
    fn from(value: f64) -> Self {
        // One NaN stands for all.
        Self(if value.is_nan() {
            f64::NAN.to_bits()
        } else {
            value.to_bits()
        })
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shortest(f64::from_bits(self.0)).fmt(f)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Float => "float",
            Kind::Histogram => "histogram",
        })
    }
}

impl fmt::Display for HistogramOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HistogramOperation::Addition => "addition",
            HistogramOperation::Subtraction => "subtraction",
            HistogramOperation::Aggregation => "aggregation",
        })
    }
}

impl Note<'_> {
    pub(super) fn is_warning(&self) -> bool {
        match self {
            Note::InvalidRatio { .. }
            | Note::InvalidQuantile(_)
            | Note::BadBucketLabel { .. }
            | Note::FloatsAndHistograms(_)
            | Note::FloatsAndHistogramsAggregated
            | Note::ClassicAndNative(_)
            | Note::NotCounterHistogram(_)
            | Note::NotGaugeHistogram(_)
            | Note::ExponentialAndCustom(_)
            | Note::IncompatibleLayouts(_)
            | Note::ConflictingResets(_)
            | Note::StartOverlap(_)
            | Note::SortInRange => true,
            Note::PossibleNonCounter(_)
            | Note::PossibleNonCounterType { .. }
            | Note::ForcedMonotonicity(_)
            | Note::IncompatibleTypes { .. }
            | Note::HistogramIgnored(_)
            | Note::HistogramIgnoredInRange(_)
            | Note::NanQuantile(_)
            | Note::SkewedQuantile(_)
            | Note::NanInFraction(_)
            | Note::ReconciledBounds(_) => false,
        }
    }

    pub(super) fn into_owned(self) -> Note<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Note::InvalidRatio { got, capped } => Note::InvalidRatio { got, capped },
            Note::InvalidQuantile(got) => Note::InvalidQuantile(got),
            Note::BadBucketLabel { metric, value } => Note::BadBucketLabel {
                metric: own(metric),
                value: own(value),
            },
            Note::FloatsAndHistograms(metric) => Note::FloatsAndHistograms(own(metric)),
            Note::FloatsAndHistogramsAggregated => Note::FloatsAndHistogramsAggregated,
            Note::ClassicAndNative(metric) => Note::ClassicAndNative(own(metric)),
            Note::NotCounterHistogram(metric) => Note::NotCounterHistogram(own(metric)),
            Note::NotGaugeHistogram(metric) => Note::NotGaugeHistogram(own(metric)),
            Note::ExponentialAndCustom(metric) => Note::ExponentialAndCustom(own(metric)),
            Note::IncompatibleLayouts(op) => Note::IncompatibleLayouts(op),
            Note::ConflictingResets(operation) => Note::ConflictingResets(operation),
            Note::StartOverlap(metric) => Note::StartOverlap(own(metric)),
            Note::SortInRange => Note::SortInRange,
            Note::PossibleNonCounter(metric) => Note::PossibleNonCounter(own(metric)),
            Note::PossibleNonCounterType { metric, kind } => Note::PossibleNonCounterType {
                metric: own(metric),
                kind: own(kind),
            },
            Note::ForcedMonotonicity(metric) => Note::ForcedMonotonicity(own(metric)),
            Note::IncompatibleTypes { left, op, right } => Note::IncompatibleTypes { left, op, right },
            Note::HistogramIgnored(op) => Note::HistogramIgnored(op),
            Note::HistogramIgnoredInRange(metric) => Note::HistogramIgnoredInRange(own(metric)),
            Note::NanQuantile(metric) => Note::NanQuantile(own(metric)),
            Note::SkewedQuantile(metric) => Note::SkewedQuantile(own(metric)),
            Note::NanInFraction(metric) => Note::NanInFraction(own(metric)),
            Note::ReconciledBounds(operation) => Note::ReconciledBounds(operation),
        }
    }
}

/// ` for metric name "up"`, or nothing when the name is empty.
struct ForMetric<'a>(&'a str);

impl fmt::Display for ForMetric<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, " for metric name {}", quote(self.0))
        }
    }
}

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_warning() {
            f.write_str("PromQL warning: ")?;
            return self.fmt_warning(f);
        }
        f.write_str("PromQL info: ")?;
        self.fmt_info(f)
    }
}

impl Note<'_> {
    fn fmt_warning(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::InvalidRatio { got, capped } => {
                write!(
                    f,
                    "ratio value should be between -1 and 1, got {got}, capping to {capped}"
                )
            }
            Note::InvalidQuantile(got) => write!(f, "quantile value should be between 0 and 1, got {got}"),
            Note::BadBucketLabel { metric, value } => {
                let (value, metric) = (quote(value), ForMetric(metric));
                write!(
                    f,
                    "bucket label \"le\" is missing or has a malformed value of {value}{metric}"
                )
            }
            Note::FloatsAndHistograms(metric) => {
                write!(f, "encountered a mix of histograms and floats{}", ForMetric(metric))
            }
            Note::FloatsAndHistogramsAggregated => {
                f.write_str("encountered a mix of histograms and floats for aggregation")
            }
            Note::ClassicAndNative(metric) => {
                write!(
                    f,
                    "vector contains a mix of classic and native histograms{}",
                    ForMetric(metric)
                )
            }
            Note::NotCounterHistogram(metric) => {
                write!(f, "this native histogram metric is not a counter: {}", quote(metric))
            }
            Note::NotGaugeHistogram(metric) => {
                write!(f, "this native histogram metric is not a gauge: {}", quote(metric))
            }
            Note::ExponentialAndCustom(metric) => {
                let metric = ForMetric(metric);
                write!(
                    f,
                    "vector contains a mix of histograms with exponential and custom buckets schemas{metric}"
                )
            }
            Note::IncompatibleLayouts(op) => {
                write!(f, "incompatible bucket layout encountered for binary operator {op}")
            }
            Note::ConflictingResets(operation) => {
                write!(f, "conflicting counter resets during histogram {operation}")
            }
            Note::StartOverlap(metric) => {
                let metric = quote(metric);
                write!(
                    f,
                    "sample has start time that overlaps with previous sample timestamp for metric {metric}"
                )
            }
            Note::SortInRange => {
                f.write_str("sort is ineffective for range queries since results are always ordered by labels")
            }
            Note::PossibleNonCounter(_)
            | Note::PossibleNonCounterType { .. }
            | Note::ForcedMonotonicity(_)
            | Note::IncompatibleTypes { .. }
            | Note::HistogramIgnored(_)
            | Note::HistogramIgnoredInRange(_)
            | Note::NanQuantile(_)
            | Note::SkewedQuantile(_)
            | Note::NanInFraction(_)
            | Note::ReconciledBounds(_) => Ok(()),
        }
    }

    fn fmt_info(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::PossibleNonCounter(metric) => {
                let (suffixes, metric) = ("_total/_sum/_count/_bucket", quote(metric));
                write!(
                    f,
                    "metric might not be a counter, name does not end in {suffixes}: {metric}"
                )
            }
            Note::PossibleNonCounterType { metric, kind } => {
                let wanted = "__type__ label is not set to \"counter\" or \"histogram\"";
                write!(
                    f,
                    "metric might not be a counter, {wanted}, got {}: {}",
                    quote(kind),
                    quote(metric)
                )
            }
            Note::ForcedMonotonicity(metric) => {
                let see = "https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile";
                let metric = ForMetric(metric);
                write!(
                    f,
                    "input to histogram_quantile needed to be fixed for monotonicity (see {see}){metric}"
                )
            }
            Note::IncompatibleTypes { left, op, right } => {
                let operator = op.as_str();
                write!(
                    f,
                    "incompatible sample types encountered for binary operator {operator:?}: {left} {op} {right}"
                )
            }
            Note::HistogramIgnored(op) => write!(f, "ignored histogram in {op} aggregation"),
            Note::HistogramIgnoredInRange(metric) => {
                write!(
                    f,
                    "ignored histograms in a range containing both floats and histograms{}",
                    ForMetric(metric)
                )
            }
            Note::NanQuantile(metric) => fmt_nan_observations(f, "is NaN", metric),
            Note::SkewedQuantile(metric) => fmt_nan_observations(f, "is skewed higher", metric),
            Note::NanInFraction(metric) => {
                let what = "input to histogram_fraction has NaN observations";
                write!(f, "{what}, which are excluded from all fractions{}", ForMetric(metric))
            }
            Note::ReconciledBounds(operation) => {
                write!(f, "mismatched custom buckets were reconciled during {operation}")
            }
            Note::InvalidRatio { .. }
            | Note::InvalidQuantile(_)
            | Note::BadBucketLabel { .. }
            | Note::FloatsAndHistograms(_)
            | Note::FloatsAndHistogramsAggregated
            | Note::ClassicAndNative(_)
            | Note::NotCounterHistogram(_)
            | Note::NotGaugeHistogram(_)
            | Note::ExponentialAndCustom(_)
            | Note::IncompatibleLayouts(_)
            | Note::ConflictingResets(_)
            | Note::StartOverlap(_)
            | Note::SortInRange => Ok(()),
        }
    }
}

/// A quantile of a histogram that has observed NaN.
fn fmt_nan_observations(f: &mut fmt::Formatter<'_>, result: &str, metric: &str) -> fmt::Result {
    let metric = ForMetric(metric);
    write!(
        f,
        "input to histogram_quantile has NaN observations, result {result}{metric}"
    )
}
