//! Numbers as Go prints them, byte for byte: clients compare, cache and diff them as text.

use model::time::Timestamp;

/// Appends `value` as the API writes sample values: shortest digits that read back equal, without exponent unless the value is
/// below 1e-6 or at least 1e21.
#[inline]
pub(crate) fn write_value(out: &mut Vec<u8>, value: f64) {
    // Most values are whole: counters, gauges of bytes, 0 and 1.
    if value.abs() < 9e15 && value == value.trunc() && (value != 0.0 || value.is_sign_positive()) {
        return write_int(out, value as i64);
    }
    // Between these bounds the digits come without exponent, and as we want them but for the fraction of a whole number.
    if (1e-5..1e15).contains(&value.abs()) {
        let mut buffer = ryu::Buffer::new();
        let text = buffer.format_finite(value);
        return out.extend_from_slice(text.strip_suffix(".0").unwrap_or(text).as_bytes());
    }
    write_float(out, value, |abs, _| !(1e-6..1e21).contains(&abs));
}

/// Appends `value` without exponent, whatever its size: how the API writes scalars.
pub(crate) fn write_fixed(out: &mut Vec<u8>, value: f64) {
    write_float(out, value, |_, _| false);
}

/// Appends `value` as the text exposition format does (Go's `%g` with shortest digits): with an exponent below 1e-4 and from 1e6.
pub(crate) fn write_general(out: &mut Vec<u8>, value: f64) {
    write_float(out, value, |_, exponent| !(-4..6).contains(&exponent));
}

/// Appends a timestamp in seconds: whole, or with exactly three digits after the point.
#[inline]
pub(crate) fn write_timestamp(out: &mut Vec<u8>, at: Timestamp) {
    if at < 0 {
        out.push(b'-');
    }
    let at = at.unsigned_abs();
    out.extend_from_slice(itoa::Buffer::new().format(at / 1000).as_bytes());
    let fraction = at % 1000;
    if fraction != 0 {
        let digit = |power: u64| b'0' + (fraction / power % 10) as u8;
        out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
    }
}

/// Appends a timestamp in seconds with as many digits as it needs: how the API writes the time of scalars and strings.
pub(crate) fn write_short_timestamp(out: &mut Vec<u8>, at: Timestamp) {
    write_timestamp(out, at);
    if at % 1000 != 0 {
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// Appends an integer.
#[inline]
pub(crate) fn write_int(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends `value`; `scientific` decides by magnitude and decimal exponent whether it gets an exponent.
fn write_float(out: &mut Vec<u8>, value: f64, scientific: impl Fn(f64, i32) -> bool) {
    if value.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let abs = value.abs();
    if abs == 0.0 {
        return out.push(b'0');
    }
    let (digits, exponent) = Digits::of(abs);
    if scientific(abs, exponent) {
        write_scientific(out, digits.as_bytes(), exponent);
    } else {
        write_plain(out, digits.as_bytes(), exponent);
    }
}

/// `d.ddde±xx`, at least two digits of exponent.
fn write_scientific(out: &mut Vec<u8>, digits: &[u8], exponent: i32) {
    out.push(digits[0]);
    if digits.len() > 1 {
        out.push(b'.');
        out.extend_from_slice(&digits[1..]);
    }
    out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
    let exponent = exponent.unsigned_abs();
    if exponent < 10 {
        out.push(b'0');
    }
    out.extend_from_slice(itoa::Buffer::new().format(exponent).as_bytes());
}

/// Digits with the point where it belongs, filled with zeros.
fn write_plain(out: &mut Vec<u8>, digits: &[u8], exponent: i32) {
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', exponent.unsigned_abs() as usize - 1));
        return out.extend_from_slice(digits);
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        out.extend_from_slice(digits);
        out.extend(std::iter::repeat_n(b'0', whole - digits.len()));
    } else {
        out.extend_from_slice(&digits[..whole]);
        out.push(b'.');
        out.extend_from_slice(&digits[whole..]);
    }
}

/// The shortest digits of a number, without leading and trailing zeros.
struct Digits {
    /// At most 17 are ever needed for a 64-bit float; the longest text without exponent has 16 and leading zeros.
    bytes: [u8; 24],
    len: usize,
}

impl Digits {
    /// Digits of a positive finite number and the power of ten of the first one.
    fn of(abs: f64) -> (Self, i32) {
        let mut buffer = ryu::Buffer::new();
        let text = buffer.format_finite(abs);
        let (mantissa, shift) = match text.split_once('e') {
            Some((mantissa, exponent)) => (mantissa, exponent.parse().unwrap_or(0)),
            None => (text, 0),
        };
        let mut digits = Self { bytes: [0; 24], len: 0 };
        let mut point = None;
        let mut leading_zeros = 0;
        for byte in mantissa.bytes() {
            match byte {
                b'.' => point = Some(digits.len as i32 + leading_zeros),
                b'0' if digits.len == 0 => leading_zeros += 1,
                digit => {
                    digits.bytes[digits.len] = digit;
                    digits.len += 1;
                }
            }
        }
        let before_point = point.unwrap_or(digits.len as i32 + leading_zeros);
        while digits.len > 1 && digits.bytes[digits.len - 1] == b'0' {
            digits.len -= 1;
        }
        (digits, before_point - leading_zeros - 1 + shift)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_switch_to_exponents_where_go_does() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (1.5, "1.5"),
            (0.1, "0.1"),
            (0.001, "0.001"),
            (1e-6, "0.000001"),
            (1.5e-6, "0.0000015"),
            (9.99e-7, "9.99e-07"),
            (1e-7, "1e-07"),
            (-1e-7, "-1e-07"),
            (123456.789, "123456.789"),
            (1e15, "1000000000000000"),
            (1e16, "10000000000000000"),
            (123456789012345680.0, "123456789012345680"),
            (1e20, "100000000000000000000"),
            (123.456e18, "123456000000000000000"),
            (999999999999999900000.0, "999999999999999900000"),
            (1e21, "1e+21"),
            (-1.25e21, "-1.25e+21"),
            (1e100, "1e+100"),
            (1.2345e-100, "1.2345e-100"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (5e-324, "5e-324"),
            (9007199254740991.0, "9007199254740991"),
            (9007199254740993.0, "9007199254740992"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (model::sample::STALE_NAN, "NaN"),
        ];
        for (value, expected) in cases {
            assert_eq!(text(|out| write_value(out, value)), expected, "{value:e}");
        }
    }

    #[test]
    fn scalars_never_have_exponents() {
        let cases = [
            (1e21, "1000000000000000000000"),
            (1e-7, "0.0000001"),
            (-2.5e-8, "-0.000000025"),
            (4.0, "4"),
        ];
        for (value, expected) in cases {
            assert_eq!(text(|out| write_fixed(out, value)), expected, "{value:e}");
        }
        assert_eq!(text(|out| write_fixed(out, f64::MAX)).len(), 309);
    }

    #[test]
    fn exposition_switches_to_exponents_early() {
        let cases = [
            (10000.0, "10000"),
            (999999.0, "999999"),
            (1e6, "1e+06"),
            (1234567.0, "1.234567e+06"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.5, "0.5"),
        ];
        for (value, expected) in cases {
            assert_eq!(text(|out| write_general(out, value)), expected, "{value:e}");
        }
    }

    #[test]
    fn every_value_reads_back_equal() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let value = f64::from_bits(bits);
            if value.is_nan() {
                continue;
            }
            for write in [write_value, write_fixed, write_general] {
                let written = text(|out| write(out, value));
                assert_eq!(written.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{written}");
            }
        }
    }

    #[test]
    fn timestamps_have_three_digits_or_none() {
        let cases = [
            (0, "0"),
            (1, "0.001"),
            (10, "0.010"),
            (100, "0.100"),
            (1500, "1.500"),
            (1001, "1.001"),
            (-1, "-0.001"),
            (-1000, "-1"),
            (-1500, "-1.500"),
            (1435781451781, "1435781451.781"),
            (i64::MAX, "9223372036854775.807"),
            (i64::MIN, "-9223372036854775.808"),
        ];
        for (at, expected) in cases {
            assert_eq!(text(|out| write_timestamp(out, at)), expected);
        }
        for (at, expected) in [(1500, "1.5"), (1000, "1"), (10_010, "10.01"), (-20, "-0.02"), (0, "0")] {
            assert_eq!(text(|out| write_short_timestamp(out, at)), expected);
        }
    }
}
