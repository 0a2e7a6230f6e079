//! Aggregations: the series of a group become one.
//!
//! Groups are formed once per series. Values are accumulated series by series, so that at each step they come in the order of the
//! series, which decides the last bits of sums. What is aggregated straight from a selector or a range function is never held as a
//! whole: series are evaluated in batches, and each batch is forgotten once it is accumulated.

use crate::{
    annotation::{Annotations, Note},
    ast::{AggregateOp, Span},
    function::math::quantile,
    operator::{
        Evaluator, Scratch,
        accumulate::Accumulator,
        budget::Charge,
        column::{Cell, Cells, Column, Matrix, is_metadata, metadata},
        grouping::{GroupFinder, groups},
        instant::series_cells,
        range::is_range_function,
        scalar::Scalars,
    },
    plan::{Aggregate, Grid, Kind, Yield},
    query::QueryError,
};
use model::label::Labels;

/// Series that are evaluated before they are accumulated. Waking threads for few cells costs more than the cells, and many cells leave
/// the caches before they are accumulated.
fn batch(grid: Grid) -> usize {
    (BATCH_CELLS / grid.count.max(1)).clamp(512, 4096)
}

/// Cells of a batch: two megabytes.
const BATCH_CELLS: usize = 1 << 18;

impl Evaluator<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &Aggregate, span: Span, grid: Grid) -> Result<Matrix, QueryError> {
        use AggregateOp as Op;
        match aggregate.op {
            Op::TopK | Op::BottomK | Op::LimitK | Op::LimitRatio => self.choose(aggregate, span, grid),
            Op::CountValues => self.count_values(aggregate, grid),
            Op::Quantile => self.quantile(aggregate, grid),
            Op::Avg | Op::Count | Op::Group | Op::Max | Op::Min | Op::StdDev | Op::StdVar | Op::Sum => {
                self.accumulate(aggregate, grid)
            }
        }
    }

    fn accumulate(&mut self, aggregate: &Aggregate, grid: Grid) -> Result<Matrix, QueryError> {
        self.shared.cancel.check()?;
        let mut groups = Accumulation::new(self, aggregate, grid)?;
        match &aggregate.inner.kind {
            Kind::Instant(instant) if instant.yields == Yield::Value => {
                let (span, selected) = (aggregate.inner.span, &self.shared.selected[instant.selection]);
                for batch in selected.series.chunks(batch(grid)) {
                    let cells = self.each(batch, |shared, series, scratch: &mut Scratch| {
                        series_cells(shared, selected, series, instant, span, grid, scratch)
                    })?;
                    for (series, cells) in batch.iter().zip(&cells) {
                        groups.add(&series.labels, false, cells, &mut self.notes)?;
                    }
                }
            }
            Kind::Call(call) if is_range_function(call.function) => {
                let call = self.prepare_range_call(call, grid)?;
                let items = call.source.items();
                let delayed = self.shared.settings.delayed_name_removal;
                let drops_name = !call.keeps_name();
                let labels = items.iter().map(|item| item.labels());
                if drops_name && !delayed && !names_do_not_matter(aggregate, labels) {
                    drop(items);
                    let matrix = self.range_columns(&call, grid)?;
                    groups.add_all(&matrix, &mut self.notes)?;
                } else {
                    for batch in items.chunks(batch(grid)) {
                        let cells = self.each(batch, |shared, item, scratch: &mut Scratch| {
                            call.cells(shared, item, grid, scratch)
                        })?;
                        for (item, cells) in batch.iter().zip(&cells) {
                            groups.add(item.labels(), drops_name || item.drop_name(), cells, &mut self.notes)?;
                        }
                    }
                }
            }
            _ => {
                let matrix = self.vector(&aggregate.inner, grid)?;
                groups.add_all(&matrix, &mut self.notes)?;
            }
        }
        let columns = groups.finish(&mut self.notes);
        self.matrix(columns)
    }

    fn quantile(&mut self, aggregate: &Aggregate, grid: Grid) -> Result<Matrix, QueryError> {
        let Some(param) = &aggregate.param else {
            return Err(QueryError::Internal("quantile without a parameter".into()));
        };
        let phi = self.scalar(param, grid)?;
        self.note_invalid_quantiles(&phi, param.span);
        let matrix = self.vector(&aggregate.inner, grid)?;
        if matrix.columns.iter().any(|column| column.cells.has_histograms()) {
            self.notes
                .add(Note::HistogramIgnored(aggregate.op), aggregate.inner_span);
        }
        let mut columns = Vec::new();
        for group in groups(&matrix.columns, &aggregate.grouping, aggregate.without) {
            self.shared.cancel.check()?;
            let members: Vec<&Column> = group.members.iter().map(|&index| &matrix.columns[index]).collect();
            let cells = quantiles(&members, &phi, grid);
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

/// Whether groups are the same with and without the names of the series, which differ by other labels.
fn names_do_not_matter<'l>(aggregate: &Aggregate, labels: impl Iterator<Item = &'l Labels> + Clone) -> bool {
    let by_name = !aggregate.without && aggregate.grouping.iter().any(|name| is_metadata(name));
    let pairs = labels.clone().zip(labels.skip(1));
    !by_name && pairs.into_iter().all(|(one, other)| metadata(one).eq(metadata(other)))
}

/// The quantile of the floats of all columns at each step.
fn quantiles(columns: &[&Column], phi: &Scalars, grid: Grid) -> Cells {
    let mut cells = Cells::default();
    let mut values = Vec::with_capacity(columns.len());
    for step in 0..grid.count {
        values.clear();
        values.extend(columns.iter().filter_map(|column| match column.cells.at(step) {
            Cell::Float(value) => Some(value),
            Cell::Absent | Cell::Histogram(_) => None,
        }));
        if !values.is_empty() {
            cells.push_float(step, quantile(phi.at(step), &mut values));
        }
    }
    cells
}

/// All groups so far.
struct Accumulation<'a> {
    op: AggregateOp,
    /// Where the query speaks of what is aggregated.
    span: Span,
    steps: usize,
    finder: GroupFinder<'a>,
    /// By the numbers of the groups, with whether any series wishes its name to be dropped.
    groups: Vec<(Accumulator, bool)>,
    /// What the groups take of the query's budget.
    charge: Charge,
}

impl<'a> Accumulation<'a> {
    fn new(evaluator: &Evaluator<'_>, aggregate: &'a Aggregate, grid: Grid) -> Result<Self, QueryError> {
        Ok(Self {
            op: aggregate.op,
            span: aggregate.inner_span,
            steps: grid.count,
            finder: GroupFinder::new(&aggregate.grouping, aggregate.without),
            groups: Vec::new(),
            charge: evaluator.shared.budget.take(0)?,
        })
    }

    /// Adds a series to its group.
    fn add(
        &mut self,
        labels: &Labels,
        drop_name: bool,
        cells: &Cells,
        notes: &mut Annotations,
    ) -> Result<(), QueryError> {
        if cells.is_empty() {
            return Ok(());
        }
        let place = self.finder.place(labels);
        if place == self.groups.len() {
            self.charge.grow(self.steps)?;
            let accumulator = Accumulator::new(self.op, self.steps);
            let accumulator =
                accumulator.ok_or_else(|| QueryError::Internal(format!("{} cannot be accumulated", self.op)))?;
            self.groups.push((accumulator, false));
        }
        let (accumulator, any_drops_name) = &mut self.groups[place];
        *any_drops_name |= drop_name;
        accumulator.add(self.op, cells, labels, &mut |note| notes.add(note, self.span));
        Ok(())
    }

    fn add_all(&mut self, matrix: &Matrix, notes: &mut Annotations) -> Result<(), QueryError> {
        matrix
            .columns
            .iter()
            .try_for_each(|column| self.add(&column.labels, column.drop_name, &column.cells, notes))
    }

    /// The groups as columns, in the order in which they came up.
    fn finish(self, notes: &mut Annotations) -> Vec<Column> {
        let Self {
            finder,
            groups,
            span,
            charge,
            ..
        } = self;
        let column = |(labels, (accumulator, drop_name)): (Labels, (Accumulator, bool))| {
            let cells = accumulator.finish(&mut |note| notes.add(note, span));
            (!cells.is_empty()).then_some(Column {
                labels,
                drop_name,
                cells,
            })
        };
        let columns = finder
            .into_labels()
            .into_iter()
            .zip(groups)
            .filter_map(column)
            .collect();
        drop(charge);
        columns
    }
}
