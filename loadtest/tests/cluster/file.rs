//! Rings from a file in Thanos's schema, in real processes: nodes with different versions of the file lose nothing and send nothing round
//! in circles, and a changed file is followed.

use crate::{
    balancer::Balancer,
    ring::{Cluster, Load, Node, grpc_of, under_load},
};
use loadtest::process::Launch;
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

const COPIES: usize = 3;

/// A ring file that names the first `count` nodes.
fn write_file(path: &Path, nodes: &[String], count: usize) -> anyhow::Result<()> {
    let file = serde_json::json!([{"hashring": "all", "algorithm": "ketama", "endpoints": nodes[..count]}]);
    Ok(std::fs::write(path, file.to_string())?)
}

/// Four nodes, each with a file of its own.
fn start() -> anyhow::Result<(Cluster, Vec<String>)> {
    let dir = tempfile::tempdir()?;
    let mut launches = Vec::new();
    for number in 0..4 {
        let home = dir.path().join(format!("node{number}"));
        std::fs::create_dir(&home)?;
        let file = home.join("ring.json");
        let mut launch = Launch::narthex(&home)?
            .with(&format!("--ring.file={}", file.display()))
            .with(&format!("--cluster.replication-factor={COPIES}"));
        launch.arguments.insert(0, "receive".to_owned());
        launches.push((launch, file));
    }
    let addresses: Vec<String> = launches
        .iter()
        .map(|(launch, _)| grpc_of(launch))
        .collect::<anyhow::Result<_>>()?;
    let balancer = Balancer::start(Vec::new())?;
    let mut nodes = Vec::new();
    for (number, (launch, file)) in launches.into_iter().enumerate() {
        // The first two know nothing of the fourth yet.
        write_file(&file, &addresses, if number < 2 { 3 } else { 4 })?;
        let mut node = Node {
            grpc: addresses[number].clone(),
            launch,
            server: None,
        };
        node.start()?;
        balancer.add(node.http());
        nodes.push(node);
    }
    let cluster = Cluster {
        dir,
        nodes,
        balancer,
        wires: None,
    };
    Ok((cluster, addresses))
}

/// The value of a metric on each node.
fn metric(cluster: &Cluster, name: &str) -> anyhow::Result<Vec<f64>> {
    let running = cluster.nodes.iter().filter_map(|node| node.server.as_ref());
    let value = |text: String| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
    };
    running
        .map(|server| Ok(value(server.api().get("/metrics")?.text()).unwrap_or_default()))
        .collect()
}

fn two_versions(length: Duration, load: &Load) -> anyhow::Result<()> {
    let (mut cluster, addresses) = start()?;
    let written = under_load(&mut cluster, load, |cluster, progress| {
        progress.wait(5_000)?;
        thread::sleep(length);
        let hashes = metric(cluster, "narthex_ring_file_hash ")?;
        anyhow::ensure!(
            hashes[0] == hashes[1] && hashes[2] == hashes[3] && hashes[0] != hashes[2],
            "{hashes:?}"
        );
        // A file that cannot work changes nothing; a good one is followed.
        let file = |number: usize| cluster.dir.path().join(format!("node{number}/ring.json"));
        std::fs::write(file(0), r#"[{"endpoints": ["a:1"], "algorithm": "ketama"}]"#)?;
        thread::sleep(Duration::from_secs(3));
        progress.wait(5_000)?;
        for number in 0..2 {
            write_file(&file(number), &addresses, 4)?;
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while metric(cluster, "narthex_ring_file_hash ")?
            .iter()
            .any(|hash| *hash != hashes[2])
        {
            anyhow::ensure!(
                Instant::now() < deadline,
                "the file is not followed\n{}",
                cluster.logs()
            );
            thread::sleep(Duration::from_millis(100));
        }
        progress.wait(5_000)
    })?;
    let stored: f64 = metric(&cluster, "narthex_ingest_samples_written_total ")?.iter().sum();
    let copies = stored / written.outcome.samples as f64;
    let story = format!("two versions of a ring for {length:?}, {copies:.2} copies each");
    cluster.check(&story, &written, 2)?;
    // What is forwarded twice would be stored more often than there are copies; substitutes of slow nodes are some more.
    assert!(copies <= COPIES as f64 + 0.5, "{copies}");
    Ok(())
}

#[test]
fn two_versions_of_a_ring_lose_nothing() -> anyhow::Result<()> {
    two_versions(
        Duration::from_secs(4),
        &Load {
            rate: 10_000.0,
            retries: 2,
            ..Load::default()
        },
    )
}

#[test]
#[ignore = "takes more than a minute; make cluster runs it"]
fn two_versions_of_a_ring_for_a_minute_lose_nothing() -> anyhow::Result<()> {
    two_versions(
        Duration::from_secs(60),
        &Load {
            rate: 30_000.0,
            retries: 2,
            ..Load::default()
        },
    )
}
