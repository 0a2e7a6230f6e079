//! What became of a request so far: what is written, what is refused.
//!
//! `write` settles each pushed slice here by the outcome that the taker gave; at the end the answer is read off.

use crate::{
    gather::{Counts, Request, Slice, columns},
    rejections::Rejections,
};
use model::push::{SampleKind, WriteOutcome};
use model::verdict::Verdict;

/// Samples stored, by kind. A duplicate is stored, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) floats: u64,
    pub(crate) histograms: u64,
    pub(crate) exemplars: u64,
}

/// The sums of a request.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) written: Written,
    pub(crate) rejections: Rejections,
    pub(crate) counts: Counts,
    pub(crate) refused_routes: u64,
}

impl Tally {
    /// Adds what the walk met.
    pub(crate) fn met(&mut self, counts: Counts) {
        let sum = &mut self.counts;
        sum.seen += counts.seen;
        sum.dropped_exemplars += counts.dropped_exemplars;
        sum.dropped_metadata += counts.dropped_metadata;
        sum.own_fields += counts.own_fields;
        sum.foreign_fields += counts.foreign_fields;
        sum.hits += counts.hits;
        sum.misses += counts.misses;
        sum.dropped_samples += counts.dropped_samples;
        sum.elsewhere += counts.elsewhere;
    }

    /// Adds the verdicts on a slice. Series whose number was not known are left to the slice that repeats them.
    pub(crate) fn settle(&mut self, slice: &Slice, outcome: &WriteOutcome, request: &Request<'_>) {
        let batch = &slice.batch;
        let mut written = Written {
            floats: batch.floats.len() as u64,
            histograms: batch.histograms.len() as u64,
            exemplars: batch.exemplars.len() as u64,
        };
        for series in &outcome.unknown {
            if (*series as usize) < batch.series.len() {
                let [floats, histograms, exemplars] =
                    columns(batch, *series as usize).map(|column| column.len() as u64);
                written.floats -= floats;
                written.histograms -= histograms;
                written.exemplars -= exemplars;
            }
        }
        for exception in &outcome.exceptions {
            let Verdict::Rejected(reason) = exception.verdict else {
                continue;
            };
            let index = exception.sample as usize;
            let (count, at) = match exception.kind {
                SampleKind::Float => (&mut written.floats, batch.floats.get(index).map(|sample| sample.at)),
                SampleKind::Histogram => (
                    &mut written.histograms,
                    batch.histograms.get(index).map(|sample| sample.at),
                ),
                SampleKind::Exemplar => (
                    &mut written.exemplars,
                    batch.exemplars.get(index).map(|sample| sample.at),
                ),
            };
            *count = count.saturating_sub(1);
            if exception.kind == SampleKind::Exemplar && request.exemplars_never_fail() {
                self.counts.dropped_exemplars += 1;
                continue;
            }
            self.rejections.add(reason, 1, at, || {
                let series = slice.origins.get(exception.series as usize);
                let labels = series.map_or_else(String::new, |origin| request.describe(origin));
                format!("{reason} for series {labels}")
            });
        }
        self.written.floats += written.floats;
        self.written.histograms += written.histograms;
        self.written.exemplars += written.exemplars;
    }
}
