//! Taking samples out of a shard: from the open chunk, the complete ones and the late samples of a series.

use super::Shard;
use crate::head::{
    chunk::{FLAG_HISTOGRAM, NEVER},
    delete::delete_from,
};
use model::time::{TimeRange, Timestamp};

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
        let read = crate::head::late::merged(&mut chunks).unwrap();
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
