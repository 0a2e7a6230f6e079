//! Nodes that take series, and the short list of those that own one.

use cluster::{document::REPLICATION_FACTOR_MAX, member::MemberId};
use std::{fmt, ops::Deref};

/// Most copies of a series, and so most owners.
pub const OWNERS_MAX: usize = REPLICATION_FACTOR_MAX as usize;

/// The place of a node in the list of nodes of one placement; another placement may number them otherwise.
pub type NodeIndex = u16;

/// A node that takes series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Who it is; a ring file knows only addresses.
    pub id: Option<MemberId>,
    /// Where its gRPC listener is reached.
    pub address: String,
    /// Its zone, or empty.
    pub zone: String,
}

/// The owners of a series, the first one first; distinct. Small enough to be kept beside each known series.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Owners {
    len: u8,
    nodes: [NodeIndex; OWNERS_MAX],
}

impl Owners {
    /// Owners from a list of at most [`OWNERS_MAX`] nodes.
    #[inline]
    pub fn new(nodes: &[NodeIndex]) -> Self {
        let mut owners = Self {
            len: nodes.len() as u8,
            ..Self::default()
        };
        owners.nodes[..nodes.len()].copy_from_slice(nodes);
        owners
    }

    /// Puts `node` in the place of another owner.
    pub(super) fn set(&mut self, place: usize, node: NodeIndex) {
        self.nodes[..self.len as usize][place] = node;
    }
}

impl Deref for Owners {
    type Target = [NodeIndex];

    #[inline]
    fn deref(&self) -> &[NodeIndex] {
        &self.nodes[..self.len as usize]
    }
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deref().fmt(f)
    }
}
