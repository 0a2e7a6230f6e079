//! A block: the samples of a span of time in a folder of files that never change.
//!
//! ```text
//! 01J…/                a ULID
//!     chunks/000001    chunk segments
//!     index
//!     tombstones       what was deleted since; may be missing
//!     meta.json        written last: a folder without it is no block
//! ```
//!
//! The head cuts blocks through [`BlockWriter`], queries read them through [`Block`].

mod meta;
mod segment;
mod tombstones;
mod writer;
mod open;
mod select;

pub use meta::{
    BlockFile, BlockMeta, BlockParent, BlockStats, Compaction, Downsample, FileHash, IndexSizes, ThanosMeta,
};
pub use open::{Block, BlockError};
pub use segment::{ChunkFrame, FrameError, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES, read_frame, segment_name};
pub use tombstones::{Tombstones, TombstonesError};
pub use writer::{
    BlockWriteError, BlockWriter, SummedChunk, UnnamedBlock, name_blocks, remove_block, remove_leftovers, sync_folders,
};

pub(crate) use select::{label_list, select_error};

/// Name of the index file in a block.
pub const INDEX_FILE: &str = "index";
/// Name of the description of a block.
pub const META_FILE: &str = "meta.json";
/// Name of the deletions file in a block.
pub const TOMBSTONES_FILE: &str = "tombstones";
/// Name of the folder of chunk segments in a block.
pub const CHUNKS_DIR: &str = "chunks";

#[cfg(test)]
mod tests;
