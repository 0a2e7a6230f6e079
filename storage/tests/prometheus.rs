//! Data folders of real Prometheus versions are read to the sample: block, log with checkpoint, and the log of late samples.
//!
//! `prometheus/make-fixture` made them; what it wrote is computed here once more.

use futures::executor::block_on;
use model::{
    env::Fs as _,
    histogram::{Histogram, ResetHint, Span},
    label::Labels,
    sample::{STALE_NAN, SampleBuffer},
    select::{Select as _, SelectRequest},
    time::TimeRange,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};
use storage::{
    block::Block,
    disk::Disk,
    prometheus::{Import, WalCompression, read_head},
};
use ulid::Ulid;

const T0: i64 = 1_700_006_400_000;
const MINUTE: i64 = 60_000;

/// Samples as text, floats by their bits, by labels and time.
type Stored = BTreeMap<Labels, BTreeMap<i64, String>>;

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/prometheus")
        .join(version)
}

fn float(value: f64) -> String {
    format!("{:x}", value.to_bits())
}

/// Without what a store may add: knowledge about resets, empty buckets.
fn plain(histogram: &Histogram) -> String {
    let mut plain = histogram.clone();
    plain.reset_hint = ResetHint::Unknown;
    plain.compact();
    format!("{plain:?}")
}

fn histogram(kind: &str, k: i64) -> Histogram {
    let grown = k as f64;
    let sum = grown * 1.5;
    let span = |offset, length| Span { offset, length };
    match kind {
        "integer" => Histogram {
            integer: true,
            schema: 3,
            zero_threshold: 1e-6,
            zero_count: 2.0,
            count: 2.0 * grown + 5.0,
            sum,
            positive_spans: vec![span(0, 1), span(3, 1)],
            positive_buckets: vec![grown + 1.0, grown + 2.0],
            ..Histogram::default()
        },
        "float" => Histogram {
            schema: -1,
            zero_threshold: 0.001,
            zero_count: 0.25,
            count: grown * 0.5 + 1.5,
            sum,
            positive_spans: vec![span(-2, 2)],
            positive_buckets: vec![grown * 0.5, 1.25],
            ..Histogram::default()
        },
        _ => Histogram {
            integer: true,
            schema: -53,
            count: 2.0 * grown + 1.0,
            sum,
            positive_spans: vec![span(0, 2)],
            positive_buckets: vec![grown, grown + 1.0],
            custom_values: vec![0.5, 1.0, 2.0],
            ..Histogram::default()
        },
    }
}

fn expected(kinds: &[&str]) -> Stored {
    let mut stored = Stored::new();
    for i in 0..20i64 {
        let labels = Labels::new([("__name__", "requests_total"), ("path", &format!("/api/{i}"))]).unwrap();
        let samples = stored.entry(labels).or_default();
        for k in 0..290 {
            let (at, deleted) = (
                T0 + k * MINUTE + i,
                TimeRange::new(T0 + 250 * MINUTE, T0 + 255 * MINUTE),
            );
            let value = if (i, k) == (3, 250) {
                STALE_NAN
            } else {
                (k * i) as f64 + 0.5
            };
            if i != 7 || !deleted.contains(at) {
                samples.insert(at, float(value));
            }
        }
        if i == 5 {
            samples.extend((260..280).map(|k| (T0 + k * MINUTE - 30_000, float(k as f64))));
        }
    }
    for kind in kinds {
        let labels = Labels::new([("__name__", "latency"), ("kind", kind)]).unwrap();
        let samples = (0..290)
            .step_by(5)
            .map(|k| (T0 + k * MINUTE, plain(&histogram(kind, k))));
        stored.insert(labels, samples.collect());
    }
    stored
}

fn add(stored: &mut Stored, labels: Labels, samples: &SampleBuffer) {
    let held = stored.entry(labels).or_default();
    let floats = samples.timestamps.iter().zip(&samples.values);
    held.extend(floats.map(|(&at, &value)| (at, float(value))));
    let histograms = samples.histograms.iter();
    held.extend(histograms.map(|sample| (sample.at, plain(&sample.histogram))));
}

fn decompress(compression: WalCompression, bytes: &[u8]) -> Option<Vec<u8>> {
    match compression {
        WalCompression::Snappy => snap::raw::Decoder::new().decompress_vec(bytes).ok(),
        WalCompression::Zstd => None,
    }
}

fn check(version: &str, kinds: &[&str]) {
    let (folder, mut expected) = (folder(version), expected(kinds));
    if version == "2.42" {
        // Its checkpoints leave float histograms out, so a restart lost those that were only in segments before the last ones.
        let labels = Labels::new([("__name__", "latency"), ("kind", "float")]).unwrap();
        let lost = TimeRange::new(T0 + 120 * MINUTE, T0 + 169 * MINUTE);
        expected.get_mut(&labels).unwrap().retain(|at, _| !lost.contains(*at));
    }
    let (head, report) = read_head(&Disk, &folder, TimeRange::ALL, decompress).unwrap();
    assert_eq!(report.damage, [""; 0], "{version}");
    assert_eq!(report.samples_of_unknown_series, 0);
    let mut stored = Stored::new();
    for (labels, samples) in head {
        let times = samples.timestamps.iter();
        assert!(times.clone().is_sorted() && samples.histograms.is_sorted_by_key(|sample| sample.at));
        add(&mut stored, labels, &samples);
    }
    for (labels, samples) in &stored {
        for (at, value) in samples {
            assert_eq!(
                Some(value),
                expected[labels].get(at),
                "{version}: {labels} at {at} in the log"
            );
        }
    }
    let late = &stored[&Labels::new([("__name__", "requests_total"), ("path", "/api/5")]).unwrap()];
    assert!(
        late.contains_key(&(T0 + 270 * MINUTE - 30_000)),
        "late samples have a log of their own"
    );
    let mut blocks = 0;
    for entry in Disk.list(&folder).unwrap() {
        if Ulid::from_string(&entry.name).is_err() {
            continue;
        }
        blocks += 1;
        let block = Block::open(&Disk, &folder.join(&entry.name)).unwrap();
        let mut set = block_on(block.select(SelectRequest::new(vec![], TimeRange::ALL))).unwrap();
        while let Some(batch) = block_on(set.next()) {
            for series in batch.unwrap() {
                let mut samples = SampleBuffer::default();
                series.samples.read(TimeRange::ALL, &mut samples).unwrap();
                add(&mut stored, series.labels, &samples);
            }
        }
    }
    assert_eq!(blocks, 1);
    assert_eq!(stored.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (labels, samples) in &expected {
        let times = |samples: &BTreeMap<i64, String>| samples.keys().copied().collect::<Vec<_>>();
        assert_eq!(times(&stored[labels]), times(samples), "{version}: {labels}");
        assert!(stored[labels] == *samples, "{version}: values of {labels}");
    }
    imported_equals(version, &folder, &expected);
    // A part of the time costs memory for that part only.
    let part = TimeRange::new(T0 + 260 * MINUTE, T0 + 270 * MINUTE);
    let (some, _) = read_head(&Disk, &folder, part, decompress).unwrap();
    assert!(
        some.values()
            .all(|samples| samples.timestamps.iter().all(|&at| part.contains(at)))
    );
    assert_eq!(some.len(), expected.len());
}

/// Blocks and log become blocks with external labels that hold each sample once.
fn imported_equals(version: &str, data: &Path, expected: &Stored) {
    let dir = tempfile::tempdir().unwrap();
    let import = Import {
        fs: Arc::new(Disk),
        data,
        folder: dir.path(),
        labels: BTreeMap::from([("tenant_id".to_owned(), "x".to_owned())]),
    };
    let mut unpack = decompress;
    let imported = import
        .run(&|window| Ulid::from_parts(window as u64, 1), &mut unpack)
        .unwrap();
    assert_eq!(imported.unreadable, [""; 0]);
    let mut samples = 0;
    let mut stored = Stored::new();
    for meta in &imported.blocks {
        let block = Block::open(&Disk, &dir.path().join(meta.ulid.to_string())).unwrap();
        samples += meta.stats.num_samples as usize;
        assert_eq!(block.meta().thanos.as_ref().unwrap().labels, import.labels);
        let mut set = block_on(block.select(SelectRequest::new(vec![], TimeRange::ALL))).unwrap();
        while let Some(batch) = block_on(set.next()) {
            for series in batch.unwrap() {
                let mut samples = SampleBuffer::default();
                series.samples.read(TimeRange::ALL, &mut samples).unwrap();
                add(&mut stored, series.labels, &samples);
            }
        }
    }
    assert!(stored == *expected, "{version}: what was brought along");
    assert_eq!(
        samples,
        expected.values().map(BTreeMap::len).sum::<usize>(),
        "each once"
    );
}

#[test]
fn what_prometheus_2_42_left_is_read() {
    check("2.42", &["integer", "float"]);
}

#[test]
fn what_prometheus_3_5_left_is_read() {
    check("3.5", &["integer", "float", "custom"]);
}

#[test]
fn damaged_logs_cost_what_is_damaged() {
    let (source, expected) = (folder("3.5"), expected(&["integer", "float", "custom"]));
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join("wal");
    Disk.create_dir(&wal).unwrap();
    let whole = Disk.read(&source.join("wal/00000005")).unwrap();
    let mut seed = 7u64;
    for round in 0..400 {
        let mut bytes = whole.clone();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (seed >> 16) as usize % bytes.len();
        match round % 3 {
            0 => bytes[at] ^= 1 << (seed >> 60 & 7),
            1 => bytes.truncate(at),
            _ => bytes[at..(at + 40).min(whole.len())].fill((seed >> 50) as u8),
        }
        let path = wal.join(format!("{round:08}"));
        Disk.create(&path).unwrap().append(&bytes).unwrap();
        let (found, _) = read_head(&Disk, dir.path(), TimeRange::ALL, decompress).unwrap();
        for (labels, samples) in found {
            let mut stored = Stored::new();
            add(&mut stored, labels.clone(), &samples);
            let known = &expected[&labels];
            let deleted = TimeRange::new(T0 + 250 * MINUTE, T0 + 255 * MINUTE);
            let invented = stored[&labels]
                .iter()
                .find(|(at, value)| known.get(at) != Some(value) && !deleted.contains(**at));
            assert_eq!(invented, None, "round {round}: {labels}");
        }
        Disk.remove_file(&path).unwrap();
    }
}
