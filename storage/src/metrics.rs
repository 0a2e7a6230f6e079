//! What the gateway tells about itself.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Label `reason` of a family.
type ByReason = Family<[(&'static str, &'static str); 1], Gauge>;

/// Handles of the gateway's metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct GatewayMetrics {
    /// Blocks that are served.
    pub(crate) blocks: Gauge,
    /// Blocks that cannot be served, by what is wrong.
    pub(crate) blocks_aside: ByReason,
    /// Blocks that are in order and not served.
    pub(crate) blocks_hidden: ByReason,
    /// Blocks whose upload is not complete.
    pub(crate) blocks_partial: Gauge,
    pub(crate) syncs: Counter,
    pub(crate) sync_failures: Counter,
    /// Seconds since the Unix epoch of the last successful sync.
    pub(crate) last_sync: Gauge,
    pub(crate) fetches: Counter,
    pub(crate) fetched_bytes: Counter,
    /// Bytes of the entries and chunks that were asked for, without what lay between them.
    pub(crate) needed_bytes: Counter,
    pub(crate) index_downloads: Counter,
    pub(crate) cache_hits: Counter,
    pub(crate) hedges: Counter,
    /// Bytes that queries hold between the bucket and those who asked.
    pub(crate) query_memory: Gauge,
    /// Bytes of the cache in memory and on disk, as of the last sync.
    pub(crate) cache_memory: Gauge,
    pub(crate) cache_disk: Gauge,
}

impl GatewayMetrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("narthex_storage_gateway");
        let m = &metrics;
        registry.register("blocks", "Blocks of the bucket that are served", m.blocks.clone());
        registry.register(
            "blocks_aside",
            "Blocks set aside because they cannot be read, by what is wrong with them",
            m.blocks_aside.clone(),
        );
        registry.register(
            "blocks_hidden",
            "Blocks that are in order and not served, by why",
            m.blocks_hidden.clone(),
        );
        registry.register(
            "blocks_partial",
            "Blocks whose upload is not complete",
            m.blocks_partial.clone(),
        );
        registry.register("syncs", "Times that the bucket was looked through", m.syncs.clone());
        registry.register(
            "sync_failures",
            "Times that the bucket could not be listed",
            m.sync_failures.clone(),
        );
        let help = "Time of the last successful look through the bucket";
        registry.register_with_unit("last_sync_timestamp", help, Unit::Seconds, m.last_sync.clone());
        registry.register(
            "fetches",
            "Ranged reads of entries of series and of chunks",
            m.fetches.clone(),
        );
        registry.register_with_unit(
            "fetched",
            "Bytes of entries, chunks and gaps read",
            Unit::Bytes,
            m.fetched_bytes.clone(),
        );
        registry.register_with_unit(
            "needed",
            "Bytes of the entries and chunks asked for",
            Unit::Bytes,
            m.needed_bytes.clone(),
        );
        registry.register(
            "index_downloads",
            "Headers of indexes copied to the local cache",
            m.index_downloads.clone(),
        );
        registry.register(
            "cache_hits",
            "Entries and chunks that were at hand",
            m.cache_hits.clone(),
        );
        registry.register(
            "hedges",
            "Reads that were asked for again because the answer took long",
            m.hedges.clone(),
        );
        let help = "Entries and chunks that queries hold on their way to those who asked";
        registry.register_with_unit("query_memory", help, Unit::Bytes, m.query_memory.clone());
        let help = "Entries and chunks kept in memory, as of the last sync";
        registry.register_with_unit("cache_memory", help, Unit::Bytes, m.cache_memory.clone());
        let help = "Entries and chunks kept on disk, as of the last sync";
        registry.register_with_unit("cache_disk", help, Unit::Bytes, m.cache_disk.clone());
        metrics
    }
}
