//! A block of the bucket: its header at hand or fetched, entries of series and chunks read when asked for.

use super::{
    Shared,
    cache::Part,
    fetch::{Fetch, Want, likely_end, plan},
};
use crate::{
    block::{BlockMeta, FrameError, INDEX_FILE, read_frame, select_error},
    bucket::{BlockListing, block_object, chunks_object},
    index::{ChunkRef, EntryRange, Index, IndexError, SeriesBytes, is_entry_intact},
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use model::{
    label::Labels,
    select::{Chunk, SelectError},
    tenant::Tenant,
};
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

/// Guess for the size of a chunk when the block does not tell its largest; as Thanos guesses.
const CHUNK_BYTES_GUESS: u64 = 16_000;

/// What stands behind the data of a chunk.
const CHECKSUM_BYTES: usize = 4;

/// How often a chunk is read again because it turned out longer than guessed: for its length, then for its data.
const REREADS_MAX: usize = 2;

/// A block that is served.
pub(super) struct RemoteBlock {
    pub(super) meta: BlockMeta,
    pub(super) tenant: Tenant,
    /// External labels of its series that matchers see.
    pub(super) external: Labels,
    /// Those of them that series carry.
    pub(super) visible: Labels,
    /// What lies in the bucket.
    pub(super) listing: BlockListing,
    /// Sizes of its segments.
    pub(super) segments: Vec<u64>,
    /// Set once its header is on disk and was found in order.
    pub(super) prepared: AtomicBool,
    /// Set when the header turned out damaged: the next sync fetches a new one.
    pub(super) suspect: AtomicBool,
}

/// A chunk that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkWant {
    pub(super) chunk: ChunkRef,
    /// Where in the segment it likely ends.
    pub(super) end: u64,
    /// Which series of the batch it is for.
    pub(super) series: usize,
}

impl ChunkWant {
    pub(super) fn bytes(&self) -> u64 {
        self.end - u64::from(self.chunk.offset())
    }
}

/// Entries of series fetched for a query. Of a question over everything there are some of every block, so this is small.
#[derive(Default)]
pub(super) struct Entries {
    /// Ascending once all were added, none twice.
    by_id: Vec<(u32, Bytes)>,
}

impl SeriesBytes for Entries {
    fn entry(&self, id: u32) -> Option<&[u8]> {
        let place = self.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.by_id[place].1[..])
    }
}

impl Entries {
    /// Takes in what begins with the entry `wanted` and goes on with what is told of the one behind it.
    fn add(&mut self, wanted: &EntryRange, bytes: Bytes) {
        let length = (wanted.range.end - wanted.range.start) as usize;
        // One that is wanted itself is never told of as the one behind.
        if let Some((next, _)) = wanted.behind.filter(|_| bytes.len() > length) {
            self.by_id.push((next, bytes.slice(length..)));
        }
        self.by_id.push((wanted.id, bytes));
    }

    /// Puts them in order when all were added.
    fn finish(mut self) -> Self {
        self.by_id.sort_unstable_by_key(|(id, _)| *id);
        self.by_id.shrink_to_fit();
        self
    }
}

impl RemoteBlock {
    pub(super) fn new(
        meta: BlockMeta,
        (tenant, external, visible): (Tenant, Labels, Labels),
        listing: BlockListing,
        segments: Vec<u64>,
    ) -> Self {
        Self {
            meta,
            tenant,
            external,
            visible,
            listing,
            segments,
            prepared: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
        }
    }

    /// What a query says when header or entries are damaged; has the header fetched anew.
    pub(super) fn suspect_index(&self, error: IndexError) -> SelectError {
        self.suspect.store(true, Ordering::Relaxed);
        self.corrupt(error)
    }

    fn corrupt(&self, error: impl std::fmt::Display) -> SelectError {
        select_error(&self.meta.ulid.to_string(), error)
    }

    fn unavailable(&self, what: &str, error: object_store::Error) -> SelectError {
        SelectError::Unavailable(format!("block {}: read {what}: {error}", self.meta.ulid))
    }

    /// The entries of the ascending `ids`, from the cache as far as they are there.
    pub(super) async fn entries(&self, shared: &Shared, index: &Index, ids: &[u32]) -> Result<Entries, SelectError> {
        let ranges = index.entry_ranges(ids).map_err(|error| self.suspect_index(error))?;
        let (mut entries, mut wants) = (Entries::default(), Vec::new());
        for (number, wanted) in ranges.iter().enumerate() {
            let part = self.entry_part(wanted);
            match shared
                .cache
                .get_intact(&part, |bytes| is_entry_intact(bytes).then_some(()))
            {
                Some((bytes, ())) => {
                    shared.metrics.cache_hits.inc();
                    entries.add(wanted, bytes);
                }
                None => wants.push(Want {
                    file: 0,
                    begin: wanted.range.start,
                    end: wanted.behind.map_or(wanted.range.end, |(_, end)| end),
                    number,
                }),
            }
        }
        let object = block_object(self.meta.ulid, INDEX_FILE);
        let reads = plan(wants, &shared.settings.plan_bounds())
            .into_iter()
            .map(|fetch| async {
                let read = shared.reads.range(&object, fetch.range.clone()).await;
                read.map(|bytes| (bytes, fetch))
            });
        let mut reads = futures::stream::iter(reads).buffer_unordered(shared.settings.fetches_in_flight.max(1));
        while let Some((bytes, fetch)) = reads
            .try_next()
            .await
            .map_err(|error| self.unavailable(INDEX_FILE, error))?
        {
            let place = |at: u64| (at - fetch.range.start) as usize;
            let places = fetch.wants.iter().map(|want| place(want.begin)..place(want.end));
            let parts = copies(&bytes, places.collect());
            for (want, entry) in fetch.wants.iter().zip(parts) {
                shared.metrics.needed_bytes.inc_by(entry.len() as u64);
                shared.cache.put(self.entry_part(&ranges[want.number]), &entry);
                entries.add(&ranges[want.number], entry);
            }
        }
        Ok(entries.finish())
    }

    fn entry_part(&self, wanted: &EntryRange) -> Part {
        (self.meta.ulid, None, wanted.range.start)
    }

    fn chunk_part(&self, chunk: &ChunkRef) -> Part {
        (self.meta.ulid, Some(chunk.segment()), u64::from(chunk.offset()))
    }

    /// The chunks of a series as wishes for reading; `behind` is the chunk behind the last of them.
    pub(super) fn wants(&self, chunks: &[ChunkRef], behind: Option<&ChunkRef>) -> Result<Vec<ChunkWant>, SelectError> {
        let stats = self
            .meta
            .thanos
            .as_ref()
            .map(|thanos| thanos.index_stats.chunk_max_size);
        let guess = stats.filter(|size| *size > 0).unwrap_or(CHUNK_BYTES_GUESS);
        let mut wants = Vec::with_capacity(chunks.len());
        for (index, chunk) in chunks.iter().enumerate() {
            let size = self.segment_size(chunk);
            let place = |chunk: &ChunkRef| (chunk.segment(), chunk.offset());
            if u64::from(chunk.offset()) >= size {
                let (segment, offset) = (chunk.segment() + 1, chunk.offset());
                return Err(self.corrupt(format_args!(
                    "chunk at {offset} of segment {segment} lies outside of it"
                )));
            }
            let next = chunks.get(index + 1).or(behind).map(place);
            wants.push(ChunkWant {
                chunk: *chunk,
                end: likely_end(place(chunk), next, guess, size),
                series: 0,
            });
        }
        Ok(wants)
    }

    fn segment_size(&self, chunk: &ChunkRef) -> u64 {
        self.segments.get(chunk.segment() as usize).copied().unwrap_or(0)
    }

    /// Of the wanted chunks those that are at hand, each with the series it is for, and the ranges to read for the others.
    pub(super) fn at_hand(&self, shared: &Shared, wants: &[ChunkWant]) -> (Vec<(usize, Chunk)>, Vec<Fetch>) {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for (number, want) in wants.iter().enumerate() {
            let part = self.chunk_part(&want.chunk);
            match shared.cache.get_intact(&part, |bytes| read_frame(bytes, 0).ok()) {
                Some((_, frame)) => {
                    shared.metrics.cache_hits.inc();
                    found.push((want.series, chunk_of(&want.chunk, frame.encoding, frame.data)));
                }
                None => missing.push(Want {
                    file: want.chunk.segment(),
                    begin: u64::from(want.chunk.offset()),
                    end: want.end,
                    number,
                }),
            }
        }
        (found, plan(missing, &shared.settings.plan_bounds()))
    }

    /// Reads one range; gives each chunk wanted of it with the series it is for.
    pub(super) async fn read(
        &self,
        shared: &Shared,
        wants: &[ChunkWant],
        fetch: Fetch,
    ) -> Result<Vec<(usize, Chunk)>, SelectError> {
        let path = chunks_object(self.meta.ulid, fetch.file);
        let bytes = shared.reads.range(&path, fetch.range.clone()).await;
        let bytes = bytes.map_err(|error| self.unavailable(path.as_ref(), error))?;
        let (mut chunks, mut places, mut longer) = (Vec::with_capacity(fetch.wants.len()), Vec::new(), Vec::new());
        for want in &fetch.wants {
            let ChunkWant { chunk, series, .. } = wants[want.number];
            let offset = (want.begin - fetch.range.start) as usize;
            match read_frame(&bytes, offset) {
                Ok(frame) => {
                    shared.metrics.needed_bytes.inc_by(frame.len as u64);
                    let whole = offset..offset + frame.len;
                    shared.cache.put(self.chunk_part(&chunk), &bytes[whole.clone()]);
                    // The checksum stands behind the data.
                    let end = whole.end - CHECKSUM_BYTES;
                    places.push(end - frame.data.len()..end);
                    chunks.push((series, chunk_of(&chunk, frame.encoding, Bytes::new())));
                }
                Err(FrameError::Truncated { needed }) => longer.push((series, chunk, needed)),
                Err(error) => return Err(self.damaged(&chunk, &error)),
            }
        }
        for ((_, chunk), data) in chunks.iter_mut().zip(copies(&bytes, places)) {
            chunk.data = data;
        }
        drop(bytes);
        for (series, chunk, needed) in longer {
            let (encoding, data) = self.read_longer(shared, &chunk, needed).await?;
            chunks.push((series, chunk_of(&chunk, encoding, data)));
        }
        Ok(chunks)
    }

    /// Reads a chunk that is longer than was guessed.
    async fn read_longer(&self, shared: &Shared, chunk: &ChunkRef, needed: usize) -> Result<(u8, Bytes), SelectError> {
        let path = chunks_object(self.meta.ulid, chunk.segment());
        let start = u64::from(chunk.offset());
        let mut needed = needed as u64;
        for _ in 0..REREADS_MAX {
            if start + needed > self.segment_size(chunk) {
                break;
            }
            let bytes = shared.reads.range(&path, start..start + needed).await;
            let bytes = bytes.map_err(|error| self.unavailable(path.as_ref(), error))?;
            match read_frame(&bytes, 0) {
                Ok(frame) => return Ok((frame.encoding, frame.data)),
                Err(FrameError::Truncated { needed: more }) => needed = more as u64,
                Err(error) => return Err(self.damaged(chunk, &error)),
            }
        }
        Err(self.damaged(chunk, "it does not end inside its segment"))
    }

    fn damaged(&self, chunk: &ChunkRef, error: impl std::fmt::Display) -> SelectError {
        let (segment, offset) = (chunk.segment() + 1, chunk.offset());
        self.corrupt(format_args!("chunk at {offset} of segment {segment}: {error}"))
    }
}

/// The parts of what was read, in memory that holds nothing else: what came from the network may be a small part of a large buffer.
fn copies(bytes: &Bytes, places: Vec<Range<usize>>) -> impl Iterator<Item = Bytes> {
    let mut joined = Vec::with_capacity(places.iter().map(Range::len).sum());
    for place in &places {
        joined.extend_from_slice(&bytes[place.clone()]);
    }
    let (joined, mut begin) = (Bytes::from(joined), 0);
    places.into_iter().map(move |place| {
        let part = begin..begin + place.len();
        begin = part.end;
        joined.slice(part)
    })
}

fn chunk_of(chunk: &ChunkRef, encoding: u8, data: Bytes) -> Chunk {
    Chunk {
        min_time: chunk.min_time,
        max_time: chunk.max_time,
        encoding,
        data,
    }
}
