//! Memory follows what the head must hold: complete chunks lie in files, and series that are idle go with all that is theirs.

use crate::support::*;
use ingest::Ingester;
use model::{
    env::{Fs as _, memory::MemoryFs},
    push::WriteBatch,
    tenant::Tenant,
    time::BLOCK_RANGE_MS,
};
use std::path::Path;

const SERIES: usize = 150;

/// Samples of no pattern, so that a chunk has a kilobyte: two complete chunks and an open one for each series.
async fn fill(ingester: &Ingester, scrapes: i64) {
    for from in (0..scrapes).step_by(50) {
        push(ingester, &scraped(from..scrapes.min(from + 50))).await;
    }
}

fn scraped(scrapes: std::ops::Range<i64>) -> WriteBatch {
    let samples = |number: usize| -> Vec<(i64, f64)> {
        let value = |at: i64| ((at * 7919 + number as i64 * 104_729) as f64).sin();
        scrapes
            .clone()
            .map(|index| (NOW - 3_500_000 + index * 10_000, value(index)))
            .collect()
    };
    let all: Vec<_> = (0..SERIES).map(|number| (series(number), samples(number))).collect();
    let borrowed: Vec<_> = all
        .iter()
        .map(|(labels, samples)| (labels.clone(), samples.as_slice()))
        .collect();
    batch(&borrowed)
}

fn spilling(fs: &MemoryFs) -> World {
    let mut world = World::in_memory(fs);
    world.settings.spill_bytes = 1;
    world.settings.maintenance_interval = std::time::Duration::from_secs(15);
    world
}

/// A round of maintenance, in which nothing is due but moving chunks.
async fn round() {
    tokio::time::sleep(std::time::Duration::from_secs(16)).await;
}

#[tokio::test(start_paused = true)]
async fn chunks_in_files_are_read_cut_and_replayed_like_others() {
    let fs = MemoryFs::new();
    let mut world = spilling(&fs);
    let ingester = world.open().await;
    fill(&ingester, 300).await;
    let whole = content(&ingester, "default-tenant").await;
    assert_eq!(whole.values().map(|samples| samples.len()).sum::<usize>(), SERIES * 300);
    round().await;
    assert!(ingester.memory().in_files > 64 << 10, "{:?}", ingester.memory());
    assert!(
        fs.list(Path::new("/data/chunks")).unwrap().is_empty(),
        "a mapped file needs no name"
    );
    assert_eq!(content(&ingester, "default-tenant").await, whole);
    // The same samples again are known.
    let again = push(&ingester, &scraped(0..50)).await;
    assert!(
        again
            .exceptions
            .iter()
            .all(|exception| exception.verdict == model::verdict::Verdict::Duplicate)
    );
    assert_eq!(again.exceptions.len(), SERIES * 50);

    drop(ingester);
    let fs = fs.kill();
    world.next_process(&fs);
    let ingester = world.open().await;
    assert_eq!(content(&ingester, "default-tenant").await, whole);
    round().await;
    let blocks = ingester.cut_now().await.unwrap();
    assert_eq!(
        blocks.iter().map(|block| block.samples).sum::<u64>(),
        SERIES as u64 * 300
    );
    assert_eq!(content(&ingester, "default-tenant").await, whole);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_leaves_them_in_memory() {
    let fs = MemoryFs::new();
    let ingester = spilling(&fs).open().await;
    fill(&ingester, 300).await;
    let whole = content(&ingester, "default-tenant").await;
    fs.set_capacity(Some(fs.used() + 1000));
    round().await;
    assert_eq!(ingester.memory().in_files, 0);
    assert_eq!(content(&ingester, "default-tenant").await, whole);
    assert!(
        fs.list(Path::new("/data/chunks")).unwrap().is_empty(),
        "what was begun is removed"
    );
    fs.set_capacity(None);
    round().await;
    assert!(ingester.memory().in_files > 0);
    assert_eq!(content(&ingester, "default-tenant").await, whole);
}

#[tokio::test(start_paused = true)]
async fn power_or_process_may_go_while_chunks_move_and_images_are_written() {
    let begin = async |fs: &MemoryFs| {
        let mut world = spilling(fs);
        world.settings.image_bytes = 1;
        let ingester = world.open().await;
        fill(&ingester, 260).await;
        let whole = content(&ingester, "default-tenant").await;
        (world, ingester, whole)
    };
    let fs = MemoryFs::new();
    let (_world, ingester, _) = begin(&fs).await;
    let before = fs.steps();
    round().await;
    ingester.cut_now().await.unwrap();
    let steps = fs.steps() - before;
    for stop in (0..steps + 2).step_by(steps as usize / 12 + 1) {
        for dies in [true, false] {
            let fs = MemoryFs::new();
            let (mut world, ingester, whole) = begin(&fs).await;
            fs.stop_at(fs.steps() + stop);
            round().await;
            let _ = ingester.cut_now().await;
            drop(ingester);
            let fs = if dies { fs.kill() } else { fs.power_loss(stop) };
            world.next_process(&fs);
            let ingester = world.open().await;
            assert_eq!(content(&ingester, "default-tenant").await, whole, "step {stop}");
            round().await;
            ingester.cut_now().await.unwrap();
            assert_eq!(content(&ingester, "default-tenant").await, whole, "step {stop}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn series_that_are_idle_go_and_what_they_took_is_used_again() {
    let fs = MemoryFs::new();
    let mut world = World::in_memory(&fs);
    world.settings.out_of_order = ingest::OutOfOrderWindows::all(std::time::Duration::ZERO);
    let ingester = world.open().await;
    let generation = |number: usize, at: i64| -> WriteBatch {
        let samples = [(at, 1.0), (at + 15_000, 2.0)];
        let all: Vec<_> = (0..1000)
            .map(|index| (series(number * 1000 + index), &samples[..]))
            .collect();
        batch(&all)
    };
    let mut kept = Vec::new();
    for number in 0..12 {
        let at = NOW + number as i64 * 2 * BLOCK_RANGE_MS;
        world.clock.set(at);
        push(&ingester, &generation(number, at)).await;
        world.clock.set(at + 3 * BLOCK_RANGE_MS / 2);
        // Cut and shipped, then forgotten; series of earlier rounds are idle for hours by now.
        ingester.cut_now().await.unwrap();
        ingester.cut_now().await.unwrap();
        let memory = ingester.memory();
        let series = ingester.stats(&Tenant::default(), 0).series;
        kept.push((series, memory.samples + memory.index));
    }
    let (series, bytes) = kept[11];
    assert!(series <= 3000, "{kept:?}");
    assert!(
        bytes <= kept[3].1 + kept[3].1 / 8,
        "memory follows the series that are there: {kept:?}"
    );
}
