//! What all batches on their way have in common: the near taker, and what was learnt from the answers.

use super::{
    catalog::{Catalog, Side},
    part::Part,
};
use crate::metrics::ReplicationMetrics;
use model::{
    env::Env,
    push::{Push, PushError, SeriesRef, WriteBatch, WriteOutcome},
    time::Timestamp,
};
use proto::spare::Spares;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Samples that the near taker may have under way beyond those that a request waits for.
const NEAR_SAMPLES_MAX: usize = 8 << 20;

/// What all rounds of a replicator share.
pub(super) struct Shared {
    pub(super) env: Env,
    pub(super) near: Arc<dyn Push>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) metrics: ReplicationMetrics,
    /// Memory for the parts of the near taker.
    pub(super) spares: Spares,
    /// Samples on their way to the near taker.
    pub(super) near_samples: AtomicUsize,
    /// The number of this process.
    pub(super) process: u64,
    /// It was logged that two nodes of the ring are one process.
    pub(super) told_twice: AtomicBool,
}

/// Samples on their way; counted off when dropped.
struct UnderWay<'a>(&'a AtomicUsize, usize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Whether the near taker keeps up. One whose disk hangs is not asked again before it has answered.
    pub(super) fn near_is_free(&self) -> bool {
        self.near_samples.load(Ordering::Relaxed) < NEAR_SAMPLES_MAX
    }

    pub(super) async fn push_near(&self, batch: &WriteBatch, received: Timestamp) -> Result<WriteOutcome, PushError> {
        let samples = batch.floats.len() + batch.histograms.len();
        self.near_samples.fetch_add(samples, Ordering::Relaxed);
        let _under_way = UnderWay(&self.near_samples, samples);
        self.near.push(batch, received).await
    }

    /// Keeps the numbers that a taker gave, forgets those that it does not know.
    pub(super) fn remember(&self, side: Side, part: &Part, ours: &[SeriesRef], outcome: &WriteOutcome) {
        let our_number = |place: usize| part.series.get(place).map(|index| ours[*index as usize]);
        if !outcome.refs.is_empty() {
            let learnt = outcome.refs.iter();
            self.catalog.learn(
                side,
                learnt.filter_map(|(place, number)| Some((our_number(*place as usize)?, *number))),
            );
        }
        if !outcome.unknown.is_empty() {
            let forgotten = outcome.unknown.iter().filter_map(|place| {
                let place = *place as usize;
                Some((our_number(place)?, *part.numbers.get(place)?))
            });
            self.catalog.forget(forgotten);
        }
    }
}
