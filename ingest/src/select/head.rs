//! Series of the head with their samples, found and copied batch by batch.
//!
//! The index is locked for a batch of series at a time, and then each shard for those of them that it holds. Who looks at nothing but
//! newest samples gets what the hot state remembers, and no chunk is touched.

use super::BATCH_SERIES;
use crate::{
    blocks::Pin,
    core::Core,
    head::{
        lookup::{Found, Selection},
        projection::Projection,
        shard::{Shard, place, shard_of},
    },
};
use model::{
    identity::Identity,
    sample::SampleBuffer,
    select::{Chunk, Samples, SelectError, SelectRequest, Series},
    tenant::Tenant,
    time::{TimeRange, Timestamp},
};
use std::{collections::VecDeque, sync::Arc};
use storage::chunk::{ChunkSamples, encode_floats};
use tokio::task::yield_now;

/// What errors call this source.
const ORIGIN: &str = "head";

/// Series of the head that match, resolved bit by bit so that the index is never locked for long.
struct HeadScan {
    core: Arc<Core>,
    selection: Selection,
    candidates: std::vec::IntoIter<u32>,
    projection: Projection,
}

impl HeadScan {
    /// The next series, at most [`BATCH_SERIES`]; empty at the end.
    fn next(&mut self) -> Vec<Found> {
        loop {
            let rest = self.candidates.as_slice();
            if rest.is_empty() {
                return Vec::new();
            }
            let count = rest.len().min(BATCH_SERIES);
            let found = self
                .selection
                .resolve(&self.core.head, &rest[..count], &mut self.projection);
            self.candidates.nth(count - 1);
            if !found.is_empty() {
                return found;
            }
        }
    }
}

/// What is needed of each series.
struct Wanted {
    range: TimeRange,
    labels_only: bool,
    newest_only: bool,
    origin: Arc<str>,
}

/// Series of the head with their samples.
pub(super) struct HeadSeries {
    core: Arc<Core>,
    scan: HeadScan,
    wanted: Wanted,
    /// Everything, sorted, when order matters; else what the scan gave last.
    found: VecDeque<Found>,
    /// Series that come next.
    pub(super) ready: VecDeque<Series>,
    /// What tells those apart, if that is asked for.
    identities: Vec<Identity>,
    /// Until everything is copied.
    _pin: Arc<Pin>,
}

impl HeadSeries {
    /// The series of a tenant that match, by labels if `sorted`, else in no particular order.
    pub(super) async fn new(
        core: &Arc<Core>,
        tenant: &Tenant,
        request: &SelectRequest,
        pin: &Arc<Pin>,
        sorted: bool,
    ) -> Self {
        let names = request.hints.labels.clone().filter(|_| !sorted);
        let mut series = Self::showing(core, tenant, request, pin, Projection::new(names));
        if sorted {
            loop {
                let more = series.scan.next();
                if more.is_empty() {
                    break;
                }
                series.found.extend(more);
                series.keep_first(request.limit);
                yield_now().await;
            }
            series.sort();
        }
        series
    }

    fn sort(&mut self) {
        let found = self.found.make_contiguous();
        found.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
    }

    /// Forgets series that lie behind the limit of a question, now and then, so that no more than twice as many are held.
    fn keep_first(&mut self, limit: usize) {
        if limit == 0 || self.found.len() < limit.saturating_mul(2).saturating_add(BATCH_SERIES) {
            return;
        }
        // Those that will not be given out must not take the places of others.
        let (core, range) = (&self.core, self.wanted.range);
        let has_samples = |found: &Found| {
            let (place, shard) = (place(found.slot), core.head.shard(found.slot));
            shard.is_some_and(|shard| {
                let shard = shard.lock();
                shard.series(place, found.number).is_some() && shard.has_samples(place, range)
            })
        };
        self.found.retain(has_samples);
        self.sort();
        self.found.truncate(limit);
    }

    /// The series of a tenant that match, in no particular order, with identities made with `key`.
    pub(super) fn identified(
        core: &Arc<Core>,
        tenant: &Tenant,
        request: &SelectRequest,
        pin: &Arc<Pin>,
        key: u64,
    ) -> Self {
        let projection = Projection::new(request.hints.labels.clone()).identifying(Some(key));
        Self::showing(core, tenant, request, pin, projection)
    }

    fn showing(
        core: &Arc<Core>,
        tenant: &Tenant,
        request: &SelectRequest,
        pin: &Arc<Pin>,
        projection: Projection,
    ) -> Self {
        let selection = core.head.find(tenant, &request.matchers);
        // What the head holds is in no block.
        let candidates = match request.asks_block("") {
            true => selection.candidates(),
            false => Vec::new(),
        };
        Self {
            core: Arc::clone(core),
            scan: HeadScan {
                core: Arc::clone(core),
                candidates: candidates.into_iter(),
                selection,
                projection,
            },
            wanted: Wanted {
                range: request.range,
                labels_only: request.labels_only,
                newest_only: request.hints.newest_only,
                origin: ORIGIN.into(),
            },
            found: VecDeque::new(),
            ready: VecDeque::new(),
            identities: Vec::new(),
            _pin: Arc::clone(pin),
        }
    }

    /// How many series may still be found at most.
    pub(super) fn series_max(&self) -> usize {
        self.scan.candidates.len() + self.found.len()
    }

    /// Takes the series that come next, some hundreds, with their identities; none at the end.
    pub(super) fn take_identified(&mut self) -> impl Iterator<Item = (Identity, Series)> + use<> {
        self.fill();
        let ready = std::mem::take(&mut self.ready);
        std::mem::take(&mut self.identities).into_iter().zip(ready)
    }

    /// Takes the series that come next, some hundreds; none at the end.
    pub(super) fn take(&mut self) -> VecDeque<Series> {
        self.fill();
        std::mem::take(&mut self.ready)
    }

    /// Makes sure that the next series is in `ready`, unless there is none.
    pub(super) fn fill(&mut self) {
        while self.ready.is_empty() {
            if self.found.is_empty() {
                self.found = self.scan.next().into();
            }
            if self.found.is_empty() {
                return;
            }
            let count = self.found.len().min(BATCH_SERIES);
            let mut ready = VecDeque::with_capacity(count);
            self.identities.clear();
            let mut batch = self.found.drain(..count).peekable();
            while let Some(first) = batch.peek() {
                let (number, shard) = (shard_of(first.slot), self.core.head.shard(first.slot));
                let run = std::iter::from_fn(|| batch.next_if(|found| shard_of(found.slot) == number));
                let Some(shard) = shard else {
                    run.for_each(drop);
                    continue;
                };
                let shard = shard.lock();
                for found in run {
                    let identity = found.identity;
                    if let Some(series) = self.wanted.series(&shard, found) {
                        ready.push_back(series);
                        self.identities.push(identity);
                    }
                }
            }
            drop(batch);
            self.ready = ready;
        }
    }
}

impl Wanted {
    /// The series with its samples; `None` when it has none in the range, or is gone.
    fn series(&self, shard: &Shard, found: Found) -> Option<Series> {
        let place = place(found.slot);
        shard.series(place, found.number)?;
        let samples: Box<dyn Samples> = match shard.newest_float(place, self.range).filter(|_| self.newest_only) {
            Some((at, value)) => Box::new(Newest { at, value }),
            None if !shard.has_samples(place, self.range) => return None,
            None => {
                let mut chunks = Vec::new();
                if !self.labels_only {
                    shard.copy_chunks(place, self.range, &mut chunks);
                }
                Box::new(ChunkSamples::new(chunks, Arc::clone(&self.origin)))
            }
        };
        Some(Series {
            labels: found.labels,
            samples,
        })
    }
}

/// The newest sample of a series.
struct Newest {
    at: Timestamp,
    value: f64,
}

impl Samples for Newest {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        if range.contains(self.at) {
            buffer.push_float(self.at, self.value);
        }
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        Ok(vec![encode_floats(&[self.at], &[self.value])])
    }
}
