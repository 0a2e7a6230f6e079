//! Adding many histograms without losing what is small beside what is large.
//!
//! Kahan's summation as Neumaier improved it, number by number: `sum`, `avg` and their `_over_time` forms use it. For floats see
//! [`kahan_add`].

use super::{
    Histogram, Span,
    arithmetic::{Combined, IncompatibleSchemas},
    buckets::{Indexed, bound},
    layout::{Sparse, between, coarser, merged, packed, regrouped, shared_bounds, shared_zero},
};

/// Adds `value` to `sum`; `error` collects what the sum is too small to hold. The result is `sum + error`.
#[inline]
pub fn kahan_add(value: f64, sum: &mut f64, error: &mut f64) {
    let total = *sum + value;
    // Choices between numbers, not between ways to go: which of two values is the greater, no processor can guess.
    let (greater, less) = if sum.abs() >= value.abs() {
        (*sum, value)
    } else {
        (value, *sum)
    };
    let lost = *error + ((greater - total) + less);
    *error = if total.is_infinite() { 0.0 } else { lost };
    *sum = total;
}

/// A sum of histograms with the errors of its numbers.
#[derive(Debug, Clone)]
pub struct HistogramSum {
    /// The sum as far as floats hold it.
    value: Histogram,
    /// What each number of `value` lacks, in the same layout; `None` while nothing is known to lack.
    errors: Option<Box<Errors>>,
}

#[derive(Debug, Clone, Default)]
struct Errors {
    zero_count: f64,
    count: f64,
    sum: f64,
    positive: Vec<f64>,
    negative: Vec<f64>,
}

/// A count with its error.
type Pair = (f64, f64);

impl HistogramSum {
    /// A sum of one histogram.
    pub fn new(first: Histogram) -> Self {
        Self {
            value: Histogram {
                integer: false,
                ..first
            },
            errors: None,
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Histogram) -> Result<Combined, IncompatibleSchemas> {
        let value = &mut self.value;
        if value.uses_custom_buckets() != other.uses_custom_buckets() {
            return Err(IncompatibleSchemas);
        }
        let errors = self.errors.get_or_insert_with(|| {
            let (positive, negative) = (value.positive_buckets.len(), value.negative_buckets.len());
            Box::new(Errors {
                positive: vec![0.0; positive],
                negative: vec![0.0; negative],
                ..Errors::default()
            })
        });
        let reset_collision = value.merge_hint(other.reset_hint);
        kahan_add(other.count, &mut value.count, &mut errors.count);
        kahan_add(other.sum, &mut value.sum, &mut errors.sum);
        let mut bounds_reconciled = false;
        if value.same_layout(other) {
            kahan_add(other.zero_count, &mut value.zero_count, &mut errors.zero_count);
            kahan_add_all(
                &other.positive_buckets,
                &mut value.positive_buckets,
                &mut errors.positive,
            );
            kahan_add_all(
                &other.negative_buckets,
                &mut value.negative_buckets,
                &mut errors.negative,
            );
        } else if value.uses_custom_buckets() {
            bounds_reconciled = value.custom_values != other.custom_values;
            add_custom(value, errors, other);
        } else {
            add_exponential(value, errors, other);
        }
        Ok(Combined {
            reset_collision,
            bounds_reconciled,
        })
    }

    /// Multiplies the sum.
    pub fn multiply(&mut self, factor: f64) {
        self.value.multiply(factor);
        self.for_each_error(|error| *error *= factor);
    }

    /// Divides the sum by something that is not zero.
    pub fn divide(&mut self, divisor: f64) {
        self.value.divide(divisor);
        self.for_each_error(|error| *error /= divisor);
    }

    /// Whether `other` can surely be added without any number becoming infinite. `false` means that it must be tried.
    pub fn has_room_for(&self, other: &Histogram) -> bool {
        self.value.is_small() && other.is_small()
    }

    /// Whether any number has become infinite.
    pub fn has_overflow(&self) -> bool {
        self.value.has_overflow()
    }

    /// The sum with its errors settled, compact.
    pub fn finish(mut self) -> Histogram {
        if let Some(errors) = &self.errors {
            self.value.zero_count += errors.zero_count;
            self.value.count += errors.count;
            self.value.sum += errors.sum;
            for (count, error) in self.value.positive_buckets.iter_mut().zip(&errors.positive) {
                *count += error;
            }
            for (count, error) in self.value.negative_buckets.iter_mut().zip(&errors.negative) {
                *count += error;
            }
        }
        self.value.compact();
        self.value
    }

    fn for_each_error(&mut self, mut change: impl FnMut(&mut f64)) {
        if let Some(errors) = &mut self.errors {
            change(&mut errors.zero_count);
            change(&mut errors.count);
            change(&mut errors.sum);
            errors.positive.iter_mut().for_each(&mut change);
            errors.negative.iter_mut().for_each(&mut change);
        }
    }
}

fn kahan_add_all(values: &[f64], sums: &mut [f64], errors: &mut [f64]) {
    for ((&value, sum), error) in values.iter().zip(sums).zip(errors) {
        kahan_add(value, sum, error);
    }
}

fn add_custom(value: &mut Histogram, errors: &mut Errors, other: &Histogram) {
    let bounds = shared_bounds(&value.custom_values, &other.custom_values);
    let mine = with_errors(&value.positive_spans, &value.positive_buckets, &errors.positive);
    let mine = regrouped(mine, between(&value.custom_values, &bounds), join);
    let theirs = Indexed::new(&other.positive_spans, &other.positive_buckets);
    let theirs = regrouped(theirs, between(&other.custom_values, &bounds), |a, b| a + b);
    (value.positive_spans, value.positive_buckets, errors.positive) = added(&mine, &theirs);
    value.custom_values = bounds;
}

fn add_exponential(value: &mut Histogram, errors: &mut Errors, other: &Histogram) {
    let zero = shared_zero(value, other);
    let (from, schema) = (value.schema, value.schema.min(other.schema));
    let mut swallowed = errors.zero_count;
    let mut mine = |spans: &[Span], counts: &[f64], errors: &[f64]| {
        let entries = with_errors(spans, counts, errors).filter(|&(index, (_, error))| {
            let outside = bound(index, from) > zero.threshold;
            if !outside {
                swallowed += error;
            }
            outside
        });
        regrouped(entries, coarser(from, schema), join)
    };
    let theirs = |spans: &[Span], counts: &[f64]| {
        let entries = Indexed::new(spans, counts).filter(|&(index, _)| bound(index, other.schema) > zero.threshold);
        regrouped(entries, coarser(other.schema, schema), |a, b| a + b)
    };
    let positive = mine(&value.positive_spans, &value.positive_buckets, &errors.positive);
    let negative = mine(&value.negative_spans, &value.negative_buckets, &errors.negative);
    (value.positive_spans, value.positive_buckets, errors.positive) =
        added(&positive, &theirs(&other.positive_spans, &other.positive_buckets));
    (value.negative_spans, value.negative_buckets, errors.negative) =
        added(&negative, &theirs(&other.negative_spans, &other.negative_buckets));
    (value.schema, value.zero_threshold, value.zero_count) = (schema, zero.threshold, zero.left);
    errors.zero_count = swallowed;
    kahan_add(zero.right, &mut value.zero_count, &mut errors.zero_count);
}

fn with_errors<'a>(
    spans: &'a [Span],
    counts: &'a [f64],
    errors: &'a [f64],
) -> impl Iterator<Item = (i64, Pair)> + use<'a> {
    Indexed::new(spans, counts)
        .zip(errors)
        .map(|((index, count), &error)| (index, (count, error)))
}

/// Two neighbouring buckets as one.
fn join(left: Pair, right: Pair) -> Pair {
    let (mut sum, mut error) = left;
    kahan_add(right.0, &mut sum, &mut error);
    (sum, error + right.1)
}

fn added(mine: &[(i64, Pair)], theirs: &[(i64, f64)]) -> (Vec<Span>, Vec<f64>, Vec<f64>) {
    let sums: Sparse<Pair> = merged(mine, theirs, |mine, theirs| {
        let (mut sum, mut error) = mine.unwrap_or_default();
        kahan_add(theirs.unwrap_or(0.0), &mut sum, &mut error);
        (sum, error)
    });
    let errors = sums.iter().map(|&(_, (_, error))| error).collect();
    let (spans, counts) = packed(sums.into_iter().map(|(index, (sum, _))| (index, sum)));
    (spans, counts, errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::CUSTOM_BUCKETS_SCHEMA;

    fn sample(schema: i32, sum: f64, counts: &[f64]) -> Histogram {
        Histogram {
            schema,
            sum,
            count: 1.0,
            positive_spans: vec![Span {
                offset: 0,
                length: counts.len() as u32,
            }],
            positive_buckets: counts.to_vec(),
            ..Histogram::default()
        }
    }

    #[test]
    fn what_a_float_cannot_hold_is_kept() {
        let check = |values: &[f64], expected: f64| {
            let (mut sum, mut error) = (0.0, 0.0);
            values.iter().for_each(|&value| kahan_add(value, &mut sum, &mut error));
            assert!(
                sum + error == expected || (sum + error).is_nan() && expected.is_nan(),
                "{values:?}: {sum} {error}"
            );
        };
        check(&[1.0, 1e100, 1.0, -1e100], 2.0);
        check(&[1e100, 1.0, -1e100, 1.0], 2.0);
        check(&[f64::MAX, f64::MAX], f64::INFINITY);
        check(&[f64::INFINITY, 1.0, f64::NEG_INFINITY], f64::NAN);
        check(&[0.1; 10], 1.0);
    }

    #[test]
    fn every_number_of_a_histogram_is_compensated() {
        let mut sum = HistogramSum::new(sample(0, 1.0, &[1.0, 1e100]));
        sum.add(&sample(0, 1e100, &[1e100, 3.0])).unwrap();
        sum.add(&sample(1, 1.0, &[1.0, 0.0, -1e100])).unwrap();
        sum.add(&sample(0, -1e100, &[-1e100])).unwrap();
        let total = sum.finish();
        assert_eq!((total.sum, total.count), (2.0, 4.0));
        assert_eq!(total.positive_buckets, [2.0, 3.0]);
    }

    #[test]
    fn zero_buckets_and_custom_bounds_are_reconciled() {
        let zero = Histogram {
            zero_threshold: 1.5,
            zero_count: 1e100,
            ..Histogram::default()
        };
        let mut sum = HistogramSum::new(sample(0, 0.0, &[1.0, 2.0, 4.0]));
        sum.add(&zero).unwrap();
        sum.add(&Histogram {
            zero_count: -1e100,
            ..zero.clone()
        })
        .unwrap();
        let total = sum.finish();
        assert_eq!((total.zero_threshold, total.zero_count), (2.0, 3.0));
        assert_eq!(total.positive_buckets, [4.0]);

        let custom = |bounds: &[f64]| Histogram {
            custom_values: bounds.to_vec(),
            ..sample(CUSTOM_BUCKETS_SCHEMA, 1.0, &[1.0, 2.0, 4.0])
        };
        let mut sum = HistogramSum::new(custom(&[5.0, 10.0]));
        assert!(sum.add(&custom(&[1.0, 5.0])).unwrap().bounds_reconciled);
        assert_eq!(sum.add(&zero), Err(IncompatibleSchemas));
        let total = sum.finish();
        assert_eq!(
            (total.custom_values, total.positive_buckets),
            (vec![5.0], vec![4.0, 10.0])
        );
    }
}
