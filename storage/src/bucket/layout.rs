//! Names of objects.

use crate::block::{CHUNKS_DIR, segment_name};
use object_store::path::Path;
use ulid::Ulid;

/// Says that a block is to be deleted and no longer to be read.
pub const DELETION_MARK_FILE: &str = "deletion-mark.json";
/// Says that a block must not be compacted.
pub const NO_COMPACT_MARK_FILE: &str = "no-compact-mark.json";
/// Says that a block must not be downsampled.
pub const NO_DOWNSAMPLE_MARK_FILE: &str = "no-downsample-mark.json";
/// Says that a block must not be read by queries. Ours; Thanos passes over it.
pub const NO_QUERY_MARK_FILE: &str = "no-query-mark.json";

/// The prefix of a block's objects.
pub fn block_dir(ulid: Ulid) -> Path {
    Path::from(ulid.to_string())
}

/// An object of a block by its path inside the block, such as `index` or `chunks/000001`.
pub fn block_object(ulid: Ulid, rel_path: &str) -> Path {
    Path::from(format!("{ulid}/{rel_path}"))
}

/// The object of chunk segment number `segment`, counted from 0.
pub fn chunks_object(ulid: Ulid, segment: u32) -> Path {
    block_object(ulid, &format!("{CHUNKS_DIR}/{}", segment_name(segment)))
}
