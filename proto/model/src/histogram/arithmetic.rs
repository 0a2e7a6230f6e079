//! Adding, subtracting and scaling native histograms.
//!
//! Resolutions, zero buckets and custom bounds are brought together first, always to the coarser of two. Results may hold empty
//! buckets until [`Histogram::compact`] is called.

use super::{
    Histogram, ResetHint, Span,
    buckets::{Indexed, bound},
    layout::{between, coarser, merged, packed, regrouped, shared_bounds, shared_zero},
};

/// Exponential and custom buckets cannot be combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("exponential and custom buckets cannot be combined")]
pub struct IncompatibleSchemas;

/// What had to be settled to combine two histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Combined {
    /// One of the two was known to be reset, the other known not to be.
    pub reset_collision: bool,
    /// Custom bounds differed, and only those that both have were kept.
    pub bounds_reconciled: bool,
}

impl Histogram {
    /// Adds the observations of `other`.
    pub fn add(&mut self, other: &Histogram) -> Result<Combined, IncompatibleSchemas> {
        self.combine(other, |a, b| a + b)
    }

    /// Takes the observations of `other` away. Whether the result is a gauge is for the caller to say.
    pub fn subtract(&mut self, other: &Histogram) -> Result<Combined, IncompatibleSchemas> {
        self.combine(other, |a, b| a - b)
    }

    /// Multiplies every count and the sum.
    pub fn multiply(&mut self, factor: f64) {
        self.for_each_number(|number| *number *= factor);
        if factor < 0.0 {
            self.reset_hint = ResetHint::Gauge;
        }
    }

    /// Divides every count and the sum. Division by zero removes the buckets.
    pub fn divide(&mut self, divisor: f64) {
        self.for_each_number(|number| *number /= divisor);
        if divisor == 0.0 {
            self.positive_spans.clear();
            self.positive_buckets.clear();
            self.negative_spans.clear();
            self.negative_buckets.clear();
        }
        if divisor < 0.0 {
            self.reset_hint = ResetHint::Gauge;
        }
    }

    /// Whether any number of the histogram is infinite.
    pub fn has_overflow(&self) -> bool {
        self.numbers().any(f64::is_infinite)
    }

    /// Whether all numbers are so small that as many of them as there may be buckets do not add up to infinity.
    pub(super) fn is_small(&self) -> bool {
        self.numbers().all(|number| number.abs() < 1e290)
    }

    fn numbers(&self) -> impl Iterator<Item = f64> {
        let counts = self.positive_buckets.iter().chain(&self.negative_buckets).copied();
        [self.count, self.sum, self.zero_count].into_iter().chain(counts)
    }

    /// Whether both hold the same numbers in the same layout, bit for bit; hints do not count.
    pub fn same_as(&self, other: &Histogram) -> bool {
        let bits_equal = |a: f64, b: f64| a.to_bits() == b.to_bits();
        let counts_equal =
            |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| bits_equal(a, b));
        self.schema == other.schema
            && bits_equal(self.count, other.count)
            && bits_equal(self.sum, other.sum)
            && (!self.uses_custom_buckets() || self.custom_values == other.custom_values)
            && self.zero_threshold == other.zero_threshold
            && bits_equal(self.zero_count, other.zero_count)
            && counts_equal(&self.negative_buckets, &other.negative_buckets)
            && counts_equal(&self.positive_buckets, &other.positive_buckets)
            && same_indexes(
                &self.negative_spans,
                &other.negative_spans,
                self.negative_buckets.as_slice(),
            )
            && same_indexes(
                &self.positive_spans,
                &other.positive_spans,
                self.positive_buckets.as_slice(),
            )
    }

    fn for_each_number(&mut self, mut change: impl FnMut(&mut f64)) {
        self.integer = false;
        change(&mut self.zero_count);
        change(&mut self.count);
        change(&mut self.sum);
        self.positive_buckets.iter_mut().for_each(&mut change);
        self.negative_buckets.iter_mut().for_each(&mut change);
    }

    fn combine(
        &mut self,
        other: &Histogram,
        operation: impl Fn(f64, f64) -> f64 + Copy,
    ) -> Result<Combined, IncompatibleSchemas> {
        if self.uses_custom_buckets() != other.uses_custom_buckets() {
            return Err(IncompatibleSchemas);
        }
        self.integer = false;
        let reset_collision = self.merge_hint(other.reset_hint);
        self.count = operation(self.count, other.count);
        self.sum = operation(self.sum, other.sum);
        if self.same_layout(other) {
            self.zero_count = operation(self.zero_count, other.zero_count);
            pairwise(&mut self.positive_buckets, &other.positive_buckets, operation);
            pairwise(&mut self.negative_buckets, &other.negative_buckets, operation);
            return Ok(Combined {
                reset_collision,
                bounds_reconciled: false,
            });
        }
        if self.uses_custom_buckets() {
            let bounds = shared_bounds(&self.custom_values, &other.custom_values);
            let reconciled = self.custom_values != other.custom_values;
            let side = |histogram: &Histogram| {
                let entries = Indexed::new(&histogram.positive_spans, &histogram.positive_buckets);
                regrouped(entries, between(&histogram.custom_values, &bounds), |a, b| a + b)
            };
            let combined = merged(&side(self), &side(other), or_zero(operation));
            (self.positive_spans, self.positive_buckets) = packed(combined);
            self.custom_values = bounds;
            return Ok(Combined {
                reset_collision,
                bounds_reconciled: reconciled,
            });
        }
        let zero = shared_zero(self, other);
        let schema = self.schema.min(other.schema);
        let side = |spans: &[Span], counts: &[f64], from: i32| {
            let entries = Indexed::new(spans, counts).filter(|&(index, _)| bound(index, from) > zero.threshold);
            regrouped(entries, coarser(from, schema), |a, b| a + b)
        };
        let positive = merged(
            &side(&self.positive_spans, &self.positive_buckets, self.schema),
            &side(&other.positive_spans, &other.positive_buckets, other.schema),
            or_zero(operation),
        );
        let negative = merged(
            &side(&self.negative_spans, &self.negative_buckets, self.schema),
            &side(&other.negative_spans, &other.negative_buckets, other.schema),
            or_zero(operation),
        );
        (self.positive_spans, self.positive_buckets) = packed(positive);
        (self.negative_spans, self.negative_buckets) = packed(negative);
        (self.schema, self.zero_threshold) = (schema, zero.threshold);
        self.zero_count = operation(zero.left, zero.right);
        Ok(Combined {
            reset_collision,
            bounds_reconciled: false,
        })
    }

    /// Whether counts of the two can be combined one by one.
    pub(super) fn same_layout(&self, other: &Histogram) -> bool {
        self.schema == other.schema
            && self.zero_threshold == other.zero_threshold
            && self.positive_spans == other.positive_spans
            && self.negative_spans == other.negative_spans
            && self.positive_buckets.len() == other.positive_buckets.len()
            && self.negative_buckets.len() == other.negative_buckets.len()
            && self.custom_values == other.custom_values
    }

    /// Settles what is known about resets of the combination; says whether the two contradict each other.
    pub(super) fn merge_hint(&mut self, other: ResetHint) -> bool {
        use ResetHint::{Gauge, NotReset, Reset, Unknown};
        match (self.reset_hint, other) {
            (Gauge, _) | (_, Gauge) => self.reset_hint = Gauge,
            (Unknown, _) | (_, Unknown) => self.reset_hint = Unknown,
            (Reset, Reset) | (NotReset, NotReset) => {}
            (Reset, NotReset) | (NotReset, Reset) => {
                self.reset_hint = Unknown;
                return true;
            }
        }
        false
    }
}

/// The operation on buckets of which one may be lacking.
fn or_zero(operation: impl Fn(f64, f64) -> f64) -> impl Fn(Option<f64>, Option<f64>) -> f64 {
    move |a, b| operation(a.unwrap_or(0.0), b.unwrap_or(0.0))
}

fn pairwise(into: &mut [f64], from: &[f64], operation: impl Fn(f64, f64) -> f64) {
    for (number, &other) in into.iter_mut().zip(from) {
        *number = operation(*number, other);
    }
}

/// Whether the buckets of `counts` have the same indexes in both lists of spans.
fn same_indexes(left: &[Span], right: &[Span], counts: &[f64]) -> bool {
    left == right
        || Indexed::new(left, counts)
            .map(|(index, _)| index)
            .eq(Indexed::new(right, counts).map(|(index, _)| index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::CUSTOM_BUCKETS_SCHEMA;

    fn exponential(schema: i32, counts: &[f64]) -> Histogram {
        Histogram {
            schema,
            count: counts.iter().sum(),
            sum: 1.0,
            positive_spans: vec![Span {
                offset: 0,
                length: counts.len() as u32,
            }],
            positive_buckets: counts.to_vec(),
            ..Histogram::default()
        }
    }

    fn custom(bounds: &[f64], counts: &[f64]) -> Histogram {
        Histogram {
            custom_values: bounds.to_vec(),
            ..exponential(CUSTOM_BUCKETS_SCHEMA, counts)
        }
    }

    #[test]
    fn sums_take_the_coarser_resolution() {
        let mut sum = exponential(1, &[1.0, 2.0, 4.0]);
        assert_eq!(sum.add(&exponential(0, &[10.0, 20.0])), Ok(Combined::default()));
        assert_eq!((sum.schema, sum.count, sum.sum), (0, 37.0, 2.0));
        assert_eq!(sum.positive_buckets, [11.0, 26.0]);

        let mut sum = exponential(0, &[10.0, 20.0]);
        sum.add(&exponential(1, &[1.0, 2.0, 4.0])).unwrap();
        assert_eq!(sum.positive_buckets, [11.0, 26.0]);
    }

    #[test]
    fn buckets_that_one_side_lacks_count_as_empty() {
        let mut difference = exponential(0, &[1.0]);
        let mut other = exponential(0, &[2.0, 3.0]);
        other.positive_spans[0].offset = 4;
        difference.subtract(&other).unwrap();
        assert_eq!(
            difference.positive_spans,
            [Span { offset: 0, length: 1 }, Span { offset: 3, length: 2 }]
        );
        assert_eq!(difference.positive_buckets, [1.0, -2.0, -3.0]);
        assert_eq!(difference.count, -4.0);
    }

    #[test]
    fn zero_buckets_are_widened_to_the_larger() {
        let mut narrow = exponential(0, &[1.0, 2.0, 4.0]);
        (narrow.zero_threshold, narrow.zero_count) = (0.25, 1.0);
        let mut wide = exponential(0, &[]);
        wide.positive_spans.clear();
        (wide.zero_threshold, wide.zero_count) = (1.5, 8.0);
        let mut sum = narrow.clone();
        sum.add(&wide).unwrap();
        // 1.5 cuts the bucket (1,2], so the zero bucket reaches to 2.
        assert_eq!((sum.zero_threshold, sum.zero_count), (2.0, 12.0));
        assert_eq!(sum.positive_buckets, [4.0]);
        let mut sum = wide;
        sum.add(&narrow).unwrap();
        sum.compact();
        assert_eq!((sum.zero_threshold, sum.zero_count), (2.0, 12.0));
        assert_eq!(sum.positive_buckets, [4.0]);
    }

    #[test]
    fn differing_custom_bounds_are_reconciled_and_said_so() {
        let mut sum = custom(&[2.0, 4.0, 6.0], &[1.0, 2.0, 5.0, 7.0]);
        let combined = sum
            .add(&custom(&[2.0, 3.0, 4.0, 6.0], &[1.0, 0.0, 1.0, 5.0, 8.0]))
            .unwrap();
        assert!(combined.bounds_reconciled);
        assert_eq!(sum.custom_values, [2.0, 4.0, 6.0]);
        assert_eq!(sum.positive_buckets, [2.0, 3.0, 10.0, 15.0]);
        assert_eq!(sum.add(&exponential(0, &[1.0])), Err(IncompatibleSchemas));
    }

    #[test]
    fn hints_of_a_sum_are_settled() {
        use ResetHint::{Gauge, NotReset, Reset, Unknown};
        let check = |left, right, expected, collides| {
            let mut histogram = Histogram {
                reset_hint: left,
                ..Histogram::default()
            };
            assert_eq!(histogram.merge_hint(right), collides, "{left:?} {right:?}");
            assert_eq!(histogram.reset_hint, expected, "{left:?} {right:?}");
        };
        check(Unknown, NotReset, Unknown, false);
        check(NotReset, Unknown, Unknown, false);
        check(NotReset, NotReset, NotReset, false);
        check(Reset, Reset, Reset, false);
        check(Reset, NotReset, Unknown, true);
        check(NotReset, Reset, Unknown, true);
        check(Gauge, Reset, Gauge, false);
        check(Unknown, Gauge, Gauge, false);
    }

    #[test]
    fn scaling_by_negative_or_zero() {
        let mut histogram = exponential(0, &[1.0, 2.0]);
        histogram.multiply(-2.0);
        assert_eq!((histogram.count, histogram.reset_hint), (-6.0, ResetHint::Gauge));
        histogram.divide(0.0);
        assert_eq!(histogram.count, f64::NEG_INFINITY);
        assert!(histogram.positive_buckets.is_empty() && histogram.positive_spans.is_empty());
        assert!(histogram.has_overflow());
    }

    #[test]
    fn equality_looks_at_buckets_not_at_how_spans_are_cut() {
        let one = exponential(0, &[1.0, 2.0]);
        let mut other = one.clone();
        other.positive_spans = vec![Span { offset: 0, length: 1 }, Span { offset: 0, length: 1 }];
        other.reset_hint = ResetHint::Gauge;
        assert!(one.same_as(&other));
        other.positive_spans[1].offset = 1;
        assert!(!one.same_as(&other));
    }
}
