//! The XOR chunk: timestamps as differences of differences, values as XOR against the one before.
//!
//! The head appends through [`XorAppender`], 32 bytes of state that lie wherever the caller likes, apart from the chunk's
//! bytes. Everything that reads samples back comes through [`XorReader`]. Bytes equal those that Prometheus writes.

use super::{
    ChunkError,
    bits::{BitReader, fits_asymmetric, from_asymmetric, zigzag},
};
use model::{
    sample::SampleBuffer,
    time::{TimeRange, Timestamp},
};

/// The count in front of the bits.
const HEADER_BYTES: usize = 2;

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
        let bits = chunk.len() * 8 - reader.bits.remaining();
        let bits = u32::try_from(bits).map_err(|_| ChunkError::Malformed("the chunk is too long"))?;
        let leading = if reader.window_seen {
            reader.leading as u8
        } else {
            NO_WINDOW
        };
        let trailing = if reader.window_seen { reader.trailing as u8 } else { 0 };
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

/// Reads the samples of an XOR chunk one by one.
#[derive(Debug, Clone, Copy)]
pub struct XorReader<'a> {
    bits: BitReader<'a>,
    at: Timestamp,
    delta: u64,
    value: u64,
    leading: u32,
    trailing: u32,
    window_seen: bool,
    read: u16,
    total: u16,
}

impl<'a> XorReader<'a> {
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

/// Decodes the samples of a chunk that lie in `range`. Time must ascend.
pub(super) fn decode(chunk: &[u8], range: TimeRange, out: &mut SampleBuffer) -> Result<(), ChunkError> {
    let reader = XorReader::new(chunk)?;
    // A sample takes at least two bits, so a wrong count cannot ask for more memory than the data is worth.
    let expected = usize::from(reader.total).min(chunk.len() * 4);
    let before = out.timestamps.len();
    out.timestamps.resize(before + expected, 0);
    out.values.resize(before + expected, 0.0);
    let outcome = decode_into(reader, range, &mut out.timestamps[before..], &mut out.values[before..]);
    let taken = *outcome.as_ref().unwrap_or(&0);
    out.timestamps.truncate(before + taken);
    out.values.truncate(before + taken);
    if !out.starts.is_empty() {
        out.starts.resize(before + taken, 0);
    }
    outcome.map(drop)
}

/// Decodes into columns that have room for every sample; gives how many lay in the range.
fn decode_into(
    mut reader: XorReader<'_>,
    range: TimeRange,
    timestamps: &mut [Timestamp],
    values: &mut [f64],
) -> Result<usize, ChunkError> {
    let (mut taken, mut last) = (0, None);
    while let Some((at, value)) = reader.next()? {
        if last.is_some_and(|last| at <= last) {
            return Err(ChunkError::Order);
        }
        last = Some(at);
        if at > range.max {
            break;
        }
        // Written in any case and kept when it counts: a branch would be mispredicted at the edges.
        let (Some(timestamp), Some(place)) = (timestamps.get_mut(taken), values.get_mut(taken)) else {
            break;
        };
        (*timestamp, *place) = (at, value);
        taken += usize::from(at >= range.min);
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::bits::BitWriter;
    use proptest::prelude::*;

    /// The encoding written down once more, bit by bit and without the word-wise writer.
    fn encode_slowly(samples: &[(i64, u64)]) -> Vec<u8> {
        let mut out = BitWriter::new((samples.len() as u16).to_be_bytes().to_vec());
        let mut window: Option<(u32, u32)> = None;
        for (index, &(at, value)) in samples.iter().enumerate() {
            let delta = |i: usize| samples[i].0.wrapping_sub(samples[i - 1].0);
            match index {
                0 => {
                    let mut bytes = Vec::new();
                    crate::chunk::bits::put_varint(&mut bytes, at);
                    bytes.iter().for_each(|&byte| out.write(u64::from(byte), 8));
                    out.write(value, 64);
                    continue;
                }
                1 => {
                    let mut bytes = Vec::new();
                    crate::chunk::bits::put_uvarint(&mut bytes, delta(1) as u64);
                    bytes.iter().for_each(|&byte| out.write(u64::from(byte), 8));
                }
                _ => match delta(index).wrapping_sub(delta(index - 1)) {
                    0 => out.write(0, 1),
                    dod @ -8191..=8192 => (out.write(2, 2), out.write(dod as u64, 14)).1,
                    dod @ -65535..=65536 => (out.write(6, 3), out.write(dod as u64, 17)).1,
                    dod @ -524287..=524288 => (out.write(14, 4), out.write(dod as u64, 20)).1,
                    dod => (out.write(15, 4), out.write(dod as u64, 64)).1,
                },
            }
            let xor = value ^ samples[index - 1].1;
            if xor == 0 {
                out.write(0, 1);
                continue;
            }
            let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
            match window {
                Some((l, t)) if leading >= l && trailing >= t => {
                    out.write(2, 2);
                    out.write(xor >> t, 64 - l - t);
                }
                _ => {
                    window = Some((leading, trailing));
                    let significant = 64 - leading - trailing;
                    out.write(3, 2);
                    out.write(u64::from(leading), 5);
                    out.write(u64::from(significant % 64), 6);
                    out.write(xor >> trailing, significant);
                }
            }
        }
        out.into_bytes()
    }

    fn encode(samples: &[(i64, u64)]) -> Vec<u8> {
        let (mut appender, mut chunk) = (XorAppender::new(), Vec::new());
        for &(at, value) in samples {
            appender.append(&mut chunk, at, f64::from_bits(value));
        }
        chunk
    }

    fn read_all(chunk: &[u8]) -> Result<Vec<(i64, u64)>, ChunkError> {
        let mut reader = XorReader::new(chunk)?;
        let mut samples = Vec::new();
        while let Some((at, value)) = reader.next()? {
            samples.push((at, value.to_bits()));
        }
        Ok(samples)
    }

    /// Samples whose steps and values fall into every form of the encoding.
    fn any_samples() -> impl Strategy<Value = Vec<(i64, u64)>> {
        let step = prop_oneof![Just(15_000i64), 1..20_000i64, 1..2_000_000i64, 1..1i64 << 40];
        let value = prop_oneof![
            Just(0u64),
            Just(model::sample::STALE_NAN_BITS),
            (0..1000u32).prop_map(|v| f64::from(v).to_bits()),
            any::<u64>(),
            (any::<u64>(), 0..64u32).prop_map(|(v, shift)| v << shift),
        ];
        (
            -(1i64 << 50)..1i64 << 50,
            proptest::collection::vec((step, value), 0..200),
        )
            .prop_map(|(start, steps)| {
                let mut at = start;
                let mut place = |(step, value): (i64, u64)| {
                    at += step;
                    (at, value)
                };
                steps.into_iter().map(&mut place).collect()
            })
    }

    #[test]
    fn a_known_chunk_has_the_known_bytes() {
        // Count 3; varint 1000, 1.0; uvarint 15000, same value; same step, value 2.0 in a new window of 11 bits after 1 zero bit.
        let chunk = encode(&[
            (1000, 1f64.to_bits()),
            (16_000, 1f64.to_bits()),
            (31_000, 2f64.to_bits()),
        ]);
        let expected = [
            0,
            3,
            0xd0,
            0x0f,
            0x3f,
            0xf0,
            0,
            0,
            0,
            0,
            0,
            0,
            0x98,
            0x75,
            0b0011_0000,
            0b1001_0111,
            0b1111_1111,
            0b1100_0000,
        ];
        assert_eq!(chunk, expected);
    }

    proptest! {
        #[test]
        fn fast_and_slow_writers_agree_and_the_reader_gives_it_back(samples in any_samples()) {
            let chunk = encode(&samples);
            if !samples.is_empty() {
                prop_assert_eq!(&chunk, &encode_slowly(&samples));
                prop_assert_eq!(read_all(&chunk).unwrap(), samples);
            }
        }

        #[test]
        fn an_appender_resumed_anywhere_goes_on_alike(samples in any_samples(), at in 0..200usize) {
            let cut = at.min(samples.len());
            let mut chunk = encode(&samples[..cut]);
            if cut > 0 {
                let mut appender = XorAppender::resume(&chunk).unwrap();
                // Old writers leave an empty byte behind a chunk that ends at a byte border.
                chunk.push(0);
                for &(at, value) in &samples[cut..] {
                    appender.append(&mut chunk, at, f64::from_bits(value));
                }
                chunk.truncate(appender.len());
                prop_assert_eq!(chunk, encode(&samples));
            }
        }

        #[test]
        fn truncated_and_flipped_chunks_never_panic(samples in any_samples(), flip in any::<usize>()) {
            let chunk = encode(&samples);
            for end in 0..chunk.len() {
                let _ = read_all(&chunk[..end]);
            }
            if !chunk.is_empty() {
                let mut broken = chunk.clone();
                let bit = flip % (chunk.len() * 8);
                broken[bit / 8] ^= 1 << (bit % 8);
                let _ = read_all(&broken);
                let _ = XorAppender::resume(&broken);
            }
        }
    }

    #[test]
    fn the_range_is_honoured_and_order_checked() {
        let chunk = encode(&[(10, 1), (20, 2), (30, 3), (40, 4)]);
        let mut out = SampleBuffer::default();
        decode(&chunk, TimeRange::new(20, 30), &mut out).unwrap();
        assert_eq!(out.timestamps, [20, 30]);
        let backwards = encode(&[(10, 1), (20, 2), (15, 3)]);
        assert_eq!(decode(&backwards, TimeRange::ALL, &mut out), Err(ChunkError::Order));
    }
}
