//! One list of checks that every kind of bucket must pass, run against each that is at hand.

use crate::{
    server::S3,
    world::{Process, SERIES, count_series, gateway, open, reqwest_client, write_block},
};
use futures::{StreamExt as _, TryStreamExt as _};
use model::env::Fs;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, path::Path as ObjectPath};
use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
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

#[tokio::test(flavor = "multi_thread")]
async fn moto_is_a_bucket() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let moto = Command::new("moto_server")
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut moto = match moto {
        Ok(child) => Process(child),
        Err(error) => return eprintln!("SKIPPED: moto_server cannot be run ({error}); pip install 'moto[server]'"),
    };
    let client = reqwest_client();
    let url = format!("http://127.0.0.1:{port}/blocks");
    for _ in 0..1200 {
        if client
            .put(&url)
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            let document = format!(
                "type: S3\nconfig: {{bucket: blocks, endpoint: '127.0.0.1:{port}', insecure: true, access_key: k, secret_key: s, region: us-east-1}}\n"
            );
            return run("moto", open(&document)).await;
        }
        if let Ok(Some(status)) = moto.0.try_wait() {
            return eprintln!("SKIPPED: moto_server ended with {status}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("moto_server does not answer after two minutes");
}

/// Garage, by the path in `NARTHEX_GARAGE` or from `PATH`.
#[tokio::test(flavor = "multi_thread")]
async fn garage_is_a_bucket() {
    const KEY: &str = "GK0123456789abcdef01234567";
    const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let dir = tempfile::tempdir().unwrap();
    let port = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let (s3, rpc) = (port(), port());
    let shown = dir.path().display();
    let settings = format!(
        "metadata_dir = '{shown}/meta'\ndata_dir = '{shown}/data'\ndb_engine = 'lmdb'\nreplication_factor = 1\n\
         rpc_bind_addr = '127.0.0.1:{rpc}'\nrpc_public_addr = '127.0.0.1:{rpc}'\nrpc_secret = '{SECRET}'\n\
         [s3_api]\napi_bind_addr = '127.0.0.1:{s3}'\ns3_region = 'garage'\nroot_domain = '.s3.local'\n"
    );
    let file = dir.path().join("garage.toml");
    Disk.create(&file).unwrap().append(settings.as_bytes()).unwrap();
    let program = std::env::var_os("NARTHEX_GARAGE").unwrap_or_else(|| "garage".into());
    let server = Command::new(program)
        .arg("-c")
        .arg(&file)
        .args(["server", "--single-node", "--default-bucket"])
        .envs([
            ("GARAGE_DEFAULT_BUCKET", "blocks"),
            ("GARAGE_DEFAULT_ACCESS_KEY", KEY),
            ("GARAGE_DEFAULT_SECRET_KEY", SECRET),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _server = match server {
        Ok(child) => Process(child),
        Err(error) => return eprintln!("SKIPPED: garage cannot be run ({error}); NARTHEX_GARAGE may name it"),
    };
    let store = open(&format!(
        "type: S3\nconfig: {{bucket: blocks, endpoint: '127.0.0.1:{s3}', insecure: true, access_key: {KEY}, secret_key: {SECRET}, region: garage}}\n"
    ));
    let probe = ObjectPath::from("probe");
    for _ in 0..120 {
        if store.put(&probe, PutPayload::from_static(b"x")).await.is_ok() {
            store.delete(&probe).await.unwrap();
            return run("garage", store).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("garage does not answer after a minute");
}
