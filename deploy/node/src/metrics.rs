//! Metrics of the process itself, under the names that every Prometheus client library uses.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};
use std::fmt;

/// Registers process metrics and the build information.
pub fn register(registry: &mut Registry, started_at_seconds: f64) {
    registry.register_collector(Box::new(Process { started_at_seconds }));
    let build = Family::<Vec<(String, String)>, Gauge>::default();
    build
        .get_or_create(&vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())])
        .set(1);
    registry.register("narthex_build_info", "Constant 1, labelled by version", build);
}

/// Reads /proc when asked, so that nothing runs in between.
#[derive(Debug)]
struct Process {
    started_at_seconds: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let usage = usage();
        let cpu = ConstCounter::new(usage.cpu_seconds);
        cpu.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "User and system CPU time",
            None,
            cpu.metric_type(),
        )?)?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", usage.resident_bytes),
            ("process_open_fds", "Open file descriptors", usage.open_files),
            ("process_threads", "Threads", usage.threads),
            (
                "process_start_time_seconds",
                "Start of the process since the Unix epoch",
                self.started_at_seconds,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: f64,
    open_files: f64,
    threads: f64,
}

/// What Linux says of this process; zeros elsewhere.
fn usage() -> Usage {
    /// Clock ticks of /proc in a second; fixed at 100 on every Linux that Rust supports.
    const TICKS: f64 = 100.0;
    const PAGE_BYTES: f64 = 4096.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program name in parentheses and may hold spaces; fields are counted from behind it.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| {
            rest.split_whitespace()
                .map(|field| field.parse().unwrap_or(0.0))
                .collect()
        })
        .unwrap_or_default();
    let field = |index: usize| fields.get(index).copied().unwrap_or(0.0);
    Usage {
        cpu_seconds: (field(11) + field(12)) / TICKS,
        resident_bytes: field(21) * PAGE_BYTES,
        open_files: std::fs::read_dir("/proc/self/fd").map_or(0.0, |dir| dir.count() as f64),
        threads: field(17),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_described() {
        let mut registry = Registry::default();
        register(&mut registry, 12.5);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("process_start_time_seconds 12.5"), "{text}");
        assert!(text.contains("narthex_build_info{version="), "{text}");
        let resident = text
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
            .unwrap();
        assert!(resident.parse::<f64>().unwrap() > 1e6, "{resident}");
    }
}
