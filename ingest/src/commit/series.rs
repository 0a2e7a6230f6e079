//! The series of a batch that came by labels: found, or taken in when they are new and have a sample that can be stored.

use super::{Columns, Committed, NOT_TAKEN, Step, TOO_MANY};
use crate::{
    core::Committer,
    head::postings::NewSeries,
    wal::{format::RecordKind, log::Log, payload::SymbolsEncoder},
};
use model::{label::Labels, push::SeriesId, time::Timestamp};

/// So many series are taken in under one lock of the index, for which queries wait some 0.1 ms.
const CREATED_AT_ONCE: usize = 64;

impl Step<'_> {
    /// Finds the slots of the series that came by labels, taking in those that are new and have a sample that can be stored.
    pub(super) fn resolve(&self, committer: &mut Committer, log: &mut Log, committed: &mut Committed) {
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
        let mut created = NewSeries::default();
        for part in missing.chunks(CREATED_AT_ONCE) {
            let from = created.len();
            self.create_part(part, resolved, committer, committed, &mut created);
            for (slot, number) in created.placed(from) {
                self.core.settle_series(committer, self.tenant, number, slot);
            }
        }
        if created.len() == 0 {
            return;
        }
        let index = self.core.head.index.read();
        log.record(RecordKind::Series, self.durable, |out| {
            // From symbols: a text that stays the same from series to series is not even looked at.
            let mut encoder = SymbolsEncoder::new(out, &self.batch.tenant);
            for (number, pairs) in created.iter() {
                encoder.push(out, number, pairs, |symbol| index.text(symbol));
            }
        });
    }

    /// Takes some series into the index under one lock of it.
    fn create_part(
        &self,
        missing: &[(usize, u64, &Labels)],
        resolved: &mut [u32],
        committer: &mut Committer,
        committed: &mut Committed,
        created: &mut NewSeries,
    ) {
        let settings = &self.core.settings;
        let (limit, limit_of_all) = (settings.tenant_series_max(&self.batch.tenant), settings.series_max());
        let mut index = self.core.head.index.write();
        let from = created.len();
        let count_before = index.tenant_series(self.tenant);
        for &(position, hash, labels) in missing {
            let count = count_before + (created.len() - from) as u64;
            // The batch may name a new series twice.
            let (slot, number) = match index.find_hashed(hash, self.tenant, labels) {
                Some(slot) => (slot, index.number(slot)),
                None if !self.has_acceptable(position) => continue,
                None if count >= limit || index.len() as u64 >= limit_of_all => {
                    resolved[position] = TOO_MANY;
                    continue;
                }
                None => {
                    let number = committer.next_number;
                    committer.next_number += 1;
                    let slot = index.create_unposted(hash, self.tenant, number, labels, created);
                    (slot, number)
                }
            };
            resolved[position] = slot;
            let series_ref = self.core.series_ref(slot, number);
            committed.outcome.refs.push((position as u32, series_ref));
        }
        index.post(self.tenant, created, from);
    }

    /// Whether a series of the batch has a sample that a new series can begin with.
    fn has_acceptable(&self, position: usize) -> bool {
        let fits = |at: Timestamp| at >= self.acceptable.min && at <= self.acceptable.max;
        let Columns { floats, histograms, .. } = self.columns(position);
        self.batch.floats[floats].iter().any(|sample| fits(sample.at))
            || self.batch.histograms[histograms].iter().any(|sample| fits(sample.at))
    }
}
