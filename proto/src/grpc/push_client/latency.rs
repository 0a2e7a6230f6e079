//! How long a peer takes to answer, so that nobody waits longer than makes sense.

use std::time::Duration;

/// How long answers take, as TCP reckons it.
#[derive(Debug, Default)]
pub(super) struct Latency {
    smooth: Option<f64>,
    deviation: f64,
}

impl Latency {
    pub(super) fn observe(&mut self, taken: Duration) {
        let taken = taken.as_secs_f64();
        match &mut self.smooth {
            None => (self.smooth, self.deviation) = (Some(taken), taken / 2.0),
            Some(smooth) => {
                self.deviation += ((taken - *smooth).abs() - self.deviation) / 4.0;
                *smooth += (taken - *smooth) / 8.0;
            }
        }
    }

    /// What an answer hardly ever exceeds.
    pub(super) fn usual_max(&self) -> Option<Duration> {
        let seconds = self.smooth? + 4.0 * self.deviation;
        Duration::try_from_secs_f64(seconds).ok()
    }
}
