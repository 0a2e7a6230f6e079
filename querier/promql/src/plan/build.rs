//! From the syntax tree to the plan.

use super::{
    Aggregate, Binary, Call, Grid, Info, Instant, Kind, Node, Plan, PlanOptions, Selection, Shift, Subquery, TimeSpan,
    Window, Yield, needed, time::subquery_grid,
};
use crate::{
    ast::{self, AggregateOp, At, BinaryOp, DurationExpr, DurationTimes, Expr, Extension, Function, ValueType},
    query::QueryError,
};
use model::{
    label::METRIC_NAME,
    matcher::{MatchOp, Matcher},
    select::Hints,
    time::{TimeRange, Timestamp},
};

/// The info metric that `info()` takes when none is named.
const TARGET_INFO: &str = "target_info";

/// What the names of info metrics look like.
const INFO_PATTERN: &str = ".+_info";

pub(super) fn plan(expr: &Expr, grid: Grid, options: PlanOptions) -> Result<Plan, QueryError> {
    let span = grid.span();
    let step_ms = options.step_ms;
    // `end()` is the end that was asked for, though the last step may lie before it.
    let query = TimeSpan {
        first: span.first,
        last: options.end,
    };
    let durations = DurationTimes {
        step_ms,
        range_ms: query.last.saturating_sub(query.first),
    };
    let mut builder = Builder {
        query,
        durations,
        options,
        selections: Vec::new(),
    };
    let built = builder.build(
        expr,
        &Context {
            span,
            hints: Hints {
                step_ms,
                ..Hints::default()
            },
            stats: Stats::Full,
            one_metric: false,
        },
    )?;
    let value_type = expr.value_type();
    let root = match value_type {
        ValueType::Vector | ValueType::Scalar => built.settled(false),
        ValueType::Matrix | ValueType::String => built.node,
    };
    Ok(Plan {
        root,
        value_type,
        grid,
        selections: builder.selections,
    })
}

struct Builder {
    /// Start and end of the query.
    query: TimeSpan,
    /// What durations may refer to.
    durations: DurationTimes,
    options: PlanOptions,
    selections: Vec<Selection>,
}

/// What is around a part.
#[derive(Clone)]
struct Context {
    /// First and last time at which the part is evaluated.
    span: TimeSpan,
    /// What selectors inside may tell the source.
    hints: Hints,
    /// Which parts of histograms are looked at.
    stats: Stats,
    /// Whether the labels in `hints` do only when all series are of one metric.
    one_metric: bool,
}

impl Context {
    /// The hints that say when things are evaluated, which hold for everything inside.
    fn times(&self) -> Hints {
        Hints {
            step_ms: self.hints.step_ms,
            lead_ms: self.hints.lead_ms,
            ..Hints::default()
        }
    }
}

/// Which parts of histograms are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stats {
    /// All, as far as is known.
    Full,
    /// Count and sum.
    Enough,
    /// Something between here and the root needs buckets, whatever stands below.
    NeedBuckets,
}

/// A node, and whether it is the same at every step.
struct Built {
    node: Node,
    invariant: bool,
}

impl Built {
    /// The node for a parent that is (`parent`) or is not invariant itself.
    fn settled(self, parent: bool) -> Node {
        let trivial = matches!(
            self.node.kind,
            Kind::Number(_) | Kind::Text(_) | Kind::Window(_) | Kind::Subquery(_)
        );
        if parent || !self.invariant || trivial {
            return self.node;
        }
        Node {
            span: self.node.span,
            kind: Kind::Invariant(Box::new(self.node)),
        }
    }
}

impl Builder {
    fn build(&mut self, expr: &Expr, context: &Context) -> Result<Built, QueryError> {
        let span = expr.span();
        let (kind, invariant) = match expr {
            Expr::Number(number) => (Kind::Number(number.value), true),
            Expr::String(text) => (Kind::Text(text.clone()), true),
            Expr::Paren(paren) => return self.build(&paren.expr, context),
            Expr::Unary(unary) => {
                let inner = self.build(&unary.expr, context)?;
                if !unary.negative {
                    return Ok(inner);
                }
                match inner.node.kind {
                    Kind::Number(value) => (Kind::Number(-value), true),
                    _ => (Kind::Negate(Box::new(inner.node)), inner.invariant),
                }
            }
            Expr::Vector(selector) => {
                let instant = self.instant(selector, context, Yield::Value)?;
                let invariant = instant.shift.at.is_some();
                (Kind::Instant(instant), invariant)
            }
            Expr::Matrix(selector) => {
                let window = self.window(selector, context)?;
                let invariant = window.shift.at.is_some();
                (Kind::Window(window), invariant)
            }
            Expr::Subquery(subquery) => self.subquery(subquery, context)?,
            Expr::Call(call) => self.call(call, context)?,
            Expr::Aggregate(aggregate) => self.aggregate(aggregate, context)?,
            Expr::Binary(binary) => self.binary(binary, context)?,
        };
        Ok(Built {
            node: Node { span, kind },
            invariant,
        })
    }

    fn instant(
        &mut self,
        selector: &ast::VectorSelector,
        context: &Context,
        yields: Yield,
    ) -> Result<Instant, QueryError> {
        let shift = self.shift(&selector.shift)?;
        let smoothed = selector.extension == Some(Extension::Smoothed);
        let ends = shift.apply_span(context.span);
        let lookback = self.options.lookback_ms;
        let range = TimeRange::new(
            ends.first.saturating_sub(lookback).saturating_add(1),
            if smoothed {
                ends.last.saturating_add(lookback)
            } else {
                ends.last
            },
        );
        let mut context = context.clone();
        // Without buckets, resets are told by the samples before.
        context.hints.newest_only = ends.first == ends.last && !smoothed && context.stats != Stats::Enough;
        let selection = self.select(&selector.matchers, range, &context);
        Ok(Instant {
            selection,
            shift,
            smoothed,
            yields,
            matchers: selector.matchers.clone(),
        })
    }

    fn window(&mut self, matrix: &ast::MatrixSelector, context: &Context) -> Result<Window, QueryError> {
        let selector = &matrix.selector;
        let shift = self.shift(&selector.shift)?;
        let range_ms = self.duration(&matrix.range)?;
        let ends = shift.apply_span(context.span);
        let open = ends.first.saturating_sub(range_ms);
        let lookback = self.options.lookback_ms;
        let (before, after) = match selector.extension {
            None => (0, 0),
            Some(Extension::Anchored) => (lookback, 0),
            Some(Extension::Smoothed) => (lookback, lookback),
        };
        let range = TimeRange::new(
            open.saturating_sub(before).saturating_add(1),
            ends.last.saturating_add(after),
        );
        let mut context = context.clone();
        context.hints.range_ms = range_ms;
        let selection = self.select(&selector.matchers, range, &context);
        let matchers = selector.matchers.clone();
        Ok(Window {
            selection,
            shift,
            range_ms,
            extension: selector.extension,
            matchers,
        })
    }

    /// The index of the selection; equal ones are loaded once.
    fn select(&mut self, matchers: &[Matcher], range: TimeRange, context: &Context) -> usize {
        let stats_only = context.stats == Stats::Enough;
        let same = |known: &Selection| {
            known.matchers == matchers
                && known.range == range
                && known.stats_only == stats_only
                && known.hints == context.hints
                && known.one_metric == context.one_metric
        };
        if let Some(index) = self.selections.iter().position(same) {
            return index;
        }
        self.selections.push(Selection {
            matchers: matchers.to_vec(),
            range,
            hints: context.hints.clone(),
            stats_only,
            one_metric: context.one_metric,
        });
        self.selections.len() - 1
    }

    fn subquery(&mut self, subquery: &ast::Subquery, context: &Context) -> Result<(Kind, bool), QueryError> {
        let shift = self.shift(&subquery.shift)?;
        let range_ms = self.duration(&subquery.range)?;
        let step_ms = match &subquery.step {
            Some(step) => self.duration(step)?,
            None => self.options.subquery_step_ms,
        };
        if step_ms <= 0 {
            return Err(QueryError::Execution(
                "zero or negative subquery step is not allowed".into(),
            ));
        }
        let ends = shift.apply_span(context.span);
        let grid = subquery_grid(ends, range_ms, step_ms);
        // With a time of its own a subquery is not where the things around it are.
        let lead_before = if shift.at.is_some() { 0 } else { context.hints.lead_ms };
        let own_lead = grid.start.saturating_sub(ends.first.saturating_sub(range_ms));
        let inner = self.build(
            &subquery.expr,
            &Context {
                span: grid.span(),
                hints: Hints {
                    step_ms,
                    lead_ms: lead_before.saturating_add(own_lead),
                    ..Hints::default()
                },
                stats: Stats::NeedBuckets,
                one_metric: false,
            },
        )?;
        let inner = inner.settled(false);
        Ok((
            Kind::Subquery(Box::new(Subquery {
                inner,
                shift,
                range_ms,
                step_ms,
            })),
            shift.at.is_some(),
        ))
    }

    fn call(&mut self, call: &ast::Call, context: &Context) -> Result<(Kind, bool), QueryError> {
        let function = call.function;
        if function == Function::Info {
            return self.info(call, context);
        }
        if let Some(direct) = self.time_of_sample(call, context)? {
            return Ok(direct);
        }
        let inner = Context {
            span: context.span,
            hints: Hints {
                function: function.as_str().to_owned(),
                ..context.times()
            },
            stats: stats_below(function, context.stats),
            one_metric: false,
        };
        // What an aggregation around looks at is told to the window alone, not to parameters.
        let mut windows = inner.clone();
        windows.hints.labels.clone_from(&context.hints.labels);
        windows.one_metric = context.one_metric;
        let build = |arg: &Expr| match arg.unwrap_parens() {
            Expr::Matrix(_) => self.build(arg, &windows),
            _ => self.build(arg, &inner),
        };
        let built = call.args.iter().map(build).collect::<Result<Vec<_>, _>>()?;
        let invariant = !function.depends_on_time() && built.iter().all(|arg| arg.invariant);
        let args = built.into_iter().map(|arg| arg.settled(invariant)).collect();
        let kind = match function {
            // What depends on the query alone is a number.
            Function::Start => Kind::Number(seconds(self.query.first)),
            Function::End => Kind::Number(seconds(self.query.last)),
            Function::Step => Kind::Number(seconds(self.durations.step_ms)),
            Function::Range => Kind::Number(seconds(self.durations.range_ms)),
            Function::Pi => Kind::Number(std::f64::consts::PI),
            _ => Kind::Call(Call { function, args }),
        };
        Ok((kind, invariant))
    }

    /// `timestamp` and `start_timestamp` directly around a selector tell about the sample, not about the evaluation.
    fn time_of_sample(&mut self, call: &ast::Call, context: &Context) -> Result<Option<(Kind, bool)>, QueryError> {
        let yields = match call.function {
            Function::Timestamp => Yield::Timestamp,
            Function::StartTimestamp => Yield::Start,
            _ => return Ok(None),
        };
        let Some(Expr::Vector(selector)) = call.args.first().map(Expr::unwrap_parens) else {
            return Ok(None);
        };
        let mut context = context.clone();
        context.hints.function = call.function.as_str().to_owned();
        let instant = self.instant(selector, &context, yields)?;
        let invariant = instant.shift.at.is_some();
        Ok(Some((Kind::Instant(instant), invariant)))
    }

    fn info(&mut self, call: &ast::Call, context: &Context) -> Result<(Kind, bool), QueryError> {
        let [base, rest @ ..] = call.args.as_slice() else {
            return Err(QueryError::Internal("info() without an argument".into()));
        };
        let matchers = match rest.first().map(Expr::unwrap_parens) {
            Some(Expr::Vector(selector)) => selector.matchers.clone(),
            _ => Vec::new(),
        };
        let (mut names, data): (Vec<_>, Vec<_>) =
            matchers.into_iter().partition(|matcher| &*matcher.name == METRIC_NAME);
        if names.is_empty() {
            names.push(Matcher::equal(METRIC_NAME, TARGET_INFO));
        } else if !names
            .iter()
            .any(|matcher| matches!(matcher.op, MatchOp::Equal | MatchOp::Regex))
        {
            // What is only said not to be an info metric must still look like one.
            let looks_like_info = Matcher::new(MatchOp::Regex, METRIC_NAME, INFO_PATTERN);
            names.push(looks_like_info.map_err(|error| QueryError::Internal(error.to_string()))?);
        }
        let built = self.build(base, context)?;
        let shifts = self.shifts_to_selector(base)?;
        let span = shifts.iter().fold(context.span, |span, shift| shift.apply_span(span));
        let range = TimeRange::new(
            span.first.saturating_sub(self.options.lookback_ms).saturating_add(1),
            span.last,
        );
        let mut context = context.clone();
        context.hints.function = Function::Info.as_str().to_owned();
        let asked: Vec<_> = names.iter().chain(&data).cloned().collect();
        let selection = self.select(&asked, range, &context);
        let invariant = built.invariant;
        let base = built.settled(invariant);
        Ok((
            Kind::Info(Box::new(Info {
                base,
                selection,
                shifts,
                names,
                data,
            })),
            invariant,
        ))
    }

    /// How the time shifts from `expr` down to the first selector inside it.
    fn shifts_to_selector(&self, expr: &Expr) -> Result<Vec<Shift>, QueryError> {
        let own = match expr {
            Expr::Vector(selector) => return Ok(vec![self.shift(&selector.shift)?]),
            Expr::Matrix(matrix) => return Ok(vec![self.shift(&matrix.selector.shift)?]),
            Expr::Subquery(subquery) => Some(self.shift(&subquery.shift)?),
            _ => None,
        };
        for child in expr.children() {
            let mut found = self.shifts_to_selector(child)?;
            if !found.is_empty() {
                found.splice(0..0, own);
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    fn aggregate(&mut self, aggregate: &ast::Aggregate, context: &Context) -> Result<(Kind, bool), QueryError> {
        let mut inner_context = context.clone();
        inner_context.hints = Hints {
            function: aggregate.op.as_str().to_owned(),
            grouping: aggregate.grouping.clone(),
            by: !aggregate.without,
            ..context.times()
        };
        let needed = needed::labels(aggregate, self.options.delayed_name_removal);
        inner_context.one_metric = needed.as_ref().is_some_and(|needed| needed.one_metric);
        inner_context.hints.labels = needed.map(|needed| needed.names);
        if aggregate.op == AggregateOp::CountValues {
            inner_context.stats = Stats::NeedBuckets;
        }
        let param = aggregate
            .param
            .as_ref()
            .map(|param| self.build(param, context))
            .transpose()?;
        let inner = self.build(&aggregate.expr, &inner_context)?;
        let invariant = inner.invariant && param.as_ref().is_none_or(|param| param.invariant);
        let kind = Kind::Aggregate(Box::new(Aggregate {
            op: aggregate.op,
            inner: inner.settled(invariant),
            inner_span: aggregate.expr.span(),
            param: param.map(|param| param.settled(invariant)),
            grouping: aggregate.grouping.clone(),
            without: aggregate.without,
        }));
        Ok((kind, invariant))
    }

    fn binary(&mut self, binary: &ast::Binary, context: &Context) -> Result<(Kind, bool), QueryError> {
        let mut context = context.clone();
        context.hints = context.times();
        if binary.op.is_comparison() || matches!(binary.op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
            context.stats = Stats::NeedBuckets;
        }
        let left = self.build(&binary.left, &context)?;
        let right = self.build(&binary.right, &context)?;
        let invariant = left.invariant && right.invariant;
        let kind = Kind::Binary(Box::new(Binary {
            op: binary.op,
            left: left.settled(invariant),
            right: right.settled(invariant),
            types: (binary.left.value_type(), binary.right.value_type()),
            return_bool: binary.return_bool,
            matching: binary.matching.clone().unwrap_or_default(),
        }));
        Ok((kind, invariant))
    }

    fn shift(&self, shift: &ast::Shift) -> Result<Shift, QueryError> {
        let offset_ms = match &shift.offset {
            Some(offset) => offset
                .resolve(self.durations)
                .map_err(|error| QueryError::Execution(error.to_string()))?,
            None => 0,
        };
        let at = shift.at.map(|at| match at {
            At::Time(time) => time,
            At::Start => self.query.first,
            At::End => self.query.last,
        });
        Ok(Shift { at, offset_ms })
    }

    fn duration(&self, duration: &DurationExpr) -> Result<i64, QueryError> {
        duration
            .resolve_positive(self.durations)
            .map_err(|error| QueryError::Execution(error.to_string()))
    }
}

/// What functions inside a call of `function` need of histograms.
///
/// Inside a subquery buckets are always needed: resets can only be found by comparing the samples that it happens to take.
fn stats_below(function: Function, above: Stats) -> Stats {
    match (function, above) {
        (_, Stats::NeedBuckets) => Stats::NeedBuckets,
        (Function::HistogramCount | Function::HistogramSum | Function::HistogramAvg, _) => Stats::Enough,
        (Function::HistogramQuantile | Function::HistogramQuantiles | Function::HistogramFraction, _) => {
            Stats::NeedBuckets
        }
        (Function::HistogramStddev | Function::HistogramStdvar, _) => Stats::NeedBuckets,
        (_, above) => above,
    }
}

fn seconds(milliseconds: Timestamp) -> f64 {
    milliseconds as f64 / 1000.0
}
