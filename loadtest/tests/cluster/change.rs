//! The ring changes under load: nodes join, leave, are lost and replaced; the number of copies changes. Nothing is lost or refused.

use crate::ring::{Cluster, Load, PATIENCE, under_load};
use loadtest::clock::now_ms;
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
        cluster.nodes[1].tools_ring(&["replication-factor", "3"])?;
        cluster.wait("there are three copies", |ring| ring["replication_factor"] == 3)?;
        progress.wait(SAMPLES)?;
        // One gets half of what the others get.
        let light = cluster.nodes[3].grpc.clone();
        cluster.nodes[3].tools_ring(&["weight", &light, "50"])?;
        cluster.wait("a weight has changed", |ring| {
            let members = ring["members"].as_array().map_or(&[][..], Vec::as_slice);
            members
                .iter()
                .any(|member| member["address"] == light.as_str() && member["weight"] == 50)
        })?;
        let shown = cluster.nodes[0].tools_ring(&["show"])?;
        anyhow::ensure!(shown.matches("ACTIVE").count() == 4, "{shown}");
        progress.wait(SAMPLES)?;
        // One leaves: it ships all it has and is gone, its process stops in peace.
        let leaving = cluster.nodes[2].grpc.clone();
        cluster.nodes[0].tools_ring(&["drain", &leaving])?;
        let deadline = Instant::now() + PATIENCE;
        while state_of(&cluster.nodes[0].ring()?, &leaving) != Some("GONE") {
            anyhow::ensure!(Instant::now() < deadline, "it does not leave\n{}", cluster.logs());
            thread::sleep(Duration::from_millis(100));
        }
        let gone = cluster.nodes[0].tools_ring(&["show", "--json"])?;
        anyhow::ensure!(
            state_of(&serde_json::from_str(&gone)?, &leaving) == Some("GONE"),
            "{gone}"
        );
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
        cluster.nodes[0].tools_ring(&["remove", &lost, "--force"])?;
        cluster.wait_active(3)?;
        progress.wait(SAMPLES)
    })?;
    cluster.check("kill and replace", &written, 1)?;
    Ok(())
}

#[test]
fn who_had_one_copy_is_missed_after_there_are_three() -> anyhow::Result<()> {
    let warnings = |cluster: &Cluster| -> anyhow::Result<Vec<String>> {
        let server = cluster.nodes[0].server.as_ref().expect("it runs");
        let answer = server.api().instant("count({__name__=~\".+\"})", now_ms())?;
        Ok(answer.warnings)
    };
    // With three copies from the beginning one member may be away.
    let mut whole = Cluster::start(3, 3)?;
    whole.kill(2)?;
    assert_eq!(warnings(&whole)?, Vec::<String>::new());
    drop(whole);
    let mut raised = Cluster::start(3, 1)?;
    raised.nodes[1].tools_ring(&["replication-factor", "3"])?;
    raised.wait("there are three copies", |ring| ring["replication_factor"] == 3)?;
    assert_eq!(warnings(&raised)?, Vec::<String>::new());
    let shown = raised.nodes[0].tools_ring(&["show"])?;
    anyhow::ensure!(shown.contains("have fewer copies"), "{shown}");
    raised.kill(2)?;
    let told = warnings(&raised)?;
    let address = &raised.nodes[2].grpc;
    anyhow::ensure!(
        told.iter().any(|warning| warning.contains(address.as_str())),
        "{told:?}"
    );
    Ok(())
}
