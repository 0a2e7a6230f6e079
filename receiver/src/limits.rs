//! What one tenant may send: limits that the ring agrees on, applied where the requests come in.
//!
//! A request asks for its [`Allowance`] once. Whether one is too long or has too many samples is decided from it alone; samples per second
//! are counted here, in a bucket for each tenant that fills with the tenant's share of this node and holds some seconds' worth. One tenant's
//! bucket is nothing to another's.

use crate::settings::LabelLimits;
use cluster::limits::Limits;
use model::tenant::Tenant;
use parking_lot::{Mutex, RwLock};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Seconds of its rate that a tenant may send at once: a sender that was away for a moment catches up.
const BURST_SECONDS: f64 = 10.0;

/// Tenants whose rates are counted at the same time; one that has not sent for longest makes room.
const BUCKETS_MAX: usize = 100_000;

/// Where limits come from. They may change at any time.
pub trait LimitSource: Send + Sync {
    /// What `tenant` may use over the whole cluster.
    fn limits(&self, tenant: &Tenant) -> Limits;

    /// Nodes that share the requests, at least one.
    fn nodes(&self) -> usize;
}

/// A tenant's samples per second.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Samples that may be sent now; below zero when a request was larger than what was left.
    tokens: f64,
    filled: Duration,
}

/// Applies limits.
#[derive(Default)]
pub(crate) struct TenantLimits {
    source: RwLock<Option<Arc<dyn LimitSource>>>,
    buckets: Mutex<HashMap<Tenant, Bucket>>,
}

/// What one request may be.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    pub(crate) body_bytes_max: Option<usize>,
    pub(crate) samples_max: Option<u64>,
    pub(crate) labels: LabelLimits,
    /// Samples per second on this node.
    rate: Option<f64>,
}

impl TenantLimits {
    pub(crate) fn follow(&self, source: Arc<dyn LimitSource>) {
        *self.source.write() = Some(source);
    }

    /// What a request of `tenant` may be; `labels` are the bounds of the process, which hold in any case.
    pub(crate) fn allowance(&self, tenant: &Tenant, labels: &LabelLimits) -> Allowance {
        let source = self.source.read().clone();
        let limits = source.as_ref().map(|source| source.limits(tenant)).unwrap_or_default();
        // 0 is without bound.
        let set = |limit: Option<u64>| limit.filter(|limit| *limit > 0);
        let tighter = |own: usize, limit: Option<u64>| set(limit).map_or(own, |limit| own.min(limit as usize));
        let nodes = source.map_or(1, |source| source.nodes().max(1));
        Allowance {
            body_bytes_max: set(limits.request_bytes_max).map(|max| max as usize),
            samples_max: set(limits.request_samples_max),
            labels: LabelLimits {
                labels_max: tighter(labels.labels_max, limits.labels_per_series_max),
                name_bytes_max: tighter(labels.name_bytes_max, limits.label_name_bytes_max),
                value_bytes_max: tighter(labels.value_bytes_max, limits.label_value_bytes_max),
                total_bytes_max: labels.total_bytes_max,
            },
            rate: set(limits.samples_per_second_max).map(|rate| rate as f64 / nodes as f64),
        }
    }

    /// Whether the tenant may send now; if not, after how long.
    pub(crate) fn may_send(&self, tenant: &Tenant, allowance: &Allowance, now: Duration) -> Result<(), Duration> {
        let Some(rate) = allowance.rate else { return Ok(()) };
        let mut buckets = self.buckets.lock();
        make_room(&mut buckets, tenant);
        let bucket = buckets.entry(tenant.clone()).or_insert(Bucket {
            tokens: rate * BURST_SECONDS,
            filled: now,
        });
        let passed = now.saturating_sub(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * rate).min(rate * BURST_SECONDS);
        bucket.filled = now;
        if bucket.tokens > 0.0 {
            return Ok(());
        }
        let wait = (1.0 - bucket.tokens) / rate;
        Err(Duration::try_from_secs_f64(wait)
            .unwrap_or(Duration::from_secs(60))
            .min(Duration::from_secs(60)))
    }

    /// Counts samples that were sent. A request that was let in is never cut short, so that the next ones pay for it.
    pub(crate) fn sent(&self, tenant: &Tenant, allowance: &Allowance, samples: u64) {
        if allowance.rate.is_none() {
            return;
        }
        if let Some(bucket) = self.buckets.lock().get_mut(tenant) {
            bucket.tokens -= samples as f64;
        }
    }
}

fn make_room(buckets: &mut HashMap<Tenant, Bucket>, tenant: &Tenant) {
    if buckets.len() < BUCKETS_MAX || buckets.contains_key(tenant) {
        return;
    }
    let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.filled);
    if let Some(oldest) = oldest.map(|(tenant, _)| tenant.clone()) {
        buckets.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Limits);

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
    }

    fn limited(limits: Limits) -> TenantLimits {
        let tenant_limits = TenantLimits::default();
        tenant_limits.follow(Arc::new(Fixed(limits)));
        tenant_limits
    }

    #[test]
    fn a_tenant_sends_its_share_and_some_at_once() {
        let limits = limited(Limits {
            samples_per_second_max: Some(200),
            ..Limits::default()
        });
        let tenant = Tenant::new("bounded").unwrap();
        let allowance = limits.allowance(&tenant, &LabelLimits::default());
        let at = Duration::from_secs;
        // Its share of two nodes is 100 a second, and ten seconds' worth at once.
        assert_eq!(limits.may_send(&tenant, &allowance, at(0)), Ok(()));
        limits.sent(&tenant, &allowance, 1_500);
        let wait = limits.may_send(&tenant, &allowance, at(1)).unwrap_err();
        assert_eq!(wait.as_secs(), 4);
        assert_eq!(limits.may_send(&tenant, &allowance, at(6)), Ok(()));

        let other = Tenant::new("bystander").unwrap();
        let allowance = limits.allowance(&other, &LabelLimits::default());
        limits.sent(&other, &allowance, u64::MAX);
        assert_eq!(limits.may_send(&other, &allowance, at(1)), Ok(()));
    }

    #[test]
    fn the_tighter_bound_on_labels_holds_and_zero_is_none() {
        let limits = limited(Limits {
            labels_per_series_max: Some(5),
            label_value_bytes_max: Some(u64::MAX),
            label_name_bytes_max: Some(0),
            request_samples_max: Some(0),
            request_bytes_max: Some(10),
            ..Limits::default()
        });
        let own = LabelLimits::default();
        let allowance = limits.allowance(&Tenant::new("bounded").unwrap(), &own);
        assert_eq!(allowance.labels.labels_max, 5);
        assert_eq!(allowance.labels.value_bytes_max, own.value_bytes_max);
        assert_eq!(allowance.labels.name_bytes_max, own.name_bytes_max);
        assert_eq!((allowance.samples_max, allowance.body_bytes_max), (None, Some(10)));
    }
}
