//! Follows the ring document from outside the group, for nodes that read the ring and are not in it: queriers and routers.
//!
//! It asks one member after the other, beginning with another one each time, so that a member which is cut off from the group cannot
//! keep a follower in the past for long. It knows the members from the document itself; the seeds are for the start and for the day when
//! all of them have moved.

use crate::{
    document::Document,
    network::Network,
    peers::{Answer, Destination, Peers, Request},
};
use model::env::{Clock, Spawn};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::watch;

/// How often to ask.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// How long to wait for one member's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Rounds in which no member answered between two lines about it in the log.
const TELL_EVERY: u32 = 15;

/// Follows the document until it is dropped.
pub struct Follower {
    document: watch::Receiver<Arc<Document>>,
    /// The task ends when this is gone.
    _alive: Arc<()>,
}

impl Follower {
    /// Begins to follow the ring that the members at `seeds` belong to.
    pub fn start(seeds: Vec<String>, peers: Arc<dyn Peers>, clock: Arc<dyn Clock>, spawn: &dyn Spawn) -> Self {
        let (sender, document) = watch::channel(Arc::default());
        let alive = Arc::new(());
        let network = Network {
            peers,
            clock,
            document: document.clone(),
        };
        spawn.task(
            "cluster-follower",
            Box::pin(follow(network, seeds, sender, Arc::downgrade(&alive))),
        );
        Self {
            document,
            _alive: alive,
        }
    }

    /// The newest document; the one of epoch 0 before any was learnt.
    pub fn document(&self) -> Arc<Document> {
        Arc::clone(&self.document.borrow())
    }

    /// The newest document and those that follow.
    pub fn watch(&self) -> watch::Receiver<Arc<Document>> {
        self.document.clone()
    }
}

async fn follow(network: Network, seeds: Vec<String>, sender: watch::Sender<Arc<Document>>, alive: Weak<()>) {
    let mut turn = 0_usize;
    let mut silent = 0_u32;
    while alive.strong_count() > 0 {
        let (mut members, epoch) = {
            let known = sender.borrow();
            (whom_to_ask(&known, &seeds), known.epoch)
        };
        if !members.is_empty() {
            let first = turn % members.len();
            members.rotate_left(first);
        }
        turn = turn.wrapping_add(1);
        silent = silent.wrapping_add(1);
        let mut last_error = String::new();
        for member in members {
            let address = member.address.clone();
            match ask(&network, member, epoch).await {
                Ok(Some(document)) => {
                    tracing::info!(epoch = document.epoch, member = address, "the ring has changed");
                    sender.send_replace(Arc::new(document));
                    silent = 0;
                    break;
                }
                Ok(None) => {
                    silent = 0;
                    break;
                }
                Err(error) => last_error = format!("{address}: {error}"),
            }
        }
        if silent % TELL_EVERY == 1 {
            tracing::warn!(
                error = last_error,
                epoch,
                "no member tells the ring; what is known of it stays in use"
            );
        }
        network.clock.sleep(ASK_EVERY).await;
    }
}

/// All present members, then the seeds that are none of them.
fn whom_to_ask(document: &Document, seeds: &[String]) -> Vec<Destination> {
    let members = document.present().map(|member| Destination {
        id: Some(member.id),
        address: member.address.clone(),
    });
    let mut all: Vec<Destination> = members.collect();
    let strange = seeds
        .iter()
        .filter(|seed| document.present().all(|member| member.address != **seed));
    all.extend(strange.map(|address| Destination {
        id: None,
        address: address.clone(),
    }));
    all
}

/// The document of a member, if it is newer.
async fn ask(network: &Network, member: Destination, epoch: u64) -> Result<Option<Document>, String> {
    let request = Request::Document { newer_than: epoch };
    match network
        .ask(member, request, ANSWER_LIMIT)
        .await
        .map_err(|error| error.to_string())?
    {
        Answer::Document(Some(document)) if document.epoch > epoch => {
            document.check().map_err(|error| error.to_string())?;
            Ok(Some(document))
        }
        Answer::Document(_) => Ok(None),
        other => Err(format!("answered another question: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        document::{Command, Newcomer},
        member::MemberId,
        peers::{Envelope, PeerError, decode, encode},
        testing::{TestClock, TestSpawn},
    };
    use bytes::Bytes;
    use futures::future::BoxFuture;
    use parking_lot::Mutex;
    use std::collections::HashMap;

    /// Documents by the address of the member that gives them.
    #[derive(Default)]
    struct Members(Mutex<HashMap<String, Document>>);

    impl Peers for Members {
        fn send(&self, to: Destination, request: Bytes) -> BoxFuture<'static, Result<Bytes, PeerError>> {
            let document = self.0.lock().get(&to.address).cloned();
            Box::pin(async move {
                let Some(document) = document else {
                    return Err(PeerError::Unreachable("nobody".into()));
                };
                let Request::Document { newer_than } = decode::<Envelope>(&request)?.request else {
                    return Err(PeerError::Refused("another question".into()));
                };
                encode(&Answer::Document((document.epoch > newer_than).then_some(document)))
            })
        }
    }

    async fn reaches(follower: &Follower, epoch: u64) -> Arc<Document> {
        let mut watch = follower.watch();
        let reached = watch.wait_for(|document| document.epoch == epoch);
        let document = tokio::time::timeout(Duration::from_secs(3600), reached)
            .await
            .expect("it never came")
            .unwrap();
        Arc::clone(&document)
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_learns_from_whoever_knows_more() {
        let newcomer = |number: u64| Newcomer {
            id: MemberId::new(number).unwrap(),
            address: format!("n{number}:1"),
            zone: String::new(),
            weight: 100,
        };
        let one = Document::default()
            .apply(&Command::Found {
                member: newcomer(1),
                replication_factor: 1,
            })
            .unwrap();
        let two = one.apply(&Command::Join { member: newcomer(2) }).unwrap();
        let three = two
            .apply(&Command::SetWeight {
                id: MemberId::new(1).unwrap(),
                weight: 10,
            })
            .unwrap();

        let members = Arc::new(Members::default());
        let clock = Arc::new(TestClock::new());
        let follower = Follower::start(vec!["seed:1".into()], Arc::clone(&members) as _, clock, &TestSpawn);
        assert_eq!(follower.document().epoch, 0);
        members.0.lock().insert("seed:1".into(), one.clone());
        assert_eq!(*reaches(&follower, 1).await, one);

        // The seed is gone; a member that the document names knows more, another one knows less.
        members.0.lock().remove("seed:1");
        members.0.lock().insert("n1:1".into(), two.clone());
        assert_eq!(*reaches(&follower, 2).await, two);
        members.0.lock().insert("n2:1".into(), three.clone());
        assert_eq!(*reaches(&follower, 3).await, three);

        // An older or broken document is not taken.
        members.0.lock().insert("n2:1".into(), one);
        members.0.lock().insert(
            "n1:1".into(),
            Document {
                epoch: 9,
                replication_factor: 0,
                ..Document::default()
            },
        );
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(*follower.document(), three);
    }
}
