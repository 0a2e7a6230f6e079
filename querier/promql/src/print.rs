//! The printer: from a tree back to text.
//!
//! `Display` gives one line that parses to the same tree, in the words and order in which Prometheus prints queries; matchers
//! are sorted. [`pretty()`] breaks long queries over several lines and [`json()`] describes the tree for tools.

mod json;
mod pretty;

pub use json::json;
pub use pretty::pretty;

use crate::ast::{
    Aggregate, At, Binary, Call, Cardinality, DurationExpr, DurationKind, Expr, Extension, MatrixSelector, Number,
    Shift, Subquery, Unary, VectorSelector, whole_milliseconds,
};
use crate::format::{duration, float_g, quote};
use model::label::{METRIC_NAME, is_legacy_name};
use model::matcher::{MatchOp, Matcher};
use std::fmt::{self, Display, Formatter, Write};

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Aggregate(node) => node.fmt(f),
            Expr::Binary(node) => node.fmt(f),
            Expr::Call(node) => node.fmt(f),
            Expr::Matrix(node) => node.fmt(f),
            Expr::Subquery(node) => node.fmt(f),
            Expr::Number(node) => node.fmt(f),
            Expr::Paren(node) => write!(f, "({})", node.expr),
            Expr::String(node) => f.write_str(&node.quoted()),
            Expr::Unary(node) => node.fmt(f),
            Expr::Vector(node) => node.fmt(f),
        }
    }
}

impl Display for Aggregate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        aggregate_head(self, f)?;
        f.write_char('(')?;
        if let Some(param) = &self.param {
            write!(f, "{param}, ")?;
        }
        write!(f, "{})", self.expr)
    }
}

/// The operator with its grouping, up to the opening parenthesis.
fn aggregate_head(node: &Aggregate, out: &mut impl Write) -> fmt::Result {
    out.write_str(node.op.as_str())?;
    if node.without {
        write!(out, " without ({}) ", Names(&node.grouping))?;
    } else if !node.grouping.is_empty() {
        write!(out, " by ({}) ", Names(&node.grouping))?;
    }
    Ok(())
}

impl Display for Binary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.left, self.op)?;
        binary_modifiers(self, f)?;
        write!(f, " {}", self.right)
    }
}

/// What stands behind the operator, with a space in front of each part.
fn binary_modifiers(node: &Binary, out: &mut impl Write) -> fmt::Result {
    if node.return_bool {
        out.write_str(" bool")?;
    }
    let Some(matching) = &node.matching else { return Ok(()) };
    let group = match matching.cardinality {
        Cardinality::ManyToOne => Some("group_left"),
        Cardinality::OneToMany => Some("group_right"),
        Cardinality::OneToOne | Cardinality::ManyToMany => None,
    };
    if !matching.labels.is_empty() || matching.on || group.is_some() {
        let word = if matching.on { "on" } else { "ignoring" };
        write!(out, " {word} ({})", Names(&matching.labels))?;
    }
    if let Some(group) = group {
        write!(out, " {group} ({})", Names(&matching.include))?;
    }
    match (matching.fill_left, matching.fill_right) {
        (Some(left), Some(right)) if left.to_bits() == right.to_bits() => write!(out, " fill ({})", float_g(left)),
        (left, right) => {
            if let Some(left) = left {
                write!(out, " fill_left ({})", float_g(left))?;
            }
            if let Some(right) = right {
                write!(out, " fill_right ({})", float_g(right))?;
            }
            Ok(())
        }
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.function)?;
        for (index, arg) in self.args.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{arg}")?;
        }
        f.write_char(')')
    }
}

impl Display for MatrixSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        series(&self.selector, f)?;
        write!(f, "[{}]", self.range)?;
        modifiers(&self.selector, f)
    }
}

impl Display for VectorSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        series(self, f)?;
        modifiers(self, f)
    }
}

/// Name and matchers.
fn series(selector: &VectorSelector, f: &mut Formatter<'_>) -> fmt::Result {
    let name = selector.name.as_deref().unwrap_or("");
    let repeats_name = |matcher: &&Matcher| {
        !name.is_empty() && &*matcher.name == METRIC_NAME && matcher.op == MatchOp::Equal && &*matcher.value == name
    };
    let mut matchers: Vec<String> = selector
        .matchers
        .iter()
        .filter(|matcher| !repeats_name(matcher))
        .map(print_matcher)
        .collect();
    matchers.sort();
    f.write_str(name)?;
    if matchers.is_empty() && !name.is_empty() {
        return Ok(());
    }
    write!(f, "{{{}}}", matchers.join(","))
}

fn print_matcher(matcher: &Matcher) -> String {
    format!(
        "{}{}{}",
        Name(&matcher.name),
        matcher.op.as_str(),
        quote(&matcher.value)
    )
}

fn modifiers(selector: &VectorSelector, f: &mut Formatter<'_>) -> fmt::Result {
    if let Some(extension) = selector.extension {
        write!(f, " {extension}")?;
    }
    selector.shift.fmt(f)
}

impl Display for Extension {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// With a space in front of each part.
impl Display for Shift {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(At::Time(at)) => {
                let sign = if at < 0 { "-" } else { "" };
                write!(
                    f,
                    " @ {sign}{}.{:03}",
                    at.unsigned_abs() / 1000,
                    at.unsigned_abs() % 1000
                )?;
            }
            Some(At::Start) => f.write_str(" @ start()")?,
            Some(At::End) => f.write_str(" @ end()")?,
            None => {}
        }
        match &self.offset {
            // Prometheus does not tell an offset of nothing from none.
            Some(offset) if offset.literal_ms() != Some(0) => write!(f, " offset {offset}"),
            _ => Ok(()),
        }
    }
}

impl Display for Subquery {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.expr)?;
        subquery_suffix(self, f)
    }
}

/// Range, step and modifiers.
fn subquery_suffix(node: &Subquery, out: &mut impl Write) -> fmt::Result {
    match &node.step {
        Some(step) => write!(out, "[{}:{step}]{}", node.range, node.shift),
        None => write!(out, "[{}:]{}", node.range, node.shift),
    }
}

impl Display for Unary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sign = if self.negative { '-' } else { '+' };
        write!(f, "{sign}{}", self.expr)
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.duration {
            write_seconds(self.value, f)
        } else {
            f.write_str(&float_g(self.value))
        }
    }
}

/// Milliseconds as a duration, anything less than one as a number of seconds.
fn write_seconds(seconds: f64, f: &mut Formatter<'_>) -> fmt::Result {
    let milliseconds = whole_milliseconds(seconds);
    if milliseconds == 0 && seconds != 0.0 {
        return f.write_str(&float_g(seconds));
    }
    f.write_str(&duration(milliseconds))
}

impl Display for DurationExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            // A literal alone is shown as a duration even when it was written as a number.
            DurationKind::Number(number) if !self.parens => write_seconds(number.value, f),
            _ => write_part(self, f),
        }
    }
}

/// A part of arithmetic, where numbers stay numbers: in `60 * 5m` only one factor is a time.
fn write_part(part: &DurationExpr, f: &mut Formatter<'_>) -> fmt::Result {
    if part.parens {
        f.write_char('(')?;
    }
    match &part.kind {
        DurationKind::Number(number) => number.fmt(f)?,
        DurationKind::Sign(negative, inner) => {
            f.write_char(if *negative { '-' } else { '+' })?;
            write_part(inner, f)?;
        }
        DurationKind::Binary(op, left, right) => {
            write_part(left, f)?;
            write!(f, " {op} ")?;
            write_part(right, f)?;
        }
        DurationKind::Step => f.write_str("step()")?,
        DurationKind::Range => f.write_str("range()")?,
        DurationKind::MinOf(left, right) => write_pair("min_of", left, right, f)?,
        DurationKind::MaxOf(left, right) => write_pair("max_of", left, right, f)?,
    }
    if part.parens {
        f.write_char(')')?;
    }
    Ok(())
}

fn write_pair(name: &str, left: &DurationExpr, right: &DurationExpr, f: &mut Formatter<'_>) -> fmt::Result {
    write!(f, "{name}(")?;
    write_part(left, f)?;
    f.write_str(", ")?;
    write_part(right, f)?;
    f.write_char(')')
}

/// A label name, quoted when it must be.
struct Name<'a>(&'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if is_legacy_name(self.0) {
            f.write_str(self.0)
        } else {
            f.write_str(&quote(self.0))
        }
    }
}

struct Names<'a>(&'a [String]);

impl Display for Names<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{}", Name(name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
