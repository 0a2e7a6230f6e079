//! Streams of bits, most significant bit first, and the prefix-coded integers of the histogram and XOR2 chunks.
//!
//! Chunk codecs are the only callers. A reader never reads beyond its bytes: what is missing is an error, not a zero.

use super::ChunkError;

/// Reads bits through a window of 64, filled eight bytes at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitReader<'a> {
    /// Bytes that the window does not count as its own yet.
    rest: &'a [u8],
    /// The next bits, left-aligned. Bits behind `valid` are either zero or equal to those of `rest`.
    window: u64,
    /// How many bits of the window count, at most 63.
    valid: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            window: 0,
            valid: 0,
        }
    }

    /// How many bits are left to read.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len() * 8 + self.valid as usize
    }

    /// Fills the window to at least 56 bits, or with all that is left.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if let Some(word) = self.rest.first_chunk::<8>() {
            self.window |= u64::from_be_bytes(*word) >> self.valid;
            let taken = (63 - self.valid) >> 3;
            self.rest = &self.rest[taken as usize..];
            self.valid += taken * 8;
        } else {
            *self = self.refilled_at_the_end();
        }
    }

    /// Takes and gives the reader as a value, so that the hot loops keep theirs in registers.
    #[cold]
    #[inline(never)]
    fn refilled_at_the_end(mut self) -> Self {
        while self.valid < 56 {
            let Some((&byte, rest)) = self.rest.split_first() else {
                break;
            };
            self.window |= u64::from(byte) << (56 - self.valid);
            self.rest = rest;
            self.valid += 8;
        }
        self
    }

    /// Fills the window when fewer than `bits` are in it; fewer than `bits` may still be there at the end.
    #[inline(always)]
    pub(super) fn prepare(&mut self, bits: u32) {
        if self.valid < bits {
            self.refill();
        }
    }

    /// The window: the next bits, left-aligned. Meaningful after [`Self::prepare`].
    #[inline(always)]
    pub(super) fn peek(&self) -> u64 {
        self.window
    }

    /// Drops up to 56 bits that were looked at.
    #[inline(always)]
    pub(super) fn consume(&mut self, bits: u32) -> Result<(), ChunkError> {
        if bits > self.valid {
            return Err(ChunkError::Truncated);
        }
        self.window <<= bits;
        self.valid -= bits;
        Ok(())
    }

    /// The next 1 to 64 bits as a number.
    #[inline(always)]
    pub(super) fn read(&mut self, bits: u32) -> Result<u64, ChunkError> {
        if bits <= 56 {
            return self.read_narrow(bits);
        }
        // More than a window is sure to hold: in two parts.
        let high = self.read_narrow(bits - 32)?;
        Ok(high << 32 | self.read_narrow(32)?)
    }

    #[inline(always)]
    fn read_narrow(&mut self, bits: u32) -> Result<u64, ChunkError> {
        self.prepare(bits);
        let value = self.window >> (64 - bits);
        self.consume(bits)?;
        Ok(value)
    }

    /// The next bit.
    #[inline(always)]
    pub(super) fn read_bit(&mut self) -> Result<bool, ChunkError> {
        Ok(self.read(1)? == 1)
    }

    /// A variable-length unsigned number of whole bytes (LEB128), which need not begin at a byte border.
    pub(super) fn read_uvarint(&mut self) -> Result<u64, ChunkError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.read(8)?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ChunkError::Malformed("a variable-length number has more than 64 bits"))
    }

    /// A signed number of whole bytes: zig-zag over [`Self::read_uvarint`].
    pub(super) fn read_varint(&mut self) -> Result<i64, ChunkError> {
        let zigzag = self.read_uvarint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// Reads the prefix of ones of a bit-coded number and gives the width that it stands for; 0 for the number zero.
    #[inline(always)]
    fn read_width(&mut self) -> Result<u32, ChunkError> {
        self.prepare(8);
        let ones = self.window.leading_ones().min(8);
        self.consume((ones + 1).min(8))?;
        Ok(WIDTHS[ones as usize])
    }

    /// A signed bit-coded number.
    #[inline(always)]
    pub(super) fn read_varbit_int(&mut self) -> Result<i64, ChunkError> {
        match self.read_width()? {
            0 => Ok(0),
            width => Ok(from_asymmetric(self.read(width)?, width)),
        }
    }

    /// An unsigned bit-coded number.
    #[inline(always)]
    pub(super) fn read_varbit_uint(&mut self) -> Result<u64, ChunkError> {
        match self.read_width()? {
            0 => Ok(0),
            width => self.read(width),
        }
    }
}

/// Payload widths of bit-coded numbers by the count of ones before them.
const WIDTHS: [u32; 9] = [0, 3, 6, 9, 12, 18, 25, 56, 64];

/// Turns `width` bits into a number between -(2^(width-1)-1) and 2^(width-1): unlike two's complement the middle is positive.
#[inline(always)]
pub(super) fn from_asymmetric(bits: u64, width: u32) -> i64 {
    if width == 64 {
        return bits as i64;
    }
    if bits > 1 << (width - 1) {
        bits.wrapping_sub(1 << width) as i64
    } else {
        bits as i64
    }
}

/// Whether `number` fits into `width` bits as [`from_asymmetric`] reads them; widths below 64.
#[inline(always)]
pub(super) fn fits_asymmetric(number: i64, width: u32) -> bool {
    let half = 1i64 << (width - 1);
    -half < number && number <= half
}

/// Writes bits at the end of a growing buffer.
#[derive(Debug, Clone, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Unused low bits of the last byte.
    free: u32,
}

impl BitWriter {
    /// Starts behind `bytes`, at a byte border.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, free: 0 }
    }

    /// What was written; unused bits of the last byte are zero.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written, for changing a fixed-width header in place.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes the low `count` (at most 64) bits of `value`, the highest first.
    pub(super) fn write(&mut self, value: u64, count: u32) {
        let mut left = count;
        while left > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let step = left.min(self.free);
            let part = (value >> (left - step)) & ((1 << step) - 1);
            if let Some(last) = self.bytes.last_mut() {
                *last |= (part << (self.free - step)) as u8;
            }
            self.free -= step;
            left -= step;
        }
    }

    /// Writes a float bit by bit.
    pub(super) fn write_float(&mut self, value: f64) {
        self.write(value.to_bits(), 64);
    }

    /// The counterpart of [`BitReader::read_varbit_int`].
    pub(super) fn write_varbit_int(&mut self, number: i64) {
        let ones = match number {
            0 => 0,
            _ => (1..8).find(|&ones| fits_asymmetric(number, WIDTHS[ones])).unwrap_or(8),
        };
        self.write_prefixed(number as u64, ones);
    }

    /// The counterpart of [`BitReader::read_varbit_uint`].
    pub(super) fn write_varbit_uint(&mut self, number: u64) {
        let ones = match number {
            0 => 0,
            _ => (1..8).find(|&ones| number >> WIDTHS[ones] == 0).unwrap_or(8),
        };
        self.write_prefixed(number, ones);
    }

    fn write_prefixed(&mut self, payload: u64, ones: usize) {
        let prefix = (1u64 << ones) - 1;
        // Eight ones need no zero behind them: no longer prefix exists.
        if ones == 8 {
            self.write(prefix, 8)
        } else {
            self.write(prefix << 1, ones as u32 + 1)
        }
        self.write(payload, WIDTHS[ones]);
    }
}

/// Appends an unsigned number in whole bytes (LEB128) to `out`.
pub(crate) fn put_uvarint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a signed number in whole bytes (zig-zag) to `out`.
pub(crate) fn put_varint(out: &mut Vec<u8>, number: i64) {
    put_uvarint(out, zigzag(number));
}

/// Signed to unsigned so that small magnitudes stay small.
pub(super) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_bit_is_read_back_and_the_end_is_an_error() {
        let mut writer = BitWriter::default();
        for width in 1..=64u32 {
            writer.write(u64::MAX / 3, width);
        }
        let bytes = writer.into_bytes();
        let mut reader = BitReader::new(&bytes);
        for width in 1..=64u32 {
            let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
            assert_eq!(reader.read(width).unwrap(), (u64::MAX / 3) & mask, "width {width}");
        }
        assert!(reader.remaining() < 8);
        assert_eq!(reader.read(8), Err(ChunkError::Truncated));
    }

    #[test]
    fn widths_change_at_the_asymmetric_borders() {
        // (number, bits used): 3 payload bits hold -3 to 4, 6 hold -31 to 32.
        for (number, bits) in [
            (0, 1),
            (1, 5),
            (4, 5),
            (-3, 5),
            (5, 9),
            (-4, 9),
            (32, 9),
            (-31, 9),
            (-32, 13),
            (33, 13),
        ] {
            let mut writer = BitWriter::default();
            writer.write_varbit_int(number);
            let used = writer.bytes.len() as u32 * 8 - writer.free;
            assert_eq!(used, bits, "{number}");
        }
        for (number, bits) in [(0, 1), (7, 5), (8, 9), (63, 9), (64, 13), (u64::MAX, 72)] {
            let mut writer = BitWriter::default();
            writer.write_varbit_uint(number);
            assert_eq!(writer.bytes.len() as u32 * 8 - writer.free, bits, "{number}");
        }
    }

    proptest! {
        #[test]
        fn numbers_survive(numbers in proptest::collection::vec((any::<i64>(), 0u32..64), 0..50)) {
            let mut writer = BitWriter::default();
            for &(number, shift) in &numbers {
                writer.write_varbit_int(number >> shift);
                writer.write_varbit_uint(number as u64 >> shift);
            }
            let mut bytes = Vec::new();
            for &(number, shift) in &numbers {
                put_varint(&mut bytes, number >> shift);
                put_uvarint(&mut bytes, number as u64 >> shift);
            }
            let bits = writer.into_bytes();
            let (mut reader, mut whole) = (BitReader::new(&bits), BitReader::new(&bytes));
            for &(number, shift) in &numbers {
                prop_assert_eq!(reader.read_varbit_int(), Ok(number >> shift));
                prop_assert_eq!(reader.read_varbit_uint(), Ok(number as u64 >> shift));
                prop_assert_eq!(whole.read_varint(), Ok(number >> shift));
                prop_assert_eq!(whole.read_uvarint(), Ok(number as u64 >> shift));
            }
        }
    }
}
