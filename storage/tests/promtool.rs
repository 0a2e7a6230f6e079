//! Debian's promtool reads the blocks that are written here, and its blocks are read here, equal sample by sample.

use futures::executor::block_on;
use model::{
    env::Fs,
    label::Labels,
    sample::{STALE_NAN, SampleBuffer},
    select::{Select as _, SelectRequest},
    time::TimeRange,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Output},
    sync::Arc,
};
use storage::{
    block::{Block, BlockMeta, BlockWriter},
    chunk::encode_samples,
    disk::Disk,
};
use ulid::Ulid;

type Stored = BTreeMap<Labels, Vec<(i64, f64)>>;

/// Runs promtool; `None`, loudly, when there is none.
fn promtool(arguments: &[&str]) -> Option<Output> {
    match Command::new("promtool").args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("SKIPPED: promtool cannot be run: {error}");
            None
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A hundred series with every sort of value, over two hours from `start` on.
fn some_series(start: i64) -> Stored {
    let mut stored = Stored::new();
    for series in 0..100i64 {
        let pairs = [
            ("__name__", format!("metric_{}", series % 7)),
            ("instance", format!("host-{series}:9100")),
            ("quoted", "a \"quoted\" \\ line\nbreak, ünïcödé".to_owned()),
        ];
        let mut samples = Vec::new();
        let mut at = start + series;
        for step in 0..400i64 {
            at += if step % 50 == 0 { 1_234 + series } else { 15_000 };
            if step % 7 == 6 && series % 5 == 0 {
                continue;
            }
            let value = match series % 6 {
                0 => (step * series) as f64,
                1 => 1.5,
                2 => (step as f64 * 0.37).sin() * 1e300,
                3 if step == 100 => f64::INFINITY,
                3 => -(step as f64) / 3.0,
                4 if step == 200 => STALE_NAN,
                4 => f64::from_bits(step as u64),
                _ => f64::from_bits(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(step as u64 + 1) & 0xbfff_ffff_ffff_ffff),
            };
            samples.push((at, value));
        }
        samples.retain(|(at, _)| *at < start + 7_200_000);
        stored.insert(Labels::new(pairs).unwrap(), samples);
    }
    stored
}

fn write(folder: &Path, stored: &Stored, start: i64, number: u128) -> BlockMeta {
    let symbols: BTreeSet<String> = stored
        .keys()
        .flat_map(|labels| {
            labels
                .iter()
                .flat_map(|(n, v)| [n.to_owned(), v.to_owned()])
                .collect::<Vec<_>>()
        })
        .collect();
    let meta = BlockMeta::new(Ulid::from_parts(start as u64, number), start, start + 7_200_000)
        .with_thanos(BTreeMap::from([("tenant_id".to_owned(), "x".to_owned())]), "receive");
    let mut writer = BlockWriter::create(Arc::new(Disk) as Arc<dyn Fs>, folder, meta, symbols).unwrap();
    for (labels, samples) in stored {
        let mut buffer = SampleBuffer::default();
        samples.iter().for_each(|(at, value)| buffer.push_float(*at, *value));
        writer.add_series(labels, &encode_samples(&buffer)).unwrap();
    }
    writer.finish().unwrap().unwrap()
}

/// Takes a line of `tsdb dump` apart: labels as printed, value, time.
fn parse_line(line: &str) -> (String, f64, i64) {
    let (rest, at) = line.rsplit_once(' ').unwrap();
    let (labels, value) = rest.rsplit_once(' ').unwrap();
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        value => value.parse().unwrap(),
    };
    (labels.to_owned(), value, at.parse().unwrap())
}

fn bits(value: f64) -> u64 {
    // The tool prints every NaN alike.
    if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

#[test]
fn promtool_reads_our_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let start = 1_700_006_400_000;
    let mut stored = some_series(start);
    let meta = write(dir.path(), &stored, start, 1);
    // A second block, so that more than one is served; written beside the first, it holds the next two hours.
    let later = some_series(start + 7_200_000);
    write(dir.path(), &later, start + 7_200_000, 2);
    for (labels, samples) in later {
        stored.entry(labels).or_default().extend(samples);
    }
    // The tool expects a whole data folder.
    Disk.create_dir(&dir.path().join("wal")).unwrap();
    let folder = dir.path().to_str().unwrap();
    let Some(dump) = promtool(&["tsdb", "dump", folder]) else {
        return;
    };
    assert!(dump.status.success(), "{}", text(&dump.stderr));
    let mut dumped: BTreeMap<String, Vec<(i64, u64)>> = BTreeMap::new();
    for line in text(&dump.stdout).lines() {
        let (labels, value, at) = parse_line(line);
        dumped.entry(labels).or_default().push((at, bits(value)));
    }
    let mut expected: BTreeMap<String, Vec<(i64, u64)>> = BTreeMap::new();
    for (labels, samples) in &stored {
        expected.insert(
            go_text(labels),
            samples.iter().map(|(at, value)| (*at, bits(*value))).collect(),
        );
    }
    assert_eq!(dumped.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (labels, samples) in &expected {
        assert_eq!(&dumped[labels], samples, "{labels}");
    }
    let analyzed = promtool(&["tsdb", "analyze", folder, &meta.ulid.to_string()]).unwrap();
    let report = text(&analyzed.stdout);
    assert!(analyzed.status.success(), "{}", text(&analyzed.stderr));
    for line in [
        "Series: 100",
        "Label names: 3",
        "(unique label pairs): 108",
        "Postings entries (total label pairs): 300",
    ] {
        assert!(report.contains(line), "{line:?} is not in {report}");
    }
    let listed = promtool(&["tsdb", "list", folder]).unwrap();
    let row = text(&listed.stdout);
    let count = meta.stats.num_samples.to_string();
    assert!(
        row.lines()
            .any(|line| line.contains(&meta.ulid.to_string()) && line.contains(&count)),
        "{row}"
    );
}

/// A label set as Go quotes it.
fn go_text(labels: &Labels) -> String {
    let quote = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", quote(value)))
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

#[test]
fn we_read_promtools_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let mut exposition = String::from("# TYPE requests counter\n");
    let mut expected: BTreeMap<Labels, Vec<(i64, u64)>> = BTreeMap::new();
    for series in 0..50i64 {
        let pairs = [
            ("__name__", "requests_total".to_owned()),
            ("path", format!("/api/{series}")),
        ];
        let samples = expected.entry(Labels::new(pairs).unwrap()).or_default();
        for step in 0..300i64 {
            let (at, value) = (1_700_000_000 + step * 30, (step * series) as f64 + 0.5);
            exposition.push_str(&format!("requests_total{{path=\"/api/{series}\"}} {value} {at}\n"));
            samples.push((at * 1000, value.to_bits()));
        }
    }
    exposition.push_str("# TYPE odd gauge\n");
    for (step, value) in ["NaN", "+Inf", "-Inf", "0", "-0", "1e-300", "12345678.9"]
        .iter()
        .enumerate()
    {
        let at = 1_700_000_000 + step as i64 * 7;
        exposition.push_str(&format!("odd {value} {at}\n"));
        let value = bits(value.parse().unwrap());
        expected
            .entry(Labels::new([("__name__", "odd")]).unwrap())
            .or_default()
            .push((at * 1000, value));
    }
    exposition.push_str("# EOF\n");
    let input = dir.path().join("input");
    Disk.create(&input).unwrap().append(exposition.as_bytes()).unwrap();
    let blocks = dir.path().join("blocks");
    let arguments = [
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        input.to_str().unwrap(),
        blocks.to_str().unwrap(),
    ];
    let Some(made) = promtool(&arguments) else { return };
    assert!(made.status.success(), "{}", text(&made.stderr));
    let mut found: BTreeMap<Labels, Vec<(i64, u64)>> = BTreeMap::new();
    let mut opened = 0;
    for entry in Disk
        .list(&blocks)
        .unwrap()
        .into_iter()
        .filter(|entry| Ulid::from_string(&entry.name).is_ok())
    {
        let block = Block::open(&Disk, &blocks.join(entry.name)).unwrap();
        opened += 1;
        let mut set = block_on(block.select(SelectRequest::new(vec![], TimeRange::ALL))).unwrap();
        while let Some(batch) = block_on(set.next()) {
            for series in batch.unwrap() {
                let mut buffer = SampleBuffer::default();
                series.samples.read(TimeRange::ALL, &mut buffer).unwrap();
                let samples = buffer
                    .timestamps
                    .iter()
                    .zip(&buffer.values)
                    .map(|(at, value)| (*at, bits(*value)));
                found.entry(series.labels).or_default().extend(samples);
            }
        }
    }
    assert!(opened >= 2, "the samples stretch over a block border");
    found.values_mut().for_each(|samples| samples.sort_unstable());
    assert_eq!(found, expected);
}
