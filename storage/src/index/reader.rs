//! Reading an index that is mapped into memory.

use super::{
    HEADER_BYTES, IndexError, MAGIC, SERIES_ALIGNMENT, Toc, VERSION,
    postings::{Postings, PostingsTable},
    series::{self, ChunkRef, RawSeries},
    symbols::{RecentSymbols, Symbols},
};
use crate::cursor::Cursor;
use model::{
    env::Mapped,
    identity::{Identifier, Identity, SharedLabels},
    label::{Labels, LabelsBuilder},
    matcher::Matcher,
};
use std::{cell::RefCell, ops::Range};

/// An open index, or the header of one ([`Index::open_header`]). In memory is only what finds things: samples of symbol and postings
/// offsets.
pub struct Index {
    pub(super) bytes: Mapped,
    toc: Toc,
    /// Where in `bytes` the postings lie, and whether the series are there too.
    pub(super) postings_at: u64,
    pub(super) has_series: bool,
    symbols: Symbols,
    pub(super) table: PostingsTable,
    series_count: usize,
}

impl Index {
    /// Opens an index; checks header, table of contents, symbols and the postings offset table. Series and lists are checked when read.
    pub fn open(bytes: Mapped) -> Result<Self, IndexError> {
        let mut cursor = Cursor::new(&bytes);
        let magic = cursor.be32().ok_or(IndexError::truncated("header", 0))?;
        if magic != MAGIC {
            return Err(IndexError::Magic(magic));
        }
        match cursor.take(1) {
            Some(&[VERSION]) => {}
            Some(&[version]) => return Err(IndexError::Version(version)),
            _ => return Err(IndexError::truncated("header", HEADER_BYTES - 1)),
        }
        let toc = Toc::read(&bytes)?;
        let places = Places {
            symbols: toc.symbols,
            postings: toc.postings,
            table: toc.postings_table,
            has_series: true,
        };
        Self::assemble(bytes, toc, &places)
    }

    /// Opens what lies at `places` of `bytes`.
    pub(super) fn assemble(bytes: Mapped, toc: Toc, places: &Places) -> Result<Self, IndexError> {
        let symbols = Symbols::open(&bytes, places.symbols)?;
        let table = PostingsTable::open(&bytes, places.table)?;
        let mut index = Self {
            bytes,
            toc,
            postings_at: places.postings,
            has_series: places.has_series,
            symbols,
            table,
            series_count: 0,
        };
        index.series_count = index.all()?.map_or(0, |all| all.len());
        Ok(index)
    }

    /// Number of series.
    pub fn series_count(&self) -> usize {
        self.series_count
    }

    /// Size of the index in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The list of all series; `None` in an index without any.
    pub(super) fn all(&self) -> Result<Option<Postings<'_>>, IndexError> {
        self.table.all().map(|offset| self.postings(offset)).transpose()
    }

    /// The list at `offset` of the index.
    pub(super) fn postings(&self, offset: u64) -> Result<Postings<'_>, IndexError> {
        let inside = offset
            .checked_sub(self.toc.postings)
            .ok_or(IndexError::truncated("postings list", offset))?;
        Postings::open(&self.bytes, self.postings_at.saturating_add(inside))
    }

    /// Where the series begin, and where they end.
    pub(super) fn series_section(&self) -> Range<u64> {
        self.toc.series..self.toc.series_end()
    }

    /// Bytes of the entry of a series, on average.
    pub fn entry_bytes_mean(&self) -> u64 {
        let section = self.series_section();
        section.end.saturating_sub(section.start) / (self.series_count as u64).max(1)
    }

    /// Every symbol, ascending.
    pub fn symbols(&self) -> impl Iterator<Item = &str> {
        (0..self.symbols.count()).filter_map(|number| self.symbols.get(&self.bytes, number))
    }

    /// The number of a symbol, if there is one like it.
    pub(super) fn symbol_number(&self, symbol: &str) -> Option<u32> {
        self.symbols.find(&self.bytes, symbol)
    }

    /// Every label name, ascending.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.table.names()
    }

    /// Every value of a label, ascending.
    pub fn label_values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.table.values_from(&self.bytes, name, b"").map(|(value, _)| value)
    }

    /// Begins to read series.
    pub fn series(&self) -> SeriesReader<'_> {
        self.series_of(self)
    }

    /// Begins to read series whose entries are kept elsewhere.
    pub fn series_of<'a>(&'a self, entries: &'a dyn SeriesBytes) -> SeriesReader<'a> {
        SeriesReader {
            index: self,
            entries,
            recent: RecentSymbols::default(),
            builder: RefCell::default(),
        }
    }
}

/// Where the parts of an index lie in the bytes at hand.
pub(super) struct Places {
    pub(super) symbols: u64,
    pub(super) postings: u64,
    pub(super) table: u64,
    pub(super) has_series: bool,
}

/// Gives the entries of series.
pub trait SeriesBytes {
    /// The bytes from where the entry of series `id` begins, at least to its end; `None` when they are not at hand.
    fn entry(&self, id: u32) -> Option<&[u8]>;
}

impl SeriesBytes for Index {
    fn entry(&self, id: u32) -> Option<&[u8]> {
        let section = self.series_section();
        let begin = u64::from(id) * SERIES_ALIGNMENT;
        if !self.has_series || begin < section.start {
            return None;
        }
        self.bytes
            .get(usize::try_from(begin).ok()?..usize::try_from(section.end).ok()?)
    }
}

/// Reads series of an index; remembers symbols from one to the next.
pub struct SeriesReader<'a> {
    index: &'a Index,
    entries: &'a dyn SeriesBytes,
    recent: RecentSymbols<'a>,
    /// Kept for its memory.
    builder: RefCell<LabelsBuilder>,
}

impl<'a> SeriesReader<'a> {
    /// Reads the series `id` into `series`.
    pub fn read(&self, id: u32, series: &mut RawSeries) -> Result<(), IndexError> {
        let offset = u64::from(id) * SERIES_ALIGNMENT;
        let entry = self.entries.entry(id).ok_or(IndexError::truncated("series", offset))?;
        series::read(entry, offset, series)
    }

    /// The label set of a series.
    pub fn labels(&self, series: &RawSeries) -> Result<Labels, IndexError> {
        let mut builder = self.builder.borrow_mut();
        for &(name, value) in &series.labels {
            match (self.symbol(name, series), self.symbol(value, series)) {
                (Ok(name), Ok(value)) => builder.push(name, value),
                (Err(error), _) | (_, Err(error)) => {
                    // What was pushed must not get into the next label set.
                    builder.build_sorted();
                    return Err(error);
                }
            }
        }
        // Names ascend because their numbers were checked to, and the symbol table is sorted.
        Ok(builder.build_sorted())
    }

    /// The label set of those of a series' names and values that are given by number.
    pub(super) fn labels_of(
        &self,
        series: &RawSeries,
        pairs: &[(u32, u32)],
        shared: &mut SharedLabels,
    ) -> Result<Labels, IndexError> {
        shared.labels(pairs, |number| self.symbol(number, series))
    }

    /// What tells a series apart.
    pub(super) fn identity(&self, series: &RawSeries, identifier: &mut Identifier) -> Result<Identity, IndexError> {
        identifier.identify(&series.labels, |number| self.symbol(number, series))
    }

    /// Whether a series satisfies all of `matchers`.
    pub fn matches(&self, series: &RawSeries, matchers: &[Matcher]) -> Result<bool, IndexError> {
        for matcher in matchers {
            if !matcher.matches(self.value(series, &matcher.name)?.unwrap_or_default()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The value of a label of a series, if it is there.
    pub fn value(&self, series: &RawSeries, name: &str) -> Result<Option<&'a str>, IndexError> {
        for &(number, value) in &series.labels {
            if self.symbol(number, series)? == name {
                return self.symbol(value, series).map(Some);
            }
        }
        Ok(None)
    }

    /// The symbol numbers of a series' label names.
    pub fn name_numbers(&self, series: &RawSeries) -> impl Iterator<Item = u32> {
        series.labels.iter().map(|&(name, _)| name)
    }

    /// The symbol of a number that came from [`Self::name_numbers`].
    pub fn name(&self, number: u32) -> Result<&'a str, IndexError> {
        let missing = IndexError::malformed(
            "series",
            self.index.toc.series,
            "a label points outside the symbol table",
        );
        self.recent
            .get(&self.index.symbols, &self.index.bytes, number)
            .ok_or(missing)
    }

    /// The first chunk of the series that follows in the index. Writers lay chunks down in this order, so it mostly tells where
    /// the last chunk of `series` ends; when it does not, whoever reads finds that out from the chunk itself.
    pub fn chunk_behind(&self, series: &RawSeries) -> Option<ChunkRef> {
        let offset = series.end.next_multiple_of(SERIES_ALIGNMENT);
        let next = u32::try_from(offset / SERIES_ALIGNMENT).ok()?;
        series::first_chunk(self.entries.entry(next)?)
    }

    fn symbol(&self, number: u32, series: &RawSeries) -> Result<&'a str, IndexError> {
        let missing = || IndexError::malformed("series", series.end, "a label points outside the symbol table");
        self.recent
            .get(&self.index.symbols, &self.index.bytes, number)
            .ok_or_else(missing)
    }
}
