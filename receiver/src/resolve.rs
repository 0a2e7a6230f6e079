//! The hot path: from the label bytes of a series, as a sender repeats them each scrape, to the taker's number of it.
//!
//! The bytes are hashed with a secret to 128 bits and never understood again: a hit skips decoding, sorting, validation and
//! placement. Senders encode the same series differently, so a series may have several *spellings*, each with a route of
//! its own. Routes are only a memory: losing one costs a decoding, keeping one too long a refused number.
//!
//! `gather` asks for a [`RouteReader`] per request and `write` teaches what the taker answered. The number of spellings is
//! bounded over all tenants: when the young halves together are full, each tenant's young half becomes its old one and the
//! old one is forgotten. What is used moves back into the young half.

mod key;
mod table;
mod tables;

use hashbrown::HashMap;
use model::{env::Rng, push::SeriesRef, tenant::Tenant};
use parking_lot::RwLock;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

pub(crate) use key::{Key, KeyHasher, Mixer};
pub(crate) use table::{FETCHED_MAX, Found, RouteReader, Routes};
use tables::Tables;

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
    use std::sync::atomic::AtomicU64;

    /// Numbers that look random and are the same each time.
    pub(crate) struct Counting(AtomicU64);

    impl Counting {
        pub(crate) fn new(seed: u64) -> Self {
            Self(seed.into())
        }
    }

    impl Rng for Counting {
        fn next_u64(&self) -> u64 {
            let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
        }
    }

    /// A hasher that is the same each time.
    pub(crate) fn hasher() -> KeyHasher {
        KeyHasher::new(&Counting::new(1))
    }
}

#[cfg(test)]
mod tests;
