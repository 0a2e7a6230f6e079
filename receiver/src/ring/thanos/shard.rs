//! The nodes of one tenant in a ring with shuffle sharding, drawn as Thanos Receive draws them.
//!
//! From each zone the same number of nodes, or from the whole ring when zones are not to count. A zone and the tenant seed a generator;
//! each number it gives is a place on the ring, and the next node of the zone from there on that was not drawn yet is taken.

use super::{
    Fault,
    go_random::GoRandom,
    ketama::{Entry, Ketama},
};
use md5::{Digest, Md5};

/// How a ring shares out its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sharding {
    /// Nodes of a tenant; rounded up to the same number for each zone.
    pub(super) size: usize,
    /// Whether as many nodes come from each zone.
    pub(super) zone_aware: bool,
}

impl Sharding {
    /// The zones to draw from, the nodes to draw from each, and the fewest distinct addresses in any of them.
    fn plan<'a>(self, entries: &[Entry<'a>]) -> (Vec<Option<&'a str>>, usize, usize) {
        let mut zones: Vec<Option<&str>> = match self.zone_aware {
            true => entries.iter().map(|entry| Some(entry.zone)).collect(),
            false => vec![None],
        };
        zones.sort_unstable();
        zones.dedup();
        let smallest = zones.iter().map(|zone| {
            let mut addresses: Vec<&str> = entries
                .iter()
                .filter(|entry| zone.is_none_or(|zone| zone == entry.zone))
                .map(|e| e.address)
                .collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses.len()
        });
        let smallest = smallest.min().unwrap_or(0);
        let each = self.size.div_ceil(zones.len().max(1));
        (zones, each, smallest)
    }

    /// Whether every tenant can get its nodes and they can hold `copies` copies.
    pub(super) fn check(self, entries: &[Entry<'_>], copies: usize) -> Result<(), Fault> {
        let (zones, each, smallest) = self.plan(entries);
        if each > smallest {
            return Err(Fault::ShardAboveZone { want: each, smallest });
        }
        if each * zones.len() < copies {
            return Err(Fault::ShardBelowFactor {
                size: each * zones.len(),
                copies,
            });
        }
        // Drawn without regard to zones, a shard may have one node in all zones but one. Such zones hold three copies whatever their
        // number, but not always four.
        let zoned = entries.iter().any(|entry| entry.zone != entries[0].zone);
        if !self.zone_aware && zoned && copies > 3 {
            return Err(Fault::UnevenShards { copies });
        }
        Ok(())
    }

    /// The indices of the entries that `tenant` gets.
    pub(super) fn draw(self, ring: &Ketama, entries: &[Entry<'_>], tenant: &str) -> Result<Vec<usize>, Fault> {
        let (zones, each, smallest) = self.plan(entries);
        if each > smallest {
            return Err(Fault::ShardAboveZone { want: each, smallest });
        }
        let mut drawn: Vec<usize> = Vec::with_capacity(each * zones.len());
        for zone in zones {
            let mut random = GoRandom::new(seed(tenant, zone.unwrap_or("")));
            for _ in 0..each {
                let free =
                    |index: &usize| zone.is_none_or(|zone| zone == entries[*index].zone) && !drawn.contains(index);
                let mut way = ring
                    .walk(random.next_u64())
                    .filter_map(|node| entries.iter().position(|e| e.node == node));
                drawn.extend(way.find(free));
            }
        }
        Ok(drawn)
    }
}

/// The seed of a tenant's draws from a zone: the first eight bytes of an MD5 sum.
pub(super) fn seed(tenant: &str, zone: &str) -> i64 {
    let mut sum = Md5::new();
    sum.update(tenant);
    if !zone.is_empty() {
        sum.update([0]);
        sum.update(zone);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&sum.finalize()[..8]);
    i64::from_be_bytes(first)
}
