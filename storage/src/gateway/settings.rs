//! What can be set about a gateway.

use model::{tenant::Tenant, time::Timestamp};
use std::path::PathBuf;

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
    /// Local folder for copies of indexes. It is the gateway's alone; what it holds can be lost at any time.
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
    /// Two chunks that lie no further apart are read at once. At 30 ms and 90 MB/s a request is worth 2.7 MB of reading; parallel
    /// requests lower that.
    pub gap_bytes_max: u64,
    /// Largest range read at once, unless a single chunk is larger.
    pub fetch_bytes_max: u64,
    /// Ranges of one query read at the same time.
    pub fetches_in_flight: usize,
    /// Blocks loaded at the same time by a sync.
    pub loads_in_flight: usize,
    /// A query that finds more series is refused.
    pub query_series_max: usize,
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
            gap_bytes_max: 256 << 10,
            fetch_bytes_max: 8 << 20,
            fetches_in_flight: 8,
            loads_in_flight: 8,
            query_series_max: 5_000_000,
            query_bytes_max: 8 << 30,
        }
    }
}
