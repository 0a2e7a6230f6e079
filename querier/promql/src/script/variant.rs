//! Other ways to ask the same question: the same expression with every selector pinned to the time of evaluation by `@`, evaluated
//! at other times. Pinned, it must give the same answer.

use crate::ast::{At, DurationExpr, DurationKind, Expr, Function, ParserOptions, Shift};
use crate::parse::parse;
use model::time::Timestamp;

/// The pinned expression and the times at which to evaluate it; nothing when the answer depends on the time by more than
/// selectors.
pub(super) fn pinned(text: &str, at: Timestamp) -> Vec<(String, Timestamp)> {
    // What does not parse is not rewritten; evaluating it as written says what is wrong.
    let Ok(mut expr) = parse(text, ParserOptions::ALL) else {
        return Vec::new();
    };
    let mut depends_on_time = false;
    pin(&mut expr, at, &mut depends_on_time);
    if depends_on_time || refers_to_query(&expr, false) {
        return Vec::new();
    }
    let text = expr.to_string();
    let times: &[Timestamp] = if at == 0 {
        &[-1000, 0, 1000]
    } else {
        &[-10 * at, 0, at / 5, at, 10 * at]
    };
    times.iter().map(|&time| (text.clone(), time)).collect()
}

/// Whether the answer depends on start, end or step of the query, so that an instant and a range query differ.
pub(super) fn depends_on_query(text: &str) -> bool {
    parse(text, ParserOptions::ALL).is_ok_and(|expr| refers_to_query(&expr, true))
}

/// Pins all selectors; a pinned subquery pins what is inside.
fn pin(expr: &mut Expr, at: Timestamp, depends_on_time: &mut bool) {
    match expr {
        Expr::Vector(selector) => return pin_shift(&mut selector.shift, at),
        Expr::Matrix(matrix) => return pin_shift(&mut matrix.selector.shift, at),
        Expr::Subquery(subquery) => return pin_shift(&mut subquery.shift, at),
        Expr::Call(call) => *depends_on_time |= call.function.depends_on_time(),
        Expr::Aggregate(_) | Expr::Binary(_) | Expr::Number(_) | Expr::Paren(_) | Expr::String(_) | Expr::Unary(_) => {}
    }
    for child in expr.children_mut() {
        pin(child, at, depends_on_time);
    }
}

/// In an instant query start and end are the time of evaluation too.
fn pin_shift(shift: &mut Shift, at: Timestamp) {
    if !matches!(shift.at, Some(At::Time(_))) {
        shift.at = Some(At::Time(at));
    }
}

/// Whether the expression reads start, end or step of the query, `durations` included if asked.
fn refers_to_query(expr: &Expr, durations: bool) -> bool {
    let mut found = false;
    let duration_refers = |duration: &DurationExpr| durations && duration_refers(duration);
    let shift_refers = |shift: &Shift| {
        matches!(shift.at, Some(At::Start | At::End)) || shift.offset.as_ref().is_some_and(duration_refers)
    };
    expr.walk(&mut |expr| {
        found |= match expr {
            Expr::Vector(selector) => shift_refers(&selector.shift),
            Expr::Matrix(matrix) => shift_refers(&matrix.selector.shift) || duration_refers(&matrix.range),
            Expr::Subquery(subquery) => {
                shift_refers(&subquery.shift)
                    || duration_refers(&subquery.range)
                    || subquery.step.as_ref().is_some_and(duration_refers)
            }
            Expr::Call(call) => {
                matches!(
                    call.function,
                    Function::Start | Function::End | Function::Step | Function::Range
                )
            }
            Expr::Aggregate(_)
            | Expr::Binary(_)
            | Expr::Number(_)
            | Expr::Paren(_)
            | Expr::String(_)
            | Expr::Unary(_) => false,
        };
    });
    found
}

fn duration_refers(duration: &DurationExpr) -> bool {
    match &duration.kind {
        DurationKind::Step | DurationKind::Range => true,
        DurationKind::Number(_) => false,
        DurationKind::Sign(_, inner) => duration_refers(inner),
        DurationKind::Binary(_, left, right) | DurationKind::MinOf(left, right) | DurationKind::MaxOf(left, right) => {
            duration_refers(left) || duration_refers(right)
        }
    }
}
