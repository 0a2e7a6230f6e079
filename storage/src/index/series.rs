//! A series of the index: symbol numbers of its labels, and where its chunks are.

use super::IndexError;
use crate::{chunk, cursor::Cursor};
use model::time::{TimeRange, Timestamp};

const PART: &str = "series";

/// Where a chunk is, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Timestamp of its first sample.
    pub min_time: Timestamp,
    /// Timestamp of its last sample.
    pub max_time: Timestamp,
    /// Number of its segment file, from 0, in the upper 32 bits, and the offset in that file in the lower.
    pub reference: u64,
}

impl ChunkRef {
    /// Number of its segment file, from 0.
    pub const fn segment(&self) -> u32 {
        (self.reference >> 32) as u32
    }

    /// Where in the segment file it begins.
    pub const fn offset(&self) -> u32 {
        self.reference as u32
    }

    /// The span from first to last sample.
    pub const fn range(&self) -> TimeRange {
        TimeRange::new(self.min_time, self.max_time)
    }
}

/// A series as it lies in the index. Kept by a reader from series to series to save memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawSeries {
    /// Symbol numbers of names and values; names ascend.
    pub(super) labels: Vec<(u32, u32)>,
    /// Its chunks, ascending by time, not overlapping.
    pub chunks: Vec<ChunkRef>,
    /// Where in the index the entry ends.
    pub(super) end: u64,
}

/// Reads the entry that `bytes` begin with and checks it; `offset` is where it lies in the index.
pub(super) fn read(bytes: &[u8], offset: u64, series: &mut RawSeries) -> Result<(), IndexError> {
    let truncated = || IndexError::truncated(PART, offset);
    let mut cursor = Cursor::new(bytes);
    let content = cursor.counted().ok_or_else(truncated)?;
    let sum = cursor.be32().ok_or_else(truncated)?;
    if crc32c::crc32c(content) != sum {
        return Err(IndexError::Checksum { part: PART, offset });
    }
    series.labels.clear();
    series.chunks.clear();
    series.end = offset + (bytes.len() - cursor.remaining()) as u64;
    let mut cursor = Cursor::new(content);
    read_labels(&mut cursor, series).ok_or(IndexError::malformed(
        PART,
        offset,
        "its labels are cut off or unsorted",
    ))?;
    read_chunks(&mut cursor, series).ok_or(IndexError::malformed(
        PART,
        offset,
        "its chunks are cut off or unsorted",
    ))
}

/// Whether the bytes begin with a whole entry that passes its checksum.
pub fn is_entry_intact(bytes: &[u8]) -> bool {
    let mut cursor = Cursor::new(bytes);
    let content = cursor.counted();
    content.is_some_and(|content| cursor.be32() == Some(crc32c::crc32c(content)))
}

/// The first chunk of the entry that `bytes` begin with. Nothing is checked and the entry may be cut off behind it: it is a hint.
pub(super) fn first_chunk(bytes: &[u8]) -> Option<ChunkRef> {
    let mut cursor = Cursor::new(bytes);
    cursor.uvarint()?;
    let mut series = RawSeries::default();
    read_labels(&mut cursor, &mut series)?;
    if cursor.uvarint()? == 0 {
        return None;
    }
    read_chunk(&mut cursor, None)
}

fn read_labels(cursor: &mut Cursor<'_>, series: &mut RawSeries) -> Option<()> {
    let mut previous = None;
    for _ in 0..cursor.uvarint()? {
        let name = u32::try_from(cursor.uvarint()?).ok()?;
        let value = u32::try_from(cursor.uvarint()?).ok()?;
        if previous.is_some_and(|previous| previous >= name) {
            return None;
        }
        previous = Some(name);
        series.labels.push((name, value));
    }
    Some(())
}

fn read_chunks(cursor: &mut Cursor<'_>, series: &mut RawSeries) -> Option<()> {
    let count = cursor.uvarint()?;
    let mut previous: Option<ChunkRef> = None;
    for _ in 0..count {
        let chunk = read_chunk(cursor, previous)?;
        previous = Some(chunk);
        series.chunks.push(chunk);
    }
    Some(())
}

/// The next chunk, which is told by what it differs from the one before.
fn read_chunk(cursor: &mut Cursor<'_>, previous: Option<ChunkRef>) -> Option<ChunkRef> {
    let min_time = match previous {
        None => cursor.varint()?,
        Some(previous) => previous.max_time.checked_add_unsigned(cursor.uvarint()?)?,
    };
    let max_time = min_time.checked_add_unsigned(cursor.uvarint()?)?;
    let reference = match previous {
        None => cursor.uvarint()?,
        Some(previous) => previous.reference.wrapping_add_signed(cursor.varint()?),
    };
    Some(ChunkRef {
        min_time,
        max_time,
        reference,
    })
}

/// Writes the content of an entry, without length and checksum, over what `out` holds. Chunks ascend and do not overlap.
pub(super) fn write(out: &mut Vec<u8>, labels: &[(u32, u32)], chunks: &[ChunkRef]) {
    out.clear();
    chunk::put_uvarint(out, labels.len() as u64);
    for &(name, value) in labels {
        chunk::put_uvarint(out, u64::from(name));
        chunk::put_uvarint(out, u64::from(value));
    }
    chunk::put_uvarint(out, chunks.len() as u64);
    let mut previous: Option<&ChunkRef> = None;
    for chunk in chunks {
        match previous {
            None => chunk::put_varint(out, chunk.min_time),
            Some(previous) => chunk::put_uvarint(out, chunk.min_time.wrapping_sub(previous.max_time) as u64),
        }
        chunk::put_uvarint(out, chunk.max_time.wrapping_sub(chunk.min_time) as u64);
        match previous {
            None => chunk::put_uvarint(out, chunk.reference),
            Some(previous) => chunk::put_varint(out, chunk.reference.wrapping_sub(previous.reference) as i64),
        }
        previous = Some(chunk);
    }
}
