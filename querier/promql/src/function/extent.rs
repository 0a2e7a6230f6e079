//! How `rate`, `increase` and `delta` extrapolate from the samples inside a window to its edges.

use model::time::Timestamp;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flavour {
    /// Whether values that fall are resets.
    pub(crate) counter: bool,
    /// Whether the result is per second.
    pub(crate) per_second: bool,
}

pub(crate) const RATE: Flavour = Flavour {
    counter: true,
    per_second: true,
};
pub(crate) const INCREASE: Flavour = Flavour {
    counter: true,
    per_second: false,
};
pub(crate) const DELTA: Flavour = Flavour {
    counter: false,
    per_second: false,
};

/// What part of a window the samples cover.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Time of the first sample.
    pub(crate) first: Timestamp,
    /// Time of the last sample.
    pub(crate) last: Timestamp,
    /// Number of samples.
    pub(crate) count: usize,
    /// When the counter began, if that was inside the window and before the first sample. It was zero then.
    pub(crate) known_start: Option<Timestamp>,
    /// First value, unless negative, and total increase: how far the line must be drawn back until it meets zero.
    pub(crate) from_zero: Option<(f64, f64)>,
}

impl Extent {
    /// By what to multiply the increase between the samples so that it is that of the whole window, which reaches from one to the
    /// other of `edges` and is `width` seconds wide, or per second of it.
    ///
    /// A series that has samples up to an edge, give or take a tenth of their distance, is drawn on to that edge. One that begins
    /// or ends inside is taken to have done so half a distance away from its samples. No counter is drawn below zero.
    #[inline]
    pub(crate) fn factor(&self, edges: (Timestamp, Timestamp), width: f64, flavour: Flavour) -> f64 {
        let between = seconds(self.first, self.last);
        // A lone sample has no distance to another, and is not extrapolated.
        let average = if self.count > 1 {
            between / (self.count - 1) as f64
        } else {
            0.0
        };
        let threshold = average * 1.1;
        let mut to_start = seconds(edges.0, self.first);
        if to_start >= threshold {
            to_start = average / 2.0;
        }
        if let Some((first, increase)) = self.from_zero
            && flavour.counter
            && increase > 0.0
        {
            to_start = to_start.min(between * (first / increase));
        }
        let mut sampled = between;
        if let Some(start) = self.known_start {
            sampled = seconds(start, self.last);
            to_start = 0.0;
        }
        let mut to_end = seconds(self.last, edges.1);
        if to_end >= threshold {
            to_end = average / 2.0;
        }
        let factor = (sampled + to_start + to_end) / sampled;
        if flavour.per_second { factor / width } else { factor }
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.wrapping_sub(from) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_drawn_to_the_edges_or_half_a_distance() {
        let check = |times: &[i64], edges: (i64, i64), from_zero: Option<(f64, f64)>, expected: f64| {
            let extent = Extent {
                first: times[0],
                last: times[times.len() - 1],
                count: times.len(),
                known_start: None,
                from_zero,
            };
            let factor = extent.factor(edges, 1.0, INCREASE);
            assert!((factor - expected).abs() < 1e-12, "{times:?} in {edges:?}: {factor}");
        };
        // Samples reach both edges.
        check(&[10_000, 20_000, 30_000], (0, 40_000), None, 2.0);
        check(&[10_000, 20_000, 30_000], (10_000, 30_000), None, 1.0);
        // An edge is more than 1.1 distances away.
        check(&[10_000, 20_000, 30_000], (-1_001, 30_000), None, 1.25);
        check(&[10_000, 20_000, 30_000], (10_000, 99_000), None, 1.25);
        // Zero is 4 s before the first sample: 20 s * 4 / 20.
        check(&[10_000, 20_000, 30_000], (0, 30_000), Some((4.0, 20.0)), 1.2);
        check(&[10_000, 20_000, 30_000], (0, 30_000), Some((0.0, 20.0)), 1.0);
        check(&[10_000, 20_000, 30_000], (0, 30_000), Some((40.0, 20.0)), 1.5);
    }

    #[test]
    fn a_known_start_ends_extrapolation_to_the_left() {
        let extent = Extent {
            first: 20_000,
            last: 30_000,
            count: 2,
            known_start: Some(10_000),
            from_zero: None,
        };
        assert_eq!(extent.factor((0, 35_000), 35.0, INCREASE), 1.25);
        let lone = Extent {
            first: 30_000,
            last: 30_000,
            count: 1,
            known_start: Some(10_000),
            from_zero: None,
        };
        assert_eq!(lone.factor((0, 90_000), 90.0, INCREASE), 1.0);
    }
}
