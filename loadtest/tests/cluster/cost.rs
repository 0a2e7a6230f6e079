//! What three copies of a sample cost: processor time over all nodes, and bytes between them.

use crate::ring::{Cluster, Load, write_again};
use loadtest::process::Server;

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

#[test]
#[ignore = "a measurement, of the release binary on an idle machine; make cluster runs it"]
fn three_copies_cost_less_than_one_elsewhere() -> anyhow::Result<()> {
    let cluster = Cluster::start(3, 3)?;
    let load = Load {
        series: 50_000,
        batch: 2_000,
        ..Load::default()
    };
    // The first scrapes register the series and are not counted.
    write_again(&cluster, &load, 3, 1)?;
    let (before, bytes_before) = (cpu(&cluster)?, sum(&cluster, "narthex_receiver_peer_sent_bytes_total")?);
    let samples_before = sum(&cluster, "narthex_receiver_peer_sent_samples_total")?;
    let written = write_again(&cluster, &load, 100, 1)?;
    let samples: u64 = written.iter().map(|written| written.outcome.samples).sum();
    let seconds = (cpu(&cluster)? - before) / (samples as f64 / 1e6);
    let sent = sum(&cluster, "narthex_receiver_peer_sent_samples_total")? - samples_before;
    let bytes = (sum(&cluster, "narthex_receiver_peer_sent_bytes_total")? - bytes_before) / sent;
    println!(
        "{samples} samples in three copies: {seconds:.3} CPU-seconds per million over all nodes, {bytes:.2} bytes per sample and copy sent"
    );
    assert!(bytes <= BYTES_MAX);
    assert!(seconds <= CPU_SECONDS_MAX);
    Ok(())
}
