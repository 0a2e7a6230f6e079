//! Functions of a series of floats over all windows at once: `rate`, `increase` and `delta`, sums, means and extremes, and those that
//! look at one sample or none.
//!
//! Where windows lie among samples, and by what to extrapolate, depends on nothing but the times of the samples, and the series of a
//! target are all taken at the same times. So that is found out once ([`Pace`]) and kept as long as the times that come are those
//! that came before; what is left for each series is arithmetic on columns. The results are those of [`crate::function::rate`], bit for bit.

mod fold;

pub(crate) use fold::Fold;

use crate::{
    function::extent::{Extent, Flavour},
    operator::column::Cells,
    plan::{Grid, Shift},
};
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

/// What can be done for all windows at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// `rate` and its relatives.
    Extrapolated(Flavour),
    /// The last sample.
    Last,
    /// The first sample.
    First,
    /// The number of samples.
    Count,
    /// 1 where there are samples.
    Present,
    /// What is made of all samples.
    Folded(Fold),
}

/// What is asked for: a function, and where the windows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) sweep: Sweep,
    /// Width of the windows.
    pub(crate) range_ms: i64,
    /// The steps.
    pub(crate) grid: Grid,
    /// From a step to the end of its window.
    pub(crate) shift: Shift,
}

impl Ask {
    fn end(&self, step: usize) -> Timestamp {
        self.shift.apply(self.grid.at(step))
    }

    /// With fewer samples a window has no result.
    fn samples_min(&self) -> usize {
        match self.sweep {
            Sweep::Extrapolated(_) => 2,
            Sweep::Last | Sweep::First | Sweep::Count | Sweep::Present | Sweep::Folded(_) => 1,
        }
    }
}

/// Where the windows of a question lie among samples at certain times.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    ask: Option<Ask>,
    times: Vec<Timestamp>,
    /// Windows with a result, ascending by step.
    runs: Vec<Run>,
    /// By what to multiply increases, one for each window of `runs`; empty when nothing is extrapolated.
    factors: Vec<f64>,
    looked: Looked,
}

/// Windows of consecutive steps, each of which begins and ends as many samples behind the one before.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Step of the first window.
    step: usize,
    /// Number of windows.
    count: usize,
    /// First sample of the first window, and the one behind its last.
    from: usize,
    to: usize,
    /// Samples from one window to the next.
    stride: usize,
    /// Whether a counter with samples far enough above zero is extrapolated by `factors`. It is not where the way from the edge to the
    /// first sample is longer than that between the samples: nothing is too far above zero then.
    far: bool,
}

impl Run {
    /// Whether the window at the next step goes on with this run.
    fn goes_on(&self, next: &Run) -> bool {
        let last = self.from + (self.count - 1) * self.stride;
        let moved = next.from - last;
        let fits = self.count == 1 || moved == self.stride;
        fits && next.step == self.step + self.count
            && next.to - next.from == self.to - self.from
            && next.far == self.far
    }

    /// The windows: step, first sample, and the one behind the last.
    fn windows(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let window = move |index| {
            let moved = index * self.stride;
            (self.step + index, self.from + moved, self.to + moved)
        };
        (0..self.count).map(window)
    }
}

impl Pace {
    /// The results for a series, and what was looked at.
    pub(crate) fn sweep(&mut self, series: Series<'_>, ask: Ask) -> (Cells, Looked) {
        if self.ask != Some(ask) || self.times != series.times {
            self.begin(series.times, ask);
        }
        let Series { values, .. } = series;
        let windows = self.runs.last().map_or(0, |run| run.step + run.count);
        let mut cells = Cells::with_capacity(windows);
        match ask.sweep {
            Sweep::Extrapolated(flavour) => self.extrapolate(values, flavour, ask, &mut cells),
            Sweep::Last => self.pick(|run| run.to - 1, values, &mut cells),
            Sweep::First => self.pick(|run| run.from, values, &mut cells),
            Sweep::Count => self.fill(|run| (run.to - run.from) as f64, &mut cells),
            Sweep::Present => self.fill(|_| 1.0, &mut cells),
            Sweep::Folded(fold) => self
                .runs
                .iter()
                .for_each(|run| fold::fold(*run, values, fold, &mut cells)),
        }
        (cells, self.looked)
    }

    /// Finds the windows among samples at `times`.
    fn begin(&mut self, times: &[Timestamp], ask: Ask) {
        self.ask = Some(ask);
        self.times.clear();
        self.times.extend_from_slice(times);
        self.runs.clear();
        self.factors.clear();
        self.looked = Looked::default();
        let (mut from, mut to, mut seen) = (0, 0, 0);
        let mut known: Option<(Layout, f64)> = None;
        for step in 0..ask.grid.count {
            let end = ask.end(step);
            let start = end.saturating_sub(ask.range_ms);
            // Windows move forward only.
            to += times[to..].iter().take_while(|&&time| time <= end).count();
            from += times[from..to].iter().take_while(|&&time| time <= start).count();
            let count = to - from;
            self.looked.read += (to - seen.max(from)) as u64;
            seen = to;
            self.looked.samples += count as u64;
            self.looked.most = self.looked.most.max(count);
            if count < ask.samples_min() {
                continue;
            }
            let mut far = true;
            if let Sweep::Extrapolated(flavour) = ask.sweep {
                let layout = Layout::new(&times[from..to], start, end);
                far = layout.before <= layout.between;
                // As long as samples and steps are evenly spaced, one factor serves window after window.
                let factor = match known {
                    Some((same, factor)) if same == layout => factor,
                    _ => extent(&times[from..to], None).factor((start, end), ask.range_ms as f64 / 1000.0, flavour),
                };
                known = Some((layout, factor));
                self.factors.push(factor);
            }
            self.add(Run {
                step,
                count: 1,
                from,
                to,
                stride: 0,
                far,
            });
        }
    }

    /// Adds a window, to the last run if it goes on with it.
    fn add(&mut self, next: Run) {
        match self.runs.last_mut() {
            Some(run) if run.goes_on(&next) => {
                if run.count == 1 {
                    run.stride = next.from - run.from;
                }
                run.count += 1;
            }
            _ => self.runs.push(next),
        }
    }

    /// One sample of each window; `first` says which of the first one.
    fn pick(&self, first: impl Fn(&Run) -> usize, values: &[f64], cells: &mut Cells) {
        for run in &self.runs {
            let values = &values[first(run)..];
            match run.stride {
                0 => cells.extend_floats(run.step, std::iter::repeat_n(values[0], run.count)),
                1 => cells.extend_floats(run.step, values[..run.count].iter().copied()),
                stride => cells.extend_floats(run.step, values.iter().step_by(stride).take(run.count).copied()),
            }
        }
    }

    /// The same for all windows of a run.
    fn fill(&self, value: impl Fn(&Run) -> f64, cells: &mut Cells) {
        for run in &self.runs {
            cells.extend_floats(run.step, std::iter::repeat_n(value(run), run.count));
        }
    }

    /// The increases between first and last samples, times the factors.
    fn extrapolate(&self, values: &[f64], flavour: Flavour, ask: Ask, cells: &mut Cells) {
        let resets = if flavour.counter { resets(values) } else { Vec::new() };
        let mut factors = self.factors.as_slice();
        for &run in &self.runs {
            let (mine, rest) = factors.split_at(run.count);
            factors = rest;
            let plain = !flavour.counter || run.far && resets.is_empty();
            if !plain || !extrapolate_run(run, values, mine, flavour, cells) {
                self.extrapolate_each(run, values, mine, &resets, flavour, ask, cells);
            }
        }
    }

    /// The same window by window, for counters that were reset or are near zero.
    #[expect(
        clippy::too_many_arguments,
        reason = "the loop of extrapolate, and it needs all that is there"
    )]
    fn extrapolate_each(
        &self,
        run: Run,
        values: &[f64],
        factors: &[f64],
        resets: &[usize],
        flavour: Flavour,
        ask: Ask,
        cells: &mut Cells,
    ) {
        let mut resets = resets;
        for ((step, from, to), &factor) in run.windows().zip(factors) {
            let (first, last) = (values[from], values[to - 1]);
            let behind = resets.iter().take_while(|&&index| index <= from).count();
            resets = &resets[behind..];
            let lost = resets.iter().take_while(|&&index| index < to);
            let increase = lost.fold(last - first, |increase, &index| increase + values[index - 1]);
            // A counter that is far above zero is not drawn down to it.
            if !flavour.counter || run.far && first >= increase {
                cells.push_float(step, increase * factor);
                continue;
            }
            let end = ask.end(step);
            let edges = (end.saturating_sub(ask.range_ms), end);
            let from_zero = (first >= 0.0).then_some((first, increase));
            let extent = extent(&self.times[from..to], from_zero);
            let factor = extent.factor(edges, ask.range_ms as f64 / 1000.0, flavour);
            cells.push_float(step, increase * factor);
        }
    }
}

/// The results of a run for a series without resets; `false`, and nothing done, when it is a counter that comes near zero.
fn extrapolate_run(run: Run, values: &[f64], factors: &[f64], flavour: Flavour, cells: &mut Cells) -> bool {
    let (firsts, lasts) = (&values[run.from..], &values[run.to - 1..]);
    if run.stride == 1 {
        let ends = || firsts[..run.count].iter().zip(&lasts[..run.count]);
        // Without a way out of the loop, many are compared at once.
        let far = ends().fold(true, |far, (first, last)| far & (*first >= last - first));
        if flavour.counter && !far {
            return false;
        }
        cells.extend_floats(
            run.step,
            ends()
                .zip(factors)
                .map(|((first, last), factor)| (last - first) * factor),
        );
        return true;
    }
    let ends = || (0..run.count).map(|index| (firsts[index * run.stride], lasts[index * run.stride]));
    if flavour.counter && !ends().all(|(first, last)| first >= last - first) {
        return false;
    }
    cells.extend_floats(
        run.step,
        ends()
            .zip(factors)
            .map(|((first, last), factor)| (last - first) * factor),
    );
    true
}

/// How samples lie in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    before: i64,
    between: i64,
    after: i64,
    count: usize,
}

impl Layout {
    fn new(times: &[Timestamp], start: Timestamp, end: Timestamp) -> Self {
        let (first, last) = (times[0], times[times.len() - 1]);
        Self {
            before: first.wrapping_sub(start),
            between: last.wrapping_sub(first),
            after: end.wrapping_sub(last),
            count: times.len(),
        }
    }
}

fn extent(times: &[Timestamp], from_zero: Option<(f64, f64)>) -> Extent {
    Extent {
        first: times[0],
        last: times[times.len() - 1],
        count: times.len(),
        known_start: None,
        from_zero,
    }
}

/// Indexes of the values that are less than the one before.
fn resets(values: &[f64]) -> Vec<usize> {
    let pairs = || values.iter().zip(values.iter().skip(1));
    if !pairs().fold(false, |any, (before, value)| any | (value < before)) {
        return Vec::new();
    }
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
            over_time, rate,
            window::{Notes, Samples, Window},
        },
        value::Point,
    };
    use model::sample::SampleBuffer;
    use proptest::prelude::*;

    type Kernel = fn(&Window<'_>, &mut Notes<'_>) -> Option<Point>;

    /// What a function makes of each window for itself.
    fn of_windows(buffer: &SampleBuffer, ends: &[i64], range_ms: i64, function: Kernel) -> Vec<(usize, f64)> {
        let mut results = Vec::new();
        for (step, &end) in ends.iter().enumerate() {
            let start = end - range_ms;
            let inside = |at: &i64| *at > start && *at <= end;
            let from = buffer.timestamps.iter().position(inside).unwrap_or(0);
            let count = buffer.timestamps.iter().filter(|at| inside(at)).count();
            if count == 0 {
                continue;
            }
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
            if let Some(Point::Float(value)) = function(&window, &mut notes) {
                results.push((step, value));
            }
        }
        results
    }

    fn one_by_one(buffer: &SampleBuffer, ends: &[i64], range_ms: i64, flavour: Flavour) -> Vec<(usize, u64)> {
        let function = match flavour {
            RATE => rate::rate,
            INCREASE => rate::increase,
            _ => rate::delta,
        };
        let results = of_windows(buffer, ends, range_ms, function);
        results
            .into_iter()
            .map(|(step, value)| (step, value.to_bits()))
            .collect()
    }

    proptest! {
        #[test]
        fn all_at_once_is_the_same_as_one_by_one(
            gaps in prop::collection::vec(prop_oneof![Just(15_000i64), 1i64..60_000], 0..60),
            steps in prop::collection::vec(-5i64..50, 60),
            begin in 0.0f64..1e4,
            (step_ms, range_ms) in (prop_oneof![Just(15_000i64), Just(30_000), 0i64..40_000], prop_oneof![Just(60_000i64), 1i64..200_000]),
        ) {
            let mut pace = Pace::default();
            let mut buffer = SampleBuffer::default();
            let (mut at, mut value) = (1_000_000, begin);
            for (gap, step) in gaps.iter().zip(&steps) {
                at += gap;
                value = if *step < 0 { 0.0 } else { value + *step as f64 };
                buffer.push_float(at, value);
            }
            let ends: Vec<i64> = (0..100).map(|step| 1_000_000 + step * step_ms).collect();
            let grid = Grid { start: ends[0], step_ms, count: ends.len() };
            let ask = |sweep| Ask { sweep, range_ms, grid, shift: Shift::default() };
            let series = Series { times: &buffer.timestamps, values: &buffer.values };
            for flavour in [RATE, INCREASE, DELTA] {
                let (cells, _) = pace.sweep(series, ask(Sweep::Extrapolated(flavour)));
                let results: Vec<_> = cells.floats().map(|(step, value)| (step, value.to_bits())).collect();
                prop_assert_eq!(&results, &one_by_one(&buffer, &ends, range_ms, flavour));
            }
            let inside = |end: i64| buffer.timestamps.iter().zip(&buffer.values).filter(move |(at, _)| **at > end - range_ms && **at <= end);
            for sweep in [Sweep::Last, Sweep::First, Sweep::Count, Sweep::Present] {
                let (cells, looked) = pace.sweep(series, ask(sweep));
                let expected = ends.iter().enumerate().filter_map(|(step, &end)| {
                    let (first, last) = (inside(end).next()?, inside(end).next_back()?);
                    Some((step, match sweep {
                        Sweep::Last => *last.1,
                        Sweep::First => *first.1,
                        Sweep::Count => inside(end).count() as f64,
                        _ => 1.0,
                    }))
                });
                prop_assert_eq!(cells.floats().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
                let counts = || ends.iter().map(|&end| inside(end).count());
                prop_assert_eq!(looked.samples, counts().sum::<usize>() as u64);
                prop_assert_eq!(looked.most, counts().max().unwrap_or(0));
                let read = buffer.timestamps.iter().filter(|at| ends.iter().any(|end| **at > end - range_ms && **at <= *end));
                prop_assert_eq!(looked.read, read.count() as u64);
            }
            // Some are infinite, or none.
            let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -0.0, 0.1, f64::MIN, 1e300];
            let values = steps.iter().zip(&buffer.values).map(|(step, value)| if *step < 0 { odd[value.to_bits() as usize % 8] } else { *value });
            let values: Vec<f64> = values.chain(buffer.values.iter().skip(steps.len()).copied()).collect();
            let odd = SampleBuffer { values: values.clone(), ..buffer.clone() };
            for (fold, function) in [(Fold::Sum, over_time::sum as Kernel), (Fold::Mean, over_time::average), (Fold::Greatest, over_time::max), (Fold::Least, over_time::min)] {
                for (buffer, values) in [(&buffer, &buffer.values), (&odd, &values)] {
                    let series = Series { times: &buffer.timestamps, values };
                    let (cells, _) = pace.sweep(series, ask(Sweep::Folded(fold)));
                    let plain = |(step, value): (usize, f64)| (step, if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() });
                    let results: Vec<_> = cells.floats().map(plain).collect();
                    let expected = of_windows(buffer, &ends, range_ms, function);
                    prop_assert_eq!(results, expected.into_iter().map(plain).collect::<Vec<_>>());
                }
            }
        }
    }
}
