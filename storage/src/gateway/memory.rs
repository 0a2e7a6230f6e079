//! What all queries together hold between the bucket and whoever asked for it.
//!
//! Nobody waits for memory: a query that waits while it holds some could wait for ever, together with others that do the same. Instead
//! each step of a query takes a part of what is free, so that steps become smaller the more is held, and none is smaller than what
//! makes a request worth its while.

use prometheus_client::metrics::gauge::Gauge;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A step may take so much even when nothing is free, so that every query gets on.
pub(super) const STEP_BYTES_MIN: u64 = 256 << 10;

/// Memory that queries share. Clones share it.
#[derive(Clone)]
pub(super) struct Memory {
    held: Arc<AtomicU64>,
    bytes_max: u64,
    shown: Gauge,
}

impl Memory {
    pub(super) fn new(bytes_max: u64, shown: Gauge) -> Self {
        Self {
            held: Arc::default(),
            bytes_max,
            shown,
        }
    }

    /// How much the next step of a query may take, `most` at most: most of what is free, as others may come.
    pub(super) fn room(&self, most: u64) -> u64 {
        let free = self.bytes_max.saturating_sub(self.held.load(Ordering::Relaxed));
        (free - free / 8).min(most).max(STEP_BYTES_MIN)
    }

    /// Counts `bytes` as held.
    pub(super) fn hold(&self, bytes: u64) -> Held {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.shown.inc_by(bytes as i64);
        Held {
            memory: self.clone(),
            bytes,
        }
    }
}

/// Bytes that a query holds; free again when it is dropped.
pub(super) struct Held {
    memory: Memory,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.memory.shown.dec_by(self.bytes as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_become_smaller_the_more_is_held_and_none_waits() {
        let memory = Memory::new(32 << 20, Gauge::default());
        let mut held = Vec::new();
        for _ in 0..20 {
            held.push(memory.hold(memory.room(8 << 20)));
        }
        let taken = memory.held.load(Ordering::Relaxed);
        assert!(taken <= (32 << 20) + 20 * STEP_BYTES_MIN, "{taken}");
        assert_eq!(memory.room(8 << 20), STEP_BYTES_MIN);
        drop(held);
        assert_eq!((memory.room(8 << 20), memory.shown.get()), (8 << 20, 0));
    }
}
