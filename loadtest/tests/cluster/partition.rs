//! The network falls apart. Whoever cannot reach a quorum acknowledges nothing; the rest goes on; when it is whole again, so are writes.

use crate::{
    ring::{Cluster, Load, PATIENCE, under_load},
    wires::Wires,
};
use loadtest::clock::now_ms;
use std::{
    thread,
    time::{Duration, Instant},
};

const SAMPLES: u64 = 10_000;

/// After the network is whole again, every node must take writes within so long.
const HEALING_MAX: Duration = Duration::from_secs(30);

/// Sends one sample to a node itself, past the balancer; whether it is acknowledged.
fn acknowledges(cluster: &Cluster, number: usize) -> bool {
    let server = cluster.nodes[number].server.as_ref().expect("the node runs");
    let answer = server.probe().push_one("partition_probe", now_ms(), 1.0);
    answer.is_ok_and(|answer| answer.status == 204)
}

fn until_all_acknowledge(cluster: &Cluster) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    while !(0..3).all(|number| acknowledges(cluster, number)) {
        anyhow::ensure!(
            begun.elapsed() < PATIENCE,
            "writes do not come back\n{}",
            cluster.logs()
        );
        thread::sleep(Duration::from_millis(100));
    }
    Ok(begun.elapsed())
}

/// A network that falls apart again and again: each time one is cut off from two, then everyone from everyone.
fn partitions(rounds: usize, load: &Load) -> anyhow::Result<()> {
    let wires = Wires::default();
    let mut cluster = Cluster::start_over(Some(wires.clone()), 3, 3)?;
    let written = under_load(&mut cluster, load, |cluster, progress| {
        for round in 0..rounds {
            progress.wait(SAMPLES)?;
            one_cut_off(cluster, &wires, round % 3, || progress.wait(SAMPLES))?;
        }
        progress.wait(SAMPLES)
    })?;
    let outcome = &written.outcome;
    println!(
        "{rounds} times one cut off from two: {} samples, p99 {} ms, failed attempts {:?}",
        outcome.samples, outcome.ack_ms.p99, outcome.errors
    );
    let findings = cluster.verify(&written.ledger, 2)?;
    println!("{findings}");
    assert!(findings.is_clean(), "{findings}\n{}", cluster.logs());
    for _ in 0..rounds {
        all_cut_off(&cluster, &wires)?;
    }
    Ok(())
}

/// Cuts a node off from both others, while writes go on through those.
fn one_cut_off(
    cluster: &Cluster,
    wires: &Wires,
    alone: usize,
    meanwhile: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let others = [(alone + 1) % 3, (alone + 2) % 3];
    cluster.balancer.evict(cluster.nodes[alone].http());
    others.iter().for_each(|other| wires.cut(alone, *other));
    for _ in 0..3 {
        assert!(!acknowledges(cluster, alone), "acknowledged by one node of three");
    }
    meanwhile()?;
    wires.mend();
    let healed = until_all_acknowledge(cluster)?;
    println!("node {alone} cut off from two: whole again after {healed:?}");
    assert!(healed < HEALING_MAX);
    cluster.balancer.set(cluster.nodes[alone].http(), true);
    Ok(())
}

/// Everyone alone: nobody acknowledges anything.
fn all_cut_off(cluster: &Cluster, wires: &Wires) -> anyhow::Result<()> {
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        wires.cut(one, other);
    }
    for number in 0..3 {
        assert!(!acknowledges(cluster, number), "node {number} acknowledged alone");
    }
    wires.mend();
    let healed = until_all_acknowledge(cluster)?;
    println!("all cut off from each other: whole again after {healed:?}");
    assert!(healed < HEALING_MAX);
    Ok(())
}

#[test]
fn who_cannot_reach_a_quorum_acknowledges_nothing() -> anyhow::Result<()> {
    partitions(
        1,
        &Load {
            retries: 3,
            rate: 10_000.0,
            ..Load::default()
        },
    )
}

#[test]
#[ignore = "takes some minutes; make cluster runs it"]
fn ten_partitions_acknowledge_nothing_without_a_quorum() -> anyhow::Result<()> {
    partitions(
        10,
        &Load {
            retries: 3,
            ..Load::full()
        },
    )
}
