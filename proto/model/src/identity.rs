//! Which series it is, and which of its labels are shown, for series whose names and values are known by number.
//!
//! A question that looks at one label of a hundred thousand series should not put together the texts of all the others, also where
//! head and blocks hold parts of the same series. So each source tells an [`Identity`] with each series: 128 bits made of all of its
//! labels. Every text is hashed once, and a series costs a few multiplications per label.

use crate::label::{Labels, LabelsBuilder};
use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Tells a series from all others, among those that were identified with the same key.
///
/// It is the sum of what each pair of name and value adds, so pairs may come in any order. That two of a hundred million series are
/// taken for one is less likely than one in 10²², and nobody who does not know the key can bring it about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// Half of it, which spreads well enough for hash tables.
    pub low: u64,
    high: u64,
}

impl Identity {
    /// The identity of the series with these labels.
    pub fn of(labels: &Labels, key: u64) -> Self {
        let mut identity = Self::default();
        for (name, value) in labels.iter() {
            identity.add(hash(name, key), hash(value, key));
        }
        identity
    }

    #[inline]
    fn add(&mut self, name: [u64; 2], value: [u64; 2]) {
        // The value is turned, so that the same texts as value and name add something else.
        let low = folded(name[0] ^ value[0].rotate_left(17), name[1].wrapping_add(value[1]));
        let high = folded(
            name[1] ^ value[0].rotate_left(41),
            name[0].wrapping_add(value[1].rotate_left(29)),
        );
        self.low = self.low.wrapping_add(low);
        self.high = self.high.wrapping_add(high);
    }
}

/// Both halves of the product, one over the other.
#[inline]
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn hash(text: &str, key: u64) -> [u64; 2] {
    let hash = xxh3_128_with_seed(text.as_bytes(), key);
    [hash as u64, (hash >> 64) as u64]
}

/// Texts whose hashes are remembered; a power of two. Names and most values repeat from series to series.
const REMEMBERED: usize = 4096;

/// Makes identities of series whose names and values are known by number.
#[derive(Debug)]
pub struct Identifier {
    key: u64,
    /// At `number % REMEMBERED` the number and one, and its hash.
    remembered: Vec<[u64; 3]>,
}

impl Identifier {
    /// Whoever compares identities gives all sources the same `key`.
    pub fn new(key: u64) -> Self {
        Self {
            key,
            remembered: vec![[0; 3]; REMEMBERED],
        }
    }

    /// Numbers stand for other texts from now on.
    pub fn forget(&mut self) {
        self.remembered.fill([0; 3]);
    }

    /// The identity of a series with these names and values; `text` gives what a number stands for.
    pub fn identify<'t, E>(
        &mut self,
        pairs: &[(u32, u32)],
        text: impl Fn(u32) -> Result<&'t str, E>,
    ) -> Result<Identity, E> {
        let mut identity = Identity::default();
        for &(name, value) in pairs {
            let name = self.hash_of(name, &text)?;
            let value = self.hash_of(value, &text)?;
            identity.add(name, value);
        }
        Ok(identity)
    }

    #[inline]
    fn hash_of<'t, E>(&mut self, number: u32, text: impl Fn(u32) -> Result<&'t str, E>) -> Result<[u64; 2], E> {
        let place = &mut self.remembered[number as usize % REMEMBERED];
        let mark = u64::from(number) + 1;
        if place[0] != mark {
            let [low, high] = hash(text(number)?, self.key);
            *place = [mark, low, high];
        }
        Ok([place[1], place[2]])
    }
}

/// Names and values by number.
type Pairs = [(u32, u32)];

/// Makes the labels of series whose names and values are known by number, once for all that agree on them.
#[derive(Debug, Default)]
pub struct SharedLabels {
    known: HashMap<Box<Pairs>, Labels, foldhash::fast::RandomState>,
    /// What came last, which the next one mostly equals.
    last: Option<(Vec<(u32, u32)>, Labels)>,
    builder: LabelsBuilder,
}

impl SharedLabels {
    /// Numbers stand for other texts from now on.
    pub fn forget(&mut self) {
        self.known.clear();
        self.last = None;
    }

    /// The labels of these pairs, which ascend by name; `text` gives what a number stands for.
    pub fn labels<'t, E>(&mut self, pairs: &Pairs, text: impl Fn(u32) -> Result<&'t str, E>) -> Result<Labels, E> {
        if let Some((last, labels)) = &self.last
            && last == pairs
        {
            return Ok(labels.clone());
        }
        let labels = match self.known.get(pairs) {
            Some(labels) => labels.clone(),
            None => {
                let texts: Result<Vec<_>, E> = pairs.iter().map(|pair| Ok((text(pair.0)?, text(pair.1)?))).collect();
                texts?.iter().for_each(|(name, value)| self.builder.push(name, value));
                let labels = self.builder.build_sorted();
                self.known.insert(pairs.into(), labels.clone());
                labels
            }
        };
        let (last, shared) = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(pairs);
        shared.clone_from(&labels);
        Ok(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    const TEXTS: [&str; 6] = ["", "a", "b", "ab", "ba", "c"];

    fn text(number: u32) -> Result<&'static str, Infallible> {
        Ok(TEXTS[number as usize])
    }

    proptest! {
        #[test]
        fn identities_are_equal_where_labels_are(
            one in proptest::collection::btree_map(1u32..6, 1u32..6, 0..5),
            other in proptest::collection::btree_map(1u32..6, 1u32..6, 0..5),
            key: u64,
        ) {
            let mut identifier = Identifier::new(key);
            let [(one, by_number), (other, other_by_number)] = [one, other].map(|pairs| {
                let pairs: Vec<(u32, u32)> = pairs.into_iter().collect();
                let texts = pairs.iter().map(|pair| (TEXTS[pair.0 as usize], TEXTS[pair.1 as usize]));
                (Labels::new(texts).unwrap(), identifier.identify(&pairs, text).unwrap())
            });
            prop_assert_eq!(by_number, Identity::of(&one, key));
            prop_assert_eq!(other_by_number, Identity::of(&other, key));
            prop_assert_eq!(by_number == other_by_number, one == other);
            prop_assert_eq!(by_number.low == other_by_number.low, one == other);
            prop_assert_eq!(by_number.high == other_by_number.high, one == other);
        }
    }

    #[test]
    fn numbers_may_come_to_stand_for_other_texts() {
        let (mut identifier, mut shared) = (Identifier::new(1), SharedLabels::default());
        let before = |_| Ok::<_, Infallible>("x");
        let later = |_| Ok::<_, Infallible>("y");
        let first = identifier.identify(&[(0, 4096)], before).unwrap();
        assert_eq!(shared.labels(&[(0, 4096)], before).unwrap().to_string(), r#"{x="x"}"#);
        identifier.forget();
        shared.forget();
        assert_ne!(identifier.identify(&[(0, 4096)], later).unwrap(), first);
        assert_eq!(shared.labels(&[(0, 4096)], later).unwrap().to_string(), r#"{y="y"}"#);
        // A number without text is told and leaves nothing behind.
        assert_eq!(
            shared.labels(&[(0, 7)], |number| if number == 7 { Err("none") } else { Ok("x") }),
            Err("none")
        );
        assert_eq!(identifier.identify(&[(9, 7)], |_| Err("none")), Err("none"));
        assert_eq!(shared.labels(&[], later).unwrap(), Labels::empty());
    }
}
