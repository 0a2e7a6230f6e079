//! Random lives of an ingester against a map: each verdict and each answer must be what the map says.
//!
//! Samples of all kinds, in order and late, repeated and contradicting; deletions; cuts, restarts, power losses. One life for each
//! seed: `NARTHEX_SEEDS` says how many, `NARTHEX_FIRST_SEED` with which to begin.

mod support;

use ingest::Ingester;
use model::{
    admin::Administer as _,
    env::memory::MemoryFs,
    histogram::{Histogram, ResetHint, Span},
    label::Labels,
    matcher::{MatchOp, Matcher},
    push::{Push as _, SampleKind, SeriesId, SeriesRef, WriteBatch},
    sample::{FloatSample, HistogramSample, STALE_NAN, SampleBuffer},
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
use support::{NOW, World};

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

/// What a series has at a time; `wrong` is something else there. A third of the series changes between the kinds.
#[derive(Clone)]
enum Value {
    Float(f64),
    Histogram(Arc<Histogram>),
}

impl Value {
    fn of(number: usize, at: Timestamp, wrong: bool) -> Self {
        let tick = at / 5000 % 50 + i64::from(wrong);
        let kind = if number.is_multiple_of(3) { at / 5000 % 16 } else { 0 };
        match kind {
            8 | 9 => Self::histogram(true, false, tick as f64),
            10 => Self::histogram(false, false, tick as f64 / 4.0),
            11 => Self::histogram(true, true, tick as f64),
            12 => Self::histogram(false, true, tick as f64 / 4.0),
            13 if !wrong => Self::Histogram(Arc::new(Histogram {
                sum: STALE_NAN,
                ..Histogram::default()
            })),
            14 if !wrong => Self::Float(STALE_NAN),
            _ => Self::Float(tick as f64),
        }
    }

    fn histogram(integer: bool, custom: bool, grown: f64) -> Self {
        let buckets = vec![1.0 + grown, 3.0, grown + 0.25 * f64::from(u8::from(!integer))];
        let count = buckets.iter().sum();
        Self::Histogram(Arc::new(Histogram {
            integer,
            schema: if custom { -53 } else { 1 },
            zero_threshold: if custom { 0.0 } else { 0.001 },
            count,
            sum: count * 0.5,
            positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }],
            positive_buckets: buckets,
            custom_values: if custom { vec![0.5, 1.0, 2.0, 5.0] } else { vec![] },
            ..Histogram::default()
        }))
    }

    /// As text without what storing may add: knowledge about resets, empty buckets.
    fn plain(&self) -> String {
        match self {
            Self::Float(value) => format!("{:x}", value.to_bits()),
            Self::Histogram(histogram) if histogram.is_stale() => "stale histogram".into(),
            Self::Histogram(histogram) => {
                let mut plain = (**histogram).clone();
                plain.reset_hint = ResetHint::Unknown;
                plain.compact();
                format!("{plain:?}")
            }
        }
    }
}

type Series = (usize, usize);

/// Samples by labels.
type Content = BTreeMap<String, BTreeMap<Timestamp, String>>;

/// What should be stored.
#[derive(Default)]
struct Map {
    samples: BTreeMap<Series, BTreeMap<Timestamp, String>>,
    /// The newest sample that a series ever had, deleted or not.
    newest: BTreeMap<Series, Timestamp>,
}

impl Map {
    /// The verdict for a sample, which is stored when it is written.
    fn push(&mut self, series: Series, at: Timestamp, value: String, now: Timestamp) -> Verdict {
        let samples = self.samples.entry(series).or_default();
        match samples.get(&at) {
            Some(known) if *known == value => return Verdict::Duplicate,
            Some(_) => return Verdict::Rejected(Reason::DuplicateTimestamp),
            None => {}
        }
        let newest = self.newest.get(&series).copied();
        if newest.is_some_and(|newest| at < newest - WINDOW) {
            return Verdict::Rejected(Reason::TooOld);
        }
        if at > now + 600_000 {
            return Verdict::Rejected(Reason::TooFarInFuture);
        }
        samples.insert(at, value);
        self.newest.insert(series, newest.unwrap_or(at).max(at));
        Verdict::Written
    }

    fn matching(tenant: usize, matchers: &[Matcher]) -> impl Fn(&Series) -> bool {
        move |(owner, number)| {
            let labels = labels(*number);
            let fits = |matcher: &Matcher| matcher.matches(labels.get(&matcher.name).unwrap_or(""));
            *owner == tenant && matchers.iter().all(fits)
        }
    }

    fn delete(&mut self, tenant: usize, matchers: &[Matcher], range: TimeRange) {
        let meant = Self::matching(tenant, matchers);
        for (_, samples) in self.samples.iter_mut().filter(|(series, _)| meant(series)) {
            samples.retain(|at, _| !range.contains(*at));
        }
    }

    fn select(&self, tenant: usize, matchers: &[Matcher], range: TimeRange) -> Content {
        let meant = Self::matching(tenant, matchers);
        let mut content = Content::new();
        for (series, samples) in self.samples.iter().filter(|(series, _)| meant(series)) {
            let inside = samples.iter().filter(|(at, _)| range.contains(**at));
            let inside: BTreeMap<_, _> = inside.map(|(&at, value)| (at, value.clone())).collect();
            if !inside.is_empty() {
                content.insert(labels(series.1).to_string(), inside);
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
        world.settings.out_of_order_cut_delay = Duration::from_secs(60);
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

    async fn step(&mut self) {
        match self.luck.below(40) {
            0 => self.restart().await,
            1 => drop(self.ingester.cut_now().await.unwrap()),
            2 => tokio::time::sleep(Duration::from_secs(40)).await,
            3 => self.now += BLOCK_RANGE_MS * (1 + self.luck.below(4) as i64),
            4 => self.delete().await,
            5..14 => self.query().await,
            _ => self.push().await,
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
                match Value::of(number, at, self.luck.below(15) == 0) {
                    Value::Float(value) => batch.floats.push(FloatSample { at, value, start: 0 }),
                    Value::Histogram(histogram) => batch.histograms.push(HistogramSample {
                        at,
                        start: 0,
                        histogram,
                    }),
                }
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
        let exceptions = outcome.exceptions.iter();
        let verdicts: BTreeMap<_, Verdict> = exceptions
            .map(|e| ((e.kind == SampleKind::Histogram, e.sample), e.verdict))
            .collect();
        assert_eq!(verdicts.len(), outcome.exceptions.len(), "one verdict for each sample");
        let unknown: BTreeSet<u32> = outcome.unknown.iter().copied().collect();
        for (position, series_ref) in &outcome.refs {
            self.refs.insert((tenant, numbers[*position as usize]), *series_ref);
        }
        // Floats of the whole batch come first, then its histograms.
        for histograms in [false, true] {
            let mut from = 0;
            for (position, series) in (0u32..).zip(&batch.series) {
                let key = (tenant, numbers[position as usize]);
                let end = if histograms {
                    series.histograms_end
                } else {
                    series.floats_end
                };
                for index in from..end {
                    let verdict = verdicts.get(&(histograms, index)).copied();
                    if unknown.contains(&position) {
                        assert_eq!(verdict, None, "an unknown series has no verdicts");
                        continue;
                    }
                    let (at, value) = if histograms {
                        let sample = &batch.histograms[index as usize];
                        (sample.at, Value::Histogram(Arc::clone(&sample.histogram)))
                    } else {
                        let sample = &batch.floats[index as usize];
                        (sample.at, Value::Float(sample.value))
                    };
                    let newest = self.map.newest.get(&key).copied();
                    let expected = self.map.push(key, at, value.plain(), self.now);
                    assert_eq!(
                        verdict.unwrap_or(Verdict::Written),
                        expected,
                        "{key:?} at {at}, now {}, newest {newest:?}",
                        self.now
                    );
                }
                from = end;
            }
        }
        for position in unknown {
            assert!(matches!(batch.series[position as usize].id, SeriesId::Known(_)));
            self.refs.remove(&(tenant, numbers[position as usize]));
        }
    }

    fn matchers(&mut self) -> Vec<Matcher> {
        let regex = |op, name: &str, value: &str| Matcher::new(op, name, value).unwrap();
        match self.luck.below(5) {
            0 => vec![Matcher::equal("__name__", "requests")],
            1 => vec![Matcher::equal("code", "404"), regex(MatchOp::Regex, "path", "/[0-4]")],
            2 => vec![Matcher::equal("zone", ""), Matcher::not_equal("code", "200")],
            3 => vec![regex(MatchOp::Regex, "code", "200|500"), Matcher::equal("zone", "a")],
            _ => vec![regex(MatchOp::NotRegex, "path", "/.")],
        }
    }

    fn range(&mut self) -> TimeRange {
        let begin = NOW + self.luck.below((self.now - NOW) as u64 + 1) as i64 - 100_000;
        let choices = [TimeRange::ALL, TimeRange::new(begin, begin + 1_000_000)];
        choices[self.luck.below(2) as usize]
    }

    async fn delete(&mut self) {
        let tenant = self.luck.below(3) as usize;
        let (matchers, range) = (self.matchers(), self.range());
        let owner = Tenant::new(TENANTS[tenant]).unwrap();
        let selectors = vec![matchers.clone(), vec![Matcher::equal("path", "/7")]];
        for selector in &selectors {
            self.map.delete(tenant, selector, range);
        }
        self.ingester.delete_series(&owner, selectors, range).await.unwrap();
        if self.luck.below(4) == 0 {
            self.ingester.clean_tombstones(&owner).await.unwrap();
        }
    }

    async fn query(&mut self) {
        let tenant = self.luck.below(3) as usize;
        let (matchers, range) = (self.matchers(), self.range());
        self.check(tenant, matchers, range).await;
    }

    async fn check(&mut self, tenant: usize, matchers: Vec<Matcher>, range: TimeRange) {
        let select = self.ingester.tenant(&Tenant::new(TENANTS[tenant]).unwrap());
        let mut request = SelectRequest::new(matchers.clone(), range);
        request.sorted = self.luck.below(2) == 0;
        let expected = self.map.select(tenant, &matchers, range);
        let mut set = select.select(request.clone()).await.unwrap();
        let (mut found, mut newest) = (Content::new(), Vec::new());
        while let Some(batch) = set.next().await {
            for series in batch.unwrap() {
                let samples = read(&series, range);
                newest.extend(newest_by_path(&series, &samples));
                // A chunk may reach into the range although none of its samples does.
                if !samples.is_empty() {
                    let before = found.insert(series.labels.to_string(), samples);
                    assert_eq!(before, None, "a series came twice");
                }
            }
        }
        assert_eq!(found, expected, "{matchers:?} {range:?}");
        assert_eq!(set.warnings(), [""; 0]);
        // Who needs only the newest samples, and one label, gets the same of those.
        request.sorted = false;
        request.hints.newest_only = true;
        request.hints.labels = Some(["path".to_owned()].into());
        let (mut set, mut hinted) = (select.select(request).await.unwrap(), Vec::new());
        while let Some(batch) = set.next().await {
            let batch = batch.unwrap();
            let newest = batch.iter().map(|series| newest_by_path(series, &read(series, range)));
            hinted.extend(newest.flatten());
        }
        newest.sort();
        hinted.sort();
        assert_eq!(hinted, newest, "newest samples of {matchers:?} {range:?}");
        if range == TimeRange::ALL {
            let values = select
                .label_values("path".into(), matchers, range, 0)
                .await
                .unwrap()
                .items;
            assert_eq!(values.len(), BTreeSet::from_iter(&values).len());
            let shown = |labels: &String| values.iter().any(|value| labels.contains(&format!("path={value:?}")));
            assert!(expected.keys().all(shown), "{values:?}");
        }
    }
}

/// The samples of a series in `range`.
fn read(series: &model::select::Series, range: TimeRange) -> BTreeMap<Timestamp, String> {
    let mut buffer = SampleBuffer::default();
    series.samples.read(range, &mut buffer).unwrap();
    let floats = buffer.timestamps.iter().zip(&buffer.values);
    let floats = floats.map(|(&at, &value)| (at, Value::Float(value).plain()));
    let histograms = buffer.histograms.iter();
    let histograms = histograms.map(|s| (s.at, Value::Histogram(Arc::clone(&s.histogram)).plain()));
    let samples: BTreeMap<_, _> = floats.chain(histograms).collect();
    assert_eq!(samples.len(), buffer.len(), "a timestamp came twice");
    samples
}

/// The label `path` of a series, and its newest sample in words.
fn newest_by_path(series: &model::select::Series, samples: &BTreeMap<Timestamp, String>) -> Option<(String, String)> {
    let path = series.labels.get("path").unwrap_or("").to_owned();
    samples.last_key_value().map(|newest| (path, format!("{newest:?}")))
}

fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

#[tokio::test(start_paused = true)]
async fn it_does_what_a_map_does() {
    let first = number_from("NARTHEX_FIRST_SEED", 0);
    for seed in first..first + number_from("NARTHEX_SEEDS", 60) {
        println!("seed {seed}");
        let mut life = Life::begin(seed).await;
        for _ in 0..20 + life.luck.below(120) {
            life.step().await;
        }
        for tenant in 0..TENANTS.len() {
            life.check(tenant, Vec::new(), TimeRange::ALL).await;
        }
        life.ingester.shutdown().await;
    }
}
