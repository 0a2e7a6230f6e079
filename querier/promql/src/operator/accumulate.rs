//! What an aggregation knows about a group while its series come by, step by step.

use crate::{
    annotation::Note,
    ast::AggregateOp,
    function::over_time::{HistogramTotal, Mean},
    operator::{
        column::{Cell, Cells},
        metric_name,
    },
    value::Point,
};
use hashbrown::{HashMap, hash_map::Entry};
use model::{
    histogram::{Histogram, arithmetic::IncompatibleSchemas, compensated::kahan_add},
    label::Labels,
};
use std::sync::Arc;

/// A group so far.
pub(super) enum Accumulator {
    Sum(Totals, Sums),
    Mean(Totals, Vec<Mean>),
    /// Number of series, or else 1 where there are any.
    Count(Vec<u32>, bool),
    /// Greatest or else least value.
    Extreme(Vec<Option<f64>>, bool),
    /// Standard deviation or else variance, from count, mean and sum of squared distances (Welford's method).
    Spread(Vec<(f64, f64, f64)>, bool),
}

/// What was met by step, and histograms that are added up.
pub(super) struct Totals {
    met: Vec<u8>,
    histograms: HashMap<usize, HistogramTotal, foldhash::fast::RandomState>,
}

/// Sums of floats by step, and what they are too small to hold: columns, so that several steps are added at once.
pub(super) struct Sums {
    sums: Vec<f64>,
    errors: Vec<f64>,
}

const FLOAT: u8 = 1;
const HISTOGRAM: u8 = 2;
const INCOMPATIBLE: u8 = 4;

impl Accumulator {
    /// A group without series; `None` for aggregations that need all series at once.
    pub(super) fn new(op: AggregateOp, steps: usize) -> Option<Self> {
        Some(match op {
            AggregateOp::Sum => {
                // Zero is not neutral: added to a negative zero it makes a positive one.
                let (sums, errors) = (vec![-0.0; steps], vec![0.0; steps]);
                Self::Sum(Totals::new(steps), Sums { sums, errors })
            }
            AggregateOp::Avg => Self::Mean(Totals::new(steps), vec![Mean::new(0.0); steps]),
            AggregateOp::Count => Self::Count(vec![0; steps], true),
            AggregateOp::Group => Self::Count(vec![0; steps], false),
            AggregateOp::Max => Self::Extreme(vec![None; steps], true),
            AggregateOp::Min => Self::Extreme(vec![None; steps], false),
            AggregateOp::StdDev => Self::Spread(vec![(0.0, 0.0, 0.0); steps], true),
            AggregateOp::StdVar => Self::Spread(vec![(0.0, 0.0, 0.0); steps], false),
            AggregateOp::BottomK
            | AggregateOp::CountValues
            | AggregateOp::LimitK
            | AggregateOp::LimitRatio
            | AggregateOp::Quantile
            | AggregateOp::TopK => return None,
        })
    }

    /// Adds the cells of a series.
    pub(super) fn add(&mut self, op: AggregateOp, cells: &Cells, labels: &Labels, note: &mut dyn FnMut(Note<'_>)) {
        match self {
            Self::Sum(totals, sums) => {
                totals.add_histograms(cells, labels, HistogramTotal::add_to_sum, note);
                sums.add(cells, &mut totals.met);
            }
            Self::Mean(totals, means) => {
                totals.add_histograms(cells, labels, HistogramTotal::add_to_mean, note);
                for (step, value) in cells.floats() {
                    if totals.met[step] & FLOAT == 0 {
                        totals.met[step] |= FLOAT;
                        means[step] = Mean::new(value);
                    } else {
                        means[step].add(value);
                    }
                }
            }
            Self::Count(counts, _) => {
                if cells.has_histograms() {
                    cells.iter().for_each(|(step, _)| counts[step] += 1);
                } else if cells.plain_floats().is_some() {
                    counts[cells.steps()].iter_mut().for_each(|count| *count += 1);
                } else {
                    cells.floats().for_each(|(step, _)| counts[step] += 1);
                }
            }
            Self::Extreme(best, greatest) => {
                note_ignored(op, cells, note);
                for (step, value) in cells.floats() {
                    match &mut best[step] {
                        Some(best) => {
                            let better = if *greatest { value > *best } else { value < *best };
                            if better || best.is_nan() {
                                *best = value;
                            }
                        }
                        none => *none = Some(value),
                    }
                }
            }
            Self::Spread(spreads, _) => {
                note_ignored(op, cells, note);
                cells
                    .floats()
                    .for_each(|(step, value)| add_to_spread(&mut spreads[step], value));
            }
        }
    }

    /// The cells of the group.
    pub(super) fn finish(self, note: &mut dyn FnMut(Note<'_>)) -> Cells {
        match self {
            Self::Sum(totals, Sums { sums, errors }) => {
                totals.finish(HistogramTotal::sum, |step| sums[step] + errors[step], note)
            }
            Self::Mean(totals, means) => totals.finish(HistogramTotal::mean, |step| means[step].finish(), note),
            Self::Count(counts, number) => of_steps(counts, |count| {
                (count > 0).then(|| if number { f64::from(count) } else { 1.0 })
            }),
            Self::Extreme(best, _) => of_steps(best, |best| best),
            Self::Spread(spreads, root) => of_steps(spreads, |(count, _, squares)| {
                let variance = squares / count;
                (count > 0.0).then(|| if root { variance.sqrt() } else { variance })
            }),
        }
    }
}

fn of_steps<T>(steps: Vec<T>, value: impl Fn(T) -> Option<f64>) -> Cells {
    let mut cells = Cells::default();
    for (step, item) in steps.into_iter().enumerate() {
        if let Some(value) = value(item) {
            cells.push_float(step, value);
        }
    }
    cells
}

fn note_ignored(op: AggregateOp, cells: &Cells, note: &mut dyn FnMut(Note<'_>)) {
    if cells.has_histograms() {
        note(Note::HistogramIgnored(op));
    }
}

fn add_to_spread((count, mean, squares): &mut (f64, f64, f64), value: f64) {
    *count += 1.0;
    if *count == 1.0 {
        *mean = value;
        *squares = if value.is_finite() { 0.0 } else { f64::NAN };
        return;
    }
    let distance = value - *mean;
    *mean += distance / *count;
    *squares += distance * (value - *mean);
}

impl Sums {
    /// Adds the floats of a series, and marks the steps at which it has some.
    fn add(&mut self, cells: &Cells, met: &mut [u8]) {
        let steps = cells.steps();
        let (sums, errors) = (&mut self.sums[steps.clone()], &mut self.errors[steps.clone()]);
        let met = &mut met[steps];
        if let Some(values) = cells.plain_floats() {
            met.iter_mut().for_each(|met| *met |= FLOAT);
            for ((sum, error), value) in sums.iter_mut().zip(errors).zip(values) {
                kahan_add(*value, sum, error);
            }
            return;
        }
        for (((sum, error), met), value) in sums.iter_mut().zip(errors).zip(met).zip(cells.marked_floats()) {
            if let Some(value) = value {
                *met |= FLOAT;
                kahan_add(value, sum, error);
            }
        }
    }
}

impl Totals {
    fn new(steps: usize) -> Self {
        Self {
            met: vec![0; steps],
            histograms: HashMap::default(),
        }
    }

    fn add_histograms(
        &mut self,
        cells: &Cells,
        labels: &Labels,
        add: fn(&mut HistogramTotal, &Histogram) -> Result<(), IncompatibleSchemas>,
        note: &mut dyn FnMut(Note<'_>),
    ) {
        if !cells.has_histograms() {
            return;
        }
        for (step, cell) in cells.iter() {
            let Cell::Histogram(histogram) = cell else { continue };
            self.met[step] |= HISTOGRAM;
            if self.met[step] & INCOMPATIBLE != 0 {
                continue;
            }
            match self.histograms.entry(step) {
                Entry::Vacant(vacant) => {
                    vacant.insert(HistogramTotal::new(histogram));
                }
                Entry::Occupied(mut total) => {
                    if add(total.get_mut(), histogram).is_err() {
                        self.met[step] |= INCOMPATIBLE;
                        note(Note::ExponentialAndCustom(metric_name(labels).into()));
                    }
                }
            }
        }
    }

    fn finish(
        mut self,
        histogram: fn(HistogramTotal) -> Histogram,
        float: impl Fn(usize) -> f64,
        note: &mut dyn FnMut(Note<'_>),
    ) -> Cells {
        let mut cells = Cells::default();
        for (step, &met) in self.met.iter().enumerate() {
            let total = if met & HISTOGRAM == 0 {
                None
            } else {
                self.histograms.remove(&step)
            };
            if let Some(total) = &total {
                total.notes().for_each(&mut *note);
            }
            if met & FLOAT != 0 && met & HISTOGRAM != 0 {
                note(Note::FloatsAndHistogramsAggregated);
            } else if met & FLOAT != 0 {
                cells.push_float(step, float(step));
            } else if met & INCOMPATIBLE == 0
                && let Some(total) = total
            {
                cells.push(step, Point::Histogram(Arc::new(histogram(total))));
            }
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(op: AggregateOp, columns: &[&[f64]], expected: &[f64], expected_notes: &[&str]) {
        let steps = columns.iter().map(|column| column.len()).max().unwrap_or(0);
        let mut notes = Vec::new();
        let mut note = |note: Note<'_>| notes.push(note.to_string());
        let mut accumulator = Accumulator::new(op, steps).unwrap();
        for column in columns {
            let mut cells = Cells::default();
            column
                .iter()
                .enumerate()
                .for_each(|(step, &value)| cells.push_float(step, value));
            accumulator.add(op, &cells, &Labels::empty(), &mut note);
        }
        let cells = accumulator.finish(&mut note);
        let found: Vec<f64> = cells.floats().map(|(_, value)| value).collect();
        let same = |a: &f64, b: &f64| a == b || (a.is_nan() && b.is_nan());
        let all_same = found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| same(a, b));
        assert!(all_same, "{op} of {columns:?}: {found:?}, expected {expected:?}");
        assert_eq!(notes, expected_notes);
    }

    #[test]
    fn floats() {
        const NAN: f64 = f64::NAN;
        let columns: [&[f64]; 3] = [&[1.0, 1e100, NAN], &[2.0, 1.0, 2.0], &[6.0, -1e100]];
        check(AggregateOp::Sum, &columns, &[9.0, 1.0, NAN], &[]);
        check(AggregateOp::Avg, &columns, &[3.0, 1.0 / 3.0, NAN], &[]);
        check(AggregateOp::Count, &columns, &[3.0, 3.0, 2.0], &[]);
        check(AggregateOp::Group, &columns, &[1.0, 1.0, 1.0], &[]);
        check(AggregateOp::Max, &columns, &[6.0, 1e100, 2.0], &[]);
        check(AggregateOp::Min, &columns, &[1.0, -1e100, 2.0], &[]);
        check(AggregateOp::StdVar, &[&[1.0, NAN], &[3.0, 1.0]], &[1.0, NAN], &[]);
        check(AggregateOp::StdDev, &[&[1.0], &[5.0]], &[2.0], &[]);
        check(AggregateOp::StdDev, &[&[f64::INFINITY]], &[NAN], &[]);
        assert!(Accumulator::new(AggregateOp::Quantile, 1).is_none());
    }

    #[test]
    fn floats_and_histograms_do_not_add_up() {
        let mut notes = Vec::new();
        let mut note = |note: Note<'_>| notes.push(note.to_string());
        let mut accumulator = Accumulator::new(AggregateOp::Sum, 2).unwrap();
        let (mut floats, mut histograms) = (Cells::default(), Cells::default());
        floats.push_float(0, 1.0);
        let one = Arc::new(Histogram {
            count: 1.0,
            ..Histogram::default()
        });
        (0..2).for_each(|step| histograms.push_histogram(step, one.clone()));
        for cells in [&floats, &histograms, &histograms] {
            accumulator.add(AggregateOp::Sum, cells, &Labels::empty(), &mut note);
        }
        let cells = accumulator.finish(&mut note);
        assert!(matches!(cells.at(0), Cell::Absent));
        assert!(matches!(cells.at(1), Cell::Histogram(total) if total.count == 2.0));
        assert_eq!(
            notes,
            ["PromQL warning: encountered a mix of histograms and floats for aggregation"]
        );
    }
}
