//! Weaker sync policies may lose what they say, and nothing else: what is acknowledged after a power loss is as safe as ever.

use crate::support::*;
use ingest::SyncPolicy;
use model::{env::memory::MemoryFs, verdict::Verdict};
use std::time::Duration;

const SAMPLES: [(i64, f64); 4] = [
    (NOW, 1.0),
    (NOW + 15_000, 2.0),
    (NOW + 30_000, 3.0),
    (NOW + 45_000, 4.0),
];

/// A cut is interrupted by a power loss that may take the log but not the block. A sender whose series the log lost sends something
/// older than what the block has: it is taken, and stays.
async fn block_never_knows_more_than_the_log(sync: SyncPolicy, prepare: impl Fn(&MemoryFs)) {
    let begin = async |fs: &MemoryFs| {
        prepare(fs);
        let mut world = World::in_memory(fs);
        world.settings.sync = sync;
        let ingester = world.open().await;
        push(&ingester, &batch(&[(series(1), &SAMPLES)])).await;
        (world, ingester)
    };
    let whole = MemoryFs::new();
    let (_world, ingester) = begin(&whole).await;
    let before = whole.steps();
    ingester.cut_now().await.unwrap();
    let steps = whole.steps() - before;
    for stop in 0..steps + 2 {
        for seed in 0..4 {
            let fs = MemoryFs::new();
            let (mut world, ingester) = begin(&fs).await;
            fs.stop_at(fs.steps() + stop);
            let _ = ingester.cut_now().await;
            drop(ingester);
            let fs = fs.power_loss(stop * 4 + seed);
            world.next_process(&fs);
            world.settings.sync = SyncPolicy::EveryWrite;
            let ingester = world.open().await;
            let late = [(NOW + 20_000, 9.0)];
            let outcome = push(&ingester, &batch(&[(series(1), &late)])).await;
            assert!(
                outcome
                    .exceptions
                    .iter()
                    .all(|exception| exception.verdict == Verdict::Written),
                "{outcome:?}"
            );
            let taken = content(&ingester, "default-tenant").await;
            drop(ingester);
            let fs = fs.power_loss(seed);
            world.next_process(&fs);
            let ingester = world.open().await;
            let kept = content(&ingester, "default-tenant").await;
            assert_eq!(kept, taken, "power lost at step {stop} of {steps}, seed {seed}");
            let samples = &kept[&series(1).to_string()];
            assert_eq!(samples.get(&(NOW + 20_000)), Some(&9.0f64.to_bits()));
            ingester.cut_now().await.unwrap();
            assert_eq!(content(&ingester, "default-tenant").await, taken);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn with_an_interval() {
    block_never_knows_more_than_the_log(SyncPolicy::Interval(Duration::from_secs(5)), |_| {}).await;
}

#[tokio::test(start_paused = true)]
async fn without_syncs() {
    block_never_knows_more_than_the_log(SyncPolicy::Never, |_| {}).await;
}

#[tokio::test(start_paused = true)]
async fn without_syncs_where_everything_cannot_be_synced_in_one_go() {
    block_never_knows_more_than_the_log(SyncPolicy::Never, MemoryFs::refuse_sync_all).await;
}
