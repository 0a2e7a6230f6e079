//! Differences that are right: where an older Prometheus answers otherwise than the one whose language this is, and where the
//! language leaves the answer open. What is not in this table fails the test.

use crate::compare::{Aspect, Difference};

/// A reason why answers may differ.
pub(crate) struct Known {
    pub(crate) reason: &'static str,
    /// Which peers; all when `None`.
    peer: Option<&'static str>,
    applies: fn(&str, &Difference) -> bool,
}

/// Name of Debian's peer in the table.
pub(crate) const OLD: &str = "2.42";
/// Name of the peer of the third generation.
pub(crate) const NEW: &str = "3.5";

/// The reason of a difference, if it is a known one.
pub(crate) fn reason(peer: &str, query: &str, difference: &Difference) -> Option<&'static str> {
    let known = KNOWN.iter().filter(|known| known.peer.is_none_or(|name| name == peer));
    known
        .into_iter()
        .find(|known| (known.applies)(query, difference))
        .map(|known| known.reason)
}

/// Whether a function of exactly this name is called.
pub(crate) fn calls(query: &str, name: &str) -> bool {
    query.match_indices(name).any(|(at, _)| {
        let before = query[..at].chars().next_back();
        let after = query[at + name.len()..].trim_start();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
            && ["(", "by", "without"].iter().any(|start| after.starts_with(start))
    })
}

const KNOWN: &[Known] = &[
    Known {
        reason: "limitk takes the first series in the order of storage, which is nobody's business",
        peer: None,
        applies: |query, difference| query.contains("limitk") && difference.aspect == Aspect::Value,
    },
    Known {
        reason: "which of equal values topk and bottomk take is open",
        peer: None,
        applies: |query, difference| {
            (query.contains("topk") || query.contains("bottomk")) && difference.aspect == Aspect::Value
        },
    },
    Known {
        reason: "older versions see many-to-one matches only if the comparison lets two of them pass",
        peer: None,
        applies: |_, difference| {
            let text = "many-to-one matching must be explicit";
            let classes = [Aspect::Refusal, Aspect::ErrorClass, Aspect::ErrorText];
            classes.contains(&difference.aspect) && difference.detail.contains(text)
        },
    },
    Known {
        reason: "3.5 does not say that sorting a range query has no effect",
        peer: Some(NEW),
        applies: |_, difference| {
            difference
                .detail
                .starts_with("only ours: PromQL warning: sort is ineffective")
        },
    },
    Known {
        reason: "3.5 does not compare hints about counter resets",
        peer: Some(NEW),
        applies: |_, difference| {
            difference
                .detail
                .starts_with("only ours: PromQL warning: conflicting counter resets")
        },
    },
    Known {
        reason: "3.5 numbers the token @ in syntax errors instead of naming it",
        peer: Some(NEW),
        applies: |_, difference| difference.aspect == Aspect::ErrorText && difference.detail.contains("\"<Item "),
    },
    Known {
        reason: "3.5 extrapolates rates of histograms below zero",
        peer: Some(NEW),
        applies: |query, difference| {
            let rates = calls(query, "rate") || calls(query, "increase");
            let native = NATIVE.iter().any(|name| query.contains(name));
            rates && native && difference.aspect == Aspect::Value
        },
    },
    Known {
        reason: "3.5 does not reconcile custom buckets",
        peer: Some(NEW),
        applies: |query, difference| {
            let note = [
                "mismatched custom buckets",
                "incompatible bucket layout",
                "incompatible custom buckets",
                "incompatible sample types",
                "encountered a mix",
                "ignored histogram",
            ];
            query.contains("custom_seconds")
                && (difference.aspect == Aspect::Value || note.iter().any(|note| difference.detail.contains(note)))
        },
    },
    Known {
        reason: "3.5 does not look at the names of what irate is taken of",
        peer: Some(NEW),
        applies: |query, difference| {
            query.contains("irate(")
                && difference
                    .detail
                    .starts_with("only ours: PromQL info: metric might not be")
        },
    },
    Known {
        reason: "3.5 says with other words that buckets are not monotonic",
        peer: Some(NEW),
        applies: |_, difference| difference.detail.contains("needed to be fixed for monotonicity"),
    },
    Known {
        reason: "3.5 names the metric of a bad bucket even if it has no name",
        peer: Some(NEW),
        applies: |_, difference| {
            difference
                .detail
                .contains("bucket label \"le\" is missing or has a malformed value")
        },
    },
    Known {
        reason: "2.42 reads no numbers with underscores",
        peer: Some(OLD),
        applies: |query, difference| {
            query.contains("1_000") && matches!(difference.aspect, Aspect::Refusal | Aspect::ErrorClass)
        },
    },
    Known {
        reason: "atan2 of two vectors kept the name in 2.42",
        peer: Some(OLD),
        applies: |query, difference| {
            query.contains(" atan2 ") && matches!(difference.aspect, Aspect::Value | Aspect::Refusal)
        },
    },
    Known {
        reason: "2.42 takes predict_linear for the same at every step",
        peer: Some(OLD),
        applies: |query, difference| {
            query.contains("predict_linear") && query.contains('@') && difference.aspect == Aspect::Value
        },
    },
    Known {
        reason: "2.42 finds a spread of 0 or NaN where there is none and where values overflow",
        peer: Some(OLD),
        applies: |query, difference| {
            ["stdvar", "stddev"].iter().any(|name| query.contains(name)) && difference.aspect == Aspect::Value
        },
    },
    Known {
        reason: "2.42 extrapolates rates to zero before it looks at gaps",
        peer: Some(OLD),
        applies: |query, difference| {
            let rates = calls(query, "rate") || calls(query, "increase");
            rates && difference.aspect == Aspect::Value
        },
    },
    Known {
        reason: "2.42 takes fractions of native histograms only",
        peer: Some(OLD),
        applies: |query, difference| query.contains("histogram_fraction") && difference.aspect == Aspect::Value,
    },
    Known {
        reason: "the dot of a regular expression does not match a line break in 2.42",
        peer: Some(OLD),
        applies: |query, difference| query.contains("words") && difference.detail.contains("line\\nbreak"),
    },
    Known {
        reason: "3.5 looks for info metrics at another time than @ says",
        peer: Some(NEW),
        applies: |query, difference| calls(query, "info") && query.contains('@') && difference.aspect == Aspect::Value,
    },
    Known {
        reason: "peers forget the offset of a selector with @ inside timestamp()",
        peer: None,
        applies: |query, difference| {
            calls(query, "timestamp")
                && query.contains('@')
                && query.contains("offset")
                && difference.aspect == Aspect::Value
        },
    },
    Known {
        reason: "2.42 evaluates what is the same at every step also in a subquery without steps, behind its end",
        peer: Some(OLD),
        applies: |query, difference| {
            query.contains('@') && query.contains(":]") && difference.detail.contains("only theirs: 1 points")
        },
    },
    Known {
        reason: "2.42 takes no names in UTF-8",
        peer: Some(OLD),
        applies: |_, difference| {
            difference.aspect == Aspect::Refusal && difference.detail.contains("invalid destination label name")
        },
    },
    Known {
        reason: "count_values tells the last bits, which depend on the order of addition",
        peer: None,
        applies: |query, difference| {
            let detail = &difference.detail;
            let one_for_another = detail.contains("only ours: ") && detail.contains("only theirs: ");
            calls(query, "count_values") && (one_for_another || detail.starts_with("a label set stands twice"))
        },
    },
    Known {
        reason: "a remainder or an angle of something huge makes its last bit a large one",
        peer: None,
        applies: |query, difference| {
            let huge = query.contains('^') || calls(query, "exp") || calls(query, "sinh") || calls(query, "cosh");
            let folds = query.contains('%') || ["sin", "cos", "tan"].iter().any(|name| calls(query, name));
            huge && folds && difference.aspect == Aspect::Value
        },
    },
    Known {
        reason: "3.5 takes a negated histogram for a counter still",
        peer: Some(NEW),
        applies: |query, difference| {
            let text = "only ours: PromQL warning: this native histogram metric is not a counter";
            query.contains('-') && difference.detail.starts_with(text)
        },
    },
    Known {
        reason: "3.5 knows no step() and range() where a duration stands",
        peer: Some(NEW),
        applies: |_, difference| {
            let texts = [
                "expected number, duration, step(), or range() | ",
                "expected number or duration",
            ];
            difference.aspect == Aspect::ErrorText && texts.iter().all(|text| difference.detail.contains(text))
        },
    },
    Known {
        reason: "near one, atanh makes the last bit a large one",
        peer: None,
        applies: |query, difference| query.contains("atanh(tanh(") && difference.aspect == Aspect::Value,
    },
    Known {
        reason: "3.5 drops NaN from mad_over_time, which it makes NaN in 3.14",
        peer: Some(NEW),
        applies: |query, difference| calls(query, "mad_over_time") && difference.detail.contains("Float(NaN)) | ("),
    },
    Known {
        reason: "3.5 finds other words for what is wrong inside of brackets",
        peer: Some(NEW),
        applies: |_, difference| {
            let texts = [
                "in duration expression | ",
                "unexpected character in duration expression: ",
            ];
            difference.aspect == Aspect::ErrorText && texts.iter().any(|text| difference.detail.contains(text))
        },
    },
    Known {
        reason: "3.5 shows what is wrong with a regular expression without its anchors",
        peer: Some(NEW),
        applies: |_, difference| {
            difference.aspect == Aspect::ErrorText && difference.detail.contains("error parsing regexp")
        },
    },
    Known {
        reason: "3.5 leaves samples out of info() over time",
        peer: Some(NEW),
        applies: |query, difference| calls(query, "info") && difference.aspect == Aspect::Value,
    },
    Known {
        reason: "3.5's index sorts the matchers of a query in place, and absent_over_time looks at them afterwards",
        peer: Some(NEW),
        applies: |query, difference| {
            calls(query, "absent_over_time") && query.contains("!=") && difference.aspect == Aspect::Value
        },
    },
    Known {
        reason: "a note that is due at two places is told for one of them",
        peer: Some(NEW),
        applies: |query, difference| {
            query.matches("quantile").count() > 1
                && difference.aspect == Aspect::Warnings
                && difference.detail.contains("quantile value should be between 0 and 1")
        },
    },
    Known {
        reason: "3.5 answers with histograms whose buckets do not add up to their count",
        peer: Some(NEW),
        applies: |query, difference| {
            calls(query, "delta") && query.contains("native_seconds") && difference.aspect == Aspect::Value
        },
    },
    Known {
        reason: "3.5 has other buckets in sums of native histograms over time than for a moment",
        peer: Some(NEW),
        applies: |query, difference| {
            let native = NATIVE.iter().any(|name| query.contains(name));
            calls(query, "sum_over_time") && native && difference.aspect == Aspect::Value
        },
    },
];

/// Metrics that are or hold native histograms.
const NATIVE: [&str; 4] = ["native_seconds", "native_gauge", "mixed", "custom_seconds"];
