//! Shipping: blocks go to the bucket, once, verified, in order; then head and WAL may let go of them.
//!
//! A block that cannot be uploaded is tried again after a pause that grows; the others go on. One that is itself damaged is set aside
//! with its reason. Nothing is deleted before what replaces it is known to be safe.

use crate::{blocks::LocalBlock, core::Core};
use futures::future::{self, Either};
use model::time::TimeRange;
use std::{sync::Arc, time::Duration};
use storage::bucket::ObjectStore;
use storage::{
    bucket::{UploadError, upload_block},
    index::Scan,
};

/// Pause after the first failure; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// After so many blocks it is written down which are in the bucket: after each one, thousands of tenants would write the list
/// thousands of times.
const SAVE_AFTER: usize = 64;

/// Uploads what waits. With `now`, also what is in its pause after a failure. Gives the reasons of those that failed.
pub(crate) async fn ship(core: &Core, bucket: &dyn ObjectStore, now: bool) -> Vec<String> {
    let (mut failures, mut unsaved) = (Vec::new(), 0);
    for local in core.blocks.all() {
        let state = local.state();
        if core.is_closing() {
            failures.push("the ingester is shutting down".into());
            break;
        }
        if state.shipped.is_some() || (!now && core.env.clock.monotonic() < state.not_before) {
            continue;
        }
        if let Err(reason) = ship_block(core, bucket, &local).await {
            failures.push(format!("block {} of tenant {}: {reason}", local.ulid, local.tenant));
            continue;
        }
        unsaved += 1;
        if unsaved == SAVE_AFTER {
            save(core, &mut failures);
            unsaved = 0;
        }
    }
    if unsaved > 0 {
        save(core, &mut failures);
    }
    let waiting = core
        .blocks
        .all()
        .iter()
        .filter(|local| local.state().shipped.is_none())
        .count();
    core.metrics.blocks_unshipped.set(waiting as i64);
    failures
}

fn save(core: &Core, failures: &mut Vec<String>) {
    if let Err(error) = core.blocks.save_shipped() {
        failures.push(format!("note which blocks are in the bucket: {error}"));
    }
}

async fn ship_block(core: &Core, bucket: &dyn ObjectStore, local: &Arc<LocalBlock>) -> Result<(), String> {
    let dir = core.blocks.dir(local.ulid);
    let upload = upload_block(bucket, &*core.env.fs, &dir, core.env.clock.now());
    // Dropped half way, the upload leaves objects that nobody sees; the next one goes on from them.
    let Either::Left((uploaded, _)) = future::select(Box::pin(upload), Box::pin(core.closed())).await else {
        return Err("the ingester is shutting down".into());
    };
    match uploaded {
        Ok(uploaded) => {
            core.metrics.blocks_shipped.inc();
            tracing::info!(block = %local.ulid, tenant = %local.tenant, bytes = uploaded.bytes, "a block is in the bucket");
            local.change(|state| {
                state.shipped = Some(core.env.clock.now());
                (state.failures, state.reason) = (0, None);
            });
            Ok(())
        }
        Err(error) => {
            core.metrics.ship_failures.inc();
            let reason = error.to_string();
            if matches!(error, UploadError::Block(_) | UploadError::NoLabels(_)) {
                give_up(core, local, &reason);
                return Err(reason);
            }
            let random = core.env.rng.next_u64();
            local.change(|state| {
                let pause = PAUSE.saturating_mul(1 << state.failures.min(16)).min(PAUSE_MAX);
                // Between half and all of it, so that nodes do not come back in step.
                let pause = pause / 2 + (pause / 2).mul_f64((random >> 11) as f64 / (1u64 << 53) as f64);
                state.failures = state.failures.saturating_add(1);
                state.not_before = core.env.clock.monotonic() + pause;
                state.reason = Some(reason.clone());
            });
            tracing::warn!(block = %local.ulid, tenant = %local.tenant, reason, "a block could not be uploaded");
            Err(reason)
        }
    }
}

/// Sets a block aside that can never be uploaded. If the head still has its samples they are cut again.
fn give_up(core: &Core, local: &LocalBlock, reason: &str) {
    core.blocks.set_aside(local.ulid, reason);
    if local.state().forgotten {
        return;
    }
    core.head
        .shards()
        .iter()
        .for_each(|shard| shard.lock().unmark(local.mark));
    let mut committer = core.committer.lock();
    if let Some(tenant) = committer
        .tenants
        .iter_mut()
        .find(|tenant| tenant.tenant == local.tenant)
    {
        tenant.note_chunk(local.range().min);
    }
}

/// Reads a local block from end to end and compares every checksum.
pub(crate) fn verify(local: &LocalBlock) -> Result<(), String> {
    let index = local.block.index();
    let mut scan = Scan::new(index, &[], TimeRange::ALL, false).map_err(|error| error.to_string())?;
    let mut chunks = 0;
    loop {
        let batch = scan.next_batch(index, 1024).map_err(|error| error.to_string())?;
        if batch.is_empty() {
            break;
        }
        for reference in batch.iter().flat_map(|series| &series.chunks) {
            local.block.chunk(reference).map_err(|error| error.to_string())?;
            chunks += 1;
        }
    }
    let promised = local.block.meta().stats.num_chunks;
    if chunks == promised {
        Ok(())
    } else {
        Err(format!("{chunks} of {promised} chunks are there"))
    }
}
