//! Where buckets lie: changing layouts so that two histograms can be combined, and removing what is empty.
//!
//! A layout is a list of spans with one count per bucket. [`super::arithmetic`] and [`super::compensated`] build on it.

use super::{
    Histogram, Span,
    buckets::{Indexed, SCHEMA_MIN},
};

/// Something by bucket index: ascending, each index once.
pub(super) type Sparse<T> = Vec<(i64, T)>;

/// What lies at `entries`, after every index has become `target(index)`, which must not fall; what then meets is joined by `add`.
pub(super) fn regrouped<T: Copy>(
    entries: impl Iterator<Item = (i64, T)>,
    mut target: impl FnMut(i64) -> i64,
    mut add: impl FnMut(T, T) -> T,
) -> Sparse<T> {
    let mut sparse: Sparse<T> = Vec::with_capacity(entries.size_hint().0);
    for (index, item) in entries {
        let index = target(index);
        match sparse.last_mut() {
            Some(last) if last.0 == index => last.1 = add(last.1, item),
            _ => sparse.push((index, item)),
        }
    }
    sparse
}

/// The index in schema `to` of the bucket that bucket `index` of the finer schema `from` lies in.
pub(super) fn coarser(from: i32, to: i32) -> impl Fn(i64) -> i64 {
    let shift = (from - to).clamp(0, 63) as u32;
    move |index| ((index - 1) >> shift) + 1
}

/// The index between the bounds `to` of the bucket that bucket `index` between `from` lies in. `to` is a subset of `from`, and
/// indexes must be asked for in ascending order.
pub(super) fn between(from: &[f64], to: &[f64]) -> impl FnMut(i64) -> i64 {
    let mut target = 0;
    move |index| {
        let upper = usize::try_from(index)
            .ok()
            .and_then(|index| from.get(index))
            .copied()
            .unwrap_or(f64::INFINITY);
        while target < to.len() && to[target] < upper {
            target += 1;
        }
        target as i64
    }
}

/// Bounds that both lists hold; both are strictly increasing.
pub(super) fn shared_bounds(left: &[f64], right: &[f64]) -> Vec<f64> {
    let mut right = right.iter().peekable();
    let mut shared = Vec::new();
    for &bound in left {
        while right.next_if(|&&other| other < bound).is_some() {}
        if right.next_if(|&&other| other == bound).is_some() {
            shared.push(bound);
        }
    }
    shared
}

/// Spans and counts of buckets given by index.
pub(super) fn packed(sparse: impl IntoIterator<Item = (i64, f64)>) -> (Vec<Span>, Vec<f64>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut counts = Vec::new();
    let mut next = 0;
    for (index, count) in sparse {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(Span {
                offset: clamped(index - next),
                length: 1,
            }),
        }
        counts.push(count);
        next = index + 1;
    }
    (spans, counts)
}

/// An offset as a span holds it. Only spans that are invalid to begin with reach beyond.
fn clamped(offset: i64) -> i32 {
    offset.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// Both lists merged by index.
pub(super) fn merged<A: Copy, B: Copy, C>(
    left: &[(i64, A)],
    right: &[(i64, B)],
    combine: impl Fn(Option<A>, Option<B>) -> C,
) -> Sparse<C> {
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let (mut l, mut r) = (0, 0);
    loop {
        let index = match (left.get(l), right.get(r)) {
            (Some(a), Some(b)) => a.0.min(b.0),
            (Some(a), None) => a.0,
            (None, Some(b)) => b.0,
            (None, None) => return out,
        };
        let a = left.get(l).filter(|entry| entry.0 == index).map(|entry| entry.1);
        let b = right.get(r).filter(|entry| entry.0 == index).map(|entry| entry.1);
        (l, r) = (l + usize::from(a.is_some()), r + usize::from(b.is_some()));
        out.push((index, combine(a, b)));
    }
}

/// A zero bucket that suits two histograms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SharedZero {
    /// How far it reaches. It cuts no populated bucket of either.
    pub(super) threshold: f64,
    /// What it holds of the left one.
    pub(super) left: f64,
    /// What it holds of the right one.
    pub(super) right: f64,
}

/// The narrowest zero bucket that suits both.
pub(super) fn shared_zero(left: &Histogram, right: &Histogram) -> SharedZero {
    let mut mine = (left.zero_count, left.zero_threshold);
    let mut theirs = (right.zero_count, right.zero_threshold);
    // Each round passes a bucket of one of the two. Thresholds that are NaN never meet and end the loop.
    while mine.1 > theirs.1 || theirs.1 > mine.1 {
        if mine.1 > theirs.1 {
            theirs = right.zero_count_within(mine.1);
        }
        if theirs.1 > mine.1 {
            mine = left.zero_count_within(theirs.1);
        }
    }
    SharedZero {
        threshold: mine.1,
        left: mine.0,
        right: theirs.0,
    }
}

/// Removes empty buckets and joins spans.
fn compact_side(spans: &mut Vec<Span>, counts: &mut Vec<f64>) {
    let tight = spans.iter().skip(1).all(|span| span.offset > 0) && spans.iter().all(|span| span.length > 0);
    let promised: u64 = spans.iter().map(|span| u64::from(span.length)).sum();
    if tight && promised == counts.len() as u64 && counts.iter().all(|&count| count != 0.0) {
        return;
    }
    let (new_spans, new_counts) = packed(Indexed::new(spans, counts).filter(|&(_, count)| count != 0.0));
    (*spans, *counts) = (new_spans, new_counts);
}

impl Histogram {
    /// Removes empty buckets and joins adjacent spans. Two histograms of the same observations are then equal.
    pub fn compact(&mut self) {
        compact_side(&mut self.positive_spans, &mut self.positive_buckets);
        compact_side(&mut self.negative_spans, &mut self.negative_buckets);
    }

    /// The same observations in the coarser exponential schema `schema`; unchanged if it is not coarser.
    pub fn reduce(&mut self, schema: i32) {
        if self.uses_custom_buckets() || schema >= self.schema || schema < SCHEMA_MIN {
            return;
        }
        let side = |spans: &[Span], counts: &[f64]| {
            packed(regrouped(
                Indexed::new(spans, counts),
                coarser(self.schema, schema),
                |a, b| a + b,
            ))
        };
        (self.positive_spans, self.positive_buckets) = side(&self.positive_spans, &self.positive_buckets);
        (self.negative_spans, self.negative_buckets) = side(&self.negative_spans, &self.negative_buckets);
        self.schema = schema;
    }

    /// What the zero bucket would hold if it reached up to `threshold`, which must not be below the present one, and how far it
    /// then really reaches: to the far end of a populated bucket that `threshold` would cut.
    pub(super) fn zero_count_within(&self, threshold: f64) -> (f64, f64) {
        let mut threshold = threshold;
        // Each round that starts anew has passed a populated negative bucket, so rounds are bounded by buckets.
        'wider: loop {
            let mut count = self.zero_count;
            for bucket in self.positive() {
                if bucket.lower >= threshold {
                    break;
                }
                count += bucket.count;
                if bucket.upper > threshold {
                    if bucket.count != 0.0 {
                        threshold = bucket.upper;
                    }
                    break;
                }
            }
            for bucket in self.negative() {
                if bucket.upper <= -threshold {
                    break;
                }
                count += bucket.count;
                if bucket.lower < -threshold {
                    if bucket.count != 0.0 {
                        threshold = -bucket.lower;
                        continue 'wider;
                    }
                    break;
                }
            }
            return (count, threshold);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(schema: i32, offset: i32, counts: &[f64]) -> Histogram {
        Histogram {
            schema,
            positive_spans: vec![Span {
                offset,
                length: counts.len() as u32,
            }],
            positive_buckets: counts.to_vec(),
            ..Histogram::default()
        }
    }

    #[test]
    fn compaction_leaves_populated_buckets_only() {
        let mut histogram = sample(0, -1, &[0.0, 1.0, 0.0, 0.0, 2.0, 3.0, 0.0]);
        histogram.compact();
        assert_eq!(
            histogram.positive_spans,
            [Span { offset: 0, length: 1 }, Span { offset: 2, length: 2 }]
        );
        assert_eq!(histogram.positive_buckets, [1.0, 2.0, 3.0]);

        let mut histogram = sample(0, 0, &[1.0, 2.0]);
        histogram.positive_spans = vec![Span { offset: 0, length: 1 }, Span { offset: 0, length: 1 }];
        histogram.compact();
        assert_eq!(histogram.positive_spans, [Span { offset: 0, length: 2 }]);
    }

    #[test]
    fn halving_the_resolution_merges_pairs() {
        // (0.5,1] stays with (0.25,0.5]; (1,2] and (2,4] become (1,4].
        let mut histogram = sample(0, 0, &[1.0, 2.0, 4.0, 8.0]);
        histogram.reduce(-1);
        assert_eq!((histogram.schema, histogram.positive_spans[0].offset), (-1, 0));
        assert_eq!(histogram.positive_buckets, [1.0, 6.0, 8.0]);
        histogram.reduce(2);
        assert_eq!(histogram.schema, -1, "a finer schema cannot be made");
    }

    #[test]
    fn custom_bounds_are_reconciled_to_those_shared() {
        assert_eq!(shared_bounds(&[1.0, 2.0, 5.0], &[2.0, 3.0, 5.0, 8.0]), [2.0, 5.0]);
        assert_eq!(shared_bounds(&[1.0], &[2.0]), [0.0; 0]);
        let entries = [(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0)].into_iter();
        let sparse = regrouped(entries, between(&[1.0, 2.0, 5.0], &[2.0]), |a, b| a + b);
        assert_eq!(sparse, [(0, 3.0), (1, 12.0)]);
    }

    #[test]
    fn a_wider_zero_bucket_swallows_whole_buckets() {
        let mut histogram = sample(0, 0, &[1.0, 2.0, 4.0]);
        histogram.zero_count = 10.0;
        histogram.zero_threshold = 0.25;
        // 1.5 lies inside the populated bucket (1,2].
        assert_eq!(histogram.zero_count_within(1.5), (13.0, 2.0));
        let narrow = sample(0, 0, &[1.0]);
        assert_eq!(
            shared_zero(&histogram, &narrow),
            SharedZero {
                threshold: 0.25,
                left: 10.0,
                right: 0.0
            }
        );
        let wide = Histogram {
            zero_threshold: 1.5,
            zero_count: 7.0,
            ..Histogram::default()
        };
        assert_eq!(
            shared_zero(&histogram, &wide),
            SharedZero {
                threshold: 2.0,
                left: 13.0,
                right: 7.0
            }
        );
    }
}
