//! What the querier must be told about the process around it, for the status pages of the API.

use futures::future::BoxFuture;
use model::{admin::Administer, select::SelectError, tenant::Tenant, time::Timestamp};
use std::sync::Arc;

/// The version of the Prometheus HTTP API and of PromQL that our answers follow. Clients switch features by it: Grafana falls back
/// to slow calls below 2.24.
pub const PROMETHEUS_VERSION: &str = "3.14.0";

/// A call that another part of the process answers, as the OpenAPI document tells of it.
#[derive(Debug, Clone, Copy)]
pub struct OtherCall {
    /// Path below the root; variable parts in braces.
    pub path: &'static str,
    /// Methods in lower case, without HEAD and OPTIONS.
    pub methods: &'static [&'static str],
    /// Under which heading it stands.
    pub tag: &'static str,
    /// What it is for, in a sentence.
    pub about: &'static str,
    /// Media type of the body of POST and PUT; empty where they have none.
    pub body: &'static str,
    /// Status code, what it says, and the media type of the answer; empty where it has no body.
    pub answers: &'static [(&'static str, &'static str, &'static str)],
}

/// Tells about the process. Implemented by the node.
pub trait StatusProvider: Send + Sync {
    /// Our own version.
    fn version(&self) -> String;

    /// The revision that was built, or empty.
    fn revision(&self) -> String;

    /// Settings as flags: name without dashes and value; secrets left out.
    fn flags(&self) -> Vec<(String, String)>;

    /// The configuration as YAML, secrets left out.
    fn config(&self) -> String;

    /// What the process answers besides the calls of the querier.
    fn other_calls(&self) -> Vec<OtherCall> {
        Vec::new()
    }

    /// When the process started.
    fn started(&self) -> Timestamp;

    /// How long samples are kept, in words, such as `15d`.
    fn retention(&self) -> String {
        String::new()
    }

    /// Who deletes series and makes snapshots; `None` when that is not there or the operator has not switched it on.
    fn admin(&self) -> Option<Arc<dyn Administer>> {
        None
    }

    /// What the head holds of a tenant: each list has at most `limit` entries, largest first. Without a head: nothing.
    fn head_stats(&self, _tenant: &Tenant, _limit: usize) -> BoxFuture<'_, Result<HeadStats, SelectError>> {
        Box::pin(async { Ok(HeadStats::default()) })
    }
}

/// Numbers about the head of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadStats {
    /// Series.
    pub series: u64,
    /// Distinct pairs of name and value.
    pub label_pairs: u64,
    /// Chunks.
    pub chunks: u64,
    /// Oldest sample; 0 when there is none.
    pub min_time: Timestamp,
    /// Newest sample; 0 when there is none.
    pub max_time: Timestamp,
    /// Series of each metric name.
    pub series_by_metric: Vec<(String, u64)>,
    /// Distinct values of each label name.
    pub values_by_label: Vec<(String, u64)>,
    /// Bytes of the values of each label name.
    pub bytes_by_label: Vec<(String, u64)>,
    /// Series with each pair, written `name=value`.
    pub series_by_pair: Vec<(String, u64)>,
}
