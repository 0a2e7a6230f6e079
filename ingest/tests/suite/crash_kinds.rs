//! Bad luck by seed with samples of every kind, in order and late, and with deletions between them: what was acknowledged is there
//! unless it was deleted, what was deleted stays away, and nothing is invented.

use crate::support::*;
use ingest::Ingester;
use model::{
    admin::Administer as _,
    env::memory::MemoryFs,
    histogram::{Histogram, Span},
    matcher::Matcher,
    push::{SeriesId, WriteBatch},
    sample::{FloatSample, HistogramSample, SampleBuffer},
    select::{SelectRequest, SelectTenants as _},
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Series with even numbers hold floats, the others histograms.
const SERIES: usize = 6;

struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

/// What must be true of a sample that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It was acknowledged.
    Stored,
    /// Nobody was told what became of it, or of its deletion.
    Open,
    /// Its deletion was acknowledged.
    Gone,
}

/// A sender of every kind of sample who never uses a timestamp twice.
struct Sender {
    sent: BTreeMap<(usize, Timestamp), Fate>,
    now: Timestamp,
}

fn value(at: Timestamp) -> f64 {
    (at % 100_003) as f64
}

fn histogram(at: Timestamp) -> Arc<Histogram> {
    Arc::new(Histogram {
        integer: true,
        count: value(at),
        sum: value(at) / 3.0,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_buckets: vec![value(at)],
        ..Histogram::default()
    })
}

impl Sender {
    async fn send(&mut self, ingester: &Ingester, luck: &mut Luck) {
        self.now += [1000, 15_000, 600_000][luck.below(3) as usize];
        let (mut batch, mut keys) = (WriteBatch::default(), Vec::new());
        for number in 0..SERIES {
            for _ in 0..luck.below(3) {
                // A third is late, by up to fifty minutes.
                let back = if luck.below(3) == 0 {
                    luck.below(3_000_000) as i64
                } else {
                    0
                };
                let at = self.now - back;
                if self.sent.contains_key(&(number, at)) || keys.contains(&(number, at)) {
                    continue;
                }
                keys.push((number, at));
                match number % 2 {
                    0 => batch.floats.push(FloatSample {
                        at,
                        value: value(at),
                        start: 0,
                    }),
                    _ => batch.histograms.push(HistogramSample {
                        at,
                        start: 0,
                        histogram: histogram(at),
                    }),
                }
            }
            batch.finish_series(SeriesId::New(series(number)));
        }
        let pushed = model::push::Push::push(ingester, &batch, self.now);
        let pushed = tokio::time::timeout(Duration::from_secs(60), pushed).await;
        let fate = match pushed.expect("a push is answered") {
            Ok(outcome) if outcome.exceptions.is_empty() => Fate::Stored,
            _ => Fate::Open,
        };
        self.sent.extend(keys.into_iter().map(|key| (key, fate)));
    }

    async fn delete(&mut self, ingester: &Ingester, luck: &mut Luck) {
        let number = luck.below(SERIES as u64) as usize;
        let end = self.now - luck.below(2 * BLOCK_RANGE_MS as u64) as i64;
        let range = TimeRange::new(end - 900_000, end);
        let selector = vec![Matcher::equal("series", &number.to_string())];
        let tenant = Tenant::default();
        let deleted = ingester.delete_series(&tenant, vec![selector], range);
        let deleted = tokio::time::timeout(Duration::from_secs(60), deleted).await;
        let is_told = deleted.expect("a deletion is answered").is_ok();
        for (_, fate) in self
            .sent
            .iter_mut()
            .filter(|((of, at), _)| *of == number && range.contains(*at))
        {
            *fate = match (is_told, *fate) {
                (true, _) | (_, Fate::Gone) => Fate::Gone,
                (false, _) => Fate::Open,
            };
        }
    }

    async fn check(&self, ingester: &Ingester, seed: u64) {
        let found = read(ingester).await;
        for (key, found) in &found {
            let fate = self.sent.get(key);
            assert!(fate.is_some(), "seed {seed}: {key:?} was never sent");
            assert_ne!(fate, Some(&Fate::Gone), "seed {seed}: {key:?} came back");
            assert_eq!(*found, value(key.1), "seed {seed}: {key:?} has changed");
        }
        for (key, _) in self.sent.iter().filter(|(_, fate)| **fate == Fate::Stored) {
            assert!(
                found.contains_key(key),
                "seed {seed}: {key:?} was acknowledged and is gone"
            );
        }
    }
}

/// Each float, and the count of each histogram, by series and time.
async fn read(ingester: &Ingester) -> BTreeMap<(usize, Timestamp), f64> {
    let select = ingester.tenant(&Tenant::default());
    let matchers = vec![Matcher::not_equal("__name__", "")];
    let mut set = select
        .select(SelectRequest::new(matchers, TimeRange::ALL))
        .await
        .unwrap();
    let mut found = BTreeMap::new();
    while let Some(batch) = set.next().await {
        for series in batch.unwrap() {
            let number = series.labels.get("series").unwrap().parse().unwrap();
            let mut samples = SampleBuffer::default();
            series.samples.read(TimeRange::ALL, &mut samples).unwrap();
            let floats = samples.timestamps.iter().copied().zip(samples.values.iter().copied());
            let histograms = samples
                .histograms
                .iter()
                .map(|sample| (sample.at, sample.histogram.count));
            found.extend(floats.chain(histograms).map(|(at, value)| ((number, at), value)));
        }
    }
    found
}

fn small_world(fs: &MemoryFs) -> World {
    let mut world = World::in_memory(fs);
    world.settings.segment_bytes_max = 3000;
    world.settings.cut_quiet = Duration::ZERO;
    world.settings.cut_delay = Duration::from_secs(60);
    world.settings.maintenance_interval = Duration::from_secs(30);
    world.settings.image_bytes = 6000;
    // What left for the bucket for good could not be compared here.
    world.settings.block_retention = Duration::from_secs(1 << 40);
    world
}

#[tokio::test(start_paused = true)]
async fn every_kind_and_deletions_survive_faults_by_seed() {
    let seeds = std::env::var("NARTHEX_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(40) {
        let mut luck = Luck(seed);
        let mut fs = MemoryFs::new();
        let mut world = small_world(&fs);
        let mut sender = Sender {
            sent: BTreeMap::new(),
            now: NOW,
        };
        for _ in 0..4 {
            let ingester = world.open().await;
            sender.check(&ingester, seed).await;
            fs.stop_at(fs.steps() + 20 + luck.below(400));
            for _ in 0..25 {
                match luck.below(12) {
                    0 => drop(ingester.cut_now().await),
                    1 => tokio::time::sleep(Duration::from_secs(31)).await,
                    2 => sender.delete(&ingester, &mut luck).await,
                    3 => sender.now += BLOCK_RANGE_MS / 2,
                    _ => sender.send(&ingester, &mut luck).await,
                }
                world.clock.set(sender.now);
            }
            drop(ingester);
            fs = match luck.below(2) {
                0 => fs.kill(),
                _ => fs.power_loss(luck.below(u64::MAX)),
            };
            world.next_process(&fs);
        }
        let ingester = world.open().await;
        sender.check(&ingester, seed).await;
        ingester.cut_now().await.unwrap();
        sender.check(&ingester, seed).await;
    }
}
