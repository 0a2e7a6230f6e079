//! Looking through the bucket, and taking copies of the indexes of new blocks.

use super::{AsideBlock, Shared, remote::RemoteBlock, state::State};
use crate::{
    block::{BlockMeta, CHUNKS_DIR, INDEX_FILE, META_FILE, segment_name},
    bucket::{BlockListing, BucketError, block_object, list_blocks, read_meta},
    index::Index,
};
use futures::StreamExt as _;
use model::{label::Labels, tenant::Tenant, time::TimeRange};
use object_store::ObjectStoreExt as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use ulid::Ulid;

/// What a sync found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Blocks that are served now.
    pub blocks: usize,
    /// Of those, blocks that were not served before.
    pub added: usize,
    /// Blocks that were served before and are not any more.
    pub dropped: usize,
    /// Blocks that cannot be read.
    pub aside: usize,
    /// Blocks whose upload is not complete.
    pub partial: usize,
    /// Downsampled blocks, which raw queries do not use.
    pub left_out: usize,
}

/// What became of a block.
enum Outcome {
    Served(Arc<RemoteBlock>),
    LeftOut(Ulid),
    Aside(Ulid, AsideBlock),
}

/// Why a block cannot be served, while it is being found out.
struct Failure {
    reason: String,
    transient: bool,
}

impl Failure {
    fn lasting(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            transient: false,
        }
    }
}

impl From<BucketError> for Failure {
    fn from(error: BucketError) -> Self {
        let transient = matches!(error, BucketError::Store { .. });
        Self {
            reason: error.to_string(),
            transient,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            reason: format!("local copy of the index: {error}"),
            transient: true,
        }
    }
}

impl Shared {
    /// See [`super::Gateway::sync`].
    pub(super) async fn sync(&self) -> Result<SyncReport, BucketError> {
        let _running = self.syncing.lock().await;
        self.metrics.syncs.inc();
        let listed = list_blocks(&*self.bucket).await.inspect_err(|_| {
            self.metrics.sync_failures.inc();
        })?;
        let before = self.state();
        let held: BTreeMap<Ulid, &Arc<RemoteBlock>> = before.blocks().map(|block| (block.meta.ulid, block)).collect();
        let mut report = SyncReport::default();
        let mut wanted = BTreeSet::new();
        let mut loads = Vec::new();
        for listing in listed.into_values() {
            if listing.is_marked_for_deletion() {
                continue;
            }
            if !listing.is_complete() {
                report.partial += 1;
                continue;
            }
            wanted.insert(listing.ulid);
            loads.push(self.load(held.get(&listing.ulid).map(|block| Arc::clone(block)), &before, listing));
        }
        let mut loads = futures::stream::iter(loads).buffer_unordered(self.settings.loads_in_flight.max(1));
        let mut state = State::default();
        while let Some(outcome) = loads.next().await {
            match outcome {
                Outcome::Served(block) => {
                    report.added += usize::from(!held.contains_key(&block.meta.ulid));
                    state.by_tenant.entry(block.tenant.clone()).or_default().push(block);
                }
                Outcome::LeftOut(ulid) => drop(state.left_out.insert(ulid)),
                Outcome::Aside(ulid, block) => {
                    if before.aside.get(&ulid).is_none_or(|known| known.reason != block.reason) {
                        tracing::warn!(block = %ulid, reason = block.reason, "block set aside");
                    }
                    state.aside.insert(ulid, block);
                }
            }
        }
        drop(loads);
        for blocks in state.by_tenant.values_mut() {
            blocks.sort_by_key(|block| (block.meta.min_time, block.meta.ulid));
        }
        report.blocks = state.blocks().count();
        report.dropped = held.len() + report.added - report.blocks;
        report.aside = state.aside.len();
        report.left_out = state.left_out.len();
        self.tell(&report);
        *self.state.write() = Arc::new(state);
        self.clean_cache(&wanted);
        Ok(report)
    }

    fn tell(&self, report: &SyncReport) {
        self.metrics.blocks.set(report.blocks as i64);
        self.metrics.blocks_aside.set(report.aside as i64);
        self.metrics.blocks_partial.set(report.partial as i64);
        self.metrics.last_sync.set(self.env.clock.now() / 1000);
    }

    /// Finds out what becomes of a block; does nothing anew that an earlier sync did.
    async fn load(&self, held: Option<Arc<RemoteBlock>>, before: &State, listing: BlockListing) -> Outcome {
        let ulid = listing.ulid;
        if let Some(block) = held.as_ref().filter(|block| !block.suspect.load(Ordering::Relaxed)) {
            return Outcome::Served(Arc::clone(block));
        }
        if before.left_out.contains(&ulid) {
            return Outcome::LeftOut(ulid);
        }
        match before.aside.get(&ulid) {
            Some(aside) if !aside.transient && aside.listing == listing => {
                return Outcome::Aside(ulid, aside.clone());
            }
            _ => {}
        }
        let aside = |failure: Failure, owner: Option<(Tenant, TimeRange)>| {
            let Failure { reason, transient } = failure;
            let (tenant, range) = owner.unzip();
            Outcome::Aside(
                ulid,
                AsideBlock {
                    reason,
                    tenant,
                    range,
                    transient,
                    listing: listing.clone(),
                },
            )
        };
        let meta = match self.load_meta(ulid).await {
            Ok(meta) if meta.resolution() > 0 => return Outcome::LeftOut(ulid),
            Ok(meta) => meta,
            Err(failure) => return aside(failure, None),
        };
        let tenant = match self.owner(&meta) {
            Ok(tenant) => tenant,
            Err(failure) => return aside(failure, None),
        };
        let owner = (tenant.clone(), meta.range());
        match self.open(meta, tenant, &listing, held.is_some()).await {
            Ok(block) => Outcome::Served(Arc::new(block)),
            Err(failure) => aside(failure, Some(owner)),
        }
    }

    /// Whose a block is.
    fn owner(&self, meta: &BlockMeta) -> Result<Tenant, Failure> {
        let id = meta
            .thanos
            .as_ref()
            .and_then(|thanos| thanos.labels.get(&self.settings.tenant_label));
        match id {
            None => Ok(self.settings.default_tenant.clone()),
            Some(id) => Tenant::new(id).map_err(|error| Failure::lasting(format!("{META_FILE}: {error}"))),
        }
    }

    /// Opens a block; with `suspect` its index is fetched anew first.
    async fn open(
        &self,
        meta: BlockMeta,
        tenant: Tenant,
        listing: &BlockListing,
        suspect: bool,
    ) -> Result<RemoteBlock, Failure> {
        let labels = meta
            .thanos
            .as_ref()
            .map(|thanos| thanos.labels.clone())
            .unwrap_or_default();
        let external = Labels::new(labels).map_err(|error| Failure::lasting(format!("{META_FILE}: {error}")))?;
        let hidden = |name: &str| {
            name == self.settings.tenant_label || self.settings.replica_labels.iter().any(|label| label == name)
        };
        let visible = external.without(hidden);
        let segments = segment_sizes(listing)?;
        let index = self.open_index(listing, suspect).await?;
        Ok(RemoteBlock {
            meta,
            tenant,
            external,
            visible,
            index,
            segments,
            suspect: AtomicBool::new(false),
        })
    }

    /// The description, from the cache when it is there.
    async fn load_meta(&self, ulid: Ulid) -> Result<BlockMeta, Failure> {
        let path = self.cached(ulid, META_FILE);
        let cached = self
            .env
            .fs
            .read(&path)
            .ok()
            .and_then(|bytes| BlockMeta::from_json(&bytes).ok());
        if let Some(meta) = cached.filter(|meta| meta.ulid == ulid) {
            return Ok(meta);
        }
        let meta = read_meta(&*self.bucket, ulid).await?;
        let mut copy = Copy::begin(self, &path)?;
        copy.file.append(&meta.to_json())?;
        copy.finish()?;
        Ok(meta)
    }

    /// The index, from the cache when the copy there is whole.
    async fn open_index(&self, listing: &BlockListing, suspect: bool) -> Result<Index, Failure> {
        let Some(&size) = listing.files.get(INDEX_FILE) else {
            return Err(Failure::lasting("the bucket has no index of the block"));
        };
        let path = self.cached(listing.ulid, INDEX_FILE);
        if !suspect && self.env.fs.size(&path).is_ok_and(|cached| cached == size) {
            match Index::open(self.env.fs.map(&path)?) {
                Ok(index) => return Ok(index),
                Err(error) => {
                    tracing::warn!(block = %listing.ulid, %error, "the cached index is damaged and is fetched anew");
                }
            }
        }
        self.download(listing.ulid, size, &path).await?;
        Index::open(self.env.fs.map(&path)?).map_err(|error| Failure::lasting(format!("{INDEX_FILE}: {error}")))
    }

    async fn download(&self, ulid: Ulid, size: u64, path: &Path) -> Result<(), Failure> {
        let object = block_object(ulid, INDEX_FILE);
        let told = || format!("read {object}");
        self.metrics.index_downloads.inc();
        let got = self.bucket.get(&object).await.map_err(BucketError::store(told()))?;
        let mut bytes = got.into_stream();
        let mut copy = Copy::begin(self, path)?;
        let mut written = 0u64;
        while let Some(part) = bytes.next().await {
            let part = part.map_err(BucketError::store(told()))?;
            written += part.len() as u64;
            if written > size {
                break;
            }
            copy.file.append(&part)?;
        }
        if written != size {
            let reason = format!("{INDEX_FILE}: the bucket gave {written} bytes instead of {size}");
            return Err(Failure {
                reason,
                transient: true,
            });
        }
        Ok(copy.finish()?)
    }

    fn cached(&self, ulid: Ulid, file: &str) -> PathBuf {
        self.settings.cache_dir.join(ulid.to_string()).join(file)
    }

    /// Removes copies of blocks that are not wanted any more. A failure only costs space, until the next sync.
    fn clean_cache(&self, wanted: &BTreeSet<Ulid>) {
        let dir = &self.settings.cache_dir;
        for entry in self.env.fs.list(dir).unwrap_or_default() {
            let gone = Ulid::from_string(&entry.name).is_ok_and(|ulid| !wanted.contains(&ulid));
            if !gone {
                continue;
            }
            if let Err(error) = self.env.fs.remove_dir(&dir.join(&entry.name)) {
                tracing::warn!(block = entry.name, %error, "the copy of a vanished block's index stays behind");
            }
        }
    }
}

/// A file of the cache being written. It gets its name when it is complete and durable.
struct Copy<'a> {
    shared: &'a Shared,
    path: &'a Path,
    file: Box<dyn model::env::File>,
}

impl<'a> Copy<'a> {
    fn begin(shared: &'a Shared, path: &'a Path) -> io::Result<Self> {
        let fs = &shared.env.fs;
        if let Some(dir) = path.parent() {
            fs.create_dir(dir)?;
        }
        let temporary = temporary(path);
        match fs.remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self {
            shared,
            path,
            file: fs.create(&temporary)?,
        })
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.sync()?;
        self.shared.env.fs.rename(&temporary(self.path), self.path)
    }
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

/// Sizes of a block's segments, which must be numbered from 1 on.
fn segment_sizes(listing: &BlockListing) -> Result<Vec<u64>, Failure> {
    let prefix = format!("{CHUNKS_DIR}/");
    let segments = listing
        .files
        .iter()
        .filter_map(|(path, size)| Some((path.strip_prefix(&prefix)?, *size)));
    let mut sizes = Vec::new();
    for (name, size) in segments {
        let expected = segment_name(sizes.len() as u32);
        if name != expected {
            return Err(Failure::lasting(format!(
                "chunk segment {expected} is missing, found {name}"
            )));
        }
        sizes.push(size);
    }
    Ok(sizes)
}
