//! Writing XOR chunks: timestamps as differences of differences, values as XOR against the one before.
//!
//! The head appends through [`XorAppender`], 32 bytes of state that lie wherever the caller likes, apart from the chunk's
//! bytes. They equal those that Prometheus writes.

use super::{
    ChunkError,
    bits::{fits_asymmetric, zigzag},
    xor_reader::{HEADER_BYTES, XorReader},
};
use model::time::Timestamp;

/// Marks that no window of meaningful bits was written yet.
const NO_WINDOW: u8 = 0xff;

/// How many samples a chunk can count.
pub const XOR_SAMPLES_MAX: u16 = u16::MAX;

/// Room behind the bytes of a chunk that one append may touch. A sample needs at most 20 bytes; the rest lets whole words be written.
pub const XOR_APPEND_ROOM: usize = 32;

/// Where an XOR chunk stands: all that is needed to append the next sample to its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XorAppender {
    /// Timestamp of the last sample.
    at: Timestamp,
    /// Difference of the last two timestamps.
    delta: u64,
    /// Bits of the last value.
    value: u64,
    /// Bits used in the chunk, header included.
    bits: u32,
    count: u16,
    /// Zero bits in front of the current window, or [`NO_WINDOW`].
    leading: u8,
    /// Zero bits behind the current window.
    trailing: u8,
}

impl Default for XorAppender {
    fn default() -> Self {
        Self::new()
    }
}

impl XorAppender {
    /// The state of an empty chunk.
    pub const fn new() -> Self {
        Self {
            at: 0,
            delta: 0,
            value: 0,
            bits: HEADER_BYTES as u32 * 8,
            count: 0,
            leading: NO_WINDOW,
            trailing: 0,
        }
    }

    /// The state behind the last sample of `chunk`; walks it once.
    pub fn resume(chunk: &[u8]) -> Result<Self, ChunkError> {
        let mut reader = XorReader::new(chunk)?;
        while reader.next()?.is_some() {}
        let end = reader.end(chunk);
        let bits = u32::try_from(end.bits).map_err(|_| ChunkError::Malformed("the chunk is too long"))?;
        let (leading, trailing) = end.window.unwrap_or((NO_WINDOW, 0));
        Ok(Self {
            at: reader.at,
            delta: reader.delta,
            value: reader.value,
            bits,
            count: reader.read,
            leading,
            trailing,
        })
    }

    /// Number of samples.
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// Length of the chunk in bytes, header included.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a chunk without samples still has its header"
    )]
    pub const fn len(&self) -> usize {
        self.bits.div_ceil(8) as usize
    }

    /// Timestamp of the last sample; 0 when there is none.
    pub const fn last_at(&self) -> Timestamp {
        self.at
    }

    /// The last value, bit for bit; 0 when there is no sample.
    pub const fn last_value(&self) -> f64 {
        f64::from_bits(self.value)
    }

    /// Appends a sample to a chunk held in a vector of exactly [`Self::len`] bytes (or an empty one for a new chunk).
    pub fn append(&mut self, chunk: &mut Vec<u8>, at: Timestamp, value: f64) {
        chunk.resize(self.len() + XOR_APPEND_ROOM, 0);
        self.append_in(chunk, at, value);
        chunk.truncate(self.len());
    }

    /// Appends a sample to a chunk that lies in the first [`Self::len`] bytes of `place`. Bytes behind it may hold anything, are
    /// overwritten, and must be at least [`XOR_APPEND_ROOM`]. The caller keeps time ascending and the count below [`XOR_SAMPLES_MAX`].
    #[inline]
    pub fn append_in(&mut self, place: &mut [u8], at: Timestamp, value: f64) {
        assert!(
            place.len() >= self.len() + XOR_APPEND_ROOM,
            "no room for a sample in the chunk"
        );
        assert!(
            self.count < XOR_SAMPLES_MAX,
            "the chunk holds as many samples as it can count"
        );
        let mut tail = Tail::open(place, self.bits);
        match self.count {
            0 => {
                tail.put_uvarint(zigzag(at));
                tail.put(value.to_bits(), 64);
            }
            1 => {
                self.delta = at.wrapping_sub(self.at) as u64;
                tail.put_uvarint(self.delta);
                self.put_value(&mut tail, value.to_bits());
            }
            _ => {
                let delta = at.wrapping_sub(self.at) as u64;
                put_delta_of_delta(&mut tail, delta.wrapping_sub(self.delta) as i64);
                self.delta = delta;
                self.put_value(&mut tail, value.to_bits());
            }
        }
        self.bits = tail.close();
        self.at = at;
        self.value = value.to_bits();
        self.count += 1;
        place[..HEADER_BYTES].copy_from_slice(&self.count.to_be_bytes());
    }

    #[inline(always)]
    fn put_value(&mut self, tail: &mut Tail<'_>, value: u64) {
        let xor = value ^ self.value;
        if xor == 0 {
            return tail.put(0, 1);
        }
        // Five bits hold the count of leading zeros.
        let leading = xor.leading_zeros().min(31) as u8;
        let trailing = xor.trailing_zeros() as u8;
        if self.leading != NO_WINDOW && leading >= self.leading && trailing >= self.trailing {
            tail.put(0b10, 2);
            return tail.put(
                xor >> self.trailing,
                64 - u32::from(self.leading) - u32::from(self.trailing),
            );
        }
        self.leading = leading;
        self.trailing = trailing;
        let significant = 64 - u64::from(leading) - u64::from(trailing);
        // 64 does not fit into six bits and is written as 0, which cannot occur otherwise.
        tail.put(0b11 << 11 | u64::from(leading) << 6 | (significant & 63), 13);
        tail.put(xor >> trailing, significant as u32);
    }
}

#[inline(always)]
fn put_delta_of_delta(tail: &mut Tail<'_>, dod: i64) {
    let low = |width: u32| dod as u64 & ((1 << width) - 1);
    if dod == 0 {
        tail.put(0, 1);
    } else if fits_asymmetric(dod, 14) {
        tail.put(0b10 << 14 | low(14), 16);
    } else if fits_asymmetric(dod, 17) {
        tail.put(0b110 << 17 | low(17), 20);
    } else if fits_asymmetric(dod, 20) {
        tail.put(0b1110 << 20 | low(20), 24);
    } else {
        tail.put(0b1111, 4);
        tail.put(dod as u64, 64);
    }
}

/// The end of a chunk while one sample is written: whole words go to `place`, the rest is kept in a register.
struct Tail<'a> {
    place: &'a mut [u8],
    /// Byte that the word begins at.
    position: usize,
    /// Bits not yet written, left-aligned.
    word: u64,
    /// How many they are, below 64.
    used: u32,
}

impl<'a> Tail<'a> {
    #[inline(always)]
    fn open(place: &'a mut [u8], bits: u32) -> Self {
        let (position, used) = ((bits / 8) as usize, bits % 8);
        let keep = !(0xff_u8 >> used);
        let word = u64::from(place[position] & keep) << 56;
        Self {
            place,
            position,
            word,
            used,
        }
    }

    /// Adds the low `count` (1 to 64) bits of `value`; higher bits of it must be zero.
    #[inline(always)]
    fn put(&mut self, value: u64, count: u32) {
        let room = 64 - self.used;
        if count < room {
            self.word |= value << (room - count);
            self.used += count;
            return;
        }
        self.used = count - room;
        self.word |= value >> self.used;
        self.flush();
        self.position += 8;
        self.word = if self.used == 0 { 0 } else { value << (64 - self.used) };
    }

    fn put_uvarint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.put(number & 0x7f | 0x80, 8);
            number >>= 7;
        }
        self.put(number, 8);
    }

    #[inline(always)]
    fn flush(&mut self) {
        self.place[self.position..self.position + 8].copy_from_slice(&self.word.to_be_bytes());
    }

    /// Writes what is left and gives the number of bits that the chunk has now.
    #[inline(always)]
    fn close(mut self) -> u32 {
        self.flush();
        self.position as u32 * 8 + self.used
    }
}
