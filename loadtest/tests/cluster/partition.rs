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

#[test]
fn who_cannot_reach_a_quorum_acknowledges_nothing() -> anyhow::Result<()> {
    let wires = Wires::default();
    let mut cluster = Cluster::start_over(Some(wires.clone()), 3, 3)?;
    let load = Load {
        retries: 3,
        rate: 10_000.0,
        ..Load::default()
    };
    let written = under_load(&mut cluster, &load, |cluster, progress| {
        progress.wait(SAMPLES)?;
        // One is cut off from two.
        cluster.balancer.set(cluster.nodes[0].http(), false);
        wires.cut(0, 1);
        wires.cut(0, 2);
        for _ in 0..3 {
            assert!(!acknowledges(cluster, 0), "acknowledged by one node of three");
        }
        progress.wait(SAMPLES)?;
        wires.mend();
        let healed = until_all_acknowledge(cluster)?;
        println!("one cut off from two: whole again after {healed:?}");
        assert!(healed < HEALING_MAX);
        cluster.balancer.set(cluster.nodes[0].http(), true);
        progress.wait(SAMPLES)
    })?;
    let outcome = &written.outcome;
    println!(
        "{} samples, p99 {} ms, failed attempts {:?}",
        outcome.samples, outcome.ack_ms.p99, outcome.errors
    );
    let findings = cluster.verify(&written.ledger, 2)?;
    println!("{findings}");
    assert!(findings.is_clean(), "{findings}\n{}", cluster.logs());

    // Everyone alone: nobody acknowledges anything.
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        wires.cut(one, other);
    }
    for number in 0..3 {
        assert!(!acknowledges(&cluster, number), "node {number} acknowledged alone");
    }
    wires.mend();
    let healed = until_all_acknowledge(&cluster)?;
    println!("all cut off from each other: whole again after {healed:?}");
    assert!(healed < HEALING_MAX);
    Ok(())
}
