//! The plan of a query: its tree with all times resolved, and the list of what must be selected for it.
//!
//! The engine makes it once per query ([`Plan::new`]); selections are loaded, nodes are evaluated by `operator`. Durations and
//! `@` are plain milliseconds here, parentheses are gone, and parts that are the same at every step are marked.

mod time;
mod needed;
mod build;

pub(crate) use time::{Grid, Shift, Span as TimeSpan, subquery_grid};

use crate::{
    ast::{AggregateOp, BinaryOp, Extension, Function, Matching, Span, StringLiteral, ValueType},
    query::QueryError,
};
use model::{
    matcher::Matcher,
    select::Hints,
    time::{TimeRange, Timestamp},
};

/// A query, ready to be loaded.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What is evaluated.
    pub(crate) root: Node,
    /// What it evaluates to.
    pub(crate) value_type: ValueType,
    /// When it is evaluated.
    pub(crate) grid: Grid,
    /// Distinct selections that nodes refer to by index.
    pub(crate) selections: Vec<Selection>,
}

/// Series to ask the source for.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// All must match.
    pub(crate) matchers: Vec<Matcher>,
    /// When samples are needed.
    pub(crate) range: TimeRange,
    /// What for.
    pub(crate) hints: Hints,
    /// Whether count and sum of histograms are enough, so that buckets can be forgotten at once.
    pub(crate) stats_only: bool,
    /// Whether the labels that the hints name do only when all series are of one metric; else all labels are needed.
    pub(crate) one_metric: bool,
}

/// A part of the plan.
#[derive(Debug)]
pub(crate) struct Node {
    /// Where it stands in the query.
    pub(crate) span: Span,
    /// What to do.
    pub(crate) kind: Kind,
}

/// What a node does.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A number.
    Number(f64),
    /// A text.
    Text(StringLiteral),
    /// One sample per series and step.
    Instant(Instant),
    /// A window of samples per series and step.
    Window(Window),
    /// A window of evaluations per step.
    Subquery(Box<Subquery>),
    /// The call of a function.
    Call(Call),
    /// `info()`.
    Info(Box<Info>),
    /// An aggregation.
    Aggregate(Box<Aggregate>),
    /// An operator between two operands.
    Binary(Box<Binary>),
    /// The operand times -1.
    Negate(Box<Node>),
    /// The same at every step: evaluated at the first one.
    Invariant(Box<Node>),
}

/// A selector of instant values.
#[derive(Debug)]
pub(crate) struct Instant {
    /// Index in [`Plan::selections`].
    pub(crate) selection: usize,
    /// When it looks.
    pub(crate) shift: Shift,
    /// Whether values are interpolated.
    pub(crate) smoothed: bool,
    /// What of a sample becomes the value.
    pub(crate) yields: Yield,
    /// Its matchers, for the labels of `absent`.
    pub(crate) matchers: Vec<Matcher>,
}

/// What of a sample becomes the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Yield {
    /// Its value.
    Value,
    /// Its time: `timestamp()` directly around a selector.
    Timestamp,
    /// Its start time: `start_timestamp()` directly around a selector.
    Start,
}

/// A selector of windows of samples.
#[derive(Debug)]
pub(crate) struct Window {
    /// Index in [`Plan::selections`].
    pub(crate) selection: usize,
    /// When it looks.
    pub(crate) shift: Shift,
    /// Width.
    pub(crate) range_ms: i64,
    /// How edges are treated.
    pub(crate) extension: Option<Extension>,
    /// Its matchers, for the labels of `absent_over_time`.
    pub(crate) matchers: Vec<Matcher>,
}

/// An expression evaluated over a window.
#[derive(Debug)]
pub(crate) struct Subquery {
    /// The expression.
    pub(crate) inner: Node,
    /// When it looks.
    pub(crate) shift: Shift,
    /// Width of the window.
    pub(crate) range_ms: i64,
    /// Distance of the evaluations.
    pub(crate) step_ms: i64,
}

/// The call of a function.
#[derive(Debug)]
pub(crate) struct Call {
    /// Which one.
    pub(crate) function: Function,
    /// Its arguments.
    pub(crate) args: Vec<Node>,
}

/// A call of `info()`.
#[derive(Debug)]
pub(crate) struct Info {
    /// The series to enrich.
    pub(crate) base: Node,
    /// Index of the info series in [`Plan::selections`].
    pub(crate) selection: usize,
    /// Shifts from the evaluation time to the time at which info series are looked up, the outermost first.
    pub(crate) shifts: Vec<Shift>,
    /// Matchers of the names of info metrics; a base series that satisfies them is an info series itself.
    pub(crate) names: Vec<Matcher>,
    /// Matchers of other labels: only these labels are taken over, all when there are none.
    pub(crate) data: Vec<Matcher>,
}

/// An aggregation.
#[derive(Debug)]
pub(crate) struct Aggregate {
    /// Which one.
    pub(crate) op: AggregateOp,
    /// What is aggregated.
    pub(crate) inner: Node,
    /// Where that stands, parentheses included.
    pub(crate) inner_span: Span,
    /// The parameter.
    pub(crate) param: Option<Node>,
    /// Labels of the groups.
    pub(crate) grouping: Vec<String>,
    /// Whether groups are formed by all other labels.
    pub(crate) without: bool,
}

/// An operator between two operands.
#[derive(Debug)]
pub(crate) struct Binary {
    /// Which one.
    pub(crate) op: BinaryOp,
    /// Left operand.
    pub(crate) left: Node,
    /// Right operand.
    pub(crate) right: Node,
    /// Types of both.
    pub(crate) types: (ValueType, ValueType),
    /// Whether a comparison yields 0 and 1.
    pub(crate) return_bool: bool,
    /// How series of two vectors are paired.
    pub(crate) matching: Matching,
}

/// What a plan depends on besides the expression.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanOptions {
    /// How far instant selectors look back.
    pub(crate) lookback_ms: i64,
    /// Step of subqueries that state none.
    pub(crate) subquery_step_ms: i64,
    /// Step of the query, 0 of an instant query.
    pub(crate) step_ms: i64,
    /// End of the query as it was asked for; the last step may lie before it.
    pub(crate) end: Timestamp,
    /// Whether names are dropped at the end only.
    pub(crate) delayed_name_removal: bool,
}

impl Plan {
    /// Plans `expr`, evaluated on `grid`.
    pub(crate) fn new(expr: &crate::ast::Expr, grid: Grid, options: PlanOptions) -> Result<Self, QueryError> {
        build::plan(expr, grid, options)
    }
}
