//! Label names and values, each stored once and named by a number.

use hashbrown::{HashTable, hash_table::Entry};
use xxhash_rust::xxh3::xxh3_64_with_seed;

#[derive(Debug)]
struct Symbol {
    text: Box<str>,
    /// Label pairs that use it.
    uses: u32,
}

/// The symbols of a head.
#[derive(Debug)]
pub(crate) struct Symbols {
    symbols: Vec<Symbol>,
    by_text: HashTable<u32>,
    free: Vec<u32>,
    /// Makes hashes unpredictable for whoever chooses the texts.
    seed: u64,
    text_bytes: usize,
}

impl Symbols {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            symbols: Vec::new(),
            by_text: HashTable::new(),
            free: Vec::new(),
            seed,
            text_bytes: 0,
        }
    }

    fn hash(&self, text: &str) -> u64 {
        xxh3_64_with_seed(text.as_bytes(), self.seed)
    }

    /// The symbol for a text that is used once more.
    pub(crate) fn acquire(&mut self, text: &str) -> u32 {
        let (symbols, seed) = (&self.symbols, self.seed);
        let hash = self.hash(text);
        let rehash = |&id: &u32| xxh3_64_with_seed(symbols[id as usize].text.as_bytes(), seed);
        let equal = |&id: &u32| &*symbols[id as usize].text == text;
        let id = match self.by_text.entry(hash, equal, rehash) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let id = self.free.pop().unwrap_or(self.symbols.len() as u32);
                entry.insert(id);
                let symbol = Symbol {
                    text: text.into(),
                    uses: 0,
                };
                self.text_bytes += text.len();
                match self.symbols.get_mut(id as usize) {
                    Some(slot) => *slot = symbol,
                    None => self.symbols.push(symbol),
                }
                id
            }
        };
        self.symbols[id as usize].uses += 1;
        id
    }

    /// The same, when `guess` is the symbol: comparing short texts is cheaper than hashing one and looking around in memory.
    #[inline]
    pub(crate) fn acquire_guessed(&mut self, guess: Option<u32>, text: &str) -> u32 {
        if let Some(id) = guess
            && let Some(symbol) = self.symbols.get_mut(id as usize)
            && *symbol.text == *text
            && symbol.uses > 0
        {
            symbol.uses += 1;
            return id;
        }
        self.acquire(text)
    }

    /// The symbol of a text, if there is one.
    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        self.by_text
            .find(self.hash(text), |&id| &*self.symbols[id as usize].text == text)
            .copied()
    }

    /// The text of a symbol.
    #[inline]
    pub(crate) fn text(&self, id: u32) -> &str {
        self.symbols.get(id as usize).map_or("", |symbol| &symbol.text)
    }

    /// Takes back one use.
    pub(crate) fn release(&mut self, id: u32) {
        let Some(symbol) = self.symbols.get_mut(id as usize) else {
            return;
        };
        symbol.uses = symbol.uses.saturating_sub(1);
        if symbol.uses > 0 {
            return;
        }
        let text = std::mem::take(&mut symbol.text);
        self.text_bytes -= text.len();
        if let Ok(entry) = self.by_text.find_entry(self.hash(&text), |&other| other == id) {
            entry.remove();
            self.free.push(id);
        }
    }

    /// Symbols that were ever given out, so all numbers are below.
    pub(crate) fn bound(&self) -> u32 {
        self.symbols.len() as u32
    }

    /// Number of symbols in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_text.len()
    }

    /// Bytes of memory, allocator overhead apart.
    pub(crate) fn memory(&self) -> usize {
        self.symbols.capacity() * size_of::<Symbol>() + self.by_text.capacity() * 5 + self.text_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_shared_counted_and_reused() {
        let mut symbols = Symbols::new(1);
        let first = symbols.acquire("job");
        assert_eq!(symbols.acquire("job"), first);
        let second = symbols.acquire("instance");
        assert_eq!(symbols.acquire_guessed(Some(first), "instance"), second);
        assert_eq!(symbols.acquire_guessed(Some(second), "instance"), second);
        assert_eq!(symbols.acquire_guessed(Some(99), "instance"), second);
        assert_eq!(
            (symbols.text(first), symbols.text(second), symbols.len()),
            ("job", "instance", 2)
        );
        symbols.release(first);
        assert_eq!(symbols.find("job"), Some(first));
        symbols.release(first);
        assert_eq!(symbols.find("job"), None);
        assert_eq!(symbols.symbols[first as usize].uses, 0, "a free symbol is no guess");
        assert_eq!(symbols.acquire("pod"), first, "the number is used again");
        for index in 0..1000 {
            symbols.acquire(&index.to_string());
        }
        assert_eq!(symbols.find("instance"), Some(second));
        assert_eq!(symbols.find("999").map(|id| symbols.text(id)), Some("999"));
    }
}
