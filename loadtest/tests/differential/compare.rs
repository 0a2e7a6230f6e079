//! In what two answers to the same question differ.

use crate::ask::{Outcome, Point, Points};
use std::collections::BTreeMap;

/// Values may differ by this part.
const TOLERANCE: f64 = 1e-9;
/// Details told per question.
const DETAILS_MAX: usize = 3;

/// Which part of the answers differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Aspect {
    /// One refuses, the other answers.
    Refusal,
    /// Both refuse, as another class of error.
    ErrorClass,
    /// Both refuse, in other words.
    ErrorText,
    /// The type of the value.
    Kind,
    /// The label sets or the values.
    Value,
    /// The order of series where the query asks for one.
    Order,
    /// Warnings.
    Warnings,
    /// Infos.
    Infos,
}

/// A difference with what there is to say about it.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    pub(crate) aspect: Aspect,
    pub(crate) detail: String,
}

/// All differences between ours and theirs; texts of errors and notes only for a peer that `speaks` like us.
pub(crate) fn differences(query: &str, ours: &Outcome, theirs: &Outcome, speaks: bool) -> Vec<Difference> {
    let one = |aspect, detail| vec![Difference { aspect, detail }];
    match (ours, theirs) {
        (Outcome::Failure { text, kind, .. }, Outcome::Success { .. }) => {
            one(Aspect::Refusal, format!("only we refuse: {kind}: {text}"))
        }
        (Outcome::Success { .. }, Outcome::Failure { text, kind, .. }) => {
            one(Aspect::Refusal, format!("only they refuse: {kind}: {text}"))
        }
        (
            Outcome::Failure { kind, status, text },
            Outcome::Failure {
                kind: their_kind,
                status: their_status,
                text: their_text,
            },
        ) => {
            if (kind, status) != (their_kind, their_status) {
                return one(
                    Aspect::ErrorClass,
                    format!("{status} {kind} {text} | {their_status} {their_kind} {their_text}"),
                );
            }
            let same = !speaks || without_labels(text) == without_labels(their_text);
            if same {
                Vec::new()
            } else {
                one(Aspect::ErrorText, format!("{text} | {their_text}"))
            }
        }
        (Outcome::Success { .. }, Outcome::Success { .. }) => between_answers(query, ours, theirs, speaks),
    }
}

/// The text of an error without the label sets, of which each side may name another one.
fn without_labels(text: &str) -> String {
    let mut depth = 0;
    text.chars()
        .filter(|&c| {
            depth += i32::from(c == '{');
            let keep = depth == 0;
            depth -= i32::from(c == '}');
            keep
        })
        .collect()
}

fn between_answers(query: &str, ours: &Outcome, theirs: &Outcome, speaks: bool) -> Vec<Difference> {
    let (
        Outcome::Success {
            kind,
            series,
            text,
            warnings,
            infos,
        },
        Outcome::Success {
            kind: their_kind,
            series: their_series,
            text: their_text,
            warnings: their_warnings,
            infos: their_infos,
        },
    ) = (ours, theirs)
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut add = |aspect, detail| found.push(Difference { aspect, detail });
    if kind != their_kind {
        add(Aspect::Kind, format!("{kind} | {their_kind}"));
    }
    if text != their_text {
        add(Aspect::Value, format!("{text} | {their_text}"));
    }
    let rounded = query.contains("count_values");
    let details = between_series(series, their_series, rounded);
    let equal = details.is_empty();
    if !equal {
        add(Aspect::Value, details.join("; "));
    }
    let sorted = ["sort(", "sort_desc(", "sort_by_label"]
        .iter()
        .any(|name| query.starts_with(name));
    if equal && kind == "vector" && sorted && !same_order(query, series, their_series) {
        add(Aspect::Order, "another order".to_owned());
    }
    if speaks {
        for (aspect, ours, theirs) in [
            (Aspect::Warnings, warnings, their_warnings),
            (Aspect::Infos, infos, their_infos),
        ] {
            let lone = |these: &[String], others: &[String]| -> Vec<String> {
                these.iter().filter(|note| !others.contains(note)).cloned().collect()
            };
            lone(ours, theirs)
                .into_iter()
                .for_each(|note| add(aspect, format!("only ours: {note}")));
            lone(theirs, ours)
                .into_iter()
                .for_each(|note| add(aspect, format!("only theirs: {note}")));
        }
    }
    found
}

/// Equal values may change places, unless labels decide.
fn same_order(query: &str, ours: &[(String, Points)], theirs: &[(String, Points)]) -> bool {
    if query.starts_with("sort_by_label") {
        return true;
    }
    ours.iter()
        .zip(theirs)
        .all(|((_, ours), (_, theirs))| same_points(ours, theirs))
}

/// `rounded` says that values of labels are values of series, of which the last digits are open.
fn between_series(ours: &[(String, Points)], theirs: &[(String, Points)], rounded: bool) -> Vec<String> {
    let by_labels = |series: &[(String, Points)]| -> BTreeMap<String, Points> {
        let label = |labels: &String| {
            if rounded {
                with_rounded_value(labels)
            } else {
                labels.clone()
            }
        };
        series
            .iter()
            .map(|(labels, points)| (label(labels), points.clone()))
            .collect()
    };
    let (mine, other) = (by_labels(ours), by_labels(theirs));
    let mut details = Vec::new();
    if mine.len() != ours.len() || other.len() != theirs.len() {
        details.push("a label set stands twice".to_owned());
    }
    for (labels, points) in &mine {
        match other.get(labels) {
            None => details.push(format!("{labels} only ours: {}", told(points))),
            Some(their_points) if !same_points(points, their_points) => {
                details.push(format!("{labels}: {}", first_difference(points, their_points)));
            }
            Some(_) => {}
        }
    }
    let extra = other.iter().filter(|(labels, _)| !mine.contains_key(*labels));
    details.extend(extra.map(|(labels, points)| format!("{labels} only theirs: {}", told(points))));
    let more = details.len().saturating_sub(DETAILS_MAX);
    details.truncate(DETAILS_MAX);
    if more > 0 {
        details.push(format!("and {more} more"));
    }
    details
}

/// The label set with the number in its label `value` rounded.
fn with_rounded_value(labels: &str) -> String {
    const BEFORE: &str = "\"value\": String(\"";
    let Some((before, rest)) = labels.split_once(BEFORE) else {
        return labels.to_owned();
    };
    match rest.split_once('"').map(|(value, rest)| (value.parse::<f64>(), rest)) {
        Some((Ok(value), rest)) => format!("{before}{BEFORE}{value:.9e}\"{rest}"),
        _ => labels.to_owned(),
    }
}

fn told(points: &Points) -> String {
    points
        .first()
        .map_or_else(String::new, |point| format!("{} points, first {point:?}", points.len()))
}

fn first_difference(ours: &Points, theirs: &Points) -> String {
    let pair = ours
        .iter()
        .zip(theirs)
        .find(|(ours, theirs)| ours.0 != theirs.0 || !same_point(&ours.1, &theirs.1));
    match pair {
        Some((ours, theirs)) => format!("{ours:?} | {theirs:?}"),
        None => format!("{} points | {} points", ours.len(), theirs.len()),
    }
}

fn same_points(ours: &Points, theirs: &Points) -> bool {
    ours.len() == theirs.len()
        && ours
            .iter()
            .zip(theirs)
            .all(|(ours, theirs)| ours.0 == theirs.0 && same_point(&ours.1, &theirs.1))
}

fn same_point(ours: &Point, theirs: &Point) -> bool {
    match (ours, theirs) {
        (Point::Float(ours), Point::Float(theirs)) => close(*ours, *theirs),
        (
            Point::Histogram { count, sum, buckets },
            Point::Histogram {
                count: their_count,
                sum: their_sum,
                buckets: their_buckets,
            },
        ) => {
            close(*count, *their_count)
                && close(*sum, *their_sum)
                && buckets.len() == their_buckets.len()
                && buckets
                    .iter()
                    .flatten()
                    .zip(their_buckets.iter().flatten())
                    .all(|(ours, theirs)| close(*ours, *theirs))
        }
        _ => false,
    }
}

/// Equal up to the last digits; NaN equals NaN.
pub(crate) fn close(ours: f64, theirs: f64) -> bool {
    ours == theirs
        || ours.is_nan() && theirs.is_nan()
        || (ours - theirs).abs() <= TOLERANCE * ours.abs().max(theirs.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(value: f64) -> Outcome {
        Outcome::Success {
            kind: "vector".into(),
            series: vec![("{}".into(), vec![(1, Point::Float(value))])],
            text: String::new(),
            warnings: Vec::new(),
            infos: vec!["x".into()],
        }
    }

    #[test]
    fn differences_are_seen_and_their_absence_too() {
        let aspects = |ours: &Outcome, theirs: &Outcome, speaks| -> Vec<Aspect> {
            differences("x", ours, theirs, speaks)
                .into_iter()
                .map(|difference| difference.aspect)
                .collect()
        };
        assert_eq!(aspects(&answer(1.0), &answer(1.0 + 1e-12), true), []);
        assert_eq!(aspects(&answer(1.0), &answer(1.0 + 1e-8), true), [Aspect::Value]);
        assert_eq!(aspects(&answer(f64::NAN), &answer(0.0), true), [Aspect::Value]);
        let failure = |kind: &str, text: &str| Outcome::Failure {
            status: 422,
            kind: kind.into(),
            text: text.into(),
        };
        assert_eq!(
            aspects(&failure("execution", "a {b}"), &answer(1.0), true),
            [Aspect::Refusal]
        );
        assert_eq!(
            aspects(&failure("execution", "a {b}"), &failure("execution", "a {c}"), true),
            []
        );
        assert_eq!(
            aspects(&failure("execution", "a"), &failure("execution", "b"), true),
            [Aspect::ErrorText]
        );
        assert_eq!(
            aspects(&failure("execution", "a"), &failure("bad_data", "a"), false),
            [Aspect::ErrorClass]
        );
    }
}
