//! Matchers, errors, label sets and metadata between our nouns and those of the wire.

use super::message::{self as wire, MatcherType};
use crate::grpc::causes;
use model::{
    label::{Labels, is_legacy_name},
    matcher::{MatchOp, Matcher},
    metadata::{Metadata, MetricType},
    sample::Exemplar,
    select::{ExemplarSeries, SelectError},
    time::{TimeRange, Timestamp},
};
use std::{error::Error as _, fmt::Write as _};
use tonic::{Code, Status};

/// The year 1, which no sample is older than. Some implementations calculate with the ends of a range, which the smallest number of 64 bits breaks.
const TIME_MIN: Timestamp = -62_135_596_800_000;

pub(super) fn matcher_to_wire(matcher: &Matcher) -> wire::LabelMatcher {
    let kind = match matcher.op {
        MatchOp::Equal => MatcherType::Equal,
        MatchOp::NotEqual => MatcherType::NotEqual,
        MatchOp::Regex => MatcherType::Regex,
        MatchOp::NotRegex => MatcherType::NotRegex,
    };
    wire::LabelMatcher {
        kind: kind as i32,
        name: matcher.name.to_string(),
        value: matcher.value.to_string(),
    }
}

/// Reads matchers; unknown kinds and broken expressions are the caller's fault.
pub(super) fn matchers_from_wire(matchers: &[wire::LabelMatcher]) -> Result<Vec<Matcher>, Status> {
    let read = |matcher: &wire::LabelMatcher| {
        let op = match MatcherType::try_from(matcher.kind) {
            Ok(MatcherType::Equal) => MatchOp::Equal,
            Ok(MatcherType::NotEqual) => MatchOp::NotEqual,
            Ok(MatcherType::Regex) => MatchOp::Regex,
            Ok(MatcherType::NotRegex) => MatchOp::NotRegex,
            Err(_) => {
                let text = format!("unknown matcher type {}", matcher.kind);
                return Err(Status::invalid_argument(text));
            }
        };
        Matcher::new(op, &matcher.name, &matcher.value).map_err(|error| Status::invalid_argument(error.to_string()))
    };
    matchers.iter().map(read).collect()
}

/// A range as it goes out.
pub(super) fn range_to_wire(range: TimeRange) -> (i64, i64) {
    (range.min.max(TIME_MIN), range.max)
}

/// The status of a failed read.
pub(super) fn status_of(error: &SelectError) -> Status {
    match error {
        SelectError::Limit(text) => Status::resource_exhausted(text.clone()),
        SelectError::Unavailable(text) => Status::unavailable(text.clone()),
        SelectError::Corrupt(text) => Status::data_loss(text.clone()),
        SelectError::Canceled(text) => Status::cancelled(text.clone()),
    }
}

/// What a status of an endpoint means to who asked.
pub(super) fn error_of(status: &Status) -> SelectError {
    let text = match (status.message(), status.source()) {
        // Of a connection that broke the message says no more than "transport error".
        (_, Some(cause)) => causes(cause),
        ("", None) => status.code().description().to_owned(),
        (message, None) => message.to_owned(),
    };
    match status.code() {
        Code::ResourceExhausted => SelectError::Limit(text),
        Code::DataLoss => SelectError::Corrupt(text),
        // Also a cancellation over there: it was not ours, or nobody would read this.
        _ => SelectError::Unavailable(text),
    }
}

pub(super) fn labels_to_wire(labels: &Labels) -> wire::LabelSet {
    let labels = labels.iter().map(|(name, value)| wire::Label {
        name: name.to_owned(),
        value: value.to_owned(),
    });
    wire::LabelSet {
        labels: labels.collect(),
    }
}

pub(super) fn labels_from_wire(set: &wire::LabelSet) -> Result<Labels, Status> {
    Labels::new(set.labels.iter().map(|label| (&label.name, &label.value)))
        .map_err(|error| Status::internal(format!("labels: {error}")))
}

/// Selectors as one expression: `{a="b"} or {c=~"d"}`, which is how the wire carries them.
pub(super) fn selectors_to_query(selectors: &[Vec<Matcher>]) -> String {
    let mut query = String::new();
    for (index, matchers) in selectors.iter().enumerate() {
        query.push_str(if index == 0 { "{" } else { " or {" });
        for (index, matcher) in matchers.iter().enumerate() {
            let (name, op) = (&*matcher.name, matcher.op.as_str());
            let comma = if index == 0 { "" } else { "," };
            let _ = match is_legacy_name(name) {
                true => write!(query, "{comma}{name}{op}"),
                false => write!(query, "{comma}{}{op}", quoted(name)),
            };
            query.push_str(&quoted(&matcher.value));
        }
        query.push('}');
    }
    query
}

/// A string literal of PromQL, whose escapes are those of Go.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

pub(super) fn exemplars_to_wire(series: &ExemplarSeries) -> wire::ExemplarData {
    let exemplars = series.exemplars.iter().map(|exemplar| wire::Exemplar {
        labels: Some(labels_to_wire(&exemplar.labels)),
        value: exemplar.value,
        at: exemplar.at,
    });
    wire::ExemplarData {
        series_labels: Some(labels_to_wire(&series.labels)),
        exemplars: exemplars.collect(),
    }
}

pub(super) fn exemplars_from_wire(data: &wire::ExemplarData) -> Result<ExemplarSeries, Status> {
    let labels = |set: &Option<wire::LabelSet>| set.as_ref().map_or_else(|| Ok(Labels::empty()), labels_from_wire);
    let mut exemplars = Vec::with_capacity(data.exemplars.len());
    for exemplar in &data.exemplars {
        exemplars.push(Exemplar {
            labels: labels(&exemplar.labels)?,
            value: exemplar.value,
            at: exemplar.at,
        });
    }
    Ok(ExemplarSeries {
        labels: labels(&data.series_labels)?,
        exemplars,
    })
}

/// At most `limit` families, 0 for all.
pub(super) fn metadata_to_wire(list: Vec<Metadata>, limit: usize) -> wire::MetaMap {
    let mut map = wire::MetaMap::default();
    for metadata in list {
        if limit > 0 && map.metadata.len() == limit && !map.metadata.contains_key(&metadata.family) {
            continue;
        }
        let entry = map.metadata.entry(metadata.family).or_default();
        entry.metas.push(wire::Meta {
            kind: metadata.kind.as_str().to_owned(),
            help: metadata.help,
            unit: metadata.unit,
        });
    }
    map
}

pub(super) fn metadata_from_wire(map: wire::MetaMap) -> Vec<Metadata> {
    const KINDS: std::ops::Range<u64> = 0..8;
    let kind = |name: &str| {
        KINDS
            .map(MetricType::from_wire)
            .find(|kind| kind.as_str() == name)
            .unwrap_or_default()
    };
    let entries = map.metadata.into_iter().flat_map(|(family, entry)| {
        entry.metas.into_iter().map(move |meta| Metadata {
            family: family.clone(),
            kind: kind(&meta.kind),
            help: meta.help,
            unit: meta.unit,
        })
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_become_an_expression_that_reads_back() {
        let selectors = vec![
            vec![
                Matcher::equal("__name__", "up"),
                Matcher::new(MatchOp::NotRegex, "job", "a\"b\\d+").unwrap(),
            ],
            vec![Matcher::not_equal("http.method", "get\n")],
        ];
        assert_eq!(
            selectors_to_query(&selectors),
            r#"{__name__="up",job!~"a\"b\\d+"} or {"http.method"!="get\n"}"#
        );
    }

    #[test]
    fn broken_matchers_are_refused() {
        let matcher = |kind, value: &str| wire::LabelMatcher {
            kind,
            name: "a".to_owned(),
            value: value.to_owned(),
        };
        for matcher in [matcher(4, "x"), matcher(-1, "x"), matcher(2, "(")] {
            let status = matchers_from_wire(&[matcher]).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn an_error_keeps_its_meaning_over_the_wire() {
        for error in [
            SelectError::Limit("too many".into()),
            SelectError::Unavailable("down".into()),
            SelectError::Corrupt("broken".into()),
        ] {
            assert_eq!(error_of(&status_of(&error)), error);
        }
    }
}
