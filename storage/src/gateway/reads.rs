//! Reading a range of an object: hedged, counted, and with a bound on what is in flight.
//!
//! Object stores answer most requests fast and a few of them very late. A read that takes longer than nine of ten did is asked a
//! second time, and a third; whoever answers first wins. Hedges are paid from an allowance that grows with every read, so a store
//! that is slow as a whole is not asked twice for everything.

use super::settings::GatewaySettings;
use crate::metrics::GatewayMetrics;
use bytes::Bytes;
use futures::{
    StreamExt as _,
    future::{Either, select},
    stream::FuturesUnordered,
};
use model::env::Env;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parking_lot::Mutex;
use std::{ops::Range, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Requests for the same range at the same time, at most.
const ATTEMPTS_MAX: usize = 3;
/// Latencies remembered.
const REMEMBERED: usize = 256;
/// As long as fewer are known, the delay is [`DELAY_UNKNOWN`].
const KNOWN_MIN: usize = 16;
const DELAY_UNKNOWN: Duration = Duration::from_millis(50);
/// Hedges come no sooner: below, the network's own jitter would set them off.
const DELAY_MIN: Duration = Duration::from_millis(4);
const DELAY_MAX: Duration = Duration::from_secs(2);
/// So many bytes per millisecond are expected once an answer flows (50 MB/s).
const BYTES_PER_MS: u64 = 50_000;
/// A hedge costs as much as this many reads bring in: at most one read in eight is hedged in the long run.
const READS_PER_HEDGE: u32 = 8;
/// Hedges that may come at once after a quiet time.
const HEDGES_SAVED_MAX: u32 = 64;
/// The unit of the bound on bytes in flight.
const GATE_UNIT: u64 = 4096;

/// Reads ranges of one bucket.
pub(super) struct Reads {
    env: Env,
    bucket: Arc<dyn ObjectStore>,
    metrics: GatewayMetrics,
    pace: Mutex<Pace>,
    /// Requests at the same time, hedges not counted.
    slots: Semaphore,
    /// Bytes on their way.
    gate: Semaphore,
    /// What the gate holds when nothing is in flight.
    gate_units: u32,
}

/// How long reads take, and what may be spent on hedges.
struct Pace {
    /// Latencies in microseconds, the newest over the oldest.
    latencies: Vec<u32>,
    next: usize,
    /// The latency that nine of ten reads stay below.
    usual: Option<Duration>,
    /// In eighths of a hedge.
    allowance: u32,
}

impl Pace {
    fn note(&mut self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        match self.latencies.len() < REMEMBERED {
            true => self.latencies.push(micros),
            false => self.latencies[self.next] = micros,
        }
        self.next = (self.next + 1) % REMEMBERED;
        let known = self.latencies.len();
        if known == KNOWN_MIN || (known > KNOWN_MIN && self.next.is_multiple_of(16)) {
            let mut sorted = self.latencies.clone();
            let (_, ninth, _) = sorted.select_nth_unstable(known * 9 / 10);
            self.usual = Some(Duration::from_micros(u64::from(*ninth)));
        }
    }

    fn delay(&self, bytes: u64) -> Duration {
        let flow = Duration::from_millis(bytes / BYTES_PER_MS);
        let usual = self.usual.unwrap_or(DELAY_UNKNOWN);
        (usual + usual / 4 + flow).clamp(DELAY_MIN, DELAY_MAX)
    }

    fn earn(&mut self) {
        self.allowance = (self.allowance + 1).min(HEDGES_SAVED_MAX * READS_PER_HEDGE);
    }

    fn spend(&mut self) -> bool {
        let left = self.allowance.checked_sub(READS_PER_HEDGE);
        self.allowance = left.unwrap_or(self.allowance);
        left.is_some()
    }
}

impl Reads {
    pub(super) fn new(
        env: Env,
        bucket: Arc<dyn ObjectStore>,
        metrics: GatewayMetrics,
        settings: &GatewaySettings,
    ) -> Self {
        let gate_units = settings.in_flight_bytes_max / GATE_UNIT;
        let gate_units = u32::try_from(gate_units).unwrap_or(u32::MAX >> 4).max(1);
        Self {
            env,
            bucket,
            metrics,
            pace: Mutex::new(Pace {
                latencies: Vec::new(),
                next: 0,
                usual: None,
                allowance: HEDGES_SAVED_MAX * READS_PER_HEDGE / 2,
            }),
            slots: Semaphore::new(settings.fetches_in_flight.max(1)),
            gate: Semaphore::new(gate_units as usize),
            gate_units,
        }
    }

    /// Reads `range` of an object; gives exactly so many bytes, or an error.
    pub(super) async fn range(&self, path: &Path, range: Range<u64>) -> Result<Bytes, object_store::Error> {
        let length = range.end.saturating_sub(range.start);
        let units = u32::try_from(length.div_ceil(GATE_UNIT)).unwrap_or(u32::MAX);
        // A range larger than all that may be in flight has the gate to itself.
        let _slot = self.slots.acquire().await;
        let _held = self.gate.acquire_many(units.min(self.gate_units)).await;
        self.metrics.fetches.inc();
        self.metrics.fetched_bytes.inc_by(length);
        let delay = {
            let mut pace = self.pace.lock();
            pace.earn();
            pace.delay(length)
        };
        let mut attempts = FuturesUnordered::new();
        attempts.push(self.attempt(path, range.clone()));
        let mut may_hedge = true;
        let mut failure = None;
        loop {
            let outcome = match may_hedge {
                true => match select(attempts.next(), self.env.clock.sleep(delay)).await {
                    Either::Left((outcome, _)) => Some(outcome),
                    Either::Right(_) => None,
                },
                false => Some(attempts.next().await),
            };
            let Some(outcome) = outcome else {
                may_hedge = self.pace.lock().spend();
                if may_hedge {
                    self.metrics.hedges.inc();
                    attempts.push(self.attempt(path, range.clone()));
                    may_hedge = attempts.len() < ATTEMPTS_MAX;
                }
                continue;
            };
            match (outcome, failure.take()) {
                (Some(Ok(bytes)), _) => return Ok(bytes),
                // Another attempt may still bring it.
                (Some(Err(error)), _) => failure = Some(error),
                (None, Some(error)) => return Err(error),
                (None, None) => return Err(missing(path)),
            }
            if failure.is_some() {
                // The store has tried again by itself; a hedge would not help now.
                may_hedge = false;
            }
        }
    }

    async fn attempt(&self, path: &Path, range: Range<u64>) -> Result<Bytes, object_store::Error> {
        let begun = self.env.clock.monotonic();
        let length = range.end - range.start;
        let bytes = self.bucket.get_range(path, range).await?;
        if bytes.len() as u64 != length {
            return Err(object_store::Error::Generic {
                store: "bucket",
                source: format!("{path}: {} bytes came instead of {length}", bytes.len()).into(),
            });
        }
        let flow = Duration::from_millis(length / BYTES_PER_MS);
        let took = self.env.clock.monotonic().saturating_sub(begun);
        self.pace.lock().note(took.saturating_sub(flow));
        Ok(bytes)
    }
}

fn missing(path: &Path) -> object_store::Error {
    object_store::Error::Generic {
        store: "bucket",
        source: format!("{path}: no answer").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace {
            latencies: Vec::new(),
            next: 0,
            usual: None,
            allowance: 0,
        }
    }

    #[test]
    fn the_delay_follows_what_is_usual_and_not_what_is_rare() {
        let mut pace = pace();
        assert_eq!(pace.delay(0), DELAY_UNKNOWN + DELAY_UNKNOWN / 4);
        for number in 0..1000 {
            let ms = if number % 20 == 0 { 500 } else { 30 };
            pace.note(Duration::from_millis(ms));
        }
        assert_eq!(pace.delay(0), Duration::from_micros(37_500));
        assert_eq!(pace.delay(5_000_000), Duration::from_micros(137_500));
        (0..REMEMBERED).for_each(|_| pace.note(Duration::from_micros(10)));
        assert_eq!(pace.delay(0), DELAY_MIN);
        (0..REMEMBERED).for_each(|_| pace.note(Duration::from_secs(60)));
        assert_eq!(pace.delay(0), DELAY_MAX);
    }

    #[test]
    fn hedges_are_paid_for() {
        let mut pace = pace();
        let mut hedges = 0;
        for _ in 0..800 {
            pace.earn();
            hedges += u32::from(pace.spend());
        }
        assert_eq!(hedges, 100);
    }
}
