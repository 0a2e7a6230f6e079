//! A series of a StoreAPI answer, between our nouns and bytes.
//!
//! Labels are written and read in place and chunks stay the bytes that they are, so that a series passes through a process
//! without a chunk being decoded or a label being allocated on its own.

use crate::protobuf::{Fault, Reader, WireError, put_bytes, put_integer, put_tag, put_varint, wire};
use bytes::Bytes;
use model::{
    label::{Labels, LabelsBuilder},
    select::Chunk,
};

/// A series as it came over the wire: labels, and chunks that nobody has looked into.
#[derive(Debug, Clone, PartialEq)]
pub struct WireSeries {
    /// Its labels.
    pub labels: Labels,
    /// Its chunks in the order in which they came.
    pub chunks: Vec<Chunk>,
}

/// Why a series cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeriesError {
    /// The bytes are no such message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The labels are no label set.
    #[error("{0}")]
    Labels(String),
    /// A chunk holds aggregates of downsampled data, which were not asked for.
    #[error("the chunk from {0} on holds no raw samples")]
    Downsampled(i64),
}

/// Size of a varint.
fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Size of a field that carries so many bytes.
fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Writes a series with these of its chunks.
pub(crate) fn encode(labels: &Labels, chunks: &[Chunk]) -> Bytes {
    let most: usize = chunks.iter().map(|chunk| chunk.data.len() + 48).sum();
    let mut out = Vec::with_capacity(labels.text_len() + 8 * labels.len() + most);
    for (name, value) in labels.iter() {
        put_tag(&mut out, 1, wire::BYTES);
        put_varint(&mut out, (field_len(name.len()) + field_len(value.len())) as u64);
        put_bytes(&mut out, 1, name.as_bytes());
        put_bytes(&mut out, 2, value.as_bytes());
    }
    for chunk in chunks {
        put_aggregate(&mut out, chunk);
    }
    Bytes::from(out)
}

/// Writes a chunk with its times. Its type is the block format's encoding byte less one.
fn put_aggregate(out: &mut Vec<u8>, chunk: &Chunk) {
    let kind = u64::from(chunk.encoding.saturating_sub(1));
    let raw_len = 1 + varint_len(kind) + field_len(chunk.data.len());
    let (min_time, max_time) = (chunk.min_time as u64, chunk.max_time as u64);
    let len = 1 + varint_len(min_time) + 1 + varint_len(max_time) + field_len(raw_len);
    put_tag(out, 2, wire::BYTES);
    put_varint(out, len as u64);
    put_integer(out, 1, min_time);
    put_integer(out, 2, max_time);
    put_tag(out, 3, wire::BYTES);
    put_varint(out, raw_len as u64);
    put_integer(out, 1, kind);
    put_bytes(out, 2, &chunk.data);
}

/// Reads a series; chunk data share the memory of `bytes`.
pub(crate) fn decode(bytes: &Bytes, builder: &mut LabelsBuilder) -> Result<WireSeries, SeriesError> {
    let mut reader = Reader::new(bytes);
    let mut chunks = Vec::new();
    let within = |fault: Fault| fault.within("thanos.Series");
    while let Some(tag) = reader.tag().map_err(within)? {
        match tag.field {
            1 => {
                tag.expect(wire::BYTES).map_err(within)?;
                read_label(reader.bytes().map_err(within)?, builder)?;
            }
            2 => {
                tag.expect(wire::BYTES).map_err(within)?;
                chunks.push(read_aggregate(reader.bytes().map_err(within)?, bytes)?);
            }
            _ => reader.skip(tag).map_err(within)?,
        }
    }
    let labels = builder
        .build()
        .map_err(|error| SeriesError::Labels(error.to_string()))?;
    Ok(WireSeries { labels, chunks })
}

fn read_label(bytes: &[u8], builder: &mut LabelsBuilder) -> Result<(), SeriesError> {
    let within = |fault: Fault| fault.within("thanos.Label");
    let mut reader = Reader::new(bytes);
    let (mut name, mut value) = (&[][..], &[][..]);
    while let Some(tag) = reader.tag().map_err(within)? {
        match tag.field {
            1 | 2 => {
                tag.expect(wire::BYTES).map_err(within)?;
                let text = reader.bytes().map_err(within)?;
                if tag.field == 1 { name = text } else { value = text }
            }
            _ => reader.skip(tag).map_err(within)?,
        }
    }
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| SeriesError::Labels("a label is not UTF-8".to_owned()));
    builder.push(text(name)?, text(value)?);
    Ok(())
}

fn read_aggregate(bytes: &[u8], whole: &Bytes) -> Result<Chunk, SeriesError> {
    let within = |fault: Fault| fault.within("thanos.AggrChunk");
    let mut reader = Reader::new(bytes);
    let (mut min_time, mut max_time, mut raw) = (0, 0, None);
    while let Some(tag) = reader.tag().map_err(within)? {
        match tag.field {
            1 | 2 => {
                tag.expect(wire::VARINT).map_err(within)?;
                let time = reader.varint().map_err(within)? as i64;
                if tag.field == 1 {
                    min_time = time
                } else {
                    max_time = time
                }
            }
            3 => {
                tag.expect(wire::BYTES).map_err(within)?;
                raw = Some(reader.bytes().map_err(within)?);
            }
            _ => reader.skip(tag).map_err(within)?,
        }
    }
    let (encoding, data) = read_chunk(raw.ok_or(SeriesError::Downsampled(min_time))?)?;
    Ok(Chunk {
        min_time,
        max_time,
        encoding,
        data: whole.slice_ref(data),
    })
}

fn read_chunk(bytes: &[u8]) -> Result<(u8, &[u8]), SeriesError> {
    let within = |fault: Fault| fault.within("thanos.Chunk");
    let mut reader = Reader::new(bytes);
    let (mut kind, mut data) = (0, &[][..]);
    while let Some(tag) = reader.tag().map_err(within)? {
        match tag.field {
            1 => {
                tag.expect(wire::VARINT).map_err(within)?;
                kind = reader.varint().map_err(within)?;
            }
            2 => {
                tag.expect(wire::BYTES).map_err(within)?;
                data = reader.bytes().map_err(within)?;
            }
            _ => reader.skip(tag).map_err(within)?,
        }
    }
    // What is too large for an encoding byte is unknown to the decoder as well, which says so.
    Ok((u8::try_from(kind.saturating_add(1)).unwrap_or(u8::MAX), data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(min_time: i64, max_time: i64, encoding: u8, data: &'static [u8]) -> Chunk {
        Chunk {
            min_time,
            max_time,
            encoding,
            data: Bytes::from_static(data),
        }
    }

    #[test]
    fn a_series_has_the_bytes_of_the_published_interface() {
        let labels = Labels::new([("a", "1")]).unwrap();
        let bytes = encode(&labels, &[chunk(1, 300, 2, b"xy")]);
        let expected = [
            0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'1', // label
            0x12, 13, 0x08, 1, 0x10, 0xac, 0x02, 0x1a, 6, 0x08, 1, 0x12, 2, b'x', b'y',
        ];
        assert_eq!(&bytes[..], expected);
    }

    #[test]
    fn downsampled_chunks_are_not_taken_for_raw_ones() {
        // Only the field of sums.
        let bytes = Bytes::from_static(&[0x12, 8, 0x08, 7, 0x2a, 4, 0x12, 2, b'x', b'y']);
        assert_eq!(
            decode(&bytes, &mut LabelsBuilder::default()),
            Err(SeriesError::Downsampled(7))
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            labels in proptest::collection::btree_map("[a-z]{1,4}", "[ -ü]{1,200}", 0..5),
            times in proptest::collection::vec((any::<i64>(), any::<i64>(), 1u8..7), 0..4),
        ) {
            let labels = Labels::new(labels).unwrap();
            let chunks: Vec<Chunk> = times.into_iter().map(|(min, max, kind)| chunk(min, max, kind, b"some bytes")).collect();
            let read = decode(&encode(&labels, &chunks), &mut LabelsBuilder::default()).unwrap();
            prop_assert_eq!(read, WireSeries { labels, chunks });
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&Bytes::from(bytes), &mut LabelsBuilder::default());
        }
    }
}
