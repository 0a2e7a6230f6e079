//! The background round: cut what is due, ship what waits, let go of what is safe.
//!
//! One round at a time, in this order, since each step makes the next one possible: a block is cut, then uploaded, then the head
//! forgets its samples, then an image is written without them, then WAL segments and at last the local block are deleted. Every step may
//! fail or be cut short; the next round goes on from there.

use crate::{
    blocks::LocalBlock,
    core::{Core, millis},
    cut::{self, CutBlock, Job},
    delete, image,
    ranks::Ranks,
    rewrite::rewrite,
    settings::SyncPolicy,
    ship,
    snapshot::snapshot,
    spill,
    wal::{Wal, format::FileKind, tombstones::Deletion},
};
use futures::future;
use model::{
    admin::{AdminError, Deleted},
    tenant::Tenant,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use storage::{block::sync_folders, bucket::ObjectStore};
use tokio::sync::watch;
use ulid::Ulid;

/// Readers that do not know a block keep the head from forgetting its samples for so long after it is in the bucket. No query takes longer.
const READERS_TIME_MAX: Duration = Duration::from_secs(600);

/// Pause after an image that failed: each try begins a segment.
const IMAGE_PAUSE: Duration = Duration::from_secs(60);

/// So many windows are cut together at most, which bounds what is marked and not written, and how long the disk is busy with it.
const TOGETHER_MAX: usize = 256;

/// Fewer windows are cut one by one: to make them durable together would also write what others left in the page cache.
const TOGETHER_MIN: usize = 8;

/// Why not everything was cut and uploaded.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The ingester is starting or ending.
    #[error("{0}")]
    NotReady(String),
    /// Some blocks could not be written or uploaded. They are tried again in the background; nothing is lost.
    #[error("not everything was cut and uploaded: {}", failures.join("; "))]
    Incomplete {
        /// What failed, and why.
        failures: Vec<String>,
        /// The blocks that are in the bucket.
        blocks: Vec<CutBlock>,
    },
}

/// The background of an ingester.
pub(crate) struct Maintenance {
    core: Arc<Core>,
    bucket: Arc<dyn ObjectStore>,
    wal_dir: PathBuf,
    /// Held for a round.
    turn: tokio::sync::Mutex<()>,
    /// After a failure, no image is tried before this moment of the monotonic clock.
    image_not_before: Mutex<Duration>,
    /// Size of the last image that this process wrote.
    image_bytes: AtomicU64,
    /// Whether the loop runs; it ends before its owner may go.
    running: watch::Sender<bool>,
}

impl Maintenance {
    pub(crate) fn new(core: Arc<Core>, bucket: Arc<dyn ObjectStore>, wal_dir: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            core,
            bucket,
            wal_dir,
            turn: tokio::sync::Mutex::new(()),
            image_not_before: Mutex::default(),
            image_bytes: AtomicU64::new(0),
            running: watch::Sender::new(true),
        })
    }

    /// Asks the loop to end after the step that it is in.
    pub(crate) fn close(&self) {
        self.core.closing.send_replace(true);
    }

    /// Completes when the loop has ended.
    pub(crate) async fn closed(&self) {
        // An error means that the loop is gone as well.
        let _ = self.running.subscribe().wait_for(|running| !running).await;
    }

    /// Rounds until closed. Runs as a task of its own.
    pub(crate) async fn run(self: Arc<Self>) {
        while !self.core.is_closing() {
            let pause = self.core.env.clock.sleep(self.core.settings.maintenance_interval);
            future::select(pause, Box::pin(self.core.closed())).await;
            if !self.core.is_closing() {
                // What failed is told in the log and tried again.
                let _ = self.round(false).await;
            }
        }
        self.running.send_replace(false);
    }

    /// Cuts and uploads everything that the head holds, and tells when it is in the bucket.
    pub(crate) async fn cut_now(&self) -> Result<Vec<CutBlock>, CutError> {
        if self.core.wal().is_none() {
            return Err(CutError::NotReady(self.core.not_ready()));
        }
        if self.core.is_closing() {
            return Err(CutError::NotReady("the ingester is shutting down".into()));
        }
        self.round(true).await
    }

    /// Deletes samples in head, log and local blocks, and tells when they are gone for good.
    pub(crate) async fn delete(&self, deletion: Deletion) -> Result<Deleted, AdminError> {
        let _turn = self.turn().await?;
        let (core, out) = (Arc::clone(&self.core), deletion.clone());
        let in_head = self.blocking("delete", move || delete::in_head(&core, &deletion)).await;
        let (series, sequence) = in_head.flatten().ok_or_else(cut_short)?;
        let wal = self.core.wal().ok_or_else(cut_short)?;
        let durable = wal.wait(sequence).await;
        durable.map_err(|reason| AdminError::Unavailable(reason.to_string()))?;
        let core = Arc::clone(&self.core);
        let in_blocks = self.blocking("delete", move || delete::in_blocks(&core, &out)).await;
        let in_blocks = in_blocks.ok_or_else(cut_short)?.map_err(AdminError::Storage)?;
        Ok(Deleted {
            series: series + in_blocks.series,
            unreached: in_blocks.unreached,
        })
    }

    /// Writes local blocks of a tenant anew that have deleted samples. Those that are in the bucket as well go soon as they are.
    pub(crate) async fn clean_tombstones(&self, tenant: &Tenant) -> Result<(), AdminError> {
        let _turn = self.turn().await?;
        let failures = self.rewrite(Some(tenant.clone())).await;
        match failures.is_empty() {
            true => Ok(()),
            false => Err(AdminError::Storage(failures.join("; "))),
        }
    }

    /// Copies what is here of a tenant; gives the name of the folder.
    pub(crate) async fn snapshot(&self, tenant: &Tenant, skip_head: bool) -> Result<String, AdminError> {
        let _turn = self.turn().await?;
        let (core, tenant) = (Arc::clone(&self.core), tenant.clone());
        let copied = self
            .blocking("snapshot", move || snapshot(&core, &tenant, skip_head))
            .await;
        copied.ok_or_else(cut_short)?.map_err(AdminError::Storage)
    }

    /// The turn for an operation that must not meet a cut, an upload or an image.
    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, AdminError> {
        if self.core.wal().is_none() {
            return Err(AdminError::Unavailable(self.core.not_ready()));
        }
        if self.core.is_closing() {
            return Err(AdminError::Unavailable("the ingester is shutting down".into()));
        }
        Ok(self.turn.lock().await)
    }

    /// Writes blocks anew that have deleted samples and are not in the bucket; gives what failed.
    async fn rewrite(&self, tenant: Option<Tenant>) -> Vec<String> {
        let core = Arc::clone(&self.core);
        let is_meant = move |local: &Arc<LocalBlock>| {
            tenant.as_ref().is_none_or(|tenant| local.tenant == *tenant)
                && local.state().shipped.is_none()
                && !local.block.tombstones().is_empty()
        };
        let rewritten = self.blocking("rewrite", move || {
            let blocks = core.blocks.all().into_iter().filter(is_meant);
            let failed = |local: Arc<LocalBlock>| rewrite(&core, &local).err();
            blocks.filter_map(failed).collect()
        });
        rewritten.await.unwrap_or_default()
    }

    async fn round(&self, everything: bool) -> Result<Vec<CutBlock>, CutError> {
        let _turn = self.turn.lock().await;
        let Some(wal) = self.core.wal() else {
            return Err(CutError::NotReady(self.core.not_ready()));
        };
        let mut failures = self.cut(everything, wal).await;
        // A bucket knows no tombstones, so deleted samples must not get there.
        failures.extend(self.rewrite(None).await);
        let waiting: Vec<_> = self.unshipped();
        failures.extend(ship::ship(&self.core, &*self.bucket, everything).await);
        failures.extend(self.let_go(wal).await);
        let in_bucket = waiting.iter().filter(|local| local.state().shipped.is_some());
        let blocks = in_bucket.map(|local| CutBlock::of(local)).collect();
        match failures.is_empty() {
            true => Ok(blocks),
            false => Err(CutError::Incomplete { failures, blocks }),
        }
    }

    fn unshipped(&self) -> Vec<Arc<LocalBlock>> {
        self.core
            .blocks
            .all()
            .into_iter()
            .filter(|local| local.state().shipped.is_none())
            .collect()
    }

    /// Cuts what is due; gives what failed.
    async fn cut(&self, everything: bool, wal: &Wal) -> Vec<String> {
        let core = Arc::clone(&self.core);
        let due = self.blocking("cut", move || {
            let jobs = cut::due(&core, everything);
            let ranks = (!jobs.is_empty()).then(|| Ranks::new(&core.head));
            Some((jobs, Arc::new(Mutex::new(ranks?))))
        });
        let Some((jobs, ranks)) = due.await.flatten() else {
            return Vec::new();
        };
        let mut failed = BTreeMap::new();
        for group in jobs.chunks(TOGETHER_MAX) {
            // Windows of one tenant are cut in order; the other tenants go on.
            let jobs: Vec<Job> = group
                .iter()
                .filter(|job| !failed.contains_key(job.tenant()))
                .cloned()
                .collect();
            if jobs.len() >= TOGETHER_MIN {
                failed.extend(self.cut_together(jobs, &ranks, wal).await);
                continue;
            }
            for job in jobs {
                let tenant = job.tenant().clone();
                if !failed.contains_key(&tenant)
                    && let Err(reason) = self.cut_window(job, &ranks, wal).await
                {
                    failed.insert(tenant, reason);
                }
            }
        }
        let told = |(tenant, reason)| format!("cut tenant {tenant}: {reason}");
        failed.into_iter().map(told).collect()
    }

    /// Cuts windows of many tenants, with one wait for the log and one for the disk; gives what failed.
    async fn cut_together(&self, jobs: Vec<Job>, ranks: &Arc<Mutex<Ranks>>, wal: &Wal) -> BTreeMap<Tenant, String> {
        let core = Arc::clone(&self.core);
        let tenants: BTreeSet<Tenant> = jobs.iter().map(|job| job.tenant().clone()).collect();
        let cut_short = || {
            let told = |tenant| (tenant, "the work was cut short".to_owned());
            tenants.into_iter().map(told).collect()
        };
        let mark = |core: &Core, job: Job| (cut::mark(core, &job), job);
        let marked = self.blocking("cut", move || -> Vec<_> {
            jobs.into_iter().map(|job| mark(&core, job)).collect()
        });
        let Some(marked) = marked.await else { return cut_short() };
        let until = marked
            .iter()
            .map(|(marking, _)| marking.logged)
            .max()
            .unwrap_or_default();
        let logged = self.secure_log(wal, until).await;
        let (core, ranks) = (Arc::clone(&self.core), Arc::clone(ranks));
        let written = self.blocking("cut", move || match logged {
            Ok(()) => {
                let marked = marked.into_iter().map(|(marking, job)| (job, marking));
                cut::write_together(&core, marked.collect(), &mut ranks.lock())
            }
            Err(reason) => {
                let give_up = |(marking, job): (cut::Marking, Job)| {
                    cut::give_up(&core, &job, &marking, &reason);
                    (job.tenant().clone(), reason.to_string())
                };
                marked.into_iter().map(give_up).collect()
            }
        });
        written.await.unwrap_or_else(cut_short)
    }

    async fn cut_window(&self, job: Job, ranks: &Arc<Mutex<Ranks>>, wal: &Wal) -> Result<(), String> {
        let core = Arc::clone(&self.core);
        let marked = self.blocking("cut", move || (cut::mark(&core, &job), job));
        let (marking, job) = marked.await.ok_or("the work was cut short")?;
        let logged = self.secure_log(wal, marking.logged).await;
        let (core, ranks) = (Arc::clone(&self.core), Arc::clone(ranks));
        let written = self.blocking("cut", move || match logged {
            Ok(()) => cut::write(&core, &job, marking, &mut ranks.lock()).map(drop),
            Err(reason) => {
                cut::give_up(&core, &job, &marking, &reason);
                Err(reason.to_string())
            }
        });
        written.await.unwrap_or_else(|| Err("the work was cut short".into()))
    }

    /// Completes when the disk has the log up to a record. A block that outlives a crash must not hold what the log lost: nobody was told
    /// of that, its sender may send something else in its place, and the next start would take that for a part of the block. So a weaker
    /// policy waits here as well.
    async fn secure_log(&self, wal: &Wal, sequence: u64) -> Result<(), Arc<str>> {
        if self.core.settings.sync != SyncPolicy::Never {
            return wal.wait_durable(sequence).await;
        }
        wal.wait(sequence).await?;
        let (core, dir) = (Arc::clone(&self.core), self.wal_dir.clone());
        let synced = self.blocking("sync", move || sync_folders(&*core.env.fs, [dir.as_path()]));
        let synced = synced.await.ok_or("the work was cut short")?;
        synced.map_err(|error| format!("sync the write-ahead log: {error}").into())
    }

    /// Forgets, writes an image, deletes; gives what failed.
    async fn let_go(&self, wal: &Arc<Wal>) -> Vec<String> {
        let core = Arc::clone(&self.core);
        self.blocking("forget", move || {
            let now = core.env.clock.now();
            // A reader that never ends must not keep the head from ever forgetting.
            let waited_enough = |local: &LocalBlock| {
                let shipped = local.state().shipped;
                shipped.is_some_and(|at| now.saturating_sub(at) > millis(READERS_TIME_MAX))
            };
            let safe: Vec<_> = safe_in_memory(&core)
                .into_iter()
                .filter(|local| !local.state().forgotten)
                .filter(|local| core.blocks.is_known_to_readers(local) || waited_enough(local))
                .collect();
            cut::forget(&core, &safe);
            cut::drop_idle_series(&core);
            spill::spill(&core);
        })
        .await;
        let mut failures = Vec::new();
        if self.wants_image(wal)
            && let Err(reason) = self.write_image(wal).await
        {
            self.core.metrics.image_failures.inc();
            *self.image_not_before.lock() = self.core.env.clock.monotonic() + IMAGE_PAUSE;
            tracing::warn!(
                reason,
                "no head image could be written; the write-ahead log keeps its segments"
            );
            failures.push(format!("head image: {reason}"));
        }
        let core = Arc::clone(&self.core);
        self.blocking("retention", move || remove_expired(&core)).await;
        failures
    }

    /// Whether an image lets segments go: all blocks are in the bucket and one is news, or the WAL has become too long.
    fn wants_image(&self, wal: &Wal) -> bool {
        if self.core.env.clock.monotonic() < *self.image_not_before.lock() || self.core.is_closing() {
            return false;
        }
        let states: Vec<_> = self
            .core
            .blocks
            .all()
            .iter()
            .map(|local| local.state())
            .filter(|s| !s.absorbed)
            .collect();
        let all_shipped = states.iter().all(|state| state.shipped.is_some());
        let bytes: u64 = wal.segments().iter().map(|segment| segment.bytes).sum();
        // A start reads the image and what came since. An image much larger than the log would cost more than it saves.
        let image = self.image_bytes.load(Ordering::Relaxed);
        let is_long = bytes >= self.core.settings.image_bytes.max(image.saturating_mul(2));
        (!states.is_empty() && all_shipped) || is_long
    }

    async fn write_image(&self, wal: &Arc<Wal>) -> Result<(), String> {
        let number = wal.roll().await.map_err(|reason| reason.to_string())?;
        // Blocks that the head does not hold any more, or need not: their samples are left out. The others are in the image.
        let left_out = |local: &Arc<LocalBlock>| local.state().forgotten || local.state().shipped.is_some();
        let safe: Vec<_> = self.core.blocks.all().into_iter().filter(left_out).collect();
        let (core, dir, wal) = (Arc::clone(&self.core), self.wal_dir.clone(), Arc::clone(wal));
        let written = self.blocking("image", move || {
            for local in safe
                .iter()
                .filter(|local| local.state().shipped.is_none() && !local.state().absorbed)
            {
                // Only this block and the segments have its samples, so it is read once before the segments go.
                ship::verify(local).map_err(|reason| format!("block {}: {reason}", local.ulid))?;
            }
            let bytes = image::write(&core, &dir, number, &safe).map_err(|error| error.to_string())?;
            core.metrics.images.inc();
            safe.iter()
                .for_each(|local| local.change(|state| state.absorbed = true));
            delete_segments(&core, &dir, &wal, number).map_err(|error| error.to_string())?;
            Ok::<u64, String>(bytes)
        });
        let bytes = written.await.unwrap_or_else(|| Err("the work was cut short".into()))?;
        self.image_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Runs work where blocking hurts nobody; `None` when it was cut short.
    async fn blocking<T: Send + 'static>(&self, name: &str, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let result = Arc::new(Mutex::new(None));
        let out = Arc::clone(&result);
        self.core
            .env
            .spawn
            .blocking(name, Box::new(move || *out.lock() = Some(work())))
            .await;
        let mut result = result.lock();
        result.take()
    }
}

fn cut_short() -> AdminError {
    AdminError::Unavailable("the work was cut short, since the ingester is shutting down".into())
}

/// Blocks whose samples the head need not hold: those in the bucket, and of those that wait the oldest, when a tenant has so many that
/// memory is at stake. Unshipped ones count only when every byte of them was compared.
fn safe_in_memory(core: &Core) -> Vec<Arc<LocalBlock>> {
    let mut waiting: BTreeMap<_, Vec<Arc<LocalBlock>>> = BTreeMap::new();
    let mut safe = Vec::new();
    for local in core.blocks.all() {
        if local.state().shipped.is_some() {
            safe.push(local);
        } else {
            waiting.entry(local.tenant.clone()).or_default().push(local);
        }
    }
    let max = core.settings.unshipped_blocks_in_memory_max;
    for mut blocks in waiting.into_values() {
        blocks.truncate(blocks.len().saturating_sub(max));
        for local in blocks.into_iter().filter(|local| !local.state().forgotten) {
            match ship::verify(&local) {
                Ok(()) => safe.push(local),
                Err(reason) => tracing::error!(block = %local.ulid, reason, "an unshipped block is damaged"),
            }
        }
    }
    safe
}

/// Deletes the segments that an image replaced, and older images.
fn delete_segments(core: &Core, dir: &std::path::Path, wal: &Wal, number: u64) -> io::Result<()> {
    let fs = &*core.env.fs;
    for segment in wal.retire_segments(number) {
        match fs.remove_file(&dir.join(FileKind::Segment.file_name(segment.number))) {
            // It went in an earlier try.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    for entry in fs.list(dir)? {
        if FileKind::Image
            .number_of(&entry.name)
            .is_some_and(|image| image < number)
        {
            fs.remove_file(&dir.join(&entry.name))?;
        }
    }
    fs.sync_dir(dir)
}

/// Deletes local blocks that are in the bucket long enough for its readers to have found them.
fn remove_expired(core: &Core) {
    let now = core.env.clock.now();
    let retention = millis(core.settings.block_retention);
    for local in core.blocks.all() {
        let state = local.state();
        // A sample that comes again inside the out-of-order window is compared with the block.
        let window = millis(core.settings.out_of_order.of(&local.tenant));
        let is_behind = local.range().max < now.saturating_sub(window);
        let is_old = is_behind && state.shipped.is_some_and(|at| now.saturating_sub(at) >= retention);
        if !is_old || !state.absorbed {
            continue;
        }
        let ulid: Ulid = local.ulid;
        if let Err(error) = core.blocks.remove(&local) {
            tracing::warn!(%ulid, %error, "a local block could not be deleted");
        }
    }
}
