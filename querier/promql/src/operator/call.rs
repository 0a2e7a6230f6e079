//! Calls of functions that give a vector.

use crate::{
    ast::{Function, Span, StringLiteral},
    function::math,
    operator::{
        Evaluator,
        column::{Cell, Cells, Column, Matrix},
    },
    plan::{Call, Grid, Kind, Node},
    query::QueryError,
    value::Point,
};
use model::{histogram::Histogram, label::Labels};
use std::cmp::Ordering;

impl Evaluator<'_> {
    pub(super) fn call(&mut self, call: &Call, span: Span, grid: Grid) -> Result<Matrix, QueryError> {
        use Function as F;
        let args = call.args.as_slice();
        match (call.function, args) {
            (F::Absent, _) => self.absent(call, grid),
            (F::AbsentOverTime, _) => self.absent_over_time(call, grid),
            (F::Sort | F::SortDesc | F::SortByLabel | F::SortByLabelDesc, _) => self.sort(call, span, grid),
            (F::LabelReplace, _) => self.label_replace(args, grid),
            (F::LabelJoin, _) => self.label_join(args, grid),
            (F::HistogramQuantile | F::HistogramQuantiles | F::HistogramFraction, _) => {
                self.bucket_function(call, grid)
            }
            (F::Vector, [scalar]) => self.vector_of(scalar, grid),
            (F::Timestamp, [vector]) => {
                let matrix = self.vector(vector, grid)?;
                self.map_cells(matrix, |step, _| Some(Point::Float(grid.at(step) as f64 / 1000.0)))
            }
            // What is known about when a counter began is lost as soon as anything is computed from it.
            (F::StartTimestamp, [vector]) => self.vector(vector, grid).map(|_| Matrix::default()),
            (F::Clamp, [vector, low, high]) => {
                let matrix = self.vector(vector, grid)?;
                let (low, high) = (self.scalar(low, grid)?, self.scalar(high, grid)?);
                self.map_cells(matrix, |step, cell| match cell {
                    Cell::Float(value) if low.at(step).partial_cmp(&high.at(step)) != Some(Ordering::Greater) => Some(
                        Point::Float(math::greatest(low.at(step), math::least(high.at(step), value))),
                    ),
                    _ => None,
                })
            }
            (F::ClampMin, [vector, bound]) => self.with_scalar(vector, Some(bound), 0.0, grid, math::greatest),
            (F::ClampMax, [vector, bound]) => self.with_scalar(vector, Some(bound), 0.0, grid, math::least),
            (F::Round, [vector, rest @ ..]) => self.with_scalar(vector, rest.first(), 1.0, grid, math::round),
            (F::HistogramAvg, [vector]) => {
                self.of_histograms(vector, grid, |histogram| histogram.sum / histogram.count)
            }
            (F::HistogramCount, [vector]) => self.of_histograms(vector, grid, |histogram| histogram.count),
            (F::HistogramSum, [vector]) => self.of_histograms(vector, grid, |histogram| histogram.sum),
            (F::HistogramStddev, [vector]) => self.of_histograms(vector, grid, |histogram| histogram.variance().sqrt()),
            (F::HistogramStdvar, [vector]) => self.of_histograms(vector, grid, Histogram::variance),
            (function, []) if math::of_one(function).is_some() => self.of_time(function, grid),
            (function, [vector]) => match math::of_one(function) {
                Some(of_one) => {
                    let matrix = self.vector(vector, grid)?;
                    self.map_floats(matrix, |_, value| of_one(value))
                }
                None => self.range_call(call, grid),
            },
            _ => self.range_call(call, grid),
        }
    }

    /// A function of the evaluation time, for date functions without an argument.
    fn of_time(&mut self, function: Function, grid: Grid) -> Result<Matrix, QueryError> {
        let Some(of_one) = math::of_one(function) else {
            return Err(QueryError::Internal(format!("{function} without an argument")));
        };
        let mut cells = Cells::with_capacity(grid.count);
        for step in 0..grid.count {
            cells.push_float(step, of_one(grid.at(step).div_euclid(1000) as f64));
        }
        self.matrix(vec![Column {
            labels: Labels::empty(),
            drop_name: false,
            cells,
        }])
    }

    fn vector_of(&mut self, scalar: &Node, grid: Grid) -> Result<Matrix, QueryError> {
        let scalars = self.scalar(scalar, grid)?;
        let mut cells = Cells::with_capacity(grid.count);
        (0..grid.count).for_each(|step| cells.push_float(step, scalars.at(step)));
        self.matrix(vec![Column {
            labels: Labels::empty(),
            drop_name: false,
            cells,
        }])
    }

    /// A function of each float and a scalar.
    fn with_scalar(
        &mut self,
        vector: &Node,
        scalar: Option<&Node>,
        otherwise: f64,
        grid: Grid,
        function: fn(f64, f64) -> f64,
    ) -> Result<Matrix, QueryError> {
        let matrix = self.vector(vector, grid)?;
        let scalars = scalar.map(|scalar| self.scalar(scalar, grid)).transpose()?;
        // The order of arguments is that of Go's `math.Min` and `math.Max`, which are symmetric, and of `round(value, to)`.
        self.map_floats(matrix, |step, value| {
            function(value, scalars.as_ref().map_or(otherwise, |scalars| scalars.at(step)))
        })
    }

    /// A number of each histogram.
    fn of_histograms(
        &mut self,
        vector: &Node,
        grid: Grid,
        number: fn(&Histogram) -> f64,
    ) -> Result<Matrix, QueryError> {
        let matrix = self.vector(vector, grid)?;
        self.map_cells(matrix, |_, cell| match cell {
            Cell::Histogram(histogram) => Some(Point::Float(number(histogram))),
            Cell::Float(_) | Cell::Absent => None,
        })
    }

    /// Changes floats, forgets histograms, drops names.
    pub(super) fn map_floats(
        &mut self,
        matrix: Matrix,
        change: impl Fn(usize, f64) -> f64,
    ) -> Result<Matrix, QueryError> {
        let mut columns = matrix.columns;
        drop(matrix.charge);
        for column in &mut columns {
            column.cells.map_floats(&change);
        }
        columns.retain(|column| !column.cells.is_empty());
        self.without_names(columns)
    }

    /// Changes all cells, drops names.
    pub(super) fn map_cells(
        &mut self,
        matrix: Matrix,
        change: impl Fn(usize, Cell<'_>) -> Option<Point>,
    ) -> Result<Matrix, QueryError> {
        let mut columns = matrix.columns;
        drop(matrix.charge);
        for column in &mut columns {
            let mut cells = Cells::default();
            for (step, cell) in column.cells.iter() {
                if let Some(point) = change(step, cell) {
                    cells.push(step, point);
                }
            }
            column.cells = cells;
        }
        columns.retain(|column| !column.cells.is_empty());
        self.without_names(columns)
    }
}

/// The text of an argument that is a string.
pub(super) fn text(node: &Node) -> Result<&str, QueryError> {
    match &node.kind {
        Kind::Text(text) => Ok(&text.value),
        _ => Err(QueryError::Internal("a string was expected".into())),
    }
}

/// The label name that an argument holds; `invalid` makes the error when it is none.
pub(super) fn label_name(node: &Node, invalid: impl Fn(&StringLiteral) -> String) -> Result<&str, QueryError> {
    match &node.kind {
        Kind::Text(text) if text.value.is_empty() || text.bytes.is_some() => Err(QueryError::Execution(invalid(text))),
        _ => text(node),
    }
}
