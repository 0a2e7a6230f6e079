//! More nodes are away than a majority can spare: what is left takes writes by the last ring as long as there is a quorum of disks. When
//! they are lost for ever, `narthex tools ring recover` lets one that is left go on, and others join it.

use crate::ring::{Cluster, tools_ring};
use loadtest::{api::seconds, clock::now_ms, process::Launch};
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

fn recover(data: &Path) -> anyhow::Result<(bool, String)> {
    tools_ring(&["recover", "--data.dir", &data.display().to_string()])
}

/// Changes the ring until it is changed: a member that was just started needs a moment to lead.
fn change(launch: &Launch, arguments: &[&str]) -> anyhow::Result<()> {
    let url = format!("http://{}", launch.url.authority);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (done, said) = tools_ring(&[arguments, &["--server", &url]].concat())?;
        if done {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{arguments:?}: {said}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn push(cluster: &Cluster, number: usize, name: &str) -> anyhow::Result<u16> {
    let server = cluster.nodes[number].server.as_ref().expect("the node runs");
    Ok(server.probe().push_one(name, now_ms(), 1.0)?.status)
}

/// Waits until a node itself has a series.
fn wait_for(cluster: &Cluster, number: usize, name: &str) -> anyhow::Result<()> {
    let server = cluster.nodes[number].server.as_ref().expect("the node runs");
    let deadline = Instant::now() + Duration::from_secs(10);
    let path = format!("/api/v1/query?query={name}&time={}", seconds(now_ms()));
    while !server.api().get(&path)?.text().contains(name) {
        anyhow::ensure!(Instant::now() < deadline, "node {number} has no {name}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn the_last_of_three_goes_on_alone() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3, 3)?;
    assert_eq!(push(&cluster, 0, "before")?, 204);
    let (launch, data) = (cluster.nodes[0].launch.clone(), cluster.nodes[0].launch.data.clone());
    let (done, said) = recover(&data)?;
    assert!(!done && said.contains("does its process still run?"), "{said}");
    let (done, said) = recover(&cluster.dir.path().join("nowhere"))?;
    assert!(!done && said.contains("holds no member of a ring"), "{said}");

    let lost = [1, 2].map(|number| cluster.nodes[number].grpc.clone());
    cluster.kill(1)?;
    cluster.kill(2)?;
    assert_eq!(push(&cluster, 0, "alone")?, 503, "one disk of three is no quorum");
    cluster.kill(0)?;
    let (done, said) = recover(&data)?;
    assert!(done && said.contains("will lead alone"), "{said}");
    cluster.restart(0)?;
    assert_eq!(push(&cluster, 0, "alone")?, 503, "the ring is still one of three");
    for member in &lost {
        change(&launch, &["remove", member, "--force"])?;
    }
    change(&launch, &["replication-factor", "1"])?;
    cluster.wait_active(1)?;
    assert_eq!(push(&cluster, 0, "alone")?, 204);
    for name in ["before", "alone"] {
        wait_for(&cluster, 0, name)?;
    }

    // It grows again.
    cluster.join(1)?;
    cluster.wait_active(2)?;
    change(&launch, &["replication-factor", "2"])?;
    cluster.wait("there are two copies", |ring| ring["replication_factor"] == 2)?;
    assert_eq!(push(&cluster, 3, "after")?, 204);
    wait_for(&cluster, 0, "after")
}

#[test]
fn without_a_leader_writes_and_reads_go_on() -> anyhow::Result<()> {
    // Of two copies, one is enough.
    let mut cluster = Cluster::start(3, 2)?;
    assert_eq!(push(&cluster, 0, "before")?, 204);
    cluster.kill(1)?;
    cluster.kill(2)?;
    for name in ["alone_a", "alone_b", "alone_c"] {
        assert_eq!(push(&cluster, 0, name)?, 204, "{name}");
        wait_for(&cluster, 0, name)?;
    }
    // Nor is it forgotten when the process begins anew without anybody to ask.
    cluster.kill(0)?;
    cluster.restart(0)?;
    assert_eq!(push(&cluster, 0, "anew")?, 204);
    wait_for(&cluster, 0, "anew")?;
    for number in [1, 2] {
        cluster.restart(number)?;
    }
    cluster.wait_active(3)?;
    wait_for(&cluster, 0, "alone_b")
}
