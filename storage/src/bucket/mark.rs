//! Marks: small objects beside a block that say what is to become of it.

use super::{
    BucketError, DELETION_MARK_FILE, NO_COMPACT_MARK_FILE, NO_DOWNSAMPLE_MARK_FILE, NO_QUERY_MARK_FILE, block_dir,
    block_object,
};
use crate::block::META_FILE;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use ulid::Ulid;

/// The block is to be deleted after a delay, and not to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionMark {
    /// The block.
    pub id: Ulid,
    /// Version of the mark, 1.
    pub version: u32,
    /// Why, in words.
    #[serde(default)]
    pub details: String,
    /// When it was marked, in seconds since the Unix epoch.
    pub deletion_time: i64,
}

/// The block must not be compacted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoCompactMark {
    /// The block.
    pub id: Ulid,
    /// Version of the mark, 1.
    pub version: u32,
    /// Why, in words.
    #[serde(default)]
    pub details: String,
    /// When it was marked, in seconds since the Unix epoch.
    pub no_compact_time: i64,
    /// Why, as a word: `manual`, `index-size-exceeding` and so on.
    pub reason: String,
}

/// The block must not be downsampled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoDownsampleMark {
    /// The block.
    pub id: Ulid,
    /// Version of the mark, 1.
    pub version: u32,
    /// Why, in words.
    #[serde(default)]
    pub details: String,
    /// When it was marked, in seconds since the Unix epoch.
    pub no_downsample_time: i64,
    /// Why, as a word: `manual`.
    pub reason: String,
}

/// The block must not be read by queries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoQueryMark {
    /// The block.
    pub id: Ulid,
    /// Version of the mark, 1.
    pub version: u32,
    /// Why, in words.
    #[serde(default)]
    pub details: String,
    /// When it was marked, in seconds since the Unix epoch.
    pub no_query_time: i64,
    /// Why, as a word: `manual`.
    pub reason: String,
}

/// A kind of mark.
pub trait Mark: Serialize + DeserializeOwned {
    /// Name of its object beside the block.
    const FILE: &'static str;
}

impl Mark for DeletionMark {
    const FILE: &'static str = DELETION_MARK_FILE;
}

impl Mark for NoCompactMark {
    const FILE: &'static str = NO_COMPACT_MARK_FILE;
}

impl Mark for NoDownsampleMark {
    const FILE: &'static str = NO_DOWNSAMPLE_MARK_FILE;
}

impl Mark for NoQueryMark {
    const FILE: &'static str = NO_QUERY_MARK_FILE;
}

/// Larger marks are not read.
const MARK_BYTES_MAX: u64 = 1 << 20;

/// Reads a mark of a block; `None` when it has none of that kind.
pub async fn read_mark<M: Mark>(store: &dyn ObjectStore, ulid: Ulid) -> Result<Option<M>, BucketError> {
    let path = block_object(ulid, M::FILE);
    let got = match store.get(&path).await {
        Ok(got) => got,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(BucketError::store(format!("read {path}"))(error)),
    };
    if got.meta.size > MARK_BYTES_MAX {
        return Err(BucketError::invalid(
            &path,
            format!("{} bytes are too many for a mark", got.meta.size),
        ));
    }
    let bytes = got.bytes().await.map_err(BucketError::store(format!("read {path}")))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| BucketError::invalid(&path, error.to_string()))
}

/// Marks a block for deletion; a mark that is there already stays. `now` is in seconds since the Unix epoch.
pub async fn mark_for_deletion(
    store: &dyn ObjectStore,
    ulid: Ulid,
    details: &str,
    now: i64,
) -> Result<(), BucketError> {
    if read_mark::<DeletionMark>(store, ulid).await?.is_some() {
        return Ok(());
    }
    let mark = DeletionMark {
        id: ulid,
        version: 1,
        details: details.to_owned(),
        deletion_time: now,
    };
    write_mark(store, ulid, &mark).await
}

/// Writes a mark beside a block, over one of its kind that is there.
pub async fn write_mark<M: Mark>(store: &dyn ObjectStore, ulid: Ulid, mark: &M) -> Result<(), BucketError> {
    let path = block_object(ulid, M::FILE);
    let bytes = serde_json::to_vec(mark).map_err(|error| BucketError::invalid(&path, error.to_string()))?;
    store
        .put(&path, PutPayload::from(bytes))
        .await
        .map_err(BucketError::store(format!("write {path}")))?;
    Ok(())
}

/// Deletes a block: its description first, so that nobody sees half a block, its deletion mark last, so that a deletion
/// broken off is taken up again.
pub async fn delete_block(store: &dyn ObjectStore, ulid: Ulid) -> Result<(), BucketError> {
    let (meta, mark) = (block_object(ulid, META_FILE), block_object(ulid, DELETION_MARK_FILE));
    delete_object(store, &meta).await?;
    let objects = store.list(Some(&block_dir(ulid))).map_ok(|object| object.location);
    let objects: Vec<_> = objects
        .try_collect()
        .await
        .map_err(BucketError::store(format!("list block {ulid}")))?;
    let rest = objects.into_iter().filter(|path| *path != mark && *path != meta);
    let deletions = futures::stream::iter(rest.map(|path| async move { delete_object(store, &path).await }));
    deletions.buffer_unordered(8).try_collect::<()>().await?;
    delete_object(store, &mark).await
}

/// Deletes an object; one that is not there is fine.
async fn delete_object(store: &dyn ObjectStore, path: &object_store::path::Path) -> Result<(), BucketError> {
    match store.delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(BucketError::store(format!("delete {path}"))(error)),
    }
}
