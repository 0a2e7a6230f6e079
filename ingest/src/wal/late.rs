//! Out-of-order records: samples that were older than the newest of their series. `WAL.md` draws the record.
//!
//! Each sample stands for itself, so damage elsewhere in the log never costs one of them.

use super::histograms::{put_histogram_body, read_histogram};
use crate::{
    codec::{Cursor, Damage, put_varint},
    head::late::LateValue,
};
use model::time::Timestamp;
use std::sync::Arc;

const KIND_FLOAT: u8 = 0;
const KIND_HISTOGRAM: u8 = 1;

/// A sample in a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LateEntry {
    pub(crate) number: u64,
    pub(crate) at: Timestamp,
    pub(crate) value: LateValue,
}

/// Writes the payload of one record.
#[derive(Debug, Default)]
pub(crate) struct LateEncoder {
    payload: Vec<u8>,
    number: u64,
    at: Timestamp,
    samples: u64,
}

impl LateEncoder {
    /// Adds a sample.
    pub(crate) fn push(&mut self, number: u64, at: Timestamp, value: &LateValue) {
        put_varint(&mut self.payload, number.wrapping_sub(self.number) as i64);
        put_varint(&mut self.payload, at.wrapping_sub(self.at));
        (self.number, self.at) = (number, at);
        self.samples += 1;
        match value {
            LateValue::Float(bits) => {
                self.payload.push(KIND_FLOAT);
                self.payload.extend_from_slice(&bits.to_le_bytes());
            }
            LateValue::Histogram(histogram) => {
                self.payload.push(KIND_HISTOGRAM);
                put_histogram_body(&mut self.payload, histogram);
            }
        }
    }

    /// Samples so far.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// The payload so far.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// Reads the payload of a record.
pub(crate) fn decode_late(payload: &[u8]) -> Result<Vec<LateEntry>, Damage> {
    let mut cursor = Cursor::new(payload);
    let (mut all, mut number, mut at) = (Vec::new(), 0u64, 0i64);
    while !cursor.is_empty() {
        number = number.wrapping_add(cursor.varint()? as u64);
        at = at.wrapping_add(cursor.varint()?);
        let value = match cursor.u8()? {
            KIND_FLOAT => LateValue::Float(cursor.u64()?),
            KIND_HISTOGRAM => LateValue::Histogram(Arc::new(read_histogram(&mut cursor)?)),
            _ => return Err(Damage("a late sample is of a kind that is not known")),
        };
        all.push(LateEntry { number, at, value });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::histogram::Histogram;

    #[test]
    fn late_samples_come_back_and_cut_ones_do_not() {
        let mut encoder = LateEncoder::default();
        let histogram = Histogram {
            integer: true,
            count: 3.0,
            sum: 1.5,
            ..Histogram::default()
        };
        let values = [
            LateValue::Float(f64::NAN.to_bits()),
            LateValue::Histogram(Arc::new(histogram)),
            LateValue::Float(model::sample::STALE_NAN_BITS),
        ];
        let all: Vec<_> = (0..60u64)
            .map(|index| LateEntry {
                number: [7, 3, u64::MAX][index as usize / 20],
                at: [-5, 1_700_000_000_000, i64::MAX][index as usize % 3].wrapping_add(index as i64),
                value: values[index as usize % 3].clone(),
            })
            .collect();
        all.iter()
            .for_each(|entry| encoder.push(entry.number, entry.at, &entry.value));
        assert_eq!(encoder.samples(), 60);
        assert_eq!(decode_late(encoder.payload()), Ok(all));
        for end in 0..encoder.payload().len() {
            let _ = decode_late(&encoder.payload()[..end]);
        }
    }
}
