//! The series of one block that match a query, in the order of the labels that they show, read some at a time.
//!
//! Which series match is known from the header of the block; their entries are read from the bucket in windows, so that a query over
//! many blocks of many series holds a window of each and no more.

use super::{
    Shared,
    order::Order,
    remote::{Entries, RemoteBlock},
};
use crate::{
    external::with_external,
    index::{ChunkRef, Index, Matching, Scan},
};
use model::{
    label::Labels,
    matcher::Matcher,
    select::{SelectError, SelectRequest},
};
use std::{collections::VecDeque, sync::Arc};

/// Series whose entries are read at once: at least, so that a request is worth its while, and at most.
const WINDOW_SERIES_MIN: u64 = 16;
const WINDOW_SERIES_MAX: u64 = 65_536;

/// What an entry at hand costs besides its bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// A series of one block.
pub(super) struct Part {
    /// The labels that it shows.
    pub(super) labels: Labels,
    /// Which of the query's blocks.
    pub(super) block: usize,
    pub(super) chunks: Vec<ChunkRef>,
    /// The chunk behind the last of them.
    pub(super) behind: Option<ChunkRef>,
}

/// What was found: series and chunks.
pub(super) type Found = (usize, usize);

/// The matching series of a block.
pub(super) struct Lane {
    pub(super) block: Arc<RemoteBlock>,
    /// Number of the block in the query.
    number: usize,
    index: Arc<Index>,
    /// Series that may match, ascending; entries of those before `next` were read.
    ids: Vec<u32>,
    next: usize,
    /// Matchers that each series is to be tried on.
    rest: Vec<Matcher>,
    /// Entries at hand, and how far they were looked at.
    window: Option<(Scan, Entries)>,
    order: Order,
    /// Whether series have labels of their own under names of external ones: then only sorting all puts them in order.
    sorts_all: bool,
    /// Series in order.
    pub(super) ready: VecDeque<Part>,
}

impl Lane {
    /// Finds the series that `own`, the matchers for a block's own labels, let through.
    pub(super) fn open(
        block: Arc<RemoteBlock>,
        number: usize,
        index: Arc<Index>,
        own: &[Matcher],
    ) -> Result<Self, SelectError> {
        let Matching { ids, rest } = index.matching(own).map_err(|error| block.suspect_index(error))?;
        let is_taken = |name: &str| index.label_values(name).next().is_some();
        Ok(Self {
            order: Order::new(&block.visible),
            sorts_all: block.visible.iter().any(|(name, _)| is_taken(name)),
            block,
            number,
            index,
            ids,
            next: 0,
            rest,
            window: None,
            ready: VecDeque::new(),
        })
    }

    /// How many series may match.
    pub(super) fn candidates(&self) -> usize {
        self.ids.len()
    }

    /// How many series may still come at most.
    pub(super) fn series_max(&self) -> usize {
        let looking = self.window.as_ref().map_or(0, |(scan, _)| scan.series_max());
        (self.ids.len() - self.next) + looking + self.order.held_back() + self.ready.len()
    }

    /// Whether entries must be read before more can be told.
    pub(super) fn is_behind(&self) -> bool {
        self.window.is_none() && self.next < self.ids.len()
    }

    /// Reads the next entries, about `bytes` of them, and more while no series is ready; gives what was found.
    pub(super) async fn read(
        &mut self,
        shared: &Shared,
        request: &SelectRequest,
        bytes: u64,
        step: usize,
    ) -> Result<Found, SelectError> {
        let mut found = (0, 0);
        while self.is_behind() {
            let cost = self.index.entry_bytes_mean() + ENTRY_OVERHEAD_BYTES;
            let count = (bytes / cost).clamp(WINDOW_SERIES_MIN, WINDOW_SERIES_MAX) as usize;
            let ids = &self.ids[self.next..self.ids.len().min(self.next + count)];
            let entries = self.block.entries(shared, &self.index, ids).await?;
            let matching = Matching {
                ids: ids.to_vec(),
                rest: self.rest.clone(),
            };
            self.next += ids.len();
            self.window = Some((Scan::over(matching, request.range, request.labels_only), entries));
            let (series, chunks) = self.look(step)?;
            found = (found.0 + series, found.1 + chunks);
        }
        Ok(found)
    }

    /// Looks at entries at hand until some series are ready; gives what was found.
    pub(super) fn look(&mut self, step: usize) -> Result<Found, SelectError> {
        let mut found = (0, 0);
        while (self.sorts_all || self.ready.is_empty())
            && let Some((scan, entries)) = &mut self.window
        {
            let batch = scan.next_batch_of(&self.index, entries, step);
            let batch = batch.map_err(|error| self.block.suspect_index(error))?;
            if batch.len() < step {
                self.window = None;
            }
            for series in batch {
                found = (found.0 + 1, found.1 + series.chunks.len());
                let part = Part {
                    labels: with_external(&series.labels, &self.block.visible),
                    block: self.number,
                    chunks: series.chunks,
                    behind: series.behind,
                };
                match self.sorts_all {
                    true => self.ready.push_back(part),
                    false => self.order.push(series.labels, part, &mut self.ready),
                }
            }
            if self.window.is_none() && self.next == self.ids.len() {
                self.order.finish(&mut self.ready);
                if self.sorts_all {
                    self.ready.make_contiguous().sort_by(|a, b| a.labels.cmp(&b.labels));
                }
            }
        }
        Ok(found)
    }
}
