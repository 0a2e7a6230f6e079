//! Chunks at hand as the samples of a series.

use super::decode_run;
use model::{
    sample::SampleBuffer,
    select::{Chunk, Samples, SelectError},
    time::TimeRange,
};
use std::sync::Arc;

/// The samples of a series whose chunks are already here: fetched from a bucket, or come over the wire.
#[derive(Debug, Clone)]
pub struct ChunkSamples {
    chunks: Vec<Chunk>,
    /// Where the chunks came from, for errors.
    origin: Arc<str>,
}

impl ChunkSamples {
    /// Takes chunks in any order, overlapping or not; of samples with the same timestamp the one of the chunk that begins first is kept.
    /// `origin` says in words where they came from.
    pub fn new(mut chunks: Vec<Chunk>, origin: Arc<str>) -> Self {
        chunks.sort_by_key(|chunk| chunk.min_time);
        Self { chunks, origin }
    }
}

impl Samples for ChunkSamples {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        let wanted = self
            .chunks
            .iter()
            .filter(|chunk| range.overlaps(TimeRange::new(chunk.min_time, chunk.max_time)));
        decode_run(wanted.map(|chunk| (chunk.encoding, &chunk.data[..])), range, buffer)
            .map_err(|error| SelectError::Corrupt(format!("{}: {error}", self.origin)))
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        Ok(self.chunks.clone())
    }

    fn held_bytes(&self) -> usize {
        let bytes = |chunk: &Chunk| size_of::<Chunk>() + chunk.data.len();
        self.chunks.iter().map(bytes).sum()
    }
}
