//! Reads from the other members of the ring: each is a source whose samples are on others as well.
//!
//! What a write quorum has, any majority of the members has together; so as many members may fail as a quorum can spare, and
//! an answer is still whole. Members on their way out are still read.

use crate::ring::Membership;
use cluster::member::State;
use model::env::Env;
use querier::{EndpointSet, Fanout};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Keeps `set` as the ring is, and tells the fan-out how many members may fail, until `stop`.
pub fn follow(
    membership: Arc<Membership>,
    set: Arc<EndpointSet>,
    fanout: Arc<Fanout>,
    interval: Duration,
    env: &Env,
    stop: CancellationToken,
) {
    let clock = env.clock.clone();
    let mut changes = membership.changes();
    let follow = async move {
        loop {
            // What changes from here on is seen in the next round, however long this one takes.
            changes.mark_unchanged();
            let (addresses, factor) = members(&membership);
            // With fewer members than copies every member may be the only one that has a sample.
            let quorum = factor / 2 + 1;
            let spare = if addresses.len() + 1 >= factor {
                factor - quorum
            } else {
                0
            };
            fanout.set_replicas_spare(spare);
            set.update(&addresses);
            // A newcomer is asked from the moment on in which it takes samples, not some seconds later.
            tokio::select! { () = set.probe_all() => {}, Ok(()) = changes.changed() => continue, () = stop.cancelled() => return }
            tokio::select! { () = clock.sleep(interval) => {}, Ok(()) = changes.changed() => {}, () = stop.cancelled() => return }
        }
    };
    env.spawn.task("members", Box::pin(follow));
}

/// Addresses of the other members that can be read, and copies of each series.
fn members(membership: &Membership) -> (BTreeSet<String>, usize) {
    let mut addresses: BTreeSet<String> = BTreeSet::new();
    let mut factor = 1;
    if let Some(placement) = membership.replicator.placement() {
        factor = placement.replication_factor().max(1);
        addresses.extend(placement.nodes().iter().map(|node| node.address.clone()));
    }
    if let Some(group) = &membership.group {
        let document = group.document();
        let readable = document.members.iter().filter(|member| member.state != State::Gone);
        addresses.extend(readable.map(|member| member.address.clone()));
    }
    addresses.remove(&membership.address);
    (addresses, factor)
}
