//! The floats of a batch: the loop that every sample passes under the commit lock.

use super::{Committed, ShardWalk, Step, is_series, note, open};
use crate::{
    core::Committer,
    head::{
        chunk::NEVER,
        late::LateValue,
        shard::{Shard, place},
    },
    late::{Judged, LateStep},
    wal::{floats::FloatsEncoder, format::RecordKind, log::Log},
};
use model::{
    push::{SampleKind, SeriesId},
    sample::FloatSample,
    time::Timestamp,
    verdict::{Reason, Verdict},
};
use std::ops::Range;

impl Step<'_> {
    pub(super) fn floats(
        &self,
        committer: &mut Committer,
        log: &mut Log,
        committed: &mut Committed,
        late: &mut LateStep<'_>,
    ) {
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
        let mut order = self.order(resolved);
        let mut walk = ShardWalk { shards, current: None };
        let (mut newest, mut oldest) = (tenant.newest, tenant.oldest);
        for turn in 0..self.batch.series.len() {
            let position = match &mut order {
                None => turn,
                Some(order) => order.position(turn, self, &mut walk, resolved),
            };
            let series = &self.batch.series[position];
            let range = self.floats_of(position);
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
            for (offset, sample) in self.batch.floats[range.clone()].iter().enumerate() {
                let begun = |at| tenant.note_chunk(at);
                let judged = self.float(shard, place, sample, epoch, &mut encoder, late, begun);
                if judged == Judged::Verdict(Verdict::Written) {
                    newest = newest.max(sample.at);
                    oldest = oldest.min(sample.at);
                    continue;
                }
                note(committed, position, range.start + offset, SampleKind::Float, judged);
            }
        }
        (tenant.newest, tenant.oldest) = (newest, oldest);
        committed.outcome.unknown.sort_unstable();
        let samples = encoder.samples();
        encoder.finish();
        committed.written += samples;
        if samples > 0 {
            log.end(begin, RecordKind::Floats, self.durable);
        } else {
            log.abandon(begin);
        }
    }

    /// Where the floats of a series lie in their column.
    #[inline(always)]
    fn floats_of(&self, position: usize) -> Range<usize> {
        let series = &self.batch.series;
        let end = (series[position].floats_end as usize).min(self.batch.floats.len());
        let begin = position
            .checked_sub(1)
            .map_or(0, |before| series[before].floats_end as usize);
        begin.min(end)..end
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
}

/// A float that is not newer than the newest sample of its series.
#[cold]
fn old_float(shard: &mut Shard, place: usize, at: Timestamp, bits: u64, late: &mut LateStep<'_>) -> Judged {
    late.sample(shard, place, at, LateValue::Float(bits))
}
