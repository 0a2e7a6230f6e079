//! Blocks are written, opened and asked; answers equal those of a plain list of series.

use super::*;
use crate::{
    chunk::{CHUNK_SAMPLES, encode_floats},
    disk::Disk,
};
use futures::executor::block_on;
use model::{
    env::Fs,
    label::Labels,
    matcher::{MatchOp, Matcher},
    sample::SampleBuffer,
    select::{Chunk, Select, SelectError, SelectRequest},
    time::TimeRange,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};
use ulid::Ulid;

type Answer = Vec<(Labels, Vec<(i64, f64)>)>;
type Stored = BTreeMap<Labels, Vec<(i64, f64)>>;

const SPAN: i64 = 7_200_000;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::new(pairs.iter().copied()).unwrap()
}

fn pack(samples: &[(i64, f64)]) -> Vec<Chunk> {
    let pack = |part: &[(i64, f64)]| {
        encode_floats(
            &part.iter().map(|s| s.0).collect::<Vec<_>>(),
            &part.iter().map(|s| s.1).collect::<Vec<_>>(),
        )
    };
    samples.chunks(CHUNK_SAMPLES).map(pack).collect()
}

fn symbols(stored: &Stored) -> BTreeSet<String> {
    stored
        .keys()
        .flat_map(|labels| {
            labels
                .iter()
                .flat_map(|(n, v)| [n.to_owned(), v.to_owned()])
                .collect::<Vec<_>>()
        })
        .collect()
}

fn write(folder: &Path, stored: &Stored, segment_bytes_max: u64) -> BlockMeta {
    let meta = BlockMeta::new(Ulid::from_parts(1, 7), 0, SPAN)
        .with_thanos(BTreeMap::from([("tenant_id".to_owned(), "t".to_owned())]), "receive");
    let fs: Arc<dyn Fs> = Arc::new(Disk);
    let mut writer = BlockWriter::with_segment_size(fs, folder, meta, symbols(stored), segment_bytes_max).unwrap();
    for (labels, samples) in stored {
        writer.add_series(labels, &pack(samples)).unwrap();
    }
    writer.finish().unwrap().unwrap()
}

fn open(folder: &Path, meta: &BlockMeta) -> Block {
    Block::open(&Disk, &folder.join(meta.ulid.to_string())).unwrap()
}

/// Everything an answer holds.
fn read(select: &dyn Select, request: SelectRequest) -> Result<Answer, SelectError> {
    let range = request.range;
    let mut set = block_on(select.select(request))?;
    let mut found = Vec::new();
    while let Some(batch) = block_on(set.next()) {
        for series in batch? {
            let mut buffer = SampleBuffer::default();
            series.samples.read(range, &mut buffer)?;
            found.push((
                series.labels,
                buffer.timestamps.into_iter().zip(buffer.values).collect(),
            ));
        }
    }
    Ok(found)
}

fn expected(stored: &Stored, matchers: &[Matcher], range: TimeRange) -> Vec<(Labels, Vec<(i64, f64)>)> {
    let matching = stored
        .iter()
        .filter(|(labels, _)| matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or(""))));
    // A series is found when one of its chunks reaches into the range, even if no sample of it does.
    let reaches = matching.filter(|(_, samples)| {
        samples
            .chunks(CHUNK_SAMPLES)
            .any(|part| TimeRange::new(part[0].0, part[part.len() - 1].0).overlaps(range))
    });
    let inside = |samples: &Vec<(i64, f64)>| samples.iter().copied().filter(|(at, _)| range.contains(*at)).collect();
    reaches
        .map(|(labels, samples)| (labels.clone(), inside(samples)))
        .collect()
}

fn some_series(count: usize) -> Stored {
    let mut stored = Stored::new();
    for index in 0..count {
        let instance = format!("host-{:03}", index % 50);
        let path = format!("/api/{}", index / 50);
        let mut pairs = vec![("__name__", "requests_total"), ("instance", &instance), ("path", &path)];
        if index % 3 == 0 {
            pairs.push(("code", "500"));
        }
        let samples = (0..300i64)
            .map(|step| (step * 15_000 + index as i64, (step * index as i64) as f64))
            .collect();
        stored.insert(labels(&pairs), samples);
    }
    stored
}

#[test]
fn a_block_gives_back_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let stored = some_series(2500);
    // Small segments, so that there are several.
    let meta = write(dir.path(), &stored, 100_000);
    assert_eq!(meta.stats.num_series, 2500);
    assert_eq!(meta.stats.num_samples, 2500 * 300);
    assert_eq!(meta.stats.num_chunks, 2500 * 3);
    let thanos = meta.thanos.as_ref().unwrap();
    assert!(thanos.segment_files.len() > 3);
    assert_eq!(thanos.files.last().unwrap().rel_path, "meta.json");
    let names: Vec<String> = Disk
        .list(dir.path())
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(names, [meta.ulid.to_string()], "nothing temporary is left");
    let block = open(dir.path(), &meta);
    assert_eq!(block.meta(), &meta);
    let found = read(&block, SelectRequest::new(vec![], TimeRange::ALL)).unwrap();
    assert_eq!(found, expected(&stored, &[], TimeRange::ALL));
    let all: Vec<Labels> = found.into_iter().map(|(labels, _)| labels).collect();
    assert!(all.is_sorted());
}

#[test]
fn every_kind_of_matcher_means_what_prometheus_means() {
    let dir = tempfile::tempdir().unwrap();
    let stored = some_series(600);
    let block = open(dir.path(), &write(dir.path(), &stored, SEGMENT_BYTES_MAX));
    let texts = [
        "",
        "500",
        "host-003",
        "nope",
        ".*",
        ".+",
        "host-00[0-9]",
        "host-0.*",
        "(host-001|host-002|x)",
        "/api/.*",
        "|500",
        "/api/1?",
    ];
    let range = TimeRange::new(1_000_000, 2_000_000);
    let mut tried = 0;
    let ops = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];
    let mut singles = Vec::new();
    for name in ["instance", "path", "code", "absent"] {
        for op in ops {
            singles.extend(texts.iter().map(|text| Matcher::new(op, name, text).unwrap()));
        }
    }
    for (index, first) in singles.iter().enumerate() {
        for second in singles.iter().skip(index % 19).step_by(19) {
            let matchers = vec![first.clone(), second.clone()];
            let mut request = SelectRequest::new(matchers.clone(), range);
            request.labels_only = true;
            let found: Vec<Labels> = read(&block, request)
                .unwrap()
                .into_iter()
                .map(|(labels, _)| labels)
                .collect();
            let wanted: Vec<Labels> = expected(&stored, &matchers, range)
                .into_iter()
                .map(|(labels, _)| labels)
                .collect();
            assert_eq!(found, wanted, "{matchers:?}");
            let exact = block.index().matching_exactly(&matchers).unwrap();
            assert_eq!(
                exact.len(),
                expected(&stored, &matchers, TimeRange::ALL).len(),
                "{matchers:?}"
            );
            tried += 1;
        }
    }
    assert!(tried > 1000, "{tried}");
}

#[test]
fn expensive_expressions_are_tried_on_few_series_and_evaluated_for_many() {
    let dir = tempfile::tempdir().unwrap();
    // 1,000 values of one label, of which the index remembers every 32nd.
    let stored: Stored = (0..1000)
        .map(|index| {
            (
                labels(&[
                    ("__name__", "m"),
                    ("id", &format!("v{index:04}")),
                    ("job", &format!("j{}", index % 20)),
                ]),
                vec![(index, 1.0)],
            )
        })
        .collect();
    let block = open(dir.path(), &write(dir.path(), &stored, SEGMENT_BYTES_MAX));
    for (job, expression, rest) in [
        ("j3", "v.*5.|v0003", 1),
        ("j.*", ".*9", 0),
        ("j3", "v00.*", 1),
        ("j[0-9]+", "v00.*|w", 0),
    ] {
        let matchers = vec![
            Matcher::new(MatchOp::Regex, "job", job).unwrap(),
            Matcher::new(MatchOp::Regex, "id", expression).unwrap(),
        ];
        assert_eq!(
            block.index().matching(&matchers).unwrap().rest.len(),
            rest,
            "{matchers:?}"
        );
        let found = read(&block, SelectRequest::new(matchers.clone(), TimeRange::ALL)).unwrap();
        assert_eq!(found, expected(&stored, &matchers, TimeRange::ALL), "{matchers:?}");
    }
    for index in (0..1000).step_by(7) {
        let value = format!("v{index:04}");
        assert_eq!(
            block
                .index()
                .matching(&[Matcher::equal("id", &value)])
                .unwrap()
                .ids
                .len(),
            1
        );
        assert!(
            block
                .index()
                .matching(&[Matcher::equal("id", &format!("{value}x"))])
                .unwrap()
                .ids
                .is_empty()
        );
    }
}

#[test]
fn names_and_values_follow_the_matchers() {
    let dir = tempfile::tempdir().unwrap();
    let stored = some_series(600);
    let block = open(dir.path(), &write(dir.path(), &stored, SEGMENT_BYTES_MAX));
    let names = |matchers| block_on(block.label_names(matchers, TimeRange::ALL, 0)).unwrap().items;
    let values = |name: &str, matchers, limit| {
        block_on(block.label_values(name.into(), matchers, TimeRange::ALL, limit))
            .unwrap()
            .items
    };
    assert_eq!(names(vec![]), ["__name__", "code", "instance", "path"]);
    assert_eq!(
        names(vec![Matcher::equal("code", "")]),
        ["__name__", "instance", "path"]
    );
    assert_eq!(values("code", vec![], 0), ["500"]);
    assert_eq!(values("path", vec![], 2), ["/api/0", "/api/1"]);
    assert_eq!(values("path", vec![Matcher::equal("path", "/api/7")], 0), ["/api/7"]);
    // Few series: they are read. Many: the lists are walked.
    assert_eq!(
        values(
            "instance",
            vec![Matcher::equal("path", "/api/7"), Matcher::equal("instance", "host-009")],
            0
        ),
        ["host-009"]
    );
    assert_eq!(values("path", vec![Matcher::not_equal("code", "500")], 0).len(), 12);
    assert_eq!(values("code", vec![Matcher::equal("path", "none")], 0), [""; 0]);
    let outside = block_on(block.label_names(vec![], TimeRange::new(SPAN, SPAN * 2), 0)).unwrap();
    assert!(outside.items.is_empty());
}

#[test]
fn a_limit_and_a_range_bound_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let stored = some_series(100);
    let block = open(dir.path(), &write(dir.path(), &stored, SEGMENT_BYTES_MAX));
    let mut request = SelectRequest::new(vec![], TimeRange::ALL);
    request.limit = 7;
    assert_eq!(read(&block, request).unwrap().len(), 7);
    assert!(
        read(&block, SelectRequest::new(vec![], TimeRange::new(SPAN, i64::MAX)))
            .unwrap()
            .is_empty()
    );
    let range = TimeRange::new(600_000, 700_000);
    assert_eq!(
        read(&block, SelectRequest::new(vec![], range)).unwrap(),
        expected(&stored, &[], range)
    );
}

#[test]
fn the_writer_refuses_what_would_break_readers() {
    let dir = tempfile::tempdir().unwrap();
    let fs: Arc<dyn Fs> = Arc::new(Disk);
    let begin = || {
        let meta = BlockMeta::new(Ulid::from_parts(1, 7), 0, 1000);
        BlockWriter::create(fs.clone(), dir.path(), meta, ["a", "b", "c"]).unwrap()
    };
    let chunk = |from: i64| encode_floats(&[from, from + 10], &[1.0, 2.0]);
    let (a, b) = (labels(&[("a", "b")]), labels(&[("a", "c")]));
    let mut writer = begin();
    writer.add_series(&b, &[chunk(0)]).unwrap();
    assert!(
        writer
            .add_series(&a, &[chunk(0)])
            .unwrap_err()
            .to_string()
            .contains("not above")
    );
    drop(writer);
    assert!(
        Disk.list(dir.path()).unwrap().is_empty(),
        "an abandoned block leaves nothing"
    );
    assert!(
        begin()
            .add_series(&a, &[chunk(0), chunk(10)])
            .unwrap_err()
            .to_string()
            .contains("overlap")
    );
    assert!(
        begin()
            .add_series(&a, &[chunk(995)])
            .unwrap_err()
            .to_string()
            .contains("outside the block")
    );
    assert!(
        begin()
            .add_series(&labels(&[("a", "x")]), &[chunk(0)])
            .unwrap_err()
            .to_string()
            .contains("symbols")
    );
    assert!(begin().finish().unwrap().is_none());
    assert!(
        Disk.list(dir.path()).unwrap().is_empty(),
        "an empty block leaves nothing"
    );
    let meta = BlockMeta::new(Ulid::from_parts(1, 7), 0, 1000);
    assert!(BlockWriter::create(fs.clone(), dir.path(), meta, ["b", "a"]).is_err());
}

#[test]
fn deleted_samples_are_not_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let stored = some_series(3);
    let meta = write(dir.path(), &stored, SEGMENT_BYTES_MAX);
    let ids = open(dir.path(), &meta).index().matching(&[]).unwrap().ids;
    let mut tombstones = Tombstones::default();
    tombstones.add(ids[1], TimeRange::new(0, 1_000_000));
    tombstones.add(ids[1], TimeRange::new(3_000_000, 3_500_000));
    let path = dir.path().join(meta.ulid.to_string()).join(TOMBSTONES_FILE);
    Disk.remove_file(&path).unwrap();
    Disk.create(&path).unwrap().append(&tombstones.write()).unwrap();
    let block = open(dir.path(), &meta);
    let mut wanted = expected(&stored, &[], TimeRange::ALL);
    wanted[1]
        .1
        .retain(|(at, _)| !(..=1_000_000).contains(at) && !(3_000_000..=3_500_000).contains(at));
    assert_eq!(
        read(&block, SelectRequest::new(vec![], TimeRange::ALL)).unwrap(),
        wanted
    );
    let mut set = block_on(block.select(SelectRequest::new(vec![], TimeRange::ALL))).unwrap();
    let series = block_on(set.next()).unwrap().unwrap();
    let mut samples = SampleBuffer::default();
    for chunk in series[1].samples.chunks().unwrap() {
        crate::chunk::decode(chunk.encoding, &chunk.data, TimeRange::ALL, &mut samples).unwrap();
        assert_eq!(samples.timestamps.last(), Some(&chunk.max_time));
    }
    assert_eq!(
        samples.timestamps,
        wanted[1].1.iter().map(|(at, _)| *at).collect::<Vec<_>>()
    );
}

#[test]
fn leftovers_of_a_crash_are_removed_and_blocks_stay() {
    let dir = tempfile::tempdir().unwrap();
    let meta = write(dir.path(), &some_series(1), SEGMENT_BYTES_MAX);
    Disk.create_dir(&dir.path().join("x.tmp-for-creation/chunks")).unwrap();
    Disk.create_dir(&dir.path().join("y.tmp-for-deletion")).unwrap();
    assert_eq!(remove_leftovers(&Disk, dir.path()).unwrap().len(), 2);
    open(dir.path(), &meta);
    remove_block(&Disk, dir.path(), meta.ulid).unwrap();
    assert!(Disk.list(dir.path()).unwrap().is_empty());
}

/// Damages one byte of one file of a block after the other; whatever is read then is right or an error.
#[test]
fn damage_is_an_error_never_a_wrong_answer_or_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let stored = some_series(40);
    let meta = write(dir.path(), &stored, SEGMENT_BYTES_MAX);
    let folder = dir.path().join(meta.ulid.to_string());
    let wanted = expected(&stored, &[Matcher::equal("code", "500")], TimeRange::ALL);
    for (file, step) in [("index", 17), ("chunks/000001", 401), ("tombstones", 1)] {
        let path = folder.join(file);
        let intact = Disk.read(&path).unwrap();
        let mut noticed = 0;
        for at in (0..intact.len()).step_by(step) {
            let mut broken = intact.clone();
            broken[at] ^= 1 << (at % 8);
            replace(&path, &broken);
            noticed += usize::from(!check_damaged(&folder, &wanted));
            replace(&path, &intact[..at]);
            check_damaged(&folder, &wanted);
        }
        assert!(noticed > 0, "no damage of {file} was noticed");
    }
}

fn replace(path: &Path, bytes: &[u8]) {
    Disk.remove_file(path).unwrap();
    Disk.create(path).unwrap().append(bytes).unwrap();
}

/// Reads a damaged block; whether it read well.
fn check_damaged(folder: &Path, wanted: &[(Labels, Vec<(i64, f64)>)]) -> bool {
    let Ok(block) = Block::open(&Disk, folder) else {
        return false;
    };
    match read(
        &block,
        SelectRequest::new(vec![Matcher::equal("code", "500")], TimeRange::ALL),
    ) {
        Ok(found) => {
            assert_eq!(found, wanted);
            true
        }
        Err(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_series_come_back(
        series in proptest::collection::btree_map(
            proptest::collection::btree_map("[a-c]{1,2}", "[x-z]{1,3}|ä", 0..4),
            proptest::collection::btree_map(0i64..SPAN, any::<f64>(), 1..300),
            1..40,
        ),
        name in "[a-c]{1,2}", text in prop_oneof!["[x-z]{0,2}", Just("x.*".to_owned()), Just(".*z".to_owned()), Just("(x|y)z?".to_owned())], op in 0usize..4,
        range in (0i64..SPAN, 0i64..SPAN),
    ) {
        let stored: Stored = series.into_iter().map(|(pairs, samples)| {
            (Labels::new(pairs).unwrap(), samples.into_iter().collect())
        }).collect();
        let dir = tempfile::tempdir().unwrap();
        let block = open(dir.path(), &write(dir.path(), &stored, 3000));
        let op = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex][op];
        let matchers = vec![Matcher::new(op, &name, &text).unwrap()];
        let range = TimeRange::new(range.0.min(range.1), range.0.max(range.1));
        let found = read(&block, SelectRequest::new(matchers.clone(), range)).unwrap();
        let wanted = expected(&stored, &matchers, range);
        prop_assert_eq!(found.len(), wanted.len());
        for ((labels, samples), (labels_wanted, samples_wanted)) in found.iter().zip(&wanted) {
            prop_assert_eq!(labels, labels_wanted);
            let bits = |samples: &[(i64, f64)]| samples.iter().map(|(at, value)| (*at, value.to_bits())).collect::<Vec<_>>();
            prop_assert_eq!(bits(samples), bits(samples_wanted));
        }
    }
}
