//! Figures of the commit path, of replay, of memory and of the cut. Not tests of right or wrong: `make speed` runs them, `make gate`
//! counts instructions. Here is the world in which they are measured.

mod cut;
mod gate;
mod join;
mod tenants;

use crate::{commit::commit, core::Core, ingester::Ingester, settings::IngestSettings};
use futures::future::BoxFuture;
use model::{
    env::{Clock, Env, Fs as _, Rng, Spawn},
    label::Labels,
    push::{Push, SeriesId, SeriesRef, WriteBatch},
    sample::FloatSample,
    time::{BLOCK_RANGE_MS, Timestamp, block_start},
};
use prometheus_client::registry::Registry;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use storage::{bucket::FolderBucket, disk::Disk};

const BEGIN: Timestamp = block_start(1_700_000_000_000) + BLOCK_RANGE_MS;
const BATCH: usize = 2000;

struct World;

impl Rng for World {
    fn next_u64(&self) -> u64 {
        static DRAWN: AtomicU64 = AtomicU64::new(0x1234_5678_9abc_def0);
        noise(DRAWN.fetch_add(1, Ordering::Relaxed))
    }
}

static NOW: AtomicI64 = AtomicI64::new(BEGIN);

impl Clock for World {
    fn now(&self) -> Timestamp {
        NOW.load(Ordering::Relaxed)
    }

    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    fn monotonic(&self) -> Duration {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        START.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

impl Spawn for World {
    #[expect(
        clippy::disallowed_methods,
        reason = "the benchmark's own implementation of the seam"
    )]
    fn task(&self, _: &str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the benchmark's own implementation of the seam"
    )]
    fn blocking(&self, _: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let handle = tokio::task::spawn_blocking(work);
        Box::pin(async move { handle.await.expect("it does not panic") })
    }

    fn thread(&self, _: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn noise(seed: u64) -> u64 {
    let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// What series `number` shows at scrape `step`: constants, idle and busy counters, seconds, pages, small gauges, noise, in about the
/// shares of a fleet of node and container exporters.
fn value(number: usize, step: u64) -> f64 {
    let series = noise(number as u64);
    let draw = noise(series ^ step);
    match series % 1000 {
        0..250 => (series >> 40) as f64,
        250..340 => (series >> 44) as f64 + (step / 40) as f64,
        340..700 => ((series >> 36) + step * (series % 500 + 1)) as f64 + (draw % 50) as f64,
        700..785 => (step * 15) as f64 * 0.37 + (draw % 100) as f64 / 100.0,
        785..840 => ((draw % 100_000) * 4096) as f64,
        840..885 => (draw % 16) as f64,
        _ => f64::from_bits(draw >> 12 | 0x3ff0_0000_0000_0000) * 1e3,
    }
}

/// Ten labels and about 230 bytes, 500 series to a host.
fn labels(number: usize) -> Labels {
    let host = number / 500;
    let metric = number % 500;
    Labels::new([
        ("__name__", format!("node_subsystem_{}_measurement_total", metric / 5)),
        ("cluster", "production-europe-west".to_owned()),
        ("container", format!("exporter-{}", metric % 7)),
        ("device", format!("device-{}", metric % 5)),
        ("endpoint", "http-metrics".to_owned()),
        (
            "instance",
            format!("10.{}.{}.{}:9100", host >> 16, host >> 8 & 255, host & 255),
        ),
        ("job", "kubernetes-node-exporter".to_owned()),
        (
            "mode",
            ["idle", "user", "system", "iowait", "steal"][metric % 5].to_owned(),
        ),
        ("namespace", format!("team-{}", host % 40)),
        ("pod", format!("node-exporter-{:x}", noise(host as u64) >> 24)),
    ])
    .expect("distinct names")
}

async fn open(dir: &std::path::Path) -> Arc<Ingester> {
    let env = Env {
        clock: Arc::new(World),
        rng: Arc::new(World),
        fs: Arc::new(Disk),
        spawn: Arc::new(World),
    };
    let mut settings = IngestSettings::new(dir);
    settings.maintenance_interval = Duration::from_secs(1 << 20);
    settings.pending_bytes_max = 1 << 40;
    // As a process without a bucket elsewhere has it.
    let bucket = dir.join("bucket");
    Disk.create_dir(&bucket).expect("a folder");
    let bucket = Arc::new(FolderBucket::open(&bucket, Some(dir)).expect("it opens"));
    let ingester = Ingester::open(env, settings, bucket, &mut Registry::default()).expect("it opens");
    while !ingester.is_ready() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    ingester
}

/// Batches of one scrape of all series, in order.
fn scrape(refs: &[SeriesRef], order: &[u32], step: u64) -> Vec<WriteBatch> {
    let at = BEGIN + step as i64 * 15_000;
    let batch = |part: &[u32]| {
        let mut batch = WriteBatch::default();
        for &number in part {
            batch.floats.push(FloatSample {
                at,
                value: value(number as usize, step),
                start: 0,
            });
            batch.finish_series(SeriesId::Known(refs[number as usize]));
        }
        batch
    };
    order.chunks(BATCH).map(batch).collect()
}

async fn register(ingester: &Ingester, count: usize) -> Vec<SeriesRef> {
    let mut refs = Vec::with_capacity(count);
    let numbers: Vec<usize> = (0..count).collect();
    let begin = cpu();
    let mut made = Duration::ZERO;
    for part in numbers.chunks(BATCH) {
        let before = cpu();
        let mut batch = WriteBatch::default();
        for &number in part {
            batch.floats.push(FloatSample {
                at: BEGIN,
                value: value(number, 0),
                start: 0,
            });
            batch.finish_series(SeriesId::New(labels(number)));
        }
        made += cpu() - before;
        let outcome = ingester.push(&batch, BEGIN).await.expect("it is taken");
        refs.extend(outcome.refs.iter().map(|(_, series_ref)| *series_ref));
    }
    let spent = cpu() - begin - made;
    eprintln!(
        "registration: {:.2} us CPU per series",
        spent.as_secs_f64() * 1e6 / count as f64
    );
    refs
}

/// CPU time of this process.
fn cpu() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "asks the kernel")]
    let stat = String::from_utf8(std::fs::read("/proc/self/stat").expect("there is a /proc")).expect("it is text");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap_or(0) + fields[12].parse::<u64>().unwrap_or(0);
    Duration::from_millis(ticks * 10)
}

/// Resident memory in MiB.
fn resident() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "asks the kernel")]
    let statm = String::from_utf8(std::fs::read("/proc/self/statm").expect("there is a /proc")).expect("it is text");
    statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<f64>().ok())
        .unwrap_or(0.0)
        * 4096.0
        / 1048576.0
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "asks the kernel")]
    let stat = String::from_utf8(std::fs::read("/proc/thread-self/schedstat").expect("a /proc")).expect("it is text");
    Duration::from_nanos(
        stat.split_whitespace()
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
    )
}

/// Commits scrapes and gives nanoseconds of CPU and WAL bytes per sample; nothing is written to the disk.
fn measure(core: &Core, refs: &[SeriesRef], order: &[u32], steps: std::ops::Range<u64>) -> (f64, f64) {
    let (mut spent, mut bytes, mut samples) = (Duration::ZERO, 0usize, 0usize);
    for step in steps {
        let batches = scrape(refs, order, step);
        let begin = thread_cpu();
        for batch in &batches {
            let committed = commit(core, batch, batch.floats[0].at);
            assert_eq!(committed.written as usize, batch.floats.len());
            let mut log = core.wal().expect("it is ready").log();
            for part in log.take() {
                bytes += part.bytes.len();
                log.recycle(part.bytes);
            }
            samples += batch.floats.len();
        }
        spent += thread_cpu() - begin;
    }
    (spent.as_nanos() as f64 / samples as f64, bytes as f64 / samples as f64)
}

#[test]
#[ignore = "measures time"]
fn commit_path() {
    for count in [100_000usize, 1_000_000] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let dir = tempfile::tempdir().expect("a folder");
        let (ingester, refs) = runtime.block_on(async {
            let ingester = open(dir.path()).await;
            let refs = register(&ingester, count).await;
            (ingester, refs)
        });
        let mut order: Vec<u32> = (0..count as u32).collect();
        let core = ingester.core();
        let steps = if count > 500_000 { 10 } else { 60 };
        let (warm, _) = measure(core, &refs, &order, 1..4);
        let (ns, bytes) = measure(core, &refs, &order, 4..4 + steps);
        eprintln!("{count} series in order: {ns:.1} ns (first scrapes {warm:.1}), {bytes:.2} WAL bytes per sample");
        for index in (1..order.len()).rev() {
            order.swap(index, (noise(index as u64) % (index as u64 + 1)) as usize);
        }
        let (ns, bytes) = measure(core, &refs, &order, 4 + steps..8 + steps);
        eprintln!("{count} series shuffled: {ns:.1} ns, {bytes:.2} WAL bytes per sample");
    }
}
