//! Puts the series of a head image into the head, payload by payload on all cores.
//!
//! A series stands in one payload only, so payloads do not depend on one another. Complete chunks are copied; open ones go on where
//! they were, bit for bit, without being encoded again.

use crate::{
    codec::Damage,
    core::TenantState,
    head::{
        chunk::FLAG_HISTOGRAM,
        sealed::ChunkInfo,
        shard::{Shard, place, shard_of},
    },
    image::{ChunkState, ImageChunk, ImageSeries, decode_series},
    numbers::Slots,
    restore::{Cuts, is_cut, note, put_float},
};
use model::time::Timestamp;
use parking_lot::Mutex;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use std::sync::Arc;
use storage::chunk::{XorReader, is_histogram};

/// What became of a payload.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// Samples put into the head.
    pub(crate) samples: u64,
    /// Samples of series that nothing is known of.
    pub(crate) dropped: u64,
    /// What does not make sense, and the bytes of the payload.
    pub(crate) damage: Option<(u64, Damage)>,
    /// Tenant, where a chunk begins if one does, and the time that samples span.
    notes: Vec<(u32, Option<Timestamp>, (Timestamp, Timestamp))>,
}

impl Restored {
    /// Tells the tenants what came.
    pub(crate) fn tell(&mut self, tenants: &mut [TenantState]) {
        for (tenant, chunk, span) in self.notes.drain(..) {
            note(&mut tenants[tenant as usize], chunk, span);
        }
    }
}

/// Puts what payloads hold into `shards`.
pub(crate) fn restore(payloads: &[Vec<u8>], shards: &[Arc<Mutex<Shard>>], slots: &Slots, cuts: &Cuts) -> Vec<Restored> {
    let restore = |payload: &Vec<u8>| {
        let (mut restored, mut last) = (Restored::default(), 0);
        let outcome = decode_series(payload, |series| match slots.find(&mut last, series.number) {
            Some(slot) => restored.series(&mut shards[shard_of(slot)].lock(), slot, cuts, &series),
            None => {
                let samples = series.chunks.iter().map(|chunk| u64::from(chunk.samples));
                restored.dropped += samples.sum::<u64>();
            }
        });
        restored.damage = outcome.err().map(|damage| (payload.len() as u64, damage));
        restored
    };
    payloads.par_iter().map(restore).collect()
}

impl Restored {
    /// A series of an image: its chunks and its newest sample.
    fn series(&mut self, shard: &mut Shard, slot: u32, cuts: &Cuts, series: &ImageSeries<'_>) {
        let place = place(slot);
        for chunk in &series.chunks {
            // A block has a chunk as a whole: what came to it after the image was taken is in the block as well.
            // Late samples came in any order, so they are compared with the blocks one by one in the end.
            if chunk.state == ChunkState::Late || !is_cut(cuts.of(slot), chunk.max_time) {
                self.samples += u64::from(chunk.samples);
                self.chunk(shard, place, chunk);
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

    fn chunk(&mut self, shard: &mut Shard, place: usize, chunk: &ImageChunk<'_>) {
        let info = ChunkInfo {
            min_time: chunk.min_time,
            max_time: chunk.max_time,
            samples: chunk.samples,
            encoding: chunk.encoding,
        };
        let tenant = shard.hot[place].tenant;
        match chunk.state {
            ChunkState::Sealed => shard.add_sealed(place, info, chunk.data),
            ChunkState::Late => shard.add_late(place, info, chunk.data),
            ChunkState::Open if is_histogram(chunk.encoding) => {
                if !shard.restore_histograms(place, chunk.encoding, chunk.data) {
                    return;
                }
            }
            ChunkState::Open => {
                match shard.restore_floats(place, chunk.data) {
                    Some(span) => self.notes.push((tenant, Some(span.0), span)),
                    None => self.floats(shard, place, chunk.data),
                }
                return;
            }
        }
        self.notes
            .push((tenant, Some(chunk.min_time), (chunk.min_time, chunk.max_time)));
    }

    /// Floats of a chunk that is not as an open one is: sample by sample.
    fn floats(&mut self, shard: &mut Shard, place: usize, data: &[u8]) {
        let Ok(mut reader) = XorReader::new(data) else {
            return;
        };
        while let Ok(Some((at, value))) = reader.next() {
            if let Some(begins) = put_float(shard, place, at, value.to_bits(), &[]) {
                let tenant = shard.hot[place].tenant;
                self.notes.push((tenant, begins.then_some(at), (at, at)));
            }
        }
    }
}
