//! The replicator's own numbers of series, and under them the numbers that each taker gave.
//!
//! A series gets an entry when it first comes with labels: where it belongs on the ring, and a few numbers, one for each taker that has
//! taken it. Labels are not kept. An entry without the number of a taker that is to have the series makes the caller repeat it with labels.
//!
//! Memory is bounded by generations: a full one becomes the old one, the old one is forgotten, and what is used moves over, since its
//! number is not known any more and it comes again with labels. Numbers carry their generation, so none ever means another series.

use hashbrown::HashTable;
use model::{env::Rng, label::Labels, push::SeriesRef, tenant::Tenant};
use parking_lot::RwLock;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use xxhash_rust::xxh3::xxh3_128_with_secret;

/// Marks our numbers; those of takers that store have it zero.
const OURS: u64 = 1 << 31;

/// Largest number of entries in a generation: their index has 31 bits.
const ENTRIES_MAX: usize = (1 << 31) - 1;

/// No number: takers leave bit 31 zero.
const NONE: u64 = u64::MAX;

/// Least room for numbers of far takers in an entry: three copies need two or three, one more is for substitutes.
const STRIDE_MIN: usize = 4;

const SECRET_BYTES: usize = 192;

/// What each push of a series looks at.
#[derive(Debug)]
struct Entry {
    hash: u64,
    tenant: u32,
    near: AtomicU64,
}

/// What is known of a series.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// Its place on the ring.
    pub(crate) hash: u64,
    near: &'a AtomicU64,
    /// Numbers of far takers with the life of their session above.
    far: &'a [AtomicU64],
}

impl Known<'_> {
    /// The near taker's number.
    #[inline]
    pub(crate) fn near(&self) -> Option<SeriesRef> {
        let number = self.near.load(Ordering::Relaxed);
        (number != NONE).then_some(SeriesRef(number))
    }

    /// The number of the far taker whose session has this life.
    #[inline]
    pub(crate) fn far(&self, life: u32) -> Option<SeriesRef> {
        let numbers = self.far.iter().map(|number| number.load(Ordering::Relaxed));
        numbers
            .filter(|number| *number != NONE)
            .find(|number| (number >> 32) as u32 == life)
            .map(SeriesRef)
    }

    fn learn_far(&self, number: SeriesRef) {
        let life = number.0 >> 32;
        let same = |slot: &&AtomicU64| slot.load(Ordering::Relaxed) >> 32 == life;
        let free = |slot: &&AtomicU64| slot.load(Ordering::Relaxed) == NONE;
        // Lives only grow, so the smallest is the session that began longest ago.
        let oldest = || self.far.iter().min_by_key(|slot| slot.load(Ordering::Relaxed) >> 32);
        let slot = self.far.iter().find(same).or_else(|| self.far.iter().find(free));
        if let Some(slot) = slot.or_else(oldest) {
            slot.store(number.0, Ordering::Relaxed);
        }
    }

    fn forget(&self, number: SeriesRef) {
        for slot in self.far.iter().chain([self.near]) {
            let _ = slot.compare_exchange(number.0, NONE, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct Generation {
    number: u32,
    tenants: HashMap<Tenant, u32>,
    index: HashTable<u32>,
    entries: Vec<Entry>,
    /// Keys of the entries; apart, since only a series that comes with labels is looked up by its key.
    keys: Vec<u128>,
    /// Numbers of far takers, `stride` for each entry.
    far: Vec<AtomicU64>,
    stride: usize,
}

impl Generation {
    fn new(number: u32, stride: usize) -> Self {
        Self {
            number,
            far: Vec::new(),
            stride,
            tenants: HashMap::new(),
            index: HashTable::new(),
            entries: Vec::new(),
            keys: Vec::new(),
        }
    }

    #[inline]
    fn get(&self, index: usize) -> Option<Known<'_>> {
        let entry = self.entries.get(index)?;
        Some(Known {
            hash: entry.hash,
            near: &entry.near,
            far: &self.far[index * self.stride..(index + 1) * self.stride],
        })
    }

    fn number_of(&self, index: u32) -> SeriesRef {
        SeriesRef(u64::from(self.number) << 32 | OURS | u64::from(index))
    }

    fn find(&self, key: u128) -> Option<u32> {
        let keys = &self.keys;
        let found = self.index.find(key as u64, |index| keys[*index as usize] == key);
        found.copied()
    }
}

#[derive(Debug)]
struct Generations {
    young: Generation,
    old: Option<Generation>,
}

/// All series that this node has forwarded lately.
pub(crate) struct Catalog {
    generations: RwLock<Generations>,
    secret: Box<[u8; SECRET_BYTES]>,
    entries_max: usize,
    /// Far takers that a series may have at a time.
    stride: AtomicUsize,
}

/// The near taker, or a far one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Near,
    Far,
}

impl Catalog {
    /// Keeps up to `entries_max` series, and for a while as many again.
    pub(crate) fn new(rng: &dyn Rng, entries_max: usize) -> Arc<Self> {
        let mut secret = Box::new([0; SECRET_BYTES]);
        for chunk in secret.chunks_exact_mut(8) {
            chunk.copy_from_slice(&rng.next_u64().to_le_bytes());
        }
        let generations = Generations {
            young: Generation::new(1, STRIDE_MIN),
            old: None,
        };
        Arc::new(Self {
            generations: RwLock::new(generations),
            secret,
            entries_max: entries_max.clamp(1, ENTRIES_MAX),
            stride: AtomicUsize::new(STRIDE_MIN),
        })
    }

    /// The key of a series: a keyed hash wide enough that no two series share one, not even on purpose.
    pub(crate) fn key(&self, tenant: &Tenant, labels: &Labels, scratch: &mut Vec<u8>) -> u128 {
        scratch.clear();
        scratch.extend_from_slice(tenant.as_str().as_bytes());
        for (name, value) in labels.iter() {
            for text in [name, value] {
                scratch.push(0xff);
                scratch.extend_from_slice(text.as_bytes());
            }
        }
        xxh3_128_with_secret(scratch, &self.secret[..])
    }

    /// Makes room for the numbers of so many copies.
    pub(crate) fn set_copies(&self, copies: usize) {
        self.stride.fetch_max(copies + 1, Ordering::Relaxed);
    }

    /// Series kept.
    pub(crate) fn len(&self) -> usize {
        let generations = self.generations.read();
        generations.young.entries.len() + generations.old.as_ref().map_or(0, |old| old.entries.len())
    }

    /// Adds the series with these keys and places unless they are there; gives our numbers of them.
    pub(crate) fn register(&self, tenant: &Tenant, series: &[(u128, u64)]) -> Vec<SeriesRef> {
        let mut generations = self.generations.write();
        let mut numbers = Vec::with_capacity(series.len());
        let stride = self.stride.load(Ordering::Relaxed);
        for (key, hash) in series {
            let fits = generations.young.stride >= stride;
            if let Some(index) = generations.young.find(*key).filter(|_| fits) {
                numbers.push(generations.young.number_of(index));
                continue;
            }
            if generations.young.entries.len() >= self.entries_max || !fits {
                let next = Generation::new(generations.young.number.wrapping_add(1), stride);
                generations.old = Some(std::mem::replace(&mut generations.young, next));
            }
            let young = &mut generations.young;
            let next_tenant = young.tenants.len() as u32;
            let owner = *young.tenants.entry(tenant.clone()).or_insert(next_tenant);
            let index = young.entries.len() as u32;
            young.keys.push(*key);
            young.entries.push(Entry {
                hash: *hash,
                tenant: owner,
                near: AtomicU64::new(NONE),
            });
            young.far.extend((0..young.stride).map(|_| AtomicU64::new(NONE)));
            let keys = &young.keys;
            let hash_of = |index: &u32| keys[*index as usize] as u64;
            young.index.insert_unique(*key as u64, index, hash_of);
            numbers.push(young.number_of(index));
        }
        numbers
    }

    /// Hands the entries of some of our numbers to `look`, in their order; `None` for one that is not known, or not this tenant's.
    pub(crate) fn look(
        &self,
        tenant: &Tenant,
        numbers: impl Iterator<Item = SeriesRef>,
        mut look: impl FnMut(Option<Known<'_>>),
    ) {
        let generations = self.generations.read();
        let (young, old) = (&generations.young, generations.old.as_ref());
        let owner = young.tenants.get(tenant).copied();
        let old_owner = old.and_then(|old| old.tenants.get(tenant).copied());
        for number in numbers {
            let generation = (number.0 >> 32) as u32;
            let (found, owner) = if generation == young.number {
                (Some(young), owner)
            } else {
                (old.filter(|old| old.number == generation), old_owner)
            };
            let index = (number.0 & (OURS - 1)) as usize;
            let ours = number.0 & OURS != 0;
            let found = found.filter(|_| ours);
            let mine = found.filter(|found| found.entries.get(index).map(|entry| entry.tenant) == owner);
            look(mine.and_then(|found| found.get(index)));
        }
    }

    /// Remembers what a taker called some series.
    pub(crate) fn learn(&self, side: Side, learnt: impl Iterator<Item = (SeriesRef, SeriesRef)>) {
        self.each(learnt, |entry, number| match side {
            Side::Near => entry.near.store(number.0, Ordering::Relaxed),
            Side::Far => entry.learn_far(number),
        });
    }

    /// Forgets numbers that a taker does not know.
    pub(crate) fn forget(&self, forgotten: impl Iterator<Item = (SeriesRef, SeriesRef)>) {
        self.each(forgotten, |entry, number| entry.forget(number));
    }

    fn each(&self, pairs: impl Iterator<Item = (SeriesRef, SeriesRef)>, act: impl Fn(Known<'_>, SeriesRef)) {
        let generations = self.generations.read();
        for (ours, number) in pairs {
            let generation = (ours.0 >> 32) as u32;
            let found = [Some(&generations.young), generations.old.as_ref()];
            let found = found.into_iter().flatten().find(|found| found.number == generation);
            if let Some(entry) = found.and_then(|found| found.get((ours.0 & (OURS - 1)) as usize)) {
                act(entry, number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Seven;

    impl Rng for Seven {
        fn next_u64(&self) -> u64 {
            0x0707_0707_0707_0707
        }
    }

    fn labels(number: usize) -> Labels {
        Labels::new([("__name__".to_owned(), format!("m{number}"))]).unwrap()
    }

    fn register(catalog: &Catalog, tenant: &Tenant, number: usize) -> SeriesRef {
        let key = catalog.key(tenant, &labels(number), &mut Vec::new());
        catalog.register(tenant, &[(key, number as u64)])[0]
    }

    fn seen(
        catalog: &Catalog,
        tenant: &Tenant,
        number: SeriesRef,
        life: u32,
    ) -> Option<(u64, Option<u64>, Option<u64>)> {
        let mut seen = None;
        catalog.look(tenant, [number].into_iter(), |entry| {
            seen = entry.map(|entry| {
                let plain = |number: SeriesRef| number.0;
                (entry.hash, entry.near().map(plain), entry.far(life).map(plain))
            });
        });
        seen
    }

    #[test]
    fn an_entry_holds_what_each_taker_said() {
        let catalog = Catalog::new(&Seven, 100);
        let (a, b) = (Tenant::new("a").unwrap(), Tenant::new("b").unwrap());
        let number = register(&catalog, &a, 5);
        assert_eq!(register(&catalog, &a, 5), number);
        assert_ne!(register(&catalog, &b, 5), number);
        assert_eq!(seen(&catalog, &a, number, 9), Some((5, None, None)));
        assert_eq!(seen(&catalog, &b, number, 9), None);

        let far = |life: u64, number: u64| SeriesRef(life << 32 | number);
        catalog.learn(Side::Near, [(number, SeriesRef(77))].into_iter());
        catalog.learn(Side::Far, [(number, far(9, 1))].into_iter());
        catalog.learn(Side::Far, [(number, far(9, 2))].into_iter());
        assert_eq!(seen(&catalog, &a, number, 9), Some((5, Some(77), Some(far(9, 2).0))));
        assert_eq!(seen(&catalog, &a, number, 8), Some((5, Some(77), None)));
        catalog.forget([(number, far(9, 2)), (number, SeriesRef(77))].into_iter());
        assert_eq!(seen(&catalog, &a, number, 9), Some((5, None, None)));

        // More takers than there is room for: the newest stay.
        for life in 10..16 {
            catalog.learn(Side::Far, [(number, far(life, 3))].into_iter());
        }
        assert_eq!(seen(&catalog, &a, number, 15), Some((5, None, Some(far(15, 3).0))));
    }

    #[test]
    fn memory_is_bounded_and_numbers_never_mean_another_series() {
        let catalog = Catalog::new(&Seven, 10);
        let tenant = Tenant::default();
        let first = register(&catalog, &tenant, 0);
        for number in 1..15 {
            register(&catalog, &tenant, number);
        }
        assert_eq!(
            seen(&catalog, &tenant, first, 1),
            Some((0, None, None)),
            "it is in the old half"
        );
        for number in 15..40 {
            register(&catalog, &tenant, number);
        }
        assert_eq!(seen(&catalog, &tenant, first, 1), None);
        assert!(catalog.len() <= 20);
        for foreign in [0, 5, 1 << 32, 4 << 32 | 3, u64::MAX] {
            assert_eq!(seen(&catalog, &tenant, SeriesRef(foreign), 1), None, "{foreign:x}");
        }
    }
}
