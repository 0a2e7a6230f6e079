//! What three copies of a sample cost: processor time over all nodes, and bytes between them.

use crate::ring::Cluster;
use loadtest::{
    clock::now_ms,
    http::Url,
    outcome::Outcome,
    population::Population,
    process::Server,
    write::{Plan, write},
};
use std::sync::atomic::AtomicBool;

/// Promised for each million samples, summed over the nodes.
const CPU_SECONDS_MAX: f64 = 1.2;

/// Promised for each sample and copy on another node.
const BYTES_MAX: f64 = 10.0;

fn cpu(cluster: &Cluster) -> anyhow::Result<f64> {
    let running = cluster.nodes.iter().filter_map(|node| node.server.as_ref());
    running.map(|server| Ok(server.usage()?.cpu())).sum()
}

/// The sum of a counter over its labels.
fn counter(server: &Server, name: &str) -> anyhow::Result<f64> {
    let text = server.api().get("/metrics")?.text();
    let lines = text.lines().filter(|line| line.starts_with(name));
    Ok(lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum())
}

fn sum(cluster: &Cluster, name: &str) -> anyhow::Result<f64> {
    let running = cluster.nodes.iter().filter_map(|node| node.server.as_ref());
    running.map(|server| counter(server, name)).sum()
}

/// Sends so many scrapes of what agents send, one sample of each series per request, as fast as it is taken.
fn send(cluster: &Cluster, start: i64, scrapes: u64) -> anyhow::Result<Outcome> {
    let url = Url::parse(&format!("http://{}/api/v1/write", cluster.balancer.address))?;
    let plan = Plan {
        scrapes,
        start,
        step: STEP,
        batch: 2_000,
        connections: 6,
        ..Plan::new(url, now_ms())
    };
    let population = Population::new(50_000, Vec::new());
    write(&plan, &population, &(), &AtomicBool::new(false), &|_| ())
}

const STEP: i64 = 15_000;

#[test]
#[ignore = "a measurement, of the release binary on an idle machine; make cluster runs it"]
fn three_copies_cost_less_than_one_elsewhere() -> anyhow::Result<()> {
    let cluster = Cluster::start(3, 3)?;
    let start = now_ms() - 110 * STEP;
    // The first scrapes register the series and are not counted.
    send(&cluster, start, 3)?;
    let (before, bytes_before) = (cpu(&cluster)?, sum(&cluster, "narthex_receiver_peer_sent_bytes_total")?);
    let samples_before = sum(&cluster, "narthex_receiver_peer_sent_samples_total")?;
    let outcome = send(&cluster, start + 3 * STEP, 100)?;
    anyhow::ensure!((outcome.refused, outcome.unknown) == (0, 0), "{:?}", outcome.errors);
    let samples = outcome.samples;
    let seconds = (cpu(&cluster)? - before) / (samples as f64 / 1e6);
    let sent = sum(&cluster, "narthex_receiver_peer_sent_samples_total")? - samples_before;
    let bytes = (sum(&cluster, "narthex_receiver_peer_sent_bytes_total")? - bytes_before) / sent;
    println!(
        "{samples} samples in three copies: {seconds:.3} CPU-seconds per million over all nodes, {bytes:.2} bytes per sample and copy sent, p99 {} ms",
        outcome.ack_ms.p99
    );
    assert!(bytes <= BYTES_MAX);
    assert!(seconds <= CPU_SECONDS_MAX);
    Ok(())
}
