//! What `make gate` counts here: decoding float chunks.

use model::{sample::SampleBuffer, select::Chunk, time::TimeRange};
use storage::chunk::{decode, encode_floats};

const CHUNKS: usize = 1_000;
const SAMPLES: i64 = 120;

/// Constants, counters, gauges and noise in about the shares of a fleet.
fn corpus() -> Vec<Chunk> {
    let mut state = 1u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let chunk = |kind: usize| {
        let (mut times, mut values, mut value) = (Vec::new(), Vec::new(), random() as f64);
        for index in 0..SAMPLES {
            value = match kind % 8 {
                0 | 1 => value,
                2..=5 => value + (random() % 20) as f64,
                6 => value + 4096.0 * (random() % 7) as f64 - 3.0 * 4096.0,
                _ => random() as f64 / 1e7,
            };
            times.push(1_700_000_000_000 + index * 15_000 + i64::from(index % 20 == 0));
            values.push(value);
        }
        encode_floats(&times, &values)
    };
    (0..CHUNKS).map(chunk).collect()
}

#[inline(never)]
fn counted_xor_decode(chunks: &[Chunk], out: &mut SampleBuffer) -> f64 {
    let mut sum = 0.0;
    for chunk in chunks {
        out.clear();
        decode(chunk.encoding, &chunk.data, TimeRange::ALL, out).unwrap();
        sum += out.values.last().copied().unwrap_or_default();
    }
    sum
}

#[test]
#[ignore = "counted by `make gate`"]
fn xor_decode() {
    let chunks = corpus();
    let mut out = SampleBuffer::default();
    let sum = counted_xor_decode(&chunks, &mut out);
    assert!(sum > 0.0);
    eprintln!("samples {}", CHUNKS as i64 * SAMPLES);
}
