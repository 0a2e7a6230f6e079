//! Native histograms on the wire, which are the same in remote write 1.0 and 2.0 and in remote read, and in the model.
//!
//! ```text
//! Histogram { count_int = 1 | count_float = 2, sum = 3, schema = 4, zero_threshold = 5,
//!             zero_count_int = 6 | zero_count_float = 7,
//!             negative_spans = 8, negative_deltas = 9, negative_counts = 10,
//!             positive_spans = 11, positive_deltas = 12, positive_counts = 13,
//!             reset_hint = 14, timestamp = 15, custom_values = 16, start_timestamp = 17 }
//! BucketSpan { offset = 1, length = 2 }
//! ```
//!
//! [`decode`] is called by the receiver for each histogram. What it returns has passed `Histogram::validate` and has a
//! schema that can be stored; a histogram finer than that is merged down.

use crate::protobuf::{Fault, Reader, Tag, WireError, put_bytes, put_double, put_doubles, put_integer};
use crate::protobuf::{put_tag, put_varint, unzigzag, wire, zigzag};
use model::histogram::validate::{HistogramFault, check_spans};
use model::histogram::{Histogram, ResetHint, Span};
use model::sample::{HistogramSample, is_stale};
use model::time::Timestamp;
use std::sync::Arc;

const HISTOGRAM: &str = "Histogram";
const SPAN: &str = "BucketSpan";

/// The finest schema that is stored; senders may be finer up to [`WIRE_SCHEMA_MAX`] and are merged down.
const STORED_SCHEMA_MAX: i32 = 8;
const WIRE_SCHEMA_MAX: i32 = 52;

/// How many buckets, spans or bounds one list of a histogram may have. Real ones have some hundred.
pub const ELEMENTS_MAX: usize = 65_536;

/// Why a histogram cannot be taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HistogramError {
    /// It is no protobuf; the request as a whole is broken.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It contradicts itself.
    #[error(transparent)]
    Fault(#[from] HistogramFault),
    /// One of its lists is longer than any real one.
    #[error("a histogram has more than {ELEMENTS_MAX} buckets, spans or bounds")]
    TooManyElements,
    /// Deltas that run out of 64 bits.
    #[error("the deltas of the {0} buckets overflow")]
    DeltaOverflow(&'static str),
}

/// A count that comes as an integer or as a float.
#[derive(Clone, Copy)]
enum Count {
    Integer(u64),
    Float(f64),
}

impl Count {
    fn float_or_zero(self) -> f64 {
        match self {
            Count::Float(count) => count,
            Count::Integer(_) => 0.0,
        }
    }

    fn integer_or_zero(self) -> f64 {
        match self {
            Count::Integer(count) => count as f64,
            Count::Float(_) => 0.0,
        }
    }
}

/// The buckets of one side.
#[derive(Default)]
struct Side {
    spans: Vec<Span>,
    deltas: Vec<i64>,
    counts: Vec<f64>,
}

/// The message as it stands on the wire.
struct Message {
    count: Count,
    zero_count: Count,
    positive: Side,
    negative: Side,
    /// What both kinds share; counts and buckets are filled in at the end.
    histogram: Histogram,
    at: i64,
    start: i64,
}

/// Reads one histogram.
pub fn decode(bytes: &[u8]) -> Result<HistogramSample, HistogramError> {
    let mut message = Message {
        count: Count::Integer(0),
        zero_count: Count::Integer(0),
        positive: Side::default(),
        negative: Side::default(),
        histogram: Histogram::default(),
        at: 0,
        start: 0,
    };
    let mut reader = Reader::new(bytes);
    while let Some(tag) = reader.tag().map_err(|fault| fault.within(HISTOGRAM))? {
        message.field(tag, &mut reader)?;
    }
    let (at, start) = (message.at, message.start);
    Ok(HistogramSample {
        at,
        start,
        histogram: Arc::new(message.into_histogram()?),
    })
}

/// The timestamp of a histogram, for those that [`decode`] refuses.
pub fn timestamp(bytes: &[u8]) -> Option<Timestamp> {
    let mut at = 0;
    let mut reader = Reader::new(bytes);
    while let Some(tag) = reader.tag().ok()? {
        if tag.field == 15 && tag.wire == wire::VARINT {
            at = reader.varint().ok()? as i64;
        } else {
            reader.skip(tag).ok()?;
        }
    }
    Some(at)
}

impl Message {
    fn field(&mut self, tag: Tag, reader: &mut Reader<'_>) -> Result<(), HistogramError> {
        let inside = |fault: Fault| fault.within(HISTOGRAM);
        match tag.field {
            1 | 4 | 6 | 14 | 15 | 17 => {
                tag.expect(wire::VARINT).map_err(inside)?;
                self.integer(tag.field, reader.varint().map_err(inside)?);
            }
            2 | 3 | 5 | 7 => {
                tag.expect(wire::FIXED64).map_err(inside)?;
                self.double(tag.field, reader.double().map_err(inside)?);
            }
            8 => push_span(&mut self.negative.spans, tag, reader)?,
            9 => push_deltas(&mut self.negative.deltas, tag, reader)?,
            10 => push_doubles(&mut self.negative.counts, tag, reader)?,
            11 => push_span(&mut self.positive.spans, tag, reader)?,
            12 => push_deltas(&mut self.positive.deltas, tag, reader)?,
            13 => push_doubles(&mut self.positive.counts, tag, reader)?,
            16 => push_doubles(&mut self.histogram.custom_values, tag, reader)?,
            _ => reader.skip(tag).map_err(inside)?,
        }
        Ok(())
    }

    fn integer(&mut self, field: u32, value: u64) {
        match field {
            1 => self.count = Count::Integer(value),
            4 => self.histogram.schema = unzigzag(value & u64::from(u32::MAX)) as i32,
            6 => self.zero_count = Count::Integer(value),
            14 => {
                self.histogram.reset_hint = match value {
                    1 => ResetHint::Reset,
                    2 => ResetHint::NotReset,
                    3 => ResetHint::Gauge,
                    _ => ResetHint::Unknown,
                }
            }
            15 => self.at = value as i64,
            _ => self.start = value as i64,
        }
    }

    fn double(&mut self, field: u32, value: f64) {
        match field {
            2 => self.count = Count::Float(value),
            3 => self.histogram.sum = value,
            5 => self.histogram.zero_threshold = value,
            _ => self.zero_count = Count::Float(value),
        }
    }

    /// The kind of the count decides for all; members of the other kind are not looked at, as in Prometheus.
    fn into_histogram(self) -> Result<Histogram, HistogramError> {
        let mut histogram = self.histogram;
        histogram.integer = matches!(self.count, Count::Integer(_));
        if is_stale(histogram.sum) {
            let Histogram {
                integer,
                reset_hint,
                sum,
                ..
            } = histogram;
            return Ok(Histogram {
                integer,
                reset_hint,
                sum,
                ..Histogram::default()
            });
        }
        if histogram.integer {
            histogram.count = self.count.integer_or_zero();
            histogram.zero_count = self.zero_count.integer_or_zero();
            histogram.positive_buckets = absolute("positive", &self.positive.deltas)?;
            histogram.negative_buckets = absolute("negative", &self.negative.deltas)?;
        } else {
            histogram.count = self.count.float_or_zero();
            histogram.zero_count = self.zero_count.float_or_zero();
            histogram.positive_buckets = self.positive.counts;
            histogram.negative_buckets = self.negative.counts;
        }
        histogram.positive_spans = self.positive.spans;
        histogram.negative_spans = self.negative.spans;
        if (STORED_SCHEMA_MAX + 1..=WIRE_SCHEMA_MAX).contains(&histogram.schema) {
            reduce(&mut histogram)?;
        }
        histogram.validate()?;
        Ok(histogram)
    }
}

fn push_span(spans: &mut Vec<Span>, tag: Tag, reader: &mut Reader<'_>) -> Result<(), HistogramError> {
    let bytes = tag
        .expect(wire::BYTES)
        .and_then(|()| reader.bytes())
        .map_err(|fault| fault.within(HISTOGRAM))?;
    let mut span = Span::default();
    let mut reader = Reader::new(bytes);
    let mut read = || -> Result<(), Fault> {
        while let Some(tag) = reader.tag()? {
            match tag.field {
                1 | 2 => {
                    tag.expect(wire::VARINT)?;
                    let value = reader.varint()? & u64::from(u32::MAX);
                    if tag.field == 1 {
                        span.offset = unzigzag(value) as i32
                    } else {
                        span.length = value as u32
                    }
                }
                _ => reader.skip(tag)?,
            }
        }
        Ok(())
    };
    read().map_err(|fault| fault.within(SPAN))?;
    push(spans, span)
}

fn push_deltas(deltas: &mut Vec<i64>, tag: Tag, reader: &mut Reader<'_>) -> Result<(), HistogramError> {
    let inside = |fault: Fault| fault.within(HISTOGRAM);
    if tag.wire == wire::VARINT {
        return push(deltas, unzigzag(reader.varint().map_err(inside)?));
    }
    tag.expect(wire::BYTES).map_err(inside)?;
    let mut packed = Reader::new(reader.bytes().map_err(inside)?);
    while !packed.rest().is_empty() {
        push(deltas, unzigzag(packed.varint().map_err(inside)?))?;
    }
    Ok(())
}

fn push_doubles(doubles: &mut Vec<f64>, tag: Tag, reader: &mut Reader<'_>) -> Result<(), HistogramError> {
    let inside = |fault: Fault| fault.within(HISTOGRAM);
    if tag.wire == wire::FIXED64 {
        return push(doubles, reader.double().map_err(inside)?);
    }
    tag.expect(wire::BYTES).map_err(inside)?;
    let mut packed = Reader::new(reader.bytes().map_err(inside)?);
    while !packed.rest().is_empty() {
        push(doubles, packed.double().map_err(inside)?)?;
    }
    Ok(())
}

fn push<T>(list: &mut Vec<T>, value: T) -> Result<(), HistogramError> {
    if list.len() == ELEMENTS_MAX {
        return Err(HistogramError::TooManyElements);
    }
    list.push(value);
    Ok(())
}

fn absolute(side: &'static str, deltas: &[i64]) -> Result<Vec<f64>, HistogramError> {
    let mut count = 0i64;
    let add = |delta: &i64| {
        count = count.checked_add(*delta).ok_or(HistogramError::DeltaOverflow(side))?;
        Ok(count as f64)
    };
    deltas.iter().map(add).collect()
}

/// Merges the buckets of a histogram finer than what is stored: each step of the schema halves the resolution.
fn reduce(histogram: &mut Histogram) -> Result<(), HistogramFault> {
    check_spans("positive", &histogram.positive_spans, histogram.positive_buckets.len())?;
    check_spans("negative", &histogram.negative_spans, histogram.negative_buckets.len())?;
    let steps = (histogram.schema - STORED_SCHEMA_MAX) as u32;
    (histogram.positive_spans, histogram.positive_buckets) =
        merged(&histogram.positive_spans, &histogram.positive_buckets, steps);
    (histogram.negative_spans, histogram.negative_buckets) =
        merged(&histogram.negative_spans, &histogram.negative_buckets, steps);
    histogram.schema = STORED_SCHEMA_MAX;
    Ok(())
}

/// Spans and buckets after `steps` halvings. Bucket `i` covers `(base^(i-1), base^i]`, so its target is `ceil(i / 2^steps)`.
fn merged(spans: &[Span], buckets: &[f64], steps: u32) -> (Vec<Span>, Vec<f64>) {
    let (mut merged_spans, mut merged_buckets) = (Vec::<Span>::new(), Vec::<f64>::new());
    let mut last_target = None;
    let mut index = 0i64;
    let mut counts = buckets.iter();
    for span in spans {
        index += i64::from(span.offset);
        for count in counts.by_ref().take(span.length as usize) {
            let target = ((index - 1) >> steps) + 1;
            match (last_target, merged_spans.last_mut(), merged_buckets.last_mut()) {
                (Some(last), _, Some(bucket)) if last == target => *bucket += count,
                (Some(last), Some(span), _) if last + 1 == target => {
                    span.length += 1;
                    merged_buckets.push(*count);
                }
                (last, ..) => {
                    // The gap to the end of the span before; the first offset counts from bucket 0.
                    let offset = target - last.map_or(0, |last| last + 1);
                    merged_spans.push(Span {
                        offset: offset as i32,
                        length: 1,
                    });
                    merged_buckets.push(*count);
                }
            }
            last_target = Some(target);
            index += 1;
        }
    }
    (merged_spans, merged_buckets)
}

/// Appends the fields of a histogram message, with its start timestamp if it has one.
pub fn encode(out: &mut Vec<u8>, sample: &HistogramSample) {
    let histogram = &*sample.histogram;
    if histogram.integer {
        put_integer(out, 1, histogram.count as u64);
        put_integer(out, 6, histogram.zero_count as u64);
    } else {
        put_double(out, 2, histogram.count);
        put_double(out, 7, histogram.zero_count);
    }
    put_double(out, 3, histogram.sum);
    put_integer(out, 4, zigzag(i64::from(histogram.schema)));
    put_double(out, 5, histogram.zero_threshold);
    encode_side(
        out,
        8,
        &histogram.negative_spans,
        &histogram.negative_buckets,
        histogram.integer,
    );
    encode_side(
        out,
        11,
        &histogram.positive_spans,
        &histogram.positive_buckets,
        histogram.integer,
    );
    let hint = match histogram.reset_hint {
        ResetHint::Unknown => 0,
        ResetHint::Reset => 1,
        ResetHint::NotReset => 2,
        ResetHint::Gauge => 3,
    };
    put_integer(out, 14, hint);
    put_integer(out, 15, sample.at as u64);
    put_doubles(out, 16, &histogram.custom_values);
    if sample.start != 0 {
        put_integer(out, 17, sample.start as u64);
    }
}

/// Spans at `field`, then the buckets as deltas at `field + 1` or as floats at `field + 2`.
fn encode_side(out: &mut Vec<u8>, field: u32, spans: &[Span], buckets: &[f64], integer: bool) {
    let mut message = Vec::new();
    for span in spans {
        message.clear();
        put_integer(&mut message, 1, zigzag(i64::from(span.offset)));
        put_integer(&mut message, 2, u64::from(span.length));
        put_bytes(out, field, &message);
    }
    if !integer {
        put_doubles(out, field + 2, buckets);
    } else if !buckets.is_empty() {
        message.clear();
        let mut previous = 0i64;
        for count in buckets {
            let count = *count as i64;
            put_varint(&mut message, zigzag(count.wrapping_sub(previous)));
            previous = count;
        }
        put_tag(out, field + 1, wire::BYTES);
        put_varint(out, message.len() as u64);
        out.extend_from_slice(&message);
    }
}

#[cfg(test)]
mod tests;
