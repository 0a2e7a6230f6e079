//! What the receiver's tests share: a receiver over an in-memory taker, requests to send it, and a world without sockets.
#![allow(dead_code, reason = "each test file uses its own part")]

use bytes::Bytes;
use futures::{executor::block_on, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue};
use model::env::{Clock, Entry, Env, File, Fs, Mapped, Rng, Spawn};
use model::label::Labels;
use model::push::memory::MemoryTaker;
use model::sample::FloatSample;
use model::tenant::Tenant;
use model::time::Timestamp;
use prometheus_client::registry::Registry;
use proto::compression::snappy;
use proto::remote_write::encode::{Points, V1Encoder};
use receiver::{Receiver, ReceiverSettings, WriteAnswer, WriteRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{io, path::Path};

/// The time at which all tests take place.
pub(crate) const NOW: Timestamp = 1_700_000_000_000;

pub(crate) const V1: &str = "application/x-protobuf;proto=prometheus.WriteRequest";
pub(crate) const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

pub(crate) fn env() -> Env {
    let world = Arc::new(World {
        random: AtomicU64::new(0x1234_5678_9abc_def1),
    });
    Env {
        clock: world.clone(),
        rng: world.clone(),
        fs: world.clone(),
        spawn: world,
    }
}

/// A clock that stands still, seeded random numbers, and neither files nor tasks, which the receiver does not need.
struct World {
    random: AtomicU64,
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        NOW
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

impl Rng for World {
    fn next_u64(&self) -> u64 {
        let mut x = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

fn no_files<T>() -> io::Result<T> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

impl Fs for World {
    fn create(&self, _: &Path) -> io::Result<Box<dyn File>> {
        no_files()
    }
    fn open_append(&self, _: &Path) -> io::Result<Box<dyn File>> {
        no_files()
    }
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        no_files()
    }
    fn map(&self, _: &Path) -> io::Result<Mapped> {
        no_files()
    }
    fn list(&self, _: &Path) -> io::Result<Vec<Entry>> {
        no_files()
    }
    fn size(&self, _: &Path) -> io::Result<u64> {
        no_files()
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        no_files()
    }
    fn remove_file(&self, _: &Path) -> io::Result<()> {
        no_files()
    }
    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        no_files()
    }
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        no_files()
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        no_files()
    }
    fn free_space(&self, _: &Path) -> io::Result<u64> {
        no_files()
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        no_files()
    }
}

impl Spawn for World {
    fn task(&self, name: &str, _: BoxFuture<'static, ()>) {
        panic!("the receiver started the task {name}");
    }

    fn blocking(&self, name: &str, _: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        panic!("the receiver started the work {name}");
    }

    fn thread(&self, name: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        panic!("the receiver started the thread {name}");
    }
}

/// A receiver, the taker behind it and its metrics.
pub(crate) struct Stand {
    pub(crate) receiver: Arc<Receiver>,
    pub(crate) taker: Arc<MemoryTaker>,
    pub(crate) registry: Registry,
}

impl Default for Stand {
    fn default() -> Self {
        Self::new(ReceiverSettings::default(), MemoryTaker::new())
    }
}

impl Stand {
    pub(crate) fn new(settings: ReceiverSettings, taker: MemoryTaker) -> Self {
        let taker = Arc::new(taker);
        let mut registry = Registry::default();
        let receiver = Receiver::new(env(), settings, taker.clone(), &mut registry);
        Self {
            receiver,
            taker,
            registry,
        }
    }

    pub(crate) fn write(&self, request: WriteRequest) -> WriteAnswer {
        block_on(self.receiver.write(request))
    }

    /// Sends `message`, compressed with snappy, as remote write 1.0.
    pub(crate) fn v1(&self, message: &[u8]) -> WriteAnswer {
        self.write(request(V1, "snappy", snappy(message)))
    }

    /// Sends `message`, compressed with snappy, as remote write 2.0.
    pub(crate) fn v2(&self, message: &[u8]) -> WriteAnswer {
        self.write(request(V2, "snappy", snappy(message)))
    }

    /// Timestamps and values of the floats of a series of the default tenant.
    pub(crate) fn floats(&self, pairs: &[(&str, &str)]) -> Vec<(Timestamp, f64)> {
        self.floats_of("default-tenant", pairs)
    }

    pub(crate) fn floats_of(&self, tenant: &str, pairs: &[(&str, &str)]) -> Vec<(Timestamp, f64)> {
        let labels = Labels::new(pairs.iter().copied()).unwrap();
        let Some(series) = self.taker.series(&Tenant::new(tenant).unwrap(), &labels) else {
            return Vec::new();
        };
        let value = |stored: &model::push::memory::Stored| match stored {
            model::push::memory::Stored::Float(bits) => f64::from_bits(*bits),
            histogram => panic!("{histogram:?} is no float"),
        };
        series.samples.iter().map(|(at, stored)| (*at, value(stored))).collect()
    }

    /// The value of a metric line of the exposition that begins with `prefix`, 0 when there is none.
    pub(crate) fn metric(&self, prefix: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find(|line| line.starts_with(prefix));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

/// A request of content type and encoding, either left out when empty.
pub(crate) fn request(content_type: &str, encoding: &str, body: impl Into<Bytes>) -> WriteRequest {
    let mut headers = HeaderMap::new();
    for (name, value) in [("content-type", content_type), ("content-encoding", encoding)] {
        if !value.is_empty() {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
    }
    WriteRequest {
        headers,
        body: body.into(),
        ..WriteRequest::default()
    }
}

pub(crate) fn float(at: Timestamp, value: f64) -> FloatSample {
    FloatSample { at, value, start: 0 }
}

/// Labels of a series and its float samples.
pub(crate) type FloatSeries<'a> = (&'a [(&'a str, &'a str)], &'a [(Timestamp, f64)]);

/// A 1.0 message of series with float samples.
pub(crate) fn v1_floats(series: &[FloatSeries<'_>]) -> Vec<u8> {
    let mut encoder = V1Encoder::default();
    for (labels, samples) in series {
        let floats: Vec<FloatSample> = samples.iter().map(|(at, value)| float(*at, *value)).collect();
        encoder.series(
            labels.iter().copied(),
            Points {
                floats: &floats,
                ..Points::default()
            },
        );
    }
    encoder.finish()
}

/// The written counts of an answer: samples, histograms, exemplars; `None` when a header is absent.
pub(crate) fn written(answer: &WriteAnswer) -> [Option<u64>; 3] {
    ["samples", "histograms", "exemplars"].map(|kind| {
        let value = answer
            .headers
            .get(format!("x-prometheus-remote-write-{kind}-written"))?;
        Some(value.to_str().unwrap().parse().unwrap())
    })
}
