//! What the head knows about a sample that is not newer than the newest of its series.

use super::Shard;
use crate::head::{
    chunk::{FLAG_HISTOGRAM, NEVER},
    late::LateValue,
};
use model::{
    histogram::{Histogram, ResetHint},
    sample::SampleBuffer,
    time::{TimeRange, Timestamp},
};
use std::sync::Arc;
use storage::chunk::{self, XorReader, is_histogram};

/// What the head knows about a point in time of a series.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Lookup {
    /// There is a float with these bits.
    Float(u64),
    /// There is a histogram.
    Histogram(Arc<Histogram>),
    /// The head holds no sample there.
    Absent,
}

impl Shard {
    /// What the head holds of a series at a point in time.
    pub(crate) fn lookup(&self, place: usize, at: Timestamp) -> Lookup {
        match self.lookup_in_order(place, at) {
            Lookup::Absent => match self.late.lookup(place, at, &self.sealed) {
                Some(LateValue::Float(bits)) => Lookup::Float(bits),
                Some(LateValue::Histogram(histogram)) => Lookup::Histogram(histogram),
                None => Lookup::Absent,
            },
            known => known,
        }
    }

    fn lookup_in_order(&self, place: usize, at: Timestamp) -> Lookup {
        let (hot, cold) = (&self.hot[place], &self.cold[place]);
        if hot.last_at == NEVER || at > hot.last_at {
            return Lookup::Absent;
        }
        if at == hot.last_at && hot.flags & FLAG_HISTOGRAM == 0 {
            return Lookup::Float(hot.last_bits);
        }
        if let Some(open) = self.open_chunk(place).filter(|open| at >= open.min_time) {
            let mut bytes = Vec::new();
            self.copy_open(place, &mut bytes);
            return look_up(open.encoding, &bytes, at);
        }
        let behind = cold.sealed.partition_point(|chunk| chunk.min_time <= at);
        let chunk = behind
            .checked_sub(1)
            .map(|index| &cold.sealed[index])
            .filter(|chunk| at <= chunk.max_time());
        chunk.map_or(Lookup::Absent, |chunk| {
            look_up(chunk.encoding, self.sealed.view(chunk), at)
        })
    }
}

/// Looks for a timestamp in a chunk.
fn look_up(encoding: u8, chunk: &[u8], at: Timestamp) -> Lookup {
    if is_histogram(encoding) {
        let mut buffer = SampleBuffer::default();
        // A chunk that cannot be read holds nothing.
        let _ = chunk::decode(encoding, chunk, TimeRange::new(at, at), &mut buffer);
        return buffer
            .histograms
            .pop()
            .map_or(Lookup::Absent, |sample| Lookup::Histogram(sample.histogram));
    }
    let Ok(mut reader) = XorReader::new(chunk) else {
        return Lookup::Absent;
    };
    while let Ok(Some((time, value))) = reader.next() {
        if time >= at {
            return if time == at {
                Lookup::Float(value.to_bits())
            } else {
                Lookup::Absent
            };
        }
    }
    Lookup::Absent
}

/// Whether two histograms are the same sample. What is stored may know more about resets and have more empty buckets than what was
/// sent.
pub(crate) fn is_same_histogram(a: &Histogram, b: &Histogram) -> bool {
    if a.is_stale() || b.is_stale() {
        return a.is_stale() && b.is_stale();
    }
    let plain = |histogram: &Histogram| {
        let mut plain = Histogram {
            reset_hint: ResetHint::Unknown,
            sum: 0.0,
            ..histogram.clone()
        };
        plain.compact();
        plain
    };
    let is_gauge = |histogram: &Histogram| histogram.reset_hint == ResetHint::Gauge;
    a.sum.to_bits() == b.sum.to_bits() && is_gauge(a) == is_gauge(b) && plain(a) == plain(b)
}
