//! Whole XOR chunks into columns: what a query spends most of its time on.
//!
//! [`XorReader`] reads the first two samples, which have forms of their own. From there on the bits are taken by their position, eight
//! bytes at a time. A sample that begins well before the end cannot end behind it, so nothing is checked bit by bit; the last bytes
//! are copied to where zeros follow them, and each sample is checked once. A run of samples that keep their distance and their value,
//! two zero bits each, is found as a whole.

use super::{
    ChunkError,
    bits::from_asymmetric,
    xor_reader::{HEADER_BYTES, XorReader},
};
use model::{
    sample::SampleBuffer,
    time::{TimeRange, Timestamp},
};

/// Bits of the largest sample: a distance (4 + 64) and a value in a new window (13 + 64).
const SAMPLE_BITS_MAX: usize = 145;

/// Bytes behind the beginning of a sample that reading it may touch: the sample, and the eight bytes and one from where its last part
/// begins.
const MARGIN_BYTES: usize = SAMPLE_BITS_MAX / 8 + 1 + 9;

/// Bits that are sure to be in a window of eight bytes, whatever bit it begins at.
const WINDOW_BITS: u32 = 57;

/// Decodes the samples of a chunk that lie in `range`. Time must ascend.
pub(super) fn decode(chunk: &[u8], range: TimeRange, out: &mut SampleBuffer) -> Result<(), ChunkError> {
    let reader = XorReader::new(chunk)?;
    // A sample takes at least two bits, so a wrong count cannot ask for more memory than the data is worth.
    let expected = usize::from(reader.total).min(chunk.len() * 4);
    let before = out.timestamps.len();
    out.timestamps.resize(before + expected, 0);
    out.values.resize(before + expected, 0.0);
    let columns = Columns {
        timestamps: &mut out.timestamps[before..],
        values: &mut out.values[before..],
        taken: 0,
        range,
    };
    let outcome = decode_into(reader, &chunk[HEADER_BYTES..], columns);
    let taken = *outcome.as_ref().unwrap_or(&0);
    out.timestamps.truncate(before + taken);
    out.values.truncate(before + taken);
    if !out.starts.is_empty() {
        out.starts.resize(before + taken, 0);
    }
    outcome.map(drop)
}

/// Where samples go: room for all that the chunk can hold. Handed on by value, so that the loops have it in registers.
struct Columns<'a> {
    timestamps: &'a mut [Timestamp],
    values: &'a mut [f64],
    /// How many are in them.
    taken: usize,
    range: TimeRange,
}

impl Columns<'_> {
    /// Takes a sample when it lies in the range; whether those behind it may, too.
    #[inline(always)]
    fn take(&mut self, at: Timestamp, value: u64) -> bool {
        if at > self.range.max {
            return false;
        }
        // Written in any case and kept when it counts: a branch would be mispredicted at the edges.
        let (Some(timestamp), Some(place)) = (self.timestamps.get_mut(self.taken), self.values.get_mut(self.taken))
        else {
            return false;
        };
        (*timestamp, *place) = (at, f64::from_bits(value));
        self.taken += usize::from(at >= self.range.min);
        true
    }
}

/// Decodes into the columns; gives how many samples lay in the range.
fn decode_into(mut reader: XorReader<'_>, body: &[u8], mut columns: Columns<'_>) -> Result<usize, ChunkError> {
    let mut last = None;
    while let Some((at, value)) = reader.next()? {
        if last.is_some_and(|last| at <= last) {
            return Err(ChunkError::Order);
        }
        last = Some(at);
        if !columns.take(at, value.to_bits()) {
            return Ok(columns.taken);
        }
        if reader.read == 2 {
            return decode_rest(reader, body, columns);
        }
    }
    Ok(columns.taken)
}

/// Decodes the samples behind the first two.
fn decode_rest(reader: XorReader<'_>, body: &[u8], columns: Columns<'_>) -> Result<usize, ChunkError> {
    let bits = body.len() * 8;
    let state = State {
        position: bits - reader.bits.remaining(),
        left: reader.total - reader.read,
        at: reader.at,
        delta: reader.delta,
        value: reader.value,
        leading: reader.leading,
        significant: 64 - reader.leading - reader.trailing,
    };
    let end = bits.saturating_sub(MARGIN_BYTES * 8);
    let (mut state, columns, more) = decode_run::<false>(state, body, end, columns)?;
    // Bytes behind the last sample are nobody's business.
    if !more || state.left == 0 {
        return Ok(columns.taken);
    }
    let begin = state.position / 8;
    let mut padded = [0; 3 * MARGIN_BYTES];
    let rest = &body[begin..];
    padded[..rest.len()].copy_from_slice(rest);
    state.position -= begin * 8;
    let (_, columns, _) = decode_run::<true>(state, &padded, rest.len() * 8, columns)?;
    Ok(columns.taken)
}

/// Where decoding has come to. Handed on by value, as the columns are.
#[derive(Clone, Copy)]
struct State {
    /// The next bit.
    position: usize,
    /// How many samples are not read yet.
    left: u16,
    at: Timestamp,
    delta: u64,
    value: u64,
    /// Zero bits before those of a value that count, and how many count.
    leading: u32,
    significant: u32,
}

/// Decodes samples that begin before bit number `end`, or else, at the end of the data (`LAST`), all that are left: then none may go
/// beyond it. Tells whether more may lie in the range. There must be [`MARGIN_BYTES`] behind `end`.
#[inline(never)]
fn decode_run<'c, const LAST: bool>(
    mut state: State,
    body: &[u8],
    end: usize,
    mut columns: Columns<'c>,
) -> Result<(State, Columns<'c>, bool), ChunkError> {
    while state.left > 0 && (LAST || state.position < end) {
        let mut window = window(body, state.position);
        if window >> 62 == 0 {
            let mut same = window.leading_zeros().min(WINDOW_BITS) / 2;
            if LAST {
                same = same.min((end.saturating_sub(state.position) / 2) as u32);
                if same == 0 {
                    return Err(ChunkError::Truncated);
                }
            }
            let same = same.min(u32::from(state.left));
            for _ in 0..same {
                let before = state.at;
                state.at = before.wrapping_add(state.delta as i64);
                if state.at <= before {
                    return Err(ChunkError::Order);
                }
                if !columns.take(state.at, state.value) {
                    return Ok((state, columns, false));
                }
            }
            state.position += 2 * same as usize;
            state.left -= same as u16;
            continue;
        }
        if window >> 63 == 0 {
            (state.position, window) = (state.position + 1, window << 1);
        } else {
            let (bits, difference) = delta_of_delta(body, state.position, window);
            state.delta = state.delta.wrapping_add(difference as u64);
            state.position += bits;
            window = self::window(body, state.position);
        }
        if window >> 63 == 0 {
            state.position += 1;
        } else {
            state = changed_value::<LAST>(state, body, end, window)?;
        }
        if LAST && state.position > end {
            return Err(ChunkError::Truncated);
        }
        let before = state.at;
        state.at = before.wrapping_add(state.delta as i64);
        if state.at <= before {
            return Err(ChunkError::Order);
        }
        state.left -= 1;
        if !columns.take(state.at, state.value) {
            return Ok((state, columns, false));
        }
    }
    Ok((state, columns, true))
}

/// Reads a value that differs from the one before. `window` begins at the position, a bit of it may have gone to the distance.
#[inline(always)]
fn changed_value<const LAST: bool>(
    mut state: State,
    body: &[u8],
    end: usize,
    window: u64,
) -> Result<State, ChunkError> {
    // Whether there are new borders or the old ones serve, no processor can guess: numbers are chosen, not ways to go.
    let fresh = window >> 62 == 0b11;
    let leading = (window >> 57 & 31) as u32;
    // All 64 are written as zero.
    let significant = ((window >> 51 & 63) as u32).wrapping_sub(1) % 64 + 1;
    (state.leading, state.significant) = if fresh {
        (leading, significant)
    } else {
        (state.leading, state.significant)
    };
    let control = if fresh { 13 } else { 2 };
    state.position += control;
    if LAST && state.position > end {
        return Err(ChunkError::Truncated);
    }
    let Some(trailing) = 64u32.checked_sub(state.leading + state.significant) else {
        return Err(ChunkError::Malformed("a window of value bits is wider than a value"));
    };
    let xor = if state.significant + 13 < WINDOW_BITS {
        window << control
    } else {
        wide(body, state.position)
    };
    state.value ^= xor >> (64 - state.significant) << trailing;
    state.position += state.significant as usize;
    Ok(state)
}

/// At least [`WINDOW_BITS`] bits from `position` on, left-aligned, and zeros behind them.
#[inline(always)]
fn window(body: &[u8], position: usize) -> u64 {
    let word = body.get(position >> 3..).and_then(|rest| rest.first_chunk::<8>());
    u64::from_be_bytes(word.copied().unwrap_or_default()) << (position & 7)
}

/// 64 bits from `position` on.
#[inline(always)]
fn wide(body: &[u8], position: usize) -> u64 {
    let next = body.get((position >> 3) + 8).copied().unwrap_or(0);
    window(body, position) | (u64::from(next) << (position & 7) >> 8)
}

/// A distance that is not that of the sample before: how many bits it takes, and by how much it differs.
#[inline(never)]
fn delta_of_delta(body: &[u8], position: usize, window: u64) -> (usize, i64) {
    let (prefix, width) = match window.leading_ones() {
        1 => (2, 14),
        2 => (3, 17),
        3 => (4, 20),
        _ => return (4 + 64, wide(body, position + 4) as i64),
    };
    let difference = from_asymmetric((window << prefix) >> (64 - width), width);
    ((prefix + width) as usize, difference)
}
