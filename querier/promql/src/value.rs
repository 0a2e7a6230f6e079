//! What a query evaluates to. The HTTP API renders these values, the script runner compares them.

use model::{histogram::Histogram, label::Labels, time::Timestamp};
use std::sync::Arc;

/// A value at one point in time.
#[derive(Debug, Clone, PartialEq)]
pub enum Point {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// An element of an instant vector.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorSample {
    /// Labels of the element, distinct within its vector.
    pub labels: Labels,
    /// Evaluation time, the same for all elements.
    pub at: Timestamp,
    /// Its value.
    pub value: Point,
}

/// A series of a range query, or of a range vector. Floats and histograms lie apart; a timestamp is in one of the two.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MatrixSeries {
    /// Labels of the series, distinct within its matrix.
    pub labels: Labels,
    /// Float points, ascending by time.
    pub floats: Vec<(Timestamp, f64)>,
    /// Histogram points, ascending by time.
    pub histograms: Vec<(Timestamp, Arc<Histogram>)>,
}

/// The value of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number, only of instant queries.
    Scalar {
        /// Evaluation time.
        at: Timestamp,
        /// The number.
        value: f64,
    },
    /// A text, only of instant queries.
    String {
        /// Evaluation time.
        at: Timestamp,
        /// The text.
        text: String,
    },
    /// An instant vector. Its order is that of the selected series unless the query sorts.
    Vector(Vec<VectorSample>),
    /// The series of a range query, or a range vector; sorted by labels.
    Matrix(Vec<MatrixSeries>),
}

impl Value {
    /// The name of the type in the HTTP API.
    pub const fn kind(&self) -> &'static str {
        match self {
            Value::Scalar { .. } => "scalar",
            Value::String { .. } => "string",
            Value::Vector(_) => "vector",
            Value::Matrix(_) => "matrix",
        }
    }
}
