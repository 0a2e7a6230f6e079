//! The write-ahead log: what was accepted is here before anybody hears of it.
//!
//! Two ends. Commits encode records in memory through [`Wal::log`]; one background task takes what has gathered, writes
//! it with one sync, and releases everybody who waited for it in [`Wal::wait`] (group commit). The format is our own; `WAL.md`
//! draws it.

pub(crate) mod floats;
pub(crate) mod format;
pub(crate) mod histograms;
pub(crate) mod late;
pub(crate) mod log;
pub(crate) mod payload;
pub(crate) mod reader;
mod repair;
pub(crate) mod tombstones;
pub(crate) mod writer;

use crate::{metrics::Metrics, settings::SyncPolicy};
use futures::future::{self, Either};
use log::Log;
use model::env::{Clock, Env};
use parking_lot::{Mutex, MutexGuard};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};
use writer::{SegmentInfo, Writer};

/// Pause before the first try to resume after a failure; it doubles up to [`RESUME_PAUSE_MAX`].
const RESUME_PAUSE: Duration = Duration::from_millis(200);
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(1);

/// So often a thread writes before it looks whether the WAL is to be closed.
const WRITES_IN_A_ROW_MAX: usize = 64;

/// How far the WAL got.
#[derive(Debug, Clone, Default)]
struct Status {
    /// The last record that may be acknowledged under the policy.
    acknowledged: u64,
    /// Why nothing can be acknowledged at the moment.
    failure: Option<Arc<str>>,
    /// Whether the writer has ended for good.
    ended: bool,
}

/// The WAL of one data folder.
pub(crate) struct Wal {
    log: Mutex<Log>,
    policy: SyncPolicy,
    /// The last record that is on the disk for certain.
    durable: AtomicU64,
    /// Bytes taken from the log that the disk does not have for certain.
    unsettled_bytes: AtomicUsize,
    /// Bytes in the log, for who must not wait for its lock.
    pending_bytes: AtomicUsize,
    status: watch::Sender<Status>,
    /// Rings when there is something to write.
    bell: Notify,
    closing: AtomicBool,
    writer: Mutex<Writer>,
    /// Segments on the disk, oldest first.
    segments: Mutex<Vec<SegmentInfo>>,
    metrics: Arc<Metrics>,
}

impl Wal {
    /// A WAL that goes on behind what replay found; records up to `durable` are on the disk.
    pub(crate) fn new(
        log: Log,
        writer: Writer,
        segments: Vec<SegmentInfo>,
        durable: u64,
        policy: SyncPolicy,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        metrics.wal_healthy.set(1);
        let status = Status {
            acknowledged: durable,
            ..Status::default()
        };
        Arc::new(Self {
            log: Mutex::new(log),
            policy,
            durable: AtomicU64::new(durable),
            pending_bytes: AtomicUsize::new(0),
            unsettled_bytes: AtomicUsize::new(0),
            status: watch::Sender::new(status),
            bell: Notify::new(),
            closing: AtomicBool::new(false),
            writer: Mutex::new(writer),
            segments: Mutex::new(segments),
            metrics,
        })
    }

    /// The near end; the commit holds it while it encodes.
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }

    /// The last record that is on the disk for certain.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Tells the writer that so many bytes wait in the log.
    pub(crate) fn ring(&self, pending_bytes: usize) {
        if pending_bytes > 0 {
            self.pending_bytes.store(pending_bytes, Ordering::Relaxed);
            self.bell.notify_one();
        }
    }

    /// Why nothing can be acknowledged at the moment.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        let status = self.status.borrow();
        if status.ended {
            Some("the ingester is shutting down".into())
        } else {
            status.failure.clone()
        }
    }

    /// Bytes that wait for the disk.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.pending_bytes.load(Ordering::Relaxed) + self.unsettled_bytes.load(Ordering::Relaxed)
    }

    /// Completes when everything up to record `sequence` may be acknowledged; with an error when the WAL fails before.
    pub(crate) async fn wait(&self, sequence: u64) -> Result<(), Arc<str>> {
        let mut status = self.status.subscribe();
        let reached = |status: &Status| status.acknowledged >= sequence || status.failure.is_some() || status.ended;
        match status.wait_for(reached).await {
            Ok(status) if status.acknowledged >= sequence => Ok(()),
            Ok(status) => Err(status
                .failure
                .clone()
                .unwrap_or_else(|| "the ingester is shutting down".into())),
            Err(_) => Err("the ingester is gone".into()),
        }
    }

    /// Completes when everything up to record `sequence` is on the disk for certain; with an error when the WAL fails before. For a policy
    /// that syncs.
    pub(crate) async fn wait_durable(&self, sequence: u64) -> Result<(), Arc<str>> {
        let mut status = self.status.subscribe();
        loop {
            // The status changes behind what is durable, so nothing is missed in between.
            let current = status.borrow_and_update().clone();
            if self.durable() >= sequence {
                return Ok(());
            }
            if current.ended {
                return Err("the ingester is shutting down".into());
            }
            if let Some(failure) = current.failure {
                return Err(failure);
            }
            status.changed().await.map_err(|_| "the ingester is gone")?;
        }
    }

    /// Segments on the disk, oldest first.
    pub(crate) fn segments(&self) -> Vec<SegmentInfo> {
        let mut segments = self.segments.lock().clone();
        if let (Some(last), Some(current)) = (segments.last_mut(), self.writer.lock().current())
            && last.number == current.number
        {
            *last = current;
        }
        segments
    }

    /// Takes segments below `number` off the list, to be deleted by the caller.
    pub(crate) fn retire_segments(&self, number: u64) -> Vec<SegmentInfo> {
        let mut segments = self.segments.lock();
        let kept = segments.partition_point(|segment| segment.number < number);
        segments.drain(..kept).collect()
    }

    /// Begins a new segment and gives its number once it exists.
    pub(crate) async fn roll(&self) -> Result<u64, Arc<str>> {
        let first_sequence = {
            let mut log = self.log.lock();
            log.roll();
            log.sequence() + 1
        };
        self.bell.notify_one();
        let mut status = self.status.subscribe();
        loop {
            if let Some(segment) = self
                .segments
                .lock()
                .iter()
                .find(|segment| segment.first_sequence == first_sequence && !segment.continues)
            {
                return Ok(segment.number);
            }
            let current = status.borrow_and_update().clone();
            if current.ended {
                return Err("the ingester is shutting down".into());
            }
            if let Some(failure) = current.failure {
                return Err(failure);
            }
            status.changed().await.map_err(|_| "the ingester is gone")?;
        }
    }

    /// Asks the writer to write what there is and to end.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.bell.notify_one();
    }

    /// Completes when the writer has ended.
    pub(crate) async fn closed(&self) {
        // An error means that the writer is gone as well.
        let _ = self.status.subscribe().wait_for(|status| status.ended).await;
    }

    /// Writes until closed. Runs as a task of its own; the blocking part goes where blocking hurts nobody, so that a simulation,
    /// which has no threads, can run the very same code.
    pub(crate) async fn run(self: Arc<Self>, env: Env) {
        let mut pause = RESUME_PAUSE;
        let mut last_sync = env.clock.monotonic();
        loop {
            let closing = self.closing.load(Ordering::Acquire);
            let sync = closing || self.is_sync_due(env.clock.monotonic().saturating_sub(last_sync));
            let worked = self.step(&env, sync).await;
            if sync {
                last_sync = env.clock.monotonic();
            }
            if closing {
                break;
            }
            if self.status.borrow().failure.is_some() {
                self.rest(&env, pause).await;
                pause = (pause * 2).min(RESUME_PAUSE_MAX);
                continue;
            }
            pause = RESUME_PAUSE;
            if !worked {
                self.idle(&env, last_sync).await;
            }
        }
        self.status.send_modify(|status| status.ended = true);
    }

    fn is_sync_due(&self, since: Duration) -> bool {
        match self.policy {
            SyncPolicy::EveryWrite => true,
            SyncPolicy::Interval(interval) => since >= interval,
            SyncPolicy::Never => false,
        }
    }

    /// Sleeps, unless the WAL is closed meanwhile.
    async fn rest(&self, env: &Env, pause: Duration) {
        let mut slept = env.clock.sleep(pause);
        while !self.closing.load(Ordering::Acquire) {
            match future::select(slept, Box::pin(self.bell.notified())).await {
                Either::Left(_) => return,
                Either::Right((_, rest)) => slept = rest,
            }
        }
    }

    /// Waits for something to write, or for the next sync that is due.
    async fn idle(&self, env: &Env, last_sync: Duration) {
        let rung = self.bell.notified();
        match self.policy {
            SyncPolicy::Interval(interval) if self.writer.lock().is_dirty() => {
                let left = (last_sync + interval).saturating_sub(env.clock.monotonic());
                future::select(env.clock.sleep(left), Box::pin(rung)).await;
            }
            _ => rung.await,
        }
    }

    /// Writes what has gathered; tells whether there was anything.
    async fn step(self: &Arc<Self>, env: &Env, sync: bool) -> bool {
        let parts = self.log.lock().take();
        self.pending_bytes.store(0, Ordering::Relaxed);
        let retrying = self.status.borrow().failure.is_some();
        {
            let mut writer = self.writer.lock();
            writer.add(parts);
            self.unsettled_bytes.store(writer.unsettled_bytes(), Ordering::Relaxed);
            if !writer.is_dirty() && !retrying {
                return false;
            }
        }
        let (wal, clock) = (Arc::clone(self), Arc::clone(&env.clock));
        let work = move || wal.write_what_comes(sync, &*clock);
        env.spawn.blocking("wal", Box::new(work)).await;
        // With an interval, parts that wait for their sync are no reason to spin.
        self.policy == SyncPolicy::EveryWrite || self.log.lock().pending_bytes() > 0
    }

    /// The blocking part of a step. While it wrote, others have committed and wait for the next write; going back to the task for it,
    /// and from there to a thread again, would wake two threads for each sync of a busy node.
    fn write_what_comes(&self, sync: bool, clock: &dyn Clock) {
        for _ in 0..WRITES_IN_A_ROW_MAX {
            let begin = clock.monotonic();
            self.write(sync);
            let taken = (clock.monotonic() - begin).as_secs_f64();
            self.metrics.wal_sync_seconds.observe(taken);
            // An interval has its time, and after a failure there is a pause.
            if self.policy != SyncPolicy::EveryWrite || self.status.borrow().failure.is_some() {
                return;
            }
            let parts = self.log.lock().take();
            if parts.is_empty() {
                return;
            }
            self.pending_bytes.store(0, Ordering::Relaxed);
            let mut writer = self.writer.lock();
            writer.add(parts);
            self.unsettled_bytes.store(writer.unsettled_bytes(), Ordering::Relaxed);
        }
    }

    /// Writes what was taken from the log.
    fn write(&self, sync: bool) {
        let mut writer = self.writer.lock();
        let (progress, result) = writer.step(sync);
        self.segments.lock().extend(writer.take_begun());
        let unsettled = writer.unsettled_bytes();
        drop(writer);
        self.unsettled_bytes.store(unsettled, Ordering::Relaxed);
        self.metrics.wal_unsettled_bytes.set(unsettled as i64);
        self.metrics.wal_bytes.inc_by(progress.bytes);
        if sync {
            self.metrics.wal_syncs.inc();
        }
        let settled = progress.settled;
        if let Some(settled) = settled
            && self.policy != SyncPolicy::Never
        {
            self.durable.fetch_max(settled, Ordering::AcqRel);
        }
        let acknowledged = match self.policy {
            SyncPolicy::EveryWrite => settled,
            SyncPolicy::Interval(_) | SyncPolicy::Never => progress.written.or(settled),
        };
        let failure: Option<Arc<str>> = result.err().map(|error| self.tell_failure(&error));
        self.metrics.wal_healthy.set(i64::from(failure.is_none()));
        self.status.send_modify(|status| {
            if status.failure.is_some() && failure.is_none() {
                tracing::info!("the write-ahead log is writable again");
            }
            status.failure = failure;
            status.acknowledged = status.acknowledged.max(acknowledged.unwrap_or(0));
        });
        let mut log = self.log.lock();
        progress.buffers.into_iter().for_each(|buffer| log.recycle(buffer));
    }

    fn tell_failure(&self, error: &std::io::Error) -> Arc<str> {
        self.metrics.wal_failures.inc();
        let full = error.kind() == std::io::ErrorKind::StorageFull;
        let text = if full {
            format!("the disk is full, nothing can be stored until there is space: {error}")
        } else {
            format!("the write-ahead log cannot be written: {error}")
        };
        if self.status.borrow().failure.is_none() {
            tracing::error!(error = %error, "the write-ahead log failed; trying again in a new segment until it works");
        }
        text.into()
    }
}
