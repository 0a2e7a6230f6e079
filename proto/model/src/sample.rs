//! Values at points in time.

pub use crate::stale::{STALE_NAN, STALE_NAN_BITS, is_stale};
use crate::{histogram::Histogram, label::Labels, time::Timestamp};
use std::sync::Arc;

/// A float at a point in time.
#[derive(Debug, Clone, Copy)]
pub struct FloatSample {
    /// When.
    pub at: Timestamp,
    /// What; equality of samples is equality of its bits.
    pub value: f64,
    /// When the counter began, 0 when unknown.
    pub start: Timestamp,
}

/// A native histogram at a point in time.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSample {
    /// When.
    pub at: Timestamp,
    /// When the counter began, 0 when unknown.
    pub start: Timestamp,
    /// What.
    pub histogram: Arc<Histogram>,
}

/// An example of an observation, with labels such as a trace id.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// Labels of the exemplar itself, not of its series.
    pub labels: Labels,
    /// The observed value.
    pub value: f64,
    /// When it was observed.
    pub at: Timestamp,
}

/// Decoded samples of one series in columns, ascending by time, no timestamp twice.
///
/// Floats and histograms lie apart; a timestamp is in one of the two.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleBuffer {
    /// Timestamps of `values`.
    pub timestamps: Vec<Timestamp>,
    /// Float values, bit-exact, stale markers included.
    pub values: Vec<f64>,
    /// Start timestamps of the floats: empty when all are unknown, else one for each.
    pub starts: Vec<Timestamp>,
    /// Histograms, stale ones included.
    pub histograms: Vec<HistogramSample>,
}

impl SampleBuffer {
    /// Forgets the samples and keeps the memory.
    pub fn clear(&mut self) {
        self.timestamps.clear();
        self.values.clear();
        self.starts.clear();
        self.histograms.clear();
    }

    /// Number of samples of both kinds.
    pub fn len(&self) -> usize {
        self.timestamps.len() + self.histograms.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty() && self.histograms.is_empty()
    }

    /// Adds a float behind the last one.
    #[inline]
    pub fn push_float(&mut self, at: Timestamp, value: f64) {
        self.timestamps.push(at);
        self.values.push(value);
        if !self.starts.is_empty() {
            self.starts.push(0);
        }
    }

    /// Adds a float with its start timestamp behind the last one.
    pub fn push_float_started(&mut self, at: Timestamp, value: f64, start: Timestamp) {
        if start != 0 && self.starts.is_empty() {
            self.starts.resize(self.timestamps.len(), 0);
        }
        self.timestamps.push(at);
        self.values.push(value);
        if start != 0 || !self.starts.is_empty() {
            self.starts.push(start);
        }
    }
}
