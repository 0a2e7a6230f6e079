//! How values of settings are written.

use std::time::Duration;
use storage::gateway::TimeBound;

/// Checks a regular expression for origins.
pub(super) fn origin(text: &str) -> Result<String, String> {
    model::matcher::anchored(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

/// Parses `NAME=VALUE`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if model::label::is_legacy_name(name) && !value.is_empty() => {
            Ok((name.to_owned(), value.trim_matches('"').to_owned()))
        }
        _ => Err("a label is NAME=VALUE, for example region=eu".to_owned()),
    }
}

/// Parses a point in time, or a span before or after now.
pub(super) fn time_bound(text: &str) -> Result<TimeBound, String> {
    let (sign, span) = match text.strip_prefix('-') {
        Some(span) => (-1, span),
        None => (1, text),
    };
    if let Ok(span) = duration(span) {
        return Ok(TimeBound::FromNow(sign * span.as_millis() as i64));
    }
    let at: Result<jiff::Timestamp, _> = text.parse();
    at.map(|at| TimeBound::At(at.as_millisecond()))
        .map_err(|_| format!("{text:?} is neither a time such as 2026-01-31T00:00:00Z nor a span such as -30d"))
}

/// Parses a Prometheus duration such as `1m`, `1h30m`, `500ms`; plain numbers are seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 7] = [
        ("y", 31_536_000_000),
        ("w", 604_800_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("ms", 1),
        ("m", 60_000),
        ("s", 1000),
    ];
    let wrong = || format!("{text:?} is no duration; examples: 30s, 5m, 1h30m");
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| wrong());
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let (unit, ms) = UNITS
            .iter()
            .find(|(unit, _)| rest.starts_with(unit))
            .ok_or_else(wrong)?;
        rest = &rest[unit.len()..];
        total = number
            .checked_mul(*ms)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
    }
    if text.is_empty() {
        Err(wrong())
    } else {
        Ok(Duration::from_millis(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_prometheus_writes_them() {
        for (text, ms) in [
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("2", 2000),
            ("0.5", 500),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "m", "5x", "-1s", "1h-", "99999999999999y"] {
            assert!(duration(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn times_are_absolute_or_relative() {
        assert_eq!(time_bound("-2h"), Ok(TimeBound::FromNow(-7_200_000)));
        assert_eq!(time_bound("1d"), Ok(TimeBound::FromNow(86_400_000)));
        assert_eq!(time_bound("1970-01-01T00:00:01Z"), Ok(TimeBound::At(1000)));
        assert!(time_bound("yesterday").is_err());
    }

    #[test]
    fn labels_need_a_name_and_a_value() {
        assert_eq!(label("region=eu"), Ok(("region".into(), "eu".into())));
        assert_eq!(label("region=\"eu\""), Ok(("region".into(), "eu".into())));
        for text in ["region", "=eu", "region=", "1a=b"] {
            assert!(label(text).is_err(), "{text:?} was accepted");
        }
    }
}
