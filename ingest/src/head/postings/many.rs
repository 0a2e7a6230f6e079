//! Posting lists of many new series at once.
//!
//! Series that come together mostly are of one target: they have the same label names, share most values and get slots one behind
//! the other. So their labels are gone through column by column, and a name or value that stays the same is looked up once and takes
//! all its series as one range. Series by series it was two look-ups and two insertions for each label, half of what a new series cost.

use super::{Posting, Postings, SORTED_MAX};
use roaring::RoaringBitmap;

/// New series with the symbols of their labels.
#[derive(Debug, Default)]
pub(crate) struct NewSeries {
    slots: Vec<u32>,
    numbers: Vec<u64>,
    /// Where the pairs of each series end.
    ends: Vec<usize>,
    pairs: Vec<(u32, u32)>,
}

impl NewSeries {
    /// Adds a series.
    pub(crate) fn push(&mut self, slot: u32, number: u64, pairs: &[(u32, u32)]) {
        self.slots.push(slot);
        self.numbers.push(number);
        self.pairs.extend_from_slice(pairs);
        self.ends.push(self.pairs.len());
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Slot and number of each from the one with index `from` on.
    pub(crate) fn placed(&self, from: usize) -> impl Iterator<Item = (u32, u64)> {
        let numbers = self.numbers.iter().copied();
        self.slots.iter().copied().zip(numbers).skip(from)
    }

    /// Number and pairs of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &[(u32, u32)])> {
        (0..self.len()).map(|index| (self.numbers[index], self.pairs(index)))
    }

    fn pairs(&self, index: usize) -> &[(u32, u32)] {
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.pairs[begin..self.ends[index]]
    }

    /// Calls `take` for each run of series from `from` on that have the same `attribute`: with it, and the run's indices.
    fn runs<A: PartialEq + Copy>(
        range: std::ops::Range<usize>,
        attribute: impl Fn(usize) -> Option<A>,
        mut take: impl FnMut(A, std::ops::Range<usize>),
    ) {
        let mut begin = range.start;
        while begin < range.end {
            let of_run = attribute(begin);
            let end = (begin + 1..range.end)
                .find(|index| attribute(*index) != of_run)
                .unwrap_or(range.end);
            if let Some(of_run) = of_run {
                take(of_run, begin..end);
            }
            begin = end;
        }
    }

    /// Calls `take` for each range of slots that lie one behind the other, with its first and its last one.
    fn ranges(&self, indices: std::ops::Range<usize>, mut take: impl FnMut(u32, u32)) {
        let mut slots = self.slots[indices].iter().copied();
        let Some(first) = slots.next() else { return };
        let (mut first, mut last) = (first, first);
        for slot in slots {
            // Slots that were free come backwards.
            match slot {
                _ if slot.checked_sub(1) == Some(last) => last = slot,
                _ if slot.checked_add(1) == Some(first) => first = slot,
                _ => {
                    take(first, last);
                    (first, last) = (slot, slot);
                }
            }
        }
        take(first, last);
    }
}

impl Postings {
    /// Adds the series from the one with index `from` on.
    pub(crate) fn insert_many(&mut self, series: &NewSeries, from: usize) {
        let all = from..series.len();
        series.ranges(all.clone(), |first, last| add_range(&mut self.all, first, last));
        let columns = all.clone().map(|index| series.pairs(index).len()).max().unwrap_or(0);
        for column in 0..columns {
            let pair = |index: usize| series.pairs(index).get(column).copied();
            let name = |index: usize| pair(index).map(|(name, _)| name);
            NewSeries::runs(all.clone(), name, |name, run| {
                let index = self.names.entry(name).or_default();
                series.ranges(run.clone(), |first, last| add_range(&mut index.all, first, last));
                let value = |index: usize| pair(index).map(|(_, value)| value);
                NewSeries::runs(run, value, |value, run| {
                    let posting = index.values.entry(value).or_insert_with(Posting::empty);
                    series.ranges(run, |first, last| posting.insert_range(first, last));
                });
            });
        }
    }
}

impl Posting {
    fn insert_range(&mut self, first: u32, last: u32) {
        let count = (last - first) as usize + 1;
        if let Self::Many(bitmap) = self {
            return add_range(bitmap, first, last);
        }
        if self.len() as usize + count <= SORTED_MAX {
            return (first..=last).for_each(|id| self.insert(id));
        }
        let mut bitmap: RoaringBitmap = match self {
            Self::Few { len, ids } => ids[..usize::from(*len)].iter().copied().collect(),
            Self::Sorted(sorted) => sorted.iter().copied().collect(),
            Self::Many(_) => RoaringBitmap::new(),
        };
        add_range(&mut bitmap, first, last);
        *self = Self::Many(Box::new(bitmap));
    }
}

/// Ids whose upper bits are the same share a container of a bitmap.
const CONTAINER_IDS: u32 = 1 << 16;

/// Adds a range of ids. A container that begins with a range would be one of runs for ever, which take far more memory than bits when
/// single ids come later; so each begins with a single one.
fn add_range(bitmap: &mut RoaringBitmap, first: u32, last: u32) {
    let mut first = first;
    loop {
        let end = last.min(first | (CONTAINER_IDS - 1));
        bitmap.insert(first);
        if first < end {
            bitmap.insert_range(first + 1..=end);
        }
        if end == last {
            return;
        }
        first = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Series whose labels stay the same for a while, in slots that mostly go up.
    fn series() -> impl Strategy<Value = Vec<(u32, Vec<(u32, u32)>)>> {
        let labels = proptest::collection::btree_map(0..4u32, 0..3u32, 0..4);
        let run = (labels, 1..90usize, 0..3u8, any::<bool>());
        proptest::collection::vec(run, 0..6).prop_map(|runs| {
            let (mut slots, mut next, mut series) = (BTreeSet::new(), 65_500u32, Vec::new());
            for (labels, count, gap, backwards) in runs {
                let mut run: Vec<u32> = (0..count as u32)
                    .map(|index| next + index * (1 + u32::from(gap == 2)))
                    .collect();
                next = run.iter().max().copied().unwrap_or(next) + 1 + u32::from(gap);
                if backwards {
                    run.reverse();
                }
                let labels: Vec<(u32, u32)> = labels.into_iter().collect();
                series.extend(
                    run.into_iter()
                        .filter(|slot| slots.insert(*slot))
                        .map(|slot| (slot, labels.clone())),
                );
            }
            series
        })
    }

    proptest! {
        #[test]
        fn many_at_once_are_the_same_as_one_by_one(series in series(), step in 1..100usize) {
            let (mut one_by_one, mut at_once, mut new) = (Postings::default(), Postings::default(), NewSeries::default());
            for part in series.chunks(step) {
                let from = new.len();
                for (slot, pairs) in part {
                    one_by_one.insert(*slot, pairs.iter().copied());
                    new.push(*slot, u64::from(*slot) + 7, pairs);
                }
                prop_assert!(new.placed(from).map(|(slot, _)| slot).eq(part.iter().map(|(slot, _)| *slot)));
                at_once.insert_many(&new, from);
            }
            prop_assert_eq!(at_once.all(), one_by_one.all());
            let sorted = |postings: &Postings| {
                let mut names: Vec<_> = postings.names().collect();
                names.sort_unstable();
                names
            };
            prop_assert_eq!(sorted(&at_once), sorted(&one_by_one));
            for name in 0..4 {
                prop_assert_eq!(at_once.names.get(&name).map(|index| &index.all), one_by_one.names.get(&name).map(|index| &index.all));
                for value in 0..3 {
                    prop_assert_eq!(at_once.having(name, &[value]), one_by_one.having(name, &[value]));
                }
            }
            let pairs: Vec<_> = new.iter().map(|(number, pairs)| (number, pairs.to_vec())).collect();
            let expected: Vec<_> = series.into_iter().map(|(slot, pairs)| (u64::from(slot) + 7, pairs)).collect();
            prop_assert_eq!(pairs, expected);
        }
    }
}
