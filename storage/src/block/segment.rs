//! Chunk segments: files of chunks, one after the other.
//!
//! ```text
//! magic 85 BD 40 DD | version 1 | three zero bytes | chunk | chunk | …
//! chunk: length of data (uvarint) | encoding (1) | data | CRC32C of encoding and data (4)
//! ```

use crate::{
    chunk::put_uvarint,
    cursor::Cursor,
    index::ChunkRef,
    sink::{Durability, Sink},
};
use bytes::Bytes;
use model::{env::Fs, select::Chunk};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Largest segment that is written.
pub const SEGMENT_BYTES_MAX: u64 = 512 << 20;

/// Magic, version and padding at the start of a segment.
pub const SEGMENT_HEADER_BYTES: usize = 8;

const HEADER: [u8; SEGMENT_HEADER_BYTES] = [0x85, 0xBD, 0x40, 0xDD, 1, 0, 0, 0];

/// Name of segment number `segment`, counted from 0.
pub fn segment_name(segment: u32) -> String {
    format!("{:06}", u64::from(segment) + 1)
}

/// Checks how a segment begins.
pub(crate) fn check_header(segment: &[u8]) -> Result<(), FrameError> {
    match segment.first_chunk::<5>() {
        Some(start) if *start == HEADER[..5] => Ok(()),
        Some(_) => Err(FrameError::Header),
        None => Err(FrameError::Truncated {
            needed: SEGMENT_HEADER_BYTES,
        }),
    }
}

/// A chunk taken out of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkFrame {
    /// Its encoding byte.
    pub encoding: u8,
    /// Its data.
    pub data: Bytes,
    /// Bytes that it takes in the segment.
    pub len: usize,
}

/// Why no chunk can be taken out of a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The segment does not begin as it should.
    #[error("this is no chunk segment of version 1")]
    Header,
    /// The bytes end inside the chunk.
    #[error("the chunk is cut off, it needs {needed} bytes")]
    Truncated {
        /// How many bytes from its start on are needed.
        needed: usize,
    },
    /// The chunk's length makes no sense.
    #[error("the length of the chunk makes no sense")]
    Length,
    /// The chunk is not what was written.
    #[error("the chunk fails its checksum")]
    Checksum,
}

/// Takes out the chunk that begins at `offset` of `bytes`, sharing its memory.
pub fn read_frame(bytes: &Bytes, offset: usize) -> Result<ChunkFrame, FrameError> {
    // A length has at most five bytes.
    const LENGTH_BYTES: usize = 5;
    let rest = bytes
        .get(offset..)
        .ok_or(FrameError::Truncated { needed: LENGTH_BYTES })?;
    let mut cursor = Cursor::new(rest);
    let Some(len) = cursor.uvarint() else {
        let complete = rest.len() >= LENGTH_BYTES;
        return Err(if complete {
            FrameError::Length
        } else {
            FrameError::Truncated { needed: LENGTH_BYTES }
        });
    };
    let len = u32::try_from(len).map_err(|_| FrameError::Length)? as usize;
    let prefix = rest.len() - cursor.remaining();
    let total = prefix + 1 + len + 4;
    let truncated = FrameError::Truncated { needed: total };
    let content = cursor.take(1 + len).ok_or(truncated.clone())?;
    let sum = cursor.be32().ok_or(truncated)?;
    if crc32c::crc32c(content) != sum {
        return Err(FrameError::Checksum);
    }
    let start = offset + prefix + 1;
    Ok(ChunkFrame {
        encoding: content[0],
        data: bytes.slice(start..start + len),
        len: total,
    })
}

/// Writes chunks into as many segments as they need.
pub(crate) struct SegmentWriter {
    dir: PathBuf,
    segment_bytes_max: u64,
    /// Number of the current segment from 0, and the file.
    current: Option<(u32, Sink)>,
    /// Sizes of the segments that are complete.
    sizes: Vec<u64>,
    /// What stands in front of the data of a chunk.
    begin: Vec<u8>,
    chunk_max_size: u64,
}

impl SegmentWriter {
    /// Writes into the folder `dir`, which exists and is empty.
    pub(crate) fn new(dir: &Path, segment_bytes_max: u64) -> Self {
        let dir = dir.to_owned();
        Self {
            dir,
            segment_bytes_max,
            current: None,
            sizes: Vec::new(),
            begin: Vec::new(),
            chunk_max_size: 0,
        }
    }

    /// Appends a chunk, whose checksum is `sum`, and gives where it lies.
    pub(crate) fn write(&mut self, fs: &dyn Fs, chunk: &Chunk, sum: u32) -> io::Result<ChunkRef> {
        self.begin.clear();
        put_uvarint(&mut self.begin, chunk.data.len() as u64);
        self.begin.push(chunk.encoding);
        let len = (self.begin.len() + chunk.data.len() + 4) as u64;
        self.chunk_max_size = self.chunk_max_size.max(len);
        let full = |sink: &Sink| sink.position() + len > self.segment_bytes_max;
        let (number, mut sink) = match self.current.take() {
            Some((number, sink)) if !full(&sink) => (number, sink),
            before => {
                let number = before.as_ref().map_or(0, |(number, _)| number + 1);
                if let Some((_, sink)) = before {
                    self.sizes.push(sink.finish(Durability::Now)?);
                }
                let mut sink = Sink::create(fs, &self.dir.join(segment_name(number)))?;
                sink.write(&HEADER)?;
                (number, sink)
            }
        };
        let reference = u64::from(number) << 32 | sink.position();
        sink.write(&self.begin)?;
        sink.write(&chunk.data)?;
        sink.write(&sum.to_be_bytes())?;
        self.current = Some((number, sink));
        Ok(ChunkRef {
            min_time: chunk.min_time,
            max_time: chunk.max_time,
            reference,
        })
    }

    /// Completes the last segment; gives the sizes of all and of the largest chunk.
    pub(crate) fn finish(mut self, durability: Durability) -> io::Result<(Vec<u64>, u64)> {
        if let Some((_, sink)) = self.current.take() {
            self.sizes.push(sink.finish(durability)?);
        }
        Ok((self.sizes, self.chunk_max_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_and_flip_of_a_frame_is_noticed() {
        let mut bytes = vec![3, 1, b'a', b'b', b'c'];
        bytes.extend(crc32c::crc32c(&bytes[1..]).to_be_bytes());
        let whole = Bytes::from(bytes.clone());
        let frame = read_frame(&whole, 0).unwrap();
        assert_eq!(
            (frame.encoding, &frame.data[..], frame.len),
            (1, &b"abc"[..], bytes.len())
        );
        for end in 0..bytes.len() {
            let needed = if end == 0 { 5 } else { bytes.len() };
            assert_eq!(
                read_frame(&whole.slice(..end), 0),
                Err(FrameError::Truncated { needed })
            );
        }
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(read_frame(&Bytes::from(broken), 0).is_err(), "bit {bit}");
        }
        assert_eq!(read_frame(&Bytes::from(vec![0xff; 20]), 0), Err(FrameError::Length));
        assert!(read_frame(&whole, 100).is_err());
    }
}
