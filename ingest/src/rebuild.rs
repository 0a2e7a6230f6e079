//! The second half of replay: takes steps and ends with the head that was.
//!
//! A sample that the head has already is passed over, as a commit would; so it does no harm that image and segments overlap. Samples
//! that are in a local block do not come back either: the block says up to where it has each series.

use crate::{
    blocks::LocalBlock,
    core::{Committer, Core, TenantState},
    decode::Step,
    delete,
    head::{
        chunk::{FLAG_HISTOGRAM, NEVER},
        extras::StoredExemplar,
        sealed::ChunkInfo,
        shard::{Shard, place, shard_of},
    },
    image::{self, ChunkState, ImageChunk, ImageSeries, ImageSummary},
    late,
    numbers::Numbers,
    restore::{Cut, Cuts, Floats, is_cut, note, put_float},
    wal::{floats::FloatEntry, histograms::HistogramEntry, late::LateEntry},
};
use model::{
    label::Labels,
    sample::Exemplar,
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp, block_start},
    verdict::Verdict,
};
use std::collections::{HashMap, HashSet};
use storage::{
    chunk::{XorReader, is_histogram},
    index::Scan,
};
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

/// Puts a head together.
pub(crate) struct Rebuild<'a> {
    core: &'a Core,
    /// Taken out of its lock: nothing is committed or cut before replay has put it back.
    committer: Committer,
    slots: Slots,
    /// Floats that are not in the head yet.
    floats: Floats,
    /// Cuts by a hash of tenant and labels, of blocks whose samples may still be in image or segments.
    cuts: HashMap<u128, Vec<Cut>>,
    rebuilt: Rebuilt,
    now: Timestamp,
}

/// Series by number, and what is known about them by slot.
#[derive(Default)]
struct Slots {
    by_number: Numbers,
    numbers: Vec<u64>,
    cuts: Cuts,
    /// The slot found last; mostly the next number is in the next slot.
    last: u32,
}

impl Slots {
    #[inline]
    fn find(&mut self, number: u64) -> Option<u32> {
        let next = self.last.wrapping_add(1);
        let slot = match self.numbers.get(next as usize) {
            Some(known) if *known == number => next,
            _ => self.by_number.get(number)?,
        };
        self.last = slot;
        Some(slot)
    }

    fn add(&mut self, number: u64, slot: u32) {
        self.by_number.set(number, slot);
        if self.numbers.len() <= slot as usize {
            self.numbers.resize(slot as usize + 1, u64::MAX);
        }
        self.numbers[slot as usize] = number;
    }
}

impl<'a> Rebuild<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        let mut committer = std::mem::take(&mut *core.committer.lock());
        committer.next_number = committer.next_number.max(1);
        Self {
            core,
            committer,
            slots: Slots::default(),
            floats: Floats::default(),
            cuts: HashMap::new(),
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
    pub(crate) fn take(&mut self, steps: Vec<Step>) -> Vec<Vec<FloatEntry>> {
        let mut spare = Vec::new();
        for step in steps {
            match step {
                Step::Floats(entries) => {
                    self.place_floats(&entries);
                    spare.push(entries);
                }
                step => self.take_step(step),
            }
        }
        self.put_floats();
        spare
    }

    fn take_step(&mut self, step: Step) {
        // Floats wait for one another, but what else changes samples comes behind those that stand before it.
        if matches!(
            step,
            Step::Histograms(_) | Step::Late(_) | Step::Delete(_) | Step::ImageSeries(_)
        ) {
            self.put_floats();
        }
        match step {
            Step::Series(tenant, series) => self.series(&tenant, &series),
            Step::Floats(entries) => self.place_floats(&entries),
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
                delete::apply(self.core, &deletion);
            }
            Step::ImageSeries(payload) => {
                if let Err(damage) = image::decode_series(&payload, |series| self.image_series(&series)) {
                    self.damaged(0, payload.len() as u64, damage);
                }
            }
            Step::Dropped(samples) => self.rebuilt.dropped += samples,
            Step::Damaged(sequence, bytes, damage) => self.damaged(sequence, bytes, damage),
            Step::Nothing => {}
        }
    }

    fn damaged(&mut self, sequence: u64, bytes: u64, damage: crate::codec::Damage) {
        self.rebuilt.damaged += 1;
        self.rebuilt.damaged_bytes += bytes;
        tracing::error!(sequence, %damage, "a record of the write-ahead log makes no sense");
    }

    fn series(&mut self, tenant: &Tenant, series: &[(u64, Labels)]) {
        let id = self.core.ensure_tenant(&mut self.committer, tenant, self.now);
        for (number, labels) in series {
            if self.slots.by_number.get(*number).is_some() {
                continue;
            }
            // A series may have left the head and come back under another number; both mean the same.
            let slot = self
                .core
                .find_or_create_series(&mut self.committer, id, *number, labels);
            self.slots.add(*number, slot);
            if !self.cuts.is_empty()
                && let Some(cuts) = self.cuts.get(&identity(tenant, labels))
            {
                self.slots.cuts.0.insert(slot, cuts.clone());
            }
        }
    }

    /// Finds the series of floats, which [`Self::put_floats`] puts into the head.
    fn place_floats(&mut self, entries: &[FloatEntry]) {
        for entry in entries {
            let Some(slot) = self.slots.find(entry.number) else {
                // A number whose series record is lost must never mean another series.
                self.committer.next_number = self.committer.next_number.max(entry.number.saturating_add(1));
                self.rebuilt.dropped += 1;
                continue;
            };
            self.floats.add(slot, entry);
        }
    }

    fn put_floats(&mut self) {
        let Committer { shards, tenants, .. } = &mut self.committer;
        self.rebuilt.samples += self.floats.put(shards, tenants, &self.slots.cuts);
    }

    fn histogram(&mut self, entry: &HistogramEntry) {
        let HistogramEntry { number, at, histogram } = entry;
        let Some(slot) = self.slots.find(*number) else {
            self.committer.next_number = self.committer.next_number.max(number.saturating_add(1));
            self.rebuilt.dropped += 1;
            return;
        };
        let Committer { shards, tenants, .. } = &mut self.committer;
        let (mut shard, place) = (shards[shard_of(slot)].lock(), place(slot));
        if *at <= shard.hot[place].last_at {
            return;
        }
        if is_cut(self.slots.cuts.of(slot), *at) {
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
        let Some(slot) = self.slots.find(number) else {
            self.committer.next_number = self.committer.next_number.max(number.saturating_add(1));
            self.rebuilt.dropped += 1;
            return;
        };
        let Committer { shards, tenants, .. } = &mut self.committer;
        let (mut shard, place) = (shards[shard_of(slot)].lock(), place(slot));
        let tenant = &mut tenants[shard.hot[place].tenant as usize];
        self.rebuilt.samples += u64::from(late::restore(&mut shard, place, at, value, tenant));
    }

    /// A series of an image: its chunks and its newest sample.
    fn image_series(&mut self, series: &ImageSeries<'_>) {
        let Some(slot) = self.slots.find(series.number) else {
            self.rebuilt.dropped += series.chunks.iter().map(|chunk| u64::from(chunk.samples)).sum::<u64>();
            return;
        };
        let Committer { shards, tenants, .. } = &mut self.committer;
        let (mut shard, place) = (shards[shard_of(slot)].lock(), place(slot));
        for chunk in &series.chunks {
            // A block has a chunk as a whole: what came to it after the image was taken is in the block as well.
            // Late samples came in any order, so they are compared with the blocks one by one in the end.
            if chunk.state == ChunkState::Late || !is_cut(self.slots.cuts.of(slot), chunk.max_time) {
                self.rebuilt.samples += u64::from(chunk.samples);
                put_chunk(&mut shard, place, chunk, tenants);
            }
        }
        if shard.hot[place].last_at != series.last_at {
            shard.seal(place);
            shard.hot[place].last_at = series.last_at;
        }
        shard.hot[place].last_bits = series.last_bits;
        if series.histogram {
            shard.hot[place].flags |= FLAG_HISTOGRAM;
        }
    }

    fn exemplar(&mut self, number: u64, exemplar: Exemplar) {
        let max = self.core.settings.tenant_exemplars_max;
        let Some(slot) = self.slots.find(number).filter(|_| max > 0) else {
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
        for (slot, cuts) in &self.slots.cuts.0 {
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

fn put_chunk(shard: &mut Shard, place: usize, chunk: &ImageChunk<'_>, tenants: &mut [TenantState]) {
    let info = ChunkInfo {
        min_time: chunk.min_time,
        max_time: chunk.max_time,
        samples: chunk.samples,
        encoding: chunk.encoding,
    };
    match chunk.state {
        ChunkState::Sealed => shard.add_sealed(place, info, chunk.data),
        ChunkState::Late => shard.add_late(place, info, chunk.data),
        ChunkState::Open if is_histogram(chunk.encoding) => {
            if !shard.restore_histograms(place, chunk.encoding, chunk.data) {
                return;
            }
        }
        ChunkState::Open => {
            let Ok(mut reader) = XorReader::new(chunk.data) else {
                return;
            };
            while let Ok(Some((at, value))) = reader.next() {
                if let Some(begins) = put_float(shard, place, at, value.to_bits(), &[]) {
                    let tenant = &mut tenants[shard.hot[place].tenant as usize];
                    note(tenant, begins.then_some(at), (at, at));
                }
            }
            return;
        }
    }
    let tenant = &mut tenants[shard.hot[place].tenant as usize];
    note(tenant, Some(chunk.min_time), (chunk.min_time, chunk.max_time));
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
