//! A static ring file in Thanos Receive's schema, for fleets in which Thanos and Narthex receive side by side.
//!
//! Ring choice, shards, hashes and placement agree with Thanos bit by bit: hashmod, ketama, zones, tenants exact and by glob, shuffle
//! sharding. One thing differs by intent: a Thanos router hashes labels in the order received, we hash them sorted; senders that sort,
//! as Prometheus does, see no difference, and for others any node takes any series.

mod build;
pub mod file;
mod glob;
mod go_random;
mod json;
mod ketama;
mod shard;
pub mod split;

use super::{
    owners::{Node, NodeIndex, Owners},
    spread::Zones,
};
use file::{Endpoint, FileError};
use glob::Glob;
use ketama::Ketama;
use parking_lot::Mutex;
use shard::Sharding;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    str::FromStr,
    sync::Arc,
};

/// How a ring places series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// The hash modulo the number of nodes. Thanos's default.
    #[default]
    Hashmod,
    /// Consistent hashing.
    Ketama,
}

impl FromStr for Algorithm {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "hashmod" => Ok(Algorithm::Hashmod),
            "ketama" => Ok(Algorithm::Ketama),
            _ => Err(()),
        }
    }
}

/// Why a ring cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Fewer endpoints than copies.
    #[error("{have} endpoints cannot hold {want} copies: add endpoints or lower the replication factor")]
    TooFewEndpoints {
        /// Endpoints of the ring.
        have: usize,
        /// Copies of each series.
        want: usize,
    },
    /// Zones too uneven for the copies.
    #[error("zones this uneven can hold {most} copies, not {want}: even them out or lower the replication factor")]
    UnevenZones {
        /// Copies that can be placed.
        most: usize,
        /// Copies of each series.
        want: usize,
    },
    /// Too many nodes altogether.
    #[error("more than {0} nodes in all rings together")]
    TooManyNodes(usize),
    /// An address twice in one ring.
    #[error("endpoint {0:?} stands twice, so that one node could get two copies of a series")]
    Duplicate(String),
    /// An algorithm that nobody knows.
    #[error("unknown algorithm {0:?}: hashmod or ketama")]
    Algorithm(String),
    /// Zones with hashmod.
    #[error("hashmod cannot heed zones (az): use ketama")]
    HashmodZones,
    /// Shuffle sharding with hashmod.
    #[error("hashmod cannot shuffle shards: use ketama")]
    HashmodShards,
    /// A matcher type that nobody knows.
    #[error("unknown tenant_matcher_type {0:?}: exact or glob")]
    Matcher(String),
    /// An override that fits nobody.
    #[error("an override of the shard size without tenant_matcher_type fits no tenant: write exact or glob")]
    MatcherUnset,
    /// A malformed glob.
    #[error("malformed tenant pattern {0:?}")]
    Pattern(String),
    /// A shard of nobody.
    #[error("shard_size {0} is not positive")]
    ShardSize(i64),
    /// More nodes for a tenant than there are.
    #[error("shard_size {size} is larger than the ring of {endpoints} endpoints")]
    ShardAboveRing {
        /// Nodes of a tenant.
        size: usize,
        /// Endpoints of the ring.
        endpoints: usize,
    },
    /// More nodes of a zone for a tenant than there are.
    #[error("a shard wants {want} endpoints of each zone, and one zone has {smallest}")]
    ShardAboveZone {
        /// Nodes from each zone.
        want: usize,
        /// Endpoints of the smallest zone.
        smallest: usize,
    },
    /// Fewer nodes for a tenant than copies.
    #[error("a shard of {size} endpoints cannot hold {copies} copies")]
    ShardBelowFactor {
        /// Nodes of a tenant.
        size: usize,
        /// Copies of each series.
        copies: usize,
    },
    /// Shards whose zones may come out too uneven for the copies.
    #[error("with zone_awareness_disabled a shard's zones may come out too uneven for {copies} copies: enable it")]
    UnevenShards {
        /// Copies of each series.
        copies: usize,
    },
}

/// Why a ring file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingsError {
    /// The text is no ring file.
    #[error("{0}")]
    File(#[from] FileError),
    /// A ring cannot work.
    #[error("{name}: {fault}")]
    Ring {
        /// Which ring.
        name: String,
        /// Why.
        fault: Fault,
    },
    /// The replication factor is out of range.
    #[error("replication factor {0} is not between 1 and 9")]
    ReplicationFactor(usize),
}

/// The rings of a file.
#[derive(Debug)]
pub struct Rings {
    nodes: Vec<Node>,
    zones: Zones,
    rings: Vec<OneRing>,
    replication_factor: usize,
    warnings: Vec<String>,
}

/// One ring of a file.
#[derive(Debug)]
struct OneRing {
    tenants: Tenants,
    /// The list of tenants as it is written.
    named: Vec<String>,
    external_labels: BTreeMap<String, String>,
    endpoints: Vec<(NodeIndex, Endpoint)>,
    method: Method,
    shuffle: Option<Shuffle>,
}

#[derive(Debug)]
enum Method {
    /// Nodes in the order in which they are counted.
    Hashmod(Vec<NodeIndex>),
    Ketama(Ketama),
}

/// Tenants that a ring or an override is for.
#[derive(Debug)]
enum Tenants {
    Everyone,
    Exact(HashSet<String>),
    Globs(Vec<Glob>),
}

impl Tenants {
    fn everyone(&self) -> bool {
        matches!(self, Tenants::Everyone)
    }

    fn contains(&self, tenant: &str) -> bool {
        match self {
            Tenants::Everyone => true,
            Tenants::Exact(names) => names.contains(tenant),
            Tenants::Globs(globs) => globs.iter().any(|glob| glob.matches(tenant)),
        }
    }
}

#[derive(Debug)]
struct Shuffle {
    sharding: Sharding,
    overrides: Vec<(Tenants, Sharding)>,
    cache: Cache,
}

impl Rings {
    /// Reads a ring file and builds its rings; `algorithm` is that of rings which name none.
    pub fn from_json(text: &str, algorithm: Algorithm, replication_factor: usize) -> Result<Self, RingsError> {
        build::build(&file::parse(text)?, algorithm, replication_factor)
    }

    /// All nodes of all rings, each once.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Copies of each series.
    pub fn replication_factor(&self) -> usize {
        self.replication_factor
    }

    /// What stands in the file without effect, in words for an operator.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Placement for one tenant; `None` when no ring is for it.
    pub fn tenant(&self, tenant: &str) -> Option<TenantRing<'_>> {
        let ring = self.rings.iter().find(|ring| ring.tenants.contains(tenant))?;
        Some(TenantRing {
            rings: self,
            ring,
            shard: ring.shard(tenant, self.replication_factor),
        })
    }

    /// Labels for the blocks of a tenant: those of the first ring whose list of tenants names it literally. Labels of the process go
    /// before them.
    pub fn external_labels(&self, tenant: &str) -> impl Iterator<Item = (&str, &str)> {
        let ring = self
            .rings
            .iter()
            .find(|ring| ring.named.iter().any(|name| name == tenant));
        let labels = ring.map(|ring| ring.external_labels.iter()).into_iter().flatten();
        labels.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl OneRing {
    /// The ring of the nodes that `tenant` gets; `None` when it gets all.
    fn shard(&self, tenant: &str, copies: usize) -> Option<Arc<Ketama>> {
        let (Some(shuffle), Method::Ketama(ring)) = (&self.shuffle, &self.method) else {
            return None;
        };
        if let Some(shard) = shuffle.cache.get(tenant) {
            return Some(shard);
        }
        let entries = build::entries(&self.endpoints);
        let drawn = shuffle.sharding(tenant).draw(ring, &entries, tenant);
        let drawn: Vec<_> = drawn.ok()?.into_iter().map(|index| entries[index]).collect();
        let shard = Ketama::new(&drawn, copies);
        debug_assert!(
            shard.is_ok(),
            "a shard that was checked when the ring was built does not work: {shard:?}"
        );
        let shard = Arc::new(shard.ok()?);
        shuffle.cache.put(tenant, Arc::clone(&shard));
        Some(shard)
    }
}

impl Shuffle {
    fn sharding(&self, tenant: &str) -> Sharding {
        let other = self.overrides.iter().find(|(tenants, _)| tenants.contains(tenant));
        other.map_or(self.sharding, |(_, sharding)| *sharding)
    }
}

/// Placement for one tenant. Made for each request; the shard of a tenant is kept in memory.
#[derive(Debug, Clone)]
pub struct TenantRing<'a> {
    rings: &'a Rings,
    ring: &'a OneRing,
    shard: Option<Arc<Ketama>>,
}

impl TenantRing<'_> {
    /// The nodes of the tenant's shard, if the ring has shards.
    #[cfg(test)]
    fn shard_members(&self) -> Option<impl Iterator<Item = NodeIndex> + '_> {
        let shard = self.shard.as_ref()?;
        let all = 0..self.rings.nodes.len() as NodeIndex;
        Some(all.filter(|node| shard.contains(*node)))
    }

    /// The owners of the series with this hash, as many as the replication factor says.
    #[inline]
    pub fn owners(&self, hash: u64) -> Owners {
        match (&self.shard, &self.ring.method) {
            (Some(shard), _) => shard.owners(hash),
            (None, Method::Ketama(ring)) => ring.owners(hash),
            (None, Method::Hashmod(nodes)) => {
                let mut owners = [0; super::owners::OWNERS_MAX];
                for (copy, owner) in owners[..self.rings.replication_factor].iter_mut().enumerate() {
                    *owner = nodes[(hash.wrapping_add(copy as u64) % nodes.len() as u64) as usize];
                }
                Owners::new(&owners[..self.rings.replication_factor])
            }
        }
    }

    /// The owners for a write while some nodes are not `usable`: each of those is replaced, at its place in the list, by the next usable
    /// node of the ring whose zone has the fewest copies, one of the tenant's shard if there is one. A place that nobody can take keeps
    /// its owner.
    pub fn owners_among(&self, hash: u64, usable: impl Fn(NodeIndex) -> bool) -> Owners {
        let mut owners = self.owners(hash);
        if owners.iter().all(|&owner| usable(owner)) {
            return owners;
        }
        let in_shard = |node| self.shard.as_ref().is_none_or(|shard| shard.contains(node));
        let in_ring = |node| usable(node) && self.ring.endpoints.iter().any(|(other, _)| *other == node);
        match &self.ring.method {
            Method::Ketama(ring) => self
                .rings
                .zones
                .replace(&mut owners, ring.walk(hash), in_ring, in_shard),
            Method::Hashmod(nodes) => {
                let (before, behind) = nodes.split_at((hash % nodes.len() as u64) as usize);
                let way = behind.iter().chain(before).copied();
                self.rings.zones.replace(&mut owners, way, in_ring, in_shard);
            }
        }
        owners
    }
}

/// Shards of the tenants seen last; the oldest makes room. A shard that is not kept costs about a millisecond to work out again.
#[derive(Debug)]
struct Cache {
    kept: Mutex<Kept>,
    max: usize,
}

#[derive(Debug, Default)]
struct Kept {
    shards: HashMap<String, Arc<Ketama>>,
    /// Tenants in the order in which they came.
    order: VecDeque<String>,
}

impl Cache {
    fn new(max: usize) -> Self {
        Self {
            kept: Mutex::default(),
            max,
        }
    }

    fn get(&self, tenant: &str) -> Option<Arc<Ketama>> {
        self.kept.lock().shards.get(tenant).cloned()
    }

    fn put(&self, tenant: &str, shard: Arc<Ketama>) {
        let mut kept = self.kept.lock();
        if kept.shards.insert(tenant.to_owned(), shard).is_none() {
            kept.order.push_back(tenant.to_owned());
        }
        if kept.order.len() > self.max
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.shards.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
