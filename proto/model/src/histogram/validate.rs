//! Whether a native histogram agrees with itself: the rules that Prometheus holds incoming histograms to.
//!
//! Called for each histogram that comes from outside, before it is handed to a taker. Integer and float histograms differ in one
//! rule: only integer bucket counts must add up to the count, since floats lose digits when they are scaled.

use super::{CUSTOM_BUCKETS_SCHEMA, Histogram, Span};
use crate::stale::is_stale;

/// Lowest and highest exponential schema.
const EXPONENTIAL_SCHEMAS: std::ops::RangeInclusive<i32> = -4..=8;

/// Up to here every whole number is a float; larger counts may differ in their last digits.
const EXACT_COUNT_MAX: f64 = (1u64 << 53) as f64;

/// How far the buckets of a count beyond [`EXACT_COUNT_MAX`] may miss it, relative to it.
const LARGE_COUNT_TOLERANCE: f64 = 1e-9;

/// What contradicts what in a histogram.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HistogramFault {
    /// The schema is neither exponential nor that of custom buckets.
    #[error("schema {0} is none of -4 to 8 and -53")]
    Schema(i32),
    /// A span after the first lies before the one before it.
    #[error("{side} span {index} has the negative offset {offset}")]
    NegativeOffset {
        /// `positive` or `negative`.
        side: &'static str,
        /// Which span.
        index: usize,
        /// Its offset.
        offset: i32,
    },
    /// The spans reach beyond what a bucket index can say.
    #[error("{0} spans reach beyond the range of bucket indices")]
    SpanRange(&'static str),
    /// The spans speak of another number of buckets than there is.
    #[error("{side} spans have {spans} buckets, but {buckets} are given")]
    BucketNumber {
        /// `positive` or `negative`.
        side: &'static str,
        /// Sum of the spans' lengths.
        spans: u64,
        /// Number of bucket counts.
        buckets: usize,
    },
    /// A count is negative or no number.
    #[error("{what} has the count {count}, which is negative or no number")]
    NegativeCount {
        /// Which count.
        what: &'static str,
        /// Its value.
        count: f64,
    },
    /// The buckets do not add up.
    #[error("the buckets hold {buckets} observations, the count is {count}")]
    CountMismatch {
        /// Sum of all buckets.
        buckets: f64,
        /// The histogram's count.
        count: f64,
    },
    /// Custom bounds with an exponential schema.
    #[error("custom bounds come with the exponential schema {0}")]
    UnexpectedBounds(i32),
    /// A bound is infinite or no number.
    #[error("custom bound {0} is not finite")]
    BoundNotFinite(f64),
    /// A bound is not above the one before it.
    #[error("custom bound {next} follows {previous}; bounds must increase")]
    BoundOrder {
        /// The bound before.
        previous: f64,
        /// The bound that is not above it.
        next: f64,
    },
    /// Custom buckets beyond the last bound's.
    #[error("spans reach custom bucket {last}, but {bounds} bounds make {} buckets", bounds + 1)]
    BeyondBounds {
        /// Highest index of a bucket.
        last: i64,
        /// Number of bounds.
        bounds: usize,
    },
    /// Custom buckets with a zero bucket or negative buckets.
    #[error("custom buckets come with a zero bucket or negative buckets")]
    NotOnlyPositive,
}

impl Histogram {
    /// Whether this is the marker for the end of a series; its other fields mean nothing.
    pub fn is_stale(&self) -> bool {
        is_stale(self.sum)
    }

    /// Checks that the histogram agrees with itself. A stale one always does.
    pub fn validate(&self) -> Result<(), HistogramFault> {
        if self.is_stale() {
            return Ok(());
        }
        let last_positive = check_spans("positive", &self.positive_spans, self.positive_buckets.len())?;
        check_spans("negative", &self.negative_spans, self.negative_buckets.len())?;
        match self.schema {
            CUSTOM_BUCKETS_SCHEMA => self.check_custom(last_positive)?,
            schema if !EXPONENTIAL_SCHEMAS.contains(&schema) => return Err(HistogramFault::Schema(schema)),
            schema if !self.custom_values.is_empty() => return Err(HistogramFault::UnexpectedBounds(schema)),
            _ => {}
        }
        self.check_counts()
    }

    fn check_custom(&self, last_positive: Option<i64>) -> Result<(), HistogramFault> {
        let only_positive = self.zero_count == 0.0
            && self.zero_threshold == 0.0
            && self.negative_spans.is_empty()
            && self.negative_buckets.is_empty();
        if !only_positive {
            return Err(HistogramFault::NotOnlyPositive);
        }
        if let Some(bound) = self.custom_values.iter().find(|bound| !bound.is_finite()) {
            return Err(HistogramFault::BoundNotFinite(*bound));
        }
        if let Some(pair) = self.custom_values.windows(2).find(|pair| pair[1] <= pair[0]) {
            return Err(HistogramFault::BoundOrder {
                previous: pair[0],
                next: pair[1],
            });
        }
        let bounds = self.custom_values.len();
        let first = self.positive_spans.first().map_or(0, |span| i64::from(span.offset));
        match last_positive {
            Some(last) if first < 0 || last > bounds as i64 => Err(HistogramFault::BeyondBounds { last, bounds }),
            _ => Ok(()),
        }
    }

    fn check_counts(&self) -> Result<(), HistogramFault> {
        let check = |what, count: f64| {
            if count >= 0.0 {
                Ok(count)
            } else {
                Err(HistogramFault::NegativeCount { what, count })
            }
        };
        check("the histogram", self.count)?;
        let mut sum = check("the zero bucket", self.zero_count)?;
        for count in &self.positive_buckets {
            sum += check("a positive bucket", *count)?;
        }
        for count in &self.negative_buckets {
            sum += check("a negative bucket", *count)?;
        }
        // Observations that were NaN count, but lie in no bucket; the sum is NaN then.
        let too_few_allowed = self.sum.is_nan();
        if self.integer && (sum > self.count || (sum < self.count && !too_few_allowed)) {
            let tolerated =
                self.count.max(sum) > EXACT_COUNT_MAX && (sum - self.count).abs() <= self.count * LARGE_COUNT_TOLERANCE;
            if !tolerated {
                return Err(HistogramFault::CountMismatch {
                    buckets: sum,
                    count: self.count,
                });
            }
        }
        Ok(())
    }
}

/// Checks spans against the number of buckets of their side; answers with the highest bucket index that they reach.
pub fn check_spans(side: &'static str, spans: &[Span], buckets: usize) -> Result<Option<i64>, HistogramFault> {
    let mut next = 0i64;
    let mut total = 0u64;
    for (index, span) in spans.iter().enumerate() {
        if index > 0 && span.offset < 0 {
            return Err(HistogramFault::NegativeOffset {
                side,
                index,
                offset: span.offset,
            });
        }
        total += u64::from(span.length);
        next += i64::from(span.offset) + i64::from(span.length);
        if next > i64::from(i32::MAX) {
            return Err(HistogramFault::SpanRange(side));
        }
    }
    if total != buckets as u64 {
        return Err(HistogramFault::BucketNumber {
            side,
            spans: total,
            buckets,
        });
    }
    Ok((total > 0).then_some(next - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stale::STALE_NAN;

    fn span(offset: i32, length: u32) -> Span {
        Span { offset, length }
    }

    fn good() -> Histogram {
        Histogram {
            integer: true,
            schema: 3,
            zero_threshold: 0.001,
            zero_count: 2.0,
            count: 12.0,
            sum: 3.5,
            positive_spans: vec![span(-2, 2), span(1, 1)],
            positive_buckets: vec![1.0, 2.0, 3.0],
            negative_spans: vec![span(0, 1)],
            negative_buckets: vec![4.0],
            ..Histogram::default()
        }
    }

    fn custom() -> Histogram {
        Histogram {
            integer: true,
            schema: CUSTOM_BUCKETS_SCHEMA,
            count: 6.0,
            sum: 3.5,
            positive_spans: vec![span(0, 3)],
            positive_buckets: vec![1.0, 2.0, 3.0],
            custom_values: vec![1.0, 2.0],
            ..Histogram::default()
        }
    }

    fn check(mut histogram: Histogram, change: impl Fn(&mut Histogram), expected: &str) {
        change(&mut histogram);
        let text = histogram
            .validate()
            .map_or_else(|fault| fault.to_string(), |()| String::new());
        assert!(
            if expected.is_empty() {
                text.is_empty()
            } else {
                text.contains(expected)
            },
            "{text:?}: {expected:?}"
        );
    }

    #[test]
    fn histograms_that_agree_with_themselves_pass() {
        check(good(), |_| {}, "");
        check(custom(), |_| {}, "");
        check(Histogram::default(), |_| {}, "");
        check(good(), |h| h.sum = f64::INFINITY, "");
    }

    #[test]
    fn spans_must_fit_their_buckets() {
        check(
            good(),
            |h| h.positive_spans[1].offset = -1,
            "positive span 1 has the negative offset -1",
        );
        check(
            good(),
            |h| h.positive_spans[1].length = 2,
            "positive spans have 4 buckets, but 3 are given",
        );
        check(
            good(),
            |h| h.negative_spans.clear(),
            "negative spans have 0 buckets, but 1 are given",
        );
        check(
            good(),
            |h| h.positive_spans = vec![span(i32::MAX, u32::MAX)],
            "beyond the range",
        );
        check(
            good(),
            |h| h.positive_spans = vec![span(0, u32::MAX); 3],
            "beyond the range",
        );
    }

    #[test]
    fn integer_counts_must_add_up() {
        check(
            good(),
            |h| h.count = 13.0,
            "the buckets hold 12 observations, the count is 13",
        );
        check(
            good(),
            |h| h.count = 11.0,
            "the buckets hold 12 observations, the count is 11",
        );
        check(good(), |h| (h.count, h.sum) = (13.0, f64::NAN), "");
        check(good(), |h| (h.count, h.sum) = (11.0, f64::NAN), "the count is 11");
        check(
            good(),
            |h| h.positive_buckets[0] = -1.0,
            "a positive bucket has the count -1",
        );
    }

    #[test]
    fn float_counts_must_only_not_be_negative() {
        check(good(), |h| (h.integer, h.count) = (false, 99.5), "");
        check(
            good(),
            |h| (h.integer, h.count) = (false, -1.0),
            "the histogram has the count -1",
        );
        check(
            good(),
            |h| (h.integer, h.zero_count) = (false, f64::NAN),
            "the zero bucket has the count NaN",
        );
        check(
            good(),
            |h| (h.integer, h.negative_buckets[0]) = (false, -0.5),
            "a negative bucket",
        );
    }

    #[test]
    fn schemas_outside_the_defined_ones_fail() {
        for schema in [-54, -52, -9, -5, 9, 53, i32::MIN, i32::MAX] {
            check(good(), |h| h.schema = schema, "is none of -4 to 8 and -53");
        }
        check(
            good(),
            |h| h.custom_values = vec![1.0],
            "custom bounds come with the exponential schema 3",
        );
    }

    #[test]
    fn custom_bounds_must_increase_and_hold_the_buckets() {
        check(custom(), |h| h.custom_values = vec![2.0, 2.0], "2 follows 2");
        check(custom(), |h| h.custom_values = vec![3.0, 2.0], "2 follows 3");
        check(custom(), |h| h.custom_values = vec![1.0, f64::INFINITY], "not finite");
        check(custom(), |h| h.custom_values = vec![1.0, f64::NAN], "not finite");
        check(
            custom(),
            |h| h.custom_values = vec![1.0],
            "reach custom bucket 2, but 1 bounds make 2 buckets",
        );
        check(custom(), |h| h.positive_spans[0].offset = -1, "reach custom bucket");
        check(custom(), |h| h.zero_count = 1.0, "zero bucket or negative");
        check(custom(), |h| h.zero_threshold = 1.0, "zero bucket or negative");
    }

    #[test]
    fn a_stale_marker_is_not_looked_into() {
        check(good(), |h| (h.sum, h.count, h.schema) = (STALE_NAN, -7.0, 99), "");
    }

    #[test]
    fn counts_beyond_the_exact_range_may_miss_by_rounding() {
        let large = 2f64.powi(60);
        check(good(), |h| (h.count, h.positive_buckets[0]) = (large, large), "");
        check(
            good(),
            |h| (h.count, h.positive_buckets[0]) = (large, large * 1.1),
            "the count is",
        );
    }
}
