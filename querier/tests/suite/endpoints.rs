//! Other processes as sources: StoreAPI over real connections on loopback, between our server and our client.

use crate::common::{Memory, NOW, Tenants, collect, env};
use futures::future::BoxFuture;
use model::{
    label::Labels,
    matcher::{MatchOp, Matcher},
    metadata::MetricType,
    sample::SampleBuffer,
    select::{Chunk, LabelList, Listed, Samples, Select, SelectError, SelectRequest, SelectTenants, Series, SeriesSet},
    tenant::Tenant,
    time::TimeRange,
};
use proto::{
    grpc::security::Security,
    thanos::{Description, StoreService},
};
use querier::{Endpoint, EndpointSet, EndpointSettings, Fanout, Policy, Source, endpoint::selectors_of};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use storage::chunk::{ChunkSamples, encode_samples};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A server on loopback that ends with the test.
struct Server {
    address: SocketAddr,
    stop: Option<DropGuard>,
    _ready: watch::Sender<bool>,
}

fn description(range: TimeRange, sets: &[&[(&str, &str)]]) -> Description {
    Description {
        component: "store",
        label_sets: sets
            .iter()
            .map(|set| Labels::new(set.iter().copied()).unwrap())
            .collect(),
        range,
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's server")]
async fn serve_as(select: Arc<dyn SelectTenants>, description: Description) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = StoreService::new(select, move || Some(description.clone()), selectors_of);
    let (ready, follow) = watch::channel(true);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        let (routes, security) = (proto::thanos::routes(service), Security::default());
        let served = proto::grpc::serve(
            listener,
            follow,
            routes.into(),
            &security,
            stopped.clone().cancelled_owned(),
        );
        // Connections are cut, as by a process that dies.
        tokio::select! { _ = served => {}, () = async { stopped.cancelled().await; tokio::time::sleep(Duration::from_millis(50)).await } => {} }
    });
    Server {
        address,
        stop: Some(stop.drop_guard()),
        _ready: ready,
    }
}

async fn serve(select: Arc<dyn SelectTenants>) -> Server {
    serve_as(select, description(TimeRange::ALL, &[])).await
}

impl Server {
    fn endpoint(&self) -> Endpoint {
        self.endpoint_with(EndpointSettings::default())
    }

    fn endpoint_with(&self, settings: EndpointSettings) -> Endpoint {
        Endpoint::new(&self.address.to_string(), settings, &env()).unwrap()
    }
}

/// Wraps a source so that its samples are chunks, as those of real sources are.
struct Chunked(Memory);

struct ChunkedSet(Box<dyn SeriesSet>);

impl SeriesSet for ChunkedSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async move {
            let batch = self.0.next().await?;
            Some(batch.map(|batch| batch.into_iter().map(chunked).collect()))
        })
    }

    fn warnings(&self) -> Vec<String> {
        self.0.warnings()
    }
}

fn chunked(series: Series) -> Series {
    let mut buffer = SampleBuffer::default();
    series.samples.read(TimeRange::ALL, &mut buffer).unwrap();
    let samples = ChunkSamples::new(encode_samples(&buffer), "test".into());
    Series {
        labels: series.labels,
        samples: Box::new(samples),
    }
}

impl Select for Chunked {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(async move { Ok(Box::new(ChunkedSet(self.0.select(request).await?)) as Box<dyn SeriesSet>) })
    }

    fn label_names(&self, m: Vec<Matcher>, r: TimeRange, l: usize) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        self.0.label_names(m, r, l)
    }

    fn label_values(
        &self,
        n: String,
        m: Vec<Matcher>,
        r: TimeRange,
        l: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        self.0.label_values(n, m, r, l)
    }
}

struct One(Arc<dyn Select>, Tenant);

impl SelectTenants for One {
    fn tenant(&self, tenant: &Tenant) -> Arc<dyn Select> {
        if *tenant == self.1 {
            self.0.clone()
        } else {
            Arc::new(Memory::new())
        }
    }

    fn tenants(&self) -> Vec<Tenant> {
        vec![self.1.clone()]
    }
}

fn one(memory: Memory) -> Arc<dyn SelectTenants> {
    Arc::new(One(Arc::new(Chunked(memory)), Tenant::default()))
}

/// Two hours of many series, one of them with more chunks than fit a frame.
fn plenty() -> Memory {
    let times: Vec<i64> = (0..480).map(|i| NOW - 7_200_000 + i * 15_000).collect();
    let mut memory = Memory::new();
    for series in 0..300 {
        let samples: Vec<(i64, f64)> = times.iter().map(|&at| (at, (at * series % 1000) as f64)).collect();
        memory = memory.floats(&[("__name__", "m"), ("i", &format!("{series:03}"))], &samples);
    }
    let noise = |i: i64| f64::from_bits(0x3ff0_0000_0000_0000 | (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12);
    let long: Vec<(i64, f64)> = (0..400_000).map(|i| (NOW - 400_000 + i, noise(i))).collect();
    memory.batch = 37;
    memory.floats(&[("__name__", "m"), ("i", "long")], &long)
}

fn all() -> SelectRequest {
    SelectRequest::new(vec![Matcher::not_equal("no_such_label", "x")], TimeRange::ALL)
}

async fn answer(select: &dyn Select, request: SelectRequest) -> Result<Vec<(Labels, SampleBuffer)>, SelectError> {
    let mut set = select.select(request).await?;
    collect(&mut *set).await
}

#[tokio::test]
async fn near_and_far_answer_equally() {
    let near = Chunked(plenty());
    let server = serve(one(plenty())).await;
    let far = server.endpoint().tenant(&Tenant::default());
    assert_eq!(answer(&*far, all()).await.unwrap(), answer(&near, all()).await.unwrap());

    // Only a part of the time: what is outside may come, what is inside must.
    let range = TimeRange::new(NOW - 3_600_000, NOW - 3_000_000);
    let narrow = SelectRequest::new(vec![Matcher::new(MatchOp::Regex, "i", "0.*").unwrap()], range);
    let (far_series, near_series) = (
        answer(&*far, narrow.clone()).await.unwrap(),
        answer(&near, narrow).await.unwrap(),
    );
    assert_eq!(far_series.len(), 100);
    for ((labels, mut got), (expected_labels, expected)) in far_series.into_iter().zip(near_series) {
        assert_eq!(labels, expected_labels);
        let mut cut = SampleBuffer::default();
        for (at, value) in got.timestamps.drain(..).zip(got.values.drain(..)) {
            if range.contains(at) {
                cut.push_float(at, value);
            }
        }
        let inside: Vec<i64> = expected
            .timestamps
            .into_iter()
            .filter(|at| range.contains(*at))
            .collect();
        assert_eq!(cut.timestamps, inside);
    }

    let limited = SelectRequest { limit: 7, ..all() };
    assert_eq!(answer(&*far, limited).await.unwrap().len(), 7);
    let bare = SelectRequest {
        labels_only: true,
        ..all()
    };
    let bare = answer(&*far, bare).await.unwrap();
    assert_eq!(bare.len(), 301);
    assert!(bare.iter().all(|(_, samples)| samples.is_empty()));

    let names = far.label_names(vec![], TimeRange::ALL, 0).await.unwrap();
    assert_eq!(names.items, ["__name__", "i"]);
    let values = far.label_values("i".into(), vec![Matcher::equal("i", "long")], TimeRange::ALL, 0);
    assert_eq!(values.await.unwrap().items, ["long"]);
}

#[tokio::test]
async fn exemplars_and_metadata_come_over_the_wire() {
    let memory = Memory::new()
        .about("up", MetricType::Gauge, "Whether it is up")
        .exemplar(&[("__name__", "x"), ("http.code", "5")], &[("trace", "t")], NOW, 2.5);
    let expected = memory.clone();
    let server = serve(memory.shared()).await;
    let far = server.endpoint().tenant(&Tenant::default());
    let selectors = vec![vec![Matcher::equal("http.code", "5")], vec![Matcher::equal("a", "b")]];
    let found = far.exemplars(selectors, TimeRange::ALL).await.unwrap();
    assert_eq!(found, expected.exemplars.into());
    let about = async |family: Option<&str>| far.metadata(family.map(str::to_owned)).await.unwrap();
    assert_eq!(about(None).await, expected.metadata.clone().into());
    assert_eq!(about(Some("up")).await, expected.metadata.into());
    assert_eq!(about(Some("down")).await, Listed::default());
}

#[tokio::test]
async fn a_tenant_sees_only_its_own() {
    let (a, b) = (Tenant::new("a").unwrap(), Tenant::new("b").unwrap());
    let sources = Tenants::default().with(a.clone(), Memory::new().floats(&[("of", "a")], &[(NOW, 1.0)]));
    let sources = sources.with(b.clone(), Memory::new().floats(&[("of", "b")], &[(NOW, 1.0)]));
    let server = serve(Arc::new(sources)).await;
    let endpoint = server.endpoint();
    for (tenant, expected) in [(a, vec!["a"]), (b, vec!["b"]), (Tenant::default(), vec![])] {
        let select = endpoint.tenant(&tenant);
        let values = select.label_values("of".into(), vec![], TimeRange::ALL, 0);
        assert_eq!(values.await.unwrap().items, expected, "{tenant}");
    }
}

#[tokio::test]
async fn only_endpoints_that_may_hold_the_answer_are_asked() {
    let memory = Memory::new().floats(&[("__name__", "up")], &[(NOW, 1.0)]);
    let calls = memory.calls.clone();
    let told = description(
        TimeRange::new(NOW - 1000, NOW),
        &[&[("region", "eu")], &[("region", "us")]],
    );
    let server = serve_as(memory.shared(), told).await;
    let select = server.endpoint().tenant(&Tenant::default());
    let ask = |matcher: Matcher, range| answer(&*select, SelectRequest::new(vec![matcher], range));
    ask(Matcher::equal("region", "asia"), TimeRange::ALL).await.unwrap();
    ask(Matcher::equal("__name__", "up"), TimeRange::new(0, NOW - 1001))
        .await
        .unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    ask(Matcher::equal("region", "us"), TimeRange::new(NOW, NOW))
        .await
        .unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn errors_and_warnings_keep_their_meaning() {
    for error in [
        SelectError::Limit("too much".into()),
        SelectError::Corrupt("bad chunk".into()),
    ] {
        let server = serve(Memory::failing(error.clone()).shared()).await;
        let select = server.endpoint().tenant(&Tenant::default());
        assert_eq!(answer(&*select, all()).await.unwrap_err(), error);
    }
    let mut memory = Memory::new().floats(&[("a", "1")], &[(NOW, 1.0)]);
    memory.late_error = Some(SelectError::Unavailable("disk gone".into()));
    let server = serve(memory.shared()).await;
    let select = server.endpoint().tenant(&Tenant::default());
    let error = answer(&*select, all()).await.unwrap_err();
    assert_eq!(error, SelectError::Unavailable("disk gone".into()));

    let mut memory = Memory::new().floats(&[("a", "1")], &[(NOW, 1.0)]);
    memory.warnings = vec!["a block is missing".into()];
    let server = serve(one(memory)).await;
    let select = server.endpoint().tenant(&Tenant::default());
    let mut set = select.select(all()).await.unwrap();
    assert_eq!(collect(&mut *set).await.unwrap().len(), 1);
    let expected = format!("endpoint {}: a block is missing", server.address);
    assert_eq!(set.warnings(), [expected]);

    let mut memory = Memory::new().floats(&[("a", "1")], &[(NOW, 1.0)]);
    memory.broken_code = true;
    let server = serve(memory.shared()).await;
    let select = server.endpoint().tenant(&Tenant::default());
    let error = answer(&*select, all()).await.unwrap_err();
    assert!(matches!(error, SelectError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_dead_endpoint_is_a_warning_or_an_error_and_costs_no_time() {
    let held = Memory::new().floats(&[("a", "1")], &[(NOW, 1.0)]);
    let mut server = serve(one(held.clone())).await;
    let (endpoint, local) = (server.endpoint(), one(held));
    let sources = |replicated| {
        let (near, far) = (Source::sole("near", local.clone()), Arc::new(endpoint.clone()));
        match replicated {
            true => vec![Source::replica("near", local.clone()), Source::replica("far", far)],
            false => vec![near, Source::sole("far", far)],
        }
    };
    let partial = Fanout::new(vec![]).with_policy(Policy::Partial);
    partial.set_sources(sources(false), 0);
    let strict = Fanout::new(vec![]);
    strict.set_sources(sources(false), 0);
    let replicas = Fanout::new(vec![]);
    replicas.set_sources(sources(true), 1);
    let tenant = Tenant::default();
    for fanout in [&partial, &strict, &replicas] {
        let mut set = fanout.tenant(&tenant).select(all()).await.unwrap();
        assert_eq!(collect(&mut *set).await.unwrap().len(), 1);
        assert_eq!(set.warnings(), [""; 0]);
    }

    drop(server.stop.take());
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..5 {
        let mut set = partial.tenant(&tenant).select(all()).await.unwrap();
        assert_eq!(collect(&mut *set).await.unwrap().len(), 1);
        let warnings = set.warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("source far failed"),
            "{warnings:?}"
        );
    }
    assert!(strict.tenant(&tenant).select(all()).await.is_err());
    // One of two replicas is down, and a write needs only one: the other holds everything: the answer is whole.
    let mut set = replicas.tenant(&tenant).select(all()).await.unwrap();
    assert_eq!(collect(&mut *set).await.unwrap().len(), 1);
    assert_eq!(set.warnings(), [""; 0]);
    let error = endpoint.status().error.unwrap();
    assert!(error.contains("failures in a row"), "{error}");
    assert!(endpoint.probe().await.is_err());
    assert!(endpoint.tenant(&tenant).select(all()).await.is_err());
}

#[tokio::test]
async fn a_slow_endpoint_is_given_up_after_its_time() {
    let mut memory = Memory::new();
    memory.delay = Duration::from_secs(60);
    let server = serve(memory.shared()).await;
    let settings = EndpointSettings {
        timeout: Duration::from_millis(300),
        ..EndpointSettings::default()
    };
    let select = server.endpoint_with(settings).tenant(&Tenant::default());
    let error = answer(&*select, all()).await.unwrap_err();
    assert_eq!(error, SelectError::Unavailable("no answer within 0.3 s".into()));
}

/// Series without end, counted as they are taken.
struct Endless(Arc<AtomicUsize>);

impl SeriesSet for Endless {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let labels = Labels::new([("i", format!("{number:09}"))]).unwrap();
        let chunk = Chunk {
            min_time: NOW,
            max_time: NOW,
            encoding: 1,
            data: vec![7; 64 << 10].into(),
        };
        let samples: Box<dyn Samples> = Box::new(ChunkSamples::new(vec![chunk], "test".into()));
        Box::pin(async move { Some(Ok(vec![Series { labels, samples }])) })
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Select for Endless {
    fn select(&self, _: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        let set: Box<dyn SeriesSet> = Box::new(Endless(self.0.clone()));
        Box::pin(async { Ok(set) })
    }

    fn label_names(&self, _: Vec<Matcher>, _: TimeRange, _: usize) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async { Ok(LabelList::default()) })
    }

    fn label_values(
        &self,
        _: String,
        _: Vec<Matcher>,
        _: TimeRange,
        _: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async { Ok(LabelList::default()) })
    }
}

#[tokio::test]
async fn a_reader_that_pauses_or_leaves_stops_the_other_side() {
    let taken = Arc::new(AtomicUsize::new(0));
    let server = serve(Arc::new(One(Arc::new(Endless(taken.clone())), Tenant::default()))).await;
    let select = server.endpoint().tenant(&Tenant::default());
    let mut set = select.select(all()).await.unwrap();
    assert!(set.next().await.unwrap().is_ok());
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The windows of a connection hold 9 MiB, frames and buffers a few more: far from all that there is.
    let paused = taken.load(Ordering::Relaxed);
    assert!(
        paused < 400,
        "{paused} series of 64 KiB were taken for a reader that does not read"
    );
    drop(set);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let left = taken.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(taken.load(Ordering::Relaxed), left, "still reading for nobody");
}

#[tokio::test]
async fn queriers_stack_and_their_endpoints_change() {
    let (first, second) = (
        serve(one(Memory::new().floats(&[("a", "1")], &[(NOW, 1.0)]))).await,
        serve(one(Memory::new().floats(&[("a", "1")], &[(NOW + 1, 2.0)]))).await,
    );
    let fanout = Arc::new(Fanout::new(vec![]).with_policy(Policy::Partial));
    let set = EndpointSet::new(env(), EndpointSettings::default(), "endpoints", false, fanout.clone());
    let addresses = |servers: &[&Server]| {
        servers
            .iter()
            .map(|server| server.address.to_string())
            .collect::<BTreeSet<_>>()
    };
    set.update(&addresses(&[&first, &second]));
    set.probe_all().await;
    let lower = serve(fanout.clone()).await;
    let upper = lower.endpoint().tenant(&Tenant::default());
    let found = answer(&*upper, all()).await.unwrap();
    assert_eq!(found[0].1.timestamps, [NOW, NOW + 1]);
    assert_eq!(set.statuses().len(), 2);
    set.update(&addresses(&[&second]));
    let found = answer(&*upper, all()).await.unwrap();
    assert_eq!(found[0].1.timestamps, [NOW + 1]);
    drop(second);
    tokio::time::sleep(Duration::from_millis(200)).await;
    set.probe_all().await;
    assert!(set.statuses()[0].error.is_some());
}
