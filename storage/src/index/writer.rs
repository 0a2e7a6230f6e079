//! Writing an index front to back, series by series in label order.
//!
//! In memory are the symbols and, for each label of each series, one number; postings are laid out from those at the end, a bounded
//! part at a time. A series comes either as texts or, cheaper, as the numbers of its symbols: no text is hashed or compared then.

use super::{ChunkRef, HEADER_BYTES, MAGIC, POSTINGS_ALIGNMENT, SERIES_ALIGNMENT, Toc, VERSION, series};
use crate::{
    chunk::put_uvarint,
    sink::{Durability, Sink},
};
use hashbrown::{HashMap, HashTable};
use model::{
    env::Fs,
    label::{Labels, LabelsBuilder},
};
use std::{
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

/// Entries of posting lists that are laid out at once: 16 MiB. Each part costs a pass over the labels of all series.
const LIST_IDS_MAX: usize = 4 << 20;

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
    /// The labels of the series before: neighbours share most of them.
    previous: Vec<Pair>,
    /// The labels of the series at hand, as symbols and with their numbers.
    symbol_pairs: Vec<(u32, u32)>,
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
            previous: Vec::new(),
            symbol_pairs: Vec::new(),
            pairs: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// Makes room for so many series with so many labels in all; saves what growing would take beyond.
    pub fn expect(&mut self, series: usize, labels: usize) {
        self.series_ids.reserve_exact(series);
        self.series_pairs.reserve_exact(series + labels);
    }

    /// The labels of which `pairs` are the symbols, for messages.
    pub(crate) fn labels(&self, pairs: &[(u32, u32)]) -> Labels {
        let mut builder = LabelsBuilder::default();
        for &(name, value) in pairs
            .iter()
            .filter(|(name, value)| (*name).max(*value) < self.symbols.len())
        {
            builder.push(self.symbols.get(name), self.symbols.get(value));
        }
        builder.build_sorted()
    }

    /// Adds a series. Series come sorted by labels, their chunks sorted by time and not overlapping.
    pub fn add_series(&mut self, labels: &Labels, chunks: &[ChunkRef]) -> Result<(), IndexWriteError> {
        let mut pairs = std::mem::take(&mut self.symbol_pairs);
        pairs.clear();
        for (name, value) in labels.iter() {
            pairs.push((self.symbols.number(name)?, self.symbols.number(value)?));
        }
        let added = self.add_numbered_series(&pairs, chunks);
        self.symbol_pairs = pairs;
        added
    }

    /// Like [`Self::add_series`], with the numbers that names and values have among the symbols, counted from 0.
    pub fn add_numbered_series(&mut self, pairs: &[(u32, u32)], chunks: &[ChunkRef]) -> Result<(), IndexWriteError> {
        if let Some(&(name, value)) = pairs
            .iter()
            .find(|(name, value)| (*name).max(*value) >= self.symbols.len())
        {
            return Err(IndexWriteError::UnknownSymbol(format!("number {}", name.max(value))));
        }
        // Symbols ascend, so their numbers compare as their texts do.
        let before = self.previous.iter().map(|pair| (pair.name, pair.value));
        if !self.series_ids.is_empty() && before.cmp(pairs.iter().copied()).is_ge() {
            return Err(IndexWriteError::SeriesOrder(self.labels(pairs)));
        }
        let ordered = chunks.windows(2).all(|pair| pair[0].max_time < pair[1].min_time);
        if !ordered || chunks.iter().any(|chunk| chunk.min_time > chunk.max_time) {
            return Err(IndexWriteError::ChunkOrder(self.labels(pairs)));
        }
        self.number_pairs(pairs)?;
        self.out.align(SERIES_ALIGNMENT)?;
        let position = self.out.position();
        let id = u32::try_from(position / SERIES_ALIGNMENT)
            .map_err(|_| IndexWriteError::TooLarge("the series of the index pass 64 GiB"))?;
        series::write(&mut self.scratch, pairs, chunks);
        self.out.write_counted(&self.scratch)?;
        self.series_max_size = self
            .series_max_size
            .max((self.out.position() - position).next_multiple_of(SERIES_ALIGNMENT));
        self.series_ids.push(id);
        self.series_pairs.extend(self.pairs.iter().map(|pair| pair.number));
        self.series_pairs.push(SERIES_END);
        std::mem::swap(&mut self.previous, &mut self.pairs);
        Ok(())
    }

    /// Fills `self.pairs`.
    fn number_pairs(&mut self, pairs: &[(u32, u32)]) -> Result<(), IndexWriteError> {
        self.pairs.clear();
        for (index, &(name, value)) in pairs.iter().enumerate() {
            let same = |pair: &&Pair| (pair.name, pair.value) == (name, value);
            let number = match self.previous.get(index).filter(same) {
                Some(pair) => pair.number,
                None => self.number_pair(name, value)?,
            };
            self.pairs.push(Pair { name, value, number });
        }
        Ok(())
    }

    fn number_pair(&mut self, name: u32, value: u32) -> Result<u32, IndexWriteError> {
        let next = self.pair_numbers.len();
        if next >= SERIES_END as usize {
            return Err(IndexWriteError::TooLarge("the index has 2^32 different labels"));
        }
        Ok(*self.pair_numbers.entry((name, value)).or_insert(next as u32))
    }

    /// Writes postings and tables, and makes the file durable.
    pub fn finish(self) -> Result<IndexStats, IndexWriteError> {
        self.complete(Durability::Now)
    }

    /// Writes postings and tables.
    pub(crate) fn complete(mut self, durability: Durability) -> Result<IndexStats, IndexWriteError> {
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
        let size = self.out.finish(durability)?;
        Ok(IndexStats {
            series,
            size,
            series_max_size: self.series_max_size,
        })
    }

    /// Writes every list and gives the content of the offset table.
    fn write_postings(&mut self) -> Result<Vec<u8>, IndexWriteError> {
        let mut order: Vec<((u32, u32), u32)> = std::mem::take(&mut self.pair_numbers).into_iter().collect();
        order.sort_unstable();
        let entries = u32::try_from(order.len() + 1)
            .map_err(|_| IndexWriteError::TooLarge("the index has 2^32 different labels"))?;
        let mut table = entries.to_be_bytes().to_vec();
        let all = std::mem::take(&mut self.series_ids);
        let offset = self.write_list(&all)?;
        put_entry(&mut table, "", "", offset);
        let pairs = std::mem::take(&mut self.series_pairs);
        let places = Places::new(&order, &pairs);
        let mut begin = 0;
        while begin < order.len() {
            let end = places.part_from(begin);
            let lists = places.lay_out(begin..end, &pairs, &all);
            for (place, ((name, value), _)) in (begin..end).zip(&order[begin..end]) {
                let offset = self.write_list(lists.get(place))?;
                put_entry(&mut table, self.symbols.get(*name), self.symbols.get(*value), offset);
            }
            begin = end;
        }
        Ok(table)
    }

    fn write_list(&mut self, ids: &[u32]) -> Result<u64, IndexWriteError> {
        self.out.align(POSTINGS_ALIGNMENT)?;
        let offset = self.out.position();
        self.scratch.clear();
        self.scratch.extend_from_slice(&(ids.len() as u32).to_be_bytes());
        self.scratch.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
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

/// Which list of the index each label pair has: its place in the order of the lists.
struct Places {
    /// By the number of the pair.
    places: Vec<u32>,
    /// Series of each list, by place.
    counts: Vec<u32>,
}

impl Places {
    fn new(order: &[((u32, u32), u32)], series_pairs: &[u32]) -> Self {
        let mut places = vec![0u32; order.len()];
        for (place, (_, number)) in (0u32..).zip(order) {
            places[*number as usize] = place;
        }
        let mut counts = vec![0u32; order.len()];
        for &pair in series_pairs.iter().filter(|&&pair| pair != SERIES_END) {
            counts[places[pair as usize] as usize] += 1;
        }
        Self { places, counts }
    }

    /// The end of the lists from `begin` on that may be laid out at once; at least one.
    fn part_from(&self, begin: usize) -> usize {
        let (mut end, mut ids) = (begin, 0);
        while end < self.counts.len() && (end == begin || ids + self.counts[end] as usize <= LIST_IDS_MAX) {
            ids += self.counts[end] as usize;
            end += 1;
        }
        end
    }

    /// The lists at some places, laid out one after the other.
    fn lay_out(&self, part: std::ops::Range<usize>, series_pairs: &[u32], series_ids: &[u32]) -> Lists {
        let mut start = 0;
        let mut next = self.counts[part.clone()].to_vec();
        for count in &mut next {
            start += std::mem::replace(count, start);
        }
        let mut ids = vec![0; start as usize];
        let mut series = 0;
        for &pair in series_pairs {
            if pair == SERIES_END {
                series += 1;
                continue;
            }
            let place = (self.places[pair as usize] as usize).wrapping_sub(part.start);
            if let Some(next) = next.get_mut(place) {
                ids[*next as usize] = series_ids[series];
                *next += 1;
            }
        }
        // Each start has moved to where its list ends.
        Lists {
            first: part.start,
            ids,
            ends: next,
        }
    }
}

/// Lists laid out one after the other.
struct Lists {
    /// Place of the first one.
    first: usize,
    ids: Vec<u32>,
    /// Where in `ids` each one ends.
    ends: Vec<u32>,
}

impl Lists {
    fn get(&self, place: usize) -> &[u32] {
        let index = place - self.first;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.ids[start as usize..self.ends[index] as usize]
    }
}

/// The symbols and their numbers.
struct SymbolNumbers {
    text: String,
    /// End of each symbol in `text`.
    ends: Vec<usize>,
    /// Numbers by the hash of their symbol, filled when the first text is looked for. The hasher is keyed, since senders choose
    /// label texts.
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

    /// How many there are.
    fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    fn number(&mut self, symbol: &str) -> Result<u32, IndexWriteError> {
        if self.table.is_empty() {
            self.fill_table();
        }
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
