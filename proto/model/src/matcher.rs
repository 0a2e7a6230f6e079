//! Label matchers: the selectors of PromQL.

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
        Ok(Self { op, name: name.into(), value: value.into(), regex })
    }

    /// `name="value"`, which cannot fail.
    pub fn equal(name: &str, value: &str) -> Self {
        Self { op: MatchOp::Equal, name: name.into(), value: value.into(), regex: None }
    }

    /// `name!="value"`, which cannot fail.
    pub fn not_equal(name: &str, value: &str) -> Self {
        Self { op: MatchOp::NotEqual, name: name.into(), value: value.into(), regex: None }
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

/// Compiles `pattern` as Prometheus does: anchored at both ends, the dot matches newlines.
pub fn anchored(pattern: &str) -> Result<regex::Regex, RegexError> {
    regex::RegexBuilder::new(&format!("^(?s:{pattern})$"))
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|error| RegexError(error.to_string()))
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
