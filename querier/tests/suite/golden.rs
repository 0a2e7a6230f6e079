//! Buckets that Thanos wrote, asked through our API, give the answers that Thanos gave: without dedup, and with its own penalty
//! algorithm, at raw resolution.
//!
//! The data lies outside of the repository: in the folder that `NARTHEX_SHARED` names, or in `shared` beside the repository.
#![expect(clippy::disallowed_methods, reason = "a test that reads recorded answers")]

use crate::common::api::Status;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use model::{
    env::{Clock, Env},
    time::Timestamp,
};
use object_store::local::LocalFileSystem;
use prometheus_client::registry::Registry;
use querier::{Fanout, Querier, QuerierSettings, http::routes};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};
use storage::{
    disk::Disk,
    gateway::{Gateway, GatewaySettings},
};
use tower::ServiceExt as _;

/// Answers that differ on purpose, by name without the bucket, and why.
const KEPT: &[(&str, &str)] = &[
    (
        "values-cluster",
        "Thanos lists a value that the external label hides from every query",
    ),
    (
        "values-utf8",
        "an escaped label name is understood here, as in Prometheus",
    ),
];

/// Values that an answer's float may differ by, relatively.
const TOLERANCE: f64 = 1e-9;

fn golden() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let place = std::env::var_os("NARTHEX_SHARED").map_or_else(beside, PathBuf::from);
    let place = place.join("golden/thanos-bucket");
    if place.is_dir() {
        return Some(place);
    }
    eprintln!("SKIPPED: no golden bucket at {}; set NARTHEX_SHARED", place.display());
    None
}

/// A wall clock that stands behind the marks in the buckets: 2026-11-01T00:00:00Z.
struct AfterRecording(Arc<dyn Clock>);

impl Clock for AfterRecording {
    fn now(&self) -> Timestamp {
        1_793_491_200_000
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }
}

async fn router(golden: &Path, bucket: &str, scratch: &Path) -> Option<axum::Router> {
    let archive = golden.join(format!("{bucket}.tar.xz"));
    match Command::new("tar")
        .arg("xJf")
        .arg(&archive)
        .arg("-C")
        .arg(scratch)
        .status()
    {
        Ok(status) => assert!(status.success(), "unpack {}", archive.display()),
        Err(error) => {
            eprintln!("SKIPPED: tar cannot be run: {error}");
            return None;
        }
    }
    let env = Env {
        fs: Arc::new(Disk),
        clock: Arc::new(AfterRecording(crate::common::env().clock)),
        ..crate::common::env()
    };
    let mut settings = GatewaySettings::new(scratch.join("cache"));
    // Thanos's store shows every external label.
    settings.replica_labels.clear();
    // The answers were recorded without a delay.
    settings.deletion_marks_delay = Duration::ZERO;
    let mut registry = Registry::default();
    let store = Arc::new(LocalFileSystem::new_with_prefix(scratch.join(bucket)).unwrap());
    let gateway = Gateway::new(env.clone(), store, settings, &mut registry);
    gateway.sync().await.unwrap();
    let fanout = Arc::new(Fanout::new(vec![("bucket".to_owned(), Arc::new(gateway))]));
    let settings = QuerierSettings::default();
    let status = Arc::new(Status::default());
    Some(routes(Querier::new(env, settings, fanout, status, &mut registry)))
}

/// The question as a path with parameters. Where Thanos used its default algorithm we name it.
fn question(recorded: &Value) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, values) in recorded["params"].as_object().unwrap() {
        for value in values.as_array().unwrap() {
            let value = value.as_str().unwrap();
            query.append_pair(
                name,
                if name == "dedup" && value == "true" {
                    "penalty"
                } else {
                    value
                },
            );
        }
    }
    format!("{}?{}", recorded["path"].as_str().unwrap(), query.finish())
}

/// Whether the question is about samples as they were scraped.
fn is_raw(recorded: &Value) -> bool {
    let resolution = recorded["params"]["max_source_resolution"][0].as_str();
    resolution.is_none_or(|resolution| resolution == "0s")
}

/// Where the two differ first; lists of series compare as sets.
fn difference(expected: &Value, got: &Value, place: &str) -> Option<String> {
    match (expected, got) {
        (Value::Array(expected), Value::Array(got)) => {
            if expected.len() != got.len() {
                return Some(format!("{place}: {} items instead of {}", got.len(), expected.len()));
            }
            let (expected, got) = (in_order(expected), in_order(got));
            let mut pairs = expected.iter().zip(&got).enumerate();
            pairs.find_map(|(index, (expected, got))| difference(expected, got, &format!("{place}[{index}]")))
        }
        (Value::Object(expected), Value::Object(got)) => {
            let mut keys: Vec<&String> = expected.keys().chain(got.keys()).collect();
            keys.sort();
            keys.dedup();
            keys.into_iter().find_map(|key| {
                let (expected, got) = (expected.get(key), got.get(key));
                difference(
                    expected.unwrap_or(&Value::Null),
                    got.unwrap_or(&Value::Null),
                    &format!("{place}.{key}"),
                )
            })
        }
        _ if expected == got => None,
        _ => match (number(expected), number(got)) {
            (Some(a), Some(b)) if a.is_nan() && b.is_nan() => None,
            (Some(a), Some(b)) if (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()) => None,
            _ => Some(format!("{place}: {got} instead of {expected}")),
        },
    }
}

/// Series by their labels; other lists as they are.
fn in_order(list: &[Value]) -> Vec<Value> {
    let mut list = list.to_vec();
    if list.first().is_some_and(|item| item.get("metric").is_some()) {
        list.sort_by_key(|item| item["metric"].to_string());
    } else if list.first().is_some_and(Value::is_object) {
        list.sort_by_key(Value::to_string);
    }
    list
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) if text == "+Inf" => Some(f64::INFINITY),
        Value::String(text) if text == "-Inf" => Some(f64::NEG_INFINITY),
        Value::String(text) => text.parse().ok(),
        _ => value.as_f64(),
    }
}

async fn ask(router: &axum::Router, question: &str) -> Value {
    let request = http::Request::get(question).body(axum::body::Body::empty()).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap_or(Value::Null)
}

#[tokio::test]
async fn thanos_buckets_give_thanos_answers() {
    let Some(golden) = golden() else { return };
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(golden.join(name)).unwrap()).unwrap() };
    let recorded = read("queries.json");
    let mut faults = Vec::new();
    for bucket in ["raw", "compacted"] {
        let scratch = tempfile::tempdir().unwrap();
        let Some(router) = router(&golden, bucket, scratch.path()).await else {
            return;
        };
        let (mut equal, mut kept, mut asked) = (0, 0, 0);
        for entry in recorded.as_array().unwrap() {
            if entry["bucket"] != bucket || !is_raw(entry) {
                continue;
            }
            asked += 1;
            let name = entry["name"].as_str().unwrap().split_once('/').unwrap().1;
            let expected = read(entry["answer_file"].as_str().unwrap());
            let got = ask(&router, &question(entry)).await;
            let difference = difference(&expected["status"], &got["status"], "status")
                .or_else(|| difference(&expected["data"]["result"], &got["data"]["result"], "result"))
                .or_else(|| match expected["data"].is_array() {
                    true => difference(&expected["data"], &got["data"], "data"),
                    false => None,
                });
            let reason = KEPT.iter().find(|(kept, _)| *kept == name);
            match (difference, reason) {
                (None, _) => equal += 1,
                (Some(difference), Some((_, reason))) => {
                    kept += 1;
                    eprintln!("kept: {bucket}/{name}: {difference} ({reason})");
                }
                (Some(difference), None) => faults.push(format!("{bucket}/{name}: {difference}")),
            }
        }
        eprintln!("{bucket}: {asked} asked, {equal} equal, {kept} differ on purpose");
        assert!(asked > 100, "{bucket}: only {asked} questions were found");
    }
    assert!(
        faults.is_empty(),
        "{} answers differ:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
