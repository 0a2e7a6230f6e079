//! Taking samples out of a shard. Chunks that lose some are packed anew, so readers, cut and image need not know of deletions.

use super::{
    chunk::{FLAG_HISTOGRAM, NEVER},
    sealed::{ChunkInfo, Sealed, SealedChunks},
    shard::Shard,
};
use model::{
    sample::SampleBuffer,
    time::{TimeRange, Timestamp},
};
use storage::chunk;

impl Shard {
    /// Removes the samples of a series that lie in `range`; tells whether there were any. The series remembers when its newest sample
    /// was, so what is in order and what is late stays what it is.
    pub(crate) fn delete(&mut self, place: usize, range: TimeRange) -> bool {
        let reaches = |min: Timestamp, max: Timestamp| range.overlaps(TimeRange::new(min, max));
        if self
            .open_chunk(place)
            .is_some_and(|open| reaches(open.min_time, open.max_time))
        {
            self.seal(place);
        }
        let (in_order, late, chunks) = self.chunks_of(place);
        let mut any = delete_from(in_order, range, chunks);
        any |= late.delete(place, range, chunks);
        let hot = &mut self.hot[place];
        if hot.last_at != NEVER && range.contains(hot.last_at) {
            // The value that the hot state remembers is no sample any more: who wants to know it must look into the chunks.
            hot.flags |= FLAG_HISTOGRAM;
        }
        any
    }
}

/// Removes the samples in `range` from a list of chunks, whose order stays; each part of a chunk stays in the block that the chunk is in.
pub(super) fn delete_from(list: &mut Vec<Sealed>, range: TimeRange, chunks: &mut SealedChunks) -> bool {
    let mut any = false;
    let reaches = |sealed: &Sealed| range.overlaps(TimeRange::new(sealed.min_time, sealed.max_time()));
    if !list.iter().any(reaches) {
        return false;
    }
    let mut left = Vec::with_capacity(list.len());
    for sealed in std::mem::take(list) {
        let mut samples = SampleBuffer::default();
        if !reaches(&sealed) {
            left.push(sealed);
            continue;
        }
        if let Err(error) = chunk::decode(sealed.encoding, chunks.view(&sealed), TimeRange::ALL, &mut samples) {
            tracing::error!(%error, from = sealed.min_time, "a chunk that is to lose samples cannot be read and goes as a whole");
        }
        let kept = outside(&samples, range);
        if kept.len() == samples.len() && !samples.is_empty() {
            left.push(sealed);
            continue;
        }
        any = true;
        chunks.remove(&sealed);
        for packed in chunk::encode_samples(&kept) {
            let info = ChunkInfo {
                min_time: packed.min_time,
                max_time: packed.max_time,
                samples: chunk::sample_count(packed.encoding, &packed.data).unwrap_or_default(),
                encoding: packed.encoding,
            };
            let mut part = chunks.add(info, |out| out.extend_from_slice(&packed.data));
            part.block = sealed.block;
            left.push(part);
        }
    }
    *list = left;
    any
}

fn outside(samples: &SampleBuffer, range: TimeRange) -> SampleBuffer {
    let mut kept = SampleBuffer::default();
    for (&at, &value) in samples.timestamps.iter().zip(&samples.values) {
        if !range.contains(at) {
            kept.push_float(at, value);
        }
    }
    let histograms = samples.histograms.iter().filter(|sample| !range.contains(sample.at));
    kept.histograms.extend(histograms.cloned());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{chunk::Hot, late::LateValue, shard::Lookup};
    use model::select::Chunk;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, sync::Arc};

    fn samples(shard: &Shard) -> BTreeMap<i64, u64> {
        let mut chunks: Vec<Chunk> = Vec::new();
        shard.copy_chunks(0, TimeRange::ALL, &mut chunks);
        let read = crate::head::late::merged(&mut chunks);
        let pairs = read.timestamps.iter().zip(&read.values);
        pairs.map(|(&at, value)| (at, value.to_bits())).collect()
    }

    proptest! {
        #[test]
        fn what_is_deleted_is_gone_and_may_come_again(
            steps in proptest::collection::vec((0i64..2000, any::<bool>()), 1..400),
            deletions in proptest::collection::vec((0i64..2_000_000, 0i64..300_000), 1..5),
        ) {
            let mut shard = Shard::counting(Arc::default());
            shard.insert(0, Hot::new(1, 0));
            let mut expected = BTreeMap::new();
            let put = |shard: &mut Shard, at: i64, bits: u64| {
                if shard.lookup(0, at) != Lookup::Absent {
                    return false;
                }
                if at > shard.hot[0].last_at {
                    shard.append_float(0, at, bits);
                } else {
                    shard.insert_late(0, at, LateValue::Float(bits));
                }
                true
            };
            for (index, &(step, late)) in steps.iter().enumerate() {
                let at = if late { step * 1000 } else { index as i64 * 5000 };
                if put(&mut shard, at, index as u64) {
                    expected.insert(at, index as u64);
                }
            }
            for &(from, len) in &deletions {
                let range = TimeRange::new(from, from + len);
                let any = expected.range(from..=from + len).next().is_some();
                prop_assert_eq!(shard.delete(0, range), any);
                expected.retain(|&at, _| !range.contains(at));
                prop_assert_eq!(&samples(&shard), &expected);
                prop_assert!(!shard.delete(0, range), "it is gone already");
            }
            for (index, &(step, _)) in steps.iter().enumerate() {
                let (at, bits) = (step * 1000, 1_000_000 + index as u64);
                prop_assert_eq!(put(&mut shard, at, bits), !expected.contains_key(&at));
                expected.entry(at).or_insert(bits);
            }
            prop_assert_eq!(samples(&shard), expected);
        }
    }
}
