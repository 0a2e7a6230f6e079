//! The deletions of a block: intervals of series that readers must leave out until a compaction drops them.
//!
//! ```text
//! magic 01 30 BA 30 | version 1 | (series id (uvarint) | from (varint) | to (varint))* | CRC32C of the entries (4)
//! ```

use crate::{
    chunk::{put_uvarint, put_varint},
    cursor::Cursor,
};
use model::time::TimeRange;
use std::collections::BTreeMap;

const MAGIC: u32 = 0x0130_BA30;
const VERSION: u8 = 1;

/// Deleted intervals by series.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tombstones {
    /// Of each series its intervals, ascending and apart.
    intervals: BTreeMap<u32, Vec<TimeRange>>,
}

/// Why a file of deletions cannot be read. A block whose deletions are unknown must not be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TombstonesError {
    /// It does not begin as it should.
    #[error("this is no tombstones file of version 1")]
    Header,
    /// It is not what was written.
    #[error("the tombstones fail their checksum")]
    Checksum,
    /// An entry is cut off or makes no sense.
    #[error("a tombstone is cut off or names no series")]
    Entry,
}

impl Tombstones {
    /// Reads the content of a file.
    pub fn read(bytes: &[u8]) -> Result<Self, TombstonesError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.be32() != Some(MAGIC) || cursor.take(1) != Some(&[VERSION]) {
            return Err(TombstonesError::Header);
        }
        let len = cursor.remaining().checked_sub(4).ok_or(TombstonesError::Header)?;
        let entries = cursor.take(len).ok_or(TombstonesError::Header)?;
        if cursor.be32() != Some(crc32c::crc32c(entries)) {
            return Err(TombstonesError::Checksum);
        }
        let mut tombstones = Self::default();
        let mut cursor = Cursor::new(entries);
        while !cursor.is_empty() {
            let mut entry = || {
                let series = u32::try_from(cursor.uvarint()?).ok()?;
                Some((series, TimeRange::new(cursor.varint()?, cursor.varint()?)))
            };
            let (series, interval) = entry().ok_or(TombstonesError::Entry)?;
            tombstones.add(series, interval);
        }
        Ok(tombstones)
    }

    /// The content of a file.
    pub fn write(&self) -> Vec<u8> {
        let mut entries = Vec::new();
        for (&series, intervals) in &self.intervals {
            for interval in intervals {
                put_uvarint(&mut entries, u64::from(series));
                put_varint(&mut entries, interval.min);
                put_varint(&mut entries, interval.max);
            }
        }
        let mut bytes = MAGIC.to_be_bytes().to_vec();
        bytes.push(VERSION);
        bytes.extend_from_slice(&entries);
        bytes.extend(crc32c::crc32c(&entries).to_be_bytes());
        bytes
    }

    /// Deletes an interval of a series. Intervals that touch become one.
    pub fn add(&mut self, series: u32, interval: TimeRange) {
        if interval.is_empty() {
            return;
        }
        let intervals = self.intervals.entry(series).or_default();
        let start = intervals.partition_point(|held| held.max.saturating_add(1) < interval.min);
        let end = intervals.partition_point(|held| held.min <= interval.max.saturating_add(1));
        let joined = intervals[start..end].iter().fold(interval, |joined, held| {
            TimeRange::new(joined.min.min(held.min), joined.max.max(held.max))
        });
        intervals.splice(start..end, [joined]);
    }

    /// The deleted intervals of a series, ascending.
    pub fn of(&self, series: u32) -> &[TimeRange] {
        self.intervals.get(&series).map_or(&[], Vec::as_slice)
    }

    /// Number of intervals of all series.
    pub fn count(&self) -> usize {
        self.intervals.values().map(Vec::len).sum()
    }

    /// Whether nothing is deleted.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn touching_intervals_become_one() {
        let mut tombstones = Tombstones::default();
        for (min, max) in [(10, 20), (40, 50), (21, 25), (5, 4), (60, 60), (45, 70), (i64::MIN, -5)] {
            tombstones.add(7, TimeRange::new(min, max));
        }
        let expected = [
            TimeRange::new(i64::MIN, -5),
            TimeRange::new(10, 25),
            TimeRange::new(40, 70),
        ];
        assert_eq!(tombstones.of(7), expected);
        assert_eq!(tombstones.count(), 3);
        assert!(tombstones.of(8).is_empty());
    }

    proptest! {
        #[test]
        fn deletions_come_back_and_damage_is_noticed(
            entries in proptest::collection::vec((any::<u32>(), any::<i64>(), any::<i64>()), 0..20),
            flip in any::<usize>(),
        ) {
            let mut tombstones = Tombstones::default();
            for (series, a, b) in entries {
                tombstones.add(series, TimeRange::new(a.min(b), a.max(b)));
            }
            let bytes = tombstones.write();
            prop_assert_eq!(Tombstones::read(&bytes).unwrap(), tombstones);
            for end in 0..bytes.len() {
                prop_assert!(Tombstones::read(&bytes[..end]).is_err());
            }
            let mut broken = bytes.clone();
            broken[flip / 8 % bytes.len()] ^= 1 << (flip % 8);
            prop_assert!(Tombstones::read(&broken).is_err());
        }
    }
}
