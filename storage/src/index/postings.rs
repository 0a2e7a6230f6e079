//! Postings: for each label value the ids of the series that have it, and the table that finds them.

use super::{IndexError, SAMPLING};
use crate::cursor::{Cursor, checked_section};
use std::ops::Range;

const TABLE: &str = "postings offset table";
const LIST: &str = "postings list";

/// Ascending series ids, as they lie in the file: big-endian, 32 bits each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Postings<'a>(&'a [[u8; 4]]);

impl<'a> Postings<'a> {
    /// Reads the list at `offset` and checks it.
    pub(super) fn open(bytes: &'a [u8], offset: u64) -> Result<Self, IndexError> {
        let (content, intact) = checked_section(bytes, offset).ok_or(IndexError::truncated(LIST, offset))?;
        if !intact {
            return Err(IndexError::Checksum { part: LIST, offset });
        }
        let mut cursor = Cursor::new(content);
        let count = cursor.be32().ok_or(IndexError::truncated(LIST, offset))?;
        let (ids, odd) = content[4..].as_chunks::<4>();
        if ids.len() != count as usize || !odd.is_empty() {
            return Err(IndexError::malformed(LIST, offset, "length and count differ"));
        }
        Ok(Self(ids))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.0.iter().map(|id| u32::from_be_bytes(*id))
    }

    /// The ids from the first that is at least `id` on.
    pub(super) fn from(&self, id: u32) -> Self {
        // Gallop: the next one wanted is mostly near.
        let mut step = 1;
        while self.0.get(step).is_some_and(|at| u32::from_be_bytes(*at) < id) {
            step *= 2;
        }
        let window = &self.0[step / 2..self.0.len().min(step + 1)];
        let skip = step / 2 + window.partition_point(|at| u32::from_be_bytes(*at) < id);
        Self(&self.0[skip..])
    }

    /// Keeps of the ascending `ids` those that are here (or with `keep` false those that are not).
    pub(super) fn retain(&self, ids: &mut Vec<u32>, keep: bool) {
        let mut rest = *self;
        ids.retain(|&id| {
            rest = rest.from(id);
            let found = rest.0.first().is_some_and(|first| u32::from_be_bytes(*first) == id);
            found == keep
        });
    }

    /// Whether any of the ascending `ids` is here.
    pub(super) fn intersects(&self, ids: &[u32]) -> bool {
        let (mut rest, mut ids) = (*self, ids);
        while let (Some(first), Some(&id)) = (rest.0.first(), ids.first()) {
            let first = u32::from_be_bytes(*first);
            if first == id {
                return true;
            }
            if first < id {
                rest = rest.from(id);
            } else {
                ids = &ids[ids.partition_point(|&id| id < first)..];
            }
        }
        false
    }
}

/// A label name of the table: where its values are.
#[derive(Debug)]
struct Name {
    name: String,
    /// Its part of [`PostingsTable::samples`].
    samples: Range<usize>,
    /// Number of values.
    values: usize,
    /// Where in the content its entries end.
    end: u32,
}

/// Where each list lies. Of every name the offset of each 32nd entry is kept; the others are walked to in the file.
#[derive(Debug)]
pub(super) struct PostingsTable {
    /// The entries inside the index, without length, count and checksum.
    content: Range<usize>,
    /// Ascending by name.
    names: Vec<Name>,
    /// Offset into the content of the entries 0, 32, 64, … of each name.
    samples: Vec<u32>,
    /// Where the list of all series is.
    all: Option<u64>,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    name: &'a [u8],
    value: &'a [u8],
    list: u64,
}

fn read_entry<'a>(cursor: &mut Cursor<'a>) -> Option<Entry<'a>> {
    if cursor.uvarint()? != 2 {
        return None;
    }
    Some(Entry {
        name: cursor.counted()?,
        value: cursor.counted()?,
        list: cursor.uvarint()?,
    })
}

impl PostingsTable {
    /// Checks the whole table once: checksum, order, UTF-8.
    pub(super) fn open(bytes: &[u8], offset: u64) -> Result<Self, IndexError> {
        let (section, intact) = checked_section(bytes, offset).ok_or(IndexError::truncated(TABLE, offset))?;
        if !intact {
            return Err(IndexError::Checksum { part: TABLE, offset });
        }
        let mut cursor = Cursor::new(section);
        let count = cursor.be32().ok_or(IndexError::truncated(TABLE, offset))?;
        let (start, total) = (offset as usize + 8, cursor.remaining());
        let mut table = Self {
            content: start..start + total,
            names: Vec::new(),
            samples: Vec::new(),
            all: None,
        };
        let mut previous: Option<Entry<'_>> = None;
        for _ in 0..count {
            let at = (total - cursor.remaining()) as u32;
            let entry = read_entry(&mut cursor).ok_or(IndexError::truncated(TABLE, offset))?;
            if previous.is_some_and(|previous| (previous.name, previous.value) >= (entry.name, entry.value)) {
                return Err(IndexError::malformed(TABLE, offset, "entries are not sorted"));
            }
            previous = Some(entry);
            table.note(entry, at, (total - cursor.remaining()) as u32, offset)?;
        }
        Ok(table)
    }

    fn note(&mut self, entry: Entry<'_>, at: u32, end: u32, offset: u64) -> Result<(), IndexError> {
        let malformed = |reason| IndexError::malformed(TABLE, offset, reason);
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| malformed("an entry is not UTF-8"));
        let (name, value) = (text(entry.name)?, text(entry.value)?);
        if name.is_empty() && value.is_empty() {
            self.all = Some(entry.list);
            return Ok(());
        }
        if self.names.last().is_none_or(|last| last.name != name) {
            let samples = self.samples.len()..self.samples.len();
            self.names.push(Name {
                name: name.to_owned(),
                samples,
                values: 0,
                end,
            });
        }
        let Some(last) = self.names.last_mut() else {
            return Ok(());
        };
        if last.values.is_multiple_of(SAMPLING) {
            self.samples.push(at);
            last.samples.end = self.samples.len();
        }
        last.values += 1;
        last.end = end;
        Ok(())
    }

    /// Where the list of all series is.
    pub(super) fn all(&self) -> Option<u64> {
        self.all
    }

    /// Every label name, ascending.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| name.name.as_str())
    }

    fn name(&self, name: &str) -> Option<&Name> {
        let index = self
            .names
            .binary_search_by(|probe| probe.name.as_str().cmp(name))
            .ok()?;
        self.names.get(index)
    }

    /// How many values a name has.
    pub(super) fn value_count(&self, name: &str) -> usize {
        self.name(name).map_or(0, |name| name.values)
    }

    /// Where the list of `name` with `value` is.
    pub(super) fn find(&self, bytes: &[u8], name: &str, value: &str) -> Option<u64> {
        let (found, list) = self.values_from(bytes, name, value.as_bytes()).next()?;
        (found == value).then_some(list)
    }

    /// The values of `name` from the first that is at least `from` on, each with where its list is.
    pub(super) fn values_from<'a>(
        &self,
        bytes: &'a [u8],
        name: &str,
        from: &'a [u8],
    ) -> impl Iterator<Item = (&'a str, u64)> + use<'a> {
        let content = bytes.get(self.content.clone()).unwrap_or_default();
        let mut cursor = Cursor::new(match self.name(name) {
            Some(name) => {
                let samples = &self.samples[name.samples.clone()];
                let below =
                    samples.partition_point(|&sample| entry_at(content, sample).is_some_and(|e| e.value <= from));
                // An empty range of samples cannot be: a name is noted with its first value.
                let start = samples.get(below.saturating_sub(1)).copied().unwrap_or(name.end);
                content.get(start as usize..name.end as usize).unwrap_or_default()
            }
            None => &[],
        });
        // The table was walked when it was opened, so an entry that cannot be read does not occur.
        std::iter::from_fn(move || read_entry(&mut cursor))
            .skip_while(move |entry| entry.value < from)
            .filter_map(|entry| Some((std::str::from_utf8(entry.value).ok()?, entry.list)))
    }
}

fn entry_at(content: &[u8], offset: u32) -> Option<Entry<'_>> {
    read_entry(&mut Cursor::at(content, u64::from(offset))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn list(ids: &BTreeSet<u32>) -> Vec<[u8; 4]> {
        ids.iter().map(|id| id.to_be_bytes()).collect()
    }

    proptest! {
        #[test]
        fn set_operations_are_those_of_sets(
            a in proptest::collection::btree_set(0u32..300, 0..100),
            b in proptest::collection::btree_set(0u32..300, 0..100),
        ) {
            let bytes = list(&b);
            let postings = Postings(&bytes);
            let sorted: Vec<u32> = a.iter().copied().collect();
            let mut both = sorted.clone();
            postings.retain(&mut both, true);
            prop_assert_eq!(&both, &a.intersection(&b).copied().collect::<Vec<_>>());
            let mut left = sorted.clone();
            postings.retain(&mut left, false);
            prop_assert_eq!(left, a.difference(&b).copied().collect::<Vec<_>>());
            prop_assert_eq!(postings.intersects(&sorted), !both.is_empty());
        }
    }

    #[test]
    fn a_list_with_a_wrong_count_is_refused() {
        let mut content = 2u32.to_be_bytes().to_vec();
        content.extend([0, 0, 0, 1]);
        let mut bytes = (content.len() as u32).to_be_bytes().to_vec();
        bytes.extend(&content);
        bytes.extend(crc32c::crc32c(&content).to_be_bytes());
        assert!(matches!(Postings::open(&bytes, 0), Err(IndexError::Malformed { .. })));
        bytes[5] ^= 1;
        assert!(matches!(Postings::open(&bytes, 0), Err(IndexError::Checksum { .. })));
        assert!(matches!(Postings::open(&bytes, 4), Err(IndexError::Truncated { .. })));
    }
}
