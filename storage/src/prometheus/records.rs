//! The records of Prometheus's log, of all versions up to 3.14: series, floats, histograms of each kind, tombstones. Exemplars,
//! metadata and markers of mapped chunks are passed over.

use crate::cursor::Cursor;
use model::{
    histogram::{Histogram, ResetHint, Span},
    label::Labels,
    time::{TimeRange, Timestamp},
};

/// Schema of histograms with custom bounds.
const CUSTOM_BOUNDS: i32 = -53;

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    Series {
        reference: u64,
        labels: Labels,
    },
    Float {
        reference: u64,
        at: Timestamp,
        value: f64,
    },
    Histogram {
        reference: u64,
        at: Timestamp,
        histogram: Box<Histogram>,
    },
    Tombstone {
        reference: u64,
        range: TimeRange,
    },
}

/// Why a record is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// It ends too early or contradicts itself. What came before the damage was handed over.
    Damaged,
    /// It is of a kind that is not needed here, or not known.
    Passed,
}

/// Hands over the entries of a record.
pub(super) fn read_record(record: &[u8], mut visit: impl FnMut(Entry)) -> Result<(), Unread> {
    let (&kind, body) = record.split_first().ok_or(Unread::Damaged)?;
    let mut cursor = Cursor::new(body);
    let read = match kind {
        1 => series(&mut cursor, &mut visit),
        2 => samples(&mut cursor, Header::First, &mut visit, float),
        3 => tombstones(&mut cursor, &mut visit),
        7 | 9 => samples(&mut cursor, Header::First, &mut visit, integer_histogram),
        8 | 10 => samples(&mut cursor, Header::First, &mut visit, float_histogram),
        11 => samples(&mut cursor, Header::Previous, &mut visit, float),
        12 => samples(&mut cursor, Header::Previous, &mut visit, integer_histogram),
        13 => samples(&mut cursor, Header::Previous, &mut visit, float_histogram),
        _ => return Err(Unread::Passed),
    };
    read.ok_or(Unread::Damaged)
}

fn text<'a>(cursor: &mut Cursor<'a>) -> Option<&'a str> {
    std::str::from_utf8(cursor.counted()?).ok()
}

fn series(cursor: &mut Cursor<'_>, visit: &mut impl FnMut(Entry)) -> Option<()> {
    while !cursor.is_empty() {
        let reference = cursor.be64()?;
        let count = cursor.uvarint()?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push((text(cursor)?, text(cursor)?));
        }
        let labels = Labels::new(pairs).ok()?;
        visit(Entry::Series { reference, labels });
    }
    Some(())
}

fn tombstones(cursor: &mut Cursor<'_>, visit: &mut impl FnMut(Entry)) -> Option<()> {
    while !cursor.is_empty() {
        let reference = cursor.be64()?;
        let range = TimeRange::new(cursor.varint()?, cursor.varint()?);
        visit(Entry::Tombstone { reference, range });
    }
    Some(())
}

/// How the samples of a record refer to one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    /// Version 1: each against the first one, which is written in full before.
    First,
    /// Version 2: series against the previous one, and start timestamps.
    Previous,
}

/// Whose sample, and when.
type Place = (u64, Timestamp);

fn samples(
    cursor: &mut Cursor<'_>,
    header: Header,
    visit: &mut impl FnMut(Entry),
    value: impl Fn(&mut Cursor<'_>, Place) -> Option<Entry>,
) -> Option<()> {
    if cursor.is_empty() {
        return Some(());
    }
    if header == Header::First {
        let (first, begin) = (cursor.be64()?, cursor.be64()? as i64);
        while !cursor.is_empty() {
            let reference = first.wrapping_add(cursor.varint()? as u64);
            let at = begin.wrapping_add(cursor.varint()?);
            visit(value(cursor, (reference, at))?);
        }
        return Some(());
    }
    let mut reference = cursor.varint()? as u64;
    let begin = cursor.varint()?;
    let _start = cursor.varint()?;
    visit(value(cursor, (reference, begin))?);
    while !cursor.is_empty() {
        reference = reference.wrapping_add(cursor.varint()? as u64);
        let at = begin.wrapping_add(cursor.varint()?);
        // Start timestamps are not kept here; an explicit one is read over.
        match cursor.take(1)? {
            [0 | 1] => {}
            [2] => {
                cursor.varint()?;
            }
            _ => return None,
        }
        visit(value(cursor, (reference, at))?);
    }
    Some(())
}

fn number(cursor: &mut Cursor<'_>) -> Option<f64> {
    cursor.be64().map(f64::from_bits)
}

fn float(cursor: &mut Cursor<'_>, (reference, at): Place) -> Option<Entry> {
    let value = number(cursor)?;
    Some(Entry::Float { reference, at, value })
}

fn integer_histogram(cursor: &mut Cursor<'_>, place: Place) -> Option<Entry> {
    histogram(cursor, place, true)
}

fn float_histogram(cursor: &mut Cursor<'_>, place: Place) -> Option<Entry> {
    histogram(cursor, place, false)
}

fn histogram(cursor: &mut Cursor<'_>, (reference, at): Place, integer: bool) -> Option<Entry> {
    let reset_hint = match cursor.take(1)? {
        [1] => ResetHint::Reset,
        [2] => ResetHint::NotReset,
        [3] => ResetHint::Gauge,
        _ => ResetHint::Unknown,
    };
    let count = |cursor: &mut Cursor<'_>| match integer {
        true => cursor.uvarint().map(|count| count as f64),
        false => number(cursor),
    };
    let mut histogram = Histogram {
        integer,
        reset_hint,
        schema: i32::try_from(cursor.varint()?).ok()?,
        zero_threshold: number(cursor)?,
        zero_count: count(cursor)?,
        count: count(cursor)?,
        sum: number(cursor)?,
        ..Histogram::default()
    };
    histogram.positive_spans = spans(cursor)?;
    histogram.negative_spans = spans(cursor)?;
    histogram.positive_buckets = buckets(cursor, integer)?;
    histogram.negative_buckets = buckets(cursor, integer)?;
    if histogram.schema == CUSTOM_BOUNDS {
        let bounds = bounded(cursor, 8)?;
        histogram.custom_values = (0..bounds).map(|_| number(cursor)).collect::<Option<_>>()?;
    }
    Some(Entry::Histogram {
        reference,
        at,
        histogram: Box::new(histogram),
    })
}

/// A count of things that take at least `bytes_min` bytes each: none is believed that does not fit.
fn bounded(cursor: &mut Cursor<'_>, bytes_min: usize) -> Option<usize> {
    let count = usize::try_from(cursor.uvarint()?).ok()?;
    (count <= cursor.remaining() / bytes_min).then_some(count)
}

fn spans(cursor: &mut Cursor<'_>) -> Option<Vec<Span>> {
    let count = bounded(cursor, 2)?;
    let mut span = || {
        Some(Span {
            offset: i32::try_from(cursor.varint()?).ok()?,
            length: u32::try_from(cursor.uvarint()?).ok()?,
        })
    };
    (0..count).map(|_| span()).collect()
}

/// Counts of buckets; whole ones are written as what changed since the bucket before.
fn buckets(cursor: &mut Cursor<'_>, integer: bool) -> Option<Vec<f64>> {
    if !integer {
        let count = bounded(cursor, 8)?;
        return (0..count).map(|_| number(cursor)).collect();
    }
    let (count, mut held) = (bounded(cursor, 1)?, 0i64);
    let mut bucket = || {
        held = held.wrapping_add(cursor.varint()?);
        Some(held as f64)
    };
    (0..count).map(|_| bucket()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::put_varint;
    use proptest::prelude::*;

    fn read(record: &[u8]) -> (Vec<Entry>, Result<(), Unread>) {
        let mut all = Vec::new();
        let result = read_record(record, |entry| all.push(entry));
        (all, result)
    }

    #[test]
    fn both_versions_of_samples_are_read() {
        let mut first = vec![2];
        first.extend(9u64.to_be_bytes());
        first.extend(1000i64.to_be_bytes());
        let mut second = vec![11];
        for (index, (reference, at)) in [(9i64, 1000i64), (12, 1015), (4, 990)].into_iter().enumerate() {
            put_varint(&mut first, reference - 9);
            put_varint(&mut first, at - 1000);
            first.extend((index as f64).to_be_bytes());
            if index == 0 {
                [reference, at, 77]
                    .iter()
                    .for_each(|&number| put_varint(&mut second, number));
            } else {
                put_varint(&mut second, reference - [9, 9, 12][index]);
                put_varint(&mut second, at - 1000);
                second.push(index as u8);
                if index == 2 {
                    put_varint(&mut second, -3);
                }
            }
            second.extend((index as f64).to_be_bytes());
        }
        let expected: Vec<Entry> = [(9, 1000, 0.0), (12, 1015, 1.0), (4, 990, 2.0)]
            .map(|(reference, at, value)| Entry::Float { reference, at, value })
            .to_vec();
        assert_eq!(read(&first), (expected.clone(), Ok(())));
        assert_eq!(read(&second), (expected, Ok(())));
        assert_eq!(read(&[200, 1, 2]).1, Err(Unread::Passed));
        assert_eq!(read(&[]).1, Err(Unread::Damaged));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(kind in 0u8..15, body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let record: Vec<u8> = std::iter::once(kind).chain(body).collect();
            let _ = read(&record);
        }
    }
}
