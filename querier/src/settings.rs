//! What an operator can set about answering questions. The node fills it from flags and files.

use std::time::Duration;

/// How the series of an HA pair become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dedup {
    /// One replica speaks, the others fill its gaps; replicas with equal timestamps give their union.
    #[default]
    Gaps,
    /// As Thanos does by default, its faults included.
    Penalty,
}

impl Dedup {
    /// The algorithm of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "gaps" => Some(Dedup::Gaps),
            "penalty" => Some(Dedup::Penalty),
            _ => None,
        }
    }
}

/// Bounds and habits of a querier; the defaults are those of a Prometheus server.
#[derive(Debug, Clone)]
pub struct QuerierSettings {
    /// PromQL queries that run at the same time.
    pub queries_max: usize,
    /// PromQL queries that wait for their turn; more are refused with 503.
    pub queue_max: usize,
    /// Requests for labels, series, metadata and exemplars that run at the same time; as many as `queue_max` wait.
    pub lookups_max: usize,
    /// Requests of each kind that run at the same time for one tenant; 0 for no bound of its own.
    pub tenant_requests_max: usize,
    /// How long a request may take, waiting included. A request can ask for less, not for more.
    pub timeout: Duration,
    /// How long a client may take to read an answer that is too large for one piece.
    pub send_timeout: Duration,
    /// How far an instant selector looks back.
    pub lookback: Duration,
    /// Step of subqueries that state none.
    pub subquery_step: Duration,
    /// Samples that one query may hold in memory.
    pub samples_max: usize,
    /// Samples that all queries may hold in memory together; those of one tenant may hold half of it.
    pub samples_together_max: usize,
    /// Series that one call of `series` or `/federate` may return, and names or values one call for labels.
    pub items_max: usize,
    /// Remote reads that run at the same time; a streamed one counts until its last byte is sent.
    pub remote_reads_max: usize,
    /// Samples that one remote read may return in one message. Streamed ones are bounded by the time for sending.
    pub remote_read_samples_max: usize,
    /// Bytes after which a frame of a streamed remote read ends; it may be longer by one chunk.
    pub remote_read_frame_bytes_max: usize,
    /// Whether an answer may lack what a failing source holds, with a warning (a request can say otherwise with
    /// `partial_response`).
    pub partial_response: bool,
    /// Labels in which the series of HA pairs differ; they are dropped and the pair becomes one series (a request can say otherwise
    /// with `dedup` and `replicaLabels[]`).
    pub replica_labels: Vec<String>,
    /// How they become one (a request can say otherwise by giving `dedup` the name of an algorithm).
    pub dedup: Dedup,
    /// Parts of PromQL that are experimental: functions and aggregations.
    pub experimental_functions: bool,
    /// Drop metric names at the end of a query instead of in each function.
    pub delayed_name_removal: bool,
    /// Accept `anchored` and `smoothed` selectors.
    pub extended_range_selectors: bool,
    /// Accept `fill`, `fill_left` and `fill_right`.
    pub fill_modifiers: bool,
    /// Take counter resets and beginnings from start timestamps.
    pub use_start_timestamps: bool,
    /// Tell counters by the label `__type__` instead of by the suffix of the name.
    pub type_and_unit_labels: bool,
    /// Whether `stats=all` tells what each step of a query cost.
    pub stats_by_step: bool,
    /// Origins (an anchored regular expression) whose pages may read answers; `None` sends no CORS headers. It must compile.
    pub cors_origin: Option<String>,
    /// A query that takes longer is logged with its text and with who asked.
    pub slow_query: Duration,
}

impl Default for QuerierSettings {
    fn default() -> Self {
        Self {
            queries_max: 20,
            queue_max: 400,
            lookups_max: 40,
            tenant_requests_max: 0,
            timeout: Duration::from_secs(120),
            send_timeout: Duration::from_secs(120),
            lookback: Duration::from_secs(300),
            subquery_step: Duration::from_secs(60),
            samples_max: 50_000_000,
            samples_together_max: 200_000_000,
            items_max: 1_000_000,
            remote_reads_max: 10,
            remote_read_samples_max: 50_000_000,
            remote_read_frame_bytes_max: 1 << 20,
            partial_response: true,
            replica_labels: Vec::new(),
            dedup: Dedup::Gaps,
            experimental_functions: false,
            delayed_name_removal: false,
            extended_range_selectors: false,
            fill_modifiers: false,
            use_start_timestamps: false,
            type_and_unit_labels: false,
            stats_by_step: false,
            cors_origin: Some(".*".to_owned()),
            slow_query: Duration::from_secs(10),
        }
    }
}
