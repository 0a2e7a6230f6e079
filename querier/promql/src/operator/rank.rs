//! Aggregations that choose among series: `topk`, `bottomk`, `limitk`, `limit_ratio`. What they choose keeps its labels.

use crate::{
    annotation::Note,
    ast::{AggregateOp, Span},
    format::float_g,
    operator::{
        Evaluator,
        column::{Cell, Cells, Column, Matrix},
        grouping::{Group, groups},
        scalar::Scalars,
        sort::by_number,
    },
    plan::{Aggregate, Grid},
    query::QueryError,
};
use model::label::Labels;
use std::cmp::Ordering;
use xxhash_rust::xxh64::xxh64;

impl Evaluator<'_> {
    pub(super) fn choose(&mut self, aggregate: &Aggregate, span: Span, grid: Grid) -> Result<Matrix, QueryError> {
        let Some(param) = &aggregate.param else {
            return Err(QueryError::Internal(format!("{} without a parameter", aggregate.op)));
        };
        let params = self.scalar(param, grid)?;
        // Evaluated even if nothing is chosen: what there is to say about it is said.
        let mut matrix = self.vector(&aggregate.inner, grid)?;
        if !self.check_param(aggregate.op, &params, param.span)? {
            return Ok(Matrix::default());
        }
        let groups = groups(&matrix.columns, &aggregate.grouping, aggregate.without);
        let chosen = match aggregate.op {
            AggregateOp::LimitRatio => by_ratio(&matrix, &params),
            AggregateOp::LimitK => first_of_groups(&matrix, &groups, &params, grid),
            op => {
                if matrix.columns.iter().any(|column| column.cells.has_histograms()) {
                    self.notes.add(Note::HistogramIgnored(op), span);
                }
                best_of_groups(&matrix, &groups, &params, grid, op == AggregateOp::TopK)
            }
        };
        let keep = |(column, steps): (Column, Vec<usize>)| {
            let mut cells = Cells::default();
            for step in steps {
                if let Some(point) = column.cells.at(step).to_point() {
                    cells.push(step, point);
                }
            }
            (!cells.is_empty()).then_some(Column { cells, ..column })
        };
        let all = std::mem::take(&mut matrix.columns);
        let mut columns: Vec<Option<Column>> = all.into_iter().zip(chosen).map(keep).collect();
        drop(matrix);
        let columns = match grid.count {
            // An instant query shows group after group, and values in order.
            1 => in_groups(&mut columns, &groups, aggregate.op),
            _ => columns.into_iter().flatten().collect(),
        };
        self.matrix(columns)
    }

    /// Refuses parameters that make no sense. `false` when nothing can be chosen by them.
    fn check_param(&mut self, op: AggregateOp, params: &Scalars, span: Span) -> Result<bool, QueryError> {
        let values = params.values();
        let refuse = |text: String| Err(QueryError::Execution(text));
        let has_nan = values.iter().any(|value| value.is_nan());
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        if op == AggregateOp::LimitRatio {
            if has_nan {
                return refuse("Ratio value NaN is NaN".into());
            }
            for (got, capped) in [(most, 1i8), (least, -1)] {
                if (capped > 0 && got > 1.0) || (capped < 0 && got < -1.0) {
                    self.notes.add(
                        Note::InvalidRatio {
                            got: got.into(),
                            capped,
                        },
                        span,
                    );
                }
            }
            return Ok(most != 0.0 || least != 0.0);
        }
        if has_nan {
            return refuse("Scalar value NaN overflows int64".into());
        }
        if most < 1.0 {
            return Ok(false);
        }
        if least <= i64::MIN as f64 {
            return refuse(format!("Scalar value {} underflows int64", float_g(least)));
        }
        if most >= i64::MAX as f64 {
            return refuse(format!("Scalar value {} overflows int64", float_g(most)));
        }
        Ok(true)
    }
}

/// Steps at which each column is chosen: whether its place, which depends on its labels alone, lies in the share of the ratio.
///
/// A ratio r below zero chooses what 1 + r does not.
fn by_ratio(matrix: &Matrix, ratios: &Scalars) -> Vec<Vec<usize>> {
    let chosen = |column: &Column| {
        let place = place(&column.labels);
        let within = |ratio: f64| {
            if ratio >= 0.0 {
                place < ratio
            } else {
                place >= 1.0 + ratio
            }
        };
        column
            .cells
            .iter()
            .map(|(step, _)| step)
            .filter(|&step| within(ratios.at(step).clamp(-1.0, 1.0)))
            .collect()
    };
    matrix.columns.iter().map(chosen).collect()
}

/// A number in [0, 1) for a label set: its hash as Prometheus computes it over labels laid out as strings with their lengths.
fn place(labels: &Labels) -> f64 {
    let mut bytes = Vec::with_capacity(labels.text_len() + 2 * labels.len());
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        let length = text.len() as u32;
        if length < 255 {
            bytes.push(length as u8);
        } else {
            bytes.push(255);
            bytes.extend_from_slice(&length.to_le_bytes()[..3]);
        }
        bytes.extend_from_slice(text.as_bytes());
    }
    xxh64(&bytes, 0) as f64 / u64::MAX as f64
}

/// The first k series of each group at each step.
fn first_of_groups(matrix: &Matrix, groups: &[Group], counts: &Scalars, grid: Grid) -> Vec<Vec<usize>> {
    let mut chosen = vec![Vec::new(); matrix.columns.len()];
    for group in groups {
        let mut taken = vec![0.0; grid.count];
        for &member in &group.members {
            for (step, _) in matrix.columns[member].cells.iter() {
                if taken[step] + 1.0 <= counts.at(step) {
                    taken[step] += 1.0;
                    chosen[member].push(step);
                }
            }
        }
    }
    chosen
}

/// Up to this k, the best so far are kept in order at each step; beyond, each step looks at all series at once.
const ORDERED_MAX: usize = 128;

/// The k series with the greatest or else the least values of each group at each step. Of equals, the first ones.
fn best_of_groups(matrix: &Matrix, groups: &[Group], counts: &Scalars, grid: Grid, greatest: bool) -> Vec<Vec<usize>> {
    let mut chosen = vec![Vec::new(); matrix.columns.len()];
    let most = counts.values().iter().copied().fold(0.0, f64::max) as usize;
    for group in groups {
        if most.min(group.members.len()) <= ORDERED_MAX {
            best_in_order(matrix, group, counts, grid, greatest, &mut chosen);
        } else {
            best_by_step(matrix, group, counts, grid, greatest, &mut chosen);
        }
    }
    // Members came by series or by step; a column wants its steps ascending.
    chosen.iter_mut().for_each(|steps| steps.sort_unstable());
    chosen
}

/// Goes through the group series by series.
fn best_in_order(
    matrix: &Matrix,
    group: &Group,
    counts: &Scalars,
    grid: Grid,
    greatest: bool,
    chosen: &mut [Vec<usize>],
) {
    let mut best: Vec<Vec<(f64, usize)>> = vec![Vec::new(); grid.count];
    for &member in &group.members {
        for (step, value) in matrix.columns[member].cells.floats() {
            let (best, count) = (&mut best[step], counts.at(step));
            if count < 1.0 {
                continue;
            }
            let is_full = best.len() as f64 >= count.floor();
            let is_better = |known: f64| by_number(value, known, greatest) == Ordering::Less;
            if is_full && !best.last().is_some_and(|&(worst, _)| is_better(worst)) {
                continue;
            }
            if is_full {
                best.pop();
            }
            let place = best.partition_point(|&(known, _)| !is_better(known));
            best.insert(place, (value, member));
        }
    }
    for (step, best) in best.into_iter().enumerate() {
        best.into_iter().for_each(|(_, member)| chosen[member].push(step));
    }
}

/// Goes through the group step by step.
fn best_by_step(
    matrix: &Matrix,
    group: &Group,
    counts: &Scalars,
    grid: Grid,
    greatest: bool,
    chosen: &mut [Vec<usize>],
) {
    let mut candidates: Vec<(f64, usize)> = Vec::new();
    for step in 0..grid.count {
        let count = counts.at(step);
        if count < 1.0 {
            continue;
        }
        candidates.clear();
        candidates.extend(
            group
                .members
                .iter()
                .filter_map(|&member| match matrix.columns[member].cells.at(step) {
                    Cell::Float(value) => Some((value, member)),
                    Cell::Absent | Cell::Histogram(_) => None,
                }),
        );
        let count = count as usize;
        if count < candidates.len() {
            candidates.select_nth_unstable_by(count, |a, b| by_number(a.0, b.0, greatest).then(a.1.cmp(&b.1)));
            candidates.truncate(count);
        }
        candidates.iter().for_each(|&(_, member)| chosen[member].push(step));
    }
}

fn in_groups(columns: &mut [Option<Column>], groups: &[Group], op: AggregateOp) -> Vec<Column> {
    let value = |column: &Column| match column.cells.at(0) {
        Cell::Float(value) => value,
        Cell::Absent | Cell::Histogram(_) => f64::NAN,
    };
    let mut ordered = Vec::with_capacity(columns.len());
    for group in groups {
        let mut members: Vec<Column> = group
            .members
            .iter()
            .filter_map(|&member| columns[member].take())
            .collect();
        if matches!(op, AggregateOp::TopK | AggregateOp::BottomK) {
            members.sort_by(|a, b| by_number(value(a), value(b), op == AggregateOp::TopK));
        }
        ordered.append(&mut members);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_stable_and_spread() {
        let places: Vec<f64> = (0..1000)
            .map(|index| place(&Labels::new([("__name__", "m"), ("i", &*index.to_string())]).unwrap()))
            .collect();
        assert!(places.iter().all(|place| (0.0..=1.0).contains(place)));
        let low = places.iter().filter(|&&place| place < 0.5).count();
        assert!((400..600).contains(&low), "{low} of 1000 lie in the lower half");
        // xxhash64 of no bytes at all is a published constant.
        assert_eq!(
            place(&Labels::empty()),
            0xef46_db37_51d8_e999_u64 as f64 / u64::MAX as f64
        );
        let long = Labels::new([("l", "x".repeat(300))]).unwrap();
        let mut bytes = b"\x01l\xff\x2c\x01\x00".to_vec();
        bytes.extend([b'x'; 300]);
        assert_eq!(place(&long), xxh64(&bytes, 0) as f64 / u64::MAX as f64);
    }

    #[test]
    fn both_ways_choose_the_same() {
        let mut seed = 7u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let grid = Grid::range(0, 19, 1);
        let column = |index: usize, next: &mut dyn FnMut() -> u64| {
            let mut cells = Cells::default();
            for step in 0..grid.count {
                match next() % 12 {
                    0 => {}
                    1 => cells.push_float(step, f64::NAN),
                    value => cells.push_float(step, value as f64),
                }
            }
            Column {
                labels: Labels::new([("i", index.to_string())]).unwrap(),
                drop_name: false,
                cells,
            }
        };
        let columns: Vec<Column> = (0..30).map(|index| column(index, &mut next)).collect();
        let matrix = Matrix {
            columns,
            ..Matrix::default()
        };
        let group = Group {
            labels: Labels::empty(),
            drop_name: false,
            members: (0..30).collect(),
        };
        let counts = Scalars::Steps((0..grid.count).map(|step| step as f64 / 2.0).collect());
        for greatest in [true, false] {
            let mut chosen = [vec![Vec::new(); 30], vec![Vec::new(); 30]];
            best_in_order(&matrix, &group, &counts, grid, greatest, &mut chosen[0]);
            best_by_step(&matrix, &group, &counts, grid, greatest, &mut chosen[1]);
            chosen.iter_mut().flatten().for_each(|steps| steps.sort_unstable());
            assert_eq!(chosen[0], chosen[1]);
        }
    }
}
