//! `--enable-feature` on running processes: parts of PromQL that Prometheus has behind a switch are refused without it and answered
//! with it, those that it has switched on for good are there in any case, and a name that is none ends the start. And what the OpenAPI
//! document of a process names is served by it.

use anyhow::{Context, ensure};
use loadtest::{
    http::Client,
    process::{Launch, Server},
};
use serde_json::Value;
use std::time::Duration;

/// What each switch brings.
const SWITCHED: &[(&str, &str)] = &[
    ("promql-experimental-functions", "limitk(1, vector(1))"),
    ("promql-experimental-functions", "mad_over_time(x[5m])"),
    ("promql-extended-range-selectors", "rate(x[5m] anchored)"),
    ("promql-extended-range-selectors", "x smoothed"),
    ("promql-binop-fill-modifiers", "x + fill(0) y"),
];

/// What needs none.
const ALWAYS: &[&str] = &["x @ 7", "x @ end()", "x offset -1m", "rate(x[5m * 2])"];

fn start(features: &[&str]) -> anyhow::Result<(tempfile::TempDir, Server)> {
    let dir = tempfile::tempdir()?;
    let launch = features.iter().fold(Launch::narthex(dir.path())?, |launch, feature| {
        launch.with(&format!("--enable-feature={feature}"))
    });
    let server = launch.start()?;
    Ok((dir, server))
}

fn answers(server: &Server, query: &str) -> bool {
    server.api().instant(query, 1_000_000).is_ok()
}

#[test]
fn what_is_behind_a_switch_is_refused_without_it() -> anyhow::Result<()> {
    let (_dir, plain) = start(&[])?;
    for (feature, query) in SWITCHED {
        ensure!(!answers(&plain, query), "{query} needs {feature}");
    }
    for query in ALWAYS {
        ensure!(answers(&plain, query), "{query} needs nothing");
    }
    // In one argument and in several, beside names that have been switched on for good.
    for features in [
        &["promql-experimental-functions,promql-extended-range-selectors,promql-binop-fill-modifiers"][..],
        &[
            "promql-at-modifier",
            "promql-binop-fill-modifiers",
            "promql-extended-range-selectors",
            "promql-experimental-functions",
        ],
    ] {
        let (_dir, all) = start(features)?;
        for query in SWITCHED.iter().map(|(_, query)| query).chain(ALWAYS) {
            ensure!(answers(&all, query), "{query} with {features:?}");
        }
    }
    Ok(())
}

#[test]
fn each_step_is_counted_only_where_that_is_switched_on() -> anyhow::Result<()> {
    let counted = |server: &Server| -> anyhow::Result<bool> {
        let form = [
            ("query", "x"),
            ("start", "0"),
            ("end", "60"),
            ("step", "15"),
            ("stats", "all"),
        ];
        let (data, _): (Value, _) = server.api().call("/api/v1/query_range", &form)?;
        ensure!(data.pointer("/stats/samples/totalQueryableSamples").is_some(), "{data}");
        Ok(data.pointer("/stats/samples/totalQueryableSamplesPerStep").is_some())
    };
    let (_plain_dir, plain) = start(&[])?;
    let (_dir, counting) = start(&["promql-per-step-stats"])?;
    ensure!(!counted(&plain)? && counted(&counting)?);
    Ok(())
}

#[test]
fn a_name_that_is_no_feature_ends_the_start() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Launch::narthex(dir.path())?
        .with("--enable-feature=promql-experimental-function")
        .spawn()?;
    let status = server.wait_end(Duration::from_secs(20))?;
    let log = server.log();
    ensure!(
        !status.success() && log.contains("promql-experimental-functions"),
        "{log}"
    );
    Ok(())
}

/// Paths and methods of a document: its maps are told by their indentation.
fn documented(yaml: &str) -> Vec<(String, String)> {
    let (mut found, mut path) = (Vec::new(), None);
    let (_, paths) = yaml.split_once("\npaths:\n").unwrap_or_default();
    for line in paths.lines().take_while(|line| line.starts_with(' ')) {
        let name = line.trim().trim_end_matches(':').trim_matches('"');
        match line.len() - line.trim_start().len() {
            2 => path = Some(name.to_owned()),
            4 => found.extend(path.clone().map(|path| (path, name.to_uppercase()))),
            _ => {}
        }
    }
    found
}

#[test]
fn what_the_openapi_document_names_is_served() -> anyhow::Result<()> {
    let (_dir, server) = start(&[])?;
    let yaml = server.api().get("/api/v1/openapi.yaml")?.text();
    let calls = documented(&yaml);
    for expected in [
        ("/api/v1/query", "GET"),
        ("/api/v1/receive", "POST"),
        ("/t/{tenant}/api/v1/write", "POST"),
        ("/-/ready", "GET"),
        ("/metrics", "GET"),
        ("/api/v1/admin/cut", "PUT"),
        ("/api/v1/cluster/ring", "GET"),
        ("/api/v1/cluster/ring/{change}", "POST"),
    ] {
        let named = calls.iter().any(|(path, method)| (&**path, &**method) == expected);
        ensure!(named, "{expected:?} is not in the document:\n{yaml}");
    }
    let mut client = Client::new(&server.launch().url, &[], Duration::from_secs(30));
    for (path, method) in calls {
        let filled = path.replace(['{', '}'], "");
        let answer = client
            .send(&method, &filled, "", b"")
            .with_context(|| format!("{method} {path}"))?;
        let known = answer.status != 405 && (answer.status != 404 || answer.text().contains("errorType"));
        ensure!(known, "{method} {path}: {} {}", answer.status, answer.text());
    }
    Ok(())
}
