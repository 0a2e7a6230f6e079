//! Chunks: up to a few hundred samples of one series, packed into bits.
//!
//! The head appends to open chunks, blocks and StoreAPI carry sealed ones, readers decode them into columns. What is written
//! equals Prometheus byte for byte; every encoding that Prometheus 3.14 knows is read.

mod bits;
mod histogram_reader;
mod histogram_writer;
mod overlap;
mod samples;
mod layout;
mod start;
mod xor_reader;
mod xor_column;
mod xor_writer;
mod xor2;

pub(crate) use bits::{put_uvarint, put_varint};
pub use histogram_writer::{HISTOGRAM_CHUNK_BYTES, HISTOGRAM_CHUNK_SAMPLES_MIN, HistogramChunk};
pub use overlap::{decode_run, merge_samples, read_joined};
pub use samples::ChunkSamples;
pub use xor_reader::{XorEnd, XorReader};
pub use xor_writer::{XOR_APPEND_ROOM, XOR_SAMPLES_MAX, XorAppender};

use bytes::Bytes;
use model::{
    sample::{HistogramSample, SampleBuffer},
    select::Chunk,
    time::{TimeRange, Timestamp},
};

/// Floats: Gorilla with millisecond steps. What everybody writes.
pub const ENCODING_XOR: u8 = 1;
/// Integer native histograms.
pub const ENCODING_HISTOGRAM: u8 = 2;
/// Float native histograms.
pub const ENCODING_FLOAT_HISTOGRAM: u8 = 3;
/// Floats with start timestamps and a shorter form of stale markers.
pub const ENCODING_XOR2: u8 = 4;
/// Integer native histograms with start timestamps.
pub const ENCODING_HISTOGRAM_START: u8 = 5;
/// Float native histograms with start timestamps.
pub const ENCODING_FLOAT_HISTOGRAM_START: u8 = 6;

/// Samples that a chunk aims at, as in Prometheus.
pub const CHUNK_SAMPLES: usize = 120;

/// Why a chunk cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The bytes end inside a sample.
    #[error("chunk ends before its last sample")]
    Truncated,
    /// The encoding byte is none that is known.
    #[error("unknown chunk encoding {0}")]
    Encoding(u8),
    /// The bytes contradict themselves.
    #[error("malformed chunk: {0}")]
    Malformed(&'static str),
    /// Timestamps do not ascend.
    #[error("timestamps in the chunk do not ascend")]
    Order,
}

/// Decodes the samples of a chunk that lie in `range` and adds them behind those in `out`.
///
/// After an error `out` may hold the samples before the damage.
pub fn decode(encoding: u8, data: &[u8], range: TimeRange, out: &mut SampleBuffer) -> Result<(), ChunkError> {
    match encoding {
        ENCODING_XOR => xor_column::decode(data, range, out),
        ENCODING_XOR2 => xor2::decode(data, range, out),
        ENCODING_HISTOGRAM | ENCODING_FLOAT_HISTOGRAM | ENCODING_HISTOGRAM_START | ENCODING_FLOAT_HISTOGRAM_START => {
            histogram_reader::decode(encoding, data, range, out)
        }
        other => Err(ChunkError::Encoding(other)),
    }
}

/// How many samples a chunk says to hold.
pub fn sample_count(encoding: u8, data: &[u8]) -> Result<u16, ChunkError> {
    let header = data.first_chunk::<2>().ok_or(ChunkError::Truncated)?;
    let count = u16::from_be_bytes(*header);
    match encoding {
        ENCODING_HISTOGRAM_START | ENCODING_FLOAT_HISTOGRAM_START => Ok(count & start::COUNT_MASK),
        _ => Ok(count),
    }
}

/// The checksum of a chunk as it stands behind it in a block.
pub fn checksum(encoding: u8, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[encoding]), data)
}

/// Whether chunks of this encoding hold histograms.
pub fn is_histogram(encoding: u8) -> bool {
    matches!(
        encoding,
        ENCODING_HISTOGRAM | ENCODING_FLOAT_HISTOGRAM | ENCODING_HISTOGRAM_START | ENCODING_FLOAT_HISTOGRAM_START
    )
}

/// Packs ascending floats into one XOR chunk. There must be as many values as timestamps, at least one, and at most
/// [`XOR_SAMPLES_MAX`]; a chunk of [`CHUNK_SAMPLES`] is what readers expect.
pub fn encode_floats(timestamps: &[Timestamp], values: &[f64]) -> Chunk {
    assert_eq!(timestamps.len(), values.len(), "each timestamp needs a value");
    let (Some(&min_time), Some(&max_time)) = (timestamps.first(), timestamps.last()) else {
        panic!("a chunk needs a sample");
    };
    let mut appender = XorAppender::new();
    let mut data = Vec::with_capacity(timestamps.len() * 4 + XOR_APPEND_ROOM);
    for (&at, &value) in timestamps.iter().zip(values) {
        appender.append(&mut data, at, value);
    }
    Chunk {
        min_time,
        max_time,
        encoding: ENCODING_XOR,
        data: Bytes::from(data),
    }
}

/// Packs ascending samples into chunks of the usual size, ascending by time, floats and histograms as they alternate.
pub fn encode_samples(samples: &SampleBuffer) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let (mut floats, mut histograms) = (0, 0);
    loop {
        let next_float = samples.timestamps.get(floats).copied();
        let next_histogram = samples.histograms.get(histograms).map(|sample| sample.at);
        match (next_float, next_histogram) {
            (None, None) => return chunks,
            (Some(float), histogram) if histogram.is_none_or(|histogram| float < histogram) => {
                // A chunk must not reach over a histogram: chunks of a series do not overlap.
                let until = histogram.unwrap_or(i64::MAX);
                let run = samples.timestamps[floats..].iter().take(CHUNK_SAMPLES);
                let end = floats + run.take_while(|&&at| at < until || histogram.is_none()).count();
                chunks.push(encode_floats(
                    &samples.timestamps[floats..end],
                    &samples.values[floats..end],
                ));
                floats = end;
            }
            (float, _) => {
                let run = &samples.histograms[histograms..];
                let run = &run[..run
                    .iter()
                    .take_while(|sample| float.is_none_or(|float| sample.at < float))
                    .count()];
                encode_histograms(run, &mut chunks);
                histograms += run.len().max(1);
            }
        }
    }
}

/// Packs histograms without floats between them.
fn encode_histograms(samples: &[HistogramSample], chunks: &mut Vec<Chunk>) {
    let mut open: Option<HistogramChunk> = None;
    for sample in samples {
        let fits = open
            .as_mut()
            .is_some_and(|chunk| !chunk.is_full() && chunk.append(sample.at, &sample.histogram));
        if !fits {
            let next = HistogramChunk::begin(sample.at, &sample.histogram, open.as_ref());
            chunks.extend(open.replace(next).map(HistogramChunk::finish));
        }
    }
    chunks.extend(open.map(HistogramChunk::finish));
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod xor_tests;
