//! Limits of tenants and of this process: from the file that `--limits.file` names, and from the ring.
//!
//! The receiver asks for rates and sizes, the ingester for series and windows, each with every request. What the file sets goes before what
//! the ring agreed on, tenant before default.

mod fewest;
mod kept;

use crate::{ring::Membership, watch};
use anyhow::{Context, ensure};
use cluster::limits::Limits;
use fewest::Fewest;
use ingest::Ingester;
use model::{env::Env, tenant::Tenant};
use parking_lot::{Mutex, RwLock};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use receiver::limits::LimitSource;
use serde_json::Value;
use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Tenants that the metrics show: those that come closest to their limits.
const SHOWN_MAX: usize = 500;

/// Keys that mean something for a process as a whole.
const PROCESS_KEYS: [&str; 3] = ["samples_per_second_max", "samples_burst_max", "active_series_max"];

/// What the file says.
#[derive(Debug, Default, PartialEq)]
struct LimitsFile {
    process: Limits,
    default: Limits,
    tenants: HashMap<Tenant, Limits>,
}

/// All limits.
#[derive(Default)]
pub struct LimitBook {
    file: RwLock<Arc<LimitsFile>>,
    /// Known a little later than the book, which the ingester needs first.
    ring: OnceLock<Arc<Membership>>,
    fewest_nodes: Mutex<Fewest>,
}

impl LimitBook {
    /// Follows the file of limits.
    pub fn follow_file(self: &Arc<Self>, path: PathBuf, env: &Env, stop: CancellationToken) -> anyhow::Result<()> {
        let (book, shown) = (Arc::clone(self), path.display().to_string());
        let apply = move |text: &str| {
            *book.file.write() = Arc::new(parse(text).with_context(|| shown.clone())?);
            Ok(())
        };
        watch::follow("limits", env, move |env| watch::read(env, &path), apply, stop)
    }

    /// Asks the ring for what the file does not set. What is known of its nodes is kept in `data_dir`, until `stop` is cancelled.
    pub fn follow_ring(self: &Arc<Self>, ring: Arc<Membership>, data_dir: &Path, env: &Env, stop: CancellationToken) {
        // Called once, while the process is put together.
        let _ = self.ring.set(ring);
        kept::follow(self, data_dir, env, stop);
    }

    /// The fewest nodes that were there of late; none before the ring is known.
    fn fewest_nodes(&self) -> Option<usize> {
        let ring = self.ring.get().filter(|ring| ring.is_placed())?;
        let nodes = ring.copies_and_nodes().1;
        // The others have the series of those that are away, or were of late: a limit must not refuse what was taken before.
        let nodes = nodes.saturating_sub(ring.away());
        Some(self.fewest_nodes.lock().of_late(nodes, ring.monotonic()))
    }

    /// Series that a tenant may have in this node's head: of what it may have in the ring, the node's share.
    pub fn series_of(&self, tenant: &Tenant) -> Option<u64> {
        let limit = self.limits(tenant).active_series_max?;
        let (Some(ring), Some(nodes)) = (self.ring.get(), self.fewest_nodes()) else {
            return Some(limit);
        };
        if nodes <= 1 {
            return Some(limit);
        }
        let copies = ring.copies_and_nodes().0;
        let share = u128::from(limit) * copies.min(nodes) as u128;
        Some(u64::try_from(share.div_ceil(nodes as u128)).unwrap_or(u64::MAX))
    }

    /// Series that all tenants together may have in this node's head.
    pub fn series_of_process(&self) -> Option<u64> {
        self.file.read().process.active_series_max
    }

    /// How far behind the newest sample of its series a sample of a tenant may be.
    pub fn window_of(&self, tenant: &Tenant) -> Option<Duration> {
        self.limits(tenant).out_of_order_window_ms.map(Duration::from_millis)
    }
}

impl LimitSource for LimitBook {
    fn limits(&self, tenant: &Tenant) -> Limits {
        let file = Arc::clone(&self.file.read());
        let own = file.tenants.get(tenant).copied().unwrap_or_default();
        let agreed = self.ring.get().map(|ring| ring.limits(tenant)).unwrap_or_default();
        own.or(file.default).or(agreed)
    }

    fn nodes(&self) -> usize {
        self.ring.get().map_or(1, |ring| ring.copies_and_nodes().1)
    }

    fn taken_elsewhere(&self, tenant: &Tenant) -> f64 {
        self.ring.get().map_or(0.0, |ring| ring.taken_elsewhere(tenant))
    }

    fn of_process(&self) -> Limits {
        self.file.read().process
    }
}

fn parse(text: &str) -> anyhow::Result<LimitsFile> {
    if text.trim().is_empty() {
        return Ok(LimitsFile::default());
    }
    let value: Value = serde_saphyr::from_str(text).context("parse YAML")?;
    let mut file = LimitsFile::default();
    let Value::Object(sections) = value else {
        ensure!(value.is_null(), "the file holds no sections process, default, tenants");
        return Ok(file);
    };
    for (section, value) in sections {
        match section.as_str() {
            "process" => file.process = limits(&value, &PROCESS_KEYS).context("process")?,
            "default" => file.default = limits(&value, &Limits::KEYS).context("default")?,
            "tenants" => {
                let tenants = value
                    .as_object()
                    .context("tenants: a map from tenant to limits is wanted")?;
                for (id, value) in tenants {
                    let tenant = Tenant::new(id).with_context(|| format!("tenants: {id:?}"))?;
                    let limits = limits(value, &Limits::KEYS).with_context(|| format!("tenants: {id}"))?;
                    file.tenants.insert(tenant, limits);
                }
            }
            other => anyhow::bail!("unknown section {other:?}; there are process, default and tenants"),
        }
    }
    Ok(file)
}

fn limits(value: &Value, keys: &[&str]) -> anyhow::Result<Limits> {
    let map = value.as_object().context("a map of limits is wanted")?;
    for (key, value) in map {
        ensure!(
            key != "shard_size",
            "shard_size places series, which all nodes must agree on: set it in the ring (POST /api/v1/cluster/ring/limits)"
        );
        ensure!(
            keys.contains(&key.as_str()),
            "unknown limit {key:?}; there are {}",
            keys.join(", ")
        );
        ensure!(value.is_u64(), "{key} is {value}, which is no whole number from 0");
    }
    Ok(serde_json::from_value(value.clone())?)
}

/// Shows how near tenants are to their limit of active series.
pub struct SeriesMetrics {
    /// Who knows the limits.
    pub book: Arc<LimitBook>,
    /// Who counts the series.
    pub ingester: Arc<Ingester>,
}

impl fmt::Debug for SeriesMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeriesMetrics")
    }
}

impl Collector for SeriesMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counted = self.ingester.series_by_tenant().into_iter();
        let limited = counted.filter_map(|(tenant, series)| {
            let max = self.book.series_of(&tenant).filter(|max| *max > 0)?;
            Some((tenant, series, max))
        });
        let mut limited: Vec<(Tenant, u64, u64)> = limited.collect();
        if limited.is_empty() {
            return Ok(());
        }
        limited.sort_by(|a, b| (b.1 as f64 / b.2 as f64).total_cmp(&(a.1 as f64 / a.2 as f64)));
        limited.truncate(SHOWN_MAX);
        let gauges = [
            (
                "narthex_tenant_active_series",
                "Series in the head of a tenant with a limit of them",
            ),
            ("narthex_tenant_active_series_max", "This node's share of that limit"),
        ];
        for (index, (name, help)) in gauges.into_iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (tenant, series, max) in &limited {
                let value = if index == 0 { *series } else { *max };
                let labels = [("tenant", tenant.as_str())];
                ConstGauge::new(value as i64).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_three_sections() {
        let file = parse(
            "process: {samples_per_second_max: 1000000}\ndefault: {active_series_max: 7, request_samples_max: 5}\ntenants:\n  acme: {active_series_max: 0}\n",
        )
        .unwrap();
        assert_eq!(file.process.samples_per_second_max, Some(1_000_000));
        let book = LimitBook::default();
        *book.file.write() = Arc::new(file);
        let [acme, other] = ["acme", "other"].map(|id| Tenant::new(id).unwrap());
        assert_eq!((book.series_of(&acme), book.series_of(&other)), (Some(0), Some(7)));
        assert_eq!(book.limits(&acme).request_samples_max, Some(5));
        assert_eq!(parse("").unwrap(), LimitsFile::default());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, phrase) in [
            ("tenant: {}", "unknown section"),
            ("default: {series: 1}", "unknown limit \"series\""),
            ("default: {active_series_max: -1}", "active_series_max"),
            ("process: {request_bytes_max: 1}", "unknown limit"),
            ("tenants: {a/b: {}}", "tenants"),
            ("default: {shard_size: 3}", "ring"),
            ("- 1", "sections"),
            ("default: [", "YAML"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(phrase), "{text}: {error}");
        }
    }
}
