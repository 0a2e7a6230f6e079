//! Looking through the bucket, and taking copies of the indexes of new blocks.

use super::{AsideBlock, Shared, remote::RemoteBlock, state::State};
use crate::{
    block::{BlockMeta, CHUNKS_DIR, INDEX_FILE, META_FILE, segment_name},
    bucket::{
        BlockListing, BucketError, Manifest, ManifestBlock, block_object, list_blocks, read_manifest, read_meta,
        write_manifest,
    },
    index::Index,
};
use futures::StreamExt as _;
use model::{label::Labels, tenant::Tenant, time::TimeRange};
use object_store::ObjectStoreExt as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
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
    /// Blocks outside of the span that is served.
    pub outside: usize,
    /// Whether all of this is what the manifest says, and the bucket was not looked at.
    pub from_manifest: bool,
}

/// What became of a block.
enum Outcome {
    Served(Arc<RemoteBlock>),
    LeftOut(Ulid),
    Outside,
    Aside(Ulid, AsideBlock),
}

/// Why a block cannot be served, while it is being found out.
pub(super) struct Failure {
    reason: String,
    transient: bool,
}

impl Failure {
    /// Why, in words.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

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
        let mut synced = self.syncing.lock().await;
        self.metrics.syncs.inc();
        let mut manifest = None;
        if !*synced {
            self.clean_temporary();
            manifest = self.manifest().await;
        }
        if let Some(manifest) = manifest.filter(|_| !*synced) {
            *synced = true;
            return Ok(self.believe(manifest));
        }
        let listed = list_blocks(&*self.bucket).await.inspect_err(|_| {
            self.metrics.sync_failures.inc();
        })?;
        *synced = true;
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
                Outcome::Outside => state.outside += 1,
                Outcome::Aside(ulid, block) => {
                    if before.aside.get(&ulid).is_none_or(|known| known.reason != block.reason) {
                        tracing::warn!(block = %ulid, reason = block.reason, "block set aside");
                    }
                    state.aside.insert(ulid, block);
                }
            }
        }
        drop(loads);
        report.blocks = state.blocks().count();
        report.dropped = held.len() + report.added - report.blocks;
        self.install(state, &mut report);
        self.clean_cache(&wanted);
        if self.settings.writes_manifest && report.aside == 0 {
            self.renew_manifest().await;
        }
        Ok(report)
    }

    /// What the manifest says is served, until the bucket itself is looked at.
    fn believe(&self, manifest: Manifest) -> SyncReport {
        let mut state = State::default();
        let mut report = SyncReport {
            from_manifest: true,
            ..SyncReport::default()
        };
        for block in manifest.blocks {
            let listing = block.listing();
            if listing.is_marked_for_deletion() {
                continue;
            }
            if block.meta.resolution() > 0 {
                state.left_out.insert(block.meta.ulid);
                continue;
            }
            if self.is_outside(&block.meta) {
                state.outside += 1;
                continue;
            }
            // What is wrong with a block is found out and told when the bucket is looked at.
            if let (Ok(owner), Ok(segments)) = (self.owner(&block.meta), segment_sizes(&listing)) {
                let remote = RemoteBlock::new(block.meta, owner, listing, segments, None);
                state
                    .by_tenant
                    .entry(remote.tenant.clone())
                    .or_default()
                    .push(Arc::new(remote));
            }
        }
        report.blocks = state.blocks().count();
        report.added = report.blocks;
        self.install(state, &mut report);
        report
    }

    /// Makes a state the one that queries see.
    fn install(&self, mut state: State, report: &mut SyncReport) {
        for blocks in state.by_tenant.values_mut() {
            blocks.sort_by_key(|block| (block.meta.min_time, block.meta.ulid));
        }
        report.aside = state.aside.len();
        report.left_out = state.left_out.len();
        report.outside = state.outside;
        self.tell(report);
        *self.state.write() = Arc::new(state);
    }

    /// The manifest, if there is one that can be used.
    async fn manifest(&self) -> Option<Manifest> {
        match read_manifest(&*self.bucket).await {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::warn!(%error, "the manifest cannot be used; the bucket is listed");
                None
            }
        }
    }

    /// Writes the manifest when it does not say what is served. Blocks that this gateway does not serve are not in it, so gateways of
    /// a part of the bucket leave it alone.
    async fn renew_manifest(&self) {
        let state = self.state();
        if state.outside > 0 || !state.left_out.is_empty() {
            return;
        }
        let block = |block: &Arc<RemoteBlock>| ManifestBlock {
            modified: block.listing.modified,
            files: block.listing.files.clone(),
            meta: block.meta.clone(),
        };
        let mut blocks: Vec<ManifestBlock> = state.blocks().map(block).collect();
        blocks.sort_by_key(|block| block.meta.ulid);
        let held = read_manifest(&*self.bucket).await.ok().flatten();
        if held.is_some_and(|held| held.blocks == blocks) {
            return;
        }
        let written = self.env.clock.now();
        if let Err(error) = write_manifest(&*self.bucket, &Manifest { written, blocks }).await {
            tracing::warn!(%error, "the manifest stays as it is; the next start takes longer");
        }
    }

    /// Whether the block lies outside of the span that is served.
    fn is_outside(&self, meta: &BlockMeta) -> bool {
        let now = self.env.clock.now();
        let (min, max) = (self.settings.min_time, self.settings.max_time);
        let min = min.map_or(i64::MIN, |bound| bound.at(now));
        let max = max.map_or(i64::MAX, |bound| bound.at(now));
        !meta.range().overlaps(TimeRange::new(min, max))
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
        let is_good = |block: &&Arc<RemoteBlock>| block.is_loaded() && !block.suspect.load(Ordering::Relaxed);
        if let Some(block) = held.as_ref().filter(is_good) {
            return match self.is_outside(&block.meta) {
                true => Outcome::Outside,
                false => Outcome::Served(Arc::clone(block)),
            };
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
        let known = held
            .as_ref()
            .filter(|block| !block.is_loaded())
            .map(|block| block.meta.clone());
        let meta = match known {
            Some(meta) => Ok(meta),
            None => self.load_meta(ulid).await,
        };
        let meta = match meta {
            Ok(meta) if meta.resolution() > 0 => return Outcome::LeftOut(ulid),
            Ok(meta) if self.is_outside(&meta) => return Outcome::Outside,
            Ok(meta) => meta,
            Err(failure) => return aside(failure, None),
        };
        let owner = match self.owner(&meta) {
            Ok(owner) => owner,
            Err(failure) => return aside(failure, None),
        };
        let (tenant, range) = (owner.0.clone(), meta.range());
        let suspect = held.as_ref().is_some_and(|block| block.suspect.load(Ordering::Relaxed));
        match self.open(meta, owner, &listing, suspect).await {
            Ok(block) => Outcome::Served(Arc::new(block)),
            Err(failure) => aside(failure, Some((tenant, range))),
        }
    }

    /// Whose a block is, and its external labels: those that matchers see and those that series show.
    fn owner(&self, meta: &BlockMeta) -> Result<(Tenant, Labels, Labels), Failure> {
        let labels = meta
            .thanos
            .as_ref()
            .map(|thanos| thanos.labels.clone())
            .unwrap_or_default();
        let tenant = match labels.get(&self.settings.tenant_label) {
            None => self.settings.default_tenant.clone(),
            Some(id) => Tenant::new(id).map_err(|error| Failure::lasting(format!("{META_FILE}: {error}")))?,
        };
        let external = Labels::new(labels).map_err(|error| Failure::lasting(format!("{META_FILE}: {error}")))?;
        let hidden = |name: &str| {
            name == self.settings.tenant_label || self.settings.replica_labels.iter().any(|label| label == name)
        };
        let visible = external.without(hidden);
        Ok((tenant, external, visible))
    }

    /// Opens a block; with `suspect` its index is fetched anew first.
    async fn open(
        &self,
        meta: BlockMeta,
        owner: (Tenant, Labels, Labels),
        listing: &BlockListing,
        suspect: bool,
    ) -> Result<RemoteBlock, Failure> {
        let segments = segment_sizes(listing)?;
        let index = self.open_index(listing, suspect).await?;
        Ok(RemoteBlock::new(meta, owner, listing.clone(), segments, Some(index)))
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
    pub(super) async fn open_index(&self, listing: &BlockListing, suspect: bool) -> Result<Index, Failure> {
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

impl Shared {
    /// Removes what copies left behind when the process ended in between.
    fn clean_temporary(&self) {
        let (fs, dir) = (&self.env.fs, &self.settings.cache_dir);
        for block in fs.list(dir).unwrap_or_default() {
            let block = dir.join(&block.name);
            let left = fs.list(&block).unwrap_or_default();
            for file in left.iter().filter(|file| file.name.ends_with(".tmp")) {
                let _ = fs.remove_file(&block.join(&file.name));
            }
        }
    }
}

/// A file of the cache being written. It gets its name when it is complete and durable.
struct Copy<'a> {
    shared: &'a Shared,
    path: &'a Path,
    temporary: PathBuf,
    file: Box<dyn model::env::File>,
}

impl<'a> Copy<'a> {
    fn begin(shared: &'a Shared, path: &'a Path) -> io::Result<Self> {
        let fs = &shared.env.fs;
        if let Some(dir) = path.parent() {
            fs.create_dir(dir)?;
        }
        let number = shared.copies.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{number}.tmp"));
        Ok(Self {
            shared,
            path,
            file: fs.create(&temporary)?,
            temporary,
        })
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.sync()?;
        self.shared.env.fs.rename(&self.temporary, self.path)
    }
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
