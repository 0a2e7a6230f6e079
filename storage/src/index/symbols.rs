//! The symbol table: every label name and value once, sorted, named by number elsewhere in the index.

use super::{IndexError, SAMPLING};
use crate::cursor::{Cursor, checked_section};
use std::{cell::RefCell, cmp::Ordering, ops::Range};

const PART: &str = "symbol table";

/// Where the symbols lie; of every 32nd the offset is kept.
#[derive(Debug)]
pub(super) struct Symbols {
    /// The strings inside the index, without length, count and checksum.
    content: Range<usize>,
    /// Offset into the content of symbols 0, 32, 64, …
    samples: Vec<u32>,
    count: u32,
}

impl Symbols {
    /// Checks the whole table once: checksum, order, UTF-8.
    pub(super) fn open(bytes: &[u8], offset: u64) -> Result<Self, IndexError> {
        let (section, intact) = checked_section(bytes, offset).ok_or(IndexError::truncated(PART, offset))?;
        if !intact {
            return Err(IndexError::Checksum { part: PART, offset });
        }
        let mut cursor = Cursor::new(section);
        let count = cursor.be32().ok_or(IndexError::truncated(PART, offset))?;
        let start = offset as usize + 8;
        let content = start..start + cursor.remaining();
        let total = cursor.remaining();
        let mut samples = Vec::with_capacity((count as usize / SAMPLING + 1).min(total));
        let mut previous: Option<&[u8]> = None;
        for index in 0..count as usize {
            if index % SAMPLING == 0 {
                samples.push((total - cursor.remaining()) as u32);
            }
            let symbol = cursor.counted().ok_or(IndexError::truncated(PART, offset))?;
            if previous.is_some_and(|previous| previous >= symbol) {
                return Err(IndexError::malformed(PART, offset, "symbols are not sorted"));
            }
            if std::str::from_utf8(symbol).is_err() {
                return Err(IndexError::malformed(PART, offset, "a symbol is not UTF-8"));
            }
            previous = Some(symbol);
        }
        Ok(Self {
            content,
            samples,
            count,
        })
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The number of a symbol, if there is one like it.
    pub(super) fn find(&self, bytes: &[u8], symbol: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(bytes, middle)?.cmp(symbol) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Some(middle),
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The symbol of that number; `None` when there is none. `bytes` is the index that the table was opened on.
    pub(super) fn get<'a>(&self, bytes: &'a [u8], number: u32) -> Option<&'a str> {
        if number >= self.count {
            return None;
        }
        let content = bytes.get(self.content.clone())?;
        let start = *self.samples.get(number as usize / SAMPLING)?;
        let mut cursor = Cursor::at(content, u64::from(start))?;
        for _ in 0..number as usize % SAMPLING {
            cursor.counted()?;
        }
        std::str::from_utf8(cursor.counted()?).ok()
    }
}

/// Symbols looked up lately, of one reader: names and many values repeat from series to series.
#[derive(Debug, Default)]
pub(super) struct RecentSymbols<'a> {
    /// Slot `number % 1024` holds the symbol looked up last of those that fall on it.
    slots: RefCell<Vec<Option<(u32, &'a str)>>>,
}

const RECENT_SLOTS: usize = 1024;

impl<'a> RecentSymbols<'a> {
    pub(super) fn get(&self, symbols: &Symbols, bytes: &'a [u8], number: u32) -> Option<&'a str> {
        let mut slots = self.slots.borrow_mut();
        if slots.is_empty() {
            slots.resize(RECENT_SLOTS, None);
        }
        let slot = &mut slots[number as usize % RECENT_SLOTS];
        match slot {
            Some((held, symbol)) if *held == number => Some(symbol),
            _ => {
                let symbol = symbols.get(bytes, number)?;
                *slot = Some((number, symbol));
                Some(symbol)
            }
        }
    }
}
