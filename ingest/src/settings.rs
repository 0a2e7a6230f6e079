//! What an operator may choose about the ingester, with the defaults and what each choice costs.

use model::tenant::Tenant;
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// When accepted samples are forced to the disk, and so what a crash can lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// Before the sender hears of it. A crash of process, kernel or power supply loses nothing that was acknowledged.
    #[default]
    EveryWrite,
    /// At least this often. A crash of the process loses nothing, one of kernel or power supply at most so much time.
    Interval(Duration),
    /// When the kernel likes. A crash of the process loses nothing, one of kernel or power supply any amount.
    Never,
}

/// How far behind the newest sample of its series a sample of a tenant may be.
///
/// The table of tenants may change while the process runs, so it is asked with each push and never remembered.
#[derive(Clone)]
pub struct OutOfOrderWindows {
    default: Duration,
    of_tenant: Option<Arc<TenantWindow>>,
}

/// The window of a tenant that has one of its own.
type TenantWindow = dyn Fn(&Tenant) -> Option<Duration> + Send + Sync;

impl OutOfOrderWindows {
    /// The same window for all tenants; zero refuses every sample that is older than the newest of its series.
    pub fn all(window: Duration) -> Self {
        Self {
            default: window,
            of_tenant: None,
        }
    }

    /// Asks `of_tenant` first. It is called for each push, so it must be quick.
    pub fn with_tenants(self, of_tenant: impl Fn(&Tenant) -> Option<Duration> + Send + Sync + 'static) -> Self {
        Self {
            of_tenant: Some(Arc::new(of_tenant)),
            ..self
        }
    }

    /// The window of a tenant.
    pub fn of(&self, tenant: &Tenant) -> Duration {
        let own = self.of_tenant.as_ref().and_then(|of_tenant| of_tenant(tenant));
        own.unwrap_or(self.default)
    }
}

impl fmt::Debug for OutOfOrderWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutOfOrderWindows")
            .field("default", &self.default)
            .field("per tenant", &self.of_tenant.is_some())
            .finish()
    }
}

/// Series that tenants may have in the head, and all of them together. Only new series are refused at a limit. 0 is without bound.
///
/// Limits may change while the process runs, so they are asked for with each new series and never remembered.
#[derive(Clone, Default)]
pub struct SeriesLimits {
    of_tenant: Option<Arc<TenantSeries>>,
    of_process: Option<Arc<ProcessSeries>>,
}

/// The limit of a tenant that has one of its own.
type TenantSeries = dyn Fn(&Tenant) -> Option<u64> + Send + Sync;

/// The limit of all tenants together.
type ProcessSeries = dyn Fn() -> Option<u64> + Send + Sync;

impl SeriesLimits {
    /// Asks these. They are called for each batch with new series, so they must be quick.
    pub fn new(
        of_tenant: impl Fn(&Tenant) -> Option<u64> + Send + Sync + 'static,
        of_process: impl Fn() -> Option<u64> + Send + Sync + 'static,
    ) -> Self {
        Self {
            of_tenant: Some(Arc::new(of_tenant)),
            of_process: Some(Arc::new(of_process)),
        }
    }
}

impl fmt::Debug for SeriesLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeriesLimits")
            .field("set", &self.of_tenant.is_some())
            .finish()
    }
}

/// Settings of an [`crate::Ingester`].
#[derive(Debug, Clone)]
pub struct IngestSettings {
    /// Folder of everything local; created when missing, held by one process at a time.
    pub dir: PathBuf,
    /// Value of the external label `replica` of the blocks of this node. Two nodes that take the same samples must differ in it.
    pub replica: String,
    /// Further external labels of the blocks.
    pub external_labels: Vec<(String, String)>,
    /// When samples are forced to the disk.
    pub sync: SyncPolicy,
    /// A sample so far ahead of our clock is refused.
    pub future_max: Duration,
    /// How old the first sample of a new series may be, if that is more than the out-of-order window. `None`: two hours before the
    /// oldest two-hour window that is not cut yet.
    pub age_max: Option<Duration>,
    /// How far behind the newest sample of its series a sample may be. Local blocks and idle series are kept for as long, so that
    /// repetitions are recognised: days of it cost disk.
    pub out_of_order: OutOfOrderWindows,
    /// Memory for samples that came out of order. At half of it their blocks are cut early; beyond, pushes with such samples are
    /// answered with "unavailable" until some are cut.
    pub out_of_order_bytes_max: usize,
    /// Samples that came after their window was cut wait so long for others, so that they share a block.
    pub out_of_order_cut_delay: Duration,
    /// Series that one tenant may have in the head when `series_limits` says nothing else, 0 for no limit.
    pub tenant_series_max: u64,
    /// Limits of single tenants and of all together.
    pub series_limits: SeriesLimits,
    /// Exemplars kept in memory for each tenant; the oldest go first. 0 keeps none.
    pub tenant_exemplars_max: usize,
    /// Metric families whose metadata is kept for each tenant; what comes later is not kept.
    pub tenant_metadata_max: usize,
    /// Size at which a WAL segment is finished and the next one begun.
    pub segment_bytes_max: u64,
    /// The largest piece of zeros that is written ahead of the WAL's records, which makes syncs cheaper; 0 writes none. Only where each
    /// write is synced.
    pub log_ahead_bytes_max: u64,
    /// Bytes of the WAL that may wait for the disk. Beyond, pushes are answered with "unavailable".
    pub pending_bytes_max: usize,
    /// How long after the end of a window its block is cut, so that late samples find their place.
    pub cut_delay: Duration,
    /// A window into which chunks still come, as while a sender catches up, is left alone until it was quiet for so long.
    pub cut_quiet: Duration,
    /// How often the background loop looks for work.
    pub maintenance_interval: Duration,
    /// How long local blocks stay queryable after their upload, so that readers of the bucket have time to find them.
    pub block_retention: Duration,
    /// Blocks of one tenant that may wait for their upload before the head forgets their samples all the same: they
    /// are durable locally and stay queryable, and a bucket that is away for long must not fill the memory.
    pub unshipped_blocks_in_memory_max: usize,
    /// Complete chunks move from memory to mapped files when they have so many bytes together.
    pub spill_bytes: usize,
    /// WAL bytes after which a head image is written although no block was shipped, so that replay stays short.
    pub image_bytes: u64,
}

impl IngestSettings {
    /// Defaults for a data folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            replica: "narthex-0".into(),
            external_labels: Vec::new(),
            sync: SyncPolicy::EveryWrite,
            future_max: Duration::from_secs(10 * 60),
            age_max: None,
            out_of_order: OutOfOrderWindows::all(Duration::from_secs(2 * 60 * 60)),
            out_of_order_bytes_max: 1 << 30,
            out_of_order_cut_delay: Duration::from_secs(60 * 60),
            tenant_series_max: 0,
            series_limits: SeriesLimits::default(),
            tenant_exemplars_max: 10_000,
            tenant_metadata_max: 100_000,
            segment_bytes_max: 128 << 20,
            log_ahead_bytes_max: 1 << 20,
            pending_bytes_max: 64 << 20,
            cut_delay: Duration::from_secs(60 * 60),
            cut_quiet: Duration::from_secs(60),
            maintenance_interval: Duration::from_secs(15),
            block_retention: Duration::from_secs(30 * 60),
            unshipped_blocks_in_memory_max: 2,
            spill_bytes: 8 << 20,
            image_bytes: 256 << 20,
        }
    }
}

impl IngestSettings {
    /// Series that a tenant may have; `u64::MAX` for no limit.
    pub(crate) fn tenant_series_max(&self, tenant: &Tenant) -> u64 {
        let own = self
            .series_limits
            .of_tenant
            .as_ref()
            .and_then(|of_tenant| of_tenant(tenant));
        bound(own.unwrap_or(self.tenant_series_max))
    }

    /// Series that all tenants together may have.
    pub(crate) fn series_max(&self) -> u64 {
        bound(
            self.series_limits
                .of_process
                .as_ref()
                .and_then(|of_process| of_process())
                .unwrap_or(0),
        )
    }
}

fn bound(limit: u64) -> u64 {
    if limit == 0 { u64::MAX } else { limit }
}
