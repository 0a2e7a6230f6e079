//! What all histograms of a chunk share, written once in front of them: zero threshold, schema, spans, custom bounds.

use super::{
    ChunkError,
    bits::{BitReader, BitWriter},
};
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, Histogram, Span};

/// The shared part of a chunk's histograms.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Layout {
    pub(super) schema: i32,
    pub(super) zero_threshold: f64,
    pub(super) positive_spans: Vec<Span>,
    pub(super) negative_spans: Vec<Span>,
    pub(super) custom_values: Vec<f64>,
}

/// Stands for a threshold that is written in full.
const THRESHOLD_IN_FULL: u64 = 255;

/// Custom bounds of whole thousandths up to this many take at most four bytes; others are written in full.
const THOUSANDTHS_MAX: f64 = 33_554_430.0;

impl Layout {
    /// The layout that `histogram` dictates when it is the first of a chunk.
    pub(super) fn of(histogram: &Histogram) -> Self {
        Self {
            schema: histogram.schema,
            zero_threshold: histogram.zero_threshold,
            positive_spans: histogram.positive_spans.clone(),
            negative_spans: histogram.negative_spans.clone(),
            custom_values: if histogram.schema == CUSTOM_BUCKETS_SCHEMA {
                histogram.custom_values.clone()
            } else {
                Vec::new()
            },
        }
    }

    /// Buckets of the positive side.
    pub(super) fn positive_len(&self) -> usize {
        bucket_count(&self.positive_spans)
    }

    /// Buckets of the negative side.
    pub(super) fn negative_len(&self) -> usize {
        bucket_count(&self.negative_spans)
    }

    pub(super) fn read(bits: &mut BitReader<'_>) -> Result<Self, ChunkError> {
        let zero_threshold = read_threshold(bits)?;
        let schema = bits.read_varbit_int()?;
        if !matches!(schema, -4..=8) && schema != i64::from(CUSTOM_BUCKETS_SCHEMA) {
            return Err(ChunkError::Malformed("unknown histogram schema"));
        }
        let schema = schema as i32;
        let positive_spans = read_spans(bits)?;
        let negative_spans = read_spans(bits)?;
        let custom_values = if schema == CUSTOM_BUCKETS_SCHEMA {
            read_bounds(bits)?
        } else {
            Vec::new()
        };
        let layout = Self {
            schema,
            zero_threshold,
            positive_spans,
            negative_spans,
            custom_values,
        };
        // Every bucket of the first sample takes at least a bit, unless it is stale, which has no buckets.
        if layout.positive_len() + layout.negative_len() > bits.remaining() {
            return Err(ChunkError::Malformed("spans name more buckets than there is data"));
        }
        Ok(layout)
    }

    pub(super) fn write(&self, out: &mut BitWriter) {
        write_threshold(out, self.zero_threshold);
        out.write_varbit_int(i64::from(self.schema));
        write_spans(out, &self.positive_spans);
        write_spans(out, &self.negative_spans);
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            write_bounds(out, &self.custom_values);
        }
    }
}

/// Buckets that `spans` name.
pub(super) fn bucket_count(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.length as usize).sum()
}

/// A byte: 0 for 0.0, else the exponent of a power of two from 2^-243 to 2^10 plus 243 + 1, or a mark and the float in full.
fn read_threshold(bits: &mut BitReader<'_>) -> Result<f64, ChunkError> {
    match bits.read(8)? {
        0 => Ok(0.0),
        THRESHOLD_IN_FULL => Ok(f64::from_bits(bits.read(64)?)),
        power => Ok(power_of_two(power as i64 - 244)),
    }
}

fn write_threshold(out: &mut BitWriter, threshold: f64) {
    let power = (threshold.to_bits() >> 52) as i64 - 1023;
    if threshold.to_bits() == 0 {
        out.write(0, 8);
    } else if threshold == power_of_two(power) && (-243..=10).contains(&power) {
        out.write((power + 244) as u64, 8);
    } else {
        out.write(THRESHOLD_IN_FULL, 8);
        out.write_float(threshold);
    }
}

/// Two to the power of `power`, which a normal float can hold; other powers give some other float.
fn power_of_two(power: i64) -> f64 {
    f64::from_bits(((power + 1023) as u64) << 52)
}

fn read_spans(bits: &mut BitReader<'_>) -> Result<Vec<Span>, ChunkError> {
    let count = bits.read_varbit_uint()?;
    // A span takes at least two bits.
    if count > bits.remaining() as u64 / 2 {
        return Err(ChunkError::Malformed("more spans than there is data"));
    }
    let mut spans = Vec::with_capacity(count as usize);
    let mut position = 0i64;
    for index in 0..count {
        let length = u32::try_from(bits.read_varbit_uint()?);
        let offset = i32::try_from(bits.read_varbit_int()?);
        let (Ok(length), Ok(offset)) = (length, offset) else {
            return Err(ChunkError::Malformed("a span reaches too far"));
        };
        if index > 0 && offset < 0 {
            return Err(ChunkError::Malformed("spans overlap"));
        }
        // Bucket indices are 32 bits wide everywhere, and both sums stay far below 64.
        position += i64::from(offset) + i64::from(length);
        if i32::try_from(position).is_err() {
            return Err(ChunkError::Malformed("a span reaches too far"));
        }
        spans.push(Span { offset, length });
    }
    Ok(spans)
}

fn write_spans(out: &mut BitWriter, spans: &[Span]) {
    out.write_varbit_uint(spans.len() as u64);
    for span in spans {
        // Length first; the wire formats have it the other way round.
        out.write_varbit_uint(u64::from(span.length));
        out.write_varbit_int(i64::from(span.offset));
    }
}

fn read_bounds(bits: &mut BitReader<'_>) -> Result<Vec<f64>, ChunkError> {
    let count = bits.read_varbit_uint()?;
    // A bound takes at least five bits.
    if count > bits.remaining() as u64 / 5 {
        return Err(ChunkError::Malformed("more custom bounds than there is data"));
    }
    let mut bounds = Vec::with_capacity(count as usize);
    for _ in 0..count {
        bounds.push(match bits.read_varbit_uint()? {
            0 => f64::from_bits(bits.read(64)?),
            thousandths => (thousandths - 1) as f64 / 1000.0,
        });
    }
    Ok(bounds)
}

fn write_bounds(out: &mut BitWriter, bounds: &[f64]) {
    out.write_varbit_uint(bounds.len() as u64);
    for &bound in bounds {
        let thousandths = bound * 1000.0;
        // The written number must give back the very same float.
        if (0.0..=THOUSANDTHS_MAX).contains(&thousandths) && thousandths.round() / 1000.0 == bound {
            out.write_varbit_uint(thousandths.round() as u64 + 1);
        } else {
            out.write(0, 1);
            out.write_float(bound);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_come_back_and_powers_of_two_take_a_byte() {
        let small = [0.0, 2f64.powi(-128), 1.0, 0.5, 2f64.powi(-243), 1024.0];
        let large = [
            2048.0,
            2f64.powi(-244),
            0.001,
            3.0,
            -1.0,
            -0.0,
            f64::INFINITY,
            f64::from_bits(1),
        ];
        for (threshold, bytes) in small.iter().map(|t| (*t, 1)).chain(large.iter().map(|t| (*t, 9))) {
            let mut out = BitWriter::default();
            write_threshold(&mut out, threshold);
            let written = out.into_bytes();
            assert_eq!(written.len(), bytes, "{threshold}");
            assert_eq!(
                read_threshold(&mut BitReader::new(&written)).unwrap().to_bits(),
                threshold.to_bits()
            );
        }
    }

    #[test]
    fn a_layout_comes_back() {
        let layout = Layout {
            schema: CUSTOM_BUCKETS_SCHEMA,
            zero_threshold: 0.0,
            positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 7, length: 1 }],
            negative_spans: vec![],
            custom_values: vec![-1.5, 0.0, 0.005, 0.1, 1.0 / 3.0, 33_554.43, 33_554.431, 1e300],
        };
        let mut out = BitWriter::default();
        layout.write(&mut out);
        out.write(0, 64);
        let written = out.into_bytes();
        assert_eq!(Layout::read(&mut BitReader::new(&written)).unwrap(), layout);
    }

    #[test]
    fn spans_that_promise_too_much_are_refused() {
        for (length, offset) in [
            (u64::from(u32::MAX), 0),
            (1 << 40, 0),
            (1, i64::from(i32::MAX)),
            (100_000, 0),
        ] {
            let mut out = BitWriter::default();
            out.write(0, 8);
            out.write_varbit_int(3);
            out.write_varbit_uint(1);
            out.write_varbit_uint(length);
            out.write_varbit_int(offset);
            out.write(0, 64);
            assert!(
                Layout::read(&mut BitReader::new(&out.into_bytes())).is_err(),
                "{length} {offset}"
            );
        }
    }
}
