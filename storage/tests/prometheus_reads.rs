//! Real Prometheus servers read the blocks that are written here: every sample of every kind, as their query API shows them.
//!
//! The installed one (Debian: 2.42) and, where `NARTHEX_PEERS` names a folder of unpacked packages, every other that is found there.

use model::{
    env::Fs,
    histogram::{Histogram, Span},
    label::Labels,
    sample::{HistogramSample, STALE_NAN, SampleBuffer},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};
use storage::{
    block::{BlockMeta, BlockWriter},
    chunk::encode_samples,
    disk::Disk,
};
use ulid::Ulid;

const BEGIN: i64 = 1_700_006_400_000;
const HOURS: i64 = 3_600_000;
const STEP: i64 = 15_000;
const SAMPLES: i64 = 400;

fn histogram(kind: &str, step: i64) -> Histogram {
    let grown = step as f64;
    let span = |offset, length| Span { offset, length };
    let mut histogram = Histogram {
        integer: kind != "float",
        schema: 2,
        zero_threshold: 0.001,
        zero_count: 2.0,
        sum: grown * 0.75,
        positive_spans: vec![span(-1, 1), span(2, 2)],
        positive_buckets: vec![grown + 1.0, 3.0, grown * 2.0 + 1.0],
        negative_spans: vec![span(0, 1)],
        negative_buckets: vec![5.0],
        ..Histogram::default()
    };
    if kind == "float" {
        histogram.positive_buckets[0] += 0.25;
    }
    if kind == "custom" {
        (histogram.schema, histogram.zero_threshold, histogram.zero_count) = (-53, 0.0, 0.0);
        (histogram.negative_spans, histogram.negative_buckets) = (vec![], vec![]);
        histogram.positive_spans = vec![span(0, 3)];
        histogram.custom_values = vec![0.5, 1.0, 2.5];
    }
    let buckets = histogram.positive_buckets.iter().chain(&histogram.negative_buckets);
    histogram.count = histogram.zero_count + buckets.sum::<f64>();
    histogram
}

/// Floats with values of every sort, a stale marker among them, and histograms.
fn series(kinds: &[&str]) -> BTreeMap<Labels, SampleBuffer> {
    let mut all = BTreeMap::new();
    for number in 0..5i64 {
        let mut samples = SampleBuffer::default();
        for step in 0..SAMPLES {
            let value = match (number, step) {
                (1, 100) => STALE_NAN,
                (2, 7) => f64::INFINITY,
                (3, _) => f64::from_bits(0x3fe0_0000_0000_0000 + step as u64 * 0x0123_4567_89ab),
                _ => (step * number) as f64,
            };
            samples.push_float(BEGIN + step * STEP + number, value);
        }
        let labels = Labels::new([("__name__", "value"), ("number", &number.to_string())]).unwrap();
        all.insert(labels, samples);
    }
    for &kind in kinds {
        let mut samples = SampleBuffer::default();
        for step in 0..SAMPLES {
            let mut histogram = histogram(kind, step);
            if step == 50 {
                histogram = Histogram {
                    integer: histogram.integer,
                    sum: STALE_NAN,
                    ..Histogram::default()
                };
            }
            samples.histograms.push(HistogramSample {
                at: BEGIN + step * STEP,
                start: 0,
                histogram: Arc::new(histogram),
            });
        }
        all.insert(Labels::new([("__name__", "latency"), ("kind", kind)]).unwrap(), samples);
    }
    all
}

fn write(folder: &Path, all: &BTreeMap<Labels, SampleBuffer>) {
    let texts = all
        .keys()
        .flat_map(|labels| labels.iter().flat_map(|(n, v)| [n.to_owned(), v.to_owned()]));
    let symbols: BTreeSet<String> = texts.collect();
    let meta = BlockMeta::new(Ulid::from_parts(BEGIN as u64, 1), BEGIN, BEGIN + 2 * HOURS);
    let mut writer = BlockWriter::create(Arc::new(Disk) as Arc<dyn Fs>, folder, meta, symbols).unwrap();
    for (labels, samples) in all {
        writer.add_series(labels, &encode_samples(samples)).unwrap();
    }
    writer.finish().unwrap().unwrap();
}

/// A server that ends with the test.
struct Prometheus(Child, u16);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Prometheus {
    fn start(binary: &Path, folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = folder.join("prometheus.yml");
        Disk.create(&config).unwrap().append(b"global: {}\n").unwrap();
        let child = Command::new(binary)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args([
                "--storage.tsdb.retention.time=100y",
                "--enable-feature=native-histograms",
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self(child, port);
        for _ in 0..300 {
            if server
                .get("/-/ready")
                .is_some_and(|answer| answer.starts_with("HTTP/1.0 200"))
            {
                return server;
            }
            #[expect(clippy::disallowed_methods, reason = "waits for a process of the real world")]
            thread::sleep(Duration::from_millis(100));
        }
        panic!("{} does not get ready", binary.display());
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.1)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        String::from_utf8(answer).ok()
    }

    /// All samples of a selector as the API shows them: by labels and time, a float, or count, sum and buckets.
    fn samples(&self, name: &str) -> BTreeMap<String, BTreeMap<i64, String>> {
        let time = (BEGIN + 2 * HOURS) / 1000;
        let answer = self
            .get(&format!("/api/v1/query?query={name}%5B3h%5D&time={time}"))
            .unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let mut all = BTreeMap::new();
        for series in body["data"]["result"].as_array().unwrap() {
            let at = |pair: &serde_json::Value| (pair[0].as_f64().unwrap() * 1000.0).round() as i64;
            let none = Vec::new();
            let floats = series["values"].as_array().unwrap_or(&none).iter();
            let floats = floats.map(|pair| (at(pair), number(&pair[1]).to_string()));
            let histograms = series["histograms"].as_array().unwrap_or(&none).iter();
            let histograms = histograms.map(|pair| {
                let histogram = &pair[1];
                let buckets = histogram["buckets"].as_array().unwrap_or(&none).iter();
                let buckets: Vec<f64> = buckets.map(|bucket| number(&bucket[3])).collect();
                let (count, sum) = (number(&histogram["count"]), number(&histogram["sum"]));
                (at(pair), format!("{count} {sum} {buckets:?}"))
            });
            let labels = &series["metric"];
            let key = labels["number"].as_str().or(labels["kind"].as_str()).unwrap();
            all.insert(key.to_owned(), floats.chain(histograms).collect());
        }
        all
    }
}

fn number(text: &serde_json::Value) -> f64 {
    match text.as_str().unwrap() {
        "+Inf" => f64::INFINITY,
        text => text.parse().unwrap(),
    }
}

fn expected(all: &BTreeMap<Labels, SampleBuffer>, name: &str) -> BTreeMap<String, BTreeMap<i64, String>> {
    let mut expected = BTreeMap::new();
    for (labels, samples) in all.iter().filter(|(labels, _)| labels.metric_name() == name) {
        let floats = samples.timestamps.iter().zip(&samples.values);
        // Stale markers are there for the engine, which shows none.
        let floats = floats.filter(|(_, value)| !model::sample::is_stale(**value));
        let floats = floats.map(|(&at, value)| (at, value.to_string()));
        let histograms = samples.histograms.iter().filter(|sample| !sample.histogram.is_stale());
        let histograms = histograms.map(|sample| {
            let histogram = &*sample.histogram;
            let buckets = histogram.negative_buckets.iter().rev();
            let buckets = buckets
                .chain([&histogram.zero_count])
                .chain(&histogram.positive_buckets);
            let buckets: Vec<f64> = buckets.copied().filter(|count| *count != 0.0).collect();
            (sample.at, format!("{} {} {buckets:?}", histogram.count, histogram.sum))
        });
        let key = labels.get("number").or(labels.get("kind")).unwrap();
        expected.insert(key.to_owned(), floats.chain(histograms).collect());
    }
    expected
}

fn check(binary: &Path, kinds: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let all = series(kinds);
    write(dir.path(), &all);
    let server = Prometheus::start(binary, dir.path());
    for name in ["value", "latency"] {
        let (found, expected) = (server.samples(name), expected(&all, name));
        assert!(found.keys().eq(expected.keys()), "{name}: {:?}", found.keys());
        for (key, samples) in &expected {
            assert_eq!(found[key].len(), samples.len(), "{name} {key}");
            for (at, value) in samples {
                assert_eq!(found[key].get(at), Some(value), "{name} {key} at {at}");
            }
        }
    }
}

#[test]
fn the_installed_prometheus_reads_our_blocks() {
    let installed = Path::new("/usr/bin/prometheus");
    match installed.exists() {
        // The range selectors of 2.42 give one histogram for all of a series, so it can be asked for floats only.
        true => check(installed, &[]),
        false => eprintln!("SKIPPED: no Prometheus is installed"),
    }
}

#[test]
fn newer_ones_read_our_blocks() {
    let unpacked: Vec<PathBuf> = std::env::var("NARTHEX_PEERS")
        .ok()
        .and_then(|peers| Disk.list(Path::new(&peers)).ok().map(|entries| (peers, entries)))
        .map(|(peers, entries)| {
            let binary = |name: &str| Path::new(&peers).join(name).join("usr/bin/prometheus");
            entries
                .iter()
                .map(|entry| binary(&entry.name))
                .filter(|path| path.exists())
                .collect()
        })
        .unwrap_or_default();
    if unpacked.is_empty() {
        eprintln!("SKIPPED: NARTHEX_PEERS names no folder with unpacked Prometheus packages");
    }
    for binary in unpacked {
        check(&binary, &["integer", "float", "custom"]);
    }
}
