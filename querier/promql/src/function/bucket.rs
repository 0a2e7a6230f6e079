//! Quantiles and fractions of classic histograms: cumulative buckets, each a series with its upper bound in the label `le`.

/// A cumulative bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    /// Upper bound.
    pub(crate) upper: f64,
    /// Observations up to it.
    pub(crate) count: f64,
}

/// Relative differences of counts up to this are rounding, not decreases.
const TOLERANCE: f64 = 1e-12;

/// How counts that fell from one bucket to the next were repaired.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forced {
    /// Lowest upper bound of a changed bucket.
    pub(crate) lowest: f64,
    /// Highest upper bound of a changed bucket.
    pub(crate) highest: f64,
    /// Greatest change.
    pub(crate) difference: f64,
}

/// The φ-quantile, and how decreasing counts had to be repaired. The buckets are sorted and joined in place.
pub(crate) fn quantile(phi: f64, buckets: &mut Vec<Bucket>) -> (f64, Option<Forced>) {
    if phi.is_nan() {
        return (f64::NAN, None);
    }
    if phi < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if phi > 1.0 {
        return (f64::INFINITY, None);
    }
    if !arrange(buckets) {
        return (f64::NAN, None);
    }
    let forced = make_monotonic(buckets);
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if buckets.len() < 2 || observations == 0.0 {
        return (f64::NAN, None);
    }
    let rank = phi * observations;
    let index = buckets[..last].partition_point(|bucket| bucket.count < rank);
    if index == last {
        return (buckets[last - 1].upper, forced);
    }
    let Bucket { upper, count } = buckets[index];
    if index == 0 && upper <= 0.0 {
        return (upper, forced);
    }
    let below = if index > 0 {
        buckets[index - 1]
    } else {
        Bucket { upper: 0.0, count: 0.0 }
    };
    let share = (rank - below.count) / (count - below.count);
    (below.upper + (upper - below.upper) * share, forced)
}

/// The share of observations between `lower` and `upper`.
pub(crate) fn fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if !arrange(buckets) {
        return f64::NAN;
    }
    let observations = buckets[buckets.len() - 1].count;
    if observations == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut rank = 0.0;
    // Observations of positive buckets only are taken to begin at zero.
    let mut begin = if buckets[0].upper > 0.0 { 0.0 } else { f64::NEG_INFINITY };
    let (mut lower_rank, mut upper_rank) = (None, None);
    for bucket in buckets.iter() {
        for (bound, found) in [(lower, &mut lower_rank), (upper, &mut upper_rank)] {
            if found.is_none() && begin >= bound {
                *found = Some(rank);
            } else if found.is_none() && bucket.upper > bound {
                // Nothing can be said about where observations lie in a bucket without end: the bound gets none of one that
                // has no upper end, and all of one that has no lower end.
                let share = if begin.is_infinite() {
                    1.0
                } else {
                    (bound - begin) / (bucket.upper - begin)
                };
                *found = Some(rank + (bucket.count - rank) * share);
            }
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        (rank, begin) = (bucket.count, bucket.upper);
    }
    let within = |rank: Option<f64>| rank.filter(|&rank| rank <= observations).unwrap_or(observations);
    (within(upper_rank) - within(lower_rank)) / observations
}

/// Sorts buckets and joins those with the same bound. `false` when the highest is not infinite, so that nothing can be said.
fn arrange(buckets: &mut Vec<Bucket>) -> bool {
    buckets.sort_by(|a, b| a.upper.total_cmp(&b.upper));
    buckets.dedup_by(|bucket, kept| {
        let same = bucket.upper == kept.upper;
        if same {
            kept.count += bucket.count;
        }
        same
    });
    buckets.last().is_some_and(|bucket| bucket.upper == f64::INFINITY)
}

/// Lifts counts that fall below that of the bucket before. Changes within the tolerance are silent.
fn make_monotonic(buckets: &mut [Bucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut before = buckets[0].count;
    for bucket in &mut buckets[1..] {
        let count = bucket.count;
        if count == before {
            continue;
        }
        if nearly_equal(before, count) {
            bucket.count = before;
            continue;
        }
        if count < before {
            let known = forced.get_or_insert(Forced {
                lowest: bucket.upper,
                highest: bucket.upper,
                difference: 0.0,
            });
            known.lowest = known.lowest.min(bucket.upper);
            known.highest = known.highest.max(bucket.upper);
            known.difference = known.difference.max(before - count);
            bucket.count = before;
            continue;
        }
        before = count;
    }
    forced
}

fn nearly_equal(a: f64, b: f64) -> bool {
    let sum = a.abs() + b.abs();
    let difference = (a - b).abs();
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < TOLERANCE * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(f64, f64)]) -> Vec<Bucket> {
        pairs.iter().map(|&(upper, count)| Bucket { upper, count }).collect()
    }

    const INF: f64 = f64::INFINITY;

    #[test]
    fn quantiles() {
        let check = |phi: f64, pairs: &[(f64, f64)], expected: f64, is_forced: bool| {
            let (value, forced) = quantile(phi, &mut buckets(pairs));
            let close = (value - expected).abs() < 1e-9 || value == expected || (value.is_nan() && expected.is_nan());
            assert!(close, "{phi} of {pairs:?}: {value}");
            assert_eq!(forced.is_some(), is_forced);
        };
        let positive = [(0.1, 50.0), (0.2, 70.0), (1.0, 110.0), (INF, 120.0)];
        for (phi, expected) in [
            (0.0, 0.0),
            (0.2, 0.048),
            (0.5, 0.15),
            (1.0, 1.0),
            (1.1, INF),
            (-1.0, -INF),
        ] {
            check(phi, &positive, expected, false);
        }
        let negative = [(-0.2, 10.0), (-0.1, 20.0), (0.3, 20.0), (INF, 30.0)];
        for (phi, expected) in [(0.0, -0.2), (0.2, -0.2), (0.5, -0.15), (1.0, 0.3)] {
            check(phi, &negative, expected, false);
        }
        check(f64::NAN, &positive, f64::NAN, false);
        check(0.5, &positive[..3], f64::NAN, false);
        check(0.5, &[(INF, 3.0)], f64::NAN, false);
        check(0.5, &[(1.0, 0.0), (INF, 0.0)], f64::NAN, false);
        // Bounds written in two ways, and out of order.
        check(0.375, &[(INF, 4.0), (0.2, 1.0), (0.1, 1.0), (0.2, 1.0)], 0.15, false);
        let falling = [
            (0.1, 2.0),
            (1.0, 1.0),
            (10.0, 5.0),
            (100.0, 4.0),
            (1000.0, 9.0),
            (INF, 8.0),
        ];
        for (phi, expected) in [(0.01, 0.0045), (0.5, 8.5), (0.99, 979.75)] {
            check(phi, &falling, expected, true);
        }
        let forced = quantile(0.5, &mut buckets(&falling)).1;
        assert_eq!(
            forced,
            Some(Forced {
                lowest: 1.0,
                highest: INF,
                difference: 1.0
            })
        );
        let rounded = [(0.1, 1.0), (1.0, 1.0 - 1e-15), (INF, 2.0)];
        check(0.5, &rounded, 0.1, false);
    }

    #[test]
    fn fractions() {
        let check = |lower: f64, upper: f64, pairs: &[(f64, f64)], expected: f64| {
            let value = fraction(lower, upper, &mut buckets(pairs));
            let close = (value - expected).abs() < 1e-12 || (value.is_nan() && expected.is_nan());
            assert!(close, "{lower} to {upper} of {pairs:?}: {value}");
        };
        let positive = [(1.0, 1.0), (2.0, 3.0), (3.0, 6.0), (INF, 100.0)];
        check(0.0, 1.5, &positive, 0.02);
        check(0.5, 2.0, &positive, 0.025);
        check(4.0, 5.0, &positive, 0.0);
        check(2.0, 5.0, &positive, 0.03);
        check(400.0, INF, &positive, 0.94);
        check(-INF, INF, &positive, 1.0);
        check(3.0, 2.0, &positive, 0.0);
        check(f64::NAN, 2.0, &positive, f64::NAN);
        let negative = [(-3.0, 10.0), (-2.0, 12.0), (-1.0, 15.0), (INF, 100.0)];
        check(-4.0, -2.0, &negative, 0.02);
        check(-INF, -1.5, &negative, 0.135);
        check(-10.0, -5.0, &negative, 0.0);
        check(0.0, 1.0, &[(INF, 100.0)], 0.0);
    }
}
