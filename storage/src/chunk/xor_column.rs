//! Whole XOR chunks into columns: what a query spends most of its time on.
//!
//! The bits are taken by their position, eight bytes at a time, from a page of fixed size that the chunk is copied to: there every place
//! that a position can name exists, and zeros stand behind the end. So next to nothing is checked on the way. A chunk in which something
//! is wrong, or so odd that it might be, goes sample by sample through [`XorReader`] instead, which says what it is. A run of samples that
//! keep their distance and their value, two zero bits each, is found as a whole.

use super::{
    ChunkError,
    bits::from_asymmetric,
    xor_reader::{HEADER_BYTES, XorReader},
};
use crate::cursor::Cursor;
use model::{
    sample::SampleBuffer,
    time::{TimeRange, Timestamp},
};

/// Bytes of a page; a power of two, so that a position becomes a place in it by cutting bits off. Most chunks fit into one.
const PAGE_BYTES: usize = 1024;

/// Bits of the largest sample: a distance (4 + 64) and a value in a new window (13 + 64).
const SAMPLE_BITS_MAX: usize = 145;

/// A sample that begins in front of this bit of a page does not reach beyond the page.
const PAGE_BITS: usize = PAGE_BYTES * 8 - SAMPLE_BITS_MAX;

/// Bits that are sure to be in a window of eight bytes, whatever bit it begins at.
const WINDOW_BITS: u32 = 57;

/// Distances and times within these bounds never add up to an overflow, so that times ascend as long as distances are positive.
const DELTA_BITS: u32 = 40;
const TIME_MAX: u64 = 1 << 62;

/// Bytes of a chunk, with some more so that nine of them can be taken anywhere.
type Page = [u8; PAGE_BYTES + 9];

/// Decodes the samples of a chunk that lie in `range`. Time must ascend.
pub(super) fn decode(chunk: &[u8], range: TimeRange, out: &mut SampleBuffer) -> Result<(), ChunkError> {
    let before = out.timestamps.len();
    if decode_plain(chunk, range, out).is_some() {
        return Ok(());
    }
    keep(out, before);
    let outcome = decode_slowly(chunk, range, out);
    if outcome.is_err() {
        keep(out, before);
    }
    outcome
}

/// Keeps the first floats, each with a start if any has one.
fn keep(out: &mut SampleBuffer, count: usize) {
    out.timestamps.truncate(count);
    out.values.truncate(count);
    if !out.starts.is_empty() {
        out.starts.resize(count, 0);
    }
}

/// The same sample by sample, for chunks that are odd or damaged.
#[cold]
fn decode_slowly(chunk: &[u8], range: TimeRange, out: &mut SampleBuffer) -> Result<(), ChunkError> {
    let (mut reader, mut last) = (XorReader::new(chunk)?, None);
    while let Some((at, value)) = reader.next()? {
        if last.is_some_and(|last| at <= last) {
            return Err(ChunkError::Order);
        }
        last = Some(at);
        if at > range.max {
            break;
        }
        if at >= range.min {
            out.push_float(at, value);
        }
    }
    Ok(())
}

/// Decodes a chunk as nearly all are; `None` when it is another.
fn decode_plain(chunk: &[u8], range: TimeRange, out: &mut SampleBuffer) -> Option<()> {
    let (count, body) = chunk.split_first_chunk::<HEADER_BYTES>()?;
    // A sample takes at least two bits, so a wrong count cannot ask for more memory than the data is worth.
    let count = usize::from(u16::from_be_bytes(*count)).min(body.len() * 4);
    if count < 2 {
        return None;
    }
    let mut cursor = Cursor::new(body);
    let state = State {
        at: cursor.varint()?,
        value: cursor.be64()?,
        delta: cursor.uvarint()?,
        position: 8 * (body.len() - cursor.remaining()),
        unused: 0,
        trailing: 0,
    };
    if state.at.unsigned_abs() > TIME_MAX || !state.is_plain() {
        return None;
    }
    let before = out.timestamps.len();
    out.timestamps.resize(before + count, 0);
    out.values.resize(before + count, 0.0);
    let columns = (&mut out.timestamps[before..], &mut out.values[before..]);
    let taken = decode_into(state, body, columns, range.max)?;
    keep(out, before + taken);
    // What is too old was decoded all the same: to know it costs more for each sample than for all of them.
    let old = out.timestamps[before..].partition_point(|&at| at < range.min);
    if old > 0 {
        out.timestamps.drain(before..before + old);
        out.values.drain(before..before + old);
        keep(out, before + taken - old);
    }
    Some(())
}

/// Where decoding has come to. Handed on by value, so that the loop has it in registers.
#[derive(Clone, Copy)]
struct State {
    /// The next bit of the page.
    position: usize,
    at: Timestamp,
    delta: u64,
    value: u64,
    /// How many bits of a value do not count, and how many of those stand behind the ones that do.
    unused: u32,
    trailing: u32,
}

impl State {
    /// Whether the distance is positive, and small enough for not being looked at again.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.delta.wrapping_sub(1) >> DELTA_BITS == 0
    }

    /// With a value whose bits that count are the first of `bits`.
    #[inline(always)]
    fn with_bits(mut self, bits: u64) -> Self {
        self.value ^= bits >> self.unused << self.trailing;
        self.position += 64 - self.unused as usize;
        self
    }
}

/// Places for timestamps and values.
type Columns<'c> = (&'c mut [Timestamp], &'c mut [f64]);

/// Decodes all samples that are not newer than `newest`, of which `state` knows the first one and its distance to the second; gives how
/// many there are.
fn decode_into(mut state: State, body: &[u8], (timestamps, values): Columns<'_>, newest: Timestamp) -> Option<usize> {
    if state.at > newest {
        return Some(0);
    }
    (timestamps[0], values[0]) = (state.at, f64::from_bits(state.value));
    let (mut taken, mut begin) = (1, 0);
    let mut page: Page = [0; PAGE_BYTES + 9];
    loop {
        // Positions count from where the page begins.
        begin += state.position / 8;
        state.position %= 8;
        let rest = body.get(begin..).unwrap_or(&[]);
        let copied = rest.len().min(PAGE_BYTES);
        page[..copied].copy_from_slice(&rest[..copied]);
        page[copied..].fill(0);
        if taken == 1 {
            // The distance of the second one is known.
            state = any_value(state, &page)?;
            state.at = state.at.wrapping_add(state.delta as i64);
            if state.at > newest {
                return (begin * 8 + state.position <= body.len() * 8).then_some(taken);
            }
            (timestamps[1], values[1]) = (state.at, f64::from_bits(state.value));
            taken = 2;
        }
        let places = (&mut timestamps[taken..], &mut values[taken..]);
        let (left, over);
        (state, left, over) = if copied == PAGE_BYTES {
            decode_page::<false>(state, &page, places, newest)?
        } else {
            decode_page::<true>(state, &page, places, newest)?
        };
        taken = timestamps.len() - left;
        // What came behind the end of the data was zeros, which look like samples.
        if begin * 8 + state.position > body.len() * 8 {
            return None;
        }
        if over || left == 0 {
            return Some(taken);
        }
    }
}

/// Decodes samples until all places are taken or one is newer than `newest`, or, unless this is the `LAST` page, the end of the page is
/// near. Gives how many places are left, and whether a sample was too new.
#[inline(never)]
fn decode_page<const LAST: bool>(
    mut state: State,
    page: &Page,
    (timestamps, values): Columns<'_>,
    newest: Timestamp,
) -> Option<(State, usize, bool)> {
    let mut places = timestamps.iter_mut().zip(values);
    while LAST || state.position < PAGE_BITS {
        let window = window(page, state.position);
        if window >> 62 == 0 {
            let same = window.leading_zeros().min(WINDOW_BITS) / 2;
            for (at, value) in places.by_ref().take(same as usize) {
                state.at = state.at.wrapping_add(state.delta as i64);
                state.position += 2;
                (*at, *value) = (state.at, f64::from_bits(state.value));
                if state.at > newest {
                    break;
                }
            }
            if state.at > newest {
                // The last place was not meant for it.
                return Some((state, places.len() + 1, true));
            }
            if places.len() == 0 {
                break;
            }
            continue;
        }
        let Some((at, value)) = places.next() else { break };
        if window >> 61 == 0b010 {
            // The same distance, and a value in the borders of the one before: most of what changes at all.
            let bits = if state.unused >= 64 + 3 - WINDOW_BITS {
                window << 3
            } else {
                wide(page, state.position + 3)
            };
            state.position += 3;
            state = state.with_bits(bits);
        } else {
            state = any_sample(state, page, window)?;
        }
        state.at = state.at.wrapping_add(state.delta as i64);
        if state.at > newest {
            return Some((state, places.len() + 1, true));
        }
        (*at, *value) = (state.at, f64::from_bits(state.value));
    }
    Some((state, places.len(), false))
}

/// Reads distance and value of a sample in whatever form; `None` when they are odd.
#[inline(never)]
fn any_sample(mut state: State, page: &Page, window: u64) -> Option<State> {
    if window >> 63 == 0 {
        state.position += 1;
    } else {
        let (bits, difference) = delta_of_delta(page, state.position, window);
        state.delta = state.delta.wrapping_add(difference as u64);
        state.position += bits;
        if !state.is_plain() {
            return None;
        }
    }
    any_value(state, page)
}

/// Reads a value in whatever form.
#[inline(always)]
fn any_value(mut state: State, page: &Page) -> Option<State> {
    let window = window(page, state.position);
    match window >> 62 {
        0b00 | 0b01 => {
            state.position += 1;
            return Some(state);
        }
        0b10 => state.position += 2,
        _ => {
            let leading = (window >> 57 & 31) as u32;
            // All 64 are written as zero.
            let significant = ((window >> 51 & 63) as u32).wrapping_sub(1) % 64 + 1;
            state.trailing = 64u32.checked_sub(leading + significant)?;
            state.unused = 64 - significant;
            state.position += 13;
        }
    }
    let bits = wide(page, state.position);
    Some(state.with_bits(bits))
}

/// At least [`WINDOW_BITS`] bits from `position` on, left-aligned, and zeros behind them.
#[inline(always)]
fn window(page: &Page, position: usize) -> u64 {
    let word = page[position / 8 % PAGE_BYTES..].first_chunk::<8>();
    u64::from_be_bytes(word.copied().unwrap_or_default()) << (position % 8)
}

/// 64 bits from `position` on.
#[inline(always)]
fn wide(page: &Page, position: usize) -> u64 {
    let next = page[position / 8 % PAGE_BYTES + 8];
    window(page, position) | (u64::from(next) << (position % 8) >> 8)
}

/// A distance that is not that of the sample before: how many bits it takes, and by how much it differs.
#[inline(always)]
fn delta_of_delta(page: &Page, position: usize, window: u64) -> (usize, i64) {
    let (prefix, width) = match window.leading_ones() {
        1 => (2, 14),
        2 => (3, 17),
        3 => (4, 20),
        _ => return (4 + 64, wide(page, position + 4) as i64),
    };
    let difference = from_asymmetric((window << prefix) >> (64 - width), width);
    ((prefix + width) as usize, difference)
}
