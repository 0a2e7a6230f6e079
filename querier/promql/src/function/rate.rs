//! `rate`, `increase`, `delta`, `irate` and `idelta`.
//!
//! The first three estimate what happened in the whole window from the samples inside it: they extrapolate to both edges, at
//! most half a sample distance where a series seems to begin or end inside, and never below zero for a counter.

use crate::{
    annotation::{HistogramOperation, Note},
    function::{
        change::{began_anew, began_between},
        extent::{DELTA, Extent, Flavour, INCREASE, RATE},
        histogram_rate::histogram_increase,
        window::{Notes, Sample, Window},
    },
    value::Point,
};
use model::histogram::ResetHint;
use std::sync::Arc;

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
        return Some(Point::Float(
            result * extent.factor((window.start, window.end), window.seconds(), flavour),
        ));
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
    result.multiply(extent.factor((window.start, window.end), window.seconds(), flavour));
    Some(Point::Histogram(Arc::new(result)))
}

/// Whether the start timestamp of float `index` says that the counter began anew behind the float before it.
fn float_began(window: &Window<'_>, index: usize) -> bool {
    let samples = &window.samples;
    let sample = |index: usize| (samples.times[index], samples.starts[index]);
    began_anew(sample(index - 1), sample(index))
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
