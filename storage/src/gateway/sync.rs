//! Looking through the bucket: which blocks there are, which of them are served, and what is wrong with the others.
//!
//! At the first look the manifest is believed, and blocks are served after one request. Every other look lists the bucket, reads the
//! descriptions that are not known yet, and serves what it found at once; then it sees to it that the headers of all served blocks
//! are on disk. Descriptions that are known are kept in the cache folder, in the form of a manifest.

use super::{
    Shared,
    copy::Copy,
    failure::Failure,
    remote::RemoteBlock,
    state::{AsideBlock, Hidden, State},
};
use crate::{
    block::{BlockMeta, CHUNKS_DIR, META_FILE, segment_name},
    bucket::{
        BlockListing, BucketError, DeletionMark, MANIFEST_FILE, Manifest, ManifestBlock, list_blocks, manifest_tag,
        read_manifest, read_mark, read_meta, write_manifest,
    },
};
use futures::StreamExt as _;
use model::{label::Labels, tenant::Tenant, time::TimeRange, time::Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};
use ulid::Ulid;

/// Descriptions and marks read at the same time.
const READS_IN_FLIGHT: usize = 32;

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
    /// Blocks that are in order and not served for another reason: see [`Hidden`].
    pub hidden: usize,
    /// Whether all of this is what the manifest says, and the bucket was not looked at.
    pub from_manifest: bool,
}

/// What is known from one sync to the next. Held by the sync that runs.
#[derive(Default)]
pub(super) struct Ledger {
    /// Whether a sync ran.
    begun: bool,
    /// Complete blocks whose description was read.
    known: BTreeMap<Ulid, ManifestBlock>,
    /// The manifest of the bucket as it was seen or written last, and what it looked like from outside.
    manifest: Option<(Vec<ManifestBlock>, String)>,
    /// What the cache folder holds.
    saved: Vec<Ulid>,
}

/// What becomes of a block.
enum Verdict {
    Served(Arc<RemoteBlock>),
    Hidden(Hidden),
    Aside(AsideBlock),
}

impl Shared {
    /// See [`super::Gateway::sync`].
    pub(super) async fn sync(&self) -> Result<SyncReport, BucketError> {
        let mut ledger = self.syncing.lock().await;
        self.metrics.syncs.inc();
        if !ledger.begun {
            ledger.begun = true;
            self.clean_temporary();
            self.recall(&mut ledger);
            if self.believe_manifest(&mut ledger).await {
                let mut state = self.sort_out(&ledger, &BTreeMap::new());
                state.is_believed = true;
                let report = SyncReport {
                    from_manifest: true,
                    ..SyncReport::default()
                };
                return Ok(self.install(state, report, &BTreeSet::new()));
            }
        }
        let listed = list_blocks(&*self.bucket).await.inspect_err(|_| {
            self.metrics.sync_failures.inc();
        })?;
        let all = listed.len();
        let complete: BTreeMap<Ulid, BlockListing> = listed
            .into_iter()
            .filter(|(_, listing)| listing.is_complete())
            .collect();
        let partial = all - complete.len();
        let failures = self.describe(&mut ledger, complete).await;
        let report = SyncReport {
            partial,
            ..SyncReport::default()
        };
        let before = served(&self.state());
        let state = self.sort_out(&ledger, &failures);
        self.install(state, report, &before);
        let state = self.prepare().await;
        let report = self.install(state, report, &before);
        self.clean_cache(&ledger);
        self.remember(&mut ledger);
        if self.settings.writes_manifest && failures.is_empty() {
            self.renew_manifest(&mut ledger).await;
        }
        Ok(report)
    }

    /// Takes in what the manifest of the bucket says; whether there is one that can be used.
    async fn believe_manifest(&self, ledger: &mut Ledger) -> bool {
        match read_manifest(&*self.bucket).await {
            Ok(None) => false,
            Ok(Some((manifest, tag))) => {
                let blocks = manifest.blocks.iter().cloned();
                ledger.known = blocks.map(|block| (block.meta.ulid, block)).collect();
                ledger.manifest = Some((manifest.blocks, tag));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the manifest cannot be used; the bucket is listed");
                false
            }
        }
    }

    /// Brings what is known up to what was listed; gives the blocks whose description or mark cannot be read.
    async fn describe(
        &self,
        ledger: &mut Ledger,
        complete: BTreeMap<Ulid, BlockListing>,
    ) -> BTreeMap<Ulid, (BlockListing, Failure)> {
        ledger.known.retain(|ulid, _| complete.contains_key(ulid));
        let reads = complete.into_values().map(|listing| {
            let known = ledger.known.get(&listing.ulid).cloned();
            async { (listing.ulid, self.describe_one(known, listing).await) }
        });
        let reads: Vec<_> = reads.collect();
        let mut reads = futures::stream::iter(reads).buffer_unordered(READS_IN_FLIGHT);
        let mut failures = BTreeMap::new();
        while let Some((ulid, outcome)) = reads.next().await {
            match outcome {
                Ok(block) => drop(ledger.known.insert(ulid, block)),
                Err(failure) => {
                    ledger.known.remove(&ulid);
                    failures.insert(ulid, failure);
                }
            }
        }
        failures
    }

    async fn describe_one(
        &self,
        known: Option<ManifestBlock>,
        listing: BlockListing,
    ) -> Result<ManifestBlock, (BlockListing, Failure)> {
        let size = |files: &BTreeMap<String, u64>| files.get(META_FILE).copied();
        let known = known.filter(|known| size(&known.files) == size(&listing.files));
        let (held, time) = match known {
            Some(known) => (Some(known.meta), known.deletion_time),
            None => (None, None),
        };
        let meta = match held {
            Some(meta) => Ok(meta),
            None => read_meta(&*self.bucket, listing.ulid).await,
        };
        let mark = match (listing.is_marked_for_deletion(), time) {
            (false, _) => Ok(None),
            (true, Some(time)) => Ok(Some(time)),
            (true, None) => read_mark::<DeletionMark>(&*self.bucket, listing.ulid)
                .await
                .map(|mark| mark.map(|mark| mark.deletion_time)),
        };
        let meta = match meta {
            Ok(meta) => meta,
            Err(error) => return Err((listing, error.into())),
        };
        let deletion_time = match mark {
            Ok(time) => time,
            // A mark that is no mark still says what somebody wanted; it counts from the beginning.
            Err(BucketError::Invalid { .. }) => Some(0),
            // Until it can be read the block is served on.
            Err(BucketError::Store { .. }) => None,
        };
        let BlockListing { files, modified, .. } = listing;
        Ok(ManifestBlock {
            modified,
            files,
            meta,
            deletion_time,
        })
    }

    /// Decides about every block, from what is known; asks nobody.
    fn sort_out(&self, ledger: &Ledger, failures: &BTreeMap<Ulid, (BlockListing, Failure)>) -> State {
        let before = self.state();
        let served: BTreeMap<Ulid, &Arc<RemoteBlock>> = before.blocks().map(|block| (block.meta.ulid, block)).collect();
        let now = self.env.clock.now();
        let mut state = State::default();
        for (ulid, block) in &ledger.known {
            let held = served.get(ulid).map(|held| Arc::clone(held));
            match self.judge(block, held, before.aside.get(ulid), now) {
                Verdict::Served(block) => state.by_tenant.entry(block.tenant.clone()).or_default().push(block),
                Verdict::Hidden(why) => *state.hidden.entry(why).or_default() += 1,
                Verdict::Aside(aside) => drop(state.aside.insert(*ulid, aside)),
            }
        }
        for (ulid, (listing, failure)) in failures {
            let aside = AsideBlock::new(failure.clone(), listing.clone(), None);
            state.aside.insert(*ulid, aside);
        }
        state
    }

    fn judge(
        &self,
        block: &ManifestBlock,
        held: Option<Arc<RemoteBlock>>,
        aside: Option<&AsideBlock>,
        now: Timestamp,
    ) -> Verdict {
        let listing = block.listing();
        if let Some(why) = self.is_hidden(block, now) {
            return Verdict::Hidden(why);
        }
        if let Some(held) = held.filter(|held| held.listing.files == listing.files && held.meta == block.meta) {
            return Verdict::Served(held);
        }
        if let Some(aside) = aside.filter(|aside| !aside.transient && aside.listing == listing) {
            return Verdict::Aside(aside.clone());
        }
        let owner = match self.owner(&block.meta) {
            Ok(owner) => owner,
            Err(failure) => return Verdict::Aside(AsideBlock::new(failure, listing, None)),
        };
        match segment_sizes(&listing) {
            Ok(segments) => {
                let meta = block.meta.clone();
                Verdict::Served(Arc::new(RemoteBlock::new(meta, owner, listing, segments)))
            }
            Err(failure) => {
                let whose = (owner.0, block.meta.range());
                Verdict::Aside(AsideBlock::new(failure, listing, Some(whose)))
            }
        }
    }

    /// Why a block is not served although nothing is wrong with it.
    fn is_hidden(&self, block: &ManifestBlock, now: Timestamp) -> Option<Hidden> {
        let (meta, settings) = (&block.meta, &self.settings);
        let delay = settings.deletion_marks_delay.as_millis() as i64;
        let marked = block.deletion_time.map(|seconds| seconds.saturating_mul(1000));
        if marked.is_some_and(|marked| now.saturating_sub(marked) >= delay) {
            return Some(Hidden::Marked);
        }
        if block.listing().is_marked_no_query() {
            return Some(Hidden::NoQuery);
        }
        let source = meta.thanos.as_ref().map_or("", |thanos| &*thanos.source);
        // What a compactor made replaces blocks that are about to go.
        let is_compacted = matches!(source, "compactor" | "compactor.repair" | "bucket.repair");
        // Whichever is older: the block's own clock may be ahead of ours, or the store's.
        let made = i64::try_from(meta.ulid.timestamp_ms())
            .unwrap_or(i64::MAX)
            .min(block.modified);
        let consistency_delay = settings.consistency_delay.as_millis() as i64;
        if !is_compacted && consistency_delay > 0 && now.saturating_sub(made) < consistency_delay {
            return Some(Hidden::Fresh);
        }
        if meta.resolution() > 0 {
            return Some(Hidden::Downsampled);
        }
        let min = settings.min_time.map_or(i64::MIN, |bound| bound.at(now));
        let max = settings.max_time.map_or(i64::MAX, |bound| bound.at(now));
        if !meta.range().overlaps(TimeRange::new(min, max)) {
            return Some(Hidden::Outside);
        }
        (!settings.selector.selects(meta)).then_some(Hidden::NotSelected)
    }

    /// Whose a block is, and its external labels: those that matchers see and those that series show.
    fn owner(&self, meta: &BlockMeta) -> Result<(Tenant, Labels, Labels), Failure> {
        let wrong = |error: &dyn std::fmt::Display| Failure::lasting("labels", format!("{META_FILE}: {error}"));
        let labels = meta.thanos.as_ref().map(|thanos| thanos.labels.clone());
        let labels = labels.unwrap_or_default();
        let tenant = match labels.get(&self.settings.tenant_label) {
            None => self.settings.default_tenant.clone(),
            Some(id) => Tenant::new(id).map_err(|error| wrong(&error))?,
        };
        let external = Labels::new(labels).map_err(|error| wrong(&error))?;
        let hidden = |name: &str| {
            name == self.settings.tenant_label || self.settings.replica_labels.iter().any(|label| label == name)
        };
        let visible = external.without(hidden);
        Ok((tenant, external, visible))
    }

    /// Makes a state the one that queries see, and tells how it differs from what was served `before` the sync.
    fn install(&self, mut state: State, mut report: SyncReport, before: &BTreeSet<Ulid>) -> SyncReport {
        for blocks in state.by_tenant.values_mut() {
            blocks.sort_by_key(|block| (block.meta.min_time, block.meta.ulid));
        }
        let now = served(&state);
        report.blocks = now.len();
        report.added = now.difference(before).count();
        report.dropped = before.difference(&now).count();
        report.aside = state.aside.len();
        report.left_out = state.hidden(Hidden::Downsampled);
        report.hidden = state.hidden.values().sum::<usize>() - report.left_out;
        let told = self.state();
        for (ulid, block) in &state.aside {
            if told.aside.get(ulid).is_none_or(|known| known.reason != block.reason) {
                tracing::warn!(block = %ulid, reason = block.reason, "block set aside");
            }
        }
        self.tell(&state, &report);
        *self.state.write() = Arc::new(state);
        report
    }

    fn tell(&self, state: &State, report: &SyncReport) {
        let metrics = &self.metrics;
        metrics.blocks.set(report.blocks as i64);
        metrics.blocks_partial.set(report.partial as i64);
        metrics.last_sync.set(self.env.clock.now() / 1000);
        let (memory, disk) = self.cache.sizes();
        metrics.cache_memory.set(memory as i64);
        metrics.cache_disk.set(disk as i64);
        for why in Hidden::ALL {
            let gauge = metrics.blocks_hidden.get_or_create(&[("reason", why.name())]);
            gauge.set(state.hidden(why) as i64);
        }
        for kind in Failure::KINDS {
            let count = state.aside.values().filter(|block| block.kind == kind).count();
            metrics
                .blocks_aside
                .get_or_create(&[("reason", kind)])
                .set(count as i64);
        }
    }

    /// Sees to it that the header of every served block is on disk and in order; sets those aside for which that fails.
    async fn prepare(&self) -> State {
        let state = self.state();
        let needs = |block: &&Arc<RemoteBlock>| {
            !block.prepared.load(Ordering::Relaxed) || block.suspect.load(Ordering::Relaxed)
        };
        let work = state.blocks().filter(needs).cloned().map(|block| async move {
            let anew = block.suspect.load(Ordering::Relaxed);
            let outcome = self.prepare_header(&block.listing, anew).await;
            block.prepared.store(outcome.is_ok(), Ordering::Relaxed);
            block.suspect.store(false, Ordering::Relaxed);
            (block, outcome.err())
        });
        let work: Vec<_> = work.collect();
        let in_flight = self.settings.loads_in_flight.max(1);
        let outcomes: Vec<_> = futures::stream::iter(work).buffer_unordered(in_flight).collect().await;
        let mut state = (*state).clone();
        for (block, failure) in outcomes
            .into_iter()
            .filter_map(|(block, failure)| Some((block, failure?)))
        {
            let whose = (block.tenant.clone(), block.meta.range());
            if let Some(blocks) = state.by_tenant.get_mut(&block.tenant) {
                blocks.retain(|other| other.meta.ulid != block.meta.ulid);
            }
            let aside = AsideBlock::new(failure, block.listing.clone(), Some(whose));
            state.aside.insert(block.meta.ulid, aside);
        }
        state.by_tenant.retain(|_, blocks| !blocks.is_empty());
        state
    }

    /// Writes the manifest when it does not say what is known. Every gateway of a bucket writes the same one, whatever part it serves.
    async fn renew_manifest(&self, ledger: &mut Ledger) {
        let blocks: Vec<ManifestBlock> = ledger.known.values().cloned().collect();
        let tag = manifest_tag(&*self.bucket).await.ok().flatten();
        if ledger
            .manifest
            .as_ref()
            .is_some_and(|(seen, seen_tag)| *seen == blocks && Some(seen_tag) == tag.as_ref())
        {
            return;
        }
        let manifest = Manifest {
            written: self.env.clock.now(),
            blocks,
        };
        match write_manifest(&*self.bucket, &manifest).await {
            Ok(tag) => ledger.manifest = Some((manifest.blocks, tag)),
            Err(error) => tracing::warn!(%error, "the manifest stays as it is; the next start takes longer"),
        }
    }
}

/// The cache folder.
impl Shared {
    pub(super) fn cached(&self, ulid: Ulid, file: &str) -> PathBuf {
        self.settings.cache_dir.join(ulid.to_string()).join(file)
    }

    /// Takes in the descriptions that were saved, if they can be read.
    fn recall(&self, ledger: &mut Ledger) {
        let Ok(bytes) = self.env.fs.read(&self.settings.cache_dir.join(MANIFEST_FILE)) else {
            return;
        };
        match Manifest::from_bytes(&bytes) {
            Ok(manifest) => {
                let blocks = manifest.blocks.into_iter();
                ledger.known = blocks.map(|block| (block.meta.ulid, block)).collect();
                ledger.saved = ledger.known.keys().copied().collect();
            }
            Err(error) => tracing::warn!(%error, "the saved descriptions of blocks are damaged and are read anew"),
        }
    }

    /// Saves the descriptions when there are others than before. A failure costs the next start time.
    fn remember(&self, ledger: &mut Ledger) {
        if ledger.saved.iter().eq(ledger.known.keys()) {
            return;
        }
        let manifest = Manifest {
            written: self.env.clock.now(),
            blocks: ledger.known.values().cloned().collect(),
        };
        let path = self.settings.cache_dir.join(MANIFEST_FILE);
        let saved = manifest
            .to_bytes()
            .map_err(|error| error.to_string())
            .and_then(|bytes| {
                let write = Copy::begin(self, &path).and_then(|mut copy| {
                    copy.append(&bytes)?;
                    copy.finish()
                });
                write.map_err(|error| error.to_string())
            });
        match saved {
            Ok(()) => ledger.saved = ledger.known.keys().copied().collect(),
            Err(error) => tracing::warn!(
                error,
                "descriptions of blocks are not saved; the next start takes longer"
            ),
        }
    }

    /// Removes headers of blocks that are not there any more. A failure only costs space, until the next sync.
    fn clean_cache(&self, ledger: &Ledger) {
        let dir = &self.settings.cache_dir;
        let state = self.state();
        let wanted = served(&state);
        for entry in self.env.fs.list(dir).unwrap_or_default() {
            let is_gone = |ulid: Ulid| !wanted.contains(&ulid) && !ledger.known.contains_key(&ulid);
            let is_hidden = |ulid: Ulid| !wanted.contains(&ulid) && !state.aside.contains_key(&ulid);
            if !Ulid::from_string(&entry.name).is_ok_and(|ulid| is_gone(ulid) || is_hidden(ulid)) {
                continue;
            }
            if let Err(error) = self.env.fs.remove_dir(&dir.join(&entry.name)) {
                tracing::warn!(block = entry.name, %error, "the header of a vanished block stays behind");
            }
        }
    }

    /// Removes what copies left behind when the process ended in between.
    fn clean_temporary(&self) {
        let (fs, dir) = (&self.env.fs, &self.settings.cache_dir);
        let remove = |dir: PathBuf| {
            for file in fs.list(&dir).unwrap_or_default() {
                if file.name.ends_with(".tmp") {
                    let _ = fs.remove_file(&dir.join(&file.name));
                }
            }
        };
        for block in fs.list(dir).unwrap_or_default().iter().filter(|entry| entry.is_dir) {
            remove(dir.join(&block.name));
        }
        remove(dir.clone());
    }
}

fn served(state: &State) -> BTreeSet<Ulid> {
    state.blocks().map(|block| block.meta.ulid).collect()
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
            let reason = format!("chunk segment {expected} is missing, found {name}");
            return Err(Failure::lasting("chunks", reason));
        }
        sizes.push(size);
    }
    Ok(sizes)
}
