//! A taker that keeps everything in plain maps: the reference for what [`Push`] promises, and the other end in tests.
//!
//! It is slow and unbounded on purpose: each rule of the contract is one line that can be proofread.

use super::{BatchSeries, Exception, Push, PushError, SampleKind, SeriesId, SeriesRef, WriteBatch, WriteOutcome};
use crate::{
    histogram::Histogram,
    label::Labels,
    metadata::Metadata,
    sample::{Exemplar, FloatSample, HistogramSample},
    tenant::Tenant,
    time::Timestamp,
    verdict::{Reason, Verdict},
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// How far ahead of the time of arrival a sample may be.
const FUTURE_MS_MAX: i64 = 10 * 60 * 1000;

/// A value at a timestamp, as compared for duplicates: floats by their bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// Bits of a float.
    Float(u64),
    /// A histogram. Stale ones are equal.
    Histogram(Arc<Histogram>),
}

/// What is kept of one series.
#[derive(Debug, Clone, Default)]
pub struct StoredSeries {
    /// Samples by timestamp.
    pub samples: BTreeMap<Timestamp, Stored>,
    /// Start timestamps that came with samples.
    pub starts: BTreeMap<Timestamp, Timestamp>,
    /// Exemplars in the order in which they came.
    pub exemplars: Vec<Exemplar>,
}

#[derive(Default)]
struct State {
    series: BTreeMap<(Tenant, Labels), StoredSeries>,
    metadata: BTreeMap<(Tenant, String), Metadata>,
    /// Series by their number of this life.
    refs: BTreeMap<SeriesRef, (Tenant, Labels)>,
    numbers: BTreeMap<(Tenant, Labels), SeriesRef>,
    /// Goes on over restarts, so that a number never means another series.
    next_ref: u64,
    /// What the next pushes answer instead of taking anything.
    failure: Option<PushError>,
    /// How much older than the newest of its series a sample may be; `None` for any age.
    out_of_order_ms: Option<i64>,
    batches: u64,
}

/// Takes samples into memory.
#[derive(Default)]
pub struct MemoryTaker(Mutex<State>);

impl MemoryTaker {
    /// An empty taker that accepts samples of any age.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rejects samples older than the newest of their series by more than `window_ms`.
    pub fn with_out_of_order_window(self, window_ms: i64) -> Self {
        self.0.lock().out_of_order_ms = Some(window_ms);
        self
    }

    /// Forgets all numbers and keeps all samples.
    pub fn restart(&self) {
        let mut state = self.0.lock();
        state.refs.clear();
        state.numbers.clear();
    }

    /// Fails each push with `error` until told otherwise.
    pub fn fail(&self, error: Option<PushError>) {
        self.0.lock().failure = error;
    }

    /// What is stored of a series.
    pub fn series(&self, tenant: &Tenant, labels: &Labels) -> Option<StoredSeries> {
        self.0.lock().series.get(&(tenant.clone(), labels.clone())).cloned()
    }

    /// Labels of all series of a tenant, sorted.
    pub fn all_labels(&self, tenant: &Tenant) -> Vec<Labels> {
        let state = self.0.lock();
        state
            .series
            .keys()
            .filter(|(owner, _)| owner == tenant)
            .map(|(_, labels)| labels.clone())
            .collect()
    }

    /// Metadata of a metric family.
    pub fn metadata(&self, tenant: &Tenant, family: &str) -> Option<Metadata> {
        self.0
            .lock()
            .metadata
            .get(&(tenant.clone(), family.to_owned()))
            .cloned()
    }

    /// Samples of all series of all tenants.
    pub fn sample_count(&self) -> usize {
        self.0.lock().series.values().map(|series| series.samples.len()).sum()
    }

    /// Batches taken so far.
    pub fn batches(&self) -> u64 {
        self.0.lock().batches
    }
}

impl Push for MemoryTaker {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        let result = self.0.lock().take(batch, received);
        Box::pin(async move { result })
    }
}

impl State {
    fn take(&mut self, batch: &WriteBatch, received: Timestamp) -> Result<WriteOutcome, PushError> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        self.batches += 1;
        let mut outcome = WriteOutcome::default();
        let mut starts = [0; 3];
        for (index, series) in batch.series.iter().enumerate() {
            let ranges = ranges(&mut starts, series);
            let index = index as u32;
            let Some((reference, key)) = self.resolve(&batch.tenant, &series.id) else {
                outcome.unknown.push(index);
                continue;
            };
            if matches!(series.id, SeriesId::New(_)) {
                outcome.refs.push((index, reference));
            }
            self.store(index, key, batch, ranges, received, &mut outcome.exceptions);
        }
        for metadata in &batch.metadata {
            self.metadata
                .insert((batch.tenant.clone(), metadata.family.clone()), metadata.clone());
        }
        Ok(outcome)
    }

    fn resolve(&mut self, tenant: &Tenant, id: &SeriesId) -> Option<(SeriesRef, (Tenant, Labels))> {
        match id {
            SeriesId::Known(reference) => {
                // A number of another tenant is as unknown as none.
                let key = self.refs.get(reference).filter(|(owner, _)| owner == tenant)?;
                Some((*reference, key.clone()))
            }
            SeriesId::New(labels) => {
                let key = (tenant.clone(), labels.clone());
                let next_ref = &mut self.next_ref;
                let reference = *self.numbers.entry(key.clone()).or_insert_with(|| {
                    *next_ref += 1;
                    SeriesRef(*next_ref)
                });
                self.refs.insert(reference, key.clone());
                Some((reference, key))
            }
        }
    }

    fn store(
        &mut self,
        index: u32,
        key: (Tenant, Labels),
        batch: &WriteBatch,
        [floats, histograms, exemplars]: [Range<usize>; 3],
        received: Timestamp,
        exceptions: &mut Vec<Exception>,
    ) {
        let window = self.out_of_order_ms;
        let series = self.series.entry(key).or_default();
        let mut except = |sample: usize, kind, verdict| {
            if verdict != Verdict::Written {
                exceptions.push(Exception {
                    series: index,
                    sample: sample as u32,
                    kind,
                    verdict,
                });
            }
        };
        for sample in floats {
            let FloatSample { at, value, start } = batch.floats[sample];
            let verdict = series.add(at, start, Stored::Float(value.to_bits()), received, window);
            except(sample, SampleKind::Float, verdict);
        }
        for sample in histograms {
            let HistogramSample { at, start, histogram } = &batch.histograms[sample];
            let verdict = series.add(*at, *start, Stored::Histogram(Arc::clone(histogram)), received, window);
            except(sample, SampleKind::Histogram, verdict);
        }
        for sample in exemplars {
            except(
                sample,
                SampleKind::Exemplar,
                series.add_exemplar(&batch.exemplars[sample]),
            );
        }
    }
}

impl StoredSeries {
    fn add(
        &mut self,
        at: Timestamp,
        start: Timestamp,
        value: Stored,
        received: Timestamp,
        window: Option<i64>,
    ) -> Verdict {
        if let Some(stored) = self.samples.get(&at) {
            return if same(stored, &value) {
                Verdict::Duplicate
            } else {
                Verdict::Rejected(Reason::DuplicateTimestamp)
            };
        }
        if at > received.saturating_add(FUTURE_MS_MAX) {
            return Verdict::Rejected(Reason::TooFarInFuture);
        }
        if let (Some(window), Some((newest, _))) = (window, self.samples.last_key_value())
            && at < newest.saturating_sub(window)
        {
            return Verdict::Rejected(Reason::OutOfOrder);
        }
        self.samples.insert(at, value);
        if start != 0 {
            self.starts.insert(at, start);
        }
        Verdict::Written
    }

    fn add_exemplar(&mut self, exemplar: &Exemplar) -> Verdict {
        if self.exemplars.contains(exemplar) {
            return Verdict::Duplicate;
        }
        if self.exemplars.last().is_some_and(|last| exemplar.at < last.at) {
            return Verdict::Rejected(Reason::InvalidExemplar);
        }
        self.exemplars.push(exemplar.clone());
        Verdict::Written
    }
}

/// Equality of samples: bits of floats, and stale histograms by being stale.
fn same(one: &Stored, other: &Stored) -> bool {
    match (one, other) {
        (Stored::Histogram(one), Stored::Histogram(other)) => one == other || (one.is_stale() && other.is_stale()),
        (one, other) => one == other,
    }
}

fn ranges(starts: &mut [usize; 3], series: &BatchSeries) -> [Range<usize>; 3] {
    let ends = [
        series.floats_end as usize,
        series.histograms_end as usize,
        series.exemplars_end as usize,
    ];
    let ranges = std::array::from_fn(|column| starts[column]..ends[column]);
    *starts = ends;
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_conforms() {
        futures::executor::block_on(super::super::conformance::check(&MemoryTaker::new(), 1_700_000_000_000));
    }

    #[test]
    fn a_restart_forgets_numbers_and_keeps_samples() {
        let taker = MemoryTaker::new();
        let mut batch = WriteBatch::default();
        batch.floats.push(FloatSample {
            at: 1,
            value: 1.0,
            start: 0,
        });
        batch.finish_series(SeriesId::New(Labels::new([("__name__", "up")]).unwrap()));
        let outcome = futures::executor::block_on(taker.push(&batch, 1)).unwrap();
        batch.series[0].id = SeriesId::Known(outcome.refs[0].1);
        taker.restart();
        let outcome = futures::executor::block_on(taker.push(&batch, 1)).unwrap();
        assert_eq!((outcome.unknown, taker.sample_count()), (vec![0], 1));
    }
}
