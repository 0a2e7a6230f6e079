//! Histogram records: each histogram whole, since they are few and large. `WAL.md` draws the record.

use crate::codec::{Cursor, Damage, put_uvarint, put_varint};
use model::{
    histogram::{Histogram, ResetHint, Span},
    time::Timestamp,
};

const FLAG_INTEGER: u8 = 1;
/// Counts are whole numbers and written as such.
const FLAG_WHOLE: u8 = 2;

/// Whole numbers above are not all floats.
const WHOLE_MAX: f64 = (1u64 << 53) as f64;

/// A histogram in a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HistogramEntry {
    pub(crate) number: u64,
    pub(crate) at: Timestamp,
    pub(crate) histogram: Histogram,
}

/// Adds a histogram of series `number` to the payload of a histogram record.
pub(crate) fn put_histogram(out: &mut Vec<u8>, number: u64, at: Timestamp, histogram: &Histogram) {
    put_uvarint(out, number);
    put_varint(out, at);
    put_histogram_body(out, histogram);
}

/// Adds a histogram without saying whose it is.
pub(crate) fn put_histogram_body(out: &mut Vec<u8>, histogram: &Histogram) {
    let counts = || histogram.positive_buckets.iter().chain(&histogram.negative_buckets);
    let is_whole =
        |count: &f64| count.trunc() == *count && (0.0..=WHOLE_MAX).contains(count) && count.is_sign_positive();
    let whole = counts().chain([&histogram.count, &histogram.zero_count]).all(is_whole);
    let hint = match histogram.reset_hint {
        ResetHint::Unknown => 0u8,
        ResetHint::Reset => 1,
        ResetHint::NotReset => 2,
        ResetHint::Gauge => 3,
    };
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(flag(histogram.integer, FLAG_INTEGER) | flag(whole, FLAG_WHOLE) | hint << 2);
    put_varint(out, i64::from(histogram.schema));
    put_float(out, histogram.zero_threshold);
    put_float(out, histogram.sum);
    put_count(out, histogram.count, whole);
    put_count(out, histogram.zero_count, whole);
    for (spans, buckets) in [
        (&histogram.positive_spans, &histogram.positive_buckets),
        (&histogram.negative_spans, &histogram.negative_buckets),
    ] {
        put_uvarint(out, spans.len() as u64);
        for span in spans {
            put_varint(out, i64::from(span.offset));
            put_uvarint(out, u64::from(span.length));
        }
        put_uvarint(out, buckets.len() as u64);
        buckets.iter().for_each(|&bucket| put_count(out, bucket, whole));
    }
    put_uvarint(out, histogram.custom_values.len() as u64);
    histogram.custom_values.iter().for_each(|&bound| put_float(out, bound));
}

fn put_float(out: &mut Vec<u8>, float: f64) {
    out.extend_from_slice(&float.to_bits().to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: f64, whole: bool) {
    if whole {
        put_uvarint(out, count as u64)
    } else {
        put_float(out, count)
    }
}

/// Reads the payload of a histogram record.
pub(crate) fn decode_histograms(payload: &[u8]) -> Result<Vec<HistogramEntry>, Damage> {
    let mut cursor = Cursor::new(payload);
    let mut all = Vec::new();
    while !cursor.is_empty() {
        let number = cursor.uvarint()?;
        let at = cursor.varint()?;
        all.push(HistogramEntry {
            number,
            at,
            histogram: read_histogram(&mut cursor)?,
        });
    }
    Ok(all)
}

/// Reads a histogram that does not say whose it is.
pub(crate) fn read_histogram(cursor: &mut Cursor<'_>) -> Result<Histogram, Damage> {
    let flags = cursor.u8()?;
    let whole = flags & FLAG_WHOLE != 0;
    let mut histogram = Histogram {
        integer: flags & FLAG_INTEGER != 0,
        reset_hint: match flags >> 2 {
            0 => ResetHint::Unknown,
            1 => ResetHint::Reset,
            2 => ResetHint::NotReset,
            3 => ResetHint::Gauge,
            _ => return Err(Damage("a histogram has unknown flags")),
        },
        schema: i32::try_from(cursor.varint()?).map_err(|_| Damage("a histogram's schema is no number of 32 bits"))?,
        zero_threshold: read_float(cursor)?,
        sum: read_float(cursor)?,
        count: read_count(cursor, whole)?,
        zero_count: read_count(cursor, whole)?,
        ..Histogram::default()
    };
    (histogram.positive_spans, histogram.positive_buckets) = read_side(cursor, whole)?;
    (histogram.negative_spans, histogram.negative_buckets) = read_side(cursor, whole)?;
    let bounds = cursor.count(8)?;
    histogram.custom_values = (0..bounds).map(|_| read_float(cursor)).collect::<Result<_, _>>()?;
    Ok(histogram)
}

fn read_side(cursor: &mut Cursor<'_>, whole: bool) -> Result<(Vec<Span>, Vec<f64>), Damage> {
    let wide = |_| Damage("a span of a histogram is too wide");
    let spans = cursor.count(2)?;
    let spans = (0..spans).map(|_| {
        let offset = i32::try_from(cursor.varint()?).map_err(wide)?;
        Ok(Span {
            offset,
            length: u32::try_from(cursor.uvarint()?).map_err(wide)?,
        })
    });
    let spans = spans.collect::<Result<_, Damage>>()?;
    let buckets = cursor.count(if whole { 1 } else { 8 })?;
    let buckets = (0..buckets)
        .map(|_| read_count(cursor, whole))
        .collect::<Result<_, _>>()?;
    Ok((spans, buckets))
}

fn read_float(cursor: &mut Cursor<'_>) -> Result<f64, Damage> {
    cursor.u64().map(f64::from_bits)
}

fn read_count(cursor: &mut Cursor<'_>, whole: bool) -> Result<f64, Damage> {
    if whole {
        cursor.uvarint().map(|count| count as f64)
    } else {
        read_float(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_come_back() {
        let integer = Histogram {
            integer: true,
            reset_hint: ResetHint::NotReset,
            schema: 3,
            zero_threshold: 1e-128,
            zero_count: 2.0,
            count: 9.0,
            sum: -3.5,
            positive_spans: vec![Span { offset: -3, length: 2 }, Span { offset: 5, length: 1 }],
            negative_spans: vec![Span { offset: 0, length: 1 }],
            positive_buckets: vec![1.0, 2.0, 3.0],
            negative_buckets: vec![1.0],
            custom_values: vec![],
        };
        let float = Histogram {
            integer: false,
            reset_hint: ResetHint::Gauge,
            schema: -53,
            positive_buckets: vec![0.25, 1e300, -0.0],
            custom_values: vec![0.1, 2.0],
            ..integer.clone()
        };
        let stale = Histogram {
            sum: model::sample::STALE_NAN,
            ..Histogram::default()
        };
        let mut out = Vec::new();
        let all = [integer, float, stale];
        for (number, histogram) in (7..).zip(&all) {
            put_histogram(&mut out, number, -5, histogram);
        }
        let read = decode_histograms(&out).unwrap();
        for ((entry, histogram), number) in read.iter().zip(&all).zip(7..) {
            assert_eq!((entry.number, entry.at), (number, -5));
            // Compared as text, since the stale marker is not equal to itself.
            assert_eq!(format!("{:?}", entry.histogram), format!("{histogram:?}"));
            assert_eq!(entry.histogram.sum.to_bits(), histogram.sum.to_bits());
        }
        for end in 0..out.len() {
            let _ = decode_histograms(&out[..end]);
        }
    }
}
