//! Taking samples out of complete chunks. Those that lose some are packed anew, so readers, cut and image need not know of deletions.

use super::sealed::{ChunkInfo, Sealed, SealedChunks};
use model::{sample::SampleBuffer, time::TimeRange};
use storage::chunk;

/// Removes the samples in `range` from a list of chunks, whose order stays; each part of a chunk stays in the block that the chunk is in.
pub(super) fn delete_from(list: &mut Vec<Sealed>, range: TimeRange, chunks: &mut SealedChunks) -> bool {
    let mut any = false;
    let reaches = |sealed: &Sealed| range.overlaps(TimeRange::new(sealed.min_time, sealed.max_time()));
    if !list.iter().any(reaches) {
        return false;
    }
    let mut left = Vec::with_capacity(list.len());
    for sealed in std::mem::take(list) {
        let mut samples = SampleBuffer::default();
        if !reaches(&sealed) {
            left.push(sealed);
            continue;
        }
        if let Err(error) = chunk::decode(sealed.encoding, chunks.view(&sealed), TimeRange::ALL, &mut samples) {
            // Nobody can read it; the next start has it from the log, and takes the samples out then.
            tracing::error!(%error, from = sealed.min_time, "a chunk that is to lose samples cannot be read and stays as it is");
            left.push(sealed);
            any = true;
            continue;
        }
        let kept = outside(&samples, range);
        if kept.len() == samples.len() && !samples.is_empty() {
            left.push(sealed);
            continue;
        }
        any = true;
        chunks.remove(&sealed);
        for packed in chunk::encode_samples(&kept) {
            let info = ChunkInfo {
                min_time: packed.min_time,
                max_time: packed.max_time,
                samples: chunk::sample_count(packed.encoding, &packed.data).unwrap_or_default(),
                encoding: packed.encoding,
            };
            let mut part = chunks.add(info, |out| out.extend_from_slice(&packed.data));
            part.block = sealed.block;
            left.push(part);
        }
    }
    *list = left;
    any
}

fn outside(samples: &SampleBuffer, range: TimeRange) -> SampleBuffer {
    let mut kept = SampleBuffer::default();
    for (&at, &value) in samples.timestamps.iter().zip(&samples.values) {
        if !range.contains(at) {
            kept.push_float(at, value);
        }
    }
    let histograms = samples.histograms.iter().filter(|sample| !range.contains(sample.at));
    kept.histograms.extend(histograms.cloned());
    kept
}
