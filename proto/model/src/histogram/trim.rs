//! Cutting observations above or below a value out of a native histogram: the operators `</` and `>/`.
//!
//! The bucket that the value lies in is divided as quantiles would divide it. As soon as anything is cut, count and sum are
//! estimated anew from what is left.

use super::{Histogram, buckets::Bucket};

/// Which observations stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Those below the cut.
    Below,
    /// Those above the cut.
    Above,
}

/// How observations spread inside a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spread {
    Linear,
    Positive,
    Negative,
}

/// What stays of a bucket: observations, and the value that stands for them.
type Rest = (f64, f64);

impl Histogram {
    /// The histogram without the observations on the other side of `cut`.
    pub fn trimmed(&self, cut: f64, keep: Keep) -> Histogram {
        let mut result = self.clone();
        let positive = if self.uses_custom_buckets() {
            Spread::Linear
        } else {
            Spread::Positive
        };
        let (mut count, mut sum) = (0.0, 0.0);
        let mut changed = false;
        let mut settle = |kept: &mut f64, (rest, middle): Rest| {
            count += rest;
            sum += middle * rest;
            changed |= *kept != rest;
            *kept = rest;
        };
        for (kept, bucket) in result.positive_buckets.iter_mut().zip(self.positive()) {
            if bucket.count != 0.0 {
                settle(kept, rest_of(&bucket, cut, keep, positive));
            }
        }
        for (kept, bucket) in result.negative_buckets.iter_mut().zip(self.negative()) {
            if bucket.count != 0.0 {
                settle(kept, rest_of(&bucket, cut, keep, Spread::Negative));
            }
        }
        if let Some(mut bucket) = self.zero() {
            match (self.negative_buckets.is_empty(), self.positive_buckets.is_empty()) {
                (true, false) => bucket.lower = 0.0,
                (false, true) => bucket.upper = 0.0,
                (true, true) | (false, false) => {}
            }
            settle(&mut result.zero_count, rest_of(&bucket, cut, keep, Spread::Linear));
        }
        if !changed {
            return result;
        }
        (result.count, result.sum, result.integer) = (count, sum, false);
        result.compact();
        result
    }
}

fn rest_of(bucket: &Bucket, cut: f64, keep: Keep, spread: Spread) -> Rest {
    let (whole, none) = match keep {
        Keep::Below => (bucket.upper <= cut, bucket.lower >= cut || cut.is_nan()),
        Keep::Above => (bucket.lower >= cut, bucket.upper <= cut || cut.is_nan()),
    };
    if whole {
        return (bucket.count, middle(bucket.lower, bucket.upper, spread));
    }
    if none {
        return (0.0, 0.0);
    }
    if bucket.lower == f64::NEG_INFINITY {
        return rest_of_lowest(bucket, cut, keep);
    }
    if bucket.upper == f64::INFINITY {
        // How far up observations reach is unknown: none can be said to lie below the cut, all may lie above.
        return match keep {
            Keep::Below => (0.0, 0.0),
            Keep::Above => (bucket.count, cut),
        };
    }
    let below = bucket.count * share_below(bucket, cut, spread);
    match keep {
        Keep::Below => (below, middle(bucket.lower, cut, spread)),
        Keep::Above => (bucket.count - below, middle(cut, bucket.upper, spread)),
    }
}

/// The lowest custom bucket has no lower bound; it is taken to begin at zero when its upper bound is positive.
fn rest_of_lowest(bucket: &Bucket, cut: f64, keep: Keep) -> Rest {
    let begins_at_zero = bucket.upper > 0.0 && bucket.upper.is_finite();
    match keep {
        Keep::Below if begins_at_zero && cut > 0.0 => (bucket.count * cut / bucket.upper, cut / 2.0),
        Keep::Below if bucket.upper <= 0.0 => (bucket.count, cut),
        Keep::Above if begins_at_zero && cut >= 0.0 => {
            (bucket.count * (1.0 - cut / bucket.upper), (cut + bucket.upper) / 2.0)
        }
        Keep::Below | Keep::Above => (0.0, 0.0),
    }
}

/// The share of observations below `cut`, which lies inside the finite bucket.
fn share_below(bucket: &Bucket, cut: f64, spread: Spread) -> f64 {
    let logs = || (bucket.lower.abs().log2(), bucket.upper.abs().log2(), cut.abs().log2());
    match spread {
        Spread::Linear => (cut - bucket.lower) / (bucket.upper - bucket.lower),
        Spread::Positive => {
            let (lower, upper, cut) = logs();
            (cut - lower) / (upper - lower)
        }
        Spread::Negative => {
            let (lower, upper, cut) = logs();
            1.0 - (cut - upper) / (lower - upper)
        }
    }
}

/// The value that stands for the observations between two bounds.
fn middle(lower: f64, upper: f64, spread: Spread) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        (false, false) => match spread {
            Spread::Linear => (lower + upper) / 2.0,
            Spread::Positive => (lower * upper).abs().sqrt(),
            Spread::Negative => -(lower * upper).abs().sqrt(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::{CUSTOM_BUCKETS_SCHEMA, Span};

    const INF: f64 = f64::INFINITY;

    fn custom(bounds: &[f64], counts: &[f64], sum: f64) -> Histogram {
        Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count: counts.iter().sum(),
            sum,
            custom_values: bounds.to_vec(),
            positive_spans: vec![Span {
                offset: 0,
                length: counts.len() as u32,
            }],
            positive_buckets: counts.to_vec(),
            ..Histogram::default()
        }
    }

    fn check(histogram: &Histogram, keep: Keep, cut: f64, count: f64, sum: f64) {
        let rest = histogram.trimmed(cut, keep);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(
            close(rest.count, count) && close(rest.sum, sum),
            "{keep:?} {cut}: count {} sum {}",
            rest.count,
            rest.sum
        );
    }

    #[test]
    fn custom_buckets_are_divided_linearly() {
        use Keep::{Above, Below};
        let histogram = custom(&[5.0, 10.0, 15.0, 20.0], &[1.0, 6.0, 4.0, 3.0, 1.0], 172.5);
        check(&histogram, Below, 15.0, 11.0, 97.5);
        check(&histogram, Above, 15.0, 4.0, 72.5);
        check(&histogram, Below, 13.0, 9.4, 75.1);
        check(&histogram, Above, 13.0, 5.6, 94.9);
        check(&histogram, Below, 50.0, 14.0, 150.0);
        check(&histogram, Below, INF, 15.0, 172.5);
        check(&histogram, Above, -INF, 15.0, 172.5);
        check(&histogram, Above, 0.0, 15.0, 172.5);
        check(&histogram, Below, 0.0, 0.0, 0.0);
        check(&histogram, Above, INF, 0.0, 0.0);
        check(&histogram, Below, f64::NAN, 0.0, 0.0);
    }

    #[test]
    fn endless_buckets_are_kept_or_dropped_whole() {
        use Keep::{Above, Below};
        let at_zero = custom(&[0.0], &[1.0, 100.0], 33.0);
        check(&at_zero, Below, 10.0, 1.0, 0.0);
        check(&at_zero, Below, -10.0, 1.0, -10.0);
        check(&at_zero, Above, -10.0, 100.0, 0.0);
        check(&at_zero, Above, 10.0, 100.0, 1000.0);
        let above_zero = custom(&[5.0], &[1.0, 100.0], 33.0);
        check(&above_zero, Below, 2.0, 0.4, 0.4);
        check(&above_zero, Above, 2.0, 100.6, 502.1);
        check(&above_zero, Above, -10.0, 100.0, 500.0);
        check(&above_zero, Above, 0.0, 101.0, 33.0);
        let one = custom(&[], &[100.0], 100.0);
        check(&one, Below, 10.0, 0.0, 0.0);
        check(&one, Above, 10.0, 0.0, 0.0);
        check(&one, Below, INF, 100.0, 100.0);
    }

    #[test]
    fn exponential_buckets_are_divided_by_the_logarithm() {
        use Keep::{Above, Below};
        let histogram = Histogram {
            sum: -6.75,
            count: 16.0,
            zero_threshold: 0.01,
            zero_count: 5.0,
            positive_spans: vec![Span { offset: 0, length: 2 }],
            positive_buckets: vec![2.0, 3.0],
            negative_spans: vec![Span { offset: 0, length: 3 }],
            negative_buckets: vec![1.0, 2.0, 3.0],
            ..Histogram::default()
        };
        check(&histogram, Below, -0.005, 7.25, -12.03019028017131);
        check(&histogram, Above, 0.0, 7.5, 5.669354249492381);
        check(&histogram, Above, 2f64.sqrt(), 1.5, 1.5 * (2.0 * 2f64.sqrt()).sqrt());
        let zero = Histogram {
            count: 5.0,
            zero_count: 5.0,
            zero_threshold: 0.1,
            ..Histogram::default()
        };
        check(&zero, Above, 0.05, 1.25, 0.09375);
        check(&zero, Below, 0.05, 3.75, -0.09375);
        check(&zero, Above, 0.1, 0.0, 0.0);
    }
}
