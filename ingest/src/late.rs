//! Taking late samples: judged against head and local blocks, kept in the head, written to the log.
//!
//! The commit comes here with every sample that is not newer than the newest of its series. What the head knows is a duplicate or a
//! contradiction. What it does not know may be in a local block, if there is one of that time: blocks are not read under the commit
//! lock, so such a sample is left open; the caller reads the blocks and comes back with what they do not know.

use crate::{
    blocks::{LocalBlock, read_series},
    core::{Acceptable, Core, TenantState},
    head::{
        chunk::FLAG_HISTOGRAM,
        late::LateValue,
        shard::{Lookup, SHARD_SLOTS, Shard, is_same_histogram},
    },
    wal::late::LateEncoder,
};
use futures::executor::block_on;
use model::{
    sample::SampleBuffer,
    tenant::Tenant,
    time::{TimeRange, Timestamp},
    verdict::{Reason, Verdict},
};
use std::sync::Arc;

/// What became of a sample that is not newer than the newest of its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    /// Settled.
    Verdict(Verdict),
    /// The head does not know it, local blocks may. With `storable` it is to be stored if they do not.
    Open { verdict: Verdict, storable: bool },
}

/// The late samples of one commit.
pub(crate) struct LateStep<'a> {
    core: &'a Core,
    tenant: &'a Tenant,
    acceptable: Acceptable,
    /// In the second round: blocks up to this mark were read and do not have what is judged, which lies inside the bounds.
    read_until: Option<u32>,
    /// Blocks of the tenant that were not read; looked up when the first sample needs it.
    unread: Option<Vec<Arc<LocalBlock>>>,
    pub(crate) encoder: LateEncoder,
    /// When the samples are that were taken; their windows want a cut.
    pub(crate) taken: Vec<Timestamp>,
    /// Whether some could not be taken since memory for them is used up.
    pub(crate) refused: bool,
}

impl<'a> LateStep<'a> {
    pub(crate) fn new(core: &'a Core, tenant: &'a Tenant, acceptable: Acceptable, read_until: Option<u32>) -> Self {
        Self {
            core,
            tenant,
            acceptable,
            read_until,
            unread: None,
            encoder: LateEncoder::default(),
            taken: Vec::new(),
            refused: false,
        }
    }

    /// Judges a sample that is not newer than the newest of its series and, when it is new, stores it.
    pub(crate) fn sample(&mut self, shard: &mut Shard, place: usize, at: Timestamp, value: LateValue) -> Judged {
        match known(shard, place, at, &value) {
            Some(verdict) => Judged::Verdict(verdict),
            None => self.absent(shard, place, at, value),
        }
    }

    fn absent(&mut self, shard: &mut Shard, place: usize, at: Timestamp, value: LateValue) -> Judged {
        let Acceptable { min, max, late_ms } = self.acceptable;
        let newest = shard.hot[place].last_at;
        // The bound hangs on the series alone: a fast clock elsewhere shuts out nobody. In the second round newer samples of the same
        // batch are stored already, and must not shut out what came in front of them.
        if self.read_until.is_none() && at < newest.saturating_sub(late_ms) {
            let reason = match late_ms {
                0 if at >= min => Reason::OutOfOrder,
                _ => Reason::TooOld,
            };
            return Judged::Open {
                verdict: Verdict::Rejected(reason),
                storable: false,
            };
        }
        if at > max {
            return Judged::Verdict(Verdict::Rejected(Reason::TooFarInFuture));
        }
        if self.may_be_in_a_block(at) {
            return Judged::Open {
                verdict: Verdict::Rejected(Reason::OutOfOrder),
                storable: true,
            };
        }
        if self.core.head.late_bytes() >= self.core.settings.out_of_order_bytes_max {
            self.refused = true;
            return Judged::Verdict(Verdict::Rejected(Reason::OutOfOrder));
        }
        self.encoder.push(shard.hot[place].number, at, &value);
        shard.insert_late(place, at, value);
        self.taken.push(at);
        Judged::Verdict(Verdict::Written)
    }

    /// Whether a block of that time was not read. Under the commit lock no block can come and have its samples forgotten, so what
    /// is neither in the head nor in a block of this list was never stored here.
    fn may_be_in_a_block(&mut self, at: Timestamp) -> bool {
        let unread = self.unread.get_or_insert_with(|| {
            let all = self.core.blocks.all().into_iter();
            let is_unread = |local: &Arc<LocalBlock>| self.read_until.is_none_or(|read| local.mark > read);
            all.filter(|local| local.tenant == *self.tenant && is_unread(local))
                .collect()
        });
        unread.iter().any(|local| local.range().contains(at))
    }
}

/// The verdict for a sample at a time at which the head knows one.
pub(crate) fn known(shard: &Shard, place: usize, at: Timestamp, value: &LateValue) -> Option<Verdict> {
    let same = match (shard.lookup(place, at), value) {
        (Lookup::Absent, _) => return None,
        (Lookup::Float(known), LateValue::Float(bits)) => known == *bits,
        (Lookup::Histogram(known), LateValue::Histogram(histogram)) => is_same_histogram(&known, histogram),
        _ => false,
    };
    Some(match same {
        true => Verdict::Duplicate,
        false => Verdict::Rejected(Reason::DuplicateTimestamp),
    })
}

/// Puts a late sample of the log back into its series, unless it is there; tells whether it did.
pub(crate) fn restore(
    shard: &mut Shard,
    place: usize,
    at: Timestamp,
    value: LateValue,
    tenant: &mut TenantState,
) -> bool {
    if shard.lookup(place, at) != Lookup::Absent {
        return false;
    }
    shard.insert_late(place, at, value);
    tenant.note_chunk(at);
    tenant.newest = tenant.newest.max(at);
    tenant.oldest = tenant.oldest.min(at);
    true
}

/// After a replay: lets go of late samples that are in local blocks. The log does not tell which of them were cut, but the blocks do.
pub(crate) fn forget_cut(core: &Core) {
    let open: Vec<_> = core
        .blocks
        .all()
        .into_iter()
        .filter(|local| !local.state().absorbed)
        .collect();
    for (number, shard) in core.head.shards().iter().enumerate() {
        let places = shard.lock().late_places();
        for place in places {
            let slot = (number * SHARD_SLOTS + place) as u32;
            let index = core.head.index.read();
            let (labels, tenant) = (index.labels(slot), index.tenant_of(slot).cloned());
            drop(index);
            let (Some(labels), Some(tenant)) = (labels, tenant) else {
                continue;
            };
            let read = shard.lock().read_late(place);
            let late = match read {
                Ok(late) => late,
                Err(error) => {
                    tracing::error!(%error, series = %labels, "late samples cannot be read and stay as they are");
                    continue;
                }
            };
            let Some(span) = span(&late) else { continue };
            let blocks: Vec<_> = open.iter().filter(|local| local.tenant == tenant).cloned().collect();
            let known = block_on(read_series(&blocks, &labels, span)).unwrap_or_else(|error| {
                tracing::warn!(%error, "late samples may be cut again, since a local block could not be read");
                SampleBuffer::default()
            });
            let mut shard = shard.lock();
            if !known.is_empty() {
                shard.replace_late(place, &without(&late, &known));
            }
            keep_newest(&mut shard, place, &late);
        }
    }
}

/// From the first to the last sample.
fn span(samples: &SampleBuffer) -> Option<TimeRange> {
    let histograms = || samples.histograms.iter().map(|sample| sample.at);
    let times = || samples.timestamps.iter().copied().chain(histograms());
    Some(TimeRange::new(times().min()?, times().max()?))
}

/// What of `samples` has a timestamp that `known` has not.
fn without(samples: &SampleBuffer, known: &SampleBuffer) -> SampleBuffer {
    let is_known = |at: Timestamp| {
        known.timestamps.binary_search(&at).is_ok()
            || known.histograms.binary_search_by_key(&at, |sample| sample.at).is_ok()
    };
    let mut left = SampleBuffer::default();
    for (&at, &value) in samples.timestamps.iter().zip(&samples.values) {
        if !is_known(at) {
            left.push_float(at, value);
        }
    }
    let histograms = samples.histograms.iter().filter(|sample| !is_known(sample.at));
    left.histograms.extend(histograms.cloned());
    left
}

/// A late sample is older than the newest of its series, also when damage took the samples that were newer.
fn keep_newest(shard: &mut Shard, place: usize, late: &SampleBuffer) {
    let Some(newest) = span(late).map(|span| span.max) else {
        return;
    };
    if newest < shard.hot[place].last_at {
        return;
    }
    shard.seal(place);
    let is_histogram = late.timestamps.last() != Some(&newest);
    let hot = &mut shard.hot[place];
    hot.last_at = newest;
    if is_histogram {
        hot.flags |= FLAG_HISTOGRAM;
    } else {
        hot.last_bits = late.values.last().map_or(0, |value| value.to_bits());
        hot.flags &= !FLAG_HISTOGRAM;
    }
}
