//! The head: the newest samples of every series, in memory.
//!
//! Two halves. The index knows who the series are, the shards hold their samples. A commit changes both under the commit
//! lock; readers take the lock of the index for lookups and that of one shard at a time, briefly. Modules are listed in reading order;
//! one imports only from those above it, and its own parts.

pub(crate) mod symbols;
pub(crate) mod postings;
mod listing;
pub(crate) mod index;
pub(crate) mod projection;
pub(crate) mod chunk;
pub(crate) mod sealed;
mod delete;
pub(crate) mod late;
pub(crate) mod shard;
pub(crate) mod lookup;
pub(crate) mod extras;

use bytes::Bytes;
use index::Index;
use parking_lot::{Mutex, RwLock};
use shard::{Shard, place, shard_of};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What the head takes, in bytes; what allocators add is not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadMemory {
    /// Samples and what belongs to them, in memory.
    pub samples: usize,
    /// Names of series, without posting lists.
    pub index: usize,
    /// Complete chunks in mapped files.
    pub in_files: usize,
}

/// The head of a node, for all tenants.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) index: RwLock<Index>,
    shards: RwLock<Vec<Arc<Mutex<Shard>>>>,
    /// Bytes of late samples.
    late_bytes: Arc<AtomicUsize>,
}

impl Head {
    /// An empty head; `seed` makes its hashes unpredictable.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            index: RwLock::new(Index::new(seed)),
            shards: RwLock::new(Vec::new()),
            late_bytes: Arc::default(),
        }
    }

    /// About how much memory late samples take.
    pub(crate) fn late_bytes(&self) -> usize {
        self.late_bytes.load(Ordering::Relaxed)
    }

    /// The shards, for who goes through many of them.
    pub(crate) fn shards(&self) -> Vec<Arc<Mutex<Shard>>> {
        self.shards.read().clone()
    }

    /// The shard that a slot lies in, if there is one already.
    pub(crate) fn shard(&self, slot: u32) -> Option<Arc<Mutex<Shard>>> {
        self.shards.read().get(shard_of(slot)).cloned()
    }

    /// Makes sure that the shard of a slot exists; gives all shards when one was added.
    pub(crate) fn ensure_shard(&self, slot: u32) -> Option<Vec<Arc<Mutex<Shard>>>> {
        if shard_of(slot) < self.shards.read().len() {
            return None;
        }
        let mut shards = self.shards.write();
        while shards.len() <= shard_of(slot) {
            let shard = Shard::counting(Arc::clone(&self.late_bytes));
            shards.push(Arc::new(Mutex::new(shard)));
        }
        Some(shards.clone())
    }

    /// What it takes.
    pub(crate) fn memory(&self) -> HeadMemory {
        let mut memory = HeadMemory {
            index: self.index.read().memory(),
            ..HeadMemory::default()
        };
        for shard in self.shards() {
            let mut shard = shard.lock();
            memory.samples += shard.memory();
            memory.in_files += shard.pieces().in_files().map(Bytes::len).sum::<usize>();
        }
        memory
    }

    /// Runs `work` on the shard of a series that is known to exist, with its place.
    pub(crate) fn with<R>(&self, slot: u32, work: impl FnOnce(&mut Shard, usize) -> R) -> Option<R> {
        let shard = self.shard(slot)?;
        let mut shard = shard.lock();
        Some(work(&mut shard, place(slot)))
    }
}
