//! The symbol table of a request of remote write 2.0.
//!
//! Mostly a sender sends the same table again at the next scrape, byte by byte. Such a table is known by one hash over all of it
//! ([`SymbolTable::repeated`]): then references mean what they meant before, and a series is recognised by the bytes of its
//! references. Only for other tables, and for series that are not recognised, symbols are hashed one by one
//! ([`SymbolTable::keys`]): that is a hash for each symbol and a product for each reference, some 500 instructions per sample.

use super::Broken;
use crate::resolve::{Key, KeyHasher};
use proto::remote_write::v2;
use std::sync::OnceLock;

/// The symbols of a request: where they stand in the body, and what they are known by. Used again for the next request.
#[derive(Debug, Default)]
pub(crate) struct SymbolTable {
    symbols: Vec<Symbol>,
    /// Where the symbols end in the body as long as they stand together; nothing stands between them.
    together_until: Option<usize>,
    repeated: Option<Key>,
    /// The keys of the symbols, once somebody asked.
    keys: OnceLock<Vec<Key>>,
    /// Memory of keys to come.
    spare: Vec<Key>,
}

#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: u32,
    len: u32,
}

impl SymbolTable {
    pub(crate) fn clear(&mut self) {
        self.symbols.clear();
        self.together_until = None;
        self.repeated = None;
        if let Some(mut keys) = self.keys.take() {
            keys.clear();
            self.spare = keys;
        }
    }

    /// Bytes of memory that the symbols of this request take.
    pub(crate) fn bytes(&self) -> usize {
        self.symbols.len() * (size_of::<Symbol>() + size_of::<Key>())
    }

    pub(crate) fn retained_bytes(&self) -> usize {
        let keys = self.keys.get().map_or(self.spare.capacity(), Vec::capacity);
        self.symbols.capacity() * size_of::<Symbol>() + keys * size_of::<Key>()
    }

    /// Reads the symbols of `body`, which must be few enough and begin with the empty one. `is_repeated` is asked whether the
    /// table with this key came before.
    pub(crate) fn read(
        &mut self,
        body: &[u8],
        hasher: &KeyHasher,
        max: usize,
        is_repeated: impl FnOnce(Key) -> bool,
    ) -> Result<(), Broken> {
        v2::symbols(body, |text| {
            let start = text.as_ptr().addr() - body.as_ptr().addr();
            if self.symbols.is_empty() {
                if !text.is_empty() {
                    return Err(Broken("symbols[0] of the request is not the empty string".to_owned()));
                }
                self.together_until = Some(start);
            } else if self.symbols.len() == max {
                return Err(Broken(format!("the request has more than the limit of {max} symbols")));
            }
            self.push(start, text.len());
            Ok(())
        })?;
        if let (Some(first), Some(end)) = (self.symbols.first(), self.together_until) {
            let key = hasher.key(&body[first.start as usize..end]);
            self.repeated = Some(key).filter(|key| is_repeated(*key));
        }
        if self.repeated.is_none() {
            let mut keys = std::mem::take(&mut self.spare);
            keys.extend(self.symbols.iter().map(|symbol| hasher.key(symbol.text(body))));
            self.keys = OnceLock::from(keys);
        }
        Ok(())
    }

    fn push(&mut self, start: usize, len: usize) {
        if !self.symbols.is_empty() {
            // A tag of one byte and the shortest length: what lies between two texts is told by the second one's length alone.
            let head = 1 + len.checked_ilog2().unwrap_or(0) as usize / 7 + 1;
            self.together_until = self
                .together_until
                .filter(|end| end + head == start)
                .map(|_| start + len);
        }
        self.symbols.push(Symbol {
            start: start as u32,
            len: len as u32,
        });
    }

    /// The key of the whole table, when the same one came before.
    #[inline]
    pub(crate) fn repeated(&self) -> Option<Key> {
        self.repeated
    }

    /// A key for each symbol of `body`, from which the table was read.
    #[inline]
    pub(crate) fn keys(&self, body: &[u8], hasher: &KeyHasher) -> &[Key] {
        self.keys.get_or_init(|| {
            self.symbols
                .iter()
                .map(|symbol| hasher.key(symbol.text(body)))
                .collect()
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.symbols.len()
    }

    pub(crate) fn text<'a>(&self, body: &'a [u8], number: u32) -> Option<&'a [u8]> {
        self.symbols.get(number as usize).map(|symbol| symbol.text(body))
    }
}

impl Symbol {
    #[inline]
    fn text(self, body: &[u8]) -> &[u8] {
        let (start, len) = (self.start as usize, self.len as usize);
        body.get(start..start + len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::testing::hasher;
    use proto::protobuf::put_bytes;

    /// Reads the table of a body twice and tells its key both times, when its symbols stand together.
    fn table_key(body: &[u8]) -> Option<Key> {
        let (hasher, mut table) = (hasher(), SymbolTable::default());
        let mut asked = None;
        table
            .read(body, &hasher, 100, |key| asked.replace(key).is_none())
            .unwrap();
        assert_eq!(table.repeated(), asked, "it is believed that the table came before");
        table.clear();
        assert_eq!((table.len(), table.repeated()), (0, None));
        asked
    }

    fn body(symbols: &[&str], series: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        symbols
            .iter()
            .for_each(|symbol| put_bytes(&mut body, 4, symbol.as_bytes()));
        put_bytes(&mut body, 5, series);
        body
    }

    #[test]
    fn a_table_is_known_by_its_symbols_and_their_order() {
        let long = "x".repeat(200);
        let key = |symbols: &[&str]| table_key(&body(symbols, b"")).unwrap();
        let same = key(&["", "a", "bc", &long]);
        assert_eq!(key(&["", "a", "bc", &long]), same);
        assert_eq!(table_key(&body(&["", "a", "bc", &long], b"other series")), Some(same));
        for other in [
            &["", "ab", "c", &long][..],
            &["", "bc", "a", &long],
            &["", "a", "bc"],
            &[""],
        ] {
            assert_ne!(key(other), same, "{other:?}");
        }
    }

    #[test]
    fn a_table_in_pieces_or_oddly_encoded_is_hashed_symbol_by_symbol() {
        let mut apart = body(&["", "a"], b"");
        put_bytes(&mut apart, 4, b"b");
        assert_eq!(table_key(&apart), None);
        // Lengths may be longer than they need be.
        assert_eq!(table_key(&[0x22, 0, 0x22, 0x81, 0x00, b'a']), None);
        assert_eq!(table_key(&[]), None);
    }

    #[test]
    fn keys_are_those_of_the_texts_whenever_they_are_asked_for() {
        let (hasher, body) = (hasher(), body(&["", "job", "node"], b""));
        for repeated in [false, true] {
            let mut table = SymbolTable::default();
            table.read(&body, &hasher, 3, |_| repeated).unwrap();
            let expected: Vec<Key> = ["", "job", "node"].map(|text| hasher.key(text.as_bytes())).to_vec();
            assert_eq!(table.keys(&body, &hasher), expected);
            assert_eq!(table.text(&body, 2), Some(&b"node"[..]));
            assert_eq!(table.text(&body, 3), None);
        }
    }
}
