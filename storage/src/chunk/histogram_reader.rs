//! Reading chunks of native histograms: integer and float, with and without start timestamps.
//!
//! A chunk never holds a counter reset, so every histogram but the first knows that there was none before it.

use super::{
    ChunkError, ENCODING_FLOAT_HISTOGRAM, ENCODING_FLOAT_HISTOGRAM_START, ENCODING_HISTOGRAM, ENCODING_HISTOGRAM_START,
    bits::BitReader,
    layout::Layout,
    start::{COUNT_MASK, StartReader},
};
use model::{
    histogram::{Histogram, ResetHint},
    sample::{HistogramSample, SampleBuffer, is_stale},
    time::{TimeRange, Timestamp},
};
use std::sync::Arc;

/// Count and flags.
const HEADER_BYTES: usize = 3;

/// What the header knows about a reset between the chunk before and this one; the top bits of its byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetHeader {
    Unknown = 0b00,
    NotReset = 0b01,
    Reset = 0b10,
    Gauge = 0b11,
}

impl ResetHeader {
    /// Takes the two top bits of a byte.
    fn of(byte: u8) -> Self {
        match byte >> 6 {
            0b00 => Self::Unknown,
            0b01 => Self::NotReset,
            0b10 => Self::Reset,
            _ => Self::Gauge,
        }
    }

    /// What is known about sample `index` of the chunk. That there was no reset before the first one is not passed on: the chunk before
    /// may have been dropped since.
    fn hint(self, index: u16) -> ResetHint {
        match self {
            Self::Gauge => ResetHint::Gauge,
            _ if index > 0 => ResetHint::NotReset,
            Self::Reset => ResetHint::Reset,
            Self::Unknown | Self::NotReset => ResetHint::Unknown,
        }
    }
}

/// Decodes the histograms of a chunk that lie in `range`. Time must ascend.
pub(super) fn decode(encoding: u8, chunk: &[u8], range: TimeRange, out: &mut SampleBuffer) -> Result<(), ChunkError> {
    let (&[first, second, third], body) = chunk.split_first_chunk::<HEADER_BYTES>().ok_or(ChunkError::Truncated)?;
    let count = u16::from_be_bytes([first, second]);
    let mut bits = BitReader::new(body);
    let (reset, count, starts) = match encoding {
        ENCODING_HISTOGRAM | ENCODING_FLOAT_HISTOGRAM => (ResetHeader::of(third), count, StartReader::absent()),
        ENCODING_HISTOGRAM_START | ENCODING_FLOAT_HISTOGRAM_START => {
            (ResetHeader::of(first), count & COUNT_MASK, StartReader::new(third))
        }
        other => return Err(ChunkError::Encoding(other)),
    };
    if count == 0 {
        return Ok(());
    }
    let layout = Layout::read(&mut bits)?;
    let frame = Frame {
        bits,
        starts,
        reset,
        count,
    };
    if matches!(encoding, ENCODING_HISTOGRAM | ENCODING_HISTOGRAM_START) {
        frame.decode(IntegerState::new(&layout), &layout, range, out)
    } else {
        frame.decode(FloatState::new(&layout), &layout, range, out)
    }
}

/// What a chunk without start timestamps knows about a reset before it, and its layout.
pub(super) fn read_layout(chunk: &[u8]) -> Result<(ResetHeader, Layout), ChunkError> {
    let (&[_, _, flags], body) = chunk.split_first_chunk::<HEADER_BYTES>().ok_or(ChunkError::Truncated)?;
    Ok((ResetHeader::of(flags), Layout::read(&mut BitReader::new(body))?))
}

/// What integer and float chunks have in common.
struct Frame<'a> {
    bits: BitReader<'a>,
    starts: StartReader,
    reset: ResetHeader,
    count: u16,
}

/// The numbers of the histogram read last.
trait State {
    /// Reads the numbers of the first sample behind its timestamp.
    fn read_first(&mut self, bits: &mut BitReader<'_>) -> Result<(), ChunkError>;
    /// Reads the numbers of a later sample behind its timestamp.
    fn read_next(&mut self, bits: &mut BitReader<'_>) -> Result<(), ChunkError>;
    fn sum(&self) -> f64;
    /// The histogram of what was read.
    fn histogram(&self, layout: &Layout) -> Histogram;
}

impl Frame<'_> {
    fn decode(
        mut self,
        mut state: impl State,
        layout: &Layout,
        range: TimeRange,
        out: &mut SampleBuffer,
    ) -> Result<(), ChunkError> {
        let (mut at, mut delta) = (0 as Timestamp, 0i64);
        for index in 0..self.count {
            let previous = at;
            if index == 0 {
                at = self.bits.read_varbit_int()?;
                state.read_first(&mut self.bits)?;
            } else {
                delta = delta.wrapping_add(self.bits.read_varbit_int()?);
                at = at.wrapping_add(delta);
                state.read_next(&mut self.bits)?;
            }
            let start = self.starts.read(&mut self.bits, index, at, previous)?;
            if index > 0 && at <= previous {
                return Err(ChunkError::Order);
            }
            if at > range.max {
                break;
            }
            if at >= range.min {
                let mut histogram = state.histogram(layout);
                if !is_stale(histogram.sum) {
                    histogram.reset_hint = self.reset.hint(index);
                }
                out.histograms.push(HistogramSample {
                    at,
                    start,
                    histogram: Arc::new(histogram),
                });
            }
        }
        Ok(())
    }
}

/// A float written as XOR against the one before, with a window of its own.
#[derive(Debug, Clone, Copy, Default)]
struct XorField {
    value: u64,
    leading: u32,
    trailing: u32,
}

impl XorField {
    fn read_first(&mut self, bits: &mut BitReader<'_>) -> Result<(), ChunkError> {
        self.value = bits.read(64)?;
        Ok(())
    }

    fn read_next(&mut self, bits: &mut BitReader<'_>) -> Result<(), ChunkError> {
        if !bits.read_bit()? {
            return Ok(());
        }
        if bits.read_bit()? {
            self.leading = bits.read(5)? as u32;
            let significant = match bits.read(6)? {
                0 => 64,
                significant => significant as u32,
            };
            if self.leading + significant > 64 {
                return Err(ChunkError::Malformed("a window of value bits is wider than a value"));
            }
            self.trailing = 64 - self.leading - significant;
        }
        self.value ^= bits.read(64 - self.leading - self.trailing)? << self.trailing;
        Ok(())
    }

    fn float(&self) -> f64 {
        f64::from_bits(self.value)
    }
}

/// An integer with the difference to the one before it, written as difference of differences.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    value: i64,
    delta: i64,
}

impl Counted {
    fn read_next(&mut self, bits: &mut BitReader<'_>) -> Result<(), ChunkError> {
        self.delta = self.delta.wrapping_add(bits.read_varbit_int()?);
        self.value = self.value.wrapping_add(self.delta);
        Ok(())
    }
}

struct IntegerState {
    count: Counted,
    zero_count: Counted,
    sum: XorField,
    /// Buckets of both sides, each as difference to the bucket below it.
    buckets: Vec<Counted>,
    positive_len: usize,
}

impl IntegerState {
    fn new(layout: &Layout) -> Self {
        Self {
            count: Counted::default(),
            zero_count: Counted::default(),
            sum: XorField::default(),
            buckets: vec![Counted::default(); layout.positive_len() + layout.negative_len()],
            positive_len: layout.positive_len(),
        }
    }
}

impl State for IntegerState {
    fn read_first(&mut self, bits: &mut BitReader<'_>) -> Result<(), ChunkError> {
        self.count.value = bits.read_varbit_uint()? as i64;
        self.zero_count.value = bits.read_varbit_uint()? as i64;
        self.sum.read_first(bits)?;
        if is_stale(self.sum()) {
            return Ok(());
        }
        for bucket in &mut self.buckets {
            bucket.value = bits.read_varbit_int()?;
        }
        Ok(())
    }

    fn read_next(&mut self, bits: &mut BitReader<'_>) -> Result<(), ChunkError> {
        self.count.read_next(bits)?;
        self.zero_count.read_next(bits)?;
        self.sum.read_next(bits)?;
        if is_stale(self.sum()) {
            return Ok(());
        }
        self.buckets.iter_mut().try_for_each(|bucket| bucket.read_next(bits))
    }

    fn sum(&self) -> f64 {
        self.sum.float()
    }

    fn histogram(&self, layout: &Layout) -> Histogram {
        if is_stale(self.sum()) {
            return Histogram {
                integer: true,
                sum: self.sum(),
                ..Histogram::default()
            };
        }
        let (positive, negative) = self.buckets.split_at(self.positive_len);
        Histogram {
            integer: true,
            count: self.count.value as u64 as f64,
            zero_count: self.zero_count.value as u64 as f64,
            sum: self.sum(),
            positive_buckets: absolute(positive),
            negative_buckets: absolute(negative),
            ..outline(layout)
        }
    }
}

/// Adds up differences from bucket to bucket.
fn absolute(deltas: &[Counted]) -> Vec<f64> {
    let mut count = 0i64;
    let mut next = |bucket: &Counted| {
        count = count.wrapping_add(bucket.value);
        count as f64
    };
    deltas.iter().map(&mut next).collect()
}

struct FloatState {
    count: XorField,
    zero_count: XorField,
    sum: XorField,
    buckets: Vec<XorField>,
    positive_len: usize,
}

impl FloatState {
    fn new(layout: &Layout) -> Self {
        Self {
            count: XorField::default(),
            zero_count: XorField::default(),
            sum: XorField::default(),
            buckets: vec![XorField::default(); layout.positive_len() + layout.negative_len()],
            positive_len: layout.positive_len(),
        }
    }

    fn read_with(
        &mut self,
        bits: &mut BitReader<'_>,
        read: impl Fn(&mut XorField, &mut BitReader<'_>) -> Result<(), ChunkError>,
    ) -> Result<(), ChunkError> {
        read(&mut self.count, bits)?;
        read(&mut self.zero_count, bits)?;
        read(&mut self.sum, bits)?;
        if is_stale(self.sum()) {
            return Ok(());
        }
        self.buckets.iter_mut().try_for_each(|bucket| read(bucket, bits))
    }
}

impl State for FloatState {
    fn read_first(&mut self, bits: &mut BitReader<'_>) -> Result<(), ChunkError> {
        self.read_with(bits, XorField::read_first)
    }

    fn read_next(&mut self, bits: &mut BitReader<'_>) -> Result<(), ChunkError> {
        self.read_with(bits, XorField::read_next)
    }

    fn sum(&self) -> f64 {
        self.sum.float()
    }

    fn histogram(&self, layout: &Layout) -> Histogram {
        if is_stale(self.sum()) {
            return Histogram {
                sum: self.sum(),
                ..Histogram::default()
            };
        }
        let (positive, negative) = self.buckets.split_at(self.positive_len);
        Histogram {
            count: self.count.float(),
            zero_count: self.zero_count.float(),
            sum: self.sum(),
            positive_buckets: positive.iter().map(XorField::float).collect(),
            negative_buckets: negative.iter().map(XorField::float).collect(),
            ..outline(layout)
        }
    }
}

/// A histogram of the layout without numbers.
fn outline(layout: &Layout) -> Histogram {
    Histogram {
        schema: layout.schema,
        zero_threshold: layout.zero_threshold,
        positive_spans: layout.positive_spans.clone(),
        negative_spans: layout.negative_spans.clone(),
        custom_values: layout.custom_values.clone(),
        ..Histogram::default()
    }
}
