//! Numbers and durations: how far they reach in a text, and what they are worth.

use super::is_alphanumeric;
use crate::format::quote;

/// How many bytes at the start of `text` are a number (`Some(false)`) or a duration (`Some(true)`), or, with `None`, how
/// many belong to what is neither. In series descriptions an `x` may follow a number and nothing is hexadecimal.
pub(crate) fn scan_number_or_duration(text: &str, in_series: bool) -> (usize, Option<bool>) {
    let mut scan = Scan {
        bytes: text.as_bytes(),
        position: 0,
        in_series,
    };
    if scan.number() {
        return (scan.position, Some(false));
    }
    if scan.rest_of_duration() {
        return (scan.position, Some(true));
    }
    (scan.position, None)
}

struct Scan<'a> {
    bytes: &'a [u8],
    position: usize,
    in_series: bool,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn accept(&mut self, set: &[u8]) -> bool {
        let found = self.peek().is_some_and(|byte| set.contains(&byte));
        self.position += usize::from(found);
        found
    }

    fn accept_run(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.position += 1;
        }
    }

    fn at_word(&self) -> bool {
        self.peek().is_some_and(|byte| is_alphanumeric(byte as char))
    }

    /// `[.]digits`, dot, exponent and underscores between digits.
    fn number(&mut self) -> bool {
        let mut hexadecimal = false;
        if !self.in_series && self.accept(b"0") && self.accept(b"xX") {
            hexadecimal = true;
            self.accept(b"_");
        }
        let digit = move |byte: u8| byte.is_ascii_digit() || (hexadecimal && byte.is_ascii_hexdigit());
        let (mut dot, mut exponent) = (false, false);
        loop {
            let before = self.position;
            self.accept_run(digit);
            if self.accept(b".") {
                if dot || exponent || hexadecimal || self.accept(b"_.") {
                    return false;
                }
                dot = true;
            } else if !hexadecimal && self.accept(b"eE") {
                if exponent {
                    return false;
                }
                exponent = true;
                self.accept(b"+-");
                if self.accept(b"._eE") || self.peek().is_none() {
                    return false;
                }
            } else if self.accept(b"_") && (self.accept(b"._eE") || self.peek().is_none()) {
                return false;
            }
            if self.position == before {
                break;
            }
        }
        self.position > 0 && (!self.at_word() || (self.in_series && self.peek() == Some(b'x')))
    }

    /// The units of a duration whose first number was read already.
    fn rest_of_duration(&mut self) -> bool {
        if !self.accept(b"smhdwy") {
            return false;
        }
        self.accept(b"s");
        while self.accept(b"0123456789") {
            self.accept_run(|byte| byte.is_ascii_digit());
            // Years come first, so they cannot come again.
            if !self.accept(b"smhdw") {
                return false;
            }
            self.accept(b"s");
        }
        let ended = !self.at_word() || (self.in_series && self.peek() == Some(b'x'));
        // Error texts quote the text up to and with the byte that is wrong.
        self.position += usize::from(!ended);
        ended
    }
}

const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 24 * 3_600_000),
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// The milliseconds of a duration such as `1h30m`: units descend and stand once each.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    if text == "0" {
        return Ok(0);
    }
    if text.is_empty() {
        return Err("empty duration string".to_owned());
    }
    let invalid = || format!("not a valid duration string: {}", quote(text));
    let mut milliseconds: i64 = 0;
    let mut rest = text;
    let mut units = UNITS.as_slice();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let index = units.iter().position(|(name, _)| *name == unit).ok_or_else(invalid)?;
        if number.is_empty() {
            return Err(invalid());
        }
        let count: i64 = number.parse().map_err(|_| "duration out of range".to_owned())?;
        let part = count.checked_mul(units[index].1);
        // Prometheus counts nanoseconds in 64 bits.
        milliseconds = part
            .and_then(|part| milliseconds.checked_add(part))
            .filter(|sum| *sum <= i64::MAX / 1_000_000)
            .ok_or_else(|| "duration out of range".to_owned())?;
        units = &units[index + 1..];
        rest = tail;
    }
    Ok(milliseconds)
}

/// The value of a number as [`scan_number_or_duration`] finds it, with or without a sign: decimal, hexadecimal, octal with
/// a leading zero, underscores between digits, infinity, NaN.
pub(crate) fn parse_number(text: &str) -> Result<f64, String> {
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let value = unsigned_number(digits).map_err(|reason| {
        format!(
            "error parsing number: strconv.ParseFloat: parsing {}: {reason}",
            quote(text)
        )
    })?;
    Ok(if negative { -value } else { value })
}

fn unsigned_number(text: &str) -> Result<f64, &'static str> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "inf" | "infinity" => return Ok(f64::INFINITY),
        "nan" => return Ok(f64::NAN),
        _ => {}
    }
    let bare: String = lower.chars().filter(|&c| c != '_').collect();
    if let Some(hexadecimal) = bare.strip_prefix("0x") {
        return u64::from_str_radix(hexadecimal, 16)
            .map(|value| value as f64)
            .map_err(|_| "invalid syntax");
    }
    let octal = bare.len() > 1 && bare.starts_with('0') && bare.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    if let (true, Ok(value)) = (octal, u64::from_str_radix(&bare, 8)) {
        return Ok(value as f64);
    }
    if !bare.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Err("invalid syntax");
    }
    let value: f64 = bare.parse().map_err(|_| "invalid syntax")?;
    if value.is_infinite() {
        Err("value out of range")
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_their_forms() {
        for (text, value) in [
            ("1", 1.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("1E-2", 0.01),
            ("0x1F", 31.0),
            ("0x1e", 30.0),
            ("0x_ff", 255.0),
            ("0755", 493.0),
            ("08", 8.0),
            ("00.5", 0.5),
            ("1_000_000", 1e6),
            ("1_0.2_5", 10.25),
            ("inf", f64::INFINITY),
            ("-Inf", f64::NEG_INFINITY),
            ("+0.1", 0.1),
        ] {
            assert_eq!(parse_number(text), Ok(value), "{text}");
            let unsigned = text.trim_start_matches(['+', '-']);
            if !unsigned.eq_ignore_ascii_case("inf") {
                assert_eq!(
                    scan_number_or_duration(unsigned, false),
                    (unsigned.len(), Some(false)),
                    "{text}"
                );
            }
        }
        assert!(parse_number("NaN").unwrap().is_nan());
        let overflow = parse_number(&"9".repeat(400)).unwrap_err();
        assert!(overflow.ends_with("value out of range"), "{overflow}");
    }

    #[test]
    fn what_is_no_number() {
        for text in ["1__0", "1e", "1_", "1e5e5", "1.2.3", "0x", "1._5", "5m_", "5m1", "1foo"] {
            assert!(
                scan_number_or_duration(text, false).1.is_none() || parse_number(text).is_err(),
                "{text} was taken for a number"
            );
        }
    }

    #[test]
    fn durations_descend() {
        for (text, milliseconds) in [
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            (
                "1y2w3d4h5m6s7ms",
                31_536_000_000 + 2 * 604_800_000 + 3 * 86_400_000 + 14_706_007,
            ),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(milliseconds), "{text}");
        }
        for text in ["5m1h", "1m1m", "5", "m", "1hs", "1.5h", "-5m", "5µs"] {
            assert!(
                parse_duration(text)
                    .unwrap_err()
                    .starts_with("not a valid duration string"),
                "{text}"
            );
        }
        for text in ["300y", "99999999999999999999s", "106752d"] {
            assert_eq!(parse_duration(text), Err("duration out of range".to_owned()), "{text}");
        }
    }
}
