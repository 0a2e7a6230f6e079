//! What the receiver counts about itself.

use model::verdict::Reason;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use prometheus_client::registry::Registry;
use std::fmt;

/// Labels of a finished request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    /// Protocol version, or `unknown` when the headers were refused.
    pub(crate) version: &'static str,
    /// Status code of the answer.
    pub(crate) code: u16,
}

/// Label of refused samples.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub(crate) reason: ReasonId,
}

/// A reason by its stable id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ReasonId(pub(crate) Reason);

impl EncodeLabelValue for ReasonId {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.id().encode(encoder)
    }
}

/// Label of samples taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KindLabel {
    /// `float`, `histogram` or `exemplar`.
    pub(crate) kind: &'static str,
}

/// Label of requests turned away by a limit of their tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LimitLabel {
    pub(crate) limit: &'static str,
}

/// Handles of the receiver's metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) request_seconds: Histogram,
    pub(crate) written: Family<KindLabel, Counter>,
    pub(crate) rejected: Family<ReasonLabel, Counter>,
    pub(crate) dropped_samples: Counter,
    pub(crate) dropped_exemplars: Counter,
    pub(crate) dropped_metadata: Counter,
    pub(crate) body_bytes: Counter,
    pub(crate) decoded_bytes: Counter,
    pub(crate) route_hits: Counter,
    pub(crate) route_misses: Counter,
    pub(crate) routes_refused: Counter,
    pub(crate) spellings: Gauge,
    pub(crate) in_flight_bytes: Gauge,
    pub(crate) overloads: Counter,
    pub(crate) limited: Family<LimitLabel, Counter>,
}

/// From a quarter of a millisecond to some seconds.
const SECONDS_BUCKETS: [f64; 9] = [0.000_25, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            request_seconds: Histogram::new(SECONDS_BUCKETS),
            written: Family::default(),
            rejected: Family::default(),
            dropped_samples: Counter::default(),
            dropped_exemplars: Counter::default(),
            dropped_metadata: Counter::default(),
            body_bytes: Counter::default(),
            decoded_bytes: Counter::default(),
            route_hits: Counter::default(),
            route_misses: Counter::default(),
            routes_refused: Counter::default(),
            spellings: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            overloads: Counter::default(),
            limited: Family::default(),
        };
        for reason in Reason::ALL {
            drop(metrics.rejected.get_or_create(&ReasonLabel {
                reason: ReasonId(reason),
            }));
        }
        metrics.register(registry.sub_registry_with_prefix("narthex_receiver"));
        metrics
    }

    /// Counts a request turned away by a limit of its tenant.
    pub(crate) fn count_limited(&self, limit: &'static str) {
        self.limited.get_or_create(&LimitLabel { limit }).inc();
    }

    fn register(&self, registry: &mut Registry) {
        self.register_requests(registry);
        self.register_samples(registry);
        self.register_routes(registry);
    }

    /// What came, and how it was answered.
    fn register_requests(&self, registry: &mut Registry) {
        let requests = self.requests.clone();
        registry.register("write_requests", "Remote write requests answered", requests);
        let seconds = self.request_seconds.clone();
        registry.register("write_request_seconds", "Time from the body to the answer", seconds);
        registry.register(
            "requests_limited",
            "Requests turned away by a limit of their tenant",
            self.limited.clone(),
        );
        registry.register("body_bytes", "Bytes of bodies as received", self.body_bytes.clone());
        let decoded = self.decoded_bytes.clone();
        registry.register("decoded_bytes", "Bytes of bodies decompressed", decoded);
        let in_flight = self.in_flight_bytes.clone();
        registry.register("in_flight_bytes", "Bytes of requests in progress", in_flight);
        registry.register(
            "overloads",
            "Requests told to come again for lack of memory",
            self.overloads.clone(),
        );
    }

    /// What became of what was in them.
    fn register_samples(&self, registry: &mut Registry) {
        let written = self.written.clone();
        registry.register("samples_written", "Samples stored, duplicates included", written);
        registry.register(
            "samples_rejected",
            "Samples that can never be stored, by reason",
            self.rejected.clone(),
        );
        let dropped = self.dropped_samples.clone();
        registry.register("samples_dropped", "Samples dropped by relabelling", dropped);
        let dropped = self.dropped_exemplars.clone();
        registry.register("exemplars_dropped", "Exemplars left out silently", dropped);
        let dropped = self.dropped_metadata.clone();
        registry.register("metadata_dropped", "Metadata left out silently", dropped);
    }

    /// How series were recognised.
    fn register_routes(&self, registry: &mut Registry) {
        let hits = self.route_hits.clone();
        registry.register("route_hits", "Series found by their label bytes", hits);
        let misses = self.route_misses.clone();
        registry.register("route_misses", "Series whose labels had to be decoded", misses);
        registry.register(
            "routes_refused",
            "Series numbers that the taker no longer knew",
            self.routes_refused.clone(),
        );
        let spellings = self.spellings.clone();
        registry.register("route_spellings", "Spellings of series remembered", spellings);
    }
}

/// Handles of the replicator's metrics.
pub(crate) struct ReplicationMetrics {
    pub(crate) pushes: Counter,
    pub(crate) failures: Counter,
    pub(crate) hedges: Counter,
    pub(crate) substitutes: Counter,
    pub(crate) quorums_missed: Counter,
    pub(crate) series: Gauge,
}

impl ReplicationMetrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            pushes: Counter::default(),
            failures: Counter::default(),
            hedges: Counter::default(),
            substitutes: Counter::default(),
            quorums_missed: Counter::default(),
            series: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("narthex_receiver_replication");
        registry.register(
            "pushes",
            "Parts of batches handed to an owner, this node included",
            metrics.pushes.clone(),
        );
        registry.register(
            "push_failures",
            "Parts of batches that an owner gave no verdicts on",
            metrics.failures.clone(),
        );
        registry.register(
            "hedges",
            "Parts handed to another node because an owner was slow",
            metrics.hedges.clone(),
        );
        registry.register(
            "substitutes",
            "Parts handed to another node because an owner failed",
            metrics.substitutes.clone(),
        );
        registry.register(
            "quorums_missed",
            "Batches answered with come again, because too few copies could be written",
            metrics.quorums_missed.clone(),
        );
        registry.register("series", "Series whose numbers are remembered", metrics.series.clone());
        metrics
    }
}
