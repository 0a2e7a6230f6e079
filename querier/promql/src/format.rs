//! How Go writes strings, floats and durations. Query texts, error texts and annotations of Prometheus are made of these
//! forms, so printer, parser and engine share them.

use std::fmt::Write;

/// A text in double quotes with Go's escapes.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        push_escaped(&mut quoted, c, '"');
    }
    quoted.push('"');
    quoted
}

/// The same for bytes; those that are not UTF-8 become `\xNN`.
pub fn quote_bytes(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_escaped(&mut quoted, c, '"');
        }
        for byte in chunk.invalid() {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

/// A character in single quotes with Go's escapes.
pub fn quote_char(c: char) -> String {
    let mut quoted = String::from('\'');
    push_escaped(&mut quoted, c, '\'');
    quoted.push('\'');
    quoted
}

fn push_escaped(quoted: &mut String, c: char, around: char) {
    match c {
        '\\' => quoted.push_str("\\\\"),
        _ if c == around => {
            quoted.push('\\');
            quoted.push(c);
        }
        '\x07' => quoted.push_str("\\a"),
        '\x08' => quoted.push_str("\\b"),
        '\x0c' => quoted.push_str("\\f"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\x0b' => quoted.push_str("\\v"),
        _ if is_printable(c) => quoted.push(c),
        _ if (c as u32) < 0x80 => quoted.push_str(&format!("\\x{:02x}", c as u32)),
        _ if (c as u32) < 0x10000 => quoted.push_str(&format!("\\u{:04x}", c as u32)),
        _ => quoted.push_str(&format!("\\U{:08x}", c as u32)),
    }
}

/// Close to Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols, and the ASCII space.
pub(crate) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // `escape_debug` escapes what cannot be printed; a letter in front keeps combining marks as they are.
    !c.is_whitespace() && String::from_iter(['a', c]).escape_debug().count() == 2
}

/// A float as Go's `%v` and `%g` write it: the fewest digits that read back, with an exponent below 1e-4 and from 1e6 on.
pub fn float_g(value: f64) -> String {
    if let Some(special) = special_float(value) {
        return special.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..GO_EXPONENT_FROM).contains(&exponent) {
        return float_f(value);
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// The least decimal exponent that Go's `%g` writes as one.
const GO_EXPONENT_FROM: i32 = 6;

/// A float in fixed notation with the fewest digits that read back, as Go's `FormatFloat(value, 'f', -1, 64)`.
pub fn float_f(value: f64) -> String {
    match special_float(value) {
        Some(special) => special.to_owned(),
        None => format!("{value}"),
    }
}

fn special_float(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value.is_infinite() {
        Some(if value > 0.0 { "+Inf" } else { "-Inf" })
    } else {
        None
    }
}

/// A duration as Prometheus writes it: `1h30m`, `90d`, `-5m`; years and weeks only when nothing is left over.
pub fn duration(milliseconds: i64) -> String {
    const UNITS: [(&str, u64, bool); 7] = [
        ("y", 365 * 24 * 3_600_000, true),
        ("w", 7 * 24 * 3_600_000, true),
        ("d", 24 * 3_600_000, false),
        ("h", 3_600_000, false),
        ("m", 60_000, false),
        ("s", 1000, false),
        ("ms", 1, false),
    ];
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    let mut text = if milliseconds < 0 {
        "-".to_owned()
    } else {
        String::new()
    };
    let mut rest = milliseconds.unsigned_abs();
    for (unit, length, exact) in UNITS {
        if rest < length || (exact && !rest.is_multiple_of(length)) {
            continue;
        }
        let _ = write!(text, "{}{unit}", rest / length);
        rest %= length;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_in_go() {
        assert_eq!(quote("a\"b\\c\nd\x00\x7f"), "\"a\\\"b\\\\c\\nd\\x00\\x7f\"");
        assert_eq!(quote("\u{200b}é\u{1F600}"), "\"\\u200bé\u{1F600}\"");
        assert_eq!(quote("e\u{301}"), "\"e\u{301}\"");
        assert_eq!(quote_bytes(b"a\xc5z"), "\"a\\xc5z\"");
        assert_eq!(quote_char('\''), "'\\''");
        assert_eq!(quote_char('"'), "'\"'");
    }

    #[test]
    fn floats_are_written_as_in_go() {
        for (value, general, fixed) in [
            (0.0, "0", "0"),
            (-0.0, "-0", "-0"),
            (1.5, "1.5", "1.5"),
            (100_000.0, "100000", "100000"),
            (1e6, "1e+06", "1000000"),
            (-123_456_789.0, "-1.23456789e+08", "-123456789"),
            (1e21, "1e+21", "1000000000000000000000"),
            (1.25e-5, "1.25e-05", "0.0000125"),
            (0.0001, "0.0001", "0.0001"),
            (f64::NEG_INFINITY, "-Inf", "-Inf"),
            (f64::NAN, "NaN", "NaN"),
        ] {
            assert_eq!(float_g(value), general);
            assert_eq!(float_f(value), fixed);
        }
    }

    #[test]
    fn durations_are_written_in_descending_units() {
        for (milliseconds, text) in [
            (0, "0s"),
            (1, "1ms"),
            (90_000, "1m30s"),
            (-300_000, "-5m"),
            (7 * 86_400_000, "1w"),
            (8 * 86_400_000, "8d"),
            (365 * 86_400_000, "1y"),
            (90 * 86_400_000 + 3_600_000, "90d1h"),
        ] {
            assert_eq!(duration(milliseconds), text);
        }
    }
}
