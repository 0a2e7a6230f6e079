//! Reading several chunks of one series as one run of samples, also when they overlap.
//!
//! Chunks of one block never overlap; those of a StoreAPI answer or of colliding series may. Of samples with the same timestamp
//! the one of the earlier chunk is kept.

use super::{ChunkError, decode};
use model::{
    sample::SampleBuffer,
    select::{Samples, SelectError},
    time::{TimeRange, Timestamp},
};

/// Decodes chunks, given as encoding and data and ascending by start, and adds their samples in `range` behind those in `out`.
/// What `out` holds before is left alone.
pub fn decode_run<'a>(
    chunks: impl IntoIterator<Item = (u8, &'a [u8])>,
    range: TimeRange,
    out: &mut SampleBuffer,
) -> Result<(), ChunkError> {
    let mut run = Run {
        floats: out.timestamps.len(),
        histograms: out.histograms.len(),
        last: None,
    };
    for (encoding, data) in chunks {
        let (floats, histograms) = (out.timestamps.len(), out.histograms.len());
        decode(encoding, data, range, out)?;
        run.join(floats, histograms, out);
    }
    Ok(())
}

/// Adds the samples of all parts of a series behind those in `out`, ascending; of samples with the same timestamp that of the part which
/// comes first is kept.
pub fn read_joined(parts: &[Box<dyn Samples>], range: TimeRange, out: &mut SampleBuffer) -> Result<(), SelectError> {
    let mut run = Run {
        floats: out.timestamps.len(),
        histograms: out.histograms.len(),
        last: None,
    };
    for part in parts {
        let (floats, histograms) = (out.timestamps.len(), out.histograms.len());
        part.read(range, out)?;
        run.join(floats, histograms, out);
    }
    Ok(())
}

/// Adds the samples of `part` to those of `out`, each ascending; of samples with the same timestamp that of `out` is kept.
pub fn merge_samples(part: &SampleBuffer, out: &mut SampleBuffer) {
    let last = newest(out, 0, 0);
    let (floats, histograms) = (out.timestamps.len(), out.histograms.len());
    for (index, (&at, &value)) in part.timestamps.iter().zip(&part.values).enumerate() {
        out.push_float_started(at, value, part.starts.get(index).copied().unwrap_or(0));
    }
    out.histograms.extend(part.histograms.iter().cloned());
    Run {
        floats: 0,
        histograms: 0,
        last,
    }
    .join(floats, histograms, out);
}

/// The samples of a run so far.
struct Run {
    /// Where its floats and histograms begin in the buffer.
    floats: usize,
    histograms: usize,
    /// Its newest timestamp.
    last: Option<Timestamp>,
}

impl Run {
    /// Joins what was added to the buffer from `floats` and `histograms` on.
    fn join(&mut self, floats: usize, histograms: usize, out: &mut SampleBuffer) {
        let oldest = [
            out.timestamps.get(floats).copied(),
            out.histograms.get(histograms).map(|sample| sample.at),
        ];
        let overlaps = oldest
            .iter()
            .flatten()
            .any(|&oldest| self.last.is_some_and(|last| oldest <= last));
        if overlaps {
            self.merge(floats, histograms, out);
        }
        self.last = self.last.max(newest(out, self.floats, self.histograms));
    }

    fn merge(&self, floats: usize, histograms: usize, out: &mut SampleBuffer) {
        let timestamps = out.timestamps.split_off(self.floats);
        let values = out.values.split_off(self.floats);
        let starts = if out.starts.is_empty() {
            Vec::new()
        } else {
            out.starts.split_off(self.floats)
        };
        let held = out.histograms.split_off(self.histograms);
        let mid = histograms - self.histograms;
        for index in merged_order(&timestamps, floats - self.floats, |at| *at) {
            // A histogram that was there first keeps its timestamp.
            let taken = index >= floats - self.floats
                && held[..mid]
                    .binary_search_by_key(&timestamps[index], |sample| sample.at)
                    .is_ok();
            if !taken {
                out.push_float_started(
                    timestamps[index],
                    values[index],
                    starts.get(index).copied().unwrap_or(0),
                );
            }
        }
        let floats_joined = &out.timestamps[self.floats..];
        for index in merged_order(&held, mid, |sample| sample.at) {
            if floats_joined.binary_search(&held[index].at).is_err() {
                out.histograms.push(held[index].clone());
            }
        }
    }
}

fn newest(out: &SampleBuffer, floats: usize, histograms: usize) -> Option<Timestamp> {
    let float = out.timestamps[floats..].last().copied();
    float.max(out.histograms[histograms..].last().map(|sample| sample.at))
}

/// Indices of two ascending parts, split at `mid`, in merged order; an item of the second part with a timestamp of the first is left out.
fn merged_order<T>(items: &[T], mid: usize, at: impl Fn(&T) -> Timestamp) -> Vec<usize> {
    let (mut first, mut second) = (0, mid);
    let mut order = Vec::with_capacity(items.len());
    while first < mid || second < items.len() {
        if second == items.len() || (first < mid && at(&items[first]) <= at(&items[second])) {
            if second < items.len() && at(&items[first]) == at(&items[second]) {
                second += 1;
            }
            order.push(first);
            first += 1;
        } else {
            order.push(second);
            second += 1;
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkSamples, ENCODING_XOR, encode_floats};
    use model::{histogram::Histogram, sample::HistogramSample};
    use proptest::prelude::*;
    use std::{collections::BTreeMap, sync::Arc};

    proptest! {
        #[test]
        fn overlapping_chunks_read_as_the_union(
            parts in proptest::collection::vec(proptest::collection::btree_map(0i64..60, 0i32..9, 1..20), 1..5),
            range in (0i64..60, 0i64..60),
        ) {
            let mut parts = parts;
            parts.sort_by_key(|part| part.keys().next().copied());
            let mut expected = BTreeMap::new();
            for part in &parts {
                for (&at, &value) in part {
                    expected.entry(at).or_insert(f64::from(value));
                }
            }
            let range = TimeRange::new(range.0.min(range.1), range.0.max(range.1));
            expected.retain(|&at, _| range.contains(at));
            let chunks: Vec<_> = parts.iter().map(|part| {
                let values: Vec<f64> = part.values().map(|&value| f64::from(value)).collect();
                encode_floats(&part.keys().copied().collect::<Vec<_>>(), &values)
            }).collect();
            let mut out = SampleBuffer::default();
            out.push_float(1000, 1.0);
            decode_run(chunks.iter().map(|chunk| (ENCODING_XOR, &chunk.data[..])), range, &mut out).unwrap();
            let parts = chunks.iter().map(|chunk| Box::new(ChunkSamples::new(vec![chunk.clone()], "test".into())) as Box<dyn Samples>);
            let mut joined = SampleBuffer::default();
            joined.push_float(1000, 1.0);
            read_joined(&parts.collect::<Vec<_>>(), range, &mut joined).unwrap();
            prop_assert_eq!((&joined.timestamps, &joined.values), (&out.timestamps, &out.values));
            let read: BTreeMap<i64, f64> = out.timestamps.iter().copied().zip(out.values.iter().copied()).skip(1).collect();
            prop_assert_eq!(out.timestamps.len(), read.len() + 1);
            prop_assert!(out.timestamps[1..].is_sorted());
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn a_timestamp_is_a_float_or_a_histogram_never_both() {
        let histogram = |at| HistogramSample {
            at,
            start: 0,
            histogram: Arc::new(Histogram::default()),
        };
        let mut out = SampleBuffer::default();
        out.push_float(10, 1.0);
        out.histograms.push(histogram(20));
        let mut part = SampleBuffer::default();
        part.push_float_started(20, 2.0, 5);
        part.push_float_started(30, 3.0, 5);
        part.histograms.push(histogram(10));
        part.histograms.push(histogram(40));
        merge_samples(&part, &mut out);
        assert_eq!(out.timestamps, [10, 30]);
        assert_eq!(out.starts, [0, 5]);
        assert_eq!(
            out.histograms.iter().map(|sample| sample.at).collect::<Vec<_>>(),
            [20, 40]
        );
    }
}
