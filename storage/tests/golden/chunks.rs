//! Blocks that Prometheus's and Thanos's own code wrote: read, packed anew, and compared byte by byte.

use crate::unpack;
use model::{env::Fs as _, histogram::ResetHint, label::Labels, sample::SampleBuffer, time::TimeRange};
use std::path::Path;
use storage::{
    block::Block,
    chunk::{self, ENCODING_XOR, HistogramChunk, XorAppender},
    disk::Disk,
    index::{ChunkRef, RawSeries},
};

/// The flags byte of a histogram chunk before which there was no reset.
const NOT_RESET: u8 = 0b0100_0000;

/// Every complete raw block of a bucket.
fn raw_blocks(bucket: &Path) -> Vec<Block> {
    let mut blocks = Vec::new();
    for entry in Disk.list(bucket).unwrap() {
        let dir = bucket.join(&entry.name);
        if entry.is_dir && dir.join("meta.json").exists() {
            let block = Block::open(&Disk, &dir).unwrap();
            if block.meta().resolution() == 0 {
                blocks.push(block);
            }
        }
    }
    blocks
}

/// Calls `visit` with each series of a block.
fn each_series(block: &Block, mut visit: impl FnMut(&Labels, &[ChunkRef])) {
    let reader = block.index().series();
    let mut series = RawSeries::default();
    for id in block.index().matching(&[]).unwrap().ids {
        reader.read(id, &mut series).unwrap();
        visit(&reader.labels(&series).unwrap(), &series.chunks);
    }
}

/// How many chunks were compared.
#[derive(Default)]
struct Compared {
    floats: usize,
    histograms: usize,
    /// Histogram chunks that know the same about resets.
    flags_alike: usize,
}

#[test]
fn every_chunk_packed_anew_has_the_same_bytes() {
    let Some((_dir, bucket)) = unpack("raw") else { return };
    let mut compared = Compared::default();
    for block in raw_blocks(&bucket) {
        each_series(&block, |labels, chunks| {
            let mut previous: Option<HistogramChunk> = None;
            for reference in chunks {
                let frame = block.chunk(reference).unwrap();
                let place = format!("block {} {labels} at {}", block.meta().ulid, reference.min_time);
                let mut samples = SampleBuffer::default();
                chunk::decode(frame.encoding, &frame.data, TimeRange::ALL, &mut samples).unwrap();
                let count = chunk::sample_count(frame.encoding, &frame.data).unwrap();
                assert_eq!(samples.len(), usize::from(count), "{place}");
                if frame.encoding == ENCODING_XOR {
                    previous = None;
                    compared.floats += 1;
                    compare_floats(&samples, &frame.data, &place);
                } else {
                    let packed = pack(&samples, previous.as_ref(), &place);
                    assert_eq!(packed.encoding(), frame.encoding, "{place}");
                    compared.histograms += 1;
                    compared.flags_alike += usize::from(compare_histograms(&packed, &frame.data, &place));
                    previous = Some(packed);
                }
            }
        });
    }
    let Compared {
        floats,
        histograms,
        flags_alike,
    } = compared;
    assert!(
        floats > 500 && histograms > 500,
        "{floats} float chunks, {histograms} histogram chunks"
    );
    assert!(
        flags_alike * 20 > histograms * 19,
        "only {flags_alike} of {histograms} know the same about resets"
    );
}

fn compare_floats(samples: &SampleBuffer, bytes: &[u8], place: &str) {
    let (mut appender, mut data) = (XorAppender::new(), Vec::new());
    for (&at, &value) in samples.timestamps.iter().zip(&samples.values) {
        appender.append(&mut data, at, value);
    }
    assert_eq!(bytes, &data[..], "{place}");
    assert_eq!(XorAppender::resume(bytes).unwrap().len(), data.len(), "{place}");
}

/// Packs the histograms of one chunk into one chunk.
fn pack(samples: &SampleBuffer, previous: Option<&HistogramChunk>, place: &str) -> HistogramChunk {
    let mut packed: Option<HistogramChunk> = None;
    for (index, sample) in samples.histograms.iter().enumerate() {
        let mut histogram = (*sample.histogram).clone();
        // Only gauges say what they are when they are sent.
        if histogram.reset_hint != ResetHint::Gauge {
            histogram.reset_hint = ResetHint::Unknown;
        }
        match &mut packed {
            None => packed = Some(HistogramChunk::begin(sample.at, &histogram, previous)),
            Some(packed) => assert!(packed.append(sample.at, &histogram), "{place}: sample {index} refused"),
        }
    }
    packed.unwrap()
}

/// Compares all but what is known about resets; gives whether that is alike as well.
fn compare_histograms(packed: &HistogramChunk, bytes: &[u8], place: &str) -> bool {
    // A writer that did not see the chunk before knows nothing of a reset, where we know that there was none.
    let (flags, known) = (bytes[2], packed.data()[2]);
    assert!(
        flags == known || (flags == 0 && known == NOT_RESET),
        "{place}: {flags:#x} {known:#x}"
    );
    assert_eq!(bytes[..2], packed.data()[..2], "{place}");
    assert_eq!(bytes[3..], packed.data()[3..], "{place}");
    let resumed = HistogramChunk::resume(packed.encoding(), bytes).unwrap();
    assert_eq!(resumed.data(), bytes, "{place}");
    flags == known
}

#[test]
fn descriptions_count_what_is_there() {
    let Some((_dir, bucket)) = unpack("raw") else { return };
    for block in raw_blocks(&bucket) {
        let (mut series, mut chunks, mut floats, mut histograms) = (0, 0, 0, 0);
        each_series(&block, |_, refs| {
            series += 1;
            chunks += refs.len() as u64;
            for reference in refs {
                let frame = block.chunk(reference).unwrap();
                let mut samples = SampleBuffer::default();
                chunk::decode(frame.encoding, &frame.data, TimeRange::ALL, &mut samples).unwrap();
                floats += samples.timestamps.len() as u64;
                histograms += samples.histograms.len() as u64;
            }
        });
        let stats = &block.meta().stats;
        assert_eq!(
            (series, chunks),
            (stats.num_series, stats.num_chunks),
            "{}",
            block.meta().ulid
        );
        assert_eq!(
            (floats, histograms),
            (stats.num_float_samples, stats.num_histogram_samples),
            "{}",
            block.meta().ulid
        );
    }
}
