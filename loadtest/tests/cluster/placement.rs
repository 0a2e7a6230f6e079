//! Where series lie in a ring of real processes: evenly, and a newcomer takes its share and no more.

use crate::ring::{Cluster, Load, write_again};
use loadtest::process::Server;

const SERIES: usize = 20_000;

/// Series in the head of each node.
fn series(cluster: &Cluster) -> anyhow::Result<Vec<f64>> {
    let running = cluster.nodes.iter().filter_map(|node| node.server.as_ref());
    running.map(in_head).collect()
}

fn in_head(server: &Server) -> anyhow::Result<f64> {
    let text = server.api().get("/metrics")?.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("narthex_ingest_series "));
    Ok(line.unwrap_or_default().trim().parse()?)
}

fn imbalance(series: &[f64]) -> f64 {
    let mean = series.iter().sum::<f64>() / series.len() as f64;
    series.iter().fold(0.0, |most: f64, one| most.max((one - mean).abs())) / mean
}

#[test]
fn a_newcomer_takes_its_share_and_no_more() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3, 1)?;
    let load = Load {
        series: SERIES,
        batch: 1_000,
        ..Load::default()
    };
    write_again(&cluster, &load, 2, 1)?;
    let before = series(&cluster)?;
    cluster.join(1)?;
    cluster.wait_active(4)?;
    // Another run has other series, and lies on all four.
    write_again(&cluster, &load, 2, 1)?;
    let all = series(&cluster)?;
    let fresh: Vec<f64> = (0..4)
        .map(|node| all[node] - before.get(node).copied().unwrap_or_default())
        .collect();
    let moved = fresh[3] / SERIES as f64;
    println!(
        "{SERIES} series: on three nodes {before:?}, off by up to {:.1} %; on four {fresh:?}, off by up to {:.1} %, the newcomer has {:.1} %",
        imbalance(&before) * 100.0,
        imbalance(&fresh) * 100.0,
        moved * 100.0
    );
    // What moves at a join is what the newcomer gets: the placement's own test holds that nothing else does.
    assert!(moved <= 1.0 / 4.0 + 0.05, "{moved}");
    assert!(imbalance(&before) <= 0.1 && imbalance(&fresh) <= 0.1);
    Ok(())
}
