//! The buckets of a native histogram with their bounds, in order.
//!
//! Quantiles, the HTTP API and the printed form walk these iterators. They never panic: a span that promises more
//! buckets than there are counts ends with the counts.

use super::{CUSTOM_BUCKETS_SCHEMA, Histogram, Span};
use std::sync::OnceLock;

/// The finest exponential schema.
pub const SCHEMA_MAX: i32 = 8;

/// The coarsest exponential schema.
pub const SCHEMA_MIN: i32 = -4;

/// A bucket with its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Whether observations of exactly `lower` belong to it.
    pub lower_inclusive: bool,
    /// Whether observations of exactly `upper` belong to it.
    pub upper_inclusive: bool,
    /// Observations in it.
    pub count: f64,
    /// Its index in the schema; 0 for the zero bucket.
    pub index: i64,
}

/// Indexes and counts of one side of a histogram, from both ends.
#[derive(Debug, Clone)]
pub struct Indexed<'a> {
    spans: &'a [Span],
    counts: &'a [f64],
    /// Index of the next bucket from the front, and how many of the front span are still to come.
    front: (i64, u32),
    /// Index of the next bucket from the back, and how many of the back span are still to come.
    back: (i64, u32),
}

impl<'a> Indexed<'a> {
    /// Walks `counts` laid out by `spans`.
    pub fn new(spans: &'a [Span], counts: &'a [f64]) -> Self {
        let promised: u64 = spans.iter().map(|span| u64::from(span.length)).sum();
        let counts = &counts[..counts.len().min(usize::try_from(promised).unwrap_or(usize::MAX))];
        let mut walk = Self {
            spans,
            counts,
            front: (0, 0),
            back: (0, 0),
        };
        walk.spans = trimmed(spans, counts.len());
        if let Some(first) = walk.spans.first() {
            walk.front = (i64::from(first.offset), first.length);
            let before: usize = walk.spans[..walk.spans.len() - 1]
                .iter()
                .map(|span| span.length as usize)
                .sum();
            let taken = (counts.len() - before) as u32;
            let start: i64 = walk.spans.iter().map(|span| i64::from(span.offset)).sum::<i64>() + before as i64;
            walk.back = (start + i64::from(taken) - 1, taken);
        }
        walk
    }
}

/// The spans that `count` buckets reach into, without empty ones at the end.
fn trimmed(spans: &[Span], count: usize) -> &[Span] {
    let mut left = count;
    let mut used = 0;
    for (position, span) in spans.iter().enumerate() {
        if left == 0 {
            break;
        }
        if span.length > 0 {
            used = position + 1;
        }
        left = left.saturating_sub(span.length as usize);
    }
    &spans[..used]
}

impl Iterator for Indexed<'_> {
    type Item = (i64, f64);

    #[inline]
    fn next(&mut self) -> Option<(i64, f64)> {
        let (&count, rest) = self.counts.split_first()?;
        while self.front.1 == 0 {
            self.spans = &self.spans[1..];
            let span = self.spans[0];
            self.front = (self.front.0 + i64::from(span.offset), span.length);
        }
        let index = self.front.0;
        self.front = (index + 1, self.front.1 - 1);
        self.counts = rest;
        Some((index, count))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.counts.len(), Some(self.counts.len()))
    }
}

impl DoubleEndedIterator for Indexed<'_> {
    fn next_back(&mut self) -> Option<(i64, f64)> {
        let (&count, rest) = self.counts.split_last()?;
        while self.back.1 == 0 {
            let gap = self.spans[self.spans.len() - 1].offset;
            self.spans = &self.spans[..self.spans.len() - 1];
            let span = self.spans[self.spans.len() - 1];
            self.back = (self.back.0 - i64::from(gap), span.length);
        }
        let index = self.back.0;
        self.back = (index - 1, self.back.1 - 1);
        self.counts = rest;
        Some((index, count))
    }
}

impl ExactSizeIterator for Indexed<'_> {}

impl Histogram {
    /// Whether the buckets have custom bounds.
    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// The positive buckets, ascending.
    pub fn positive(&self) -> impl ExactSizeIterator<Item = Bucket> + DoubleEndedIterator {
        let custom = self.uses_custom_buckets();
        Indexed::new(&self.positive_spans, &self.positive_buckets).map(move |(index, count)| {
            let (lower, upper) = (self.bound(index - 1), self.bound(index));
            Bucket {
                lower,
                upper,
                lower_inclusive: if custom { index == 0 } else { lower < 0.0 },
                upper_inclusive: custom || upper > 0.0,
                count,
                index,
            }
        })
    }

    /// The negative buckets in the order of their indexes: away from zero.
    pub fn negative(&self) -> impl ExactSizeIterator<Item = Bucket> + DoubleEndedIterator {
        Indexed::new(&self.negative_spans, &self.negative_buckets).map(|(index, count)| {
            let (lower, upper) = (-self.bound(index), -self.bound(index - 1));
            Bucket {
                lower,
                upper,
                lower_inclusive: lower < 0.0,
                upper_inclusive: upper > 0.0,
                count,
                index,
            }
        })
    }

    /// The zero bucket, `None` when nothing is in it.
    pub fn zero(&self) -> Option<Bucket> {
        (self.zero_count > 0.0).then(|| self.zero_bucket())
    }

    /// The zero bucket, populated or not.
    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
            index: 0,
        }
    }

    /// All buckets, ascending: negative, zero, positive.
    pub fn buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> {
        self.negative().rev().chain(self.zero()).chain(self.positive())
    }

    /// Upper bound of the positive bucket `index`.
    fn bound(&self, index: i64) -> f64 {
        if self.uses_custom_buckets() {
            custom_bound(index, &self.custom_values)
        } else {
            bound(index, self.schema)
        }
    }
}

/// Upper bound of bucket `index` between custom bounds; infinite beyond them.
fn custom_bound(index: i64, bounds: &[f64]) -> f64 {
    match usize::try_from(index) {
        Err(_) => f64::NEG_INFINITY,
        Ok(index) => bounds.get(index).copied().unwrap_or(f64::INFINITY),
    }
}

/// Upper bound of the positive bucket `index` of an exponential schema: 2^(index / 2^schema).
///
/// The last bucket below infinity ends at the greatest float, so that the bucket behind it holds infinite observations.
pub fn bound(index: i64, schema: i32) -> f64 {
    if schema <= 0 {
        let exponent = index.saturating_mul(1 << (-schema).min(16));
        return if exponent == 1024 {
            f64::MAX
        } else {
            scaled(1.0, exponent)
        };
    }
    let schema = schema.min(SCHEMA_MAX);
    let part = (index & ((1 << schema) - 1)) as usize;
    let fraction = fractions()[part << (SCHEMA_MAX - schema)];
    let exponent = (index >> schema).saturating_add(1);
    if fraction == 0.5 && exponent == 1025 {
        f64::MAX
    } else {
        scaled(fraction, exponent)
    }
}

/// `value * 2^exponent` for a value in [0.5, 1].
fn scaled(value: f64, exponent: i64) -> f64 {
    // In two factors, so that the greatest results do not pass through infinity; below 2^-1022 the second one rounds once.
    let exponent = exponent.clamp(-1200, 1200) as i32;
    let first = exponent.clamp(-1000, 1000);
    value * 2f64.powi(first) * 2f64.powi(exponent - first)
}

/// How many units in the last place the bounds of Prometheus's client libraries lie below (`+`: above) the nearest float of
/// 2^(i/256 - 1). Senders count by those bounds and the API prints them, so ours are the same to the last bit.
const FRACTION_ERRORS: &[u8; 256] = b"0000001000100000001200111111111100100010011100110011\
0+11001100110000001111221021001000100001000000010+0010220011011100101022111110101122112110111111112121222122001100101122\
102211221011212211211132112122322232222222333344324311211222213311222132112222432233";

/// Bounds of the finest schema within one power of two, in [0.5, 1).
fn fractions() -> &'static [f64; 256] {
    static FRACTIONS: OnceLock<[f64; 256]> = OnceLock::new();
    FRACTIONS.get_or_init(|| {
        std::array::from_fn(|index| {
            let nearest = (index as f64 / 256.0 - 1.0).exp2();
            match FRACTION_ERRORS[index] {
                b'+' => nearest.next_up(),
                digit => f64::from_bits(nearest.to_bits() - u64::from(digit - b'0')),
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(pairs: &[(i32, u32)]) -> Vec<Span> {
        pairs.iter().map(|&(offset, length)| Span { offset, length }).collect()
    }

    #[test]
    fn spans_are_walked_from_both_ends() {
        let check = |pairs: &[(i32, u32)], counts: &[f64], expected: &[i64]| {
            let spans = spans(pairs);
            let walk = Indexed::new(&spans, counts);
            let forth: Vec<i64> = walk.clone().map(|(index, _)| index).collect();
            let mut back: Vec<i64> = walk.clone().rev().map(|(index, _)| index).collect();
            back.reverse();
            assert_eq!(forth, expected, "{pairs:?}");
            assert_eq!(back, expected, "{pairs:?} from the back");
            let mut both = walk;
            let mut met = Vec::new();
            while let Some((index, _)) = both.next() {
                met.push(index);
                met.extend(both.next_back().map(|(index, _)| index));
            }
            met.sort_unstable();
            assert_eq!(met, expected, "{pairs:?} from both ends");
        };
        check(&[], &[], &[]);
        check(&[(0, 3)], &[1.0, 2.0, 3.0], &[0, 1, 2]);
        check(&[(-2, 2), (3, 1)], &[1.0, 2.0, 3.0], &[-2, -1, 3]);
        check(&[(1, 0), (1, 0), (0, 1), (1, 0), (2, 2), (5, 0)], &[1.0; 3], &[2, 6, 7]);
        // Fewer counts than promised, and more.
        check(&[(0, 2), (1, 4)], &[1.0; 3], &[0, 1, 3]);
        check(&[(0, 1)], &[1.0; 3], &[0]);
        check(&[(0, u32::MAX), (7, u32::MAX)], &[1.0; 2], &[0, 1]);
    }

    #[test]
    fn bounds_are_those_of_the_specification() {
        assert_eq!(bound(0, 0), 1.0);
        assert_eq!(bound(3, 0), 8.0);
        assert_eq!(bound(-1, -2), 0.0625);
        assert_eq!(bound(1, 1), std::f64::consts::SQRT_2.next_down());
        assert_eq!(bound(-1, 1), 0.7071067811865475);
        assert_eq!(bound(7, 3) / 2.0, 0.9170040432046711);
        assert_eq!(bound(3, 2) / 2.0, 0.8408964152537144);
        assert_eq!(bound(1024, 0), f64::MAX);
        assert_eq!(bound(1025, 0), f64::INFINITY);
        assert_eq!(bound(1 << 18, 8), f64::MAX);
        assert_eq!(bound((1 << 18) - 1, 8), fractions()[255] * 2.0 * 2f64.powi(1023));
        assert_eq!(bound(-1074, 0), 5e-324);
        assert_eq!(bound(i64::MIN + 1, 0), 0.0);
        assert_eq!(bound(i64::MAX, -4), f64::INFINITY);
        assert!(fractions().is_sorted());
    }

    #[test]
    fn all_buckets_come_in_ascending_order() {
        let histogram = Histogram {
            zero_threshold: 0.001,
            zero_count: 2.0,
            positive_spans: spans(&[(0, 2)]),
            positive_buckets: vec![1.0, 2.0],
            negative_spans: spans(&[(0, 1), (1, 1)]),
            negative_buckets: vec![3.0, 4.0],
            ..Histogram::default()
        };
        let seen: Vec<_> = histogram
            .buckets()
            .map(|bucket| (bucket.lower, bucket.upper, bucket.count))
            .collect();
        let expected = [
            (-4.0, -2.0, 4.0),
            (-1.0, -0.5, 3.0),
            (-0.001, 0.001, 2.0),
            (0.5, 1.0, 1.0),
            (1.0, 2.0, 2.0),
        ];
        assert_eq!(seen, expected);
        let mut back: Vec<_> = histogram
            .buckets()
            .rev()
            .map(|bucket| (bucket.lower, bucket.upper, bucket.count))
            .collect();
        back.reverse();
        assert_eq!(back, expected);
    }

    #[test]
    fn custom_buckets_end_at_infinity() {
        let histogram = Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            custom_values: vec![5.0, 10.0],
            positive_spans: spans(&[(0, 3)]),
            positive_buckets: vec![1.0, 2.0, 1.0],
            ..Histogram::default()
        };
        let bounds: Vec<_> = histogram
            .buckets()
            .map(|b| (b.lower, b.upper, b.lower_inclusive, b.upper_inclusive))
            .collect();
        let inf = f64::INFINITY;
        assert_eq!(
            bounds,
            [
                (-inf, 5.0, true, true),
                (5.0, 10.0, false, true),
                (10.0, inf, false, true)
            ]
        );
    }
}
