//! `rate`, `increase`, `delta`, `irate` and `idelta`.
//!
//! The first three estimate what happened in the whole window from the samples inside it: they extrapolate to both edges, at
//! most half a sample distance where a series seems to begin or end inside, and never below zero for a counter.

use crate::{
    annotation::{HistogramOperation, Note},
    function::{
        change::{began_anew, began_between},
        window::{Notes, Sample, Window},
    },
    value::Point,
};
use model::{
    histogram::{Histogram, ResetHint, arithmetic::IncompatibleSchemas},
    sample::HistogramSample,
};
use std::sync::Arc;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flavour {
    /// Whether values that fall are resets.
    pub(crate) counter: bool,
    /// Whether the result is per second.
    pub(crate) per_second: bool,
}

pub(crate) const RATE: Flavour = Flavour {
    counter: true,
    per_second: true,
};
pub(crate) const INCREASE: Flavour = Flavour {
    counter: true,
    per_second: false,
};
pub(crate) const DELTA: Flavour = Flavour {
    counter: false,
    per_second: false,
};

/// Increase per second of a counter.
pub(crate) fn rate(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    extrapolated(window, notes, RATE)
}

/// Increase of a counter.
pub(crate) fn increase(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    extrapolated(window, notes, INCREASE)
}

/// Difference of a gauge.
pub(crate) fn delta(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    extrapolated(window, notes, DELTA)
}

fn extrapolated(window: &Window<'_>, notes: &mut Notes<'_>, flavour: Flavour) -> Option<Point> {
    let samples = &window.samples;
    if samples.is_mixed() {
        notes.floats_and_histograms();
        return None;
    }
    let trust_starts = flavour.counter && window.trust_starts;
    if trust_starts {
        note_overlaps(window, notes);
    }
    if samples.histograms.is_empty() {
        let (first, last) = (*samples.times.first()?, *samples.times.last()?);
        let start = samples.starts.first().copied().unwrap_or(0);
        let known_start = Some(start).filter(|&start| trust_starts && start > window.start && start < first);
        let count = samples.times.len();
        if count < 2 && known_start.is_none() {
            return None;
        }
        let resets = |index: usize| {
            let (before, after) = (samples.values[index - 1], samples.values[index]);
            after < before || (trust_starts && !samples.starts.is_empty() && float_began(window, index))
        };
        let mut result = samples.values[count - 1] - samples.values[0];
        if flavour.counter {
            for index in (1..count).filter(|&index| resets(index)) {
                result += samples.values[index - 1];
            }
        }
        if known_start.is_some() {
            result += samples.values[0];
        }
        let zero = Some(samples.values[0]).filter(|&value| value >= 0.0);
        let extent = Extent {
            first,
            last,
            count,
            known_start,
            from_zero: zero.map(|value| (value, result)),
        };
        return Some(Point::Float(result * extent.factor(window, flavour)));
    }
    let histograms = samples.histograms;
    let (first, last) = (histograms.first()?, histograms.last()?);
    let known_start = Some(first.start).filter(|&start| trust_starts && start > window.start && start < first.at);
    if histograms.len() < 2 && known_start.is_none() {
        return None;
    }
    let mut result = histogram_increase(histograms, flavour.counter, trust_starts, known_start.is_some(), notes)?;
    let zero = Some(first.histogram.count).filter(|&count| count >= 0.0);
    let extent = Extent {
        first: first.at,
        last: last.at,
        count: histograms.len(),
        known_start,
        from_zero: zero.map(|count| (count, result.count)),
    };
    result.multiply(extent.factor(window, flavour));
    Some(Point::Histogram(Arc::new(result)))
}

/// Whether the start timestamp of float `index` says that the counter began anew behind the float before it.
fn float_began(window: &Window<'_>, index: usize) -> bool {
    let samples = &window.samples;
    let sample = |index: usize| (samples.times[index], samples.starts[index]);
    began_anew(sample(index - 1), sample(index))
}

/// What part of a window the samples cover.
pub(crate) struct Extent {
    /// Time of the first sample.
    pub(crate) first: i64,
    /// Time of the last sample.
    pub(crate) last: i64,
    /// Number of samples.
    pub(crate) count: usize,
    /// When the counter began, if that was inside the window and before the first sample. It was zero then.
    pub(crate) known_start: Option<i64>,
    /// First value, unless negative, and total increase: how far the line must be drawn back until it meets zero.
    pub(crate) from_zero: Option<(f64, f64)>,
}

impl Extent {
    /// By what to multiply the increase between the samples so that it is that of the whole window (or per second of it).
    pub(crate) fn factor(&self, window: &Window<'_>, flavour: Flavour) -> f64 {
        let seconds = |from: i64, to: i64| to.wrapping_sub(from) as f64 / 1000.0;
        let between = seconds(self.first, self.last);
        // A lone sample has no distance to another, and is not extrapolated.
        let average = if self.count > 1 {
            between / (self.count - 1) as f64
        } else {
            0.0
        };
        let threshold = average * 1.1;
        let mut to_start = seconds(window.start, self.first);
        if to_start >= threshold {
            to_start = average / 2.0;
        }
        if let Some((first, increase)) = self.from_zero
            && flavour.counter
            && increase > 0.0
        {
            to_start = to_start.min(between * (first / increase));
        }
        let mut sampled = between;
        if let Some(start) = self.known_start {
            sampled = seconds(start, self.last);
            to_start = 0.0;
        }
        let mut to_end = seconds(self.last, window.end);
        if to_end >= threshold {
            to_end = average / 2.0;
        }
        let factor = (sampled + to_start + to_end) / sampled;
        if flavour.per_second {
            factor / window.seconds()
        } else {
            factor
        }
    }
}

/// Increase between the first and the last histogram as a gauge.
fn histogram_increase(
    samples: &[HistogramSample],
    counter: bool,
    trust_starts: bool,
    from_zero: bool,
    notes: &mut Notes<'_>,
) -> Option<Histogram> {
    let (first, last) = (&*samples.first()?.histogram, &*samples.last()?.histogram);
    let is_gauge = |histogram: &Histogram| histogram.reset_hint == ResetHint::Gauge;
    let inner = samples.get(1..samples.len().saturating_sub(1)).unwrap_or_default();
    if counter && samples.iter().any(|sample| is_gauge(&sample.histogram)) {
        notes.not_a_counter();
    }
    let is_reset = |index: usize| {
        let (before, after) = (&samples[index - 1], &samples[index]);
        after.histogram.is_reset_since(&before.histogram)
            || (trust_starts && began_between(Sample::Histogram(before), Sample::Histogram(after)))
    };
    // A first histogram that the second one has nothing to do with says nothing but when the window's data begins. Its layout
    // does not matter then.
    let void = counter && samples.len() > 1 && is_reset(1);
    let reference = if void { &*samples[1].histogram } else { first };
    if counter {
        let differs =
            |sample: &HistogramSample| sample.histogram.uses_custom_buckets() != reference.uses_custom_buckets();
        if differs(&samples[samples.len() - 1]) || inner.iter().any(differs) {
            notes.exponential_and_custom();
            return None;
        }
    }
    let mut result = last.clone();
    let schemas = inner.iter().map(|sample| sample.histogram.schema).filter(|_| counter);
    if let Some(schema) = schemas.chain([reference.schema, last.schema]).min() {
        result.reduce(schema);
    }
    let mut reconciled = [None; 2];
    let mut combine = |result: &mut Histogram, other: &Histogram, operation: HistogramOperation| {
        let (combined, place) = match operation {
            HistogramOperation::Subtraction => (result.subtract(other), 0),
            HistogramOperation::Addition | HistogramOperation::Aggregation => (result.add(other), 1),
        };
        if combined?.bounds_reconciled {
            reconciled[place] = Some(operation);
        }
        Ok::<(), IncompatibleSchemas>(())
    };
    let mut combined = Ok(());
    match (void, from_zero) {
        (false, false) => combined = combine(&mut result, first, HistogramOperation::Subtraction),
        (true, true) => combined = combine(&mut result, first, HistogramOperation::Addition),
        (true, false) | (false, true) => {}
    }
    if counter {
        let from = if void { 2 } else { 1 };
        for index in (from..samples.len()).filter(|&index| is_reset(index)) {
            combined = combined.and(combine(
                &mut result,
                &samples[index - 1].histogram,
                HistogramOperation::Addition,
            ));
        }
    } else if !is_gauge(first) || !is_gauge(last) {
        notes.not_a_gauge();
    }
    if combined.is_err() {
        notes.exponential_and_custom();
        return None;
    }
    reconciled
        .into_iter()
        .flatten()
        .for_each(|operation| notes.add(Note::ReconciledBounds(operation)));
    result.reset_hint = ResetHint::Gauge;
    result.compact();
    Some(result)
}

/// Says so when a sample's counter began before the sample ahead of it was taken, yet not when that one's did.
fn note_overlaps(window: &Window<'_>, notes: &mut Notes<'_>) {
    let samples = &window.samples;
    let overlaps = |before: (i64, i64), after: (i64, i64)| after.1 != 0 && after.1 < before.0 && after.1 != before.1;
    let floats = !samples.starts.is_empty()
        && (1..samples.times.len()).any(|index| {
            let sample = |index: usize| (samples.times[index], samples.starts[index]);
            overlaps(sample(index - 1), sample(index))
        });
    let histograms = samples
        .histograms
        .windows(2)
        .any(|pair| overlaps((pair[0].at, pair[0].start), (pair[1].at, pair[1].start)));
    if floats || histograms {
        notes.add(Note::StartOverlap(notes.metric.into()));
    }
}

/// Increase per second between the last two samples of a counter.
pub(crate) fn irate(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    between_last_two(window, notes, true)
}

/// Difference between the last two samples of a gauge.
pub(crate) fn idelta(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    between_last_two(window, notes, false)
}

fn between_last_two(window: &Window<'_>, notes: &mut Notes<'_>, is_rate: bool) -> Option<Point> {
    let all = &window.samples;
    if all.len() < 2 {
        return None;
    }
    let last_two = |len: usize| len.saturating_sub(2)..len;
    let tail = all.slice(last_two(all.times.len()), last_two(all.histograms.len()));
    let mut tail: Vec<Sample<'_>> = tail.iter().collect();
    let (after, before) = (tail.pop()?, tail.pop()?);
    let interval = after.at().wrapping_sub(before.at());
    if interval == 0 {
        return None;
    }
    let seconds = interval as f64 / 1000.0;
    let began = is_rate && window.trust_starts && began_between(before, after);
    match (before, after) {
        (Sample::Float { value: before, .. }, Sample::Float { value: after, .. }) => {
            let change = if is_rate && (after < before || began) {
                after
            } else {
                after - before
            };
            Some(Point::Float(if is_rate { change / seconds } else { change }))
        }
        (Sample::Histogram(before), Sample::Histogram(after)) => {
            let (before, after) = (&*before.histogram, &*after.histogram);
            let gauges = [before, after].map(|histogram| histogram.reset_hint == ResetHint::Gauge);
            if is_rate && gauges.contains(&true) {
                notes.not_a_counter();
            }
            if !is_rate && gauges.contains(&false) {
                notes.not_a_gauge();
            }
            let mut change = after.clone();
            if !is_rate || !(began || after.is_reset_since(before)) {
                match change.subtract(before) {
                    Ok(combined) if combined.bounds_reconciled => {
                        notes.add(Note::ReconciledBounds(HistogramOperation::Subtraction));
                    }
                    Ok(_) => {}
                    Err(_) => {
                        notes.exponential_and_custom();
                        return None;
                    }
                }
            }
            change.reset_hint = ResetHint::Gauge;
            change.compact();
            if is_rate {
                change.divide(seconds);
            }
            Some(Point::Histogram(Arc::new(change)))
        }
        _ => {
            notes.floats_and_histograms();
            None
        }
    }
}
