//! Bad luck of every kind, by seed: what was acknowledged is never lost, what was not sent is never there, and the ingester always starts.

mod damage;
#[path = "../support/mod.rs"]
mod support;

use ingest::{Ingester, SyncPolicy};
use model::{
    env::memory::MemoryFs,
    push::{SeriesId, SeriesRef, WriteBatch},
    sample::FloatSample,
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, Timestamp},
    verdict::Verdict,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
use support::*;

const TENANTS: [&str; 2] = ["default-tenant", "second"];
const SERIES: usize = 12;

/// So late may the sender be.
const LATE_MAX: i64 = 50 * 60 * 1000;

/// How many seeds to try; `NARTHEX_SEEDS` asks for more.
fn seeds(default: u64) -> u64 {
    std::env::var("NARTHEX_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Numbers drawn from a seed.
struct Luck(u64);

impl Luck {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

type Key = (usize, usize, Timestamp);

/// What was sent and what came back.
#[derive(Default)]
struct Ledger {
    /// Bits that were sent for a timestamp of a series of a tenant.
    sent: BTreeMap<Key, BTreeSet<u64>>,
    acknowledged: BTreeMap<Key, u64>,
}

impl Ledger {
    /// Compares with what an ingester gives back. `may_miss` says which acknowledged samples the faults were allowed to cost.
    async fn check(&self, ingester: &Ingester, may_miss: impl Fn(&Key) -> bool) {
        let mut found = BTreeMap::new();
        for (tenant, name) in TENANTS.iter().enumerate() {
            let content = content(ingester, name).await;
            for number in 0..SERIES {
                let Some(samples) = content.get(&series(number).to_string()) else {
                    continue;
                };
                found.extend(samples.iter().map(|(&at, &bits)| ((tenant, number, at), bits)));
            }
        }
        for (key, bits) in &found {
            let sent = self.sent.get(key);
            assert!(
                sent.is_some_and(|sent| sent.contains(bits)),
                "{key:?} = {bits:x} was never sent"
            );
        }
        for (key, bits) in &self.acknowledged {
            match found.get(key) {
                Some(found) => assert_eq!(found, bits, "{key:?} has changed"),
                None => assert!(may_miss(key), "{key:?} was acknowledged and is gone"),
            }
        }
    }
}

/// A sender of both tenants who remembers refs, repeats itself, and never lies about what it sent.
struct Sender {
    ledger: Ledger,
    refs: BTreeMap<(usize, usize), SeriesRef>,
    now: Timestamp,
}

impl Sender {
    fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            refs: BTreeMap::new(),
            now: NOW,
        }
    }

    /// Sends something; tells whether it was taken.
    async fn send(&mut self, ingester: &Ingester, luck: &mut Luck) -> bool {
        let tenant = luck.below(2) as usize;
        let mut batch = WriteBatch {
            tenant: Tenant::new(TENANTS[tenant]).unwrap(),
            ..WriteBatch::default()
        };
        self.now += [1000, 15_000, 15_000, 600_000][luck.below(4) as usize];
        let mut numbers = Vec::new();
        for number in 0..SERIES {
            if luck.below(3) == 0 {
                continue;
            }
            for _ in 0..=luck.below(4) / 3 {
                let back = match luck.below(12) {
                    0 => luck.below(100) as i64 * 1000,
                    1 => luck.below(LATE_MAX as u64 / 1000) as i64 * 1000,
                    _ => 0,
                };
                let at = self.now - back + batch.floats.len() as i64;
                let other = if luck.below(20) == 0 { 0.5 } else { 0.0 };
                let value = if number % 3 == 0 {
                    1.0
                } else {
                    (at / 1000 % 977) as f64 * number as f64 + other
                };
                self.ledger
                    .sent
                    .entry((tenant, number, at))
                    .or_default()
                    .insert(value.to_bits());
                batch.floats.push(FloatSample { at, value, start: 0 });
            }
            batch.finish_series(match self.refs.get(&(tenant, number)) {
                Some(known) if luck.below(5) > 0 => SeriesId::Known(*known),
                _ => SeriesId::New(series(number)),
            });
            numbers.push(number);
        }
        self.push(ingester, tenant, &batch, &numbers).await
    }

    async fn push(&mut self, ingester: &Ingester, tenant: usize, batch: &WriteBatch, numbers: &[usize]) -> bool {
        let pushed = tokio::time::timeout(Duration::from_secs(60), try_push_at(ingester, batch, self.now)).await;
        let Ok(outcome) = pushed.expect("a push is answered") else {
            return false;
        };
        for (index, series_ref) in &outcome.refs {
            self.refs.insert((tenant, numbers[*index as usize]), *series_ref);
        }
        let exceptions: BTreeMap<u32, Verdict> = outcome.exceptions.iter().map(|e| (e.sample, e.verdict)).collect();
        let mut from = 0;
        for (position, series) in batch.series.iter().enumerate() {
            let samples = from..series.floats_end;
            from = series.floats_end;
            if outcome.unknown.contains(&(position as u32)) {
                self.refs.remove(&(tenant, numbers[position]));
                continue;
            }
            for sample in samples {
                let FloatSample { at, value, .. } = batch.floats[sample as usize];
                let key = (tenant, numbers[position], at);
                let known = self.ledger.acknowledged.get(&key).copied();
                match exceptions.get(&sample) {
                    None => {
                        assert_eq!(known, None, "{key:?} was stored twice");
                        self.ledger.acknowledged.insert(key, value.to_bits());
                    }
                    Some(Verdict::Duplicate) => {
                        assert!(
                            known.is_none_or(|known| known == value.to_bits()),
                            "{key:?} had another value"
                        );
                        self.ledger.acknowledged.insert(key, value.to_bits());
                    }
                    Some(_) => assert_ne!(known, Some(value.to_bits()), "{key:?} was stored and is refused now"),
                }
            }
        }
        true
    }
}

async fn try_push_at(
    ingester: &Ingester,
    batch: &WriteBatch,
    now: Timestamp,
) -> Result<model::push::WriteOutcome, model::push::PushError> {
    model::push::Push::push(ingester, batch, now).await
}

fn small_world(fs: &MemoryFs) -> World {
    let mut world = World::in_memory(fs);
    world.settings.segment_bytes_max = 3000;
    world.settings.log_ahead_bytes_max = 700;
    world.settings.unshipped_blocks_in_memory_max = 1;
    world.settings.cut_quiet = Duration::ZERO;
    world.settings.cut_delay = Duration::from_secs(60);
    world.settings.maintenance_interval = Duration::from_secs(30);
    world.settings.image_bytes = 8000;
    // What left for the bucket for good could not be compared here.
    world.settings.block_retention = Duration::from_secs(1 << 40);
    world
}

/// A fixed day in the life of an ingester, as far as it comes.
async fn live(world: &World, sender: &mut Sender, ingester: &Ingester, luck: &mut Luck) {
    for step in 0..24 {
        sender.send(ingester, luck).await;
        world.clock.set(sender.now);
        if [9, 12, 16, 22].contains(&step) {
            // Windows that are over are cut by themselves, the rest stays in the head.
            tokio::time::sleep(Duration::from_secs(31)).await;
        }
        if step == 5 || step == 19 {
            // Faults may be in the way; what was not cut stays where it is.
            let _ = ingester.cut_now().await;
        }
        if step % 7 == 0 {
            sender.now += BLOCK_RANGE_MS;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn power_or_process_may_go_at_every_step() {
    let whole = MemoryFs::new();
    let world = small_world(&whole);
    let ingester = world.open().await;
    let before = whole.steps();
    live(&world, &mut Sender::new(), &ingester, &mut Luck(1)).await;
    let steps = whole.steps() - before;
    assert!(steps > 150, "the day is long enough to be interesting: {steps} steps");
    for stop in 0..steps + 2 {
        for seed in 0..seeds(2) {
            let fs = MemoryFs::new();
            let mut world = small_world(&fs);
            let (mut sender, mut luck) = (Sender::new(), Luck(1));
            let ingester = world.open().await;
            fs.stop_at(fs.steps() + stop);
            live(&world, &mut sender, &ingester, &mut luck).await;
            drop(ingester);
            // Every other time only the process dies.
            let fs = match seed % 2 {
                0 => fs.power_loss(stop << 8 | seed),
                _ => fs.kill(),
            };
            world.next_process(&fs);
            let ingester = world.open().await;
            sender.ledger.check(&ingester, |_| false).await;
            assert!(sender.send(&ingester, &mut luck).await, "it takes samples again");
            ingester.cut_now().await.unwrap();
            sender.ledger.check(&ingester, |_| false).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_power_may_go_while_it_starts() {
    for seed in 0..seeds(10) {
        let fs = MemoryFs::new();
        let mut world = small_world(&fs);
        let (mut sender, mut luck) = (Sender::new(), Luck(seed));
        let ingester = world.open().await;
        fs.stop_at(fs.steps() + 20 + luck.below(150));
        live(&world, &mut sender, &ingester, &mut luck).await;
        drop(ingester);
        let mut fs = fs.power_loss(seed);
        for stop in 0..12 {
            world.next_process(&fs);
            fs.stop_at(fs.steps() + stop);
            let bucket = Arc::clone(&world.bucket);
            let registry = &mut prometheus_client::registry::Registry::default();
            if let Ok(ingester) = Ingester::open(world.env.clone(), world.settings.clone(), bucket, registry) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                sender.send(&ingester, &mut luck).await;
            }
            fs = fs.power_loss(seed * 100 + stop);
        }
        world.next_process(&fs);
        sender.ledger.check(&*world.open().await, |_| false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn faults_of_all_kinds_by_seed() {
    let first: u64 = std::env::var("NARTHEX_FIRST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    for seed in first..first + seeds(60) {
        println!("seed {seed}");
        let mut fs = MemoryFs::new();
        let mut world = small_world(&fs);
        let (mut sender, mut luck) = (Sender::new(), Luck(seed));
        let mut ingester = world.open().await;
        for _ in 0..60 {
            world.clock.set(sender.now);
            match luck.below(30) {
                0 => fs = fs.power_loss(luck.next()),
                1 => fs = fs.kill(),
                2 => fs.stop_at(fs.steps() + luck.below(30)),
                3 => fs.fail_syncs(1 + luck.below(3) as u32),
                4 => fs.fail_writes(1 + luck.below(3) as u32),
                5 => fs.set_capacity(Some(fs.used() + luck.below(3000))),
                6 | 7 => fs.set_capacity(None),
                8 => sender.now += BLOCK_RANGE_MS,
                9..13 => drop(ingester.cut_now().await),
                _ => drop(sender.send(&ingester, &mut luck).await),
            }
            if world.env.fs.list(Path::new("/data")).is_err() {
                // The power went, or the process was killed.
                drop(ingester);
                tokio::time::sleep(Duration::from_secs(3)).await;
                world.next_process(&fs);
                fs.set_capacity(None);
                ingester = world.open().await;
                sender.ledger.check(&ingester, |_| false).await;
            }
        }
        fs = fs.power_loss(seed);
        fs.set_capacity(None);
        drop(ingester);
        world.next_process(&fs);
        sender.ledger.check(&*world.open().await, |_| false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_acknowledgements_and_nothing_else() {
    let fs = MemoryFs::new();
    let mut world = small_world(&fs);
    // Into zeros ahead it could go on writing for a while.
    world.settings.log_ahead_bytes_max = 0;
    let (mut sender, mut luck) = (Sender::new(), Luck(5));
    let ingester = world.open().await;
    assert!(sender.send(&ingester, &mut luck).await);
    fs.set_capacity(Some(fs.used() + 100));
    let refused = (0..5).map(|_| ()).collect::<Vec<_>>();
    for () in refused {
        assert!(!sender.send(&ingester, &mut luck).await, "there is no space");
        sender.ledger.check(&ingester, |_| false).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let error = try_push(&ingester, &batch(&[(series(1), &[(NOW, 1.0)])]))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("disk is full"), "{error}");
    fs.set_capacity(None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(sender.send(&ingester, &mut luck).await, "it goes on by itself");
    let fs = fs.power_loss(9);
    world.next_process(&fs);
    sender.ledger.check(&*world.open().await, |_| false).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_not_believed_the_second_time() {
    for kill in [false, true] {
        let fs = MemoryFs::new();
        let mut world = small_world(&fs);
        let (mut sender, mut luck) = (Sender::new(), Luck(6));
        let ingester = world.open().await;
        assert!(sender.send(&ingester, &mut luck).await);
        fs.fail_syncs(if kill { u32::MAX } else { 1 });
        assert!(!sender.send(&ingester, &mut luck).await);
        if kill {
            // The page cache still shows what the disk never got, and syncs succeed again for the next process.
            let fs = fs.kill();
            world.next_process(&fs);
            let ingester = world.open().await;
            assert!(sender.send(&ingester, &mut luck).await);
            repeat_everything(&mut sender, &ingester).await;
            let fs = fs.power_loss(1);
            world.next_process(&fs);
        } else {
            tokio::time::sleep(Duration::from_secs(2)).await;
            repeat_everything(&mut sender, &ingester).await;
            let fs = fs.power_loss(1);
            world.next_process(&fs);
        }
        sender.ledger.check(&*world.open().await, |_| false).await;
    }
}

/// Sends every sample again; it must be acknowledged one way or another, and then be there for good.
async fn repeat_everything(sender: &mut Sender, ingester: &Ingester) {
    let sent: Vec<_> = sender
        .ledger
        .sent
        .iter()
        .map(|(key, bits)| (*key, *bits.first().unwrap()))
        .collect();
    for ((tenant, number, at), bits) in sent {
        let mut batch = WriteBatch {
            tenant: Tenant::new(TENANTS[tenant]).unwrap(),
            ..WriteBatch::default()
        };
        batch.floats.push(FloatSample {
            at,
            value: f64::from_bits(bits),
            start: 0,
        });
        batch.finish_series(SeriesId::New(series(number)));
        assert!(sender.push(ingester, tenant, &batch, &[number]).await);
    }
}

#[tokio::test(start_paused = true)]
async fn weaker_policies_lose_nothing_when_only_the_process_dies() {
    for sync in [SyncPolicy::Interval(Duration::from_secs(5)), SyncPolicy::Never] {
        let fs = MemoryFs::new();
        let mut world = small_world(&fs);
        world.settings.sync = sync;
        let (mut sender, mut luck) = (Sender::new(), Luck(8));
        let ingester = world.open().await;
        for _ in 0..30 {
            assert!(sender.send(&ingester, &mut luck).await);
        }
        let fs = fs.kill();
        drop(ingester);
        world.next_process(&fs);
        sender.ledger.check(&*world.open().await, |_| false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_interval_bounds_what_a_power_loss_takes() {
    let fs = MemoryFs::new();
    let mut world = small_world(&fs);
    world.settings.sync = SyncPolicy::Interval(Duration::from_secs(5));
    let (mut sender, mut luck) = (Sender::new(), Luck(9));
    let ingester = world.open().await;
    for _ in 0..10 {
        assert!(sender.send(&ingester, &mut luck).await);
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let safe = sender.ledger.acknowledged.clone();
    for _ in 0..10 {
        assert!(sender.send(&ingester, &mut luck).await);
    }
    let fs = fs.power_loss(4);
    drop(ingester);
    world.next_process(&fs);
    let ingester = world.open().await;
    sender.ledger.check(&ingester, |key| !safe.contains_key(key)).await;
}
