//! From columns to the value of the query.

use crate::{
    ast::{Extension, ValueType},
    function::{
        extended::interpolate,
        window::{Samples, Window},
    },
    operator::{
        Evaluator, Scratch,
        column::{Cell, Column, Matrix, histogram_samples, join_same_labels, same_labelset, without_metadata},
        range::for_each_window,
    },
    plan::{Grid, Kind, Node, Plan},
    query::QueryError,
    value::{MatrixSeries, Value, VectorSample},
};
use hashbrown::HashSet;
use model::{label::Labels, time::Timestamp};

/// Evaluates the plan. `instant` says whether the query is for one moment, so that a vector is a vector and not a matrix.
pub(crate) fn value(evaluator: &mut Evaluator<'_>, plan: &Plan, instant: bool) -> Result<Value, QueryError> {
    let grid = plan.grid;
    match (plan.value_type, &plan.root.kind) {
        (ValueType::String, Kind::Text(text)) => Ok(Value::String {
            at: grid.start,
            text: text.value.clone(),
        }),
        (ValueType::Scalar, _) => {
            let scalars = evaluator.scalar(&plan.root, grid)?;
            if instant {
                return Ok(Value::Scalar {
                    at: grid.start,
                    value: scalars.at(0),
                });
            }
            let floats = (0..grid.count).map(|step| (grid.at(step), scalars.at(step))).collect();
            Ok(Value::Matrix(vec![MatrixSeries {
                labels: Labels::empty(),
                floats,
                histograms: Vec::new(),
            }]))
        }
        (ValueType::Vector, _) => {
            let matrix = evaluator.vector(&plan.root, grid)?;
            if instant {
                vector(matrix, grid.start)
            } else {
                range(matrix, grid)
            }
        }
        (ValueType::Matrix, _) => windows(evaluator, &plan.root, grid),
        (ValueType::String, _) => Err(QueryError::Internal("a string was expected".into())),
    }
}

/// Drops the names that are to be dropped at the end.
fn settle_names(columns: &mut [Column]) {
    for column in columns.iter_mut().filter(|column| column.drop_name) {
        column.labels = without_metadata(&column.labels);
        column.drop_name = false;
    }
}

fn vector(matrix: Matrix, at: Timestamp) -> Result<Value, QueryError> {
    let mut columns = matrix.columns;
    settle_names(&mut columns);
    let mut seen: HashSet<&Labels, foldhash::fast::RandomState> = HashSet::default();
    if !columns.iter().all(|column| seen.insert(&column.labels)) {
        return Err(same_labelset());
    }
    let sample = |column: &Column| {
        let value = column.cells.at(0).to_point()?;
        Some(VectorSample {
            labels: column.labels.clone(),
            at,
            value,
        })
    };
    Ok(Value::Vector(columns.iter().filter_map(sample).collect()))
}

fn range(matrix: Matrix, grid: Grid) -> Result<Value, QueryError> {
    let mut columns = matrix.columns;
    settle_names(&mut columns);
    let columns = join_same_labels(columns)?;
    let mut series: Vec<MatrixSeries> = columns
        .into_iter()
        .map(|column| {
            let mut series = MatrixSeries {
                labels: column.labels,
                ..MatrixSeries::default()
            };
            for (step, cell) in column.cells.iter() {
                match cell {
                    Cell::Float(value) => series.floats.push((grid.at(step), value)),
                    Cell::Histogram(histogram) => series.histograms.push((grid.at(step), histogram.clone())),
                    Cell::Absent => {}
                }
            }
            series
        })
        .collect();
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    Ok(Value::Matrix(series))
}

/// The value of an instant query for a range vector: the samples of the windows themselves.
fn windows(evaluator: &mut Evaluator<'_>, node: &Node, grid: Grid) -> Result<Value, QueryError> {
    let (source, frame) = evaluator.source(node, grid)?;
    let items = source.items();
    let found = evaluator.each(&items, |shared, item, scratch: &mut Scratch| {
        item.read(shared, &mut scratch.buffer)?;
        let mut series = MatrixSeries::default();
        let samples = Samples::of(&scratch.buffer);
        for_each_window(samples, frame, grid, shared.settings.lookback_ms, |step, window| {
            let samples = window.samples.len() as u64;
            shared.counts.add(samples, samples);
            shared.counts.add_at(step, samples, samples);
            series.floats = match frame.extension {
                None => pairs(&window.samples),
                Some(extension) => with_edges(&window, extension == Extension::Smoothed),
            };
            let histograms = window.samples.histograms.iter();
            series.histograms = histograms.map(|sample| (sample.at, sample.histogram.clone())).collect();
            shared.budget.check(window.samples.len())
        })?;
        let histograms = series.histograms.iter();
        let histograms: usize = histograms.map(|(_, histogram)| histogram_samples(histogram)).sum();
        let charge = shared.budget.take(series.floats.len() + histograms)?;
        let series = Some(series).filter(|series| !series.floats.is_empty() || !series.histograms.is_empty());
        Ok(series.map(|series| (series, charge)))
    })?;
    let named = found.into_iter().zip(&items).filter_map(|(found, item)| {
        let (series, _charge) = found?;
        let labels = if item.drop_name() {
            without_metadata(item.labels())
        } else {
            item.labels().clone()
        };
        Some(MatrixSeries { labels, ..series })
    });
    let mut all: Vec<MatrixSeries> = named.collect();
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    if all.windows(2).any(|pair| pair[0].labels == pair[1].labels) {
        return Err(same_labelset());
    }
    Ok(Value::Matrix(all))
}

fn pairs(samples: &Samples<'_>) -> Vec<(Timestamp, f64)> {
    samples
        .times
        .iter()
        .copied()
        .zip(samples.values.iter().copied())
        .collect()
}

/// The floats of an extended window, with values at its two edges.
fn with_edges(window: &Window<'_>, smoothed: bool) -> Vec<(Timestamp, f64)> {
    let all = pairs(&window.samples);
    let before = all.partition_point(|&(at, _)| at <= window.start);
    let within = all.partition_point(|&(at, _)| at <= window.end);
    if before == all.len() || within == 0 {
        return Vec::new();
    }
    let inner = all[before..within].iter().copied().filter(|&(at, _)| at < window.end);
    let at_edge = |index: usize, edge: Timestamp| match (all.get(index), all.get(index + 1)) {
        (Some(&from), Some(&to)) if smoothed && from.0 < edge => interpolate(from, to, edge, false),
        (Some(&(_, value)), _) => value,
        (None, _) => f64::NAN,
    };
    let left = if before > 0 {
        at_edge(before - 1, window.start)
    } else {
        all[0].1
    };
    let right = at_edge(within - 1, window.end);
    std::iter::once((window.start, left))
        .chain(inner)
        .chain([(window.end, right)])
        .collect()
}
