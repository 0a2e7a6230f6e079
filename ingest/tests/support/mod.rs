//! What the tests of the ingester share: a world with a clock that they set, and words to push and read samples.
#![allow(dead_code, reason = "each test file uses a part of it")]

use futures::future::BoxFuture;
use ingest::{IngestSettings, Ingester};
use model::{
    env::{Clock, Env, Fs, Rng, Spawn, memory::MemoryFs},
    label::Labels,
    matcher::Matcher,
    push::{Push, PushError, SeriesId, WriteBatch, WriteOutcome},
    sample::{FloatSample, SampleBuffer},
    select::{SelectRequest, SelectTenants, SeriesSet},
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp, block_start},
};
use object_store::{ObjectStore, memory::InMemory};
use prometheus_client::registry::Registry;
use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use storage::disk::Disk;

/// An hour after the beginning of a two-hour window in 2023.
pub(crate) const NOW: Timestamp = block_start(1_700_000_000_000) + BLOCK_RANGE_MS / 2;

/// A wall clock that stands still until a test moves it, with real sleeps.
pub(crate) struct TestClock {
    now: AtomicI64,
    begin: tokio::time::Instant,
}

impl TestClock {
    pub(crate) fn new(now: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            now: AtomicI64::new(now),
            begin: tokio::time::Instant::now(),
        })
    }

    pub(crate) fn set(&self, now: Timestamp) {
        self.now.store(now, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.now.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        self.begin.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Random numbers that are the same in every run.
pub(crate) struct TestRng(AtomicU64);

impl Rng for TestRng {
    fn next_u64(&self) -> u64 {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
    }
}

/// Runs work on tokio.
pub(crate) struct TestSpawn;

impl Spawn for TestSpawn {
    #[expect(clippy::disallowed_methods, reason = "the test's own implementation of the seam")]
    fn task(&self, _: &str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    #[expect(clippy::disallowed_methods, reason = "the test's own implementation of the seam")]
    fn blocking(&self, _: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let handle = tokio::task::spawn_blocking(work);
        Box::pin(async move { handle.await.expect("blocking work does not panic") })
    }

    fn thread(&self, _: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Runs work on tokio, blocking work in place: with one thread and paused time a run can be repeated step by step.
pub(crate) struct InlineSpawn;

impl Spawn for InlineSpawn {
    #[expect(clippy::disallowed_methods, reason = "the test's own implementation of the seam")]
    fn task(&self, _: &str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn blocking(&self, _: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move { work() })
    }

    fn thread(&self, _: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Everything outside of an ingester.
pub(crate) struct World {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) env: Env,
    pub(crate) bucket: Arc<dyn ObjectStore>,
    pub(crate) settings: IngestSettings,
}

impl World {
    /// A world on the real disk below `dir`.
    pub(crate) fn on_disk(dir: &Path) -> Self {
        Self::new(Arc::new(Disk), dir)
    }

    pub(crate) fn new(fs: Arc<dyn Fs>, dir: &Path) -> Self {
        let clock = TestClock::new(NOW);
        let env = Env {
            clock: clock.clone(),
            rng: Arc::new(TestRng(AtomicU64::new(1))),
            fs,
            spawn: Arc::new(TestSpawn),
        };
        let mut settings = IngestSettings::new(dir);
        // Tests ask for maintenance when they want it.
        settings.maintenance_interval = Duration::from_secs(3600);
        Self {
            clock,
            env,
            bucket: Arc::new(InMemory::new()),
            settings,
        }
    }

    /// A world in memory that runs step by step.
    pub(crate) fn in_memory(fs: &MemoryFs) -> Self {
        let mut world = Self::new(Arc::new(fs.clone()), Path::new("/data"));
        world.env.spawn = Arc::new(InlineSpawn);
        world
    }

    /// The same world for the next process: another view of the files, other random numbers.
    pub(crate) fn next_process(&mut self, fs: &MemoryFs) {
        let seed = self.env.rng.next_u64();
        self.env.fs = Arc::new(fs.clone());
        self.env.rng = Arc::new(TestRng(AtomicU64::new(seed)));
    }

    /// Opens the ingester and waits until it is ready.
    pub(crate) async fn open(&self) -> Arc<Ingester> {
        let ingester = self.open_unready();
        wait_until("the ingester is ready", || ingester.is_ready()).await;
        ingester
    }

    /// Opens the ingester once the one before has let go of the folder.
    pub(crate) async fn open_when_free(&self) -> Arc<Ingester> {
        for _ in 0..2000 {
            let bucket = Arc::clone(&self.bucket);
            let opened = Ingester::open(
                self.env.clone(),
                self.settings.clone(),
                bucket,
                &mut Registry::default(),
            );
            match opened {
                Ok(ingester) => {
                    wait_until("the ingester is ready", || ingester.is_ready()).await;
                    return ingester;
                }
                Err(ingest::OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the folder is never free");
    }

    pub(crate) fn open_unready(&self) -> Arc<Ingester> {
        let bucket = Arc::clone(&self.bucket);
        Ingester::open(
            self.env.clone(),
            self.settings.clone(),
            bucket,
            &mut Registry::default(),
        )
        .unwrap()
    }
}

/// Waits for something that the background does, for at most 20 seconds.
pub(crate) async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..4000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited too long until {what}");
}

/// `series(7)` is `{__name__="metric", job="test", series="7"}`.
pub(crate) fn series(number: usize) -> Labels {
    Labels::new([("__name__", "metric"), ("job", "test"), ("series", &number.to_string())]).unwrap()
}

/// A batch of the default tenant.
pub(crate) fn batch(all: &[(Labels, &[(Timestamp, f64)])]) -> WriteBatch {
    batch_of("default-tenant", all)
}

pub(crate) fn batch_of(tenant: &str, all: &[(Labels, &[(Timestamp, f64)])]) -> WriteBatch {
    let mut batch = WriteBatch {
        tenant: Tenant::new(tenant).unwrap(),
        ..WriteBatch::default()
    };
    for (labels, samples) in all {
        let float = |&(at, value): &(Timestamp, f64)| FloatSample { at, value, start: 0 };
        batch.floats.extend(samples.iter().map(float));
        batch.finish_series(SeriesId::New(labels.clone()));
    }
    batch
}

/// Pushes a batch that must be taken.
pub(crate) async fn push(ingester: &Ingester, batch: &WriteBatch) -> WriteOutcome {
    try_push(ingester, batch).await.unwrap()
}

pub(crate) async fn try_push(ingester: &Ingester, batch: &WriteBatch) -> Result<WriteOutcome, PushError> {
    let histograms = batch.histograms.iter().map(|sample| sample.at);
    let newest = batch
        .floats
        .iter()
        .map(|sample| sample.at)
        .chain(histograms)
        .max()
        .unwrap_or(NOW);
    // Time goes on with the samples, but not because of one that lies far ahead.
    ingester
        .push(batch, newest.clamp(NOW, NOW + 100 * BLOCK_RANGE_MS))
        .await
}

/// All samples as timestamp → bits of the value, by labels.
pub(crate) type Content = BTreeMap<String, BTreeMap<Timestamp, u64>>;

/// Reads all samples of a tenant.
pub(crate) async fn content(ingester: &Ingester, tenant: &str) -> Content {
    content_in(ingester, tenant, TimeRange::ALL).await
}

pub(crate) async fn content_in(ingester: &Ingester, tenant: &str, range: TimeRange) -> Content {
    let select = ingester.tenant(&Tenant::new(tenant).unwrap());
    let matchers = vec![Matcher::not_equal("__name__", "")];
    let set = select.select(SelectRequest::new(matchers, range)).await.unwrap();
    content_of(set, range).await
}

/// What a select gives, read to its end.
pub(crate) async fn content_of(mut set: Box<dyn SeriesSet>, range: TimeRange) -> Content {
    let (mut content, mut last) = (Content::new(), Labels::empty());
    while let Some(batch) = set.next().await {
        for series in batch.unwrap() {
            assert!(last < series.labels, "{last} comes before {}", series.labels);
            let mut buffer = SampleBuffer::default();
            series.samples.read(range, &mut buffer).unwrap();
            assert!(
                buffer.timestamps.is_sorted_by(|a, b| a < b),
                "time of {} does not ascend",
                series.labels
            );
            let bits = buffer.values.iter().map(|value| value.to_bits());
            let samples: BTreeMap<_, _> = buffer.timestamps.iter().copied().zip(bits).collect();
            content.insert(series.labels.to_string(), samples);
            last = series.labels;
        }
    }
    content
}

/// What [`content`] gives after these samples were pushed.
pub(crate) fn expected(all: &[(Labels, &[(Timestamp, f64)])]) -> Content {
    let mut content = Content::new();
    for (labels, samples) in all {
        let bits = samples.iter().map(|&(at, value)| (at, value.to_bits()));
        content.entry(labels.to_string()).or_default().extend(bits);
    }
    content
}
