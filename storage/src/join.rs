//! Series of several sources brought together by what tells them apart, whatever of their labels they show.
//!
//! The ingester joins its head and its blocks by it, the gateway the blocks of a bucket, the querier both. All sources but one are put
//! into a table; the series of that one then find their parts in it, and what is left at the end was nowhere else. The order is that of
//! the sources, so equal questions get equal answers.

use hashbrown::HashTable;
use model::{
    identity::Identity,
    label::Labels,
    select::{Account, Samples, SelectError, Series},
};
use std::sync::Arc;

/// With more series than this in the table, who can do so merges by labels instead, which holds less at a time.
pub const JOINED_SERIES_MAX: usize = 1 << 19;

/// Parts of series by identity.
#[derive(Default)]
pub struct JoinTable {
    places: HashTable<u32>,
    /// In the order of coming; `None` once taken.
    entries: Vec<Entry>,
    /// All entries before were taken.
    taken: usize,
    account: Option<Arc<dyn Account>>,
    /// What is left in the table of what was held for it.
    held: usize,
}

/// What a part takes besides its labels and chunks: its entry, its place in the table, and the handle of its samples.
const PART_BYTES: usize = size_of::<Entry>() + 8 + 64;

fn part_bytes(series: &Series) -> usize {
    PART_BYTES + series.labels.text_len() + series.samples.held_bytes()
}

/// Counts series that will be added to a table, before they are; they come and go in thousands.
pub fn hold(account: Option<&Arc<dyn Account>>, series: &[(Identity, Series)]) -> Result<(), SelectError> {
    match account {
        Some(account) => account.hold(series.iter().map(|(_, series)| part_bytes(series)).sum()),
        None => Ok(()),
    }
}

struct Entry {
    identity: Identity,
    series: Option<Parted>,
}

/// A series with all of its parts, in the order in which they were added.
pub struct Parted {
    /// Its labels, as the first part shows them.
    pub labels: Labels,
    first: Box<dyn Samples>,
    /// Most series have one part, and an empty vector takes no memory.
    more: Vec<Box<dyn Samples>>,
    /// What was held for it.
    bytes: usize,
}

impl Parted {
    /// The series; `join` makes one of several parts.
    pub fn into_series(self, join: impl FnOnce(Vec<Box<dyn Samples>>) -> Box<dyn Samples>) -> Series {
        let Self {
            labels, first, more, ..
        } = self;
        let samples = if more.is_empty() {
            first
        } else {
            join(std::iter::once(first).chain(more).collect())
        };
        Series { labels, samples }
    }

    /// Its parts.
    fn into_parts(self) -> Vec<Box<dyn Samples>> {
        std::iter::once(self.first).chain(self.more).collect()
    }
}

impl JoinTable {
    /// An empty table for series that were counted in `account` by [`hold`]; they are counted off as they leave.
    pub fn counted(account: Option<Arc<dyn Account>>) -> Self {
        let mut table = Self::default();
        table.account = account;
        table
    }

    fn release(&mut self, bytes: usize) {
        self.held -= bytes;
        if let Some(account) = &self.account {
            account.release(bytes);
        }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many series were added.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a part of a series.
    pub fn add(&mut self, identity: Identity, series: Series) {
        let bytes = part_bytes(&series);
        self.held += bytes;
        let entries = &mut self.entries;
        let same = |&place: &u32| entries[place as usize].identity == identity;
        if let Some(&place) = self.places.find(identity.low, same)
            && let Some(known) = &mut entries[place as usize].series
        {
            known.more.push(series.samples);
            known.bytes += bytes;
            return;
        }
        let place = entries.len() as u32;
        entries.push(Entry {
            identity,
            series: Some(Parted {
                labels: series.labels,
                first: series.samples,
                more: Vec::new(),
                bytes,
            }),
        });
        let hash = |&place: &u32| entries[place as usize].identity.low;
        self.places.insert_unique(identity.low, place, hash);
    }

    /// Takes the parts of a series, if there are any.
    fn take(&mut self, identity: Identity) -> Option<Parted> {
        let entries = &mut self.entries;
        let same = |&place: &u32| entries[place as usize].identity == identity;
        let place = *self.places.find(identity.low, same)?;
        let parted = entries[place as usize].series.take()?;
        self.release(parted.bytes);
        Some(parted)
    }

    /// Puts what the table has of a series before the samples of `series`; `join` makes one of several parts.
    pub fn complete(
        &mut self,
        identity: Identity,
        series: Series,
        join: impl FnOnce(Vec<Box<dyn Samples>>) -> Box<dyn Samples>,
    ) -> Series {
        let Some(parted) = self.take(identity) else {
            return series;
        };
        let mut parts = parted.into_parts();
        parts.push(series.samples);
        Series {
            labels: series.labels,
            samples: join(parts),
        }
    }

    /// Takes the next of the series that were not taken yet, in the order in which they were added.
    pub fn take_left(&mut self) -> Option<(Identity, Parted)> {
        loop {
            let entry = self.entries.get_mut(self.taken)?;
            self.taken += 1;
            if let Some(series) = entry.series.take() {
                let identity = entry.identity;
                self.release(series.bytes);
                return Some((identity, series));
            }
        }
    }
}

impl Drop for JoinTable {
    fn drop(&mut self) {
        self.release(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkSamples, encode_floats};
    use model::{sample::SampleBuffer, time::TimeRange};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn part(pod: &str, at: i64) -> (Identity, Series) {
        let labels = Labels::new([("pod", pod)]).unwrap();
        let samples = Box::new(ChunkSamples::new(vec![encode_floats(&[at], &[1.0])], "test".into()));
        let series = Series {
            // All look alike.
            labels: Labels::empty(),
            samples,
        };
        (Identity::of(&labels, 3), series)
    }

    fn times(parts: Vec<Box<dyn Samples>>) -> Vec<i64> {
        let mut buffer = SampleBuffer::default();
        for part in parts {
            part.read(TimeRange::ALL, &mut buffer).unwrap();
        }
        buffer.timestamps
    }

    #[test]
    fn series_find_their_parts_and_the_rest_comes_in_order() {
        let mut table = JoinTable::default();
        assert!(table.is_empty());
        for (pod, at) in [("b", 1), ("a", 1), ("c", 1), ("a", 2), ("b", 2), ("d", 2)] {
            let (identity, series) = part(pod, at);
            table.add(identity, series);
        }
        let identity = |pod| part(pod, 0).0;
        assert_eq!(
            table.take(identity("a")).map(|found| times(found.into_parts())),
            Some(vec![1, 2])
        );
        assert!(table.take(identity("a")).is_none() && table.take(identity("e")).is_none());
        let left = std::iter::from_fn(|| table.take_left());
        let left: Vec<_> = left
            .map(|(identity, found)| (identity, times(found.into_parts())))
            .collect();
        assert_eq!(
            left,
            [
                (identity("b"), vec![1, 2]),
                (identity("c"), vec![1]),
                (identity("d"), vec![2])
            ]
        );
    }

    #[derive(Debug, Default)]
    struct Counted(AtomicUsize);

    impl Account for Counted {
        fn hold(&self, bytes: usize) -> Result<(), SelectError> {
            match self.0.fetch_add(bytes, Ordering::Relaxed) + bytes {
                0..=2_000 => Ok(()),
                held => Err(SelectError::Limit(format!("{held} bytes"))),
            }
        }

        fn release(&self, bytes: usize) {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_the_table_holds_is_counted_until_it_leaves() {
        let counted = Arc::new(Counted::default());
        let account: Option<Arc<dyn Account>> = Some(counted.clone());
        let held = || counted.0.load(Ordering::Relaxed);
        let mut table = JoinTable::counted(account.clone());
        for batch in [vec![part("a", 1), part("b", 1)], vec![part("a", 2)], vec![part("c", 1)]] {
            hold(account.as_ref(), &batch).unwrap();
            batch
                .into_iter()
                .for_each(|(identity, series)| table.add(identity, series));
        }
        let all = held();
        assert!(all > 4 * PART_BYTES, "{all}");
        assert!(table.take(part("a", 0).0).is_some());
        assert_eq!(held(), all / 2, "both parts of it");
        assert!(table.take_left().is_some());
        assert_eq!(held(), all / 4);
        drop(table);
        assert_eq!(held(), 0, "what was not taken");
        let many: Vec<_> = (0..100).map(|at| part("a", at)).collect();
        assert!(matches!(hold(account.as_ref(), &many), Err(SelectError::Limit(_))));
    }
}
