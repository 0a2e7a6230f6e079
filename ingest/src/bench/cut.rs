//! Replay, cut, and the memory that both take.

use super::{BATCH, BEGIN, NOW, cpu, labels, open, register, resident, scrape, value};
use crate::ingester::Ingester;
use model::{
    push::{Push as _, SeriesId, SeriesRef, WriteBatch},
    sample::FloatSample,
    tenant::Tenant,
    time::BLOCK_RANGE_MS,
};
use std::{path::Path, sync::atomic::Ordering, time::Instant};
use tokio::runtime::Runtime;

fn two_threads() -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

/// Most memory that was resident since [`forget_peak`], in MiB.
fn peak() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "asks the kernel")]
    let status = String::from_utf8(std::fs::read("/proc/self/status").expect("there is a /proc")).expect("it is text");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

#[expect(clippy::disallowed_methods, reason = "tells the kernel")]
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("the kernel takes it");
}

/// Wall and CPU time of something.
#[expect(clippy::disallowed_methods, reason = "measures real time")]
async fn timed<T>(work: impl Future<Output = T>) -> (T, String) {
    let (wall, spent) = (Instant::now(), cpu());
    let result = work.await;
    let (wall, spent) = (wall.elapsed().as_secs_f64(), (cpu() - spent).as_secs_f64());
    (result, format!("{wall:.2} s, {spent:.2} s CPU"))
}

/// Memory of a head that is filled, through a cut while it has all of that, and then of a process that replays the same and cuts it.
async fn memory_through_a_cut(dir: &Path, count: usize, steps: u64) {
    let shape = format!("{count} series x {steps}");
    let per_series = |mib: f64| format!("{mib:.0} MiB, {:.2} kB a series", mib * 1048.576 / count as f64);
    NOW.store(BEGIN, Ordering::Relaxed);
    let before = resident();
    forget_peak();
    let ingester = open(dir).await;
    let refs = register(&ingester, count).await;
    let order: Vec<u32> = (0..count as u32).collect();
    for step in 1..steps {
        for batch in scrape(&refs, &order, step) {
            ingester.push(&batch, batch.floats[0].at).await.expect("it is taken");
        }
    }
    drop((refs, order));
    // What maintenance does every quarter of a minute.
    crate::spill::spill(ingester.core());
    eprintln!(
        "{shape}: filled, resident {}, peak {}",
        per_series(resident() - before),
        per_series(peak() - before)
    );
    eprintln!("{shape}: {:?}", ingester.core().head.memory());
    ingester.shutdown().await;
    drop(ingester);
    forget_peak();
    let (ingester, replay) = timed(open(dir)).await;
    eprintln!("{shape}: replay {replay}, peak {}", per_series(peak() - before));
    forget_peak();
    NOW.store(BEGIN + 2 * BLOCK_RANGE_MS, Ordering::Relaxed);
    let (blocks, cut) = timed(ingester.cut_now()).await;
    let samples: u64 = blocks.expect("it is cut").iter().map(|block| block.samples).sum();
    assert_eq!(samples, count as u64 * steps);
    eprintln!(
        "{shape}: cut and ship {cut}, peak {}, then {}",
        per_series(peak() - before),
        per_series(resident() - before)
    );
    ingester.shutdown().await;
}

fn measured(count: usize, steps: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    two_threads().block_on(memory_through_a_cut(dir.path(), count, steps));
}

#[test]
#[ignore = "measures time and memory"]
fn a_million_series() {
    measured(1_000_000, 21);
}

#[test]
#[ignore = "measures time and memory"]
fn fifty_minutes() {
    measured(100_000, 200);
}

#[test]
#[ignore = "measures time and memory"]
fn a_whole_window() {
    measured(100_000, 480);
}

/// Restart and cut of the same data again and again, for profiles: `NARTHEX_BENCH_DATA` names a folder that is filled once and copied
/// for each run, `NARTHEX_BENCH_SHAPE` a shape such as `100000x200`, or with a third number `50x21x2000`: so many tenants.
#[test]
#[ignore = "measures time"]
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
    let kept = Path::new(&kept).join(&shape);
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().join("data");
    two_threads().block_on(async {
        if !kept.exists() {
            let ingester = open(&kept).await;
            fill_tenants(&ingester, tenants, count, steps).await;
            ingester.shutdown().await;
        }
        let copied = std::process::Command::new("cp").arg("-r").arg(&kept).arg(&at).status();
        assert!(copied.expect("cp runs").success());
        let (ingester, replay) = timed(open(&at)).await;
        eprintln!("{shape}: replay {replay}; {:.0} MiB, peak {:.0}", resident(), peak());
        if std::env::var("NARTHEX_BENCH_CUT").is_err() {
            return ingester.shutdown().await;
        }
        NOW.store(BEGIN + 2 * BLOCK_RANGE_MS, Ordering::Relaxed);
        forget_peak();
        let (blocks, cut) = timed(ingester.cut_now()).await;
        let blocks = blocks.expect("it is cut").len();
        eprintln!("{shape}: cut of {blocks} blocks {cut}; peak {:.0}", peak());
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
                batch.tenant = Tenant::new(&format!("tenant-{}", part[0] / count)).expect("a name");
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
