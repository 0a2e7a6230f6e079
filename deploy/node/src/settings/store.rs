//! What can be set about the store gateway.

use super::values::{duration, time_bound};
use clap::Args;
use std::{path::PathBuf, time::Duration};
use storage::gateway::TimeBound;

/// Which blocks of the bucket are served, and what that may cost.
#[derive(Debug, Clone, Args)]
pub struct StoreSettings {
    /// Serve only blocks with samples at or after this time: RFC 3339, or a span before now such as -30d
    #[arg(long = "store.min-time", env = "NARTHEX_STORE_MIN_TIME", value_name = "TIME", value_parser = time_bound, allow_hyphen_values = true, help_heading = "Bucket")]
    pub store_min_time: Option<TimeBound>,

    /// Serve only blocks with samples at or before this time: RFC 3339, or a span before now such as -2h
    #[arg(long = "store.max-time", env = "NARTHEX_STORE_MAX_TIME", value_name = "TIME", value_parser = time_bound, allow_hyphen_values = true, help_heading = "Bucket")]
    pub store_max_time: Option<TimeBound>,

    /// Keep a manifest in the bucket, one object that lets a process with an empty disk serve at once
    #[arg(long = "store.manifest", env = "NARTHEX_STORE_MANIFEST", num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set, help_heading = "Bucket")]
    pub store_manifest: bool,

    /// YAML file with relabel rules (keep, drop, keepequal, dropequal, hashmod) over the external labels of blocks and `__block_id`;
    /// only blocks that pass are served, so that several stores share a bucket
    #[arg(
        long = "selector.relabel-config-file",
        env = "NARTHEX_SELECTOR_RELABEL_CONFIG_FILE",
        value_name = "FILE",
        conflicts_with = "selector_relabel_config",
        help_heading = "Bucket"
    )]
    pub selector_relabel_config_file: Option<PathBuf>,

    /// The text of that YAML itself
    #[arg(
        long = "selector.relabel-config",
        env = "NARTHEX_SELECTOR_RELABEL_CONFIG",
        value_name = "YAML",
        help_heading = "Bucket"
    )]
    pub selector_relabel_config: Option<String>,

    /// Do not serve blocks younger than this, for object stores whose listings lag behind
    #[arg(long = "store.consistency-delay", env = "NARTHEX_STORE_CONSISTENCY_DELAY", value_name = "DURATION", default_value = "0s", value_parser = duration, help_heading = "Bucket")]
    pub store_consistency_delay: Duration,

    /// Serve a block for so long after it was marked for deletion, so that its successor is known to every store. Shorter than the
    /// delay of whatever deletes marked blocks
    #[arg(long = "store.ignore-deletion-marks-delay", env = "NARTHEX_STORE_IGNORE_DELETION_MARKS_DELAY", value_name = "DURATION", default_value = "10m", value_parser = duration, help_heading = "Bucket")]
    pub store_ignore_deletion_marks_delay: Duration,

    /// Memory for parts of blocks read before, in bytes
    #[arg(
        long = "store.cache-memory-bytes",
        env = "NARTHEX_STORE_CACHE_MEMORY_BYTES",
        value_name = "BYTES",
        default_value_t = 128 << 20,
        help_heading = "Bucket"
    )]
    pub store_cache_memory_bytes: u64,

    /// Disk for parts of blocks that leave that memory, in bytes; 0 for none
    #[arg(
        long = "store.cache-disk-bytes",
        env = "NARTHEX_STORE_CACHE_DISK_BYTES",
        value_name = "BYTES",
        default_value_t = 1 << 30,
        help_heading = "Bucket"
    )]
    pub store_cache_disk_bytes: u64,

    /// Memory for what queries hold between the bucket and those who asked, of all queries together, in bytes; the more is held, the
    /// smaller are the steps in which queries read
    #[arg(
        long = "store.query-memory-bytes",
        env = "NARTHEX_STORE_QUERY_MEMORY_BYTES",
        value_name = "BYTES",
        default_value_t = 16 << 20,
        help_heading = "Bucket"
    )]
    pub store_query_memory_bytes: u64,

    /// Answers with series that are given to other processes over gRPC at the same time. Ten times as many wait for their turn, others
    /// are refused
    #[arg(
        long = "store.concurrency",
        env = "NARTHEX_STORE_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = 20,
        help_heading = "Bucket"
    )]
    pub store_concurrency: usize,

    /// Series that one query may find in the blocks of the bucket
    #[arg(
        long = "store.series-max",
        env = "NARTHEX_STORE_SERIES_MAX",
        value_name = "COUNT",
        default_value_t = 5_000_000,
        help_heading = "Bucket"
    )]
    pub store_series_max: usize,

    /// Chunks that one query may find there
    #[arg(
        long = "store.chunks-max",
        env = "NARTHEX_STORE_CHUNKS_MAX",
        value_name = "COUNT",
        default_value_t = 100_000_000,
        help_heading = "Bucket"
    )]
    pub store_chunks_max: usize,

    /// Bytes of chunks that one query may read from there
    #[arg(
        long = "store.query-bytes-max",
        env = "NARTHEX_STORE_QUERY_BYTES_MAX",
        value_name = "BYTES",
        default_value_t = 8 << 30,
        help_heading = "Bucket"
    )]
    pub store_query_bytes_max: u64,
}
