//! The syntax tree of PromQL. [`crate::parse`] makes it, the planner and the printer read it.
//!
//! Every node knows which bytes of the query it came from, because annotations and errors name line and column. The
//! parser vouches that a tree is well typed and no higher than [`DEPTH_MAX`], so recursion over it is safe.

mod duration;
mod function;
mod operator;
mod visit;

pub use duration::{DurationError, DurationExpr, DurationKind, DurationOp, DurationTimes};
pub(crate) use duration::{SECONDS_MAX, whole_milliseconds};
pub use function::{Function, Signature};
pub use operator::{AggregateOp, BinaryOp, Cardinality, Matching};

use crate::format::{quote, quote_bytes};
use model::matcher::Matcher;
use model::time::Timestamp;
use std::fmt;

/// Greatest height of a tree. A chain such as `a or b or c` is as high as it is long. Every walk recurses once or
/// twice per level, and worker threads have stacks of 2 MiB.
pub const DEPTH_MAX: usize = 512;

/// A run of bytes of the query text, `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Byte behind the last one.
    pub end: u32,
}

impl Span {
    /// The bytes from `start` up to `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The smallest span that holds both.
    pub fn to(self, other: Span) -> Span {
        Span {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// Line and column of the start inside `text`, both from 1, counted in bytes as Prometheus does.
    pub fn line_col(self, text: &str) -> (usize, usize) {
        let before = &text.as_bytes()[..(self.start as usize).min(text.len())];
        let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
        let line_start = before
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |newline| newline + 1);
        (line, before.len() - line_start + 1)
    }

    /// The start as errors and annotations name it: `line:col`.
    pub fn position(self, text: &str) -> String {
        if text.is_empty() {
            return "unknown position".to_owned();
        }
        let (line, column) = self.line_col(text);
        format!("{line}:{column}")
    }
}

/// What an expression evaluates to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// One number per step.
    Scalar,
    /// One sample per series and step.
    Vector,
    /// A window of samples per series and step.
    Matrix,
    /// A string.
    String,
}

impl ValueType {
    /// The name that the API uses as `resultType`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::Vector => "vector",
            ValueType::Matrix => "matrix",
            ValueType::String => "string",
        }
    }
}

/// The name that error texts use.
impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ValueType::Scalar => "scalar",
            ValueType::Vector => "instant vector",
            ValueType::Matrix => "range vector",
            ValueType::String => "string",
        })
    }
}

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// `sum by (job) (x)`
    Aggregate(Box<Aggregate>),
    /// `a + on (job) b`
    Binary(Box<Binary>),
    /// `rate(x[5m])`
    Call(Box<Call>),
    /// `x[5m]`
    Matrix(Box<MatrixSelector>),
    /// `rate(x[5m])[1h:1m]`
    Subquery(Box<Subquery>),
    /// `1e3`, `5m`
    Number(Number),
    /// `(a)`
    Paren(Box<Paren>),
    /// `"text"`
    String(StringLiteral),
    /// `-a`
    Unary(Box<Unary>),
    /// `up{job="x"}`
    Vector(Box<VectorSelector>),
}

/// An aggregation over the series of a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    /// From the operator to the last parenthesis or modifier.
    pub span: Span,
    /// Which aggregation.
    pub op: AggregateOp,
    /// The vector that is aggregated.
    pub expr: Expr,
    /// The parameter, for the operators that take one ([`AggregateOp::takes_param`]).
    pub param: Option<Expr>,
    /// Labels of the groups, as written.
    pub grouping: Vec<String>,
    /// Whether groups are formed by all labels except `grouping` (else by those alone).
    pub without: bool,
}

/// An operator between two expressions.
#[derive(Debug, Clone, PartialEq)]
pub struct Binary {
    /// From the start of `left` to the end of `right`.
    pub span: Span,
    /// Which operator.
    pub op: BinaryOp,
    /// Where the operator itself stands.
    pub op_span: Span,
    /// Left operand.
    pub left: Expr,
    /// Right operand.
    pub right: Expr,
    /// Whether a comparison yields 0 or 1 instead of filtering.
    pub return_bool: bool,
    /// How series of the two sides are paired; `Some` exactly when both sides are vectors.
    pub matching: Option<Matching>,
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// From the name to the closing parenthesis.
    pub span: Span,
    /// Which function.
    pub function: Function,
    /// Its arguments, of the types that [`Function::signature`] asks for.
    pub args: Vec<Expr>,
}

/// A selector of instant values.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorSelector {
    /// From the name or brace to the last modifier.
    pub span: Span,
    /// The name, when it stands before the braces; the last matcher then repeats it.
    pub name: Option<String>,
    /// All conditions, the metric name included.
    pub matchers: Vec<Matcher>,
    /// `offset` and `@`; those of a range selector are kept here as well.
    pub shift: Shift,
    /// `anchored` or `smoothed`; those of a range selector are kept here as well.
    pub extension: Option<Extension>,
}

/// When a selector or subquery looks, if not at the time of evaluation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shift {
    /// How far back.
    pub offset: Option<DurationExpr>,
    /// A fixed time.
    pub at: Option<At>,
}

/// The time of an `@` modifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// `@ 1609746000`
    Time(Timestamp),
    /// `@ start()`: the first step of the query.
    Start,
    /// `@ end()`: the last step of the query.
    End,
}

/// How a selector treats the edges of its window (experimental).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extension {
    /// The edge takes the last value before it.
    Anchored,
    /// The edge takes a value between its neighbours.
    Smoothed,
}

impl Extension {
    /// The modifier as written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Extension::Anchored => "anchored",
            Extension::Smoothed => "smoothed",
        }
    }
}

/// A selector of windows of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixSelector {
    /// From the selector to the last modifier.
    pub span: Span,
    /// Which series, and when; it holds the modifiers written behind the brackets.
    pub selector: VectorSelector,
    /// Width of the window.
    pub range: DurationExpr,
}

/// An expression evaluated over a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Subquery {
    /// From the expression to the last modifier.
    pub span: Span,
    /// What is evaluated.
    pub expr: Expr,
    /// Width of the window.
    pub range: DurationExpr,
    /// Distance of the evaluations; the global evaluation interval when absent.
    pub step: Option<DurationExpr>,
    /// `offset` and `@`.
    pub shift: Shift,
}

/// A number.
#[derive(Debug, Clone, Copy)]
pub struct Number {
    /// Where it stands, a sign that belongs to it included.
    pub span: Span,
    /// Its value; of a duration, in seconds.
    pub value: f64,
    /// Whether it was written as a duration, such as `5m`.
    pub duration: bool,
}

/// Bits count, so that a tree with NaN equals itself.
impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.span == other.span && self.value.to_bits() == other.value.to_bits() && self.duration == other.duration
    }
}

/// An expression in parentheses.
#[derive(Debug, Clone, PartialEq)]
pub struct Paren {
    /// With both parentheses.
    pub span: Span,
    /// What is inside.
    pub expr: Expr,
}

/// A string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StringLiteral {
    /// With both quotes.
    pub span: Span,
    /// The text, escapes resolved; bytes that are not UTF-8 are replaced.
    pub value: String,
    /// The exact bytes when they are not UTF-8.
    pub bytes: Option<Vec<u8>>,
}

impl StringLiteral {
    /// The text in quotes with Go's escapes.
    pub fn quoted(&self) -> String {
        match &self.bytes {
            Some(bytes) => quote_bytes(bytes),
            None => quote(&self.value),
        }
    }
}

/// A sign before an expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Unary {
    /// From the sign to the end of the expression.
    pub span: Span,
    /// Whether the sign is `-` (else `+`).
    pub negative: bool,
    /// The operand, a scalar or a vector.
    pub expr: Expr,
}

/// Which parts of the language that Prometheus keeps behind feature flags are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParserOptions {
    /// Experimental functions and aggregations.
    pub experimental_functions: bool,
    /// Arithmetic in durations; on by default.
    pub duration_expressions: bool,
    /// `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// `fill`, `fill_left` and `fill_right`.
    pub fill_modifiers: bool,
}

impl ParserOptions {
    /// Everything on, as Prometheus's test scripts want it.
    pub const ALL: Self = Self {
        experimental_functions: true,
        duration_expressions: true,
        extended_range_selectors: true,
        fill_modifiers: true,
    };
}

impl Default for ParserOptions {
    fn default() -> Self {
        Self {
            experimental_functions: false,
            duration_expressions: true,
            extended_range_selectors: false,
            fill_modifiers: false,
        }
    }
}

impl Expr {
    /// Where the expression stands in the query.
    pub fn span(&self) -> Span {
        match self {
            Expr::Aggregate(node) => node.span,
            Expr::Binary(node) => node.span,
            Expr::Call(node) => node.span,
            Expr::Matrix(node) => node.span,
            Expr::Subquery(node) => node.span,
            Expr::Number(node) => node.span,
            Expr::Paren(node) => node.span,
            Expr::String(node) => node.span,
            Expr::Unary(node) => node.span,
            Expr::Vector(node) => node.span,
        }
    }

    /// What the expression evaluates to.
    pub fn value_type(&self) -> ValueType {
        match self {
            Expr::Aggregate(_) | Expr::Vector(_) => ValueType::Vector,
            Expr::Matrix(_) | Expr::Subquery(_) => ValueType::Matrix,
            Expr::Number(_) => ValueType::Scalar,
            Expr::String(_) => ValueType::String,
            Expr::Call(node) => node.function.signature().returns,
            Expr::Paren(node) => node.expr.value_type(),
            Expr::Unary(node) => node.expr.value_type(),
            Expr::Binary(node) => match (node.left.value_type(), node.right.value_type()) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::Vector,
            },
        }
    }

    /// The expression inside any parentheses around it.
    pub fn unwrap_parens(&self) -> &Expr {
        let mut expr = self;
        while let Expr::Paren(paren) = expr {
            expr = &paren.expr;
        }
        expr
    }
}
