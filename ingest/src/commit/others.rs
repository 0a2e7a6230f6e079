//! Histograms, exemplars and metadata of a batch, which are few beside its floats.

use super::{Committed, ShardWalk, Step, note, open};
use crate::{
    core::{Committer, TenantState},
    head::{
        chunk::NEVER,
        extras::StoredExemplar,
        late::LateValue,
        shard::{Shard, place},
    },
    late::{Judged, LateStep},
    wal::{
        format::RecordKind,
        histograms::put_histogram,
        log::Log,
        payload::{encode_metadata, put_exemplar},
    },
};
use model::{
    histogram::Histogram,
    push::{SampleKind, SeriesId},
    sample::HistogramSample,
    time::Timestamp,
    verdict::{Reason, Verdict},
};
use std::sync::Arc;

impl Step<'_> {
    /// Histograms, which are few; each goes the same way as a float, with less hurry.
    pub(super) fn histograms(
        &self,
        committer: &mut Committer,
        log: &mut Log,
        committed: &mut Committed,
        late: &mut LateStep<'_>,
    ) {
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
    pub(super) fn exemplars(&self, committer: &mut Committer, log: &mut Log, committed: &mut Committed) {
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
    pub(super) fn metadata(&self, log: &mut Log) {
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
