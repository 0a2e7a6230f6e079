//! What an evaluation has to say about its result besides the result: warnings (it may be wrong) and infos (it may be worth
//! knowing). Operators and functions add notes; the engine turns them into texts when it is done.
//!
//! The same note from many series and steps is kept once. Texts are those that Prometheus's users and tools know.

use crate::{
    ast::{AggregateOp, BinaryOp, Span},
    calendar::Moment,
    format::quote,
};
use hashbrown::HashMap;
use model::{histogram::text::Shortest, time::Timestamp};
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
    fn is_warning(&self) -> bool {
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

    fn into_owned(self) -> Note<'static> {
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
        f.write_str(if self.is_warning() {
            "PromQL warning: "
        } else {
            "PromQL info: "
        })?;
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
            Note::NanQuantile(metric) => {
                let metric = ForMetric(metric);
                write!(
                    f,
                    "input to histogram_quantile has NaN observations, result is NaN{metric}"
                )
            }
            Note::SkewedQuantile(metric) => {
                let metric = ForMetric(metric);
                write!(
                    f,
                    "input to histogram_quantile has NaN observations, result is skewed higher{metric}"
                )
            }
            Note::NanInFraction(metric) => {
                let what = "input to histogram_fraction has NaN observations";
                write!(f, "{what}, which are excluded from all fractions{}", ForMetric(metric))
            }
            Note::ReconciledBounds(operation) => {
                write!(f, "mismatched custom buckets were reconciled during {operation}")
            }
        }
    }
}

/// Where classic buckets had to be made monotonic: merged over all steps and series of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Repair {
    /// First and last evaluation time.
    pub(crate) times: (Timestamp, Timestamp),
    /// Lowest and highest upper bound of a bucket that was changed.
    pub(crate) bounds: (f64, f64),
    /// Greatest change.
    pub(crate) difference: f64,
    /// How many quantiles were affected.
    pub(crate) count: usize,
}

impl Repair {
    fn merge(&mut self, other: Repair) {
        self.times = (self.times.0.min(other.times.0), self.times.1.max(other.times.1));
        self.bounds = (self.bounds.0.min(other.bounds.0), self.bounds.1.max(other.bounds.1));
        self.difference = self.difference.max(other.difference);
        self.count += other.count;
    }
}

/// The distinct notes of an evaluation, in the order in which they first came up.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    /// Place of each note in `entries`.
    places: HashMap<Note<'static>, usize, foldhash::fast::RandomState>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The part of the query that it is about; of several, the last.
    span: Span,
    repair: Option<Repair>,
}

impl Annotations {
    /// Adds a note about the part of the query at `span`.
    pub(crate) fn add(&mut self, note: Note<'_>, span: Span) {
        self.insert(note, span, None);
    }

    /// Adds the note that classic buckets of `metric` had to be made monotonic.
    pub(crate) fn add_repair(&mut self, metric: &str, span: Span, repair: Repair) {
        self.insert(Note::ForcedMonotonicity(metric.into()), span, Some(repair));
    }

    /// Adds all notes of `other` behind those that are already here.
    pub(crate) fn merge(&mut self, other: Annotations) {
        for (note, entry) in other.in_order() {
            self.insert(note, entry.span, entry.repair);
        }
    }

    fn insert(&mut self, note: Note<'_>, span: Span, repair: Option<Repair>) {
        // Shared, the map of notes that live for ever can be asked for one that does not.
        let places: &HashMap<Note<'_>, usize, _> = &self.places;
        let Some(&place) = places.get(&note) else {
            self.places.insert(note.into_owned(), self.entries.len());
            self.entries.push(Entry { span, repair });
            return;
        };
        let entry = &mut self.entries[place];
        entry.span = span;
        match (&mut entry.repair, repair) {
            (Some(known), Some(new)) => known.merge(new),
            (known @ None, new) => *known = new,
            (Some(_), None) => {}
        }
    }

    fn in_order(self) -> impl Iterator<Item = (Note<'static>, Entry)> {
        let mut notes: Vec<_> = self.places.into_iter().collect();
        notes.sort_unstable_by_key(|(_, place)| *place);
        notes.into_iter().map(move |(note, place)| (note, self.entries[place]))
    }

    /// The texts of warnings and of infos, each with line and column in `query`.
    pub(crate) fn into_texts(self, query: &str) -> (Vec<String>, Vec<String>) {
        let (mut warnings, mut infos) = (Vec::new(), Vec::new());
        for (note, entry) in self.in_order() {
            let (line, column) = entry.span.line_col(query);
            let text = match entry.repair {
                Some(repair) => format!("{note}{repair} ({line}:{column})"),
                None => format!("{note} ({line}:{column})"),
            };
            if note.is_warning() {
                warnings.push(text)
            } else {
                infos.push(text)
            }
        }
        (warnings, infos)
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = (Shortest(self.bounds.0), Shortest(self.bounds.1));
        let (from, to) = (Moment(self.times.0), Moment(self.times.1));
        let difference = TwoDigits(self.difference);
        write!(
            f,
            ", from buckets {low} to {high}, with a max diff of {difference}, over {} samples",
            self.count
        )?;
        write!(f, " from {from} to {to}")
    }
}

/// A float rounded to two digits, as `%.2g` of C prints it.
struct TwoDigits(f64);

impl fmt::Display for TwoDigits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded: f64 = format!("{:.1e}", self.0).parse().unwrap_or(self.0);
        if rounded == 0.0 || (1e-4..100.0).contains(&rounded.abs()) {
            return write!(f, "{rounded}");
        }
        let text = format!("{rounded:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(f, "{digits}e{sign}{:02}", exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_kept_once_and_says_where() {
        let query = "sum(a)\n + rate(b[5m])";
        let mut notes = Annotations::default();
        notes.add(Note::NotCounterHistogram("b".into()), Span::new(15, 20));
        notes.add(Note::HistogramIgnored(AggregateOp::Max), Span::new(4, 5));
        let mut others = Annotations::default();
        others.add(Note::InvalidQuantile(f64::NAN.into()), Span::new(0, 1));
        others.add(Note::NotCounterHistogram(String::from("b").into()), Span::new(15, 20));
        others.add(
            Note::InvalidRatio {
                got: 1.1.into(),
                capped: 1,
            },
            Span::new(0, 1),
        );
        notes.merge(others);
        let (warnings, infos) = notes.into_texts(query);
        let expected = [
            "PromQL warning: this native histogram metric is not a counter: \"b\" (2:9)",
            "PromQL warning: quantile value should be between 0 and 1, got NaN (1:1)",
            "PromQL warning: ratio value should be between -1 and 1, got 1.1, capping to 1 (1:1)",
        ];
        assert_eq!(warnings, expected);
        assert_eq!(infos, ["PromQL info: ignored histogram in max aggregation (1:5)"]);
    }

    #[test]
    fn repairs_of_a_metric_are_told_together() {
        let mut notes = Annotations::default();
        let repair = Repair {
            times: (1000, 1000),
            bounds: (0.1, 10.0),
            difference: 3.0,
            count: 1,
        };
        notes.add_repair("m", Span::default(), repair);
        let later = Repair {
            times: (61_500, 61_500),
            bounds: (1.0, f64::INFINITY),
            difference: 123.0,
            count: 1,
        };
        notes.add_repair("m", Span::default(), later);
        let (_, infos) = notes.into_texts("x");
        let expected = "for metric name \"m\", from buckets 0.1 to +Inf, with a max diff of 1.2e+02, over 2 samples \
                        from 1970-01-01T00:00:01Z to 1970-01-01T00:01:01.5Z (1:1)";
        assert!(infos[0].ends_with(expected), "{infos:?}");
    }
}
