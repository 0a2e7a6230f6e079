//! What the ingester tells about itself on `/metrics`.

use model::verdict::Reason;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::sync::atomic::AtomicU64;

/// Label of the counter of rejected samples.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Handles, made once; none is looked up while samples come in.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) pushes: Counter,
    pub(crate) pushes_unavailable: Counter,
    pub(crate) samples_written: Counter,
    pub(crate) samples_duplicate: Counter,
    pub(crate) samples_out_of_order: Counter,
    pub(crate) out_of_order_bytes: Gauge,
    rejected: Vec<Counter>,
    pub(crate) series: Gauge,
    pub(crate) series_created: Counter,
    pub(crate) series_dropped: Counter,
    pub(crate) wal_bytes: Counter,
    pub(crate) wal_syncs: Counter,
    pub(crate) wal_sync_seconds: Histogram,
    pub(crate) wal_failures: Counter,
    pub(crate) wal_healthy: Gauge,
    pub(crate) wal_unsettled_bytes: Gauge,
    pub(crate) replay_seconds: Gauge<f64, AtomicU64>,
    pub(crate) replay_records_mended: Counter,
    pub(crate) replay_gaps: Counter,
    pub(crate) replay_gap_bytes: Counter,
    pub(crate) replay_samples_dropped: Counter,
    pub(crate) blocks_cut: Counter,
    pub(crate) cut_failures: Counter,
    pub(crate) cut_seconds: Histogram,
    pub(crate) blocks_shipped: Counter,
    pub(crate) ship_failures: Counter,
    pub(crate) blocks_unshipped: Gauge,
    pub(crate) images: Counter,
    pub(crate) image_failures: Counter,
    pub(crate) spilled_bytes: Counter,
    pub(crate) spill_failures: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("narthex_ingest");
        let rejected = Family::<ReasonLabel, Counter>::default();
        registry.register(
            "samples_rejected",
            "Samples that can never be stored, by reason",
            rejected.clone(),
        );
        let by_reason = |reason: &Reason| rejected.get_or_create_owned(&ReasonLabel { reason: reason.id() });
        let seconds = [
            0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
        ];
        let long = [0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0];
        let mut make = Maker(registry);
        Self {
            pushes: make.counter("pushes", "Batches that got verdicts"),
            pushes_unavailable: make.counter("pushes_unavailable", "Batches that were turned away as a whole"),
            samples_written: make.counter("samples_written", "Samples that were stored"),
            samples_duplicate: make.counter("samples_duplicate", "Samples that were stored before"),
            samples_out_of_order: make.counter(
                "samples_out_of_order",
                "Samples that were stored although older than the newest of their series",
            ),
            out_of_order_bytes: make.gauge("out_of_order_bytes", "Memory of samples that came out of order"),
            rejected: Reason::ALL.iter().map(by_reason).collect(),
            series: make.gauge("series", "Series in the head"),
            series_created: make.counter("series_created", "Series that came into the head"),
            series_dropped: make.counter("series_dropped", "Idle series that left the head"),
            wal_bytes: make.counter("wal_written_bytes", "Bytes written to WAL segments"),
            wal_syncs: make.counter("wal_syncs", "Syncs of WAL segments"),
            wal_sync_seconds: make.histogram("wal_step_seconds", "Time of a group commit: write and sync", &seconds),
            wal_failures: make.counter("wal_failures", "Writes and syncs of the WAL that failed"),
            wal_healthy: make.gauge("wal_healthy", "1 while the WAL can be written"),
            wal_unsettled_bytes: make.gauge("wal_unsettled_bytes", "WAL bytes in memory that the disk does not have"),
            replay_seconds: make.float_gauge("replay_seconds", "Time of the replay at the last start"),
            replay_records_mended: make.counter("replay_records_mended", "Damaged WAL records that were repaired"),
            replay_gaps: make.counter("replay_gaps", "Places of the WAL where records were lost"),
            replay_gap_bytes: make.counter("replay_gap_bytes", "Bytes of the WAL that could not be read"),
            replay_samples_dropped: make.counter(
                "replay_samples_dropped",
                "Samples of the WAL that depend on what was lost",
            ),
            blocks_cut: make.counter("blocks_cut", "Blocks written from the head"),
            cut_failures: make.counter("cut_failures", "Blocks that could not be written"),
            cut_seconds: make.histogram("cut_seconds", "Time to write a block", &long),
            blocks_shipped: make.counter("blocks_shipped", "Blocks uploaded and verified"),
            ship_failures: make.counter("ship_failures", "Uploads that failed"),
            blocks_unshipped: make.gauge("blocks_unshipped", "Local blocks that are not in the bucket yet"),
            images: make.counter("images", "Head images written"),
            image_failures: make.counter("image_failures", "Head images that could not be written"),
            spilled_bytes: make.counter(
                "spilled_bytes",
                "Bytes of complete chunks moved from memory to mapped files",
            ),
            spill_failures: make.counter("spill_failures", "Files for complete chunks that could not be written"),
        }
    }

    /// The counter of samples rejected for `reason`.
    pub(crate) fn rejected(&self, reason: Reason) -> &Counter {
        let index = Reason::ALL
            .iter()
            .position(|&other| other == reason)
            .unwrap_or_default();
        &self.rejected[index]
    }
}

/// Makes and registers in one go.
struct Maker<'a>(&'a mut Registry);

impl Maker<'_> {
    fn counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.0.register(name, help, counter.clone());
        counter
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.0.register(name, help, gauge.clone());
        gauge
    }

    fn float_gauge(&mut self, name: &str, help: &str) -> Gauge<f64, AtomicU64> {
        let gauge = Gauge::<f64, AtomicU64>::default();
        self.0.register(name, help, gauge.clone());
        gauge
    }

    fn histogram(&mut self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let histogram = Histogram::new(buckets.iter().copied());
        self.0.register(name, help, histogram.clone());
        histogram
    }
}
