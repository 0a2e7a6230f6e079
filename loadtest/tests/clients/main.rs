//! The clients of the query API against the real binary: what they ask, replayed call by call, and the programs themselves as far
//! as they are installed: promtool, vmalert, and Prometheus servers that read remotely.
#![expect(clippy::disallowed_methods, reason = "tests live in real time beside a real server")]

mod administration;
mod programs;
mod remote_read;
mod replay;

use anyhow::ensure;
use loadtest::{
    clock::now_ms,
    process::{Launch, Server},
    wire::Protocol,
};
use model::{
    histogram::{Histogram, Span},
    label::Labels,
    metadata::{Metadata, MetricType},
    sample::{Exemplar, FloatSample, HistogramSample},
};
use proto::remote_write::encode::{Points, V1Encoder};
use std::{path::Path, sync::Arc};

/// Time between samples.
pub const STEP_MS: i64 = 15_000;

/// Samples of each series: the last ten minutes.
pub const SAMPLES: i64 = 40;

/// A server with ten minutes of a small fleet in it.
pub struct Fleet {
    pub server: Server,
    /// When its newest samples were taken.
    pub newest: i64,
}

impl Fleet {
    /// Starts a server with these arguments more and fills it.
    pub fn start(dir: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let launch = Launch::narthex(dir)?;
        let server = arguments
            .iter()
            .fold(launch, |launch, argument| launch.with(argument))
            .start()?;
        let newest = now_ms() / STEP_MS * STEP_MS;
        let answer = server.probe().push_message(Protocol::V1, &message(newest))?;
        ensure!(answer.status == 204, "{}: {}", answer.status, answer.text());
        Ok(Self { server, newest })
    }

    /// The newest time in seconds, as clients write it.
    pub fn seconds(&self) -> String {
        loadtest::api::seconds(self.newest)
    }
}

fn message(newest: i64) -> Vec<u8> {
    let mut encoder = V1Encoder::default();
    let times = || (0..SAMPLES).map(|index| newest - (SAMPLES - 1 - index) * STEP_MS);
    let floats = |value: &dyn Fn(i64) -> f64| -> Vec<FloatSample> {
        let sample = |(index, at)| FloatSample {
            at,
            value: value(index),
            start: 0,
        };
        (0..).zip(times()).map(sample).collect()
    };
    let mut add =
        |labels: &[(&str, &str)], floats: &[FloatSample], histograms: &[HistogramSample], exemplars: &[Exemplar]| {
            let points = Points {
                floats,
                histograms,
                exemplars,
            };
            encoder.series(labels.iter().copied(), points);
        };
    for instance in ["a:1", "b:1"] {
        let labels = [("__name__", "up"), ("instance", instance), ("job", "node")];
        add(&labels, &floats(&|_| 1.0), &[], &[]);
    }
    let exemplar = Exemplar {
        labels: Labels::new([("trace_id", "4bf92f3577b34da6")]).expect("one label"),
        value: 0.25,
        at: newest,
    };
    for code in ["200", "500"] {
        let labels = [("__name__", "http_requests_total"), ("code", code), ("job", "api")];
        add(
            &labels,
            &floats(&|index| index as f64 * 7.5),
            &[],
            std::slice::from_ref(&exemplar),
        );
    }
    let dotted = [("__name__", "dotted.name"), ("http.status", "5\"0")];
    add(&dotted, &floats(&|index| index as f64), &[], &[]);
    let histograms: Vec<HistogramSample> = (1..).zip(times()).map(|(count, at)| histogram(at, count)).collect();
    add(
        &[("__name__", "latency_seconds"), ("job", "api")],
        &[],
        &histograms,
        &[],
    );
    for (family, kind, help) in [
        ("up", MetricType::Gauge, "Whether it is up"),
        ("http_requests_total", MetricType::Counter, "Requests"),
    ] {
        encoder.metadata(&Metadata {
            family: family.into(),
            kind,
            unit: String::new(),
            help: help.into(),
        });
    }
    encoder.finish()
}

/// `count` observations, half of them in each of two buckets.
fn histogram(at: i64, count: u32) -> HistogramSample {
    let each = f64::from(count);
    let histogram = Histogram {
        integer: true,
        count: each * 2.0,
        sum: each * 1.5,
        zero_threshold: 0.001,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_buckets: vec![each, each],
        ..Histogram::default()
    };
    HistogramSample {
        at,
        start: 0,
        histogram: Arc::new(histogram),
    }
}
