//! The commit: from an accepted batch to verdicts, the one place that touches both WAL and head.
//!
//! All of it happens under one short lock, in one pass over the batch: resolve each series, judge each sample, put it into the head and
//! into the WAL buffer. What is in the buffer is not durable yet; the caller waits for that before it answers. So order in the WAL equals
//! order in the head, and whoever gets a verdict gets it after everything that the verdict rests on is safe.

use crate::{
    core::{Acceptable, Committer, Core, TenantState},
    head::{
        chunk::{FLAG_FREE, NEVER},
        extras::StoredExemplar,
        late::LateValue,
        shard::{Shard, place, shard_of},
    },
    late::{self, Judged, LateStep},
    wal::{
        floats::FloatsEncoder,
        format::RecordKind,
        histograms::put_histogram,
        log::Log,
        payload::{SeriesEncoder, encode_metadata, put_exemplar},
    },
};
use model::{
    histogram::Histogram,
    label::Labels,
    push::{Exception, SampleKind, SeriesId, WriteBatch, WriteOutcome},
    sample::{FloatSample, HistogramSample},
    time::Timestamp,
    verdict::{Reason, Verdict},
};
use parking_lot::{Mutex, MutexGuard};
use std::{ops::Range, sync::Arc};

/// No slot: a series that came by labels and was not taken in.
const NOT_TAKEN: u32 = u32::MAX;
/// No slot: as above, because the tenant has too many series.
const TOO_MANY: u32 = u32::MAX - 1;

/// What became of a batch, before it is durable.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    pub(crate) outcome: WriteOutcome,
    /// The WAL record up to which everything must be durable before the outcome may be told.
    pub(crate) sequence: u64,
    /// Exceptions that say "out of order" or "too old" only as far as the head knows; local blocks may know the sample.
    pub(crate) doubtful: Vec<Doubt>,
    /// Floats and histograms that were stored.
    pub(crate) written: u64,
    /// Of those, samples older than the newest of their series.
    pub(crate) late: u64,
    /// Whether samples could not be taken now that can be later; the rest of the batch is stored all the same.
    pub(crate) refused: bool,
}

/// A sample that local blocks may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// Index of the exception that names it.
    pub(crate) exception: u32,
    /// Whether it is to be stored if the blocks do not know it.
    pub(crate) storable: bool,
}

/// Commits a batch that arrived at `now`.
pub(crate) fn commit(core: &Core, batch: &WriteBatch, now: Timestamp) -> Committed {
    let mut committed = Committed::default();
    let Some(wal) = core.wal() else { return committed };
    let durable = wal.durable();
    let mut committer = core.committer.lock();
    let mut log = wal.log();
    log.prepare();
    let tenant = core.ensure_tenant(&mut committer, &batch.tenant, now);
    let acceptable = committer.tenants[tenant as usize].acceptable(now, &core.settings);
    let step = Step {
        core,
        batch,
        tenant,
        acceptable,
        durable,
    };
    let mut late = LateStep::new(core, &batch.tenant, acceptable, None);
    // New series first: in the WAL they stand before their samples.
    step.resolve(&mut committer, &mut log, &mut committed);
    step.floats(&mut committer, &mut log, &mut committed, &mut late);
    step.histograms(&mut committer, &mut log, &mut committed, &mut late);
    step.late(late, &mut committer, &mut log, &mut committed);
    step.exemplars(&mut committer, &mut log, &mut committed);
    step.metadata(&mut log);
    committed.sequence = log.sequence();
    wal.ring(log.pending_bytes());
    drop(log);
    drop(committer);
    committed
}

/// Stores the samples of an earlier commit of the batch that were left open and that local blocks up to `read_until` do not know.
/// What can be stored by now is no exception any more; what is in doubt again, since a block was cut meanwhile, stays in doubt.
pub(crate) fn commit_late(core: &Core, batch: &WriteBatch, committed: &mut Committed, read_until: u32, now: Timestamp) {
    let Some(wal) = core.wal() else { return };
    let durable = wal.durable();
    let mut committer = core.committer.lock();
    let mut log = wal.log();
    log.prepare();
    let tenant = core.ensure_tenant(&mut committer, &batch.tenant, now);
    let acceptable = committer.tenants[tenant as usize].acceptable(now, &core.settings);
    let step = Step {
        core,
        batch,
        tenant,
        acceptable,
        durable,
    };
    let mut late = LateStep::new(core, &batch.tenant, acceptable, Some(read_until));
    for doubt in std::mem::take(&mut committed.doubtful) {
        let exception = &mut committed.outcome.exceptions[doubt.exception as usize];
        match step.open_sample(&committer, exception, doubt, &mut late) {
            Some(Judged::Verdict(verdict)) => exception.verdict = verdict,
            Some(Judged::Open { verdict, storable }) => {
                exception.verdict = verdict;
                if storable {
                    committed.doubtful.push(doubt);
                }
            }
            // The series went meanwhile; the sender comes again and begins it anew.
            None => committed.refused |= doubt.storable,
        }
    }
    step.late(late, &mut committer, &mut log, committed);
    committed.sequence = log.sequence();
    wal.ring(log.pending_bytes());
}

/// One commit under way.
struct Step<'a> {
    core: &'a Core,
    batch: &'a WriteBatch,
    tenant: u32,
    acceptable: Acceptable,
    durable: u64,
}

impl Step<'_> {
    /// Finds the slots of the series that came by labels, taking in those that are new and have a sample that can be stored.
    fn resolve(&self, committer: &mut Committer, log: &mut Log, committed: &mut Committed) {
        let is_new = |id: &SeriesId| matches!(id, SeriesId::New(_));
        let mut resolved = std::mem::take(&mut committer.resolved);
        resolved.clear();
        if self.batch.series.iter().any(|series| is_new(&series.id)) {
            resolved.resize(self.batch.series.len(), NOT_TAKEN);
            let mut missing = Vec::new();
            let index = self.core.head.index.read();
            for (position, series) in self.batch.series.iter().enumerate() {
                let SeriesId::New(labels) = &series.id else { continue };
                let hash = index.hash(self.tenant, labels);
                match index.find_hashed(hash, self.tenant, labels) {
                    Some(slot) => {
                        resolved[position] = slot;
                        let series_ref = self.core.series_ref(slot, index.number(slot));
                        committed.outcome.refs.push((position as u32, series_ref));
                    }
                    None => missing.push((position, hash, labels)),
                }
            }
            drop(index);
            if !missing.is_empty() {
                self.create(&missing, &mut resolved, committer, log, committed);
            }
        }
        committer.resolved = resolved;
    }

    fn create(
        &self,
        missing: &[(usize, u64, &Labels)],
        resolved: &mut [u32],
        committer: &mut Committer,
        log: &mut Log,
        committed: &mut Committed,
    ) {
        let settings = &self.core.settings;
        let (limit, limit_of_all) = (settings.tenant_series_max(&self.batch.tenant), settings.series_max());
        let mut created = Vec::new();
        for &(position, hash, labels) in missing {
            // The batch may name a new series twice.
            let index = self.core.head.index.read();
            let known = index.find_hashed(hash, self.tenant, labels);
            let (count, count_of_all) = (index.tenant_series(self.tenant), index.len() as u64);
            drop(index);
            let slot = match known {
                Some(slot) => slot,
                None if !self.has_acceptable(position) => continue,
                None if count >= limit || count_of_all >= limit_of_all => {
                    resolved[position] = TOO_MANY;
                    continue;
                }
                None => {
                    let number = committer.next_number;
                    created.push((number, labels));
                    self.core.create_series(committer, self.tenant, number, hash, labels)
                }
            };
            resolved[position] = slot;
            let number = self.core.head.index.read().number(slot);
            committed
                .outcome
                .refs
                .push((position as u32, self.core.series_ref(slot, number)));
        }
        if created.is_empty() {
            return;
        }
        log.record(RecordKind::Series, self.durable, |out| {
            let mut encoder = SeriesEncoder::new(out, &self.batch.tenant);
            created
                .iter()
                .for_each(|(number, labels)| encoder.push(out, *number, labels));
        });
    }

    /// Whether a series of the batch has a sample that a new series can begin with.
    fn has_acceptable(&self, position: usize) -> bool {
        let fits = |at: Timestamp| at >= self.acceptable.min && at <= self.acceptable.max;
        let Columns { floats, histograms, .. } = self.columns(position);
        self.batch.floats[floats].iter().any(|sample| fits(sample.at))
            || self.batch.histograms[histograms].iter().any(|sample| fits(sample.at))
    }

    /// The samples of a series of the batch. Ends that run backwards or over the column, which no honest caller sends, are cut.
    fn columns(&self, position: usize) -> Columns {
        let series = &self.batch.series;
        let before = position.checked_sub(1).map(|before| &series[before]);
        let range = |begin: Option<u32>, end: u32, len: usize| {
            let end = (end as usize).min(len);
            (begin.unwrap_or(0) as usize).min(end)..end
        };
        let this = &series[position];
        Columns {
            floats: range(before.map(|b| b.floats_end), this.floats_end, self.batch.floats.len()),
            histograms: range(
                before.map(|b| b.histograms_end),
                this.histograms_end,
                self.batch.histograms.len(),
            ),
            exemplars: range(
                before.map(|b| b.exemplars_end),
                this.exemplars_end,
                self.batch.exemplars.len(),
            ),
        }
    }

    fn floats(&self, committer: &mut Committer, log: &mut Log, committed: &mut Committed, late: &mut LateStep<'_>) {
        if self.batch.floats.is_empty() {
            return self.find_unknown(committer, committed);
        }
        let epoch = log.epoch();
        let begin = log.begin();
        let mut encoder = log.floats();
        let Committer {
            shards,
            tenants,
            resolved,
            ..
        } = committer;
        let tenant = &mut tenants[self.tenant as usize];
        let mut walk = ShardWalk { shards, current: None };
        let (mut newest, mut oldest, mut from) = (tenant.newest, tenant.oldest, 0usize);
        for (position, series) in self.batch.series.iter().enumerate() {
            let end = (series.floats_end as usize).min(self.batch.floats.len());
            let range = from.min(end)..end;
            from = end;
            let (slot, generation) = match series.id {
                SeriesId::Known(known) => {
                    let (slot, generation) = self.core.open_ref(known);
                    (slot, Some(generation))
                }
                SeriesId::New(_) => (resolved[position], None),
            };
            let Some(shard) = walk.shard(slot) else {
                self.not_there(position, slot, generation.is_some(), range, committed);
                continue;
            };
            let place = place(slot);
            if !is_series(shard, place, generation, self.tenant) {
                committed.outcome.unknown.push(position as u32);
                continue;
            }
            for (index, sample) in range.clone().zip(&self.batch.floats[range]) {
                let begun = |at| tenant.note_chunk(at);
                let judged = self.float(shard, place, sample, epoch, &mut encoder, late, begun);
                if judged == Judged::Verdict(Verdict::Written) {
                    newest = newest.max(sample.at);
                    oldest = oldest.min(sample.at);
                    continue;
                }
                note(committed, position, index, SampleKind::Float, judged);
            }
        }
        (tenant.newest, tenant.oldest) = (newest, oldest);
        let samples = encoder.samples();
        encoder.finish();
        committed.written += samples as u64;
        if samples > 0 {
            log.end(begin, RecordKind::Floats, self.durable);
        } else {
            log.abandon(begin);
        }
    }

    /// Judges a float and, when it is new, stores it.
    #[inline(always)]
    #[expect(
        clippy::too_many_arguments,
        reason = "the innermost step, whose parts are borrowed one by one"
    )]
    fn float(
        &self,
        shard: &mut Shard,
        place: usize,
        sample: &FloatSample,
        epoch: u32,
        encoder: &mut FloatsEncoder<'_>,
        late: &mut LateStep<'_>,
        begun: impl FnOnce(Timestamp),
    ) -> Judged {
        let (at, bits) = (sample.at, sample.value.to_bits());
        let hot = &mut shard.hot[place];
        if at <= hot.last_at {
            return old_float(shard, place, at, bits, late);
        }
        if at > self.acceptable.max {
            return Judged::Verdict(Verdict::Rejected(Reason::TooFarInFuture));
        }
        // Only the first sample of a series can be too old: each later one is newer than one that was taken.
        if at < self.acceptable.min && hot.last_at == NEVER {
            return open(Verdict::Rejected(Reason::TooOld));
        }
        let base = if hot.epoch == epoch { hot.last_bits } else { 0 };
        let number = hot.number;
        hot.epoch = epoch;
        if shard.append_float(place, at, bits) {
            begun(at);
        }
        encoder.push(number, at, bits, base);
        Judged::Verdict(Verdict::Written)
    }

    /// A sample that an earlier commit left open; `None` when its series is not there any more.
    fn open_sample(
        &self,
        committer: &Committer,
        exception: &Exception,
        doubt: Doubt,
        late: &mut LateStep<'_>,
    ) -> Option<Judged> {
        let series = self.batch.series.get(exception.series as usize)?;
        let (slot, generation) = match &series.id {
            SeriesId::Known(known) => {
                let (slot, generation) = self.core.open_ref(*known);
                (slot, Some(generation))
            }
            SeriesId::New(labels) => (self.core.head.index.read().find(self.tenant, labels)?, None),
        };
        let mut shard = committer.shards.get(shard_of(slot))?.lock();
        let place = place(slot);
        if !is_series(&shard, place, generation, self.tenant) {
            return None;
        }
        let index = exception.sample as usize;
        let (at, value) = match exception.kind {
            SampleKind::Float => {
                let sample = self.batch.floats.get(index)?;
                (sample.at, LateValue::Float(sample.value.to_bits()))
            }
            SampleKind::Histogram => {
                let sample = self.batch.histograms.get(index)?;
                (sample.at, LateValue::Histogram(Arc::clone(&sample.histogram)))
            }
            SampleKind::Exemplar => return None,
        };
        if doubt.storable {
            return Some(late.sample(&mut shard, place, at, value));
        }
        // Too old to be stored; but it may repeat one of this batch that was stored by now.
        let verdict = late::known(&shard, place, at, &value).unwrap_or(exception.verdict);
        Some(Judged::Verdict(verdict))
    }

    /// Writes down the late samples that were taken.
    fn late(&self, late: LateStep<'_>, committer: &mut Committer, log: &mut Log, committed: &mut Committed) {
        committed.refused |= late.refused;
        if late.taken.is_empty() {
            return;
        }
        let tenant = &mut committer.tenants[self.tenant as usize];
        for &at in &late.taken {
            tenant.note_chunk(at);
            tenant.newest = tenant.newest.max(at);
            tenant.oldest = tenant.oldest.min(at);
        }
        log.record(RecordKind::OutOfOrder, self.durable, |out| {
            out.extend_from_slice(late.encoder.payload())
        });
        committed.late += late.encoder.samples();
        committed.written += late.encoder.samples();
    }

    /// Verdicts for the floats of a series that is in no slot.
    fn not_there(&self, position: usize, slot: u32, by_ref: bool, floats: Range<usize>, committed: &mut Committed) {
        if by_ref {
            committed.outcome.unknown.push(position as u32);
            return;
        }
        for index in floats {
            let reason = self.reason_not_taken(slot, self.batch.floats[index].at);
            let judged = open(Verdict::Rejected(reason));
            note(committed, position, index, SampleKind::Float, judged);
        }
    }

    /// Why a sample of a series was refused that was not taken in.
    fn reason_not_taken(&self, slot: u32, at: Timestamp) -> Reason {
        match slot {
            TOO_MANY => Reason::SeriesLimit,
            _ if at > self.acceptable.max => Reason::TooFarInFuture,
            _ => Reason::TooOld,
        }
    }

    /// Finds series by ref that are gone, for a batch without floats.
    fn find_unknown(&self, committer: &Committer, committed: &mut Committed) {
        let mut walk = ShardWalk {
            shards: &committer.shards,
            current: None,
        };
        for (position, series) in self.batch.series.iter().enumerate() {
            let SeriesId::Known(known) = series.id else { continue };
            let (slot, generation) = self.core.open_ref(known);
            let shard = walk.shard(slot);
            if !shard.is_some_and(|shard| is_series(shard, place(slot), Some(generation), self.tenant)) {
                committed.outcome.unknown.push(position as u32);
            }
        }
    }

    /// Histograms, which are few; each goes the same way as a float, with less hurry.
    fn histograms(&self, committer: &mut Committer, log: &mut Log, committed: &mut Committed, late: &mut LateStep<'_>) {
        if self.batch.histograms.is_empty() {
            return;
        }
        let Committer {
            shards,
            tenants,
            resolved,
            ..
        } = committer;
        let tenant = &mut tenants[self.tenant as usize];
        let mut walk = ShardWalk { shards, current: None };
        let mut payload = Vec::new();
        for (position, series) in self.batch.series.iter().enumerate() {
            let slot = match series.id {
                SeriesId::Known(known) => self.core.open_ref(known).0,
                SeriesId::New(_) => resolved[position],
            };
            if committed.outcome.unknown.binary_search(&(position as u32)).is_ok() {
                continue;
            }
            for index in self.columns(position).histograms {
                let HistogramSample { at, histogram, .. } = &self.batch.histograms[index];
                let judged = match walk.shard(slot) {
                    None => open(Verdict::Rejected(self.reason_not_taken(slot, *at))),
                    Some(_) if histogram.validate().is_err() => {
                        Judged::Verdict(Verdict::Rejected(Reason::InvalidHistogram))
                    }
                    Some(shard) if *at <= shard.hot[place(slot)].last_at => {
                        late.sample(shard, place(slot), *at, LateValue::Histogram(Arc::clone(histogram)))
                    }
                    Some(shard) => {
                        let verdict = self.histogram(shard, place(slot), *at, histogram, &mut payload, tenant);
                        committed.written += u64::from(verdict == Verdict::Written);
                        Judged::Verdict(verdict)
                    }
                };
                if judged != Judged::Verdict(Verdict::Written) {
                    note(committed, position, index, SampleKind::Histogram, judged);
                }
            }
        }
        drop(walk);
        if !payload.is_empty() {
            log.record(RecordKind::Histograms, self.durable, |out| {
                out.extend_from_slice(&payload)
            });
        }
    }

    /// Judges a histogram that is newer than the newest sample of its series and stores it.
    fn histogram(
        &self,
        shard: &mut Shard,
        place: usize,
        at: Timestamp,
        histogram: &Histogram,
        payload: &mut Vec<u8>,
        tenant: &mut TenantState,
    ) -> Verdict {
        if at > self.acceptable.max {
            return Verdict::Rejected(Reason::TooFarInFuture);
        }
        if at < self.acceptable.min && shard.hot[place].last_at == NEVER {
            return Verdict::Rejected(Reason::TooOld);
        }
        put_histogram(payload, shard.hot[place].number, at, histogram);
        if shard.append_histogram(place, at, histogram) {
            tenant.note_chunk(at);
        }
        tenant.newest = tenant.newest.max(at);
        tenant.oldest = tenant.oldest.min(at);
        Verdict::Written
    }

    /// Exemplars of series that are there.
    fn exemplars(&self, committer: &mut Committer, log: &mut Log, committed: &mut Committed) {
        if self.batch.exemplars.is_empty() {
            return;
        }
        let max = self.core.settings.tenant_exemplars_max;
        let mut extras = self.core.extras.lock();
        let mut payload = Vec::new();
        for (position, series) in self.batch.series.iter().enumerate() {
            let slot = match series.id {
                SeriesId::Known(known) => self.core.open_ref(known).0,
                SeriesId::New(_) => committer.resolved[position],
            };
            let number = self.core.head.index.read().number(slot);
            let is_unknown = committed.outcome.unknown.binary_search(&(position as u32)).is_ok();
            for index in self.columns(position).exemplars {
                let exemplar = &self.batch.exemplars[index];
                let verdict = match number {
                    _ if is_unknown => continue,
                    0 => Verdict::Rejected(Reason::InvalidExemplar),
                    _ if max == 0 || exemplar.at > self.acceptable.max => Verdict::Rejected(Reason::InvalidExemplar),
                    _ => extras.judge(self.tenant, number, exemplar),
                };
                if verdict != Verdict::Written {
                    note(
                        committed,
                        position,
                        index,
                        SampleKind::Exemplar,
                        Judged::Verdict(verdict),
                    );
                    continue;
                }
                put_exemplar(&mut payload, number, exemplar);
                let exemplar = exemplar.clone();
                extras.put_exemplar(self.tenant, StoredExemplar { slot, number, exemplar }, max);
            }
        }
        if !payload.is_empty() {
            log.record(RecordKind::Exemplars, self.durable, |out| {
                out.extend_from_slice(&payload)
            });
        }
    }

    /// Metadata that is news.
    fn metadata(&self, log: &mut Log) {
        if self.batch.metadata.is_empty() {
            return;
        }
        let max = self.core.settings.tenant_metadata_max;
        let mut extras = self.core.extras.lock();
        let is_new = |metadata: &&_| extras.put_metadata(self.tenant, metadata, max);
        let new: Vec<_> = self.batch.metadata.iter().filter(is_new).collect();
        if !new.is_empty() {
            log.record(RecordKind::Metadata, self.durable, |out| {
                encode_metadata(out, &self.batch.tenant, new.into_iter());
            });
        }
    }
}

/// Where the samples of one series lie in the columns of its batch.
struct Columns {
    floats: Range<usize>,
    histograms: Range<usize>,
    exemplars: Range<usize>,
}

/// Goes from shard to shard; a run of series in one shard costs one lock.
struct ShardWalk<'a> {
    shards: &'a [Arc<Mutex<Shard>>],
    current: Option<(usize, MutexGuard<'a, Shard>)>,
}

impl<'a> ShardWalk<'a> {
    #[inline(always)]
    fn shard(&mut self, slot: u32) -> Option<&mut Shard> {
        let number = shard_of(slot);
        if self.current.as_ref().is_none_or(|(current, _)| *current != number) {
            // The old lock goes before the new one comes, so nobody ever holds two.
            self.current = None;
            let shards: &'a [Arc<Mutex<Shard>>] = self.shards;
            self.current = Some((number, shards.get(number)?.lock()));
        }
        self.current.as_mut().map(|(_, shard)| &mut **shard)
    }
}

/// Whether the place holds the series that the caller means: of this tenant and, when it came by ref, of this generation.
#[inline(always)]
fn is_series(shard: &Shard, place: usize, generation: Option<u32>, tenant: u32) -> bool {
    shard.hot.get(place).is_some_and(|hot| {
        hot.flags & FLAG_FREE == 0
            && hot.tenant == tenant
            && generation.is_none_or(|generation| generation == hot.number as u32)
    })
}

/// A float that is not newer than the newest sample of its series.
#[cold]
fn old_float(shard: &mut Shard, place: usize, at: Timestamp, bits: u64, late: &mut LateStep<'_>) -> Judged {
    late.sample(shard, place, at, LateValue::Float(bits))
}

/// A verdict that local blocks may know better, on a sample that is not stored whatever they say.
fn open(verdict: Verdict) -> Judged {
    Judged::Open {
        verdict,
        storable: false,
    }
}

/// Notes a sample that was not simply written in order.
#[cold]
fn note(committed: &mut Committed, position: usize, sample: usize, kind: SampleKind, judged: Judged) {
    let exception = committed.outcome.exceptions.len() as u32;
    let verdict = match judged {
        Judged::Verdict(verdict) => verdict,
        Judged::Open { verdict, storable } => {
            committed.doubtful.push(Doubt { exception, storable });
            verdict
        }
    };
    let exception = Exception {
        series: position as u32,
        sample: sample as u32,
        kind,
        verdict,
    };
    committed.outcome.exceptions.push(exception);
}
