//! `sort` and its kin. Only instant queries keep an order of series; others are told so.

use crate::{
    annotation::Note,
    ast::{Function, Span},
    function::natural,
    operator::{
        Evaluator,
        call::text,
        column::{Cell, Column, Matrix},
    },
    plan::{Call, Grid},
    query::QueryError,
};
use std::cmp::Ordering;

impl Evaluator<'_> {
    pub(super) fn sort(&mut self, call: &Call, span: Span, grid: Grid) -> Result<Matrix, QueryError> {
        let [vector, names @ ..] = call.args.as_slice() else {
            return Err(QueryError::Internal(format!("{} without an argument", call.function)));
        };
        let names = names.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let mut matrix = self.vector(vector, grid)?;
        if grid.count > 1 {
            self.notes.add(Note::SortInRange, span);
        }
        let by_value = matches!(call.function, Function::Sort | Function::SortDesc);
        let descending = matches!(call.function, Function::SortDesc | Function::SortByLabelDesc);
        if by_value {
            // Histograms have no place in an order of values.
            matrix
                .columns
                .iter_mut()
                .filter(|column| column.cells.has_histograms())
                .for_each(|column| {
                    column.cells.map_floats(|_, value| value);
                });
            matrix.columns.retain(|column| !column.cells.is_empty());
        }
        if grid.count > 1 {
            return Ok(matrix);
        }
        if by_value {
            matrix
                .columns
                .sort_by(|a, b| by_number(number(a), number(b), descending));
        } else {
            matrix.columns.sort_by(|a, b| {
                let order = by_labels(a, b, &names);
                if descending { order.reverse() } else { order }
            });
        }
        Ok(matrix)
    }
}

fn number(column: &Column) -> f64 {
    match column.cells.at(0) {
        Cell::Float(value) => value,
        Cell::Absent | Cell::Histogram(_) => f64::NAN,
    }
}

/// The order of two values; NaN comes last in either direction.
pub(super) fn by_number(left: f64, right: f64, descending: bool) -> Ordering {
    left.is_nan().cmp(&right.is_nan()).then_with(|| {
        let order = left.partial_cmp(&right).unwrap_or(Ordering::Equal);
        if descending { order.reverse() } else { order }
    })
}

fn by_labels(left: &Column, right: &Column, names: &[&str]) -> Ordering {
    let value = |column: &'_ Column, name: &str| column.labels.get(name).unwrap_or("").to_owned();
    names
        .iter()
        .map(|name| natural::compare(&value(left, name), &value(right, name)))
        .find(|order| *order != Ordering::Equal)
        .unwrap_or_else(|| left.labels.cmp(&right.labels))
}
