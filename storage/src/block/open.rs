//! An open block: its index and chunks mapped into memory, its description and deletions read.

use super::{
    BlockMeta, CHUNKS_DIR, ChunkFrame, FrameError, INDEX_FILE, META_FILE, TOMBSTONES_FILE, Tombstones, TombstonesError,
    read_frame,
    segment::{check_header, segment_name},
};
use crate::index::{ChunkRef, Index, IndexError};
use bytes::Bytes;
use model::env::Fs;
use parking_lot::RwLock;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why a block cannot be opened. Set it aside and go on with the others.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// A file could not be read.
    #[error("read block: {0}")]
    Io(#[from] io::Error),
    /// The description is no description.
    #[error("{}: {reason}", path.display())]
    Meta {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index is damaged.
    #[error("{}: {error}", path.display())]
    Index {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        error: IndexError,
    },
    /// A chunk segment is missing or damaged.
    #[error("{}: {error}", path.display())]
    Segment {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        error: FrameError,
    },
    /// Segments are not numbered from 1 on.
    #[error("{}: chunk segment {expected} is missing, found {found}", path.display())]
    SegmentMissing {
        /// The folder.
        path: PathBuf,
        /// What should be there.
        expected: String,
        /// What is there instead.
        found: String,
    },
    /// What was deleted is not known.
    #[error("{}: {error}", path.display())]
    Tombstones {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        error: TombstonesError,
    },
}

/// A block that can be read. Clones share it; its files may be unlinked while it is open.
#[derive(Clone)]
pub struct Block {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) meta: BlockMeta,
    pub(super) index: Index,
    segments: Vec<Bytes>,
    /// What was deleted. Who reads holds on to what it was when they began.
    tombstones: RwLock<Arc<Tombstones>>,
}

impl Block {
    /// Opens the block in the folder `dir`.
    pub fn open(fs: &dyn Fs, dir: &Path) -> Result<Self, BlockError> {
        let path = dir.join(META_FILE);
        let meta = BlockMeta::from_json(&fs.read(&path)?).map_err(|reason| BlockError::Meta { path, reason })?;
        let path = dir.join(INDEX_FILE);
        let index = Index::open(fs.map(&path)?).map_err(|error| BlockError::Index { path, error })?;
        let segments = open_segments(fs, &dir.join(CHUNKS_DIR))?;
        let path = dir.join(TOMBSTONES_FILE);
        let tombstones = match fs.read(&path) {
            Ok(bytes) => Tombstones::read(&bytes).map_err(|error| BlockError::Tombstones { path, error })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Tombstones::default(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                meta,
                index,
                segments,
                tombstones: RwLock::new(Arc::new(tombstones)),
            }),
        })
    }

    /// Its description.
    pub fn meta(&self) -> &BlockMeta {
        &self.inner.meta
    }

    /// Its index.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// What was deleted of it.
    pub fn tombstones(&self) -> Arc<Tombstones> {
        self.inner.tombstones()
    }

    /// Deletes what `tombstones` says and nothing else: the file in the block's folder `dir` is replaced, durably and in one step, and
    /// readers who come from now on see the rest only.
    pub fn set_tombstones(&self, fs: &dyn Fs, dir: &Path, tombstones: Tombstones) -> io::Result<()> {
        let unnamed = dir.join(format!("{TOMBSTONES_FILE}.tmp"));
        match fs.remove_file(&unnamed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs.create(&unnamed)?;
        file.append(&tombstones.write())?;
        file.sync()?;
        fs.rename(&unnamed, &dir.join(TOMBSTONES_FILE))?;
        fs.sync_dir(dir)?;
        *self.inner.tombstones.write() = Arc::new(tombstones);
        Ok(())
    }

    /// The chunk that `reference` names, with its checksum verified.
    pub fn chunk(&self, reference: &ChunkRef) -> Result<ChunkFrame, FrameError> {
        self.inner.chunk(reference)
    }
}

impl Inner {
    pub(super) fn tombstones(&self) -> Arc<Tombstones> {
        Arc::clone(&self.tombstones.read())
    }

    pub(super) fn chunk(&self, reference: &ChunkRef) -> Result<ChunkFrame, FrameError> {
        let segment = self
            .segments
            .get(reference.segment() as usize)
            .ok_or(FrameError::Truncated { needed: 1 })?;
        read_frame(segment, reference.offset() as usize)
    }
}

fn open_segments(fs: &dyn Fs, dir: &Path) -> Result<Vec<Bytes>, BlockError> {
    let mut segments = Vec::new();
    for entry in fs.list(dir)? {
        let expected = segment_name(segments.len() as u32);
        if entry.name != expected {
            return Err(BlockError::SegmentMissing {
                path: dir.to_owned(),
                expected,
                found: entry.name,
            });
        }
        let path = dir.join(&entry.name);
        let bytes = Bytes::from_owner(fs.map(&path)?);
        check_header(&bytes).map_err(|error| BlockError::Segment { path, error })?;
        segments.push(bytes);
    }
    Ok(segments)
}
