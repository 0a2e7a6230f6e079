//! Deleting series and making a snapshot on a real server, as an operator does with curl; a Prometheus is started on the snapshot.

use crate::{Fleet, SAMPLES};
use anyhow::ensure;
use loadtest::{
    http::{Client, form},
    process::{Launch, PROMETHEUS, Server, installed},
};
use model::{matcher::MatchOp, time::TimeRange};
use proto::{
    compression::snappy,
    remote_read::{LabelMatcher, Query, ReadRequest, read_frame},
};
use std::{path::Path, time::Duration};

const DELETE: &str = "/api/v1/admin/tsdb/delete_series";
const SNAPSHOT: &str = "/api/v1/admin/tsdb/snapshot";
const SWITCH: &str = "--web.enable-admin-api";

fn client(server: &Server) -> Client {
    Client::new(&server.launch().url, &[], Duration::from_secs(60))
}

#[test]
fn without_the_switch_nothing_can_be_deleted() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let fleet = Fleet::start(dir.path(), &[])?;
    let mut client = client(&fleet.server);
    for path in [DELETE, SNAPSHOT, "/api/v1/admin/tsdb/clean_tombstones"] {
        let answer = client.post(&format!("{path}?match[]=up"), "", b"")?;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (
                500,
                r#"{"status":"error","errorType":"unavailable","error":"admin APIs disabled"}"#
            ),
            "{path}"
        );
    }
    assert_eq!(fleet.server.api().instant("up", fleet.newest)?.series.len(), 2);
    Ok(())
}

#[test]
fn what_was_deleted_is_gone_for_every_reader_and_stays_gone() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let fleet = Fleet::start(dir.path(), &[SWITCH])?;
    // All of one series, and the later half of another.
    let later = loadtest::api::seconds(fleet.newest - 300_000);
    let mut client = client(&fleet.server);
    for parameters in [
        vec![("match[]", "up{instance=\"a:1\"}")],
        vec![("match[]", "http_requests_total{code=\"500\"}"), ("start", &later)],
    ] {
        let path = format!("{DELETE}?{}", form(&parameters));
        let answer = client.post(&path, "", b"")?;
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
    seen(&fleet, &fleet.server)?;
    // After a crash as well.
    let launch = fleet.server.launch().clone();
    let newest = fleet.newest;
    fleet.server.kill()?;
    let fleet = Fleet {
        server: launch.start()?,
        newest,
    };
    seen(&fleet, &fleet.server)?;
    let cleaned = Client::new(&launch.url, &[], Duration::from_secs(60)).send(
        "PUT",
        "/api/v1/admin/tsdb/clean_tombstones",
        "",
        b"",
    )?;
    assert_eq!(cleaned.status, 204, "{}", cleaned.text());
    seen(&fleet, &fleet.server)
}

/// What is left, by PromQL and by remote read.
fn seen(fleet: &Fleet, server: &Server) -> anyhow::Result<()> {
    let mut api = server.api();
    let up = api.instant("count_over_time(up[20m])", fleet.newest)?;
    ensure!(up.series.len() == 1, "the deleted series is still there: {up:?}");
    ensure!(
        up.series[0].labels["instance"] == "b:1",
        "the wrong series is gone: {up:?}"
    );
    let requests = api.instant("count_over_time(http_requests_total[20m])", fleet.newest)?;
    let mut counts: Vec<(String, f64)> = requests
        .series
        .iter()
        .map(|series| (series.labels["code"].clone(), series.samples[0].1))
        .collect();
    counts.sort_by(|a, b| a.0.cmp(&b.0));
    let half = (SAMPLES - 21) as f64;
    ensure!(
        counts == [("200".to_owned(), SAMPLES as f64), ("500".to_owned(), half)],
        "{counts:?}"
    );
    let (instances, latest) = read_remotely(server, fleet)?;
    ensure!(instances == ["b:1"], "remote read gives deleted series: {instances:?}");
    ensure!(
        latest < fleet.newest - 300_000,
        "remote read gives deleted samples of {latest}, newest {}",
        fleet.newest
    );
    Ok(())
}

/// The instances of `up`, and the time of the last sample of the series that was deleted half, in streamed chunks.
fn read_remotely(server: &Server, fleet: &Fleet) -> anyhow::Result<(Vec<String>, i64)> {
    let query = |name: &str, value: &str, label: &str, wanted: &str| Query {
        range: TimeRange::new(fleet.newest - 1_200_000, fleet.newest),
        matchers: [(name, value), (label, wanted)]
            .into_iter()
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, value)| LabelMatcher {
                op: MatchOp::Equal,
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .collect(),
        hints: None,
    };
    let request = ReadRequest {
        queries: vec![
            query("__name__", "up", "", ""),
            query("__name__", "http_requests_total", "code", "500"),
        ],
        accepted: vec![1],
    };
    let headers = "Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n";
    let answer = client(server).post("/api/v1/read", headers, &snappy(&request.encode()))?;
    ensure!(answer.status == 200, "{}", answer.text());
    let (mut instances, mut latest) = (Vec::new(), i64::MIN);
    let mut rest = &answer.body[..];
    while let Some(frame) = read_frame(&mut rest, 1 << 20)? {
        let label = |name: &str| {
            frame
                .labels
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.clone())
        };
        match frame.query {
            0 => instances.extend(label("instance")),
            _ => latest = frame.chunks.iter().map(|chunk| chunk.max_time).fold(latest, i64::max),
        }
    }
    instances.dedup();
    Ok((instances, latest))
}

#[test]
fn a_prometheus_starts_on_a_snapshot() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let fleet = Fleet::start(dir.path(), &[SWITCH])?;
    let answer = client(&fleet.server).post(SNAPSHOT, "", b"")?;
    ensure!(answer.status == 200, "{}", answer.text());
    let json: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let name = json["data"]["name"].as_str().unwrap_or_default();
    ensure!(!name.is_empty(), "{json}");
    let snapshot = fleet.server.launch().data.join("snapshots").join(name);
    ensure!(snapshot.is_dir(), "{} is not there", snapshot.display());
    if !installed("a Prometheus on a snapshot", &[PROMETHEUS]) {
        return Ok(());
    }
    let place = dir.path().join("prometheus");
    std::fs::create_dir(&place)?;
    let prometheus = start_on(&place, &snapshot)?;
    for query in ["up", "http_requests_total", "histogram_count(latency_seconds)"] {
        let theirs = prometheus.api().instant(query, fleet.newest)?;
        let ours = fleet.server.api().instant(query, fleet.newest)?;
        ensure!(
            !ours.series.is_empty() && theirs == ours,
            "{query}: {theirs:?} {ours:?}"
        );
    }
    Ok(())
}

fn start_on(place: &Path, data: &Path) -> anyhow::Result<Server> {
    let mut launch = Launch::prometheus(place, "global: {}\n")?;
    let own = format!("--storage.tsdb.path={}", launch.data.display());
    for argument in &mut launch.arguments {
        if *argument == own {
            *argument = format!("--storage.tsdb.path={}", data.display());
        }
    }
    launch.start()
}
