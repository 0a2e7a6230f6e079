//! Reading XOR chunks, the floats of almost every series, sample by sample.

use super::{
    ChunkError,
    bits::{BitReader, from_asymmetric},
};
use model::time::Timestamp;

/// The count in front of the bits.
pub(super) const HEADER_BYTES: usize = 2;

/// Reads the samples of an XOR chunk one by one.
#[derive(Debug, Clone, Copy)]
pub struct XorReader<'a> {
    pub(super) bits: BitReader<'a>,
    pub(super) at: Timestamp,
    pub(super) delta: u64,
    pub(super) value: u64,
    pub(super) leading: u32,
    pub(super) trailing: u32,
    pub(super) window_seen: bool,
    pub(super) read: u16,
    pub(super) total: u16,
}

/// What a writer must know to go on behind the last sample of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XorEnd {
    /// Bits of the chunk, count and all.
    pub bits: usize,
    /// Difference of the last two timestamps.
    pub delta: u64,
    /// Zero bits before and behind the meaningful ones, as the last value with a window of its own had them.
    pub window: Option<(u8, u8)>,
}

impl<'a> XorReader<'a> {
    /// Where it is in `chunk`, of which it was made: meaningful behind the last sample.
    pub fn end(&self, chunk: &[u8]) -> XorEnd {
        XorEnd {
            bits: chunk.len() * 8 - self.bits.remaining(),
            delta: self.delta,
            window: self.window_seen.then_some((self.leading as u8, self.trailing as u8)),
        }
    }

    /// Begins at the first sample of `chunk`.
    pub fn new(chunk: &'a [u8]) -> Result<Self, ChunkError> {
        let (header, body) = chunk.split_first_chunk::<HEADER_BYTES>().ok_or(ChunkError::Truncated)?;
        Ok(Self {
            bits: BitReader::new(body),
            at: 0,
            delta: 0,
            value: 0,
            leading: 0,
            trailing: 0,
            window_seen: false,
            read: 0,
            total: u16::from_be_bytes(*header),
        })
    }

    /// The next sample; `None` after the last.
    #[inline(always)]
    #[expect(
        clippy::should_implement_trait,
        reason = "reading may fail, and an error must not be skipped like an item"
    )]
    pub fn next(&mut self) -> Result<Option<(Timestamp, f64)>, ChunkError> {
        if self.read == self.total {
            return Ok(None);
        }
        if self.read >= 2 {
            let dod = self.read_delta_of_delta()?;
            self.delta = self.delta.wrapping_add(dod as u64);
            self.at = self.at.wrapping_add(self.delta as i64);
            self.read_value()?;
        } else {
            *self = self.with_first_read()?;
        }
        self.read += 1;
        Ok(Some((self.at, f64::from_bits(self.value))))
    }

    /// The first two samples, which have forms of their own. Takes and gives the reader as a value, so that the loop around
    /// [`Self::next`] keeps its own in registers.
    #[inline(never)]
    fn with_first_read(mut self) -> Result<Self, ChunkError> {
        if self.read == 0 {
            self.at = self.bits.read_varint()?;
            self.value = self.bits.read(64)?;
        } else {
            self.delta = self.bits.read_uvarint()?;
            self.at = self.at.wrapping_add(self.delta as i64);
            self.read_value()?;
        }
        Ok(self)
    }

    #[inline(always)]
    fn read_delta_of_delta(&mut self) -> Result<i64, ChunkError> {
        // The widest form but one has 24 bits; with 56 the value's prefix mostly comes out of the same fill.
        self.bits.prepare(24);
        let window = self.bits.peek();
        if window >> 63 == 0 {
            self.bits.consume(1)?;
            return Ok(0);
        }
        let (prefix, width) = match window.leading_ones() {
            1 => (2, 14),
            2 => (3, 17),
            3 => (4, 20),
            _ => {
                self.bits.consume(4)?;
                return Ok(self.bits.read(64)? as i64);
            }
        };
        self.bits.consume(prefix + width)?;
        Ok(from_asymmetric((window << prefix) >> (64 - width), width))
    }

    #[inline(always)]
    fn read_value(&mut self) -> Result<(), ChunkError> {
        self.bits.prepare(13);
        let window = self.bits.peek();
        if window >> 63 == 0 {
            return self.bits.consume(1);
        }
        if window >> 62 == 0b11 {
            self.bits.consume(13)?;
            self.leading = (window >> 57 & 31) as u32;
            let significant = match window >> 51 & 63 {
                0 => 64,
                significant => significant as u32,
            };
            if self.leading + significant > 64 {
                return Err(ChunkError::Malformed("a window of value bits is wider than a value"));
            }
            self.trailing = 64 - self.leading - significant;
            self.window_seen = true;
        } else {
            self.bits.consume(2)?;
        }
        let xor = self.bits.read(64 - self.leading - self.trailing)?;
        self.value ^= xor << self.trailing;
        Ok(())
    }
}
