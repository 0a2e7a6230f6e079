//! Instant selectors: at each step the last sample that is not too old.

use crate::{
    annotation::Note,
    ast::Span,
    function::extended::{interpolate, interpolate_histograms},
    operator::{
        Evaluator, Scratch, Selected, Shared,
        column::{Cells, Column, Matrix, cell_samples},
        forget_stale, metric_name,
        sweep::{self, Ask, Sweep},
        uncharged,
    },
    plan::{Grid, Instant, Yield},
    query::QueryError,
    value::Point,
};
use model::{
    histogram::ResetHint,
    sample::{SampleBuffer, is_stale},
    select::Series,
};
use std::sync::Arc;

impl Evaluator<'_> {
    pub(super) fn instant(&mut self, instant: &Instant, span: Span, grid: Grid) -> Result<Matrix, QueryError> {
        let selected = &self.shared.selected[instant.selection];
        let columns = self.each(&selected.series, |shared, series, scratch: &mut Scratch| {
            let cells = series_cells(shared, selected, series, instant, span, grid, scratch)?;
            let column = (!cells.is_empty()).then(|| Column {
                labels: series.labels.clone(),
                drop_name: false,
                cells,
            });
            shared.charged(column)
        })?;
        let columns = uncharged(columns);
        match instant.yields {
            Yield::Value => self.matrix(columns),
            Yield::Timestamp | Yield::Start => self.without_names(columns),
        }
    }

    /// What was evaluated at the first step, at every step.
    pub(super) fn repeated(&self, once: Matrix, grid: Grid) -> Result<Matrix, QueryError> {
        let mut columns = once.columns;
        drop(once.charge);
        for column in &mut columns {
            let Some(point) = column.cells.at(0).to_point() else {
                continue;
            };
            column.cells = match point {
                Point::Float(value) => Cells::constant(value, grid.count),
                Point::Histogram(histogram) => {
                    let mut cells = Cells::with_capacity(grid.count);
                    (0..grid.count).for_each(|step| cells.push_histogram(step, histogram.clone()));
                    cells
                }
            };
        }
        self.matrix(columns)
    }
}

/// The cells of a selected series.
pub(super) fn series_cells(
    shared: &Shared<'_>,
    selected: &Selected,
    series: &Series,
    instant: &Instant,
    span: Span,
    grid: Grid,
    scratch: &mut Scratch,
) -> Result<Cells, QueryError> {
    let may_end = shared.read(selected, series, &mut scratch.buffer)?;
    let lookback_ms = shared.settings.lookback_ms;
    let cells = if instant.smoothed {
        forget_stale(&mut scratch.buffer);
        let mut note = || {
            scratch
                .notes
                .add(Note::ExponentialAndCustom(metric_name(&series.labels).into()), span)
        };
        smoothed_cells(&scratch.buffer, instant, grid, lookback_ms, &mut note)
    } else if instant.yields == Yield::Value && grid.count > 1 && !may_end {
        let Scratch { buffer, pace, .. } = scratch;
        let series = sweep::Series {
            times: &buffer.timestamps,
            values: &buffer.values,
        };
        let ask = Ask {
            sweep: Sweep::Last,
            range_ms: lookback_ms,
            grid,
            shift: instant.shift,
        };
        pace.sweep(series, ask).0
    } else {
        plain_cells(&scratch.buffer, instant, grid, lookback_ms)
    };
    let samples = cells.samples() as u64;
    scratch.count(samples, samples);
    if shared.counts.by_step() {
        for (step, cell) in cells.iter() {
            let samples = cell_samples(cell) as u64;
            shared.counts.add_at(step, samples, samples);
        }
    }
    Ok(cells)
}

/// The cells of a series for a plain selector.
fn plain_cells(buffer: &SampleBuffer, instant: &Instant, grid: Grid, lookback_ms: i64) -> Cells {
    let mut cells = Cells::with_capacity(if buffer.is_empty() { 0 } else { grid.count });
    // Numbers of floats and of histograms that are not in the future of the step.
    let (mut floats, mut histograms) = (0, 0);
    for step in 0..grid.count {
        let at = instant.shift.apply(grid.at(step));
        while buffer.timestamps.get(floats).is_some_and(|&time| time <= at) {
            floats += 1;
        }
        while buffer.histograms.get(histograms).is_some_and(|sample| sample.at <= at) {
            histograms += 1;
        }
        let oldest = at.saturating_sub(lookback_ms);
        let float = floats.checked_sub(1).filter(|&index| buffer.timestamps[index] > oldest);
        let histogram = histograms
            .checked_sub(1)
            .map(|index| &buffer.histograms[index])
            .filter(|sample| sample.at > oldest);
        match (float, histogram) {
            (Some(index), histogram) if histogram.is_none_or(|sample| sample.at < buffer.timestamps[index]) => {
                if is_stale(buffer.values[index]) {
                    continue;
                }
                let value = match instant.yields {
                    Yield::Value => buffer.values[index],
                    Yield::Timestamp => buffer.timestamps[index] as f64 / 1000.0,
                    Yield::Start => buffer.starts.get(index).copied().unwrap_or(0) as f64 / 1000.0,
                };
                cells.push_float(step, value);
            }
            (_, Some(sample)) if !is_stale(sample.histogram.sum) => match instant.yields {
                Yield::Value => cells.push_histogram(step, sample.histogram.clone()),
                Yield::Timestamp => cells.push_float(step, sample.at as f64 / 1000.0),
                Yield::Start => cells.push_float(step, sample.start as f64 / 1000.0),
            },
            _ => {}
        }
    }
    cells
}

/// The cells of a series for a `smoothed` selector: between the sample before and the one behind, or that before alone.
fn smoothed_cells(
    buffer: &SampleBuffer,
    instant: &Instant,
    grid: Grid,
    lookback_ms: i64,
    incompatible: &mut dyn FnMut(),
) -> Cells {
    let mut cells = Cells::default();
    for step in 0..grid.count {
        let at = instant.shift.apply(grid.at(step));
        let (oldest, newest) = (at.saturating_sub(lookback_ms), at.saturating_add(lookback_ms));
        let floats = buffer.timestamps.partition_point(|&time| time <= at);
        let histograms = buffer.histograms.partition_point(|sample| sample.at <= at);
        let float = floats.checked_sub(1).filter(|&index| buffer.timestamps[index] > oldest);
        let histogram = histograms
            .checked_sub(1)
            .filter(|&index| buffer.histograms[index].at > oldest);
        let float_time = float.map(|index| buffer.timestamps[index]);
        let histogram_time = histogram.map(|index| buffer.histograms[index].at);
        if let (Some(index), true) = (float, float_time > histogram_time) {
            let before = (buffer.timestamps[index], buffer.values[index]);
            let next = buffer
                .timestamps
                .get(floats)
                .filter(|&&time| time <= newest && before.0 < at);
            let value = match next {
                Some(&time) => interpolate(before, (time, buffer.values[floats]), at, false),
                None => before.1,
            };
            cells.push_float(step, value);
        } else if let Some(index) = histogram {
            let before = &buffer.histograms[index];
            let next = buffer
                .histograms
                .get(histograms)
                .filter(|next| next.at <= newest && before.at < at);
            let Some(next) = next else {
                cells.push_histogram(step, before.histogram.clone());
                continue;
            };
            let counter = [before, next]
                .iter()
                .all(|sample| sample.histogram.reset_hint != ResetHint::Gauge);
            match interpolate_histograms(before, next, at, counter) {
                Ok(mut histogram) => {
                    histogram.compact();
                    cells.push_histogram(step, Arc::new(histogram));
                }
                Err(_) => incompatible(),
            }
        }
    }
    cells
}
