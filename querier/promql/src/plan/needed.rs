//! Which labels of its series an aggregation looks at, when it stands directly around a selector or a range function.
//!
//! A source that knows puts together only those. Without this, a sum over a hundred thousand series begins with a million label texts
//! that nobody reads.

use crate::ast::{Aggregate, AggregateOp, Expr, Function, ValueType};
use model::{
    label::METRIC_NAME,
    matcher::{MatchOp, Matcher},
};
use std::sync::Arc;

/// Labels that describe the metric: notes tell them, and functions drop them.
const METADATA: [&str; 3] = [METRIC_NAME, "__type__", "__unit__"];

/// Labels that are looked at.
pub(super) struct Needed {
    /// Their names.
    pub(super) names: Arc<[String]>,
    /// Whether they do only when all series are of one metric: without their names, series of several may be the same, and that is an
    /// error which only all labels can tell.
    pub(super) one_metric: bool,
}

/// The labels that `aggregate` looks at; `None` for all.
pub(super) fn labels(aggregate: &Aggregate, delayed_name_removal: bool) -> Option<Needed> {
    use AggregateOp as Op;
    let by_labels = !aggregate.without;
    let adds_up = matches!(aggregate.op, Op::Sum | Op::Avg);
    let compares = matches!(
        aggregate.op,
        Op::Count | Op::Group | Op::Max | Op::Min | Op::StdDev | Op::StdVar
    );
    if !by_labels || !(adds_up || compares) {
        return None;
    }
    let needed = |with_metadata: bool, one_metric: bool| {
        let metadata = METADATA.iter().filter(|_| with_metadata).map(|name| (*name).to_owned());
        let mut names: Vec<String> = aggregate.grouping.iter().cloned().chain(metadata).collect();
        names.sort_unstable();
        names.dedup();
        let names = names.into();
        Some(Needed { names, one_metric })
    };
    match aggregate.expr.unwrap_parens() {
        // Only histograms that do not add up are called by their names.
        Expr::Vector(selector) => needed(adds_up || selector.extension.is_some(), false),
        Expr::Call(call) if is_range_function(call.function) => {
            let selector = call.args.iter().find_map(|arg| match arg.unwrap_parens() {
                Expr::Matrix(matrix) => Some(&matrix.selector),
                _ => None,
            })?;
            let keeps_name = matches!(call.function, Function::LastOverTime | Function::FirstOverTime);
            if keeps_name || delayed_name_removal {
                return needed(true, false);
            }
            let by_metadata = aggregate.grouping.iter().any(|name| METADATA.contains(&name.as_str()));
            let named = |matcher: &Matcher| &*matcher.name == METRIC_NAME && matcher.op == MatchOp::Equal;
            if by_metadata || !selector.matchers.iter().any(named) {
                return None;
            }
            needed(true, true)
        }
        _ => None,
    }
}

/// Whether the function makes a value of each window, series by series.
fn is_range_function(function: Function) -> bool {
    function != Function::AbsentOverTime && function.signature().args.contains(&ValueType::Matrix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ast::ParserOptions, parse::parse};

    fn check(query: &str, delayed: bool, expected: Option<(&[&str], bool)>) {
        let expr = parse(query, ParserOptions::default()).unwrap();
        let Expr::Aggregate(aggregate) = &expr else {
            panic!("{query} is no aggregation")
        };
        let found = labels(aggregate, delayed).map(|needed| (needed.names.to_vec(), needed.one_metric));
        let owned = |(names, one): (&[&str], bool)| (names.iter().map(|name| (*name).to_owned()).collect(), one);
        assert_eq!(found, expected.map(owned), "{query}");
    }

    #[test]
    fn what_stands_directly_around_a_selector_needs_few_labels() {
        let metadata: &[&str] = &["__name__", "__type__", "__unit__"];
        let with_job: &[&str] = &["__name__", "__type__", "__unit__", "job"];
        check("count(up)", false, Some((&[], false)));
        check("max by (job, pod) ((up))", false, Some((&["job", "pod"], false)));
        check("sum by (job) (up)", false, Some((with_job, false)));
        check("sum by (job) (rate(up[5m]))", false, Some((with_job, true)));
        check("count(last_over_time({job=\"x\"}[5m]))", false, Some((metadata, false)));
        check("count(rate({job=\"x\"}[5m]))", true, Some((metadata, false)));
        check("max(quantile_over_time(0.5, up[5m]))", false, Some((metadata, true)));
    }

    #[test]
    fn others_need_all() {
        for query in [
            "sum without (job) (up)",
            "topk(1, up)",
            "quantile(0.5, up)",
            "count(-up)",
            "count(up + up)",
            "count(abs(up))",
            "count(timestamp(up))",
            "count(rate(up[5m:]))",
            "count(rate({job=\"x\"}[5m]))",
            "count(rate({__name__=~\"a|b\"}[5m]))",
            "count by (__name__) (rate(up[5m]))",
            "count(absent_over_time(up[5m]))",
        ] {
            check(query, false, None);
        }
    }
}
