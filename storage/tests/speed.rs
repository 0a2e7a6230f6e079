//! How fast it is; no test of right or wrong. Run with
//! `cargo test --release -p storage --test speed -- --ignored --nocapture --test-threads 1`.
#![expect(clippy::disallowed_methods, reason = "measures real time")]

use futures::executor::block_on;
use model::{
    label::{Labels, LabelsBuilder},
    matcher::{MatchOp, Matcher},
    sample::SampleBuffer,
    select::{Chunk, Select as _, SelectRequest},
    time::TimeRange,
};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use storage::{
    block::{Block, BlockMeta, BlockWriter},
    chunk::{ENCODING_XOR, XOR_APPEND_ROOM, XorAppender, decode, encode_floats},
    disk::Disk,
};
use ulid::Ulid;

/// Numbers that look random and are the same each time.
struct Mixer(u64);

impl Mixer {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// The fastest of several runs: what others do on the machine only makes it slower.
fn fastest(times: usize, mut run: impl FnMut()) -> Duration {
    let one = |_| {
        let begin = Instant::now();
        run();
        begin.elapsed()
    };
    (0..times).map(one).min().unwrap()
}

fn chunk_of(kind: &str, mixer: &mut Mixer) -> Chunk {
    let (mut times, mut values, mut value) = (Vec::new(), Vec::new(), mixer.next() as f64);
    for index in 0..120i64 {
        value = match kind {
            "constant" => value,
            "steady counter" => value + 15.0,
            "random counter" => value + (mixer.next() % 20) as f64,
            "gauge" => value + 4096.0 * (mixer.next() % 7) as f64 - 3.0 * 4096.0,
            _ => mixer.next() as f64 / 1e7,
        };
        times.push(1_700_000_000_000 + index * 15_000 + i64::from(index % 20 == 0));
        values.push(value);
    }
    encode_floats(&times, &values)
}

#[test]
#[ignore = "measures time"]
fn xor_chunks() {
    let mut mixer = Mixer(1);
    for kind in ["constant", "steady counter", "random counter", "gauge", "noise", "mix"] {
        let mix = [
            "constant",
            "constant",
            "random counter",
            "random counter",
            "random counter",
            "gauge",
            "noise",
        ];
        let chunks: Vec<Chunk> = (0..200)
            .map(|n| chunk_of(if kind == "mix" { mix[n % mix.len()] } else { kind }, &mut mixer))
            .collect();
        let bytes: usize = chunks.iter().map(|chunk| chunk.data.len()).sum();
        let mut out = SampleBuffer::default();
        let best = fastest(500, || {
            for chunk in &chunks {
                out.clear();
                decode(ENCODING_XOR, &chunk.data, TimeRange::ALL, &mut out).unwrap();
            }
        });
        let samples = 24_000.0;
        eprintln!(
            "decode {kind}: {:.2} ns, {:.2} B a sample",
            best.as_nanos() as f64 / samples,
            bytes as f64 / samples
        );
    }
    let mut place = vec![0; 4096 + XOR_APPEND_ROOM];
    let best = fastest(500, || {
        for _ in 0..200 {
            let mut appender = XorAppender::new();
            for index in 0..120i64 {
                appender.append_in(&mut place, 1_700_000_000_000 + index * 15_000, (index * index) as f64);
            }
            std::hint::black_box(&place);
        }
    });
    eprintln!("append: {:.2} ns a sample", best.as_nanos() as f64 / 24_000.0);
}

/// 100,000 series with ten labels each, as a cluster of hosts has them.
fn population() -> Vec<Labels> {
    let mut all = Vec::new();
    let mut builder = LabelsBuilder::default();
    for host in 0..200 {
        for series in 0..500 {
            builder.push("__name__", &format!("node_metric_{:03}_total", series / 4));
            builder.push("cluster", "production-eu-1");
            builder.push("cpu", &(series % 4).to_string());
            builder.push("datacenter", &format!("dc-{}", host % 4));
            builder.push("environment", "production");
            builder.push("instance", &format!("host-{host:04}.example.internal:9100"));
            builder.push("job", "node-exporter");
            builder.push("mode", ["idle", "user", "system", "iowait"][series % 4]);
            builder.push("rack", &format!("rack-{:02}", host % 40));
            builder.push("team", "infrastructure");
            all.push(builder.build().unwrap());
        }
    }
    all.sort();
    all
}

#[test]
#[ignore = "measures time"]
fn blocks() {
    let all = population();
    let symbols: BTreeSet<&str> = all
        .iter()
        .flat_map(|labels| labels.iter().flat_map(|(n, v)| [n, v]))
        .collect();
    let mut mixer = Mixer(1);
    let chunk = chunk_of("random counter", &mut mixer);
    let dir = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let meta = BlockMeta::new(Ulid::from_parts(1, 1), chunk.min_time, chunk.max_time + 1);
    let mut writer = BlockWriter::create(Arc::new(Disk), dir.path(), meta, &symbols).unwrap();
    for labels in &all {
        writer.add_series(labels, std::slice::from_ref(&chunk)).unwrap();
    }
    let meta = writer.finish().unwrap().unwrap();
    eprintln!("write {} series: {:?}", all.len(), begin.elapsed());
    let folder = dir.path().join(meta.ulid.to_string());
    let block = Block::open(&Disk, &folder).unwrap();
    eprintln!(
        "open: {:?}, index {} B a series",
        fastest(20, || drop(Block::open(&Disk, &folder).unwrap())),
        block.index().size() / all.len() as u64
    );
    let regex = |name: &str, value: &str| Matcher::new(MatchOp::Regex, name, value).unwrap();
    let cases = [
        ("one metric", vec![Matcher::equal("__name__", "node_metric_007_total")]),
        (
            "one host, regex on name",
            vec![regex("__name__", "node.*_1.*"), regex("instance", "host-0007.*")],
        ),
        ("everything", vec![regex("__name__", ".+")]),
        ("everything by scanning", vec![regex("__name__", ".*total")]),
        (
            "all but one mode",
            vec![
                Matcher::not_equal("mode", "idle"),
                Matcher::equal("job", "node-exporter"),
            ],
        ),
    ];
    for (name, matchers) in cases {
        let find = fastest(10, || drop(block.index().matching(&matchers).unwrap()));
        let (mut series, mut samples) = (0, 0);
        let read = fastest(3, || {
            (series, samples) = (0, 0);
            let mut set = block_on(block.select(SelectRequest::new(matchers.clone(), TimeRange::ALL))).unwrap();
            let mut buffer = SampleBuffer::default();
            while let Some(batch) = block_on(set.next()) {
                for found in batch.unwrap() {
                    buffer.clear();
                    found.samples.read(TimeRange::ALL, &mut buffer).unwrap();
                    (series, samples) = (series + 1, samples + buffer.len());
                }
            }
        });
        eprintln!("{name}: {series} series, {samples} samples; match {find:?}, read all {read:?}");
    }
}
