//! Which series belong together in an aggregation: those that agree on the labels of `by`, or on all but those of `without`.

use crate::operator::column::{Column, is_metadata};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use model::label::Labels;
use smallvec::SmallVec;
use std::hash::{BuildHasher, Hasher};

/// Series that are aggregated into one.
pub(super) struct Group {
    /// Labels of the result.
    pub(super) labels: Labels,
    /// Whether any of the series wishes its name to be dropped.
    pub(super) drop_name: bool,
    /// Positions of the series.
    pub(super) members: Vec<usize>,
}

/// The groups in the order of their first series.
pub(super) fn groups(columns: &[Column], grouping: &[String], without: bool) -> Vec<Group> {
    let mut finder = GroupFinder::new(grouping, without);
    let mut groups: Vec<Group> = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        let place = finder.place(&column.labels);
        if place == groups.len() {
            let labels = finder.groups[place].clone();
            groups.push(Group {
                labels,
                drop_name: false,
                members: Vec::new(),
            });
        }
        groups[place].members.push(index);
        groups[place].drop_name |= column.drop_name;
    }
    groups
}

/// The labels that name the group of a series.
pub(super) fn group_labels(labels: &Labels, grouping: &[String], without: bool) -> Labels {
    labels.filtered(|name| names_group(grouping, without, name))
}

/// Whether series of a group must agree on the label.
fn names_group(grouping: &[String], without: bool, name: &str) -> bool {
    let named = grouping.iter().any(|label| label == name);
    if without { !named && !is_metadata(name) } else { named }
}

/// Numbers groups as series come. Labels of a group are made once, when its first series comes.
pub(super) struct GroupFinder<'a> {
    grouping: &'a [String],
    without: bool,
    /// Labels of the groups.
    groups: Vec<Labels>,
    /// Groups by the hash of their labels.
    places: HashMap<u64, SmallVec<[usize; 1]>, RandomState>,
    /// Seeded, so that nobody can choose labels with one hash.
    hashing: RandomState,
}

impl<'a> GroupFinder<'a> {
    pub(super) fn new(grouping: &'a [String], without: bool) -> Self {
        Self {
            grouping,
            without,
            groups: Vec::new(),
            places: HashMap::default(),
            hashing: RandomState::default(),
        }
    }

    /// The number of the group of a series: that of a known one, or else the number of groups so far.
    pub(super) fn place(&mut self, labels: &Labels) -> usize {
        let (grouping, without) = (self.grouping, self.without);
        if !without && grouping.is_empty() {
            if self.groups.is_empty() {
                self.groups.push(Labels::empty());
            }
            return 0;
        }
        let own = || labels.iter().filter(|(name, _)| names_group(grouping, without, name));
        let mut hasher = self.hashing.build_hasher();
        for (name, value) in own() {
            hasher.write(name.as_bytes());
            hasher.write_u8(0xff);
            hasher.write(value.as_bytes());
            hasher.write_u8(0xff);
        }
        let candidates = self.places.entry(hasher.finish()).or_default();
        if let Some(&place) = candidates.iter().find(|&&place| own().eq(self.groups[place].iter())) {
            return place;
        }
        let place = self.groups.len();
        candidates.push(place);
        self.groups.push(group_labels(labels, grouping, without));
        place
    }

    /// Labels of all groups, in the order of their numbers.
    pub(super) fn into_labels(self) -> Vec<Labels> {
        self.groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_numbered_as_they_come() {
        let series = |pairs: &[(&str, &str)]| Labels::new(pairs.iter().copied()).unwrap();
        let check = |grouping: &[&str], without: bool, expected: &[(usize, &str)]| {
            let grouping: Vec<String> = grouping.iter().map(|name| (*name).to_owned()).collect();
            let mut finder = GroupFinder::new(&grouping, without);
            let places: Vec<usize> = [
                series(&[("__name__", "a"), ("job", "x"), ("pod", "1")]),
                series(&[("__name__", "a"), ("job", "y"), ("pod", "1")]),
                series(&[("__name__", "b"), ("job", "x"), ("pod", "2")]),
                series(&[("__name__", "b")]),
            ]
            .iter()
            .map(|labels| finder.place(labels))
            .collect();
            let labels = finder.into_labels();
            let found: Vec<(usize, String)> = places
                .into_iter()
                .map(|place| (place, labels[place].to_string()))
                .collect();
            let expected: Vec<(usize, String)> = expected
                .iter()
                .map(|(place, text)| (*place, (*text).to_owned()))
                .collect();
            assert_eq!(found, expected, "{grouping:?} {without}");
        };
        check(&[], false, &[(0, "{}"), (0, "{}"), (0, "{}"), (0, "{}")]);
        check(
            &["job"],
            false,
            &[(0, "{job=\"x\"}"), (1, "{job=\"y\"}"), (0, "{job=\"x\"}"), (2, "{}")],
        );
        check(
            &["pod"],
            true,
            &[(0, "{job=\"x\"}"), (1, "{job=\"y\"}"), (0, "{job=\"x\"}"), (2, "{}")],
        );
        check(
            &["__name__"],
            false,
            &[
                (0, "{__name__=\"a\"}"),
                (0, "{__name__=\"a\"}"),
                (1, "{__name__=\"b\"}"),
                (1, "{__name__=\"b\"}"),
            ],
        );
    }
}
