//! What an operator can set. Each setting is a flag `--a.b`, a variable `NARTHEX_A_B` and a key `a: {b: …}` of the file that
//! `--config.file` names; the flag wins over the variable, the variable over the file. Nothing has to be set.

mod file;
mod store;
mod tenancy;
mod values;

pub use file::{is_role, with_config_file};
pub use store::StoreSettings;
pub use tenancy::TenancySettings;

use clap::Args;
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use values::{duration, label, origin};

/// What [`Settings::enable_feature`] takes. Those that Prometheus still knows by name and has switched on for good are taken as well, so that
/// a command line moves over as it is.
const FEATURES: [&str; 11] = [
    "promql-experimental-functions",
    "promql-delayed-name-removal",
    "promql-extended-range-selectors",
    "promql-binop-fill-modifiers",
    "promql-per-step-stats",
    "type-and-unit-labels",
    "use-start-timestamps",
    "promql-at-modifier",
    "promql-negative-offset",
    "promql-duration-expr",
    "native-histograms",
];

/// Settings of a serving process.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// YAML file with settings; each key is also a flag and a NARTHEX_… variable
    #[arg(
        long = "config.file",
        env = "NARTHEX_CONFIG_FILE",
        value_name = "FILE",
        help_heading = "General"
    )]
    pub config_file: Option<PathBuf>,

    /// Folder of everything local: WAL, blocks, caches and, unless set otherwise, the bucket
    #[arg(
        long = "data.dir",
        env = "NARTHEX_DATA_DIR",
        value_name = "DIR",
        default_value = "./data",
        help_heading = "General"
    )]
    pub data_dir: PathBuf,

    /// Address of remote write, Prometheus API, UI and /metrics. Loopback unless you decide otherwise: without --web.config.file there
    /// is no authentication
    #[arg(
        long = "http.address",
        env = "NARTHEX_HTTP_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:10902",
        help_heading = "General"
    )]
    pub http_address: SocketAddr,

    /// Address of gRPC: StoreAPI for queriers of Narthex and Thanos, what the members of a ring say to each other, and the standard health
    /// service
    #[arg(
        long = "grpc.address",
        env = "NARTHEX_GRPC_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:10901",
        help_heading = "General"
    )]
    pub grpc_address: SocketAddr,

    /// External label of the blocks of this process, NAME=VALUE (repeatable)
    #[arg(long = "label", env = "NARTHEX_LABEL", value_name = "NAME=VALUE", value_parser = label, value_delimiter = ',', help_heading = "General")]
    pub labels: Vec<(String, String)>,

    /// What is logged: error, warn, info, debug, trace, or per module as in `ingest=debug,info`
    #[arg(
        long = "log.level",
        env = "NARTHEX_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info",
        help_heading = "General"
    )]
    pub log_level: String,

    /// How log lines look: text or json
    #[arg(long = "log.format", env = "NARTHEX_LOG_FORMAT", value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"], help_heading = "General")]
    pub log_format: String,

    /// Bucket in Thanos's objstore YAML; default: type FILESYSTEM in DATA_DIR/bucket
    #[arg(
        long = "objstore.config-file",
        env = "NARTHEX_OBJSTORE_CONFIG_FILE",
        value_name = "FILE",
        conflicts_with = "objstore_config",
        help_heading = "Bucket"
    )]
    pub objstore_config_file: Option<PathBuf>,

    /// The text of that YAML itself
    #[arg(
        long = "objstore.config",
        env = "NARTHEX_OBJSTORE_CONFIG",
        value_name = "YAML",
        help_heading = "Bucket"
    )]
    pub objstore_config: Option<String>,

    /// How often the bucket is searched for new blocks
    #[arg(long = "store.sync-interval", env = "NARTHEX_STORE_SYNC_INTERVAL", value_name = "DURATION", default_value = "1m", value_parser = duration, help_heading = "Bucket")]
    pub store_sync_interval: Duration,

    /// What the store gateway serves, and how.
    #[command(flatten)]
    pub store: StoreSettings,

    /// When an acknowledged sample is on disk: `every-write` (before the answer), `interval` (a power loss takes up to 100 ms),
    /// `never` (left to the kernel)
    #[arg(long = "wal.sync", env = "NARTHEX_WAL_SYNC", value_name = "POLICY", default_value = "every-write", value_parser = ["every-write", "interval", "never"], help_heading = "Writing")]
    pub wal_sync: String,

    /// Largest accepted request body in bytes, compressed and decompressed
    #[arg(long = "write.body-bytes-max", env = "NARTHEX_WRITE_BODY_BYTES_MAX", value_name = "BYTES", default_value_t = 32 << 20, help_heading = "Writing")]
    pub write_body_bytes_max: usize,

    /// How far ahead of our clock a sample may be
    #[arg(long = "write.future-max", env = "NARTHEX_WRITE_FUTURE_MAX", value_name = "DURATION", default_value = "10m", value_parser = duration, help_heading = "Writing")]
    pub write_future_max: Duration,

    /// How far behind the newest sample of its series a sample may be; 0s refuses all that are not newer. Local blocks are kept as long
    #[arg(long = "write.out-of-order-window", env = "NARTHEX_WRITE_OUT_OF_ORDER_WINDOW", value_name = "DURATION", default_value = "2h", value_parser = duration, help_heading = "Writing")]
    pub write_out_of_order_window: Duration,

    /// gRPC address of a member of the ring to join (repeatable), or with `query` to read from. A receiver without it and without data
    /// founds a ring of one; a restarted one finds its ring in its data
    #[arg(
        long = "cluster.join",
        env = "NARTHEX_CLUSTER_JOIN",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        help_heading = "Cluster"
    )]
    pub cluster_join: Vec<String>,

    /// Copies of each series, set by whoever founds the ring and later changed by `narthex tools ring replication-factor`
    #[arg(
        long = "cluster.replication-factor",
        env = "NARTHEX_CLUSTER_REPLICATION_FACTOR",
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=9),
        help_heading = "Cluster"
    )]
    pub cluster_replication_factor: u32,

    /// Zone of this node; copies of a series lie in distinct zones as far as there are zones
    #[arg(
        long = "cluster.zone",
        env = "NARTHEX_CLUSTER_ZONE",
        value_name = "NAME",
        default_value = "",
        help_heading = "Cluster"
    )]
    pub cluster_zone: String,

    /// Share of the series of this node when it joins; 200 is twice the usual
    #[arg(
        long = "cluster.weight",
        env = "NARTHEX_CLUSTER_WEIGHT",
        value_name = "WEIGHT",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1000),
        help_heading = "Cluster"
    )]
    pub cluster_weight: u32,

    /// Where other members reach the gRPC of this node; default: --grpc.address
    #[arg(
        long = "cluster.advertise",
        env = "NARTHEX_CLUSTER_ADVERTISE",
        value_name = "HOST:PORT",
        help_heading = "Cluster"
    )]
    pub cluster_advertise: Option<String>,

    /// Static ring in Thanos's hashring schema instead of consensus; read again when it changes
    #[arg(
        long = "ring.file",
        env = "NARTHEX_RING_FILE",
        value_name = "FILE",
        conflicts_with = "cluster_join",
        help_heading = "Cluster"
    )]
    pub ring_file: Option<PathBuf>,

    /// Algorithm of the rings of --ring.file that name none
    #[arg(
        long = "ring.algorithm",
        env = "NARTHEX_RING_ALGORITHM",
        value_name = "NAME",
        default_value = "hashmod",
        value_parser = ["hashmod", "ketama"],
        help_heading = "Cluster"
    )]
    pub ring_algorithm: String,

    /// Queries that run at the same time; more wait in a bounded queue
    #[arg(
        long = "query.concurrency",
        env = "NARTHEX_QUERY_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = 20,
        help_heading = "Querying"
    )]
    pub query_concurrency: usize,

    /// Queries, lookups and remote reads, each, that run at the same time for one tenant; 0 for no bound of its own
    #[arg(
        long = "query.tenant-concurrency",
        env = "NARTHEX_QUERY_TENANT_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = 0,
        help_heading = "Querying"
    )]
    pub query_tenant_concurrency: usize,

    /// Remote reads that run at the same time; more wait in a bounded queue
    #[arg(
        long = "query.remote-read-concurrency",
        env = "NARTHEX_QUERY_REMOTE_READ_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = 10,
        help_heading = "Querying"
    )]
    pub query_remote_read_concurrency: usize,

    /// Samples that one remote read may return in one message; streamed ones are not bounded by it
    #[arg(
        long = "query.remote-read-samples-max",
        env = "NARTHEX_QUERY_REMOTE_READ_SAMPLES_MAX",
        value_name = "COUNT",
        default_value_t = 50_000_000,
        help_heading = "Querying"
    )]
    pub query_remote_read_samples_max: usize,

    /// Longest time that a query may take
    #[arg(long = "query.timeout", env = "NARTHEX_QUERY_TIMEOUT", value_name = "DURATION", default_value = "2m", value_parser = duration, help_heading = "Querying")]
    pub query_timeout: Duration,

    /// How far back an instant selector looks for a sample
    #[arg(long = "query.lookback-delta", env = "NARTHEX_QUERY_LOOKBACK_DELTA", value_name = "DURATION", default_value = "5m", value_parser = duration, help_heading = "Querying")]
    pub query_lookback_delta: Duration,

    /// Samples that one query may hold in memory
    #[arg(
        long = "query.max-samples",
        env = "NARTHEX_QUERY_MAX_SAMPLES",
        value_name = "COUNT",
        default_value_t = 50_000_000,
        help_heading = "Querying"
    )]
    pub query_max_samples: usize,

    /// Samples that all queries may hold in memory together; those of one tenant may hold half of it
    #[arg(
        long = "query.max-samples-together",
        env = "NARTHEX_QUERY_MAX_SAMPLES_TOGETHER",
        value_name = "COUNT",
        default_value_t = 200_000_000,
        help_heading = "Querying"
    )]
    pub query_max_samples_together: usize,

    /// Label that tells the replicas of a scraped HA pair apart; their series become one in answers (repeatable)
    #[arg(
        long = "query.replica-label",
        env = "NARTHEX_QUERY_REPLICA_LABEL",
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Querying"
    )]
    pub query_replica_labels: Vec<String>,

    /// How the series of a pair become one: `gaps` (one replica speaks, the others fill its gaps) or `penalty` (as Thanos does)
    #[arg(long = "query.dedup", env = "NARTHEX_QUERY_DEDUP", value_name = "ALGORITHM", default_value = "gaps", value_parser = ["gaps", "penalty"], help_heading = "Querying")]
    pub query_dedup: String,

    /// Accept PromQL functions and aggregations that Prometheus calls experimental
    #[arg(long = "query.experimental-functions", env = "NARTHEX_QUERY_EXPERIMENTAL_FUNCTIONS", num_args = 0..=1, default_value_t = false, default_missing_value = "true", help_heading = "Querying")]
    pub query_experimental_functions: bool,

    /// Parts of PromQL to switch on, by the names that Prometheus has for them (repeatable, or separated by commas);
    /// `type-and-unit-labels` also makes labels of what remote write 2.0 tells of a metric
    #[arg(
        long = "enable-feature",
        env = "NARTHEX_ENABLE_FEATURE",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = FEATURES,
        help_heading = "Querying"
    )]
    pub enable_feature: Vec<String>,

    /// Whether an answer may lack what a failing source holds, with a warning; a request can say otherwise with `partial_response`
    #[arg(long = "query.partial-response", env = "NARTHEX_QUERY_PARTIAL_RESPONSE", num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set, help_heading = "Querying")]
    pub query_partial_response: bool,

    /// Another process to read from, by its gRPC address: HOST:PORT, dns+HOST:PORT (all its addresses) or dnssrv+NAME; anything that
    /// speaks Thanos's StoreAPI (repeatable)
    #[arg(
        long = "endpoint",
        env = "NARTHEX_ENDPOINT",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        help_heading = "Endpoints"
    )]
    pub endpoints: Vec<String>,

    /// YAML or JSON file with more of them: a list of addresses, or of `targets` as in Prometheus's file discovery; read again when it
    /// changes (repeatable)
    #[arg(
        long = "endpoint.file",
        env = "NARTHEX_ENDPOINT_FILE",
        value_name = "FILE",
        value_delimiter = ',',
        help_heading = "Endpoints"
    )]
    pub endpoint_files: Vec<PathBuf>,

    /// How often endpoints are looked up and asked what they hold
    #[arg(long = "endpoint.interval", env = "NARTHEX_ENDPOINT_INTERVAL", value_name = "DURATION", default_value = "5s", value_parser = duration, help_heading = "Endpoints")]
    pub endpoint_interval: Duration,

    /// How long a call to an endpoint, or one batch of its answer, may take
    #[arg(long = "endpoint.timeout", env = "NARTHEX_ENDPOINT_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = duration, help_heading = "Endpoints")]
    pub endpoint_timeout: Duration,

    /// Speak TLS to endpoints
    #[arg(long = "endpoint.tls", env = "NARTHEX_ENDPOINT_TLS", num_args = 0..=1, default_value_t = false, default_missing_value = "true", help_heading = "Endpoints")]
    pub endpoint_tls: bool,

    /// PEM file with the authorities that sign certificates of endpoints; default: those of the system
    #[arg(
        long = "endpoint.tls-ca",
        env = "NARTHEX_ENDPOINT_TLS_CA",
        value_name = "FILE",
        help_heading = "Endpoints"
    )]
    pub endpoint_tls_ca: Option<PathBuf>,

    /// PEM file with our certificate, for endpoints that ask for one
    #[arg(
        long = "endpoint.tls-cert",
        env = "NARTHEX_ENDPOINT_TLS_CERT",
        value_name = "FILE",
        requires = "endpoint_tls_key",
        help_heading = "Endpoints"
    )]
    pub endpoint_tls_cert: Option<PathBuf>,

    /// PEM file with the key of that certificate
    #[arg(
        long = "endpoint.tls-key",
        env = "NARTHEX_ENDPOINT_TLS_KEY",
        value_name = "FILE",
        requires = "endpoint_tls_cert",
        help_heading = "Endpoints"
    )]
    pub endpoint_tls_key: Option<PathBuf>,

    /// The name in the certificates of endpoints when it is not that of their address
    #[arg(
        long = "endpoint.tls-server-name",
        env = "NARTHEX_ENDPOINT_TLS_SERVER_NAME",
        value_name = "NAME",
        help_heading = "Endpoints"
    )]
    pub endpoint_tls_server_name: Option<String>,

    /// Origins (an anchored regular expression) whose web pages may read answers; none by default
    #[arg(
        long = "web.cors.origin",
        env = "NARTHEX_WEB_CORS_ORIGIN",
        value_name = "REGEX",
        value_parser = origin,
        help_heading = "General"
    )]
    pub web_cors_origin: Option<String>,

    /// Serve what changes data: POST /api/v1/admin/cut and /api/v1/admin/tsdb/{delete_series,clean_tombstones,snapshot}
    #[arg(long = "web.enable-admin-api", env = "NARTHEX_WEB_ENABLE_ADMIN_API", num_args = 0..=1, default_value_t = false, default_missing_value = "true", help_heading = "General")]
    pub web_enable_admin_api: bool,

    /// Who sends, and what they may.
    #[command(flatten)]
    pub tenancy: TenancySettings,
}

impl Settings {
    /// Names and values as the status pages show them. The text of a bucket configuration may hold keys and is left out.
    pub fn shown(&self) -> Vec<(String, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let seconds = |duration: Duration| format!("{}s", duration.as_secs_f64());
        let mut shown: Vec<(String, String)> = [
            ("cluster.advertise", self.cluster_advertise.clone().unwrap_or_default()),
            ("cluster.join", self.cluster_join.join(",")),
            (
                "cluster.replication-factor",
                self.cluster_replication_factor.to_string(),
            ),
            ("cluster.weight", self.cluster_weight.to_string()),
            ("cluster.zone", self.cluster_zone.clone()),
            ("config.file", path(&self.config_file)),
            ("data.dir", self.data_dir.display().to_string()),
            ("enable-feature", self.enable_feature.join(",")),
            ("endpoint", self.endpoints.join(",")),
            ("endpoint.interval", seconds(self.endpoint_interval)),
            ("endpoint.timeout", seconds(self.endpoint_timeout)),
            ("endpoint.tls", self.endpoint_tls.to_string()),
            ("grpc.address", self.grpc_address.to_string()),
            ("http.address", self.http_address.to_string()),
            ("label", labels.join(",")),
            ("log.format", self.log_format.clone()),
            ("log.level", self.log_level.clone()),
            ("objstore.config-file", path(&self.objstore_config_file)),
            ("query.concurrency", self.query_concurrency.to_string()),
            ("query.dedup", self.query_dedup.clone()),
            (
                "query.experimental-functions",
                self.query_experimental_functions.to_string(),
            ),
            ("query.lookback-delta", seconds(self.query_lookback_delta)),
            ("query.max-samples", self.query_max_samples.to_string()),
            (
                "query.max-samples-together",
                self.query_max_samples_together.to_string(),
            ),
            ("query.partial-response", self.query_partial_response.to_string()),
            (
                "query.remote-read-concurrency",
                self.query_remote_read_concurrency.to_string(),
            ),
            (
                "query.remote-read-samples-max",
                self.query_remote_read_samples_max.to_string(),
            ),
            ("query.replica-label", self.query_replica_labels.join(",")),
            ("query.tenant-concurrency", self.query_tenant_concurrency.to_string()),
            ("query.timeout", seconds(self.query_timeout)),
            ("ring.algorithm", self.ring_algorithm.clone()),
            ("ring.file", path(&self.ring_file)),
            ("store.manifest", self.store.store_manifest.to_string()),
            ("store.sync-interval", seconds(self.store_sync_interval)),
            ("wal.sync", self.wal_sync.clone()),
            ("web.cors.origin", self.web_cors_origin.clone().unwrap_or_default()),
            ("web.enable-admin-api", self.web_enable_admin_api.to_string()),
            ("write.body-bytes-max", self.write_body_bytes_max.to_string()),
            ("write.future-max", seconds(self.write_future_max)),
            ("write.out-of-order-window", seconds(self.write_out_of_order_window)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        shown.extend(self.tenancy.shown());
        shown.sort();
        shown
    }
}
