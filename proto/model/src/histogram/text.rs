//! A native histogram as text, as `count_values` and error messages show it.

use super::{Histogram, buckets::Bucket};
use std::fmt;

/// `{count:4, sum:5, [-2,-1):1, [-0.001,0.001]:2, (1,2]:1}`: populated buckets, ascending.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", Shortest(self.count), Shortest(self.sum))?;
        for bucket in self.negative().rev().chain([self.zero_bucket()]).chain(self.positive()) {
            if bucket.count != 0.0 {
                write!(f, ", {bucket}")?;
            }
        }
        f.write_str("}")
    }
}

/// `(1,2]:3`
impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = if self.lower_inclusive { '[' } else { '(' };
        let close = if self.upper_inclusive { ']' } else { ')' };
        write!(
            f,
            "{open}{},{}{close}:{}",
            Shortest(self.lower),
            Shortest(self.upper),
            Shortest(self.count)
        )
    }
}

/// A float with the fewest digits that tell it from its neighbours, and with an exponent below 1e-4 and from 1e6 on: as Prometheus
/// prints floats in messages.
#[derive(Debug, Clone, Copy)]
pub struct Shortest(pub f64);

impl fmt::Display for Shortest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value.is_nan() {
            return f.write_str("NaN");
        }
        if value.is_infinite() {
            return f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        }
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        if (-4..6).contains(&exponent) {
            return write!(f, "{value}");
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(f, "{digits}e{sign}{:02}", exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::{CUSTOM_BUCKETS_SCHEMA, Span};

    #[test]
    fn populated_buckets_are_printed() {
        let histogram = Histogram {
            count: 20.0,
            sum: 10.0,
            zero_threshold: 0.001,
            zero_count: 2.0,
            positive_spans: vec![Span { offset: 0, length: 3 }],
            positive_buckets: vec![1.0, 0.0, 2.0],
            negative_spans: vec![Span { offset: 0, length: 2 }],
            negative_buckets: vec![1.0, 2.0],
            ..Histogram::default()
        };
        let text = "{count:20, sum:10, [-2,-1):2, [-1,-0.5):1, [-0.001,0.001]:2, (0.5,1]:1, (2,4]:2}";
        assert_eq!(histogram.to_string(), text);
        let histogram = Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            custom_values: vec![5.0],
            positive_spans: vec![Span { offset: 0, length: 2 }],
            positive_buckets: vec![1.0, 2.0],
            ..Histogram::default()
        };
        assert_eq!(histogram.to_string(), "{count:0, sum:0, [-Inf,5]:1, (5,+Inf]:2}");
    }

    #[test]
    fn floats_are_printed_as_in_messages() {
        let check = |value: f64, expected: &str| assert_eq!(Shortest(value).to_string(), expected);
        check(0.0, "0");
        check(-0.0, "-0");
        check(1.1, "1.1");
        check(123456.789, "123456.789");
        check(1e6, "1e+06");
        check(1234567.0, "1.234567e+06");
        check(-1e100, "-1e+100");
        check(0.0001, "0.0001");
        check(0.00012345, "0.00012345");
        check(1e-5, "1e-05");
        check(f64::INFINITY, "+Inf");
        check(f64::NEG_INFINITY, "-Inf");
        check(f64::NAN, "NaN");
    }
}
