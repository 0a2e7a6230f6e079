//! The administration seam: take samples back, tidy up after it, keep a copy.
//!
//! The HTTP API asks, behind a switch; whatever holds samples on a disk of its own answers. Each operation concerns one tenant, and
//! may be asked again after any failure: what was done stays done, the rest follows.

use crate::{matcher::Matcher, tenant::Tenant, time::TimeRange};
use futures::future::BoxFuture;

/// What became of a deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Series that had samples to delete; a series that lies in memory and in blocks counts once for each.
    pub series: u64,
    /// Copies that the deletion could not reach, in words for the operator (such as blocks that lie in the bucket already). Empty
    /// when nothing that this process serves gives the samples back any more.
    pub unreached: Vec<String>,
}

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Starting, or another operation is under way: ask again later.
    #[error("{0}")]
    Unavailable(String),
    /// A file could not be written or read; says which and why.
    #[error("{0}")]
    Storage(String),
}

/// Operations that change or copy what is stored. Implemented by the ingester.
pub trait Administer: Send + Sync {
    /// Deletes the samples inside `range` (both ends included) of every series that satisfies all matchers of any of the
    /// `selectors`; no selector, nothing deleted. When it answers `Ok`, the samples are not given back any more, also not after a
    /// restart or power loss. Space is freed later ([`Administer::clean_tombstones`]). A sample of that time that is pushed
    /// afterwards is a new one and stays.
    fn delete_series<'a>(
        &'a self,
        tenant: &'a Tenant,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'a, Result<Deleted, AdminError>>;

    /// Rewrites the local blocks that hold deleted samples, so that their space is free. A block that loses its last sample goes.
    fn clean_tombstones<'a>(&'a self, tenant: &'a Tenant) -> BoxFuture<'a, Result<(), AdminError>>;

    /// Keeps a copy of the local blocks, and of what is in memory unless `skip_head`, in a new folder below `snapshots/` of the
    /// data folder, and gives that folder's name. The folder holds Prometheus blocks and nothing else, so that a Prometheus can be
    /// started on it. A failed snapshot leaves no folder of a final name behind.
    fn snapshot<'a>(&'a self, tenant: &'a Tenant, skip_head: bool) -> BoxFuture<'a, Result<String, AdminError>>;
}
