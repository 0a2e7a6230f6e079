//! A block of the bucket: its index at hand, its chunks read when asked for.

use super::{
    Shared,
    fetch::{Fetch, Want, likely_end, plan},
};
use crate::{
    block::{BlockMeta, FrameError, read_frame, select_error},
    bucket::{BlockListing, chunks_object},
    index::{ChunkRef, Index, IndexError},
};
use bytes::Bytes;
use model::{
    label::Labels,
    select::{Chunk, SelectError},
    tenant::Tenant,
};
use object_store::ObjectStoreExt as _;
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};
use tokio::sync::OnceCell;

/// Guess for the size of a chunk when the block does not tell its largest; as Thanos guesses.
const CHUNK_BYTES_GUESS: u64 = 16_000;

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
    /// Empty until it is needed, when the block is known from a manifest only.
    index: OnceCell<Index>,
    /// Sizes of its segments.
    pub(super) segments: Vec<u64>,
    /// Set when the copy of the index turned out damaged: the next sync takes a new one.
    pub(super) suspect: AtomicBool,
}

impl RemoteBlock {
    /// A block of which everything but the index is known; with `index`, that as well.
    pub(super) fn new(
        meta: BlockMeta,
        (tenant, external, visible): (Tenant, Labels, Labels),
        listing: BlockListing,
        segments: Vec<u64>,
        index: Option<Index>,
    ) -> Self {
        Self {
            meta,
            tenant,
            external,
            visible,
            listing,
            index: OnceCell::new_with(index),
            segments,
            suspect: AtomicBool::new(false),
        }
    }

    /// Whether the index is at hand.
    pub(super) fn is_loaded(&self) -> bool {
        self.index.initialized()
    }

    /// The index, fetched now if need be. An error says in words why the block cannot be used.
    pub(super) async fn index(&self, shared: &Shared) -> Result<&Index, String> {
        let load = || shared.open_index(&self.listing, false);
        let index = self.index.get_or_try_init(load).await;
        index.map_err(|failure| failure.reason().to_owned())
    }

    /// What a query says when the index is damaged; has the index fetched anew.
    pub(super) fn suspect_index(&self, error: IndexError) -> SelectError {
        self.suspect.store(true, Ordering::Relaxed);
        self.corrupt(error)
    }

    fn corrupt(&self, error: impl std::fmt::Display) -> SelectError {
        select_error(&self.meta.ulid.to_string(), error)
    }

    /// The chunks of a series as wishes for reading; `behind` is the chunk behind the last of them.
    pub(super) fn wants(
        &self,
        chunks: &[ChunkRef],
        behind: Option<&ChunkRef>,
        series: usize,
    ) -> Result<Vec<Want>, SelectError> {
        let guess = self
            .meta
            .thanos
            .as_ref()
            .map_or(0, |thanos| thanos.index_stats.chunk_max_size);
        let guess = if guess == 0 { CHUNK_BYTES_GUESS } else { guess };
        let mut wants = Vec::with_capacity(chunks.len());
        for (index, chunk) in chunks.iter().enumerate() {
            let size = self.segments.get(chunk.segment() as usize).copied().unwrap_or(0);
            if u64::from(chunk.offset()) >= size {
                let (segment, offset) = (chunk.segment() + 1, chunk.offset());
                return Err(self.corrupt(format_args!(
                    "chunk at {offset} of segment {segment} lies outside of it"
                )));
            }
            let next = chunks.get(index + 1).or(behind);
            wants.push(Want {
                chunk: *chunk,
                end: likely_end(chunk, next, guess, size),
                series,
            });
        }
        Ok(wants)
    }

    /// The ranges to read for the wanted chunks.
    pub(super) fn fetches(&self, shared: &Shared, wants: Vec<Want>) -> Vec<Fetch> {
        let needed: u64 = wants.iter().map(|want| want.end - u64::from(want.chunk.offset())).sum();
        shared.metrics.needed_bytes.inc_by(needed);
        plan(wants, shared.settings.gap_bytes_max, shared.settings.fetch_bytes_max)
    }

    /// Reads one range; gives each wanted chunk with the series it is for.
    pub(super) async fn read(&self, shared: &Shared, fetch: Fetch) -> Result<Vec<(usize, Chunk)>, SelectError> {
        let bytes = self.read_range(shared, fetch.segment, fetch.range.clone()).await?;
        let mut chunks = Vec::with_capacity(fetch.wants.len());
        for want in fetch.wants {
            let offset = (u64::from(want.chunk.offset()) - fetch.range.start) as usize;
            let (encoding, data) = match read_frame(&bytes, offset) {
                Ok(frame) => (frame.encoding, frame.data),
                Err(FrameError::Truncated { needed }) => self.read_longer(shared, &want.chunk, needed).await?,
                Err(error) => return Err(self.damaged(&want.chunk, &error)),
            };
            let (min_time, max_time) = (want.chunk.min_time, want.chunk.max_time);
            chunks.push((
                want.series,
                Chunk {
                    min_time,
                    max_time,
                    encoding,
                    data,
                },
            ));
        }
        Ok(chunks)
    }

    /// Reads a chunk that is longer than was guessed.
    async fn read_longer(&self, shared: &Shared, chunk: &ChunkRef, needed: usize) -> Result<(u8, Bytes), SelectError> {
        let size = self.segments.get(chunk.segment() as usize).copied().unwrap_or(0);
        let start = u64::from(chunk.offset());
        let mut needed = needed as u64;
        for _ in 0..REREADS_MAX {
            if start + needed > size {
                break;
            }
            let bytes = self.read_range(shared, chunk.segment(), start..start + needed).await?;
            match read_frame(&bytes, 0) {
                Ok(frame) => return Ok((frame.encoding, frame.data)),
                Err(FrameError::Truncated { needed: more }) => needed = more as u64,
                Err(error) => return Err(self.damaged(chunk, &error)),
            }
        }
        Err(self.damaged(
            chunk,
            &FrameError::Truncated {
                needed: needed as usize,
            },
        ))
    }

    fn damaged(&self, chunk: &ChunkRef, error: &FrameError) -> SelectError {
        let (segment, offset) = (chunk.segment() + 1, chunk.offset());
        self.corrupt(format_args!("chunk at {offset} of segment {segment}: {error}"))
    }

    async fn read_range(&self, shared: &Shared, segment: u32, range: Range<u64>) -> Result<Bytes, SelectError> {
        let path = chunks_object(self.meta.ulid, segment);
        shared.metrics.fetches.inc();
        shared.metrics.fetched_bytes.inc_by(range.end - range.start);
        let wanted = range.end - range.start;
        let bytes = shared.bucket.get_range(&path, range).await.map_err(|error| {
            SelectError::Unavailable(format!(
                "read {path} from the bucket: {error}; the query can be repeated"
            ))
        })?;
        if bytes.len() as u64 != wanted {
            let got = bytes.len();
            return Err(SelectError::Unavailable(format!(
                "read {path}: the bucket gave {got} bytes instead of {wanted}"
            )));
        }
        Ok(bytes)
    }
}
