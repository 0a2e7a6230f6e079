//! The ingester as the node sees it: opened on a data folder, takes batches, answers queries.

use crate::{
    blocks::{LocalBlock, LocalBlocks, read_series},
    commit::{Committed, Doubt, commit, commit_late},
    core::{Core, ReplayState},
    cut::CutBlock,
    head::{Head, HeadMemory, extras::Extras, shard::is_same_histogram},
    maintain::{CutError, Maintenance},
    metrics::Metrics,
    replay::replay,
    select::AllTenants,
    settings::{IngestSettings, SyncPolicy},
    spill,
    stats::{self, HeadStats},
    wal::{Wal, log::Log, tombstones::Deletion, writer::Writer},
};
use futures::{executor::block_on, future::BoxFuture};
use model::{
    admin::{AdminError, Administer, Deleted},
    env::Env,
    histogram::Histogram,
    label::Labels,
    matcher::Matcher,
    push::{Push, PushError, SampleKind, SeriesId, WriteBatch, WriteOutcome},
    sample::SampleBuffer,
    select::{Select, SelectTenants},
    tenant::Tenant,
    time::{TimeRange, Timestamp},
    verdict::{Reason, Verdict},
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::PathBuf,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};
use storage::bucket::ObjectStore;
use tokio::sync::watch;

/// When to try again after a start, a full disk or an overload.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A late sample is compared with the blocks again when a block was cut meanwhile; more often than this a push is sent back.
const DOUBT_ROUNDS: usize = 4;

/// Why an ingester cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works in the folder.
    #[error(
        "data folder {} is in use by another process; end it, or give this one a folder of its own",
        dir.display()
    )]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder cannot be used.
    #[error("open data folder {}: {error}", dir.display())]
    Io {
        /// The folder.
        dir: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

/// How far the replay of the WAL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayProgress {
    /// Bytes replayed.
    pub bytes_done: u64,
    /// Bytes to replay in all.
    pub bytes_total: u64,
    /// Whether replay is over and batches are taken.
    pub ready: bool,
}

/// Takes samples, keeps the newest of them in memory, and makes blocks of them.
pub struct Ingester {
    core: Arc<Core>,
    maintenance: Arc<Maintenance>,
    /// Held as long as this process works in the folder.
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
    tenants: AllTenants,
}

impl Ingester {
    /// Opens the data folder of `settings` and begins to replay it in the background; until that is done, pushes and queries are
    /// answered with "unavailable". Blocks go to `bucket`.
    pub fn open(
        env: Env,
        settings: IngestSettings,
        bucket: Arc<dyn ObjectStore>,
        registry: &mut Registry,
    ) -> Result<Arc<Self>, OpenError> {
        let dir = settings.dir.clone();
        let io = |error| OpenError::Io {
            dir: dir.clone(),
            error,
        };
        let wal_dir = dir.join("wal");
        let is_new = env.fs.list(&dir).is_err();
        env.fs.create_dir(&wal_dir).map_err(io)?;
        let lock = env.fs.lock(&dir.join("lock")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked { dir: dir.clone() },
            _ => io(error),
        })?;
        spill::clean(&*env.fs, &dir).map_err(io)?;
        let blocks = LocalBlocks::open(Arc::clone(&env.fs), dir.join("blocks")).map_err(io)?;
        env.fs.sync_dir(&dir).map_err(io)?;
        if is_new {
            // The folder itself must survive as well. Who may not look into a folder above has not made it just now.
            dir.ancestors().skip(1).for_each(|above| drop(env.fs.sync_dir(above)));
        }
        let core = Arc::new(Core {
            head: Head::new(env.rng.next_u64()),
            salt: env.rng.next_u64() as u32,
            extras: Mutex::new(Extras::default()),
            committer: Mutex::default(),
            wal: OnceLock::new(),
            replay: ReplayState::default(),
            closing: watch::Sender::new(false),
            metrics: Arc::new(Metrics::new(registry)),
            blocks,
            settings,
            env,
        });
        let maintenance = Maintenance::new(Arc::clone(&core), bucket, wal_dir.clone());
        let (start, rounds) = (Arc::clone(&core), Arc::clone(&maintenance));
        let background = async move {
            start_up(start, wal_dir).await;
            rounds.run().await;
        };
        core.env.spawn.task("ingest", Box::pin(background));
        let tenants = AllTenants(Arc::clone(&core));
        Ok(Arc::new(Self {
            core,
            maintenance,
            lock: Mutex::new(Some(lock)),
            tenants,
        }))
    }

    /// How far the replay is.
    pub fn progress(&self) -> ReplayProgress {
        let state = &self.core.replay;
        ReplayProgress {
            bytes_done: state.bytes_done.load(Ordering::Relaxed),
            bytes_total: state.bytes_total.load(Ordering::Relaxed),
            ready: self.is_ready(),
        }
    }

    /// Whether replay is over and batches are taken.
    pub fn is_ready(&self) -> bool {
        self.core.wal().is_some()
    }

    /// What the head holds of a tenant, with lists of at most `limit`.
    pub fn stats(&self, tenant: &Tenant, limit: usize) -> HeadStats {
        stats::stats(&self.core, tenant, limit)
    }

    /// What the head takes, for all tenants.
    pub fn memory(&self) -> HeadMemory {
        self.core.head.memory()
    }

    /// How many series of each tenant are in the head.
    pub fn series_by_tenant(&self) -> Vec<(Tenant, u64)> {
        let index = self.core.head.index.read();
        let tenants = index.tenants().iter().zip(0u32..);
        tenants
            .map(|(tenant, id)| (tenant.tenant.clone(), index.tenant_series(id)))
            .collect()
    }

    /// Cuts everything that the head holds into blocks, also windows that are not over, and answers when they are in the bucket.
    /// Blocks that had waited for their upload before are in the list as well.
    pub async fn cut_now(&self) -> Result<Vec<CutBlock>, CutError> {
        self.maintenance.cut_now().await
    }

    /// Makes durable what was accepted and ends. Nothing is cut or uploaded: the next start finds everything in the WAL. A cut
    /// that is under way is waited for; an upload is given up, the next start goes on with it.
    pub async fn shutdown(&self) {
        self.maintenance.close();
        self.maintenance.closed().await;
        if let Some(wal) = self.core.wal() {
            wal.close();
            wal.closed().await;
        }
        *self.lock.lock() = None;
    }

    /// The inside, for measurements.
    #[cfg(test)]
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Takes a batch if it can be taken now.
    async fn push_batch(&self, batch: &WriteBatch, received: Timestamp) -> Result<WriteOutcome, PushError> {
        let core = &self.core;
        let wal = self.admit().map_err(|reason| {
            core.metrics.pushes_unavailable.inc();
            PushError::Unavailable {
                reason,
                retry_after: RETRY_AFTER,
            }
        })?;
        let mut committed = commit(core, batch, received);
        // Also a batch of nothing but duplicates waits: the samples that it repeats may not be durable yet.
        if let Err(reason) = wal.wait(committed.sequence).await {
            core.metrics.pushes_unavailable.inc();
            return Err(PushError::Unavailable {
                reason: reason.to_string(),
                retry_after: RETRY_AFTER,
            });
        }
        self.settle_doubts(batch, &mut committed, received, wal).await?;
        if committed.refused {
            core.metrics.pushes_unavailable.inc();
            return Err(PushError::Unavailable {
                reason: "samples out of order fill their share of the memory, and their block is being cut; the others are stored"
                    .to_owned(),
                retry_after: RETRY_AFTER,
            });
        }
        self.count(&committed);
        Ok(committed.outcome)
    }

    /// Reads local blocks for what the head alone cannot judge, and stores what they do not know.
    async fn settle_doubts(
        &self,
        batch: &WriteBatch,
        committed: &mut Committed,
        received: Timestamp,
        wal: &Wal,
    ) -> Result<(), PushError> {
        for _ in 0..DOUBT_ROUNDS {
            if committed.doubtful.is_empty() {
                break;
            }
            let read_until = self.core.blocks.last_mark();
            self.ask_blocks(batch, committed).await;
            if committed.doubtful.is_empty() {
                break;
            }
            commit_late(&self.core, batch, committed, read_until, received);
            if let Err(reason) = wal.wait(committed.sequence).await {
                self.core.metrics.pushes_unavailable.inc();
                return Err(PushError::Unavailable {
                    reason: reason.to_string(),
                    retry_after: RETRY_AFTER,
                });
            }
        }
        committed.refused |= !committed.doubtful.is_empty();
        let exceptions = &mut committed.outcome.exceptions;
        exceptions.retain(|exception| exception.verdict != Verdict::Written);
        Ok(())
    }

    fn admit(&self) -> Result<&Arc<Wal>, String> {
        let wal = self.core.wal().ok_or_else(|| self.core.not_ready())?;
        if let Some(failure) = wal.failure() {
            return Err(failure.to_string());
        }
        let waiting = wal.waiting_bytes();
        if waiting > self.core.settings.pending_bytes_max {
            return Err(format!(
                "overloaded: {waiting} bytes of the write-ahead log wait for the disk"
            ));
        }
        Ok(wal)
    }

    /// Looks up samples that the head knows no more in the local blocks: what is there was stored before. Leaves in doubt what is not
    /// there and can be stored.
    async fn ask_blocks(&self, batch: &WriteBatch, committed: &mut Committed) {
        let mut doubtful = std::mem::take(&mut committed.doubtful);
        let known = self.known_in_blocks(batch, committed, &doubtful).await;
        for &(position, verdict) in &known {
            committed.outcome.exceptions[position].verdict = verdict;
        }
        let known: HashSet<usize> = known.into_iter().map(|(position, _)| position).collect();
        doubtful.retain(|doubt| !known.contains(&(doubt.exception as usize)));
        // What is not stored in any case is only looked at again beside something that is.
        if doubtful.iter().any(|doubt| doubt.storable) {
            committed.doubtful = doubtful;
        }
    }

    /// Verdicts for doubtful samples that local blocks know, by the index of their exception.
    async fn known_in_blocks(
        &self,
        batch: &WriteBatch,
        committed: &Committed,
        doubtful: &[Doubt],
    ) -> Vec<(usize, Verdict)> {
        let mut series: BTreeMap<u32, Vec<Asked>> = BTreeMap::new();
        for doubt in doubtful {
            let position = doubt.exception;
            let exception = &committed.outcome.exceptions[position as usize];
            let (at, sample) = match exception.kind {
                SampleKind::Float => {
                    let sample = &batch.floats[exception.sample as usize];
                    (sample.at, AskedSample::Float(sample.value.to_bits()))
                }
                SampleKind::Histogram => {
                    let sample = &batch.histograms[exception.sample as usize];
                    (sample.at, AskedSample::Histogram(Arc::clone(&sample.histogram)))
                }
                SampleKind::Exemplar => continue,
            };
            series.entry(exception.series).or_default().push(Asked {
                exception: position as usize,
                at,
                sample,
            });
        }
        let times = || series.values().flatten().map(|asked| asked.at);
        let (Some(min), Some(max)) = (times().min(), times().max()) else {
            return Vec::new();
        };
        let blocks = self.core.blocks.of(&batch.tenant, TimeRange::new(min, max));
        if blocks.is_empty() {
            return Vec::new();
        }
        let asked: Vec<_> = series
            .into_iter()
            .filter_map(|(position, samples)| Some((self.labels_of(batch, position)?, samples)))
            .collect();
        let answers = Arc::new(Mutex::new(Vec::new()));
        let out = Arc::clone(&answers);
        let work = move || *out.lock() = look_up(&blocks, asked);
        self.core.env.spawn.blocking("old samples", Box::new(work)).await;
        let mut answers = answers.lock();
        std::mem::take(&mut *answers)
    }

    fn labels_of(&self, batch: &WriteBatch, position: u32) -> Option<Labels> {
        match &batch.series.get(position as usize)?.id {
            SeriesId::New(labels) => Some(labels.clone()),
            SeriesId::Known(known) => self.core.head.index.read().labels(self.core.open_ref(*known).0),
        }
    }

    fn count(&self, committed: &Committed) {
        let metrics = &self.core.metrics;
        metrics.pushes.inc();
        metrics.samples_written.inc_by(committed.written);
        if committed.late > 0 {
            metrics.samples_out_of_order.inc_by(committed.late);
            metrics.out_of_order_bytes.set(self.core.head.late_bytes() as i64);
        }
        for exception in &committed.outcome.exceptions {
            match exception.verdict {
                Verdict::Duplicate => metrics.samples_duplicate.inc(),
                Verdict::Rejected(reason) => metrics.rejected(reason).inc(),
                Verdict::Written => 0,
            };
        }
    }
}

/// Replays, then starts what runs in the background.
async fn start_up(core: Arc<Core>, wal_dir: PathBuf) {
    let begin = core.env.clock.monotonic();
    let result = Arc::new(Mutex::new(None));
    let (out, replaying, dir) = (Arc::clone(&result), Arc::clone(&core), wal_dir.clone());
    let work = move || *out.lock() = Some(replay(&replaying, &dir));
    core.env.spawn.blocking("replay", Box::new(work)).await;
    let replayed = match result.lock().take() {
        Some(Ok(replayed)) => replayed,
        Some(Err(error)) => return fail(&core, error.to_string()),
        None => return fail(&core, "the replay ended before it was done".to_owned()),
    };
    let seconds = (core.env.clock.monotonic() - begin).as_secs_f64();
    core.metrics.replay_seconds.set(seconds);
    tracing::info!(
        seconds,
        samples = replayed.samples,
        segments = replayed.segments.len(),
        "replayed the write-ahead log"
    );
    let policy = core.settings.sync;
    let trusting = policy == SyncPolicy::Never;
    let mut writer = Writer::new(
        Arc::clone(&core.env.fs),
        &wal_dir,
        replayed.next_segment,
        replayed.previous_end,
        trusting,
    );
    if policy == SyncPolicy::EveryWrite {
        writer.write_ahead(core.settings.log_ahead_bytes_max);
    }
    let durable = replayed
        .tail
        .as_ref()
        .map_or(replayed.sequence, |tail| tail.first_sequence - 1);
    if let Some(tail) = replayed.tail {
        writer.begin_with(tail);
    }
    let log = Log::new(replayed.sequence, core.settings.segment_bytes_max);
    let metrics = Arc::clone(&core.metrics);
    let wal = Wal::new(log, writer, replayed.segments, durable, policy, metrics);
    core.env
        .spawn
        .task("wal", Box::pin(Arc::clone(&wal).run(core.env.clone())));
    // Whoever sees the WAL may use it.
    let _ = core.wal.set(wal);
}

fn fail(core: &Core, reason: String) {
    tracing::error!(reason, "the write-ahead log could not be replayed");
    *core.replay.failure.lock() = Some(reason);
}

/// A sample that may be in a local block.
struct Asked {
    /// Index of the exception that names it.
    exception: usize,
    at: Timestamp,
    sample: AskedSample,
}

enum AskedSample {
    /// Bits of a float.
    Float(u64),
    Histogram(Arc<Histogram>),
}

/// Verdicts for samples that may be in blocks, each with the index of its exception.
fn look_up(blocks: &[Arc<LocalBlock>], asked: Vec<(Labels, Vec<Asked>)>) -> Vec<(usize, Verdict)> {
    let mut verdicts = Vec::new();
    for (labels, samples) in asked {
        let times = || samples.iter().map(|asked| asked.at);
        let range = TimeRange::new(times().min().unwrap_or(0), times().max().unwrap_or(0));
        // A block that cannot be read knows nothing; the verdict stays what it is.
        let known = block_on(read_series(blocks, &labels, range)).unwrap_or_default();
        let verdict = |asked: &Asked| Some((asked.exception, verdict_of(&known, asked)?));
        verdicts.extend(samples.iter().filter_map(verdict));
    }
    verdicts
}

fn verdict_of(known: &SampleBuffer, asked: &Asked) -> Option<Verdict> {
    let float = known
        .timestamps
        .binary_search(&asked.at)
        .ok()
        .map(|index| known.values[index].to_bits());
    let histogram = known
        .histograms
        .binary_search_by_key(&asked.at, |sample| sample.at)
        .ok();
    let same = match (&asked.sample, float, histogram) {
        (_, None, None) => return None,
        (AskedSample::Float(bits), Some(known), _) => *bits == known,
        (AskedSample::Histogram(asked), _, Some(index)) => is_same_histogram(asked, &known.histograms[index].histogram),
        _ => false,
    };
    Some(if same {
        Verdict::Duplicate
    } else {
        Verdict::Rejected(Reason::DuplicateTimestamp)
    })
}

impl Push for Ingester {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        Box::pin(self.push_batch(batch, received))
    }
}

impl Administer for Ingester {
    fn delete_series<'a>(
        &'a self,
        tenant: &'a Tenant,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'a, Result<Deleted, AdminError>> {
        let deletion = Deletion {
            tenant: tenant.clone(),
            selectors,
            range,
        };
        Box::pin(self.maintenance.delete(deletion))
    }

    fn clean_tombstones<'a>(&'a self, tenant: &'a Tenant) -> BoxFuture<'a, Result<(), AdminError>> {
        Box::pin(self.maintenance.clean_tombstones(tenant))
    }

    fn snapshot<'a>(&'a self, tenant: &'a Tenant, skip_head: bool) -> BoxFuture<'a, Result<String, AdminError>> {
        Box::pin(self.maintenance.snapshot(tenant, skip_head))
    }
}

impl SelectTenants for Ingester {
    fn tenant(&self, tenant: &Tenant) -> Arc<dyn Select> {
        self.tenants.tenant(tenant)
    }

    fn tenants(&self) -> Vec<Tenant> {
        self.tenants.tenants()
    }
}

impl Drop for Ingester {
    fn drop(&mut self) {
        self.maintenance.close();
        // Without this the background would go on writing for an ingester that nobody has any more.
        if let Some(wal) = self.core.wal() {
            wal.close();
        }
    }
}
