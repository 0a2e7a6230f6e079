//! Which series have which labels, for one tenant.
//!
//! Most label values belong to very few series, a few to nearly all. A posting list therefore has three sizes: up to three ids in
//! place, a sorted vector, a compressed bitmap.

use hashbrown::HashMap;
use model::matcher::{MatchOp, Matcher};
use roaring::{MultiOps, RoaringBitmap};

/// A vector of more ids becomes a bitmap.
const SORTED_MAX: usize = 64;

/// The series of one label value.
#[derive(Debug)]
enum Posting {
    Few {
        len: u8,
        ids: [u32; 3],
    },
    #[expect(
        clippy::box_collection,
        reason = "a vector in place would make every posting list larger"
    )]
    Sorted(Box<Vec<u32>>),
    Many(Box<RoaringBitmap>),
}

const _: () = assert!(
    size_of::<Posting>() == 16,
    "a value of one series costs no more than this"
);

impl Posting {
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
                if let Err(place) = sorted.binary_search(&id) {
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

    fn bitmap(&self) -> RoaringBitmap {
        match self {
            Self::Few { len, ids } => ids[..usize::from(*len)].iter().copied().collect(),
            Self::Sorted(sorted) => sorted.iter().copied().collect(),
            Self::Many(bitmap) => (**bitmap).clone(),
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
struct NameIndex {
    values: HashMap<u32, Posting, foldhash::fast::FixedState>,
    /// Series that have the label at all.
    all: RoaringBitmap,
}

/// The posting lists of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Postings {
    names: HashMap<u32, NameIndex, foldhash::fast::FixedState>,
    all: RoaringBitmap,
}

impl Postings {
    /// Adds a series with its label pairs.
    pub(crate) fn insert(&mut self, id: u32, pairs: impl Iterator<Item = (u32, u32)>) {
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

    /// The series that satisfy all matchers. `find` gives the symbol of a text, `text` the text of a symbol.
    pub(crate) fn select<'t>(
        &self,
        matchers: &[Matcher],
        find: impl Fn(&str) -> Option<u32>,
        text: impl Fn(u32) -> &'t str,
    ) -> RoaringBitmap {
        let mut result: Option<RoaringBitmap> = None;
        let mut keep = |ids: RoaringBitmap| {
            let narrowed = match result.take() {
                Some(found) => found & ids,
                None => ids,
            };
            let empty = narrowed.is_empty();
            result = Some(narrowed);
            empty
        };
        let index = |matcher: &Matcher| find(&matcher.name).and_then(|name| self.names.get(&name));
        // What needs a label narrows first and is cheap; what is satisfied by its absence only takes away.
        let (absent, present): (Vec<_>, Vec<_>) = matchers.iter().partition(|matcher| matcher.matches_empty());
        let (equal, others): (Vec<_>, Vec<_>) = present.into_iter().partition(|matcher| matcher.op == MatchOp::Equal);
        for matcher in equal.into_iter().chain(others) {
            let ids = index(matcher)
                .map(|index| index.matching(matcher, &find, &text))
                .unwrap_or_default();
            if keep(ids) {
                return RoaringBitmap::new();
            }
        }
        let mut result = result.unwrap_or_else(|| self.all.clone());
        for matcher in absent {
            if let Some(index) = index(matcher) {
                result -= index.not_matching(matcher, &find, &text);
            }
        }
        result
    }
}

impl NameIndex {
    /// Series whose value of this label satisfies `matcher`, which a missing label does not.
    fn matching<'t>(
        &self,
        matcher: &Matcher,
        find: impl Fn(&str) -> Option<u32>,
        text: impl Fn(u32) -> &'t str,
    ) -> RoaringBitmap {
        if let Some(wanted) = literals(matcher) {
            return self.union(wanted.filter_map(find).filter_map(|value| self.values.get(&value)));
        }
        if matches!(
            (matcher.op, &*matcher.value),
            (MatchOp::NotEqual, "") | (MatchOp::Regex, ".+")
        ) {
            // Any value at all; what is never equal to a text that no series has costs no look at the values.
            return self.all.clone();
        }
        self.union(
            self.values
                .iter()
                .filter(|(value, _)| matcher.matches(text(**value)))
                .map(|(_, posting)| posting),
        )
    }

    /// Series whose value of this label does not satisfy `matcher`, which a missing label does.
    fn not_matching<'t>(
        &self,
        matcher: &Matcher,
        find: impl Fn(&str) -> Option<u32>,
        text: impl Fn(u32) -> &'t str,
    ) -> RoaringBitmap {
        match (matcher.op, &*matcher.value) {
            (MatchOp::Equal, _) => return self.all.clone(),
            (MatchOp::Regex, ".*") => return RoaringBitmap::new(),
            (MatchOp::NotEqual, value) => {
                return find(value)
                    .and_then(|value| self.values.get(&value))
                    .map(Posting::bitmap)
                    .unwrap_or_default();
            }
            _ => {}
        }
        self.union(
            self.values
                .iter()
                .filter(|(value, _)| !matcher.matches(text(**value)))
                .map(|(_, posting)| posting),
        )
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
    use crate::head::symbols::Symbols;
    use model::label::Labels;
    use proptest::prelude::*;

    struct World {
        symbols: Symbols,
        postings: Postings,
        series: Vec<(u32, Labels)>,
    }

    fn world(values: &[(u8, u8, u8)]) -> World {
        let mut world = World {
            symbols: Symbols::new(3),
            postings: Postings::default(),
            series: Vec::new(),
        };
        for (index, &(a, b, c)) in values.iter().enumerate() {
            let value = |number: u8| {
                if number == 0 {
                    String::new()
                } else {
                    format!("v{}", number - 1)
                }
            };
            let labels = Labels::new([("a", value(a)), ("b", value(b)), ("c", value(c))]).unwrap();
            let pairs: Vec<_> = labels
                .iter()
                .map(|(name, value)| (world.symbols.acquire(name), world.symbols.acquire(value)))
                .collect();
            world.postings.insert(index as u32 * 3, pairs.into_iter());
            world.series.push((index as u32 * 3, labels));
        }
        world
    }

    fn pairs(world: &World, labels: &Labels) -> Vec<(u32, u32)> {
        let find = |text: &str| world.symbols.find(text).unwrap();
        labels.iter().map(|(name, value)| (find(name), find(value))).collect()
    }

    fn matcher() -> impl Strategy<Value = Matcher> {
        let op = prop_oneof![
            Just(MatchOp::Equal),
            Just(MatchOp::NotEqual),
            Just(MatchOp::Regex),
            Just(MatchOp::NotRegex)
        ];
        let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("missing")];
        let value = prop_oneof![
            Just(""),
            Just("v0"),
            Just("v1"),
            Just("v1|v2"),
            Just("v.*"),
            Just(".+"),
            Just(".*"),
            Just("|v1"),
            Just("v[01]?"),
            Just("nothing")
        ];
        (op, name, value).prop_map(|(op, name, value)| Matcher::new(op, name, value).unwrap())
    }

    proptest! {
        #[test]
        fn selection_is_what_the_matchers_say(
            values in proptest::collection::vec((0..4u8, 0..3u8, 0..90u8), 0..150),
            matchers in proptest::collection::vec(matcher(), 0..4),
            gone in proptest::collection::vec(any::<bool>(), 150),
        ) {
            let mut world = world(&values);
            let all = std::mem::take(&mut world.series);
            for ((id, labels), gone) in all.into_iter().zip(gone) {
                if gone {
                    let pairs = pairs(&world, &labels);
                    world.postings.remove(id, pairs.into_iter());
                } else {
                    world.series.push((id, labels));
                }
            }
            let (symbols, postings) = (&world.symbols, &world.postings);
            let matches = |labels: &Labels| matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or("")));
            let expected: Vec<u32> = world.series.iter().filter(|(_, labels)| matches(labels)).map(|(id, _)| *id).collect();
            let ids = postings.select(&matchers, |text| symbols.find(text), |id| symbols.text(id));
            prop_assert_eq!(ids.iter().collect::<Vec<_>>(), expected);
            for name in ["a", "b", "c"] {
                let Some(symbol) = symbols.find(name) else { continue };
                let mut found: Vec<_> = postings.values_among(symbol, &ids).map(|id| symbols.text(id).to_owned()).collect();
                let mut expected: Vec<_> =
                    world.series.iter().filter(|(_, l)| matches(l)).filter_map(|(_, l)| l.get(name)).map(str::to_owned).collect();
                expected.sort();
                expected.dedup();
                found.sort();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
