//! Metrics of the querier, all named `narthex_querier_…`.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Handles of the metrics, shared by everything that answers questions.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<Request, Counter>,
    durations: Family<Handler, Histogram, fn() -> Histogram>,
    /// Requests that run, by kind.
    pub(crate) running: Family<Kind, Gauge>,
    /// Requests that wait for their turn, by kind.
    pub(crate) waiting: Family<Kind, Gauge>,
    /// Requests refused because too many were waiting, by kind.
    pub(crate) refused: Family<Kind, Counter>,
    /// Samples that evaluations looked at.
    pub(crate) samples: Counter,
    /// Answers that carry a warning.
    pub(crate) warned: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    handler: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handler {
    handler: &'static str,
}

/// `query` or `lookup`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    pub(crate) kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceName {
    source: String,
}

fn duration_histogram() -> Histogram {
    Histogram::new([0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0])
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(duration_histogram),
            running: Family::default(),
            waiting: Family::default(),
            refused: Family::default(),
            samples: Counter::default(),
            warned: Counter::default(),
        };
        let name = |part: &str| format!("narthex_querier_{part}");
        registry.register(
            name("requests"),
            "Requests answered, by handler and status code",
            metrics.requests.clone(),
        );
        registry.register(
            name("request_duration_seconds"),
            "Time from the request to the first byte of its answer",
            metrics.durations.clone(),
        );
        registry.register(name("running"), "Requests that run", metrics.running.clone());
        registry.register(
            name("waiting"),
            "Requests that wait for their turn",
            metrics.waiting.clone(),
        );
        registry.register(
            name("refused"),
            "Requests refused because too many were waiting",
            metrics.refused.clone(),
        );
        registry.register(
            name("samples"),
            "Samples that evaluations looked at",
            metrics.samples.clone(),
        );
        registry.register(name("warned"), "Answers with a warning", metrics.warned.clone());
        metrics
    }

    /// Counts an answered request. `handler` is one of our routes, never text of the client.
    pub(crate) fn answered(&self, handler: &'static str, code: u16, seconds: f64) {
        self.requests.get_or_create(&Request { handler, code }).inc();
        self.durations.get_or_create(&Handler { handler }).observe(seconds);
    }
}

/// Counts what the sources of a fan-out failed to answer.
#[derive(Clone)]
pub(crate) struct SourceMetrics {
    failures: Family<SourceName, Counter>,
}

impl SourceMetrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let failures = Family::<SourceName, Counter>::default();
        let help = "Questions that a source did not answer";
        registry.register("narthex_querier_source_failures", help, failures.clone());
        Self { failures }
    }

    /// Counts a failure; sources are named by the operator or the ring, not by clients.
    pub(crate) fn failed(&self, source: &str) {
        self.failures
            .get_or_create(&SourceName {
                source: source.to_owned(),
            })
            .inc();
    }
}
