//! What the parts of an ingester share: head, WAL, local blocks, and the state that the commit lock guards.

use crate::{
    blocks::LocalBlocks,
    head::{
        Head,
        chunk::Hot,
        extras::Extras,
        shard::{Shard, place, shard_of},
    },
    metrics::Metrics,
    settings::IngestSettings,
    wal::Wal,
};
use model::{
    env::Env,
    label::Labels,
    push::SeriesRef,
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, Timestamp, block_start},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use ulid::Ulid;

/// A tenant that was away may bring samples back from so far behind what was cut last.
const CATCH_UP_MAX_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// Clocks are believed up to here, so that sums of times cannot overflow.
const TIME_MAX: i64 = i64::MAX / 4;

/// Everything an ingester is made of.
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) settings: IngestSettings,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) head: Head,
    pub(crate) extras: Mutex<Extras>,
    pub(crate) blocks: LocalBlocks,
    /// The commit lock.
    pub(crate) committer: Mutex<Committer>,
    /// Set when replay has finished; before, nothing is taken and nothing answered.
    pub(crate) wal: OnceLock<Arc<Wal>>,
    pub(crate) replay: ReplayState,
    /// Set when the ingester is to end; what takes long looks at it.
    pub(crate) closing: watch::Sender<bool>,
    /// Told apart from one start to the next, so that a ref of an earlier run is not taken for one of this run.
    pub(crate) salt: u32,
}

/// How far the replay is.
#[derive(Debug, Default)]
pub(crate) struct ReplayState {
    pub(crate) bytes_done: AtomicU64,
    pub(crate) bytes_total: AtomicU64,
    /// Why replay could not be finished.
    pub(crate) failure: Mutex<Option<String>>,
}

/// What only the holder of the commit lock changes.
#[derive(Debug, Default)]
pub(crate) struct Committer {
    pub(crate) shards: Vec<Arc<Mutex<Shard>>>,
    pub(crate) tenants: Vec<TenantState>,
    /// Number of the next new series.
    pub(crate) next_number: u64,
    /// Slots of the series of a batch that came by labels; memory kept from push to push.
    pub(crate) resolved: Vec<u32>,
}

/// What is known about the samples of a tenant as a whole.
#[derive(Debug, Clone)]
pub(crate) struct TenantState {
    pub(crate) tenant: Tenant,
    /// Two-hour windows with chunks that are in no block, by their start.
    pub(crate) windows: BTreeMap<Timestamp, Window>,
    /// Everything before was cut once. New series that begin much earlier are not taken any more. `None` before the first cut.
    pub(crate) cut_until: Option<Timestamp>,
    /// The window in which the tenant came; stands for `cut_until` before the first cut.
    pub(crate) since: Timestamp,
    /// Windows of which a part was cut before they were over.
    pub(crate) partly_cut: BTreeSet<Timestamp>,
    /// Newest and oldest timestamp ever taken in this run.
    pub(crate) newest: Timestamp,
    pub(crate) oldest: Timestamp,
}

/// A window with samples that are in no block.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    /// Chunks begun in it so far.
    pub(crate) chunks: u64,
    /// The count at the last look of the maintenance, and when it last differed, by the monotonic clock.
    pub(crate) seen_chunks: u64,
    pub(crate) changed: Duration,
    /// When the maintenance saw it first.
    pub(crate) noticed: Option<Duration>,
}

/// Timestamps that a tenant's samples may have at the moment, both ends included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acceptable {
    /// For the first sample of a series.
    pub(crate) min: Timestamp,
    pub(crate) max: Timestamp,
    /// How far behind the newest of its series a sample may be.
    pub(crate) late_ms: i64,
}

impl TenantState {
    /// A tenant who comes at `now`.
    pub(crate) fn new(tenant: Tenant, now: Timestamp, cut_delay: Duration) -> Self {
        let since = block_start(believed(now) - millis(cut_delay));
        Self {
            tenant,
            windows: BTreeMap::new(),
            cut_until: None,
            since,
            partly_cut: BTreeSet::new(),
            newest: i64::MIN,
            oldest: i64::MAX,
        }
    }

    /// Notes that a chunk begins at `at`.
    pub(crate) fn note_chunk(&mut self, at: Timestamp) {
        self.windows.entry(block_start(at)).or_default().chunks += 1;
    }

    /// What is taken at `now`. It depends on this tenant and on our own clock only: nobody's fast clock shuts out another.
    pub(crate) fn acceptable(&self, now: Timestamp, settings: &IngestSettings) -> Acceptable {
        let now = believed(now);
        let max = now + millis(settings.future_max);
        let min = match settings.age_max {
            Some(age) => now - millis(age),
            None => {
                let current = block_start(now - millis(settings.cut_delay));
                let oldest_uncut = self
                    .cut_until
                    .unwrap_or(self.since)
                    .clamp(current - CATCH_UP_MAX_MS, current);
                oldest_uncut - BLOCK_RANGE_MS
            }
        };
        let late_ms = millis(settings.out_of_order.of(&self.tenant));
        Acceptable {
            min: min.min(now - late_ms),
            max,
            late_ms,
        }
    }
}

/// A time within reason.
fn believed(at: Timestamp) -> Timestamp {
    at.clamp(-TIME_MAX, TIME_MAX)
}

/// A duration in milliseconds, within reason.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(TIME_MAX).min(TIME_MAX)
}

/// A new id for a block.
pub(crate) fn new_ulid(core: &Core) -> Ulid {
    let random = u128::from(core.env.rng.next_u64()) << 64 | u128::from(core.env.rng.next_u64());
    Ulid::from_parts(core.env.clock.now().max(0) as u64, random)
}

impl Core {
    /// The ref that names a series to callers.
    pub(crate) fn series_ref(&self, slot: u32, number: u64) -> SeriesRef {
        SeriesRef(u64::from(number as u32 ^ self.salt) << 32 | u64::from(slot))
    }

    /// Slot and expected low half of the series' number.
    #[inline]
    pub(crate) fn open_ref(&self, series: SeriesRef) -> (u32, u32) {
        (series.0 as u32, (series.0 >> 32) as u32 ^ self.salt)
    }

    /// The number of a tenant, who is added when new.
    pub(crate) fn ensure_tenant(&self, committer: &mut Committer, tenant: &Tenant, now: Timestamp) -> u32 {
        let known = self.head.index.read().tenant_id(tenant);
        let id = known.unwrap_or_else(|| self.head.index.write().ensure_tenant(tenant));
        if id as usize >= committer.tenants.len() {
            committer
                .tenants
                .push(TenantState::new(tenant.clone(), now, self.settings.cut_delay));
        }
        id
    }

    /// The slot of a series, which is added under this number when it is not there yet. `hash` is the index's.
    pub(crate) fn find_or_create_series(
        &self,
        committer: &mut Committer,
        tenant: u32,
        number: u64,
        hash: u64,
        labels: &Labels,
    ) -> u32 {
        let (slot, is_new) = self.head.index.write().find_or_create(hash, tenant, number, labels);
        if is_new {
            self.settle_series(committer, tenant, number, slot);
        } else {
            committer.next_number = committer.next_number.max(number.saturating_add(1));
        }
        slot
    }

    /// Gives a new series its place in the shards.
    pub(crate) fn settle_series(&self, committer: &mut Committer, tenant: u32, number: u64, slot: u32) {
        if shard_of(slot) >= committer.shards.len()
            && let Some(shards) = self.head.ensure_shard(slot)
        {
            committer.shards = shards;
        }
        committer.shards[shard_of(slot)]
            .lock()
            .insert(place(slot), Hot::new(number, tenant));
        committer.next_number = committer.next_number.max(number.saturating_add(1));
        self.metrics.series.inc();
        self.metrics.series_created.inc();
    }

    /// Whether the ingester is to end.
    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Completes when the ingester is to end.
    pub(crate) async fn closed(&self) {
        // An error means that the ingester is gone.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// The WAL, once replay has finished.
    pub(crate) fn wal(&self) -> Option<&Arc<Wal>> {
        self.wal.get()
    }

    /// Why nothing can be read or written yet, in words.
    pub(crate) fn not_ready(&self) -> String {
        if let Some(failure) = &*self.replay.failure.lock() {
            return format!("the write-ahead log could not be replayed: {failure}");
        }
        let (done, total) = (&self.replay.bytes_done, &self.replay.bytes_total);
        let (done, total) = (done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
        format!("starting: {done} of {total} bytes of the write-ahead log are replayed")
    }
}
