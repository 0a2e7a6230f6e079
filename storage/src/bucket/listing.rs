//! Which blocks a bucket holds, found by one deep listing: a request for each thousand objects, not one for each block.

use super::{
    BucketError, DELETION_MARK_FILE, NO_COMPACT_MARK_FILE, NO_DOWNSAMPLE_MARK_FILE, NO_QUERY_MARK_FILE, block_object,
};
use crate::block::{BlockMeta, META_FILE};
use futures::TryStreamExt as _;
use model::time::Timestamp;
use object_store::{ObjectStore, ObjectStoreExt as _};
use std::collections::BTreeMap;
use ulid::Ulid;

/// Larger descriptions are not read. Thanos's largest, of blocks made of thousands of others, stay far below.
const META_BYTES_MAX: u64 = 16 << 20;

/// What lies in the bucket under a block's ULID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockListing {
    /// The block.
    pub ulid: Ulid,
    /// Its objects: path inside the block, and size.
    pub files: BTreeMap<String, u64>,
    /// When the newest of them was written.
    pub modified: Timestamp,
}

impl BlockListing {
    /// Whether the block is complete: its description is there, which is uploaded last.
    pub fn is_complete(&self) -> bool {
        self.files.contains_key(META_FILE)
    }

    /// Whether the block is to be deleted.
    pub fn is_marked_for_deletion(&self) -> bool {
        self.files.contains_key(DELETION_MARK_FILE)
    }

    /// Whether the block must not be compacted.
    pub fn is_marked_no_compact(&self) -> bool {
        self.files.contains_key(NO_COMPACT_MARK_FILE)
    }

    /// Whether the block must not be downsampled.
    pub fn is_marked_no_downsample(&self) -> bool {
        self.files.contains_key(NO_DOWNSAMPLE_MARK_FILE)
    }

    /// Whether queries must not read the block.
    pub fn is_marked_no_query(&self) -> bool {
        self.files.contains_key(NO_QUERY_MARK_FILE)
    }
}

/// Everything under a ULID, partial blocks included, by ULID. Other objects are left out.
pub async fn list_blocks(store: &dyn ObjectStore) -> Result<BTreeMap<Ulid, BlockListing>, BucketError> {
    let mut blocks: BTreeMap<Ulid, BlockListing> = BTreeMap::new();
    let mut objects = store.list(None);
    while let Some(object) = objects
        .try_next()
        .await
        .map_err(BucketError::store("list the bucket"))?
    {
        let Some((first, rel_path)) = object.location.as_ref().split_once('/') else {
            continue;
        };
        let Ok(ulid) = Ulid::from_string(first) else { continue };
        // Lower case reads as the same number, but is another name.
        if ulid.to_string() != first {
            continue;
        }
        let block = blocks.entry(ulid).or_insert_with(|| BlockListing {
            ulid,
            files: BTreeMap::new(),
            modified: i64::MIN,
        });
        block.files.insert(rel_path.to_owned(), object.size);
        block.modified = block.modified.max(object.last_modified.timestamp_millis());
    }
    Ok(blocks)
}

/// Reads the description of a block.
pub async fn read_meta(store: &dyn ObjectStore, ulid: Ulid) -> Result<BlockMeta, BucketError> {
    let path = block_object(ulid, META_FILE);
    let got = store
        .get(&path)
        .await
        .map_err(BucketError::store(format!("read {path}")))?;
    if got.meta.size > META_BYTES_MAX {
        return Err(BucketError::invalid(
            &path,
            format!("{} bytes are too many for a description", got.meta.size),
        ));
    }
    let bytes = got.bytes().await.map_err(BucketError::store(format!("read {path}")))?;
    let meta = BlockMeta::from_json(&bytes).map_err(|reason| BucketError::invalid(&path, reason))?;
    if meta.ulid != ulid {
        return Err(BucketError::invalid(
            &path,
            format!("it describes another block, {}", meta.ulid),
        ));
    }
    Ok(meta)
}
