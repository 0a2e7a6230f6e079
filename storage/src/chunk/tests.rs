//! Histogram chunks: what is written comes back, rules of cutting hold, damage is an error.

use super::*;
use crate::chunk::bits::BitWriter;
use model::{
    histogram::{CUSTOM_BUCKETS_SCHEMA, Histogram, ResetHint, Span},
    sample::{STALE_NAN, is_stale},
};
use proptest::prelude::*;
use std::sync::Arc;

/// A histogram of schema 1 with the given positive buckets: index and count.
fn with_buckets(integer: bool, buckets: &[(i32, f64)]) -> Histogram {
    let mut histogram = Histogram {
        integer,
        schema: 1,
        zero_threshold: 0.001,
        zero_count: 1.0,
        sum: 7.5,
        ..Histogram::default()
    };
    let mut next = 0;
    for &(index, count) in buckets {
        histogram.positive_spans.push(Span {
            offset: index - next,
            length: 1,
        });
        histogram.positive_buckets.push(count);
        next = index + 1;
    }
    histogram.count = 1.0 + histogram.positive_buckets.iter().sum::<f64>();
    histogram
}

fn stale(integer: bool) -> Histogram {
    Histogram {
        integer,
        sum: STALE_NAN,
        ..Histogram::default()
    }
}

fn decoded(chunk: &HistogramChunk) -> Vec<HistogramSample> {
    let mut out = SampleBuffer::default();
    decode(chunk.encoding(), chunk.data(), TimeRange::ALL, &mut out).unwrap();
    out.histograms
}

/// Non-empty buckets by index, which is what widening must keep.
fn filled(spans: &[Span], counts: &[f64]) -> Vec<(i64, u64)> {
    let mut indices = Vec::new();
    let mut next = 0i64;
    for span in spans {
        next += i64::from(span.offset);
        indices.extend(next..next + i64::from(span.length));
        next += i64::from(span.length);
    }
    let filled = indices.into_iter().zip(counts).filter(|(_, count)| **count != 0.0);
    filled.map(|(index, count)| (index, count.to_bits())).collect()
}

fn assert_same(read: &Histogram, written: &Histogram) {
    assert_eq!(read.integer, written.integer);
    if is_stale(written.sum) {
        return assert!(is_stale(read.sum));
    }
    assert_eq!(
        (read.schema, read.zero_threshold.to_bits()),
        (written.schema, written.zero_threshold.to_bits())
    );
    assert_eq!((read.count, read.zero_count), (written.count, written.zero_count));
    assert_eq!(read.sum.to_bits(), written.sum.to_bits());
    assert_eq!(read.custom_values, written.custom_values);
    for (a, b, c, d) in [
        (
            &read.positive_spans,
            &read.positive_buckets,
            &written.positive_spans,
            &written.positive_buckets,
        ),
        (
            &read.negative_spans,
            &read.negative_buckets,
            &written.negative_spans,
            &written.negative_buckets,
        ),
    ] {
        assert_eq!(filled(a, b), filled(c, d));
    }
}

#[test]
fn buckets_that_appear_widen_the_chunk_and_missing_empty_ones_the_sample() {
    for integer in [true, false] {
        let steps: [&[(i32, f64)]; 4] = [
            &[(0, 1.0), (5, 2.0)],
            &[(0, 1.0), (1, 1.0), (5, 2.0), (9, 0.0)],
            &[(0, 2.0), (1, 1.0), (5, 2.0)],
            &[(0, 2.0), (1, 1.0), (2, 3.0), (5, 2.0)],
        ];
        let histograms: Vec<Histogram> = steps.iter().map(|buckets| with_buckets(integer, buckets)).collect();
        let mut chunk = HistogramChunk::begin(10, &histograms[0], None);
        for (index, histogram) in histograms.iter().enumerate().skip(1) {
            assert!(chunk.append(10 * (index as i64 + 1), histogram), "sample {index}");
        }
        let read = decoded(&chunk);
        assert_eq!((chunk.count(), chunk.first_at(), chunk.last_at()), (4, 10, 40));
        for (sample, written) in read.iter().zip(&histograms) {
            assert_same(&sample.histogram, written);
        }
        let indices: Vec<i32> = read
            .iter()
            .map(|s| s.histogram.positive_spans.iter().map(|s| s.length as i32).sum())
            .collect();
        assert_eq!(indices, [5; 4], "one layout for all");
        let hints: Vec<ResetHint> = read.iter().map(|sample| sample.histogram.reset_hint).collect();
        assert_eq!(
            hints,
            [
                ResetHint::Unknown,
                ResetHint::NotReset,
                ResetHint::NotReset,
                ResetHint::NotReset
            ]
        );
    }
}

#[test]
fn a_chunk_ends_where_prometheus_ends_it() {
    let base = with_buckets(true, &[(0, 5.0), (3, 5.0)]);
    let change = |change: &dyn Fn(&mut Histogram)| {
        let mut histogram = base.clone();
        change(&mut histogram);
        histogram
    };
    let custom = |bounds: &[f64]| Histogram {
        schema: CUSTOM_BUCKETS_SCHEMA,
        custom_values: bounds.to_vec(),
        integer: true,
        ..Histogram::default()
    };
    // Histogram before, histogram after, whether it fits, and what a chunk that begins with it knows.
    let cases = [
        (base.clone(), base.clone(), true, ResetHint::Unknown),
        (base.clone(), change(&|h| h.count = 10.0), false, ResetHint::Reset),
        (base.clone(), change(&|h| h.zero_count = 0.0), false, ResetHint::Reset),
        (
            base.clone(),
            change(&|h| (h.positive_buckets[1], h.count) = (4.0, 20.0)),
            false,
            ResetHint::Reset,
        ),
        (base.clone(), with_buckets(true, &[(0, 50.0)]), false, ResetHint::Reset),
        (
            base.clone(),
            change(&|h| h.reset_hint = ResetHint::Reset),
            false,
            ResetHint::Reset,
        ),
        (
            base.clone(),
            change(&|h| h.reset_hint = ResetHint::Gauge),
            false,
            ResetHint::Gauge,
        ),
        (base.clone(), change(&|h| h.schema = 0), false, ResetHint::Unknown),
        (
            base.clone(),
            change(&|h| h.zero_threshold = 0.5),
            false,
            ResetHint::Unknown,
        ),
        (base.clone(), change(&|h| h.integer = false), false, ResetHint::Unknown),
        (base.clone(), stale(true), true, ResetHint::Unknown),
        (stale(true), stale(true), true, ResetHint::Unknown),
        (stale(true), base.clone(), false, ResetHint::Unknown),
        (custom(&[1.0, 2.0]), custom(&[1.0, 2.0]), true, ResetHint::Unknown),
        (custom(&[1.0, 2.0]), custom(&[1.0, 2.5]), false, ResetHint::Reset),
    ];
    for (index, (before, after, fits, hint)) in cases.into_iter().enumerate() {
        let mut chunk = HistogramChunk::begin(1, &before, None);
        let bytes = chunk.data().to_vec();
        assert_eq!(chunk.append(2, &after), fits, "case {index}");
        if !fits {
            assert_eq!(chunk.data(), bytes, "case {index}: a refusal changes nothing");
            let next = HistogramChunk::begin(2, &after, Some(&chunk));
            assert_eq!(decoded(&next)[0].histogram.reset_hint, hint, "case {index}");
        }
    }
    let gauge = change(&|h| h.reset_hint = ResetHint::Gauge);
    let mut chunk = HistogramChunk::begin(1, &gauge, None);
    let mut lower = with_buckets(true, &[(1, 1.0)]);
    lower.reset_hint = ResetHint::Gauge;
    assert!(chunk.append(2, &lower), "gauges go down");
    assert!(!chunk.append(3, &base), "a counter is no gauge");
    assert_eq!(decoded(&chunk)[1].histogram.reset_hint, ResetHint::Gauge);
}

#[test]
fn start_timestamps_of_histograms_are_read() {
    // The plain chunk of two samples, with the header changed and start timestamps put behind each sample.
    let histogram = with_buckets(false, &[(0, 1.0)]);
    let mut out = BitWriter::new(vec![0b1000_0000, 2, 0x80 | 1]);
    layout::Layout::of(&histogram).write(&mut out);
    out.write_varbit_int(1000);
    for value in [histogram.count, histogram.zero_count, histogram.sum, 1.0] {
        out.write_float(value);
    }
    let mut start = Vec::new();
    put_varint(&mut start, 400);
    start.iter().for_each(|&byte| out.write(u64::from(byte), 8));
    out.write_varbit_int(500);
    out.write(0, 4);
    out.write_varbit_int(1000 - 900);
    let data = out.into_bytes();
    assert_eq!(sample_count(ENCODING_FLOAT_HISTOGRAM_START, &data), Ok(2));
    let mut samples = SampleBuffer::default();
    decode(ENCODING_FLOAT_HISTOGRAM_START, &data, TimeRange::ALL, &mut samples).unwrap();
    let read: Vec<_> = samples
        .histograms
        .iter()
        .map(|s| (s.at, s.start, s.histogram.reset_hint))
        .collect();
    assert_eq!(read, [(1000, 600, ResetHint::Reset), (1500, 900, ResetHint::NotReset)]);
}

#[test]
fn unknown_encodings_and_empty_data_are_errors() {
    for encoding in 0..=255u8 {
        let mut out = SampleBuffer::default();
        assert!(decode(encoding, &[], TimeRange::ALL, &mut out).is_err());
        let known = (1..=6).contains(&encoding);
        assert_eq!(
            decode(encoding, &[0; 3], TimeRange::ALL, &mut out).is_ok(),
            known,
            "{encoding}"
        );
        assert!(out.is_empty());
    }
}

/// Valid histograms of one series, some with resets, new buckets and stale markers between them.
fn any_histograms() -> impl Strategy<Value = Vec<Histogram>> {
    let buckets = || proptest::collection::btree_map(-20i32..20, 0u32..1_000_000, 0..12);
    let one = (buckets(), buckets(), 0u32..1000, any::<f64>(), 0usize..12, 0i32..3);
    (any::<bool>(), proptest::collection::vec(one, 1..60)).prop_map(|(integer, raw)| {
        let make = |(positive, negative, zero, sum, kind, schema): (
            std::collections::BTreeMap<i32, u32>,
            std::collections::BTreeMap<i32, u32>,
            u32,
            f64,
            usize,
            i32,
        )| {
            if kind == 0 {
                return stale(integer);
            }
            let pairs = |map: &std::collections::BTreeMap<i32, u32>| {
                map.iter()
                    .map(|(&index, &count)| (index, f64::from(count)))
                    .collect::<Vec<_>>()
            };
            let mut histogram = with_buckets(integer, &pairs(&positive));
            let other = with_buckets(integer, &pairs(&negative));
            (histogram.negative_spans, histogram.negative_buckets) = (other.positive_spans, other.positive_buckets);
            histogram.zero_count = f64::from(zero);
            histogram.count = histogram.zero_count
                + histogram.positive_buckets.iter().sum::<f64>()
                + histogram.negative_buckets.iter().sum::<f64>();
            histogram.sum = sum;
            histogram.schema = if kind == 1 { schema } else { 1 };
            if kind == 2 {
                histogram.reset_hint = ResetHint::Gauge;
            }
            histogram
        };
        raw.into_iter().map(make).collect()
    })
}

/// The same histograms adding up, so that many fit into one chunk.
fn accumulated(histograms: Vec<Histogram>) -> Vec<Histogram> {
    let mut positive = std::collections::BTreeMap::new();
    let (mut zero, mut out) = (0.0, Vec::new());
    for histogram in histograms {
        if is_stale(histogram.sum) {
            continue;
        }
        for (index, bits) in filled(&histogram.positive_spans, &histogram.positive_buckets) {
            *positive.entry(index as i32).or_insert(0.0) += f64::from_bits(bits);
        }
        zero += histogram.zero_count;
        let mut sum = with_buckets(
            histogram.integer,
            &positive.iter().map(|(&i, &c)| (i, c)).collect::<Vec<_>>(),
        );
        (sum.zero_count, sum.sum, sum.count) = (zero, histogram.sum, sum.count - 1.0 + zero);
        out.push(sum);
    }
    out
}

fn samples_of(histograms: &[Histogram]) -> SampleBuffer {
    let mut samples = SampleBuffer::default();
    for (index, histogram) in histograms.iter().enumerate() {
        let at = 1_700_000_000_000 + index as i64 * 15_000 + (index as i64 % 3) * 7;
        samples.histograms.push(HistogramSample {
            at,
            start: 0,
            histogram: Arc::new(histogram.clone()),
        });
    }
    samples
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn histograms_come_back_from_their_chunks(histograms in any_histograms(), add_up in any::<bool>()) {
        let histograms = if add_up { accumulated(histograms) } else { histograms };
        let samples = samples_of(&histograms);
        let chunks = encode_samples(&samples);
        if add_up && !histograms.is_empty() {
            prop_assert!(chunks.len() <= 1 + histograms.len() / 10, "what adds up stays together");
        }
        let mut read = SampleBuffer::default();
        decode_run(chunks.iter().map(|chunk| (chunk.encoding, &chunk.data[..])), TimeRange::ALL, &mut read).unwrap();
        prop_assert_eq!(read.histograms.len(), histograms.len());
        for (sample, written) in read.histograms.iter().zip(&samples.histograms) {
            prop_assert_eq!(sample.at, written.at);
            assert_same(&sample.histogram, &written.histogram);
        }
        for chunk in &chunks {
            let resumed = HistogramChunk::resume(chunk.encoding, &chunk.data).unwrap();
            prop_assert_eq!(resumed.data(), &chunk.data[..]);
        }
    }

    #[test]
    fn damaged_histogram_chunks_never_panic(histograms in any_histograms(), flips in proptest::collection::vec(any::<usize>(), 1..40)) {
        for chunk in encode_samples(&samples_of(&histograms)) {
            for encoding in 1..=6 {
                for end in 0..chunk.data.len() {
                    let _ = decode(encoding, &chunk.data[..end], TimeRange::ALL, &mut SampleBuffer::default());
                }
                let mut broken = chunk.data.to_vec();
                for flip in &flips {
                    let bit = flip % (broken.len() * 8);
                    broken[bit / 8] ^= 1 << (bit % 8);
                    let _ = decode(encoding, &broken, TimeRange::ALL, &mut SampleBuffer::default());
                    let _ = HistogramChunk::resume(encoding, &broken);
                }
            }
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), encoding in 0u8..8) {
        let mut out = SampleBuffer::default();
        let _ = decode(encoding, &bytes, TimeRange::ALL, &mut out);
        // What comes out is bounded by what went in.
        prop_assert!(out.len() <= bytes.len() * 8);
    }
}

#[test]
fn floats_and_histograms_that_alternate_get_chunks_that_do_not_overlap() {
    let mut samples = samples_of(&vec![with_buckets(true, &[(0, 5.0)]); 40]);
    let first = samples.histograms[0].at;
    for index in 0..300 {
        let at = first + 45_000 * index / 10 * 10 + 3;
        if index % 100 < 50 {
            samples.push_float(at, index as f64);
        }
    }
    let chunks = encode_samples(&samples);
    assert!(
        chunks.windows(2).all(|pair| pair[0].max_time < pair[1].min_time),
        "{:?}",
        chunks.iter().map(|c| (c.min_time, c.max_time)).collect::<Vec<_>>()
    );
    let mut read = SampleBuffer::default();
    decode_run(
        chunks.iter().map(|chunk| (chunk.encoding, &chunk.data[..])),
        TimeRange::ALL,
        &mut read,
    )
    .unwrap();
    assert_eq!((read.timestamps, read.values), (samples.timestamps, samples.values));
    assert_eq!(read.histograms.len(), 40);
}
