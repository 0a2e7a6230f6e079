//! What can be set about a gateway.

use super::fetch::PlanBounds;
use crate::bucket::Selector;
use model::{tenant::Tenant, time::Timestamp};
use std::{path::PathBuf, time::Duration};

/// An end of the span that a gateway serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeBound {
    /// A point in time.
    At(Timestamp),
    /// So many milliseconds from now; negative for the past.
    FromNow(i64),
}

impl TimeBound {
    /// The point in time when it is `now`.
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            TimeBound::At(at) => at,
            TimeBound::FromNow(ms) => now.saturating_add(ms),
        }
    }
}

/// Settings of a gateway.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Local folder for headers of indexes and for parts of blocks. It is the gateway's alone; what it holds can be lost at any time.
    pub cache_dir: PathBuf,
    /// External label that says whose a block is. Series do not carry it.
    pub tenant_label: String,
    /// Whose blocks without that label are, such as those that a sidecar uploaded.
    pub default_tenant: Tenant,
    /// External labels that only tell replicas apart. Series do not carry them, so copies become one; matchers on them still choose blocks.
    pub replica_labels: Vec<String>,
    /// Only blocks with samples at or after it are served, so that several gateways can share a bucket by time.
    pub min_time: Option<TimeBound>,
    /// Only blocks with samples at or before it are served.
    pub max_time: Option<TimeBound>,
    /// Whether a manifest that is missing, damaged or behind is written anew.
    pub writes_manifest: bool,
    /// Which blocks are served at all.
    pub selector: Selector,
    /// Blocks younger than this are not served yet, except what a compactor made; for stores whose listings lag behind.
    pub consistency_delay: Duration,
    /// How long a block is served on after it was marked for deletion, so that its successor is known everywhere.
    pub deletion_marks_delay: Duration,
    /// A gap between two parts that is longer is never read along. At 30 ms and 90 MB/s a request is worth 2.7 MB of reading;
    /// parallel requests lower that.
    pub gap_bytes_max: u64,
    /// Bytes of gaps read along for each byte that is needed, in percent.
    pub waste_percent: u64,
    /// Largest range read at once, unless a single chunk is larger.
    pub fetch_bytes_max: u64,
    /// Ranges read at the same time, of all queries together; more wait.
    pub fetches_in_flight: usize,
    /// Bytes of all queries on their way at the same time; more wait.
    pub in_flight_bytes_max: u64,
    /// Memory for entries and chunks between the bucket and those who asked for them, of all queries together. Nobody waits for it:
    /// the less is left, the smaller the steps of a query become.
    pub query_memory_bytes: u64,
    /// Memory for entries and chunks read before.
    pub cache_memory_bytes: u64,
    /// Disk for those that leave memory; 0 for none.
    pub cache_disk_bytes: u64,
    /// Headers mapped at the same time, in bytes.
    pub open_header_bytes: u64,
    /// Blocks loaded at the same time by a sync.
    pub loads_in_flight: usize,
    /// A query that finds more series is refused.
    pub query_series_max: usize,
    /// A query that finds more chunks is refused.
    pub query_chunks_max: usize,
    /// A query that would read more bytes of chunks is refused.
    pub query_bytes_max: u64,
}

impl GatewaySettings {
    /// The usual settings with copies of indexes in `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            tenant_label: "tenant_id".to_owned(),
            default_tenant: Tenant::default(),
            replica_labels: vec!["replica".to_owned()],
            min_time: None,
            max_time: None,
            writes_manifest: false,
            selector: Selector::default(),
            consistency_delay: Duration::ZERO,
            deletion_marks_delay: Duration::from_secs(600),
            gap_bytes_max: 256 << 10,
            waste_percent: 150,
            fetch_bytes_max: 8 << 20,
            fetches_in_flight: 128,
            in_flight_bytes_max: 16 << 20,
            query_memory_bytes: 16 << 20,
            cache_memory_bytes: 128 << 20,
            cache_disk_bytes: 1 << 30,
            open_header_bytes: 256 << 20,
            loads_in_flight: 32,
            query_series_max: 5_000_000,
            query_chunks_max: 100_000_000,
            query_bytes_max: 8 << 30,
        }
    }

    pub(super) fn plan_bounds(&self) -> PlanBounds {
        PlanBounds {
            gap_bytes_max: self.gap_bytes_max,
            fetch_bytes_max: self.fetch_bytes_max,
            waste_percent: self.waste_percent,
        }
    }
}
