//! Label sets: what identifies a series.

use std::{cmp::Ordering, fmt, sync::Arc};

/// The label that holds the metric name.
pub const METRIC_NAME: &str = "__name__";

/// A label set, sorted by name, without empty values and without a name twice.
///
/// All text lies in one shared buffer, so a clone is two reference counts and reading never allocates.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    text: Arc<str>,
    /// End of each name and value in `text`: name 0, value 0, name 1, …
    ends: Arc<[u32]>,
}

/// Why a list of pairs is no label set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A label has the empty string for a name.
    #[error("a label name is empty")]
    EmptyName,
    /// The same name stands twice.
    #[error("duplicated label {0}")]
    Duplicate(String),
}

impl Labels {
    /// The label set without labels.
    pub fn empty() -> Self {
        Self {
            text: "".into(),
            ends: [].into(),
        }
    }

    /// Makes a label set of pairs in any order. Pairs with an empty value are dropped, as in Prometheus.
    pub fn new<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self, LabelError> {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.push(name.as_ref(), value.as_ref());
        }
        builder.build()
    }

    /// Number of labels.
    #[inline]
    pub fn len(&self) -> usize {
        self.ends.len() / 2
    }

    /// Whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all names and values together.
    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    /// Name and value number `index`, which must be below [`Labels::len`].
    #[inline]
    pub fn pair(&self, index: usize) -> (&str, &str) {
        let start = if index == 0 {
            0
        } else {
            self.ends[2 * index - 1] as usize
        };
        let middle = self.ends[2 * index] as usize;
        let end = self.ends[2 * index + 1] as usize;
        (&self.text[start..middle], &self.text[middle..end])
    }

    /// All pairs, sorted by name.
    #[inline]
    pub fn iter(&self) -> Pairs<'_> {
        Pairs {
            text: &self.text,
            ends: &self.ends,
            start: 0,
        }
    }

    /// The text of all names and values in one piece, and where each of them ends: what tells label sets apart, without going through them.
    #[inline]
    pub fn raw(&self) -> (&str, &[u32]) {
        (&self.text, &self.ends)
    }

    /// The value of `name`, if the label is there.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// The metric name, or the empty string.
    #[inline]
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME).unwrap_or("")
    }

    /// The same set without the labels for which `drop` says yes.
    pub fn without(&self, drop: impl Fn(&str) -> bool) -> Self {
        self.filtered(|name| !drop(name))
    }

    /// The same set with only the labels for which `keep` says yes.
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        let mut builder = LabelsBuilder::default();
        for (name, value) in self.iter().filter(|(name, _)| keep(name)) {
            builder.push(name, value);
        }
        builder.build_sorted()
    }

    /// The same set with `name` set to `value`; an empty value removes the label.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut builder = LabelsBuilder::default();
        let mut placed = false;
        for (n, v) in self.iter() {
            if !placed && n >= name {
                builder.push(name, value);
                placed = true;
            }
            if n != name {
                builder.push(n, v);
            }
        }
        if !placed {
            builder.push(name, value);
        }
        builder.build_sorted()
    }

    /// A stable 64-bit hash: xxh64, seed 0, over every name and value each followed by the byte 0xff.
    ///
    /// It is the layout of `labels.Labels.Hash` in Prometheus's slice-labels build, which Thanos uses for its rings, and is safe to send
    /// and store.
    pub fn stable_hash(&self) -> u64 {
        let mut hasher = xxhash_rust::xxh64::Xxh64::new(0);
        for (name, value) in self.iter() {
            hasher.update(name.as_bytes());
            hasher.update(b"\xff");
            hasher.update(value.as_bytes());
            hasher.update(b"\xff");
        }
        hasher.digest()
    }
}

/// The pairs of a label set, from [`Labels::iter`].
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    text: &'a str,
    /// Ends of the names and values that are left.
    ends: &'a [u32],
    /// Where the next name begins.
    start: usize,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, &'a str);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let ([middle, end], rest) = self.ends.split_first_chunk::<2>()?;
        let (middle, end) = (*middle as usize, *end as usize);
        let pair = (&self.text[self.start..middle], &self.text[middle..end]);
        (self.start, self.ends) = (end, rest);
        Some(pair)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.ends.len() / 2;
        (len, Some(len))
    }
}

impl DoubleEndedIterator for Pairs<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        let (rest, [middle, end]) = self.ends.split_last_chunk::<2>()?;
        let start = rest.last().map_or(self.start, |start| *start as usize);
        self.ends = rest;
        let middle = *middle as usize;
        Some((&self.text[start..middle], &self.text[middle..*end as usize]))
    }
}

impl ExactSizeIterator for Pairs<'_> {}

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Pair by pair, name before value; the shorter set first when one begins the other (Prometheus's order of series).
///
/// Sorting and merging series is comparing labels, and those of a metric have most of their text in common. So the texts are
/// compared as a whole first, and the ends only tell whether the first difference lies inside the same name or value.
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        let differs = |at: &usize| self.ends[*at] != other.ends[*at];
        let shared = self.ends.len().min(other.ends.len());
        let same_ends = (0..shared).find(differs).unwrap_or(shared);
        let end_of = |labels: &Self| {
            labels
                .ends
                .get(same_ends)
                .map_or(labels.text.len(), |&end| end as usize)
        };
        let (mine, theirs) = (end_of(self), end_of(other));
        // Up to here bytes of the same place belong to the same name or value.
        let comparable = mine.min(theirs);
        let [own_text, other_text] = [self, other].map(|labels| &labels.text.as_bytes()[..comparable]);
        own_text
            .cmp(other_text)
            .then(mine.cmp(&theirs))
            .then(self.ends.len().cmp(&other.ends.len()))
    }
}

/// `{__name__="up", job="x"}`, values quoted and escaped.
impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `{__name__="up", job="x"}`, as Prometheus prints label sets; names that need it are quoted.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            if is_legacy_name(name) {
                f.write_str(name)?
            } else {
                write!(f, "{name:?}")?
            }
            write!(f, "={value:?}")?;
        }
        f.write_str("}")
    }
}

/// Whether `name` can stand unquoted as a label name: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_legacy_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Collects pairs in any order and makes [`Labels`] of them. It can be used again after each build.
#[derive(Debug, Default)]
pub struct LabelsBuilder {
    text: String,
    ends: Vec<u32>,
}

impl LabelsBuilder {
    /// A builder with room for so many bytes of text in so many labels. Growing label by label would copy them several times.
    pub fn with_capacity(text_bytes: usize, labels: usize) -> Self {
        Self {
            text: String::with_capacity(text_bytes),
            ends: Vec::with_capacity(2 * labels),
        }
    }

    /// Adds a pair; one with an empty value is left out.
    pub fn push(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.text.push_str(name);
        self.ends.push(self.text.len() as u32);
        self.text.push_str(value);
        self.ends.push(self.text.len() as u32);
    }

    /// Checks and sorts the pairs. The builder is empty afterwards.
    pub fn build(&mut self) -> Result<Labels, LabelError> {
        let unchecked = self.build_sorted();
        let mut order: Vec<usize> = (0..unchecked.len()).collect();
        order.sort_by_key(|&index| unchecked.pair(index).0);
        for pair in order.windows(2) {
            let name = unchecked.pair(pair[1]).0;
            if unchecked.pair(pair[0]).0 == name {
                return Err(LabelError::Duplicate(name.to_owned()));
            }
        }
        if order.first().is_some_and(|&index| unchecked.pair(index).0.is_empty()) {
            return Err(LabelError::EmptyName);
        }
        if order.is_sorted() {
            return Ok(unchecked);
        }
        for index in order {
            let (name, value) = unchecked.pair(index);
            self.push(name, value);
        }
        Ok(self.build_sorted())
    }

    /// Makes the set of pairs that are already sorted by name and distinct; the caller vouches for it.
    pub fn build_sorted(&mut self) -> Labels {
        let labels = Labels {
            text: self.text.as_str().into(),
            ends: self.ends.as_slice().into(),
        };
        self.text.clear();
        self.ends.clear();
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_sorted_and_empty_values_dropped() {
        let labels = Labels::new([("job", "x"), ("__name__", "up"), ("gone", "")]).unwrap();
        assert_eq!(labels.to_string(), r#"{__name__="up", job="x"}"#);
        assert_eq!(labels.get("job"), Some("x"));
        assert_eq!(labels.get("gone"), None);
    }

    #[test]
    fn pairs_are_walked_from_both_ends() {
        let labels = Labels::new([("a", "1"), ("bb", "22"), ("c", "3")]).unwrap();
        let mut pairs = labels.iter();
        assert_eq!((pairs.len(), pairs.next()), (3, Some(("a", "1"))));
        assert_eq!(pairs.next_back(), Some(("c", "3")));
        assert_eq!(pairs.next_back(), Some(("bb", "22")));
        assert_eq!((pairs.len(), pairs.next(), pairs.next_back()), (0, None, None));
        assert_eq!(labels.iter().next_back(), Some(labels.pair(2)));
        assert_eq!(labels.raw(), ("a1bb22c3", &[1, 2, 4, 6, 7, 8][..]));
    }

    #[test]
    fn names_twice_or_empty_are_errors() {
        assert_eq!(
            Labels::new([("a", "1"), ("a", "2")]),
            Err(LabelError::Duplicate("a".into()))
        );
        assert_eq!(Labels::new([("", "1")]), Err(LabelError::EmptyName));
    }

    #[test]
    fn with_replaces_adds_and_removes() {
        let labels = Labels::new([("b", "1"), ("d", "2")]).unwrap();
        assert_eq!(labels.with("a", "0").to_string(), r#"{a="0", b="1", d="2"}"#);
        assert_eq!(labels.with("b", "9").to_string(), r#"{b="9", d="2"}"#);
        assert_eq!(labels.with("e", "9").to_string(), r#"{b="1", d="2", e="9"}"#);
        assert_eq!(labels.with("d", "").to_string(), r#"{b="1"}"#);
    }

    proptest::proptest! {
        #[test]
        fn order_is_that_of_the_pairs(
            a in proptest::collection::btree_map("[ab]{1,3}", "[ab]{1,3}", 0..4),
            b in proptest::collection::btree_map("[ab]{1,3}", "[ab]{1,3}", 0..4),
        ) {
            let [one, other] = [&a, &b].map(|pairs| Labels::new(pairs).unwrap());
            proptest::prop_assert_eq!(one.cmp(&other), a.iter().cmp(b.iter()));
            proptest::prop_assert_eq!(one.cmp(&other) == Ordering::Equal, one == other);
        }
    }

    #[test]
    fn order_is_pair_by_pair() {
        let short = Labels::new([("a", "1")]).unwrap();
        let long = Labels::new([("a", "1"), ("b", "1")]).unwrap();
        let later = Labels::new([("a", "2")]).unwrap();
        assert!(short < long && long < later);
    }
}
