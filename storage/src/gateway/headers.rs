//! Headers of indexes: fetched from the bucket by ranges, kept in the cache folder, opened when a query needs them.
//!
//! A header on disk is what makes a block ready; an open one is mapped. So many are open at once as fit into a bound, and the one
//! that was not used for longest is closed first.

use super::{Shared, copy::Copy, failure::Failure};
use crate::{
    block::INDEX_FILE,
    bucket::{BlockListing, BucketError, block_object},
    index::{HeaderPlan, Index},
};
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{GetOptions, GetRange, ObjectStore as _, path::Path as ObjectPath};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};
use ulid::Ulid;

/// Name of a header in the folder of its block.
const HEADER_FILE: &str = "header";

/// Indexes up to this size are read at once.
const WHOLE_BYTES_MAX: u64 = 256 << 10;

/// Read from the end of a larger index at first: table of contents and, mostly, a part of the postings offset table.
const TAIL_BYTES: u64 = 64 << 10;

/// Open headers, by block.
pub(super) struct Headers {
    open: Mutex<Open>,
    bytes_max: u64,
}

#[derive(Default)]
struct Open {
    headers: BTreeMap<Ulid, (Arc<Index>, u64)>,
    bytes: u64,
    /// Grows with each use.
    clock: u64,
}

impl Headers {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            open: Mutex::default(),
            bytes_max,
        }
    }

    fn get(&self, ulid: Ulid) -> Option<Arc<Index>> {
        let mut open = self.open.lock();
        open.clock += 1;
        let now = open.clock;
        let (index, used) = open.headers.get_mut(&ulid)?;
        *used = now;
        Some(Arc::clone(index))
    }

    fn put(&self, ulid: Ulid, index: Arc<Index>) {
        let mut open = self.open.lock();
        open.clock += 1;
        let now = open.clock;
        open.bytes += index.size();
        if let Some((before, _)) = open.headers.insert(ulid, (index, now)) {
            open.bytes -= before.size();
        }
        while open.bytes > self.bytes_max && open.headers.len() > 1 {
            let oldest = open
                .headers
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(ulid, _)| *ulid);
            let Some((index, _)) = oldest.and_then(|ulid| open.headers.remove(&ulid)) else {
                break;
            };
            open.bytes -= index.size();
        }
    }

    /// Closes a header, so that its file is looked at anew.
    pub(super) fn close(&self, ulid: Ulid) {
        let mut open = self.open.lock();
        if let Some((index, _)) = open.headers.remove(&ulid) {
            open.bytes -= index.size();
        }
    }
}

impl Shared {
    /// The header of a block, fetched now if need be.
    pub(super) async fn header(&self, listing: &BlockListing) -> Result<Arc<Index>, Failure> {
        if let Some(index) = self.headers.get(listing.ulid) {
            return Ok(index);
        }
        let size = index_size(listing)?;
        let path = self.header_path(listing.ulid);
        let index = match self.open_header(&path, size) {
            Some(index) => index,
            None => {
                self.fetch_header(listing, size, &path).await?;
                let opened = Index::open_header(self.env.fs.map(&path)?, size);
                Arc::new(opened.map_err(|error| Failure::lasting("index", format!("{INDEX_FILE}: {error}")))?)
            }
        };
        self.headers.put(listing.ulid, Arc::clone(&index));
        Ok(index)
    }

    /// Sees to it that the header of a block is on disk and in order; `anew` when the one there is not to be trusted.
    pub(super) async fn prepare_header(&self, listing: &BlockListing, anew: bool) -> Result<(), Failure> {
        let size = index_size(listing)?;
        let path = self.header_path(listing.ulid);
        if !anew && self.open_header(&path, size).is_some() {
            return Ok(());
        }
        self.headers.close(listing.ulid);
        self.fetch_header(listing, size, &path).await?;
        let opened = Index::open_header(self.env.fs.map(&path)?, size);
        opened
            .map(drop)
            .map_err(|error| Failure::lasting("index", format!("{INDEX_FILE}: {error}")))
    }

    fn header_path(&self, ulid: Ulid) -> PathBuf {
        self.cached(ulid, HEADER_FILE)
    }

    /// The header in the cache, when it is there and whole.
    fn open_header(&self, path: &Path, size: u64) -> Option<Arc<Index>> {
        let mapped = self.env.fs.map(path).ok()?;
        match Index::open_header(mapped, size) {
            Ok(index) => Some(Arc::new(index)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a cached index header is damaged and is fetched anew");
                None
            }
        }
    }

    async fn fetch_header(&self, listing: &BlockListing, size: u64, path: &Path) -> Result<(), Failure> {
        let object = block_object(listing.ulid, INDEX_FILE);
        self.metrics.index_downloads.inc();
        let tail_begin = if size <= WHOLE_BYTES_MAX { 0 } else { size - TAIL_BYTES };
        let tail = self.reads.range(&object, tail_begin..size).await;
        let tail = tail.map_err(BucketError::store(format!("read {object}")))?;
        let plan = HeaderPlan::read(&tail, size)
            .map_err(|error| Failure::lasting("index", format!("{INDEX_FILE}: {error}")))?;
        let mut copy = Copy::begin(self, path)?;
        copy.append(&plan.begin())?;
        for range in [plan.before_series(), plan.behind_series()] {
            // What lies before the tail, and what lies inside.
            let begin = range.start.min(tail_begin)..range.end.min(tail_begin);
            self.copy_range(&object, begin, &mut copy).await?;
            copy.append(&inside(&tail, tail_begin, &range))?;
        }
        Ok(copy.finish()?)
    }

    async fn copy_range(&self, object: &ObjectPath, range: Range<u64>, copy: &mut Copy<'_>) -> Result<(), Failure> {
        if range.is_empty() {
            return Ok(());
        }
        let told = || format!("read {object}");
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let got = self.bucket.get_opts(object, options).await;
        let mut bytes = got.map_err(BucketError::store(told()))?.into_stream();
        let (length, mut written) = (range.end - range.start, 0u64);
        while let Some(part) = bytes.try_next().await.map_err(BucketError::store(told()))? {
            written += part.len() as u64;
            if written > length {
                break;
            }
            copy.append(&part)?;
        }
        match written == length {
            true => Ok(()),
            false => Err(Failure::passing(
                "unreadable",
                format!("{INDEX_FILE}: the bucket gave {written} bytes instead of {length}"),
            )),
        }
    }
}

/// The part of `range` of an index that lies in its tail.
fn inside(tail: &Bytes, tail_begin: u64, range: &Range<u64>) -> Bytes {
    let place = |at: u64| (at.max(tail_begin) - tail_begin) as usize;
    tail.slice(place(range.start).min(tail.len())..place(range.end).min(tail.len()))
}

fn index_size(listing: &BlockListing) -> Result<u64, Failure> {
    let size = listing.files.get(INDEX_FILE).copied();
    size.ok_or_else(|| Failure::lasting("index", "the bucket has no index of the block"))
}
