//! Keeps the group in step with the document and tells how it stands.
//!
//! One task on each member. On the leader it makes one change of the group at a time, and looks again after each; a change that cannot be
//! made now is tried again. On every member it keeps the metrics current.

use super::Inner;
use crate::{
    member::{MemberId, State},
    network::within,
    voters::{self, Step, next_step},
};
use futures::{FutureExt, select_biased};
use model::env::Spawn;
use openraft::{BasicNode, ChangeMembers, RaftMetrics};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::watch;

/// How long to wait for something to happen before looking anyway.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long to wait after a change of the group that could not be made.
const PAUSE: Duration = Duration::from_millis(200);

/// How far behind the end of the log a learner may be to become a voter.
const LAG_MAX: u64 = 100;

type GroupMetrics = RaftMetrics<MemberId, BasicNode>;

/// Starts the task; it ends with the group.
pub(super) fn start(inner: &Arc<Inner>, mut stop: watch::Receiver<bool>, spawn: &dyn Spawn) {
    let clock = Arc::clone(&inner.network.clock);
    let mut document = inner.document.clone();
    let mut metrics = inner.raft.metrics();
    let weak = Arc::downgrade(inner);
    let task = async move {
        let mut leader = None;
        while let Some(pause) = look(&weak, &mut leader).await {
            // Changes that come while one is made are not lost: the channels remember that there was one.
            let something = async {
                select_biased! {
                    _ = document.changed().fuse() => {}
                    _ = metrics.changed().fuse() => {}
                    () = clock.sleep(LOOK_EVERY).fuse() => {}
                }
            };
            select_biased! {
                _ = stop.changed().fuse() => return,
                () = something.fuse() => {}
            }
            if let Some(pause) = pause {
                clock.sleep(pause).await;
            }
        }
    };
    spawn.task("cluster-caretaker", Box::pin(task));
}

/// One look at the group; `None` when it is no more, else how long to leave it alone.
async fn look(weak: &Weak<Inner>, leader: &mut Option<MemberId>) -> Option<Option<Duration>> {
    let inner = weak.upgrade().filter(|inner| !*inner.stop.borrow())?;
    let metrics = inner.raft.metrics().borrow().clone();
    tell(&inner, &metrics, leader);
    if let Err(error) = &metrics.running_state {
        tracing::error!(%error, "the cluster group stopped on this node: the ring stays as it is here until a restart");
        return None;
    }
    if !inner.is_leader() {
        return Some(None);
    }
    let Some(step) = plan(&inner, &metrics) else {
        return Some(None);
    };
    match within(&*inner.network.clock, inner.settings.propose_limit, take(&inner, &step)).await {
        Some(Ok(())) => {
            tracing::info!(?step, "changed the cluster group");
            Some(None)
        }
        Some(Err(error)) => {
            tracing::debug!(?step, error, "the cluster group cannot be changed yet");
            Some(Some(PAUSE))
        }
        None => Some(Some(PAUSE)),
    }
}

fn plan(inner: &Inner, metrics: &GroupMetrics) -> Option<Step> {
    let document = Arc::clone(&inner.document.borrow());
    let membership = metrics.membership_config.membership();
    // Before it is founded the ring has a group of one and no members.
    if document.epoch == 0 {
        return None;
    }
    let last = metrics.last_log_index.unwrap_or(0);
    let replication = metrics.replication.iter().flatten();
    let close = replication.filter(|(_, log_id)| log_id.is_some_and(|log_id| log_id.index + LAG_MAX >= last));
    let group = voters::Group {
        leader: inner.id,
        voters: membership.voter_ids().collect(),
        between: membership.get_joint_config().len() > 1,
        learners: membership.learner_ids().collect(),
        caught_up: close.map(|(id, _)| *id).chain([inner.id]).collect(),
    };
    next_step(&document, &group)
}

async fn take(inner: &Inner, step: &Step) -> Result<(), String> {
    let result = match step.clone() {
        Step::Add(id, address) => inner.raft.add_learner(id, BasicNode::new(address), false).await,
        Step::Vote(voters) => inner.raft.change_membership(voters, true).await,
        Step::Forget(gone) => {
            inner
                .raft
                .change_membership(ChangeMembers::RemoveNodes(gone), true)
                .await
        }
    };
    result.map(drop).map_err(|error| error.to_string())
}

/// Brings the metrics up to date and logs a change of the leader.
fn tell(inner: &Inner, metrics: &GroupMetrics, leader: &mut Option<MemberId>) {
    let ours = &inner.metrics;
    let document = Arc::clone(&inner.document.borrow());
    ours.epoch.set(document.epoch as i64);
    for state in [State::Joining, State::Active, State::Leaving, State::Gone] {
        ours.set_members(
            state,
            document.members.iter().filter(|member| member.state == state).count(),
        );
    }
    ours.is_leader.set(i64::from(metrics.current_leader == Some(inner.id)));
    ours.has_leader.set(i64::from(metrics.current_leader.is_some()));
    ours.voters.set(metrics.membership_config.voter_ids().count() as i64);
    ours.term.set(metrics.current_term as i64);
    ours.stopped.set(i64::from(metrics.running_state.is_err()));
    if metrics.current_leader.is_some() && metrics.current_leader != *leader {
        *leader = metrics.current_leader;
        ours.leader_changes.inc();
        tracing::info!(leader = ?leader.map(MemberId::get), term = metrics.current_term, "the cluster group has a leader");
    }
}
