//! The hot path: from the label bytes of a series, as a sender repeats them each scrape, to the taker's number of it.
//!
//! The bytes are hashed with a secret to 128 bits and never understood again: a hit skips decoding, sorting, validation and
//! placement. Senders encode the same series differently, so a series may have several *spellings*, each with a route of
//! its own. Routes are only a memory: losing one costs a decoding, keeping one too long a refused number.
//!
//! `gather` asks for a [`RouteReader`] per request and `write` teaches what the taker answered. The number of spellings is
//! bounded over all tenants: when the young halves together are full, each tenant's young half becomes its old one and the
//! old one is forgotten. What is used moves back into the young half.

mod table;
mod tables;

use hashbrown::HashMap;
use model::{env::Rng, push::SeriesRef, tenant::Tenant};
use parking_lot::RwLock;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use xxhash_rust::xxh3::xxh3_128_with_secret;

pub(crate) use table::{Found, RouteReader, Routes};
use tables::Tables;

/// Identifies a spelling: a keyed hash wide enough that two spellings never share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    low: u64,
    high: u64,
}

/// Length of the hash's secret: xxh3's own.
const SECRET_BYTES: usize = 192;

/// Hashes with random secrets, so that nobody can make two spellings meet on purpose.
#[derive(Clone)]
pub(crate) struct KeyHasher {
    secret: Box<[u8; SECRET_BYTES]>,
    mix: Box<MixSecret>,
}

/// How many keys of a list are mixed with secrets of their own before these are used again.
const MIX_BLOCK: usize = 64;

#[derive(Clone)]
struct MixSecret {
    /// For each place in a block.
    places: [(u64, u64); MIX_BLOCK],
    /// Between blocks, odd.
    step: u128,
}

impl KeyHasher {
    fn new(rng: &dyn Rng) -> Self {
        let mut secret = Box::new([0; SECRET_BYTES]);
        for chunk in secret.chunks_exact_mut(8) {
            chunk.copy_from_slice(&rng.next_u64().to_le_bytes());
        }
        let places = std::array::from_fn(|_| (rng.next_u64(), rng.next_u64()));
        let step = (u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())) | 1;
        Self {
            secret,
            mix: Box::new(MixSecret { places, step }),
        }
    }

    /// The key of a byte string.
    #[inline]
    pub(crate) fn key(&self, bytes: &[u8]) -> Key {
        Key::from_wide(xxh3_128_with_secret(bytes, &self.secret[..]))
    }

    /// Begins the key of a list of keys.
    #[inline]
    pub(crate) fn mixer(&self) -> Mixer<'_> {
        Mixer {
            secret: &self.mix,
            sum: 0,
            count: 0,
        }
    }
}

/// The key of a list of keys in their order: a sum of products with a secret for each place, so that the additions of
/// one list need not wait for each other. The keys are hashes with a secret already, which nobody outside can choose.
#[derive(Clone, Copy)]
pub(crate) struct Mixer<'a> {
    secret: &'a MixSecret,
    sum: u128,
    count: usize,
}

impl Mixer<'_> {
    #[inline]
    pub(crate) fn add(&mut self, key: Key) {
        let place = self.count % MIX_BLOCK;
        if place == 0 {
            self.sum = self.sum.wrapping_mul(self.secret.step);
        }
        let (one, other) = self.secret.places[place];
        let low = key.low.wrapping_add(one);
        let high = key.high.wrapping_add(other);
        self.sum = self.sum.wrapping_add(u128::from(low) * u128::from(high));
        self.count += 1;
    }

    /// How many keys were added.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The key of the list. Its length is a part of it.
    #[inline]
    pub(crate) fn finish(self) -> Key {
        let sum = self.sum.wrapping_add(self.count as u128).wrapping_mul(self.secret.step);
        // High bits of products are better than low ones; the index of the routes looks at the low ones.
        Key::from_wide(sum ^ (sum >> 64))
    }
}

impl Key {
    /// A key that stands for a small number in a [`Mixer`].
    pub(crate) fn from_number(number: u64) -> Self {
        Self::from_numbers(number, number)
    }

    /// The same for two of them.
    #[inline]
    pub(crate) fn from_numbers(low: u64, high: u64) -> Self {
        Key { low, high }
    }

    #[inline]
    fn from_wide(wide: u128) -> Self {
        Key {
            low: wide as u64,
            high: (wide >> 64) as u64,
        }
    }
}

/// The routes of all tenants.
pub(crate) struct Resolver {
    tenants: RwLock<HashMap<Tenant, Arc<Routes>>>,
    hasher: KeyHasher,
    /// Spellings in the young halves of all tenants.
    young: AtomicUsize,
    /// The same of the old halves.
    old: AtomicUsize,
    young_max: usize,
    tenants_max: usize,
    tables: Tables,
    /// Requests of tenants that there was no room for, since the last sweep.
    turned_away: AtomicUsize,
}

impl Resolver {
    pub(crate) fn new(rng: &dyn Rng, spellings_max: usize, tenants_max: usize) -> Self {
        Self {
            tenants: RwLock::default(),
            hasher: KeyHasher::new(rng),
            young: AtomicUsize::new(0),
            old: AtomicUsize::new(0),
            young_max: (spellings_max / 2).max(1),
            tenants_max: tenants_max.max(1),
            tables: Tables::default(),
            turned_away: AtomicUsize::new(0),
        }
    }

    pub(crate) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// Whether a symbol table with this key came before, whoever sent it: it tells only what is worth learning.
    pub(crate) fn is_repeated_table(&self, table: Key) -> bool {
        self.tables.came_before(table)
    }

    /// The routes of a tenant. When there are too many tenants a new one gets routes that nobody keeps: its requests are
    /// answered, only slower. So many of them make room by a sweep, and not each of them, since a flood of invented
    /// tenants must not cost the others their routes.
    pub(crate) fn routes(&self, tenant: &Tenant) -> Arc<Routes> {
        if let Some(routes) = self.tenants.read().get(tenant) {
            return Arc::clone(routes);
        }
        let mut tenants = self.tenants.write();
        if tenants.len() < self.tenants_max || tenants.contains_key(tenant) {
            return Arc::clone(tenants.entry(tenant.clone()).or_default());
        }
        drop(tenants);
        if self.turned_away.fetch_add(1, Ordering::Relaxed) + 1 >= self.tenants_max {
            self.sweep_if(|| self.turned_away.load(Ordering::Relaxed) >= self.tenants_max);
        }
        Arc::default()
    }

    /// Remembers what the taker answered: routes that are new, were in the old half, or got another number.
    pub(crate) fn learn(&self, routes: &Routes, learnt: &[(Key, SeriesRef)]) {
        if learnt.is_empty() {
            return;
        }
        let added = routes.learn(learnt);
        if self.young.fetch_add(added, Ordering::Relaxed) + added > self.young_max {
            self.sweep_if(|| self.young.load(Ordering::Relaxed) > self.young_max);
        }
    }

    /// Forgets all routes. What requests still learn that began before is learnt into tables that nobody asks any more.
    pub(crate) fn forget(&self) {
        let mut tenants = self.tenants.write();
        let forgotten = std::mem::take(&mut *tenants);
        self.young.store(0, Ordering::Relaxed);
        self.old.store(0, Ordering::Relaxed);
        drop(tenants);
        // Memory is given back after the lock.
        drop(forgotten);
    }

    /// Spellings remembered, in both halves.
    pub(crate) fn spellings(&self) -> usize {
        self.young.load(Ordering::Relaxed) + self.old.load(Ordering::Relaxed)
    }

    /// Forgets the old halves; tenants with nothing left are forgotten as a whole. `due` is asked under the lock, so that
    /// of two callers only one sweeps.
    fn sweep_if(&self, due: impl Fn() -> bool) {
        let mut tenants = self.tenants.write();
        if !due() {
            return;
        }
        // Memory is given back after the lock.
        let forgotten: Vec<_> = tenants.values().map(|routes| routes.rotate()).collect();
        self.old.store(self.young.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        self.turned_away.store(0, Ordering::Relaxed);
        tenants.retain(|_, routes| routes.len() > 0);
        drop(tenants);
        drop(forgotten);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    struct Counting(std::sync::atomic::AtomicU64);

    impl Rng for Counting {
        fn next_u64(&self) -> u64 {
            self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
        }
    }

    /// A hasher that is the same each time.
    pub(crate) fn hasher() -> KeyHasher {
        KeyHasher::new(&Counting(1.into()))
    }
}

#[cfg(test)]
mod tests;
