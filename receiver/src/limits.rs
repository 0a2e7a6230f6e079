//! What one tenant may send, and what this process takes from all together, applied where the requests come in.
//!
//! A request asks for its [`Allowance`] once. Whether one is too long or has too many samples is decided from it alone; samples per second
//! are counted here, in a bucket for each tenant, and in one for the process. A tenant's bucket fills with what the other nodes leave of its
//! rate, and with an even share at least. One tenant's bucket is nothing to another's. Series are limited by the ingester, which knows them.

mod bucket;

use crate::settings::LabelLimits;
use bucket::{BURST_SECONDS, Bucket, Rate};
use cluster::limits::Limits;
use model::{env::Clock, tenant::Tenant};
use parking_lot::{Mutex, RwLock};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

/// Tenants whose rates are counted at the same time; one that has not sent for longest makes room.
const BUCKETS_MAX: usize = 100_000;

/// Tenants that the metrics show: those that come closest to their limits.
const SHOWN_MAX: usize = 500;

/// Where limits come from. They may change at any time.
pub trait LimitSource: Send + Sync {
    /// What `tenant` may use over the whole cluster.
    fn limits(&self, tenant: &Tenant) -> Limits;

    /// Nodes that share the requests, at least one.
    fn nodes(&self) -> usize;

    /// Samples per second of `tenant` that other nodes take at present.
    fn taken_elsewhere(&self, _tenant: &Tenant) -> f64 {
        0.0
    }

    /// What this process takes from all tenants together; only rates are asked for.
    fn of_process(&self) -> Limits {
        Limits::default()
    }
}

/// Applies limits.
#[derive(Default)]
pub(crate) struct TenantLimits {
    source: RwLock<Option<Arc<dyn LimitSource>>>,
    buckets: Mutex<HashMap<Tenant, Bucket>>,
    process: Mutex<Option<Bucket>>,
}

/// What one request may be.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    pub(crate) body_bytes_max: Option<usize>,
    pub(crate) samples_max: Option<u64>,
    pub(crate) series_max: Option<u64>,
    pub(crate) labels: LabelLimits,
    /// Of the tenant on this node.
    rate: Option<Rate>,
    /// Of all tenants on this node.
    process_rate: Option<Rate>,
}

/// Whose rate is used up, and when to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMuch {
    Tenant(Duration),
    Process(Duration),
}

/// 0 is without bound.
fn set(limit: Option<u64>) -> Option<u64> {
    limit.filter(|limit| *limit > 0)
}

/// What is left of a rate when others take `elsewhere` of it; an even share at least, and no more than that at once.
fn rate(limits: &Limits, nodes: usize, elsewhere: f64) -> Option<Rate> {
    let whole = set(limits.samples_per_second_max)? as f64;
    let share = |limit: f64| limit / nodes as f64;
    let burst = set(limits.samples_burst_max).map(|burst| share(burst as f64));
    let burst = burst.unwrap_or(share(whole) * BURST_SECONDS);
    Some(Rate::new(share(whole).max(whole - elsewhere), Some(burst)))
}

impl TenantLimits {
    pub(crate) fn follow(&self, source: Arc<dyn LimitSource>) {
        *self.source.write() = Some(source);
    }

    /// What a request of `tenant` may be; `labels` are the bounds of the process, which hold in any case.
    pub(crate) fn allowance(&self, tenant: &Tenant, labels: &LabelLimits) -> Allowance {
        let source = self.source.read().clone();
        let limits = source.as_ref().map(|source| source.limits(tenant)).unwrap_or_default();
        let of_process = source.as_ref().map(|source| source.of_process()).unwrap_or_default();
        let nodes = source.as_ref().map_or(1, |source| source.nodes().max(1));
        let elsewhere = source.map_or(0.0, |source| source.taken_elsewhere(tenant));
        let tighter = |own: usize, limit: Option<u64>| {
            set(limit).map_or(own, |limit| own.min(usize::try_from(limit).unwrap_or(usize::MAX)))
        };
        Allowance {
            body_bytes_max: set(limits.request_bytes_max).map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
            samples_max: set(limits.request_samples_max),
            series_max: set(limits.request_series_max),
            labels: LabelLimits {
                labels_max: tighter(labels.labels_max, limits.labels_per_series_max),
                name_bytes_max: tighter(labels.name_bytes_max, limits.label_name_bytes_max),
                value_bytes_max: tighter(labels.value_bytes_max, limits.label_value_bytes_max),
                total_bytes_max: labels.total_bytes_max,
            },
            rate: rate(&limits, nodes, elsewhere),
            process_rate: rate(&of_process, 1, 0.0),
        }
    }

    /// Whether the tenant may send now.
    pub(crate) fn may_send(&self, tenant: &Tenant, allowance: &Allowance, now: Duration) -> Result<(), TooMuch> {
        if let Some(rate) = allowance.rate {
            let mut buckets = self.buckets.lock();
            make_room(&mut buckets, tenant);
            let bucket = buckets.entry(tenant.clone()).or_insert_with(|| Bucket::full(rate, now));
            bucket.may_send(rate, now).map_err(TooMuch::Tenant)?;
        }
        let Some(rate) = allowance.process_rate else {
            return Ok(());
        };
        let mut process = self.process.lock();
        let bucket = process.get_or_insert_with(|| Bucket::full(rate, now));
        bucket.may_send(rate, now).map_err(TooMuch::Process)
    }

    /// Counts samples that were sent.
    pub(crate) fn sent(&self, tenant: &Tenant, allowance: &Allowance, samples: u64) {
        if allowance.rate.is_some()
            && let Some(bucket) = self.buckets.lock().get_mut(tenant)
        {
            bucket.sent(samples);
        }
        if allowance.process_rate.is_some()
            && let Some(bucket) = self.process.lock().as_mut()
        {
            bucket.sent(samples);
        }
    }
}

fn make_room(buckets: &mut HashMap<Tenant, Bucket>, tenant: &Tenant) {
    if buckets.len() < BUCKETS_MAX || buckets.contains_key(tenant) {
        return;
    }
    let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.filled());
    if let Some(oldest) = oldest.map(|(tenant, _)| tenant.clone()) {
        buckets.remove(&oldest);
    }
}

/// Shows how near tenants are to their rates.
pub(crate) struct LimitMetrics {
    pub(crate) limits: Arc<TenantLimits>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl fmt::Debug for LimitMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LimitMetrics")
    }
}

/// One tenant's numbers.
struct Shown {
    tenant: Tenant,
    sent: f64,
    max: f64,
    refused: u64,
}

impl LimitMetrics {
    fn shown(&self) -> Vec<Shown> {
        let now = self.clock.monotonic();
        let buckets = self.limits.buckets.lock();
        let shown = buckets.iter().map(|(tenant, bucket)| Shown {
            tenant: tenant.clone(),
            sent: bucket.sent_per_second(now),
            max: bucket.rate.per_second,
            refused: bucket.refused,
        });
        let mut shown: Vec<Shown> = shown.collect();
        drop(buckets);
        shown.sort_by(|a, b| (b.sent / b.max).total_cmp(&(a.sent / a.max)));
        shown.truncate(SHOWN_MAX);
        shown
    }
}

impl Collector for LimitMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let shown = self.shown();
        if shown.is_empty() {
            return Ok(());
        }
        type Read = fn(&Shown) -> f64;
        let gauges: [(&str, &str, Read); 2] = [
            (
                "narthex_receiver_tenant_samples_per_second",
                "Samples per second of a tenant with a limit, on this node, averaged over some ten seconds",
                |shown| shown.sent,
            ),
            (
                "narthex_receiver_tenant_samples_per_second_max",
                "This node's share of the tenant's limit",
                |shown| shown.max,
            ),
        ];
        for (name, help, read) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for shown in &shown {
                let labels = [("tenant", shown.tenant.as_str())];
                ConstGauge::new(read(shown)).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Requests of a tenant turned away by its limit of samples per second";
        let name = "narthex_receiver_tenant_requests_limited";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for shown in &shown {
            let labels = [("tenant", shown.tenant.as_str())];
            ConstCounter::new(shown.refused).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Limits, Limits);

    impl LimitSource for Fixed {
        fn limits(&self, tenant: &Tenant) -> Limits {
            if tenant.as_str() == "bounded" {
                self.0
            } else {
                Limits::default()
            }
        }
        fn nodes(&self) -> usize {
            2
        }
        /// Most of what the tenant may send.
        fn taken_elsewhere(&self, _: &Tenant) -> f64 {
            150.0
        }
        fn of_process(&self) -> Limits {
            self.1
        }
    }

    fn limited(tenant: Limits, process: Limits) -> TenantLimits {
        let tenant_limits = TenantLimits::default();
        tenant_limits.follow(Arc::new(Fixed(tenant, process)));
        tenant_limits
    }

    fn per_second(samples: u64) -> Limits {
        Limits {
            samples_per_second_max: Some(samples),
            ..Limits::default()
        }
    }

    #[test]
    fn a_tenant_sends_its_share_and_some_at_once() {
        let limits = limited(per_second(200), Limits::default());
        let tenant = Tenant::new("bounded").unwrap();
        let allowance = limits.allowance(&tenant, &LabelLimits::default());
        let at = Duration::from_secs;
        // Half is its share of two nodes, however much the other takes: 100 a second, and ten seconds' worth at once.
        assert_eq!(limits.may_send(&tenant, &allowance, at(0)), Ok(()));
        limits.sent(&tenant, &allowance, 1_500);
        let refused = limits.may_send(&tenant, &allowance, at(1));
        assert!(
            matches!(refused, Err(TooMuch::Tenant(wait)) if wait.as_secs() == 4),
            "{refused:?}"
        );
        assert_eq!(limits.may_send(&tenant, &allowance, at(6)), Ok(()));

        let other = Tenant::new("bystander").unwrap();
        let allowance = limits.allowance(&other, &LabelLimits::default());
        limits.sent(&other, &allowance, u64::MAX);
        assert_eq!(limits.may_send(&other, &allowance, at(1)), Ok(()));
    }

    #[test]
    fn one_node_takes_what_the_others_leave() {
        let limits = Limits {
            samples_burst_max: Some(500),
            ..per_second(200)
        };
        let found = [0.0, 30.0, 100.0, 1e9].map(|elsewhere| rate(&limits, 2, elsewhere).unwrap().per_second);
        assert_eq!(found, [200.0, 170.0, 100.0, 100.0]);
        assert_eq!(rate(&limits, 2, 0.0).unwrap().burst, 250.0);
        assert_eq!(rate(&per_second(200), 4, 0.0).unwrap().burst, 500.0);
        assert_eq!(rate(&Limits::default(), 2, 0.0), None);
    }

    #[test]
    fn what_the_process_takes_is_shared_by_all_and_not_divided_by_nodes() {
        let limits = limited(Limits::default(), per_second(100));
        let [one, other] = ["one", "other"].map(|id| Tenant::new(id).unwrap());
        let allowance = limits.allowance(&one, &LabelLimits::default());
        let at = Duration::from_secs;
        assert_eq!(limits.may_send(&one, &allowance, at(0)), Ok(()));
        limits.sent(&one, &allowance, 1_100);
        let refused = limits.may_send(&other, &allowance, at(0));
        assert!(matches!(refused, Err(TooMuch::Process(_))), "{refused:?}");
        assert_eq!(limits.may_send(&other, &allowance, at(2)), Ok(()));
    }

    #[test]
    fn the_tighter_bound_on_labels_holds_and_zero_is_none() {
        let tenant = Limits {
            labels_per_series_max: Some(5),
            label_value_bytes_max: Some(u64::MAX),
            label_name_bytes_max: Some(0),
            request_samples_max: Some(0),
            request_series_max: Some(7),
            request_bytes_max: Some(10),
            ..Limits::default()
        };
        let limits = limited(tenant, Limits::default());
        let own = LabelLimits::default();
        let allowance = limits.allowance(&Tenant::new("bounded").unwrap(), &own);
        assert_eq!(allowance.labels.labels_max, 5);
        assert_eq!(allowance.labels.value_bytes_max, own.value_bytes_max);
        assert_eq!(allowance.labels.name_bytes_max, own.name_bytes_max);
        assert_eq!(
            (allowance.samples_max, allowance.series_max, allowance.body_bytes_max),
            (None, Some(7), Some(10))
        );
    }
}
