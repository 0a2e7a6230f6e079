//! The gateway over a bucket that Thanos wrote gives what Thanos's own store gave.

use futures::{executor::block_on, future::BoxFuture};
use model::{
    env::{Clock, Env, Rng, Spawn},
    label::Labels,
    matcher::{MatchOp, Matcher},
    sample::{SampleBuffer, is_stale},
    select::{Select, SelectRequest, SelectTenants},
    tenant::Tenant,
    time::{TimeRange, Timestamp},
};
use object_store::local::LocalFileSystem;
use prometheus_client::registry::Registry;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};
use storage::{
    disk::Disk,
    gateway::{Gateway, GatewaySettings},
};

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

impl Rng for Still {
    fn next_u64(&self) -> u64 {
        4
    }
}

impl Spawn for Still {
    fn task(&self, _: &str, task: BoxFuture<'static, ()>) {
        block_on(task);
    }

    fn blocking(&self, _: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        work();
        Box::pin(async {})
    }

    fn thread(&self, _: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        Err(io::Error::other("no threads here"))
    }
}

fn golden() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let place = std::env::var_os("NARTHEX_SHARED")
        .map_or_else(beside, PathBuf::from)
        .join("golden/thanos-bucket");
    if place.is_dir() {
        return Some(place);
    }
    eprintln!("SKIPPED: no golden bucket at {}; set NARTHEX_SHARED", place.display());
    None
}

/// A selector such as `name{a="b",c=~"d"}[5m]`, as far as the recorded questions use it: its matchers and its window in milliseconds.
fn parse(selector: &str) -> (Vec<Matcher>, i64) {
    let (selector, window) = selector
        .strip_suffix(']')
        .and_then(|s| s.split_once('['))
        .unwrap_or((selector, "0s"));
    let unit = if window.ends_with('h') { 3_600_000 } else { 60_000 };
    let window = window
        .trim_end_matches(|c: char| c.is_alphabetic())
        .parse::<i64>()
        .unwrap()
        * unit;
    let (name, inner) = selector.split_once('{').unwrap_or((selector, "}"));
    let mut matchers = Vec::new();
    if !name.is_empty() {
        matchers.push(Matcher::equal("__name__", name));
    }
    for part in inner.trim_end_matches('}').split("\",").filter(|part| !part.is_empty()) {
        let at = part.find(['=', '!']).unwrap();
        let (op, rest) = match &part[at..] {
            rest if rest.starts_with("=~") => (MatchOp::Regex, &rest[2..]),
            rest if rest.starts_with("!~") => (MatchOp::NotRegex, &rest[2..]),
            rest if rest.starts_with("!=") => (MatchOp::NotEqual, &rest[2..]),
            rest => (MatchOp::Equal, &rest[1..]),
        };
        matchers.push(Matcher::new(op, part[..at].trim_matches('"'), rest.trim_matches('"')).unwrap());
    }
    (matchers, window)
}

fn labels(object: &Value) -> Labels {
    Labels::new(
        object
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name, value.as_str().unwrap())),
    )
    .unwrap()
}

fn number(value: &Value) -> f64 {
    match value.as_str().unwrap() {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        text => text.parse().unwrap(),
    }
}

/// Of each series the samples: time, and the value or count and sum as bits.
type Samples = BTreeMap<Labels, Vec<(i64, Vec<u64>)>>;

fn bits(values: &[f64]) -> Vec<u64> {
    // All ordinary NaN print alike.
    values
        .iter()
        .map(|value| {
            if value.is_nan() {
                f64::NAN.to_bits()
            } else {
                value.to_bits()
            }
        })
        .collect()
}

fn recorded_samples(answer: &Value) -> Samples {
    let mut samples = Samples::new();
    for series in answer["data"]["result"].as_array().unwrap() {
        let list = |key: &str| series[key].as_array().cloned().unwrap_or_default();
        let at = |pair: &Value| (pair[0].as_f64().unwrap() * 1000.0).round() as i64;
        let floats = list("values")
            .into_iter()
            .map(|pair| (at(&pair), bits(&[number(&pair[1])])));
        let histograms = list("histograms");
        let histograms = histograms
            .iter()
            .map(|pair| (at(pair), bits(&[number(&pair[1]["count"]), number(&pair[1]["sum"])])));
        let mut all: Vec<_> = floats.chain(histograms).collect();
        all.sort();
        samples.insert(labels(&series["metric"]), all);
    }
    samples
}

fn selected_samples(select: &dyn Select, matchers: Vec<Matcher>, range: TimeRange) -> Samples {
    let mut set = block_on(select.select(SelectRequest::new(matchers, range))).unwrap();
    let mut samples = Samples::new();
    while let Some(batch) = block_on(set.next()) {
        for series in batch.unwrap() {
            let mut buffer = SampleBuffer::default();
            series.samples.read(range, &mut buffer).unwrap();
            let floats = buffer
                .timestamps
                .iter()
                .zip(&buffer.values)
                .filter(|(_, value)| !is_stale(**value));
            let histograms = buffer
                .histograms
                .iter()
                .filter(|sample| !is_stale(sample.histogram.sum));
            let mut all: Vec<_> = floats.map(|(&at, &value)| (at, bits(&[value]))).collect();
            all.extend(histograms.map(|s| (s.at, bits(&[s.histogram.count, s.histogram.sum]))));
            all.sort();
            if !all.is_empty() {
                samples.insert(series.labels, all);
            }
        }
    }
    samples
}

fn texts(answer: &Value) -> Vec<String> {
    let items = answer["data"].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

#[test]
fn answers_equal_the_recorded_ones() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar")
        .arg("xJf")
        .arg(golden.join("raw.tar.xz"))
        .arg("-C")
        .arg(dir.path())
        .status();
    if !unpacked.is_ok_and(|status| status.success()) {
        return eprintln!("SKIPPED: tar cannot unpack the golden bucket");
    }
    let bucket = Arc::new(LocalFileSystem::new_with_prefix(dir.path().join("raw")).unwrap());
    let mut settings = GatewaySettings::new(dir.path().join("cache"));
    settings.replica_labels.clear();
    let env = Env {
        clock: Arc::new(Still),
        rng: Arc::new(Still),
        fs: Arc::new(Disk),
        spawn: Arc::new(Still),
    };
    let gateway = Gateway::new(env, bucket, settings, &mut Registry::default());
    let report = block_on(gateway.sync()).unwrap();
    assert_eq!((report.aside, report.partial), (0, 1));
    let select = gateway.tenant(&Tenant::default());

    let questions: Value =
        serde_json::from_slice(&model::env::Fs::read(&Disk, &golden.join("queries.json")).unwrap()).unwrap();
    let mut asked = BTreeMap::new();
    for question in questions
        .as_array()
        .unwrap()
        .iter()
        .filter(|question| question["bucket"] == "raw")
    {
        let name = question["name"].as_str().unwrap();
        let params = &question["params"];
        let param = |key: &str| params[key][0].as_str();
        let path = golden.join(question["answer_file"].as_str().unwrap());
        let answer: Value = serde_json::from_slice(&model::env::Fs::read(&Disk, &path).unwrap()).unwrap();
        let seconds = |key: &str| param(key).map(|text| (text.parse::<f64>().unwrap() * 1000.0) as i64);
        // Deduplication by penalty, limits and escaped names are other people's work.
        if answer["status"] != "success"
            || param("dedup") == Some("true")
            || param("limit").is_some()
            || name.contains("utf8")
        {
            continue;
        }
        let range = TimeRange::new(seconds("start").unwrap_or(0), seconds("end").unwrap_or(0));
        let all_matchers: Vec<Vec<Matcher>> = params["match[]"].as_array().map_or(vec![vec![]], |list| {
            list.iter()
                .map(|selector| parse(selector.as_str().unwrap()).0)
                .collect()
        });
        let endpoint = question["path"].as_str().unwrap();
        if name.contains("instant-rv-") {
            let (matchers, window) = parse(param("query").unwrap());
            let end = seconds("time").unwrap();
            // The window leaves out its first millisecond.
            let range = TimeRange::new(end - window + 1, end);
            assert_eq!(
                selected_samples(&*select, matchers, range),
                recorded_samples(&answer),
                "{name}"
            );
            *asked.entry("samples").or_insert(0) += 1;
        } else if endpoint == "/api/v1/series" {
            let mut found: Vec<Labels> = Vec::new();
            for matchers in all_matchers {
                let mut request = SelectRequest::new(matchers, range);
                request.labels_only = true;
                let mut set = block_on(select.select(request)).unwrap();
                while let Some(batch) = block_on(set.next()) {
                    found.extend(batch.unwrap().into_iter().map(|series| series.labels));
                }
            }
            let mut recorded: Vec<Labels> = answer["data"].as_array().unwrap().iter().map(labels).collect();
            found.sort();
            recorded.sort();
            assert_eq!(found, recorded, "{name}");
            *asked.entry("series").or_insert(0) += 1;
        } else if endpoint == "/api/v1/labels" {
            let found = block_on(select.label_names(all_matchers[0].clone(), range, 0)).unwrap();
            assert_eq!(found.items, texts(&answer), "{name}");
            *asked.entry("names").or_insert(0) += 1;
        } else if let Some(label) = endpoint
            .strip_prefix("/api/v1/label/")
            .and_then(|rest| rest.strip_suffix("/values"))
        {
            let found = block_on(select.label_values(label.to_owned(), all_matchers[0].clone(), range, 0)).unwrap();
            let mut recorded = texts(&answer);
            // Thanos lists a value that the external label hides from every query.
            recorded.retain(|value| value != "inner");
            assert_eq!(found.items, recorded, "{name}");
            *asked.entry("values").or_insert(0) += 1;
        }
    }
    eprintln!("{asked:?}");
    assert!(
        asked["samples"] >= 7 && asked["series"] >= 4 && asked["names"] >= 4 && asked["values"] >= 7,
        "{asked:?}"
    );
}
