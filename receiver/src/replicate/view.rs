//! The ring as the replicator uses it at one moment: the placement, and a taker for each of its nodes.

use super::{part::Part, quorum::Rule};
use crate::ring::{NodeIndex, Placement};
use futures::future::BoxFuture;
use model::{
    push::{Push, PushError, WriteBatch, WriteOutcome},
    time::Timestamp,
};
use proto::grpc::push_client::PushClient;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// A far node as one who pushes sees it.
pub trait Peer: Push {
    /// Whether a push has a chance.
    fn is_up(&self) -> bool;

    /// What the upper 32 bits of all numbers are that it gives now; 0 while it cannot know. A life never comes back.
    fn life(&self) -> u32;

    /// How long to wait for its answer before somebody else is asked, too.
    fn patience(&self) -> Duration;

    /// Whether it keeps others waiting for longer than it usually does. It is not asked while there are enough others.
    fn is_late(&self) -> bool {
        false
    }

    /// The number of the process that it leads to, when that is known. Two peers with the same one have one disk, and one vote.
    fn process(&self) -> Option<u64> {
        None
    }

    /// Whether it can take series that are not placed on it, in the place of a node that is away. That may only be
    /// known once it was reached.
    fn takes_any(&self) -> bool {
        true
    }

    /// Sends a part of a batch without a copy of it, and gives the answer to come, in the terms of the part. `None` when that cannot be
    /// done: then the part is copied and pushed.
    fn send(&self, _batch: &WriteBatch, _part: &Part, _received: Timestamp) -> Option<Pushed> {
        None
    }
}

/// The answer to a part that is on its way.
pub type Pushed = BoxFuture<'static, Result<WriteOutcome, PushError>>;

impl Peer for PushClient {
    fn is_up(&self) -> bool {
        PushClient::is_up(self)
    }

    fn life(&self) -> u32 {
        PushClient::life(self)
    }

    fn patience(&self) -> Duration {
        PushClient::patience(self)
    }

    fn is_late(&self) -> bool {
        PushClient::is_late(self)
    }

    fn process(&self) -> Option<u64> {
        PushClient::process(self)
    }

    fn send(&self, batch: &WriteBatch, part: &Part, received: Timestamp) -> Option<Pushed> {
        self.push_part(batch, part.series(), part.numbers(), received)
    }
}

/// Reaches far nodes.
pub trait Connect: Send + Sync {
    /// Begins to dial the node at `address`.
    fn connect(&self, address: &str) -> Arc<dyn Peer>;

    /// Series are placed by `placement` from now on.
    fn follow(&self, _placement: &Arc<Placement>) {}
}

/// Who takes what a node of the ring is to have.
pub(super) enum Taker {
    Near,
    Far(Arc<dyn Peer>),
}

/// The ring at one moment. Immutable; a change of the ring makes a new one.
pub(super) struct View {
    pub(super) placement: Arc<Placement>,
    /// By the numbers of the placement.
    pub(super) takers: Vec<Taker>,
    pub(super) rule: Rule,
    /// This node is all there is.
    pub(super) alone: bool,
}

impl View {
    /// A view of `placement`, in which this node is number `own`. Connections to nodes that were in the view before are kept.
    pub(super) fn new(
        placement: Arc<Placement>,
        own: Option<NodeIndex>,
        before: Option<&View>,
        connect: &dyn Connect,
    ) -> Self {
        let known = before.map(View::peers).unwrap_or_default();
        let takers = placement.nodes().iter().enumerate().map(|(index, node)| {
            if own == Some(index as NodeIndex) {
                return Taker::Near;
            }
            let peer = known.get(node.address.as_str()).cloned();
            Taker::Far(peer.unwrap_or_else(|| connect.connect(&node.address)))
        });
        let takers: Vec<Taker> = takers.collect();
        Self {
            rule: Rule::new(placement.replication_factor()),
            alone: matches!(takers[..], [Taker::Near]) && placement.replication_factor() == 1,
            takers,
            placement,
        }
    }

    fn peers(&self) -> HashMap<&str, Arc<dyn Peer>> {
        let nodes = self.placement.nodes().iter().zip(&self.takers);
        let far = nodes.filter_map(|(node, taker)| match taker {
            Taker::Near => None,
            Taker::Far(peer) => Some((node.address.as_str(), Arc::clone(peer))),
        });
        far.collect()
    }
}
