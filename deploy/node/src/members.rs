//! Reads from the members of the ring: each is a source whose samples are on others as well.
//!
//! What a write quorum has, any majority of the members has together; so as many members may fail as a quorum can spare, and
//! an answer is still whole. For what was written while there were fewer copies, fewer may fail. Members on their way out are still read. A member reads from the others, a querier from all.

use crate::ring::Membership;
use cluster::{document::Document, follow::Follower, member::State};
use model::env::Env;
use querier::{EndpointSet, Fanout, Spare};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A ring as its readers see it.
pub enum Ring {
    /// This process is a member.
    Own(Arc<Membership>),
    /// This process only reads.
    Other(Follower),
}

/// Keeps `set` as the ring is, and tells the fan-out how many members may fail, until `stop`. The answer turns true when the members
/// of a known ring were asked what they hold for the first time.
pub fn follow(
    ring: Ring,
    set: Arc<EndpointSet>,
    fanout: Arc<Fanout>,
    interval: Duration,
    env: &Env,
    stop: CancellationToken,
) -> watch::Receiver<bool> {
    let (told, first_round) = watch::channel(false);
    let clock = env.clock.clone();
    let follow = async move {
        let mut changes = Changes::of(&ring);
        loop {
            // What changes from here on is seen in the next round, however long this one takes.
            changes.mark_unchanged();
            let (others, spare) = ring.members();
            let members = others.len() + usize::from(matches!(ring, Ring::Own(_)));
            fanout.set_replicas_spare(spare);
            set.update(&others);
            // A newcomer is asked from the moment on in which it takes samples, not some seconds later.
            tokio::select! { () = set.probe_all() => {}, () = changes.next() => continue, () = stop.cancelled() => return }
            if members > 0 {
                told.send_replace(true);
            }
            tokio::select! { () = clock.sleep(interval) => {}, () = changes.next() => {}, () = stop.cancelled() => return }
        }
    };
    env.spawn.task("members", Box::pin(follow));
    first_round
}

/// How many members of this ring may fail while some other still has each sample.
fn spare_of(document: &Document) -> Spare {
    Spare {
        now: document.spare_since(i64::MAX) as usize,
        thin: document
            .thin
            .map(|thin| (thin.until_ms, document.spare_since(i64::MIN) as usize)),
    }
}

/// The same where a file says who is in the ring.
fn spare_of_file(members: usize, factor: usize) -> Spare {
    // With fewer members than copies every member may be the only one that has a sample.
    let now = if members < factor { 0 } else { factor - (factor / 2 + 1) };
    Spare { now, thin: None }
}

impl Ring {
    /// Addresses of the members that can be read, this process left out, and how many of all may fail.
    fn members(&self) -> (BTreeSet<String>, Spare) {
        let membership = match self {
            Ring::Own(membership) => membership,
            Ring::Other(follower) => {
                let document = follower.document();
                return (readable(&document).collect(), spare_of(&document));
            }
        };
        let mut addresses: BTreeSet<String> = BTreeSet::new();
        let mut factor = 1;
        if let Some(placement) = membership.replicator.placement() {
            factor = placement.replication_factor().max(1);
            addresses.extend(placement.nodes().iter().map(|node| node.address.clone()));
        }
        addresses.remove(&membership.address);
        let mut spare = spare_of_file(addresses.len() + 1, factor);
        if let Some(group) = &membership.group {
            let document = group.document();
            addresses.extend(readable(&document).filter(|address| *address != membership.address));
            spare = spare_of(&document);
        }
        (addresses, spare)
    }
}

/// Addresses of members that may have samples.
fn readable(document: &Document) -> impl Iterator<Item = String> + '_ {
    let members = document.members.iter();
    members
        .filter(|member| member.state != State::Gone)
        .map(|member| member.address.clone())
}

/// Tells when a ring has changed.
enum Changes {
    Own(watch::Receiver<()>),
    Other(watch::Receiver<Arc<Document>>),
}

impl Changes {
    fn of(ring: &Ring) -> Self {
        match ring {
            Ring::Own(membership) => Changes::Own(membership.changes()),
            Ring::Other(follower) => Changes::Other(follower.watch()),
        }
    }

    fn mark_unchanged(&mut self) {
        match self {
            Changes::Own(changes) => changes.mark_unchanged(),
            Changes::Other(changes) => changes.mark_unchanged(),
        }
    }

    /// The next change; never, when there will be none.
    async fn next(&mut self) {
        let changed = match self {
            Changes::Own(changes) => changes.changed().await,
            Changes::Other(changes) => changes.changed().await,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_many_may_fail_as_a_quorum_leaves_out() {
        let cases = [
            (0, 1, 0),
            (1, 1, 0),
            (3, 3, 1),
            (2, 3, 0),
            (5, 5, 2),
            (4, 2, 0),
            (7, 3, 1),
        ];
        for (members, factor, wanted) in cases {
            let spare = super::spare_of_file(members, factor);
            assert_eq!(spare.now, wanted, "{members} members, {factor} copies");
        }
    }
}
