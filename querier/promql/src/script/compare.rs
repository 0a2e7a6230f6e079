//! Whether a result is the expected one, within the tolerance that Prometheus's own runner grants.

use super::command::{Annotations, Eval, Expected, TextMatch};
use crate::engine::{QueryResult, Times};
use crate::format::{float_g, quote};
use crate::series::Item;
use crate::value::{MatrixSeries, Point, Value, VectorSample};
use model::histogram::{Histogram, ResetHint};
use model::label::Labels;
use model::sample::is_stale;
use model::time::Timestamp;
use std::sync::Arc;

/// Greatest difference in relation to the sum of both numbers.
const EPSILON: f64 = 1e-6;

type Compared = Result<(), String>;

/// Compares the value of an evaluation as it was written.
pub(super) fn value(eval: &Eval, found: &Value) -> Compared {
    match (&eval.expected, found) {
        (Expected::Scalar(expected), Value::Scalar { value, .. }) => scalar(*expected, *value),
        (Expected::String(expected), Value::String { text, .. }) if text == expected => Ok(()),
        (Expected::String(expected), Value::String { text, .. }) => Err(format!(
            "expected the string {}, found {}",
            quote(expected),
            quote(text)
        )),
        (Expected::Series(expected), Value::Vector(found)) => vector(expected, found, eval.ordered),
        (Expected::Series(expected), Value::Matrix(found)) => match eval.times {
            Times::Range { start, end, step_ms } => matrix(expected, found, start, end, step_ms),
            Times::Instant(_) => Err("an instant query gave a range vector, and none is expected".to_owned()),
        },
        (
            Expected::RangeVector {
                start,
                end,
                step_ms,
                series,
            },
            Value::Matrix(found),
        ) => matrix(series, found, *start, *end, *step_ms),
        (_, found) => Err(format!(
            "the result has the unexpected type {}: {found:?}",
            found.kind()
        )),
    }
}

/// Compares one step of a range query with what the instant query is expected to give.
pub(super) fn step(eval: &Eval, found: &Value, at: Timestamp) -> Compared {
    let Value::Matrix(series) = found else {
        return Err(format!("a range query gave a {}", found.kind()));
    };
    sorted(series)?;
    let samples: Vec<VectorSample> = series.iter().filter_map(|one| sample_at(one, at)).collect();
    match &eval.expected {
        Expected::Series(expected) => vector(expected, &samples, false),
        Expected::Scalar(expected) => match samples.as_slice() {
            [
                VectorSample {
                    value: Point::Float(value),
                    ..
                },
            ] => scalar(*expected, *value),
            other => Err(format!("expected one number, found {other:?}")),
        },
        Expected::String(_) | Expected::RangeVector { .. } => Ok(()),
    }
}

fn sample_at(series: &MatrixSeries, at: Timestamp) -> Option<VectorSample> {
    let float = series
        .floats
        .iter()
        .find(|(time, _)| *time == at)
        .map(|(_, value)| Point::Float(*value));
    let histogram = || series.histograms.iter().find(|(time, _)| *time == at);
    let value = float.or_else(|| histogram().map(|(_, histogram)| Point::Histogram(histogram.clone())))?;
    Some(VectorSample {
        labels: series.labels.clone(),
        at,
        value,
    })
}

fn scalar(expected: f64, found: f64) -> Compared {
    if almost_equal(expected, found) {
        return Ok(());
    }
    Err(format!("expected {}, found {}", float_g(expected), float_g(found)))
}

fn vector(expected: &[(Labels, Vec<Item>)], found: &[VectorSample], ordered: bool) -> Compared {
    for (position, sample) in found.iter().enumerate() {
        let labels = &sample.labels;
        let Some(place) = expected.iter().position(|(expected, _)| expected == labels) else {
            return Err(format!(
                "unexpected series {labels} with the value {}",
                point_text(&sample.value)
            ));
        };
        if found[..position].iter().any(|earlier| earlier.labels == *labels) {
            return Err(format!("{labels} is in the result twice"));
        }
        if ordered && place != position {
            return Err(format!(
                "expected {labels} at place {}, found it at {}",
                place + 1,
                position + 1
            ));
        }
        let [item] = expected[place].1.as_slice() else {
            return Err(format!(
                "the script gives {} values for {labels}, instead of one",
                expected[place].1.len()
            ));
        };
        point(item, &sample.value).map_err(|reason| format!("{labels}: {reason}"))?;
    }
    let missing = expected
        .iter()
        .find(|(labels, _)| !found.iter().any(|sample| sample.labels == *labels));
    match missing {
        Some((labels, _)) => Err(format!("expected series {labels} is missing")),
        None => Ok(()),
    }
}

fn matrix(
    expected: &[(Labels, Vec<Item>)],
    found: &[MatrixSeries],
    start: Timestamp,
    end: Timestamp,
    step_ms: i64,
) -> Compared {
    sorted(found)?;
    for series in found {
        let labels = &series.labels;
        let Some((_, items)) = expected.iter().find(|(expected, _)| expected == labels) else {
            return Err(format!("unexpected series {labels} with {}", series_text(series)));
        };
        let mut floats = series.floats.iter();
        let mut histograms = series.histograms.iter();
        for (index, item) in items.iter().enumerate() {
            let at = start + step_ms * index as i64;
            if at > end {
                return Err(format!(
                    "the script gives {} values for {labels}, more than there are steps",
                    items.len()
                ));
            }
            let found = match item {
                Item::Gap => continue,
                Item::Float(_) => floats.next().map(|(time, value)| (*time, Point::Float(*value))),
                Item::Histogram { .. } => histograms
                    .next()
                    .map(|(time, histogram)| (*time, Point::Histogram(histogram.clone()))),
            };
            let wrong = |reason: String| format!("{labels} at {at} ms: {reason}; found {}", series_text(series));
            match found {
                Some((time, value)) if time == at => point(item, &value).map_err(wrong)?,
                _ => return Err(wrong(format!("expected {}", item_text(item)))),
            }
        }
        if floats.next().is_some() || histograms.next().is_some() {
            return Err(format!(
                "{labels} has more samples than expected; found {}",
                series_text(series)
            ));
        }
    }
    let missing = expected
        .iter()
        .find(|(labels, _)| !found.iter().any(|series| series.labels == *labels));
    match missing {
        Some((labels, _)) => Err(format!("expected series {labels} is missing")),
        None => Ok(()),
    }
}

fn sorted(series: &[MatrixSeries]) -> Compared {
    match series.windows(2).find(|pair| pair[0].labels >= pair[1].labels) {
        Some(pair) => Err(format!(
            "the matrix is not sorted: {} before {}",
            pair[0].labels, pair[1].labels
        )),
        None => Ok(()),
    }
}

fn point(expected: &Item, found: &Point) -> Compared {
    let equal = match (expected, found) {
        (Item::Float(expected), Point::Float(found)) => almost_equal(*expected, *found),
        (Item::Histogram { histogram, hint_stated }, Point::Histogram(found)) => {
            histograms_equal(histogram, found, *hint_stated)
        }
        _ => false,
    };
    if equal {
        Ok(())
    } else {
        Err(format!("expected {}, found {}", item_text(expected), point_text(found)))
    }
}

fn histograms_equal(expected: &Histogram, found: &Histogram, hint_stated: bool) -> bool {
    let (mut left, mut right) = (expected.clone(), found.clone());
    left.compact();
    right.compact();
    let counts_equal = |left: &[f64], right: &[f64]| {
        left.len() == right.len() && left.iter().zip(right).all(|(left, right)| almost_equal(*left, *right))
    };
    left.schema == right.schema
        && almost_equal(left.count, right.count)
        && almost_equal(left.sum, right.sum)
        && left.custom_values == right.custom_values
        && left.zero_threshold == right.zero_threshold
        && almost_equal(left.zero_count, right.zero_count)
        && left.positive_spans == right.positive_spans
        && left.negative_spans == right.negative_spans
        && counts_equal(&left.positive_buckets, &right.positive_buckets)
        && counts_equal(&left.negative_buckets, &right.negative_buckets)
        && (!hint_stated || left.reset_hint == right.reset_hint)
}

/// Equal up to [`EPSILON`]; next to zero nothing is forgiven. Any NaN equals any other, except that the stale marker equals only
/// itself.
pub(super) fn almost_equal(left: f64, right: f64) -> bool {
    if is_stale(left) || is_stale(right) {
        return is_stale(left) && is_stale(right);
    }
    if left == right || (left.is_nan() && right.is_nan()) {
        return true;
    }
    let sum = left.abs() + right.abs();
    let difference = (left - right).abs();
    if left == 0.0 || right == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < EPSILON * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < EPSILON
}

/// Checks warnings and infos. Positions differ when the expression was rewritten; then only the words count.
pub(super) fn annotations(eval: &Eval, result: &QueryResult, rewritten: bool) -> Compared {
    annotations_of("warning", &eval.warnings, &result.warnings, rewritten)?;
    annotations_of("info", &eval.infos, &result.infos, rewritten)
}

fn annotations_of(kind: &str, expected: &Annotations, found: &[String], rewritten: bool) -> Compared {
    if expected.none && !found.is_empty() {
        return Err(format!("unexpected {kind} {found:?}"));
    }
    if expected.some.is_empty() {
        return Ok(());
    }
    if found.is_empty() {
        return Err(format!("expected a {kind}, found none"));
    }
    let meets = |condition: &TextMatch, text: &String| match condition {
        TextMatch::Any => true,
        TextMatch::Exact(message) if rewritten => without_position(message) == without_position(text),
        TextMatch::Regex(_) if rewritten => true,
        TextMatch::Exact(_) | TextMatch::Regex(_) => text_matches(condition, text),
    };
    if let Some(condition) = expected
        .some
        .iter()
        .find(|condition| !found.iter().any(|text| meets(condition, text)))
    {
        return Err(format!(
            "expected a {kind} {}, found {found:?}",
            condition_text(condition)
        ));
    }
    match found
        .iter()
        .find(|text| !expected.some.iter().any(|condition| meets(condition, text)))
    {
        Some(text) => Err(format!("unexpected {kind} {text:?}")),
        None => Ok(()),
    }
}

/// Checks the text of an error.
pub(super) fn error(conditions: &[TextMatch], text: &str) -> Compared {
    match conditions.iter().find(|condition| !text_matches(condition, text)) {
        Some(condition) => Err(format!(
            "expected an error {}, found {text:?}",
            condition_text(condition)
        )),
        None => Ok(()),
    }
}

fn text_matches(condition: &TextMatch, text: &str) -> bool {
    match condition {
        TextMatch::Any => true,
        TextMatch::Exact(message) => message == text,
        TextMatch::Regex(regex) => regex.is_match(text),
    }
}

fn condition_text(condition: &TextMatch) -> String {
    match condition {
        TextMatch::Any => "of any text".to_owned(),
        TextMatch::Exact(message) => format!("{message:?}"),
        TextMatch::Regex(regex) => format!("that matches {:?}", regex.as_str()),
    }
}

/// A text without ` (line:col)` at its end.
fn without_position(text: &str) -> &str {
    match text.rsplit_once(" (") {
        Some((words, position)) if position.ends_with(')') && position.contains(':') => words,
        _ => text,
    }
}

fn item_text(item: &Item) -> String {
    match item {
        Item::Gap => "no sample".to_owned(),
        Item::Float(value) => float_text(*value),
        Item::Histogram { histogram, .. } => histogram_text(histogram),
    }
}

fn point_text(point: &Point) -> String {
    match point {
        Point::Float(value) => float_text(*value),
        Point::Histogram(histogram) => histogram_text(histogram),
    }
}

fn float_text(value: f64) -> String {
    if is_stale(value) {
        "stale".to_owned()
    } else {
        float_g(value)
    }
}

/// The notation of series descriptions, as far as it can be.
fn histogram_text(histogram: &Arc<Histogram>) -> String {
    let list = |values: &[f64]| values.iter().map(|value| float_g(*value)).collect::<Vec<_>>().join(" ");
    let hint = match histogram.reset_hint {
        ResetHint::Unknown => "unknown",
        ResetHint::Reset => "reset",
        ResetHint::NotReset => "not_reset",
        ResetHint::Gauge => "gauge",
    };
    format!(
        "{{{{schema:{} count:{} sum:{} z_bucket:{} z_bucket_w:{} positive:{:?} [{}] negative:{:?} [{}] custom_values:[{}] \
         counter_reset_hint:{hint}}}}}",
        histogram.schema,
        float_g(histogram.count),
        float_g(histogram.sum),
        float_g(histogram.zero_count),
        float_g(histogram.zero_threshold),
        histogram
            .positive_spans
            .iter()
            .map(|span| (span.offset, span.length))
            .collect::<Vec<_>>(),
        list(&histogram.positive_buckets),
        histogram
            .negative_spans
            .iter()
            .map(|span| (span.offset, span.length))
            .collect::<Vec<_>>(),
        list(&histogram.negative_buckets),
        list(&histogram.custom_values),
    )
}

fn series_text(series: &MatrixSeries) -> String {
    let floats = series.floats.iter().map(|(at, value)| (*at, float_text(*value)));
    let histograms = series
        .histograms
        .iter()
        .map(|(at, histogram)| (*at, histogram_text(histogram)));
    let mut all: Vec<(Timestamp, String)> = floats.chain(histograms).collect();
    all.sort_by_key(|(at, _)| *at);
    all.iter()
        .map(|(at, text)| format!("{text} @{at}"))
        .collect::<Vec<_>>()
        .join(", ")
}
