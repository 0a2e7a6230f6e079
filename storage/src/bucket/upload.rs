//! Uploading a local block: never half visible, never an object twice, and verified before anybody is told of it.

use super::{BucketError, LocalFile, block_object};
use crate::block::{BlockError, BlockFile, BlockMeta, CHUNKS_DIR, INDEX_FILE, META_FILE, TOMBSTONES_FILE, Tombstones};
use bytes::Bytes;
use model::{env::Fs, time::Timestamp};
use object_store::{
    Extensions, ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, WriteMultipart,
    path::Path as ObjectPath,
};
use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

/// Files above this size are uploaded in parts.
const SINGLE_PUT_BYTES_MAX: u64 = 16 << 20;
/// Size of a part. S3 takes at most 10,000 of them, so this reaches 160 GiB.
const PART_BYTES: u64 = 16 << 20;
/// Parts in flight at once: bounds memory to four parts.
const PARTS_IN_FLIGHT: usize = 4;

/// What an upload did.
#[derive(Debug, Clone, PartialEq)]
pub struct Uploaded {
    /// The description as it is in the bucket.
    pub meta: BlockMeta,
    /// Objects that were uploaded.
    pub objects: usize,
    /// Objects that an earlier attempt had uploaded.
    pub objects_present: usize,
    /// Bytes that were uploaded.
    pub bytes: u64,
}

/// Why a block could not be uploaded. What is in the bucket by then stays invisible, and the next attempt goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// A local file could not be read.
    #[error("read local block: {0}")]
    Local(#[from] io::Error),
    /// The local block is damaged, or lacks what a bucket needs.
    #[error("local block: {0}")]
    Block(#[from] BlockError),
    /// The block must carry external labels, which say whose it is.
    #[error("block {0} has no external labels; a bucket does not take it without")]
    NoLabels(ulid::Ulid),
    /// The block has deletions, and a bucket knows no tombstones: uploaded as it is, deleted samples would come back.
    #[error("block {0} has deleted samples, which a bucket cannot express; compact it before")]
    Deletions(ulid::Ulid),
    /// The bucket refused or did not answer.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// Uploads the block in the local folder `dir`: chunks, then index, then the description. Each object is verified by its size; those
/// that are there already with the right size are not sent again. `now` becomes the upload time.
pub async fn upload_block(
    store: &dyn ObjectStore,
    fs: &dyn Fs,
    dir: &Path,
    now: Timestamp,
) -> Result<Uploaded, UploadError> {
    let mut meta = read_local_meta(fs, dir)?;
    let ulid = meta.ulid;
    if has_deletions(fs, dir)? {
        return Err(UploadError::Deletions(ulid));
    }
    let files = local_files(fs, dir)?;
    let Some(thanos) = meta.thanos.as_mut().filter(|thanos| !thanos.labels.is_empty()) else {
        return Err(UploadError::NoLabels(ulid));
    };
    thanos.files = files.clone();
    thanos.files.push(BlockFile {
        rel_path: META_FILE.to_owned(),
        size_bytes: 0,
        hash: None,
    });
    thanos.upload_time = jiff::Timestamp::from_millisecond(now).ok().map(|time| time.to_string());

    let mut uploaded = Uploaded {
        meta,
        objects: 0,
        objects_present: 0,
        bytes: 0,
    };
    for file in &files {
        let path = block_object(ulid, &file.rel_path);
        if size_in_bucket(store, &path).await? == Some(file.size_bytes) {
            uploaded.objects_present += 1;
            continue;
        }
        let content = Content::File {
            fs,
            path: dir.join(&file.rel_path),
            size: file.size_bytes,
        };
        uploaded.send(store, &path, content).await?;
    }
    // Only now may anybody see the block. A description that is there already is of an upload that came this far before.
    match super::read_meta(store, ulid).await {
        Ok(meta) => {
            uploaded.meta = meta;
            uploaded.objects_present += 1;
        }
        Err(
            BucketError::Store {
                error: object_store::Error::NotFound { .. },
                ..
            }
            | BucketError::Invalid { .. },
        ) => {
            let content = Content::Memory(Bytes::from(uploaded.meta.to_json()));
            uploaded.send(store, &block_object(ulid, META_FILE), content).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(uploaded)
}

impl Uploaded {
    /// Sends one object and verifies that the bucket has it.
    async fn send(
        &mut self,
        store: &dyn ObjectStore,
        path: &ObjectPath,
        content: Content<'_>,
    ) -> Result<(), UploadError> {
        let size = content.size();
        put(store, path, content).await?;
        match size_in_bucket(store, path).await? {
            Some(found) if found == size => {}
            Some(found) => {
                let reason = format!("{size} bytes were uploaded, the bucket has {found}");
                return Err(BucketError::invalid(path, reason).into());
            }
            None => return Err(BucketError::invalid(path, "it was uploaded and is not in the bucket").into()),
        }
        self.objects += 1;
        self.bytes += size;
        Ok(())
    }
}

/// What is sent.
enum Content<'a> {
    Memory(Bytes),
    File { fs: &'a dyn Fs, path: PathBuf, size: u64 },
}

impl Content<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// A part of it. A file is mapped anew for each part: of one mapping everything that was sent would stay in memory until the end.
    fn part(&self, range: Range<u64>) -> io::Result<Bytes> {
        let (whole, end) = match self {
            Self::Memory(bytes) => (bytes.clone(), range.end),
            Self::File { fs, path, .. } => (Bytes::from_owner(fs.map(path)?), range.end),
        };
        if end > whole.len() as u64 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a file of the block is shorter than it was",
            ));
        }
        Ok(whole.slice(range.start as usize..end as usize))
    }

    /// Says which file it is, for a bucket that can make use of that.
    fn origin(&self) -> Extensions {
        let mut extensions = Extensions::default();
        if let Self::File { path, .. } = self {
            extensions.insert(LocalFile(path.clone()));
        }
        extensions
    }
}

async fn put(store: &dyn ObjectStore, path: &ObjectPath, content: Content<'_>) -> Result<(), UploadError> {
    let told = || BucketError::store(format!("upload {path}"));
    let size = content.size();
    if size <= SINGLE_PUT_BYTES_MAX {
        let payload = PutPayload::from(content.part(0..size)?);
        let options = PutOptions {
            extensions: content.origin(),
            ..PutOptions::default()
        };
        store.put_opts(path, payload, options).await.map_err(told())?;
        return Ok(());
    }
    let options = PutMultipartOptions {
        extensions: content.origin(),
        ..PutMultipartOptions::default()
    };
    let begun = store.put_multipart_opts(path, options).await.map_err(told())?;
    let mut upload = WriteMultipart::new_with_chunk_size(begun, PART_BYTES as usize);
    let mut begin = 0;
    while begin < size {
        let end = size.min(begin + PART_BYTES);
        let sent = match upload.wait_for_capacity(PARTS_IN_FLIGHT).await {
            Ok(()) => content.part(begin..end).map_err(UploadError::from),
            Err(error) => Err(told()(error).into()),
        };
        match sent {
            Ok(part) => upload.put(part),
            Err(error) => {
                // Parts that stay behind would be paid for.
                let _ = upload.abort().await;
                return Err(error);
            }
        }
        begin = end;
    }
    upload.finish().await.map_err(told())?;
    Ok(())
}

async fn size_in_bucket(store: &dyn ObjectStore, path: &ObjectPath) -> Result<Option<u64>, BucketError> {
    match store.head(path).await {
        Ok(object) => Ok(Some(object.size)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(BucketError::store(format!("look for {path}"))(error)),
    }
}

fn read_local_meta(fs: &dyn Fs, dir: &Path) -> Result<BlockMeta, UploadError> {
    let path = dir.join(META_FILE);
    let meta = BlockMeta::from_json(&fs.read(&path)?);
    meta.map_err(|reason| BlockError::Meta { path, reason }.into())
}

fn has_deletions(fs: &dyn Fs, dir: &Path) -> Result<bool, UploadError> {
    let path = dir.join(TOMBSTONES_FILE);
    let bytes = match fs.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let tombstones = Tombstones::read(&bytes).map_err(|error| BlockError::Tombstones { path, error })?;
    Ok(!tombstones.is_empty())
}

/// The files that go to the bucket, in the order in which they go: chunks, then index.
fn local_files(fs: &dyn Fs, dir: &Path) -> io::Result<Vec<BlockFile>> {
    let file = |rel_path: String, size_bytes| BlockFile {
        rel_path,
        size_bytes,
        hash: None,
    };
    let chunks = fs.list(&dir.join(CHUNKS_DIR))?;
    let mut files: Vec<BlockFile> = chunks
        .into_iter()
        .map(|entry| file(format!("{CHUNKS_DIR}/{}", entry.name), entry.size))
        .collect();
    files.push(file(INDEX_FILE.to_owned(), fs.size(&dir.join(INDEX_FILE))?));
    Ok(files)
}
