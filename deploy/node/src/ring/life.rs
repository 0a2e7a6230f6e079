//! The life of this node in a ring of consensus: JOINING, ACTIVE, LEAVING, GONE.
//!
//! One task follows the document and does what it says of this node. A node that joins takes its share as soon as its log is replayed. One
//! that is told to leave lets the others notice, takes no more pushes, ships all it has, waits until readers can have found it in the bucket,
//! and is gone. Nothing here is in the way of a stop: a node that is stopped stays what it is and goes on after the next start.

use super::Membership;
use crate::settings::Settings;
use cluster::{
    document::{Command, Document},
    group::{Group, ProposeError},
    member::State,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Pause between attempts to do what could not be done.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the others get to notice that a node is leaving, before it takes no more pushes.
const NOTICE: Duration = Duration::from_secs(3);

/// Starts the task.
pub(super) fn start(membership: &Arc<Membership>, settings: &Settings, stop: CancellationToken) {
    let Some(group) = membership.group.clone() else { return };
    let me = Me {
        membership: Arc::clone(membership),
        group,
        seeds: settings.cluster_join.clone(),
        zone: settings.cluster_zone.clone(),
        weight: settings.cluster_weight,
        discovery: settings.store_sync_interval,
    };
    let announcer = me.clone();
    let (spawn, announcing) = (&membership.env.spawn, stop.clone());
    spawn.task(
        "ring-announce",
        Box::pin(async move {
            tokio::select! { () = announcer.announce() => {}, () = announcing.cancelled() => {} }
        }),
    );
    spawn.task(
        "ring-life",
        Box::pin(async move {
            tokio::select! { () = me.live() => {}, () = stop.cancelled() => {} }
        }),
    );
}

#[derive(Clone)]
struct Me {
    membership: Arc<Membership>,
    group: Group,
    seeds: Vec<String>,
    zone: String,
    weight: u32,
    /// How long readers take to find new blocks in the bucket.
    discovery: Duration,
}

impl Me {
    /// Tells the ring where this node is, until it has heard.
    async fn announce(&self) {
        let address = &self.membership.address;
        let known = self.group.document();
        let known = known.member(self.group.id());
        if known
            .is_some_and(|member| member.address == *address && member.zone == self.zone && member.state != State::Gone)
        {
            return;
        }
        loop {
            match self.group.join(&self.seeds, address, &self.zone, self.weight).await {
                Ok(epoch) => {
                    tracing::info!(epoch, address, "announced to the ring");
                    return;
                }
                Err(ProposeError::Refused(error)) => {
                    tracing::error!(%error, address, "the ring refuses this node; writes are routed, not stored here");
                }
                Err(error) => tracing::warn!(%error, "cannot announce this node to the ring yet"),
            }
            self.pause().await;
        }
    }

    /// Follows the document.
    async fn live(&self) {
        let mut document = self.group.watch();
        let mut placed = 0;
        loop {
            let current = document.borrow_and_update().clone();
            if current.epoch != placed {
                self.membership.place(Arc::clone(&current), Some(self.group.id())).await;
                placed = current.epoch;
            }
            let again = match self.state(&current) {
                Some(State::Joining) => self.activate().await,
                Some(State::Leaving) => self.leave().await,
                Some(State::Active) => {
                    self.membership.gate.shut.store(false, Ordering::Release);
                    false
                }
                Some(State::Gone) | None => false,
            };
            if again {
                self.pause().await;
            } else if document.changed().await.is_err() {
                return;
            }
        }
    }

    fn state(&self, document: &Document) -> Option<State> {
        document.member(self.group.id()).map(|member| member.state)
    }

    /// Takes this node's share once it can; whether to try again.
    async fn activate(&self) -> bool {
        if !self.membership.ingester.is_ready() {
            return true;
        }
        self.membership.gate.shut.store(false, Ordering::Release);
        self.propose(Command::Activate { id: self.group.id() }, "take its share of the ring")
            .await
    }

    /// Ships everything and leaves; whether to try again.
    async fn leave(&self) -> bool {
        tracing::info!("this node leaves the ring: it ships what it has and takes nothing new");
        let clock = &self.membership.env.clock;
        clock.sleep(NOTICE).await;
        if self.state(&self.group.document()) != Some(State::Leaving) {
            return true;
        }
        self.membership.gate.shut.store(true, Ordering::Release);
        // What had passed the gate before is written in a moment; the second cut has it.
        for pause in [PAUSE, Duration::ZERO] {
            match self.membership.ingester.cut_now().await {
                Ok(blocks) => tracing::info!(blocks = blocks.len(), "shipped before leaving"),
                Err(error) => {
                    tracing::error!(%error, "cannot ship, so this node stays readable and tries again");
                    return true;
                }
            }
            clock.sleep(pause).await;
        }
        clock.sleep(self.discovery).await;
        if self.state(&self.group.document()) != Some(State::Leaving) {
            return true;
        }
        let command = Command::Remove {
            id: self.group.id(),
            force: false,
            lost_ms: None,
        };
        let again = self.propose(command, "leave the ring").await;
        if !again {
            tracing::info!("this node has left the ring; all it had is in the bucket and it can be stopped");
        }
        again
    }

    /// Whether it has to be tried again.
    async fn propose(&self, command: Command, what: &str) -> bool {
        match self.group.propose(command).await {
            Ok(epoch) => {
                self.group.wait_for(epoch, PAUSE * 10).await;
                false
            }
            Err(error) => {
                tracing::warn!(%error, "this node cannot {what} yet");
                true
            }
        }
    }

    async fn pause(&self) {
        self.membership.env.clock.sleep(PAUSE).await;
    }
}
