//! Writing a block: series by series in label order, into a folder that gets its name when everything in it is durable.

use super::{
    BlockFile, BlockMeta, BlockStats, CHUNKS_DIR, INDEX_FILE, META_FILE, TOMBSTONES_FILE, Tombstones,
    meta::IndexSizes,
    segment::{SEGMENT_BYTES_MAX, SegmentWriter, segment_name},
};
use crate::{
    chunk::{self, ChunkError, is_histogram},
    index::{ChunkRef, IndexStats, IndexWriteError, IndexWriter},
    sink::Durability,
};
use model::{env::Fs, label::Labels, select::Chunk};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use ulid::Ulid;

/// Ends the name of a folder whose block is being written.
const CREATION_SUFFIX: &str = ".tmp-for-creation";

/// Ends the name of a folder whose block is being deleted.
const DELETION_SUFFIX: &str = ".tmp-for-deletion";

/// Why a block cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum BlockWriteError {
    /// A file could not be written.
    #[error("write block {ulid}: {error}")]
    Io {
        /// The block.
        ulid: Ulid,
        /// What went wrong.
        error: io::Error,
    },
    /// The index refuses what it was given.
    #[error("write block {ulid}: {error}")]
    Index {
        /// The block.
        ulid: Ulid,
        /// What went wrong.
        error: IndexWriteError,
    },
    /// A chunk is no chunk.
    #[error("write block {ulid}: series {labels}: {error}")]
    Chunk {
        /// The block.
        ulid: Ulid,
        /// Its series.
        labels: Labels,
        /// What is wrong with it.
        error: ChunkError,
    },
    /// A chunk reaches out of the span that the block is for.
    #[error("write block {ulid}: a chunk of series {labels} from {min_time} to {max_time} lies outside the block")]
    OutsideSpan {
        /// The block.
        ulid: Ulid,
        /// Its series.
        labels: Labels,
        /// First timestamp of the chunk.
        min_time: i64,
        /// Last timestamp of the chunk.
        max_time: i64,
    },
}

/// A chunk whose checksum is known.
#[derive(Debug, Clone)]
pub struct SummedChunk {
    /// The chunk.
    pub chunk: Chunk,
    /// What [`chunk::checksum`] gives of it.
    pub sum: u32,
}

impl SummedChunk {
    /// Finds the checksum of a chunk.
    pub fn of(chunk: Chunk) -> Self {
        let sum = chunk::checksum(chunk.encoding, &chunk.data);
        Self { chunk, sum }
    }
}

/// A block being written. Dropped before [`Self::finish`], it leaves nothing behind.
pub struct BlockWriter {
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    /// The temporary folder; empty once the block has its name.
    temporary: PathBuf,
    meta: BlockMeta,
    /// Taken by `finish`.
    parts: Option<Parts>,
    refs: Vec<ChunkRef>,
}

struct Parts {
    index: IndexWriter,
    segments: SegmentWriter,
}

impl BlockWriter {
    /// Begins a block in `folder`, which exists. `meta` says id, span, labels and sources; what the block holds will be filled in.
    /// `symbols` ascend and hold every label name and value of the series to come (more do no harm).
    pub fn create<S: AsRef<str>>(
        fs: Arc<dyn Fs>,
        folder: &Path,
        meta: BlockMeta,
        symbols: impl IntoIterator<Item = S>,
    ) -> Result<Self, BlockWriteError> {
        Self::with_segment_size(fs, folder, meta, symbols, SEGMENT_BYTES_MAX)
    }

    /// Like [`Self::create`] with segments of at most `segment_bytes_max`.
    pub(crate) fn with_segment_size<S: AsRef<str>>(
        fs: Arc<dyn Fs>,
        folder: &Path,
        meta: BlockMeta,
        symbols: impl IntoIterator<Item = S>,
        segment_bytes_max: u64,
    ) -> Result<Self, BlockWriteError> {
        let ulid = meta.ulid;
        let temporary = folder.join(format!("{ulid}{CREATION_SUFFIX}"));
        let io = |error| BlockWriteError::Io { ulid, error };
        match fs.remove_dir(&temporary) {
            // What an earlier attempt left behind.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        let chunks = temporary.join(CHUNKS_DIR);
        fs.create_dir(&chunks).map_err(io)?;
        let mut writer = Self {
            fs,
            folder: folder.to_owned(),
            temporary,
            meta,
            parts: None,
            refs: Vec::new(),
        };
        let index = IndexWriter::create(&*writer.fs, &writer.temporary.join(INDEX_FILE), symbols);
        let index = index.map_err(|error| BlockWriteError::Index { ulid, error })?;
        writer.parts = Some(Parts {
            index,
            segments: SegmentWriter::new(&chunks, segment_bytes_max),
        });
        writer.meta.stats = BlockStats::default();
        Ok(writer)
    }

    /// Makes room for so many series with so many labels in all; saves what growing would take beyond.
    pub fn expect(&mut self, series: usize, labels: usize) {
        if let Some(parts) = &mut self.parts {
            parts.index.expect(series, labels);
        }
    }

    /// Adds a series with its chunks. Series come sorted by labels; chunks ascend, do not overlap and lie in the block's span. A
    /// series without chunks is left out. After an error the block cannot be completed: drop the writer.
    pub fn add_series(&mut self, labels: &Labels, chunks: &[Chunk]) -> Result<(), BlockWriteError> {
        let summed = chunks
            .iter()
            .map(|chunk| (chunk, chunk::checksum(chunk.encoding, &chunk.data)));
        self.write_chunks(summed, |_| labels.clone())?;
        self.index_series(chunks.len(), |index, refs| index.add_series(labels, refs))
    }

    /// Like [`Self::add_series`], with the numbers that label names and values have among the symbols, counted from 0.
    pub fn add_numbered_series(&mut self, pairs: &[(u32, u32)], chunks: &[SummedChunk]) -> Result<(), BlockWriteError> {
        let summed = chunks.iter().map(|SummedChunk { chunk, sum }| (chunk, *sum));
        self.write_chunks(summed, |index| index.labels(pairs))?;
        self.index_series(chunks.len(), |index, refs| index.add_numbered_series(pairs, refs))
    }

    /// The error that a chunk of a series, given by numbers, is no chunk.
    pub fn unreadable(&self, pairs: &[(u32, u32)], error: ChunkError) -> BlockWriteError {
        let index = self.parts.as_ref().map(|parts| &parts.index);
        BlockWriteError::Chunk {
            ulid: self.meta.ulid,
            labels: index.map_or_else(Labels::empty, |index| index.labels(pairs)),
            error,
        }
    }

    /// Writes the chunks of a series and notes where they are; `labels` names the series in errors.
    fn write_chunks<'c>(
        &mut self,
        chunks: impl Iterator<Item = (&'c Chunk, u32)>,
        labels: impl Fn(&IndexWriter) -> Labels,
    ) -> Result<(), BlockWriteError> {
        let ulid = self.meta.ulid;
        let Some(parts) = &mut self.parts else { return Ok(()) };
        self.refs.clear();
        for (chunk, sum) in chunks {
            if chunk.min_time < self.meta.min_time || chunk.max_time >= self.meta.max_time {
                let (labels, min_time, max_time) = (labels(&parts.index), chunk.min_time, chunk.max_time);
                return Err(BlockWriteError::OutsideSpan {
                    ulid,
                    labels,
                    min_time,
                    max_time,
                });
            }
            let count = chunk::sample_count(chunk.encoding, &chunk.data).map_err(|error| BlockWriteError::Chunk {
                ulid,
                labels: labels(&parts.index),
                error,
            })?;
            let reference = parts.segments.write(&*self.fs, chunk, sum);
            self.refs
                .push(reference.map_err(|error| BlockWriteError::Io { ulid, error })?);
            let stats = &mut self.meta.stats;
            stats.num_samples += u64::from(count);
            match is_histogram(chunk.encoding) {
                true => stats.num_histogram_samples += u64::from(count),
                false => stats.num_float_samples += u64::from(count),
            }
        }
        Ok(())
    }

    /// Enters a series with the chunks that were just written into the index; one without chunks is left out.
    fn index_series(
        &mut self,
        chunks: usize,
        add: impl FnOnce(&mut IndexWriter, &[ChunkRef]) -> Result<(), IndexWriteError>,
    ) -> Result<(), BlockWriteError> {
        let ulid = self.meta.ulid;
        let Some(parts) = self.parts.as_mut().filter(|_| chunks > 0) else {
            return Ok(());
        };
        add(&mut parts.index, &self.refs).map_err(|error| BlockWriteError::Index { ulid, error })?;
        self.meta.stats.num_series += 1;
        self.meta.stats.num_chunks += chunks as u64;
        Ok(())
    }

    /// Completes the block, makes it durable and gives it its name. `None` when no series was added: no block is left then.
    pub fn finish(mut self) -> Result<Option<BlockMeta>, BlockWriteError> {
        let ulid = self.meta.ulid;
        let io = |error| BlockWriteError::Io { ulid, error };
        if !self.complete(Durability::Now)? {
            return Ok(None);
        }
        self.fs
            .rename(&self.temporary, &self.folder.join(ulid.to_string()))
            .map_err(io)?;
        self.temporary = PathBuf::new();
        self.fs.sync_dir(&self.folder).map_err(io)?;
        Ok(Some(self.meta.clone()))
    }

    /// Completes the block and leaves it to [`name_blocks`] to make it durable, together with others. `None` when no series was added.
    pub fn finish_unnamed(mut self) -> Result<Option<UnnamedBlock>, BlockWriteError> {
        if !self.complete(Durability::Later)? {
            return Ok(None);
        }
        Ok(Some(UnnamedBlock {
            fs: Arc::clone(&self.fs),
            ulid: self.meta.ulid,
            temporary: std::mem::take(&mut self.temporary),
        }))
    }

    /// Writes all files; `false` when no series was added.
    fn complete(&mut self, durability: Durability) -> Result<bool, BlockWriteError> {
        let ulid = self.meta.ulid;
        let io = |error| BlockWriteError::Io { ulid, error };
        let Some(Parts { index, segments }) = self.parts.take() else {
            return Ok(false);
        };
        if self.meta.stats.num_series == 0 {
            return Ok(false);
        }
        // Durable from the inside out: a reader that sees a name sees what it stands for.
        let (segment_sizes, chunk_max_size) = segments.finish(durability).map_err(io)?;
        if durability == Durability::Now {
            self.fs.sync_dir(&self.temporary.join(CHUNKS_DIR)).map_err(io)?;
        }
        let index = index.complete(durability);
        let index = index.map_err(|error| BlockWriteError::Index { ulid, error })?;
        let tombstones = self.temporary.join(TOMBSTONES_FILE);
        write_file(&*self.fs, &tombstones, &Tombstones::default().write(), durability).map_err(io)?;
        self.describe(&segment_sizes, chunk_max_size, index);
        let meta = self.temporary.join(META_FILE);
        write_file(&*self.fs, &meta, &self.meta.to_json(), durability).map_err(io)?;
        if durability == Durability::Now {
            self.fs.sync_dir(&self.temporary).map_err(io)?;
        }
        Ok(true)
    }

    /// Fills in what Thanos wants to know about the files.
    fn describe(&mut self, segment_sizes: &[u64], chunk_max_size: u64, index: IndexStats) {
        let Some(thanos) = &mut self.meta.thanos else { return };
        let names: Vec<String> = (0..segment_sizes.len() as u32).map(segment_name).collect();
        let file = |rel_path: String, size_bytes| BlockFile {
            rel_path,
            size_bytes,
            hash: None,
        };
        let segments = names
            .iter()
            .zip(segment_sizes)
            .map(|(name, &size)| file(format!("{CHUNKS_DIR}/{name}"), size));
        thanos.files = segments.collect();
        thanos.files.push(file(INDEX_FILE.to_owned(), index.size));
        thanos.files.push(file(META_FILE.to_owned(), 0));
        thanos.segment_files = names;
        thanos.index_stats = IndexSizes {
            series_max_size: index.series_max_size,
            chunk_max_size,
        };
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            // Close the files first. What cannot be removed now is removed at the next start.
            self.parts = None;
            let _ = self.fs.remove_dir(&self.temporary);
        }
    }
}

/// A block that is complete, but neither durable nor named. Dropped before [`name_blocks`], it leaves nothing behind.
pub struct UnnamedBlock {
    fs: Arc<dyn Fs>,
    ulid: Ulid,
    /// Empty once the block has its name.
    temporary: PathBuf,
}

impl UnnamedBlock {
    /// Its id.
    pub fn ulid(&self) -> Ulid {
        self.ulid
    }
}

impl Drop for UnnamedBlock {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            // What cannot be removed now is removed at the next start.
            let _ = self.fs.remove_dir(&self.temporary);
        }
    }
}

/// Makes blocks in `folder` durable, all of them in one go where the system can do that, else file by file; then gives them their names. After an error none of them counts.
pub fn name_blocks(fs: &dyn Fs, folder: &Path, blocks: &mut [UnnamedBlock]) -> io::Result<()> {
    sync_folders(fs, blocks.iter().map(|block| block.temporary.as_path()))?;
    for block in blocks {
        fs.rename(&block.temporary, &folder.join(block.ulid.to_string()))?;
        block.temporary = PathBuf::new();
    }
    fs.sync_dir(folder)
}

/// Makes folders of one file system durable with everything in them: in one go where the system can do that, else file by file.
pub fn sync_folders<'a>(fs: &dyn Fs, folders: impl IntoIterator<Item = &'a Path>) -> io::Result<()> {
    let mut folders = folders.into_iter().peekable();
    let Some(first) = folders.peek() else { return Ok(()) };
    match fs.sync_all(first) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            folders.try_for_each(|folder| sync_tree(fs, folder))
        }
        synced => synced,
    }
}

/// Makes a folder durable with everything in it, from the inside out.
fn sync_tree(fs: &dyn Fs, folder: &Path) -> io::Result<()> {
    for entry in fs.list(folder)? {
        let path = folder.join(&entry.name);
        match entry.is_dir {
            true => sync_tree(fs, &path)?,
            false => fs.open_append(&path)?.sync()?,
        }
    }
    fs.sync_dir(folder)
}

fn write_file(fs: &dyn Fs, path: &Path, content: &[u8], durability: Durability) -> io::Result<()> {
    let mut file = fs.create(path)?;
    file.append(content)?;
    match durability {
        Durability::Now => file.sync(),
        Durability::Later => Ok(()),
    }
}

/// Removes what a crash left in a folder of blocks: blocks half written or half deleted. Gives their names.
pub fn remove_leftovers(fs: &dyn Fs, folder: &Path) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for entry in fs.list(folder)? {
        if entry.is_dir && (entry.name.ends_with(CREATION_SUFFIX) || entry.name.ends_with(DELETION_SUFFIX)) {
            fs.remove_dir(&folder.join(&entry.name))?;
            removed.push(entry.name);
        }
    }
    Ok(removed)
}

/// Deletes the block in `folder`: it loses its name in one step, then its files go. A crash in between leaves only what
/// [`remove_leftovers`] takes away.
pub fn remove_block(fs: &dyn Fs, folder: &Path, ulid: Ulid) -> io::Result<()> {
    let unnamed = folder.join(format!("{ulid}{DELETION_SUFFIX}"));
    fs.rename(&folder.join(ulid.to_string()), &unnamed)?;
    fs.sync_dir(folder)?;
    fs.remove_dir(&unnamed)
}
