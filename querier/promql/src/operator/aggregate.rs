//! Aggregations: the series of a group become one.
//!
//! Groups are formed once per series. Values are accumulated column by column, so that at each step they come in the order of the
//! series, which decides the last bits of sums.

use crate::{
    annotation::Note,
    ast::{AggregateOp, Span},
    function::{
        math::quantile,
        over_time::{HistogramTotal, Mean},
    },
    operator::{
        Evaluator,
        column::{Cell, Cells, Column, Matrix, is_metadata},
        metric_name,
        scalar::Scalars,
    },
    plan::{Aggregate, Grid},
    query::QueryError,
    value::Point,
};
use hashbrown::{HashMap, hash_map::Entry};
use model::{histogram::compensated::kahan_add, label::Labels};
use std::sync::Arc;

/// Series that are aggregated into one.
pub(super) struct Group {
    /// Labels of the result.
    pub(super) labels: Labels,
    /// Whether any of the series wishes its name to be dropped.
    pub(super) drop_name: bool,
    /// Positions of the series.
    pub(super) members: Vec<usize>,
}

/// The groups in the order of their first series.
pub(super) fn groups(columns: &[Column], aggregate: &Aggregate) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<Labels, usize, foldhash::fast::RandomState> = HashMap::default();
    for (index, column) in columns.iter().enumerate() {
        let place = match places.entry(group_labels(&column.labels, &aggregate.grouping, aggregate.without)) {
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(vacant) => {
                groups.push(Group {
                    labels: vacant.key().clone(),
                    drop_name: false,
                    members: Vec::new(),
                });
                *vacant.insert(groups.len() - 1)
            }
        };
        groups[place].members.push(index);
        groups[place].drop_name |= column.drop_name;
    }
    groups
}

/// The labels that name the group of a series.
pub(super) fn group_labels(labels: &Labels, grouping: &[String], without: bool) -> Labels {
    let named = |name: &str| grouping.iter().any(|label| label == name);
    if !without && grouping.is_empty() {
        return Labels::empty();
    }
    if without {
        labels.without(|name| named(name) || is_metadata(name))
    } else {
        labels.filtered(named)
    }
}

impl Evaluator<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &Aggregate, grid: Grid) -> Result<Matrix, QueryError> {
        use AggregateOp as Op;
        match aggregate.op {
            Op::TopK | Op::BottomK | Op::LimitK | Op::LimitRatio => return self.choose(aggregate, grid),
            Op::CountValues => return self.count_values(aggregate, grid),
            Op::Avg | Op::Count | Op::Group | Op::Max | Op::Min | Op::Quantile | Op::StdDev | Op::StdVar | Op::Sum => {}
        }
        let phi = match (&aggregate.param, aggregate.op) {
            (Some(param), Op::Quantile) => {
                let phi = self.scalar(param, grid)?;
                self.note_invalid_quantiles(&phi, param.span);
                Some(phi)
            }
            _ => None,
        };
        let matrix = self.vector(&aggregate.inner, grid)?;
        let groups = groups(&matrix.columns, aggregate);
        let mut columns = Vec::with_capacity(groups.len());
        for group in groups {
            self.shared.cancel.check()?;
            let members = group.members.iter().map(|&index| &matrix.columns[index]);
            let mut context = Context {
                op: aggregate.op,
                steps: grid.count,
                span: aggregate.inner_span,
                evaluator: self,
            };
            let cells = match (aggregate.op, &phi) {
                (Op::Sum, _) => context.sum(members),
                (Op::Avg, _) => context.average(members),
                (Op::Count, _) => context.count(members, |count| count),
                (Op::Group, _) => context.count(members, |_| 1.0),
                (Op::Max, _) => context.extreme(members, |value, best| value > best),
                (Op::Min, _) => context.extreme(members, |value, best| value < best),
                (Op::StdDev, _) => context.spread(members, f64::sqrt),
                (Op::StdVar, _) => context.spread(members, |variance| variance),
                (Op::Quantile, Some(phi)) => context.quantile(members.collect(), phi),
                (op, _) => return Err(QueryError::Internal(format!("{op} is not evaluated here"))),
            };
            if !cells.is_empty() {
                columns.push(Column {
                    labels: group.labels,
                    drop_name: group.drop_name,
                    cells,
                });
            }
        }
        drop(matrix);
        self.matrix(columns)
    }

    fn note_invalid_quantiles(&mut self, phi: &Scalars, span: Span) {
        let values = phi.values();
        let mut note = |phi: f64| self.notes.add(Note::InvalidQuantile(phi.into()), span);
        if values.iter().any(|phi| phi.is_nan()) {
            note(f64::NAN);
        }
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        if most > 1.0 && most >= least {
            note(most);
        }
        if least < 0.0 && most >= least {
            note(least);
        }
    }
}

/// The aggregation of one group.
struct Context<'e, 's> {
    op: AggregateOp,
    steps: usize,
    /// Where the query speaks of what is aggregated.
    span: Span,
    evaluator: &'e mut Evaluator<'s>,
}

/// What was met at a step.
const FLOAT: u8 = 1;
const HISTOGRAM: u8 = 2;
const INCOMPATIBLE: u8 = 4;

impl Context<'_, '_> {
    fn note(&mut self, note: Note<'_>) {
        self.evaluator.notes.add(note, self.span);
    }

    fn note_ignored_histogram(&mut self) {
        self.note(Note::HistogramIgnored(self.op));
    }

    fn sum<'c>(&mut self, members: impl Iterator<Item = &'c Column>) -> Cells {
        let mut met = vec![0u8; self.steps];
        let mut sums = vec![0.0; self.steps];
        let mut errors = vec![0.0; self.steps];
        let mut totals = Totals::default();
        for column in members {
            if column.cells.has_histograms() {
                self.add_histograms(column, &mut met, &mut totals, HistogramTotal::add_to_sum);
            }
            for (step, value) in column.cells.floats() {
                if met[step] & FLOAT == 0 {
                    met[step] |= FLOAT;
                    sums[step] = value;
                } else {
                    kahan_add(value, &mut sums[step], &mut errors[step]);
                }
            }
        }
        self.finish(&met, totals, HistogramTotal::sum, |step| sums[step] + errors[step])
    }

    fn average<'c>(&mut self, members: impl Iterator<Item = &'c Column>) -> Cells {
        let mut met = vec![0u8; self.steps];
        let mut means = vec![Mean::new(0.0); self.steps];
        let mut totals = Totals::default();
        for column in members {
            if column.cells.has_histograms() {
                self.add_histograms(column, &mut met, &mut totals, HistogramTotal::add_to_mean);
            }
            for (step, value) in column.cells.floats() {
                if met[step] & FLOAT == 0 {
                    met[step] |= FLOAT;
                    means[step] = Mean::new(value);
                } else {
                    means[step].add(value);
                }
            }
        }
        self.finish(&met, totals, HistogramTotal::mean, |step| means[step].finish())
    }

    fn add_histograms(
        &mut self,
        column: &Column,
        met: &mut [u8],
        totals: &mut Totals,
        add: fn(
            &mut HistogramTotal,
            &model::histogram::Histogram,
        ) -> Result<(), model::histogram::arithmetic::IncompatibleSchemas>,
    ) {
        for (step, cell) in column.cells.iter() {
            let Cell::Histogram(histogram) = cell else { continue };
            met[step] |= HISTOGRAM;
            if met[step] & INCOMPATIBLE != 0 {
                continue;
            }
            match totals.entry(step) {
                Entry::Vacant(vacant) => {
                    vacant.insert(HistogramTotal::new(histogram));
                }
                Entry::Occupied(mut total) => {
                    if add(total.get_mut(), histogram).is_err() {
                        met[step] |= INCOMPATIBLE;
                        self.note(Note::ExponentialAndCustom(metric_name(&column.labels).into()));
                    }
                }
            }
        }
    }

    fn finish(
        &mut self,
        met: &[u8],
        mut totals: Totals,
        histogram: fn(HistogramTotal) -> model::histogram::Histogram,
        float: impl Fn(usize) -> f64,
    ) -> Cells {
        let mut cells = Cells::default();
        for (step, &met) in met.iter().enumerate() {
            let total = totals.remove(&step);
            if let Some(total) = &total {
                total.notes().for_each(|note| self.note(note));
            }
            if met & FLOAT != 0 && met & HISTOGRAM != 0 {
                self.note(Note::FloatsAndHistogramsAggregated);
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

    fn count<'c>(&mut self, members: impl Iterator<Item = &'c Column>, result: fn(f64) -> f64) -> Cells {
        let mut counts = vec![0u32; self.steps];
        for (step, _) in members.flat_map(|column| column.cells.iter()) {
            counts[step] += 1;
        }
        let mut cells = Cells::default();
        for (step, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            cells.push_float(step, result(f64::from(count)));
        }
        cells
    }

    fn extreme<'c>(&mut self, members: impl Iterator<Item = &'c Column>, better: fn(f64, f64) -> bool) -> Cells {
        let mut best: Vec<Option<f64>> = vec![None; self.steps];
        for column in members {
            if column.cells.has_histograms() {
                self.note_ignored_histogram();
            }
            for (step, value) in column.cells.floats() {
                match &mut best[step] {
                    Some(best) if better(value, *best) || best.is_nan() => *best = value,
                    Some(_) => {}
                    none => *none = Some(value),
                }
            }
        }
        let mut cells = Cells::default();
        for (step, value) in best
            .into_iter()
            .enumerate()
            .filter_map(|(step, best)| Some((step, best?)))
        {
            cells.push_float(step, value);
        }
        cells
    }

    /// Variance by Welford's method.
    fn spread<'c>(&mut self, members: impl Iterator<Item = &'c Column>, result: fn(f64) -> f64) -> Cells {
        // Count, mean, sum of squared distances.
        let mut spreads = vec![(0.0, 0.0, 0.0); self.steps];
        for column in members {
            if column.cells.has_histograms() {
                self.note_ignored_histogram();
            }
            for (step, value) in column.cells.floats() {
                let (count, mean, squares) = &mut spreads[step];
                *count += 1.0;
                if *count == 1.0 {
                    *mean = value;
                    *squares = if value.is_finite() { 0.0 } else { f64::NAN };
                    continue;
                }
                let distance = value - *mean;
                *mean += distance / *count;
                *squares += distance * (value - *mean);
            }
        }
        let mut cells = Cells::default();
        for (step, &(count, _, squares)) in spreads.iter().enumerate().filter(|(_, spread)| spread.0 > 0.0) {
            cells.push_float(step, result(squares / count));
        }
        cells
    }

    fn quantile(&mut self, members: Vec<&Column>, phi: &Scalars) -> Cells {
        if members.iter().any(|column| column.cells.has_histograms()) {
            self.note_ignored_histogram();
        }
        let mut cells = Cells::default();
        let mut values = Vec::with_capacity(members.len());
        for step in 0..self.steps {
            values.clear();
            values.extend(members.iter().filter_map(|column| match column.cells.at(step) {
                Cell::Float(value) => Some(value),
                Cell::Absent | Cell::Histogram(_) => None,
            }));
            if !values.is_empty() {
                cells.push_float(step, quantile(phi.at(step), &mut values));
            }
        }
        cells
    }
}

/// Histograms by step.
type Totals = HashMap<usize, HistogramTotal, foldhash::fast::RandomState>;
