//! Quantiles, fractions and moments of native histograms, estimated from the buckets.
//!
//! Inside an exponential bucket observations are assumed to spread evenly over the logarithm; inside the zero bucket and
//! between custom bounds, evenly over the value.

use super::{Histogram, buckets::Bucket, compensated::kahan_add};

/// What NaN observations, which are counted but lie in no bucket, did to an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NanEffect {
    /// There were none.
    None,
    /// They made the estimate higher than it would be without them.
    Skewed,
    /// They made the estimate NaN.
    Result,
}

impl Histogram {
    /// The `phi`-quantile. Outside 0 to 1 it is infinite.
    pub fn quantile(&self, phi: f64) -> (f64, NanEffect) {
        if phi < 0.0 {
            return (f64::NEG_INFINITY, NanEffect::None);
        }
        if phi > 1.0 {
            return (f64::INFINITY, NanEffect::None);
        }
        if self.count == 0.0 || phi.is_nan() {
            return (f64::NAN, NanEffect::None);
        }
        // Counting from the nearer end keeps rounding small. With NaN observations only the lower end is sure.
        let from_below = self.sum.is_nan() || phi < 0.5;
        let rank = if from_below {
            phi * self.count
        } else {
            (1.0 - phi) * self.count
        };
        let (bucket, reached) = if from_below {
            bucket_at(self.buckets(), rank)
        } else {
            bucket_at(self.buckets().rev(), rank)
        };
        let bucket = match self.clipped_for_quantile(bucket) {
            Ok(bucket) => bucket,
            Err(bound) => return (bound, NanEffect::None),
        };
        let reached = reached.min(self.count);
        if reached < rank {
            // Observations in no bucket are NaNs, and then the sum is none; else the histogram contradicts itself.
            return if self.sum.is_nan() {
                (f64::NAN, NanEffect::Result)
            } else {
                (bucket.upper, NanEffect::None)
            };
        }
        let within = if from_below {
            rank - (reached - bucket.count)
        } else {
            reached - rank
        };
        let effect = if self.sum.is_nan() {
            NanEffect::Skewed
        } else {
            NanEffect::None
        };
        (self.value_inside(&bucket, within / bucket.count), effect)
    }

    /// The bucket as quantiles see it: one without an end is given one, or else its other end is the answer (`Err`).
    fn clipped_for_quantile(&self, mut bucket: Bucket) -> Result<Bucket, f64> {
        if !self.uses_custom_buckets() {
            if bucket.lower < 0.0 && bucket.upper > 0.0 {
                self.clip_zero(&mut bucket);
            }
        } else if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return Err(bucket.upper);
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return Err(bucket.lower);
        }
        Ok(bucket)
    }

    /// Halves a zero bucket when all other observations lie on one side of zero.
    fn clip_zero(&self, bucket: &mut Bucket) {
        match (self.negative_buckets.is_empty(), self.positive_buckets.is_empty()) {
            (true, false) => bucket.lower = 0.0,
            (false, true) => bucket.upper = 0.0,
            (true, true) | (false, false) => {}
        }
    }

    /// The value below which `fraction` of the observations in `bucket` lie.
    fn value_inside(&self, bucket: &Bucket, fraction: f64) -> f64 {
        if self.uses_custom_buckets() || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
            return bucket.lower + (bucket.upper - bucket.lower) * fraction;
        }
        let (log_lower, log_upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
        if bucket.lower > 0.0 {
            (log_lower + (log_upper - log_lower) * fraction).exp2()
        } else {
            -(log_upper + (log_lower - log_upper) * (1.0 - fraction)).exp2()
        }
    }

    /// The share of observations between `lower` and `upper`, and whether there are NaN observations, which are in no share.
    pub fn fraction(&self, lower: f64, upper: f64) -> (f64, bool) {
        if self.count == 0.0 || lower.is_nan() || upper.is_nan() {
            return (f64::NAN, false);
        }
        if lower >= upper {
            return (0.0, false);
        }
        let has_nan = self.sum.is_nan();
        let total = if has_nan {
            self.buckets().map(|bucket| bucket.count).sum()
        } else {
            self.count
        };
        let (mut lower_rank, mut upper_rank) = (None, None);
        let mut rank = 0.0;
        for mut bucket in self.buckets() {
            let in_zero = if self.uses_custom_buckets() {
                if bucket.lower == f64::NEG_INFINITY && bucket.upper > 0.0 {
                    bucket.lower = 0.0;
                }
                false
            } else {
                let in_zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
                if in_zero {
                    self.clip_zero(&mut bucket);
                }
                in_zero
            };
            let linear = in_zero || self.uses_custom_buckets();
            for (bound, found) in [(lower, &mut lower_rank), (upper, &mut upper_rank)] {
                if found.is_none() && bucket.lower >= bound {
                    *found = Some(rank);
                } else if found.is_none() && bucket.upper > bound {
                    *found = Some(rank + bucket.count * share_below(&bucket, bound, linear));
                }
            }
            if lower_rank.is_some() && upper_rank.is_some() {
                break;
            }
            rank += bucket.count;
        }
        let within = |rank: Option<f64>| rank.filter(|&rank| rank <= total).unwrap_or(total);
        ((within(upper_rank) - within(lower_rank)) / self.count, has_nan)
    }

    /// The variance of the observations, taking each for the middle of its bucket.
    pub fn variance(&self) -> f64 {
        let mean = self.sum / self.count;
        let (mut variance, mut error) = (0.0, 0.0);
        for bucket in self.buckets().filter(|bucket| bucket.count != 0.0) {
            let middle = if self.uses_custom_buckets() {
                (bucket.upper + bucket.lower) / 2.0
            } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
                0.0
            } else {
                (bucket.upper * bucket.lower).sqrt().copysign(bucket.upper)
            };
            let distance = middle - mean;
            kahan_add(bucket.count * distance * distance, &mut variance, &mut error);
        }
        (variance + error) / self.count
    }
}

/// The bucket in which the count of those walked so far reaches `rank`, else the last one; and that count.
fn bucket_at(buckets: impl Iterator<Item = Bucket>, rank: f64) -> (Bucket, f64) {
    let mut reached = 0.0;
    let mut last = Bucket {
        lower: 0.0,
        upper: 0.0,
        lower_inclusive: false,
        upper_inclusive: false,
        count: 0.0,
        index: 0,
    };
    for bucket in buckets {
        last = bucket;
        if bucket.count == 0.0 {
            continue;
        }
        reached += bucket.count;
        if reached >= rank {
            break;
        }
    }
    (last, reached)
}

/// The share of a bucket's observations below `value`, which lies inside. Nothing can be said about a bucket that reaches to
/// infinity: what is asked for then gets none of it.
fn share_below(bucket: &Bucket, value: f64, linear: bool) -> f64 {
    if linear {
        if bucket.lower == f64::NEG_INFINITY {
            return 1.0;
        }
        return (value - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let (log_lower, log_upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    let log_value = value.abs().log2();
    if value > 0.0 {
        (log_value - log_lower) / (log_upper - log_lower)
    } else {
        1.0 - (log_value - log_upper) / (log_lower - log_upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::{CUSTOM_BUCKETS_SCHEMA, Span};

    fn span(length: usize) -> Vec<Span> {
        vec![Span {
            offset: 0,
            length: length as u32,
        }]
    }

    fn exponential(zero: f64, negative: &[f64], positive: &[f64]) -> Histogram {
        let count = zero + negative.iter().sum::<f64>() + positive.iter().sum::<f64>();
        Histogram {
            count,
            sum: 100.0,
            zero_threshold: 0.001,
            zero_count: zero,
            positive_spans: if positive.is_empty() {
                vec![]
            } else {
                span(positive.len())
            },
            positive_buckets: positive.to_vec(),
            negative_spans: if negative.is_empty() {
                vec![]
            } else {
                span(negative.len())
            },
            negative_buckets: negative.to_vec(),
            ..Histogram::default()
        }
    }

    fn custom(bounds: &[f64], counts: &[f64]) -> Histogram {
        Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            custom_values: bounds.to_vec(),
            ..exponential(0.0, &[], counts)
        }
    }

    fn close(a: f64, b: f64) -> bool {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() < 1e-9
    }

    #[test]
    fn quantiles() {
        let check = |histogram: &Histogram, table: &[(f64, f64)]| {
            for &(phi, expected) in table {
                let (value, effect) = histogram.quantile(phi);
                assert!(close(value, expected), "{phi}: {value}, expected {expected}");
                assert_eq!(effect, NanEffect::None);
            }
        };
        let inf = f64::INFINITY;
        let both = exponential(4.0, &[2.0, 3.0, 0.0, 1.0, 4.0], &[2.0, 3.0, 0.0, 1.0, 4.0]);
        check(
            &both,
            &[
                (1.001, inf),
                (1.0, 16.0),
                (0.55, 0.0006),
                (0.5, 0.0),
                (0.45, -0.0006),
                (0.0, -16.0),
                (-1.0, -inf),
            ],
        );
        check(
            &both,
            &[
                (0.99, 15.34822590920423),
                (0.1, -10.556063286183155),
                (f64::NAN, f64::NAN),
            ],
        );
        let below = exponential(2.0, &[2.0, 3.0, 0.0, 1.0, 4.0], &[]);
        check(
            &below,
            &[(1.0, 0.0), (0.99, -0.00006), (0.5, -1.5874010519681996), (0.0, -16.0)],
        );
        check(
            &custom(&[5.0, 10.0], &[1.0, 2.0, 1.0]),
            &[(0.0, 0.0), (0.125, 2.5), (0.5, 7.5), (0.99, 10.0)],
        );
        check(
            &custom(&[-0.2, -0.1], &[1.0, 1.0]),
            &[(0.2, -0.2), (0.75, -0.15), (1.0, -0.1)],
        );
        check(&exponential(0.0, &[], &[]), &[(0.5, f64::NAN)]);
        let without_buckets = Histogram {
            count: 3.0,
            ..Histogram::default()
        };
        check(&without_buckets, &[(0.0, f64::NAN), (0.5, 0.0), (1.0, f64::NAN)]);
        let too_few = Histogram {
            count: 10.0,
            ..exponential(0.0, &[], &[1.0, 2.0])
        };
        check(&too_few, &[(0.4, 2.0)]);
    }

    #[test]
    fn observations_of_nan_are_ranked_highest() {
        let histogram = Histogram {
            count: 15.0,
            sum: f64::NAN,
            ..exponential(0.0, &[], &[12.0])
        };
        assert_eq!(histogram.quantile(0.8), (1.0, NanEffect::Skewed));
        let (value, effect) = histogram.quantile(0.81);
        assert!(value.is_nan() && effect == NanEffect::Result);
        assert_eq!(histogram.fraction(f64::NEG_INFINITY, f64::INFINITY), (0.8, true));
        assert!(close(histogram.fraction(f64::NEG_INFINITY, 0.7071067811865475).0, 0.4));
    }

    #[test]
    fn fractions() {
        let check = |histogram: &Histogram, lower: f64, upper: f64, expected: f64| {
            let (value, has_nan) = histogram.fraction(lower, upper);
            assert!(
                close(value, expected),
                "{lower} to {upper}: {value}, expected {expected}"
            );
            assert!(!has_nan);
        };
        let inf = f64::INFINITY;
        let above = exponential(2.0, &[], &[2.0, 3.0, 0.0, 1.0, 4.0]);
        check(&above, 0.0, inf, 1.0);
        check(&above, -0.001, 0.0, 0.0);
        check(&above, 0.0, 0.0005, 1.0 / 12.0);
        check(&above, 0.0, 1.5, 0.4795739585136224);
        check(&above, 42.0, 3.0, 0.0);
        check(&above, f64::NAN, 3.0, f64::NAN);
        let both = exponential(4.0, &[2.0, 3.0, 0.0, 1.0, 4.0], &[2.0, 3.0, 0.0, 1.0, 4.0]);
        check(&both, -0.0005, 0.0005, 1.0 / 12.0);
        check(&both, -6.0, -1.5, 0.07625312493990362);
        let low = custom(&[-3.0, -2.0, -1.0], &[10.0, 2.0, 3.0, 85.0]);
        check(&low, -10.0, -2.0, 0.02);
        check(&low, -inf, -1.5, 0.135);
        check(&low, 0.0, 1.0, 0.0);
        check(&low, -inf, inf, 1.0);
        check(&custom(&[1.0, 2.0], &[1.0, 2.0]), 0.5, 2.0, 2.5 / 3.0);
        check(&custom(&[], &[100.0]), 0.0, 1.0, 0.0);
    }

    #[test]
    fn variances() {
        let histogram = Histogram {
            schema: 0,
            sum: -100.0,
            ..exponential(0.0, &[0.0, 0.0, 0.0, 0.0, 10.0], &[])
        };
        assert!(
            close(histogram.variance(), 1.725830020304794),
            "{}",
            histogram.variance()
        );
        let custom = Histogram {
            sum: 330.0,
            ..custom(&[0.0, 0.1, 0.2, 1.0], &[0.0, 50.0, 20.0, 40.0, 0.0])
        };
        assert!(close(custom.variance(), 7.527045454545455), "{}", custom.variance());
    }
}
