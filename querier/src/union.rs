//! One series out of several sources: the exact union of their samples.
//!
//! Called by the merge when more than one source has a series. It promises that every timestamp of every source is in the
//! answer, none twice, and that no value is invented: replicas that hold equal samples fold into one, gaps of one are filled by
//! the others. At a shared timestamp the first source wins, except that a value beats a stale marker.

use model::{
    sample::{HistogramSample, SampleBuffer, is_stale},
    select::{Chunk, Samples, SelectError},
    time::{TimeRange, Timestamp},
};
use std::cell::RefCell;

/// Samples of the same labels from several sources, in the order of preference.
pub struct UnionSamples {
    parts: Vec<Box<dyn Samples>>,
}

impl UnionSamples {
    /// Joins `parts`; a lone part is handed back as it is.
    pub fn join(mut parts: Vec<Box<dyn Samples>>) -> Box<dyn Samples> {
        match parts.pop() {
            Some(lone) if parts.is_empty() => lone,
            Some(last) => {
                parts.push(last);
                Box::new(Self { parts })
            }
            None => Box::new(Self { parts }),
        }
    }
}

impl Samples for UnionSamples {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        let Some((first, rest)) = self.parts.split_first() else {
            return Ok(());
        };
        // The buffer may hold samples of the caller already; only what lies behind this mark is ours.
        let mark = Mark {
            floats: buffer.timestamps.len(),
            histograms: buffer.histograms.len(),
        };
        first.read(range, buffer)?;
        let mut theirs = take_scratch();
        for part in rest {
            theirs.clear();
            part.read(range, &mut theirs)?;
            fold(buffer, mark, &theirs);
        }
        give_scratch(theirs);
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        let mut chunks = Vec::new();
        for part in &self.parts {
            chunks.extend(part.chunks()?);
        }
        // Stable, so that equal starts keep the order of preference; replicas often hold the very same chunk.
        chunks.sort_by_key(|chunk| (chunk.min_time, chunk.max_time));
        chunks.dedup();
        Ok(chunks)
    }

    fn held_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.held_bytes()).sum()
    }
}

/// Where the samples of this series begin in a shared buffer.
#[derive(Clone, Copy)]
struct Mark {
    floats: usize,
    histograms: usize,
}

/// Folds `theirs` into what `buffer` holds behind `mark`.
fn fold(buffer: &mut SampleBuffer, mark: Mark, theirs: &SampleBuffer) {
    let Some((theirs_first, theirs_last)) = ends(
        theirs,
        Mark {
            floats: 0,
            histograms: 0,
        },
    ) else {
        return;
    };
    match ends(buffer, mark) {
        None => Cursor::new(theirs).append_to(buffer),
        Some((_, last)) if last < theirs_first => Cursor::new(theirs).append_to(buffer),
        Some(_) if same_times(buffer, mark, theirs) => fill_stale(buffer, mark, theirs),
        Some((first, _)) => {
            let mut ours = take_scratch();
            split_off(buffer, mark, &mut ours);
            if theirs_last < first {
                Cursor::new(theirs).append_to(buffer);
                Cursor::new(&ours).append_to(buffer);
            } else {
                interleave(buffer, &ours, theirs);
            }
            give_scratch(ours);
        }
    }
}

/// First and last timestamp behind the mark.
fn ends(buffer: &SampleBuffer, mark: Mark) -> Option<(Timestamp, Timestamp)> {
    let floats = &buffer.timestamps[mark.floats..];
    let histograms = &buffer.histograms[mark.histograms..];
    let floats = floats.first().copied().zip(floats.last().copied());
    let histograms = histograms.first().map(|h| h.at).zip(histograms.last().map(|h| h.at));
    match (floats, histograms) {
        (Some(f), Some(h)) => Some((f.0.min(h.0), f.1.max(h.1))),
        (one, other) => one.or(other),
    }
}

/// Whether both hold samples of the same kinds at the same times: the rule among healthy replicas.
fn same_times(buffer: &SampleBuffer, mark: Mark, theirs: &SampleBuffer) -> bool {
    let histograms = &buffer.histograms[mark.histograms..];
    buffer.timestamps[mark.floats..] == theirs.timestamps
        && histograms.len() == theirs.histograms.len()
        && histograms
            .iter()
            .zip(&theirs.histograms)
            .all(|(our, their)| our.at == their.at)
}

/// Both have the same times: only stale markers can give way.
fn fill_stale(buffer: &mut SampleBuffer, mark: Mark, theirs: &SampleBuffer) {
    for (index, &value) in theirs.values.iter().enumerate() {
        let our_index = mark.floats + index;
        if is_stale(buffer.values[our_index]) && !is_stale(value) {
            buffer.values[our_index] = value;
            let start = theirs.starts.get(index).copied().unwrap_or(0);
            if start != 0 && buffer.starts.is_empty() {
                buffer.starts.resize(buffer.timestamps.len(), 0);
            }
            if let Some(our_start) = buffer.starts.get_mut(our_index) {
                *our_start = start;
            }
        }
    }
    for (our, their) in buffer.histograms[mark.histograms..].iter_mut().zip(&theirs.histograms) {
        if is_stale(our.histogram.sum) && !is_stale(their.histogram.sum) {
            *our = their.clone();
        }
    }
}

/// Moves what lies behind the mark to `tail`, which is empty.
fn split_off(buffer: &mut SampleBuffer, mark: Mark, tail: &mut SampleBuffer) {
    tail.timestamps.extend_from_slice(&buffer.timestamps[mark.floats..]);
    tail.values.extend_from_slice(&buffer.values[mark.floats..]);
    if !buffer.starts.is_empty() {
        tail.starts.extend_from_slice(&buffer.starts[mark.floats..]);
        buffer.starts.truncate(mark.floats);
    }
    tail.histograms.extend(buffer.histograms.drain(mark.histograms..));
    buffer.timestamps.truncate(mark.floats);
    buffer.values.truncate(mark.floats);
}

/// Appends the two in the order of time; `ours` is preferred.
fn interleave(buffer: &mut SampleBuffer, ours: &SampleBuffer, theirs: &SampleBuffer) {
    let plain = |samples: &SampleBuffer| samples.histograms.is_empty() && samples.starts.is_empty();
    if plain(ours) && plain(theirs) && buffer.starts.is_empty() {
        interleave_floats(buffer, ours, theirs);
    } else {
        interleave_all(buffer, ours, theirs);
    }
}

/// The usual case: floats without start timestamps.
fn interleave_floats(buffer: &mut SampleBuffer, ours: &SampleBuffer, theirs: &SampleBuffer) {
    let most = ours.timestamps.len() + theirs.timestamps.len();
    buffer.timestamps.reserve(most);
    buffer.values.reserve(most);
    let mut our = ours
        .timestamps
        .iter()
        .copied()
        .zip(ours.values.iter().copied())
        .peekable();
    let mut their = theirs
        .timestamps
        .iter()
        .copied()
        .zip(theirs.values.iter().copied())
        .peekable();
    while let (Some(&(our_time, our_value)), Some(&(their_time, their_value))) = (our.peek(), their.peek()) {
        let theirs_counts = their_time < our_time || (their_time == our_time && is_stale(our_value));
        buffer.timestamps.push(our_time.min(their_time));
        buffer.values.push(if theirs_counts { their_value } else { our_value });
        if our_time <= their_time {
            our.next();
        }
        if their_time <= our_time {
            their.next();
        }
    }
    for (at, value) in our.chain(their) {
        buffer.timestamps.push(at);
        buffer.values.push(value);
    }
}

/// Floats and histograms, with or without start timestamps.
fn interleave_all(buffer: &mut SampleBuffer, ours: &SampleBuffer, theirs: &SampleBuffer) {
    let mut ours = Cursor::new(ours);
    let mut theirs = Cursor::new(theirs);
    while let (Some(our_time), Some(their_time)) = (ours.time(), theirs.time()) {
        if our_time < their_time {
            ours.take(buffer);
        } else if their_time < our_time {
            theirs.take(buffer);
        } else if ours.is_stale() && !theirs.is_stale() {
            ours.skip();
            theirs.take(buffer);
        } else {
            ours.take(buffer);
            theirs.skip();
        }
    }
    ours.append_to(buffer);
    theirs.append_to(buffer);
}

fn push_float(buffer: &mut SampleBuffer, samples: &SampleBuffer, index: usize) {
    let start = samples.starts.get(index).copied().unwrap_or(0);
    buffer.push_float_started(samples.timestamps[index], samples.values[index], start);
}

/// Walks the two columns of a buffer in the order of time.
pub(crate) struct Cursor<'a> {
    samples: &'a SampleBuffer,
    float: usize,
    histogram: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(samples: &'a SampleBuffer) -> Self {
        Self {
            samples,
            float: 0,
            histogram: 0,
        }
    }

    fn head(&self) -> (Option<Timestamp>, Option<&'a HistogramSample>) {
        (
            self.samples.timestamps.get(self.float).copied(),
            self.samples.histograms.get(self.histogram),
        )
    }

    pub(crate) fn time(&self) -> Option<Timestamp> {
        match self.head() {
            (Some(float), Some(histogram)) => Some(float.min(histogram.at)),
            (Some(float), None) => Some(float),
            (None, histogram) => histogram.map(|h| h.at),
        }
    }

    fn at_float(&self) -> bool {
        match self.head() {
            (Some(float), Some(histogram)) => float <= histogram.at,
            (float, _) => float.is_some(),
        }
    }

    pub(crate) fn is_stale(&self) -> bool {
        if self.at_float() {
            is_stale(self.samples.values[self.float])
        } else {
            self.samples
                .histograms
                .get(self.histogram)
                .is_some_and(|h| is_stale(h.histogram.sum))
        }
    }

    /// The value, of a histogram its count; what never falls in a counter.
    pub(crate) fn size(&self) -> Option<f64> {
        if self.at_float() {
            self.samples.values.get(self.float).copied()
        } else {
            let histogram = self.samples.histograms.get(self.histogram);
            histogram.map(|sample| sample.histogram.count)
        }
    }

    pub(crate) fn skip(&mut self) {
        if self.at_float() {
            self.float += 1
        } else {
            self.histogram += 1
        }
    }

    /// Appends all that is left.
    pub(crate) fn append_to(self, buffer: &mut SampleBuffer) {
        let Cursor {
            samples,
            float,
            histogram,
        } = self;
        if buffer.starts.is_empty() && samples.starts.is_empty() {
            buffer.timestamps.extend_from_slice(&samples.timestamps[float..]);
            buffer.values.extend_from_slice(&samples.values[float..]);
        } else {
            for index in float..samples.timestamps.len() {
                push_float(buffer, samples, index);
            }
        }
        buffer.histograms.extend_from_slice(&samples.histograms[histogram..]);
    }

    pub(crate) fn take(&mut self, buffer: &mut SampleBuffer) {
        if self.at_float() {
            push_float(buffer, self.samples, self.float);
        } else if let Some(histogram) = self.samples.histograms.get(self.histogram) {
            buffer.histograms.push(histogram.clone());
        }
        self.skip();
    }
}

/// A scratch buffer that grew beyond so many samples is not kept (a month at 15 s has 172,800).
const SCRATCH_SAMPLES_MAX: usize = 1 << 16;

/// Scratch buffers that a thread keeps: the deepest nesting in use is a fan-out inside a fan-out.
const SCRATCH_BUFFERS_MAX: usize = 4;

thread_local! {
    /// A query reads thousands of series on few threads; without this each read would allocate anew.
    static SCRATCH: RefCell<Vec<SampleBuffer>> = const { RefCell::new(Vec::new()) };
}

fn take_scratch() -> SampleBuffer {
    SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default()
}

fn give_scratch(mut buffer: SampleBuffer) {
    buffer.clear();
    SCRATCH.with_borrow_mut(|kept| {
        if kept.len() < SCRATCH_BUFFERS_MAX && buffer.timestamps.capacity() <= SCRATCH_SAMPLES_MAX {
            kept.push(buffer);
        }
    });
}
