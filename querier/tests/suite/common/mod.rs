//! A world in memory for the tests: samples of tenants, sources that fail or are slow, and an environment without files.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of it")]

pub mod api;

use futures::future::BoxFuture;
use model::{
    env::{Clock, Entry, Env, File, Fs, Mapped, Rng, Spawn},
    identity::Identity,
    label::Labels,
    matcher::Matcher,
    metadata::{Metadata, MetricType},
    sample::{Exemplar, HistogramSample, SampleBuffer},
    select::{
        Chunk, ExemplarSeries, IdentifiedBatch, IdentifiedSet, LabelList, Listed, ReadySet, Samples, Select,
        SelectError, SelectRequest, SelectTenants, Series, SeriesSet,
    },
    tenant::Tenant,
    time::{TimeRange, Timestamp},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// The wall clock of the tests: 2024-03-01T00:00:00Z.
pub const NOW: Timestamp = 1_709_251_200_000;

/// Samples of one tenant, and how the source behaves.
#[derive(Clone, Default)]
pub struct Memory {
    pub series: BTreeMap<Labels, SampleBuffer>,
    pub exemplars: Vec<ExemplarSeries>,
    pub metadata: Vec<Metadata>,
    /// Every call fails with it.
    pub error: Option<SelectError>,
    /// The answer breaks off with it after the first batch.
    pub late_error: Option<SelectError>,
    /// Every call takes so long.
    pub delay: Duration,
    pub warnings: Vec<String>,
    /// Series in a batch.
    pub batch: usize,
    /// Gives series in reverse.
    pub unsorted: bool,
    /// Knows identities.
    pub identified: bool,
    /// Reading the samples of a series panics.
    pub broken_code: bool,
    /// Calls of `select` so far.
    pub calls: Arc<AtomicUsize>,
}

impl Memory {
    pub fn new() -> Self {
        Self {
            batch: 3,
            ..Self::default()
        }
    }

    pub fn floats(mut self, labels: &[(&str, &str)], samples: &[(Timestamp, f64)]) -> Self {
        let buffer = self
            .series
            .entry(Labels::new(labels.iter().copied()).unwrap())
            .or_default();
        for (at, value) in samples {
            buffer.push_float(*at, *value);
        }
        self
    }

    pub fn histograms(mut self, labels: &[(&str, &str)], samples: Vec<HistogramSample>) -> Self {
        let buffer = self
            .series
            .entry(Labels::new(labels.iter().copied()).unwrap())
            .or_default();
        buffer.histograms.extend(samples);
        self
    }

    pub fn exemplar(mut self, series: &[(&str, &str)], labels: &[(&str, &str)], at: Timestamp, value: f64) -> Self {
        self.exemplars.push(ExemplarSeries {
            labels: Labels::new(series.iter().copied()).unwrap(),
            exemplars: vec![Exemplar {
                labels: Labels::new(labels.iter().copied()).unwrap(),
                value,
                at,
            }],
        });
        self
    }

    pub fn about(mut self, family: &str, kind: MetricType, help: &str) -> Self {
        self.metadata.push(Metadata {
            family: family.into(),
            kind,
            unit: String::new(),
            help: help.into(),
        });
        self
    }

    pub fn failing(error: SelectError) -> Self {
        Self {
            error: Some(error),
            ..Self::new()
        }
    }

    /// This source for the default tenant.
    pub fn shared(self) -> Arc<dyn SelectTenants> {
        Arc::new(Tenants::default().with(Tenant::default(), self))
    }

    async fn begin(&self) -> Result<(), SelectError> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        self.error.clone().map_or(Ok(()), Err)
    }

    fn matching<'a>(
        &'a self,
        matchers: &'a [Matcher],
        range: TimeRange,
    ) -> impl Iterator<Item = (&'a Labels, &'a SampleBuffer)> {
        self.series.iter().filter(move |(labels, samples)| {
            matchers
                .iter()
                .all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or("")))
                && (samples.timestamps.iter().any(|at| range.contains(*at))
                    || samples.histograms.iter().any(|h| range.contains(h.at)))
        })
    }

    fn list(&self, items: BTreeSet<String>, limit: usize) -> LabelList {
        let mut items: Vec<String> = items.into_iter().collect();
        if limit > 0 {
            items.truncate(limit);
        }
        self.listed(items)
    }

    fn listed<T>(&self, items: Vec<T>) -> Listed<T> {
        Listed {
            items,
            warnings: self.warnings.clone(),
        }
    }
}

/// A small fleet: two nodes that are up, a counter with an exemplar, something long gone, names beyond the old alphabet.
pub fn fleet() -> Memory {
    let at = NOW - 30_000;
    Memory::new()
        .floats(
            &[("__name__", "up"), ("job", "node"), ("instance", "a:1")],
            &[(at, 1.0), (at + 15_000, 1.0)],
        )
        .floats(
            &[("__name__", "up"), ("job", "node"), ("instance", "b:1")],
            &[(at, 0.0)],
        )
        .floats(
            &[("__name__", "http_requests_total"), ("code", "200")],
            &[(at, 12_345_678.5)],
        )
        .floats(&[("__name__", "old"), ("job", "gone")], &[(NOW - 86_400_000, 1.0)])
        .floats(
            &[("__name__", "dotted.name"), ("http.status", "5\"0\\0\n")],
            &[(at, 3.0)],
        )
        .about("up", MetricType::Gauge, "Whether it is up")
        .about("http_requests_total", MetricType::Counter, "Requests")
        .about("http_requests_total", MetricType::Counter, "Requests, differently")
        .exemplar(
            &[("__name__", "http_requests_total"), ("code", "200")],
            &[("trace_id", "abc")],
            at,
            0.25,
        )
}

/// Ten minutes of two nodes, and values that JSON has no numbers for.
pub fn ten_minutes() -> Memory {
    let samples: Vec<_> = (0..40)
        .map(|index| (NOW - 600_000 + index * 15_000, index as f64))
        .collect();
    Memory::new()
        .floats(&[("__name__", "up"), ("instance", "a:1")], &samples)
        .floats(&[("__name__", "up"), ("instance", "b:1")], &samples)
        .floats(&[("__name__", "odd"), ("kind", "nan")], &[(NOW, f64::NAN)])
        .floats(&[("__name__", "odd"), ("kind", "plus")], &[(NOW, f64::INFINITY)])
        .floats(&[("__name__", "odd"), ("kind", "small")], &[(NOW, 1e-7)])
}

/// Samples that lie in a buffer already.
pub struct Held(pub SampleBuffer);

impl Samples for Held {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        for (index, at) in self
            .0
            .timestamps
            .iter()
            .enumerate()
            .filter(|(_, at)| range.contains(**at))
        {
            let start = self.0.starts.get(index).copied().unwrap_or(0);
            buffer.push_float_started(*at, self.0.values[index], start);
        }
        buffer
            .histograms
            .extend(self.0.histograms.iter().filter(|h| range.contains(h.at)).cloned());
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        Ok(storage::chunk::encode_samples(&self.0))
    }
}

/// Samples that nobody can read.
struct BrokenCode;

impl Samples for BrokenCode {
    fn read(&self, _range: TimeRange, _buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        panic!("a test's panic")
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        panic!("a test's panic")
    }
}

struct Batches {
    batches: std::vec::IntoIter<Vec<Series>>,
    late_error: Option<SelectError>,
    warnings: Vec<String>,
}

impl SeriesSet for Batches {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        let next = match self.batches.next() {
            Some(batch) => Some(Ok(batch)),
            None => self.late_error.take().map(Err),
        };
        Box::pin(async move { next })
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}

/// Series with identities, the labels that were hinted at shown.
struct Identified {
    set: Batches,
    key: u64,
    shown: Option<Arc<[String]>>,
    left: usize,
}

impl IdentifiedSet for Identified {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<IdentifiedBatch, SelectError>>> {
        Box::pin(async move {
            let batch = self.set.next().await?;
            let identified = |series: Series| {
                let identity = Identity::of(&series.labels, self.key);
                let is_shown = |name: &str| self.shown.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
                let labels = series.labels.filtered(is_shown);
                (identity, Series { labels, ..series })
            };
            Some(batch.map(|batch| {
                self.left -= batch.len();
                batch.into_iter().map(identified).collect()
            }))
        })
    }

    fn series_max(&self) -> usize {
        self.left
    }

    fn warnings(&self) -> Vec<String> {
        self.set.warnings()
    }
}

impl Memory {
    async fn batches(&self, request: SelectRequest) -> Result<Batches, SelectError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.begin().await?;
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let mut series: Vec<Series> = self
            .matching(&request.matchers, request.range)
            .take(limit)
            .map(|(labels, samples)| Series {
                labels: labels.clone(),
                samples: Box::new(Held(samples.clone())),
            })
            .collect();
        if self.broken_code {
            series
                .iter_mut()
                .for_each(|series| series.samples = Box::new(BrokenCode));
        }
        if self.unsorted {
            series.reverse();
        }
        let mut batches = Vec::new();
        while !series.is_empty() {
            let rest = series.split_off(series.len().min(self.batch));
            batches.push(std::mem::replace(&mut series, rest));
        }
        if self.late_error.is_some() {
            batches.truncate(1);
        }
        Ok(Batches {
            batches: batches.into_iter(),
            late_error: self.late_error.clone(),
            warnings: self.warnings.clone(),
        })
    }
}

impl Select for Memory {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(async move { Ok(Box::new(self.batches(request).await?) as Box<dyn SeriesSet>) })
    }

    fn select_identified(
        &self,
        request: &SelectRequest,
        key: u64,
    ) -> Option<BoxFuture<'_, Result<Box<dyn IdentifiedSet>, SelectError>>> {
        let request = request.clone();
        self.identified.then(|| {
            Box::pin(async move {
                let shown = request.hints.labels.clone();
                let (set, left) = (self.batches(request).await?, self.series.len());
                Ok(Box::new(Identified { set, key, shown, left }) as Box<dyn IdentifiedSet>)
            }) as BoxFuture<'_, _>
        })
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async move {
            self.begin().await?;
            let names = self
                .matching(&matchers, range)
                .flat_map(|(labels, _)| labels.iter().map(|(name, _)| name.to_owned()));
            Ok(self.list(names.collect(), limit))
        })
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async move {
            self.begin().await?;
            let values = self
                .matching(&matchers, range)
                .filter_map(|(labels, _)| labels.get(&name).map(str::to_owned));
            Ok(self.list(values.collect(), limit))
        })
    }

    fn exemplars(
        &self,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'_, Result<Listed<ExemplarSeries>, SelectError>> {
        Box::pin(async move {
            self.begin().await?;
            let hit = |labels: &Labels, set: &Vec<Matcher>| {
                set.iter()
                    .all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or("")))
            };
            let mut found = self.exemplars.clone();
            found.retain(|series| selectors.iter().any(|set| hit(&series.labels, set)));
            found
                .iter_mut()
                .for_each(|series| series.exemplars.retain(|exemplar| range.contains(exemplar.at)));
            Ok(self.listed(found))
        })
    }

    fn metadata(&self, family: Option<String>) -> BoxFuture<'_, Result<Listed<Metadata>, SelectError>> {
        Box::pin(async move {
            self.begin().await?;
            let wanted = |about: &&Metadata| family.as_ref().is_none_or(|family| about.family == *family);
            Ok(self.listed(self.metadata.iter().filter(wanted).cloned().collect()))
        })
    }
}

/// A source for each tenant.
#[derive(Default)]
pub struct Tenants {
    tenants: BTreeMap<Tenant, Arc<Memory>>,
}

impl Tenants {
    pub fn with(mut self, tenant: Tenant, memory: Memory) -> Self {
        self.tenants.insert(tenant, Arc::new(memory));
        self
    }
}

impl SelectTenants for Tenants {
    fn tenant(&self, tenant: &Tenant) -> Arc<dyn Select> {
        match self.tenants.get(tenant) {
            Some(memory) => memory.clone(),
            None => Arc::new(Memory::new()),
        }
    }

    fn tenants(&self) -> Vec<Tenant> {
        self.tenants.keys().cloned().collect()
    }
}

/// All of an answer: labels, samples, warnings.
pub async fn collect(set: &mut dyn SeriesSet) -> Result<Vec<(Labels, SampleBuffer)>, SelectError> {
    let mut all = Vec::new();
    while let Some(batch) = set.next().await {
        let batch = batch?;
        assert!(!batch.is_empty(), "an empty batch");
        for series in batch {
            let mut samples = SampleBuffer::default();
            series.samples.read(TimeRange::ALL, &mut samples)?;
            all.push((series.labels, samples));
        }
    }
    Ok(all)
}

/// An answer that is at hand.
pub fn ready(series: Vec<(Labels, SampleBuffer)>) -> Box<dyn SeriesSet> {
    let series = series.into_iter().map(|(labels, samples)| Series {
        labels,
        samples: Box::new(Held(samples)),
    });
    Box::new(ReadySet::new(series.collect(), Vec::new()))
}

/// An environment whose wall clock stands at [`NOW`]; durations are real, files do not exist.
pub fn env() -> Env {
    Env {
        clock: Arc::new(TestClock),
        rng: Arc::new(NoRng),
        fs: Arc::new(NoFs),
        spawn: Arc::new(TokioSpawn),
    }
}

pub struct TestClock;

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        NOW
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock of the tests")]
    fn monotonic(&self) -> Duration {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct NoRng;

impl Rng for NoRng {
    fn next_u64(&self) -> u64 {
        4
    }
}

struct TokioSpawn;

#[expect(clippy::disallowed_methods, reason = "this is how the tests spawn")]
impl Spawn for TokioSpawn {
    fn task(&self, _name: &str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn blocking(&self, _name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let work = tokio::task::spawn_blocking(work);
        Box::pin(async move { drop(work.await) })
    }

    fn thread(&self, _name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        std::thread::spawn(work);
        Ok(())
    }
}

struct NoFs;

fn no_files<T>() -> io::Result<T> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

impl Fs for NoFs {
    fn create(&self, _path: &Path) -> io::Result<Box<dyn File>> {
        no_files()
    }
    fn open_append(&self, _path: &Path) -> io::Result<Box<dyn File>> {
        no_files()
    }
    fn read(&self, _path: &Path) -> io::Result<Vec<u8>> {
        no_files()
    }
    fn map(&self, _path: &Path) -> io::Result<Mapped> {
        no_files()
    }
    fn list(&self, _path: &Path) -> io::Result<Vec<Entry>> {
        no_files()
    }
    fn size(&self, _path: &Path) -> io::Result<u64> {
        no_files()
    }
    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        no_files()
    }
    fn remove_file(&self, _path: &Path) -> io::Result<()> {
        no_files()
    }
    fn remove_dir(&self, _path: &Path) -> io::Result<()> {
        no_files()
    }
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        no_files()
    }
    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        no_files()
    }
    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        no_files()
    }
    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        no_files()
    }
}
