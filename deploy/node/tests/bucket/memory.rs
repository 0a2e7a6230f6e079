//! How much memory processes take over a thousand blocks: a store from its start to answers over everything, and a querier before it.
//! Each prints its figures.
//!
//! The blocks lie over each other, so every series is in all of them: whoever kept what it read would keep everything.

use crate::{
    server::S3,
    world::{Process, SAMPLES, SERIES, env, gateway, open, put_thousand_blocks, reqwest_client},
};
use model::{env::Fs, matcher::Matcher, select::SelectRequest, tenant::Tenant, time::TimeRange};
use proto::thanos::StoreClient;
use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use storage::disk::Disk;

/// What the cache of the store may hold.
const CACHE_BYTES: usize = 16 << 20;

/// Most memory that a store may ever have besides its cache, whatever one asks of it.
const PROCESS_BYTES: usize = 50_000_000;

/// What all questions together may hold, as it is set by default: the bound when many ask.
const QUERIES_BYTES: usize = 16 << 20;

/// Questions over everything at the same time.
const ASKERS: usize = 8;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process of ours that is ready.
struct Running {
    process: Process,
    http: String,
    grpc: String,
    took: Duration,
}

impl Running {
    async fn start(role: &str, dir: &Path, args: &[&str]) -> Self {
        let free = || {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            socket.local_addr().unwrap().to_string()
        };
        let (http, grpc) = (free(), free());
        let process = Command::new(env!("CARGO_BIN_EXE_narthex"))
            .arg(role)
            .args(["--data.dir", &dir.join(role).to_string_lossy()])
            .args(["--http.address", &http, "--grpc.address", &grpc])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (process, clock) = (Process(process), env().clock);
        let (begun, url) = (clock.monotonic(), format!("http://{http}/-/ready"));
        let client = reqwest_client();
        while !client
            .get(&url)
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            assert!(clock.monotonic() - begun < PATIENCE, "{role} never got ready");
            clock.sleep(Duration::from_millis(5)).await;
        }
        let took = clock.monotonic() - begun;
        Self {
            process,
            http,
            grpc,
            took,
        }
    }

    /// The most memory that it ever had.
    fn peak(&self) -> usize {
        let status = Disk
            .read(Path::new(&format!("/proc/{}/status", self.process.0.id())))
            .unwrap();
        let status = String::from_utf8(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }
}

/// What came as an answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Got {
    series: usize,
    chunks: usize,
    bytes: usize,
    warnings: usize,
}

/// Reads an answer and keeps nothing of it.
async fn ask(store: &StoreClient, matchers: &[Matcher]) -> Got {
    let request = SelectRequest::new(matchers.to_vec(), TimeRange::ALL);
    let mut answer = store.series(&Tenant::default(), &request, &[]).await.unwrap();
    let (mut got, mut last) = (Got::default(), None);
    while let Some(batch) = answer.next().await {
        for series in batch.unwrap() {
            got.chunks += series.chunks.len();
            got.bytes += series.chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>();
            // A series may come in several pieces.
            got.series += usize::from(last.as_ref() != Some(&series.labels));
            last = Some(series.labels);
        }
    }
    got.warnings = answer.warnings().len();
    got
}

/// With `everything` it is asked for all samples as well, by one and by many, and by a querier.
async fn stays_small(different: u128, everything: bool) {
    let server = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    put_thousand_blocks(&server, dir.path(), different);
    let begun = gateway(&open(&server.document()), &dir.path().join("cache"));
    begun.sync().await.unwrap();
    let cache = CACHE_BYTES.to_string();
    let (document, cache) = (server.document(), ["--store.cache-memory-bytes", &cache]);
    let store = Running::start(
        "store",
        dir.path(),
        &["--objstore.config", &document, cache[0], cache[1]],
    )
    .await;
    let at_start = store.peak();
    eprintln!(
        "a store over 1000 blocks: ready after {:?}, {at_start} bytes",
        store.took
    );

    let (client, clock) = (StoreClient::new(&store.grpc, None).unwrap(), env().clock);
    let all = [Matcher::equal("__name__", "m")];
    let one = [all[0].clone(), Matcher::equal("i", "007")];
    let (begun, mut whole) = (clock.monotonic(), 0);
    while whole < 3 {
        let got = ask(&client, &one).await;
        assert_eq!(got.series, 1, "{got:?}");
        // Until the bucket was listed it says that blocks may be missing.
        whole += usize::from(got.warnings == 0);
        assert!(clock.monotonic() - begun < PATIENCE, "answers stay marked");
    }
    let after_few = store.peak();
    eprintln!("after questions for one series of all of them: {after_few} bytes");
    let bound = PROCESS_BYTES + CACHE_BYTES;
    assert!(at_start <= bound, "{at_start} bytes at the start");
    assert!(after_few <= bound + QUERIES_BYTES, "{after_few} bytes");
    if !everything {
        return;
    }

    let begun = clock.monotonic();
    let got = ask(&client, &all).await;
    let took = clock.monotonic() - begun;
    let after_all = store.peak();
    eprintln!("after one for all samples, {got:?} in {took:?}: {after_all} bytes, {CACHE_BYTES} of them for the cache");
    let chunks = SERIES * SAMPLES.div_ceil(120) * different as usize;
    assert_eq!((got.series, got.chunks), (SERIES, chunks), "{got:?}");

    let askers = (0..ASKERS).map(|_| ask(&client, &all));
    let answers = futures::future::join_all(askers).await;
    assert!(answers.iter().all(|answer| *answer == got), "{answers:?}");
    let after_many = store.peak();
    eprintln!("after {ASKERS} of those at once: {after_many} bytes");

    query_stays_small(&store, dir.path(), different).await;
    assert!(after_all <= bound, "{after_all} bytes");
    assert!(after_many <= bound + QUERIES_BYTES, "{after_many} bytes");
}

/// The same question as PromQL, to a querier before the store.
async fn query_stays_small(store: &Running, dir: &Path, different: u128) {
    let querier = Running::start("query", dir, &["--endpoint", &store.grpc]).await;
    let at_start = querier.peak();
    let url = format!(
        "http://{}/api/v1/query?query=sum(count_over_time(m[2h]))&time=7199",
        querier.http
    );
    let body = reqwest_client().get(url).send().await.unwrap().text().await.unwrap();
    let expected = format!("[7199,\"{}\"]", SERIES * SAMPLES);
    assert!(body.contains(&expected), "{body}");
    let after = querier.peak();
    eprintln!("a querier before it: {at_start} bytes at its start, {after} after the same question");
    // It computes on all chunks of an answer at once, so these count; bounds of a query hold them.
    let answer = SERIES * SAMPLES * 16 * different as usize;
    assert!(after <= PROCESS_BYTES + answer, "{after} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_over_a_thousand_blocks_stays_small() {
    stays_small(1, false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "asks for everything, several times at once; make buckets"]
async fn processes_over_a_thousand_blocks_stay_small() {
    stays_small(1, true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes a thousand blocks; make buckets"]
async fn processes_over_a_thousand_different_blocks_stay_small() {
    stays_small(1000, true).await;
}
