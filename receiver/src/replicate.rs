//! Hands batches on to the nodes that own their series, and answers when a quorum holds them on disk.
//!
//! [`Replicator`] is a [`Push`] like the ingester that stands behind it: whoever pushes does not see the difference. Alone in its ring it
//! passes batches on as they are. With others it divides them by the ring ([`round`]), counts the votes ([`ballot`], by the rule in
//! [`quorum`]) and remembers the numbers by which each node knows the series ([`catalog`]).

mod ballot;
mod catalog;
mod part;
pub mod quorum;
mod round;
mod shared;
mod view;

pub use part::Part;
pub use view::{Connect, Peer, Pushed};

use crate::{
    metrics::ReplicationMetrics,
    ring::{NodeIndex, Placement},
};
use catalog::Catalog;
use futures::future::{BoxFuture, Either, select};
use model::{
    env::Env,
    push::{Push, PushError, WriteBatch, WriteOutcome},
    time::Timestamp,
};
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use proto::spare::Spares;
use round::Round;
use shared::Shared;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};
use view::View;

/// When a sender may come again while nobody is there to take its samples.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long the disk of this node may keep a request waiting. Senders give up after half a minute and more, and then do not know why.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);

/// Stands before the takers of a ring.
pub struct Replicator {
    shared: Arc<Shared>,
    connect: Arc<dyn Connect>,
    /// None before the ring is known.
    view: RwLock<Option<Arc<View>>>,
}

impl Replicator {
    /// A replicator on the node whose own samples go to `near`; others are reached by `connect`. It keeps the numbers of up to `series_max`
    /// series, and for a while as many again.
    pub fn new(
        env: Env,
        near: Arc<dyn Push>,
        connect: Arc<dyn Connect>,
        series_max: usize,
        registry: &mut Registry,
    ) -> Arc<Self> {
        // 0 stands for a process that does not tell.
        let process = env.rng.next_u64().max(1);
        let shared = Shared {
            catalog: Catalog::new(&*env.rng, series_max),
            env,
            near,
            metrics: ReplicationMetrics::new(registry),
            spares: Spares::default(),
            near_samples: AtomicUsize::new(0),
            process,
            told_twice: AtomicBool::new(false),
        };
        Arc::new(Self {
            shared: Arc::new(shared),
            connect,
            view: RwLock::new(None),
        })
    }

    /// Places series by `placement` from now on; this node is number `own` in it, if it takes series.
    pub fn follow(&self, placement: Arc<Placement>, own: Option<NodeIndex>) {
        let before = self.view.read().clone();
        self.connect.follow(&placement);
        self.shared.catalog.set_copies(placement.replication_factor());
        let view = View::new(placement, own, before.as_deref(), &*self.connect);
        *self.view.write() = Some(Arc::new(view));
    }

    /// The placement that is followed.
    pub fn placement(&self) -> Option<Arc<Placement>> {
        self.view.read().as_ref().map(|view| Arc::clone(&view.placement))
    }

    /// The number of this process, by which others know that two addresses lead to it.
    pub fn process(&self) -> u64 {
        self.shared.process
    }

    /// Addresses of the other nodes that take series, and whether they can be reached.
    pub fn peers(&self) -> Vec<(String, bool)> {
        let Some(view) = self.view.read().clone() else {
            return Vec::new();
        };
        let nodes = view.placement.nodes().iter().zip(&view.takers);
        let far = nodes.filter_map(|(node, taker)| match taker {
            view::Taker::Near => None,
            view::Taker::Far(peer) => Some((node.address.clone(), peer.is_up())),
        });
        far.collect()
    }

    /// How many of the nodes that take series cannot be reached.
    pub fn away(&self) -> usize {
        let view = self.view.read();
        let takers = view.iter().flat_map(|view| &view.takers);
        let away = takers.filter(|taker| matches!(taker, view::Taker::Far(peer) if !peer.is_up()));
        away.count()
    }

    async fn replicate(&self, view: &View, batch: &WriteBatch, received: Timestamp) -> Result<WriteOutcome, PushError> {
        if batch.series.is_empty() {
            // Metadata alone never fails a batch, and one node is enough for it.
            let taken = self.push_near(batch, received).await;
            return Ok(taken.unwrap_or_default());
        }
        let placement = view
            .placement
            .tenant(&batch.tenant)
            .map_err(|error| not_now(error.to_string()))?;
        let result = Round::new(&self.shared, view, placement, batch, received).run().await;
        self.shared.metrics.series.set(self.shared.catalog.len() as i64);
        result
    }

    async fn push_near(&self, batch: &WriteBatch, received: Timestamp) -> Result<WriteOutcome, PushError> {
        let deadline = self.shared.env.clock.sleep(ANSWER_WITHIN);
        match select(self.shared.near.push(batch, received), deadline).await {
            Either::Left((taken, _)) => taken,
            Either::Right(_) => Err(not_now(no_answer())),
        }
    }
}

fn no_answer() -> String {
    format!(
        "no answer from a disk for {} s; if it is the one of this node, see whether it hangs",
        ANSWER_WITHIN.as_secs()
    )
}

fn not_now(reason: String) -> PushError {
    PushError::Unavailable {
        reason,
        retry_after: RETRY_AFTER,
    }
}

impl Push for Replicator {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        let view = self.view.read().clone();
        match view {
            Some(view) if view.alone => Box::pin(self.push_near(batch, received)),
            Some(view) => Box::pin(async move { self.replicate(&view, batch, received).await }),
            None => Box::pin(async { Err(not_now("this node does not know its ring yet".to_owned())) }),
        }
    }
}

#[cfg(test)]
mod tests;
