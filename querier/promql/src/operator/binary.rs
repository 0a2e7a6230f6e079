//! Operators between a vector and a scalar, the negation of a vector, and what all binary operators do with two values.

use crate::{
    annotation::{HistogramOperation, Kind as SampleKind, Note},
    ast::{BinaryOp, Span, ValueType},
    operator::{
        Evaluator,
        column::{Cell, Cells, Matrix},
        scalar::{Scalars, arithmetic, compare},
    },
    plan::{Binary, Grid, Node},
    query::QueryError,
    value::Point,
};
use model::histogram::{Histogram, ResetHint, arithmetic::Combined, trim::Keep};
use std::sync::Arc;

/// Whether the result means something else than the operands, so that names go.
pub(super) fn drops_name(op: BinaryOp) -> bool {
    matches!(
        op,
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Pow | BinaryOp::Atan2
    )
}

/// What an operator makes of two values: a value, and whether a comparison lets it pass. `None` when it cannot take them, which is
/// noted.
#[inline]
pub(super) fn element(
    op: BinaryOp,
    left: Cell<'_>,
    right: Cell<'_>,
    note: &mut dyn FnMut(Note<'_>),
) -> Option<(Point, bool)> {
    match (left, right) {
        (Cell::Float(left), Cell::Float(right)) => match compare(op, left, right) {
            Some(holds) => Some((Point::Float(left), holds)),
            None if drops_name(op) => Some((Point::Float(arithmetic(op, left, right)), true)),
            None => incompatible(op, SampleKind::Float, SampleKind::Float, note),
        },
        (Cell::Float(factor), Cell::Histogram(histogram)) if op == BinaryOp::Mul => {
            Some((changed(histogram, |histogram| histogram.multiply(factor)), true))
        }
        (Cell::Histogram(histogram), Cell::Float(number)) => match op {
            BinaryOp::Mul => Some((changed(histogram, |histogram| histogram.multiply(number)), true)),
            BinaryOp::Div => Some((changed(histogram, |histogram| histogram.divide(number)), true)),
            BinaryOp::TrimUpper => Some((owned(histogram.trimmed(number, Keep::Below)), true)),
            BinaryOp::TrimLower => Some((owned(histogram.trimmed(number, Keep::Above)), true)),
            _ => incompatible(op, SampleKind::Histogram, SampleKind::Float, note),
        },
        (Cell::Float(_), Cell::Histogram(_)) => incompatible(op, SampleKind::Float, SampleKind::Histogram, note),
        (Cell::Histogram(left), Cell::Histogram(right)) => of_histograms(op, left, right, note),
        (Cell::Absent, _) | (_, Cell::Absent) => None,
    }
}

fn of_histograms(
    op: BinaryOp,
    left: &Arc<Histogram>,
    right: &Arc<Histogram>,
    note: &mut dyn FnMut(Note<'_>),
) -> Option<(Point, bool)> {
    let operation = match op {
        BinaryOp::Equal => return Some((Point::Histogram(left.clone()), left.same_as(right))),
        BinaryOp::NotEqual => return Some((Point::Histogram(left.clone()), !left.same_as(right))),
        BinaryOp::Add => HistogramOperation::Addition,
        BinaryOp::Sub => HistogramOperation::Subtraction,
        _ => return incompatible(op, SampleKind::Histogram, SampleKind::Histogram, note),
    };
    let mut result = (**left).clone();
    let combined = if op == BinaryOp::Add {
        result.add(right)
    } else {
        result.subtract(right)
    };
    let Ok(Combined {
        reset_collision,
        bounds_reconciled,
    }) = combined
    else {
        note(Note::IncompatibleLayouts(op));
        return None;
    };
    if reset_collision {
        note(Note::ConflictingResets(operation));
    }
    if bounds_reconciled {
        note(Note::ReconciledBounds(operation));
    }
    if op == BinaryOp::Sub {
        result.reset_hint = ResetHint::Gauge;
    }
    result.compact();
    Some((owned(result), true))
}

fn incompatible(
    op: BinaryOp,
    left: SampleKind,
    right: SampleKind,
    note: &mut dyn FnMut(Note<'_>),
) -> Option<(Point, bool)> {
    note(Note::IncompatibleTypes { left, op, right });
    None
}

fn changed(histogram: &Arc<Histogram>, change: impl FnOnce(&mut Histogram)) -> Point {
    let mut histogram = (**histogram).clone();
    change(&mut histogram);
    histogram.compact();
    owned(histogram)
}

fn owned(histogram: Histogram) -> Point {
    Point::Histogram(Arc::new(histogram))
}

impl Evaluator<'_> {
    pub(super) fn binary(&mut self, binary: &Binary, span: Span, grid: Grid) -> Result<Matrix, QueryError> {
        match binary.types {
            (ValueType::Vector, ValueType::Vector) if binary.op.is_set() => self.set_operator(binary, grid),
            (ValueType::Vector, ValueType::Vector) => self.match_vectors(binary, span, grid),
            (ValueType::Vector, ValueType::Scalar) => {
                let matrix = self.vector(&binary.left, grid)?;
                let scalars = self.scalar(&binary.right, grid)?;
                self.with_scalars(binary, matrix, &scalars, false, span)
            }
            (ValueType::Scalar, ValueType::Vector) => {
                let scalars = self.scalar(&binary.left, grid)?;
                let matrix = self.vector(&binary.right, grid)?;
                self.with_scalars(binary, matrix, &scalars, true, span)
            }
            (left, right) => Err(QueryError::Internal(format!(
                "operator {} on {left} and {right}",
                binary.op
            ))),
        }
    }

    /// Applies an operator to each value of a vector and a scalar, which stands on the left if `swapped`.
    fn with_scalars(
        &mut self,
        binary: &Binary,
        matrix: Matrix,
        scalars: &Scalars,
        swapped: bool,
        span: Span,
    ) -> Result<Matrix, QueryError> {
        let op = binary.op;
        let mut columns = matrix.columns;
        drop(matrix.charge);
        let notes = &mut self.notes;
        let mut note = |note: Note<'_>| notes.add(note, span);
        for column in &mut columns {
            if drops_name(op) && !column.cells.has_histograms() {
                match swapped {
                    false => column
                        .cells
                        .map_floats(|step, value| arithmetic(op, value, scalars.at(step))),
                    true => column
                        .cells
                        .map_floats(|step, value| arithmetic(op, scalars.at(step), value)),
                }
                continue;
            }
            let mut cells = Cells::default();
            for (step, cell) in column.cells.iter() {
                let scalar = Cell::Float(scalars.at(step));
                let (left, right) = if swapped { (scalar, cell) } else { (cell, scalar) };
                let Some((point, holds)) = element(op, left, right, &mut note) else {
                    continue;
                };
                if binary.return_bool {
                    cells.push_float(step, f64::from(u8::from(holds)));
                } else if holds {
                    // A comparison keeps the value of the vector, on whichever side it stands.
                    match cell.to_point().filter(|_| op.is_comparison() && swapped) {
                        Some(own) => cells.push(step, own),
                        None => cells.push(step, point),
                    }
                }
            }
            column.cells = cells;
        }
        columns.retain(|column| !column.cells.is_empty());
        if !drops_name(op) && !binary.return_bool {
            return self.matrix(columns);
        }
        self.without_names(columns)
    }

    pub(super) fn negate(&mut self, inner: &Node, grid: Grid) -> Result<Matrix, QueryError> {
        let matrix = self.vector(inner, grid)?;
        let mut columns = matrix.columns;
        drop(matrix.charge);
        for column in &mut columns {
            if column.cells.has_histograms() {
                let mut cells = Cells::default();
                for (step, cell) in column.cells.iter() {
                    match cell {
                        Cell::Float(value) => cells.push_float(step, -value),
                        Cell::Histogram(histogram) => {
                            let mut negated = (**histogram).clone();
                            negated.multiply(-1.0);
                            cells.push_histogram(step, Arc::new(negated));
                        }
                        Cell::Absent => {}
                    }
                }
                column.cells = cells;
            } else {
                column.cells.map_floats(|_, value| -value);
            }
        }
        self.without_names(columns)
    }
}
