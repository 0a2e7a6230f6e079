//! Bringing along what a Prometheus holds: its blocks and the samples of its head become blocks with external labels, ready for a
//! bucket.

use super::{
    frames::WalCompression,
    head::{HeadReport, read_head},
};
use crate::block::{Block, BlockMeta, BlockWriteError, BlockWriter};
use futures::executor::block_on;
use model::{
    env::Fs,
    label::Labels,
    sample::SampleBuffer,
    select::{Select as _, SelectError, SelectRequest, Series},
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp, block_start},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
};
use ulid::Ulid;

/// Undoes a compression; `None` when the bytes make no sense.
type Decompress<'a> = dyn FnMut(WalCompression, &[u8]) -> Option<Vec<u8>> + 'a;

/// What is brought along, and to where.
pub struct Import<'a> {
    /// Files.
    pub fs: Arc<dyn Fs>,
    /// Data folder of a Prometheus that does not run.
    pub data: &'a Path,
    /// An existing folder for the new blocks.
    pub folder: &'a Path,
    /// External labels of the new blocks.
    pub labels: BTreeMap<String, String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Imported {
    /// The new blocks in the folder. One that was a block before has the id that it had.
    pub blocks: Vec<BlockMeta>,
    /// What reading the logs met.
    pub head: HeadReport,
    /// Blocks that could not be read and are missing, in words.
    pub unreadable: Vec<String>,
}

/// Why nothing could be brought along.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The folder could not be read.
    #[error("read {path}: {error}")]
    Read {
        /// What should be read.
        path: String,
        /// What went wrong.
        error: io::Error,
    },
    /// A new block could not be written.
    #[error(transparent)]
    Write(#[from] BlockWriteError),
    /// A chunk of a block is damaged.
    #[error(transparent)]
    Damaged(#[from] SelectError),
}

impl Import<'_> {
    /// Writes the new blocks. `new_ulid` gives an id to the block that is made of a window of the head, the same one each time, so that
    /// an import can be repeated; `decompress` undoes what Prometheus compressed.
    /// Memory: symbols of one block, and about 16 bytes for each float of two hours of the head.
    pub fn run(
        &self,
        new_ulid: &dyn Fn(Timestamp) -> Ulid,
        decompress: &mut Decompress<'_>,
    ) -> Result<Imported, ImportError> {
        let mut imported = Imported::default();
        let old = self.open_blocks(&mut imported)?;
        for block in &old {
            imported.blocks.extend(self.rewrite(block)?);
        }
        let read = |range: TimeRange, decompress: &mut Decompress<'_>| {
            read_head(&*self.fs, self.data, range, decompress).map_err(|error| ImportError::Read {
                path: self.data.display().to_string(),
                error,
            })
        };
        // The first pass gathers nothing and tells what time the samples span.
        let (_, report) = read(TimeRange::new(1, 0), decompress)?;
        if let Some((oldest, newest)) = report.span {
            let mut window = block_start(oldest);
            while window <= newest {
                let range = TimeRange::new(window, window.saturating_add(BLOCK_RANGE_MS - 1));
                let (series, _) = read(range, decompress)?;
                imported
                    .blocks
                    .extend(self.write_window(&old, range, series, new_ulid)?);
                window = match window.checked_add(BLOCK_RANGE_MS) {
                    Some(next) => next,
                    None => break,
                };
            }
        }
        imported.head = report;
        Ok(imported)
    }

    fn open_blocks(&self, imported: &mut Imported) -> Result<Vec<Block>, ImportError> {
        let entries = self.fs.list(self.data).map_err(|error| ImportError::Read {
            path: self.data.display().to_string(),
            error,
        })?;
        let mut blocks = Vec::new();
        for entry in entries {
            if !entry.is_dir || Ulid::from_string(&entry.name).is_err() {
                continue;
            }
            match Block::open(&*self.fs, &self.data.join(&entry.name)) {
                Ok(block) => blocks.push(block),
                Err(error) => imported.unreadable.push(format!("block {}: {error}", entry.name)),
            }
        }
        Ok(blocks)
    }

    /// A block of the Prometheus with external labels and without what was deleted; `None` when nothing is left.
    fn rewrite(&self, block: &Block) -> Result<Option<BlockMeta>, ImportError> {
        let mut symbols = BTreeSet::new();
        each_series(block, true, |series| {
            add_symbols(&mut symbols, &series.labels);
            Ok(())
        })?;
        let old = block.meta();
        let mut meta = self.meta(old.ulid, old.min_time, old.max_time);
        meta.compaction.clone_from(&old.compaction);
        let mut writer = BlockWriter::create(Arc::clone(&self.fs), self.folder, meta, symbols)?;
        each_series(block, false, |series| {
            let chunks = series.samples.chunks()?;
            Ok(writer.add_series(&series.labels, &chunks)?)
        })?;
        Ok(writer.finish()?)
    }

    /// A block of what the head has in a window and no block has.
    fn write_window(
        &self,
        old: &[Block],
        range: TimeRange,
        mut series: BTreeMap<Labels, SampleBuffer>,
        new_ulid: &dyn Fn(Timestamp) -> Ulid,
    ) -> Result<Option<BlockMeta>, ImportError> {
        for block in old.iter().filter(|block| block.meta().range().overlaps(range)) {
            each_series(block, false, |known| {
                if let Some(samples) = series.get_mut(&known.labels) {
                    let mut held = SampleBuffer::default();
                    known.samples.read(range, &mut held)?;
                    *samples = without(samples, &held);
                }
                Ok(())
            })?;
        }
        series.retain(|_, samples| !samples.is_empty());
        if series.is_empty() {
            return Ok(None);
        }
        let mut symbols = BTreeSet::new();
        series.keys().for_each(|labels| add_symbols(&mut symbols, labels));
        let meta = self.meta(new_ulid(range.min), range.min, range.min.saturating_add(BLOCK_RANGE_MS));
        let mut writer = BlockWriter::create(Arc::clone(&self.fs), self.folder, meta, symbols)?;
        for (labels, samples) in &series {
            writer.add_series(labels, &crate::chunk::encode_samples(samples))?;
        }
        Ok(writer.finish()?)
    }

    fn meta(&self, ulid: Ulid, min_time: Timestamp, max_time: Timestamp) -> BlockMeta {
        BlockMeta::new(ulid, min_time, max_time).with_thanos(self.labels.clone(), "import")
    }
}

fn each_series(
    block: &Block,
    labels_only: bool,
    mut visit: impl FnMut(&Series) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut request = SelectRequest::new(Vec::new(), TimeRange::ALL);
    request.labels_only = labels_only;
    let mut set = block_on(block.select(request))?;
    while let Some(batch) = block_on(set.next()) {
        batch?.iter().try_for_each(&mut visit)?;
    }
    Ok(())
}

fn add_symbols(symbols: &mut BTreeSet<String>, labels: &Labels) {
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        if !symbols.contains(text) {
            symbols.insert(text.to_owned());
        }
    }
}

/// What of `samples` has a timestamp that `known` has not.
fn without(samples: &SampleBuffer, known: &SampleBuffer) -> SampleBuffer {
    let is_known = |at: Timestamp| {
        known.timestamps.binary_search(&at).is_ok()
            || known.histograms.binary_search_by_key(&at, |sample| sample.at).is_ok()
    };
    let mut left = SampleBuffer::default();
    for (&at, &value) in samples.timestamps.iter().zip(&samples.values) {
        if !is_known(at) {
            left.push_float(at, value);
        }
    }
    let histograms = samples.histograms.iter().filter(|sample| !is_known(sample.at));
    left.histograms.extend(histograms.cloned());
    left
}
