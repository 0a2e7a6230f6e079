//! Queries over one block. External labels are not added here.

use super::{Block, Tombstones, open::Inner};
use crate::{
    chunk::{decode_run, encode_samples},
    index::{ChunkRef, FoundSeries, Scan},
};
use futures::future::BoxFuture;
use model::{
    identity::Identity,
    matcher::Matcher,
    sample::SampleBuffer,
    select::{
        Chunk, IdentifiedBatch, IdentifiedSet, LabelList, Samples, Select, SelectError, SelectRequest, Series,
        SeriesSet,
    },
    time::TimeRange,
};
use std::{future::ready, sync::Arc};

/// Series handed out at once.
const BATCH_SERIES: usize = 1024;

impl Select for Block {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(ready(
            BlockSet::new(self.inner.clone(), &request, None).map(|set| Box::new(set) as Box<dyn SeriesSet>),
        ))
    }

    fn select_identified(
        &self,
        request: &SelectRequest,
        key: u64,
    ) -> Option<BoxFuture<'_, Result<Box<dyn IdentifiedSet>, SelectError>>> {
        let set = BlockSet::new(self.inner.clone(), request, Some(key));
        Some(Box::pin(ready(set.map(|set| Box::new(set) as Box<dyn IdentifiedSet>))))
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(ready(self.names(&matchers, range, limit)))
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(ready(self.values(&name, &matchers, range, limit)))
    }
}

impl Block {
    fn names(&self, matchers: &[Matcher], range: TimeRange, limit: usize) -> Result<LabelList, SelectError> {
        if !self.inner.meta.range().overlaps(range) {
            return Ok(LabelList::default());
        }
        let names = self.inner.index.names_matching(matchers);
        Ok(label_list(names.map_err(|error| self.inner.corrupt(error))?, limit))
    }

    fn values(
        &self,
        name: &str,
        matchers: &[Matcher],
        range: TimeRange,
        limit: usize,
    ) -> Result<LabelList, SelectError> {
        if !self.inner.meta.range().overlaps(range) {
            return Ok(LabelList::default());
        }
        let values = self.inner.index.values_matching(name, matchers);
        Ok(label_list(values.map_err(|error| self.inner.corrupt(error))?, limit))
    }
}

/// A list cut to `limit` items, 0 for all.
pub(crate) fn label_list(mut items: Vec<String>, limit: usize) -> LabelList {
    if limit > 0 {
        items.truncate(limit);
    }
    LabelList {
        items,
        warnings: Vec::new(),
    }
}

impl Inner {
    fn corrupt(&self, error: impl std::fmt::Display) -> SelectError {
        select_error(&self.meta.ulid.to_string(), error)
    }
}

/// What a query says about a damaged block.
pub(crate) fn select_error(block: &str, error: impl std::fmt::Display) -> SelectError {
    SelectError::Corrupt(format!("block {block}: {error}"))
}

/// The matching series of a block, found batch by batch.
struct BlockSet {
    block: Arc<Inner>,
    /// `None` after the end or an error.
    scan: Option<Scan>,
    /// How many series may still come.
    left: usize,
    range: TimeRange,
    labels_only: bool,
    tombstones: Arc<Tombstones>,
}

impl BlockSet {
    fn new(block: Arc<Inner>, request: &SelectRequest, key: Option<u64>) -> Result<Self, SelectError> {
        let &SelectRequest { range, labels_only, .. } = request;
        let left = if request.limit == 0 { usize::MAX } else { request.limit };
        let tombstones = block.tombstones();
        let scan = if block.meta.range().overlaps(range) {
            // Whether a series has samples left shows in its chunks.
            let without_chunks = labels_only && tombstones.is_empty();
            let scan = Scan::new(&block.index, &request.matchers, range, without_chunks);
            let scan = scan.map_err(|error| block.corrupt(error))?;
            let shown = request
                .hints
                .labels
                .as_deref()
                .filter(|_| key.is_some() || !request.sorted);
            Some(scan.showing(&block.index, shown).identifying(key))
        } else {
            None
        };
        Ok(Self {
            block,
            scan,
            left,
            range,
            labels_only,
            tombstones,
        })
    }

    /// Whether not all chunks of a series that reach into the range were deleted as a whole.
    fn has_any_left(&self, found: &FoundSeries) -> bool {
        let deleted = self.tombstones.of(found.id);
        let is_gone = |chunk: &ChunkRef| {
            let (min, max) = (chunk.min_time.max(self.range.min), chunk.max_time.min(self.range.max));
            deleted
                .iter()
                .any(|interval| interval.min <= min && max <= interval.max)
        };
        deleted.is_empty() || !found.chunks.iter().all(is_gone)
    }

    fn next_batch(&mut self) -> Option<Result<IdentifiedBatch, SelectError>> {
        loop {
            let scan = self.scan.as_mut()?;
            let mut found = match scan.next_batch(&self.block.index, BATCH_SERIES.min(self.left)) {
                Ok(found) => found,
                Err(error) => {
                    self.scan = None;
                    return Some(Err(self.block.corrupt(error)));
                }
            };
            if found.is_empty() {
                self.scan = None;
                return None;
            }
            found.retain(|found| self.has_any_left(found));
            self.left -= found.len();
            if !found.is_empty() {
                return Some(Ok(found.into_iter().map(|found| self.series(found)).collect()));
            }
        }
    }

    fn series(&self, found: FoundSeries) -> (Identity, Series) {
        let samples = BlockSamples {
            block: Arc::clone(&self.block),
            tombstones: Arc::clone(&self.tombstones),
            id: found.id,
            chunks: if self.labels_only { Vec::new() } else { found.chunks },
        };
        let (labels, samples) = (found.labels, Box::new(samples));
        (found.identity, Series { labels, samples })
    }
}

impl SeriesSet for BlockSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        let without_identities = |batch: IdentifiedBatch| batch.into_iter().map(|(_, series)| series).collect();
        Box::pin(ready(self.next_batch().map(|batch| batch.map(without_identities))))
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

impl IdentifiedSet for BlockSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<IdentifiedBatch, SelectError>>> {
        Box::pin(ready(self.next_batch()))
    }

    fn series_max(&self) -> usize {
        self.scan.as_ref().map_or(0, Scan::series_max)
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The samples of one series of a block, still in its segments.
struct BlockSamples {
    block: Arc<Inner>,
    tombstones: Arc<Tombstones>,
    id: u32,
    chunks: Vec<ChunkRef>,
}

impl BlockSamples {
    fn load(&self, chunks: &[ChunkRef]) -> Result<Vec<Chunk>, SelectError> {
        let load = |reference: &ChunkRef| {
            let frame = self.block.chunk(reference).map_err(|error| {
                let (segment, offset) = (reference.segment() + 1, reference.offset());
                self.block
                    .corrupt(format_args!("chunk at {offset} of segment {segment}: {error}"))
            })?;
            let (min_time, max_time) = (reference.min_time, reference.max_time);
            Ok(Chunk {
                min_time,
                max_time,
                encoding: frame.encoding,
                data: frame.data,
            })
        };
        chunks.iter().map(load).collect()
    }

    fn decode(&self, chunks: &[Chunk], range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        let data = chunks.iter().map(|chunk| (chunk.encoding, &chunk.data[..]));
        decode_run(data, range, buffer).map_err(|error| self.block.corrupt(format_args!("series {}: {error}", self.id)))
    }
}

impl Samples for BlockSamples {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        let start = self.chunks.partition_point(|chunk| chunk.max_time < range.min);
        let end = self.chunks.partition_point(|chunk| chunk.min_time <= range.max);
        let chunks = self.load(&self.chunks[start..end.max(start)])?;
        let deleted = self.tombstones.of(self.id);
        if deleted.is_empty() {
            return self.decode(&chunks, range, buffer);
        }
        for kept in outside(range, deleted) {
            self.decode(&chunks, kept, buffer)?;
        }
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        let deleted = self.tombstones.of(self.id);
        let mut chunks = Vec::new();
        for chunk in self.load(&self.chunks)? {
            let span = TimeRange::new(chunk.min_time, chunk.max_time);
            if !deleted.iter().any(|interval| interval.overlaps(span)) {
                chunks.push(chunk);
                continue;
            }
            // A chunk that lost samples is packed anew.
            let mut samples = SampleBuffer::default();
            for kept in outside(span, deleted) {
                self.decode(std::slice::from_ref(&chunk), kept, &mut samples)?;
            }
            chunks.extend(encode_samples(&samples));
        }
        Ok(chunks)
    }
}

/// The parts of `range` that no interval of the ascending `deleted` covers.
fn outside(range: TimeRange, deleted: &[TimeRange]) -> Vec<TimeRange> {
    let (mut parts, mut from) = (Vec::new(), range.min);
    for interval in deleted.iter().filter(|interval| interval.overlaps(range)) {
        if interval.min > from {
            parts.push(TimeRange::new(from, interval.min - 1));
        }
        match interval.max.checked_add(1) {
            Some(next) => from = next,
            None => return parts,
        }
    }
    parts.push(TimeRange::new(from, range.max));
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_of_deletions() {
        let range = |min, max| TimeRange::new(min, max);
        let deleted = [range(10, 20), range(30, i64::MAX)];
        assert_eq!(outside(range(0, 100), &deleted), [range(0, 9), range(21, 29)]);
        assert_eq!(outside(range(12, 18), &deleted), []);
        assert_eq!(outside(range(15, 25), &deleted), [range(21, 25)]);
        assert_eq!(outside(range(21, 29), &deleted), [range(21, 29)]);
        assert_eq!(outside(TimeRange::ALL, &[]), [TimeRange::ALL]);
    }
}
