//! Puts the floats of a stretch of records into the head, shard by shard on all cores.
//!
//! Replay spends most of its time here. Samples are parted by shard first, which keeps the order of each series; then each shard is the
//! work of one thread at a time. What tenants must know of it is noted beside, and handed to them in the end.

use crate::{
    core::TenantState,
    head::{
        chunk::FLAG_HISTOGRAM,
        shard::{Shard, place, shard_of},
    },
    wal::floats::FloatEntry,
};
use model::time::{Timestamp, block_start};
use parking_lot::Mutex;
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _};
use std::{collections::HashMap, sync::Arc};

/// Everything of a series in a window up to a timestamp is in a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) window: Timestamp,
    pub(crate) until: Timestamp,
}

/// Which samples are in blocks, by slot; only for series that have some there.
#[derive(Debug, Default)]
pub(crate) struct Cuts(pub(crate) HashMap<u32, Vec<Cut>>);

impl Cuts {
    /// What is in blocks of the series in a slot.
    #[inline]
    pub(crate) fn of(&self, slot: u32) -> &[Cut] {
        if self.0.is_empty() {
            return &[];
        }
        self.0.get(&slot).map_or(&[], Vec::as_slice)
    }
}

/// Whether a sample is in a block.
pub(crate) fn is_cut(cuts: &[Cut], at: Timestamp) -> bool {
    cuts.iter().any(|cut| cut.window == block_start(at) && at <= cut.until)
}

/// A float whose series is known.
struct Placed {
    slot: u32,
    at: Timestamp,
    bits: u64,
}

/// The floats of one shard.
#[derive(Default)]
struct Part {
    floats: Vec<Placed>,
    /// Samples that were put into the head.
    put: u64,
    /// Tenant, oldest and newest sample of each run of one tenant's series.
    spans: Vec<(u32, Timestamp, Timestamp)>,
    /// Chunks that began, with their tenant.
    begun: Vec<(u32, Timestamp)>,
}

/// Floats on their way into the head. Its memory is used again and again.
#[derive(Default)]
pub(crate) struct Floats {
    /// By shard.
    parts: Vec<Part>,
    waiting: bool,
}

impl Floats {
    /// Adds a float of the series in a slot.
    #[inline]
    pub(crate) fn add(&mut self, slot: u32, entry: &FloatEntry) {
        let shard = shard_of(slot);
        if shard >= self.parts.len() {
            self.parts.resize_with(shard + 1, Part::default);
        }
        self.parts[shard].floats.push(Placed {
            slot,
            at: entry.at,
            bits: entry.bits,
        });
        self.waiting = true;
    }

    /// Puts everything that was added into `shards`; gives the number of samples that were not there before and in no block.
    pub(crate) fn put(&mut self, shards: &[Arc<Mutex<Shard>>], tenants: &mut [TenantState], cuts: &Cuts) -> u64 {
        if !std::mem::take(&mut self.waiting) {
            return 0;
        }
        self.parts
            .par_iter_mut()
            .zip(shards)
            .filter(|(part, _)| !part.floats.is_empty())
            .for_each(|(part, shard)| part.put(&mut shard.lock(), cuts));
        let mut put = 0;
        for part in &mut self.parts {
            put += std::mem::take(&mut part.put);
            for (tenant, oldest, newest) in part.spans.drain(..) {
                note(&mut tenants[tenant as usize], None, (oldest, newest));
            }
            for (tenant, at) in part.begun.drain(..) {
                tenants[tenant as usize].note_chunk(at);
            }
        }
        put
    }
}

impl Part {
    fn put(&mut self, shard: &mut Shard, cuts: &Cuts) {
        for Placed { slot, at, bits } in self.floats.drain(..) {
            let place = place(slot);
            let Some(begins) = put_float(shard, place, at, bits, cuts.of(slot)) else {
                continue;
            };
            self.put += 1;
            let tenant = shard.hot[place].tenant;
            match self.spans.last_mut().filter(|span| span.0 == tenant) {
                Some((_, oldest, newest)) => (*oldest, *newest) = (at.min(*oldest), at.max(*newest)),
                None => self.spans.push((tenant, at, at)),
            }
            if begins {
                self.begun.push((tenant, at));
            }
        }
    }
}

/// Puts a float into its series unless it is there already or in a block: `None` then, else whether a chunk began with it.
#[inline]
pub(crate) fn put_float(shard: &mut Shard, place: usize, at: Timestamp, bits: u64, cuts: &[Cut]) -> Option<bool> {
    if at <= shard.hot[place].last_at {
        return None;
    }
    if !cuts.is_empty() && is_cut(cuts, at) {
        // The block has it; the series only remembers that it was there.
        shard.seal(place);
        let hot = &mut shard.hot[place];
        (hot.last_at, hot.last_bits) = (at, bits);
        hot.flags &= !FLAG_HISTOGRAM;
        return None;
    }
    Some(shard.append_float(place, at, bits))
}

/// Notes samples of a tenant: whether a chunk began with them, and what time they span.
#[inline]
pub(crate) fn note(tenant: &mut TenantState, chunk: Option<Timestamp>, (oldest, newest): (Timestamp, Timestamp)) {
    tenant.oldest = tenant.oldest.min(oldest);
    tenant.newest = tenant.newest.max(newest);
    if let Some(at) = chunk {
        tenant.note_chunk(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{chunk::Hot, shard::SHARD_SLOTS};
    use model::{select::Chunk, tenant::Tenant, time::TimeRange};

    #[test]
    fn each_series_gets_its_samples_in_order_whatever_shard_it_is_in() {
        let shards: Vec<_> = (0..3)
            .map(|_| Arc::new(Mutex::new(Shard::counting(Arc::default()))))
            .collect();
        let slots: Vec<u32> = (0..60).map(|index| index * SHARD_SLOTS as u32 / 20).collect();
        for &slot in &slots {
            let hot = Hot::new(u64::from(slot) + 1, slot % 2);
            shards[shard_of(slot)].lock().insert(place(slot), hot);
        }
        let tenant = |name: &str| TenantState::new(Tenant::new(name).unwrap(), 0, Default::default());
        let mut tenants = [tenant("even"), tenant("odd")];
        // Everything of one series before 50 is in a block.
        let cuts = Cuts(HashMap::from([(slots[7], vec![Cut { window: 0, until: 49 }])]));
        let (mut floats, mut put) = (Floats::default(), 0);
        for stretch in 0..10i64 {
            // One stretch overlaps the one before.
            for at in (stretch * 10).saturating_sub(5).max(1)..stretch * 10 + 10 {
                for &slot in &slots {
                    let entry = FloatEntry {
                        number: 0,
                        at,
                        bits: (at as f64).to_bits(),
                    };
                    floats.add(slot, &entry);
                }
            }
            put += floats.put(&shards, &mut tenants, &cuts);
        }
        assert_eq!(put, 99 * 60 - 49);
        for &slot in &slots {
            let mut chunks: Vec<Chunk> = Vec::new();
            shards[shard_of(slot)]
                .lock()
                .copy_chunks(place(slot), TimeRange::ALL, &mut chunks);
            let mut samples = model::sample::SampleBuffer::default();
            for chunk in &chunks {
                storage::chunk::decode(chunk.encoding, &chunk.data, TimeRange::ALL, &mut samples).unwrap();
            }
            let first = if slot == slots[7] { 50 } else { 1 };
            assert_eq!(samples.timestamps, (first..100).collect::<Vec<i64>>());
        }
        for tenant in &tenants {
            assert_eq!((tenant.oldest, tenant.newest), (1, 99));
        }
        let chunks: u64 = tenants.iter().flat_map(|t| t.windows.values()).map(|w| w.chunks).sum();
        assert_eq!(chunks, 60);
    }
}
