//! Start timestamps inside chunks: a header byte, and numbers behind the samples.
//!
//! The XOR2 and the histogram chunks with start timestamps share this. The header's top bit says that the first sample's start
//! is known; the other seven are the number of the first sample whose start differs from the one before, 0 when none does.
//! From that sample on each is followed by how the distance of its start to the previous sample's timestamp changed.

use super::{ChunkError, bits::BitReader};
use model::time::Timestamp;

/// The sample count in the first two bytes of histogram chunks with start timestamps; the two bits above tell of resets.
pub(super) const COUNT_MASK: u16 = 0x3fff;

/// Follows the start timestamps of a chunk.
#[derive(Debug)]
pub(super) struct StartReader {
    first_known: bool,
    /// Number of the first sample with a change, 0 for none.
    change: u16,
    /// Start of the sample read last, 0 when unknown.
    start: Timestamp,
    /// Previous sample's timestamp minus the start.
    distance: i64,
}

impl StartReader {
    /// Takes the header byte apart.
    pub(super) fn new(header: u8) -> Self {
        Self {
            first_known: header & 0x80 != 0,
            change: u16::from(header & 0x7f),
            start: 0,
            distance: 0,
        }
    }

    /// A reader for chunks without starts: all are unknown.
    pub(super) fn absent() -> Self {
        Self::new(0)
    }

    /// The start of sample `index` at time `at`, which follows a sample at `previous`.
    pub(super) fn read(
        &mut self,
        bits: &mut BitReader<'_>,
        index: u16,
        at: Timestamp,
        previous: Timestamp,
    ) -> Result<Timestamp, ChunkError> {
        if index == 0 {
            if self.first_known {
                self.start = at.wrapping_sub(bits.read_varint()?);
            }
        } else if self.change != 0 && index >= self.change {
            let step = bits.read_varbit_int()?;
            self.distance = if index == self.change {
                step
            } else {
                self.distance.wrapping_add(step)
            };
            self.start = previous.wrapping_sub(self.distance);
        }
        Ok(self.start)
    }
}
