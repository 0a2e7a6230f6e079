//! Writing an index front to back, series by series in label order.
//!
//! In memory are the symbols and, for each label of each series, one number; postings are laid out from those at the end.

use super::{ChunkRef, HEADER_BYTES, MAGIC, POSTINGS_ALIGNMENT, SERIES_ALIGNMENT, Toc, VERSION, series};
use crate::{chunk::put_uvarint, sink::Sink};
use hashbrown::HashTable;
use model::{env::Fs, label::Labels};
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    io,
    path::Path,
};

/// Why an index cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum IndexWriteError {
    /// The file could not be written.
    #[error("write index: {0}")]
    Io(#[from] io::Error),
    /// Symbols were not given in strictly ascending order.
    #[error("symbol {0:?} is not above the one before it")]
    SymbolOrder(String),
    /// A label of a series was not among the symbols.
    #[error("label text {0:?} is not among the symbols")]
    UnknownSymbol(String),
    /// A series does not come after the one before it.
    #[error("series {0} is not above the one before it")]
    SeriesOrder(Labels),
    /// Chunks of a series overlap or are not in order of time.
    #[error("chunks of series {0} overlap or are out of order")]
    ChunkOrder(Labels),
    /// A number of the format is not wide enough.
    #[error("{0}; write several smaller blocks instead")]
    TooLarge(&'static str),
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Number of series.
    pub series: u64,
    /// Size of the file in bytes.
    pub size: u64,
    /// Size of the largest series entry in bytes, with all that surrounds it.
    pub series_max_size: u64,
}

/// Stands behind the labels of each series in the flat list.
const SERIES_END: u32 = u32::MAX;

/// An index being written.
pub struct IndexWriter {
    out: Sink,
    symbols: SymbolNumbers,
    toc: Toc,
    /// Number of each label pair, pairs being numbered as they come.
    pair_numbers: HashMap<(u32, u32), u32>,
    /// Pair numbers of every series one after the other, each series closed by [`SERIES_END`].
    series_pairs: Vec<u32>,
    /// Id of every series.
    series_ids: Vec<u32>,
    series_max_size: u64,
    /// The series before, and what its labels are numbered: neighbours share most of them.
    previous: Option<Labels>,
    previous_pairs: Vec<Pair>,
    pairs: Vec<Pair>,
    scratch: Vec<u8>,
}

/// A label pair of the series at hand.
#[derive(Debug, Clone, Copy)]
struct Pair {
    name: u32,
    value: u32,
    number: u32,
}

impl IndexWriter {
    /// Creates the file and writes the symbols, which must ascend and hold every label text of the series to come.
    pub fn create<S: AsRef<str>>(
        fs: &dyn Fs,
        path: &Path,
        symbols: impl IntoIterator<Item = S>,
    ) -> Result<Self, IndexWriteError> {
        let mut out = Sink::create(fs, path)?;
        out.write(&MAGIC.to_be_bytes())?;
        out.write(&[VERSION])?;
        let (symbols, section) = SymbolNumbers::gather(symbols)?;
        out.write_section(&section)?;
        out.align(SERIES_ALIGNMENT)?;
        let series = out.position();
        let toc = Toc {
            symbols: HEADER_BYTES,
            series,
            label_indices: 0,
            label_table: 0,
            postings: 0,
            postings_table: 0,
        };
        Ok(Self {
            out,
            symbols,
            toc,
            pair_numbers: HashMap::new(),
            series_pairs: Vec::new(),
            series_ids: Vec::new(),
            series_max_size: 0,
            previous: None,
            previous_pairs: Vec::new(),
            pairs: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// Adds a series. Series come sorted by labels, their chunks sorted by time and not overlapping.
    pub fn add_series(&mut self, labels: &Labels, chunks: &[ChunkRef]) -> Result<(), IndexWriteError> {
        if self.previous.as_ref().is_some_and(|previous| previous >= labels) {
            return Err(IndexWriteError::SeriesOrder(labels.clone()));
        }
        let ordered = chunks.windows(2).all(|pair| pair[0].max_time < pair[1].min_time);
        if !ordered || chunks.iter().any(|chunk| chunk.min_time > chunk.max_time) {
            return Err(IndexWriteError::ChunkOrder(labels.clone()));
        }
        self.number_pairs(labels)?;
        self.out.align(SERIES_ALIGNMENT)?;
        let position = self.out.position();
        let id = u32::try_from(position / SERIES_ALIGNMENT)
            .map_err(|_| IndexWriteError::TooLarge("the series of the index pass 64 GiB"))?;
        let numbers: Vec<(u32, u32)> = self.pairs.iter().map(|pair| (pair.name, pair.value)).collect();
        series::write(&mut self.scratch, &numbers, chunks);
        let mut len = Vec::with_capacity(4);
        put_uvarint(&mut len, self.scratch.len() as u64);
        self.out.write(&len)?;
        self.out.write(&self.scratch)?;
        self.out.write(&crc32c::crc32c(&self.scratch).to_be_bytes())?;
        self.series_max_size = self
            .series_max_size
            .max((self.out.position() - position).next_multiple_of(SERIES_ALIGNMENT));
        self.series_ids.push(id);
        self.series_pairs.extend(self.pairs.iter().map(|pair| pair.number));
        self.series_pairs.push(SERIES_END);
        self.previous = Some(labels.clone());
        std::mem::swap(&mut self.previous_pairs, &mut self.pairs);
        Ok(())
    }

    /// Fills `self.pairs` for `labels`.
    fn number_pairs(&mut self, labels: &Labels) -> Result<(), IndexWriteError> {
        self.pairs.clear();
        for (index, (name, value)) in labels.iter().enumerate() {
            let before = self.previous.as_ref().filter(|previous| index < previous.len());
            let before = before.map(|previous| (previous.pair(index), self.previous_pairs[index]));
            let pair = match before {
                Some((same, pair)) if same == (name, value) => pair,
                Some(((same, _), pair)) if same == name => self.number_pair(pair.name, value)?,
                _ => self.number_pair(self.symbols.number(name)?, value)?,
            };
            self.pairs.push(pair);
        }
        Ok(())
    }

    fn number_pair(&mut self, name: u32, value: &str) -> Result<Pair, IndexWriteError> {
        let value = self.symbols.number(value)?;
        let next = self.pair_numbers.len();
        if next >= SERIES_END as usize {
            return Err(IndexWriteError::TooLarge("the index has 2^32 different labels"));
        }
        let number = *self.pair_numbers.entry((name, value)).or_insert(next as u32);
        Ok(Pair { name, value, number })
    }

    /// Writes postings and tables, and makes the file durable.
    pub fn finish(mut self) -> Result<IndexStats, IndexWriteError> {
        let series = self.series_ids.len() as u64;
        self.out.align(POSTINGS_ALIGNMENT)?;
        // Old readers look for label indices here and find the empty space before the postings.
        self.toc.label_indices = self.out.position();
        self.toc.postings = self.out.position();
        let table = self.write_postings()?;
        self.toc.postings_table = self.out.position();
        self.toc.label_table = self.toc.postings_table;
        self.out.write_section(&table)?;
        self.out.write(&self.toc.write())?;
        let size = self.out.finish()?;
        Ok(IndexStats {
            series,
            size,
            series_max_size: self.series_max_size,
        })
    }

    /// Writes every list and gives the content of the offset table.
    fn write_postings(&mut self) -> Result<Vec<u8>, IndexWriteError> {
        let lists = Lists::gather(self.pair_numbers.len(), &self.series_pairs, &self.series_ids);
        self.series_pairs = Vec::new();
        let mut order: Vec<((u32, u32), u32)> = self.pair_numbers.drain().collect();
        order.sort_unstable();
        let entries = u32::try_from(order.len() + 1)
            .map_err(|_| IndexWriteError::TooLarge("the index has 2^32 different labels"))?;
        let mut table = entries.to_be_bytes().to_vec();
        let all = std::mem::take(&mut self.series_ids);
        let offset = self.write_list(&all)?;
        put_entry(&mut table, "", "", offset);
        for ((name, value), number) in order {
            let offset = self.write_list(lists.get(number))?;
            put_entry(&mut table, self.symbols.get(name), self.symbols.get(value), offset);
        }
        Ok(table)
    }

    fn write_list(&mut self, ids: &[u32]) -> Result<u64, IndexWriteError> {
        self.out.align(POSTINGS_ALIGNMENT)?;
        let offset = self.out.position();
        self.scratch.clear();
        self.scratch.extend((ids.len() as u32).to_be_bytes());
        for id in ids {
            self.scratch.extend(id.to_be_bytes());
        }
        self.out.write_section(&self.scratch)?;
        Ok(offset)
    }
}

fn put_entry(table: &mut Vec<u8>, name: &str, value: &str, offset: u64) {
    put_uvarint(table, 2);
    put_uvarint(table, name.len() as u64);
    table.extend(name.as_bytes());
    put_uvarint(table, value.len() as u64);
    table.extend(value.as_bytes());
    put_uvarint(table, offset);
}

/// The ids of every pair's series, laid out one pair after the other.
struct Lists {
    ids: Vec<u32>,
    /// Where in `ids` each pair's part ends.
    ends: Vec<usize>,
}

impl Lists {
    fn gather(pairs: usize, series_pairs: &[u32], series_ids: &[u32]) -> Self {
        let mut next = vec![0usize; pairs];
        for &pair in series_pairs.iter().filter(|&&pair| pair != SERIES_END) {
            next[pair as usize] += 1;
        }
        let mut start = 0;
        for count in &mut next {
            start += std::mem::replace(count, start);
        }
        let mut ids = vec![0; start];
        let mut series = series_ids.iter();
        let mut id = series.next().copied().unwrap_or_default();
        for &pair in series_pairs {
            if pair == SERIES_END {
                id = series.next().copied().unwrap_or_default();
                continue;
            }
            let place = &mut next[pair as usize];
            ids[*place] = id;
            *place += 1;
        }
        // Each place has moved to where its part ends.
        Self { ids, ends: next }
    }

    fn get(&self, pair: u32) -> &[u32] {
        let start = if pair == 0 { 0 } else { self.ends[pair as usize - 1] };
        &self.ids[start..self.ends[pair as usize]]
    }
}

/// The symbols and their numbers.
struct SymbolNumbers {
    text: String,
    /// End of each symbol in `text`.
    ends: Vec<usize>,
    /// Numbers by the hash of their symbol. The hasher is keyed, since senders choose label texts.
    table: HashTable<u32>,
    hasher: RandomState,
}

impl SymbolNumbers {
    /// Takes in the symbols; gives also the content of their section.
    fn gather<S: AsRef<str>>(symbols: impl IntoIterator<Item = S>) -> Result<(Self, Vec<u8>), IndexWriteError> {
        let mut gathered = Self {
            text: String::new(),
            ends: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
        };
        let mut section = vec![0; 4];
        for symbol in symbols {
            let symbol = symbol.as_ref();
            let number = gathered.ends.len() as u32;
            if number > 0 && gathered.get(number - 1) >= symbol {
                return Err(IndexWriteError::SymbolOrder(symbol.to_owned()));
            }
            put_uvarint(&mut section, symbol.len() as u64);
            section.extend(symbol.as_bytes());
            if section.len() > u32::MAX as usize {
                return Err(IndexWriteError::TooLarge("the symbols of the index pass 4 GiB"));
            }
            gathered.text.push_str(symbol);
            gathered.ends.push(gathered.text.len());
        }
        section[..4].copy_from_slice(&(gathered.ends.len() as u32).to_be_bytes());
        gathered.fill_table();
        Ok((gathered, section))
    }

    fn fill_table(&mut self) {
        let Self {
            text,
            ends,
            table,
            hasher,
        } = self;
        let hash = |number: u32| hasher.hash_one(symbol(text, ends, number));
        table.reserve(ends.len(), |&number| hash(number));
        for number in 0..ends.len() as u32 {
            table.insert_unique(hash(number), number, |&number| hash(number));
        }
    }

    fn get(&self, number: u32) -> &str {
        symbol(&self.text, &self.ends, number)
    }

    fn number(&self, symbol: &str) -> Result<u32, IndexWriteError> {
        let found = self
            .table
            .find(self.hasher.hash_one(symbol), |&number| self.get(number) == symbol);
        found
            .copied()
            .ok_or_else(|| IndexWriteError::UnknownSymbol(symbol.to_owned()))
    }
}

fn symbol<'a>(text: &'a str, ends: &[usize], number: u32) -> &'a str {
    let number = number as usize;
    let start = if number == 0 { 0 } else { ends[number - 1] };
    &text[start..ends[number]]
}
