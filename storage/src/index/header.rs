//! The part of an index that finds series, without the series themselves: what the gateway keeps of each block.
//!
//! Symbols, postings lists and their table answer which series match; the entries of the few that do are read from the bucket. In
//! blocks of a day and more, entries are most of an index. Every part is covered by the checksum that the index gave it:
//!
//! ```text
//! magic "NXHD" | version 1 | three zero bytes | size of the index (8, big-endian)
//! table of contents (52)      as at the end of the index
//! the index up to its series  with the symbols
//! the index from its postings up to the table of contents
//! ```

use super::{Index, IndexError, MAGIC, SERIES_ALIGNMENT, TOC_BYTES, Toc, VERSION, reader::Places};
use crate::cursor::Cursor;
use model::env::Mapped;
use std::ops::Range;

const PART: &str = "index header";
const HEADER_MAGIC: &[u8; 8] = b"NXHD\x01\0\0\0";
/// What comes before the parts of the index.
const FIXED_BYTES: u64 = 8 + 8 + TOC_BYTES as u64;
/// So much of the next entry tells where its first chunk is, mostly.
const HINT_BYTES: u64 = 512;

/// Which ranges of an index make its header.
#[derive(Debug, Clone, Copy)]
pub struct HeaderPlan {
    toc: Toc,
    size: u64,
}

impl HeaderPlan {
    /// Reads the table of contents from the last bytes of an index of `size` bytes.
    pub fn read(tail: &[u8], size: u64) -> Result<Self, IndexError> {
        let truncated = IndexError::truncated("table of contents", size);
        let start = tail.len().checked_sub(TOC_BYTES).ok_or(truncated.clone())?;
        let offset = size.checked_sub(TOC_BYTES as u64).ok_or(truncated)?;
        let toc = Toc::parse(&tail[start..], offset)?;
        Ok(Self { toc, size })
    }

    /// The index up to its series.
    pub fn before_series(&self) -> Range<u64> {
        0..self.toc.series
    }

    /// The index from its postings on, without the table of contents.
    pub fn behind_series(&self) -> Range<u64> {
        self.toc.postings..self.size - TOC_BYTES as u64
    }

    /// What a header begins with; both ranges of the index follow.
    pub fn begin(&self) -> Vec<u8> {
        let mut bytes = HEADER_MAGIC.to_vec();
        bytes.extend(self.size.to_be_bytes());
        bytes.extend(self.toc.write());
        bytes
    }
}

impl Index {
    /// Opens the header of an index of `size` bytes. Series are read through [`Index::series_of`].
    pub fn open_header(bytes: Mapped, size: u64) -> Result<Self, IndexError> {
        let truncated = || IndexError::truncated(PART, 0);
        let mut cursor = Cursor::new(&bytes);
        if cursor.take(HEADER_MAGIC.len()).ok_or_else(truncated)? != HEADER_MAGIC {
            return Err(IndexError::malformed(
                PART,
                0,
                "it does not begin like one of this version",
            ));
        }
        if cursor.be64().ok_or_else(truncated)? != size {
            return Err(IndexError::malformed(PART, 0, "it is of an index of another size"));
        }
        let toc = cursor.take(TOC_BYTES).ok_or_else(truncated)?;
        let plan = HeaderPlan::read(toc, size)?;
        let magic = cursor.be32().ok_or_else(truncated)?;
        match cursor.take(1) {
            Some(&[VERSION]) if magic == MAGIC => {}
            Some(&[version]) if magic == MAGIC => return Err(IndexError::Version(version)),
            _ => return Err(IndexError::Magic(magic)),
        }
        let toc = plan.toc;
        let postings = FIXED_BYTES.saturating_add(toc.series);
        let behind = plan.behind_series();
        if postings.checked_add(behind.end - behind.start) != Some(bytes.len() as u64) {
            return Err(truncated());
        }
        let places = Places {
            symbols: FIXED_BYTES + toc.symbols,
            postings,
            table: postings + (toc.postings_table - toc.postings),
            has_series: false,
        };
        Self::assemble(bytes, toc, &places)
    }

    /// Where in the index the entries of the ascending `ids` lie.
    pub fn entry_ranges(&self, ids: &[u32]) -> Result<Vec<EntryRange>, IndexError> {
        let section = self.series_section();
        let Some(mut rest) = self.all()? else {
            return Ok(Vec::new());
        };
        let offset = |id: u32| u64::from(id) * SERIES_ALIGNMENT;
        let mut ranges = Vec::with_capacity(ids.len());
        for (number, &id) in ids.iter().enumerate() {
            let wrong = |reason| IndexError::malformed("postings list", offset(id), reason);
            rest = rest.from(id);
            let mut following = rest.iter();
            if following.next() != Some(id) || offset(id) < section.start {
                return Err(wrong("it names a series that does not exist"));
            }
            let next = following.next();
            let end = next.map_or(section.end, offset);
            if end <= offset(id) || end > section.end {
                return Err(wrong("series lie outside of their section"));
            }
            let behind = next.filter(|next| ids.get(number + 1) != Some(next));
            let behind = behind.map(|next| {
                let next_end = following.next().map_or(section.end, offset);
                (next, next_end.min(end + HINT_BYTES).max(end))
            });
            let range = offset(id)..end;
            ranges.push(EntryRange { id, range, behind });
        }
        Ok(ranges)
    }
}

/// Where the entry of a series lies in an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRange {
    /// The series.
    pub id: u32,
    /// From its begin to where the next entry begins.
    pub range: Range<u64>,
    /// The series behind it, unless that is asked for as well, and where enough of its entry ends to tell where its first chunk is.
    pub behind: Option<(u32, u64)>,
}
