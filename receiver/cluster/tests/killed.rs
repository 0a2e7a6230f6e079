//! A member whose process is killed again and again remembers every change that it said was agreed on.

#[path = "../src/testing.rs"]
mod testing;

use bytes::Bytes;
use cluster::{
    document::Command,
    group::{Group, GroupEnv, GroupError, GroupSettings},
    peers::{Destination, PeerError, Peers},
};
use futures::future::BoxFuture;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use testing::{TestClock, TestRng, TestSpawn, now};

/// Tells the writer where to write.
const WRITER_DIR: &str = "NARTHEX_TEST_WRITER_DIR";

const ROUNDS: u64 = 3;

/// Changes that each round waits for.
const CHANGES: u64 = 100;

struct Nobody;

impl Peers for Nobody {
    fn send(&self, to: Destination, _request: Bytes) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        Box::pin(async move { Err(PeerError::Unreachable(to.address)) })
    }
}

async fn open(dir: &Path) -> Group {
    let env = GroupEnv {
        spawn: Arc::new(TestSpawn),
        clock: Arc::new(TestClock::new()),
        rng: Arc::new(TestRng::new(1)),
        peers: Arc::new(Nobody),
    };
    let settings = GroupSettings {
        heartbeat: Duration::from_millis(50),
        election: Duration::from_millis(150),
        ..GroupSettings::new(dir.to_owned())
    };
    let deadline = now() + Duration::from_secs(60);
    loop {
        match Group::open(settings.clone(), env.clone(), &mut Default::default()).await {
            Ok(group) => return group,
            // The other process still holds it.
            Err(GroupError::Disk(_)) if now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
#[ignore = "is the process that the other test kills"]
async fn writer() {
    let Some(dir) = std::env::var_os(WRITER_DIR) else {
        return;
    };
    let group = open(Path::new(&dir)).await;
    if group.document().epoch == 0 {
        group.found("a:1", "", 100, 1).await.unwrap();
    }
    for number in 0..1_000_000 {
        let weight = 1 + (number + group.document().epoch as u32) % 999;
        let epoch = group
            .propose(Command::SetWeight { id: group.id(), weight })
            .await
            .unwrap();
        println!("agreed on {epoch} with {weight}");
    }
}

// The test waits for lines of the other process with its thread; what is left of a group must be able to end meanwhile, and let go of the
// folder.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_agreed_on_survives_a_killed_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut agreed = (0, 0);
    for round in 1..=ROUNDS {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--ignored", "--nocapture"])
            .env(WRITER_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some((epoch, weight)) = line
                .strip_prefix("agreed on ")
                .and_then(|rest| rest.split_once(" with "))
            else {
                continue;
            };
            agreed = (epoch.parse::<u64>().unwrap(), weight.parse::<u32>().unwrap());
            if agreed.0 >= round * CHANGES {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            agreed.0 >= round * CHANGES,
            "the writer ended by itself at epoch {}",
            agreed.0
        );
        let group = open(dir.path()).await;
        let document = group.document();
        assert!(
            document.epoch >= agreed.0,
            "epoch {} was agreed on, {} is remembered",
            agreed.0,
            document.epoch
        );
        if document.epoch == agreed.0 {
            assert_eq!(document.member(group.id()).unwrap().weight, agreed.1);
        }
        group.shutdown().await;
    }
}
