//! Taking bytes apart, front to back, with every length checked.
//!
//! Index, tombstones and chunk segments are read through it. `None` says that the bytes end too early or a number is too
//! wide; the caller knows what it was reading and says so.

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// A cursor that begins at byte `offset` of `bytes`.
    pub(crate) fn at(bytes: &'a [u8], offset: u64) -> Option<Self> {
        Some(Self {
            rest: bytes.get(usize::try_from(offset).ok()?..)?,
        })
    }

    /// How many bytes are left.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    pub(crate) fn be32(&mut self) -> Option<u32> {
        let (word, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(u32::from_be_bytes(*word))
    }

    pub(crate) fn be64(&mut self) -> Option<u64> {
        let (word, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some(u64::from_be_bytes(*word))
    }

    /// An unsigned LEB128 number of at most 64 bits.
    #[inline]
    pub(crate) fn uvarint(&mut self) -> Option<u64> {
        let (&first, rest) = self.rest.split_first()?;
        if first < 0x80 {
            self.rest = rest;
            return Some(u64::from(first));
        }
        self.long_uvarint()
    }

    fn long_uvarint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().enumerate().take(10) {
            if index == 9 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (index * 7);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Some(value);
            }
        }
        None
    }

    /// A signed number: zig-zag over [`Self::uvarint`].
    pub(crate) fn varint(&mut self) -> Option<i64> {
        let zigzag = self.uvarint()?;
        Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// Bytes with their length in front as a uvarint.
    #[inline]
    pub(crate) fn counted(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.uvarint()?).ok()?;
        self.take(len)
    }
}

/// Takes a section apart that says its length in four bytes and ends with a checksum; gives content and what the checksum says.
pub(crate) fn checked_section(bytes: &[u8], offset: u64) -> Option<(&[u8], bool)> {
    let mut cursor = Cursor::at(bytes, offset)?;
    let len = cursor.be32()?;
    let content = cursor.take(len as usize)?;
    let sum = cursor.be32()?;
    Some((content, crc32c::crc32c(content) == sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_where_they_should() {
        let mut cursor = Cursor::new(&[0x96, 0x01, 0x05, 3, b'a', b'b', b'c', 0, 0, 1, 0, 9]);
        assert_eq!(cursor.uvarint(), Some(150));
        assert_eq!(cursor.varint(), Some(-3));
        assert_eq!(cursor.counted(), Some(&b"abc"[..]));
        assert_eq!(cursor.be32(), Some(256));
        assert_eq!(cursor.be32(), None);
        assert_eq!(cursor.take(2), None);
        assert_eq!(cursor.remaining(), 1);
    }

    #[test]
    fn numbers_that_are_too_wide_are_refused() {
        assert_eq!(Cursor::new(&[0xff; 10]).uvarint(), None);
        let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(Cursor::new(&max).uvarint(), Some(u64::MAX));
        assert_eq!(Cursor::new(&[0x80; 3]).uvarint(), None);
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).counted(), None);
    }
}
