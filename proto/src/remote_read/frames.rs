//! The streamed answer: frames, each a `prometheus.ChunkedReadResponse` with one series, or a part of one.
//!
//! ```text
//! ┌───────────────┬──────────────────────────────────┬─────────┐
//! │ length uvarint│ CRC-32C of the message, 4 bytes BE│ message │
//! └───────────────┴──────────────────────────────────┴─────────┘
//! ```

use crate::protobuf::{Fault, Reader, Tag, WireError, put_bytes, put_integer, put_varint, wire};
use model::{label::Labels, select::Chunk};

/// Bytes of the checksum.
const CHECKSUM_BYTES: usize = 4;

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream ends inside a frame.
    #[error("the stream ends inside a frame")]
    Truncated,
    /// The frame is longer than the reader takes.
    #[error("a frame of {len} bytes is longer than the {max} that are read")]
    TooLong {
        /// What the frame claims.
        len: u64,
        /// What is taken.
        max: usize,
    },
    /// The message is not the one that was sent.
    #[error("the checksum of a frame does not match its message")]
    Checksum,
    /// The message is not what it should be.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What of a frame's bound is left for chunks when its labels are written: a bound counts labels and chunks.
pub fn frame_room(labels: &Labels, frame_bytes_max: usize) -> usize {
    frame_bytes_max.saturating_sub(labels.text_len() + 4 * labels.len())
}

/// Appends a frame with chunks of a series that answers query number `query`.
pub fn encode_frame(out: &mut Vec<u8>, query: usize, labels: &Labels, chunks: &[Chunk]) {
    let mut series = Vec::new();
    let mut part = Vec::new();
    for (name, value) in labels.iter() {
        part.clear();
        put_bytes(&mut part, 1, name.as_bytes());
        put_bytes(&mut part, 2, value.as_bytes());
        put_bytes(&mut series, 1, &part);
    }
    for chunk in chunks {
        part.clear();
        put_unless_zero(&mut part, 1, chunk.min_time as u64);
        put_unless_zero(&mut part, 2, chunk.max_time as u64);
        put_unless_zero(&mut part, 3, u64::from(chunk.encoding));
        put_bytes(&mut part, 4, &chunk.data);
        put_bytes(&mut series, 2, &part);
    }
    let mut message = Vec::with_capacity(series.len() + 16);
    put_bytes(&mut message, 1, &series);
    put_unless_zero(&mut message, 2, query as u64);
    put_varint(out, message.len() as u64);
    out.extend_from_slice(&crc32c::crc32c(&message).to_be_bytes());
    out.extend_from_slice(&message);
}

fn put_unless_zero(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_integer(out, field, value);
    }
}

/// A series of a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FramedSeries {
    /// Number of the query that it answers.
    pub query: u64,
    /// Name and value of each label, as they came.
    pub labels: Vec<(String, String)>,
    /// Some of its chunks, or all.
    pub chunks: Vec<Chunk>,
}

/// Reads the next frame and moves `rest` behind it; `None` at the end. A frame holds one series.
pub fn read_frame(rest: &mut &[u8], frame_bytes_max: usize) -> Result<Option<FramedSeries>, FrameError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(rest);
    let len = reader.varint().map_err(|_| FrameError::Truncated)?;
    let message_len = usize::try_from(len)
        .ok()
        .filter(|len| *len <= frame_bytes_max)
        .ok_or(FrameError::TooLong {
            len,
            max: frame_bytes_max,
        })?;
    let (checksum, tail) = reader
        .rest()
        .split_first_chunk::<CHECKSUM_BYTES>()
        .ok_or(FrameError::Truncated)?;
    let (message, tail) = tail.split_at_checked(message_len).ok_or(FrameError::Truncated)?;
    if crc32c::crc32c(message) != u32::from_be_bytes(*checksum) {
        return Err(FrameError::Checksum);
    }
    let series = decode_message(message).map_err(|fault| fault.within("ChunkedReadResponse"))?;
    *rest = tail;
    Ok(Some(series))
}

fn decode_message(message: &[u8]) -> Result<FramedSeries, Fault> {
    let mut framed = FramedSeries::default();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1 => decode_series(&mut framed, bytes(tag, &mut reader)?)?,
            2 => {
                tag.expect(wire::VARINT)?;
                framed.query = reader.varint()?;
            }
            _ => reader.skip(tag)?,
        }
    }
    Ok(framed)
}

fn decode_series(framed: &mut FramedSeries, message: &[u8]) -> Result<(), Fault> {
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1 => {
                let label = decode_label(bytes(tag, &mut reader)?)?;
                framed.labels.push(label);
            }
            2 => {
                let chunk = decode_chunk(bytes(tag, &mut reader)?)?;
                framed.chunks.push(chunk);
            }
            _ => reader.skip(tag)?,
        }
    }
    Ok(())
}

fn decode_label(message: &[u8]) -> Result<(String, String), Fault> {
    let mut label = (String::new(), String::new());
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match tag.field {
            1 => label.0 = text(bytes(tag, &mut reader)?),
            2 => label.1 = text(bytes(tag, &mut reader)?),
            _ => reader.skip(tag)?,
        }
    }
    Ok(label)
}

fn decode_chunk(message: &[u8]) -> Result<Chunk, Fault> {
    let mut chunk = Chunk {
        min_time: 0,
        max_time: 0,
        encoding: 0,
        data: Default::default(),
    };
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1..=3 => {
                tag.expect(wire::VARINT)?;
                let number = reader.varint()?;
                match tag.field {
                    1 => chunk.min_time = number as i64,
                    2 => chunk.max_time = number as i64,
                    _ => {
                        chunk.encoding = u8::try_from(number).map_err(|_| Fault::Enum {
                            field: tag.field,
                            number: number as i64,
                        })?;
                    }
                }
            }
            4 => chunk.data = bytes(tag, &mut reader)?.to_vec().into(),
            _ => reader.skip(tag)?,
        }
    }
    Ok(chunk)
}

fn bytes<'a>(tag: Tag, reader: &mut Reader<'a>) -> Result<&'a [u8], Fault> {
    tag.expect(wire::BYTES)?;
    reader.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(min_time: i64, encoding: u8) -> Chunk {
        Chunk {
            min_time,
            max_time: min_time + 1000,
            encoding,
            data: vec![1, 2, 3, min_time as u8].into(),
        }
    }

    fn frames() -> (Vec<u8>, Vec<FramedSeries>) {
        let labels = Labels::new([("__name__", "up"), ("job", "é")]).unwrap();
        let pairs = vec![("__name__".into(), "up".into()), ("job".into(), "é".into())];
        let mut out = Vec::new();
        encode_frame(&mut out, 0, &labels, &[chunk(-7, 1), chunk(1_700_000_000_000, 2)]);
        encode_frame(&mut out, 3, &Labels::empty(), &[]);
        let expected = vec![
            FramedSeries {
                query: 0,
                labels: pairs,
                chunks: vec![chunk(-7, 1), chunk(1_700_000_000_000, 2)],
            },
            FramedSeries {
                query: 3,
                ..FramedSeries::default()
            },
        ];
        (out, expected)
    }

    fn read_all(mut bytes: &[u8]) -> Result<Vec<FramedSeries>, FrameError> {
        let mut all = Vec::new();
        while let Some(series) = read_frame(&mut bytes, 1 << 20)? {
            all.push(series);
        }
        Ok(all)
    }

    #[test]
    fn frames_come_back() {
        let (bytes, expected) = frames();
        assert_eq!(read_all(&bytes), Ok(expected));
    }

    #[test]
    fn a_frame_has_the_bytes_that_the_protocol_says() {
        let mut out = Vec::new();
        encode_frame(
            &mut out,
            1,
            &Labels::new([("a", "b")]).unwrap(),
            &[Chunk {
                min_time: 0,
                max_time: 1,
                encoding: 1,
                data: vec![0xaa].into(),
            }],
        );
        // Zero is not written; fields stand in the order of their numbers.
        let message = [
            0x0a, 0x11, 0x0a, 0x06, 0x0a, 1, b'a', 0x12, 1, b'b', 0x12, 0x07, 0x10, 1, 0x18, 1, 0x22, 1, 0xaa, 0x10, 1,
        ];
        assert_eq!(out[0] as usize, message.len());
        assert_eq!(out[5..], message);
        // The checksum of the word that its definition gives as an example is the one it says.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(out[1..5], crc32c::crc32c(&message).to_be_bytes());
    }

    #[test]
    fn torn_damaged_and_huge_frames_are_errors() {
        let (bytes, _) = frames();
        assert_eq!(read_all(&bytes[..bytes.len() - 1]), Err(FrameError::Truncated));
        assert_eq!(read_all(&bytes[..3]), Err(FrameError::Truncated));
        let mut damaged = bytes.clone();
        damaged[10] ^= 1;
        assert_eq!(read_all(&damaged), Err(FrameError::Checksum));
        let error = read_all(&[0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read_all(&bytes);
            let _ = decode_message(&bytes);
        }
    }
}
