//! Samples per second of one sender: a bucket that fills evenly and holds some seconds' worth.
//!
//! A request that is let in is never cut short, so a bucket can fall below zero; the next requests pay for it.

use std::time::Duration;

/// Seconds of its rate that may be sent at once when nothing else is said: a sender that was away for a moment catches up.
pub(crate) const BURST_SECONDS: f64 = 10.0;

/// Nobody is told to wait longer.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Over about so many seconds the rate that is shown is an average.
const MEMORY_SECONDS: f64 = 10.0;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) burst: f64,
}

impl Rate {
    /// `burst` below a second's worth would refuse senders that keep to their rate.
    pub(crate) fn new(per_second: f64, burst: Option<f64>) -> Self {
        let burst = burst.map_or(per_second * BURST_SECONDS, |burst| burst.max(per_second));
        Self { per_second, burst }
    }
}

/// What is left of a rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// Samples that may be sent now; below zero when a request was larger than what was left.
    tokens: f64,
    filled: Duration,
    /// Samples per second that were sent lately.
    sent_per_second: f64,
    /// The rate by which it was filled last.
    pub(crate) rate: Rate,
    /// Requests turned away.
    pub(crate) refused: u64,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now: Duration) -> Self {
        Self {
            tokens: rate.burst,
            filled: now,
            sent_per_second: 0.0,
            rate,
            refused: 0,
        }
    }

    /// When it was last looked at.
    pub(crate) fn filled(&self) -> Duration {
        self.filled
    }

    /// Whether something may be sent now; if not, after how long.
    pub(crate) fn may_send(&mut self, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.tokens > 0.0 {
            return Ok(());
        }
        self.refused += 1;
        let wait = (1.0 - self.tokens) / rate.per_second;
        Err(Duration::try_from_secs_f64(wait).unwrap_or(WAIT_MAX).min(WAIT_MAX))
    }

    pub(crate) fn sent(&mut self, samples: u64) {
        self.tokens -= samples as f64;
        self.sent_per_second += samples as f64 / MEMORY_SECONDS;
    }

    /// Samples per second that were sent lately.
    pub(crate) fn sent_per_second(&self, now: Duration) -> f64 {
        self.sent_per_second * faded(now.saturating_sub(self.filled))
    }

    fn fill(&mut self, rate: Rate, now: Duration) {
        let passed = now.saturating_sub(self.filled);
        self.tokens = (self.tokens + passed.as_secs_f64() * rate.per_second).min(rate.burst);
        self.sent_per_second *= faded(passed);
        self.filled = self.filled.max(now);
        self.rate = rate;
    }
}

/// What is left of an average after so much time.
fn faded(passed: Duration) -> f64 {
    (-passed.as_secs_f64() / MEMORY_SECONDS).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_pays_for_what_was_sent() {
        let at = Duration::from_secs;
        let rate = Rate::new(100.0, None);
        let mut bucket = Bucket::full(rate, at(0));
        assert_eq!(bucket.may_send(rate, at(0)), Ok(()));
        bucket.sent(1_500);
        assert_eq!(bucket.may_send(rate, at(1)).unwrap_err().as_secs(), 4);
        assert_eq!(bucket.refused, 1);
        assert_eq!(bucket.may_send(rate, at(6)), Ok(()));
        // A clock that runs backwards gives nothing twice.
        assert_eq!(bucket.may_send(rate, at(2)), Ok(()));
        bucket.sent(2_000);
        assert!(bucket.may_send(rate, at(7)).is_err());
        // Nobody waits for ever, however much was sent.
        bucket.sent(u64::MAX);
        assert_eq!(bucket.may_send(rate, at(7)), Err(WAIT_MAX));
    }

    #[test]
    fn bursts_have_a_bound_of_their_own() {
        assert_eq!(Rate::new(100.0, Some(300.0)).burst, 300.0);
        assert_eq!(Rate::new(100.0, Some(1.0)).burst, 100.0);
    }

    #[test]
    fn the_rate_shown_is_that_of_the_last_seconds() {
        let rate = Rate::new(1e9, None);
        let mut bucket = Bucket::full(rate, Duration::ZERO);
        for second in 0..100 {
            bucket.may_send(rate, Duration::from_secs(second)).unwrap();
            bucket.sent(1_000);
        }
        let shown = bucket.sent_per_second(Duration::from_secs(99));
        assert!((900.0..1_100.0).contains(&shown), "{shown}");
        assert!(bucket.sent_per_second(Duration::from_secs(200)) < 1.0);
    }
}
