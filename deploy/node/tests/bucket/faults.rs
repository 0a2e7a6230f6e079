//! What goes wrong between us and a bucket costs time, never samples: after each script an upload comes to its end, nothing
//! half is ever read, and answers are right or missing with a reason.

use crate::{
    server::{Fault, S3, Seen},
    world::{SERIES, count_series, gateway, open, write_block},
};
use axum::http::Method;
use model::env::Fs as _;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use storage::{
    bucket::{list_blocks, upload_block},
    disk::Disk,
};

/// Attempts that an upload may need.
const ATTEMPTS_MAX: usize = 12;

/// Uploads a block while the script plays, then reads it while it still plays, then without it.
async fn survive(name: &str, script: impl Fn(&Seen) -> Fault + Send + 'static) {
    let server = S3::start().await;
    let store = open(&server.document());
    let dir = tempfile::tempdir().unwrap();
    let (ulid, block) = write_block(&dir.path().join("local"), 1);
    server.script(script);
    let reader = gateway(&store, &dir.path().join("cache"));
    let mut attempts = 0;
    loop {
        attempts += 1;
        assert!(attempts <= ATTEMPTS_MAX, "{name}: the upload does not come to an end");
        let uploaded = upload_block(&*store, &Disk, &block, 5).await;
        // Whatever is in the bucket now, a reader finds all of the block or nothing.
        let _ = reader.sync().await;
        match count_series(&reader).await {
            Ok(count) => assert!(count == 0 || count == SERIES, "{name}: {count} series of a half block"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if uploaded.is_ok() {
            break;
        }
    }
    server.script(|_| Fault::None);
    // Twice: what failed for a reason that passes is taken up by the next look.
    reader.sync().await.unwrap();
    reader.sync().await.unwrap();
    assert_eq!(count_series(&reader).await.unwrap(), SERIES, "{name}");
    let listed = list_blocks(&*store).await.unwrap();
    assert_eq!(listed.len(), 1, "{name}: {listed:?}");
    for (path, content) in server.objects() {
        if let Some(file) = path
            .strip_prefix(&format!("{ulid}/"))
            .filter(|file| *file != "meta.json")
        {
            assert!(
                Disk.read(&block.join(file)).unwrap() == content[..],
                "{name}: {path} is not what was sent"
            );
        }
    }
    eprintln!("{name}: {attempts} attempts, {} requests since", server.requests());
}

/// The fault for each third request.
fn thirds(fault: Fault) -> impl Fn(&Seen) -> Fault {
    move |seen| if seen.number % 3 == 1 { fault } else { Fault::None }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_on_each_third_request_is_survived() {
    for fault in [
        Fault::Refuse(500),
        Fault::Refuse(503),
        Fault::Reset,
        Fault::LoseAnswer,
        Fault::Stall(300),
        Fault::Truncate,
        Fault::WrongTag,
    ] {
        survive(&format!("{fault:?} on each third request"), thirds(fault)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_lags_behind_hides_a_block_and_never_halves_it() {
    let listings = Arc::new(AtomicUsize::new(0));
    survive("hidden listing", move |seen| {
        let lists = seen.method == Method::GET && seen.key.is_empty();
        match lists && listings.fetch_add(1, Ordering::Relaxed) < 4 {
            true => Fault::HideListing,
            false => Fault::None,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_off_after_any_request_goes_on_later() {
    // A refusal that is not tried again stands for the end of the process.
    for cut in 0..12 {
        let server = S3::start().await;
        let store = open(&server.document());
        let dir = tempfile::tempdir().unwrap();
        let (_, block) = write_block(&dir.path().join("local"), 1);
        server.script(move |seen| {
            if seen.number >= cut {
                Fault::Refuse(403)
            } else {
                Fault::None
            }
        });
        let first = upload_block(&*store, &Disk, &block, 5).await;
        server.script(|_| Fault::None);
        let reader = gateway(&store, &dir.path().join("cache"));
        let report = reader.sync().await.unwrap();
        let complete = server.objects().keys().any(|key| key.ends_with("meta.json"));
        assert_eq!(report.blocks, usize::from(complete), "cut after {cut}");
        assert!(
            first.is_err() || complete,
            "cut after {cut}: the upload claims to be done"
        );
        let again = upload_block(&*store, &Disk, &block, 6).await.unwrap();
        assert_eq!(again.objects + again.objects_present, 3, "cut after {cut}");
        reader.sync().await.unwrap();
        assert_eq!(count_series(&reader).await.unwrap(), SERIES, "cut after {cut}");
        assert_eq!(list_blocks(&*store).await.unwrap().len(), 1, "cut after {cut}");
    }
}
