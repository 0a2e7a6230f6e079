//! Reading float records, for replay: whole runs at a time, so that what comes out is hardly more than the values.

use super::{
    CODE_SMALL, CODE_SMALL_ZERO, CODE_STEP, FLAG_COLUMN, FLAG_JUMP, FLAG_TIME, VALUE_BYTES_MAX, XOR_BASE, as_integer,
    fold, mix,
};
use crate::codec::{Cursor, Damage};
use model::time::Timestamp;

/// Gives and takes the previous values of series while records are decoded.
pub(crate) trait Bases {
    /// Hands the previous value of series `number` in this segment, 0 when there is none, to `decode`; what comes back, and is given
    /// on, is its value from now on.
    fn replace(&mut self, number: u64, decode: impl FnOnce(u64) -> Result<u64, Damage>) -> Result<u64, Damage>;
}

/// Samples of consecutive series at one time, or of one series at several times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FloatRun {
    /// Number of the first series.
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// Timestamp of the first sample.
    pub(crate) at: Timestamp,
    /// Where the timestamps lie in [`FloatRuns::times`] when all samples are of one series.
    pub(crate) times: Option<u32>,
}

/// The samples of a record.
#[derive(Debug, Default)]
pub(crate) struct FloatRuns {
    pub(crate) runs: Vec<FloatRun>,
    /// Bits of the values of all runs, one behind the other.
    pub(crate) bits: Vec<u64>,
    pub(crate) times: Vec<Timestamp>,
}

/// A sample of its own.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FloatEntry {
    pub(crate) number: u64,
    pub(crate) at: Timestamp,
    pub(crate) bits: u64,
}

impl FloatRuns {
    fn clear(&mut self) {
        self.runs.clear();
        self.bits.clear();
        self.times.clear();
    }

    /// Sample by sample.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> impl Iterator<Item = FloatEntry> {
        let expand = |run: &FloatRun| {
            let (run, times) = (*run, &self.times);
            (0..u64::from(run.count)).map(move |index| match run.times {
                Some(from) => (run.first, times[from as usize + index as usize]),
                None => (run.first.wrapping_add(index), run.at),
            })
        };
        let places = self.runs.iter().flat_map(expand);
        places
            .zip(&self.bits)
            .map(|((number, at), &bits)| FloatEntry { number, at, bits })
    }
}

/// Decodes the payload of a float record into `out`, which is cleared. The answer tells whether the previous values were
/// those that the writer had; otherwise the samples are wrong and must be dropped.
pub(crate) fn decode(payload: &[u8], bases: &mut impl Bases, out: &mut FloatRuns) -> Result<bool, Damage> {
    out.clear();
    let (body, runs_len) = payload
        .split_last_chunk::<4>()
        .ok_or(Damage("a float record has no trailer"))?;
    let (check, body) = body
        .split_first_chunk::<4>()
        .ok_or(Damage("a float record has no check"))?;
    let runs_len = u32::from_le_bytes(*runs_len) as usize;
    let values_len = body
        .len()
        .checked_sub(runs_len)
        .ok_or(Damage("the runs of a float record reach too far"))?;
    let (values, runs) = body.split_at(values_len);
    let mut decoder = Decoder {
        values,
        check: 0,
        bases,
        out,
    };
    let mut runs = Cursor::new(runs);
    let (mut expected, mut last_at) = (0u64, 0i64);
    while !runs.is_empty() {
        let head = runs.uvarint()?;
        let (count, flags) = (head >> 3, head & 7);
        // Each value takes at least a byte.
        if count == 0 || count > decoder.values.len() as u64 {
            return Err(Damage("a run of a float record has more samples than there are values"));
        }
        let first = if flags & FLAG_JUMP == 0 {
            expected
        } else {
            expected.wrapping_add(runs.varint()? as u64)
        };
        let begin = if flags & FLAG_TIME == 0 {
            last_at
        } else {
            last_at.wrapping_add(runs.varint()?)
        };
        // A payload has less than 4 GiB, so a count that passed has 32 bits.
        if flags & FLAG_COLUMN == 0 {
            decoder.row(first, begin, count as u32)?;
            (expected, last_at) = (first.wrapping_add(count), begin);
        } else {
            last_at = decoder.column(first, begin, count as u32, &mut runs)?;
            expected = first.wrapping_add(1);
        }
    }
    if !decoder.values.is_empty() {
        return Err(Damage("a float record has values without a run"));
    }
    Ok(fold(decoder.check) == u32::from_le_bytes(*check))
}

struct Decoder<'a, B> {
    values: &'a [u8],
    check: u64,
    bases: &'a mut B,
    out: &'a mut FloatRuns,
}

impl<B: Bases> Decoder<'_, B> {
    fn row(&mut self, first: u64, at: Timestamp, count: u32) -> Result<(), Damage> {
        self.out.runs.push(FloatRun {
            first,
            count,
            at,
            times: None,
        });
        self.values((0..count).map(|index| first.wrapping_add(u64::from(index))))
    }

    fn column(
        &mut self,
        number: u64,
        begin: Timestamp,
        count: u32,
        runs: &mut Cursor<'_>,
    ) -> Result<Timestamp, Damage> {
        let from = self.out.times.len() as u32;
        self.out.runs.push(FloatRun {
            first: number,
            count,
            at: begin,
            times: Some(from),
        });
        let (mut at, mut step) = (begin, 0i64);
        for index in 0..count {
            if index > 0 {
                step = step.wrapping_add(runs.varint()?);
                at = at.wrapping_add(step);
            }
            self.out.times.push(at);
        }
        self.values((0..count).map(|_| number))?;
        Ok(at)
    }

    fn values(&mut self, numbers: impl ExactSizeIterator<Item = u64>) -> Result<(), Damage> {
        let Self {
            values,
            check,
            bases,
            out,
        } = self;
        // Kept in registers for the length of a run.
        let (mut rest, mut mixed) = (*values, *check);
        out.bits.reserve(numbers.len());
        for number in numbers {
            let bits = bases.replace(number, |base| {
                mixed = mix(mixed, base);
                read_value(&mut rest, base)
            })?;
            out.bits.push(bits);
        }
        (*values, *check) = (rest, mixed);
        Ok(())
    }
}

/// What a code says about the bytes behind it.
#[derive(Clone, Copy)]
struct Form {
    /// How many bytes follow.
    len: u8,
    /// How many zero bytes are behind the changed ones; [`STEP`] for a difference, [`UNKNOWN`] for no code.
    behind: u8,
}

const STEP: u8 = 0xff;
const UNKNOWN: u8 = 0xfe;

/// By code.
const FORMS: [Form; 256] = forms();

const fn forms() -> [Form; 256] {
    let mut forms = [Form {
        len: 0,
        behind: UNKNOWN,
    }; 256];
    // The same bits: nothing changed.
    forms[0].behind = 0;
    let mut front = 0;
    while front < 8 {
        let mut len = 1;
        while front + len <= 8 {
            forms[XOR_BASE[front] as usize + len - 1] = Form {
                len: len as u8,
                behind: (8 - front - len) as u8,
            };
            len += 1;
        }
        front += 1;
    }
    let mut len = 1;
    while len <= 4 {
        forms[CODE_STEP as usize + len - 1] = Form {
            len: len as u8,
            behind: STEP,
        };
        len += 1;
    }
    let mut code = CODE_SMALL as usize;
    while code < 256 {
        forms[code] = Form { len: 0, behind: STEP };
        code += 1;
    }
    forms
}

/// Reads one value that follows `base`.
#[inline(always)]
fn read_value(values: &mut &[u8], base: u64) -> Result<u64, Damage> {
    let (&code, rest) = values.split_first().ok_or(Damage("ends inside a value"))?;
    let form = FORMS[usize::from(code)];
    let len = usize::from(form.len);
    // Eight bytes are read whatever the length, and cut to it: cheaper than reading as many as there are.
    let word = match values.first_chunk::<VALUE_BYTES_MAX>() {
        Some([_, word @ ..]) => u64::from_le_bytes(*word),
        None => short_word(rest, len)?,
    };
    *values = rest.get(len..).ok_or(Damage("ends inside a value"))?;
    let word = word & MASKS[len & 15];
    match form.behind {
        STEP if len == 0 => add_step(base, i64::from(code) - CODE_SMALL_ZERO),
        STEP => {
            let spare = 64 - 8 * len as u32;
            add_step(base, (word << spare) as i64 >> spare)
        }
        UNKNOWN => Err(Damage("a value has an unknown code")),
        behind => Ok(base ^ word << (behind * 8)),
    }
}

/// The low bytes of a word, by their number.
const MASKS: [u64; 16] = {
    let mut masks = [u64::MAX; 16];
    let mut len = 0;
    while len < 8 {
        masks[len] = (1 << (8 * len)) - 1;
        len += 1;
    }
    masks
};

/// A word of `len` bytes, near the end of the payload.
#[cold]
fn short_word(rest: &[u8], len: usize) -> Result<u64, Damage> {
    let mut word = [0; 8];
    word[..len].copy_from_slice(rest.get(..len).ok_or(Damage("ends inside a value"))?);
    Ok(u64::from_le_bytes(word))
}

#[inline(always)]
fn add_step(base: u64, step: i64) -> Result<u64, Damage> {
    // With a wrong previous value the result is wrong as well, and the check over the record tells.
    let before = as_integer(base).unwrap_or_default();
    Ok(((before + step) as f64).to_bits())
}
