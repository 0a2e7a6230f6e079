//! Hands batches on to those who store them.
//!
//! `write` calls it once per slice of a request. There is one taker so far, in this process; placement on the ring and
//! the counting of quorums belong here.

use model::push::{Push, PushError, WriteBatch, WriteOutcome};
use model::time::Timestamp;
use std::sync::Arc;

/// Stands between the receiver and the takers.
pub(crate) struct Replicator {
    near: Arc<dyn Push>,
}

impl Replicator {
    pub(crate) fn new(near: Arc<dyn Push>) -> Self {
        Self { near }
    }

    /// Pushes a batch; when it answers `Ok`, everything not named as refused is as durable as the policy says.
    pub(crate) async fn push(&self, batch: &WriteBatch, received: Timestamp) -> Result<WriteOutcome, PushError> {
        self.near.push(batch, received).await
    }
}
