//! `changes` and `resets`: how often a series changed, or began anew.

use crate::{
    function::window::{Notes, Sample, Samples, Window},
    value::Point,
};
use model::time::Timestamp;

/// How often the value changed.
pub(crate) fn changes(window: &Window<'_>, _: &mut Notes<'_>) -> Option<Point> {
    count(window.samples, |before, after| match (before, after) {
        (Sample::Float { value: before, .. }, Sample::Float { value: after, .. }) => {
            before != after && !(before.is_nan() && after.is_nan())
        }
        (Sample::Histogram(before), Sample::Histogram(after)) => !after.histogram.same_as(&before.histogram),
        _ => true,
    })
}

/// How often the counter began anew.
pub(crate) fn resets(window: &Window<'_>, _: &mut Notes<'_>) -> Option<Point> {
    let trust_starts = window.trust_starts;
    count(window.samples, |before, after| match (before, after) {
        _ if trust_starts && began_between(before, after) => true,
        (Sample::Float { value: before, .. }, Sample::Float { value: after, .. }) => after < before,
        (Sample::Histogram(before), Sample::Histogram(after)) => after.histogram.is_reset_since(&before.histogram),
        _ => true,
    })
}

/// The same for anchored windows.
pub(crate) fn anchored_changes(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    changes(
        &Window {
            samples: anchored(window)?,
            ..*window
        },
        notes,
    )
}

/// The same for anchored windows.
pub(crate) fn anchored_resets(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    resets(
        &Window {
            samples: anchored(window)?,
            trust_starts: false,
            ..*window
        },
        notes,
    )
}

fn count(samples: Samples<'_>, differ: impl Fn(Sample<'_>, Sample<'_>) -> bool) -> Option<Point> {
    let mut samples = samples.iter();
    let mut before = samples.next()?;
    let mut count = 0;
    for after in samples {
        count += usize::from(differ(before, after));
        before = after;
    }
    Some(Point::Float(count as f64))
}

/// The samples inside the window and the last one at or before its left edge, of whatever kind; `None` when the window is empty.
fn anchored<'a>(window: &Window<'a>) -> Option<Samples<'a>> {
    let samples = window.samples;
    let floats_before = samples.times.partition_point(|&at| at <= window.start);
    let histograms_before = samples.histograms.partition_point(|sample| sample.at <= window.start);
    if floats_before == samples.times.len() && histograms_before == samples.histograms.len() {
        return None;
    }
    let float_anchor = floats_before.checked_sub(1).map(|index| samples.times[index]);
    let histogram_anchor = histograms_before
        .checked_sub(1)
        .map(|index| samples.histograms[index].at);
    let float_first = floats_before - usize::from(float_anchor.is_some() && float_anchor > histogram_anchor);
    let histogram_first =
        histograms_before - usize::from(histogram_anchor.is_some() && histogram_anchor > float_anchor);
    Some(samples.slice(
        float_first..samples.times.len(),
        histogram_first..samples.histograms.len(),
    ))
}

/// Whether start timestamps say that a counter began anew between two samples.
///
/// A start at exactly the time of the sample before is how delta values are told (each begins where the last one ended), but
/// also how a cumulative counter of unknown age is told whose first sample stands for its beginning. The start of the sample before,
/// if it is a sensible one, tells the two apart.
pub(crate) fn began_between(before: Sample<'_>, after: Sample<'_>) -> bool {
    began_anew((before.at(), before.start()), (after.at(), after.start()))
}

/// The same for pairs of time and start.
pub(crate) fn began_anew(before: (Timestamp, Timestamp), after: (Timestamp, Timestamp)) -> bool {
    let start = after.1;
    if start == 0 || start >= after.0 {
        return false;
    }
    start > before.0 || (start == before.0 && before.1 != 0 && before.1 < before.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{annotation::Annotations, ast::Span};
    use model::{
        histogram::Histogram,
        sample::{HistogramSample, SampleBuffer},
    };
    use std::sync::Arc;

    fn mixed(items: &[(i64, Option<f64>)]) -> SampleBuffer {
        let mut buffer = SampleBuffer::default();
        for &(at, value) in items {
            match value {
                Some(value) => buffer.push_float(at, value),
                None => {
                    let histogram = Arc::new(Histogram {
                        count: at as f64,
                        ..Histogram::default()
                    });
                    buffer.histograms.push(HistogramSample {
                        at,
                        start: 0,
                        histogram,
                    });
                }
            }
        }
        buffer
    }

    fn apply(
        kernel: fn(&Window<'_>, &mut Notes<'_>) -> Option<Point>,
        buffer: &SampleBuffer,
        start: i64,
    ) -> Option<f64> {
        let samples = Samples::of(buffer);
        let window = Window {
            samples,
            at: 0,
            start,
            end: 0,
            range_ms: 1000,
            params: [0.0; 2],
            trust_starts: true,
        };
        let mut all = Annotations::default();
        let point = kernel(
            &window,
            &mut Notes {
                all: &mut all,
                metric: "",
                span: Span::default(),
            },
        )?;
        let Point::Float(value) = point else {
            panic!("{point:?}")
        };
        Some(value)
    }

    #[test]
    fn a_change_of_kind_is_a_change_and_a_reset() {
        let buffer = mixed(&[
            (1, Some(1.0)),
            (2, Some(1.0)),
            (3, None),
            (4, Some(0.0)),
            (5, Some(2.0)),
            (6, Some(1.0)),
        ]);
        assert_eq!(apply(changes, &buffer, 0), Some(4.0));
        assert_eq!(apply(resets, &buffer, 0), Some(3.0));
        let nan = mixed(&[(1, Some(f64::NAN)), (2, Some(f64::NAN)), (3, Some(0.0))]);
        assert_eq!(apply(changes, &nan, 0), Some(1.0));
    }

    #[test]
    fn anchored_windows_begin_with_the_last_sample_before() {
        let buffer = mixed(&[(1, None), (2, Some(5.0)), (3, Some(2.0)), (4, Some(3.0))]);
        assert_eq!(apply(anchored_changes, &buffer, 2), Some(2.0));
        assert_eq!(apply(anchored_resets, &buffer, 2), Some(1.0));
        assert_eq!(apply(anchored_resets, &buffer, 1), Some(2.0));
        assert_eq!(apply(anchored_changes, &buffer, 4), None);
        assert_eq!(apply(anchored_changes, &buffer, 0), Some(3.0));
    }

    #[test]
    fn starts_tell_resets() {
        let check = |before, after, expected| assert_eq!(began_anew(before, after), expected, "{before:?} {after:?}");
        check((60, 30), (120, 30), false);
        check((60, 30), (120, 61), true);
        check((60, 30), (120, 60), true);
        check((60, 0), (120, 60), false);
        check((60, 60), (120, 60), false);
        check((60, 90), (120, 60), false);
        check((60, 30), (120, 120), false);
        check((60, 30), (120, 0), false);
    }
}
