//! Asks the same questions of two servers and tells where the answers differ.

use loadtest::api::{Answer, Api, Series};
use std::{collections::BTreeMap, fmt};

/// Values may differ by this part, since sums may be taken in another order.
const TOLERANCE: f64 = 1e-9;
/// Results that should be 0 may differ by this much after a subtraction.
const TOLERANCE_NEAR_ZERO: f64 = 1e-12;
/// Differences told per question.
const DETAILS_MAX: usize = 3;

/// What kind of answer shows that a question is worth asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// At least one series.
    Something,
    /// A success without series.
    Nothing,
    /// An error.
    Refusal,
}

/// A query with its evaluation times; an instant query when `step` is 0.
pub(crate) struct Question {
    pub(crate) query: String,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) step: i64,
    pub(crate) wanted: Wanted,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.step == 0 { "instant" } else { "range" }, self.query)
    }
}

/// The answer to a question, or why there is none.
pub(crate) type Reply = Result<Answer, String>;

/// Asks everything, question by question.
pub(crate) fn ask_all(api: &mut Api, questions: &[Question]) -> Vec<Reply> {
    let ask = |question: &Question| {
        let Question {
            query,
            start,
            end,
            step,
            ..
        } = question;
        let answer = if *step == 0 {
            api.instant(query, *start)
        } else {
            api.range(query, *start, *end, *step)
        };
        answer.map_err(|error| format!("{error:#}"))
    };
    questions.iter().map(ask).collect()
}

/// Where two lists of replies to `questions` differ, in words.
pub(crate) fn disagreements(
    questions: &[Question],
    (left_name, left): (&str, &[Reply]),
    (right_name, right): (&str, &[Reply]),
) -> Vec<String> {
    let mut found = Vec::new();
    for (question, (left, right)) in questions.iter().zip(left.iter().zip(right)) {
        let difference = match (left, right) {
            (Ok(left), Ok(right)) => difference(question, left, right),
            (Err(_), Err(_)) => None,
            (Ok(_), Err(error)) => Some(format!("only {right_name} refuses: {error}")),
            (Err(error), Ok(_)) => Some(format!("only {left_name} refuses: {error}")),
        };
        if let Some(difference) = difference {
            found.push(format!("{left_name} and {right_name} on {question}: {difference}"));
        }
    }
    found
}

fn difference(question: &Question, left: &Answer, right: &Answer) -> Option<String> {
    if left.kind != right.kind {
        return Some(format!("{} against {}", left.kind, right.kind));
    }
    let by_labels = |answer: &Answer| -> BTreeMap<String, Series> {
        answer
            .series
            .iter()
            .map(|series| (format!("{:?}", series.labels), series.clone()))
            .collect()
    };
    let (left_series, right_series) = (by_labels(left), by_labels(right));
    if right_series.len() != right.series.len() {
        return Some("a label set stands twice".to_owned());
    }
    let mut details = Vec::new();
    for (labels, series) in &left_series {
        match right_series.get(labels) {
            None => details.push(format!("{labels} only on the left")),
            Some(other) => details.extend(series_difference(series, other).map(|text| format!("{labels}: {text}"))),
        }
    }
    let extra = right_series.keys().filter(|labels| !left_series.contains_key(*labels));
    details.extend(extra.map(|labels| format!("{labels} only on the right")));
    let sorted = question.step == 0
        && ["sort", "topk", "bottomk"]
            .iter()
            .any(|name| question.query.starts_with(name));
    if details.is_empty() && sorted && !values(left).zip(values(right)).all(|(left, right)| close(left, right)) {
        details.push("another order".to_owned());
    }
    let more = details.len().saturating_sub(DETAILS_MAX);
    details.truncate(DETAILS_MAX);
    if more > 0 {
        details.push(format!("and {more} more"));
    }
    (!details.is_empty()).then(|| details.join("; "))
}

fn values(answer: &Answer) -> impl Iterator<Item = f64> {
    answer
        .series
        .iter()
        .flat_map(|series| series.samples.iter().map(|(_, value)| *value))
}

fn series_difference(left: &Series, right: &Series) -> Option<String> {
    let times = |series: &Series| series.samples.iter().map(|(time, _)| *time).collect::<Vec<_>>();
    if times(left) != times(right) {
        return Some(format!("samples at {:?} against {:?}", times(left), times(right)));
    }
    let pair = left
        .samples
        .iter()
        .zip(&right.samples)
        .find(|(left, right)| !close(left.1, right.1))?;
    Some(format!("{:?} against {:?} at {}", pair.0.1, pair.1.1, pair.0.0))
}

/// Equal up to the order of a sum; NaN equals NaN.
pub(crate) fn close(left: f64, right: f64) -> bool {
    let distance = (left - right).abs();
    left == right
        || left.is_nan() && right.is_nan()
        || distance <= TOLERANCE * left.abs().max(right.abs())
        || distance <= TOLERANCE_NEAR_ZERO
}
