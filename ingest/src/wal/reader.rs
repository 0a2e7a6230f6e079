//! Walks the records of a segment or image, over damage if there is some.
//!
//! Behind the last record there may be zeros that no record went over yet. Three things can be wrong. The file may end inside a record:
//! a write that a crash tore, which nobody was told of. One byte of a record may be wrong: it is mended. More may be wrong: the walk goes
//! on at the next record that is whole, and what lies between is reported.

use super::{
    format::{RECORD_HEADER_BYTES, RecordHeader, crc_matches},
    repair,
};
use std::borrow::Cow;

/// How far behind the last sequence number the next record may be; a larger step is not believed when searching.
const SEQUENCE_STEP_MAX: u64 = 1 << 24;

/// What a walk met besides good records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wounds {
    /// Records of which one byte was wrong.
    pub(crate) mended: u64,
    /// Places where records were lost.
    pub(crate) gaps: u64,
    /// Bytes lost there.
    pub(crate) gap_bytes: u64,
    /// Bytes of a torn write at the end.
    pub(crate) torn_bytes: u64,
}

impl Wounds {
    /// Adds those of another walk.
    pub(crate) fn add(&mut self, other: Wounds) {
        self.mended += other.mended;
        self.gaps += other.gaps;
        self.gap_bytes += other.gap_bytes;
        self.torn_bytes += other.torn_bytes;
    }
}

/// A record that matches its checksums.
#[derive(Debug, Clone)]
pub(crate) struct Record<'a> {
    pub(crate) header: RecordHeader,
    /// The whole record; borrowed from the file unless it was mended.
    bytes: Cow<'a, [u8]>,
    /// Where it lies in the file.
    pub(crate) offset: usize,
}

impl Record<'_> {
    /// What the record holds.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[RECORD_HEADER_BYTES..]
    }

    /// Header and payload.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Header and payload, when they are not what the file holds.
    pub(crate) fn mended(&self) -> Option<Vec<u8>> {
        match &self.bytes {
            Cow::Borrowed(_) => None,
            Cow::Owned(mended) => Some(mended.clone()),
        }
    }
}

/// Where a walk is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    offset: usize,
    last_sequence: u64,
    wounds: Wounds,
}

/// The records of one file in order.
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    offset: usize,
    /// Sequence number of the record before; what comes must be greater.
    last_sequence: u64,
    wounds: Wounds,
    /// Zeros at the end, over which no record went.
    unused: usize,
}

impl<'a> Records<'a> {
    /// Walks `bytes` from `offset` (behind the header of the file); records have sequence numbers behind `last_sequence`.
    pub(crate) fn new(bytes: &'a [u8], offset: usize, last_sequence: u64) -> Self {
        Self {
            bytes,
            offset: offset.min(bytes.len()),
            last_sequence,
            wounds: Wounds::default(),
            unused: 0,
        }
    }

    /// Where the walk is.
    pub(crate) fn place(&self) -> Place {
        Place {
            offset: self.offset,
            last_sequence: self.last_sequence,
            wounds: self.wounds,
        }
    }

    /// Goes on where another walk of the same bytes was.
    pub(crate) fn resume(bytes: &'a [u8], place: Place) -> Self {
        Self {
            wounds: place.wounds,
            ..Self::new(bytes, place.offset, place.last_sequence)
        }
    }

    /// What was wrong so far; complete after the last record.
    pub(crate) fn wounds(&self) -> Wounds {
        self.wounds
    }

    /// Where the last good record ends.
    pub(crate) fn good_end(&self) -> usize {
        self.bytes.len() - self.unused - self.wounds.torn_bytes as usize
    }

    /// Where the next record begins.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Goes on behind whatever is wrong at `offset`.
    fn recover(&mut self) -> Option<Record<'a>> {
        let begin = self.offset;
        let rest = &self.bytes[begin..];
        let Some(solid) = rest.iter().rposition(|byte| *byte != 0) else {
            return self.end(begin);
        };
        let next = self.find_next(begin + 1);
        // Without a record behind it, only a record that fills the file up to the zeros may be mended; anything else is a torn write.
        let fills = |end: &usize| *end > begin + solid;
        if let Some(end) = next.or_else(|| self.claimed_end(begin).filter(fills))
            && let Some(mended) = repair::mend(&self.bytes[begin..end])
            && let Some(header) = RecordHeader::decode(&mended).filter(|header| self.follows(header))
        {
            self.wounds.mended += 1;
            return Some(self.accept(begin, end, header, Cow::Owned(mended)));
        }
        match next {
            Some(next) => {
                self.wounds.gaps += 1;
                self.wounds.gap_bytes += (next - begin) as u64;
                self.offset = next;
                self.next()
            }
            None => {
                self.wounds.torn_bytes += solid as u64 + 1;
                self.end(begin + solid + 1)
            }
        }
    }

    /// Ends the walk: from `unused` on there are only zeros.
    fn end(&mut self, unused: usize) -> Option<Record<'a>> {
        self.unused = self.bytes.len() - unused;
        self.offset = self.bytes.len();
        None
    }

    /// Where the next whole record at or behind `from` begins.
    fn find_next(&self, from: usize) -> Option<usize> {
        // Mostly the length of the damaged record is right, and then exactly one number is missing.
        let follows = |end: &usize| {
            self.whole_record_at(*end)
                .is_some_and(|(header, _)| header.sequence == self.last_sequence + 2)
        };
        let claimed = self.claimed_end(self.offset).filter(follows);
        claimed.or_else(|| (from..self.bytes.len()).find(|&offset| self.whole_record_at(offset).is_some()))
    }

    fn claimed_end(&self, offset: usize) -> Option<usize> {
        let header = RecordHeader::decode(self.bytes.get(offset..)?)?;
        Some(offset + RECORD_HEADER_BYTES + header.payload_len as usize).filter(|&end| end <= self.bytes.len())
    }

    /// Header and end of the record at `offset` if it is whole and its number plausible.
    fn whole_record_at(&self, offset: usize) -> Option<(RecordHeader, usize)> {
        let header = RecordHeader::decode(self.bytes.get(offset..)?)?;
        let end = offset + RECORD_HEADER_BYTES + header.payload_len as usize;
        let record = self.bytes.get(offset..end)?;
        (self.follows(&header) && crc_matches(record)).then_some((header, end))
    }

    fn follows(&self, header: &RecordHeader) -> bool {
        header.sequence > self.last_sequence && header.sequence - self.last_sequence <= SEQUENCE_STEP_MAX
    }

    fn accept(&mut self, begin: usize, end: usize, header: RecordHeader, bytes: Cow<'a, [u8]>) -> Record<'a> {
        self.offset = end;
        self.last_sequence = header.sequence;
        Record {
            header,
            bytes,
            offset: begin,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.offset >= self.bytes.len() {
            return None;
        }
        match self.whole_record_at(self.offset) {
            Some((header, end)) => {
                let begin = self.offset;
                Some(self.accept(begin, end, header, Cow::Borrowed(&self.bytes[begin..end])))
            }
            None => self.recover(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::format::RecordKind;
    use proptest::prelude::*;

    fn file(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
        for (index, payload) in payloads.iter().enumerate() {
            offsets.push(bytes.len());
            let header = RecordHeader::new(payload.len(), index as u64 + 1, RecordKind::Floats, 0);
            bytes.extend_from_slice(&header.encode(payload));
            bytes.extend_from_slice(payload);
        }
        (bytes, offsets)
    }

    fn walk(bytes: &[u8]) -> (Vec<(u64, Vec<u8>)>, Wounds) {
        let mut records = Records::new(bytes, 0, 0);
        let found = records
            .by_ref()
            .map(|record| (record.header.sequence, record.payload().to_vec()))
            .collect();
        (found, records.wounds())
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..8)
    }

    proptest! {
        #[test]
        fn a_file_cut_anywhere_gives_the_records_before_the_cut(payloads in payloads()) {
            let (bytes, mut offsets) = file(&payloads);
            offsets.push(bytes.len());
            for cut in 0..=bytes.len() {
                let whole = offsets.iter().filter(|&&offset| offset <= cut).count() - 1;
                let (found, wounds) = walk(&bytes[..cut]);
                prop_assert_eq!(found.len(), whole);
                // Zeros at the end could be those that go ahead of the records.
                let torn = &bytes[offsets[whole]..cut];
                let solid = torn.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                prop_assert_eq!(wounds.torn_bytes as usize, solid);
                prop_assert_eq!((wounds.gaps, wounds.mended), (0, 0));
            }
        }

        #[test]
        fn zeros_behind_the_records_are_no_damage(payloads in payloads(), zeros in 0..100usize, place in any::<usize>(), error in 1..=255u8) {
            let (mut bytes, offsets) = file(&payloads);
            let end = bytes.len();
            bytes.resize(end + zeros, 0);
            let mut records = Records::new(&bytes, 0, 0);
            prop_assert_eq!(records.by_ref().count(), payloads.len());
            prop_assert_eq!((records.wounds(), records.good_end()), (Wounds::default(), end));
            // Torn in the middle of the last one, of which nothing may be missing if it ends with zeros.
            let last = *offsets.last().unwrap();
            let cut = last + place % (end - last);
            let mut torn = bytes.clone();
            torn[cut..].fill(0);
            let mut records = Records::new(&torn, 0, 0);
            let found = records.by_ref().count();
            prop_assert!(found >= payloads.len() - 1);
            prop_assert_eq!(records.wounds().gaps, 0);
            if found < payloads.len() {
                prop_assert_eq!(records.good_end(), last);
            }
            // A wrong byte in it is mended all the same, but for its length and its kind, without which it is no record.
            let mut flipped = bytes.clone();
            let place = 4 + place % (end - last - 4);
            prop_assume!(place != 12);
            flipped[last + place] ^= error;
            let (found, wounds) = walk(&flipped);
            let expected: Vec<_> = (1..).zip(payloads.clone()).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!((wounds.torn_bytes, wounds.gaps), (0, 0));
        }

        #[test]
        fn a_flipped_byte_costs_nothing(payloads in payloads(), place in any::<usize>(), error in 1..=255u8) {
            let (mut bytes, _) = file(&payloads);
            let place = place % bytes.len();
            bytes[place] ^= error;
            let (found, wounds) = walk(&bytes);
            let last = bytes.len() - RECORD_HEADER_BYTES - payloads.last().unwrap().len();
            if place < last || wounds.torn_bytes == 0 {
                let expected: Vec<_> = (1..).zip(payloads.clone()).collect();
                prop_assert_eq!(found, expected);
            } else {
                // The length of the last record cannot be told from a torn write.
                prop_assert_eq!(found.len(), payloads.len() - 1);
            }
        }

        #[test]
        fn wrecked_bytes_cost_only_the_records_they_are_in(payloads in payloads(), at in any::<usize>(), len in 2..40usize) {
            let (mut bytes, offsets) = file(&payloads);
            let begin = at % bytes.len();
            let end = (begin + len).min(bytes.len());
            bytes[begin..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
            let (found, _) = walk(&bytes);
            let mut borders = offsets.clone();
            borders.push(bytes.len());
            for (index, payload) in payloads.iter().enumerate() {
                if borders[index + 1] <= begin || borders[index] >= end {
                    prop_assert!(found.contains(&(index as u64 + 1, payload.clone())), "record {} is gone", index);
                }
            }
            for (sequence, payload) in found {
                prop_assert_eq!(&payload, &payloads[sequence as usize - 1]);
            }
        }

        #[test]
        fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            walk(&bytes);
        }
    }
}
