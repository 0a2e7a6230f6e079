//! Nodes hang: a stopped process keeps its connections and says nothing. Writes go on beside it, and it comes back as if nothing was.

use crate::ring::{Cluster, Load, under_load};
use rustix::process::{Pid, Signal, kill_process};
use std::{thread, time::Duration};

const SAMPLES: u64 = 20_000;

fn one_stopped(length: Duration, load: &Load) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3, 3)?;
    let healthy = under_load(&mut cluster, load, |_, progress| progress.wait(3 * SAMPLES))?;
    let written = under_load(&mut cluster, load, |cluster, progress| {
        progress.wait(SAMPLES)?;
        let stopped = &cluster.nodes[1];
        let pid = stopped
            .server
            .as_ref()
            .and_then(|server| Pid::from_raw(server.pid() as i32));
        let pid = pid.ok_or_else(|| anyhow::anyhow!("the node runs"))?;
        // A balancer notices after a moment; connections through the stopped node hang until then.
        kill_process(pid, Signal::STOP)?;
        cluster.balancer.set(stopped.http(), false);
        thread::sleep(length);
        let waited = progress.wait(SAMPLES);
        kill_process(pid, Signal::CONT)?;
        waited?;
        cluster.balancer.set(cluster.nodes[1].http(), true);
        progress.wait(SAMPLES)?;
        cluster.wait("the stopped node is reached again", |ring| {
            let members = ring["members"].as_array().map_or(&[][..], Vec::as_slice);
            members.iter().all(|member| member["reachable"] == true)
        })
    })?;
    let outcome = &written.outcome;
    println!(
        "one of three stopped for {length:?}: {} samples, p99 {} ms (healthy {} ms), longest {} ms, failed attempts {:?}",
        outcome.samples, outcome.ack_ms.p99, healthy.outcome.ack_ms.p99, outcome.ack_ms.max, outcome.errors
    );
    assert_eq!(
        (outcome.refused, outcome.unknown),
        (0, 0),
        "{:?}\n{}",
        outcome.first_refusal,
        cluster.logs()
    );
    let findings = cluster.verify(&written.ledger, 2)?;
    println!("{findings}");
    assert!(findings.is_clean(), "{findings}\n{}", cluster.logs());
    Ok(())
}

#[test]
fn a_stopped_node_holds_nobody_up() -> anyhow::Result<()> {
    one_stopped(
        Duration::from_secs(5),
        &Load {
            retries: 3,
            ..Load::default()
        },
    )
}

#[test]
#[ignore = "takes a minute; make cluster runs it"]
fn a_node_stopped_for_half_a_minute_holds_nobody_up() -> anyhow::Result<()> {
    one_stopped(
        Duration::from_secs(30),
        &Load {
            rate: 50_000.0,
            retries: 3,
            ..Load::default()
        },
    )
}
