//! Which series have which labels, for one tenant.
//!
//! Most label values belong to very few series, a few to nearly all. A posting list therefore has three sizes: up to three ids in
//! place, a sorted vector, a compressed bitmap.

mod many;

pub(crate) use many::NewSeries;

use hashbrown::HashMap;
use model::matcher::{MatchOp, Matcher};
use roaring::{MultiOps, RoaringBitmap};

/// A vector of more ids becomes a bitmap.
const SORTED_MAX: usize = 64;

/// The series of one label value.
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "most postings are few; a vector beside them would make each 8 bytes larger"
)]
pub(super) enum Posting {
    Few { len: u8, ids: [u32; 3] },
    Sorted(Box<Vec<u32>>),
    Many(Box<RoaringBitmap>),
}

const _: () = assert!(
    size_of::<Posting>() == 16,
    "a value of one series costs no more than this"
);

impl Posting {
    /// The list of ids that ascend.
    pub(super) fn of(sorted: &[u32]) -> Self {
        match sorted.len() {
            0..=3 => {
                let mut ids = [0; 3];
                ids[..sorted.len()].copy_from_slice(sorted);
                let len = sorted.len() as u8;
                Self::Few { len, ids }
            }
            4..=SORTED_MAX => Self::Sorted(Box::new(sorted.to_vec())),
            _ => Self::Many(Box::new(sorted.iter().copied().collect())),
        }
    }

    fn empty() -> Self {
        Self::Few { len: 0, ids: [0; 3] }
    }

    fn insert(&mut self, id: u32) {
        match self {
            Self::Few { len, ids } if usize::from(*len) < ids.len() => {
                ids[usize::from(*len)] = id;
                *len += 1;
                ids[..usize::from(*len)].sort_unstable();
            }
            Self::Few { ids, .. } => {
                let mut sorted = Vec::with_capacity(8);
                sorted.extend_from_slice(ids);
                *self = Self::Sorted(Box::new(sorted));
                self.insert(id);
            }
            Self::Sorted(sorted) if sorted.len() >= SORTED_MAX => {
                let mut bitmap: RoaringBitmap = sorted.iter().copied().collect();
                bitmap.insert(id);
                *self = Self::Many(Box::new(bitmap));
            }
            Self::Sorted(sorted) => {
                if sorted.last() < Some(&id) {
                    sorted.push(id);
                } else if let Err(place) = sorted.binary_search(&id) {
                    sorted.insert(place, id);
                }
            }
            Self::Many(bitmap) => {
                bitmap.insert(id);
            }
        }
    }

    fn remove(&mut self, id: u32) {
        match self {
            Self::Few { len, ids } => {
                if let Some(place) = ids[..usize::from(*len)].iter().position(|&other| other == id) {
                    ids.copy_within(place + 1..usize::from(*len), place);
                    *len -= 1;
                }
            }
            Self::Sorted(sorted) => {
                if let Ok(place) = sorted.binary_search(&id) {
                    sorted.remove(place);
                }
            }
            Self::Many(bitmap) => {
                bitmap.remove(id);
            }
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Few { len, .. } => u64::from(*len),
            Self::Sorted(sorted) => sorted.len() as u64,
            Self::Many(bitmap) => bitmap.len(),
        }
    }

    /// Whether it shares a series with `ids`.
    fn meets(&self, ids: &RoaringBitmap) -> bool {
        match self {
            Self::Few { len, ids: few } => few[..usize::from(*len)].iter().any(|&id| ids.contains(id)),
            Self::Sorted(sorted) => sorted.iter().any(|&id| ids.contains(id)),
            Self::Many(bitmap) => !bitmap.is_disjoint(ids),
        }
    }
}

/// The values of one label name.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    pub(super) values: HashMap<u32, Posting, foldhash::fast::FixedState>,
    /// Series that have the label at all.
    pub(super) all: RoaringBitmap,
}

/// The posting lists of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Postings {
    names: HashMap<u32, NameIndex, foldhash::fast::FixedState>,
    all: RoaringBitmap,
}

impl Postings {
    /// The lists of label names that were made elsewhere, and all series.
    pub(super) fn new(names: impl Iterator<Item = (u32, NameIndex)>, all: RoaringBitmap) -> Self {
        Self {
            names: names.collect(),
            all,
        }
    }

    /// Adds a series with its label pairs.
    pub(crate) fn insert(&mut self, id: u32, pairs: impl Iterator<Item = (u32, u32)>) {
        // Not `try_push`: to find the highest id it walks down a bitmap, 15 times a series.
        self.all.insert(id);
        for (name, value) in pairs {
            let index = self.names.entry(name).or_default();
            index.all.insert(id);
            index.values.entry(value).or_insert_with(Posting::empty).insert(id);
        }
    }

    /// Takes a series out.
    pub(crate) fn remove(&mut self, id: u32, pairs: impl Iterator<Item = (u32, u32)>) {
        self.all.remove(id);
        for (name, value) in pairs {
            let Some(index) = self.names.get_mut(&name) else {
                continue;
            };
            index.all.remove(id);
            if let Some(posting) = index.values.get_mut(&value) {
                posting.remove(id);
                if posting.len() == 0 {
                    index.values.remove(&value);
                }
            }
            if index.values.is_empty() {
                self.names.remove(&name);
            }
        }
    }

    /// Number of series.
    pub(crate) fn len(&self) -> u64 {
        self.all.len()
    }

    /// All series.
    pub(crate) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// Label names with the number of their values.
    pub(crate) fn names(&self) -> impl Iterator<Item = (u32, usize)> {
        self.names.iter().map(|(&name, index)| (name, index.values.len()))
    }

    /// Values of a label with the number of their series.
    pub(crate) fn values(&self, name: u32) -> impl Iterator<Item = (u32, u64)> {
        let index = self.names.get(&name);
        index
            .into_iter()
            .flat_map(|index| index.values.iter().map(|(&value, posting)| (value, posting.len())))
    }

    /// Label names that occur among `ids`.
    pub(crate) fn names_among(&self, ids: &RoaringBitmap) -> impl Iterator<Item = u32> {
        self.names
            .iter()
            .filter(|(_, index)| !index.all.is_disjoint(ids))
            .map(|(&name, _)| name)
    }

    /// Values of a label that occur among `ids`.
    pub(crate) fn values_among(&self, name: u32, ids: &RoaringBitmap) -> impl Iterator<Item = u32> {
        let index = self.names.get(&name);
        index.into_iter().flat_map(|index| {
            index
                .values
                .iter()
                .filter(|(_, posting)| posting.meets(ids))
                .map(|(&value, _)| value)
        })
    }

    /// The series that satisfy the matchers that can be judged without looking at values; the others come back, to be judged by the
    /// caller. `find` gives the symbol of a text.
    pub(crate) fn narrow<'m>(
        &self,
        matchers: &'m [Matcher],
        find: impl Fn(&str) -> Option<u32>,
    ) -> (RoaringBitmap, Vec<&'m Matcher>) {
        let (mut result, mut rest): (Option<RoaringBitmap>, _) = (None, Vec::new());
        let index = |matcher: &Matcher| find(&matcher.name).and_then(|name| self.names.get(&name));
        // What needs a label narrows first; what is satisfied by its absence only takes away.
        let (absent, present): (Vec<_>, Vec<_>) = matchers.iter().partition(|matcher| matcher.matches_empty());
        for matcher in present {
            let ids = match index(matcher) {
                None => Some(RoaringBitmap::new()),
                Some(index) => index.matching(matcher, &find),
            };
            let Some(ids) = ids else {
                rest.push(matcher);
                continue;
            };
            let narrowed = match result {
                Some(found) => found & ids,
                None => ids,
            };
            if narrowed.is_empty() {
                return (narrowed, Vec::new());
            }
            result = Some(narrowed);
        }
        let mut result = result.unwrap_or_else(|| self.all.clone());
        for matcher in absent {
            let Some(index) = index(matcher) else { continue };
            match index.not_matching(matcher, &find) {
                Some(ids) => result -= ids,
                None => rest.push(matcher),
            }
        }
        (result, rest)
    }

    /// How many values a label has.
    pub(crate) fn value_count(&self, name: u32) -> usize {
        self.names.get(&name).map_or(0, |index| index.values.len())
    }

    /// The series that have one of `values` of a label.
    pub(crate) fn having(&self, name: u32, values: &[u32]) -> RoaringBitmap {
        let Some(index) = self.names.get(&name) else {
            return RoaringBitmap::new();
        };
        index.union(values.iter().filter_map(|value| index.values.get(value)))
    }
}

impl NameIndex {
    /// Series whose value of this label satisfies `matcher`, which a missing label does not; `None` when every value must be looked at.
    fn matching(&self, matcher: &Matcher, find: impl Fn(&str) -> Option<u32>) -> Option<RoaringBitmap> {
        if let Some(wanted) = literals(matcher) {
            return Some(self.union(wanted.filter_map(find).filter_map(|value| self.values.get(&value))));
        }
        let any = matches!(
            (matcher.op, &*matcher.value),
            (MatchOp::NotEqual, "") | (MatchOp::Regex, ".+")
        );
        any.then(|| self.all.clone())
    }

    /// Series whose value of this label does not satisfy `matcher`, which a missing label does; `None` when every value must be
    /// looked at.
    fn not_matching(&self, matcher: &Matcher, find: impl Fn(&str) -> Option<u32>) -> Option<RoaringBitmap> {
        match (matcher.op, &*matcher.value) {
            (MatchOp::Equal, _) => Some(self.all.clone()),
            (MatchOp::Regex, ".*") => Some(RoaringBitmap::new()),
            (MatchOp::NotEqual, value) => {
                Some(self.union(find(value).iter().filter_map(|value| self.values.get(value))))
            }
            _ => None,
        }
    }

    fn union<'p>(&self, postings: impl Iterator<Item = &'p Posting>) -> RoaringBitmap {
        let (mut few, mut many) = (Vec::new(), Vec::new());
        for posting in postings {
            match posting {
                Posting::Few { len, ids } => few.extend_from_slice(&ids[..usize::from(*len)]),
                Posting::Sorted(sorted) => few.extend_from_slice(sorted),
                Posting::Many(bitmap) => many.push(&**bitmap),
            }
        }
        few.sort_unstable();
        let few: RoaringBitmap = few.into_iter().collect();
        if many.is_empty() {
            return few;
        }
        many.push(&few);
        many.union()
    }
}

/// The values that satisfy a matcher, when they can be told without looking: one for `=`, the alternatives of a regular expression
/// that is nothing but texts and bars.
fn literals(matcher: &Matcher) -> Option<impl Iterator<Item = &str>> {
    let plain = |text: &str| !text.bytes().any(|byte| b"\\.+*?()[]{}^$".contains(&byte));
    match matcher.op {
        MatchOp::Equal => Some(Either::One(std::iter::once(&*matcher.value))),
        MatchOp::Regex if plain(&matcher.value) => Some(Either::Many(matcher.value.split('|'))),
        _ => None,
    }
}

/// One of two iterators.
enum Either<A, B> {
    One(A),
    Many(B),
}

impl<'a, A: Iterator<Item = &'a str>, B: Iterator<Item = &'a str>> Iterator for Either<A, B> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        match self {
            Self::One(one) => one.next(),
            Self::Many(many) => many.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posting_lists_of_every_size_hold_what_was_put_in() {
        for count in [0u32, 1, 3, 4, 64, 65, 66, 1000] {
            let mut postings = Postings::default();
            // Not in order: slots are used again.
            for id in (0..count).rev() {
                postings.insert(id * 7, [(1, 2), (3, id)].into_iter());
            }
            let ids: Vec<u32> = (0..count).map(|id| id * 7).collect();
            assert_eq!(postings.having(1, &[2]).iter().collect::<Vec<_>>(), ids);
            assert_eq!(
                (postings.len(), postings.value_count(3)),
                (u64::from(count), count as usize)
            );
            for id in (0..count).filter(|id| id.is_multiple_of(2)) {
                postings.remove(id * 7, [(1, 2), (3, id)].into_iter());
            }
            let left: Vec<u32> = ids.into_iter().filter(|id| id % 2 == 1).collect();
            assert_eq!(postings.having(1, &[2]).iter().collect::<Vec<_>>(), left);
            assert_eq!(postings.value_count(3), left.len());
            assert_eq!(postings.names().count(), if left.is_empty() { 0 } else { 2 });
        }
    }
}
