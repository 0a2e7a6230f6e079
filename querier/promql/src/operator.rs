//! Evaluating a plan: every node becomes a matrix of columns over all steps, or a number per step.
//!
//! An operator works on whole columns: labels are looked at once per series, not once per step. Work on many series
//! is spread over the cores, with results in the order of the series ([`Evaluator::each`]).

pub(crate) mod budget;
pub(crate) mod counts;
pub(crate) mod column;
mod absent;
mod accumulate;
mod aggregate;
mod binary;
mod call;
mod count_values;
mod finish;
mod grouping;
mod histogram;
mod info;
mod instant;
mod label;
mod matching;
mod range;
mod rank;
mod scalar;
mod set;
mod sort;
mod sweep;

use crate::{
    annotation::Annotations,
    operator::{
        budget::{Budget, Charge},
        column::{Matrix, quieted},
        counts::Counts,
    },
    plan::{Grid, Kind, Node},
    query::{Cancel, QueryError},
};
use model::{
    histogram::{Histogram, ResetHint},
    label::Labels,
    sample::{STALE_NAN_BITS, SampleBuffer, is_stale},
    select::Series,
    time::TimeRange,
};
use rayon::prelude::*;
use scalar::Scalars;
use std::sync::Arc;

pub(crate) use finish::value;

/// The series of a selection.
pub(crate) struct Selected {
    /// The series, in the order in which the source gave them.
    pub(crate) series: Vec<Series>,
    /// When their samples are needed.
    pub(crate) range: TimeRange,
    /// Whether count and sum of histograms are enough.
    pub(crate) stats_only: bool,
}

/// How a query is evaluated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How far instant selectors look back.
    pub(crate) lookback_ms: i64,
    /// Whether names are dropped at the end only.
    pub(crate) delayed_name_removal: bool,
    /// Whether start timestamps tell when counters began.
    pub(crate) use_start_timestamps: bool,
    /// Whether the label `__type__` tells what a counter is.
    pub(crate) type_and_unit_labels: bool,
}

/// What all parts of an evaluation share.
pub(crate) struct Shared<'a> {
    pub(crate) settings: Settings,
    pub(crate) selected: &'a [Selected],
    pub(crate) cancel: &'a Cancel,
    pub(crate) budget: Arc<Budget>,
    pub(crate) counts: Counts,
}

/// Evaluates nodes.
pub(crate) struct Evaluator<'a> {
    pub(crate) shared: Shared<'a>,
    /// What there is to say about the result.
    pub(crate) notes: Annotations,
}

/// What one thread needs for work on series; its memory is used again from series to series.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) buffer: SampleBuffer,
    pub(crate) notes: Annotations,
    /// Where windows lie, for functions that look at all of them at once.
    pub(crate) pace: sweep::Pace,
    /// Samples looked at and read that [`Shared::counts`] was not told of yet: threads that count together wait for each other.
    counted: [u64; 2],
}

impl Scratch {
    /// Counts the samples of one series at all steps, see [`Counts::add`].
    pub(crate) fn count(&mut self, queryable: u64, read: u64) {
        let [all, all_read] = &mut self.counted;
        (*all, *all_read) = (*all + queryable, *all_read + read);
    }
}

/// Fewer series than this are not worth waking other threads for.
const PARALLEL_SERIES_MIN: usize = 64;

/// Series that are spread over the threads at once. The threads are shared by all queries and finish what they have begun, so a
/// query with more series comes back in line after each turn, and small ones get in between.
const PARALLEL_SERIES_TURN: usize = 4096;

/// Series that a thread takes at once, at least.
const PARALLEL_SERIES_CHUNK: usize = 32;

/// Parts of a turn: enough for threads to help each other out with.
const PARALLEL_PARTS: usize = 64;

impl Evaluator<'_> {
    /// Evaluates a node that is a vector.
    pub(crate) fn vector(&mut self, node: &Node, grid: Grid) -> Result<Matrix, QueryError> {
        self.shared.cancel.check()?;
        if grid.count == 0 {
            return Ok(Matrix::default());
        }
        self.check_steps(grid)?;
        match &node.kind {
            Kind::Instant(instant) => self.instant(instant, node.span, grid),
            Kind::Call(call) => self.call(call, node.span, grid),
            Kind::Info(info) => self.info(info, grid),
            Kind::Aggregate(aggregate) => self.aggregate(aggregate, node.span, grid),
            Kind::Binary(binary) => self.binary(binary, node.span, grid),
            Kind::Negate(inner) => self.negate(inner, grid),
            Kind::Invariant(inner) => {
                let once = self.once(grid, |evaluator, first| evaluator.vector(inner, first))?;
                self.repeated(once, grid)
            }
            Kind::Number(_) | Kind::Text(_) | Kind::Window(_) | Kind::Subquery(_) => {
                Err(QueryError::Internal("an instant vector was expected".into()))
            }
        }
    }

    /// Evaluates a node that is a scalar.
    pub(crate) fn scalar(&mut self, node: &Node, grid: Grid) -> Result<Scalars, QueryError> {
        self.shared.cancel.check()?;
        self.check_steps(grid)?;
        match &node.kind {
            Kind::Number(value) => Ok(Scalars::Constant(*value)),
            Kind::Invariant(inner) => {
                let once = self.once(grid, |evaluator, first| evaluator.scalar(inner, first))?;
                Ok(Scalars::Constant(once.at(0)))
            }
            Kind::Negate(inner) => Ok(self.scalar(inner, grid)?.map(|value| -value)),
            Kind::Binary(binary) => self.scalar_binary(binary, grid),
            Kind::Call(call) => self.scalar_call(call, grid),
            Kind::Text(_)
            | Kind::Instant(_)
            | Kind::Window(_)
            | Kind::Subquery(_)
            | Kind::Info(_)
            | Kind::Aggregate(_) => Err(QueryError::Internal("a scalar was expected".into())),
        }
    }

    /// What is evaluated at the first step for all of them; its samples count for each.
    fn once<R>(
        &mut self,
        grid: Grid,
        work: impl FnOnce(&mut Self, Grid) -> Result<R, QueryError>,
    ) -> Result<R, QueryError> {
        let counts = self.shared.counts.apart(1);
        let all = std::mem::replace(&mut self.shared.counts, counts);
        let result = work(self, Grid::instant(grid.start));
        let once = std::mem::replace(&mut self.shared.counts, all);
        self.shared.counts.repeat(&once, grid.count);
        result
    }

    /// A grid with more steps than samples may be held cannot have a result.
    fn check_steps(&self, grid: Grid) -> Result<(), QueryError> {
        if grid.count > self.shared.budget.max() {
            Err(QueryError::TooManySamples)
        } else {
            Ok(())
        }
    }

    /// Works on each item, on several threads when there are many; results and notes are in the order of the items.
    pub(crate) fn each<T: Sync, R: Send>(
        &mut self,
        items: &[T],
        work: impl Fn(&Shared<'_>, &T, &mut Scratch) -> Result<R, QueryError> + Sync,
    ) -> Result<Vec<R>, QueryError> {
        let shared = &self.shared;
        let run = |scratch: &mut Scratch, items: &[T]| {
            let mut results = Vec::with_capacity(items.len());
            for some in items.chunks(PARALLEL_SERIES_CHUNK) {
                let mut work = |item: &T| work(shared, item, scratch).map(|result| results.push(result));
                let done = shared.cancel.check().and_then(|()| some.iter().try_for_each(&mut work));
                let [queryable, read] = std::mem::take(&mut scratch.counted);
                shared.counts.add(queryable, read);
                if let Err(error) = done {
                    return (Err(error), std::mem::take(&mut scratch.notes));
                }
            }
            (Ok(results), std::mem::take(&mut scratch.notes))
        };
        let mut all = Vec::with_capacity(items.len());
        for turn in items.chunks(PARALLEL_SERIES_TURN) {
            let parts = if turn.len() < PARALLEL_SERIES_MIN {
                vec![run(&mut Scratch::default(), turn)]
            } else {
                let chunks = turn.par_chunks((turn.len() / PARALLEL_PARTS).max(PARALLEL_SERIES_CHUNK));
                chunks.map_init(Scratch::default, run).collect()
            };
            for (results, notes) in parts {
                self.notes.merge(notes);
                all.append(&mut results?);
            }
        }
        Ok(all)
    }

    /// A matrix of the columns, its samples held.
    pub(crate) fn matrix(&self, columns: Vec<column::Column>) -> Result<Matrix, QueryError> {
        let samples = columns.iter().map(|column| column.cells.samples()).sum();
        Ok(Matrix {
            columns,
            charge: self.shared.budget.take(samples)?,
        })
    }

    /// A matrix of the columns without their names, which are dropped now or, with delayed name removal, at the end of the query.
    /// Series that differ by nothing else become one.
    pub(crate) fn without_names(&self, mut columns: Vec<column::Column>) -> Result<Matrix, QueryError> {
        if self.shared.settings.delayed_name_removal {
            columns.iter_mut().for_each(|column| column.drop_name = true);
            return self.matrix(columns);
        }
        // Series of one metric differ by something else.
        let one_metric = column::same_metadata(&columns);
        columns
            .iter_mut()
            .for_each(|column| column.labels = column::without_metadata(&column.labels));
        self.matrix(if one_metric {
            columns
        } else {
            column::join_same_labels(columns)?
        })
    }

    /// Drops the names of a column, now or later.
    pub(crate) fn drop_name(&self, column: &mut column::Column) {
        if self.shared.settings.delayed_name_removal {
            column.drop_name = true;
        } else {
            column.labels = column::without_metadata(&column.labels);
        }
    }
}

/// The columns without what they took of the budget while they were made; whoever holds them charges them as a matrix.
pub(crate) fn uncharged(columns: Vec<Option<(column::Column, Charge)>>) -> Vec<column::Column> {
    columns.into_iter().flatten().map(|(column, _)| column).collect()
}

impl Shared<'_> {
    /// A column of one series with its charge: many are made before they are a matrix, and must not be too many by then.
    pub(crate) fn charged(
        &self,
        column: Option<column::Column>,
    ) -> Result<Option<(column::Column, Charge)>, QueryError> {
        let Some(column) = column else { return Ok(None) };
        let charge = self.budget.take(column.cells.weight())?;
        Ok(Some((column, charge)))
    }

    /// Reads the samples of a series into the buffer, cleaned for evaluation. Tells whether there may be stale markers among them.
    pub(crate) fn read(
        &self,
        selected: &Selected,
        series: &Series,
        buffer: &mut SampleBuffer,
    ) -> Result<bool, QueryError> {
        buffer.clear();
        series.samples.read(selected.range, buffer)?;
        let any_nan = any_nan(&buffer.values);
        if any_nan {
            for value in &mut buffer.values {
                if value.is_nan() && value.to_bits() != STALE_NAN_BITS {
                    *value = quieted(*value);
                }
            }
        }
        if selected.stats_only {
            forget_buckets(buffer);
        }
        Ok(any_nan || !buffer.histograms.is_empty())
    }
}

/// Keeps count and sum of histograms, and what their buckets have to say about resets.
fn forget_buckets(buffer: &mut SampleBuffer) {
    let mut before: Option<Arc<Histogram>> = None;
    for sample in &mut buffer.histograms {
        let whole = sample.histogram.clone();
        if is_stale(whole.sum) {
            continue;
        }
        let reset_hint = match (whole.reset_hint, &before) {
            (ResetHint::Unknown, Some(before)) if whole.is_reset_since(before) => ResetHint::Reset,
            (ResetHint::Unknown, Some(_)) => ResetHint::NotReset,
            (hint, _) => hint,
        };
        let stats = Histogram {
            reset_hint,
            schema: whole.schema,
            count: whole.count,
            sum: whole.sum,
            ..Histogram::default()
        };
        sample.histogram = Arc::new(stats);
        before = Some(whole);
    }
}

/// Whether there is a NaN. Looks at all values: without a branch for each, that is many at once.
fn any_nan(values: &[f64]) -> bool {
    values.iter().fold(false, |any, value| any | value.is_nan())
}

/// Removes stale markers: windows do not see them.
pub(crate) fn forget_stale(buffer: &mut SampleBuffer) {
    if any_nan(&buffer.values) && buffer.values.iter().any(|&value| is_stale(value)) {
        let keep: Vec<bool> = buffer.values.iter().map(|&value| !is_stale(value)).collect();
        retain(&mut buffer.timestamps, &keep);
        retain(&mut buffer.values, &keep);
        if !buffer.starts.is_empty() {
            retain(&mut buffer.starts, &keep);
        }
    }
    buffer.histograms.retain(|sample| !is_stale(sample.histogram.sum));
}

fn retain<T>(items: &mut Vec<T>, keep: &[bool]) {
    let mut keep = keep.iter();
    items.retain(|_| keep.next().copied().unwrap_or(true));
}

/// Whether all series have the same name, type and unit.
pub(crate) fn is_one_metric(series: &[Series]) -> bool {
    let same = |pair: &[Series]| column::metadata(&pair[0].labels).eq(column::metadata(&pair[1].labels));
    series.windows(2).all(same)
}

/// The metric name of a series, or the empty string.
pub(crate) fn metric_name(labels: &Labels) -> &str {
    labels.metric_name()
}
