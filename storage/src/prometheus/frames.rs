//! Segments of Prometheus's log: pages of 32 KiB with fragments of records.
//!
//! ```text
//! fragment: type (bits 0-2: 0 end of page, 1 whole, 2 first, 3 middle, 4 last; bit 3 snappy; bit 4 zstd) | length (2) | CRC32C (4) | data
//! ```

use std::borrow::Cow;

/// Size of a page. No fragment crosses the end of one.
const PAGE_BYTES: usize = 32 << 10;

/// Bytes in front of a fragment's data.
const HEADER_BYTES: usize = 7;

/// A record of more bytes is not believed.
pub(super) const RECORD_BYTES_MAX: usize = 256 << 20;

/// How a record is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalCompression {
    /// The block format of snappy.
    Snappy,
    /// A zstd frame.
    Zstd,
}

/// Undoes a compression; `None` when the bytes make no sense or become too many. What can be decompressed is up to the caller.
pub(super) type Decompress<'a> = dyn FnMut(WalCompression, &[u8]) -> Option<Vec<u8>> + 'a;

/// What reading a segment met besides records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Damage {
    /// Places where something was lost.
    pub(super) places: u64,
    /// Whether the segment ends inside a record, as after a crash.
    pub(super) torn: bool,
}

/// Hands over each record of a segment. After damage it goes on with the next page.
pub(super) fn read_segment(bytes: &[u8], decompress: &mut Decompress<'_>, mut visit: impl FnMut(&[u8])) -> Damage {
    let mut damage = Damage::default();
    let mut record: Option<(u8, Vec<u8>)> = None;
    for page in bytes.chunks(PAGE_BYTES) {
        let mut rest = page;
        loop {
            match fragment(rest) {
                Fragment::End => break,
                Fragment::Torn => {
                    // A page that is whole and holds half a fragment was damaged; the last page may just not be complete.
                    if page.len() == PAGE_BYTES {
                        damage.places += 1;
                    } else {
                        damage.torn = true;
                    }
                    record = None;
                    break;
                }
                Fragment::Data { kind, data, len } => {
                    rest = &rest[len..];
                    let goes_on = add(&mut record, kind, data);
                    if !goes_on {
                        damage.places += 1;
                        record = None;
                    } else if kind & 7 == 1 || kind & 7 == 4 {
                        let (kind, whole) = record.take().unwrap_or_default();
                        match unpacked(kind, &whole, decompress) {
                            Some(content) => visit(&content),
                            None => damage.places += 1,
                        }
                    }
                }
            }
        }
    }
    damage.torn |= record.is_some();
    damage
}

enum Fragment<'a> {
    /// Nothing more in this page.
    End,
    /// What is there is no fragment.
    Torn,
    Data {
        kind: u8,
        data: &'a [u8],
        len: usize,
    },
}

fn fragment(rest: &[u8]) -> Fragment<'_> {
    let Some((&kind, _)) = rest.split_first() else {
        return Fragment::End;
    };
    if kind == 0 {
        return Fragment::End;
    }
    let Some(header) = rest.first_chunk::<HEADER_BYTES>() else {
        return Fragment::Torn;
    };
    let len = usize::from(u16::from_be_bytes([header[1], header[2]]));
    let crc = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
    let Some(data) = rest.get(HEADER_BYTES..HEADER_BYTES + len) else {
        return Fragment::Torn;
    };
    if crc32c::crc32c(data) != crc || kind & 7 > 4 {
        return Fragment::Torn;
    }
    Fragment::Data {
        kind,
        data,
        len: HEADER_BYTES + len,
    }
}

/// Adds a fragment to its record; `false` when it does not belong behind what is there.
fn add(record: &mut Option<(u8, Vec<u8>)>, kind: u8, data: &[u8]) -> bool {
    match (kind & 7, &mut *record) {
        (1 | 2, None) => *record = Some((kind, data.to_vec())),
        (3 | 4, Some((_, held))) if held.len() + data.len() <= RECORD_BYTES_MAX => held.extend_from_slice(data),
        _ => return false,
    }
    true
}

fn unpacked<'a>(kind: u8, bytes: &'a [u8], decompress: &mut Decompress<'_>) -> Option<Cow<'a, [u8]>> {
    let compression = match (kind & 8 != 0, kind & 16 != 0) {
        (false, false) => return Some(Cow::Borrowed(bytes)),
        (true, _) => WalCompression::Snappy,
        (false, true) => WalCompression::Zstd,
    };
    decompress(compression, bytes).map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lays records into pages as Prometheus does.
    pub(crate) fn segment(records: &[Vec<u8>]) -> Vec<u8> {
        let mut out: Vec<u8> = Vec::new();
        for record in records {
            let (mut rest, mut first) = (&record[..], true);
            loop {
                let left = PAGE_BYTES - out.len() % PAGE_BYTES;
                if left < HEADER_BYTES + 1 {
                    out.resize(out.len() + left, 0);
                    continue;
                }
                let len = rest.len().min(left - HEADER_BYTES);
                let (data, behind) = rest.split_at(len);
                let kind = match (first, behind.is_empty()) {
                    (true, true) => 1,
                    (true, false) => 2,
                    (false, false) => 3,
                    (false, true) => 4,
                };
                out.push(kind);
                out.extend((len as u16).to_be_bytes());
                out.extend(crc32c::crc32c(data).to_be_bytes());
                out.extend(data);
                (rest, first) = (behind, false);
                if rest.is_empty() {
                    break;
                }
            }
        }
        out
    }

    fn records() -> Vec<Vec<u8>> {
        let len = [10usize, 40_000, 1, 32_761, 32_754, 100_000, 7];
        len.iter()
            .map(|&len| (0..len).map(|index| (index * 7 + len) as u8).collect())
            .collect()
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Damage) {
        let mut read = Vec::new();
        let damage = read_segment(bytes, &mut |_, _| None, |record| read.push(record.to_vec()));
        (read, damage)
    }

    #[test]
    fn records_come_back_over_pages() {
        let mut bytes = segment(&records());
        assert_eq!(read(&bytes), (records(), Damage::default()));
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
        assert_eq!(read(&bytes), (records(), Damage::default()), "a padded page");
        for end in (0..bytes.len()).step_by(997) {
            let (found, _) = read(&bytes[..end]);
            assert_eq!(found[..], records()[..found.len()], "cut at {end}");
        }
    }

    #[test]
    fn damage_costs_what_is_damaged() {
        let (whole, mut seed) = (segment(&records()), 1u64);
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 20) as usize % bytes.len();
            bytes[at] ^= 1 << (seed >> 60 & 7);
            let (found, damage) = read(&bytes);
            assert!(
                found.iter().all(|record| records().contains(record)),
                "invented at {at}"
            );
            let lost = found.len() < records().len();
            assert!(!lost || damage != Damage::default(), "a loss at {at} is told");
        }
    }
}
