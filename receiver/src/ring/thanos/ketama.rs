//! Ketama as Thanos Receive builds it, bit by bit.
//!
//! Each endpoint has a thousand sections at xxh64 of `address:number`, numbers from 1. A series belongs to the first section at or above
//! its hash; the section's owners are found by walking on from it.

use super::Fault;
use crate::ring::{
    circle::Circle,
    owners::{NodeIndex, Owners},
};
use xxhash_rust::xxh64::xxh64;

/// Sections of one endpoint.
const SECTIONS: usize = 1000;

/// An endpoint as an algorithm needs it. Two entries of one address are two endpoints.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) node: NodeIndex,
    pub(super) address: &'a str,
    pub(super) zone: &'a str,
}

/// A ketama ring with its owners worked out.
#[derive(Debug, Clone)]
pub(super) struct Ketama {
    circle: Circle,
    /// Owners for each section, `copies` of them.
    owners: Vec<NodeIndex>,
    copies: usize,
}

impl Ketama {
    pub(super) fn new(entries: &[Entry<'_>], copies: usize) -> Result<Self, Fault> {
        if copies == 0 || entries.len() < copies {
            return Err(Fault::TooFewEndpoints {
                have: entries.len(),
                want: copies,
            });
        }
        let zones = Zones::new(entries);
        let most = zones.copies_max();
        if most < copies {
            return Err(Fault::UnevenZones { most, want: copies });
        }
        let mut sections: Vec<(u64, usize)> = Vec::with_capacity(entries.len() * SECTIONS);
        for (index, entry) in entries.iter().enumerate() {
            let section = |number| (xxh64(format!("{}:{number}", entry.address).as_bytes(), 0), index);
            sections.extend((1..=SECTIONS).map(section));
        }
        sections.sort_by_key(|(hash, _)| *hash);
        let mut owners = Vec::with_capacity(sections.len() * copies);
        for start in 0..sections.len() {
            let way = sections[start..]
                .iter()
                .chain(&sections[..start])
                .map(|(_, index)| *index);
            owners.extend(
                zones
                    .walk(way.cycle(), copies)
                    .into_iter()
                    .map(|index| entries[index].node),
            );
        }
        let circle = Circle::new(sections.into_iter().map(|(hash, index)| (hash, entries[index].node)));
        Ok(Self { circle, owners, copies })
    }

    #[inline]
    pub(super) fn owners(&self, hash: u64) -> Owners {
        let first = self.circle.find(hash) * self.copies;
        Owners::new(&self.owners[first..first + self.copies])
    }

    /// The nodes of all sections, once round, from the one that `hash` belongs to.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = NodeIndex> + Clone + '_ {
        self.circle.walk(self.circle.find(hash))
    }

    pub(super) fn contains(&self, node: NodeIndex) -> bool {
        self.circle.walk(0).any(|other| other == node)
    }

    /// Sections in order, each with its owners.
    #[cfg(test)]
    pub(super) fn sections(&self) -> impl Iterator<Item = (u64, &[NodeIndex])> {
        self.circle
            .iter()
            .map(|(token, _)| token)
            .zip(self.owners.chunks(self.copies))
    }
}

/// The zones of the entries of one ring, an empty name being a zone like any other.
struct Zones {
    of_entry: Vec<usize>,
    sizes: Vec<usize>,
}

impl Zones {
    fn new(entries: &[Entry<'_>]) -> Self {
        let mut names: Vec<&str> = entries.iter().map(|entry| entry.zone).collect();
        names.sort_unstable();
        names.dedup();
        let of_entry: Vec<usize> = entries
            .iter()
            .map(|entry| names.partition_point(|name| *name < entry.zone))
            .collect();
        let mut sizes = vec![0; names.len()];
        of_entry.iter().for_each(|&zone| sizes[zone] += 1);
        Self { of_entry, sizes }
    }

    /// The most copies that the walk can place. A zone takes another copy only while it has no more than the emptiest one; when the
    /// smallest zone, of `m` endpoints, is used up, no other gets beyond `m + 1`. (Thanos walks on for ever in search of more.)
    fn copies_max(&self) -> usize {
        match (self.sizes.len(), self.sizes.iter().min()) {
            (2.., Some(smallest)) => self.sizes.iter().map(|size| (*size).min(smallest + 1)).sum(),
            _ => self.sizes.iter().sum(),
        }
    }

    /// The first `copies` entries on the way that are not taken yet and whose zone has no more than the emptiest zone. It ends when
    /// `copies` is at most [`Zones::copies_max`].
    fn walk(&self, way: impl Iterator<Item = usize>, copies: usize) -> Vec<usize> {
        let mut chosen = Vec::with_capacity(copies);
        let mut taken = vec![0; self.sizes.len()];
        for entry in way {
            if chosen.len() == copies {
                break;
            }
            let emptiest = taken.iter().min().copied().unwrap_or(0);
            let zone = self.of_entry[entry];
            if chosen.contains(&entry) || (taken.len() > 1 && taken[zone] > emptiest) {
                continue;
            }
            chosen.push(entry);
            taken[zone] += 1;
        }
        chosen
    }
}
