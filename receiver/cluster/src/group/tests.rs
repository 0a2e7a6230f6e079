//! Whole groups in one process, over a network that can be cut.

use super::*;
use crate::{
    limits::Limits,
    member::State,
    testing::{TestClock, TestRng, TestSpawn, now},
};
use futures::future::BoxFuture;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// Longest wait for anything; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Members by address, and the addresses that are cut off.
#[derive(Default)]
struct Wires {
    groups: Mutex<HashMap<String, Group>>,
    cut: Mutex<HashSet<String>>,
}

/// One member's end of the wires.
struct End {
    wires: Arc<Wires>,
    address: String,
}

impl Peers for End {
    fn send(&self, to: Destination, request: Bytes) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let cut = self.wires.cut.lock();
        let reached = !cut.contains(&self.address) && !cut.contains(&to.address);
        let group = self.wires.groups.lock().get(&to.address).cloned().filter(|_| reached);
        Box::pin(async move {
            match group {
                Some(group) => group.answer(&request).await,
                None => Err(PeerError::Unreachable(format!("no way to {}", to.address))),
            }
        })
    }
}

/// A node: its disk and its address outlive its group.
struct Node {
    wires: Arc<Wires>,
    dir: tempfile::TempDir,
    address: String,
    seed: u64,
}

impl Node {
    fn new(wires: &Arc<Wires>, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            wires: Arc::clone(wires),
            dir,
            address: format!("n{seed}:1"),
            seed,
        }
    }

    async fn start(&self) -> Group {
        let settings = GroupSettings {
            heartbeat: Duration::from_millis(150),
            election: Duration::from_millis(700),
            // Elections take their time on a machine that does much else.
            propose_limit: PATIENCE / 2,
            ..GroupSettings::new(self.dir.path().to_owned())
        };
        let deadline = now() + PATIENCE;
        loop {
            let end = End {
                wires: Arc::clone(&self.wires),
                address: self.address.clone(),
            };
            let env = GroupEnv {
                spawn: Arc::new(TestSpawn),
                clock: Arc::new(TestClock::new()),
                rng: Arc::new(TestRng::new(self.seed)),
                peers: Arc::new(end),
            };
            match Group::open(settings.clone(), env, &mut Registry::default()).await {
                Ok(group) => {
                    self.wires.groups.lock().insert(self.address.clone(), group.clone());
                    return group;
                }
                // The tasks of the group before still hold the database.
                Err(GroupError::Disk(_)) if now() < deadline => tokio::time::sleep(PAUSE_FIRST).await,
                Err(error) => panic!("open {}: {error}", self.address),
            }
        }
    }

    async fn stop(&self) {
        let group = self.wires.groups.lock().remove(&self.address);
        if let Some(group) = group {
            group.shutdown().await;
        }
    }

    fn cut(&self) {
        self.wires.cut.lock().insert(self.address.clone());
    }

    fn heal(&self) {
        self.wires.cut.lock().remove(&self.address);
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = now() + PATIENCE;
    while !holds() {
        assert!(now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A ring of `size` active members in zones of their own.
async fn ring(wires: &Arc<Wires>, size: u64) -> (Vec<Node>, Vec<Group>) {
    let nodes: Vec<Node> = (1..=size).map(|seed| Node::new(wires, seed)).collect();
    let mut groups = vec![nodes[0].start().await];
    groups[0]
        .found(&nodes[0].address, "z1", 100, size.min(3) as u32)
        .await
        .unwrap();
    for node in &nodes[1..] {
        groups.push(enter(node, &nodes[0]).await);
    }
    let voters = [0, 1, 1, 3, 3, 5, 5][size as usize];
    until("the voters are chosen", || {
        groups.iter().all(|group| group.status().voters.len() == voters)
    })
    .await;
    (nodes, groups)
}

/// Starts a node and brings it into the ring of another.
async fn enter(node: &Node, seed: &Node) -> Group {
    let group = node.start().await;
    let epoch = group
        .join(
            std::slice::from_ref(&seed.address),
            &node.address,
            &format!("z{}", node.seed),
            100,
        )
        .await
        .unwrap();
    group
        .wait_for(epoch, PATIENCE)
        .await
        .expect("a newcomer learns the document");
    let epoch = group.propose(Command::Activate { id: group.id() }).await.unwrap();
    group
        .wait_for(epoch, PATIENCE)
        .await
        .expect("a newcomer goes on learning");
    group
}

fn leader(groups: &[Group]) -> Option<usize> {
    let id = groups
        .iter()
        .find_map(|group| group.status().leader.filter(|id| *id == group.id()))?;
    groups.iter().position(|group| group.id() == id)
}

fn weight(group: &Group, weight: u32) -> Command {
    Command::SetWeight { id: group.id(), weight }
}

#[tokio::test]
async fn a_ring_of_one_is_founded_once_and_remembers() {
    let wires = Arc::default();
    let node = Node::new(&wires, 1);
    let group = node.start().await;
    assert_eq!(group.document().epoch, 0);
    assert_eq!(group.found(&node.address, "z", 100, 3).await, Ok(1));
    assert!(matches!(
        group.found(&node.address, "z", 100, 3).await,
        Err(ProposeError::Refused(DocumentError::Founded(1)))
    ));
    assert!(matches!(
        group.found("nonsense", "z", 100, 3).await,
        Err(ProposeError::Refused(_))
    ));
    let document = group.document();
    let id = group.id();
    drop(group);
    node.stop().await;

    let group = node.start().await;
    assert_eq!((group.id(), group.document()), (id, document));
    until("it leads again", || group.status().leader == Some(id)).await;
    assert_eq!(
        group.join(&[], &node.address, "z", 100).await,
        Ok(1),
        "a restart changes nothing"
    );
    assert_eq!(group.propose(weight(&group, 50)).await, Ok(2));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_survive_the_loss_of_one() {
    let wires = Arc::default();
    let (nodes, groups) = ring(&wires, 3).await;
    let lost = leader(&groups).expect("a ring that takes changes has a leader");
    let others: Vec<usize> = (0..3).filter(|index| *index != lost).collect();

    // The leader is lost: the others elect another one and go on.
    nodes[lost].cut();
    let asking = &groups[others[0]];
    let epoch = asking.propose(weight(asking, 150)).await.unwrap();
    for &index in &others {
        groups[index].wait_for(epoch, PATIENCE).await.unwrap();
        assert_ne!(groups[index].status().leader, Some(groups[lost].id()));
    }
    assert!(groups[lost].document().epoch < epoch);
    assert_eq!(
        groups[lost].document().present().count(),
        3,
        "it goes on with the last document it knew"
    );

    // It comes back and learns what it missed.
    nodes[lost].heal();
    assert_eq!(groups[lost].wait_for(epoch, PATIENCE).await.unwrap(), asking.document());

    // All of them restart from their disks.
    let before = asking.document();
    drop(groups);
    for node in &nodes {
        node.stop().await;
    }
    let mut groups = Vec::new();
    for node in &nodes {
        groups.push(node.start().await);
    }
    assert!(groups.iter().all(|group| group.document() == before));
    let epoch = groups[0].propose(weight(&groups[0], 250)).await.unwrap();
    assert_eq!(epoch, before.epoch + 1);

    // A fourth learns, a fifth makes five voters.
    let fourth = Node::new(&wires, 4);
    groups.push(enter(&fourth, &nodes[1]).await);
    until("the fourth learns", || {
        groups[3].status().learners.contains(&groups[3].id())
    })
    .await;
    assert_eq!(groups[3].status().voters.len(), 3);
    let fifth = Node::new(&wires, 5);
    groups.push(enter(&fifth, &fourth).await);
    until("there are five voters", || {
        groups.iter().all(|group| group.status().voters.len() == 5)
    })
    .await;
    for node in nodes.iter().chain([&fourth, &fifth]) {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_can_leave_for_good() {
    let wires = Arc::default();
    let (nodes, groups) = ring(&wires, 4).await;
    let leaves = leader(&groups).unwrap();
    let id = groups[leaves].id();
    groups[leaves].propose(Command::Drain { id }).await.unwrap();
    groups[leaves]
        .propose(Command::Remove {
            id,
            force: false,
            lost_ms: None,
        })
        .await
        .unwrap();
    let others: Vec<&Group> = groups.iter().filter(|group| group.id() != id).collect();
    until("the others are the group", || {
        others.iter().all(|group| {
            let status = group.status();
            status.voters.len() == 3 && !status.voters.contains(&id) && !status.learners.contains(&id)
        })
    })
    .await;
    nodes[leaves].stop().await;
    let epoch = others[0].propose(weight(others[1], 70)).await.unwrap();
    assert_eq!(
        others[2]
            .wait_for(epoch, PATIENCE)
            .await
            .unwrap()
            .member(id)
            .unwrap()
            .state,
        State::Gone
    );
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_changes_and_the_document_stays_at_hand() {
    let wires = Arc::default();
    let (nodes, groups) = ring(&wires, 3).await;
    let document = groups[0].document();
    nodes[1].cut();
    nodes[2].cut();
    let started = now();
    let error = groups[0].propose(weight(&groups[0], 10)).await.unwrap_err();
    assert!(matches!(error, ProposeError::NotAgreed { .. }), "{error}");
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(groups[0].document(), document);
    nodes[1].heal();
    // What was not agreed on then may be now, so a second one tells them apart.
    let epoch = groups[0].propose(weight(&groups[0], 20)).await.unwrap();
    assert_eq!(
        groups[1]
            .wait_for(epoch, PATIENCE)
            .await
            .unwrap()
            .member(groups[0].id())
            .unwrap()
            .weight,
        20
    );
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_can_be_told_to_go_on_without_the_lost_ones() {
    let wires = Arc::default();
    let (nodes, groups) = ring(&wires, 4).await;
    let voters = groups[0].status().voters;
    let learner = groups.iter().position(|group| !voters.contains(&group.id())).unwrap();
    let (lost, kept): (Vec<usize>, Vec<usize>) = {
        let mut voting = (0..4).filter(|index| *index != learner);
        let kept = voting.next().unwrap();
        (voting.collect(), vec![kept, learner])
    };
    let lost_ids: Vec<MemberId> = lost.iter().map(|&index| groups[index].id()).collect();
    let mut groups: Vec<Option<Group>> = groups.into_iter().map(Some).collect();
    for &index in lost.iter().chain([&kept[0]]) {
        groups[index] = None;
        nodes[index].stop().await;
    }
    let deadline = now() + PATIENCE;
    while let Err(error) = Group::recover(nodes[kept[0]].dir.path(), &TestSpawn).await {
        assert!(now() < deadline, "{error}");
        tokio::time::sleep(PAUSE_FIRST).await;
    }
    let survivor = nodes[kept[0]].start().await;
    for id in lost_ids {
        survivor
            .propose(Command::Remove {
                id,
                force: true,
                lost_ms: None,
            })
            .await
            .unwrap();
    }
    let epoch = survivor.propose(weight(&survivor, 33)).await.unwrap();
    let follower = groups[kept[1]].take().unwrap();
    assert_eq!(follower.wait_for(epoch, PATIENCE).await.unwrap(), survivor.document());
    until("the lost ones are forgotten", || {
        survivor.status().voters.len() + survivor.status().learners.len() == 2
    })
    .await;
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_learns_by_snapshot_what_the_log_no_longer_holds() {
    let wires = Arc::default();
    let (mut nodes, mut groups) = ring(&wires, 1).await;
    let limits = Limits {
        active_series_max: Some(7),
        ..Limits::default()
    };
    let changes = (0..40).map(|number| Command::SetTenant {
        tenant: format!("{number}{}", "x".repeat(100)),
        limits,
    });
    let results = futures::future::join_all(changes.map(|change| groups[0].propose(change))).await;
    assert!(results.iter().all(Result::is_ok));
    let raft = &groups[0].inner.raft;
    let applied = raft.metrics().borrow().last_applied.unwrap();
    raft.trigger().snapshot().await.unwrap();
    until("there is a snapshot", || {
        raft.metrics()
            .borrow()
            .snapshot
            .is_some_and(|at| at.index >= applied.index)
    })
    .await;
    raft.trigger().purge_log(applied.index).await.unwrap();
    until("the log is cut", || {
        raft.metrics()
            .borrow()
            .purged
            .is_some_and(|at| at.index >= applied.index)
    })
    .await;
    let node = Node::new(&wires, 2);
    groups.push(enter(&node, &nodes[0]).await);
    assert_eq!(groups[1].document().tenants.len(), 40);
    nodes.push(node);
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn messages_for_others_and_nonsense_are_refused() {
    let wires = Arc::default();
    let (nodes, groups) = ring(&wires, 1).await;
    let group = &groups[0];
    let vote = openraft::Vote::new_committed(900, MemberId::new(9).unwrap());
    let append = || {
        Request::Append(AppendEntriesRequest {
            vote,
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        })
    };
    let before = group.status();
    for to in [None, MemberId::new(9)] {
        let request = encode(&Envelope { to, request: append() }).unwrap();
        assert!(
            matches!(group.answer(&request).await, Err(PeerError::Refused(_))),
            "to {to:?}"
        );
    }
    let piece = InstallSnapshotRequest {
        vote,
        meta: openraft::SnapshotMeta::default(),
        offset: u64::MAX - 3,
        data: vec![1, 2, 3, 4],
        done: false,
    };
    let request = encode(&Envelope {
        to: Some(group.id()),
        request: Request::Snapshot(piece),
    })
    .unwrap();
    let refused = group.answer(&request).await.unwrap_err();
    assert!(refused.to_string().contains("larger than any document"), "{refused}");
    for nonsense in [&b""[..], b"{}", b"{\"to\":1}", b"\xff\x00", &[b'['; 100_000]] {
        assert!(matches!(group.answer(nonsense).await, Err(PeerError::Refused(_))));
    }
    assert_eq!(group.status(), before, "a stranger's term means nothing");
    nodes[0].stop().await;
}

#[tokio::test]
async fn a_stranger_finds_the_document_and_the_leader() {
    let wires = Arc::default();
    let (nodes, groups) = ring(&wires, 1).await;
    let ask = async |request| {
        let request = encode(&Envelope { to: None, request }).unwrap();
        decode::<Answer>(&groups[0].answer(&request).await.unwrap()).unwrap()
    };
    let Answer::Document(Some(document)) = ask(Request::Document { newer_than: 0 }).await else {
        panic!("no document")
    };
    assert_eq!(document, *groups[0].document());
    assert!(matches!(
        ask(Request::Document {
            newer_than: document.epoch
        })
        .await,
        Answer::Document(None)
    ));
    let misfit = Command::SetReplicationFactor {
        replication_factor: 9,
        at_ms: 0,
    };
    assert!(matches!(ask(Request::Propose(misfit)).await, Answer::Proposed(Err(_))));
    nodes[0].stop().await;
}

/// `cargo test --release -p cluster group_costs -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, for release builds"]
async fn group_costs() {
    let wires = Arc::default();
    let (nodes, groups) = ring(&wires, 3).await;
    let leads = leader(&groups).unwrap();
    let started = now();
    for number in 0..200 {
        groups[leads]
            .propose(weight(&groups[0], 1 + number % 900))
            .await
            .unwrap();
    }
    println!("a change, one after the other: {:?}", started.elapsed() / 200);
    let started = now();
    let changes = (0..200).map(|number| groups[leads].propose(weight(&groups[0], 1 + number % 900)));
    assert!(futures::future::join_all(changes).await.iter().all(Result::is_ok));
    println!("200 changes at once: {:?}", started.elapsed());
    let other = (leads + 1) % 3;
    let started = now();
    nodes[leads].cut();
    groups[other].propose(weight(&groups[other], 901)).await.unwrap();
    println!("a change after the leader was lost: {:?}", started.elapsed());
    let id = groups[other].id();
    drop(groups);
    for node in &nodes {
        node.stop().await;
        node.heal();
    }
    let started = now();
    let group = nodes[other].start().await;
    println!("open: {:?}", started.elapsed());
    assert_eq!(group.id(), id);
    nodes[other].stop().await;
}
