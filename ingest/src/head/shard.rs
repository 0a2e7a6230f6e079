//! The samples of a range of series, behind one lock.
//!
//! A shard is a range of slots, not a hash of them: series are numbered as they come, so a batch of one sender touches few shards, each
//! for a long run.

mod delete;
mod known;
mod window;

pub(crate) use known::{Lookup, is_same_histogram};

use super::{
    chunk::{Blocks, FLAG_FREE, FLAG_HISTOGRAM, FLAG_OPEN_HISTOGRAMS, Hot, NEVER},
    late::{LateSamples, LateValue},
    sealed::{ChunkInfo, Sealed, SealedChunks},
};
use bytes::Bytes;
use model::{
    histogram::Histogram,
    sample::SampleBuffer,
    select::Chunk,
    time::{TimeRange, Timestamp, block_start},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicUsize},
};
use storage::chunk::{ChunkError, ENCODING_XOR, HistogramChunk};

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

impl Cold {
    /// Adds a complete chunk. Vectors begin with room for four, but a window that is cut early or scraped rarely has one chunk.
    fn push(&mut self, sealed: Sealed) {
        if self.sealed.len() == self.sealed.capacity() {
            self.sealed.reserve_exact(1 + self.sealed.len());
        }
        self.sealed.push(sealed);
    }
}

/// The samples of up to [`SHARD_SLOTS`] series.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) hot: Vec<Hot>,
    cold: Vec<Cold>,
    blocks: Blocks,
    sealed: SealedChunks,
    /// Open chunks of series whose newest samples are histograms.
    histograms: HashMap<usize, HistogramChunk>,
    /// Samples older than the newest of their series when they came.
    late: LateSamples,
}

impl Shard {
    /// An empty shard that counts the memory of its late samples in `late_bytes`.
    pub(crate) fn counting(late_bytes: Arc<AtomicUsize>) -> Self {
        Self {
            hot: Vec::new(),
            cold: Vec::new(),
            blocks: Blocks::new(),
            sealed: SealedChunks::default(),
            histograms: HashMap::new(),
            late: LateSamples::counted(late_bytes),
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

    /// Something of the hot state at a place, for who wants it to be near soon.
    #[inline]
    pub(crate) fn peek(&self, place: usize) -> u64 {
        self.hot.get(place).map_or(0, |hot| hot.number)
    }

    /// The same of the memory that its next bits go to.
    #[inline]
    pub(crate) fn peek_bits(&self, place: usize) -> u64 {
        self.hot.get(place).map_or(0, |hot| hot.peek_bits(&self.blocks))
    }

    /// Appends a float that is newer than the newest sample. Tells whether a chunk began with it.
    #[inline(always)]
    pub(crate) fn append_float(&mut self, place: usize, at: Timestamp, bits: u64) -> bool {
        let hot = &mut self.hot[place];
        if hot.flags == 0 && hot.open_count() > 0 && !hot.must_cut(at) {
            return hot.append(&mut self.blocks, at, bits);
        }
        self.begin_chunk(place, at, bits);
        true
    }

    /// The same for a float that its series' open chunk does not take.
    #[cold]
    fn begin_chunk(&mut self, place: usize, at: Timestamp, bits: u64) {
        if self.hot[place].flags != 0 {
            self.leave_histograms(place);
        } else {
            self.seal(place);
        }
        let hot = &mut self.hot[place];
        hot.append(&mut self.blocks, at, bits);
        self.cold[place].first_block = hot.first_block(&self.blocks);
    }

    #[cold]
    fn leave_histograms(&mut self, place: usize) {
        self.seal(place);
        self.hot[place].flags &= !FLAG_HISTOGRAM;
    }

    /// Appends a histogram that is newer than the newest sample. Tells whether a chunk began with it.
    pub(crate) fn append_histogram(&mut self, place: usize, at: Timestamp, histogram: &Histogram) -> bool {
        let goes_on = |chunk: &HistogramChunk| !chunk.is_full() && block_start(chunk.first_at()) == block_start(at);
        let open = self.histograms.get_mut(&place).filter(|chunk| goes_on(chunk));
        let appended = open.is_some_and(|chunk| chunk.append(at, histogram));
        if !appended {
            // The chunk before, if it held histograms, tells whether the counter was reset since.
            let previous = self.histograms.get(&place).cloned();
            self.seal(place);
            self.histograms
                .insert(place, HistogramChunk::begin(at, histogram, previous.as_ref()));
        }
        let hot = &mut self.hot[place];
        hot.last_at = at;
        hot.flags |= FLAG_HISTOGRAM | FLAG_OPEN_HISTOGRAMS;
        !appended
    }

    /// Goes on with an open chunk of histograms; `false` when it cannot be read.
    pub(crate) fn restore_histograms(&mut self, place: usize, encoding: u8, data: &[u8]) -> bool {
        let Ok(chunk) = HistogramChunk::resume(encoding, data) else {
            return false;
        };
        self.seal(place);
        let hot = &mut self.hot[place];
        hot.last_at = chunk.last_at();
        hot.flags |= FLAG_HISTOGRAM | FLAG_OPEN_HISTOGRAMS;
        self.histograms.insert(place, chunk);
        true
    }

    /// Goes on with an open chunk of floats, in a series that has no samples; gives the time that it spans. `None` when the bytes are no
    /// such chunk.
    pub(crate) fn restore_floats(&mut self, place: usize, data: &[u8]) -> Option<(Timestamp, Timestamp)> {
        let hot = &mut self.hot[place];
        if hot.flags != 0 || hot.last_at != NEVER || hot.open_count() > 0 {
            return None;
        }
        let (first_block, begin) = hot.resume(&mut self.blocks, data)?;
        self.cold[place].first_block = first_block;
        Some((begin, hot.last_at))
    }

    /// Completes the open chunk, if there is one.
    #[cold]
    pub(crate) fn seal(&mut self, place: usize) {
        let (hot, cold) = (&mut self.hot[place], &mut self.cold[place]);
        if hot.flags & FLAG_OPEN_HISTOGRAMS != 0 {
            hot.flags &= !FLAG_OPEN_HISTOGRAMS;
            if let Some(chunk) = self.histograms.remove(&place) {
                let info = histogram_info(&chunk);
                cold.push(self.sealed.add(info, |out| out.extend_from_slice(chunk.data())));
            }
            return;
        }
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
        cold.push(sealed);
    }

    /// What the open chunk of a series is, if there is one.
    pub(crate) fn open_chunk(&self, place: usize) -> Option<ChunkInfo> {
        let hot = &self.hot[place];
        if hot.flags & FLAG_OPEN_HISTOGRAMS != 0 {
            return self.histograms.get(&place).map(histogram_info);
        }
        (hot.open_count() > 0).then(|| ChunkInfo {
            min_time: hot.open_begin(),
            max_time: hot.last_at,
            samples: hot.open_count(),
            encoding: ENCODING_XOR,
        })
    }

    /// Appends the bytes of the open chunk.
    pub(crate) fn copy_open(&self, place: usize, out: &mut Vec<u8>) {
        let hot = &self.hot[place];
        if hot.flags & FLAG_OPEN_HISTOGRAMS == 0 {
            hot.copy_open(&self.blocks, self.cold[place].first_block, out);
        } else if let Some(chunk) = self.histograms.get(&place) {
            out.extend_from_slice(chunk.data());
        }
    }

    /// Adds a complete chunk that is newer than all there are; the newest sample stays what it is.
    pub(crate) fn add_sealed(&mut self, place: usize, info: ChunkInfo, data: &[u8]) {
        let sealed = self.sealed.add(info, |out| out.extend_from_slice(data));
        self.cold[place].push(sealed);
    }

    /// Adds a sample that is older than the newest of its series, at a time for which [`Self::lookup`] says "absent".
    pub(crate) fn insert_late(&mut self, place: usize, at: Timestamp, value: LateValue) {
        self.late.insert(place, at, value, &mut self.sealed);
    }

    /// Adds late samples that were packed before.
    pub(crate) fn add_late(&mut self, place: usize, info: ChunkInfo, data: &[u8]) {
        self.late.add_packed(place, info, data, &mut self.sealed);
    }

    /// The complete chunks of a series, all late samples, and the bytes of both.
    pub(super) fn chunks_of(&mut self, place: usize) -> (&mut Vec<Sealed>, &mut LateSamples, &mut SealedChunks) {
        (&mut self.cold[place].sealed, &mut self.late, &mut self.sealed)
    }

    /// Places of the series that have late samples.
    pub(crate) fn late_places(&self) -> Vec<usize> {
        self.late.places()
    }

    /// The late samples of a series.
    pub(crate) fn read_late(&self, place: usize) -> Result<SampleBuffer, ChunkError> {
        self.late.read(place, &self.sealed)
    }

    /// Puts others in the place of the late samples of a series.
    pub(crate) fn replace_late(&mut self, place: usize, samples: &SampleBuffer) {
        self.late.replace(place, samples, &mut self.sealed);
    }

    /// Appends chunks of the late samples of a series that are in none of `blocks`.
    pub(crate) fn copy_late(&self, place: usize, blocks: &HashSet<u32>, out: &mut Vec<Chunk>) {
        self.late.copy_chunks(place, TimeRange::ALL, blocks, &self.sealed, out);
    }

    /// The newest sample of the series when that is a float of its open chunk and lies in `range`.
    #[inline]
    pub(crate) fn newest_float(&self, place: usize, range: TimeRange) -> Option<(Timestamp, f64)> {
        let hot = &self.hot[place];
        let known = hot.flags == 0 && hot.open_count() > 0 && range.contains(hot.last_at);
        known.then(|| (hot.last_at, f64::from_bits(hot.last_bits)))
    }

    /// Whether the series has a sample in `range`, as far as its chunks tell.
    pub(crate) fn has_samples(&self, place: usize, range: TimeRange) -> bool {
        let reaches = |min: Timestamp, max: Timestamp| range.overlaps(TimeRange::new(min, max));
        let open = self
            .open_chunk(place)
            .is_some_and(|open| reaches(open.min_time, open.max_time));
        let in_order = open
            || self.cold[place]
                .sealed
                .iter()
                .any(|chunk| reaches(chunk.min_time, chunk.max_time()));
        in_order || self.late.has_samples(place, range)
    }

    /// Appends the chunks of a series that reach into `range`: those in order ascending, then the late ones.
    pub(crate) fn copy_chunks(&self, place: usize, range: TimeRange, out: &mut Vec<Chunk>) {
        out.reserve_exact(self.cold[place].sealed.len() + 1);
        for sealed in &self.cold[place].sealed {
            if range.overlaps(TimeRange::new(sealed.min_time, sealed.max_time())) {
                out.push(sealed.chunk(&self.sealed));
            }
        }
        let open = self.open_chunk(place);
        if let Some(open) = open.filter(|open| range.overlaps(TimeRange::new(open.min_time, open.max_time))) {
            let mut data = Vec::new();
            self.copy_open(place, &mut data);
            out.push(Chunk {
                min_time: open.min_time,
                max_time: open.max_time,
                encoding: open.encoding,
                data: Bytes::from(data),
            });
        }
        self.late.copy_chunks(place, range, &HashSet::new(), &self.sealed, out);
    }

    /// Places of series that hold no samples and got none since `before` gives for their tenant.
    pub(crate) fn idle(&self, before: impl Fn(u32) -> Timestamp) -> Vec<usize> {
        let is_idle = |(place, (hot, cold)): (usize, (&Hot, &Cold))| {
            hot.flags & FLAG_FREE == 0
                && hot.flags & FLAG_OPEN_HISTOGRAMS == 0
                && hot.open_count() == 0
                && cold.sealed.is_empty()
                && hot.last_at < before(hot.tenant)
                && !self.late.has_any(place)
        };
        let series = self.hot.iter().zip(&self.cold).enumerate();
        series
            .filter(|series| is_idle(*series))
            .map(|(place, _)| place)
            .collect()
    }

    /// Frees the place of a series that [`Self::idle`] named.
    pub(crate) fn remove(&mut self, place: usize) {
        self.late.remove(place, &mut self.sealed);
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

    /// The bytes of all complete chunks, for who moves them to files.
    pub(crate) fn pieces(&mut self) -> &mut SealedChunks {
        &mut self.sealed
    }

    /// Bytes of a complete chunk.
    pub(crate) fn sealed_bytes(&self, sealed: &Sealed) -> &[u8] {
        self.sealed.view(sealed)
    }

    /// Number of chunks of a series, and the span of their samples.
    pub(crate) fn extent(&self, place: usize) -> Option<(u64, Option<(Timestamp, Timestamp)>)> {
        self.hot.get(place).filter(|hot| hot.flags & FLAG_FREE == 0)?;
        let (sealed, open) = (&self.cold[place].sealed, self.open_chunk(place));
        let min = sealed
            .first()
            .map(|first| first.min_time)
            .or(open.map(|open| open.min_time));
        let max = open.map(|open| open.max_time).or(sealed.last().map(Sealed::max_time));
        let in_order = min.zip(max);
        let chunks = sealed.len() as u64 + u64::from(open.is_some());
        let Some((late_chunks, late)) = self.late.extent(place) else {
            return Some((chunks, in_order));
        };
        let (min, max) = in_order.unwrap_or((late.min, late.max));
        Some((chunks + late_chunks, Some((min.min(late.min), max.max(late.max)))))
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

fn histogram_info(chunk: &HistogramChunk) -> ChunkInfo {
    ChunkInfo {
        min_time: chunk.first_at(),
        max_time: chunk.last_at(),
        samples: chunk.count(),
        encoding: chunk.encoding(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::time::BLOCK_RANGE_MS;
    use storage::chunk;

    fn samples(chunks: &[Chunk]) -> Vec<(i64, f64)> {
        let mut buffer = SampleBuffer::default();
        for chunk in chunks {
            chunk::decode(chunk.encoding, &chunk.data, TimeRange::ALL, &mut buffer).unwrap();
        }
        buffer.timestamps.into_iter().zip(buffer.values).collect()
    }

    #[test]
    fn samples_are_found_taken_and_forgotten() {
        let mut shard = Shard::counting(Arc::default());
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
        let chunks: Vec<Chunk> = chunks.into_iter().map(|summed| summed.chunk).collect();
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
