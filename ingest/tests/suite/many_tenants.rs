//! Many tenants with few series each: their windows are cut together, and each is as safe as if it were alone.

use crate::support::*;
use ingest::Ingester;
use model::{env::memory::MemoryFs, time::BLOCK_RANGE_MS};
use std::collections::BTreeMap;
use storage::bucket::list_blocks;

/// More than are needed for a cut of many windows in one go.
const TENANTS: usize = 11;

fn tenant(number: usize) -> String {
    format!("tenant-{number}")
}

/// The samples of a tenant: two series in two windows.
fn samples(number: usize) -> Vec<(i64, f64)> {
    let step = |index: i64| NOW - BLOCK_RANGE_MS + index * BLOCK_RANGE_MS / 4 + number as i64;
    (0..5)
        .map(|index| (step(index), (index * 7) as f64 + number as f64))
        .collect()
}

/// Writes samples of all tenants and notes those that were taken.
async fn write(ingester: &Ingester, taken: &mut BTreeMap<usize, Content>) {
    for number in 0..TENANTS {
        let samples = samples(number);
        let all = [(series(1), samples.as_slice()), (series(2), samples.as_slice())];
        if try_push(ingester, &batch_of(&tenant(number), &all)).await.is_ok() {
            taken.insert(number, expected(&all));
        }
    }
}

async fn check(ingester: &Ingester, taken: &BTreeMap<usize, Content>) {
    for (&number, expected) in taken {
        assert_eq!(&content(ingester, &tenant(number)).await, expected, "tenant {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_tenant_gets_blocks_of_its_own() {
    let fs = MemoryFs::new();
    let world = World::in_memory(&fs);
    let (ingester, mut taken) = (world.open().await, BTreeMap::new());
    write(&ingester, &mut taken).await;
    let blocks = ingester.cut_now().await.unwrap();
    assert_eq!((taken.len(), blocks.len()), (TENANTS, 2 * TENANTS));
    assert!(blocks.iter().all(|block| block.series == 2));
    check(&ingester, &taken).await;
    assert_eq!(list_blocks(&*world.bucket).await.unwrap().len(), 2 * TENANTS);
    assert!(ingester.cut_now().await.unwrap().is_empty(), "everything was cut");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_cannot_sync_costs_a_round() {
    let fs = MemoryFs::new();
    let world = World::in_memory(&fs);
    let (ingester, mut taken) = (world.open().await, BTreeMap::new());
    write(&ingester, &mut taken).await;
    fs.fail_syncs(1);
    ingester.cut_now().await.unwrap_err();
    check(&ingester, &taken).await;
    let blocks = ingester.cut_now().await.unwrap();
    assert_eq!(
        blocks.iter().map(|block| block.samples).sum::<u64>(),
        TENANTS as u64 * 10
    );
    check(&ingester, &taken).await;
}

#[tokio::test(start_paused = true)]
async fn power_or_process_may_go_at_every_step_of_their_cut() {
    go_at_every_step(|_| {}, 3).await;
}

#[tokio::test(start_paused = true)]
async fn so_it_is_where_everything_cannot_be_synced_in_one_go() {
    go_at_every_step(MemoryFs::refuse_sync_all, 7).await;
}

/// Every few steps are enough: they meet all kinds of them many times.
async fn go_at_every_step(prepare: impl Fn(&MemoryFs), every: usize) {
    let whole = MemoryFs::new();
    prepare(&whole);
    let (ingester, mut taken) = (World::in_memory(&whole).open().await, BTreeMap::new());
    write(&ingester, &mut taken).await;
    let before = whole.steps();
    ingester.cut_now().await.unwrap();
    let steps = whole.steps() - before;
    assert!(steps > 200, "there is much to go wrong: {steps} steps");
    for stop in (0..steps + 2).step_by(every) {
        for dies in [true, false] {
            let fs = MemoryFs::new();
            prepare(&fs);
            let mut world = World::in_memory(&fs);
            let (ingester, mut taken) = (world.open().await, BTreeMap::new());
            write(&ingester, &mut taken).await;
            fs.stop_at(fs.steps() + stop);
            let _ = ingester.cut_now().await;
            drop(ingester);
            let fs = if dies { fs.kill() } else { fs.power_loss(stop) };
            world.next_process(&fs);
            let ingester = world.open().await;
            check(&ingester, &taken).await;
            ingester.cut_now().await.unwrap();
            check(&ingester, &taken).await;
        }
    }
}
