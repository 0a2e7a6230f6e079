//! Programs that ask and write as their users do: promtool, and vmalert with a rule group whose results come back to us.

use crate::Fleet;
use anyhow::{Context, ensure};
use loadtest::{
    api::seconds,
    process::{Launch, PROMTOOL, free_port, installed},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// Debian's vmalert.
const VMALERT: &str = "/usr/bin/vmalert";

/// Debian's promtool, and the newer one beside the peers if there is one.
fn promtools() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if installed("queries by promtool", &[PROMTOOL]) {
        found.push(PathBuf::from(PROMTOOL));
    }
    let peers = std::env::var_os("NARTHEX_PEERS").map(PathBuf::from);
    let folders = peers.and_then(|peers| std::fs::read_dir(peers).ok());
    let newer = folders.into_iter().flatten().flatten();
    found.extend(
        newer
            .map(|folder| folder.path().join("usr/bin/promtool"))
            .filter(|program| program.is_file()),
    );
    found
}

fn run(program: &Path, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(program).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), text))
}

#[test]
fn promtool_asks_and_understands() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let fleet = Fleet::start(dir.path(), &[])?;
    let server = format!("http://{}", fleet.server.launch().url.authority);
    let at = format!("--time={}", fleet.seconds());
    let start = format!("--start={}", seconds(fleet.newest - 30_000));
    let end = format!("--end={}", fleet.seconds());
    let lines = |count: usize| move |text: &str| text.lines().filter(|line| !line.is_empty()).count() == count;
    for promtool in promtools() {
        let check = |arguments: &[&str], good: &dyn Fn(&str) -> bool| -> anyhow::Result<()> {
            let (success, text) = run(&promtool, arguments)?;
            ensure!(success && good(&text), "{} {arguments:?}: {text}", promtool.display());
            Ok(())
        };
        check(&["query", "instant", &at, &server, "up"], &lines(2))?;
        check(&["query", "instant", &at, &server, "1 + 1"], &|text| {
            text.contains("scalar: 2 @")
        })?;
        let range = ["query", "range", &start, &end, "--step=15s", &server, "sum(up)"];
        check(&range, &|text| text.matches("\n2 @[").count() == 3)?;
        check(&["query", "series", "--match=up", &start, &end, &server], &lines(2))?;
        check(&["query", "labels", &start, &end, &server, "job"], &|text| {
            text.lines().collect::<Vec<_>>() == ["api", "node"]
        })?;
        let (success, text) = run(&promtool, &["query", "instant", &server, "up{"])?;
        ensure!(
            !success && text.contains("parse error: unexpected end of input inside braces"),
            "{text}"
        );
    }
    Ok(())
}

const RULES: &str = r#"
groups:
  - name: fleet
    interval: 1s
    rules:
      - record: job:up:sum
        expr: sum by (job) (up)
        labels: {source: vmalert}
      - alert: Requests
        expr: http_requests_total > 100
        for: 1s
        labels: {severity: page}
"#;

#[test]
fn vmalert_evaluates_here_and_writes_back() -> anyhow::Result<()> {
    if !installed("rules by vmalert", &[VMALERT]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let fleet = Fleet::start(dir.path(), &[])?;
    // It starts twice: the second one restores the state of alerts from what the first one wrote.
    for round in 1..=2 {
        let vmalert = start_vmalert(&fleet, dir.path())?;
        let written = wait_for_rules(&fleet).with_context(|| format!("round {round}; vmalert says: {}", vmalert.log()));
        written?;
        let log = vmalert.log();
        ensure!(!log.contains("failed to restore"), "{log}");
        ensure!(!log.contains("error while executing"), "{log}");
        vmalert.terminate(Duration::from_secs(20))?;
    }
    Ok(())
}

fn start_vmalert(fleet: &Fleet, dir: &Path) -> anyhow::Result<loadtest::process::Server> {
    let rules = dir.join("rules.yml");
    std::fs::write(&rules, RULES)?;
    let server = format!("http://{}", fleet.server.launch().url.authority);
    let mut launch = Launch::narthex(dir)?;
    launch.name = "vmalert".to_owned();
    launch.binary = VMALERT.into();
    launch.url = loadtest::http::Url::parse(&format!("http://127.0.0.1:{}", free_port()?))?;
    launch.ready_path = "/health";
    launch.log = dir.join("vmalert.log");
    launch.arguments = vec![
        format!("-rule={}", rules.display()),
        format!("-datasource.url={server}"),
        format!("-remoteRead.url={server}"),
        format!("-remoteWrite.url={server}"),
        "-remoteWrite.flushInterval=500ms".to_owned(),
        "-remoteRead.ignoreRestoreErrors=false".to_owned(),
        // Nobody listens there: alerts are only looked at through what is written back.
        format!("-notifier.url=http://127.0.0.1:{}", free_port()?),
        "-evaluationInterval=1s".to_owned(),
        format!("-httpListenAddr={}", launch.url.authority),
    ];
    launch.start()
}

/// Waits until recorded series and alerts of this round are there.
fn wait_for_rules(fleet: &Fleet) -> anyhow::Result<()> {
    let since = loadtest::clock::now_ms();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut api = fleet.server.api();
    loop {
        let now = loadtest::clock::now_ms();
        let fresh = |query: &str| format!("{query} and timestamp({query}) > {}", seconds(since));
        let recorded = api.instant(&fresh("job:up:sum{source=\"vmalert\",job=\"node\"}"), now)?;
        let alerts = api.instant(
            &fresh("ALERTS{alertname=\"Requests\",alertstate=\"firing\",severity=\"page\"}"),
            now,
        )?;
        let states = api.instant("ALERTS_FOR_STATE{alertname=\"Requests\"}", now)?;
        let sum = recorded.series.first().and_then(|series| series.samples.first());
        if sum.is_some_and(|(_, value)| *value == 2.0) && alerts.series.len() == 2 && states.series.len() == 2 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the results of rules do not come back: {recorded:?} {alerts:?} {states:?}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}
