//! Functions of one number, as Go's `math` package computes them where results could differ.

use crate::{ast::Function, calendar::Date};

/// The function of a lone float that `function` stands for.
pub(crate) fn of_one(function: Function) -> Option<fn(f64) -> f64> {
    Some(match function {
        Function::Abs => f64::abs,
        Function::Acos => f64::acos,
        Function::Acosh => f64::acosh,
        Function::Asin => f64::asin,
        Function::Asinh => f64::asinh,
        Function::Atan => f64::atan,
        Function::Atanh => f64::atanh,
        Function::Ceil => f64::ceil,
        Function::Cos => f64::cos,
        Function::Cosh => f64::cosh,
        Function::Deg => |value| value * 180.0 / std::f64::consts::PI,
        Function::Exp => f64::exp,
        Function::Floor => f64::floor,
        Function::Ln => f64::ln,
        Function::Log10 => f64::log10,
        Function::Log2 => f64::log2,
        Function::Rad => |value| value * std::f64::consts::PI / 180.0,
        Function::Sgn => sign,
        Function::Sin => f64::sin,
        Function::Sinh => f64::sinh,
        Function::Sqrt => f64::sqrt,
        Function::Tan => f64::tan,
        Function::Tanh => f64::tanh,
        Function::DayOfMonth => |value| f64::from(date(value).day),
        Function::DayOfWeek => |value| f64::from(date(value).weekday),
        Function::DayOfYear => |value| f64::from(date(value).day_of_year),
        Function::DaysInMonth => |value| f64::from(date(value).days_in_month()),
        Function::Hour => |value| f64::from(date(value).hour),
        Function::Minute => |value| f64::from(date(value).minute),
        Function::Month => |value| f64::from(date(value).month),
        Function::Year => |value| date(value).year as f64,
        _ => return None,
    })
}

/// -1, 0 or 1; zeros and NaN stay what they are.
fn sign(value: f64) -> f64 {
    if value < 0.0 {
        -1.0
    } else if value > 0.0 {
        1.0
    } else {
        value
    }
}

/// The date of a time in seconds. What is no time at all gets the last date there is, as in Prometheus on most machines.
fn date(seconds: f64) -> Date {
    const REACH: f64 = 9_223_372_036_854_775_808.0;
    let is_time = (-REACH..REACH).contains(&seconds);
    Date::of(if is_time { seconds as i64 } else { i64::MAX })
}

/// The lesser of two; NaN when either is NaN, but nothing is less than -Inf.
pub(crate) fn least(left: f64, right: f64) -> f64 {
    if left == f64::NEG_INFINITY || right == f64::NEG_INFINITY {
        f64::NEG_INFINITY
    } else if left.is_nan() || right.is_nan() {
        f64::NAN
    } else {
        left.min(right)
    }
}

/// The greater of two; NaN when either is NaN, but nothing is greater than +Inf.
pub(crate) fn greatest(left: f64, right: f64) -> f64 {
    if left == f64::INFINITY || right == f64::INFINITY {
        f64::INFINITY
    } else if left.is_nan() || right.is_nan() {
        f64::NAN
    } else {
        left.max(right)
    }
}

/// `value` rounded to the nearest multiple of `to`, halves up.
pub(crate) fn round(value: f64, to: f64) -> f64 {
    // The inverse loses less.
    let inverse = 1.0 / to;
    (value * inverse + 0.5).floor() / inverse
}

/// The φ-quantile of `values`, which are sorted in place. NaN ranks lowest.
pub(crate) fn quantile(phi: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || phi.is_nan() {
        return f64::NAN;
    }
    if phi < 0.0 {
        return f64::NEG_INFINITY;
    }
    if phi > 1.0 {
        return f64::INFINITY;
    }
    values.sort_unstable_by(|a, b| b.is_nan().cmp(&a.is_nan()).then(a.total_cmp(b)));
    let rank = phi * (values.len() as f64 - 1.0);
    let lower = rank.floor().max(0.0) as usize;
    let upper = (lower + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[upper] * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinity_is_an_end_even_for_nan() {
        assert_eq!(greatest(f64::NAN, f64::INFINITY), f64::INFINITY);
        assert_eq!(least(f64::NEG_INFINITY, f64::NAN), f64::NEG_INFINITY);
        assert!(greatest(f64::NAN, f64::NEG_INFINITY).is_nan() && least(1.0, f64::NAN).is_nan());
        assert_eq!((greatest(1.0, 2.0), least(1.0, 2.0)), (2.0, 1.0));
    }

    #[test]
    fn rounding_goes_half_up() {
        for (value, to, expected) in [
            (2.5, 1.0, 3.0),
            (-2.5, 1.0, -2.0),
            (5.15, 0.1, 5.2),
            (1.9, 0.5, 2.0),
            (-1.26, 0.5, -1.5),
        ] {
            assert!((round(value, to) - expected).abs() < 1e-12, "{value} to {to}");
        }
        assert!(round(f64::NAN, 1.0).is_nan());
    }

    #[test]
    fn quantiles_lie_between_ranks() {
        let check = |phi: f64, values: &[f64], expected: f64| {
            let found = quantile(phi, &mut values.to_vec());
            assert!(
                found == expected || (found - expected).abs() < 1e-12 || (found.is_nan() && expected.is_nan()),
                "{phi} of {values:?}: {found}"
            );
        };
        check(0.8, &[0.0, 1.0], 0.8);
        check(0.8, &[4.0, 0.0, 1.0], 2.8);
        check(0.5, &[f64::NAN, 1.0, 0.0], 0.0);
        check(0.2, &[1.0, 0.0, f64::NAN], f64::NAN);
        check(1.0, &[1.0, 3.0], 3.0);
        check(-0.1, &[1.0], f64::NEG_INFINITY);
        check(1.1, &[1.0], f64::INFINITY);
        check(0.5, &[], f64::NAN);
    }

    #[test]
    fn signs_and_dates() {
        let sgn = of_one(Function::Sgn).unwrap();
        assert_eq!((sgn(-3.0), sgn(0.0), sgn(f64::INFINITY)), (-1.0, 0.0, 1.0));
        assert!(sgn(f64::NAN).is_nan());
        assert_eq!(of_one(Function::Year).unwrap()(1136239445.0), 2006.0);
        assert_eq!(of_one(Function::Minute).unwrap()(-1.0), 59.0);
        assert_eq!(of_one(Function::Year).unwrap()(f64::NAN), 292277026596.0);
        assert_eq!(of_one(Function::DayOfYear).unwrap()(f64::NEG_INFINITY), 339.0);
        assert!(of_one(Function::Year).unwrap()(-9.2e18) < -1e11);
        assert!(of_one(Function::Rate).is_none());
    }
}
