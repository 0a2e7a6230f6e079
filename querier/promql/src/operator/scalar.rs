//! Scalars: one number per step, and what operators make of two numbers.

use crate::{
    ast::{BinaryOp, Function},
    function::math::{greatest, least},
    operator::Evaluator,
    plan::{Binary, Call, Grid},
    query::QueryError,
};

/// A number per step.
#[derive(Debug, Clone)]
pub(crate) enum Scalars {
    /// The same at every step.
    Constant(f64),
    /// One for each step.
    Steps(Vec<f64>),
}

impl Scalars {
    /// The number at `step`.
    #[inline]
    pub(crate) fn at(&self, step: usize) -> f64 {
        match self {
            Scalars::Constant(value) => *value,
            Scalars::Steps(values) => values[step],
        }
    }

    pub(crate) fn map(self, mut change: impl FnMut(f64) -> f64) -> Self {
        match self {
            Scalars::Constant(value) => Scalars::Constant(change(value)),
            Scalars::Steps(values) => Scalars::Steps(values.into_iter().map(change).collect()),
        }
    }

    /// The distinct numbers that matter: each one once per run.
    pub(crate) fn values(&self) -> &[f64] {
        match self {
            Scalars::Constant(value) => std::slice::from_ref(value),
            Scalars::Steps(values) => values,
        }
    }
}

impl Evaluator<'_> {
    pub(super) fn scalar_binary(&mut self, binary: &Binary, grid: Grid) -> Result<Scalars, QueryError> {
        let left = self.scalar(&binary.left, grid)?;
        let right = self.scalar(&binary.right, grid)?;
        let op = binary.op;
        Ok(both(&left, &right, grid, |left, right| scalar_result(op, left, right)))
    }

    pub(super) fn scalar_call(&mut self, call: &Call, grid: Grid) -> Result<Scalars, QueryError> {
        match (call.function, call.args.as_slice()) {
            (Function::Time, []) => Ok(Scalars::Steps(
                (0..grid.count).map(|step| grid.at(step) as f64 / 1000.0).collect(),
            )),
            (Function::Pi, []) => Ok(Scalars::Constant(std::f64::consts::PI)),
            (Function::MinOf, [left, right]) => {
                let (left, right) = (self.scalar(left, grid)?, self.scalar(right, grid)?);
                Ok(both(&left, &right, grid, least))
            }
            (Function::MaxOf, [left, right]) => {
                let (left, right) = (self.scalar(left, grid)?, self.scalar(right, grid)?);
                Ok(both(&left, &right, grid, greatest))
            }
            (Function::Scalar, [vector]) => {
                let matrix = self.vector(vector, grid)?;
                let mut found: Vec<(f64, bool)> = vec![(f64::NAN, false); grid.count];
                for (step, value) in matrix.columns.iter().flat_map(|column| column.cells.floats()) {
                    let already = found[step].1;
                    found[step] = (if already { f64::NAN } else { value }, true);
                }
                Ok(Scalars::Steps(found.into_iter().map(|(value, _)| value).collect()))
            }
            (function, _) => Err(QueryError::Internal(format!("{function} does not give a scalar"))),
        }
    }
}

/// Combines two scalars step by step.
fn both(left: &Scalars, right: &Scalars, grid: Grid, combine: impl Fn(f64, f64) -> f64) -> Scalars {
    if let (Scalars::Constant(left), Scalars::Constant(right)) = (left, right) {
        return Scalars::Constant(combine(*left, *right));
    }
    Scalars::Steps(
        (0..grid.count)
            .map(|step| combine(left.at(step), right.at(step)))
            .collect(),
    )
}

fn scalar_result(op: BinaryOp, left: f64, right: f64) -> f64 {
    match compare(op, left, right) {
        Some(holds) => f64::from(u8::from(holds)),
        None => arithmetic(op, left, right),
    }
}

/// The result of an arithmetic operator.
#[inline]
pub(super) fn arithmetic(op: BinaryOp, left: f64, right: f64) -> f64 {
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        BinaryOp::Div => left / right,
        BinaryOp::Mod => left % right,
        BinaryOp::Pow => left.powf(right),
        BinaryOp::Atan2 => left.atan2(right),
        BinaryOp::Equal
        | BinaryOp::NotEqual
        | BinaryOp::Less
        | BinaryOp::LessEqual
        | BinaryOp::Greater
        | BinaryOp::GreaterEqual
        | BinaryOp::TrimUpper
        | BinaryOp::TrimLower
        | BinaryOp::And
        | BinaryOp::Or
        | BinaryOp::Unless => f64::NAN,
    }
}

/// Whether a comparison holds; `None` for other operators.
#[inline]
pub(super) fn compare(op: BinaryOp, left: f64, right: f64) -> Option<bool> {
    match op {
        BinaryOp::Equal => Some(left == right),
        BinaryOp::NotEqual => Some(left != right),
        BinaryOp::Less => Some(left < right),
        BinaryOp::LessEqual => Some(left <= right),
        BinaryOp::Greater => Some(left > right),
        BinaryOp::GreaterEqual => Some(left >= right),
        _ => None,
    }
}
