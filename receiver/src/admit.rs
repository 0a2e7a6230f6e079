//! Admission of a series seen for the first time: from the labels as sent to a label set, or to a refusal.
//!
//! Called once for each new spelling of a series, not for each sample. Unsorted labels are sorted and empty values are
//! dropped, since many senders send them; what remains must be UTF-8, distinct, within limits, and have a name.

use crate::settings::LabelLimits;
use model::label::{Labels, LabelsBuilder, METRIC_NAME};
use model::verdict::Reason;
use proto::protobuf::WireError;
use proto::remote_write::v1::RawPair;
use smallvec::SmallVec;
use std::fmt::Write;

/// Most characters of the labels of an exemplar, names and values together (OpenMetrics).
const EXEMPLAR_RUNES_MAX: usize = 128;

/// How many labels, and bytes of each, a description shows.
const SHOWN_LABELS_MAX: usize = 20;
const SHOWN_BYTES_MAX: usize = 100;

/// Why a series cannot be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request is broken as a whole.
    Wire(WireError),
    /// This series can never be stored.
    Invalid {
        reason: Reason,
        /// In words, with the labels.
        text: String,
    },
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Refusal::Wire(error)
    }
}

fn invalid(reason: Reason, text: String) -> Refusal {
    Refusal::Invalid { reason, text }
}

/// Makes the label set of a series of the labels as sent.
pub(crate) fn admit<'a>(
    pairs: impl Iterator<Item = Result<RawPair<'a>, Refusal>>,
    limits: &LabelLimits,
) -> Result<Labels, Refusal> {
    let labels = checked(pairs, limits)?;
    if labels.get(METRIC_NAME).is_none() {
        let text = format!(
            "invalid metric name or labels, got {}: {METRIC_NAME} is missing",
            show(&labels)
        );
        return Err(invalid(Reason::MissingMetricName, text));
    }
    Ok(labels)
}

/// Makes the label set of an exemplar, which needs no name and is short.
pub(crate) fn admit_exemplar<'a>(
    pairs: impl Iterator<Item = Result<RawPair<'a>, Refusal>>,
    limits: &LabelLimits,
) -> Result<Labels, Refusal> {
    let labels = checked(pairs, limits).map_err(|refusal| match refusal {
        Refusal::Invalid { text, .. } => invalid(Reason::InvalidExemplar, format!("invalid exemplar: {text}")),
        wire => wire,
    })?;
    let runes: usize = labels
        .iter()
        .map(|(name, value)| name.chars().count() + value.chars().count())
        .sum();
    if runes > EXEMPLAR_RUNES_MAX {
        let text = format!(
            "invalid exemplar: its labels have {runes} characters, at most {EXEMPLAR_RUNES_MAX} are allowed: {}",
            show(&labels)
        );
        return Err(invalid(Reason::InvalidExemplar, text));
    }
    Ok(labels)
}

type Pairs<'a> = SmallVec<[(&'a str, &'a str); 32]>;

fn checked<'a>(
    pairs: impl Iterator<Item = Result<RawPair<'a>, Refusal>>,
    limits: &LabelLimits,
) -> Result<Labels, Refusal> {
    let mut checked = Pairs::new();
    let mut bytes = 0;
    for pair in pairs {
        let (name, value) = pair?;
        if value.is_empty() {
            continue;
        }
        let (name, value) = text_of(name, value, limits, &checked)?;
        bytes += name.len() + value.len();
        if checked.len() == limits.labels_max {
            let text = format!(
                "a series has more than {} labels: {}",
                limits.labels_max,
                show_pairs(&checked)
            );
            return Err(invalid(Reason::TooManyLabels, text));
        }
        if bytes > limits.total_bytes_max {
            let text = format!(
                "invalid metric name or labels, got {}: the labels have more than {} bytes together",
                show_pairs(&checked),
                limits.total_bytes_max
            );
            return Err(invalid(Reason::InvalidLabel, text));
        }
        checked.push((name, value));
    }
    // Nearly all senders sort: then each name is compared once, for its order and for being there twice.
    if !checked.is_sorted_by(|(one, _), (other, _)| one < other) {
        checked.sort_unstable();
        if let Some(twice) = checked.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let text = format!(
                "invalid labels for series, labels {}, duplicated label {}",
                show_pairs(&checked),
                twice[0].0
            );
            return Err(invalid(Reason::DuplicateLabel, text));
        }
    }
    let mut builder = LabelsBuilder::with_capacity(bytes, checked.len());
    for (name, value) in checked {
        builder.push(name, value);
    }
    Ok(builder.build_sorted())
}

/// Name and value as text, within their limits.
fn text_of<'a>(
    name: &'a [u8],
    value: &'a [u8],
    limits: &LabelLimits,
    before: &Pairs<'_>,
) -> Result<(&'a str, &'a str), Refusal> {
    let refuse = |why: String| {
        let shown = show_pairs(before);
        let pair = format!("{}={:?}", lossy(name), lossy(value));
        let text = format!("invalid metric name or labels, got {shown}, then {pair}: {why}");
        Err(invalid(Reason::InvalidLabel, text))
    };
    if name.is_empty() {
        return refuse("a label name is empty".to_owned());
    }
    if name.len() > limits.name_bytes_max {
        return refuse(format!(
            "the name has {} bytes, at most {} are allowed",
            name.len(),
            limits.name_bytes_max
        ));
    }
    if value.len() > limits.value_bytes_max {
        return refuse(format!(
            "the value has {} bytes, at most {} are allowed",
            value.len(),
            limits.value_bytes_max
        ));
    }
    match (std::str::from_utf8(name), std::str::from_utf8(value)) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        (Err(_), _) => refuse("the name is not UTF-8".to_owned()),
        (_, Err(_)) => refuse("the value is not UTF-8".to_owned()),
    }
}

fn lossy(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]);
    text.escape_debug().collect()
}

/// The labels in Prometheus's notation, long values and long lists cut.
pub(crate) fn show(labels: &Labels) -> String {
    show_pairs(&labels.iter().take(SHOWN_LABELS_MAX + 1).collect::<Pairs<'_>>())
}

fn show_pairs(pairs: &Pairs<'_>) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in pairs.iter().take(SHOWN_LABELS_MAX).enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{separator}{}=\"{}\"",
            lossy(name.as_bytes()),
            lossy(value.as_bytes())
        );
    }
    if pairs.len() > SHOWN_LABELS_MAX {
        text.push_str(", …");
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&str, &str)], expected: Result<&str, (Reason, &str)>) {
        let raw = pairs
            .iter()
            .map(|(name, value)| Ok((name.as_bytes(), value.as_bytes())));
        let limits = LabelLimits {
            labels_max: 4,
            name_bytes_max: 10,
            value_bytes_max: 10,
            total_bytes_max: 40,
        };
        match (admit(raw, &limits), expected) {
            (Ok(labels), Ok(expected)) => assert_eq!(labels.to_string(), expected),
            (Err(Refusal::Invalid { reason, text }), Err((expected, phrase))) => {
                assert_eq!(reason, expected, "{text}");
                assert!(text.contains(phrase), "{text}");
            }
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn labels_are_sorted_and_empty_values_dropped() {
        check(
            &[("job", "x"), ("__name__", "up"), ("b", ""), ("", "")],
            Ok(r#"{__name__="up", job="x"}"#),
        );
        check(
            &[("__name__", "with space.and dots"), ("ü", "é")],
            Err((Reason::InvalidLabel, "19 bytes")),
        );
        check(
            &[("__name__", "a b.c"), ("ü", "é")],
            Ok(r#"{__name__="a b.c", "ü"="é"}"#),
        );
    }

    #[test]
    fn refusals_say_what_is_wrong_with_which_series() {
        check(
            &[("job", "x")],
            Err((Reason::MissingMetricName, r#"got {job="x"}: __name__ is missing"#)),
        );
        check(&[("__name__", "")], Err((Reason::MissingMetricName, "got {}")));
        check(
            &[("a", "1"), ("__name__", "up"), ("a", "2")],
            Err((
                Reason::DuplicateLabel,
                r#"labels {__name__="up", a="1", a="2"}, duplicated label a"#,
            )),
        );
        check(
            &[("__name__", "up"), ("", "x")],
            Err((Reason::InvalidLabel, "name is empty")),
        );
        check(
            &[("__name__", "up"), ("abcdefghijk", "x")],
            Err((Reason::InvalidLabel, "the name has 11 bytes")),
        );
        check(
            &[("__name__", "up"), ("a", "abcdefghijk")],
            Err((Reason::InvalidLabel, "the value has 11 bytes")),
        );
        let five = [("__name__", "up"), ("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")];
        check(&five, Err((Reason::TooManyLabels, "more than 4 labels")));
        let long = [
            ("__name__", "up"),
            ("aaaaaaaaaa", "1111111111"),
            ("bbbbbbbbbb", "1111111111"),
        ];
        check(&long, Err((Reason::InvalidLabel, "more than 40 bytes together")));
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_and_shown_escaped() {
        let raw = [(&b"__name__"[..], &b"up"[..]), (b"a", b"\xff\x1b[31m<b>")];
        let refusal = admit(raw.into_iter().map(Ok), &LabelLimits::default()).unwrap_err();
        let Refusal::Invalid {
            reason: Reason::InvalidLabel,
            text,
        } = refusal
        else {
            panic!("{refusal:?}")
        };
        assert!(
            text.contains("the value is not UTF-8") && !text.contains('\x1b'),
            "{text}"
        );
    }

    #[test]
    fn exemplars_are_short_and_need_no_name() {
        let exemplar = |value: &str| {
            let pairs = [Ok((&b"trace_id"[..], value.as_bytes()))];
            admit_exemplar(pairs.into_iter(), &LabelLimits::default())
        };
        assert_eq!(exemplar("abc").unwrap().to_string(), r#"{trace_id="abc"}"#);
        assert!(exemplar(&"ü".repeat(120)).is_ok());
        assert!(exemplar(&"ü".repeat(121)).is_err());
    }
}
