//! One list of checks that every kind of bucket must pass, run against each that is at hand.

use crate::{
    server::S3,
    world::{SERIES, count_series, gateway, open, write_block},
};
use futures::{StreamExt as _, TryStreamExt as _};
use loadtest::s3::{self, Kind};
use model::env::Fs;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, path::Path as ObjectPath};
use std::{path::Path, sync::Arc};
use storage::{
    bucket::{
        BucketError, DeletionMark, block_dir, delete_block, list_blocks, mark_for_deletion, read_manifest, read_mark,
        read_meta, upload_block,
    },
    disk::Disk,
};

/// Passes when the condition holds, else is counted and told.
struct Suite {
    name: &'static str,
    passed: usize,
    failed: Vec<String>,
}

impl Suite {
    fn check(&mut self, what: &str, holds: bool) {
        match holds {
            true => self.passed += 1,
            false => self.failed.push(what.to_owned()),
        }
    }
}

async fn run(name: &'static str, store: Arc<dyn ObjectStore>) {
    let dir = tempfile::tempdir().unwrap();
    let mut suite = Suite {
        name,
        passed: 0,
        failed: Vec::new(),
    };
    let mut checks = [blocks(&mut suite, &store, dir.path()).await.err(), None, None];
    checks[1] = marks(&mut suite, &store, dir.path()).await.err();
    checks[2] = objects(&mut suite, &store, dir.path()).await.err();
    for error in checks.into_iter().flatten() {
        suite.failed.push(format!("{error:#}"));
    }
    let (passed, failed) = (suite.passed, suite.failed.len());
    eprintln!("{}: {passed} passed, {failed} failed", suite.name);
    assert!(suite.failed.is_empty(), "{}: {:?}", suite.name, suite.failed);
    assert_eq!(passed, 24, "{}: checks were left out", suite.name);
}

async fn blocks(suite: &mut Suite, store: &Arc<dyn ObjectStore>, dir: &Path) -> anyhow::Result<()> {
    let (ulid, block) = write_block(&dir.join("local"), 1);
    suite.check("an empty bucket lists nothing", list_blocks(&**store).await?.is_empty());
    let missing = read_meta(&**store, ulid).await;
    let not_found = matches!(
        missing,
        Err(BucketError::Store {
            error: object_store::Error::NotFound { .. },
            ..
        })
    );
    suite.check("a missing object is told as such", not_found);
    let uploaded = upload_block(&**store, &Disk, &block, 5).await?;
    suite.check("all objects are sent", uploaded.objects == 3);
    let again = upload_block(&**store, &Disk, &block, 6).await?;
    suite.check(
        "nothing is sent twice",
        again.objects == 0 && again.objects_present == 3,
    );
    suite.check("the first description stays", again.meta == uploaded.meta);
    let listed = list_blocks(&**store).await?;
    let listing = listed.get(&ulid);
    suite.check(
        "the block is listed",
        listed.len() == 1 && listing.is_some_and(|block| block.is_complete()),
    );
    let size = Disk.size(&block.join("index"))?;
    suite.check(
        "with sizes",
        listing.is_some_and(|block| block.files.get("index") == Some(&size)),
    );
    suite.check(
        "the description reads back",
        read_meta(&**store, ulid).await? == uploaded.meta,
    );

    let first = gateway(store, &dir.join("cache"));
    let report = first.sync().await?;
    suite.check("a gateway finds the block", report.blocks == 1 && !report.from_manifest);
    suite.check("and answers from it", count_series(&first).await? == SERIES);
    suite.check(
        "and leaves a manifest",
        read_manifest(&**store).await?.is_some_and(|(m, _)| m.blocks.len() == 1),
    );
    let second = gateway(store, &dir.join("cache-2"));
    let report = second.sync().await?;
    suite.check("which another believes", report.blocks == 1 && report.from_manifest);
    let told = count_series(&second).await.unwrap_err().to_string();
    suite.check("and answers, and says so", told.contains("not listed yet"));
    let report = second.sync().await?;
    suite.check("and then looks itself", report.blocks == 1 && !report.from_manifest);
    suite.check("and answers as well", count_series(&second).await? == SERIES);
    Ok(())
}

async fn marks(suite: &mut Suite, store: &Arc<dyn ObjectStore>, dir: &Path) -> anyhow::Result<()> {
    let (ulid, block) = write_block(&dir.join("local"), 2);
    upload_block(&**store, &Disk, &block, 5).await?;
    mark_for_deletion(&**store, ulid, "first", 100).await?;
    mark_for_deletion(&**store, ulid, "second", 200).await?;
    let mark = read_mark::<DeletionMark>(&**store, ulid).await?;
    suite.check(
        "the first mark stays",
        mark.is_some_and(|mark| mark.deletion_time == 100),
    );
    let listed = list_blocks(&**store).await?;
    suite.check("marks are listed", listed[&ulid].is_marked_for_deletion());
    delete_block(&**store, ulid).await?;
    suite.check(
        "a deleted block is gone",
        !list_blocks(&**store).await?.contains_key(&ulid),
    );
    delete_block(&**store, ulid).await?;
    let left: Vec<_> = store.list(Some(&block_dir(ulid))).try_collect().await?;
    suite.check("and stays so", left.is_empty());
    Ok(())
}

async fn objects(suite: &mut Suite, store: &Arc<dyn ObjectStore>, dir: &Path) -> anyhow::Result<()> {
    // A segment that goes in parts.
    let (ulid, block) = write_block(&dir.join("local"), 3);
    let large: Vec<u8> = (0..20u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let segment = block.join("chunks/000002");
    Disk.create(&segment)?.append(&large)?;
    upload_block(&**store, &Disk, &block, 5).await?;
    let path = ObjectPath::from(format!("{ulid}/chunks/000002"));
    let got = store.get(&path).await?.bytes().await?;
    suite.check("an object of several parts is whole", got[..] == large[..]);
    let (from, to) = ((16 << 20) - 100, (16 << 20) + 100);
    let range = store.get_range(&path, from as u64..to as u64).await?;
    suite.check("a range over two parts is right", range[..] == large[from..to]);
    let ranges = store.get_ranges(&path, &[0..10, 5_000_000..5_000_010]).await?;
    suite.check(
        "several ranges are right",
        ranges[0][..] == large[..10] && ranges[1][..] == large[5_000_000..5_000_010],
    );
    delete_block(&**store, ulid).await?;

    // More objects than a page of a listing holds.
    let puts = (0..1100).map(|index| {
        let path = ObjectPath::from(format!("{}/chunks/{index:06}", ulid::Ulid::from_parts(9, 9)));
        async move { store.put(&path, PutPayload::from_static(b"x")).await.map(drop) }
    });
    futures::stream::iter(puts)
        .buffer_unordered(16)
        .try_collect::<()>()
        .await?;
    let listed = list_blocks(&**store).await?;
    let files = listed[&ulid::Ulid::from_parts(9, 9)].files.len();
    suite.check("listings go on over pages", files == 1100);
    suite.check(
        "a block without a description is not complete",
        !listed[&ulid::Ulid::from_parts(9, 9)].is_complete(),
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_a_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let document = format!("type: FILESYSTEM\nconfig: {{directory: '{}'}}\n", dir.path().display());
    run("filesystem", open(&document)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_server_is_a_bucket() {
    let server = S3::start().await;
    run("test server", open(&server.document())).await;
    assert!(server.requests() > 1000);
}

/// Starts a server where it is at hand, and runs the suite on its bucket.
async fn run_on(kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    match s3::start(kind, dir.path()).unwrap() {
        Some(bucket) => run(bucket.name, open(&bucket.document)).await,
        None => {
            let (variable, program) = kind.program();
            eprintln!("SKIPPED: there is no {program} in PATH; {variable} may name it");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_is_a_bucket() {
    run_on(Kind::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garage_is_a_bucket() {
    run_on(Kind::Garage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3s_is_a_bucket() {
    run_on(Kind::S3s).await;
}
