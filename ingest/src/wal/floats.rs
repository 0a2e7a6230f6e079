//! Float records: the samples of one push, in about three bytes each.
//!
//! A steady scrape repeats itself: its series follow one another in number, share a timestamp, and differ little from the
//! values before. So numbers and timestamps are written as runs, and each value as what changed since the previous value of
//! its series in this segment. `WAL.md` draws the record. The writer is fed by the commit, sample by sample; the reader is
//! replay, which hands in the previous values as it has rebuilt them.

mod read;

pub(crate) use read::{Bases, FloatRun, FloatRuns, decode};

use crate::codec::{put_uvarint, put_varint};
use model::time::Timestamp;

/// The value did not change.
const CODE_SAME: u8 = 0;
/// Codes 37 to 40: both values are integers; their difference follows in 1 to 4 bytes.
const CODE_STEP: u8 = 37;
/// Codes from 64 on: both values are integers, and the code itself is the difference plus [`CODE_SMALL_ZERO`].
const CODE_SMALL: u8 = 64;
/// The code that would stand for a difference of 0. Counters mostly go up, so there is more room above it.
const CODE_SMALL_ZERO: i64 = 96;

/// Integers beyond are not all floats, so that differences of floats would not come back.
const INTEGER_MAX: i64 = 1 << 53;

/// Codes 1 to 36: changed bytes. The first code of those that have so many zero bytes in front of them; how many they are is added.
const XOR_BASE: [u8; 8] = [1, 9, 16, 22, 27, 31, 34, 36];

/// Bytes that one value takes at most: the code and eight bytes.
const VALUE_BYTES_MAX: usize = 9;

const FLAG_JUMP: u64 = 1;
const FLAG_TIME: u64 = 2;
const FLAG_COLUMN: u64 = 4;

/// Mixes the previous value of a sample into the check over a record. Who decodes with other previous values gets another result.
#[inline(always)]
fn mix(check: u64, base: u64) -> u64 {
    (check.rotate_left(23) ^ base).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn fold(check: u64) -> u32 {
    (check ^ check >> 32) as u32
}

/// Samples of consecutive series at one time, or of one series at several times: a column. The default is a run of nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// Number of the first series.
    first: u64,
    /// Number behind that of the last series.
    next: u64,
    /// Whether it goes on with the next series.
    is_open: bool,
    /// Samples of a column; 0 when it is none.
    column: u64,
    /// Timestamp of the first sample.
    begin: Timestamp,
    /// Timestamp and step of the last sample.
    at: Timestamp,
    step: i64,
}

impl Run {
    fn samples(&self) -> u64 {
        if self.column > 0 {
            self.column
        } else {
            self.next.wrapping_sub(self.first)
        }
    }
}

/// Memory that an encoder needs, kept from record to record.
#[derive(Debug, Default)]
pub(crate) struct FloatsScratch {
    runs: Vec<u8>,
    /// Times of the column that is being written, behind its first.
    times: Vec<u8>,
}

/// Writes one float record.
pub(crate) struct FloatsEncoder<'a> {
    out: &'a mut Vec<u8>,
    scratch: &'a mut FloatsScratch,
    /// Where the payload begins in `out`, and where the next value goes.
    begin: usize,
    position: usize,
    check: u64,
    run: Run,
    /// Number behind the last one of the previous run, and its last timestamp.
    expected: u64,
    last_at: Timestamp,
    /// Samples of finished runs.
    samples: u64,
}

impl<'a> FloatsEncoder<'a> {
    /// Begins a payload at the end of `out`.
    pub(crate) fn new(out: &'a mut Vec<u8>, scratch: &'a mut FloatsScratch) -> Self {
        let begin = out.len();
        out.resize(begin + 4, 0);
        scratch.runs.clear();
        scratch.times.clear();
        Self {
            position: begin + 4,
            begin,
            out,
            scratch,
            check: 0,
            run: Run::default(),
            expected: 0,
            last_at: 0,
            samples: 0,
        }
    }

    /// Number of samples so far.
    pub(crate) fn samples(&self) -> u64 {
        self.samples + self.run.samples()
    }

    /// Adds a sample. `base` are the bits of the series' previous value in this segment, 0 when this is the first.
    #[inline(always)]
    pub(crate) fn push(&mut self, number: u64, at: Timestamp, bits: u64, base: u64) {
        self.check = mix(self.check, base);
        // Nearly every sample is that of the next series at the same time, and nothing else is asked or noted of it.
        if number == self.run.next && at == self.run.at && self.run.is_open {
            self.run.next = number.wrapping_add(1);
        } else {
            self.begin_run(number, at);
        }
        self.put_value(bits, base);
    }

    /// A sample that does not simply go on: it begins a run, or makes the current one a column.
    fn begin_run(&mut self, number: u64, at: Timestamp) {
        let run = &mut self.run;
        if number == run.first && run.samples() > 0 && (run.column > 0 || run.samples() == 1) {
            let step = at.wrapping_sub(run.at);
            put_varint(&mut self.scratch.times, step.wrapping_sub(run.step));
            run.column = run.samples() + 1;
            run.is_open = false;
            run.step = step;
            run.at = at;
            return;
        }
        self.finish_run();
        self.run = Run {
            first: number,
            next: number.wrapping_add(1),
            is_open: true,
            column: 0,
            begin: at,
            at,
            step: 0,
        };
    }

    fn finish_run(&mut self) {
        let run = self.run;
        let samples = run.samples();
        if samples == 0 {
            return;
        }
        self.samples += samples;
        let (jump, time) = (
            run.first.wrapping_sub(self.expected) as i64,
            run.begin.wrapping_sub(self.last_at),
        );
        let flag = |set: bool, flag: u64| if set { flag } else { 0 };
        let flags = flag(jump != 0, FLAG_JUMP) | flag(time != 0, FLAG_TIME) | flag(run.column > 0, FLAG_COLUMN);
        let runs = &mut self.scratch.runs;
        put_uvarint(runs, samples << 3 | flags);
        if jump != 0 {
            put_varint(runs, jump);
        }
        if time != 0 {
            put_varint(runs, time);
        }
        runs.append(&mut self.scratch.times);
        self.expected = run.next;
        self.last_at = run.at;
    }

    #[inline(always)]
    fn put_value(&mut self, bits: u64, base: u64) {
        // Room is made in large steps: growing sample by sample would cost more than the sample. One look tells whether there is some.
        let place = match place_at(self.out, self.position) {
            Some(place) => place,
            None => {
                grow(self.out, self.position);
                place_at(self.out, self.position).expect("room was just made")
            }
        };
        let xor = bits ^ base;
        if xor == 0 {
            place[0] = CODE_SAME;
            self.position += 1;
            return;
        }
        let front = xor.leading_zeros() / 8;
        let behind = xor.trailing_zeros() / 8;
        let changed = 8 - front - behind;
        let (mut code, mut word, mut len) = (
            XOR_BASE[front as usize & 7] + changed as u8 - 1,
            xor >> (behind * 8),
            changed as usize,
        );
        if let (Some(now), Some(before)) = (as_integer(bits), as_integer(base)) {
            let step = now - before;
            let small = step + CODE_SMALL_ZERO;
            if (i64::from(CODE_SMALL)..256).contains(&small) {
                (code, word, len) = (small as u8, 0, 0);
            } else {
                let step_len = step_bytes(step);
                if step_len < len && step_len <= 4 {
                    (code, word, len) = (CODE_STEP + step_len as u8 - 1, step as u64, step_len);
                }
            }
        }
        // Nine bytes are written whatever the length: a store of a fixed width is cheaper than a copy of a variable one.
        place[0] = code;
        place[1..].copy_from_slice(&word.to_le_bytes());
        self.position += 1 + len;
    }

    /// Ends the payload.
    pub(crate) fn finish(mut self) {
        self.finish_run();
        self.out.truncate(self.position);
        self.out.extend_from_slice(&self.scratch.runs);
        self.out
            .extend_from_slice(&(self.scratch.runs.len() as u32).to_le_bytes());
        self.out[self.begin..self.begin + 4].copy_from_slice(&fold(self.check).to_le_bytes());
    }
}

/// Where a value goes; `None` when there is no room for the longest.
#[inline(always)]
fn place_at(out: &mut [u8], position: usize) -> Option<&mut [u8; VALUE_BYTES_MAX]> {
    out.get_mut(position..)?.first_chunk_mut()
}

#[cold]
fn grow(out: &mut Vec<u8>, position: usize) {
    out.resize(position + 512 * VALUE_BYTES_MAX, 0);
}

/// The integer that a float is, when its bits are those that the integer gives.
#[inline(always)]
fn as_integer(bits: u64) -> Option<i64> {
    let value = f64::from_bits(bits);
    let integer = value as i64;
    ((integer as f64).to_bits() == bits && (-INTEGER_MAX..=INTEGER_MAX).contains(&integer)).then_some(integer)
}

/// Bytes that a signed number needs.
#[inline(always)]
fn step_bytes(step: i64) -> usize {
    let spread = (step ^ (step >> 63)) as u64;
    // One bit more than the magnitude, for the sign.
    ((65 - spread.leading_zeros()) as usize).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::{read::FloatEntry, *};
    use crate::codec::Damage;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Default, Clone)]
    struct Table(HashMap<u64, u64>);

    impl Bases for Table {
        fn replace(&mut self, number: u64, decode: impl FnOnce(u64) -> Result<u64, Damage>) -> Result<u64, Damage> {
            let base = self.0.entry(number).or_default();
            *base = decode(*base)?;
            Ok(*base)
        }
    }

    fn encode(samples: &[FloatEntry], bases: &mut Table) -> Vec<u8> {
        let (mut out, mut scratch) = (Vec::new(), FloatsScratch::default());
        let mut encoder = FloatsEncoder::new(&mut out, &mut scratch);
        for sample in samples {
            let base = bases.0.insert(sample.number, sample.bits).unwrap_or_default();
            encoder.push(sample.number, sample.at, sample.bits, base);
        }
        encoder.finish();
        out
    }

    fn any_bits() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            (-1000i64..100_000).prop_map(|integer| (integer as f64).to_bits()),
            (any::<i64>(), 0..63u32).prop_map(|(integer, shift)| ((integer >> shift) as f64).to_bits()),
            (any::<u64>(), 0..64u32).prop_map(|(bits, shift)| bits << shift),
            Just(model::sample::STALE_NAN_BITS),
            Just((-0.0f64).to_bits()),
            Just(0),
        ]
    }

    fn any_samples() -> impl Strategy<Value = Vec<FloatEntry>> {
        let number = prop_oneof![0..20u64, 5_000_000..5_000_010u64, any::<u64>()];
        let at = prop_oneof![Just(1_700_000_000_000i64), 0..100_000i64, any::<i64>()];
        let runs = proptest::collection::vec(
            (number, at, proptest::collection::vec(any_bits(), 1..20), any::<bool>()),
            0..12,
        );
        runs.prop_map(|runs| {
            let expand = |(number, at, values, column): (u64, i64, Vec<u64>, bool)| {
                let place = move |(index, bits): (usize, u64)| match column {
                    true => FloatEntry {
                        number,
                        at: at.wrapping_add(index as i64 * 15_000),
                        bits,
                    },
                    false => FloatEntry {
                        number: number.wrapping_add(index as u64),
                        at,
                        bits,
                    },
                };
                values.into_iter().enumerate().map(place).collect::<Vec<_>>()
            };
            runs.into_iter().flat_map(expand).collect()
        })
    }

    proptest! {
        #[test]
        fn records_come_back_one_after_the_other(first in any_samples(), second in any_samples()) {
            let (mut written, mut read) = (Table::default(), Table::default());
            for samples in [first, second] {
                let payload = encode(&samples, &mut written);
                let mut out = FloatRuns::default();
                prop_assert_eq!(decode(&payload, &mut read, &mut out), Ok(true));
                prop_assert_eq!(out.entries().collect::<Vec<_>>(), samples);
            }
        }

        #[test]
        fn another_previous_value_is_noticed(samples in any_samples(), which in any::<prop::sample::Index>(), bits in 1..u64::MAX) {
            prop_assume!(!samples.is_empty());
            let payload = encode(&samples, &mut Table::default());
            let mut wrong = Table::default();
            wrong.0.insert(which.get(&samples).number, bits);
            prop_assert_ne!(decode(&payload, &mut wrong, &mut FloatRuns::default()), Ok(true));
        }

        #[test]
        fn damaged_payloads_never_panic(samples in any_samples(), place in any::<usize>(), error in 1..=255u8) {
            let mut payload = encode(&samples, &mut Table::default());
            for end in 0..payload.len() {
                let _ = decode(&payload[..end], &mut Table::default(), &mut FloatRuns::default());
            }
            let place = place % payload.len();
            payload[place] ^= error;
            let _ = decode(&payload, &mut Table::default(), &mut FloatRuns::default());
        }
    }

    #[test]
    fn steady_scrapes_take_little() {
        let mut bases = Table::default();
        let scrape = |time: i64| -> Vec<FloatEntry> {
            let value = |number: u64| {
                if number.is_multiple_of(3) {
                    1.0
                } else {
                    (time * number as i64 % 140) as f64 + 1e6
                }
            };
            (0..2000)
                .map(|number| FloatEntry {
                    number,
                    at: time * 15_000,
                    bits: value(number).to_bits(),
                })
                .collect()
        };
        encode(&scrape(1), &mut bases);
        let bytes = encode(&scrape(2), &mut bases).len();
        assert!(bytes < 2000 * 2, "{bytes} bytes for 2000 samples");
    }

    #[test]
    fn ten_samples_of_a_series_share_their_run() {
        let samples: Vec<_> = (0..10)
            .map(|index| FloatEntry {
                number: 9,
                at: 1_700_000_000_000 + index * 15_000,
                bits: 0,
            })
            .collect();
        let bytes = encode(&samples, &mut Table::default()).len();
        assert!(bytes < 45, "{bytes} bytes");
    }
}
