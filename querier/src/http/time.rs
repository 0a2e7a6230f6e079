//! Times and durations as clients write them in parameters.

use model::time::Timestamp;
use promql::format::quote;

/// The earliest time that Prometheus can express; clients send it to mean "from the beginning". It leaves room for arithmetic.
pub(crate) const TIME_MIN: Timestamp = -9_223_309_901_257_974_000;

/// The latest time that Prometheus can express.
pub(crate) const TIME_MAX: Timestamp = 9_223_309_901_257_974_999;

/// The two extremes as Go prints them, with years that no RFC 3339 reader takes.
const TIME_MIN_TEXT: &str = "-292273086-05-16T16:47:06Z";
const TIME_MAX_TEXT: &str = "292277025-08-18T07:12:54.999999999Z";

/// A time: seconds as a decimal number, rounded to milliseconds, or RFC 3339.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => millis_of(seconds).filter(|at| (TIME_MIN..=TIME_MAX).contains(at)),
        Err(_) => match text {
            TIME_MIN_TEXT => Some(TIME_MIN),
            TIME_MAX_TEXT => Some(TIME_MAX),
            _ => parse_rfc3339(text.as_bytes()),
        },
    };
    parsed.ok_or_else(|| format!("cannot parse {} to a valid timestamp", quote(text)))
}

/// A duration in milliseconds: seconds as a decimal number, or a Prometheus duration such as `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        // Go counts in nanoseconds; what does not fit there is an error everywhere.
        if seconds.abs() * 1e9 > i64::MAX as f64 {
            return Err(format!(
                "cannot parse {} to a valid duration. It overflows int64",
                quote(text)
            ));
        }
        return millis_of(seconds).ok_or_else(|| no_duration(text));
    }
    parse_units(text).ok_or_else(|| no_duration(text))
}

fn no_duration(text: &str) -> String {
    format!("cannot parse {} to a valid duration", quote(text))
}

/// Rounds seconds to milliseconds; `None` when they are no number or do not fit.
fn millis_of(seconds: f64) -> Option<i64> {
    if !seconds.is_finite() || seconds.abs() > (i64::MAX / 1000) as f64 {
        return None;
    }
    let whole = seconds.trunc();
    let fraction = ((seconds - whole) * 1000.0).round() as i64;
    (whole as i64).checked_mul(1000)?.checked_add(fraction)
}

/// `1y2w3d4h5m6s7ms`: each unit at most once, largest first; nanoseconds must fit 64 bits, as in Go.
fn parse_units(text: &str) -> Option<i64> {
    const UNITS: [(&str, u64); 7] = [
        ("y", 365 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut units = UNITS.as_slice();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().ok()?;
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[digits..digits + letters];
        let index = units.iter().position(|(name, _)| *name == unit)?;
        total = total.checked_add(count.checked_mul(units[index].1)?)?;
        units = &units[index + 1..];
        rest = &rest[digits + letters..];
    }
    (total <= i64::MAX as u64 / 1_000_000).then_some(total as i64)
}

/// `2015-07-01T20:10:51.781Z`, with any number of fraction digits and an offset instead of the `Z`.
fn parse_rfc3339(text: &[u8]) -> Option<Timestamp> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
    };
    let is = |at: usize, byte: u8| text.get(at) == Some(&byte);
    let separated = is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':');
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    if !separated || !in_range || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut end = 19;
    let mut millis = 0;
    if is(end, b'.') {
        let digits = text[end + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        let digit = |index: usize| {
            if index < digits {
                i64::from(text[end + 1 + index] - b'0')
            } else {
                0
            }
        };
        millis = digit(0) * 100 + digit(1) * 10 + digit(2);
        if digits == 0 {
            return None;
        }
        end += 1 + digits;
    }
    let offset_minutes = match text.get(end..)? {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (number(end + 1, end + 3)?, number(end + 4, end + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            if *sign == b'+' { offset } else { -offset }
        }
        _ => return None,
    };
    let seconds = days_before(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset_minutes * 60;
    Some(seconds * 1000 + millis)
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years begin in March here, so that the leap day is the last one.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A time as RFC 3339 in UTC, with milliseconds only when there are some. Years outside 0 to 9999 are shown as the nearest of them.
pub(crate) fn format_rfc3339(at: Timestamp) -> String {
    let at = at.clamp(-62_167_219_200_000, 253_402_300_799_999);
    let days = at.div_euclid(86_400_000) + 719_468;
    let millis = at.rem_euclid(86_400_000);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
    let fraction = if millis % 1000 == 0 {
        String::new()
    } else {
        format!(".{:03}", millis % 1000)
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_rfc3339() {
        let cases = [
            ("0", 0),
            ("1", 1000),
            ("1435781451.781", 1_435_781_451_781),
            ("1435781451.7816", 1_435_781_451_782),
            ("-1.5", -1500),
            ("1e3", 1_000_000),
            (".5", 500),
            ("0.57", 570),
            ("1970-01-01T00:00:00Z", 0),
            ("2015-07-01T20:10:51.781Z", 1_435_781_451_781),
            ("2015-07-01T20:10:51.781999999Z", 1_435_781_451_781),
            ("2015-07-01T22:10:51.781+02:00", 1_435_781_451_781),
            ("2015-07-01T18:40:51.7-01:30", 1_435_781_451_700),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000),
            ("1969-12-31T23:59:59.999Z", -1),
            (TIME_MIN_TEXT, TIME_MIN),
            (TIME_MAX_TEXT, TIME_MAX),
            // What promtool sends when no start or end is given.
            ("-9223309901257974", TIME_MIN),
            ("9223309901257974", TIME_MAX - 999),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_time(text), Ok(expected), "{text}");
        }
        let bad = [
            "",
            "abc",
            "NaN",
            "Inf",
            "1e30",
            "2015-07-01",
            "2015-07-01 20:10:51Z",
            "2015-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2015-07-01T24:00:00Z",
            "2015-07-01T20:10:51",
            "2015-07-01T20:10:51.Z",
            "2015-07-01T20:10:51+0200",
            "30s",
            "2015-07-01T20:10:51Zx",
            "日本",
        ];
        for text in bad {
            assert_eq!(
                parse_time(text),
                Err(format!("cannot parse \"{text}\" to a valid timestamp"))
            );
        }
    }

    #[test]
    fn durations_are_seconds_or_units() {
        let cases = [
            ("1", 1000),
            ("0.5", 500),
            ("15s", 15_000),
            ("1h30m", 5_400_000),
            (
                "1y2w3d4h5m6s7ms",
                31_536_000_000 + 1_209_600_000 + 259_200_000 + 14_400_000 + 300_000 + 6000 + 7,
            ),
            ("0", 0),
            ("-1", -1000),
            ("0s", 0),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "abc",
            "1s1h",
            "1h1h",
            "h",
            "5 m",
            "-5m",
            "1.5h",
            "300y",
            "99999999999999999999s",
            "NaN",
        ] {
            let expected = format!("cannot parse \"{text}\" to a valid duration");
            assert_eq!(parse_duration(text), Err(expected), "{text}");
        }
        let overflow = parse_duration("148966367200.372").unwrap_err();
        assert_eq!(
            overflow,
            "cannot parse \"148966367200.372\" to a valid duration. It overflows int64"
        );
    }

    #[test]
    fn formatted_times_read_back() {
        assert_eq!(format_rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(format_rfc3339(1_435_781_451_781), "2015-07-01T20:10:51.781Z");
        for day in -800_000..800_000_i64 {
            let at = day * 86_400_000 + 3_723_004 * (day & 7);
            assert_eq!(parse_time(&format_rfc3339(at)), Ok(at.max(-62_167_219_200_000)));
        }
    }
}
