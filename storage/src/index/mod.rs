//! The index of a block: which series there are, which labels they have, where their chunks lie.
//!
//! `BlockWriter` writes it, blocks on disk and the gateway's local copies are read through [`Index`]. It is Prometheus's index
//! version 2 in the form without label-index sections. A reader trusts no byte: lengths and checksums are verified, and damage
//! is an [`IndexError`] that says where.

mod symbols;
mod candidates;
mod postings;
mod series;
mod reader;
mod header;
mod evaluate;
mod scan;
mod labels;
mod writer;

pub use candidates::{Candidates, candidates};
pub use evaluate::Matching;
pub use header::{EntryRange, HeaderPlan};
pub use reader::{Index, SeriesBytes};
pub use scan::{FoundSeries, Scan};
pub use series::{ChunkRef, RawSeries, is_entry_intact};
pub use writer::{IndexStats, IndexWriteError, IndexWriter};

use crate::cursor::Cursor;

/// First four bytes of an index.
const MAGIC: u32 = 0xBAAA_D700;
/// The version that is written and read.
const VERSION: u8 = 2;
/// Magic and version.
const HEADER_BYTES: u64 = 5;
/// Six offsets and a checksum at the end.
const TOC_BYTES: usize = 6 * 8 + 4;
/// Series begin at multiples of this, so that 32 bits can name 64 GiB of them.
const SERIES_ALIGNMENT: u64 = 16;
/// Postings lists begin at multiples of this.
const POSTINGS_ALIGNMENT: u64 = 4;
/// Of so many symbols or postings offsets one is remembered in memory; the others are found by walking from it.
const SAMPLING: usize = 32;

/// Why an index cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The file does not begin like an index.
    #[error("this is no index: it begins with {0:#010x}")]
    Magic(u32),
    /// The index has a version that is not read here.
    #[error("index version {0} is not supported, only version 2 is")]
    Version(u8),
    /// A part ends too early or points outside the file.
    #[error("{part} at offset {offset} is cut off or points outside the index")]
    Truncated {
        /// What was being read.
        part: &'static str,
        /// Where it begins.
        offset: u64,
    },
    /// A part is not what was written.
    #[error("{part} at offset {offset} fails its checksum")]
    Checksum {
        /// What was being read.
        part: &'static str,
        /// Where it begins.
        offset: u64,
    },
    /// A part passes its checksum and contradicts itself.
    #[error("{part} at offset {offset}: {reason}")]
    Malformed {
        /// What was being read.
        part: &'static str,
        /// Where it begins.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
}

impl IndexError {
    fn truncated(part: &'static str, offset: u64) -> Self {
        Self::Truncated { part, offset }
    }

    fn malformed(part: &'static str, offset: u64, reason: &'static str) -> Self {
        Self::Malformed { part, offset, reason }
    }
}

/// Where the sections of an index begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Toc {
    symbols: u64,
    series: u64,
    label_indices: u64,
    label_table: u64,
    postings: u64,
    postings_table: u64,
}

impl Toc {
    /// Reads the table from the end of `bytes` and checks that the sections lie in order inside the file.
    fn read(bytes: &[u8]) -> Result<Self, IndexError> {
        let start = bytes
            .len()
            .checked_sub(TOC_BYTES)
            .ok_or(IndexError::truncated("table of contents", 0))?;
        Self::parse(&bytes[start..], start as u64)
    }

    /// Reads the table from its own bytes, which lie at `offset` of the index, at its end.
    fn parse(bytes: &[u8], offset: u64) -> Result<Self, IndexError> {
        let truncated = IndexError::truncated("table of contents", offset);
        let mut cursor = Cursor::new(bytes);
        let content = cursor.take(TOC_BYTES - 4).ok_or(truncated.clone())?;
        if cursor.be32() != Some(crc32c::crc32c(content)) {
            return Err(IndexError::Checksum {
                part: "table of contents",
                offset,
            });
        }
        let mut cursor = Cursor::new(content);
        let mut next = || cursor.be64().ok_or(truncated.clone());
        let toc = Self {
            symbols: next()?,
            series: next()?,
            label_indices: next()?,
            label_table: next()?,
            postings: next()?,
            postings_table: next()?,
        };
        let ordered = [
            HEADER_BYTES,
            toc.symbols,
            toc.series,
            toc.postings,
            toc.postings_table,
            offset,
        ];
        if !ordered.is_sorted() || toc.label_indices < toc.series {
            return Err(IndexError::malformed(
                "table of contents",
                offset,
                "sections are out of order",
            ));
        }
        Ok(toc)
    }

    fn write(&self) -> [u8; TOC_BYTES] {
        let mut bytes = [0; TOC_BYTES];
        let offsets = [
            self.symbols,
            self.series,
            self.label_indices,
            self.label_table,
            self.postings,
            self.postings_table,
        ];
        for (place, offset) in bytes.chunks_exact_mut(8).zip(offsets) {
            place.copy_from_slice(&offset.to_be_bytes());
        }
        let sum = crc32c::crc32c(&bytes[..TOC_BYTES - 4]);
        bytes[TOC_BYTES - 4..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Where the series end: at the label indices of old writers, else at the postings.
    fn series_end(&self) -> u64 {
        self.label_indices.min(self.postings)
    }
}

#[cfg(test)]
mod tests;
