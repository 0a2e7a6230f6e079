//! Walking the series that match, a batch at a time, so that a large answer needs no large memory.

use super::{ChunkRef, Index, IndexError, Matching, RawSeries, SeriesBytes, reader::SeriesReader};
use model::{
    identity::{Identifier, Identity, SharedLabels},
    label::Labels,
    matcher::Matcher,
    time::TimeRange,
};
use std::ops::Range;

/// A series that matches and has samples in the asked range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSeries {
    /// Its id in the index.
    pub id: u32,
    /// Its labels as the index holds them, or those of them that are shown.
    pub labels: Labels,
    /// What tells it apart, by the labels in the index, if that was asked for.
    pub identity: Identity,
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
    shown: Option<Shown>,
    identifier: Option<Identifier>,
}

/// The labels that are shown, where not all are.
struct Shown {
    /// Their numbers.
    names: Vec<u32>,
    shared: SharedLabels,
    pairs: Vec<(u32, u32)>,
}

impl Shown {
    fn labels(&mut self, reader: &SeriesReader<'_>, series: &RawSeries) -> Result<Labels, IndexError> {
        self.pairs.clear();
        let shown = series.labels.iter().filter(|pair| self.names.contains(&pair.0));
        self.pairs.extend(shown);
        reader.labels_of(series, &self.pairs, &mut self.shared)
    }
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
            shown: None,
            identifier: None,
        }
    }

    /// The same, with series that show only their labels with these names, if any are named.
    pub fn showing(mut self, index: &Index, names: Option<&[String]>) -> Self {
        self.shown = names.map(|names| Shown {
            names: names.iter().filter_map(|name| index.symbol_number(name)).collect(),
            shared: SharedLabels::default(),
            pairs: Vec::new(),
        });
        self
    }

    /// The same, with identities made with `key`, if there is one.
    pub fn identifying(mut self, key: Option<u64>) -> Self {
        self.identifier = key.map(Identifier::new);
        self
    }

    /// How many series may still come at most.
    pub fn series_max(&self) -> usize {
        self.ids.len() - self.position
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
            let mut found = FoundSeries {
                id,
                labels: match &mut self.shown {
                    Some(shown) => shown.labels(&reader, &series)?,
                    None => reader.labels(&series)?,
                },
                identity: match &mut self.identifier {
                    Some(identifier) => reader.identity(&series, identifier)?,
                    None => Identity::default(),
                },
                chunks: Vec::new(),
                behind: None,
            };
            if !self.labels_only {
                found.behind = match series.chunks.get(inside.end) {
                    Some(chunk) => Some(*chunk),
                    None => reader.chunk_behind(&series),
                };
                found.chunks = series.chunks[inside].to_vec();
            }
            batch.push(found);
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
