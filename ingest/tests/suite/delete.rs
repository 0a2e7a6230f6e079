//! Deletions: gone at once, gone after a crash, gone from what is uploaded; what comes afterwards stays.

use crate::support::*;
use ingest::Ingester;
use model::{
    admin::{Administer as _, Deleted},
    env::memory::MemoryFs,
    matcher::{MatchOp, Matcher},
    push::Push as _,
    select::{SelectRequest, SelectTenants as _},
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp, block_start},
    verdict::Verdict,
};
use std::{path::Path, time::Duration};
use storage::{block::Block, bucket::list_blocks, disk::Disk};
use ulid::Ulid;

const TENANT: &str = "default-tenant";
const W0: Timestamp = block_start(NOW);
const MINUTE: i64 = 60_000;

fn minutes(begin: Timestamp, end: Timestamp) -> Vec<(Timestamp, f64)> {
    (begin..end)
        .step_by(MINUTE as usize)
        .map(|at| (at, (at / MINUTE) as f64 / 7.0))
        .collect()
}

fn of_series(number: usize) -> Vec<Vec<Matcher>> {
    vec![vec![Matcher::equal("series", &number.to_string())]]
}

async fn delete(ingester: &Ingester, selectors: Vec<Vec<Matcher>>, range: TimeRange) -> Deleted {
    ingester
        .delete_series(&Tenant::default(), selectors, range)
        .await
        .unwrap()
}

fn local_blocks(folder: &Path) -> Vec<Block> {
    let mut blocks = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Ulid::from_string(&name).is_ok() {
            blocks.push(Block::open(&Disk, &folder.join(name)).unwrap());
        }
    }
    blocks.sort_by_key(|block| block.meta().min_time);
    blocks
}

#[tokio::test]
async fn what_is_deleted_in_the_head_is_gone_and_what_comes_afterwards_stays() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let mut ingester = world.open().await;
    let now = W0 + 100 * MINUTE;
    let all = minutes(W0, now);
    // Some in order, some late, one series for a bystander.
    for part in [&all[50..], &all[..50]] {
        let both = batch(&[(series(1), part), (series(2), &all)]);
        ingester.push(&both, now).await.unwrap();
    }
    push(&ingester, &batch_of("other", &[(series(1), &all)])).await;
    let range = TimeRange::new(all[20].0, all[69].0);
    let deleted = delete(&ingester, of_series(1), range).await;
    assert_eq!(
        deleted,
        Deleted {
            series: 1,
            unreached: vec![]
        }
    );
    assert_eq!(delete(&ingester, of_series(1), range).await.series, 0, "once is enough");
    assert_eq!(
        delete(&ingester, vec![], TimeRange::ALL).await.series,
        0,
        "no selector, nothing deleted"
    );
    let left: Vec<_> = all[..20].iter().chain(&all[70..]).copied().collect();
    let expected_left = expected(&[(series(1), &left), (series(2), &all)]);
    for _ in 0..2 {
        assert_eq!(content(&ingester, TENANT).await, expected_left);
        assert_eq!(content(&ingester, "other").await, expected(&[(series(1), &all)]));
        ingester.shutdown().await;
        drop(ingester);
        ingester = world.open().await;
    }
    // The same timestamps with other values are new samples.
    let again: Vec<_> = all[30..40].iter().map(|&(at, value)| (at, value + 1.0)).collect();
    let outcome = ingester.push(&batch(&[(series(1), &again)]), now).await.unwrap();
    assert_eq!(outcome.exceptions, []);
    // All of a series, its newest sample too; then its newest sample once more.
    let newest = *all.last().unwrap();
    assert_eq!(delete(&ingester, of_series(2), TimeRange::ALL).await.series, 1);
    let outcome = ingester.push(&batch(&[(series(2), &[newest])]), now).await.unwrap();
    assert_eq!(outcome.exceptions, [], "it is a new sample");
    let left: Vec<_> = all[..20].iter().chain(&again).chain(&all[70..]).copied().collect();
    let expected_left = expected(&[(series(1), &left), (series(2), &[newest])]);
    for _ in 0..3 {
        assert_eq!(content(&ingester, TENANT).await, expected_left);
        let known = ingester.push(&batch(&[(series(2), &[newest])]), now).await.unwrap();
        assert_eq!(known.exceptions[0].verdict, Verdict::Duplicate);
        ingester.shutdown().await;
        ingester.shutdown().await;
        drop(ingester);
        ingester = world.open().await;
    }
    ingester.cut_now().await.unwrap();
    assert_eq!(content(&ingester, TENANT).await, expected_left);
    ingester.shutdown().await;
}

#[tokio::test]
async fn a_block_that_waits_is_uploaded_without_what_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on_disk(dir.path());
    let bucket = std::mem::replace(&mut world.bucket, refusing_bucket());
    let ingester = world.open().await;
    let now = W0 + 100 * MINUTE;
    let all = minutes(W0, now);
    push(
        &ingester,
        &batch(&[(series(1), &all), (series(2), &all), (series(3), &all)]),
    )
    .await;
    ingester.cut_now().await.unwrap_err();
    let folder = dir.path().join("blocks");
    assert_eq!(local_blocks(&folder).len(), 1);

    let cut_off = TimeRange::new(i64::MIN, all[59].0);
    assert_eq!(
        delete(&ingester, of_series(1), cut_off).await.series,
        2,
        "head and block"
    );
    assert_eq!(delete(&ingester, of_series(2), TimeRange::ALL).await.series, 2);
    let left = expected(&[(series(1), &all[60..]), (series(3), &all)]);
    assert_eq!(content(&ingester, TENANT).await, left);
    let select = ingester.tenant(&Tenant::default());
    let mut request = SelectRequest::new(vec![Matcher::not_equal("__name__", "")], TimeRange::ALL);
    request.labels_only = true;
    let mut set = select.select(request).await.unwrap();
    let mut listed = 0;
    while let Some(batch) = set.next().await {
        listed += batch.unwrap().len();
    }
    assert_eq!(listed, 2, "a series without samples is none");
    ingester.shutdown().await;
    drop(ingester);
    let ingester = world.open().await;
    assert_eq!(content(&ingester, TENANT).await, left, "also after a crash");
    assert_eq!(local_blocks(&folder)[0].tombstones().count(), 2);
    ingester.clean_tombstones(&Tenant::default()).await.unwrap();
    let blocks = local_blocks(&folder);
    assert_eq!((blocks.len(), blocks[0].tombstones().count()), (1, 0));
    assert_eq!(blocks[0].meta().stats.num_samples, 140);
    assert_eq!(content(&ingester, TENANT).await, left);
    let rest = vec![vec![Matcher::new(MatchOp::Regex, "series", "1|3").unwrap()]];
    assert_eq!(
        delete(&ingester, rest, TimeRange::new(now - MINUTE, now)).await.series,
        2
    );
    let left = expected(&[(series(1), &all[60..99]), (series(3), &all[..99])]);
    assert_eq!(content(&ingester, TENANT).await, left);
    ingester.shutdown().await;
    ingester.shutdown().await;
    drop(ingester);

    world.bucket = bucket;
    let ingester = world.open().await;
    let cut = ingester.cut_now().await.unwrap();
    assert_eq!(cut.iter().map(|block| block.samples).sum::<u64>(), 39 + 99);
    assert_eq!(list_blocks(&*world.bucket).await.unwrap().len(), 1);
    assert_eq!(content(&ingester, TENANT).await, left);
    let deleted = delete(&ingester, of_series(3), TimeRange::ALL).await;
    assert!(
        deleted
            .unreached
            .iter()
            .any(|copy| copy.contains(&cut[0].ulid.to_string())),
        "what lies in the bucket is told: {deleted:?}"
    );
    let left = expected(&[(series(1), &all[60..99])]);
    assert_eq!(content(&ingester, TENANT).await, left);
    ingester.shutdown().await;
}

/// A bucket that takes nothing.
fn refusing_bucket() -> std::sync::Arc<dyn object_store::ObjectStore> {
    let dir = tempfile::tempdir().unwrap();
    let store = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    // The folder is gone with the end of this function, and a file takes its place.
    let path = dir.path().to_owned();
    drop(dir);
    #[expect(clippy::disallowed_methods, reason = "the test's own file")]
    std::fs::write(path, b"no folder").unwrap();
    std::sync::Arc::new(store)
}

#[tokio::test]
async fn a_snapshot_is_a_folder_of_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let now = W0 + BLOCK_RANGE_MS + 50 * MINUTE;
    let all = minutes(W0, now);
    let (older, newer) = all.split_at(100);
    ingester
        .push(&batch(&[(series(1), older), (series(2), older)]), now)
        .await
        .unwrap();
    ingester.cut_now().await.unwrap();
    ingester
        .push(&batch(&[(series(1), newer), (series(2), newer)]), now)
        .await
        .unwrap();
    delete(&ingester, of_series(2), TimeRange::ALL).await;
    for (skip_head, samples) in [(true, older), (false, &all[..])] {
        let name = ingester.snapshot(&Tenant::default(), skip_head).await.unwrap();
        let mut found = Content::new();
        for block in local_blocks(&dir.path().join("snapshots").join(name)) {
            let mut set = model::select::Select::select(&block, SelectRequest::new(vec![], TimeRange::ALL))
                .await
                .unwrap();
            while let Some(batch) = set.next().await {
                for series in batch.unwrap() {
                    let mut buffer = Default::default();
                    series.samples.read(TimeRange::ALL, &mut buffer).unwrap();
                    let bits = buffer.values.iter().map(|value| value.to_bits());
                    let samples = buffer.timestamps.iter().copied().zip(bits);
                    found.entry(series.labels.to_string()).or_default().extend(samples);
                }
            }
        }
        assert_eq!(found, expected(&[(series(1), samples)]));
    }
    let expected_all = expected(&[(series(1), &all)]);
    assert_eq!(
        content(&ingester, TENANT).await,
        expected_all,
        "a snapshot changes nothing"
    );
    ingester.cut_now().await.unwrap();
    assert_eq!(content(&ingester, TENANT).await, expected_all);
    ingester.shutdown().await;
}

/// A series that was deleted as a whole leaves the head once nothing of it can come late.
#[tokio::test(start_paused = true)]
async fn a_deleted_series_leaves_the_head() {
    let fs = MemoryFs::new();
    let mut world = World::in_memory(&fs);
    world.settings.maintenance_interval = Duration::from_secs(10);
    let ingester = world.open().await;
    push(
        &ingester,
        &batch(&[
            (series(1), &minutes(NOW, NOW + MINUTE)),
            (series(2), &minutes(NOW, NOW + MINUTE)),
        ]),
    )
    .await;
    delete(&ingester, of_series(1), TimeRange::ALL).await;
    for step in 1..4 {
        let now = NOW + 3 * step * BLOCK_RANGE_MS;
        world.clock.set(now);
        ingester.push(&batch(&[(series(9), &[(now, 1.0)])]), now).await.unwrap();
        tokio::time::sleep(Duration::from_secs(300)).await;
    }
    let left = ingester.stats(&Tenant::default(), 10).series;
    assert_eq!(left, 1, "who goes on stays; the others are idle, deleted or cut");
    ingester.shutdown().await;
}
