//! What the group tells of itself.

use crate::member::State;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// Handles of the group's metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) epoch: Gauge,
    pub(crate) is_leader: Gauge,
    pub(crate) has_leader: Gauge,
    pub(crate) voters: Gauge,
    pub(crate) term: Gauge,
    pub(crate) stopped: Gauge,
    members: Family<StateLabel, Gauge>,
    pub(crate) leader_changes: Counter,
    pub(crate) proposals: Counter,
    pub(crate) proposals_failed: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge(
            "narthex_cluster_epoch",
            "Epoch of the ring document that this node follows",
            &metrics.epoch,
        );
        gauge(
            "narthex_cluster_is_leader",
            "Whether this node leads the group that agrees on the ring",
            &metrics.is_leader,
        );
        gauge(
            "narthex_cluster_has_leader",
            "Whether this node knows a leader of the group",
            &metrics.has_leader,
        );
        gauge(
            "narthex_cluster_voters",
            "Members that decide on the ring",
            &metrics.voters,
        );
        gauge(
            "narthex_cluster_term",
            "Term of the group, one more with each election",
            &metrics.term,
        );
        gauge(
            "narthex_cluster_stopped",
            "Whether the group stopped on this node because its disk failed",
            &metrics.stopped,
        );
        registry.register(
            "narthex_cluster_members",
            "Members of the ring by state",
            metrics.members.clone(),
        );
        let mut counter = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        counter(
            "narthex_cluster_leader_changes",
            "Changes of the leader that this node saw",
            &metrics.leader_changes,
        );
        counter(
            "narthex_cluster_proposals",
            "Changes of the ring that this node asked for",
            &metrics.proposals,
        );
        counter(
            "narthex_cluster_proposals_failed",
            "Changes of the ring that this node asked for and that were refused or not agreed on in time",
            &metrics.proposals_failed,
        );
        for state in [State::Joining, State::Active, State::Leaving, State::Gone] {
            metrics.set_members(state, 0);
        }
        metrics
    }

    pub(crate) fn set_members(&self, state: State, count: usize) {
        let state = match state {
            State::Joining => "joining",
            State::Active => "active",
            State::Leaving => "leaving",
            State::Gone => "gone",
        };
        self.members.get_or_create(&StateLabel { state }).set(count as i64);
    }
}
