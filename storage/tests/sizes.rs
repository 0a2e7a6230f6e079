//! What is written here takes no more bytes than what Prometheus writes of the same samples: chunks per sample, index per series.
//!
//! Blocks of real servers of two versions are kept as fixtures; a larger one is made by the installed promtool. Each is read, its
//! samples are encoded anew, and both blocks are weighed.

use futures::executor::block_on;
use model::{
    env::Fs,
    label::Labels,
    sample::SampleBuffer,
    select::{Select as _, SelectRequest},
    time::TimeRange,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use storage::{
    block::{Block, BlockMeta, BlockWriter},
    chunk::encode_samples,
    disk::Disk,
};
use ulid::Ulid;

const T0: i64 = 1_700_006_400;

/// The blocks in a folder.
fn blocks(folder: &Path) -> Vec<PathBuf> {
    let entries = Disk.list(folder).unwrap();
    let blocks = entries.iter().filter(|entry| Ulid::from_string(&entry.name).is_ok());
    blocks.map(|entry| folder.join(&entry.name)).collect()
}

/// Bytes of chunks and of the index.
fn weigh(block: &Path) -> (u64, u64) {
    let segments = Disk.list(&block.join("chunks")).unwrap();
    let chunks = segments.iter().map(|segment| segment.size).sum();
    (chunks, Disk.size(&block.join("index")).unwrap())
}

fn read(block: &Block) -> BTreeMap<Labels, SampleBuffer> {
    let mut all = BTreeMap::new();
    let mut set = block_on(block.select(SelectRequest::new(vec![], TimeRange::ALL))).unwrap();
    while let Some(batch) = block_on(set.next()) {
        for series in batch.unwrap() {
            let mut samples = SampleBuffer::default();
            series.samples.read(TimeRange::ALL, &mut samples).unwrap();
            all.insert(series.labels, samples);
        }
    }
    all
}

/// Writes the samples of a block anew and compares.
fn compare(name: &str, theirs: &Path) {
    let block = Block::open(&Disk, theirs).unwrap();
    let all = read(&block);
    let texts = all
        .keys()
        .flat_map(|labels| labels.iter().flat_map(|(n, v)| [n.to_owned(), v.to_owned()]));
    let symbols: BTreeSet<String> = texts.collect();
    let dir = tempfile::tempdir().unwrap();
    let meta = BlockMeta::new(Ulid::from_parts(1, 1), block.meta().min_time, block.meta().max_time);
    let mut writer = BlockWriter::create(Arc::new(Disk) as Arc<dyn Fs>, dir.path(), meta, symbols).unwrap();
    for (labels, samples) in &all {
        writer.add_series(labels, &encode_samples(samples)).unwrap();
    }
    let written = writer.finish().unwrap().unwrap();
    // What was deleted of theirs still lies in their chunks.
    let deleted = block.meta().stats.num_samples - written.stats.num_samples;
    assert!(deleted < 50, "{deleted} samples are missing");
    assert_eq!(written.stats.num_series, block.meta().stats.num_series);
    let (samples, series) = (written.stats.num_samples as f64, written.stats.num_series as f64);
    let (ours, theirs) = (weigh(&dir.path().join(written.ulid.to_string())), weigh(theirs));
    println!(
        "{name}: {samples} samples of {series} series; chunks {:.3} bytes per sample (Prometheus {:.3}), index {:.1} bytes per series \
         (Prometheus {:.1})",
        ours.0 as f64 / samples,
        theirs.0 as f64 / samples,
        ours.1 as f64 / series,
        theirs.1 as f64 / series,
    );
    assert!(
        ours.0 <= theirs.0,
        "{name}: chunks of {} bytes instead of {}",
        ours.0,
        theirs.0
    );
    assert!(
        ours.1 <= theirs.1,
        "{name}: an index of {} bytes instead of {}",
        ours.1,
        theirs.1
    );
}

#[test]
fn blocks_of_servers_do_not_grow() {
    for version in ["2.42", "3.5"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/prometheus")
            .join(version);
        let blocks = blocks(&folder);
        assert!(!blocks.is_empty(), "{version}");
        blocks.iter().for_each(|block| compare(version, block));
    }
}

/// Counters, gauges and noise of 300 series, four hours of them.
fn open_metrics() -> String {
    let mut text = String::new();
    for series in 0..300u64 {
        for step in 0..480u64 {
            let noise = (series * 7919 + step * 104_729).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let value = match series % 3 {
                0 => format!("{}", step * (series + 1)),
                1 => format!("{}", 20.0 + (noise % 64) as f64 / 4.0),
                _ => format!("{}", noise as f64 / 3.0),
            };
            let (job, instance) = (series % 4, series % 20);
            let labels = format!("job=\"job-{job}\",instance=\"10.0.0.{instance}:9100\",path=\"/api/{series}\"");
            writeln!(
                text,
                "metric_{}{{{labels}}} {value} {}",
                series % 3,
                T0 + step as i64 * 30
            )
            .unwrap();
        }
    }
    text.push_str("# EOF\n");
    text
}

#[test]
fn blocks_of_promtool_do_not_grow() {
    let promtool = Path::new("/usr/bin/promtool");
    if !promtool.exists() {
        eprintln!("SKIPPED: no promtool is installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("input"), dir.path().join("blocks"));
    Disk.create(&input).unwrap().append(open_metrics().as_bytes()).unwrap();
    let made = Command::new(promtool)
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([&input, &output])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let blocks = blocks(&output);
    assert_eq!(blocks.len(), 2, "two hours each");
    blocks.iter().for_each(|block| compare("promtool", block));
}
