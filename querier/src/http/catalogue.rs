//! What the API offers, call by call: the one table from which requests are routed and the OpenAPI document is written.
//!
//! A call that is not in the table is not served, and in debug builds reading a parameter that its row does not name panics, so
//! that the document cannot fall behind the code.

mod calls;
mod shapes;

pub(super) use calls::CALLS;
pub(super) use shapes::{ERROR, Shape};

/// A path with the methods that it answers.
#[derive(Debug)]
pub(super) struct Call {
    /// Path below the root; variable parts in braces.
    pub(super) path: &'static str,
    /// Methods that are answered alike.
    pub(super) verbs: &'static [Verb],
    /// Under which heading it stands.
    pub(super) tag: &'static str,
    /// What it is for, in a sentence.
    pub(super) about: &'static str,
    /// What the body of a POST or PUT is.
    pub(super) body: Sent,
    /// What a request may say, in the order of the document.
    pub(super) parameters: &'static [Parameter],
    /// What it answers when all is well.
    pub(super) answer: Answered,
}

/// A method. HEAD comes with GET, and every path answers OPTIONS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
    Put,
}

impl Verb {
    /// The name in the document.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::Post => "post",
            Verb::Put => "put",
        }
    }
}

/// A parameter of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Whether a request without it is refused.
    pub(super) required: bool,
    /// Whether it may be there more than once.
    pub(super) repeated: bool,
    pub(super) about: &'static str,
    /// A value that a reader can try; empty when there is none.
    pub(super) example: &'static str,
}

/// What the value of a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any text; what it must be is in the words about it.
    Text,
    /// A part of the path.
    Path,
    /// Seconds or RFC 3339.
    Time,
    /// Seconds or a Prometheus duration.
    Duration,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Flag,
    /// One of a few words.
    OneOf(&'static [&'static str]),
}

/// What the body of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Parameters, which may be in the URL as well.
    Form,
    /// A message of this media type; parameters are in the URL.
    Message(&'static str),
}

/// What a call answers when all is well.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answered {
    /// 200 with the envelope, whose `data` has this shape.
    Data(Shape),
    /// 200 with something that is not JSON, of this media type.
    Raw(&'static str),
    /// 204.
    Nothing,
    /// 204, or 200 with the envelope when there are warnings.
    NothingUnlessWarned,
    /// An error of kind not_found, whatever is asked for.
    NeverFound,
}

impl Call {
    /// Whether requests may name this parameter.
    pub(super) fn names(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|known| known.name == parameter)
    }
}

/// The row of a path. Paths are written twice, here and in the table; a path that is not in the table is found at start.
pub(super) fn call(path: &str) -> &'static Call {
    CALLS
        .iter()
        .find(|call| call.path == path)
        .unwrap_or_else(|| panic!("{path} is not in the catalogue"))
}
