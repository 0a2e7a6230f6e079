//! Puts the floats of a stretch of records into the head, shard by shard on all cores.
//!
//! Replay spends most of its time here. Samples are parted by shard first, which keeps the order of each series; then each shard is the
//! work of one thread at a time. What tenants must know of it is noted beside, and handed to them in the end.

use crate::{
    core::TenantState,
    head::{
        chunk::FLAG_HISTOGRAM,
        shard::{SHARD_SLOTS, Shard, place, shard_of},
    },
    wal::floats::{FloatRun, FloatRuns},
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

/// Values of a record whose series are known: of consecutive places at one time, or of one place at several times.
struct Placed {
    place: u32,
    count: u32,
    at: Timestamp,
    /// Which of the records.
    record: u32,
    /// Where its values lie.
    from: u32,
    /// Where its timestamps lie, when all are of one place.
    times: Option<u32>,
}

/// The floats of one shard.
#[derive(Default)]
struct Part {
    runs: Vec<Placed>,
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
    records: Vec<FloatRuns>,
}

impl Floats {
    /// Adds `count` values of a run of the record that [`Self::end_record`] ends, `skip` behind its first, which lies at `from`. They
    /// belong to the series in a slot and, unless the run is of one series, in those behind it.
    pub(crate) fn add(&mut self, slot: u32, run: &FloatRun, from: u32, skip: u32, count: u32) {
        let (mut slot, mut skip, end) = (slot, skip, skip + count);
        while skip < end {
            let room = (SHARD_SLOTS - place(slot)) as u32;
            let count = match run.times {
                Some(_) => end - skip,
                None => room.min(end - skip),
            };
            let shard = shard_of(slot);
            if shard >= self.parts.len() {
                self.parts.resize_with(shard + 1, Part::default);
            }
            self.parts[shard].runs.push(Placed {
                place: place(slot) as u32,
                count,
                at: run.at,
                record: self.records.len() as u32,
                from: from + skip,
                times: run.times.map(|times| times + skip),
            });
            (slot, skip) = (slot.wrapping_add(count), skip + count);
        }
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes over the record that runs were added of.
    pub(crate) fn end_record(&mut self, record: FloatRuns) {
        self.records.push(record);
    }

    /// Puts everything that was added into `shards`; gives the number of samples that were not there before and in no block. Memory
    /// that records came in goes to `spare`.
    pub(crate) fn put(
        &mut self,
        shards: &[Arc<Mutex<Shard>>],
        tenants: &mut [TenantState],
        cuts: &Cuts,
        spare: &mut Vec<FloatRuns>,
    ) -> u64 {
        if self.records.is_empty() {
            return 0;
        }
        let records = &self.records;
        self.parts
            .par_iter_mut()
            .zip(shards)
            .enumerate()
            .filter(|(_, (part, _))| !part.runs.is_empty())
            .for_each(|(number, (part, shard))| {
                part.put(records, &mut shard.lock(), (number * SHARD_SLOTS) as u32, cuts);
            });
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
        spare.append(&mut self.records);
        put
    }
}

impl Part {
    /// Puts all runs into the shard whose first slot is `first`.
    fn put(&mut self, records: &[FloatRuns], shard: &mut Shard, first: u32, cuts: &Cuts) {
        let runs = std::mem::take(&mut self.runs);
        for run in &runs {
            let record = &records[run.record as usize];
            let bits = &record.bits[run.from as usize..][..run.count as usize];
            match run.times {
                None => {
                    for (place, &bits) in (run.place..).zip(bits) {
                        self.put_float(shard, place, (run.at, bits), cuts.of(first + place));
                    }
                }
                Some(times) => {
                    let cuts = cuts.of(first + run.place);
                    for (&at, &bits) in record.times[times as usize..].iter().zip(bits) {
                        self.put_float(shard, run.place, (at, bits), cuts);
                    }
                }
            }
        }
        self.runs = runs;
        self.runs.clear();
    }

    #[inline(always)]
    fn put_float(&mut self, shard: &mut Shard, place: u32, (at, bits): (Timestamp, u64), cuts: &[Cut]) {
        let place = place as usize;
        let Some(begins) = put_float(shard, place, at, bits, cuts) else {
            return;
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
    use crate::head::chunk::Hot;
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
        let (mut floats, mut put, mut spare) = (Floats::default(), 0, Vec::new());
        for stretch in 0..10i64 {
            // One stretch overlaps the one before.
            for at in (stretch * 10).saturating_sub(5).max(1)..stretch * 10 + 10 {
                let record = FloatRuns {
                    bits: vec![(at as f64).to_bits(); slots.len()],
                    ..FloatRuns::default()
                };
                let run = FloatRun {
                    first: 0,
                    count: slots.len() as u32,
                    at,
                    times: None,
                };
                (0..)
                    .zip(&slots)
                    .for_each(|(skip, &slot)| floats.add(slot, &run, 0, skip, 1));
                floats.end_record(record);
            }
            put += floats.put(&shards, &mut tenants, &cuts, &mut spare);
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

    #[test]
    fn runs_go_on_in_the_next_shard_and_columns_stay_in_one_series() {
        let shards: Vec<_> = (0..3)
            .map(|_| Arc::new(Mutex::new(Shard::counting(Arc::default()))))
            .collect();
        for slot in 0..3 * SHARD_SLOTS as u32 {
            let hot = Hot::new(u64::from(slot) + 1, 0);
            shards[shard_of(slot)].lock().insert(place(slot), hot);
        }
        let mut tenants = [TenantState::new(Tenant::new("one").unwrap(), 0, Default::default())];
        let (mut floats, mut spare) = (Floats::default(), Vec::new());
        let row = FloatRun {
            first: 0,
            count: 9000,
            at: 10,
            times: None,
        };
        let column = FloatRun {
            first: 0,
            count: 3,
            at: 20,
            times: Some(1),
        };
        let record = FloatRuns {
            bits: (0..9003).collect(),
            times: vec![-1, 20, 30, 40],
            ..FloatRuns::default()
        };
        floats.add(5, &row, 0, 0, 9000);
        floats.add(4095, &column, 9000, 0, 3);
        floats.end_record(record);
        assert_eq!(floats.put(&shards, &mut tenants, &Cuts::default(), &mut spare), 9003);
        assert_eq!(spare.len(), 1);
        let newest = |slot: u32| {
            let shard = shards[shard_of(slot)].lock();
            (shard.hot[place(slot)].last_at, shard.hot[place(slot)].last_bits)
        };
        assert_eq!(
            (newest(5), newest(4096), newest(9004)),
            ((10, 0), (10, 4091), (10, 8999))
        );
        assert_eq!(newest(4095), (40, 9002));
        assert_eq!(shards[2].lock().hot[9005 - 8192].open_count(), 0);
    }
}
