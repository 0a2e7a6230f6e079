//! The matching series of many blocks, merged: one at a time, with its parts in all blocks that have it.
//!
//! Entries are read ahead of the merge, of all blocks whose turn it is at once. How far ahead is bounded in bytes for the query as a
//! whole, so that many blocks get a small window each.

use super::{
    GatewaySettings, Shared,
    lane::{Lane, Part},
    memory::Held,
    turns::Turn,
};
use futures::{TryStreamExt as _, stream::FuturesUnordered};
use model::{
    label::Labels,
    select::{SelectError, SelectRequest},
};
use std::{cmp::Ordering, collections::BinaryHeap, sync::Arc};

/// Bytes of entries that a query reads ahead.
const AHEAD_BYTES: u64 = 6 << 20;

/// Blocks whose entries are read at the same time by one query.
const READS_IN_FLIGHT: usize = 64;

/// Series of all blocks together that are put together before they are needed.
const READY_SERIES: usize = 4096;

/// A question over so many blocks that looks at more series than this, each counted once for every block that has it, takes turns with
/// others like it. Over fewer blocks, what it must have at hand shrinks with the memory that is left.
const LARGE_BLOCKS: usize = 100;
const LARGE_SERIES: usize = 16_384;

/// A query may look at so many times the series that it may find.
const LOOKS_PER_SERIES: usize = 2;

/// A series with its parts in all blocks.
pub(super) struct JoinedSeries {
    pub(super) labels: Labels,
    pub(super) parts: Vec<Part>,
}

/// What comes next.
pub(super) enum Next {
    Series(JoinedSeries),
    /// [`Lanes::read`] must be called before it can be told.
    Later,
    End,
}

/// The merge.
pub(super) struct Lanes {
    shared: Arc<Shared>,
    request: SelectRequest,
    lanes: Vec<Lane>,
    /// The first series of each lane that has one ready.
    heads: BinaryHeap<Head>,
    /// Lanes that may have more, and none ready.
    behind: Vec<usize>,
    limits: Limits,
    /// Bytes that each lane may read ahead.
    window_bytes: u64,
    /// Series that a lane puts together at once.
    step: usize,
    _held: Held,
    /// Of a large question.
    turn: Option<Turn>,
}

/// The first series of a lane. The greatest is the one with the smallest labels, since the heap gives the greatest first.
#[derive(PartialEq, Eq)]
struct Head {
    labels: Labels,
    lane: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.labels.cmp(&self.labels).then(other.lane.cmp(&self.lane))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Lanes {
    /// Merges `lanes`; nothing was read yet. Fails when more series would be looked at than a query may. A large question waits until
    /// it is its turn.
    pub(super) async fn new(
        shared: Arc<Shared>,
        request: SelectRequest,
        lanes: Vec<Lane>,
    ) -> Result<Self, SelectError> {
        let candidates: usize = lanes.iter().map(Lane::candidates).sum();
        let most = shared.settings.query_series_max.saturating_mul(LOOKS_PER_SERIES);
        if candidates > most {
            return Err(limit(
                &format!("looks at more than {most} series"),
                "--store.series-max",
            ));
        }
        let turn = match lanes.len() >= LARGE_BLOCKS && candidates > LARGE_SERIES {
            true => Some(shared.turns.enter().await),
            false => None,
        };
        let count = lanes.len().max(1);
        let ahead = shared.memory.room(AHEAD_BYTES);
        // Most queries look at few series.
        let used = ahead.min(candidates as u64 * 512) + candidates as u64 * 4;
        Ok(Self {
            behind: (0..lanes.len()).filter(|lane| lanes[*lane].is_behind()).collect(),
            heads: BinaryHeap::with_capacity(lanes.len()),
            limits: Limits::default(),
            window_bytes: ahead / count as u64,
            step: (READY_SERIES / count).clamp(4, 256),
            _held: shared.memory.hold(used),
            turn,
            shared,
            request,
            lanes,
        })
    }

    /// More of the answer is being made.
    pub(super) fn works(&self) {
        self.turn.iter().for_each(Turn::works);
    }

    /// What there is of the answer was given.
    pub(super) fn rests(&self) {
        self.turn.iter().for_each(Turn::rests);
    }

    /// What the lanes read with.
    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// How many series may still come at most. One that lies in several blocks counts for each.
    pub(super) fn series_max(&self) -> usize {
        self.lanes.iter().map(Lane::series_max).sum()
    }

    /// The next series.
    pub(super) fn next(&mut self) -> Result<Next, SelectError> {
        if !self.behind.is_empty() {
            return Ok(Next::Later);
        }
        let Some(Head { labels, lane }) = self.heads.pop() else {
            return Ok(Next::End);
        };
        let mut parts = Vec::new();
        self.take(lane, &mut parts)?;
        while let Some(head) = self.heads.peek().filter(|head| head.labels == labels) {
            let lane = head.lane;
            self.heads.pop();
            self.take(lane, &mut parts)?;
        }
        Ok(Next::Series(JoinedSeries { labels, parts }))
    }

    /// Takes the first series of a lane; the next one becomes its head.
    fn take(&mut self, number: usize, parts: &mut Vec<Part>) -> Result<(), SelectError> {
        let lane = &mut self.lanes[number];
        parts.extend(lane.ready.pop_front());
        if lane.ready.is_empty() {
            let found = lane.look(self.step)?;
            self.limits.spend(found, &self.shared.settings)?;
        }
        self.lead(number);
        Ok(())
    }

    /// Puts the first series of a lane among the heads.
    fn lead(&mut self, number: usize) {
        let lane = &self.lanes[number];
        match lane.ready.front() {
            Some(first) => self.heads.push(Head {
                labels: first.labels.clone(),
                lane: number,
            }),
            None if lane.is_behind() => self.behind.push(number),
            None => {}
        }
    }

    /// Reads entries until every lane that has more has a series ready. Lanes that will need some soon read along.
    pub(super) async fn read(&mut self) -> Result<(), SelectError> {
        while !self.behind.is_empty() {
            let (shared, request) = (&*self.shared, &self.request);
            let (bytes, step) = (self.window_bytes, self.step);
            // A read under way takes some kilobytes, so none is made before its turn.
            let mut left = self.lanes.iter_mut().filter(|lane| lane.is_behind());
            let mut reads = FuturesUnordered::new();
            loop {
                while reads.len() < READS_IN_FLIGHT
                    && let Some(lane) = left.next()
                {
                    reads.push(lane.read(shared, request, bytes, step));
                }
                let Some(found) = reads.try_next().await? else { break };
                self.limits.spend(found, &shared.settings)?;
            }
            drop(reads);
            for number in std::mem::take(&mut self.behind) {
                self.lead(number);
            }
        }
        Ok(())
    }
}

/// What a query found so far, in all blocks.
#[derive(Default)]
struct Limits {
    series: usize,
    chunks: usize,
}

impl Limits {
    fn spend(&mut self, (series, chunks): (usize, usize), settings: &GatewaySettings) -> Result<(), SelectError> {
        (self.series, self.chunks) = (self.series + series, self.chunks + chunks);
        for (what, found, max, flag) in [
            ("series", self.series, settings.query_series_max, "--store.series-max"),
            ("chunks", self.chunks, settings.query_chunks_max, "--store.chunks-max"),
        ] {
            if found > max {
                return Err(limit(&format!("finds more than {max} {what}"), flag));
            }
        }
        Ok(())
    }
}

/// A query that asks for more than it may.
pub(super) fn limit(what: &str, flag: &str) -> SelectError {
    SelectError::Limit(format!(
        "the query {what} in the blocks of the bucket ({flag}); narrow it down"
    ))
}
