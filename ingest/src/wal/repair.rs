//! Mends a record of which one byte is wrong.
//!
//! A CRC is linear: the checksum that was stored and the one that the bytes have now differ by the checksum of the error
//! alone, wherever the rest of the record comes from. Walking that difference back byte by byte tells where an error
//! of one byte would have to lie and which. The second checksum, of another kind, confirms it, so nothing is guessed.

use super::format::{
    PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, computed_crc, crc_matches, second_check, second_matches, stored,
};

/// The reflected Castagnoli polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Checksum of each single byte, without initial and final inversion.
const TABLE: [u32; 256] = table();

/// Which byte has the checksum whose top byte is the index: each top byte occurs once.
const BYTE_OF_TOP: [u8; 256] = byte_of_top();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

const fn byte_of_top() -> [u8; 256] {
    let mut bytes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        bytes[(TABLE[byte] >> 24) as usize] = byte as u8;
        byte += 1;
    }
    bytes
}

/// The record that `bytes` (header, payload, nothing behind) was before one byte of it was changed; `None` when the damage is
/// another. `bytes` must be known to reach from the beginning of the record to the beginning of the next.
pub(crate) fn mend(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < RECORD_HEADER_BYTES || bytes.len() - RECORD_HEADER_BYTES > PAYLOAD_BYTES_MAX {
        return None;
    }
    let mut record = bytes.to_vec();
    // The length is known from where the next record begins.
    let payload_len = (bytes.len() - RECORD_HEADER_BYTES) as u32;
    record[..4].copy_from_slice(&payload_len.to_le_bytes());
    if crc_matches(&record) {
        // Either the length was wrong, or the second checksum is.
        let second = second_check(&record[..16], &record[RECORD_HEADER_BYTES..]);
        record[20..24].copy_from_slice(&second.to_le_bytes());
        return Some(record);
    }
    if second_matches(&record) {
        // The CRC itself was hit.
        let crc = computed_crc(&record);
        record[16..20].copy_from_slice(&crc.to_le_bytes());
        return Some(record);
    }
    let difference = stored(&record, 16)? ^ computed_crc(&record);
    let (distance, error) = locate(difference, record.len() - 8)?;
    // The CRC covers the first 16 bytes and the payload, but not the two checksums between them.
    let covered = record.len() - 8 - 1 - distance;
    let offset = if covered < 16 { covered } else { covered + 8 };
    record[offset] ^= error;
    (crc_matches(&record) && second_matches(&record)).then_some(record)
}

/// How many bytes before the end an error of one byte lies, and what it is, when it changed the CRC of `len` bytes by `difference`.
fn locate(mut difference: u32, len: usize) -> Option<(usize, u8)> {
    for distance in 0..len {
        let byte = BYTE_OF_TOP[(difference >> 24) as usize];
        let before = difference ^ TABLE[usize::from(byte)];
        if before == 0 {
            return (byte != 0).then_some((distance, byte));
        }
        difference = before << 8 | u32::from(byte);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{
        super::format::{RecordHeader, RecordKind},
        *,
    };

    fn record(payload: &[u8]) -> Vec<u8> {
        let header = RecordHeader::new(payload.len(), 42, RecordKind::Floats, 40);
        [&header.encode(payload)[..], payload].concat()
    }

    #[test]
    fn any_single_wrong_byte_is_mended() {
        let payload: Vec<u8> = (0..700u32).map(|i| ((i * i) >> 3) as u8).collect();
        let good = record(&payload);
        for offset in 0..good.len() {
            for error in [1, 0x80, 0xff, (offset % 255) as u8 + 1] {
                let mut broken = good.clone();
                broken[offset] ^= error;
                assert_eq!(mend(&broken).as_deref(), Some(&good[..]), "byte {offset} error {error}");
            }
        }
    }

    #[test]
    fn larger_damage_is_left_alone() {
        let payload: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
        let good = record(&payload);
        for offset in (24..good.len() - 40).step_by(97) {
            let mut broken = good.clone();
            broken[offset] ^= 0x11;
            broken[offset + 33] ^= 0x11;
            assert_eq!(mend(&broken), None, "bytes {offset}");
        }
        assert_eq!(mend(&[0; 10]), None);
    }
}
