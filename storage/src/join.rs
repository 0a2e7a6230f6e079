//! Series of several sources brought together by what tells them apart, whatever of their labels they show.
//!
//! The ingester joins its head and its blocks by it, the gateway the blocks of a bucket, the querier both. All sources but one are put
//! into a table; the series of that one then find their parts in it, and what is left at the end was nowhere else. The order is that of
//! the sources, so equal questions get equal answers.

use hashbrown::HashTable;
use model::{
    identity::Identity,
    label::Labels,
    select::{Samples, Series},
};

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
}

impl Parted {
    /// The series; `join` makes one of several parts.
    pub fn into_series(self, join: impl FnOnce(Vec<Box<dyn Samples>>) -> Box<dyn Samples>) -> Series {
        let Self { labels, first, more } = self;
        let samples = if more.is_empty() {
            first
        } else {
            join(std::iter::once(first).chain(more).collect())
        };
        Series { labels, samples }
    }

    /// Its parts.
    pub fn into_parts(self) -> Vec<Box<dyn Samples>> {
        std::iter::once(self.first).chain(self.more).collect()
    }
}

impl JoinTable {
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
        let entries = &mut self.entries;
        let same = |&place: &u32| entries[place as usize].identity == identity;
        if let Some(&place) = self.places.find(identity.low, same)
            && let Some(known) = &mut entries[place as usize].series
        {
            known.more.push(series.samples);
            return;
        }
        let place = entries.len() as u32;
        entries.push(Entry {
            identity,
            series: Some(Parted {
                labels: series.labels,
                first: series.samples,
                more: Vec::new(),
            }),
        });
        let hash = |&place: &u32| entries[place as usize].identity.low;
        self.places.insert_unique(identity.low, place, hash);
    }

    /// Takes the parts of a series, if there are any.
    pub fn take(&mut self, identity: Identity) -> Option<Parted> {
        let entries = &mut self.entries;
        let same = |&place: &u32| entries[place as usize].identity == identity;
        let place = *self.places.find(identity.low, same)?;
        entries[place as usize].series.take()
    }

    /// Takes the next of the series that were not taken yet, in the order in which they were added.
    pub fn take_left(&mut self) -> Option<(Identity, Parted)> {
        loop {
            let entry = self.entries.get_mut(self.taken)?;
            self.taken += 1;
            if let Some(series) = entry.series.take() {
                return Some((entry.identity, series));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkSamples, encode_floats};
    use model::{sample::SampleBuffer, time::TimeRange};

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
}
