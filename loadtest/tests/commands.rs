//! The commands of the README, in small: what `loadtest` promises about itself holds against a real server.

#![expect(
    clippy::disallowed_methods,
    reason = "tests run real programs and read the files they leave"
)]

use loadtest::{
    process::{Launch, Server},
    questions::QUESTIONS,
};
use std::process::Command;

/// Runs `loadtest` and gives what it printed; it must succeed.
fn loadtest(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(arguments)
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}\n{text}\n{errors}");
    text
}

fn narthex() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Launch::narthex(dir.path()).unwrap().start().unwrap();
    (dir, server)
}

#[test]
fn what_was_written_is_verified_and_its_questions_have_a_cost() {
    let (dir, server) = narthex();
    let (url, pid) = (
        format!("http://{}", server.launch().url.authority),
        server.pid().to_string(),
    );
    let write_url = format!("{url}/api/v1/write");
    let ledger = dir.path().join("run.ledger");
    let ledger = ledger.to_str().unwrap();
    let small = ["write", "--url", &write_url, "--settle", "1ms", "--scrapes", "40"];

    let text = loadtest(&[&small[..], &["--series", "2000", "--pid", &pid]].concat());
    assert!(text.contains("80000 samples in") && text.contains("server: "), "{text}");
    let text = loadtest(&[&small[..], &["--series", "300", "--ledger", ledger]].concat());
    assert!(text.contains("12000 samples in"), "{text}");
    let text = loadtest(&["verify", "--url", &url, "--ledger", ledger]);
    assert!(text.contains("0 lost"), "{text}");

    let text = loadtest(&["query", "--url", &url, "--pid", &pid, "--repeat", "1"]);
    assert!(text.contains("rate by mode") && !text.contains("refused"), "{text}");
    let text = loadtest(&["query", "--url", &url, "--rate", "20", "--for", "1s"]);
    assert!(text.starts_with("answers p50 "), "{text}");
}

#[test]
fn a_comparison_finds_every_sample_of_a_fleet_that_lives() {
    let dir = tempfile::tempdir().unwrap();
    let (page, json) = (dir.path().join("report.html"), dir.path().join("report.json"));
    loadtest(&[
        "compare",
        "--server",
        "narthex",
        "--series",
        "1500",
        "--scrapes",
        "30",
        "--settle",
        "1ms",
        "--churn",
        "10",
        "--replicas",
        "2",
        "--tenants",
        "3",
        "--snappy",
        "patched",
        "--questions",
        "1",
        "--mixed",
        "200ms",
        "--dir",
        dir.path().to_str().unwrap(),
        "--html",
        page.to_str().unwrap(),
        "--json",
        json.to_str().unwrap(),
    ]);
    let rows: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let counted = &rows[0]["counted"];
    assert_eq!(counted[0].as_f64(), counted[1].as_f64(), "{rows}");
    assert!(counted[1].as_f64().unwrap() > 1_000.0, "{rows}");
    assert_eq!(rows[0]["questions"].as_array().unwrap().len(), QUESTIONS.len());
    assert!(
        rows[0]["mixed"]["acks_through_flush"]["p99"].as_f64().unwrap() > 0.0,
        "{rows}"
    );
    assert!(std::fs::read_to_string(page).unwrap().contains("<i style"));
}
