//! Durations as the language writes them: literals and, since 3.14 by default, arithmetic over them.
//!
//! The parser makes them; the planner resolves them once per query, when start, end and step are known.

use super::{Number, Span};
use std::fmt;

/// A duration of a range, an offset or a subquery's step.
#[derive(Debug, Clone, PartialEq)]
pub struct DurationExpr {
    /// Where it stands, without the parentheses of `parens`.
    pub span: Span,
    /// What it is made of.
    pub kind: DurationKind,
    /// Whether it was written in parentheses.
    pub parens: bool,
}

/// What a duration is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum DurationKind {
    /// `5m`, `300`, `-1.5`
    Number(Number),
    /// A sign before something that is no literal; `true` for `-`.
    Sign(bool, Box<DurationExpr>),
    /// Arithmetic.
    Binary(DurationOp, Box<DurationExpr>, Box<DurationExpr>),
    /// `step()`: the step of the query.
    Step,
    /// `range()`: the time from the first to the last step of the query.
    Range,
    /// `min_of(a, b)`
    MinOf(Box<DurationExpr>, Box<DurationExpr>),
    /// `max_of(a, b)`
    MaxOf(Box<DurationExpr>, Box<DurationExpr>),
}

/// An operator between durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DurationOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
    /// `^`
    Pow,
}

impl DurationOp {
    /// The operator as written.
    pub const fn as_str(self) -> &'static str {
        match self {
            DurationOp::Add => "+",
            DurationOp::Sub => "-",
            DurationOp::Mul => "*",
            DurationOp::Div => "/",
            DurationOp::Mod => "%",
            DurationOp::Pow => "^",
        }
    }
}

/// What durations may refer to. An instant query has a step of 0 and the same start and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DurationTimes {
    /// Step of the query in milliseconds.
    pub step_ms: i64,
    /// End minus start of the query in milliseconds.
    pub range_ms: i64,
}

/// Why a duration has no value. Reads as Prometheus's text does: the two numbers are byte offsets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{}: {reason}", span.start, span.end)]
pub struct DurationError {
    /// The part of the duration.
    pub span: Span,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Longest duration in seconds: nanoseconds must fit 64 bits, as in Prometheus.
pub(crate) const SECONDS_MAX: f64 = 9_223_372_036.854_775;

impl DurationExpr {
    /// A literal.
    pub fn number(number: Number) -> Self {
        Self {
            span: number.span,
            kind: DurationKind::Number(number),
            parens: false,
        }
    }

    /// The value in milliseconds of a literal; `None` when it must be resolved.
    pub fn literal_ms(&self) -> Option<i64> {
        match &self.kind {
            DurationKind::Number(number) => Some(whole_milliseconds(number.value)),
            DurationKind::Sign(..)
            | DurationKind::Binary(..)
            | DurationKind::Step
            | DurationKind::Range
            | DurationKind::MinOf(..)
            | DurationKind::MaxOf(..) => None,
        }
    }

    /// The value in milliseconds of a range or step, which must be positive.
    pub fn resolve_positive(&self, times: DurationTimes) -> Result<i64, DurationError> {
        if let Some(milliseconds) = self.literal_ms() {
            return Ok(milliseconds);
        }
        let seconds = self.seconds(times)?;
        if seconds <= 0.0 || seconds.is_nan() {
            return Err(self.error("duration must be greater than 0"));
        }
        self.milliseconds(seconds)
    }

    /// The value in milliseconds of an offset, which may be negative.
    pub fn resolve(&self, times: DurationTimes) -> Result<i64, DurationError> {
        if let Some(milliseconds) = self.literal_ms() {
            return Ok(milliseconds);
        }
        let seconds = self.seconds(times)?;
        self.milliseconds(seconds)
    }

    fn milliseconds(&self, seconds: f64) -> Result<i64, DurationError> {
        if seconds.is_nan() || seconds.abs() > SECONDS_MAX {
            return Err(self.error("duration is out of range"));
        }
        Ok((seconds * 1000.0) as i64)
    }

    fn seconds(&self, times: DurationTimes) -> Result<f64, DurationError> {
        Ok(match &self.kind {
            DurationKind::Number(number) => number.value,
            DurationKind::Sign(negative, inner) => {
                let value = inner.seconds(times)?;
                if *negative { -value } else { value }
            }
            DurationKind::Step => times.step_ms as f64 / 1000.0,
            DurationKind::Range => times.range_ms as f64 / 1000.0,
            DurationKind::MinOf(left, right) => go_min(left.seconds(times)?, right.seconds(times)?),
            DurationKind::MaxOf(left, right) => -go_min(-left.seconds(times)?, -right.seconds(times)?),
            DurationKind::Binary(op, left, right) => {
                let (left, right) = (left.seconds(times)?, right.seconds(times)?);
                match op {
                    DurationOp::Add => left + right,
                    DurationOp::Sub => left - right,
                    DurationOp::Mul => left * right,
                    DurationOp::Div if right == 0.0 => return Err(self.error("division by zero")),
                    DurationOp::Div => left / right,
                    DurationOp::Mod if right == 0.0 => return Err(self.error("modulo by zero")),
                    DurationOp::Mod => left % right,
                    DurationOp::Pow => left.powf(right),
                }
            }
        })
    }

    fn error(&self, reason: &'static str) -> DurationError {
        DurationError {
            span: self.span,
            reason,
        }
    }
}

/// The whole milliseconds of a literal in seconds. Prometheus rounds to nanoseconds and then cuts.
pub(crate) fn whole_milliseconds(seconds: f64) -> i64 {
    (seconds * 1e9).round() as i64 / 1_000_000
}

/// The lesser of two, NaN when either is.
fn go_min(left: f64, right: f64) -> f64 {
    if left.is_nan() || right.is_nan() {
        f64::NAN
    } else {
        left.min(right)
    }
}

impl fmt::Display for DurationOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: f64) -> Box<DurationExpr> {
        Box::new(DurationExpr::number(Number {
            span: Span::default(),
            value,
            duration: false,
        }))
    }

    fn expr(kind: DurationKind) -> DurationExpr {
        DurationExpr {
            span: Span::new(3, 9),
            kind,
            parens: false,
        }
    }

    #[test]
    fn arithmetic_is_truncated_to_milliseconds() {
        let times = DurationTimes {
            step_ms: 5000,
            range_ms: 10_000,
        };
        let half = expr(DurationKind::Binary(
            DurationOp::Div,
            Box::new(expr(DurationKind::Step)),
            number(3.0),
        ));
        assert_eq!(half.resolve(times), Ok(1666));
        let least = expr(DurationKind::MinOf(Box::new(expr(DurationKind::Range)), number(8.0)));
        assert_eq!(least.resolve(times), Ok(8000));
    }

    #[test]
    fn impossible_durations_say_where() {
        let zero = expr(DurationKind::Binary(
            DurationOp::Div,
            number(1.0),
            Box::new(expr(DurationKind::Step)),
        ));
        assert_eq!(
            zero.resolve(DurationTimes::default()).unwrap_err().to_string(),
            "3:9: division by zero"
        );
        let none = expr(DurationKind::Step).resolve_positive(DurationTimes::default());
        assert_eq!(none.unwrap_err().to_string(), "3:9: duration must be greater than 0");
        let huge = expr(DurationKind::Binary(DurationOp::Mul, number(1e9), number(1e9)));
        assert_eq!(
            huge.resolve(DurationTimes::default()).unwrap_err().reason,
            "duration is out of range"
        );
    }
}
