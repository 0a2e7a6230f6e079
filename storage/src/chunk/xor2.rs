//! The XOR2 chunk, read only: floats with start timestamps, where an unchanged sample costs one bit.
//!
//! Prometheus writes it when told to. Differences of differences are in two's complement here, unlike in the XOR chunk, and
//! stale markers have a code of their own that leaves the value to compare with alone.

use super::{ChunkError, bits::BitReader, start::StartReader};
use model::{
    sample::{STALE_NAN_BITS, SampleBuffer, is_stale},
    time::{TimeRange, Timestamp},
};

/// Count and start header.
const HEADER_BYTES: usize = 3;

struct Reader<'a> {
    bits: BitReader<'a>,
    starts: StartReader,
    at: Timestamp,
    delta: i64,
    /// Bits of the last value that was no stale marker.
    value: u64,
    /// Whether the current sample is a stale marker.
    stale: bool,
    leading: u32,
    trailing: u32,
    read: u16,
    total: u16,
}

/// Decodes the samples of a chunk that lie in `range`. Time must ascend.
pub(super) fn decode(chunk: &[u8], range: TimeRange, out: &mut SampleBuffer) -> Result<(), ChunkError> {
    let (&[high, low, starts], body) = chunk.split_first_chunk::<HEADER_BYTES>().ok_or(ChunkError::Truncated)?;
    let mut reader = Reader {
        bits: BitReader::new(body),
        starts: StartReader::new(starts),
        at: 0,
        delta: 0,
        value: 0,
        stale: false,
        leading: 0,
        trailing: 0,
        read: 0,
        total: u16::from_be_bytes([high, low]),
    };
    let mut previous: Option<Timestamp> = None;
    while reader.read < reader.total {
        let start = reader.next()?;
        if previous.is_some_and(|previous| reader.at <= previous) {
            return Err(ChunkError::Order);
        }
        previous = Some(reader.at);
        if reader.at > range.max {
            break;
        }
        if reader.at >= range.min {
            let bits = if reader.stale { STALE_NAN_BITS } else { reader.value };
            out.push_float_started(reader.at, f64::from_bits(bits), start);
        }
    }
    Ok(())
}

impl Reader<'_> {
    /// Reads one sample and gives its start.
    fn next(&mut self) -> Result<Timestamp, ChunkError> {
        let previous = self.at;
        match self.read {
            0 => {
                self.at = self.bits.read_varint()?;
                let value = self.bits.read(64)?;
                self.stale = is_stale(f64::from_bits(value));
                self.value = if self.stale { 0 } else { value };
            }
            1 => {
                self.delta = self.bits.read_uvarint()? as i64;
                self.at = self.at.wrapping_add(self.delta);
                self.read_value()?;
            }
            _ => {
                self.read_joint()?;
                self.at = self.at.wrapping_add(self.delta);
            }
        }
        let start = self.starts.read(&mut self.bits, self.read, self.at, previous)?;
        self.read += 1;
        Ok(start)
    }

    /// The joint code of time and value from the third sample on.
    fn read_joint(&mut self) -> Result<(), ChunkError> {
        self.bits.prepare(5);
        let ones = self.bits.peek().leading_ones().min(5);
        self.bits.consume((ones + 1).min(5))?;
        self.stale = false;
        let width = match ones {
            0 => return Ok(()),
            1 => {
                let window_is_new = self.bits.read_bit()?;
                return self.read_xor(window_is_new);
            }
            2 => 13,
            3 => 20,
            4 => 64,
            _ => {
                self.stale = true;
                return Ok(());
            }
        };
        let raw = self.bits.read(width)?;
        // Sign extension: the top bit of the field is the sign.
        let dod = (raw << (64 - width)) as i64 >> (64 - width);
        self.delta = self.delta.wrapping_add(dod);
        self.read_value()
    }

    /// The value's own code, used where the time changed its pace.
    fn read_value(&mut self) -> Result<(), ChunkError> {
        self.bits.prepare(3);
        let ones = self.bits.peek().leading_ones().min(3);
        self.bits.consume((ones + 1).min(3))?;
        self.stale = ones == 3;
        match ones {
            1 => self.read_xor(false),
            2 => self.read_xor(true),
            _ => Ok(()),
        }
    }

    fn read_xor(&mut self, window_is_new: bool) -> Result<(), ChunkError> {
        if window_is_new {
            self.leading = self.bits.read(5)? as u32;
            let significant = match self.bits.read(6)? {
                0 => 64,
                significant => significant as u32,
            };
            if self.leading + significant > 64 {
                return Err(ChunkError::Malformed("a window of value bits is wider than a value"));
            }
            self.trailing = 64 - self.leading - significant;
        }
        self.value ^= self.bits.read(64 - self.leading - self.trailing)? << self.trailing;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::bits::{BitWriter, put_uvarint, put_varint};

    fn put_bytes(out: &mut BitWriter, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| out.write(u64::from(byte), 8));
    }

    /// A chunk written field by field, with every code of the format in it.
    fn sample_chunk() -> (Vec<u8>, Vec<(i64, u64, i64)>) {
        // Five samples and on; the first start is known, the first change is at sample 3.
        let mut out = BitWriter::new(vec![0, 7, 0x80 | 3]);
        let mut bytes = Vec::new();
        put_varint(&mut bytes, 100_000);
        put_bytes(&mut out, &bytes);
        out.write_float(1.0);
        bytes.clear();
        put_varint(&mut bytes, 400);
        put_bytes(&mut out, &bytes);
        // 1: delta 15000, value 3.0 in a new window. 1.0 ^ 3.0 = 0x7ff8 << 48: one leading zero, 51 trailing, 12 significant.
        bytes.clear();
        put_uvarint(&mut bytes, 15_000);
        put_bytes(&mut out, &bytes);
        let xor = 1f64.to_bits() ^ 3f64.to_bits();
        let (leading, trailing) = (xor.leading_zeros(), xor.trailing_zeros());
        let significant = 64 - leading - trailing;
        out.write(0b110, 3);
        out.write(u64::from(leading), 5);
        out.write(u64::from(significant), 6);
        out.write(xor >> trailing, significant);
        // 2: nothing changed.
        out.write(0, 1);
        // 3: a stale marker at the same pace; the start becomes 120000, that is 10000 after sample 2 at 130000.
        out.write(0b11111, 5);
        out.write_varbit_int(130_000 - 120_000);
        // 4: a delta shorter by 4096, the lowest of 13 bits; the value is back at 3.0; the same start: distance grows by 15000.
        out.write(0b110, 3);
        out.write(0x1000, 13);
        out.write(0, 1);
        out.write_varbit_int(15_000);
        // 5: a delta longer by 100000 in 20 bits, back to 1.0 in the same window; same start.
        out.write(0b1110, 4);
        out.write(100_000, 20);
        out.write(0b10, 2);
        out.write(xor >> trailing, significant);
        out.write_varbit_int(15_000 - 4096);
        // 6: same pace, 3.0 in the same window.
        out.write(0b10, 2);
        out.write(0, 1);
        out.write(xor >> trailing, significant);
        out.write_varbit_int(15_000 - 4096 + 100_000);
        let one = 1f64.to_bits();
        let three = 3f64.to_bits();
        let expected = vec![
            (100_000, one, 99_600),
            (115_000, three, 99_600),
            (130_000, three, 99_600),
            (145_000, STALE_NAN_BITS, 120_000),
            (155_904, three, 120_000),
            (266_808, one, 120_000),
            (377_712, three, 120_000),
        ];
        (out.into_bytes(), expected)
    }

    #[test]
    fn every_code_is_read() {
        let (chunk, expected) = sample_chunk();
        let mut out = SampleBuffer::default();
        decode(&chunk, TimeRange::ALL, &mut out).unwrap();
        let read: Vec<(i64, u64, i64)> = (0..out.timestamps.len())
            .map(|i| (out.timestamps[i], out.values[i].to_bits(), out.starts[i]))
            .collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn damage_never_panics() {
        let (chunk, _) = sample_chunk();
        for end in 0..chunk.len() {
            assert!(
                decode(&chunk[..end], TimeRange::ALL, &mut SampleBuffer::default()).is_err(),
                "cut at {end}"
            );
        }
        for bit in 0..chunk.len() * 8 {
            let mut broken = chunk.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(&broken, TimeRange::ALL, &mut SampleBuffer::default());
        }
    }
}
