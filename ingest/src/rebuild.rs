//! The second half of replay: takes steps and ends with the head that was.
//!
//! A sample that the head has already is passed over, as a commit would; so it does no harm that image and segments overlap. Samples
//! that are in a local block do not come back either: the block says up to where it has each series.

use crate::{
    blocks::LocalBlock,
    codec::Damage,
    core::{Committer, Core, TenantState},
    decode::Step,
    delete,
    head::{
        chunk::{FLAG_HISTOGRAM, NEVER},
        extras::StoredExemplar,
        shard::{place, shard_of},
    },
    image::ImageSummary,
    late,
    numbers::Slots,
    restore::{Cut, Cuts, Floats, is_cut, note},
    restore_image::restore,
    wal::{floats::FloatRuns, histograms::HistogramEntry, late::LateEntry},
};
use model::{
    label::Labels,
    sample::Exemplar,
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp, block_start},
    verdict::Verdict,
};
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefIterator as _, ParallelIterator as _};
use std::collections::{HashMap, HashSet};
use storage::index::Scan;
use ulid::Ulid;
use xxhash_rust::xxh3::xxh3_128;

/// What became of the steps.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rebuilt {
    /// Samples put into the head.
    pub(crate) samples: u64,
    /// Samples dropped because something that they depend on was lost.
    pub(crate) dropped: u64,
    /// Records that made no sense, and their bytes.
    pub(crate) damaged: u64,
    pub(crate) damaged_bytes: u64,
}

impl Rebuilt {
    fn damaged(&mut self, sequence: u64, bytes: u64, damage: Damage) {
        self.damaged += 1;
        self.damaged_bytes += bytes;
        tracing::error!(sequence, %damage, "a record of the write-ahead log makes no sense");
    }
}

/// Puts a head together.
pub(crate) struct Rebuild<'a> {
    core: &'a Core,
    /// Taken out of its lock: nothing is committed or cut before replay has put it back.
    committer: Committer,
    slots: Slots,
    /// Which samples of a slot are in blocks.
    slot_cuts: Cuts,
    /// The slot found last.
    last: u32,
    /// Payloads of an image that are not in the head yet.
    images: Vec<Vec<u8>>,
    /// Floats that are not in the head yet.
    floats: Floats,
    /// Cuts by a hash of tenant and labels, of blocks whose samples may still be in image or segments.
    cuts: HashMap<u128, Vec<Cut>>,
    /// Memory of records that are in the head.
    spare: Vec<FloatRuns>,
    rebuilt: Rebuilt,
    now: Timestamp,
}

impl<'a> Rebuild<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        let mut committer = std::mem::take(&mut *core.committer.lock());
        committer.next_number = committer.next_number.max(1);
        core.head.index.write().defer_lists();
        Self {
            core,
            committer,
            slots: Slots::default(),
            slot_cuts: Cuts::default(),
            last: 0,
            images: Vec::new(),
            floats: Floats::default(),
            cuts: HashMap::new(),
            spare: Vec::new(),
            rebuilt: Rebuilt::default(),
            now: core.env.clock.now(),
        }
    }

    /// Takes over what an image says about itself, and learns which samples are in blocks that the image does not know to be safe:
    /// they may still be in image or segments, and must not come into the head again.
    pub(crate) fn begin(&mut self, summary: &ImageSummary) {
        self.committer.next_number = self.committer.next_number.max(summary.next_number);
        for (tenant, until) in &summary.cut_until {
            self.tenant(tenant).cut_until = Some(*until);
        }
        let absorbed: HashSet<Ulid> = summary.absorbed.iter().copied().collect();
        for local in self.core.blocks.all() {
            if absorbed.contains(&local.ulid) {
                local.change(|state| state.absorbed = true);
            } else if let Err(reason) = self.learn_cuts(&local) {
                // Its samples are still in the WAL, so they are replayed and cut again.
                self.core.blocks.set_aside(local.ulid, &reason);
                continue;
            }
            let window = block_start(local.range().max);
            let tenant = self.tenant(&local.tenant);
            tenant.cut_until = tenant.cut_until.max(Some(window + BLOCK_RANGE_MS));
            if local.range() != TimeRange::new(window, window + BLOCK_RANGE_MS - 1) {
                tenant.partly_cut.insert(window);
            }
        }
    }

    fn tenant(&mut self, tenant: &Tenant) -> &mut TenantState {
        let id = self.core.ensure_tenant(&mut self.committer, tenant, self.now);
        &mut self.committer.tenants[id as usize]
    }

    fn learn_cuts(&mut self, local: &LocalBlock) -> Result<(), String> {
        let index = local.block.index();
        let mut scan = Scan::new(index, &[], TimeRange::ALL, false).map_err(|error| error.to_string())?;
        let mut learnt = Vec::new();
        loop {
            let batch = scan.next_batch(index, 1024).map_err(|error| error.to_string())?;
            if batch.is_empty() {
                break;
            }
            for series in batch {
                let Some(last) = series.chunks.last() else { continue };
                let cut = Cut {
                    window: block_start(last.max_time),
                    until: last.max_time,
                };
                learnt.push((identity(&local.tenant, &series.labels), cut));
            }
        }
        // Only a block that could be read to its end counts.
        learnt
            .into_iter()
            .for_each(|(identity, cut)| self.cuts.entry(identity).or_default().push(cut));
        Ok(())
    }

    /// Takes steps in order; gives back the memory that floats came in.
    pub(crate) fn take(&mut self, steps: Vec<Step>) -> Vec<FloatRuns> {
        steps.into_iter().for_each(|step| self.take_step(step));
        self.put_gathered();
        std::mem::take(&mut self.spare)
    }

    fn take_step(&mut self, step: Step) {
        // Floats wait for one another, as series of an image do, but what else changes samples comes behind those that stand before it.
        let goes_before = match step {
            Step::Histograms(_) | Step::Late(_) | Step::Delete(_) => true,
            Step::Floats(_) | Step::Exemplars(_) => !self.images.is_empty(),
            Step::ImageSeries(_) => !self.floats.is_empty(),
            _ => false,
        };
        if goes_before {
            self.put_gathered();
        }
        match step {
            Step::Series(tenant, series) => self.series(&tenant, &series),
            Step::Floats(record) => self.place_floats(record),
            Step::Histograms(entries) => entries.iter().for_each(|entry| self.histogram(entry)),
            Step::Metadata(tenant, all) => {
                let id = self.core.ensure_tenant(&mut self.committer, &tenant, self.now);
                let max = self.core.settings.tenant_metadata_max;
                let mut extras = self.core.extras.lock();
                for metadata in &all {
                    extras.put_metadata(id, metadata, max);
                }
            }
            Step::Exemplars(all) => all
                .into_iter()
                .for_each(|(number, exemplar)| self.exemplar(number, exemplar)),
            Step::Late(entries) => entries.into_iter().for_each(|entry| self.late(entry)),
            Step::Delete(deletion) => {
                self.core.head.index.write().list();
                delete::apply(self.core, &deletion);
            }
            Step::ImageSeries(payload) => self.images.push(payload),
            Step::Dropped(samples) => self.rebuilt.dropped += samples,
            Step::Damaged(sequence, bytes, damage) => self.rebuilt.damaged(sequence, bytes, damage),
            Step::Nothing => {}
        }
    }

    fn series(&mut self, tenant: &Tenant, series: &[(u64, Labels)]) {
        let id = self.core.ensure_tenant(&mut self.committer, tenant, self.now);
        let hashes: Vec<u64> = {
            let index = self.core.head.index.read();
            let index = &*index;
            let hash = |(_, labels): &(u64, Labels)| index.hash(id, labels);
            series.par_iter().with_min_len(256).map(hash).collect()
        };
        for ((number, labels), hash) in series.iter().zip(hashes) {
            if self.slots.knows(*number) {
                continue;
            }
            // A series may have left the head and come back under another number; both mean the same.
            let slot = self
                .core
                .find_or_create_series(&mut self.committer, id, *number, hash, labels);
            self.slots.add(*number, slot);
            if !self.cuts.is_empty()
                && let Some(cuts) = self.cuts.get(&identity(tenant, labels))
            {
                self.slot_cuts.0.insert(slot, cuts.clone());
            }
        }
    }

    /// Finds the series of floats, which [`Self::put_gathered`] puts into the head.
    fn place_floats(&mut self, record: FloatRuns) {
        let mut from = 0;
        for run in &record.runs {
            let mut skip = 0;
            while skip < run.count {
                // All samples of a column are of one series.
                let (number, wanted) = match run.times {
                    Some(_) => (run.first, 1),
                    None => (run.first.wrapping_add(u64::from(skip)), run.count - skip),
                };
                let found = self.slots.find_run(&mut self.last, number, wanted);
                let count = match run.times {
                    Some(_) => run.count,
                    None => found.map_or(1, |(_, count)| count),
                };
                match found {
                    Some((slot, _)) => self.floats.add(slot, run, from, skip, count),
                    None => self.unknown(number, u64::from(count)),
                }
                skip += count;
            }
            from += run.count;
        }
        self.floats.end_record(record);
    }

    /// Samples of a number that is not known: its series record is lost. The number must never mean another series.
    fn unknown(&mut self, number: u64, samples: u64) {
        self.committer.next_number = self.committer.next_number.max(number.saturating_add(1));
        self.rebuilt.dropped += samples;
    }

    /// Puts what has gathered into the head.
    fn put_gathered(&mut self) {
        if !self.images.is_empty() {
            self.put_images();
        }
        let Committer { shards, tenants, .. } = &mut self.committer;
        self.rebuilt.samples += self.floats.put(shards, tenants, &self.slot_cuts, &mut self.spare);
    }

    fn histogram(&mut self, entry: &HistogramEntry) {
        let HistogramEntry { number, at, histogram } = entry;
        let Some(slot) = self.slots.find(&mut self.last, *number) else {
            return self.unknown(*number, 1);
        };
        let Committer { shards, tenants, .. } = &mut self.committer;
        let (mut shard, place) = (shards[shard_of(slot)].lock(), place(slot));
        if *at <= shard.hot[place].last_at {
            return;
        }
        if is_cut(self.slot_cuts.of(slot), *at) {
            shard.seal(place);
            shard.hot[place].last_at = *at;
            shard.hot[place].flags |= FLAG_HISTOGRAM;
            return;
        }
        self.rebuilt.samples += 1;
        let tenant = &mut tenants[shard.hot[place].tenant as usize];
        let begins = shard.append_histogram(place, *at, histogram);
        note(tenant, begins.then_some(*at), (*at, *at));
    }

    fn late(&mut self, LateEntry { number, at, value }: LateEntry) {
        let Some(slot) = self.slots.find(&mut self.last, number) else {
            return self.unknown(number, 1);
        };
        let Committer { shards, tenants, .. } = &mut self.committer;
        let (mut shard, place) = (shards[shard_of(slot)].lock(), place(slot));
        let tenant = &mut tenants[shard.hot[place].tenant as usize];
        self.rebuilt.samples += u64::from(late::restore(&mut shard, place, at, value, tenant));
    }

    /// Puts the payloads of an image that have gathered into the head.
    fn put_images(&mut self) {
        let payloads = std::mem::take(&mut self.images);
        let Committer { shards, tenants, .. } = &mut self.committer;
        for mut restored in restore(&payloads, shards, &self.slots, &self.slot_cuts) {
            restored.tell(tenants);
            self.rebuilt.samples += restored.samples;
            self.rebuilt.dropped += restored.dropped;
            if let Some((bytes, damage)) = restored.damage {
                self.rebuilt.damaged(0, bytes, damage);
            }
        }
    }

    fn exemplar(&mut self, number: u64, exemplar: Exemplar) {
        let max = self.core.settings.tenant_exemplars_max;
        let Some(slot) = self.slots.find(&mut self.last, number).filter(|_| max > 0) else {
            return;
        };
        let tenant = self.committer.shards[shard_of(slot)].lock().hot[place(slot)].tenant;
        let mut extras = self.core.extras.lock();
        // Stored under the number that the series has now.
        let number = self.core.head.index.read().number(slot);
        if extras.judge(tenant, number, &exemplar) == Verdict::Written {
            extras.put_exemplar(tenant, StoredExemplar { slot, number, exemplar }, max);
        }
    }

    /// Moves the newest time of series up to what blocks have of them. A block may know newer samples than image and segments: ones
    /// that nobody was told of, since they were cut before they were in the log. What comes now and is not newer than those must not
    /// pass for news, because the next replay takes it for a part of the block.
    fn catch_up_with_blocks(&mut self) {
        for (slot, cuts) in &self.slot_cuts.0 {
            let (mut shard, place) = (self.committer.shards[shard_of(*slot)].lock(), place(*slot));
            let until = cuts.iter().map(|cut| cut.until).max().unwrap_or(NEVER);
            if shard.hot[place].last_at < until {
                shard.seal(place);
                shard.hot[place].last_at = until;
                // Its bits are in the block only, so it must not be answered from here.
                shard.hot[place].flags |= FLAG_HISTOGRAM;
            }
        }
    }

    /// The head is complete.
    pub(crate) fn finish(mut self) -> Rebuilt {
        self.core.head.index.write().list();
        self.catch_up_with_blocks();
        for tenant in &mut self.committer.tenants {
            // A tenant without blocks was never cut: its oldest samples say how far back it goes.
            if let Some((&first, _)) = tenant.windows.first_key_value() {
                tenant.since = tenant.since.min(first);
            }
        }
        *self.core.committer.lock() = self.committer;
        late::forget_cut(self.core);
        self.rebuilt
    }
}

/// A hash that tells series of all tenants apart.
fn identity(tenant: &Tenant, labels: &Labels) -> u128 {
    let mut bytes = Vec::with_capacity(labels.text_len() + 64);
    let mut put = |text: &str| {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    put(tenant.as_str());
    labels.iter().for_each(|(name, value)| {
        put(name);
        put(value);
    });
    xxh3_128(&bytes)
}
