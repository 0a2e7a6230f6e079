//! Which ranges to read so that many small parts of a file come with few requests and little waste.

use std::ops::Range;

/// So much may be read in vain whatever is wanted: below it, a request costs more than the bytes.
const WASTE_BYTES_FLOOR: u64 = 64 << 10;

/// A part of a file that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    /// Number of the file.
    pub(super) file: u32,
    /// Where it begins.
    pub(super) begin: u64,
    /// Where it ends, or likely does.
    pub(super) end: u64,
    /// By what the asker knows it.
    pub(super) number: usize,
}

/// A range of a file to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    /// Number of the file.
    pub(super) file: u32,
    /// Bytes of the file.
    pub(super) range: Range<u64>,
    /// The wanted parts inside, by where they begin.
    pub(super) wants: Vec<Want>,
}

/// Bounds of a plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlanBounds {
    /// A gap longer than this is never read.
    pub(super) gap_bytes_max: u64,
    /// No range is longer, unless a single part is.
    pub(super) fetch_bytes_max: u64,
    /// Bytes of gaps that may be read for each wanted byte, in percent.
    pub(super) waste_percent: u64,
}

/// Joins parts to ranges. The shortest gaps are read along, as long as the waste stays inside its bound; longer ones divide.
pub(super) fn plan(mut wants: Vec<Want>, bounds: &PlanBounds) -> Vec<Fetch> {
    wants.sort_by_key(|want| (want.file, want.begin));
    let gap_max = longest_gap(&wants, bounds);
    let mut fetches: Vec<Fetch> = Vec::new();
    for want in wants {
        match fetches.last_mut() {
            Some(last)
                if last.file == want.file
                    && want.begin <= last.range.end.saturating_add(gap_max)
                    && want.end.saturating_sub(last.range.start) <= bounds.fetch_bytes_max =>
            {
                last.range.end = last.range.end.max(want.end);
                last.wants.push(want);
            }
            _ => fetches.push(Fetch {
                file: want.file,
                range: want.begin..want.end,
                wants: vec![want],
            }),
        }
    }
    fetches
}

/// The longest gap between the sorted `wants` that is still read along.
fn longest_gap(wants: &[Want], bounds: &PlanBounds) -> u64 {
    let needed: u64 = wants.iter().map(|want| want.end - want.begin).sum();
    let waste_max = needed.saturating_mul(bounds.waste_percent) / 100;
    let gap = |pair: &[Want]| match pair {
        [a, b] if a.file == b.file => b.begin.checked_sub(a.end),
        _ => None,
    };
    let mut gaps: Vec<u64> = wants.windows(2).filter_map(gap).filter(|gap| *gap > 0).collect();
    gaps.sort_unstable();
    let mut left = waste_max.max(WASTE_BYTES_FLOOR);
    let mut longest = 0;
    for gap in gaps {
        match left.checked_sub(gap) {
            Some(rest) if gap <= bounds.gap_bytes_max => (left, longest) = (rest, gap),
            // Gaps as long as the last that fits are read along as well, those beyond divide.
            _ => break,
        }
    }
    longest
}

/// Where a chunk likely ends: where the next one begins, as writers lay them down one after the other, else after
/// `size_estimate` bytes. Each is told by its segment and its offset there.
pub(super) fn likely_end(chunk: (u32, u32), next: Option<(u32, u32)>, size_estimate: u64, segment_size: u64) -> u64 {
    let start = u64::from(chunk.1);
    let end = match next {
        Some(next) if next.0 == chunk.0 && next.1 > chunk.1 => u64::from(next.1),
        // The next chunk lies in another segment, so this one is the last of its own.
        Some(next) if next.0 > chunk.0 => segment_size,
        _ => start + size_estimate,
    };
    // A wrong guess costs a second read, never a large one.
    end.min(start + size_estimate.max(64 << 10)).min(segment_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(file: u32, begin: u64, end: u64) -> Want {
        Want {
            file,
            begin,
            end,
            number: 0,
        }
    }

    fn bounds(gap_bytes_max: u64, fetch_bytes_max: u64, waste_percent: u64) -> PlanBounds {
        PlanBounds {
            gap_bytes_max,
            fetch_bytes_max,
            waste_percent,
        }
    }

    #[test]
    fn near_parts_share_a_read_and_far_ones_do_not() {
        let wants = vec![
            want(0, 5000, 5100),
            want(0, 8, 100),
            want(0, 150, 300),
            want(1, 310, 400),
            want(0, 700, 800),
        ];
        let planned = plan(wants, &bounds(100, 1 << 20, 100));
        let ranges: Vec<_> = planned
            .iter()
            .map(|f| (f.file, f.range.clone(), f.wants.len()))
            .collect();
        assert_eq!(
            ranges,
            [(0, 8..300, 2), (0, 700..800, 1), (0, 5000..5100, 1), (1, 310..400, 1)]
        );
        let whole = plan(
            vec![want(0, 0, 600), want(0, 600, 1200), want(0, 1200, 1300)],
            &bounds(100, 1000, 100),
        );
        assert_eq!(
            whole.iter().map(|f| f.range.clone()).collect::<Vec<_>>(),
            [0..600, 600..1300]
        );
    }

    #[test]
    fn waste_stays_inside_its_bound_and_takes_the_shortest_gaps() {
        // A thousand parts of 300 bytes, with gaps from 1 to 1000 times 30 bytes.
        let (mut at, mut wants) = (0, Vec::new());
        for number in 0..1000u64 {
            at += 30 * (1 + number * 7919 % 1000);
            wants.push(want(0, at, at + 300));
            at += 300;
        }
        for percent in [0, 50, 150, 400] {
            let planned = plan(wants.clone(), &bounds(1 << 20, 8 << 20, percent));
            let read: u64 = planned.iter().map(|fetch| fetch.range.end - fetch.range.start).sum();
            let allowed = 300_000 + (300_000 * percent / 100).max(WASTE_BYTES_FLOOR);
            assert!(read <= allowed, "{percent} %: {read}");
            assert!(read + 31_000 > allowed, "{percent} %: {read}");
        }
    }

    #[test]
    fn ends_are_guessed_from_the_next_chunk() {
        assert_eq!(likely_end((0, 100), Some((0, 350)), 500, 10_000), 350);
        assert_eq!(likely_end((0, 100), Some((1, 8)), 500, 300), 300);
        assert_eq!(likely_end((0, 100), None, 500, 10_000), 600);
        assert_eq!(likely_end((0, 100), Some((0, 50)), 500, 10_000), 600);
        assert_eq!(
            likely_end((0, 100), Some((0, 5_000_000)), 500, 10_000_000),
            100 + 65_536
        );
        assert_eq!(likely_end((0, 9_900), None, 500, 10_000), 10_000);
    }
}
