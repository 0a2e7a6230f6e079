//! What a metric is about: type, unit and help text.

/// The type of a metric family, with the numbers that remote write 2.0 uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MetricType {
    /// Not stated.
    #[default]
    Unknown,
    /// Only goes up, or starts again.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Classic or native histogram.
    Histogram,
    /// Histogram whose buckets may shrink.
    GaugeHistogram,
    /// Precomputed quantiles.
    Summary,
    /// Constant 1 with information in labels.
    Info,
    /// One series for each state.
    StateSet,
}

impl MetricType {
    /// The name in OpenMetrics and in the HTTP API.
    pub const fn as_str(self) -> &'static str {
        match self {
            MetricType::Unknown => "unknown",
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::GaugeHistogram => "gaugehistogram",
            MetricType::Summary => "summary",
            MetricType::Info => "info",
            MetricType::StateSet => "stateset",
        }
    }

    /// The type of a wire number (the same in remote write 1.0 and 2.0); unknown numbers are [`MetricType::Unknown`].
    pub const fn from_wire(number: u64) -> Self {
        match number {
            1 => MetricType::Counter,
            2 => MetricType::Gauge,
            3 => MetricType::Histogram,
            4 => MetricType::GaugeHistogram,
            5 => MetricType::Summary,
            6 => MetricType::Info,
            7 => MetricType::StateSet,
            _ => MetricType::Unknown,
        }
    }
}

/// Metadata of a metric family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Name of the metric family.
    pub family: String,
    /// Its type.
    pub kind: MetricType,
    /// Its unit, or empty.
    pub unit: String,
    /// Its help text, or empty.
    pub help: String,
}
