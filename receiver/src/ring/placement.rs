//! Placement by the ring document: which members own a series.
//!
//! Every active member puts tokens on a circle, as many as its weight says, at places that depend on nothing but its id. The owners of a
//! series are found on the way round from its hash: **each copy goes to the first member on the way whose zone has the fewest copies so
//! far**. So copies lie on distinct members always, in distinct zones as far as there are zones, and a member that comes or goes moves
//! only what it takes or leaves. A tenant with a shard size sees only the first members on the way from its own hash.
//!
//! Everything here is a pure function of the document and the same on every machine; the vectors in the tests must never change.

use super::{
    circle::Circle,
    owners::{Node, NodeIndex, OWNERS_MAX, Owners},
    series_hash::SeriesHasher,
};
use cluster::{
    document::Document,
    member::{MemberId, WEIGHT_NORMAL},
};
use hashring::HashRing;
use model::tenant::Tenant;
use smallvec::{SmallVec, smallvec};
use std::hash::{BuildHasher, Hash, Hasher};
use xxhash_rust::xxh64::Xxh64;

/// Tokens of a member of usual weight. The load of a member strays from its share by about one in the root of this, 2 %, so that the
/// fullest of a hundred has less than a tenth too much even with one copy.
pub const TOKENS_NORMAL: u32 = 2048;

/// Key of the token hash, so that tokens have nothing to do with the hashes of series. Changing it moves every series.
const TOKEN_KEY: u64 = 0x6e61_7274_6865_7831;

/// Where series go, by one ring document. Immutable; a new document makes a new one.
#[derive(Debug, Clone)]
pub struct Ring {
    document: Document,
    /// Active members, ascending by id.
    nodes: Vec<Node>,
    /// Index of each node's zone; zones are numbered in order of appearance.
    zones: Vec<u16>,
    circle: Circle,
    /// Owners for each token of the circle, `stride` of them.
    owners: Vec<NodeIndex>,
    /// Copies that can be placed: the replication factor, or all nodes when there are fewer.
    stride: usize,
}

impl Ring {
    /// Builds the look-up table. It takes some 100 ms for a hundred members, so it does not belong on a thread that serves requests.
    pub fn new(document: &Document) -> Self {
        let node = |member: &cluster::member::Member| Node {
            id: Some(member.id),
            address: member.address.clone(),
            zone: member.zone.clone(),
        };
        let nodes: Vec<Node> = document.active().map(node).collect();
        let mut ring = Self {
            zones: number_zones(&nodes),
            circle: place_tokens(document),
            owners: Vec::new(),
            stride: nodes.len().min(document.replication_factor as usize),
            nodes,
            document: document.clone(),
        };
        let mut owners = Vec::with_capacity(ring.circle.len() * ring.stride);
        let everyone = Subset::everyone(&ring);
        for start in 0..ring.circle.len() {
            owners.extend_from_slice(&ring.spread(start, ring.stride, &everyone));
        }
        ring.owners = owners;
        ring
    }

    /// The document that this was made of.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Members that take series, ascending by id.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Placement for one tenant.
    pub fn tenant(&self, tenant: &Tenant) -> TenantRing<'_> {
        let size = self.document.limits_of(tenant).shard_size.unwrap_or(0) as usize;
        if size == 0 || size.max(self.stride) >= self.nodes.len() {
            return TenantRing {
                ring: self,
                shard: None,
            };
        }
        let no_labels: [(&str, &str); 0] = [];
        let start = self.circle.find(SeriesHasher::new(tenant.as_str()).hash(no_labels));
        let shard = self.spread(start, size.max(self.stride), &Subset::everyone(self));
        TenantRing {
            ring: self,
            shard: Some(Subset::of(self, |node| shard.contains(&node))),
        }
    }

    /// Up to `want` members of `subset` on the way from token `start`, each the first whose zone has the fewest so far.
    fn spread(&self, start: usize, want: usize, subset: &Subset) -> SmallVec<[NodeIndex; OWNERS_MAX]> {
        let mut chosen = SmallVec::new();
        let mut count: ZoneCounts = smallvec![0; self.zone_count()];
        let mut left: ZoneCounts = subset.zone_sizes.iter().copied().collect();
        let mut level = 0;
        let mut way = self.circle.walk(start);
        while chosen.len() < want {
            let Some(lowest) = lowest(&count, &left) else { break };
            if lowest != level {
                // Members that were passed over because their zone was full may fit now.
                level = lowest;
                way = self.circle.walk(start);
            }
            let fits = |&node: &NodeIndex| {
                subset.usable[node as usize] && count[self.zone(node)] == level && !chosen.contains(&node)
            };
            let Some(node) = way.find(fits) else { break };
            chosen.push(node);
            count[self.zone(node)] += 1;
            left[self.zone(node)] -= 1;
        }
        chosen
    }

    fn zone(&self, node: NodeIndex) -> usize {
        self.zones[node as usize] as usize
    }

    fn zone_count(&self) -> usize {
        self.zones.iter().max().map_or(0, |&zone| zone as usize + 1)
    }
}

/// Counts by zone; rings seldom have more zones than fit without allocating.
type ZoneCounts = SmallVec<[u32; 16]>;

/// The fewest copies in any zone that still has members left.
fn lowest(count: &[u32], left: &[u32]) -> Option<u32> {
    count
        .iter()
        .zip(left)
        .filter(|(_, left)| **left > 0)
        .map(|(count, _)| *count)
        .min()
}

/// A choice among the members.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subset {
    /// Whether each member belongs to it.
    usable: Vec<bool>,
    /// How many of its members each zone has.
    zone_sizes: Vec<u32>,
}

impl Subset {
    fn everyone(ring: &Ring) -> Self {
        Self::of(ring, |_| true)
    }

    fn of(ring: &Ring, usable: impl Fn(NodeIndex) -> bool) -> Self {
        let usable: Vec<bool> = (0..ring.nodes.len()).map(|node| usable(node as NodeIndex)).collect();
        let mut zone_sizes = vec![0; ring.zone_count()];
        for (node, _) in usable.iter().enumerate().filter(|(_, usable)| **usable) {
            zone_sizes[ring.zones[node] as usize] += 1;
        }
        Self { usable, zone_sizes }
    }
}

/// Placement for one tenant. Cheap to make, so it is made for each request.
#[derive(Debug, Clone)]
pub struct TenantRing<'a> {
    ring: &'a Ring,
    /// The members that the tenant may use, when not all.
    shard: Option<Subset>,
}

impl TenantRing<'_> {
    /// The owners of the series with this hash: as many as the replication factor says, or all members when there are fewer.
    #[inline]
    pub fn owners(&self, hash: u64) -> Owners {
        let start = self.ring.circle.find(hash);
        match &self.shard {
            None if self.ring.nodes.is_empty() => Owners::default(),
            None => {
                let first = start * self.ring.stride;
                Owners::new(&self.ring.owners[first..first + self.ring.stride])
            }
            Some(shard) => Owners::new(&self.ring.spread(start, self.ring.stride, shard)),
        }
    }

    /// The owners for a write while some members are not `usable`: each of those is replaced, at its place in the list, by the next usable
    /// member on the way whose zone has the fewest copies. It may lie outside the tenant's shard when nobody inside is left, since a
    /// reader asks every member. A place that nobody can take keeps its owner.
    pub fn owners_among(&self, hash: u64, usable: impl Fn(NodeIndex) -> bool) -> Owners {
        let mut owners = self.owners(hash);
        if owners.iter().all(|&owner| usable(owner)) {
            return owners;
        }
        let start = self.ring.circle.find(hash);
        for place in 0..owners.len() {
            if usable(owners[place]) {
                continue;
            }
            let inside = |node| usable(node) && self.shard.as_ref().is_none_or(|shard| shard.usable[node as usize]);
            let substitute = self.next(start, &owners, place, &usable, inside);
            if let Some(node) = substitute.or_else(|| self.next(start, &owners, place, &usable, &usable)) {
                owners.replace(place, node);
            }
        }
        owners
    }

    /// The next candidate on the way from `start` that is no owner, its zone having the fewest copies on usable owners.
    fn next(
        &self,
        start: usize,
        owners: &Owners,
        place: usize,
        usable: impl Fn(NodeIndex) -> bool,
        candidate: impl Fn(NodeIndex) -> bool,
    ) -> Option<NodeIndex> {
        let ring = self.ring;
        let mut count: ZoneCounts = smallvec![0; ring.zone_count()];
        for (_, &owner) in owners
            .iter()
            .enumerate()
            .filter(|&(other, &owner)| other != place && usable(owner))
        {
            count[ring.zone(owner)] += 1;
        }
        let free = Subset::of(ring, |node| candidate(node) && !owners.contains(&node));
        let level = lowest(&count, &free.zone_sizes)?;
        ring.circle
            .walk(start)
            .find(|&node| free.usable[node as usize] && count[ring.zone(node)] == level)
    }

    /// The members that the tenant's series spread over.
    pub fn nodes(&self) -> impl Iterator<Item = NodeIndex> + '_ {
        let inside = |node: &usize| self.shard.as_ref().is_none_or(|shard| shard.usable[*node]);
        (0..self.ring.nodes.len()).filter(inside).map(|node| node as NodeIndex)
    }
}

fn number_zones(nodes: &[Node]) -> Vec<u16> {
    let mut names: Vec<&str> = Vec::new();
    let mut number = |zone| match names.iter().position(|name| *name == zone) {
        Some(index) => index as u16,
        None => {
            names.push(zone);
            names.len() as u16 - 1
        }
    };
    nodes.iter().map(|node| number(node.zone.as_str())).collect()
}

/// A token before it has its place: the ring orders them by the hash of member and number.
#[derive(Debug, Clone)]
struct Slot {
    id: MemberId,
    number: u32,
    node: NodeIndex,
}

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.id.get().to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        state.write(&bytes);
    }
}

/// The place 0 of the circle: hashing it writes nothing.
struct Origin;

impl Hash for Origin {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

/// Hashes with keyed xxh64, whose result is the same on every machine and in every version. Nothing written is 0.
struct TokenHasher {
    state: Xxh64,
    written: bool,
}

impl Hasher for TokenHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.written = true;
    }

    fn finish(&self) -> u64 {
        if self.written { self.state.digest() } else { 0 }
    }
}

struct TokenHash;

impl BuildHasher for TokenHash {
    type Hasher = TokenHasher;

    fn build_hasher(&self) -> TokenHasher {
        TokenHasher {
            state: Xxh64::new(TOKEN_KEY),
            written: false,
        }
    }
}

/// Tokens of all active members in order. `hashring` orders them; its own look-ups copy the whole ring and may name a member twice, so
/// they are not used but to read the order, once round from the origin.
fn place_tokens(document: &Document) -> Circle {
    let mut slots = Vec::new();
    for (node, member) in document.active().enumerate() {
        let count = (u64::from(TOKENS_NORMAL) * u64::from(member.weight) / u64::from(WEIGHT_NORMAL)).max(1) as u32;
        slots.extend((0..count).map(|number| Slot {
            id: member.id,
            number,
            node: node as NodeIndex,
        }));
    }
    let mut ring = HashRing::with_hasher(TokenHash);
    let last = slots.len().saturating_sub(1);
    ring.batch_add(slots);
    let in_order = ring.get_with_replicas(&Origin, last).unwrap_or_default();
    Circle::new(in_order.iter().map(|slot| (TokenHash.hash_one(slot), slot.node)))
}

#[cfg(test)]
mod tests;
