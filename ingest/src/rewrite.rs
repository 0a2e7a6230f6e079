//! Writing a local block anew without its deleted samples: to free their space, and because a bucket knows no tombstones.
//!
//! The new block names the old one as its parent. When a crash leaves both, the next start removes the old one.

use crate::{
    blocks::LocalBlock,
    core::{Core, new_ulid},
};
use futures::executor::block_on;
use model::{
    select::{Select as _, SelectError, SelectRequest, Series},
    time::TimeRange,
};
use std::{collections::BTreeSet, sync::Arc};
use storage::block::{BlockMeta, BlockParent, BlockWriter};

/// Writes `local` anew and lets the new block take its place. A block that has no sample left just goes.
pub(crate) fn rewrite(core: &Core, local: &LocalBlock) -> Result<(), String> {
    let old = local.block.meta();
    let ulid = new_ulid(core);
    let mut meta = BlockMeta::new(ulid, old.min_time, old.max_time);
    meta.thanos.clone_from(&old.thanos);
    meta.compaction.level = old.compaction.level;
    meta.compaction.hints.clone_from(&old.compaction.hints);
    meta.compaction.parents = vec![BlockParent {
        ulid: old.ulid,
        min_time: old.min_time,
        max_time: old.max_time,
    }];
    let written = write(core, local, meta).map_err(|error| format!("block {}: {error}", local.ulid))?;
    let block = match written {
        true => Some(core.blocks.open_block(ulid)?.0),
        false => None,
    };
    let replaced = core.blocks.replace(local, block);
    replaced.map_err(|error| format!("replace block {}: {error}", local.ulid))
}

/// Writes what is left; tells whether that is anything.
fn write(core: &Core, local: &LocalBlock, meta: BlockMeta) -> Result<bool, String> {
    let mut symbols = BTreeSet::new();
    each_series(local, true, |series| {
        for (name, value) in series.labels.iter() {
            if !symbols.contains(name) {
                symbols.insert(name.to_owned());
            }
            if !symbols.contains(value) {
                symbols.insert(value.to_owned());
            }
        }
        Ok(())
    })?;
    let fs = Arc::clone(&core.env.fs);
    let writer = BlockWriter::create(fs, core.blocks.folder(), meta, symbols);
    let mut writer = writer.map_err(|error| error.to_string())?;
    each_series(local, false, |series| {
        let chunks = series.samples.chunks().map_err(|error| error.to_string())?;
        writer
            .add_series(&series.labels, &chunks)
            .map_err(|error| error.to_string())
    })?;
    Ok(writer.finish().map_err(|error| error.to_string())?.is_some())
}

/// Goes through what is left of a block.
fn each_series(
    local: &LocalBlock,
    labels_only: bool,
    mut visit: impl FnMut(&Series) -> Result<(), String>,
) -> Result<(), String> {
    let text = |error: SelectError| error.to_string();
    let mut request = SelectRequest::new(Vec::new(), TimeRange::ALL);
    request.labels_only = labels_only;
    let mut set = block_on(local.block.select(request)).map_err(text)?;
    while let Some(batch) = block_on(set.next()) {
        batch.map_err(text)?.iter().try_for_each(&mut visit)?;
    }
    Ok(())
}
