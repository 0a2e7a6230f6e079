//! Numbers and texts in bytes, as the WAL and the head image write them: little-endian, LEB128 where small numbers are common.
//!
//! Everything that is read goes through [`Cursor`], which checks every length against the bytes that are there.

/// Bytes that contradict themselves or end too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damage(pub(crate) &'static str);

/// Maps small numbers of either sign to small numbers.
#[inline]
pub(crate) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

#[inline]
fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// Adds a number in seven-bit groups, the low ones first.
#[inline]
pub(crate) fn put_uvarint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Adds a signed number.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, number: i64) {
    put_uvarint(out, zigzag(number));
}

/// Adds bytes with their length in front.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uvarint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads from the front of a slice.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Damage> {
        let (&first, rest) = self.rest.split_first().ok_or(Damage("ends inside a byte"))?;
        self.rest = rest;
        Ok(first)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Damage("ends inside a number"))?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Damage> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Damage> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn uvarint(&mut self) -> Result<u64, Damage> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Damage("a number has more than ten bytes"))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<i64, Damage> {
        self.uvarint().map(unzigzag)
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        if count > self.rest.len() {
            return Err(Damage("a length reaches behind the end"));
        }
        let (bytes, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(bytes)
    }

    /// Bytes with their length in front.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let count = self.uvarint()?;
        self.take(usize::try_from(count).map_err(|_| Damage("a length reaches behind the end"))?)
    }

    /// Text with its length in front.
    pub(crate) fn text(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damage("a text is not UTF-8"))
    }

    /// How many things follow, of which each takes at least `bytes_min` bytes: a count that cannot be true is refused before
    /// memory is reserved for it.
    pub(crate) fn count(&mut self, bytes_min: usize) -> Result<usize, Damage> {
        let count = self.uvarint()?;
        if count > (self.rest.len() / bytes_min.max(1)) as u64 {
            return Err(Damage("more things are announced than there are bytes"));
        }
        Ok(count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(unsigned in any::<u64>(), signed in any::<i64>(), text in ".{0,20}") {
            let mut out = Vec::new();
            put_uvarint(&mut out, unsigned);
            put_varint(&mut out, signed);
            put_bytes(&mut out, text.as_bytes());
            for end in 0..out.len() {
                let mut short = Cursor::new(&out[..end]);
                prop_assert!(short.uvarint().is_err() || short.varint().is_err() || short.text().is_err());
            }
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.uvarint().unwrap(), unsigned);
            prop_assert_eq!(cursor.varint().unwrap(), signed);
            prop_assert_eq!(cursor.text().unwrap(), text);
            prop_assert!(cursor.is_empty());
        }
    }
}
