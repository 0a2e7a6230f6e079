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

use hashbrown::HashMap;
use model::{env::Rng, push::SeriesRef, tenant::Tenant};
use parking_lot::RwLock;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use xxhash_rust::xxh3::xxh3_128_with_secret;

pub(crate) use table::{Found, RouteReader, Routes};

/// Identifies a spelling: a keyed hash wide enough that two spellings never share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(u128);

/// Length of the hash's secret: xxh3's own.
const SECRET_BYTES: usize = 192;

/// Hashes with a random secret, so that nobody can make two spellings meet on purpose.
#[derive(Clone)]
pub(crate) struct KeyHasher {
    secret: Box<[u8; SECRET_BYTES]>,
}

impl KeyHasher {
    fn new(rng: &dyn Rng) -> Self {
        let mut secret = Box::new([0; SECRET_BYTES]);
        for chunk in secret.chunks_exact_mut(8) {
            chunk.copy_from_slice(&rng.next_u64().to_le_bytes());
        }
        Self { secret }
    }

    #[inline]
    pub(crate) fn key(&self, bytes: &[u8]) -> Key {
        Key(xxh3_128_with_secret(bytes, &self.secret[..]))
    }
}

impl Key {
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
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
            turned_away: AtomicUsize::new(0),
        }
    }

    pub(crate) fn hasher(&self) -> &KeyHasher {
        &self.hasher
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
mod tests;
