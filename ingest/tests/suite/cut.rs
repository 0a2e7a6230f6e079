//! From the head to the bucket: what is cut, when the head and the WAL let go, and what failures cost.

use crate::support::*;
use futures::TryStreamExt as _;
use ingest::{CutError, Ingester};
use model::{
    matcher::{MatchOp, Matcher},
    push::{SeriesId, WriteBatch},
    sample::{FloatSample, SampleBuffer},
    select::{BLOCK_ID, Select as _, SelectRequest, SelectTenants as _},
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp, block_start},
    verdict::{Reason, Verdict},
};
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, path::Path as ObjectPath};
use std::{collections::BTreeMap, path::Path, time::Duration};
use storage::{block::Block, bucket::list_blocks, disk::Disk};
use ulid::Ulid;

const TENANT: &str = "default-tenant";
const W0: Timestamp = block_start(NOW);
const W1: Timestamp = W0 + BLOCK_RANGE_MS;
const MINUTE: i64 = 60_000;

/// Samples each minute in `[begin, end)`.
fn minutes(begin: Timestamp, end: Timestamp) -> Vec<(Timestamp, f64)> {
    (begin..end)
        .step_by(MINUTE as usize)
        .map(|at| (at, (at / MINUTE) as f64 / 7.0))
        .collect()
}

/// Fetches the complete blocks of the bucket and opens them.
async fn bucket_blocks(world: &World, dir: &Path) -> BTreeMap<Ulid, Block> {
    let mut blocks = BTreeMap::new();
    for (ulid, listing) in list_blocks(&*world.bucket).await.unwrap() {
        assert!(listing.is_complete(), "{ulid} is half a block");
        let objects: Vec<_> = world
            .bucket
            .list(Some(&ObjectPath::from(ulid.to_string())))
            .try_collect()
            .await
            .unwrap();
        for object in objects {
            let path = dir.join(object.location.as_ref());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let bytes = world.bucket.get(&object.location).await.unwrap().bytes().await.unwrap();
            #[expect(clippy::disallowed_methods, reason = "the test's own files")]
            std::fs::write(&path, bytes).unwrap();
        }
        blocks.insert(ulid, Block::open(&Disk, &dir.join(ulid.to_string())).unwrap());
    }
    blocks
}

async fn block_content(block: &Block) -> Content {
    let mut set = block.select(SelectRequest::new(vec![], TimeRange::ALL)).await.unwrap();
    let mut content = Content::new();
    while let Some(batch) = set.next().await {
        for series in batch.unwrap() {
            let mut buffer = Default::default();
            series.samples.read(TimeRange::ALL, &mut buffer).unwrap();
            let bits = buffer.values.iter().map(|value| value.to_bits());
            let samples = buffer.timestamps.iter().copied().zip(bits).collect();
            content.insert(series.labels.to_string(), samples);
        }
    }
    content
}

/// All samples in the bucket, each exactly once.
async fn bucket_content(world: &World) -> Content {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Content::new();
    for block in bucket_blocks(world, dir.path()).await.values() {
        for (labels, samples) in block_content(block).await {
            let joined = all.entry(labels).or_default();
            for (at, bits) in samples {
                assert_eq!(joined.insert(at, bits), None, "a sample is in two blocks");
            }
        }
    }
    all
}

fn settle(world: &mut World) {
    world.settings.maintenance_interval = Duration::from_millis(10);
    world.settings.cut_quiet = Duration::ZERO;
}

async fn wait_for_blocks(world: &World, count: usize) {
    for _ in 0..2000 {
        let listed = list_blocks(&*world.bucket).await.unwrap();
        if listed.values().filter(|listing| listing.is_complete()).count() >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("there are no {count} blocks in the bucket");
}

fn wal_files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir.join("wal"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn local_blocks(dir: &Path) -> usize {
    let is_block = |name: &str| Ulid::from_string(name).is_ok();
    std::fs::read_dir(dir.join("blocks"))
        .unwrap()
        .filter(|e| is_block(e.as_ref().unwrap().file_name().to_str().unwrap()))
        .count()
}

#[tokio::test]
async fn a_window_that_is_over_becomes_an_aligned_block_of_each_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on_disk(dir.path());
    settle(&mut world);
    world.settings.external_labels = vec![("region".into(), "north".into())];
    world.settings.replica = "r7".into();
    let ingester = world.open().await;
    let samples = minutes(W0, W1 + 70 * MINUTE);
    let all = [(series(1), &samples[..]), (series(2), &samples[..])];
    push(&ingester, &batch(&all)).await;
    push(&ingester, &batch_of("other", &all[..1])).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        list_blocks(&*world.bucket).await.unwrap().len(),
        0,
        "an hour must pass first"
    );
    world.clock.set(W1 + 60 * MINUTE);
    wait_for_blocks(&world, 2).await;
    wait_until("the write-ahead log let go", || {
        wal_files(dir.path()).iter().any(|name| name.ends_with(".image"))
    })
    .await;

    let fetched = tempfile::tempdir().unwrap();
    let blocks = bucket_blocks(&world, fetched.path()).await;
    assert_eq!(blocks.len(), 2);
    for block in blocks.values() {
        let meta = block.meta();
        assert_eq!((meta.min_time, meta.max_time), (W0, W1));
        let thanos = meta.thanos.as_ref().unwrap();
        assert_eq!(thanos.source, "receive");
        let tenant = thanos.labels["tenant_id"].as_str();
        let expected_labels = [("region", "north"), ("replica", "r7"), ("tenant_id", tenant)];
        assert_eq!(
            thanos
                .labels
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect::<Vec<_>>(),
            expected_labels
        );
        assert_eq!(
            (meta.compaction.level, meta.compaction.sources.as_slice()),
            (1, &[meta.ulid][..])
        );
        let part: Vec<_> = all
            .iter()
            .map(|(labels, samples)| (labels.clone(), &samples[..120]))
            .collect();
        let expected_content = if tenant == "other" {
            expected(&part[..1])
        } else {
            expected(&part)
        };
        assert_eq!(block_content(block).await, expected_content);
    }
    assert_eq!(
        content(&ingester, TENANT).await,
        expected(&all),
        "queries see no difference"
    );
    let again = push(&ingester, &batch(&all)).await;
    assert!(
        again
            .exceptions
            .iter()
            .all(|exception| exception.verdict == Verdict::Duplicate),
        "nor do senders"
    );
    assert_eq!(again.exceptions.len(), 380);
    let other_value = push(&ingester, &batch(&[(series(1), &[(W0 + MINUTE, 9.9), (W0 + 1, 1.0)])])).await;
    let reasons: Vec<_> = other_value
        .exceptions
        .iter()
        .map(|exception| exception.verdict)
        .collect();
    assert_eq!(
        reasons,
        [Reason::DuplicateTimestamp, Reason::TooOld].map(Verdict::Rejected)
    );

    ingester.shutdown().await;
    drop(ingester);
    let ingester = world.open().await;
    assert_eq!(
        content(&ingester, TENANT).await,
        expected(&all),
        "image and segments give back the rest"
    );
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        list_blocks(&*world.bucket).await.unwrap().len(),
        2,
        "nothing is cut twice"
    );
    ingester.shutdown().await;
}

/// A query takes its list of blocks before it reads the head. What is cut in between must not be lost to it.
#[tokio::test]
async fn a_query_that_runs_across_a_cut_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let samples = minutes(W0 - 30 * MINUTE, W0 + 30 * MINUTE);
    let all = [(series(1), &samples[..]), (series(2), &samples[..])];
    push(&ingester, &batch(&all)).await;
    let select = ingester.tenant(&Tenant::new(TENANT).unwrap());
    let request = SelectRequest::new(vec![Matcher::not_equal("__name__", "")], TimeRange::ALL);
    let begun = select.select(request).await.unwrap();
    assert_eq!(ingester.cut_now().await.unwrap().len(), 2);
    assert_eq!(content_of(begun, TimeRange::ALL).await, expected(&all));
    assert_eq!(content(&ingester, TENANT).await, expected(&all));
    ingester.shutdown().await;
}

#[tokio::test]
async fn cut_now_puts_everything_into_the_bucket_once() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let samples = minutes(W0 - 30 * MINUTE, W0 + 90 * MINUTE);
    push(&ingester, &batch(&[(series(1), &samples[..60]), (series(2), &samples)])).await;
    let blocks = ingester.cut_now().await.unwrap();
    let spans: Vec<_> = blocks
        .iter()
        .map(|block| (block.min_time, block.max_time, block.samples, block.series))
        .collect();
    assert_eq!(
        spans,
        [(W0 - BLOCK_RANGE_MS, W0, 60, 2), (W0, W0 + 89 * MINUTE + 1, 120, 2)]
    );
    assert_eq!(ingester.cut_now().await.unwrap(), [], "there is nothing more");
    assert_eq!(
        bucket_content(&world).await,
        expected(&[(series(1), &samples[..60]), (series(2), &samples)])
    );
    // The series goes on in the same window.
    push(&ingester, &batch(&[(series(1), &samples[60..])])).await;
    let all = [(series(1), &samples[..]), (series(2), &samples[..])];
    assert_eq!(content(&ingester, TENANT).await, expected(&all));
    assert_eq!(ingester.cut_now().await.unwrap().len(), 1);
    assert_eq!(bucket_content(&world).await, expected(&all));
    assert_eq!(
        content(&ingester, TENANT).await,
        expected(&all),
        "local blocks stay for queries"
    );
    ingester.shutdown().await;
    drop(ingester);
    let ingester = world.open().await;
    assert_eq!(content(&ingester, TENANT).await, expected(&all));
    assert_eq!(ingester.cut_now().await.unwrap(), []);
    let again = push(&ingester, &batch(&all)).await;
    assert_eq!(again.exceptions.len(), 240);
    assert!(
        again
            .exceptions
            .iter()
            .all(|exception| exception.verdict == Verdict::Duplicate)
    );
}

#[tokio::test]
async fn who_names_blocks_reads_what_lies_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let samples = minutes(W0 - 30 * MINUTE, W0 + 90 * MINUTE);
    push(&ingester, &batch(&[(series(1), &samples[..60])])).await;
    let blocks = ingester.cut_now().await.unwrap();
    let ids: Vec<String> = blocks.iter().map(|block| block.ulid.to_string()).collect();
    push(&ingester, &batch(&[(series(1), &samples[60..])])).await;
    let select = ingester.tenant(&Tenant::default());
    let read = async |op, id: &str| {
        let mut request = SelectRequest::new(vec![], TimeRange::ALL);
        request.blocks = vec![Matcher::new(op, BLOCK_ID, id).unwrap()];
        let mut set = select.select(request).await.unwrap();
        let mut buffer = SampleBuffer::default();
        while let Some(batch) = set.next().await {
            for series in batch.unwrap() {
                series.samples.read(TimeRange::ALL, &mut buffer).unwrap();
            }
        }
        (buffer.timestamps.len(), set.blocks())
    };
    assert_eq!(read(MatchOp::Equal, &ids[0]).await, (30, ids[..1].to_vec()));
    assert_eq!(read(MatchOp::NotEqual, &ids[0]).await, (90, ids[1..].to_vec()));
    assert_eq!(read(MatchOp::Equal, "").await, (60, vec![]), "the head is no block");
    assert_eq!(read(MatchOp::Equal, "another").await, (0, vec![]));
}

#[tokio::test]
async fn local_blocks_go_when_readers_of_the_bucket_had_time() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let samples = minutes(W0, W0 + 60 * MINUTE);
    push(&ingester, &batch(&[(series(1), &samples)])).await;
    ingester.cut_now().await.unwrap();
    world.clock.set(NOW + 29 * MINUTE);
    ingester.cut_now().await.unwrap();
    assert_eq!(local_blocks(dir.path()), 1);
    world.clock.set(NOW + 118 * MINUTE);
    ingester.cut_now().await.unwrap();
    assert_eq!(local_blocks(dir.path()), 1, "its samples may be sent again");
    world.clock.set(NOW + 121 * MINUTE);
    ingester.cut_now().await.unwrap();
    assert_eq!(local_blocks(dir.path()), 0);
    assert_eq!(content(&ingester, TENANT).await, Content::new(), "the bucket has it");
    assert_eq!(bucket_content(&world).await, expected(&[(series(1), &samples)]));
    let late = push(&ingester, &batch(&[(series(1), &[(W0 + 59 * MINUTE, samples[59].1)])])).await;
    assert_eq!(
        late.exceptions[0].verdict,
        Verdict::Duplicate,
        "the newest sample is still known"
    );
    // Series without samples leave the head once nothing of theirs would be taken any more.
    world.clock.set(NOW + 8 * 12 * BLOCK_RANGE_MS);
    ingester.cut_now().await.unwrap();
    let select = model::select::SelectTenants::tenant(&*ingester, &Default::default());
    assert_eq!(
        select.label_names(vec![], TimeRange::ALL, 0).await.unwrap().items.len(),
        0
    );
}

#[tokio::test]
async fn a_bucket_that_is_away_costs_nothing_but_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on_disk(dir.path());
    world.settings.segment_bytes_max = 1000;
    let good = world.bucket.clone();
    // A file in place of a folder refuses every write below it.
    let refusing = tempfile::tempdir().unwrap();
    let store = object_store::local::LocalFileSystem::new_with_prefix(refusing.path()).unwrap();
    std::fs::remove_dir_all(refusing.path()).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the test's own files")]
    std::fs::write(refusing.path(), "in the way").unwrap();
    world.bucket = std::sync::Arc::new(store);
    let ingester = world.open().await;
    let mut all = Vec::new();
    for window in 0..5 {
        let part = minutes(W0 + window * BLOCK_RANGE_MS, W0 + window * BLOCK_RANGE_MS + 60 * MINUTE);
        push(&ingester, &batch(&[(series(1), &part), (series(2), &part)])).await;
        all.extend(part);
        world.clock.set(W0 + (window + 1) * BLOCK_RANGE_MS);
        let Err(CutError::Incomplete { failures, blocks }) = ingester.cut_now().await else {
            panic!("the bucket took something");
        };
        assert_eq!(blocks, []);
        assert_eq!(failures.len(), window as usize + 1, "{failures:?}");
        assert!(
            !wal_files(dir.path()).iter().any(|name| name.ends_with(".image")),
            "the log is kept"
        );
        assert!(wal_files(dir.path()).contains(&"00000001.wal".to_owned()));
    }
    let whole = [(series(1), &all[..]), (series(2), &all[..])];
    assert_eq!(content(&ingester, TENANT).await, expected(&whole));
    ingester.shutdown().await;
    drop(ingester);
    world.bucket = good;
    let ingester = world.open().await;
    assert_eq!(content(&ingester, TENANT).await, expected(&whole));
    assert_eq!(
        ingester.cut_now().await.unwrap().len(),
        5,
        "what waited goes up, and nothing is cut again"
    );
    assert_eq!(bucket_content(&world).await, expected(&whole));
    assert!(
        !wal_files(dir.path()).contains(&"00000001.wal".to_owned()),
        "now the log lets go"
    );
    assert_eq!(content(&ingester, TENANT).await, expected(&whole));
}

#[tokio::test]
async fn a_damaged_block_is_set_aside_and_cut_again_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on_disk(dir.path());
    let good = world.bucket.clone();
    let refusing = tempfile::NamedTempFile::new().unwrap();
    let below = refusing.path().parent().unwrap();
    world.bucket = std::sync::Arc::new(object_store::prefix::PrefixStore::new(
        object_store::local::LocalFileSystem::new_with_prefix(below).unwrap(),
        refusing.path().file_name().unwrap().to_str().unwrap(),
    ));
    let ingester = world.open().await;
    let samples = minutes(W0, W0 + 60 * MINUTE);
    push(&ingester, &batch(&[(series(1), &samples)])).await;
    assert!(ingester.cut_now().await.is_err());
    ingester.shutdown().await;
    drop(ingester);
    let block = std::fs::read_dir(dir.path().join("blocks"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.is_dir());
    #[expect(clippy::disallowed_methods, reason = "the test's own files")]
    std::fs::write(block.unwrap().join("index"), "damaged").unwrap();
    world.bucket = good;
    let ingester = world.open().await;
    assert_eq!(content(&ingester, TENANT).await, expected(&[(series(1), &samples)]));
    assert_eq!(ingester.cut_now().await.unwrap().len(), 1);
    assert_eq!(bucket_content(&world).await, expected(&[(series(1), &samples)]));
    assert_eq!(
        std::fs::read_dir(dir.path().join("blocks/quarantine")).unwrap().count(),
        2,
        "the block and the reason"
    );
}

#[tokio::test]
async fn an_upload_that_was_cut_short_is_finished_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let samples = minutes(W0, W0 + 60 * MINUTE);
    push(&ingester, &batch(&[(series(1), &samples)])).await;
    let ulid = ingester.cut_now().await.unwrap()[0].ulid;
    ingester.shutdown().await;
    drop(ingester);
    // As if the process had ended between the upload and the note of it, and the description had not arrived.
    let meta = ObjectPath::from(format!("{ulid}/meta.json"));
    world.bucket.delete(&meta).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "the test's own files")]
    std::fs::remove_file(dir.path().join("blocks/shipped.json")).unwrap();
    let chunks = ObjectPath::from(format!("{ulid}/chunks/000001"));
    let before = world.bucket.head(&chunks).await.unwrap().e_tag;
    let ingester = world.open().await;
    assert_eq!(ingester.cut_now().await.unwrap()[0].ulid, ulid);
    assert!(world.bucket.head(&meta).await.is_ok());
    assert_eq!(
        world.bucket.head(&chunks).await.unwrap().e_tag,
        before,
        "chunks were not sent again"
    );
    assert_eq!(bucket_content(&world).await, expected(&[(series(1), &samples)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_go_on_while_blocks_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on_disk(dir.path());
    world.settings.segment_bytes_max = 50_000;
    let ingester = world.open().await;
    let cutting = std::sync::Arc::clone(&ingester);
    #[expect(clippy::disallowed_methods, reason = "a real task beside the test")]
    let cutter = tokio::spawn(async move {
        let mut blocks = 0;
        for _ in 0..15 {
            blocks += cutting.cut_now().await.unwrap().len();
        }
        blocks
    });
    let mut refs = Vec::new();
    let mut all: Vec<Vec<(Timestamp, f64)>> = vec![Vec::new(); 200];
    for step in 0..400i64 {
        let at = W0 + step * MINUTE;
        let mut batch = WriteBatch::default();
        for (number, samples) in all.iter_mut().enumerate() {
            let value = (step * number as i64) as f64 / 3.0;
            samples.push((at, value));
            batch.floats.push(FloatSample { at, value, start: 0 });
            batch.finish_series(match refs.get(number) {
                Some(known) => SeriesId::Known(*known),
                None => SeriesId::New(series(number)),
            });
        }
        let outcome = push_at(&ingester, &batch, at).await;
        assert!(outcome.exceptions.is_empty() && outcome.unknown.is_empty());
        if refs.is_empty() {
            refs = outcome.refs.iter().map(|(_, series_ref)| *series_ref).collect();
        }
    }
    assert!(cutter.await.unwrap() > 0);
    ingester.cut_now().await.unwrap();
    let whole: Vec<_> = all
        .iter()
        .enumerate()
        .map(|(number, samples)| (series(number), &samples[..]))
        .collect();
    assert_eq!(content(&ingester, TENANT).await, expected(&whole));
    assert_eq!(bucket_content(&world).await, expected(&whole));
    ingester.shutdown().await;
    drop(ingester);
    assert_eq!(content(&*world.open().await, TENANT).await, expected(&whole));
}

async fn push_at(ingester: &Ingester, batch: &WriteBatch, at: Timestamp) -> model::push::WriteOutcome {
    model::push::Push::push(ingester, batch, at).await.unwrap()
}

#[tokio::test]
async fn foreign_objects_in_the_bucket_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let foreign = ObjectPath::from("debug/notes.txt");
    world.bucket.put(&foreign, PutPayload::from("mine")).await.unwrap();
    let ingester = world.open().await;
    push(&ingester, &batch(&[(series(1), &minutes(W0, W0 + MINUTE))])).await;
    ingester.cut_now().await.unwrap();
    assert_eq!(world.bucket.get(&foreign).await.unwrap().bytes().await.unwrap(), "mine");
}
