//! Native histograms as series descriptions write them: `{{schema:1 sum:3.5 count:9 buckets:[4 5] offset:-1}}`.

use crate::format::quote;
use crate::lex::parse_number;
use model::histogram::{Histogram, ResetHint, Span};

/// Buckets of one side; the widest schema has some thousands.
const BUCKETS_MAX: usize = 100_000;

/// What stands between the braces, and whether it states the reset hint.
pub(super) fn parse(text: &str) -> Result<(Histogram, bool), String> {
    let mut histogram = Histogram::default();
    let mut offsets = [0, 0];
    let mut seen: Vec<&str> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, tail) = rest
            .split_once(':')
            .ok_or_else(|| format!("bad histogram descriptor found: {}", quote(rest)))?;
        if seen.contains(&key) {
            return Err(format!("duplicate key {} in histogram", quote(key)));
        }
        seen.push(key);
        let (value, tail) = split_value(tail)?;
        set(&mut histogram, &mut offsets, key, value)?;
        rest = tail.trim_start();
    }
    histogram.positive_spans = spans(offsets[0], histogram.positive_buckets.len());
    histogram.negative_spans = spans(offsets[1], histogram.negative_buckets.len());
    Ok((histogram, seen.contains(&"counter_reset_hint")))
}

/// The value at the start of the text, brackets included, and what follows it.
fn split_value(text: &str) -> Result<(&str, &str), String> {
    let end = match text.starts_with('[') {
        true => {
            text.find(']')
                .ok_or_else(|| "list in histogram is not closed by \"]\"".to_owned())?
                + 1
        }
        false => text.find([' ', '\t']).unwrap_or(text.len()),
    };
    Ok(text.split_at(end))
}

fn set(histogram: &mut Histogram, offsets: &mut [i32; 2], key: &str, value: &str) -> Result<(), String> {
    match key {
        "schema" => histogram.schema = integer(key, value)?,
        "sum" => histogram.sum = number(key, value)?,
        "count" => histogram.count = number(key, value)?,
        "z_bucket" => histogram.zero_count = number(key, value)?,
        "z_bucket_w" => histogram.zero_threshold = number(key, value)?,
        "buckets" => histogram.positive_buckets = numbers(key, value)?,
        "n_buckets" => histogram.negative_buckets = numbers(key, value)?,
        "offset" => offsets[0] = integer(key, value)?,
        "n_offset" => offsets[1] = integer(key, value)?,
        "custom_values" => histogram.custom_values = numbers(key, value)?,
        "counter_reset_hint" => {
            histogram.reset_hint = match value {
                "unknown" => ResetHint::Unknown,
                "reset" => ResetHint::Reset,
                "not_reset" => ResetHint::NotReset,
                "gauge" => ResetHint::Gauge,
                _ => return Err(format!("bad counter reset hint {} in histogram", quote(value))),
            }
        }
        _ => return Err(format!("bad histogram descriptor found: {}", quote(key))),
    }
    Ok(())
}

fn integer(key: &str, value: &str) -> Result<i32, String> {
    value
        .parse()
        .map_err(|_| format!("{key} of a histogram must be a whole number, got {}", quote(value)))
}

fn number(key: &str, value: &str) -> Result<f64, String> {
    parse_number(value).map_err(|_| format!("{key} of a histogram must be a number, got {}", quote(value)))
}

fn numbers(key: &str, value: &str) -> Result<Vec<f64>, String> {
    let inner = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let inner = inner.ok_or_else(|| format!("{key} of a histogram must be a list, got {}", quote(value)))?;
    let list: Vec<f64> = inner
        .split_whitespace()
        .map(|item| number(key, item))
        .collect::<Result<_, _>>()?;
    if list.len() > BUCKETS_MAX {
        return Err(format!("{key} of a histogram has more than {BUCKETS_MAX} items"));
    }
    Ok(list)
}

fn spans(offset: i32, buckets: usize) -> Vec<Span> {
    if buckets == 0 {
        Vec::new()
    } else {
        vec![Span {
            offset,
            length: buckets as u32,
        }]
    }
}
