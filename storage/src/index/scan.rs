//! Walking the series that match, a batch at a time, so that a large answer needs no large memory.

use super::{ChunkRef, Index, IndexError, Matching, RawSeries, SeriesBytes};
use model::{label::Labels, matcher::Matcher, time::TimeRange};
use std::ops::Range;

/// A series that matches and has samples in the asked range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSeries {
    /// Its id in the index.
    pub id: u32,
    /// Its labels as the index holds them.
    pub labels: Labels,
    /// Its chunks that reach into the range; none when only labels were asked for.
    pub chunks: Vec<ChunkRef>,
    /// The chunk behind the last of `chunks`, of this series or the next one: where the last chunk likely ends.
    pub behind: Option<ChunkRef>,
}

/// A walk over the matching series of one index.
pub struct Scan {
    ids: Vec<u32>,
    rest: Vec<Matcher>,
    range: TimeRange,
    labels_only: bool,
    /// Next of `ids` to look at.
    position: usize,
}

impl Scan {
    /// Evaluates `matchers`. Series without a chunk that reaches into `range` will be left out.
    pub fn new(index: &Index, matchers: &[Matcher], range: TimeRange, labels_only: bool) -> Result<Self, IndexError> {
        Ok(Self::over(index.matching(matchers)?, range, labels_only))
    }

    /// A walk over series found before.
    pub fn over(matching: Matching, range: TimeRange, labels_only: bool) -> Self {
        Self {
            ids: matching.ids,
            rest: matching.rest,
            range,
            labels_only,
            position: 0,
        }
    }

    /// Up to `count` further series, ascending by labels; fewer, and at last none, when there are no more.
    pub fn next_batch(&mut self, index: &Index, count: usize) -> Result<Vec<FoundSeries>, IndexError> {
        self.next_batch_of(index, index, count)
    }

    /// Like [`Self::next_batch`], with the entries of the series taken from elsewhere.
    pub fn next_batch_of(
        &mut self,
        index: &Index,
        entries: &dyn SeriesBytes,
        count: usize,
    ) -> Result<Vec<FoundSeries>, IndexError> {
        let (reader, mut series) = (index.series_of(entries), RawSeries::default());
        let mut batch = Vec::new();
        while batch.len() < count {
            let Some(&id) = self.ids.get(self.position) else { break };
            self.position += 1;
            reader.read(id, &mut series)?;
            let inside = overlapping(&series.chunks, self.range);
            if inside.is_empty() || !reader.matches(&series, &self.rest)? {
                continue;
            }
            let labels = reader.labels(&series)?;
            if self.labels_only {
                batch.push(FoundSeries {
                    id,
                    labels,
                    chunks: Vec::new(),
                    behind: None,
                });
                continue;
            }
            let behind = match series.chunks.get(inside.end) {
                Some(chunk) => Some(*chunk),
                None => reader.chunk_behind(&series),
            };
            batch.push(FoundSeries {
                id,
                labels,
                chunks: series.chunks[inside].to_vec(),
                behind,
            });
        }
        Ok(batch)
    }
}

/// Which of the ascending chunks reach into `range`.
fn overlapping(chunks: &[ChunkRef], range: TimeRange) -> Range<usize> {
    let start = chunks.partition_point(|chunk| chunk.max_time < range.min);
    let end = chunks.partition_point(|chunk| chunk.min_time <= range.max);
    start..end.max(start)
}
