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
    spread::{Subset, Zones},
};
use cluster::{
    document::Document,
    member::{MemberId, WEIGHT_NORMAL},
};
use hashring::HashRing;
use model::tenant::Tenant;
use smallvec::SmallVec;
use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};
use xxhash_rust::xxh64::Xxh64;

/// Tokens of a member of usual weight. The load of a member strays from its share by about one in the root of this, 2 %, so that the
/// fullest of a hundred has less than a tenth too much even with one copy.
pub const TOKENS_NORMAL: u32 = 2048;

/// Key of the token hash, so that tokens have nothing to do with the hashes of series. Changing it moves every series.
const TOKEN_KEY: u64 = 0x6e61_7274_6865_7831;

/// Where series go, by one ring document. Immutable; a new document makes a new one.
#[derive(Debug, Clone)]
pub struct Ring {
    document: Arc<Document>,
    /// Active members, ascending by id.
    nodes: Vec<Node>,
    zones: Zones,
    circle: Circle,
    /// Owners for each token of the circle, `stride` of them.
    owners: Vec<NodeIndex>,
    /// Copies that can be placed: the replication factor, or all nodes when there are fewer.
    stride: usize,
}

impl Ring {
    /// Builds the look-up table. It takes some 100 ms for a hundred members, so it does not belong on a thread that serves requests.
    pub fn new(document: impl Into<Arc<Document>>) -> Self {
        let document = document.into();
        let node = |member: &cluster::member::Member| Node {
            id: Some(member.id),
            address: member.address.clone(),
            zone: member.zone.clone(),
        };
        let nodes: Vec<Node> = document.active().map(node).collect();
        let mut ring = Self {
            zones: Zones::of(&nodes),
            circle: place_tokens(&document),
            owners: Vec::new(),
            stride: nodes.len().min(document.replication_factor as usize),
            nodes,
            document,
        };
        let mut owners = Vec::with_capacity(ring.circle.len() * ring.stride);
        let everyone = ring.zones.subset(|_| true);
        for start in 0..ring.circle.len() {
            owners.extend_from_slice(&ring.zones.spread(ring.circle.walk(start), ring.stride, &everyone));
        }
        ring.owners = owners;
        ring
    }

    /// The document that this was made of.
    pub fn document(&self) -> &Arc<Document> {
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
        let shard = self.zones.spread(
            self.circle.walk(start),
            size.max(self.stride),
            &self.zones.subset(|_| true),
        );
        TenantRing {
            ring: self,
            shard: Some(self.zones.subset(|node| shard.contains(&node))),
        }
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
            Some(shard) => Owners::new(
                &self
                    .ring
                    .zones
                    .spread(self.ring.circle.walk(start), self.ring.stride, shard),
            ),
        }
    }

    /// The owners of every series, in no particular order, when all have the same: there are no more members than copies.
    pub fn everyone(&self) -> Option<Owners> {
        let all = self.ring.nodes.len();
        let nodes: SmallVec<[NodeIndex; OWNERS_MAX]> = (0..all as NodeIndex).take(OWNERS_MAX).collect();
        (all == self.ring.stride && all > 0).then(|| Owners::new(&nodes))
    }

    /// The owners for a write while some members are not `usable`: each of those is replaced, at its place in the list, by the next usable
    /// member on the way whose zone has the fewest copies. It may lie outside the tenant's shard when nobody inside is left, since a
    /// reader asks every member. A place that nobody can take keeps its owner.
    pub fn owners_among(&self, hash: u64, usable: impl Fn(NodeIndex) -> bool) -> Owners {
        let mut owners = self.owners(hash);
        if !owners.iter().all(|&owner| usable(owner)) {
            let way = self.ring.circle.walk(self.ring.circle.find(hash));
            self.ring
                .zones
                .replace(&mut owners, way, usable, |node| self.contains(node));
        }
        owners
    }

    /// The members that the tenant's series spread over.
    pub fn nodes(&self) -> impl Iterator<Item = NodeIndex> + '_ {
        (0..self.ring.nodes.len())
            .map(|node| node as NodeIndex)
            .filter(|&node| self.contains(node))
    }

    fn contains(&self, node: NodeIndex) -> bool {
        self.shard.as_ref().is_none_or(|shard| shard.contains(node))
    }
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
