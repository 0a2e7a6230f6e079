//! The chunks of a window on their way into a block: marked, copied, and forgotten once the block is safe, or unmarked when it failed.

use super::Shard;
use crate::head::chunk::FLAG_FREE;
use model::time::{TimeRange, Timestamp};
use std::collections::HashSet;
use storage::block::SummedChunk;

/// What [`Shard::mark_window`] found.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) places: Vec<usize>,
    /// From the first to the last sample; empty without chunks.
    pub(crate) range: TimeRange,
}

impl Shard {
    /// Marks all chunks in the window `[begin, end)` of the series of a tenant at `places` that are in no block yet as belonging to
    /// `block`; open ones are completed first. Gives the places that have some, and the span of the chunks.
    pub(crate) fn mark_window(
        &mut self,
        tenant: u32,
        places: &[usize],
        (begin, end): (Timestamp, Timestamp),
        block: u32,
    ) -> Marked {
        let mut marked = Marked {
            places: Vec::new(),
            range: TimeRange::new(i64::MAX, i64::MIN),
        };
        for &place in places {
            let Some(hot) = self.hot.get(place) else { continue };
            if hot.tenant != tenant || hot.flags & FLAG_FREE != 0 {
                continue;
            }
            if self
                .open_chunk(place)
                .is_some_and(|open| open.min_time >= begin && open.min_time < end)
            {
                self.seal(place);
            }
            for sealed in &mut self.cold[place].sealed {
                if sealed.block == 0 && sealed.min_time >= begin && sealed.min_time < end {
                    sealed.block = block;
                    marked.range.min = marked.range.min.min(sealed.min_time);
                    marked.range.max = marked.range.max.max(sealed.max_time());
                    if marked.places.last() != Some(&place) {
                        marked.places.push(place);
                    }
                }
            }
            if let Some(late) = self.late.mark_window(place, (begin, end), block, &mut self.sealed) {
                marked.range.min = marked.range.min.min(late.min);
                marked.range.max = marked.range.max.max(late.max);
                if marked.places.last() != Some(&place) {
                    marked.places.push(place);
                }
            }
        }
        // Mostly all open chunks were of this window; their memory is taken again when the block holds them.
        self.blocks.shrink();
        marked
    }

    /// Appends the chunks of a series that belong to `block`. Tells whether there are late ones among them, which may overlap.
    pub(crate) fn marked_chunks(&self, place: usize, block: u32, out: &mut Vec<SummedChunk>) -> bool {
        let sealed = self.cold[place].sealed.iter().filter(|sealed| sealed.block == block);
        out.extend(sealed.map(|sealed| sealed.summed(&self.sealed)));
        let in_order = out.len();
        self.late.marked_chunks(place, block, &self.sealed, out);
        out.len() > in_order
    }

    /// Takes back the marks of a block in one series.
    pub(crate) fn unmark_series(&mut self, place: usize, block: u32) {
        let sealed = &mut self.cold[place].sealed;
        sealed
            .iter_mut()
            .filter(|sealed| sealed.block == block)
            .for_each(|sealed| sealed.block = 0);
        self.late.unmark(Some(place), block);
    }

    /// Takes back the marks of a block that was not written.
    pub(crate) fn unmark(&mut self, block: u32) {
        self.late.unmark(None, block);
        for cold in &mut self.cold {
            cold.sealed
                .iter_mut()
                .filter(|sealed| sealed.block == block)
                .for_each(|sealed| sealed.block = 0);
        }
    }

    /// Forgets the chunks that are in one of `blocks`.
    pub(crate) fn forget(&mut self, blocks: &HashSet<u32>) {
        self.late.forget(blocks, &mut self.sealed);
        for cold in &mut self.cold {
            if !cold.sealed.iter().any(|sealed| blocks.contains(&sealed.block)) {
                continue;
            }
            for gone in cold.sealed.iter().filter(|sealed| blocks.contains(&sealed.block)) {
                self.sealed.remove(gone);
            }
            cold.sealed.retain(|sealed| !blocks.contains(&sealed.block));
            cold.sealed.shrink_to_fit();
        }
        self.blocks.shrink();
    }
}
