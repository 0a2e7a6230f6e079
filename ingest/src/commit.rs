//! The commit: from an accepted batch to verdicts, the one place that touches both WAL and head.
//!
//! All of it happens under one short lock, in one pass over the batch: resolve each series, judge each sample, put it into the head and
//! into the WAL buffer. What is in the buffer is not durable yet; the caller waits for that before it answers. So order in the WAL equals
//! order in the head, and whoever gets a verdict gets it after everything that the verdict rests on is safe.

mod order;
mod floats;
mod others;
mod series;

use crate::{
    core::{Acceptable, Committer, Core},
    head::{
        chunk::FLAG_FREE,
        late::LateValue,
        shard::{Shard, place, shard_of},
    },
    late::{self, Judged, LateStep},
    wal::{format::RecordKind, log::Log},
};
use model::{
    push::{Exception, SampleKind, SeriesId, WriteBatch, WriteOutcome},
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

    /// Why a sample of a series was refused that was not taken in.
    fn reason_not_taken(&self, slot: u32, at: Timestamp) -> Reason {
        match slot {
            TOO_MANY => Reason::SeriesLimit,
            _ if at > self.acceptable.max => Reason::TooFarInFuture,
            _ => Reason::TooOld,
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
