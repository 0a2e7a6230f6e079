//! Which values a regular expression can match at all, read off the expression before any value is looked at.
//!
//! Postings evaluation looks a few literals up instead of trying every value. The head uses it as well.

use model::matcher::{MatchOp, Matcher};
use regex_syntax::{
    ParserBuilder,
    hir::literal::{ExtractKind, Extractor, Seq},
};

/// More alternatives than this are scanned for rather than looked up, as in Prometheus.
const LITERALS_MAX: usize = 256;

/// Longest literal that is followed; a longer one still gives a prefix.
const LITERAL_BYTES_MAX: usize = 1024;

/// The values that the text of a matcher (its value or expression, whether negated or not) can describe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidates {
    /// Only these, sorted and distinct; each must still be tried.
    Literals(Vec<String>),
    /// Only values that begin with these bytes.
    Prefix(Vec<u8>),
    /// Any value.
    Any,
}

/// Reads off what `matcher` compares with. For `!=` and `!~` the answer is about the values that are excluded.
pub fn candidates(matcher: &Matcher) -> Candidates {
    match matcher.op {
        MatchOp::Equal | MatchOp::NotEqual => Candidates::Literals(vec![matcher.value.to_string()]),
        MatchOp::Regex | MatchOp::NotRegex => of_expression(&matcher.value),
    }
}

fn of_expression(expression: &str) -> Candidates {
    let Ok(parsed) = ParserBuilder::new()
        .dot_matches_new_line(true)
        .build()
        .parse(expression)
    else {
        return Candidates::Any;
    };
    let mut extractor = Extractor::new();
    extractor
        .kind(ExtractKind::Prefix)
        .limit_total(LITERALS_MAX)
        .limit_literal_len(LITERAL_BYTES_MAX);
    let found = extractor.extract(&parsed);
    if let Some(literals) = exact_literals(&found) {
        return Candidates::Literals(literals);
    }
    match found.longest_common_prefix() {
        Some(prefix) if !prefix.is_empty() => Candidates::Prefix(prefix.to_vec()),
        _ => Candidates::Any,
    }
}

/// The literals when the expression matches nothing else.
fn exact_literals(found: &Seq) -> Option<Vec<String>> {
    if !found.is_exact() {
        return None;
    }
    let texts = found
        .literals()?
        .iter()
        .map(|literal| String::from_utf8(literal.as_bytes().to_vec()));
    let mut literals: Vec<String> = texts.collect::<Result<_, _>>().ok()?;
    literals.sort_unstable();
    literals.dedup();
    Some(literals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read() {
        let literals = |texts: &[&str]| Candidates::Literals(texts.iter().map(|text| (*text).to_owned()).collect());
        let prefix = |text: &str| Candidates::Prefix(text.as_bytes().to_vec());
        for (expression, expected) in [
            ("api", literals(&["api"])),
            ("", literals(&[""])),
            ("b|a|b", literals(&["a", "b"])),
            ("(foo|bar)-[12]", literals(&["bar-1", "bar-2", "foo-1", "foo-2"])),
            ("a(b)?", literals(&["a", "ab"])),
            ("api-.*", prefix("api-")),
            ("(api-a|api-b).+", prefix("api-")),
            ("ä.*", prefix("ä")),
            (".*", Candidates::Any),
            (".+|x", Candidates::Any),
            ("(?i)ab", literals(&["AB", "Ab", "aB", "ab"])),
            ("x[0-9]{3}", prefix("x")),
        ] {
            let matcher = Matcher::new(MatchOp::Regex, "l", expression).unwrap();
            assert_eq!(candidates(&matcher), expected, "{expression}");
        }
    }
}
