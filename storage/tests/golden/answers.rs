//! The gateway over a bucket that Thanos wrote gives what Thanos's own store gave.

use crate::{golden, unpack};
use futures::{executor::block_on, future::BoxFuture};
use model::{
    env::{Clock, Env, Fs as _, Rng, Spawn},
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
use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};
use storage::{
    disk::Disk,
    gateway::{Gateway, GatewaySettings},
};

struct Still;

impl Clock for Still {
    /// After the marks in the buckets: 2026-11-01T00:00:00Z.
    fn now(&self) -> Timestamp {
        1_793_491_200_000
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

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&Disk.read(path).unwrap()).unwrap()
}

/// A recorded question with its answer.
struct Question {
    name: String,
    endpoint: String,
    params: Value,
    answer: Value,
}

impl Question {
    fn param(&self, key: &str) -> Option<&str> {
        self.params[key][0].as_str()
    }

    fn millis(&self, key: &str) -> i64 {
        self.param(key)
            .map_or(0, |text| (text.parse::<f64>().unwrap() * 1000.0) as i64)
    }

    fn range(&self) -> TimeRange {
        TimeRange::new(self.millis("start"), self.millis("end"))
    }

    /// The selectors of `match[]`; one that selects everything when there are none.
    fn selectors(&self) -> Vec<Vec<Matcher>> {
        let list = self.params["match[]"].as_array();
        list.map_or(vec![vec![]], |list| {
            list.iter().map(|text| parse(text.as_str().unwrap()).0).collect()
        })
    }

    /// Deduplication by penalty, limits, downsampling and escaped names are other people's work.
    fn is_ours(&self) -> bool {
        self.answer["status"] == "success"
            && self.param("dedup") != Some("true")
            && self.param("limit").is_none()
            && self
                .param("max_source_resolution")
                .is_none_or(|resolution| resolution == "0s")
            && !self.name.contains("utf8")
    }
}

fn questions(bucket: &str) -> Vec<Question> {
    let Some(golden) = golden() else { return Vec::new() };
    let all = read_json(&golden.join("queries.json"));
    let ours = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|question| question["bucket"] == bucket);
    let read = |question: &Value| {
        let text = |key: &str| question[key].as_str().unwrap().to_owned();
        let answer = read_json(&golden.join(text("answer_file")));
        Question {
            name: text("name"),
            endpoint: text("path"),
            params: question["params"].clone(),
            answer,
        }
    };
    ours.map(read).filter(Question::is_ours).collect()
}

/// Asks what was asked; gives which kind of question it was, if it is one for a source of samples.
fn ask(select: &dyn Select, question: &Question) -> Option<&'static str> {
    let name = &question.name;
    if name.contains("instant-rv-") {
        let (matchers, window) = parse(question.param("query").unwrap());
        let end = question.millis("time");
        // The window leaves out its first millisecond.
        let range = TimeRange::new(end - window + 1, end);
        assert_eq!(
            selected_samples(select, matchers, range),
            recorded_samples(&question.answer),
            "{name}"
        );
        return Some("samples");
    }
    if question.endpoint == "/api/v1/series" {
        let mut recorded: Vec<Labels> = question.answer["data"].as_array().unwrap().iter().map(labels).collect();
        recorded.sort();
        assert_eq!(
            selected_labels(select, question.selectors(), question.range()),
            recorded,
            "{name}"
        );
        return Some("series");
    }
    let matchers = question.selectors().remove(0);
    if question.endpoint == "/api/v1/labels" {
        let found = block_on(select.label_names(matchers, question.range(), 0)).unwrap();
        assert_eq!(found.items, texts(&question.answer), "{name}");
        return Some("names");
    }
    let label = question
        .endpoint
        .strip_prefix("/api/v1/label/")?
        .strip_suffix("/values")?;
    let found = block_on(select.label_values(label.to_owned(), matchers, question.range(), 0)).unwrap();
    let mut recorded = texts(&question.answer);
    // Thanos lists a value that the external label hides from every query.
    recorded.retain(|value| value != "inner");
    assert_eq!(found.items, recorded, "{name}");
    Some("values")
}

fn selected_labels(select: &dyn Select, selectors: Vec<Vec<Matcher>>, range: TimeRange) -> Vec<Labels> {
    let mut found: Vec<Labels> = Vec::new();
    for matchers in selectors {
        let mut request = SelectRequest::new(matchers, range);
        request.labels_only = true;
        let mut set = block_on(select.select(request)).unwrap();
        while let Some(batch) = block_on(set.next()) {
            found.extend(batch.unwrap().into_iter().map(|series| series.labels));
        }
    }
    found.sort();
    found
}

#[test]
fn answers_equal_the_recorded_ones() {
    for (name, partial, left_out) in [("raw", 1, 0), ("compacted", 1, 5)] {
        let Some((dir, bucket)) = unpack(name) else { return };
        let mut settings = GatewaySettings::new(dir.path().join("cache"));
        // The answers were recorded without a delay.
        settings.deletion_marks_delay = Duration::ZERO;
        settings.replica_labels.clear();
        let env = Env {
            clock: Arc::new(Still),
            rng: Arc::new(Still),
            fs: Arc::new(Disk),
            spawn: Arc::new(Still),
        };
        let store = Arc::new(LocalFileSystem::new_with_prefix(bucket).unwrap());
        let gateway = Gateway::new(env, store, settings, &mut Registry::default());
        let report = block_on(gateway.sync()).unwrap();
        assert_eq!(
            (report.aside, report.partial, report.left_out),
            (0, partial, left_out),
            "{name}"
        );
        let select = gateway.tenant(&Tenant::default());
        let mut asked = BTreeMap::new();
        for question in questions(name) {
            if let Some(kind) = ask(&*select, &question) {
                *asked.entry(kind).or_insert(0) += 1;
            }
        }
        eprintln!("{name}: {asked:?}");
        assert!(
            ["samples", "series", "names", "values"]
                .iter()
                .all(|kind| asked[kind] >= 4),
            "{name}: {asked:?}"
        );
    }
}
