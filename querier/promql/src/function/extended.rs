//! `rate`, `increase` and `delta` over `anchored` and `smoothed` windows, and `smoothed` instants.
//!
//! Nothing is extrapolated. An anchored window begins with the last sample at or before its left edge and ends with its last
//! sample. A smoothed window begins and ends with values between the neighbours of its edges; across a reset, the counter is taken
//! to have risen from zero.

use crate::{
    function::{
        extent::Flavour,
        window::{Notes, Samples, Window},
    },
    value::Point,
};
use model::{
    histogram::{Histogram, ResetHint, arithmetic::IncompatibleSchemas},
    sample::HistogramSample,
    time::Timestamp,
};
use std::{ops::RangeInclusive, sync::Arc};

/// Over an anchored window.
pub(crate) fn anchored(window: &Window<'_>, notes: &mut Notes<'_>, flavour: Flavour) -> Option<Point> {
    extended(window, notes, flavour, false)
}

/// Over a smoothed window.
pub(crate) fn smoothed(window: &Window<'_>, notes: &mut Notes<'_>, flavour: Flavour) -> Option<Point> {
    extended(window, notes, flavour, true)
}

fn extended(window: &Window<'_>, notes: &mut Notes<'_>, flavour: Flavour, smoothed: bool) -> Option<Point> {
    let samples = relevant(window, smoothed)?;
    if samples.is_mixed() {
        notes.floats_and_histograms();
        return None;
    }
    if samples.histograms.is_empty() {
        let change = float_change(&samples, window, flavour.counter, smoothed);
        return Some(Point::Float(if flavour.per_second {
            change / window.seconds()
        } else {
            change
        }));
    }
    let is_gauge = |sample: &HistogramSample| sample.histogram.reset_hint == ResetHint::Gauge;
    let (first, last) = (samples.histograms.first()?, samples.histograms.last()?);
    if flavour.counter && samples.histograms.iter().any(is_gauge) {
        notes.not_a_counter();
    }
    if !(flavour.counter || is_gauge(first) && is_gauge(last)) {
        notes.not_a_gauge();
    }
    let Ok(mut change) = histogram_change(samples.histograms, window, flavour.counter, smoothed) else {
        notes.exponential_and_custom();
        return None;
    };
    change.reset_hint = ResetHint::Gauge;
    change.compact();
    if flavour.per_second {
        change.divide(window.seconds());
    }
    Some(Point::Histogram(Arc::new(change)))
}

/// The samples from the one that gives the left edge its value to the one that gives it to the right edge; `None` when there is
/// nothing behind the left edge, or nothing before the right one.
fn relevant<'a>(window: &Window<'a>, smoothed: bool) -> Option<Samples<'a>> {
    let samples = window.samples;
    let (floats, histograms) = (samples.times, samples.histograms);
    let before = [
        floats.partition_point(|&at| at <= window.start),
        histograms.partition_point(|sample| sample.at <= window.start),
    ];
    let within = [
        floats.partition_point(|&at| at <= window.end),
        histograms.partition_point(|sample| sample.at <= window.end),
    ];
    let nothing_behind = if smoothed {
        before == [floats.len(), histograms.len()]
    } else {
        before == within
    };
    if nothing_behind || within == [0, 0] {
        return None;
    }
    let at_left = [
        before[0].checked_sub(1).map(|i| floats[i]),
        before[1].checked_sub(1).map(|i| histograms[i].at),
    ];
    let first = [
        before[0] - usize::from(at_left[0].is_some() && at_left[0] > at_left[1]),
        before[1] - usize::from(at_left[1].is_some() && at_left[1] > at_left[0]),
    ];
    let mut end = within;
    let ends_exactly = floats[..within[0]].last() == Some(&window.end)
        || histograms[..within[1]]
            .last()
            .is_some_and(|sample| sample.at == window.end);
    if smoothed && !ends_exactly {
        let next = [
            floats.get(within[0]).copied(),
            histograms.get(within[1]).map(|sample| sample.at),
        ];
        match next {
            [Some(float), Some(histogram)] if histogram < float => end[1] += 1,
            [Some(_), _] => end[0] += 1,
            [None, Some(_)] => end[1] += 1,
            [None, None] => {}
        }
    }
    Some(samples.slice(first[0]..end[0], first[1]..end[1]))
}

/// Which samples are taken as they are: those at the ends are not if an edge lies between them and their neighbour.
fn taken(
    times: impl Fn(usize) -> Timestamp,
    count: usize,
    window: &Window<'_>,
    smoothed: bool,
) -> RangeInclusive<usize> {
    let between_left = smoothed && count > 1 && times(0) < window.start;
    let between_right = smoothed && count > 1 && times(count - 1) > window.end;
    usize::from(between_left)..=count - 1 - usize::from(between_right)
}

/// How far `at` lies on the way between two times.
fn part(from: Timestamp, to: Timestamp, at: Timestamp) -> f64 {
    at.wrapping_sub(from) as f64 / to.wrapping_sub(from) as f64
}

fn float_change(samples: &Samples<'_>, window: &Window<'_>, counter: bool, smoothed: bool) -> f64 {
    let (times, values) = (samples.times, samples.values);
    let last = values.len() - 1;
    let taken = taken(|index| times[index], values.len(), window, smoothed);
    let between = |from: usize, at: Timestamp| {
        interpolate(
            (times[from], values[from]),
            (times[from + 1], values[from + 1]),
            at,
            counter,
        )
    };
    let left = if *taken.start() > 0 {
        between(0, window.start)
    } else {
        values[0]
    };
    let right = if *taken.end() < last {
        between(last - 1, window.end)
    } else {
        values[last]
    };
    let mut change = right - left;
    if counter {
        let mut before = left;
        let inner = taken.filter(|&index| times[index] > window.start && times[index] < window.end);
        for value in inner.map(|index| values[index]).chain([right]) {
            if value < before {
                change += before;
            }
            before = value;
        }
    }
    change
}

/// The value at `at` between two floats.
pub(crate) fn interpolate(from: (Timestamp, f64), to: (Timestamp, f64), at: Timestamp, counter: bool) -> f64 {
    let begin = if counter && to.1 < from.1 { 0.0 } else { from.1 };
    begin + (to.1 - begin) * part(from.0, to.0, at)
}

fn histogram_change(
    samples: &[HistogramSample],
    window: &Window<'_>,
    counter: bool,
    smoothed: bool,
) -> Result<Histogram, IncompatibleSchemas> {
    let last = samples.len() - 1;
    let taken = taken(|index| samples[index].at, samples.len(), window, smoothed);
    let between = |from: usize, at: Timestamp| interpolate_histograms(&samples[from], &samples[from + 1], at, counter);
    let left = if *taken.start() > 0 {
        between(0, window.start)?
    } else {
        (*samples[0].histogram).clone()
    };
    let mut change = if *taken.end() < last {
        between(last - 1, window.end)?
    } else {
        (*samples[last].histogram).clone()
    };
    change.subtract(&left)?;
    if counter {
        // Interpolation on the left has accounted for what happened before the first sample that is taken as it is.
        for index in *taken.start() + 1..=last {
            let before = &samples[index - 1].histogram;
            if samples[index].histogram.is_reset_since(before) {
                change.add(before)?;
            }
        }
    }
    Ok(change)
}

/// The value at `at` between two histograms.
pub(crate) fn interpolate_histograms(
    from: &HistogramSample,
    to: &HistogramSample,
    at: Timestamp,
    counter: bool,
) -> Result<Histogram, IncompatibleSchemas> {
    let part = part(from.at, to.at, at);
    let mut value = (*to.histogram).clone();
    if counter
        && to.histogram.uses_custom_buckets() == from.histogram.uses_custom_buckets()
        && to.histogram.is_reset_since(&from.histogram)
    {
        value.multiply(part);
        return Ok(value);
    }
    value.subtract(&from.histogram)?;
    value.multiply(part);
    value.add(&from.histogram)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        annotation::Annotations,
        ast::Span,
        function::extent::{DELTA, INCREASE},
    };
    use model::sample::SampleBuffer;

    fn check(
        values: &[Option<f64>],
        step: i64,
        (end, range): (i64, i64),
        flavour: Flavour,
        is_smoothed: bool,
        expected: Option<f64>,
    ) {
        // The same numbers as floats and as the counts of histograms.
        let mut floats = SampleBuffer::default();
        let mut histograms = SampleBuffer::default();
        for (index, value) in values.iter().enumerate() {
            let Some(value) = *value else { continue };
            let at = index as i64 * step;
            floats.push_float(at, value);
            let histogram = Arc::new(Histogram {
                count: value,
                ..Histogram::default()
            });
            histograms.histograms.push(HistogramSample {
                at,
                start: 0,
                histogram,
            });
        }
        for buffer in [&floats, &histograms] {
            let samples = Samples::of(buffer);
            let window = Window {
                samples,
                at: end,
                start: end - range,
                end,
                range_ms: range,
                params: [0.0; 2],
                trust_starts: false,
            };
            let mut all = Annotations::default();
            let mut notes = Notes {
                all: &mut all,
                metric: "",
                span: Span::default(),
            };
            let found = match extended(&window, &mut notes, flavour, is_smoothed) {
                Some(Point::Float(value)) => Some(value),
                Some(Point::Histogram(histogram)) => Some(histogram.count),
                None => None,
            };
            let close = match (found, expected) {
                (Some(found), Some(expected)) => (found - expected).abs() < 1e-9,
                (found, expected) => found == expected,
            };
            assert!(close, "{values:?} up to {end}: {found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn edges_take_neighbours() {
        let values: Vec<_> = (1..6).chain(9..14).map(|value| Some(f64::from(value))).collect();
        for (end, expected) in [(5, 0.0), (20, 1.0), (35, 2.0), (50, 3.0)] {
            check(&values, 15, (end, 60), INCREASE, false, Some(expected));
        }
        for (end, expected) in [(5, 1.0 / 3.0), (20, 4.0 / 3.0)] {
            check(&values, 15, (end, 60), INCREASE, true, Some(expected));
        }
        let gap = [Some(1.0), Some(2.0), None, Some(4.0), Some(5.0)];
        check(&gap, 60, (120, 60), INCREASE, true, Some(1.0));
        check(&gap, 60, (120, 60), INCREASE, false, None);
        check(&[None, None, Some(5.0)], 10, (10, 10), INCREASE, true, None);
    }

    #[test]
    fn resets_count_from_zero() {
        let some = |values: &[f64]| values.iter().copied().map(Some).collect::<Vec<_>>();
        check(&some(&[5.0, 10.0, 3.0]), 30, (75, 75), INCREASE, false, Some(8.0));
        check(&some(&[5.0, 3.0]), 30, (30, 30), INCREASE, false, Some(3.0));
        check(&some(&[10.0, 5.0, 2.0, 4.0]), 10, (15, 14), INCREASE, true, Some(5.5));
        check(&some(&[10.0, 5.0]), 20, (15, 10), INCREASE, true, Some(2.5));
        check(
            &some(&[11.0, -1.0, 100.0, 0.0]),
            60,
            (330, 300),
            DELTA,
            true,
            Some(-5.0),
        );
    }
}
