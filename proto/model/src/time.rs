//! Points and spans of time: milliseconds since the Unix epoch, as Prometheus counts them. They may be negative.

/// A point in time in milliseconds since the Unix epoch.
pub type Timestamp = i64;

/// Samples are grouped so that no chunk or fresh block crosses a multiple of this span (two hours).
pub const BLOCK_RANGE_MS: i64 = 2 * 60 * 60 * 1000;

/// A span of time with both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    /// First millisecond that belongs to the span.
    pub min: Timestamp,
    /// Last millisecond that belongs to the span.
    pub max: Timestamp,
}

impl TimeRange {
    /// The span that holds every timestamp.
    pub const ALL: TimeRange = TimeRange {
        min: i64::MIN,
        max: i64::MAX,
    };

    /// A span from `min` to `max`, both included; empty when `min > max`.
    pub const fn new(min: Timestamp, max: Timestamp) -> Self {
        Self { min, max }
    }

    /// Whether no timestamp lies in the span.
    pub const fn is_empty(&self) -> bool {
        self.min > self.max
    }

    /// Whether `at` lies in the span.
    pub const fn contains(&self, at: Timestamp) -> bool {
        self.min <= at && at <= self.max
    }

    /// Whether the two spans share a timestamp.
    pub const fn overlaps(&self, other: TimeRange) -> bool {
        self.min <= other.max && other.min <= self.max
    }

    /// The part that both spans share; empty when they do not overlap.
    pub fn intersect(&self, other: TimeRange) -> TimeRange {
        TimeRange::new(self.min.max(other.min), self.max.min(other.max))
    }
}

/// The start of the aligned two-hour span that holds `at`.
pub const fn block_start(at: Timestamp) -> Timestamp {
    at - at.rem_euclid(BLOCK_RANGE_MS)
}
