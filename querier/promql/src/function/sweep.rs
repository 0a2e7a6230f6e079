//! Functions of a series of floats over all windows at once: `rate`, `increase` and `delta`, and those that look at one sample or
//! none.
//!
//! The results of the former are those of [`super::rate`], bit for bit; the way there is short. Windows move forward, so both ends of
//! the samples do; resets are found once; and as long as samples and steps are evenly spaced, one factor serves window after window.

use crate::function::extent::{Extent, Flavour};
use model::time::Timestamp;

/// A series of floats, ascending by time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Series<'a> {
    pub(crate) times: &'a [Timestamp],
    pub(crate) values: &'a [f64],
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Samples in all windows together.
    pub(crate) samples: u64,
    /// Samples in any window.
    pub(crate) read: u64,
    /// Most samples in one window.
    pub(crate) most: usize,
}

/// Visits windows by step and right edge, ascending; `visit` gets both, the first sample of each that has some, and the one behind
/// its last.
#[inline(always)]
pub(crate) fn windows(
    series: Series<'_>,
    windows: impl Iterator<Item = (usize, Timestamp)>,
    range_ms: i64,
    mut visit: impl FnMut(usize, Timestamp, usize, usize),
) -> Looked {
    let times = series.times;
    let (mut from, mut to, mut seen) = (0, 0, 0);
    let mut looked = Looked::default();
    for (step, end) in windows {
        let start = end.saturating_sub(range_ms);
        while times.get(to).is_some_and(|&time| time <= end) {
            to += 1;
        }
        while from < to && times.get(from).is_some_and(|&time| time <= start) {
            from += 1;
        }
        let count = to - from;
        looked.read += (to - seen.max(from)) as u64;
        seen = to;
        looked.samples += count as u64;
        looked.most = looked.most.max(count);
        if count > 0 {
            visit(step, end, from, to);
        }
    }
    looked
}

/// Visits windows by step and right edge, ascending, and gives the result of each that has one to `emit`.
///
/// Never part of its caller: the loop wants all registers for itself.
#[inline(never)]
pub(crate) fn extrapolated(
    series: Series<'_>,
    windows: impl Iterator<Item = (usize, Timestamp)>,
    range_ms: i64,
    flavour: Flavour,
    mut emit: impl FnMut(usize, f64),
) -> Looked {
    let Series { times, values } = series;
    let width = range_ms as f64 / 1000.0;
    let resets = if flavour.counter { resets(values) } else { Vec::new() };
    let mut resets = resets.as_slice();
    let mut known: Option<(Layout, f64)> = None;
    self::windows(series, windows, range_ms, |step, end, from, to| {
        let count = to - from;
        if count < 2 {
            return;
        }
        let start = end.saturating_sub(range_ms);
        let (first, last) = (values[from], values[to - 1]);
        let mut increase = last - first;
        if !resets.is_empty() {
            let behind = resets.iter().take_while(|&&index| index <= from).count();
            resets = &resets[behind..];
            for &index in resets.iter().take_while(|&&index| index < to) {
                increase += values[index - 1];
            }
        }
        let layout = Layout {
            before: times[from].wrapping_sub(start),
            between: times[to - 1].wrapping_sub(times[from]),
            after: end.wrapping_sub(times[to - 1]),
            count,
        };
        // A counter that is far above zero is not drawn down to it: the way there is longer than that between the samples.
        let far_from_zero = !flavour.counter || first >= increase && layout.before <= layout.between;
        let factor = match known {
            Some((same, factor)) if same == layout && far_from_zero => factor,
            _ => {
                let from_zero = (first >= 0.0 && !far_from_zero).then_some((first, increase));
                let extent = Extent {
                    first: times[from],
                    last: times[to - 1],
                    count,
                    known_start: None,
                    from_zero,
                };
                let factor = extent.factor((start, end), width, flavour);
                known = far_from_zero.then_some((layout, factor));
                factor
            }
        };
        emit(step, increase * factor);
    })
}

/// How samples lie in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    before: i64,
    between: i64,
    after: i64,
    count: usize,
}

/// Indexes of the values that are less than the one before.
fn resets(values: &[f64]) -> Vec<usize> {
    (1..values.len())
        .filter(|&index| values[index] < values[index - 1])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        annotation::Annotations,
        ast::Span,
        function::{
            extent::{DELTA, INCREASE, RATE},
            rate,
            window::{Notes, Samples, Window},
        },
        value::Point,
    };
    use model::sample::SampleBuffer;
    use proptest::prelude::*;

    fn one_by_one(buffer: &SampleBuffer, ends: &[i64], range_ms: i64, flavour: Flavour) -> Vec<(usize, u64)> {
        let mut results = Vec::new();
        for (step, &end) in ends.iter().enumerate() {
            let start = end - range_ms;
            let inside = |at: &i64| *at > start && *at <= end;
            let from = buffer.timestamps.iter().position(inside).unwrap_or(0);
            let count = buffer.timestamps.iter().filter(|at| inside(at)).count();
            let samples = Samples::of(buffer).slice(from..from + count, 0..0);
            let window = Window {
                samples,
                at: end,
                start,
                end,
                range_ms,
                params: [0.0; 2],
                trust_starts: false,
            };
            let mut all = Annotations::default();
            let mut notes = Notes {
                all: &mut all,
                metric: "",
                span: Span::default(),
            };
            let point = match flavour {
                RATE => rate::rate(&window, &mut notes),
                INCREASE => rate::increase(&window, &mut notes),
                _ => rate::delta(&window, &mut notes),
            };
            if let Some(Point::Float(value)) = point {
                results.push((step, value.to_bits()));
            }
        }
        results
    }

    proptest! {
        #[test]
        fn all_at_once_is_the_same_as_one_by_one(
            gaps in prop::collection::vec(prop_oneof![Just(15_000i64), 1i64..60_000], 0..60),
            steps in prop::collection::vec(-5i64..50, 60),
            begin in 0.0f64..1e4,
            (step_ms, range_ms) in (1i64..40_000, 1i64..200_000),
        ) {
            let mut buffer = SampleBuffer::default();
            let (mut at, mut value) = (1_000_000, begin);
            for (gap, step) in gaps.iter().zip(&steps) {
                at += gap;
                value = if *step < 0 { 0.0 } else { value + *step as f64 };
                buffer.push_float(at, value);
            }
            let ends: Vec<i64> = (0..100).map(|step| 1_000_000 + step * step_ms).collect();
            let series = Series { times: &buffer.timestamps, values: &buffer.values };
            for flavour in [RATE, INCREASE, DELTA] {
                let mut results = Vec::new();
                let windows = ends.iter().copied().enumerate();
                extrapolated(series, windows, range_ms, flavour, |step, value| results.push((step, value.to_bits())));
                prop_assert_eq!(&results, &one_by_one(&buffer, &ends, range_ms, flavour));
            }
        }
    }
}
