//! The samples that a range function looks at.

use crate::{
    annotation::{Annotations, HistogramOperation, Note, Repair},
    ast::Span,
    value::Point,
};
use model::{
    histogram::ResetHint,
    sample::{HistogramSample, SampleBuffer},
    time::Timestamp,
};
use std::ops::Range;

/// Samples of one series, ascending by time; floats and histograms apart. Stale markers are not among them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Samples<'a> {
    /// Times of the floats.
    pub(crate) times: &'a [Timestamp],
    /// The floats.
    pub(crate) values: &'a [f64],
    /// Start timestamps of the floats: empty, or one for each.
    pub(crate) starts: &'a [Timestamp],
    /// The histograms.
    pub(crate) histograms: &'a [HistogramSample],
}

impl<'a> Samples<'a> {
    /// All of `buffer`.
    pub(crate) fn of(buffer: &'a SampleBuffer) -> Self {
        Self {
            times: &buffer.timestamps,
            values: &buffer.values,
            starts: &buffer.starts,
            histograms: &buffer.histograms,
        }
    }

    /// The floats and histograms with these indexes.
    pub(crate) fn slice(&self, floats: Range<usize>, histograms: Range<usize>) -> Self {
        Self {
            times: &self.times[floats.clone()],
            values: &self.values[floats.clone()],
            starts: if self.starts.is_empty() {
                &[]
            } else {
                &self.starts[floats]
            },
            histograms: &self.histograms[histograms],
        }
    }

    /// Those behind `time`.
    pub(crate) fn behind(&self, time: Timestamp) -> Self {
        let floats = self.times.partition_point(|&at| at <= time);
        let histograms = self.histograms.partition_point(|sample| sample.at <= time);
        self.slice(floats..self.times.len(), histograms..self.histograms.len())
    }

    /// Time of the newest one.
    pub(crate) fn newest(&self) -> Option<Timestamp> {
        let float = self.times.last().copied();
        float.max(self.histograms.last().map(|sample| sample.at))
    }

    /// Number of samples of both kinds.
    pub(crate) fn len(&self) -> usize {
        self.times.len() + self.histograms.len()
    }

    /// Whether there is no sample.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are samples of both kinds.
    pub(crate) fn is_mixed(&self) -> bool {
        !self.times.is_empty() && !self.histograms.is_empty()
    }

    /// Samples of both kinds in order of time.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Sample<'a>> + use<'a> {
        let samples = *self;
        let (mut float, mut histogram) = (0, 0);
        std::iter::from_fn(move || {
            let float_next = match (samples.times.get(float), samples.histograms.get(histogram)) {
                (None, None) => return None,
                (Some(at), Some(other)) => *at < other.at,
                (at, _) => at.is_some(),
            };
            if float_next {
                float += 1;
                let start = samples.starts.get(float - 1).copied().unwrap_or(0);
                return Some(Sample::Float {
                    at: samples.times[float - 1],
                    value: samples.values[float - 1],
                    start,
                });
            }
            histogram += 1;
            Some(Sample::Histogram(&samples.histograms[histogram - 1]))
        })
    }
}

/// A sample of either kind.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sample<'a> {
    Float {
        at: Timestamp,
        value: f64,
        start: Timestamp,
    },
    Histogram(&'a HistogramSample),
}

impl Sample<'_> {
    /// When it was taken.
    pub(crate) fn at(&self) -> Timestamp {
        match self {
            Sample::Float { at, .. } => *at,
            Sample::Histogram(sample) => sample.at,
        }
    }

    /// When its counter began, 0 when unknown.
    pub(crate) fn start(&self) -> Timestamp {
        match self {
            Sample::Float { start, .. } => *start,
            Sample::Histogram(sample) => sample.start,
        }
    }

    /// Its value for keeps.
    pub(crate) fn to_point(self) -> Point {
        match self {
            Sample::Float { value, .. } => Point::Float(value),
            Sample::Histogram(sample) => Point::Histogram(sample.histogram.clone()),
        }
    }
}

/// A window at one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window<'a> {
    /// The samples. Those of `anchored` and `smoothed` windows reach beyond the edges.
    pub(crate) samples: Samples<'a>,
    /// Time of evaluation.
    pub(crate) at: Timestamp,
    /// Left edge, which does not belong to the window.
    pub(crate) start: Timestamp,
    /// Right edge, which does.
    pub(crate) end: Timestamp,
    /// Width, as the query states it.
    pub(crate) range_ms: i64,
    /// Scalar arguments at this step.
    pub(crate) params: [f64; 2],
    /// Whether start timestamps tell when counters began.
    pub(crate) trust_starts: bool,
}

impl Window<'_> {
    /// The width in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.range_ms as f64 / 1000.0
    }
}

/// Where kernels leave notes about the series at hand.
pub(crate) struct Notes<'a> {
    /// All notes of the evaluation.
    pub(crate) all: &'a mut Annotations,
    /// Name of the metric, or empty.
    pub(crate) metric: &'a str,
    /// Where the query speaks of it.
    pub(crate) span: Span,
}

impl Notes<'_> {
    /// Leaves a note.
    pub(crate) fn add(&mut self, note: Note<'_>) {
        self.all.add(note, self.span);
    }

    pub(crate) fn add_repair(&mut self, repair: Repair) {
        self.all.add_repair(self.metric, self.span, repair);
    }

    pub(crate) fn floats_and_histograms(&mut self) {
        self.all.add(Note::FloatsAndHistograms(self.metric.into()), self.span);
    }

    pub(crate) fn histogram_ignored_in_range(&mut self) {
        self.all
            .add(Note::HistogramIgnoredInRange(self.metric.into()), self.span);
    }

    pub(crate) fn exponential_and_custom(&mut self) {
        self.all.add(Note::ExponentialAndCustom(self.metric.into()), self.span);
    }

    pub(crate) fn not_a_counter(&mut self) {
        self.all.add(Note::NotCounterHistogram(self.metric.into()), self.span);
    }

    pub(crate) fn not_a_gauge(&mut self) {
        self.all.add(Note::NotGaugeHistogram(self.metric.into()), self.span);
    }
}

/// Remembers which kinds of reset hints histograms had that are combined without regard to their order. Resets in some and none
/// in others contradict each other.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HintsSeen {
    reset: bool,
    not_reset: bool,
}

impl HintsSeen {
    pub(crate) fn see(&mut self, hint: ResetHint) {
        match hint {
            ResetHint::Reset => self.reset = true,
            ResetHint::NotReset => self.not_reset = true,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
    }

    /// The note to leave, if the hints contradict each other.
    pub(crate) fn conflict(&self) -> Option<Note<'static>> {
        (self.reset && self.not_reset).then_some(Note::ConflictingResets(HistogramOperation::Aggregation))
    }
}
