//! The series of a batch that came by labels: found, or taken in when they are new and have a sample that can be stored.

use super::{Columns, Committed, NOT_TAKEN, Step, TOO_MANY};
use crate::{
    core::Committer,
    wal::{format::RecordKind, log::Log, payload::SeriesEncoder},
};
use model::{label::Labels, push::SeriesId, time::Timestamp};

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
}
