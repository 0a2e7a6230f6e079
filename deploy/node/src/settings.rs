//! What an operator can set. Each setting is a flag `--a.b`, a variable `NARTHEX_A_B` and a key `a: {b: …}` of the file that
//! `--config.file` names; the flag wins over the variable, the variable over the file. Nothing has to be set.

use crate::role::Role;
use anyhow::{Context, bail};
use clap::{Args, Command};
use serde_json::Value;
use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};
use values::{duration, label, origin};

mod store;
mod values;

pub use store::StoreSettings;

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

    /// Address of remote write, Prometheus API, UI and /metrics. Loopback unless you decide otherwise: there is no authentication
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

    /// gRPC address of a member of the ring to join (repeatable). A process without it and without data founds a ring of one; a
    /// restarted one finds its ring in its data
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
        [
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
        .to_vec()
    }
}

/// Whether a word of the command line names a role, which takes the same settings as a process of all roles.
pub fn is_role(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| Role::named(word).is_some())
}

/// Turns the settings file that `arguments` or the environment name into flags that stand before `arguments`, so that one parser
/// checks both. Keys whose variable is set are left out, since variables win over the file.
pub fn with_config_file(command: &Command, arguments: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Some(path) = config_file_of(&arguments) else {
        return Ok(arguments);
    };
    let shown = path.display();
    #[expect(clippy::disallowed_methods, reason = "settings are read before there is an Env")]
    let bytes = std::fs::read(&path).with_context(|| format!("read the settings file {shown}"))?;
    let text = String::from_utf8(bytes).with_context(|| format!("the settings file {shown} is not UTF-8"))?;
    let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("parse the settings file {shown}"))?;
    let mut pairs = Vec::new();
    flatten("", &value, &mut pairs).with_context(|| format!("the settings file {shown}"))?;
    // A role stands before its flags.
    let begin = 1 + usize::from(arguments.get(1).is_some_and(|first| is_role(first)));
    let mut merged: Vec<OsString> = arguments.iter().take(begin).cloned().collect();
    for (key, value) in pairs {
        let known = command.get_arguments().find(|arg| arg.get_long() == Some(&key));
        let Some(arg) = known.filter(|_| key != "config.file") else {
            bail!("{shown}: unknown key {key:?}{}", suggestion(command, &key));
        };
        if arg
            .get_env()
            .is_some_and(|variable| std::env::var_os(variable).is_some())
        {
            continue;
        }
        merged.push(format!("--{key}={value}").into());
    }
    merged.extend(arguments.into_iter().skip(begin));
    Ok(merged)
}

/// The path that `--config.file` or its variable names.
fn config_file_of(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--config.file" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config.file=")) {
            return Some(path.into());
        }
    }
    std::env::var_os("NARTHEX_CONFIG_FILE").map(PathBuf::from)
}

/// Writes nested keys with dots between them; a list gives its key once for each item.
fn flatten(prefix: &str, value: &Value, pairs: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    match value {
        Value::Null if prefix.is_empty() => {}
        Value::Null => bail!("key {prefix:?} has no value"),
        Value::Object(map) => {
            for (key, value) in map {
                let path = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&path, value, pairs)?;
            }
        }
        _ if prefix.is_empty() => bail!("holds no keys at its top level"),
        Value::Array(items) => items.iter().try_for_each(|item| flatten(prefix, item, pairs))?,
        Value::String(text) => pairs.push((prefix.to_owned(), text.clone())),
        Value::Bool(_) | Value::Number(_) => pairs.push((prefix.to_owned(), value.to_string())),
    }
    Ok(())
}

/// `; did you mean …?` when a known key is near.
fn suggestion(command: &Command, key: &str) -> String {
    let near = command.get_arguments().filter_map(|arg| arg.get_long());
    let best = near
        .map(|long| (strsim::jaro_winkler(long, key), long))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, long)) if likeness > 0.8 => format!("; did you mean {long:?}?"),
        _ => "; `narthex --help` lists the keys".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_keys_become_dotted_ones() {
        let value: Value =
            serde_saphyr::from_str("data: {dir: /x}\nlabel: [a=b, c=d]\nquery.concurrency: 3\n").unwrap();
        let mut pairs = Vec::new();
        flatten("", &value, &mut pairs).unwrap();
        pairs.sort();
        let expected = [
            ("data.dir", "/x"),
            ("label", "a=b"),
            ("label", "c=d"),
            ("query.concurrency", "3"),
        ];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
}
