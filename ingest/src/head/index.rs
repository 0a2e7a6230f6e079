//! Who the series are: identity, labels, tenants and posting lists.
//!
//! Only commits that bring new series, and the maintenance that drops idle ones, change it; readers look things up in passing. Samples
//! are elsewhere, in the shards; both sides name a series by its slot.

use super::{
    postings::{NewSeries, Postings},
    symbols::Symbols,
};
use crate::codec::{Cursor, put_uvarint};
use hashbrown::{HashMap, HashTable};
use model::{
    label::{Labels, LabelsBuilder},
    matcher::Matcher,
    tenant::Tenant,
};
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The identity table is split so that growing it moves a small part at a time.
const STRIPES: usize = 64;

/// Spreads the stored half of a hash over what the table looks at.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What is known about a series besides its samples.
#[derive(Debug, Default)]
struct Record {
    /// Symbols of name and value of each label, as LEB128.
    labels: Box<[u8]>,
    /// Number of the series in the WAL; 0 for a free slot.
    number: u64,
    tenant: u32,
    /// Half of the hash of tenant and labels. Here it fills a hole; in the identity table it would double that table, half of whose
    /// places are empty after it has grown.
    hash: u32,
}

const _: () = assert!(size_of::<Record>() == 32, "two records share a cache line");

/// A tenant of the head.
#[derive(Debug)]
pub(crate) struct TenantIndex {
    pub(crate) tenant: Tenant,
    pub(crate) postings: Postings,
}

/// The index of a head.
#[derive(Debug)]
pub(crate) struct Index {
    symbols: Symbols,
    tenants: Vec<TenantIndex>,
    by_name: HashMap<Tenant, u32>,
    /// Slots by hash.
    identities: Vec<HashTable<u32>>,
    records: Vec<Record>,
    free: Vec<u32>,
    /// Counts dropped series; ids that were found before may name other series once it has changed.
    dropped: u64,
    seed: u64,
    scratch: Vec<u8>,
    /// Symbols of the series that came last: the next one mostly shares names and many values with it.
    previous: Vec<(u32, u32)>,
    pairs: Vec<(u32, u32)>,
    /// Whether posting lists wait for [`Self::list`].
    unlisted: bool,
}

impl Index {
    /// An empty index; `seed` makes its hashes unpredictable.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            symbols: Symbols::new(seed),
            tenants: Vec::new(),
            by_name: HashMap::new(),
            identities: (0..STRIPES).map(|_| HashTable::new()).collect(),
            records: Vec::new(),
            free: Vec::new(),
            dropped: 0,
            seed,
            scratch: Vec::new(),
            previous: Vec::new(),
            pairs: Vec::new(),
            unlisted: false,
        }
    }

    /// From now on series come without posting lists, until [`Self::list`] makes all of them in one go. Only for an index without
    /// series, and nobody may look for matchers or drop series meanwhile.
    pub(crate) fn defer_lists(&mut self) {
        debug_assert!(self.records.is_empty());
        self.unlisted = true;
    }

    /// Makes the posting lists that were deferred, on all cores.
    pub(crate) fn list(&mut self) {
        if !std::mem::take(&mut self.unlisted) {
            return;
        }
        let mut slots = vec![Vec::new(); self.tenants.len()];
        for (slot, record) in (0u32..).zip(&self.records).filter(|(_, record)| record.number != 0) {
            slots[record.tenant as usize].push(slot);
        }
        let records = &self.records;
        self.tenants.par_iter_mut().zip(slots).for_each(|(tenant, slots)| {
            tenant.postings = Postings::of(&slots, |slot, pairs| records[slot as usize].append_pairs(pairs));
        });
    }

    /// The tenants, in the order in which they came.
    pub(crate) fn tenants(&self) -> &[TenantIndex] {
        &self.tenants
    }

    /// The number of a tenant.
    pub(crate) fn tenant_id(&self, tenant: &Tenant) -> Option<u32> {
        self.by_name.get(tenant).copied()
    }

    /// The number of a tenant, who is added when new.
    pub(crate) fn ensure_tenant(&mut self, tenant: &Tenant) -> u32 {
        if let Some(id) = self.tenant_id(tenant) {
            return id;
        }
        let id = self.tenants.len() as u32;
        self.tenants.push(TenantIndex {
            tenant: tenant.clone(),
            postings: Postings::default(),
        });
        self.by_name.insert(tenant.clone(), id);
        id
    }

    /// Number of series of a tenant.
    pub(crate) fn tenant_series(&self, tenant: u32) -> u64 {
        self.tenants
            .get(tenant as usize)
            .map_or(0, |tenant| tenant.postings.len())
    }

    /// Number of series.
    pub(crate) fn len(&self) -> usize {
        self.records.len() - self.free.len()
    }

    /// The hash of a series, which finding and creating it take.
    pub(crate) fn hash(&self, tenant: u32, labels: &Labels) -> u64 {
        let begin = self.seed ^ u64::from(tenant).wrapping_mul(0xa076_1d64_78bd_642f);
        // All text in one go, seeded by the borders between names and values, which count as well: hashing twenty short texts one after
        // the other takes five times as long.
        let (text, ends) = labels.raw();
        let seed = ends.iter().fold(begin, |seed, &end| {
            (seed.rotate_left(29) ^ u64::from(end)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        xxh3_64_with_seed(text.as_bytes(), seed)
    }

    /// The slot of a series.
    pub(crate) fn find(&self, tenant: u32, labels: &Labels) -> Option<u32> {
        self.find_hashed(self.hash(tenant, labels), tenant, labels)
    }

    /// The slot of a series with its [`Self::hash`].
    pub(crate) fn find_hashed(&self, hash: u64, tenant: u32, labels: &Labels) -> Option<u32> {
        let half = hash as u32;
        self.identities[(hash >> 58) as usize]
            .find(spread(half), |&slot| self.is_series(slot, half, tenant, labels))
            .copied()
    }

    fn is_series(&self, slot: u32, hash: u32, tenant: u32, labels: &Labels) -> bool {
        let Some(record) = self.records.get(slot as usize) else {
            return false;
        };
        let pairs = |(name, value): (u32, u32)| (self.symbols.text(name), self.symbols.text(value));
        record.hash == hash
            && record.tenant == tenant
            && record.number != 0
            && record.pairs().map(pairs).eq(labels.iter())
    }

    /// Adds a series that is not there yet and gives its slot.
    #[cfg(test)]
    pub(crate) fn create(&mut self, tenant: u32, number: u64, labels: &Labels) -> u32 {
        self.create_hashed(self.hash(tenant, labels), tenant, number, labels)
    }

    /// The slot of a series with its [`Self::hash`], and whether it was added just now.
    pub(crate) fn find_or_create(&mut self, hash: u64, tenant: u32, number: u64, labels: &Labels) -> (u32, bool) {
        match self.find_hashed(hash, tenant, labels) {
            Some(slot) => (slot, false),
            None => (self.create_hashed(hash, tenant, number, labels), true),
        }
    }

    /// Adds a series that is not there yet, with its [`Self::hash`], and gives its slot.
    pub(crate) fn create_hashed(&mut self, hash: u64, tenant: u32, number: u64, labels: &Labels) -> u32 {
        let slot = self.identify(hash, tenant, number, labels);
        if !self.unlisted {
            let postings = &mut self.tenants[tenant as usize].postings;
            postings.insert(slot, self.previous.iter().copied());
        }
        slot
    }

    /// The same, but queries find the series only after [`Self::post`], which must follow before the lock of the index is given up.
    pub(crate) fn create_unposted(
        &mut self,
        hash: u64,
        tenant: u32,
        number: u64,
        labels: &Labels,
        created: &mut NewSeries,
    ) -> u32 {
        let slot = self.identify(hash, tenant, number, labels);
        created.push(slot, number, &self.previous);
        slot
    }

    /// Lets queries find the series of a tenant that were created, from index `from` on.
    pub(crate) fn post(&mut self, tenant: u32, created: &NewSeries, from: usize) {
        self.tenants[tenant as usize].postings.insert_many(created, from);
    }

    /// Gives a series a slot and a record, by which it is found from now on. Its symbols are the `previous` ones afterwards.
    fn identify(&mut self, hash: u64, tenant: u32, number: u64, labels: &Labels) -> u32 {
        let slot = self.free.pop().unwrap_or(self.records.len() as u32);
        self.scratch.clear();
        self.pairs.clear();
        for (index, (name, value)) in labels.iter().enumerate() {
            let guess = self.previous.get(index).copied().unzip();
            let name = self.symbols.acquire_guessed(guess.0, name);
            let value = self.symbols.acquire_guessed(guess.1, value);
            put_uvarint(&mut self.scratch, u64::from(name));
            put_uvarint(&mut self.scratch, u64::from(value));
            self.pairs.push((name, value));
        }
        std::mem::swap(&mut self.previous, &mut self.pairs);
        let record = Record {
            labels: self.scratch.as_slice().into(),
            number,
            tenant,
            hash: hash as u32,
        };
        match self.records.get_mut(slot as usize) {
            Some(place) => *place = record,
            None => {
                if self.records.len() == self.records.capacity() {
                    // By an eighth: twice as much would stand empty half of the time.
                    self.records.reserve_exact((self.records.len() / 8).max(1024));
                }
                self.records.push(record);
            }
        }
        let (records, stripe) = (&self.records, &mut self.identities[(hash >> 58) as usize]);
        stripe.insert_unique(spread(hash as u32), slot, |&other| spread(records[other as usize].hash));
        slot
    }

    /// Drops a series; its slot will be used again.
    pub(crate) fn drop_series(&mut self, slot: u32) {
        let Some(labels) = self.labels(slot) else { return };
        let tenant = self.records[slot as usize].tenant;
        let hash = self.hash(tenant, &labels);
        let stripe = &mut self.identities[(hash >> 58) as usize];
        if let Ok(entry) = stripe.find_entry(spread(hash as u32), |&other| other == slot) {
            entry.remove();
        }
        let record = std::mem::take(&mut self.records[slot as usize]);
        self.tenants[tenant as usize].postings.remove(slot, record.pairs());
        for (name, value) in record.pairs() {
            self.symbols.release(name);
            self.symbols.release(value);
        }
        self.free.push(slot);
        self.dropped += 1;
    }

    /// The labels of a series.
    pub(crate) fn labels(&self, slot: u32) -> Option<Labels> {
        let record = self.records.get(slot as usize).filter(|record| record.number != 0)?;
        let mut builder = LabelsBuilder::default();
        for (name, value) in record.pairs() {
            builder.push(self.symbols.text(name), self.symbols.text(value));
        }
        Some(builder.build_sorted())
    }

    /// The number of the series in a slot, 0 when it is free.
    pub(crate) fn number(&self, slot: u32) -> u64 {
        self.records.get(slot as usize).map_or(0, |record| record.number)
    }

    /// The tenant of the series in a slot.
    pub(crate) fn tenant_of(&self, slot: u32) -> Option<&Tenant> {
        let record = self.records.get(slot as usize).filter(|record| record.number != 0)?;
        self.tenants.get(record.tenant as usize).map(|tenant| &tenant.tenant)
    }

    /// The number of the tenant of the series in a slot, if it is the one with this number.
    pub(crate) fn tenant_number(&self, slot: u32, number: u64) -> Option<u32> {
        let record = self.records.get(slot as usize)?;
        (record.number == number).then_some(record.tenant)
    }

    /// The text of a symbol.
    pub(crate) fn text(&self, symbol: u32) -> &str {
        self.symbols.text(symbol)
    }

    /// All symbols have numbers below.
    pub(crate) fn symbol_bound(&self) -> u32 {
        self.symbols.bound()
    }

    /// Symbols of name and value of each label of a series.
    pub(crate) fn pairs(&self, slot: u32) -> impl Iterator<Item = (u32, u32)> {
        self.records.get(slot as usize).into_iter().flat_map(Record::pairs)
    }

    /// Appends what [`Self::pairs`] gives; several times faster where all of it is wanted.
    pub(crate) fn append_pairs(&self, slot: u32, out: &mut Vec<(u32, u32)>) {
        if let Some(record) = self.records.get(slot as usize) {
            record.append_pairs(out);
        }
    }

    /// The symbol of a text.
    pub(crate) fn symbol(&self, text: &str) -> Option<u32> {
        self.symbols.find(text)
    }

    /// Counts dropped series: a slot that was found before may hold another series once this has changed.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The posting lists of a tenant.
    pub(crate) fn postings(&self, tenant: &Tenant) -> Option<&Postings> {
        self.tenant_id(tenant)
            .map(|tenant| &self.tenants[tenant as usize].postings)
    }

    /// Whether the series in a slot is one of this tenant and satisfies all matchers.
    pub(crate) fn satisfies(&self, slot: u32, tenant: u32, matchers: &[Matcher]) -> bool {
        let Some(record) = self.records.get(slot as usize).filter(|record| record.number != 0) else {
            return false;
        };
        let value = |wanted: &str| {
            let pair = record.pairs().find(|(name, _)| self.text(*name) == wanted);
            pair.map_or("", |(_, value)| self.text(value))
        };
        record.tenant == tenant && matchers.iter().all(|matcher| matcher.matches(value(&matcher.name)))
    }

    /// Bytes of memory, allocator overhead and posting lists apart.
    pub(crate) fn memory(&self) -> usize {
        let labels: usize = self.records.iter().map(|record| record.labels.len()).sum();
        let identities: usize = self.identities.iter().map(|stripe| stripe.capacity() * 5).sum();
        self.symbols.memory() + self.records.capacity() * size_of::<Record>() + labels + identities
    }
}

impl Record {
    /// Symbols of name and value of each label.
    fn pairs(&self) -> impl Iterator<Item = (u32, u32)> {
        let mut cursor = Cursor::new(&self.labels);
        std::iter::from_fn(move || {
            let name = cursor.uvarint().ok()?;
            let value = cursor.uvarint().ok()?;
            Some((name as u32, value as u32))
        })
    }

    fn append_pairs(&self, out: &mut Vec<(u32, u32)>) {
        let (mut number, mut shift, mut name) = (0u32, 0, None);
        for &byte in &self.labels {
            number |= u32::from(byte & 0x7f) << shift;
            if byte >= 0x80 {
                shift += 7;
                continue;
            }
            match name.take() {
                None => name = Some(number),
                Some(name) => out.push((name, number)),
            }
            (number, shift) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(index: usize) -> Labels {
        let pod = format!("pod-{}", index / 10);
        let path = format!("/{index}");
        Labels::new([("__name__", "requests_total"), ("pod", &pod), ("path", &path)]).unwrap()
    }

    #[test]
    fn series_are_found_by_labels_and_tenant() {
        let mut index = Index::new(7);
        let (one, two) = (Tenant::new("one").unwrap(), Tenant::new("two").unwrap());
        let (first, second) = (index.ensure_tenant(&one), index.ensure_tenant(&two));
        let slots: Vec<_> = (0..5000)
            .map(|i| index.create(first, i as u64 + 1, &labels(i)))
            .collect();
        assert_eq!(index.find(second, &labels(3)), None);
        let other = index.create(second, 9001, &labels(3));
        assert_ne!(other, slots[3]);
        for (i, &slot) in slots.iter().enumerate() {
            assert_eq!(index.find(first, &labels(i)), Some(slot));
            assert_eq!(index.labels(slot), Some(labels(i)));
            let mut pairs = Vec::new();
            index.append_pairs(slot, &mut pairs);
            assert!(pairs.iter().copied().eq(index.pairs(slot)));
        }
        let matchers = [Matcher::equal("pod", "pod-7")];
        assert!(index.satisfies(slots[75], first, &matchers) && !index.satisfies(slots[75], second, &matchers));
        assert!(!index.satisfies(slots[80], first, &matchers));
        index.drop_series(slots[70]);
        assert_eq!(
            (index.find(first, &labels(70)), index.labels(slots[70]), index.dropped()),
            (None, None, 1)
        );
        assert_eq!(
            index.create(second, 9002, &labels(4)),
            slots[70],
            "the slot is used again"
        );
        assert!(!index.satisfies(slots[70], first, &[]));
        assert_eq!(index.len(), 5001);
    }
}
