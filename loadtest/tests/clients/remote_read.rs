//! Prometheus servers that keep nothing themselves and read everything from here.

use crate::Fleet;
use anyhow::{Context, ensure};
use loadtest::{
    api::Answer,
    process::{Launch, PROMETHEUS, installed},
};
use std::path::PathBuf;

/// The name of the variable for a folder with newer peers, one unpacked package each.
const PEERS: &str = "NARTHEX_PEERS";

/// Debian's Prometheus, and the newer one that the operator of the tests may have unpacked.
fn prometheus_binaries() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if installed("remote read by a Prometheus", &[PROMETHEUS]) {
        found.push(PathBuf::from(PROMETHEUS));
    }
    let Some(peers) = std::env::var_os(PEERS).map(PathBuf::from) else {
        eprintln!("\n*** SKIPPED: remote read by a newer Prometheus: {PEERS} names no folder ***\n");
        return found;
    };
    let folders = std::fs::read_dir(&peers).into_iter().flatten().flatten();
    found.extend(
        folders
            .filter(|folder| folder.file_name().to_string_lossy().starts_with("prometheus_"))
            .map(|folder| folder.path().join("usr/bin/prometheus"))
            .filter(|binary| binary.is_file()),
    );
    found
}

/// Labels that our server adds, and that the reader takes as its own and hides.
const REGION: &str = "--label=region=eu";

#[test]
fn prometheus_answers_from_what_it_reads_here() -> anyhow::Result<()> {
    let binaries = prometheus_binaries();
    if binaries.is_empty() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let ours = dir.path().join("narthex");
    std::fs::create_dir(&ours)?;
    let fleet = Fleet::start(&ours, &[REGION])?;
    for (index, binary) in binaries.into_iter().enumerate() {
        let place = dir.path().join(format!("prometheus-{index}"));
        std::fs::create_dir(&place)?;
        let shown = binary.display().to_string();
        read_by(&fleet, binary, &place).with_context(|| format!("read by {shown}"))?;
    }
    let metrics = fleet.server.api().get("/metrics")?.text();
    let served = "narthex_querier_requests_total{handler=\"/api/v1/read\",code=\"200\"}";
    assert!(metrics.contains(served), "nothing was read:\n{metrics}");
    Ok(())
}

fn read_by(fleet: &Fleet, binary: PathBuf, place: &std::path::Path) -> anyhow::Result<()> {
    let configuration = format!(
        "global:\n  external_labels: {{region: eu}}\nremote_read:\n  - url: http://{}/api/v1/read\n    read_recent: true\n",
        fleet.server.launch().url.authority
    );
    let mut launch = Launch::prometheus(place, &configuration)?;
    launch.binary = binary;
    let prometheus = launch.start()?;
    let (mut theirs, mut ours) = (prometheus.api(), fleet.server.api());
    let (start, end) = (fleet.newest - 300_000, fleet.newest);
    let build = theirs.get("/api/v1/status/buildinfo")?.text();
    // Older ones ask for samples only, and look at floats only; newer ones ask for streamed chunks.
    let takes_histograms = build.contains("\"version\":\"3.");
    for query in [
        "up",
        "http_requests_total{code=~\"2..\"}",
        "sum by (job) (rate(http_requests_total[2m]))",
        "{__name__=~\".+\", job!=\"api\", instance=\"a:1\"}",
        "histogram_quantile(0.9, latency_seconds)",
        "histogram_count(latency_seconds)",
        "nothing_like_this",
    ] {
        if query.contains("latency") && !takes_histograms {
            continue;
        }
        let read = theirs.range(query, start, end, 15_000)?;
        let direct = ours.range(query, start, end, 15_000)?;
        ensure!(
            without_region(&read) == without_region(&direct),
            "{query}:\nread: {read:?}\ndirect: {direct:?}"
        );
        let empty = query == "nothing_like_this";
        ensure!(read.series.is_empty() == empty, "{query}: {read:?}");
        ensure!(
            read.series.iter().all(|series| !series.labels.contains_key("region")),
            "the reader's own label was not taken for its own: {read:?}"
        );
    }
    Ok(())
}

/// Series by labels without the one that only one side shows.
fn without_region(answer: &Answer) -> Vec<String> {
    let mut all: Vec<String> = answer
        .series
        .iter()
        .map(|series| {
            let mut labels = series.labels.clone();
            labels.remove("region");
            // Versions add up in different orders, so the last digits differ.
            let samples: Vec<String> = series
                .samples
                .iter()
                .map(|(at, value)| format!("{at} {value:.9e}"))
                .collect();
            format!("{labels:?} {samples:?} {:?}", series.histograms)
        })
        .collect();
    all.sort();
    all
}
