//! Late samples: older than the newest of their series, inside its out-of-order window.
//!
//! They stay away from the hot state of their series, so that in-order appends pay nothing for them. Of each series that has some, the
//! latest few wait in a small sorted buffer; a full buffer is packed into chunks, which may overlap one another and those of the
//! samples that came in order. Readers merge them, and so does the cut. A late sample is always older than the newest of its series,
//! and never has a timestamp that the series knew before.

use super::{
    delete::delete_from,
    sealed::{ChunkInfo, Sealed, SealedChunks},
};
use model::{
    histogram::Histogram,
    sample::{HistogramSample, SampleBuffer},
    select::Chunk,
    time::{TimeRange, Timestamp, block_start},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use storage::{
    block::SummedChunk,
    chunk::{self, ChunkError},
};

/// Samples that a buffer holds before it is packed. Prometheus's number: small enough to insert into the middle, large enough to pack.
pub(crate) const OPEN_SAMPLES_MAX: usize = 32;

/// The value of a late sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LateValue {
    /// Bits of a float.
    Float(u64),
    Histogram(Arc<Histogram>),
}

/// A sample in a buffer.
#[derive(Debug, Clone)]
struct LateSample {
    at: Timestamp,
    value: LateValue,
}

impl LateSample {
    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let beside = match &self.value {
            LateValue::Float(_) => 0,
            LateValue::Histogram(histogram) => {
                let buckets = histogram.positive_buckets.len() + histogram.negative_buckets.len();
                let spans = histogram.positive_spans.len() + histogram.negative_spans.len();
                size_of::<Histogram>() + 8 * (buckets + spans + histogram.custom_values.len())
            }
        };
        size_of::<Self>() + beside
    }
}

/// The late samples of one series.
#[derive(Debug, Default)]
struct LateSeries {
    /// Ascending by time, no timestamp twice.
    open: Vec<LateSample>,
    /// Packed ones, in the order in which they were packed; each within one two-hour window.
    sealed: Vec<Sealed>,
}

impl LateSeries {
    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let open: usize = self.open.iter().map(LateSample::bytes).sum();
        open + self.sealed.iter().map(packed_bytes).sum::<usize>()
    }
}

/// The late samples of a shard, by place.
#[derive(Debug, Default)]
pub(crate) struct LateSamples {
    series: HashMap<usize, LateSeries>,
    /// Bytes of the late samples of all shards.
    total: Arc<AtomicUsize>,
}

impl LateSamples {
    /// No samples yet; their memory will be counted in `total`.
    pub(crate) fn counted(total: Arc<AtomicUsize>) -> Self {
        Self {
            series: HashMap::new(),
            total,
        }
    }

    /// Adds a sample at a time at which the series has none.
    pub(crate) fn insert(&mut self, place: usize, at: Timestamp, value: LateValue, chunks: &mut SealedChunks) {
        let series = self.series.entry(place).or_default();
        let sample = LateSample { at, value };
        self.total.fetch_add(sample.bytes(), Ordering::Relaxed);
        let position = series.open.partition_point(|held| held.at < at);
        series.open.insert(position, sample);
        if series.open.len() >= OPEN_SAMPLES_MAX {
            let full = std::mem::take(&mut series.open);
            pack(series, &full, chunks, &self.total);
        }
    }

    /// Adds samples that were packed before.
    pub(crate) fn add_packed(&mut self, place: usize, info: ChunkInfo, data: &[u8], chunks: &mut SealedChunks) {
        let sealed = chunks.add(info, |out| out.extend_from_slice(data));
        self.total.fetch_add(packed_bytes(&sealed), Ordering::Relaxed);
        self.series.entry(place).or_default().sealed.push(sealed);
    }

    /// The value of a series at a point in time.
    pub(crate) fn lookup(&self, place: usize, at: Timestamp, chunks: &SealedChunks) -> Option<LateValue> {
        let series = self.series.get(&place)?;
        if let Ok(position) = series.open.binary_search_by_key(&at, |sample| sample.at) {
            return Some(series.open[position].value.clone());
        }
        let reaches = |sealed: &&Sealed| sealed.min_time <= at && at <= sealed.max_time();
        series
            .sealed
            .iter()
            .filter(reaches)
            .find_map(|sealed| value_in(sealed.encoding, chunks.view(sealed), at))
    }

    /// Whether the series has chunks or samples that reach into `range`.
    pub(crate) fn has_samples(&self, place: usize, range: TimeRange) -> bool {
        self.series.get(&place).is_some_and(|series| {
            let packed = |sealed: &Sealed| range.overlaps(TimeRange::new(sealed.min_time, sealed.max_time()));
            series.open.iter().any(|sample| range.contains(sample.at)) || series.sealed.iter().any(packed)
        })
    }

    /// Whether the series has any.
    pub(crate) fn has_any(&self, place: usize) -> bool {
        self.series.contains_key(&place)
    }

    /// Places of the series that have some, ascending.
    pub(crate) fn places(&self) -> Vec<usize> {
        let mut places: Vec<usize> = self.series.keys().copied().collect();
        places.sort_unstable();
        places
    }

    /// Number of chunks and the span of all late samples of a series.
    pub(crate) fn extent(&self, place: usize) -> Option<(u64, TimeRange)> {
        let series = self.series.get(&place)?;
        let open = series.open.iter().map(|sample| TimeRange::new(sample.at, sample.at));
        let sealed = series
            .sealed
            .iter()
            .map(|sealed| TimeRange::new(sealed.min_time, sealed.max_time()));
        let span = open
            .chain(sealed)
            .reduce(|a, b| TimeRange::new(a.min.min(b.min), a.max.max(b.max)))?;
        Some((series.sealed.len() as u64 + u64::from(!series.open.is_empty()), span))
    }

    /// Appends the chunks of a series that reach into `range`, in no order; they may overlap. With `skip`, those in one of these blocks
    /// are left out.
    pub(crate) fn copy_chunks(
        &self,
        place: usize,
        range: TimeRange,
        skip: &HashSet<u32>,
        chunks: &SealedChunks,
        out: &mut Vec<Chunk>,
    ) {
        let Some(series) = self.series.get(&place) else { return };
        let reaches = |sealed: &&Sealed| {
            range.overlaps(TimeRange::new(sealed.min_time, sealed.max_time()))
                && (sealed.block == 0 || !skip.contains(&sealed.block))
        };
        out.extend(series.sealed.iter().filter(reaches).map(|sealed| sealed.chunk(chunks)));
        let begin = series.open.partition_point(|sample| sample.at < range.min);
        let end = series.open.partition_point(|sample| sample.at <= range.max);
        out.extend(windows(&series.open[begin..end.max(begin)]).flat_map(encode));
    }

    /// Marks what is in the window `[begin, end)` and in no block yet as belonging to `block`, packing it first. Gives its span.
    pub(crate) fn mark_window(
        &mut self,
        place: usize,
        (begin, end): (Timestamp, Timestamp),
        block: u32,
        chunks: &mut SealedChunks,
    ) -> Option<TimeRange> {
        let series = self.series.get_mut(&place)?;
        let from = series.open.partition_point(|sample| sample.at < begin);
        let to = series.open.partition_point(|sample| sample.at < end);
        let inside: Vec<LateSample> = series.open.drain(from..to).collect();
        pack(series, &inside, chunks, &self.total);
        let mut span: Option<TimeRange> = None;
        let is_inside = |sealed: &&mut Sealed| sealed.block == 0 && sealed.min_time >= begin && sealed.min_time < end;
        for sealed in series.sealed.iter_mut().filter(is_inside) {
            sealed.block = block;
            let (min, max) = (sealed.min_time, sealed.max_time());
            let wide = span.unwrap_or(TimeRange::new(min, max));
            span = Some(TimeRange::new(wide.min.min(min), wide.max.max(max)));
        }
        span
    }

    /// Appends the chunks of a series that belong to `block`.
    pub(crate) fn marked_chunks(&self, place: usize, block: u32, chunks: &SealedChunks, out: &mut Vec<SummedChunk>) {
        let Some(series) = self.series.get(&place) else { return };
        let marked = series.sealed.iter().filter(|sealed| sealed.block == block);
        out.extend(marked.map(|sealed| sealed.summed(chunks)));
    }

    /// Takes back the marks of a block, in one series or in all.
    pub(crate) fn unmark(&mut self, place: Option<usize>, block: u32) {
        let series = self
            .series
            .iter_mut()
            .filter(|(at, _)| place.is_none_or(|place| place == **at));
        series
            .flat_map(|(_, series)| &mut series.sealed)
            .filter(|sealed| sealed.block == block)
            .for_each(|sealed| sealed.block = 0);
    }

    /// Forgets the chunks that are in one of `blocks`.
    pub(crate) fn forget(&mut self, blocks: &HashSet<u32>, chunks: &mut SealedChunks) {
        let total = &self.total;
        self.series.retain(|_, series| {
            series.sealed.retain(|sealed| {
                let gone = blocks.contains(&sealed.block);
                if gone {
                    chunks.remove(sealed);
                    total.fetch_sub(packed_bytes(sealed), Ordering::Relaxed);
                }
                !gone
            });
            !series.sealed.is_empty() || !series.open.is_empty()
        });
        self.series.shrink_to_fit();
    }

    /// Forgets everything of a series.
    pub(crate) fn remove(&mut self, place: usize, chunks: &mut SealedChunks) {
        let Some(series) = self.series.remove(&place) else {
            return;
        };
        series.sealed.iter().for_each(|sealed| chunks.remove(sealed));
        self.total.fetch_sub(series.bytes(), Ordering::Relaxed);
    }

    /// Removes the samples of a series that lie in `range`; tells whether there were any.
    pub(super) fn delete(&mut self, place: usize, range: TimeRange, chunks: &mut SealedChunks) -> bool {
        let Some(series) = self.series.get_mut(&place) else {
            return false;
        };
        let count = series.open.len();
        let before = series.bytes();
        series.open.retain(|sample| !range.contains(sample.at));
        let any = series.open.len() < count;
        let any = delete_from(&mut series.sealed, range, chunks) || any;
        self.total.fetch_sub(before, Ordering::Relaxed);
        self.total.fetch_add(series.bytes(), Ordering::Relaxed);
        if series.open.is_empty() && series.sealed.is_empty() {
            self.series.remove(&place);
        }
        any
    }

    /// All late samples of a series that are in no block, and its chunks that are in one; for who replaces them.
    pub(crate) fn read(&self, place: usize, chunks: &SealedChunks) -> Result<SampleBuffer, ChunkError> {
        let mut all = Vec::new();
        self.copy_chunks(place, TimeRange::ALL, &HashSet::new(), chunks, &mut all);
        merged(&mut all)
    }

    /// Puts samples in the place of everything that a series has.
    pub(crate) fn replace(&mut self, place: usize, samples: &SampleBuffer, chunks: &mut SealedChunks) {
        self.remove(place, chunks);
        for (&at, value) in samples.timestamps.iter().zip(&samples.values) {
            self.insert(place, at, LateValue::Float(value.to_bits()), chunks);
        }
        for sample in &samples.histograms {
            self.insert(
                place,
                sample.at,
                LateValue::Histogram(Arc::clone(&sample.histogram)),
                chunks,
            );
        }
    }
}

/// The samples of chunks of one series that may overlap. One that cannot be read is an error: what takes the place of all must not
/// lack some.
pub(crate) fn merged(chunks: &mut [Chunk]) -> Result<SampleBuffer, ChunkError> {
    chunks.sort_by_key(|chunk| chunk.min_time);
    let (mut joined, mut part) = (SampleBuffer::default(), SampleBuffer::default());
    for chunk in chunks {
        part.clear();
        chunk::decode(chunk.encoding, &chunk.data, TimeRange::ALL, &mut part)?;
        chunk::merge_samples(&part, &mut joined);
    }
    Ok(joined)
}

/// Packs samples, ascending by time, into chunks that lie within two-hour windows.
fn pack(series: &mut LateSeries, samples: &[LateSample], chunks: &mut SealedChunks, total: &AtomicUsize) {
    for window in windows(samples) {
        for packed in encode(window) {
            let info = ChunkInfo {
                min_time: packed.min_time,
                max_time: packed.max_time,
                samples: chunk::sample_count(packed.encoding, &packed.data).unwrap_or_default(),
                encoding: packed.encoding,
            };
            let sealed = chunks.add(info, |out| out.extend_from_slice(&packed.data));
            total.fetch_add(packed_bytes(&sealed), Ordering::Relaxed);
            series.sealed.push(sealed);
        }
    }
    total.fetch_sub(samples.iter().map(LateSample::bytes).sum(), Ordering::Relaxed);
}

/// Splits samples where a two-hour window ends: no chunk reaches from one into the next.
fn windows(samples: &[LateSample]) -> impl Iterator<Item = &[LateSample]> {
    samples.chunk_by(|a, b| block_start(a.at) == block_start(b.at))
}

fn encode(samples: &[LateSample]) -> Vec<Chunk> {
    let mut buffer = SampleBuffer::default();
    for LateSample { at, value } in samples {
        match value {
            LateValue::Float(bits) => buffer.push_float(*at, f64::from_bits(*bits)),
            LateValue::Histogram(histogram) => buffer.histograms.push(HistogramSample {
                at: *at,
                start: 0,
                histogram: Arc::clone(histogram),
            }),
        }
    }
    chunk::encode_samples(&buffer)
}

fn value_in(encoding: u8, data: &[u8], at: Timestamp) -> Option<LateValue> {
    let mut buffer = SampleBuffer::default();
    // A chunk that cannot be read holds nothing.
    let _ = chunk::decode(encoding, data, TimeRange::new(at, at), &mut buffer);
    let float = buffer.values.first().map(|value| LateValue::Float(value.to_bits()));
    float.or(buffer
        .histograms
        .pop()
        .map(|sample| LateValue::Histogram(sample.histogram)))
}

fn packed_bytes(sealed: &Sealed) -> usize {
    size_of::<Sealed>() + sealed.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::time::BLOCK_RANGE_MS;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn floats(late: &LateSamples, chunks: &SealedChunks, range: TimeRange) -> BTreeMap<i64, u64> {
        let mut all = Vec::new();
        late.copy_chunks(3, range, &HashSet::new(), chunks, &mut all);
        let read = merged(&mut all).unwrap();
        let pairs = read
            .timestamps
            .iter()
            .zip(&read.values)
            .map(|(&at, value)| (at, value.to_bits()));
        pairs.filter(|(at, _)| range.contains(*at)).collect()
    }

    proptest! {
        #[test]
        fn samples_are_found_cut_and_forgotten(times in proptest::collection::hash_set(-20i64..400, 1..200)) {
            let total = Arc::new(AtomicUsize::new(0));
            let (mut late, mut chunks) = (LateSamples::counted(total.clone()), SealedChunks::default());
            let mut expected = BTreeMap::new();
            for at in times {
                let at = at * 60_000;
                prop_assert_eq!(late.lookup(3, at, &chunks), None);
                late.insert(3, at, LateValue::Float(at as u64), &mut chunks);
                expected.insert(at, at as u64);
            }
            for &at in expected.keys() {
                prop_assert_eq!(late.lookup(3, at, &chunks), Some(LateValue::Float(at as u64)));
            }
            prop_assert_eq!(&floats(&late, &chunks, TimeRange::ALL), &expected);
            let part = TimeRange::new(BLOCK_RANGE_MS / 2, 2 * BLOCK_RANGE_MS);
            let inside: BTreeMap<_, _> = expected.range(part.min..=part.max).map(|(&a, &b)| (a, b)).collect();
            prop_assert_eq!(floats(&late, &chunks, part), inside);

            late.mark_window(3, (0, BLOCK_RANGE_MS), 7, &mut chunks);
            let mut marked = Vec::new();
            late.marked_chunks(3, 7, &chunks, &mut marked);
            let cut: Vec<i64> = expected.range(0..BLOCK_RANGE_MS).map(|(&at, _)| at).collect();
            let mut marked: Vec<Chunk> = marked.into_iter().map(|summed| summed.chunk).collect();
            prop_assert_eq!(merged(&mut marked).unwrap().timestamps, cut);
            prop_assert_eq!(&floats(&late, &chunks, TimeRange::ALL), &expected, "a cut takes nothing away");
            late.forget(&HashSet::from([7]), &mut chunks);
            expected.retain(|at, _| !(0..BLOCK_RANGE_MS).contains(at));
            prop_assert_eq!(&floats(&late, &chunks, TimeRange::ALL), &expected);
            late.remove(3, &mut chunks);
            prop_assert_eq!(total.load(Ordering::Relaxed), 0, "every byte is accounted for");
        }
    }
}
