//! The samples of a range of series, behind one lock.
//!
//! A shard is a range of slots, not a hash of them: series are numbered as they come, so a batch of one sender touches few shards, each
//! for a long run.

use super::{
    chunk::{Blocks, FLAG_FREE, FLAG_HISTOGRAM, Hot},
    sealed::{ChunkInfo, Sealed, SealedChunks},
};
use bytes::Bytes;
use model::{
    select::Chunk,
    time::{TimeRange, Timestamp},
};
use std::collections::HashSet;
use storage::chunk::{ENCODING_XOR, XorReader, is_histogram};

/// Series of a shard.
pub(crate) const SHARD_SLOTS: usize = 4096;

/// Where in its shard a slot lies.
#[inline]
pub(crate) fn place(slot: u32) -> usize {
    slot as usize % SHARD_SLOTS
}

/// Which shard a slot lies in.
#[inline]
pub(crate) fn shard_of(slot: u32) -> usize {
    slot as usize / SHARD_SLOTS
}

/// What a series has besides its hot state.
#[derive(Debug, Default)]
struct Cold {
    /// First block of the open chunk, if there is one.
    first_block: u32,
    /// Complete chunks, ascending by time.
    sealed: Vec<Sealed>,
}

/// What the head knows about a point in time of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// There is a float with these bits.
    Float(u64),
    /// There is a histogram.
    Histogram,
    /// The head holds no sample there.
    Absent,
}

/// What [`Shard::mark_window`] found.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) places: Vec<usize>,
    /// From the first to the last sample; empty without chunks.
    pub(crate) range: TimeRange,
}

/// The samples of up to [`SHARD_SLOTS`] series.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) hot: Vec<Hot>,
    cold: Vec<Cold>,
    blocks: Blocks,
    sealed: SealedChunks,
}

impl Shard {
    pub(crate) fn new() -> Self {
        Self {
            hot: Vec::new(),
            cold: Vec::new(),
            blocks: Blocks::new(),
            sealed: SealedChunks::default(),
        }
    }

    /// Puts a new series into a free place.
    pub(crate) fn insert(&mut self, place: usize, hot: Hot) {
        while self.hot.len() <= place {
            self.hot.push(Hot::free());
            self.cold.push(Cold::default());
        }
        self.hot[place] = hot;
        self.cold[place] = Cold::default();
    }

    /// The hot state of the series with this number, unless it is gone.
    pub(crate) fn series(&self, place: usize, number: u64) -> Option<&Hot> {
        self.hot
            .get(place)
            .filter(|hot| hot.number == number && hot.flags & FLAG_FREE == 0)
    }

    /// Appends a float that is newer than the newest sample. Tells whether a chunk began with it.
    #[inline]
    pub(crate) fn append_float(&mut self, place: usize, at: Timestamp, bits: u64) -> bool {
        if self.hot[place].must_cut(at) {
            self.seal(place);
        }
        let hot = &mut self.hot[place];
        hot.flags &= !FLAG_HISTOGRAM;
        let begins = hot.append(&mut self.blocks, at, bits);
        if begins {
            self.cold[place].first_block = hot.first_block(&self.blocks);
        }
        begins
    }

    /// Completes the open chunk, if there is one.
    #[cold]
    pub(crate) fn seal(&mut self, place: usize) {
        let (hot, cold) = (&mut self.hot[place], &mut self.cold[place]);
        if hot.open_count() == 0 {
            return;
        }
        let info = ChunkInfo {
            min_time: hot.open_begin(),
            max_time: hot.last_at,
            samples: hot.open_count(),
            encoding: ENCODING_XOR,
        };
        let sealed = self
            .sealed
            .add(info, |out| hot.copy_open(&self.blocks, cold.first_block, out));
        hot.close(&mut self.blocks, cold.first_block);
        cold.sealed.push(sealed);
    }

    /// Adds a complete chunk that is newer than all there are; the newest sample stays what it is.
    pub(crate) fn add_sealed(&mut self, place: usize, info: ChunkInfo, data: &[u8]) {
        let sealed = self.sealed.add(info, |out| out.extend_from_slice(data));
        self.cold[place].sealed.push(sealed);
    }

    /// What the head holds of a series at a point in time.
    pub(crate) fn lookup(&self, place: usize, at: Timestamp) -> Lookup {
        let (hot, cold) = (&self.hot[place], &self.cold[place]);
        if hot.open_count() > 0 && at >= hot.open_begin() {
            let mut bytes = Vec::new();
            hot.copy_open(&self.blocks, cold.first_block, &mut bytes);
            return lookup_float(&bytes, at);
        }
        let behind = cold.sealed.partition_point(|chunk| chunk.min_time <= at);
        let Some(chunk) = behind.checked_sub(1).map(|index| &cold.sealed[index]) else {
            return Lookup::Absent;
        };
        if at > chunk.max_time() {
            return Lookup::Absent;
        }
        if is_histogram(chunk.encoding) {
            return Lookup::Histogram;
        }
        lookup_float(self.sealed.view(chunk), at)
    }

    /// Whether the series has a sample in `range`, as far as its chunks tell.
    pub(crate) fn has_samples(&self, place: usize, range: TimeRange) -> bool {
        let (hot, cold) = (&self.hot[place], &self.cold[place]);
        let open = hot.open_count() > 0 && range.overlaps(TimeRange::new(hot.open_begin(), hot.last_at));
        open || cold
            .sealed
            .iter()
            .any(|chunk| range.overlaps(TimeRange::new(chunk.min_time, chunk.max_time())))
    }

    /// Appends the chunks of a series that reach into `range`, ascending.
    pub(crate) fn copy_chunks(&self, place: usize, range: TimeRange, out: &mut Vec<Chunk>) {
        let (hot, cold) = (&self.hot[place], &self.cold[place]);
        for sealed in &cold.sealed {
            if range.overlaps(TimeRange::new(sealed.min_time, sealed.max_time())) {
                out.push(self.chunk(sealed));
            }
        }
        if hot.open_count() > 0 && range.overlaps(TimeRange::new(hot.open_begin(), hot.last_at)) {
            let mut data = Vec::new();
            hot.copy_open(&self.blocks, cold.first_block, &mut data);
            out.push(Chunk {
                min_time: hot.open_begin(),
                max_time: hot.last_at,
                encoding: ENCODING_XOR,
                data: Bytes::from(data),
            });
        }
    }

    fn chunk(&self, sealed: &Sealed) -> Chunk {
        Chunk {
            min_time: sealed.min_time,
            max_time: sealed.max_time(),
            encoding: sealed.encoding,
            data: self.sealed.get(sealed),
        }
    }

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
            if hot.open_count() > 0 && hot.open_begin() >= begin && hot.open_begin() < end {
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
        }
        marked
    }

    /// Appends the chunks of a series that belong to `block`.
    pub(crate) fn marked_chunks(&self, place: usize, block: u32, out: &mut Vec<Chunk>) {
        let sealed = self.cold[place].sealed.iter().filter(|sealed| sealed.block == block);
        out.extend(sealed.map(|sealed| self.chunk(sealed)));
    }

    /// Takes back the marks of a block in one series.
    pub(crate) fn unmark_series(&mut self, place: usize, block: u32) {
        let sealed = &mut self.cold[place].sealed;
        sealed
            .iter_mut()
            .filter(|sealed| sealed.block == block)
            .for_each(|sealed| sealed.block = 0);
    }

    /// Takes back the marks of a block that was not written.
    pub(crate) fn unmark(&mut self, block: u32) {
        for cold in &mut self.cold {
            cold.sealed
                .iter_mut()
                .filter(|sealed| sealed.block == block)
                .for_each(|sealed| sealed.block = 0);
        }
    }

    /// Forgets the chunks that are in one of `blocks`.
    pub(crate) fn forget(&mut self, blocks: &HashSet<u32>) {
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

    /// Places of series that hold no samples and got none since `before` gives for their tenant.
    pub(crate) fn idle(&self, before: impl Fn(u32) -> Timestamp) -> Vec<usize> {
        let is_idle = |(hot, cold): (&Hot, &Cold)| {
            hot.flags & FLAG_FREE == 0
                && hot.open_count() == 0
                && cold.sealed.is_empty()
                && hot.last_at < before(hot.tenant)
        };
        let series = self.hot.iter().zip(&self.cold).enumerate();
        series
            .filter(|(_, series)| is_idle(*series))
            .map(|(place, _)| place)
            .collect()
    }

    /// Frees the place of a series that [`Self::idle`] named.
    pub(crate) fn remove(&mut self, place: usize) {
        self.seal(place);
        for sealed in std::mem::take(&mut self.cold[place].sealed) {
            self.sealed.remove(&sealed);
        }
        self.hot[place] = Hot::free();
    }

    /// Complete chunks of a series.
    pub(crate) fn sealed(&self, place: usize) -> &[Sealed] {
        self.cold.get(place).map_or(&[], |cold| &cold.sealed)
    }

    /// Bytes of a complete chunk.
    pub(crate) fn sealed_bytes(&self, sealed: &Sealed) -> &[u8] {
        self.sealed.view(sealed)
    }

    /// Appends the bytes of the open chunk.
    pub(crate) fn copy_open(&self, place: usize, out: &mut Vec<u8>) {
        self.hot[place].copy_open(&self.blocks, self.cold[place].first_block, out);
    }

    /// Number of chunks of all series.
    pub(crate) fn chunk_count(&self) -> u64 {
        let count = |(hot, cold): (&Hot, &Cold)| u64::from(hot.open_count() > 0) + cold.sealed.len() as u64;
        self.hot.iter().zip(&self.cold).map(count).sum()
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        let lists: usize = self
            .cold
            .iter()
            .map(|cold| cold.sealed.capacity() * size_of::<Sealed>())
            .sum();
        self.hot.capacity() * size_of::<Hot>()
            + self.cold.capacity() * size_of::<Cold>()
            + lists
            + self.blocks.memory()
            + self.sealed.memory()
    }
}

/// Looks for a timestamp in an XOR chunk.
fn lookup_float(chunk: &[u8], at: Timestamp) -> Lookup {
    let Ok(mut reader) = XorReader::new(chunk) else {
        return Lookup::Absent;
    };
    while let Ok(Some((time, value))) = reader.next() {
        if time >= at {
            return if time == at {
                Lookup::Float(value.to_bits())
            } else {
                Lookup::Absent
            };
        }
    }
    Lookup::Absent
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{sample::SampleBuffer, time::BLOCK_RANGE_MS};

    fn samples(chunks: &[Chunk]) -> Vec<(i64, f64)> {
        let mut buffer = SampleBuffer::default();
        for chunk in chunks {
            storage::chunk::decode(chunk.encoding, &chunk.data, TimeRange::ALL, &mut buffer).unwrap();
        }
        buffer.timestamps.into_iter().zip(buffer.values).collect()
    }

    #[test]
    fn samples_are_found_taken_and_forgotten() {
        let mut shard = Shard::new();
        shard.insert(5, Hot::new(1, 0));
        let expected: Vec<_> = (1..1000).map(|index| (index * 15_000, index as f64 / 3.0)).collect();
        for &(at, value) in &expected {
            shard.append_float(5, at, value.to_bits());
        }
        for &(at, value) in &expected {
            assert_eq!(shard.lookup(5, at), Lookup::Float(value.to_bits()));
            assert_eq!(shard.lookup(5, at + 1), Lookup::Absent);
        }
        assert_eq!(shard.lookup(5, 0), Lookup::Absent);
        let mut chunks = Vec::new();
        shard.copy_chunks(5, TimeRange::ALL, &mut chunks);
        assert_eq!(samples(&chunks), expected);

        let marked = shard.mark_window(0, &[4, 5, 6], (0, BLOCK_RANGE_MS), 7);
        assert_eq!(
            (marked.places, marked.range),
            (vec![5], TimeRange::new(15_000, BLOCK_RANGE_MS - 15_000))
        );
        let mut chunks = Vec::new();
        shard.marked_chunks(5, 7, &mut chunks);
        assert_eq!(samples(&chunks), expected[..479]);
        assert!(
            shard.mark_window(0, &[5], (0, BLOCK_RANGE_MS), 8).places.is_empty(),
            "a chunk is in one block only"
        );
        assert!(
            shard.mark_window(1, &[5], (0, i64::MAX), 8).places.is_empty(),
            "the series is of another tenant"
        );
        shard.unmark(7);
        assert_eq!(shard.mark_window(0, &[5], (0, BLOCK_RANGE_MS), 8).places, [5]);
        shard.forget(&HashSet::from([8]));
        let mut rest = Vec::new();
        shard.copy_chunks(5, TimeRange::ALL, &mut rest);
        assert_eq!(samples(&rest), expected[479..]);
        assert_eq!(shard.idle(|_| i64::MAX), Vec::<usize>::new());
    }
}
