//! Which ranges to read so that a set of chunks comes with few requests and little waste.

use crate::index::ChunkRef;
use std::ops::Range;

/// A chunk that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    /// Where it lies.
    pub(super) chunk: ChunkRef,
    /// Where in the segment it likely ends.
    pub(super) end: u64,
    /// Which series of the batch it is for.
    pub(super) series: usize,
}

/// A range of a segment to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    /// Number of the segment from 0.
    pub(super) segment: u32,
    /// Bytes of the segment.
    pub(super) range: Range<u64>,
    /// The wanted chunks inside, by offset.
    pub(super) wants: Vec<Want>,
}

/// Where a chunk likely ends: where the next one begins, as writers lay them down one after the other, else after
/// `size_estimate` bytes.
pub(super) fn likely_end(chunk: &ChunkRef, next: Option<&ChunkRef>, size_estimate: u64, segment_size: u64) -> u64 {
    let start = u64::from(chunk.offset());
    let end = match next {
        Some(next) if next.segment() == chunk.segment() && next.offset() > chunk.offset() => u64::from(next.offset()),
        // The next chunk lies in another segment, so this one is the last of its own.
        Some(next) if next.segment() > chunk.segment() => segment_size,
        _ => start + size_estimate,
    };
    // A wrong guess costs a second read, never a large one.
    end.min(start + size_estimate.max(64 << 10)).min(segment_size)
}

/// Joins chunks that lie at most `gap_max` apart to ranges of at most `bytes_max`.
pub(super) fn plan(mut wants: Vec<Want>, gap_max: u64, bytes_max: u64) -> Vec<Fetch> {
    wants.sort_by_key(|want| want.chunk.reference);
    let mut fetches: Vec<Fetch> = Vec::new();
    for want in wants {
        let (segment, start) = (want.chunk.segment(), u64::from(want.chunk.offset()));
        match fetches.last_mut() {
            Some(last)
                if last.segment == segment
                    && start <= last.range.end.saturating_add(gap_max)
                    && want.end.saturating_sub(last.range.start) <= bytes_max =>
            {
                last.range.end = last.range.end.max(want.end);
                last.wants.push(want);
            }
            _ => fetches.push(Fetch {
                segment,
                range: start..want.end,
                wants: vec![want],
            }),
        }
    }
    fetches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(segment: u64, offset: u64) -> ChunkRef {
        ChunkRef {
            min_time: 0,
            max_time: 0,
            reference: segment << 32 | offset,
        }
    }

    fn want(segment: u64, offset: u64, end: u64) -> Want {
        Want {
            chunk: chunk(segment, offset),
            end,
            series: 0,
        }
    }

    #[test]
    fn near_chunks_share_a_read_and_far_ones_do_not() {
        let wants = vec![
            want(0, 5000, 5100),
            want(0, 8, 100),
            want(0, 150, 300),
            want(1, 310, 400),
            want(0, 700, 800),
        ];
        let planned = plan(wants, 100, 1 << 20);
        let ranges: Vec<_> = planned
            .iter()
            .map(|f| (f.segment, f.range.clone(), f.wants.len()))
            .collect();
        assert_eq!(
            ranges,
            [(0, 8..300, 2), (0, 700..800, 1), (0, 5000..5100, 1), (1, 310..400, 1)]
        );
        let whole = plan(
            vec![want(0, 0, 600), want(0, 600, 1200), want(0, 1200, 1300)],
            100,
            1000,
        );
        assert_eq!(
            whole.iter().map(|f| f.range.clone()).collect::<Vec<_>>(),
            [0..600, 600..1300]
        );
    }

    #[test]
    fn ends_are_guessed_from_the_next_chunk() {
        assert_eq!(likely_end(&chunk(0, 100), Some(&chunk(0, 350)), 500, 10_000), 350);
        assert_eq!(likely_end(&chunk(0, 100), Some(&chunk(1, 8)), 500, 300), 300);
        assert_eq!(likely_end(&chunk(0, 100), None, 500, 10_000), 600);
        assert_eq!(likely_end(&chunk(0, 100), Some(&chunk(0, 50)), 500, 10_000), 600);
        assert_eq!(
            likely_end(&chunk(0, 100), Some(&chunk(0, 5_000_000)), 500, 10_000_000),
            100 + 65_536
        );
        assert_eq!(likely_end(&chunk(0, 9_900), None, 500, 10_000), 10_000);
    }
}
