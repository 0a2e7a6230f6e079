//! Why a block cannot be served.

use crate::bucket::BucketError;
use std::io;

/// A reason, while it is being found out.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// As a word, for metrics.
    pub(super) kind: &'static str,
    /// Whether another try may help although nothing changed in the bucket.
    pub(super) transient: bool,
}

impl Failure {
    /// The words that [`Self::kind`] can be.
    pub(super) const KINDS: [&'static str; 6] = ["unreadable", "description", "labels", "index", "chunks", "local"];

    /// It stays so until the block changes.
    pub(super) fn lasting(kind: &'static str, reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            kind,
            transient: false,
        }
    }

    /// It may pass.
    pub(super) fn passing(kind: &'static str, reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            kind,
            transient: true,
        }
    }
}

impl From<BucketError> for Failure {
    fn from(error: BucketError) -> Self {
        match &error {
            BucketError::Store { .. } => Self::passing("unreadable", error.to_string()),
            BucketError::Invalid { .. } => Self::lasting("description", error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::passing("local", format!("local copy of the index: {error}"))
    }
}
