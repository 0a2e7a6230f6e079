//! Chunks: up to a few hundred samples of one series, packed into bits.
//!
//! The head appends to open chunks, blocks and StoreAPI carry sealed ones, readers decode them into columns. What is written
//! equals Prometheus byte for byte; every encoding that Prometheus 3.14 knows is read.

mod bits;
mod histogram;
mod overlap;
mod samples;
mod layout;
mod start;
mod xor;
mod xor2;

pub(crate) use bits::{put_uvarint, put_varint};
pub use overlap::{decode_run, merge_samples};
pub use samples::ChunkSamples;
pub use xor::{XOR_APPEND_ROOM, XOR_SAMPLES_MAX, XorAppender, XorReader};

use bytes::Bytes;
use model::{
    sample::SampleBuffer,
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
        ENCODING_XOR => xor::decode(data, range, out),
        ENCODING_XOR2 => xor2::decode(data, range, out),
        ENCODING_HISTOGRAM | ENCODING_FLOAT_HISTOGRAM | ENCODING_HISTOGRAM_START | ENCODING_FLOAT_HISTOGRAM_START => {
            histogram::decode(encoding, data, range, out)
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

/// Packs ascending samples into chunks of about [`CHUNK_SAMPLES`], ascending by time.
pub fn encode_samples(samples: &SampleBuffer) -> Vec<Chunk> {
    let floats = samples
        .timestamps
        .chunks(CHUNK_SAMPLES)
        .zip(samples.values.chunks(CHUNK_SAMPLES));
    floats
        .map(|(timestamps, values)| encode_floats(timestamps, values))
        .collect()
}
