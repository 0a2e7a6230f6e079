//! Label matchers: the selectors of PromQL.

mod re2;

use std::{fmt, sync::Arc};

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl MatchOp {
    /// The operator as written.
    pub const fn as_str(self) -> &'static str {
        match self {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        }
    }
}

/// A condition on one label. A series without the label is matched as if its value were empty.
#[derive(Clone)]
pub struct Matcher {
    /// How to compare.
    pub op: MatchOp,
    /// Name of the label.
    pub name: Arc<str>,
    /// The value or the regular expression, as written.
    pub value: Arc<str>,
    /// The fully anchored expression of a regex matcher.
    regex: Option<Arc<regex::Regex>>,
}

/// A regular expression that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RegexError(pub String);

/// Compiled size that one expression may have in bytes; a bomb such as `(a{1000}){1000}` is refused by it.
const REGEX_BYTES_MAX: usize = 4 << 20;

impl Matcher {
    /// A matcher; fails only when `value` is no regular expression and `op` asks for one.
    pub fn new(op: MatchOp, name: &str, value: &str) -> Result<Self, RegexError> {
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(Arc::new(anchored(value)?)),
        };
        Ok(Self {
            op,
            name: name.into(),
            value: value.into(),
            regex,
        })
    }

    /// `name="value"`, which cannot fail.
    pub fn equal(name: &str, value: &str) -> Self {
        Self {
            op: MatchOp::Equal,
            name: name.into(),
            value: value.into(),
            regex: None,
        }
    }

    /// `name!="value"`, which cannot fail.
    pub fn not_equal(name: &str, value: &str) -> Self {
        Self {
            op: MatchOp::NotEqual,
            name: name.into(),
            value: value.into(),
            regex: None,
        }
    }

    /// Whether a label with this value (empty when absent) satisfies the matcher.
    pub fn matches(&self, value: &str) -> bool {
        match (&self.op, &self.regex) {
            (MatchOp::Equal, _) => value == &*self.value,
            (MatchOp::NotEqual, _) => value != &*self.value,
            (MatchOp::Regex, Some(regex)) => regex.is_match(value),
            (MatchOp::NotRegex, Some(regex)) => !regex.is_match(value),
            (MatchOp::Regex | MatchOp::NotRegex, None) => false,
        }
    }

    /// Whether a series without the label satisfies the matcher.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }
}

/// Compiles `pattern` as Prometheus does: in Go's syntax, anchored at both ends, the dot matches newlines.
pub fn anchored(pattern: &str) -> Result<regex::Regex, RegexError> {
    regex::RegexBuilder::new(&re2::translate(pattern)?)
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|error| re2::reason(&error))
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.name == other.name && self.value == other.value
    }
}

impl Eq for Matcher {}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op.as_str(), self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let matcher = Matcher::new(MatchOp::Regex, "a", pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for value in matching {
            assert!(matcher.matches(value), "{pattern} does not match {value:?}");
        }
        for value in others {
            assert!(!matcher.matches(value), "{pattern} matches {value:?}");
        }
    }

    #[test]
    fn patterns_are_anchored_and_the_dot_matches_newlines() {
        check("a|b", &["a", "b"], &["ab", "xa", "bx", ""]);
        check("a.b", &["a\nb", "axb"], &["ab"]);
        check("(?i)Foo", &["foo", "FOO"], &["fo"]);
        check("(?-s)a.b", &["axb"], &["a\nb"]);
        check("", &[""], &["a"]);
    }

    #[test]
    fn braces_that_count_nothing_are_literal() {
        check("/api/{id}/.*", &["/api/{id}/x"], &["/api/1/x"]);
        check("a{,5}", &["a{,5}"], &["aaa"]);
        check("a{2}", &["aa"], &["a{2}", "a"]);
        check("a{2,}b{1,3}?", &["aab", "aaabbb"], &["ab"]);
        check("x{01}", &["x{01}"], &["x"]);
        check("{}]", &["{}]"], &[]);
    }

    #[test]
    fn perl_classes_know_ascii_only() {
        check("\\d+", &["12"], &["\u{0661}"]);
        check("\\w+", &["a_1"], &["é"]);
        check("[\\W]", &["é", "-"], &["a"]);
        check("[\\d\\s]+", &["1 \t2"], &["\u{a0}"]);
        check("\\bfoo\\b.*", &["foo", "foo bar", "fooé"], &["foob"]);
        check("a\\Bb", &["ab"], &[]);
        check("\\pL\\p{^Greek}\\PL", &["éa1"], &["éα1", "éaa"]);
        check("[[:alpha:][:^ascii:]]+", &["abé"], &["1"]);
    }

    #[test]
    fn classes_hold_what_they_show() {
        check("[a&&b]+", &["a&b"], &["c"]);
        check("[a[b]+", &["[ab"], &["]"]);
        check("[]a]+", &["]a"], &["["]);
        check("[^]a]", &["b", "["], &["]", "a"]);
        check("[a-]+", &["a-"], &["b"]);
        check("[--a]+", &["-Za"], &["b"]);
        check("[~~#]+", &["~#"], &["a"]);
        check("[\\]\\-x]+", &["]-x"], &["\\"]);
    }

    #[test]
    fn escapes_mean_what_they_mean_in_go() {
        check("\\Qa.b*\\E+", &["a.b*", "a.b**"], &["axb"]);
        check("\\_\\<\\>\\ \\/", &["_<> /"], &[]);
        check("\\x41\\x{1F600}\\101\\0", &["A\u{1F600}A\0"], &[]);
        check("\\a\\f\\v\\n\\t", &["\x07\x0c\x0b\n\t"], &[]);
        check("(?P<n>a)(?<m>b)", &["ab"], &[]);
        check("a\\z|\\Ab", &["a", "b"], &[]);
    }

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        for (pattern, reason) in [
            ("[", "missing closing ]: `[)$`"),
            ("x[a", "missing closing ]: `[a)$`"),
            ("(", "missing closing ): `^(?s:()$`"),
            (")", "unexpected ): `^(?s:))$`"),
            ("a\\", "missing closing ): `^(?s:a\\)$`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a+?*", "invalid nested repetition operator: `+?*`"),
            ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a|*", "missing argument to repetition operator: `*`"),
            ("(+)", "missing argument to repetition operator: `+`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("a{2,1}", "invalid repeat count: `{2,1}`"),
            ("\\1", "invalid escape sequence: `\\1`"),
            ("\\8", "invalid escape sequence: `\\8`"),
            ("\\C", "invalid escape sequence: `\\C`"),
            ("\\Z", "invalid escape sequence: `\\Z`"),
            ("\\u00e9", "invalid escape sequence: `\\u`"),
            ("\\é", "invalid escape sequence: `\\é`"),
            ("[a-\\d]", "invalid escape sequence: `\\d`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
            ("\\p{Foo}", "invalid character class range: `\\p{Foo}`"),
            ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
            ("(?P<n", "invalid named capture: `(?P<n)$`"),
        ] {
            let error = Matcher::new(MatchOp::Regex, "a", pattern).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("error parsing regexp: {reason}"),
                "{pattern}"
            );
        }
        let bomb = Matcher::new(MatchOp::Regex, "a", "((a{500}){500}){500}").unwrap_err();
        assert!(bomb.to_string().contains("size limit"), "{bomb}");
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_makes_the_translation_panic(pattern in "[\\\\\\[\\](){}*+?|.^$a-c0-9xQEpdb:,é-]{0,24}") {
            let _ = anchored(&pattern);
        }
    }
}
