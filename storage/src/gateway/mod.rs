//! The store gateway: queries over the blocks of a bucket.
//!
//! [`Gateway::sync`] looks through the bucket and keeps the header of each block's index in a local folder: what finds series, without
//! the series. Queries evaluate matchers there; entries of series and chunks are read from the bucket by ranges, in two rounds, and
//! kept in a bounded cache. Each tenant sees the blocks that carry its label. A block that cannot be read is set aside with its
//! reason, answers that lack it say so, and the others serve.

mod fetch;
mod settings;
mod failure;
mod cache;
mod reads;
mod copy;
mod headers;
mod memory;
mod turns;
mod remote;
mod lane;
mod order;
mod lanes;
mod view;
mod batch;
mod state;
mod sync;
mod select;

pub use settings::{GatewaySettings, TimeBound};
pub use state::{AsideBlock, Hidden};
pub use sync::SyncReport;

use crate::{block::BlockMeta, bucket::BucketError, metrics::GatewayMetrics};
use cache::Cache;
use headers::Headers;
use memory::Memory;
use model::{
    env::Env,
    label::Labels,
    select::{Select, SelectTenants},
    tenant::Tenant,
    time::TimeRange,
};
use object_store::ObjectStore;
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use reads::Reads;
use select::TenantBlocks;
use state::State;
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64},
};
use sync::Ledger;
use turns::Turns;
use ulid::Ulid;

/// Serves the blocks of a bucket. Clones share everything.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

/// What queries and syncs share.
struct Shared {
    env: Env,
    bucket: Arc<dyn ObjectStore>,
    settings: GatewaySettings,
    metrics: GatewayMetrics,
    /// Replaced as a whole by each sync; queries keep the one they began with.
    state: RwLock<Arc<State>>,
    /// Held by the sync that runs.
    syncing: tokio::sync::Mutex<Ledger>,
    /// Ranged reads of the bucket.
    reads: Reads,
    /// What queries hold of what was read.
    memory: Memory,
    /// Of large questions.
    turns: Turns,
    /// Entries and chunks read before.
    cache: Cache,
    /// Open headers.
    headers: Headers,
    /// Numbers temporary files, since a sync and a query may take the same copy.
    copies: AtomicU64,
}

impl Shared {
    fn state(&self) -> Arc<State> {
        self.state.read().clone()
    }
}

impl Gateway {
    /// A gateway that knows no block yet; call [`Self::sync`] before serving, and from time to time.
    pub fn new(env: Env, bucket: Arc<dyn ObjectStore>, settings: GatewaySettings, registry: &mut Registry) -> Self {
        let metrics = GatewayMetrics::new(registry);
        let reads = Reads::new(env.clone(), bucket.clone(), metrics.clone(), &settings);
        let (memory, disk) = (settings.cache_memory_bytes, settings.cache_disk_bytes);
        let cache = Cache::new(env.fs.clone(), settings.cache_dir.join("parts"), memory, disk);
        let headers = Headers::new(settings.open_header_bytes);
        let memory = Memory::new(settings.query_memory_bytes, metrics.query_memory.clone());
        Self {
            shared: Arc::new(Shared {
                turns: Turns::new(env.clock.clone()),
                env,
                bucket,
                settings,
                metrics,
                state: RwLock::default(),
                syncing: tokio::sync::Mutex::default(),
                reads,
                memory,
                cache,
                headers,
                copies: AtomicU64::new(0),
            }),
        }
    }

    /// The first time the manifest is believed, if there is one: blocks are served after one request, their headers follow when they
    /// are asked for or with the next sync, which should come soon; until then answers say that they may lack the newest blocks.
    ///
    /// Looks through the bucket: new blocks are served from now on, vanished and deletion-marked ones are not. When the bucket
    /// cannot be listed, what was known stays. Concurrent calls wait for each other.
    pub async fn sync(&self) -> Result<SyncReport, BucketError> {
        self.shared.sync().await
    }

    /// Descriptions of the blocks that are served, by time.
    pub fn blocks(&self) -> Vec<BlockMeta> {
        let mut metas: Vec<BlockMeta> = self.shared.state().blocks().map(|block| block.meta.clone()).collect();
        metas.sort_by_key(|meta| (meta.min_time, meta.ulid));
        metas
    }

    /// The external labels that series show, and the span of all blocks that are served, for queriers that choose whom to ask.
    pub fn holds(&self) -> (BTreeSet<Labels>, TimeRange) {
        let mut labels = BTreeSet::new();
        let mut range = TimeRange::new(i64::MAX, i64::MIN);
        for block in self.shared.state().blocks() {
            let held = block.meta.range();
            range = TimeRange::new(range.min.min(held.min), range.max.max(held.max));
            labels.insert(block.visible.clone());
        }
        (labels, range)
    }

    /// Blocks that cannot be served, with the reason.
    pub fn aside(&self) -> Vec<(Ulid, AsideBlock)> {
        self.shared
            .state()
            .aside
            .iter()
            .map(|(ulid, block)| (*ulid, block.clone()))
            .collect()
    }
}

impl SelectTenants for Gateway {
    fn tenant(&self, tenant: &Tenant) -> Arc<dyn Select> {
        Arc::new(TenantBlocks {
            shared: self.shared.clone(),
            tenant: tenant.clone(),
        })
    }

    fn tenants(&self) -> Vec<Tenant> {
        self.shared.state().tenants()
    }
}

#[cfg(test)]
mod tests;
