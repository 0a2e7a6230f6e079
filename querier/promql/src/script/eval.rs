//! One evaluation in all its variants.

use super::command::{Eval, Expected};
use super::{Target, compare, variant};
use crate::engine::{Query, Times};
use model::time::Timestamp;

/// How far the range query around an instant reaches to each side; also its step.
const AROUND_MS: i64 = 60_000;

type Checked = Result<(), String>;

/// Evaluates and compares; the reason names the variant that went wrong.
pub(super) fn check(eval: &Eval, target: &mut dyn Target) -> Checked {
    let Times::Instant(at) = eval.times else {
        return as_range(eval, target);
    };
    as_instant(eval, target, &eval.text, at, false)?;
    for (text, time) in variant::pinned(&eval.text, at) {
        let located = |reason| format!("as {text} at {time} ms: {reason}");
        as_instant(eval, target, &text, time, true).map_err(located)?;
    }
    Ok(())
}

fn query(text: &str, times: Times) -> Query {
    Query {
        text: text.to_owned(),
        times,
        lookback_ms: None,
        samples_max: None,
        stats_by_step: false,
    }
}

fn as_range(eval: &Eval, target: &mut dyn Target) -> Checked {
    match (target.evaluate(&query(&eval.text, eval.times)), &eval.fail) {
        (Err(error), Some(conditions)) => compare::error(conditions, &error.to_string()),
        (Err(error), None) => Err(error.to_string()),
        (Ok(_), Some(_)) => Err("expected an error, found none".to_owned()),
        (Ok(result), None) => {
            compare::annotations(eval, &result, false)?;
            compare::value(eval, &result.value)
        }
    }
}

fn as_instant(eval: &Eval, target: &mut dyn Target, text: &str, at: Timestamp, rewritten: bool) -> Checked {
    let result = match (target.evaluate(&query(text, Times::Instant(at))), &eval.fail) {
        (Err(error), Some(conditions)) => return compare::error(conditions, &error.to_string()),
        (Err(error), None) => return Err(error.to_string()),
        (Ok(_), Some(_)) => return Err("expected an error, found none".to_owned()),
        (Ok(result), None) => result,
    };
    compare::annotations(eval, &result, rewritten)?;
    compare::value(eval, &result.value)?;
    as_middle_step(eval, target, text, at).map_err(|reason| format!("as a range query: {reason}"))
}

/// The same instant as a step of a range query.
fn as_middle_step(eval: &Eval, target: &mut dyn Target, text: &str, at: Timestamp) -> Checked {
    // The results of range queries are sorted by labels, and neither strings nor range vectors can be.
    let single = matches!(eval.expected, Expected::String(_) | Expected::RangeVector { .. });
    if eval.ordered || single || variant::depends_on_query(text) {
        return Ok(());
    }
    let times = Times::Range {
        start: at - AROUND_MS,
        end: at + AROUND_MS,
        step_ms: AROUND_MS,
    };
    let result = target
        .evaluate(&query(text, times))
        .map_err(|error| error.to_string())?;
    compare::step(eval, &result.value, at)
}
