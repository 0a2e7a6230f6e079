//! From the text of a ring file to rings that work.
//!
//! What Thanos accepts and then fails on with each write, hangs on, or crashes on is refused here, with the reason. What it ignores is
//! told in a warning.

use super::{
    Algorithm, Cache, Endpoint, Fault, Glob, Ketama, Method, OneRing, Rings, RingsError, Shuffle, Tenants,
    file::{RingConfig, ShuffleConfig},
    ketama::Entry,
    shard::Sharding,
};
use crate::ring::{
    owners::{Node, NodeIndex, OWNERS_MAX},
    spread::Zones,
};
use std::collections::{HashMap, HashSet};

/// Most nodes in all rings of a file together.
const NODES_MAX: usize = 1000;

/// Shards that are kept in memory when the file does not say.
const SHARDS_KEPT: usize = 100;

/// Most shards that are kept in memory, whatever the file says: one of ten nodes takes 200 kB.
const SHARDS_KEPT_MAX: usize = 1000;

/// Builds the rings of a file; `algorithm` is that of rings which name none.
pub(super) fn build(
    configs: &[RingConfig],
    algorithm: Algorithm,
    replication_factor: usize,
) -> Result<Rings, RingsError> {
    if !(1..=OWNERS_MAX).contains(&replication_factor) {
        return Err(RingsError::ReplicationFactor(replication_factor));
    }
    let mut nodes = Nodes::default();
    let mut rings = Vec::with_capacity(configs.len());
    let mut warnings = Vec::new();
    for (index, config) in configs.iter().enumerate() {
        let name = describe(index, config);
        if let Some(before) = rings.iter().position(|ring: &OneRing| ring.tenants.everyone()) {
            let before = describe(before, &configs[before]);
            warnings.push(format!(
                "{name} is never used: {before} in front of it serves every tenant"
            ));
        }
        let built = build_ring(config, algorithm, replication_factor, &mut nodes);
        rings.push(built.map_err(|fault| RingsError::Ring {
            name: name.clone(),
            fault,
        })?);
        warnings.extend(ignored(config).into_iter().map(|what| format!("{name}: {what}")));
    }
    let zones = Zones::of(&nodes.list);
    Ok(Rings {
        nodes: nodes.list,
        zones,
        rings,
        replication_factor,
        warnings,
    })
}

fn describe(index: usize, config: &RingConfig) -> String {
    match config.hashring.as_str() {
        "" => format!("hashring {index}"),
        name => format!("hashring {index} ({name:?})"),
    }
}

/// Nodes of all rings, each address once.
#[derive(Default)]
struct Nodes {
    list: Vec<Node>,
    by_address: HashMap<String, NodeIndex>,
}

impl Nodes {
    fn number(&mut self, endpoint: &Endpoint) -> Result<NodeIndex, Fault> {
        if let Some(&node) = self.by_address.get(&endpoint.address) {
            return Ok(node);
        }
        if self.list.len() >= NODES_MAX {
            return Err(Fault::TooManyNodes(NODES_MAX));
        }
        let node = self.list.len() as NodeIndex;
        self.list.push(Node {
            id: None,
            address: endpoint.address.clone(),
            zone: endpoint.zone.clone(),
        });
        self.by_address.insert(endpoint.address.clone(), node);
        Ok(node)
    }
}

fn build_ring(config: &RingConfig, algorithm: Algorithm, copies: usize, nodes: &mut Nodes) -> Result<OneRing, Fault> {
    let algorithm = match config.algorithm.as_str() {
        "" => algorithm,
        name => name.parse().map_err(|()| Fault::Algorithm(name.to_owned()))?,
    };
    let mut seen = HashSet::new();
    if let Some(twice) = config.endpoints.iter().find(|endpoint| !seen.insert(&endpoint.address)) {
        return Err(Fault::Duplicate(twice.address.clone()));
    }
    if config.endpoints.len() < copies {
        return Err(Fault::TooFewEndpoints {
            have: config.endpoints.len(),
            want: copies,
        });
    }
    let numbers = config
        .endpoints
        .iter()
        .map(|endpoint| nodes.number(endpoint))
        .collect::<Result<Vec<_>, _>>()?;
    let endpoints: Vec<(NodeIndex, Endpoint)> = numbers.into_iter().zip(config.endpoints.iter().cloned()).collect();
    let entries = entries(&endpoints);
    let sharded = config.shuffle_sharding.shard_size > 0;
    let method = match algorithm {
        Algorithm::Hashmod if entries.iter().any(|entry| !entry.zone.is_empty()) => return Err(Fault::HashmodZones),
        Algorithm::Hashmod if sharded => return Err(Fault::HashmodShards),
        Algorithm::Hashmod => Method::Hashmod(hashmod(&entries)),
        Algorithm::Ketama => Method::Ketama(Ketama::new(&entries, copies)?),
    };
    let shuffle = match sharded {
        true => Some(build_shuffle(&config.shuffle_sharding, &entries, copies)?),
        false => None,
    };
    Ok(OneRing {
        tenants: Tenants::new(&config.tenants, &config.tenant_matcher_type, true)?,
        named: config.tenants.clone(),
        external_labels: config.external_labels.clone(),
        endpoints,
        method,
        shuffle,
    })
}

pub(super) fn entries(endpoints: &[(NodeIndex, Endpoint)]) -> Vec<Entry<'_>> {
    endpoints
        .iter()
        .map(|(node, e)| Entry {
            node: *node,
            address: &e.address,
            zone: &e.zone,
        })
        .collect()
}

/// The order in which hashmod counts: by the bytes of the address.
pub(super) fn hashmod(entries: &[Entry<'_>]) -> Vec<NodeIndex> {
    let mut sorted = entries.to_vec();
    sorted.sort_by_key(|entry| entry.address);
    sorted.iter().map(|entry| entry.node).collect()
}

fn build_shuffle(config: &ShuffleConfig, entries: &[Entry<'_>], copies: usize) -> Result<Shuffle, Fault> {
    let sharding = |size: i64| -> Result<Sharding, Fault> {
        let positive = usize::try_from(size)
            .ok()
            .filter(|size| *size > 0)
            .ok_or(Fault::ShardSize(size))?;
        if positive > entries.len() {
            return Err(Fault::ShardAboveRing {
                size: positive,
                endpoints: entries.len(),
            });
        }
        let sharding = Sharding {
            size: positive,
            zone_aware: !config.zone_awareness_disabled,
        };
        sharding.check(entries, copies)?;
        Ok(sharding)
    };
    let mut overrides = Vec::new();
    for other in &config.overrides {
        let tenants = Tenants::new(&other.tenants, &other.tenant_matcher_type, false)?;
        overrides.push((tenants, sharding(other.shard_size)?));
    }
    let kept = usize::try_from(config.cache_size)
        .ok()
        .filter(|size| *size > 0)
        .unwrap_or(SHARDS_KEPT);
    Ok(Shuffle {
        sharding: sharding(config.shard_size)?,
        overrides,
        cache: Cache::new(kept.min(SHARDS_KEPT_MAX)),
    })
}

impl Tenants {
    /// `is_ring`: in a ring no list means everyone and no type means exact; in an override both mean nobody.
    fn new(list: &[String], matcher: &str, is_ring: bool) -> Result<Self, Fault> {
        let glob = |pattern: &String| Glob::new(pattern).map_err(|_| Fault::Pattern(pattern.clone()));
        match matcher {
            _ if list.is_empty() && is_ring => check_matcher(matcher).map(|()| Tenants::Everyone),
            "" if !is_ring => Err(Fault::MatcherUnset),
            "" | "exact" => Ok(Tenants::Exact(list.iter().cloned().collect())),
            "glob" => Ok(Tenants::Globs(list.iter().map(glob).collect::<Result<_, _>>()?)),
            other => Err(Fault::Matcher(other.to_owned())),
        }
    }
}

fn check_matcher(matcher: &str) -> Result<(), Fault> {
    if matches!(matcher, "" | "exact" | "glob") {
        Ok(())
    } else {
        Err(Fault::Matcher(matcher.to_owned()))
    }
}

/// What stands in the configuration of a ring without effect.
fn ignored(config: &RingConfig) -> Vec<&'static str> {
    let mut ignored = Vec::new();
    if !config.external_labels.is_empty() && config.tenants.is_empty() {
        ignored.push("external_labels have no effect in a ring without tenants");
    }
    if !config.external_labels.is_empty() && config.tenant_matcher_type == "glob" {
        ignored.push("external_labels go only to tenants that are named literally, not to those that a glob matches");
    }
    if config.shuffle_sharding.shard_size <= 0 && !config.shuffle_sharding.overrides.is_empty() {
        ignored.push("overrides of the shard size have no effect without a shard_size of the ring");
    }
    if config.shuffle_sharding.shard_size < 0 {
        ignored.push("a negative shard_size is taken for none");
    }
    ignored
}
