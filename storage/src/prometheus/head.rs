//! The head of a Prometheus, put together from its logs.

use super::{
    frames::{Decompress, WalCompression, read_segment},
    records::{Entry, Unread, read_record},
};
use model::{
    env::Fs,
    histogram::Histogram,
    label::Labels,
    sample::{HistogramSample, SampleBuffer},
    time::{TimeRange, Timestamp},
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What reading the logs met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadReport {
    /// Segments that were read, those of checkpoints included.
    pub segments: u64,
    /// Records that were read.
    pub records: u64,
    /// Records of kinds that are not needed (exemplars, metadata, markers) or not known.
    pub records_passed: u64,
    /// Samples of series that no record names.
    pub samples_of_unknown_series: u64,
    /// Places where something was lost, in words.
    pub damage: Vec<String>,
    /// Oldest and newest time of all samples, those outside of the range included.
    pub span: Option<(Timestamp, Timestamp)>,
}

/// The samples of a series as they come.
#[derive(Debug, Default)]
struct Gathered {
    floats: Vec<(Timestamp, f64)>,
    histograms: Vec<(Timestamp, Arc<Histogram>)>,
}

/// Reads the samples in `range` that the logs in a data folder of Prometheus hold, by series. Memory is about 16 bytes for a float;
/// `range` keeps it in bounds. `decompress` undoes what Prometheus compressed.
pub fn read_head(
    fs: &dyn Fs,
    data: &Path,
    range: TimeRange,
    mut decompress: impl FnMut(WalCompression, &[u8]) -> Option<Vec<u8>>,
) -> io::Result<(BTreeMap<Labels, SampleBuffer>, HeadReport)> {
    let mut reader = Reader {
        range,
        ..Reader::default()
    };
    for log in ["wal", "wbl"] {
        for segment in segments(fs, &data.join(log), &mut reader.report)? {
            reader.segment(fs, &segment, &mut decompress)?;
        }
    }
    Ok(reader.finish())
}

/// The segments of a log in the order in which they are to be read: those of the newest checkpoint, then those behind it.
fn segments(fs: &dyn Fs, log: &Path, report: &mut HeadReport) -> io::Result<Vec<PathBuf>> {
    let entries = match fs.list(log) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let number = |name: &str| (name.len() >= 8).then(|| name.parse::<u64>().ok()).flatten();
    let checkpoint = |name: &str| number(name.strip_prefix("checkpoint.")?);
    let newest = entries
        .iter()
        .filter(|entry| entry.is_dir)
        .filter_map(|entry| checkpoint(&entry.name))
        .max();
    let mut paths = Vec::new();
    if let Some(newest) = newest {
        let dir = log.join(format!("checkpoint.{newest:08}"));
        let inside = fs.list(&dir)?.into_iter().filter(|entry| number(&entry.name).is_some());
        paths.extend(inside.map(|entry| dir.join(entry.name)));
    }
    let mut numbers: Vec<u64> = entries
        .iter()
        .filter(|entry| !entry.is_dir)
        .filter_map(|entry| number(&entry.name))
        .filter(|number| newest.is_none_or(|newest| *number > newest))
        .collect();
    numbers.sort_unstable();
    for pair in numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]) {
        report
            .damage
            .push(format!("{}: segment {:08} is missing", log.display(), pair[0] + 1));
    }
    paths.extend(numbers.into_iter().map(|number| log.join(format!("{number:08}"))));
    Ok(paths)
}

struct Reader {
    range: TimeRange,
    labels: HashMap<u64, Labels>,
    gathered: HashMap<Labels, Gathered>,
    report: HeadReport,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            range: TimeRange::ALL,
            labels: HashMap::new(),
            gathered: HashMap::new(),
            report: HeadReport::default(),
        }
    }
}

impl Reader {
    fn segment(&mut self, fs: &dyn Fs, path: &Path, decompress: &mut Decompress<'_>) -> io::Result<()> {
        let bytes = fs.map(path)?;
        self.report.segments += 1;
        let mut wrong = 0u64;
        let damage = read_segment(&bytes, decompress, |record| {
            self.report.records += 1;
            match read_record(record, |entry| self.entry(entry)) {
                Ok(()) => {}
                Err(Unread::Passed) => self.report.records_passed += 1,
                Err(Unread::Damaged) => wrong += 1,
            }
        });
        let places = damage.places + wrong;
        if places > 0 {
            let path = path.display();
            self.report
                .damage
                .push(format!("{path}: {places} places cannot be read"));
        }
        if damage.torn {
            let text = format!("{}: ends inside a record", path.display());
            self.report.damage.push(text);
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) {
        match entry {
            Entry::Series { reference, labels } => {
                self.labels.insert(reference, labels);
            }
            Entry::Float { reference, at, value } => {
                if let Some(gathered) = self.gathered(reference, at) {
                    gathered.floats.push((at, value));
                }
            }
            Entry::Histogram {
                reference,
                at,
                histogram,
            } => {
                if let Some(gathered) = self.gathered(reference, at) {
                    gathered.histograms.push((at, Arc::new(*histogram)));
                }
            }
            Entry::Tombstone { reference, range } => {
                // What comes behind a deletion stays.
                let labels = self.labels.get(&reference);
                if let Some(gathered) = labels.and_then(|labels| self.gathered.get_mut(labels)) {
                    gathered.floats.retain(|(at, _)| !range.contains(*at));
                    gathered.histograms.retain(|(at, _)| !range.contains(*at));
                }
            }
        }
    }

    fn gathered(&mut self, reference: u64, at: Timestamp) -> Option<&mut Gathered> {
        let (oldest, newest) = self.report.span.unwrap_or((at, at));
        self.report.span = Some((oldest.min(at), newest.max(at)));
        if !self.range.contains(at) {
            return None;
        }
        let Some(labels) = self.labels.get(&reference) else {
            self.report.samples_of_unknown_series += 1;
            return None;
        };
        if !self.gathered.contains_key(labels) {
            self.gathered.insert(labels.clone(), Gathered::default());
        }
        self.gathered.get_mut(labels)
    }

    fn finish(self) -> (BTreeMap<Labels, SampleBuffer>, HeadReport) {
        let series = self
            .gathered
            .into_iter()
            .map(|(labels, gathered)| (labels, gathered.finish()));
        (series.filter(|(_, samples)| !samples.is_empty()).collect(), self.report)
    }
}

impl Gathered {
    /// Ascending, no timestamp twice: checkpoint and segments may hold the same sample, and the first one counts.
    fn finish(mut self) -> SampleBuffer {
        self.floats.sort_by_key(|(at, _)| *at);
        self.floats.dedup_by_key(|(at, _)| *at);
        self.histograms.sort_by_key(|(at, _)| *at);
        self.histograms.dedup_by_key(|(at, _)| *at);
        let mut samples = SampleBuffer::default();
        for (at, value) in self.floats {
            samples.push_float(at, value);
        }
        let has_float = |at: Timestamp| samples.timestamps.binary_search(&at).is_ok();
        let histograms = self.histograms.into_iter().filter(|(at, _)| !has_float(*at));
        let histograms: Vec<_> = histograms
            .map(|(at, histogram)| HistogramSample {
                at,
                start: 0,
                histogram,
            })
            .collect();
        samples.histograms = histograms;
        samples
    }
}
