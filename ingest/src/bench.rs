//! Figures of the commit path, of replay, of memory and of the cut. Not tests of right or wrong:
//! `cargo test --release -p ingest --lib bench:: -- --ignored --nocapture --test-threads 1`. `make gate` counts the functions
//! `counted_…`.

use crate::{
    commit::commit,
    core::Core,
    head::chunk::{Blocks, Hot},
    ingester::Ingester,
    settings::IngestSettings,
    wal::floats::{FloatsEncoder, FloatsScratch},
};
use futures::future::BoxFuture;
use model::{
    env::{Clock, Env, Rng, Spawn},
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
use storage::disk::Disk;

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
    let bucket = Arc::new(object_store::memory::InMemory::new());
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

#[test]
#[ignore = "measures time"]
#[expect(clippy::disallowed_methods, reason = "measures real time")]
fn memory_replay_and_cut() {
    for (count, steps) in [(1_000_000usize, 21u64), (100_000, 200)] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("one");
        let dir = tempfile::tempdir().expect("a folder");
        runtime.block_on(async {
            let ingester = open(dir.path()).await;
            let before = resident();
            let refs = register(&ingester, count).await;
            let order: Vec<u32> = (0..count as u32).collect();
            for step in 1..steps {
                for batch in scrape(&refs, &order, step) {
                    ingester.push(&batch, batch.floats[0].at).await.expect("it is taken");
                }
            }
            drop((refs, order));
            let head = resident() - before;
            eprintln!(
                "{count} series x {steps}: {head:.0} MiB resident, {:.0} bytes per series; {:?}",
                head * 1048576.0 / count as f64,
                ingester.core().head.memory(),
            );
            ingester.shutdown().await;
            drop(ingester);
            let (wall, spent) = (Instant::now(), cpu());
            let ingester = open(dir.path()).await;
            eprintln!(
                "replay: {:.2} s, {:.2} s CPU",
                wall.elapsed().as_secs_f64(),
                (cpu() - spent).as_secs_f64()
            );
            NOW.store(BEGIN + 2 * BLOCK_RANGE_MS, Ordering::Relaxed);
            let (wall, spent, before) = (Instant::now(), cpu(), resident());
            let blocks = ingester.cut_now().await.expect("it is cut");
            eprintln!(
                "cut and ship of {} samples: {:.2} s, {:.2} s CPU; {before:.0} -> {:.0} MiB",
                blocks.iter().map(|block| block.samples).sum::<u64>(),
                wall.elapsed().as_secs_f64(),
                (cpu() - spent).as_secs_f64(),
                resident(),
            );
            ingester.shutdown().await;
        });
    }
}

const GATE_SERIES: usize = 10_000;
const GATE_STEPS: u64 = 10;

/// Values of some scrapes, series by series in each.
fn gate_values() -> Vec<(u64, Timestamp, u64)> {
    let scrape = |step: u64| {
        let at = BEGIN + step as i64 * 15_000;
        (0..GATE_SERIES).map(move |number| (number as u64, at, value(number, step).to_bits()))
    };
    (0..GATE_STEPS).flat_map(scrape).collect()
}

fn tell_samples() {
    eprintln!("samples {}", GATE_SERIES as u64 * GATE_STEPS);
}

#[inline(never)]
fn counted_append(series: &mut [Hot], blocks: &mut Blocks, samples: &[(u64, Timestamp, u64)]) {
    for &(number, at, bits) in samples {
        let hot = &mut series[number as usize];
        assert!(!hot.must_cut(at));
        hot.append(blocks, at, bits);
    }
}

#[test]
#[ignore = "counted by `make gate`"]
fn gate_append() {
    let mut series: Vec<Hot> = (1..=GATE_SERIES as u64).map(|number| Hot::new(number, 0)).collect();
    counted_append(&mut series, &mut Blocks::new(), &gate_values());
    tell_samples();
}

#[inline(never)]
fn counted_log(samples: &[(u64, Timestamp, u64)], bases: &mut [u64], out: &mut Vec<u8>, scratch: &mut FloatsScratch) {
    for part in samples.chunks(BATCH) {
        let mut encoder = FloatsEncoder::new(out, scratch);
        for &(number, at, bits) in part {
            let base = std::mem::replace(&mut bases[number as usize], bits);
            encoder.push(number, at, bits, base);
        }
        encoder.finish();
    }
}

#[test]
#[ignore = "counted by `make gate`"]
fn gate_log() {
    let (samples, mut out) = (gate_values(), Vec::with_capacity(4 << 20));
    counted_log(&samples, &mut [0; GATE_SERIES], &mut out, &mut FloatsScratch::default());
    assert!(out.len() < samples.len() * 5, "{} bytes", out.len());
    tell_samples();
}

#[inline(never)]
fn counted_commit(core: &Core, batches: &[WriteBatch]) -> u64 {
    let commit = |batch: &WriteBatch| {
        let written = commit(core, batch, batch.floats[0].at).written;
        let mut log = core.wal().expect("it is ready").log();
        log.take().into_iter().for_each(|part| log.recycle(part.bytes));
        written
    };
    batches.iter().map(commit).sum()
}

/// An ingester with series, and scrapes of them.
fn gate_world() -> (tempfile::TempDir, Arc<Ingester>, Vec<WriteBatch>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let dir = tempfile::tempdir().expect("a folder");
    let (ingester, refs) = runtime.expect("a runtime").block_on(async {
        let ingester = open(dir.path()).await;
        let refs = register(&ingester, GATE_SERIES).await;
        (ingester, refs)
    });
    let order: Vec<u32> = (0..GATE_SERIES as u32).collect();
    let batches = (1..=GATE_STEPS).flat_map(|step| scrape(&refs, &order, step)).collect();
    (dir, ingester, batches)
}

#[test]
#[ignore = "counted by `make gate`"]
fn gate_commit() {
    let (_dir, ingester, batches) = gate_world();
    let written = counted_commit(ingester.core(), &batches);
    assert_eq!(written, GATE_SERIES as u64 * GATE_STEPS);
    tell_samples();
}

#[test]
#[ignore = "counted by `make gate`"]
fn gate_new_series() {
    let (_dir, ingester, _) = gate_world();
    let batch = |numbers: Vec<usize>| {
        let mut batch = WriteBatch::default();
        for number in numbers {
            batch.floats.push(FloatSample {
                at: BEGIN,
                value: value(number, 0),
                start: 0,
            });
            batch.finish_series(SeriesId::New(labels(number)));
        }
        batch
    };
    let batches: Vec<_> = (0..5)
        .map(|part| batch((GATE_SERIES + part * BATCH..GATE_SERIES + (part + 1) * BATCH).collect()))
        .collect();
    assert_eq!(counted_commit(ingester.core(), &batches), 5 * BATCH as u64);
    eprintln!("samples {}", 5 * BATCH);
}

/// Restart and cut of the same data again and again, for profiles: `NARTHEX_BENCH_DATA` names a folder that is filled once and copied
/// for each run, `NARTHEX_BENCH_SHAPE` a shape such as `100000x200`, or with a third number `50x21x2000`: so many tenants.
#[test]
#[ignore = "measures time"]
#[expect(
    clippy::disallowed_methods,
    reason = "measures real time, prepares folders, is told by the environment"
)]
fn again() {
    let Ok(kept) = std::env::var("NARTHEX_BENCH_DATA") else {
        return eprintln!("NARTHEX_BENCH_DATA names no folder: nothing is measured");
    };
    let shape = std::env::var("NARTHEX_BENCH_SHAPE").unwrap_or_else(|_| "100000x200".into());
    let numbers: Vec<usize> = shape
        .split('x')
        .map(|number| number.parse().expect("a number"))
        .collect();
    let (count, steps, tenants) = (numbers[0], numbers[1] as u64, numbers.get(2).copied().unwrap_or(1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let (runtime, kept) = (runtime.expect("one"), std::path::Path::new(&kept).join(&shape));
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().join("data");
    runtime.block_on(async {
        if !kept.exists() {
            let ingester = open(&kept).await;
            fill_tenants(&ingester, tenants, count, steps).await;
            ingester.shutdown().await;
        }
        let copied = std::process::Command::new("cp").arg("-r").arg(&kept).arg(&at).status();
        assert!(copied.expect("cp runs").success());
        let (wall, spent) = (Instant::now(), cpu());
        let ingester = open(&at).await;
        let (wall, spent) = (wall.elapsed().as_secs_f64(), (cpu() - spent).as_secs_f64());
        eprintln!("{shape}: replay {wall:.2} s, {spent:.2} s CPU; {:.0} MiB", resident());
        if std::env::var("NARTHEX_BENCH_CUT").is_err() {
            return ingester.shutdown().await;
        }
        NOW.store(BEGIN + 2 * BLOCK_RANGE_MS, Ordering::Relaxed);
        let (wall, spent) = (Instant::now(), cpu());
        let blocks = ingester.cut_now().await.expect("it is cut");
        let (wall, spent) = (wall.elapsed().as_secs_f64(), (cpu() - spent).as_secs_f64());
        eprintln!("{shape}: cut of {} blocks {wall:.2} s, {spent:.2} s CPU", blocks.len());
        ingester.shutdown().await;
    });
}

async fn fill_tenants(ingester: &Ingester, tenants: usize, count: usize, steps: u64) {
    let mut refs: Vec<SeriesRef> = Vec::new();
    for step in 0..steps {
        let numbers: Vec<usize> = (0..tenants * count).collect();
        for part in numbers.chunks(BATCH.min(count)) {
            let mut batch = WriteBatch::default();
            if tenants > 1 {
                batch.tenant = model::tenant::Tenant::new(&format!("tenant-{}", part[0] / count)).expect("a name");
            }
            for &number in part {
                batch.floats.push(FloatSample {
                    at: BEGIN + step as i64 * 15_000,
                    value: value(number, step),
                    start: 0,
                });
                batch.finish_series(match step {
                    0 => SeriesId::New(labels(number)),
                    _ => SeriesId::Known(refs[number]),
                });
            }
            let outcome = ingester.push(&batch, batch.floats[0].at).await.expect("it is taken");
            refs.extend(outcome.refs.iter().map(|(_, series_ref)| *series_ref));
        }
    }
}

/// Many tenants with few series each beside one tenant with all of them: CPU of series, samples and cut, and memory.
#[test]
#[ignore = "measures time"]
fn tenants() {
    const SCRAPES: u64 = 20;
    for (tenants, each, batch) in [(1usize, 100_000usize, BATCH), (1, 100_000, 50), (2_000, 50, 50)] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("one");
        let dir = tempfile::tempdir().expect("a folder");
        NOW.store(BEGIN, Ordering::Relaxed);
        runtime.block_on(async {
            let ingester = open(dir.path()).await;
            let before = resident();
            let core = ingester.core();
            let commit_all = |batches: &[WriteBatch]| {
                let (begin, mut refs) = (thread_cpu(), Vec::new());
                for batch in batches {
                    let committed = commit(core, batch, batch.floats[0].at);
                    assert_eq!(committed.written as usize, batch.floats.len());
                    refs.push(committed.outcome.refs);
                }
                (thread_cpu() - begin, refs)
            };
            let batches = |step: u64, refs: &[SeriesRef]| -> Vec<WriteBatch> {
                let numbers: Vec<usize> = (0..tenants * each).collect();
                let fill = |part: &[usize]| {
                    let tenant = format!("tenant-{}", part[0] / each);
                    let mut batch = WriteBatch {
                        tenant: model::tenant::Tenant::new(&tenant).expect("a name"),
                        ..WriteBatch::default()
                    };
                    for &number in part {
                        batch.floats.push(FloatSample {
                            at: BEGIN + step as i64 * 15_000,
                            value: value(number, step),
                            start: 0,
                        });
                        batch.finish_series(match refs.get(number) {
                            Some(known) => SeriesId::Known(*known),
                            None => SeriesId::New(labels(number)),
                        });
                    }
                    batch
                };
                numbers.chunks(batch).map(fill).collect()
            };
            let (new, found) = commit_all(&batches(0, &[]));
            let refs: Vec<SeriesRef> = found.into_iter().flatten().map(|(_, series_ref)| series_ref).collect();
            let mut spent = Duration::ZERO;
            for step in 1..=SCRAPES {
                spent += commit_all(&batches(step, &refs)).0;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            let series = (tenants * each) as f64;
            let memory = resident() - before;
            NOW.store(BEGIN + 2 * BLOCK_RANGE_MS, Ordering::Relaxed);
            let begin = cpu();
            let blocks = ingester.cut_now().await.expect("it is cut");
            eprintln!(
                "{tenants} tenants of {each} series, {batch} to a push: {:.2} us a new series, {:.0} ns a sample, {memory:.0} MiB; \
                 cut of {} blocks {:.2} s CPU; {:?}",
                new.as_secs_f64() * 1e6 / series,
                spent.as_secs_f64() * 1e9 / series / SCRAPES as f64,
                blocks.len(),
                (cpu() - begin).as_secs_f64(),
                core.head.memory(),
            );
            ingester.shutdown().await;
        });
    }
}
