//! How segments and records are framed; `WAL.md` draws it. The writer makes frames with it, the reader checks them with it.

use crate::codec::{Cursor, Damage};
use xxhash_rust::xxh3::xxh3_64;

/// Begins every segment. The last byte is the version of the format.
const SEGMENT_MAGIC: [u8; 8] = *b"NTHXWAL1";

/// Begins every head image.
const IMAGE_MAGIC: [u8; 8] = *b"NTHXIMG1";

/// Bytes in front of the first record of a segment or image.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 40;

/// Bytes in front of each record's payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 24;

/// The largest payload that is believed. A batch is bounded far below by whoever decompressed it.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// Largest distance to the durable position that a record header can state.
const LAG_MAX: u64 = 0xff_ffff;

/// What a file of records is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Segment,
    Image,
}

impl FileKind {
    fn magic(self) -> [u8; 8] {
        match self {
            FileKind::Segment => SEGMENT_MAGIC,
            FileKind::Image => IMAGE_MAGIC,
        }
    }

    /// Name of the file with this number.
    pub(crate) fn file_name(self, number: u64) -> String {
        match self {
            FileKind::Segment => format!("{number:08}.wal"),
            FileKind::Image => format!("{number:08}.image"),
        }
    }

    /// The number in a file name, if it is one of ours.
    pub(crate) fn number_of(self, name: &str) -> Option<u64> {
        let digits = name.strip_suffix(match self {
            FileKind::Segment => ".wal",
            FileKind::Image => ".image",
        })?;
        let plain = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    }
}

/// What stands at the front of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Number of the segment, also in its name. An image has the number of the first segment that it does not cover.
    pub(crate) number: u64,
    /// Sequence number that its first record has.
    pub(crate) first_sequence: u64,
    /// Where the segment before it ends: what stands there behind this length was never acknowledged or stands here again.
    pub(crate) previous_end: u64,
    /// Whether values refer to those of the segment before. It happens when a write failed and what waited in memory went
    /// to a new segment; all others stand on their own.
    pub(crate) continues: bool,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, kind: FileKind) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(&kind.magic());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&u32::from(self.continues).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(kind: FileKind, bytes: &[u8]) -> Result<Self, Damage> {
        let mut cursor = Cursor::new(bytes);
        if cursor.array::<8>()? != kind.magic() {
            return Err(Damage(
                "the file does not begin like a segment of a version that is known",
            ));
        }
        let header = Self {
            number: cursor.u64()?,
            first_sequence: cursor.u64()?,
            previous_end: cursor.u64()?,
            continues: cursor.u32()? & 1 == 1,
        };
        if cursor.u32()? != crc32c::crc32c(&bytes[..SEGMENT_HEADER_BYTES - 4]) {
            return Err(Damage("the segment's header does not match its checksum"));
        }
        Ok(header)
    }
}

/// What a record holds. Numbers are part of the format and never used for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// New series: tenant, numbers, labels.
    Series = 1,
    /// Floats behind the newest sample of their series.
    Floats = 2,
    /// Metadata of metric families.
    Metadata = 3,
    /// Native histograms.
    Histograms = 4,
    /// Exemplars.
    Exemplars = 5,
    /// Deletions of time ranges of series.
    Tombstones = 6,
    /// Samples older than the newest of their series.
    OutOfOrder = 7,
    /// Image only: what the image stands for.
    ImageSummary = 32,
    /// Image only: the state of series and their chunks.
    ImageSeries = 33,
}

impl RecordKind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Series,
            2 => Self::Floats,
            3 => Self::Metadata,
            4 => Self::Histograms,
            5 => Self::Exemplars,
            6 => Self::Tombstones,
            7 => Self::OutOfOrder,
            32 => Self::ImageSummary,
            33 => Self::ImageSeries,
            _ => return None,
        })
    }
}

/// What stands in front of a record's payload, its two checksums apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) payload_len: u32,
    /// Counts the records through all segments.
    pub(crate) sequence: u64,
    pub(crate) kind: RecordKind,
    /// How many records before this one were not yet known to be durable when it was made, 0xffffff for "that many or
    /// more". Everything at or below `sequence - lag` was on the disk.
    pub(crate) lag: u32,
}

impl RecordHeader {
    /// The header of a record, for a lag that is cut to what fits.
    pub(crate) fn new(payload_len: usize, sequence: u64, kind: RecordKind, durable: u64) -> Self {
        let lag = sequence.saturating_sub(durable).min(LAG_MAX) as u32;
        Self {
            payload_len: payload_len as u32,
            sequence,
            kind,
            lag,
        }
    }

    /// The last sequence number that this record proves to be durable.
    pub(crate) fn proves_durable(&self) -> u64 {
        if u64::from(self.lag) == LAG_MAX {
            0
        } else {
            self.sequence.saturating_sub(u64::from(self.lag))
        }
    }

    /// Header and checksums for `payload`.
    pub(crate) fn encode(&self, payload: &[u8]) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0; RECORD_HEADER_BYTES];
        out[0..4].copy_from_slice(&self.payload_len.to_le_bytes());
        out[4..12].copy_from_slice(&self.sequence.to_le_bytes());
        out[12] = self.kind as u8;
        out[13..16].copy_from_slice(&self.lag.to_le_bytes()[..3]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..16]), payload);
        out[16..20].copy_from_slice(&crc.to_le_bytes());
        let second = second_check(&out[..16], payload);
        out[20..24].copy_from_slice(&second.to_le_bytes());
        out
    }

    /// Reads the fields without looking at the checksums; `None` when they cannot be those of a record.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes.get(..16)?);
        let payload_len = cursor.u32().ok()?;
        let sequence = cursor.u64().ok()?;
        let [kind, low, middle, high] = cursor.array().ok()?;
        let kind = RecordKind::of(kind)?;
        if payload_len as usize > PAYLOAD_BYTES_MAX {
            return None;
        }
        Some(Self {
            payload_len,
            sequence,
            kind,
            lag: u32::from_le_bytes([low, middle, high, 0]),
        })
    }
}

/// A hash beside the CRC, by which a repair is confirmed.
pub(crate) fn second_check(head: &[u8], payload: &[u8]) -> u32 {
    (xxh3_64(payload) ^ xxh3_64(head).rotate_left(32)) as u32
}

/// Whether `record` (header and payload, nothing behind) matches its CRC.
pub(crate) fn crc_matches(record: &[u8]) -> bool {
    stored(record, 16) == Some(computed_crc(record))
}

/// Whether `record` matches its second checksum.
pub(crate) fn second_matches(record: &[u8]) -> bool {
    record.len() >= RECORD_HEADER_BYTES
        && stored(record, 20) == Some(second_check(&record[..16], &record[RECORD_HEADER_BYTES..]))
}

/// The CRC that `record`, at least a header long, should have.
pub(crate) fn computed_crc(record: &[u8]) -> u32 {
    let head = record.get(..16).unwrap_or_default();
    let payload = record.get(RECORD_HEADER_BYTES..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(head), payload)
}

/// The number that `record` holds at `offset` of its header.
pub(crate) fn stored(record: &[u8], offset: usize) -> Option<u32> {
    let bytes = record.get(offset..offset + 4)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_flips_are_seen() {
        let header = SegmentHeader {
            number: 7,
            first_sequence: 100,
            previous_end: 4096,
            continues: true,
        };
        let bytes = header.encode(FileKind::Segment);
        assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES);
        assert_eq!(SegmentHeader::decode(FileKind::Segment, &bytes), Ok(header));
        assert!(SegmentHeader::decode(FileKind::Image, &bytes).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(FileKind::Segment, &broken).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_header_states_what_is_durable() {
        let header = RecordHeader::new(10, 1000, RecordKind::Floats, 990);
        assert_eq!(header.proves_durable(), 990);
        let decoded = RecordHeader::decode(&header.encode(&[0; 10])).unwrap();
        assert_eq!(decoded, header);
        let far = RecordHeader::new(10, u64::MAX, RecordKind::Floats, 5);
        assert_eq!(far.proves_durable(), 0);
    }

    #[test]
    fn names_are_recognised() {
        assert_eq!(FileKind::Segment.file_name(12), "00000012.wal");
        assert_eq!(FileKind::Segment.number_of("00000012.wal"), Some(12));
        assert_eq!(FileKind::Segment.number_of("123456789.wal"), Some(123_456_789));
        for name in [
            "12.wal",
            "00000012.tmp",
            "0000001x.wal",
            "+0000012.wal",
            "00000012.image",
        ] {
            assert_eq!(FileKind::Segment.number_of(name), None, "{name}");
        }
    }
}
