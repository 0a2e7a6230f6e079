//! The series of a window on their way from the head into a block.
//!
//! A block has them in the order of labels, in which neighbours lie far apart in memory, and waiting for memory is most of what a series
//! costs. So the chunks of some thousand series are taken together in the order of their places, where chunks that were completed
//! one after the other lie side by side, and then written in the order of labels.

use crate::{
    core::Core,
    head::{
        late::merged,
        shard::{Shard, place, shard_of},
    },
    ranks::{Chosen, Ranks, Sorted},
};
use model::select::Chunk;
use parking_lot::Mutex;
use std::{ops::Range, path::Path, sync::Arc};
use storage::{
    block::{BlockMeta, BlockWriteError, BlockWriter, SummedChunk},
    chunk,
};

/// Series whose chunks are taken together: with four chunks each they fit into the cache of a core.
const STEP: usize = 1024;

/// Writes the chunks of `chosen` that bear `mark` into a block in `folder`, which is yet to be finished.
pub(super) fn write_series(
    core: &Core,
    folder: &Path,
    meta: BlockMeta,
    ranks: &Ranks,
    chosen: &mut Chosen,
    mark: u32,
) -> Result<BlockWriter, BlockWriteError> {
    let fs = Arc::clone(&core.env.fs);
    let mut writer = BlockWriter::create(fs, folder, meta, ranks.texts(chosen))?;
    writer.expect(chosen.len(), chosen.labels);
    let (shards, mut taken) = (core.head.shards(), Taken::default());
    ranks.visit(&core.head, chosen, |series| {
        for begin in (0..series.len()).step_by(STEP) {
            let step = begin..series.len().min(begin + STEP);
            taken.take(&shards, series, step.clone(), mark);
            for (index, chunks) in step.zip(&taken.series) {
                write_one(
                    &mut writer,
                    series.labels(index),
                    &taken.chunks[chunks.range()],
                    chunks.mixed,
                )?;
            }
        }
        Ok(())
    })?;
    Ok(writer)
}

fn write_one(
    writer: &mut BlockWriter,
    labels: &[(u32, u32)],
    chunks: &[SummedChunk],
    mixed: bool,
) -> Result<(), BlockWriteError> {
    if !mixed {
        return writer.add_numbered_series(labels, chunks);
    }
    // What came late goes between what came in order; chunks of a block do not overlap.
    let mut chunks: Vec<Chunk> = chunks.iter().map(|summed| summed.chunk.clone()).collect();
    let samples = merged(&mut chunks).map_err(|error| writer.unreadable(labels, error))?;
    let chunks: Vec<SummedChunk> = chunk::encode_samples(&samples)
        .into_iter()
        .map(SummedChunk::of)
        .collect();
    writer.add_numbered_series(labels, &chunks)
}

/// Chunks taken out of the head. Its memory is used again.
#[derive(Default)]
struct Taken {
    chunks: Vec<SummedChunk>,
    /// Which of them each series has, in the order of labels.
    series: Vec<SeriesChunks>,
    /// Slot and position in `series`, by slot.
    by_slot: Vec<(u32, u32)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct SeriesChunks {
    begin: u32,
    end: u32,
    /// Whether there are late samples among them.
    mixed: bool,
}

impl SeriesChunks {
    fn range(&self) -> Range<usize> {
        self.begin as usize..self.end as usize
    }
}

impl Taken {
    /// Takes the marked chunks of the series in `step`.
    fn take(&mut self, shards: &[Arc<Mutex<Shard>>], series: &Sorted<'_>, step: Range<usize>, mark: u32) {
        let Self {
            chunks,
            series: found,
            by_slot,
        } = self;
        chunks.clear();
        found.clear();
        found.resize(step.len(), SeriesChunks::default());
        by_slot.clear();
        by_slot.extend(step.zip(0..).map(|(index, position)| (series.slot(index), position)));
        by_slot.sort_unstable();
        for run in by_slot.chunk_by(|a, b| shard_of(a.0) == shard_of(b.0)) {
            let Some(shard) = shards.get(shard_of(run[0].0)) else {
                continue;
            };
            let shard = shard.lock();
            for &(slot, position) in run {
                let begin = chunks.len() as u32;
                let mixed = shard.marked_chunks(place(slot), mark, chunks);
                found[position as usize] = SeriesChunks {
                    begin,
                    end: chunks.len() as u32,
                    mixed,
                };
            }
        }
    }
}
