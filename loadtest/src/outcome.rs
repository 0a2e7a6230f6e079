//! What came of a run of the write loop: samples by fate, how long acknowledgements took, what went wrong.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Samples acknowledged.
    pub samples: u64,
    /// Samples in requests that were refused for good.
    pub refused: u64,
    /// Samples in requests that were given up.
    pub unknown: u64,
    /// Requests acknowledged.
    pub requests: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Milliseconds from when a request was due until its acknowledgement.
    pub ack_ms: Latency,
    /// Answers other than 2xx, by status, and failed connections.
    pub errors: BTreeMap<String, u64>,
    /// Text of the first refusal.
    pub first_refusal: Option<String>,
    /// Bytes of the messages before compression.
    pub message_bytes: u64,
    /// Bytes of the request bodies.
    pub body_bytes: u64,
}

/// A distribution in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Half of them took at most this long.
    pub p50: f64,
    /// 99 of 100 took at most this long.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

impl Latency {
    /// Reads it off a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |us: u64| us as f64 / 1000.0;
        Self {
            p50: ms(histogram.value_at_quantile(0.5)),
            p99: ms(histogram.value_at_quantile(0.99)),
            max: ms(histogram.max()),
        }
    }
}

/// What one connection counts.
pub(crate) struct Tally {
    pub(crate) samples: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    /// Microseconds.
    pub(crate) acks: Histogram<u64>,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) first_refusal: Option<String>,
    pub(crate) message_bytes: u64,
    pub(crate) body_bytes: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            samples: 0,
            refused: 0,
            unknown: 0,
            acks: Histogram::new(3).expect("three digits are a valid precision"),
            errors: BTreeMap::new(),
            first_refusal: None,
            message_bytes: 0,
            body_bytes: 0,
        }
    }

    pub(crate) fn join(&mut self, other: Tally) {
        self.samples += other.samples;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.acks.add(&other.acks).expect("the histograms grow as needed");
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.first_refusal = self.first_refusal.take().or(other.first_refusal);
        self.message_bytes += other.message_bytes;
        self.body_bytes += other.body_bytes;
    }

    pub(crate) fn count_error(&mut self, error: String) {
        *self.errors.entry(error).or_default() += 1;
    }

    pub(crate) fn outcome(self, elapsed: Duration) -> Outcome {
        Outcome {
            samples: self.samples,
            refused: self.refused,
            unknown: self.unknown,
            requests: self.acks.len(),
            seconds: elapsed.as_secs_f64(),
            ack_ms: Latency::of(&self.acks),
            errors: self.errors,
            first_refusal: self.first_refusal,
            message_bytes: self.message_bytes,
            body_bytes: self.body_bytes,
        }
    }
}
