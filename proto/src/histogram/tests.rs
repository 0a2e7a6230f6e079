//! Histograms over the wire and back, and what must not come through.

use super::*;
use model::histogram::CUSTOM_BUCKETS_SCHEMA;
use model::sample::STALE_NAN;
use proptest::prelude::*;

fn span(offset: i32, length: u32) -> Span {
    Span { offset, length }
}

fn wire_of(histogram: Histogram) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(
        &mut bytes,
        &HistogramSample {
            at: 5,
            start: 0,
            histogram: Arc::new(histogram),
        },
    );
    bytes
}

fn integer(schema: i32, spans: Vec<Span>, buckets: Vec<f64>) -> Histogram {
    let count = buckets.iter().sum();
    Histogram {
        integer: true,
        schema,
        count,
        sum: 1.5,
        positive_spans: spans,
        positive_buckets: buckets,
        ..Histogram::default()
    }
}

prop_compose! {
    fn side(integer: bool)(
        first in -300i32..300,
        gaps in prop::collection::vec((0i32..40, 1u32..6), 0..6),
        counts in prop::collection::vec(0u32..1_000_000, 40),
    ) -> (Vec<Span>, Vec<f64>) {
        let spans: Vec<Span> = gaps.iter().enumerate()
            .map(|(index, (gap, length))| span(if index == 0 { first } else { *gap }, *length)).collect();
        let total: u32 = spans.iter().map(|span| span.length).sum();
        let scale = if integer { 1.0 } else { 0.25 };
        let buckets = counts.iter().take(total as usize).map(|count| f64::from(*count) * scale).collect();
        (spans, buckets)
    }
}

fn histogram() -> impl Strategy<Value = Histogram> {
    (any::<bool>(), -4..=8, 0u32..1_000, any::<f64>(), 0usize..4).prop_flat_map(|(integer, schema, zero, sum, hint)| {
        (side(integer), side(integer)).prop_map(move |(positive, negative)| {
            let hints = [
                ResetHint::Unknown,
                ResetHint::Reset,
                ResetHint::NotReset,
                ResetHint::Gauge,
            ];
            let count = f64::from(zero) + positive.1.iter().sum::<f64>() + negative.1.iter().sum::<f64>();
            Histogram {
                integer,
                reset_hint: hints[hint],
                schema,
                zero_threshold: 0.001,
                zero_count: f64::from(zero),
                count,
                sum: if sum.is_nan() { 0.0 } else { sum },
                positive_spans: positive.0,
                positive_buckets: positive.1,
                negative_spans: negative.0,
                negative_buckets: negative.1,
                custom_values: Vec::new(),
            }
        })
    })
}

proptest! {
    #[test]
    fn histograms_come_back(histogram in histogram(), at in any::<i64>(), start in any::<i64>()) {
        let sample = HistogramSample { at, start, histogram: Arc::new(histogram) };
        let mut bytes = Vec::new();
        encode(&mut bytes, &sample);
        prop_assert_eq!(decode(&bytes), Ok(sample));
    }

    #[test]
    fn damaged_histograms_never_panic(histogram in histogram(), at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
        let mut bytes = wire_of(histogram);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decode(&bytes);
        bytes.truncate(cut);
        let _ = decode(&bytes);
    }

    /// Each observation stays in the bucket that covers its old one.
    #[test]
    fn merging_keeps_every_observation_in_its_range((spans, buckets) in side(true), schema in 9..=20) {
        let decoded = decode(&wire_of(integer(schema, spans.clone(), buckets.clone()))).unwrap();
        let coarse = &decoded.histogram;
        prop_assert_eq!(coarse.schema, 8);
        let fine = by_index(&spans, &buckets);
        let steps = schema - 8;
        for (index, count) in by_index(&coarse.positive_spans, &coarse.positive_buckets) {
            let lower = (index - 1) << steps;
            let upper = index << steps;
            let covered: f64 = fine.iter().filter(|(fine, _)| lower < *fine && *fine <= upper).map(|(_, count)| count).sum();
            prop_assert_eq!(covered, count);
        }
    }
}

fn by_index(spans: &[Span], buckets: &[f64]) -> Vec<(i64, f64)> {
    let mut index = 0i64;
    let mut counts = buckets.iter();
    let mut pairs = Vec::new();
    for span in spans {
        index += i64::from(span.offset);
        for count in counts.by_ref().take(span.length as usize) {
            pairs.push((index, *count));
            index += 1;
        }
    }
    pairs
}

#[test]
fn schemas_up_to_52_are_merged_down_to_8() {
    for (schema, expected) in [(8, 8), (9, 8), (52, 8), (-4, -4)] {
        let decoded = decode(&wire_of(integer(
            schema,
            vec![span(-3, 4), span(2, 1)],
            vec![1.0, 2.0, 3.0, 4.0, 5.0],
        )));
        let decoded = decoded.unwrap().histogram;
        assert_eq!(decoded.schema, expected);
        assert_eq!(decoded.positive_buckets.iter().sum::<f64>(), 15.0);
    }
    for schema in [53, -5, -9, -52, -54] {
        let error = decode(&wire_of(integer(schema, vec![], vec![]))).unwrap_err();
        assert_eq!(error, HistogramError::Fault(HistogramFault::Schema(schema)));
    }
}

#[test]
fn the_member_of_the_oneof_decides_the_kind() {
    let float = Histogram {
        count: 7.5,
        ..Histogram::default()
    };
    assert!(!decode(&wire_of(float)).unwrap().histogram.integer);
    assert!(decode(&wire_of(integer(0, vec![], vec![]))).unwrap().histogram.integer);
    // Both members: the last one holds.
    let mut both = Vec::new();
    put_integer(&mut both, 1, 3);
    put_double(&mut both, 2, 2.5);
    let decoded = decode(&both).unwrap().histogram;
    assert_eq!((decoded.integer, decoded.count), (false, 2.5));
}

#[test]
fn a_stale_marker_comes_through_bit_for_bit_and_alone() {
    let mut stale = integer(99, vec![span(0, 7)], vec![-4.0]);
    stale.sum = STALE_NAN;
    let decoded = decode(&wire_of(stale)).unwrap().histogram;
    assert!(decoded.is_stale());
    assert!(decoded.positive_spans.is_empty() && decoded.positive_buckets.is_empty());
}

#[test]
fn custom_buckets_come_back() {
    let mut custom = integer(CUSTOM_BUCKETS_SCHEMA, vec![span(0, 3)], vec![1.0, 0.0, 2.0]);
    custom.custom_values = vec![0.5, 2.5];
    assert_eq!(*decode(&wire_of(custom.clone())).unwrap().histogram, custom);
    custom.custom_values = vec![2.5, 0.5];
    assert!(matches!(
        decode(&wire_of(custom)),
        Err(HistogramError::Fault(HistogramFault::BoundOrder { .. }))
    ));
}

#[test]
fn lists_may_be_packed_or_not() {
    let mut bytes = Vec::new();
    put_integer(&mut bytes, 1, 6);
    put_bytes(&mut bytes, 11, &[0x10, 0x03]);
    for delta in [1, 1, 1] {
        put_integer(&mut bytes, 12, zigzag(delta));
    }
    assert_eq!(decode(&bytes).unwrap().histogram.positive_buckets, [1.0, 2.0, 3.0]);
    let mut bytes = Vec::new();
    put_double(&mut bytes, 2, 3.0);
    put_bytes(&mut bytes, 8, &[0x10, 0x02]);
    put_double(&mut bytes, 10, 1.0);
    put_double(&mut bytes, 10, 2.0);
    assert_eq!(decode(&bytes).unwrap().histogram.negative_buckets, [1.0, 2.0]);
}

#[test]
fn a_million_buckets_cost_no_memory_to_refuse() {
    let mut bytes = Vec::new();
    put_integer(&mut bytes, 1, 0);
    put_bytes(&mut bytes, 12, &vec![0u8; 1_000_000]);
    assert_eq!(decode(&bytes), Err(HistogramError::TooManyElements));
}

#[test]
fn contradictions_and_overflows_are_told() {
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, 11, &[0x10, 0x02]);
    put_integer(&mut bytes, 12, zigzag(i64::MAX));
    put_integer(&mut bytes, 12, zigzag(1));
    assert_eq!(decode(&bytes), Err(HistogramError::DeltaOverflow("positive")));
    let mut wrong = integer(0, vec![span(0, 1)], vec![3.0]);
    wrong.count = 4.0;
    assert!(matches!(
        decode(&wire_of(wrong)),
        Err(HistogramError::Fault(HistogramFault::CountMismatch { .. }))
    ));
    let spans = vec![span(i32::MAX, 1), span(i32::MAX, 1)];
    assert!(decode(&wire_of(integer(20, spans, vec![1.0, 1.0]))).is_err());
}
