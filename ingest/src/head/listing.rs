//! Posting lists of many series made in one go, for a start: several times cheaper than adding series by series, and on all cores.

use super::postings::{NameIndex, Posting, Postings};
use hashbrown::HashMap;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use roaring::RoaringBitmap;

/// Fewer series are not worth several threads.
const ALONE_MAX: usize = 10_000;

impl Postings {
    /// The lists of the series `ids`, which ascend; `pairs` appends the labels of one.
    pub(crate) fn of(ids: &[u32], pairs: impl Fn(u32, &mut Vec<(u32, u32)>) + Sync) -> Self {
        let classes = match ids.len() {
            0..ALONE_MAX => 1,
            _ => rayon::current_num_threads().clamp(1, 8) as u32,
        };
        let list = |class: u32| -> Vec<(u32, NameIndex)> {
            let mut names = HashMap::<u32, Listing, foldhash::fast::FixedState>::default();
            let mut labels = Vec::new();
            for &id in ids {
                labels.clear();
                pairs(id, &mut labels);
                for &(name, value) in labels.iter().filter(|(name, _)| name % classes == class) {
                    names.entry(name).or_default().push(id, value);
                }
            }
            names
                .into_iter()
                .map(|(name, listing)| (name, listing.finish()))
                .collect()
        };
        let names: Vec<_> = (0..classes).into_par_iter().map(list).collect();
        Self::new(names.into_iter().flatten(), bitmap(&ranges(ids)))
    }
}

/// The lists of one label name on their way.
#[derive(Default)]
struct Listing {
    values: HashMap<u32, Vec<u32>, foldhash::fast::FixedState>,
    /// First and last of the ids that have the name.
    all: Vec<(u32, u32)>,
    /// The value that came last and its ids since: neighbours mostly share it.
    value: u32,
    ids: Vec<u32>,
}

impl Listing {
    fn push(&mut self, id: u32, value: u32) {
        extend(&mut self.all, id);
        if self.value != value && !self.ids.is_empty() {
            self.flush();
        }
        self.value = value;
        self.ids.push(id);
    }

    fn flush(&mut self) {
        // Sized to what there is: most values have few series.
        self.values.entry(self.value).or_default().extend_from_slice(&self.ids);
        self.ids.clear();
    }

    fn finish(mut self) -> NameIndex {
        self.flush();
        let lists = self.values.into_iter();
        NameIndex {
            values: lists.map(|(value, ids)| (value, Posting::of(&ids))).collect(),
            all: bitmap(&self.all),
        }
    }
}

/// Adds an id to ranges of consecutive ones.
fn extend(ranges: &mut Vec<(u32, u32)>, id: u32) {
    match ranges.last_mut().filter(|(_, last)| last.wrapping_add(1) == id) {
        Some((_, last)) => *last = id,
        None => ranges.push((id, id)),
    }
}

fn ranges(ids: &[u32]) -> Vec<(u32, u32)> {
    let mut ranges = Vec::new();
    ids.iter().for_each(|&id| extend(&mut ranges, id));
    ranges
}

fn bitmap(ranges: &[(u32, u32)]) -> RoaringBitmap {
    let mut bitmap = RoaringBitmap::new();
    for &(first, last) in ranges {
        bitmap.insert_range(first..=last);
    }
    bitmap
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_made_in_one_go_are_those_of_series_added_one_by_one() {
        for count in [0u32, 5, 3000, 25_000] {
            let labels = |id: u32| -> Vec<(u32, u32)> {
                let all = [
                    (1, 7),
                    (2, id / 500),
                    (3, id % 5),
                    (4, id),
                    (5, id / 64 % 2),
                    (6, id / 3),
                ];
                let has =
                    |(name, _): &(u32, u32)| !(id + name).is_multiple_of(11) && (*name != 5 || id.is_multiple_of(2));
                all.into_iter().filter(has).collect()
            };
            // Slots of dropped series are missing in between.
            let ids: Vec<u32> = (0..count).filter(|id| id % 97 != 3).collect();
            let mut expected = Postings::default();
            ids.iter().for_each(|&id| expected.insert(id, labels(id).into_iter()));
            let mut made = Postings::of(&ids, |id, out| out.extend(labels(id)));
            assert_eq!(made.all(), expected.all());
            let sorted = |postings: &Postings| {
                let mut names: Vec<_> = postings.names().collect();
                names.sort_unstable();
                names
            };
            assert_eq!(sorted(&made), sorted(&expected));
            for (name, _) in expected.names() {
                for (value, series) in expected.values(name) {
                    let found = made.having(name, &[value]);
                    assert_eq!((&found, found.len()), (&expected.having(name, &[value]), series));
                }
                let everything = |postings: &Postings| postings.names_among(postings.all()).count();
                assert_eq!(everything(&made), everything(&expected));
            }
            // They take series and give them back as others do.
            made.insert(count + 1, labels(1).into_iter());
            ids.iter().for_each(|&id| made.remove(id, labels(id).into_iter()));
            assert_eq!(made.len(), 1);
        }
    }
}
