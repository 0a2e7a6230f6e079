//! A rolling restart is uneventful, and a ring with a dead member answers whole.

use crate::ring::{Cluster, Load, under_load};
use std::time::{Duration, Instant};

const SAMPLES: u64 = 10_000;

/// SIGTERM must end a node by then; nothing is uploaded on the way out.
const STOP_MAX: Duration = Duration::from_secs(10);

fn rolling_restart(rounds: usize, load: &Load) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3, 3)?;
    let healthy = under_load(&mut cluster, load, |_, progress| progress.wait(3 * SAMPLES))?;
    let mut longest = Duration::ZERO;
    let written = under_load(&mut cluster, load, |cluster, progress| {
        for round in 0..rounds {
            progress.wait(SAMPLES)?;
            let node = &mut cluster.nodes[round % 3];
            cluster.balancer.set(node.http(), false);
            if let Some(server) = node.server.take() {
                let begun = Instant::now();
                server.terminate(STOP_MAX)?;
                longest = longest.max(begun.elapsed());
            }
            cluster.restart(round % 3)?;
        }
        progress.wait(SAMPLES)
    })?;
    let healthy = healthy.outcome.ack_ms.p99;
    let story =
        format!("{rounds} nodes restarted one after the other (healthy p99 {healthy} ms, longest stop {longest:?})");
    cluster.check(&story, &written, 2)?;
    Ok(())
}

#[test]
fn a_rolling_restart_is_uneventful() -> anyhow::Result<()> {
    rolling_restart(3, &Load::default())
}

#[test]
#[ignore = "takes some minutes; make cluster runs it"]
fn many_rolling_restarts_are_uneventful() -> anyhow::Result<()> {
    rolling_restart(15, &Load::full())
}

#[test]
fn a_ring_with_a_dead_member_answers_whole() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3, 3)?;
    let load = Load {
        retries: 2,
        ..Load::default()
    };
    let written = under_load(&mut cluster, &load, |cluster, progress| {
        progress.wait(SAMPLES)?;
        cluster.kill(1)?;
        progress.wait(SAMPLES)
    })?;
    // Each of the others answers for all of it, alone and at once.
    let begun = Instant::now();
    let findings = cluster.verify_whole(&written.ledger)?;
    println!("with one of three dead, read in {:?}: {findings}", begun.elapsed());
    assert!(findings.is_clean(), "{findings}\n{}", cluster.logs());
    Ok(())
}
