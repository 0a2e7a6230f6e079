//! The write seam: hand over samples, get a verdict for each.
//!
//! A steady series is handed over by number, not by labels. The first push of a series carries its labels and the
//! outcome gives the [`SeriesRef`] to use from then on; a ref that the taker no longer knows (it restarted, or dropped an idle
//! series) comes back in [`WriteOutcome::unknown`], and the caller pushes that series again with its labels. Nothing of an
//! unknown series is stored, so the repetition is safe.

use crate::{
    label::Labels,
    metadata::Metadata,
    sample::{Exemplar, FloatSample, HistogramSample},
    tenant::Tenant,
    time::Timestamp,
    verdict::{Reason, Verdict},
};
use futures::future::BoxFuture;
use std::time::Duration;

pub mod conformance;
pub mod memory;
mod part;

/// A series as one taker numbers it: valid for that taker, until it restarts or drops the series.
///
/// Takers that store samples leave bit 31 zero: one that stands before several others marks its own numbers with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesRef(pub u64);

/// How a batch names a series.
#[derive(Debug, Clone, PartialEq)]
pub enum SeriesId {
    /// By the number that an earlier outcome gave.
    Known(SeriesRef),
    /// By its labels: sorted, distinct, valid.
    New(Labels),
}

/// One series of a batch. Its samples end where the next one's begin; the first one's begin at 0.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchSeries {
    /// Which series.
    pub id: SeriesId,
    /// End of its floats in [`WriteBatch::floats`].
    pub floats_end: u32,
    /// End of its histograms in [`WriteBatch::histograms`].
    pub histograms_end: u32,
    /// End of its exemplars in [`WriteBatch::exemplars`].
    pub exemplars_end: u32,
}

/// Samples of one tenant on their way to one taker, in columns, in the sender's order.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    /// Whose samples.
    pub tenant: Tenant,
    /// The series, each with a slice of the columns below.
    pub series: Vec<BatchSeries>,
    /// Float samples of all series.
    pub floats: Vec<FloatSample>,
    /// Histograms of all series.
    pub histograms: Vec<HistogramSample>,
    /// Exemplars of all series.
    pub exemplars: Vec<Exemplar>,
    /// Metadata of metric families; never fails a batch.
    pub metadata: Vec<Metadata>,
}

impl WriteBatch {
    /// Closes a series: its samples are what was added to the columns since the last call.
    #[inline]
    pub fn finish_series(&mut self, id: SeriesId) {
        self.series.push(BatchSeries {
            id,
            floats_end: self.floats.len() as u32,
            histograms_end: self.histograms.len() as u32,
            exemplars_end: self.exemplars.len() as u32,
        });
    }

    /// Forgets the content and keeps the memory.
    pub fn clear(&mut self) {
        self.series.clear();
        self.floats.clear();
        self.histograms.clear();
        self.exemplars.clear();
        self.metadata.clear();
    }
}

/// A sample that was not simply written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Index of its series in the batch.
    pub series: u32,
    /// Index in the column of its kind.
    pub sample: u32,
    /// Which column.
    pub kind: SampleKind,
    /// What became of it: [`Verdict::Duplicate`] or [`Verdict::Rejected`].
    pub verdict: Verdict,
}

/// The columns of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SampleKind {
    /// [`WriteBatch::floats`]
    Float,
    /// [`WriteBatch::histograms`]
    Histogram,
    /// [`WriteBatch::exemplars`]
    Exemplar,
}

/// What became of a batch. Each sample that no exception names, and whose series is not unknown, is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOutcome {
    /// Samples that were duplicates or rejected, in no particular order.
    pub exceptions: Vec<Exception>,
    /// Refs of the series that came by labels: (index in the batch, ref).
    pub refs: Vec<(u32, SeriesRef)>,
    /// Indices of the series whose ref is not known any more; push them again with labels.
    pub unknown: Vec<u32>,
}

impl WriteOutcome {
    /// The first rejection, if any.
    pub fn first_rejection(&self) -> Option<(&Exception, Reason)> {
        self.exceptions.iter().find_map(|exception| match exception.verdict {
            Verdict::Rejected(reason) => Some((exception, reason)),
            Verdict::Written | Verdict::Duplicate => None,
        })
    }
}

/// Why a batch as a whole got no verdicts. It is safe to repeat: what was stored will be a duplicate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Starting, overloaded, full disk, lost quorum: try again after the given time.
    #[error("{reason}")]
    Unavailable {
        /// What is in the way, in words for an operator.
        reason: String,
        /// When it may be worth trying again.
        retry_after: Duration,
    },
}

/// Takes samples. Implemented by the ingester, the replicator and the client of a remote node.
pub trait Push: Send + Sync {
    /// Takes a batch. When it answers `Ok`, every sample with verdict written or duplicate is as durable as the policy of the
    /// taker says (promise P1). Batches of one caller may be pushed at the same time.
    fn push<'a>(&'a self, batch: &'a WriteBatch, received: Timestamp)
    -> BoxFuture<'a, Result<WriteOutcome, PushError>>;
}
