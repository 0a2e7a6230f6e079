//! XOR chunks: written fast and slowly, read back, resumed, damaged.

use super::{bits::BitWriter, xor_column::decode, *};
use proptest::prelude::*;

/// The encoding written down once more, bit by bit and without the word-wise writer.
fn encode_slowly(samples: &[(i64, u64)]) -> Vec<u8> {
    let mut out = BitWriter::new((samples.len() as u16).to_be_bytes().to_vec());
    let mut window: Option<(u32, u32)> = None;
    for (index, &(at, value)) in samples.iter().enumerate() {
        let delta = |i: usize| samples[i].0.wrapping_sub(samples[i - 1].0);
        match index {
            0 => {
                let mut bytes = Vec::new();
                put_varint(&mut bytes, at);
                bytes.iter().for_each(|&byte| out.write(u64::from(byte), 8));
                out.write(value, 64);
                continue;
            }
            1 => {
                let mut bytes = Vec::new();
                put_uvarint(&mut bytes, delta(1) as u64);
                bytes.iter().for_each(|&byte| out.write(u64::from(byte), 8));
            }
            _ => match delta(index).wrapping_sub(delta(index - 1)) {
                0 => out.write(0, 1),
                dod @ -8191..=8192 => (out.write(2, 2), out.write(dod as u64, 14)).1,
                dod @ -65535..=65536 => (out.write(6, 3), out.write(dod as u64, 17)).1,
                dod @ -524287..=524288 => (out.write(14, 4), out.write(dod as u64, 20)).1,
                dod => (out.write(15, 4), out.write(dod as u64, 64)).1,
            },
        }
        let xor = value ^ samples[index - 1].1;
        if xor == 0 {
            out.write(0, 1);
            continue;
        }
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        match window {
            Some((l, t)) if leading >= l && trailing >= t => {
                out.write(2, 2);
                out.write(xor >> t, 64 - l - t);
            }
            _ => {
                window = Some((leading, trailing));
                let significant = 64 - leading - trailing;
                out.write(3, 2);
                out.write(u64::from(leading), 5);
                out.write(u64::from(significant % 64), 6);
                out.write(xor >> trailing, significant);
            }
        }
    }
    out.into_bytes()
}

fn encode(samples: &[(i64, u64)]) -> Vec<u8> {
    let (mut appender, mut chunk) = (XorAppender::new(), Vec::new());
    for &(at, value) in samples {
        appender.append(&mut chunk, at, f64::from_bits(value));
    }
    chunk
}

fn read_all(chunk: &[u8]) -> Result<Vec<(i64, u64)>, ChunkError> {
    let mut reader = XorReader::new(chunk)?;
    let mut samples = Vec::new();
    while let Some((at, value)) = reader.next()? {
        samples.push((at, value.to_bits()));
    }
    Ok(samples)
}

/// Checks that decoding into columns has the outcome of reading sample by sample until the range ends.
fn same_as_one_by_one(chunk: &[u8], range: TimeRange) {
    let one_by_one = || {
        let mut reader = XorReader::new(chunk)?;
        let (mut samples, mut last) = (Vec::new(), None);
        while let Some((at, value)) = reader.next()? {
            if last.is_some_and(|last| at <= last) {
                return Err(ChunkError::Order);
            }
            last = Some(at);
            if at > range.max {
                break;
            }
            if at >= range.min {
                samples.push((at, value.to_bits()));
            }
        }
        Ok(samples)
    };
    let mut out = SampleBuffer::default();
    out.push_float(7, 7.0);
    let outcome = decode(chunk, range, &mut out).map(|()| {
        let values = out.values.iter().map(|value| value.to_bits());
        out.timestamps.iter().copied().zip(values).skip(1).collect::<Vec<_>>()
    });
    assert_eq!(outcome, one_by_one());
    assert_eq!(out.timestamps.len(), out.values.len());
}

/// Samples whose steps and values fall into every form of the encoding.
fn any_samples() -> impl Strategy<Value = Vec<(i64, u64)>> {
    let step = prop_oneof![Just(15_000i64), 1..20_000i64, 1..2_000_000i64, 1..1i64 << 40];
    let value = prop_oneof![
        Just(0u64),
        Just(model::sample::STALE_NAN_BITS),
        (0..1000u32).prop_map(|v| f64::from(v).to_bits()),
        any::<u64>(),
        (any::<u64>(), 0..64u32).prop_map(|(v, shift)| v << shift),
    ];
    (
        -(1i64 << 50)..1i64 << 50,
        proptest::collection::vec((step, value), 0..200),
    )
        .prop_map(|(start, steps)| {
            let mut at = start;
            let mut place = |(step, value): (i64, u64)| {
                at += step;
                (at, value)
            };
            steps.into_iter().map(&mut place).collect()
        })
}

#[test]
fn a_known_chunk_has_the_known_bytes() {
    // Count 3; varint 1000, 1.0; uvarint 15000, same value; same step, value 2.0 in a new window of 11 bits after 1 zero bit.
    let chunk = encode(&[
        (1000, 1f64.to_bits()),
        (16_000, 1f64.to_bits()),
        (31_000, 2f64.to_bits()),
    ]);
    let expected = [
        0,
        3,
        0xd0,
        0x0f,
        0x3f,
        0xf0,
        0,
        0,
        0,
        0,
        0,
        0,
        0x98,
        0x75,
        0b0011_0000,
        0b1001_0111,
        0b1111_1111,
        0b1100_0000,
    ];
    assert_eq!(chunk, expected);
}

proptest! {
    #[test]
    fn fast_and_slow_writers_agree_and_the_reader_gives_it_back(samples in any_samples()) {
        let chunk = encode(&samples);
        if !samples.is_empty() {
            prop_assert_eq!(&chunk, &encode_slowly(&samples));
            prop_assert_eq!(read_all(&chunk).unwrap(), samples);
        }
    }

    #[test]
    fn columns_are_what_is_read_one_by_one(samples in any_samples(), kept in 0..3u64, flip in any::<usize>(), cut in 0..40usize) {
        // Runs of equal values and distances as well as what differs from sample to sample.
        let mut previous = samples.first().copied().unwrap_or_default();
        let samples = samples.into_iter().enumerate().map(|(index, (at, value))| {
            let stays = index as u64 % 7 < 2 * kept;
            previous = if stays { (previous.0 + 15_000, previous.1) } else { (at.max(previous.0 + 1), value) };
            previous
        });
        let samples: Vec<_> = samples.collect();
        let chunk = encode(&samples);
        let range = TimeRange::new(samples.get(3).map_or(0, |s| s.0), samples.iter().rev().nth(2).map_or(0, |s| s.0));
        for range in [TimeRange::ALL, range] {
            same_as_one_by_one(&chunk, range);
            same_as_one_by_one(&chunk[..chunk.len().saturating_sub(cut)], range);
            let mut broken = chunk.clone();
            let bit = flip % (chunk.len() * 8).max(1);
            broken.get_mut(bit / 8).into_iter().for_each(|byte| *byte ^= 1 << (bit % 8));
            same_as_one_by_one(&broken, range);
            let longer = [chunk.clone(), vec![0xa5; cut * 8]].concat();
            same_as_one_by_one(&longer, range);
        }
    }

    #[test]
    fn an_appender_resumed_anywhere_goes_on_alike(samples in any_samples(), at in 0..200usize) {
        let cut = at.min(samples.len());
        let mut chunk = encode(&samples[..cut]);
        if cut > 0 {
            let mut appender = XorAppender::resume(&chunk).unwrap();
            // Old writers leave an empty byte behind a chunk that ends at a byte border.
            chunk.push(0);
            for &(at, value) in &samples[cut..] {
                appender.append(&mut chunk, at, f64::from_bits(value));
            }
            chunk.truncate(appender.len());
            prop_assert_eq!(chunk, encode(&samples));
        }
    }

    #[test]
    fn truncated_and_flipped_chunks_never_panic(samples in any_samples(), flip in any::<usize>()) {
        let chunk = encode(&samples);
        for end in 0..chunk.len() {
            let _ = read_all(&chunk[..end]);
        }
        if !chunk.is_empty() {
            let mut broken = chunk.clone();
            let bit = flip % (chunk.len() * 8);
            broken[bit / 8] ^= 1 << (bit % 8);
            let _ = read_all(&broken);
            let _ = XorAppender::resume(&broken);
        }
    }
}

#[test]
fn the_range_is_honoured_and_order_checked() {
    let chunk = encode(&[(10, 1), (20, 2), (30, 3), (40, 4)]);
    let mut out = SampleBuffer::default();
    decode(&chunk, TimeRange::new(20, 30), &mut out).unwrap();
    assert_eq!(out.timestamps, [20, 30]);
    let backwards = encode(&[(10, 1), (20, 2), (15, 3)]);
    assert_eq!(decode(&backwards, TimeRange::ALL, &mut out), Err(ChunkError::Order));
}
