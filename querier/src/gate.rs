//! A bound on how many requests run at the same time, and on how many wait.
//!
//! A thousand panels that refresh at once then take turns instead of taking the memory of the node.

use crate::metrics::{Kind, Metrics};
use prometheus_client::metrics::gauge::Gauge;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets a bounded number of requests run and a bounded number wait, in the order of arrival.
pub struct Gate {
    kind: &'static str,
    running_max: usize,
    waiting_max: usize,
    running: Arc<Semaphore>,
    /// A place for each request inside, running or waiting.
    places: Arc<Semaphore>,
    metrics: Metrics,
}

/// The right to run; dropping it lets the next one in.
pub struct Permit {
    _running: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
    _counted: Counted,
}

/// Too many requests are waiting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("too many requests at once: {running} of kind {kind} may run and {waiting} may wait; try again later")]
pub struct Full {
    kind: &'static str,
    running: usize,
    waiting: usize,
}

impl Gate {
    /// A gate that lets `running_max` requests run and `waiting_max` wait; at least one may run.
    pub fn new(kind: &'static str, running_max: usize, waiting_max: usize, metrics: Metrics) -> Self {
        let running_max = running_max.clamp(1, Semaphore::MAX_PERMITS / 2);
        let waiting_max = waiting_max.min(Semaphore::MAX_PERMITS / 2);
        Self {
            kind,
            running_max,
            waiting_max,
            running: Arc::new(Semaphore::new(running_max)),
            places: Arc::new(Semaphore::new(running_max + waiting_max)),
            metrics,
        }
    }

    /// Waits for a turn. The caller bounds the time.
    pub async fn enter(&self) -> Result<Permit, Full> {
        let kind = Kind { kind: self.kind };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.metrics.refused.get_or_create(&kind).inc();
            return Err(self.full());
        };
        let waiting = Counted::new(self.metrics.waiting.get_or_create_owned(&kind));
        // The semaphores are never closed; were one, nothing could run any more, which is what "full" says.
        let running = self.running.clone().acquire_owned().await.map_err(|_| self.full())?;
        drop(waiting);
        let counted = Counted::new(self.metrics.running.get_or_create_owned(&kind));
        Ok(Permit {
            _running: running,
            _place: place,
            _counted: counted,
        })
    }

    fn full(&self) -> Full {
        Full {
            kind: self.kind,
            running: self.running_max,
            waiting: self.waiting_max,
        }
    }
}

/// Counts in a gauge as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
