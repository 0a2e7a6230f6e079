//! The near end of the WAL: records are encoded here, in memory, in the order in which they count.
//!
//! The commit owns it through one lock. What was encoded waits in parts until the writer takes it.

use super::{
    floats::{FloatsEncoder, FloatsScratch},
    format::{RECORD_HEADER_BYTES, RecordHeader, RecordKind},
};

/// Encoded records that belong to one segment.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Whether a new segment begins with this part.
    pub(crate) fresh: bool,
    pub(crate) bytes: Vec<u8>,
    /// Sequence number of the first record; for an empty part the one that the next record will have.
    pub(crate) first_sequence: u64,
    /// Sequence number of the last record, or of the last one before an empty part.
    pub(crate) last_sequence: u64,
}

/// Encodes records.
#[derive(Debug)]
pub(crate) struct Log {
    /// Number of the last record.
    sequence: u64,
    /// Counts the segments that stand on their own. A series refers to its previous value only when that was written in
    /// the same epoch.
    epoch: u32,
    /// Bytes encoded for the current segment.
    segment_bytes: u64,
    segment_bytes_max: u64,
    /// What was not taken yet; records are added to the last part.
    parts: Vec<Part>,
    /// Bytes in `parts`.
    pending_bytes: usize,
    /// A buffer that comes back from the writer, to be used again.
    spare: Vec<u8>,
    scratch: FloatsScratch,
}

/// Buffers above are not kept for use again.
const SPARE_BYTES_MAX: usize = 8 << 20;

impl Log {
    /// A log whose first record has the number behind `sequence` and begins a segment.
    pub(crate) fn new(sequence: u64, segment_bytes_max: u64) -> Self {
        let mut log = Self {
            sequence,
            epoch: 0,
            segment_bytes: 0,
            segment_bytes_max,
            parts: Vec::new(),
            pending_bytes: 0,
            spare: Vec::new(),
            scratch: FloatsScratch::default(),
        };
        log.roll();
        log
    }

    /// Number of the last record.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The current epoch, from 1.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Bytes that the writer has not taken yet.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Begins a new segment, which stands on its own.
    pub(crate) fn roll(&mut self) {
        self.epoch += 1;
        self.segment_bytes = 0;
        self.push_part(true);
    }

    fn push_part(&mut self, fresh: bool) {
        let (first_sequence, last_sequence) = (self.sequence + 1, self.sequence);
        self.parts.push(Part {
            fresh,
            bytes: std::mem::take(&mut self.spare),
            first_sequence,
            last_sequence,
        });
    }

    /// Makes room for records of one commit: begins a new segment when the current one is full.
    pub(crate) fn prepare(&mut self) {
        if self.segment_bytes >= self.segment_bytes_max {
            self.roll();
        } else if self.parts.is_empty() {
            self.push_part(false);
        }
    }

    /// Adds a record with the payload that `write` adds to the buffer. [`Self::prepare`] comes first.
    pub(crate) fn record(&mut self, kind: RecordKind, durable: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.begin();
        if let Some(part) = self.parts.last_mut() {
            write(&mut part.bytes);
        }
        self.end(begin, kind, durable);
    }

    /// Reserves the header of a record and tells where the record begins.
    pub(crate) fn begin(&mut self) -> usize {
        self.prepare_part();
        let Some(part) = self.parts.last_mut() else { return 0 };
        let begin = part.bytes.len();
        part.bytes.resize(begin + RECORD_HEADER_BYTES, 0);
        begin
    }

    fn prepare_part(&mut self) {
        if self.parts.is_empty() {
            self.push_part(false);
        }
    }

    /// The encoder for the float record that was begun.
    pub(crate) fn floats(&mut self) -> FloatsEncoder<'_> {
        self.prepare_part();
        let part = self.parts.last_mut().expect("a part was just made");
        FloatsEncoder::new(&mut part.bytes, &mut self.scratch)
    }

    /// Completes the record that was begun at `begin`.
    pub(crate) fn end(&mut self, begin: usize, kind: RecordKind, durable: u64) {
        let Some(part) = self.parts.last_mut() else { return };
        let (front, payload) = part.bytes.split_at_mut(begin + RECORD_HEADER_BYTES);
        self.sequence += 1;
        let header = RecordHeader::new(payload.len(), self.sequence, kind, durable);
        front[begin..].copy_from_slice(&header.encode(payload));
        part.last_sequence = self.sequence;
        let added = part.bytes.len() - begin;
        self.segment_bytes += added as u64;
        self.pending_bytes += added;
    }

    /// Drops the record that was begun at `begin`.
    pub(crate) fn abandon(&mut self, begin: usize) {
        if let Some(part) = self.parts.last_mut() {
            part.bytes.truncate(begin);
        }
    }

    /// Hands over everything that was encoded.
    pub(crate) fn take(&mut self) -> Vec<Part> {
        self.pending_bytes = 0;
        std::mem::take(&mut self.parts)
    }

    /// Gives a buffer back for use again.
    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.capacity() < buffer.capacity() && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.spare = buffer;
        }
    }
}
