//! Deletion of samples by selector and range: in the head, in the log, in the local blocks.
//!
//! The head loses them at once, and the log remembers the deletion at its place between the pushes: replay takes out what came before it
//! and keeps what came behind it. Local blocks get tombstones, which every reader honours; before such a block is uploaded it is
//! written anew without them ([`crate::rewrite`]). A block that is in the bucket already is out of reach, and the answer says so.

use crate::{blocks::LocalBlock, core::Core, wal::format::RecordKind, wal::tombstones::Deletion};
use model::time::TimeRange;
use roaring::RoaringBitmap;
use std::collections::HashSet;
use storage::index::Scan;

/// Series looked at in one go.
const BATCH_SERIES: usize = 1024;

/// What a deletion met in the local blocks.
#[derive(Debug, Default)]
pub(crate) struct InBlocks {
    pub(crate) series: u64,
    /// Copies that could not be reached, in words.
    pub(crate) unreached: Vec<String>,
}

/// Takes samples out of the head; gives the number of series that had some. No series may come or go meanwhile.
pub(crate) fn apply(core: &Core, deletion: &Deletion) -> u64 {
    let mut slots = RoaringBitmap::new();
    for selector in &deletion.selectors {
        slots |= core.head.find(&deletion.tenant, selector).exact(&core.head).0;
    }
    let had_some = |slot: &u32| {
        let deleted = core
            .head
            .with(*slot, |shard, place| shard.delete(place, deletion.range));
        deleted.unwrap_or(false)
    };
    slots.iter().filter(had_some).count() as u64
}

/// Takes samples out of the head and writes that down. Gives the number of series that had some, and the record that must be durable
/// before anybody is told; `None` before replay is over. Pushes wait meanwhile, so that log and head agree on what came before.
pub(crate) fn in_head(core: &Core, deletion: &Deletion) -> Option<(u64, u64)> {
    let wal = core.wal()?;
    let durable = wal.durable();
    let _commit = core.committer.lock();
    let mut log = wal.log();
    log.prepare();
    log.record(RecordKind::Tombstones, durable, |out| deletion.encode(out));
    let series = apply(core, deletion);
    wal.ring(log.pending_bytes());
    Some((series, log.sequence()))
}

/// Gives the local blocks tombstones. What was done stays done when one of them fails; asking again does the rest.
pub(crate) fn in_blocks(core: &Core, deletion: &Deletion) -> Result<InBlocks, String> {
    let mut found = InBlocks::default();
    for local in core.blocks.of(&deletion.tenant, deletion.range) {
        let series = bury(core, &local, deletion).map_err(|error| format!("block {}: {error}", local.ulid))?;
        found.series += series;
        if series > 0 && local.state().shipped.is_some() {
            let TimeRange { min, max } = local.range();
            found.unreached.push(format!(
                "block {} ({min} to {max}) is in the bucket, which keeps these samples and goes on giving them back",
                local.ulid
            ));
        }
    }
    found.unreached.extend(earlier_blocks(core, deletion));
    Ok(found)
}

/// Adds tombstones to one block; gives the number of series that get one.
fn bury(core: &Core, local: &LocalBlock, deletion: &Deletion) -> Result<u64, String> {
    let (index, span) = (local.block.index(), local.range());
    let range = TimeRange::new(deletion.range.min.max(span.min), deletion.range.max.min(span.max));
    let mut tombstones = (*local.block.tombstones()).clone();
    let mut buried = HashSet::new();
    for selector in &deletion.selectors {
        let mut scan = Scan::new(index, selector, range, true).map_err(|error| error.to_string())?;
        loop {
            let batch = scan
                .next_batch(index, BATCH_SERIES)
                .map_err(|error| error.to_string())?;
            if batch.is_empty() {
                break;
            }
            for series in batch {
                let covers = |held: &TimeRange| held.min <= range.min && range.max <= held.max;
                if !tombstones.of(series.id).iter().any(covers) {
                    tombstones.add(series.id, range);
                    buried.insert(series.id);
                }
            }
        }
    }
    if buried.is_empty() {
        return Ok(0);
    }
    let dir = core.blocks.dir(local.ulid);
    let written = local.block.set_tombstones(&*core.env.fs, &dir, tombstones);
    written.map_err(|error| format!("write tombstones: {error}"))?;
    Ok(buried.len() as u64)
}

/// Says so when the range reaches back to blocks that were uploaded and are not kept here any more.
fn earlier_blocks(core: &Core, deletion: &Deletion) -> Option<String> {
    let committer = core.committer.lock();
    let tenant = committer.tenants.iter().find(|state| state.tenant == deletion.tenant)?;
    let cut_until = tenant.cut_until?;
    drop(committer);
    let local = core.blocks.of(&deletion.tenant, TimeRange::ALL);
    let kept_from = local.iter().map(|local| local.range().min).min().unwrap_or(cut_until);
    (deletion.range.min < kept_from).then(|| {
        format!("blocks from before {kept_from} that are in the bucket were not looked at; what they hold of these series stays")
    })
}
