//! The ring changes under load: nodes join, leave, are lost and replaced; the number of copies changes. Nothing is lost or refused.

use crate::ring::{Cluster, Load, PATIENCE, under_load};
use serde_json::json;
use std::{
    thread,
    time::{Duration, Instant},
};

const SAMPLES: u64 = 15_000;

fn state_of<'a>(ring: &'a serde_json::Value, address: &str) -> Option<&'a str> {
    let members = ring["members"].as_array()?;
    members.iter().find(|member| member["address"] == address)?["state"].as_str()
}

#[test]
fn nodes_come_and_go_under_load() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3, 2)?;
    let load = Load {
        retries: 2,
        ..Load::default()
    };
    let written = under_load(&mut cluster, &load, |cluster, progress| {
        progress.wait(SAMPLES)?;
        // Another one joins, and every series gets a copy more.
        cluster.join(2)?;
        cluster.wait_active(4)?;
        progress.wait(SAMPLES)?;
        cluster.nodes[1].change("replication-factor", &json!({"replication_factor": 3}))?;
        cluster.wait("there are three copies", |ring| ring["replication_factor"] == 3)?;
        progress.wait(SAMPLES)?;
        // One leaves: it ships all it has and is gone, its process stops in peace.
        let leaving = cluster.nodes[2].grpc.clone();
        cluster.nodes[0].change("drain", &json!({"member": leaving}))?;
        let deadline = Instant::now() + PATIENCE;
        while state_of(&cluster.nodes[0].ring()?, &leaving) != Some("GONE") {
            anyhow::ensure!(Instant::now() < deadline, "it does not leave\n{}", cluster.logs());
            thread::sleep(Duration::from_millis(100));
        }
        progress.wait(SAMPLES)?;
        cluster.balancer.set(cluster.nodes[2].http(), false);
        Ok(())
    })?;
    let drained = cluster.nodes[2].server.take();
    if let Some(server) = drained {
        server.terminate(Duration::from_secs(10))?;
    }
    cluster.check("join, three copies, drain", &written, 1)?;
    Ok(())
}

#[test]
fn a_lost_node_is_replaced_under_load() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3, 3)?;
    let load = Load {
        retries: 2,
        ..Load::default()
    };
    let written = under_load(&mut cluster, &load, |cluster, progress| {
        progress.wait(SAMPLES)?;
        let lost = cluster.nodes[2].grpc.clone();
        cluster.kill(2)?;
        progress.wait(SAMPLES)?;
        cluster.join(3)?;
        cluster.nodes[0].change("remove", &json!({"member": lost, "force": true}))?;
        cluster.wait_active(3)?;
        progress.wait(SAMPLES)
    })?;
    cluster.check("kill and replace", &written, 1)?;
    Ok(())
}
