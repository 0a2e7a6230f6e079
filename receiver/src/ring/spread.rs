//! The rule by which copies spread over nodes and zones, given a way round a circle.
//!
//! Each copy goes to the first node on the way whose zone has the fewest copies so far. The rule does not look at the number of copies, so
//! the first of many are the same as few; and a node taken out of the way changes only the places that it held.

use super::owners::{Node, NodeIndex, OWNERS_MAX, Owners};
use smallvec::{SmallVec, smallvec};

/// Counts by zone; a ring seldom has more zones than fit without allocating.
type ZoneCounts = SmallVec<[u32; 16]>;

/// The zones of the nodes of a placement, numbered.
#[derive(Debug, Clone, Default)]
pub(super) struct Zones {
    of_node: Vec<u16>,
    count: usize,
}

impl Zones {
    pub(super) fn of(nodes: &[Node]) -> Self {
        let mut names: Vec<&str> = Vec::new();
        let mut number = |zone| match names.iter().position(|name| *name == zone) {
            Some(index) => index as u16,
            None => {
                names.push(zone);
                names.len() as u16 - 1
            }
        };
        let of_node = nodes.iter().map(|node| number(node.zone.as_str())).collect();
        Self {
            of_node,
            count: names.len(),
        }
    }

    fn zone(&self, node: NodeIndex) -> usize {
        self.of_node[node as usize] as usize
    }

    /// All nodes for which `usable` says yes.
    pub(super) fn subset(&self, usable: impl Fn(NodeIndex) -> bool) -> Subset {
        let usable: Vec<bool> = (0..self.of_node.len()).map(|node| usable(node as NodeIndex)).collect();
        let mut zone_sizes = vec![0; self.count];
        for (node, _) in usable.iter().enumerate().filter(|(_, usable)| **usable) {
            zone_sizes[self.of_node[node] as usize] += 1;
        }
        Subset { usable, zone_sizes }
    }

    /// Up to `want` nodes of `subset` on the `way`.
    pub(super) fn spread(
        &self,
        way: impl Iterator<Item = NodeIndex> + Clone,
        want: usize,
        subset: &Subset,
    ) -> SmallVec<[NodeIndex; OWNERS_MAX]> {
        let mut chosen = SmallVec::new();
        let mut copies: ZoneCounts = smallvec![0; self.count];
        let mut left: ZoneCounts = subset.zone_sizes.iter().copied().collect();
        let mut level = 0;
        let mut rest = way.clone();
        while chosen.len() < want {
            let Some(lowest) = lowest(&copies, &left) else { break };
            if lowest != level {
                // Nodes that were passed over because their zone was full may fit now.
                level = lowest;
                rest = way.clone();
            }
            let fits = |&node: &NodeIndex| {
                subset.contains(node) && copies[self.zone(node)] == level && !chosen.contains(&node)
            };
            let Some(node) = rest.find(fits) else { break };
            chosen.push(node);
            copies[self.zone(node)] += 1;
            left[self.zone(node)] -= 1;
        }
        chosen
    }

    /// Replaces each owner that is not `usable`, at its place, by the first usable node on the `way` that is no owner and whose zone has
    /// the fewest copies on usable owners; by one that is `preferred` as long as there is one. A place that nobody can take keeps its
    /// owner.
    pub(super) fn replace(
        &self,
        owners: &mut Owners,
        way: impl Iterator<Item = NodeIndex> + Clone,
        usable: impl Fn(NodeIndex) -> bool,
        preferred: impl Fn(NodeIndex) -> bool,
    ) {
        for place in 0..owners.len() {
            if usable(owners[place]) {
                continue;
            }
            let mut copies: ZoneCounts = smallvec![0; self.count];
            for &owner in owners.iter().filter(|&&owner| usable(owner)) {
                copies[self.zone(owner)] += 1;
            }
            let next = |free: Subset| {
                let level = lowest(&copies, &free.zone_sizes)?;
                way.clone()
                    .find(|&node| free.contains(node) && copies[self.zone(node)] == level)
            };
            let free = |node| usable(node) && !owners.contains(&node);
            let inside = next(self.subset(|node| free(node) && preferred(node)));
            if let Some(node) = inside.or_else(|| next(self.subset(free))) {
                owners.set(place, node);
            }
        }
    }
}

/// A choice among the nodes of a placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subset {
    usable: Vec<bool>,
    /// How many of its nodes each zone has.
    zone_sizes: Vec<u32>,
}

impl Subset {
    pub(super) fn contains(&self, node: NodeIndex) -> bool {
        self.usable[node as usize]
    }
}

/// The fewest copies in any zone that still has nodes left.
fn lowest(copies: &[u32], left: &[u32]) -> Option<u32> {
    copies
        .iter()
        .zip(left)
        .filter(|(_, left)| **left > 0)
        .map(|(copies, _)| *copies)
        .min()
}
