//! Random lives of an ingester against a map: each verdict and each answer must be what the map says.

mod support;

use ingest::Ingester;
use model::{
    env::memory::MemoryFs,
    label::Labels,
    matcher::{MatchOp, Matcher},
    push::{Push as _, SeriesId, SeriesRef, WriteBatch},
    sample::{FloatSample, SampleBuffer},
    select::{SelectRequest, SelectTenants as _},
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp},
    verdict::{Reason, Verdict},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use support::*;

/// How far behind the newest of its series a sample may be, by default.
const WINDOW: i64 = 2 * 60 * 60 * 1000;

const TENANTS: [&str; 3] = ["default-tenant", "blue", "green"];

struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

fn labels(number: usize) -> Labels {
    let path = format!("/{}", number / 3);
    let mut pairs = vec![
        ("__name__", "requests"),
        ("path", &path),
        ("code", ["200", "404", "500"][number % 3]),
    ];
    if number.is_multiple_of(4) {
        pairs.push(("zone", "a"));
    }
    Labels::new(pairs).unwrap()
}

type Series = (usize, usize);

/// What should be stored.
#[derive(Default)]
struct Map {
    samples: BTreeMap<Series, BTreeMap<Timestamp, u64>>,
}

impl Map {
    /// The verdict for a sample, which is stored when it is written.
    fn push(&mut self, series: Series, at: Timestamp, bits: u64, now: Timestamp) -> Verdict {
        let samples = self.samples.entry(series).or_default();
        match samples.get(&at) {
            Some(known) if *known == bits => return Verdict::Duplicate,
            Some(_) => return Verdict::Rejected(Reason::DuplicateTimestamp),
            None => {}
        }
        if samples.last_key_value().is_some_and(|(last, _)| at < *last - WINDOW) {
            return Verdict::Rejected(Reason::TooOld);
        }
        if at > now + 600_000 {
            return Verdict::Rejected(Reason::TooFarInFuture);
        }
        samples.insert(at, bits);
        Verdict::Written
    }

    fn select(&self, tenant: usize, matchers: &[Matcher], range: TimeRange) -> Content {
        let mut content = Content::new();
        for ((owner, number), samples) in &self.samples {
            let labels = labels(*number);
            let fits = |matcher: &Matcher| matcher.matches(labels.get(&matcher.name).unwrap_or(""));
            if *owner != tenant || !matchers.iter().all(fits) {
                continue;
            }
            let inside: BTreeMap<_, _> = samples
                .iter()
                .filter(|(at, _)| range.contains(**at))
                .map(|(&at, &bits)| (at, bits))
                .collect();
            if !inside.is_empty() {
                content.insert(labels.to_string(), inside);
            }
        }
        content
    }
}

struct Life {
    fs: MemoryFs,
    world: World,
    ingester: Arc<Ingester>,
    map: Map,
    refs: BTreeMap<Series, SeriesRef>,
    now: Timestamp,
    luck: Luck,
}

impl Life {
    async fn begin(seed: u64) -> Self {
        let fs = MemoryFs::new();
        let mut world = World::in_memory(&fs);
        world.settings.segment_bytes_max = 4000;
        world.settings.cut_quiet = Duration::ZERO;
        world.settings.maintenance_interval = Duration::from_secs(30);
        world.settings.block_retention = Duration::from_secs(1 << 40);
        let ingester = world.open().await;
        Self {
            fs,
            world,
            ingester,
            map: Map::default(),
            refs: BTreeMap::new(),
            now: NOW,
            luck: Luck(seed),
        }
    }

    async fn restart(&mut self) {
        if self.luck.below(2) == 0 {
            self.ingester.shutdown().await;
        }
        self.fs = if self.luck.below(2) == 0 {
            self.fs.kill()
        } else {
            self.fs.power_loss(self.now as u64)
        };
        self.world.next_process(&self.fs);
        self.ingester = self.world.open().await;
    }

    async fn push(&mut self) {
        self.now += [1000, 15_000, 60_000, 900_000][self.luck.below(4) as usize];
        self.world.clock.set(self.now);
        let tenant = self.luck.below(3) as usize;
        let mut batch = WriteBatch {
            tenant: Tenant::new(TENANTS[tenant]).unwrap(),
            ..WriteBatch::default()
        };
        let mut numbers = Vec::new();
        for _ in 0..=self.luck.below(20) {
            let number = self.luck.below(30) as usize;
            for _ in 0..self.luck.below(4) {
                let ahead = if self.luck.below(30) == 0 { 700_000 } else { 0 };
                let back = match self.luck.below(8) {
                    0 | 1 => self.luck.below(40) as i64 * 5000,
                    // At most as far as the first sample of a series may lie back.
                    2 => self.luck.below(2000) as i64 * 5000,
                    _ => 0,
                };
                // Times on a grid, so that repetitions meet what is there.
                let at = (self.now + ahead - back) / 5000 * 5000 + number as i64;
                let wrong = if self.luck.below(15) == 0 { 1 } else { 0 };
                let value = (at / 5000 % 50 + wrong) as f64;
                batch.floats.push(FloatSample { at, value, start: 0 });
            }
            batch.finish_series(match self.refs.get(&(tenant, number)) {
                Some(known) if self.luck.below(4) > 0 => SeriesId::Known(*known),
                _ => SeriesId::New(labels(number)),
            });
            numbers.push(number);
        }
        self.check_push(tenant, &batch, &numbers).await;
    }

    async fn check_push(&mut self, tenant: usize, batch: &WriteBatch, numbers: &[usize]) {
        let outcome = self.ingester.push(batch, self.now).await.unwrap();
        let verdicts: BTreeMap<u32, Verdict> = outcome.exceptions.iter().map(|e| (e.sample, e.verdict)).collect();
        assert_eq!(verdicts.len(), outcome.exceptions.len(), "one verdict for each sample");
        let unknown: BTreeSet<u32> = outcome.unknown.iter().copied().collect();
        for (position, series_ref) in &outcome.refs {
            self.refs.insert((tenant, numbers[*position as usize]), *series_ref);
        }
        let mut from = 0;
        for (position, series) in (0u32..).zip(&batch.series) {
            let key = (tenant, numbers[position as usize]);
            for index in from..series.floats_end {
                if unknown.contains(&position) {
                    assert!(!verdicts.contains_key(&index), "an unknown series has no verdicts");
                    continue;
                }
                let FloatSample { at, value, .. } = batch.floats[index as usize];
                let verdict = verdicts.get(&index).copied().unwrap_or(Verdict::Written);
                let expected = self.map.push(key, at, value.to_bits(), self.now);
                let newest = self.map.samples[&key].last_key_value();
                assert_eq!(
                    verdict, expected,
                    "{key:?} at {at}, now {}, newest {newest:?}",
                    self.now
                );
            }
            from = series.floats_end;
            if unknown.contains(&position) {
                assert!(matches!(series.id, SeriesId::Known(_)));
                self.refs.remove(&key);
            }
        }
    }

    async fn query(&mut self) {
        let tenant = self.luck.below(3) as usize;
        let begin = NOW + self.luck.below((self.now - NOW) as u64 + 1) as i64 - 100_000;
        let range = [TimeRange::ALL, TimeRange::new(begin, begin + 1_000_000)][self.luck.below(2) as usize];
        let choices = [
            vec![Matcher::equal("__name__", "requests")],
            vec![
                Matcher::equal("code", "404"),
                Matcher::new(MatchOp::Regex, "path", "/[0-4]").unwrap(),
            ],
            vec![Matcher::equal("zone", ""), Matcher::not_equal("code", "200")],
            vec![
                Matcher::new(MatchOp::Regex, "code", "200|500").unwrap(),
                Matcher::equal("zone", "a"),
            ],
            vec![Matcher::new(MatchOp::NotRegex, "path", "/.").unwrap()],
        ];
        let matchers = &choices[self.luck.below(5) as usize];
        let select = self.ingester.tenant(&Tenant::new(TENANTS[tenant]).unwrap());
        let mut request = SelectRequest::new(matchers.clone(), range);
        request.sorted = self.luck.below(2) == 0;
        let expected = self.map.select(tenant, matchers, range);
        let mut set = select.select(request.clone()).await.unwrap();
        let (mut found, mut buffer) = (Content::new(), SampleBuffer::default());
        while let Some(batch) = set.next().await {
            for series in batch.unwrap() {
                buffer.clear();
                series.samples.read(range, &mut buffer).unwrap();
                let bits = buffer.values.iter().map(|value| value.to_bits());
                let samples: BTreeMap<_, _> = buffer.timestamps.iter().copied().zip(bits).collect();
                // A chunk may reach into the range although none of its samples does.
                if !samples.is_empty() {
                    assert_eq!(
                        found.insert(series.labels.to_string(), samples),
                        None,
                        "a series came twice"
                    );
                }
            }
        }
        assert_eq!(found, expected, "{matchers:?} {range:?}");
        assert_eq!(set.warnings(), [""; 0]);
        if range == TimeRange::ALL {
            let values = select
                .label_values("path".into(), matchers.clone(), range, 0)
                .await
                .unwrap()
                .items;
            let has = |value: &String| {
                expected
                    .keys()
                    .any(|labels| labels.contains(&format!("path={value:?}")))
            };
            assert!(values.iter().all(has), "{values:?}");
            assert_eq!(values.len(), BTreeSet::from_iter(&values).len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_does_what_a_map_does() {
    let seeds = std::env::var("NARTHEX_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(40u64);
    for seed in 0..seeds {
        let mut life = Life::begin(seed).await;
        for _ in 0..120 {
            match life.luck.below(40) {
                0 => life.restart().await,
                1 => drop(life.ingester.cut_now().await.unwrap()),
                2 => tokio::time::sleep(Duration::from_secs(40)).await,
                3 => life.now += BLOCK_RANGE_MS * (1 + life.luck.below(4) as i64),
                4..14 => life.query().await,
                _ => life.push().await,
            }
        }
        for (tenant, name) in TENANTS.iter().enumerate() {
            let all = life.map.select(tenant, &[], TimeRange::ALL);
            assert_eq!(content(&life.ingester, name).await, all);
        }
    }
}
