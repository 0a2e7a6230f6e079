//! Writing chunks of native histograms, byte for byte like Prometheus.
//!
//! The head keeps one [`HistogramChunk`] for each series with histograms, asks it to take each sample, and begins another when it
//! refuses. A chunk never holds a counter reset, and all its histograms share one layout: a sample with fewer buckets is widened,
//! one with more has the whole chunk written anew in the wider layout.

use super::{
    ChunkError, ENCODING_FLOAT_HISTOGRAM, ENCODING_HISTOGRAM,
    bits::BitWriter,
    histogram_reader::{self, ResetHeader},
    layout::Layout,
};
use bytes::Bytes;
use model::{
    histogram::{Histogram, ResetHint, Span},
    sample::{SampleBuffer, is_stale},
    select::Chunk,
    time::{TimeRange, Timestamp},
};

/// Count and flags.
const HEADER_BYTES: usize = 3;

/// Marks that no window of meaningful bits was written yet.
const NO_WINDOW: u32 = u32::MAX;

/// Bytes that a histogram chunk aims at, as in Prometheus.
pub const HISTOGRAM_CHUNK_BYTES: usize = 1024;

/// A chunk of fewer histograms does not end because of its size.
pub const HISTOGRAM_CHUNK_SAMPLES_MIN: u16 = 10;

/// An open chunk of native histograms.
#[derive(Debug, Clone)]
pub struct HistogramChunk {
    integer: bool,
    reset: ResetHeader,
    layout: Layout,
    positive: Side,
    negative: Side,
    out: BitWriter,
    first_at: Timestamp,
    at: Timestamp,
    delta: i64,
    samples: u16,
    count: Number,
    zero_count: Number,
    sum: Number,
}

/// The buckets of one side: which there are, and what was written of them last.
#[derive(Debug, Clone, Default)]
struct Side {
    indices: Vec<i64>,
    /// Absolute counts of the last sample.
    counts: Vec<f64>,
    written: Vec<Number>,
}

/// A number of the histogram as it was written last; integers and floats use different parts.
#[derive(Debug, Clone, Copy)]
struct Number {
    integer: i64,
    /// Difference of the last two integers.
    delta: i64,
    float: f64,
    /// Window of meaningful bits of floats.
    leading: u32,
    trailing: u32,
}

impl Default for Number {
    fn default() -> Self {
        Self {
            integer: 0,
            delta: 0,
            float: 0.0,
            leading: NO_WINDOW,
            trailing: 0,
        }
    }
}

/// How a histogram relates to the chunk so far.
enum Fit {
    /// It can be written after these changes of layout.
    Fits(Widening),
    /// It needs a chunk of its own, which knows this about a reset.
    Apart(ResetHeader),
}

/// What must change so that chunk and sample have the same buckets.
#[derive(Default)]
struct Widening {
    /// The chunk lacks buckets: its layout must become this.
    chunk: Option<(Vec<Span>, Vec<Span>)>,
    /// The sample lacks buckets.
    sample: bool,
}

impl HistogramChunk {
    /// Begins a chunk with a first histogram. `previous` is the chunk before of the same series, if it is known: it tells whether
    /// the counter was reset in between.
    pub fn begin(at: Timestamp, histogram: &Histogram, previous: Option<&HistogramChunk>) -> Self {
        let reset = match histogram.reset_hint {
            ResetHint::Gauge => ResetHeader::Gauge,
            ResetHint::Reset => ResetHeader::Reset,
            ResetHint::Unknown | ResetHint::NotReset => {
                match previous
                    .filter(|previous| previous.integer == histogram.integer)
                    .map(|p| p.fit(histogram))
                {
                    Some(Fit::Apart(reset)) => reset,
                    Some(Fit::Fits(_)) => ResetHeader::NotReset,
                    None => ResetHeader::Unknown,
                }
            }
        };
        let layout = if is_stale(histogram.sum) {
            Layout::default()
        } else {
            Layout::of(histogram)
        };
        let mut chunk = Self::empty(histogram.integer, reset, layout);
        chunk.write(at, histogram);
        chunk
    }

    /// Takes up an encoded chunk behind its last sample.
    pub fn resume(encoding: u8, data: &[u8]) -> Result<Self, ChunkError> {
        let integer = match encoding {
            ENCODING_HISTOGRAM => true,
            ENCODING_FLOAT_HISTOGRAM => false,
            other => return Err(ChunkError::Encoding(other)),
        };
        let mut samples = SampleBuffer::default();
        histogram_reader::decode(encoding, data, TimeRange::ALL, &mut samples)?;
        let (reset, layout) = histogram_reader::read_layout(data)?;
        if samples.histograms.is_empty() {
            return Err(ChunkError::Malformed("a chunk without samples cannot be gone on with"));
        }
        let mut chunk = Self::empty(integer, reset, layout);
        for sample in &samples.histograms {
            chunk.write(sample.at, &sample.histogram);
        }
        Ok(chunk)
    }

    fn empty(integer: bool, reset: ResetHeader, layout: Layout) -> Self {
        let mut out = BitWriter::new(vec![0, 0, (reset as u8) << 6]);
        layout.write(&mut out);
        let side = |spans: &[Span]| {
            let indices = indices(spans);
            let (counts, written) = (vec![0.0; indices.len()], vec![Number::default(); indices.len()]);
            Side {
                indices,
                counts,
                written,
            }
        };
        Self {
            integer,
            reset,
            positive: side(&layout.positive_spans),
            negative: side(&layout.negative_spans),
            layout,
            out,
            first_at: 0,
            at: 0,
            delta: 0,
            samples: 0,
            count: Number::default(),
            zero_count: Number::default(),
            sum: Number::default(),
        }
    }

    /// Appends a histogram that comes later than the last. `false` when it cannot be in this chunk (nothing has changed then):
    /// begin another one.
    pub fn append(&mut self, at: Timestamp, histogram: &Histogram) -> bool {
        if histogram.integer != self.integer || self.samples == u16::MAX {
            return false;
        }
        let Fit::Fits(widening) = self.fit(histogram) else {
            return false;
        };
        if let Some((positive, negative)) = widening.chunk {
            self.widen(positive, negative);
        }
        if widening.sample {
            let widened = Histogram {
                positive_buckets: spread(
                    &histogram.positive_spans,
                    &histogram.positive_buckets,
                    &self.positive.indices,
                ),
                negative_buckets: spread(
                    &histogram.negative_spans,
                    &histogram.negative_buckets,
                    &self.negative.indices,
                ),
                positive_spans: self.layout.positive_spans.clone(),
                negative_spans: self.layout.negative_spans.clone(),
                ..histogram.clone()
            };
            self.write(at, &widened);
        } else {
            self.write(at, histogram);
        }
        true
    }

    /// Encoding byte of the chunk.
    pub fn encoding(&self) -> u8 {
        if self.integer {
            ENCODING_HISTOGRAM
        } else {
            ENCODING_FLOAT_HISTOGRAM
        }
    }

    /// The bytes so far; they are a chunk at any time.
    pub fn data(&self) -> &[u8] {
        self.out.bytes()
    }

    /// Number of samples.
    pub fn count(&self) -> u16 {
        self.samples
    }

    /// Timestamp of the first sample.
    pub fn first_at(&self) -> Timestamp {
        self.first_at
    }

    /// Timestamp of the last sample.
    pub fn last_at(&self) -> Timestamp {
        self.at
    }

    /// Whether the chunk is as large as chunks should become.
    pub fn is_full(&self) -> bool {
        let len = self.data().len();
        (len >= HISTOGRAM_CHUNK_BYTES && self.samples >= HISTOGRAM_CHUNK_SAMPLES_MIN)
            || len >= 2 * HISTOGRAM_CHUNK_BYTES
    }

    /// The sealed chunk.
    pub fn finish(self) -> Chunk {
        let encoding = self.encoding();
        let data = Bytes::from(self.out.into_bytes());
        Chunk {
            min_time: self.first_at,
            max_time: self.at,
            encoding,
            data,
        }
    }

    /// Whether and how a histogram of the same kind can follow.
    fn fit(&self, next: &Histogram) -> Fit {
        let gauge = self.reset == ResetHeader::Gauge;
        if gauge != (next.reset_hint == ResetHint::Gauge) {
            return Fit::Apart(ResetHeader::Unknown);
        }
        if next.reset_hint == ResetHint::Reset {
            return Fit::Apart(ResetHeader::Reset);
        }
        if is_stale(next.sum) {
            return Fit::Fits(Widening::default());
        }
        if is_stale(self.sum.float) {
            return Fit::Apart(ResetHeader::Unknown);
        }
        if !gauge && next.count < self.count.float {
            return Fit::Apart(ResetHeader::Reset);
        }
        if next.schema != self.layout.schema || next.zero_threshold != self.layout.zero_threshold {
            return Fit::Apart(ResetHeader::Unknown);
        }
        if Layout::of(next).custom_values != self.layout.custom_values {
            return Fit::Apart(ResetHeader::Reset);
        }
        if !gauge && next.zero_count < self.zero_count.float {
            return Fit::Apart(ResetHeader::Reset);
        }
        let positive = self
            .positive
            .compare(&next.positive_spans, &next.positive_buckets, gauge);
        let negative = self
            .negative
            .compare(&next.negative_spans, &next.negative_buckets, gauge);
        match (positive, negative) {
            (Some(positive), Some(negative)) => Fit::Fits(Widening::new(positive, negative, next)),
            _ => Fit::Apart(ResetHeader::Reset),
        }
    }

    /// Writes the chunk anew with more buckets.
    fn widen(&mut self, positive: Vec<Span>, negative: Vec<Span>) {
        let mut samples = SampleBuffer::default();
        histogram_reader::decode(self.encoding(), self.data(), TimeRange::ALL, &mut samples)
            .expect("a chunk that was just written can be read");
        let layout = Layout {
            positive_spans: positive,
            negative_spans: negative,
            ..self.layout.clone()
        };
        let mut wider = Self::empty(self.integer, self.reset, layout);
        for sample in &samples.histograms {
            let old = &*sample.histogram;
            let widened = Histogram {
                positive_buckets: spread(&old.positive_spans, &old.positive_buckets, &wider.positive.indices),
                negative_buckets: spread(&old.negative_spans, &old.negative_buckets, &wider.negative.indices),
                ..old.clone()
            };
            wider.write(sample.at, &widened);
        }
        *self = wider;
    }

    /// Writes a sample that has the buckets of the layout.
    fn write(&mut self, at: Timestamp, histogram: &Histogram) {
        let first = self.samples == 0;
        let stale = is_stale(histogram.sum);
        if first {
            self.first_at = at;
            self.out.write_varbit_int(at);
        } else {
            let delta = at.wrapping_sub(self.at);
            self.out.write_varbit_int(delta.wrapping_sub(self.delta));
            self.delta = delta;
        }
        let (count, zero_count) = if stale {
            (0.0, 0.0)
        } else {
            (histogram.count, histogram.zero_count)
        };
        if self.integer {
            self.count.write_count(&mut self.out, count, first, stale);
            self.zero_count.write_count(&mut self.out, zero_count, first, stale);
        } else {
            self.count.write_float(&mut self.out, count, first);
            self.zero_count.write_float(&mut self.out, zero_count, first);
        }
        self.sum.write_float(&mut self.out, histogram.sum, first);
        if !stale {
            self.positive
                .write(&mut self.out, &histogram.positive_buckets, self.integer, first);
            self.negative
                .write(&mut self.out, &histogram.negative_buckets, self.integer, first);
        }
        self.at = at;
        self.samples += 1;
        self.out.bytes_mut()[..HEADER_BYTES - 1].copy_from_slice(&self.samples.to_be_bytes());
    }
}

impl Number {
    /// A count, as difference of differences. A stale sample has none, and says so by no change of pace.
    fn write_count(&mut self, out: &mut BitWriter, count: f64, first: bool, stale: bool) {
        self.float = count;
        let count = count as u64 as i64;
        if first {
            out.write_varbit_uint(count as u64);
        } else {
            let delta = count.wrapping_sub(self.integer);
            out.write_varbit_int(if stale { 0 } else { delta.wrapping_sub(self.delta) });
            self.delta = delta;
        }
        self.integer = count;
    }

    /// A bucket as difference to the bucket below it, that as difference of differences.
    fn write_bucket(&mut self, out: &mut BitWriter, step: i64, first: bool) {
        if first {
            out.write_varbit_int(step);
        } else {
            let delta = step.wrapping_sub(self.integer);
            out.write_varbit_int(delta.wrapping_sub(self.delta));
            self.delta = delta;
        }
        self.integer = step;
    }

    /// A float as XOR against the one before.
    fn write_float(&mut self, out: &mut BitWriter, value: f64, first: bool) {
        let xor = value.to_bits() ^ self.float.to_bits();
        self.float = value;
        if first {
            return out.write_float(value);
        }
        if xor == 0 {
            return out.write(0, 1);
        }
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        if self.leading != NO_WINDOW && leading >= self.leading && trailing >= self.trailing {
            out.write(0b10, 2);
            return out.write(xor >> self.trailing, 64 - self.leading - self.trailing);
        }
        (self.leading, self.trailing) = (leading, trailing);
        let significant = 64 - leading - trailing;
        out.write(0b11, 2);
        out.write(u64::from(leading), 5);
        // 64 does not fit into six bits and is written as 0.
        out.write(u64::from(significant % 64), 6);
        out.write(xor >> trailing, significant);
    }
}

/// How the buckets of a sample relate to those of the chunk.
struct Comparison {
    /// The sample has buckets that the chunk lacks.
    chunk_lacks: bool,
    /// The chunk has buckets that the sample lacks.
    sample_lacks: bool,
    /// All buckets of both.
    union: Vec<i64>,
}

impl Side {
    /// Compares buckets; `None` when one has become smaller, which for a counter is a reset.
    fn compare(&self, spans: &[Span], counts: &[f64], gauge: bool) -> Option<Comparison> {
        let next = indices(spans);
        let (mut chunk_lacks, mut sample_lacks) = (false, false);
        let mut union = Vec::with_capacity(self.indices.len().max(next.len()));
        let (mut mine, mut theirs) = (0, 0);
        while mine < self.indices.len() || theirs < next.len() {
            let ours = self.indices.get(mine).copied().unwrap_or(i64::MAX);
            let other = next.get(theirs).copied().unwrap_or(i64::MAX);
            union.push(ours.min(other));
            let before = if ours <= other { self.counts[mine] } else { 0.0 };
            let after = if other <= ours {
                counts.get(theirs).copied().unwrap_or(0.0)
            } else {
                0.0
            };
            if !gauge && after < before {
                return None;
            }
            chunk_lacks |= other < ours;
            sample_lacks |= ours < other;
            mine += usize::from(ours <= other);
            theirs += usize::from(other <= ours);
        }
        Some(Comparison {
            chunk_lacks,
            sample_lacks,
            union,
        })
    }

    fn write(&mut self, out: &mut BitWriter, counts: &[f64], integer: bool, first: bool) {
        let mut below = 0i64;
        // A histogram with fewer counts than its spans name was refused long before; it must not tear the chunk all the same.
        let counts = counts.iter().copied().chain(std::iter::repeat(0.0));
        for ((written, held), count) in self.written.iter_mut().zip(&mut self.counts).zip(counts) {
            *held = count;
            if integer {
                let count = count as i64;
                written.write_bucket(out, count.wrapping_sub(below), first);
                below = count;
            } else {
                written.write_float(out, count, first);
            }
        }
    }
}

impl Widening {
    fn new(positive: Comparison, negative: Comparison, next: &Histogram) -> Self {
        let sample = positive.sample_lacks || negative.sample_lacks;
        if !positive.chunk_lacks && !negative.chunk_lacks {
            return Self { chunk: None, sample };
        }
        // The layout is the sample's own where that has all buckets.
        let spans = |side: &Comparison, own: &[Span]| {
            if side.sample_lacks {
                spans(&side.union)
            } else {
                own.to_vec()
            }
        };
        let positive = spans(&positive, &next.positive_spans);
        let negative = spans(&negative, &next.negative_spans);
        Self {
            chunk: Some((positive, negative)),
            sample,
        }
    }
}

/// The bucket indices that `spans` name, ascending.
fn indices(spans: &[Span]) -> Vec<i64> {
    let mut indices = Vec::new();
    let mut next = 0i64;
    for span in spans {
        next += i64::from(span.offset);
        indices.extend(next..next + i64::from(span.length));
        next += i64::from(span.length);
    }
    indices
}

/// The fewest spans that name `indices`.
fn spans(indices: &[i64]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut end = 0;
    for &index in indices {
        match spans.last_mut() {
            Some(last) if index == end => last.length += 1,
            _ => spans.push(Span {
                offset: (index - end) as i32,
                length: 1,
            }),
        }
        end = index + 1;
    }
    spans
}

/// Puts counts into a wider set of buckets; new ones are empty.
fn spread(from: &[Span], counts: &[f64], to: &[i64]) -> Vec<f64> {
    let mut have = indices(from).into_iter().zip(counts.iter().copied()).peekable();
    let count = |&index: &i64| have.next_if(|(held, _)| *held == index).map_or(0.0, |(_, count)| count);
    to.iter().map(count).collect()
}
