//! Cutting: a two-hour window of a tenant becomes a block, while commits go on.
//!
//! First all chunks of the window are marked with the block they will be in; open ones are completed for it. When the log has all of it
//! durably, so that no block knows more than the log, they are written in the order of labels: as they are, unless samples that came out
//! of order go between them. If that fails the marks are taken back and everything is as before. If the process ends, there is
//! either a whole block, which replay finds and whose samples it leaves out, or none.

mod series;

use crate::{
    blocks::{LocalBlock, TENANT_LABEL},
    core::{Core, TenantState, Window, millis, new_ulid},
    head::{
        chunk::FLAG_FREE,
        shard::{SHARD_SLOTS, place, shard_of},
    },
    ranks::Ranks,
};
use model::{
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp},
};
use series::write_series;
use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
use storage::block::{BlockMeta, BlockWriter, name_blocks};
use ulid::Ulid;

/// However busy a window is, it is cut at the latest so long after it was due.
const BUSY_MAX: Duration = Duration::from_secs(30 * 60);

/// Series that are dropped under one lock.
const STEP: usize = 256;

/// A block that was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutBlock {
    /// Its id.
    pub ulid: Ulid,
    /// Whose samples it holds.
    pub tenant: Tenant,
    /// First millisecond of its span.
    pub min_time: Timestamp,
    /// First millisecond after its span.
    pub max_time: Timestamp,
    /// Its samples.
    pub samples: u64,
    /// Its series.
    pub series: u64,
}

impl CutBlock {
    /// What a local block holds.
    pub(crate) fn of(local: &LocalBlock) -> Self {
        let meta = local.block.meta();
        Self {
            ulid: local.ulid,
            tenant: local.tenant.clone(),
            min_time: meta.min_time,
            max_time: meta.max_time,
            samples: meta.stats.num_samples,
            series: meta.stats.num_series,
        }
    }
}

/// A window to be cut.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    tenant_id: u32,
    tenant: Tenant,
    window: Timestamp,
    /// Whether the window is over.
    over: bool,
    /// Whether nothing of it was cut before: if it is over as well, its block spans all of it.
    untouched: bool,
}

impl Job {
    pub(crate) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// All windows of a tenant with samples that are in no block, for a copy of them.
    pub(crate) fn of_tenant(core: &Core, tenant: &Tenant) -> Vec<Self> {
        let committer = core.committer.lock();
        let mut states = (0u32..).zip(&committer.tenants);
        let Some((tenant_id, state)) = states.find(|(_, state)| state.tenant == *tenant) else {
            return Vec::new();
        };
        let job = |window: &Timestamp| Self {
            tenant_id,
            tenant: tenant.clone(),
            window: *window,
            over: false,
            untouched: false,
        };
        state.windows.keys().map(job).collect()
    }
}

/// The windows that are due, oldest first for each tenant; all of them with `everything`.
pub(crate) fn due(core: &Core, everything: bool) -> Vec<Job> {
    let (now, since) = (core.env.clock.now(), core.env.clock.monotonic());
    let delay = millis(core.settings.cut_delay);
    let pressed = core.head.late_bytes() >= core.settings.out_of_order_bytes_max / 2;
    let mut jobs = Vec::new();
    for (tenant_id, tenant) in (0u32..).zip(&mut core.committer.lock().tenants) {
        let TenantState {
            newest,
            cut_until,
            partly_cut,
            ..
        } = &*tenant;
        let (newest, cut_until, partly_cut) = (*newest, *cut_until, partly_cut.clone());
        for (&window, state) in &mut tenant.windows {
            let end = window.saturating_add(BLOCK_RANGE_MS);
            let late = now.saturating_sub(end.saturating_add(delay));
            // Without data from behind the window its sender may be late as a whole, so that one waits once more.
            let is_over = late >= 0 && (newest >= end || late >= delay);
            let noticed = *state.noticed.get_or_insert(since);
            if state.seen_chunks != state.chunks {
                (state.seen_chunks, state.changed) = (state.chunks, since);
            }
            let quiet = since.saturating_sub(state.changed) >= core.settings.cut_quiet;
            // Samples for a window that was cut wait for others, so that many small blocks become one.
            let is_again = cut_until.is_some_and(|until| window < until);
            let waited = since.saturating_sub(noticed) >= core.settings.out_of_order_cut_delay;
            let ripe = match is_again {
                true => pressed || waited,
                false => quiet || late >= millis(BUSY_MAX),
            };
            if everything || (is_over && ripe) {
                let untouched = cut_until.is_none_or(|until| window >= until) && !partly_cut.contains(&window);
                jobs.push(Job {
                    tenant_id,
                    tenant: tenant.tenant.clone(),
                    window,
                    over: late >= 0,
                    untouched,
                });
            } else if is_over && !is_again {
                // Windows of one tenant are cut in order.
                break;
            }
        }
    }
    jobs
}

/// A window on its way into a block: its chunks are marked.
pub(crate) struct Marking {
    begin: Duration,
    mark: u32,
    window: Window,
    /// Series with marked chunks, and the span of those.
    slots: Vec<u32>,
    range: TimeRange,
    /// Everything that is marked is in records of the log up to this one.
    pub(crate) logged: u64,
}

/// Marks the chunks of a window, completing open ones. [`write`] or [`give_up`] comes next.
pub(crate) fn mark(core: &Core, job: &Job) -> Marking {
    let begin = core.env.clock.monotonic();
    let window = take_window(core, job);
    let mark = core.blocks.next_mark();
    let span = (job.window, job.window + BLOCK_RANGE_MS);
    let (mut slots, mut range) = (Vec::new(), TimeRange::new(i64::MAX, i64::MIN));
    for (number, places) in places_of(core, job.tenant_id) {
        let Some(shard) = core.head.shard((number * SHARD_SLOTS) as u32) else {
            continue;
        };
        let marked = shard.lock().mark_window(job.tenant_id, &places, span, mark);
        range = TimeRange::new(range.min.min(marked.range.min), range.max.max(marked.range.max));
        slots.extend(marked.places.iter().map(|place| (number * SHARD_SLOTS + place) as u32));
    }
    Marking {
        begin,
        mark,
        window,
        slots,
        range,
        logged: core.wal().map_or(0, |wal| wal.log().sequence()),
    }
}

/// Takes the marks back: everything is as before, and tried again.
pub(crate) fn give_up(core: &Core, job: &Job, marking: &Marking, reason: &str) {
    core.metrics.cut_failures.inc();
    tracing::error!(tenant = %job.tenant, window = job.window, reason, "a block could not be cut");
    core.head
        .shards()
        .iter()
        .for_each(|shard| shard.lock().unmark(marking.mark));
    give_window_back(core, job, marking.window);
}

/// Writes the block of a window. `None` when there turned out to be nothing in it.
pub(crate) fn write(
    core: &Core,
    job: &Job,
    mut marking: Marking,
    ranks: &mut Ranks,
) -> Result<Option<Arc<LocalBlock>>, String> {
    let folder = core.blocks.folder();
    let written = fill(core, job, &mut marking, ranks, folder)
        .and_then(|writer| finish(writer)?.map_or(Ok(None), |ulid| open(core, &marking, ulid)));
    conclude(core, job, &marking, written)
}

/// Writes the blocks of many windows, which become durable in one go: thousands of tenants would otherwise wait for the disk thousands
/// of times. Windows of one tenant come in order. Gives the tenants whose window could not be cut, with the reason.
pub(crate) fn write_together(core: &Core, marked: Vec<(Job, Marking)>, ranks: &mut Ranks) -> BTreeMap<Tenant, String> {
    let folder = core.blocks.folder();
    let mut failed = BTreeMap::<Tenant, String>::new();
    let (mut unnamed, mut waiting) = (Vec::new(), Vec::new());
    for (job, mut marking) in marked {
        if let Some(reason) = failed.get(&job.tenant) {
            give_up(core, &job, &marking, reason);
            continue;
        }
        let filled = fill(core, &job, &mut marking, ranks, folder);
        let unnamed_block = filled.and_then(|writer| {
            let finished = writer.map(BlockWriter::finish_unnamed).transpose();
            finished.map(Option::flatten).map_err(|error| error.to_string())
        });
        match unnamed_block {
            Ok(Some(block)) => {
                unnamed.push(block);
                waiting.push((job, marking));
            }
            Ok(None) => drop(conclude(core, &job, &marking, Ok(None))),
            Err(reason) => {
                give_up(core, &job, &marking, &reason);
                failed.insert(job.tenant, reason);
            }
        }
    }
    let named = name_blocks(&*core.env.fs, folder, &mut unnamed).map_err(|error| error.to_string());
    for ((job, marking), block) in waiting.into_iter().zip(&unnamed) {
        let opened = named.clone().and_then(|()| open(core, &marking, block.ulid()));
        if let Err(reason) = conclude(core, &job, &marking, opened) {
            failed.insert(job.tenant, reason);
        }
    }
    failed
}

/// Notes what became of a window.
fn conclude(
    core: &Core,
    job: &Job,
    marking: &Marking,
    written: Result<Option<Arc<LocalBlock>>, String>,
) -> Result<Option<Arc<LocalBlock>>, String> {
    match &written {
        Ok(local) => {
            if local.is_some() {
                core.metrics.blocks_cut.inc();
                core.metrics
                    .cut_seconds
                    .observe((core.env.clock.monotonic() - marking.begin).as_secs_f64());
            }
            let tenant = &mut core.committer.lock().tenants[job.tenant_id as usize];
            if job.over {
                tenant.cut_until = tenant.cut_until.max(Some(job.window + BLOCK_RANGE_MS));
                tenant.partly_cut.remove(&job.window);
            } else if local.is_some() {
                tenant.partly_cut.insert(job.window);
            }
        }
        Err(reason) => give_up(core, job, marking, reason),
    }
    written
}

/// Takes the window off the list. Chunks that begin from now on put it there again.
fn take_window(core: &Core, job: &Job) -> Window {
    let mut committer = core.committer.lock();
    committer.tenants[job.tenant_id as usize]
        .windows
        .remove(&job.window)
        .unwrap_or_default()
}

fn give_window_back(core: &Core, job: &Job, taken: Window) {
    let mut committer = core.committer.lock();
    committer.tenants[job.tenant_id as usize]
        .windows
        .entry(job.window)
        .or_default()
        .chunks += taken.chunks.max(1);
}

/// Opens a block that was just written.
fn open(core: &Core, marking: &Marking, ulid: Ulid) -> Result<Option<Arc<LocalBlock>>, String> {
    let (block, tenant) = core
        .blocks
        .open_block(ulid)
        .inspect_err(|reason| core.blocks.set_aside(ulid, reason))?;
    Ok(Some(core.blocks.add_marked(marking.mark, block, tenant)))
}

/// Makes a block durable and gives its id, if there is something in it.
fn finish(writer: Option<BlockWriter>) -> Result<Option<Ulid>, String> {
    let finished = writer.map(BlockWriter::finish).transpose();
    let meta = finished.map_err(|error| error.to_string())?.flatten();
    Ok(meta.map(|meta| meta.ulid))
}

/// Writes a copy of a window into a block in `folder`; nothing of it counts as cut.
pub(crate) fn copy(core: &Core, job: &Job, ranks: &mut Ranks, folder: &Path) -> Result<(), String> {
    let mut marking = mark(core, job);
    let written = fill(core, job, &mut marking, ranks, folder).and_then(finish);
    let shards = core.head.shards();
    shards.iter().for_each(|shard| shard.lock().unmark(marking.mark));
    give_window_back(core, job, marking.window);
    written.map(drop)
}

/// Writes what is marked into a block in `folder`, which is yet to be finished. `None` when there is nothing.
fn fill(
    core: &Core,
    job: &Job,
    marking: &mut Marking,
    ranks: &mut Ranks,
    folder: &Path,
) -> Result<Option<BlockWriter>, String> {
    let slots = std::mem::take(&mut marking.slots);
    let Marking { mark, range, .. } = *marking;
    if slots.is_empty() {
        return Ok(None);
    }
    let mut chosen = ranks.choose(&core.head, &slots);
    if chosen.len() < slots.len() {
        // Series that came while the round was under way: their turn is the next one.
        let kept: HashSet<u32> = chosen.slots().collect();
        for slot in slots.iter().filter(|slot| !kept.contains(slot)) {
            core.head.with(*slot, |shard, place| shard.unmark_series(place, mark));
        }
        give_window_back(core, job, Window::default());
    }
    drop(slots);
    let span = if job.over && job.untouched {
        (job.window, job.window + BLOCK_RANGE_MS)
    } else {
        (range.min, range.max + 1)
    };
    let ulid = new_ulid(core);
    let meta = BlockMeta::new(ulid, span.0, span.1).with_thanos(external_labels(core, &job.tenant), "receive");
    let written = write_series(core, folder, meta, ranks, &mut chosen, mark);
    ranks.done(&chosen);
    written.map(Some).map_err(|error| error.to_string())
}

/// The series of a tenant: for each shard the places in it.
fn places_of(core: &Core, tenant: u32) -> BTreeMap<usize, Vec<usize>> {
    let index = core.head.index.read();
    let mut places = BTreeMap::<usize, Vec<usize>>::new();
    if let Some(tenant) = index.tenants().get(tenant as usize) {
        tenant
            .postings
            .all()
            .iter()
            .for_each(|slot| places.entry(shard_of(slot)).or_default().push(place(slot)));
    }
    places
}

/// The external labels of a tenant's blocks.
fn external_labels(core: &Core, tenant: &Tenant) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = core.settings.external_labels.iter().cloned().collect();
    labels.insert("replica".into(), core.settings.replica.clone());
    labels.insert(TENANT_LABEL.into(), tenant.as_str().to_owned());
    labels
}

/// Lets the head forget the samples of blocks that are safe.
pub(crate) fn forget(core: &Core, blocks: &[Arc<LocalBlock>]) {
    let marks: HashSet<u32> = blocks.iter().map(|block| block.mark).collect();
    if marks.is_empty() {
        return;
    }
    core.head.shards().iter().for_each(|shard| shard.lock().forget(&marks));
    core.metrics.out_of_order_bytes.set(core.head.late_bytes() as i64);
    blocks
        .iter()
        .for_each(|block| block.change(|state| state.forgotten = true));
}

/// Drops series that hold no samples and are so old that a late sample would be refused anyway.
pub(crate) fn drop_idle_series(core: &Core) -> u64 {
    let now = core.env.clock.now();
    let oldest: Vec<Timestamp> = {
        let committer = core.committer.lock();
        committer
            .tenants
            .iter()
            .map(|tenant| tenant.acceptable(now, &core.settings).min)
            .collect()
    };
    let before = |tenant: u32| oldest.get(tenant as usize).copied().unwrap_or(i64::MIN);
    let mut dropped = 0;
    for (number, shard) in core.head.shards().iter().enumerate() {
        let idle = shard.lock().idle(before);
        for step in idle.chunks(STEP) {
            // In small steps, since pushes wait meanwhile.
            let _commit = core.committer.lock();
            let (mut index, mut shard) = (core.head.index.write(), shard.lock());
            // A commit may have come in between.
            let still_idle = shard.idle(before);
            for &place in step.iter().filter(|place| still_idle.binary_search(place).is_ok()) {
                debug_assert!(shard.hot[place].flags & FLAG_FREE == 0);
                shard.remove(place);
                index.drop_series((number * SHARD_SLOTS + place) as u32);
                dropped += 1;
            }
        }
    }
    core.metrics.series.dec_by(dropped as i64);
    core.metrics.series_dropped.inc_by(dropped);
    dropped
}
