//! What other nodes take of each tenant, as far as it passes here.
//!
//! The owners of a series get its samples from whichever node they were sent to. So each node sees what the others take without asking
//! them: of a tenant with many series its own part of all copies. A limit of the whole ring needs no more than that.

use model::tenant::Tenant;
use parking_lot::Mutex;
use std::{collections::HashMap, time::Duration};

/// Rates are counted over spans of this length; the one before and the present one make the figure.
const SPAN: Duration = Duration::from_secs(2);

/// Tenants that are counted at the same time.
const TENANTS_MAX: usize = 10_000;

/// Samples of one tenant in two spans.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    /// Number of the present span.
    span: u64,
    present: u64,
    before: u64,
}

impl Counted {
    fn go_to(&mut self, span: u64) {
        self.before = match span.saturating_sub(self.span) {
            0 => return,
            1 => self.present,
            _ => 0,
        };
        (self.span, self.present) = (span, 0);
    }
}

/// Counts what others hand on to this node, by tenant.
#[derive(Debug, Default)]
pub(super) struct Usage(Mutex<HashMap<Tenant, Counted>>);

impl Usage {
    /// Another node handed on so many samples at `now`, by a clock that never goes back.
    pub(super) fn count(&self, tenant: &Tenant, samples: usize, now: Duration) {
        let span = span_of(now);
        let mut tenants = self.0.lock();
        if !tenants.contains_key(tenant) {
            if tenants.len() >= TENANTS_MAX {
                tenants.retain(|_, counted| counted.span + 1 >= span);
            }
            if tenants.len() >= TENANTS_MAX {
                return;
            }
            tenants.insert(tenant.clone(), Counted::default());
        }
        let Some(counted) = tenants.get_mut(tenant) else { return };
        counted.go_to(span);
        counted.present += samples as u64;
    }

    /// Samples per second of `tenant` that were handed on to this node lately.
    pub(super) fn per_second(&self, tenant: &Tenant, now: Duration) -> f64 {
        let Some(mut counted) = self.0.lock().get(tenant).copied() else {
            return 0.0;
        };
        counted.go_to(span_of(now));
        let passed = (now.as_secs_f64() / SPAN.as_secs_f64()).fract();
        (counted.before as f64 * (1.0 - passed) + counted.present as f64) / SPAN.as_secs_f64()
    }
}

fn span_of(now: Duration) -> u64 {
    now.as_secs() / SPAN.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_is_told_at_any_moment_and_forgotten_in_two_spans() {
        let usage = Usage::default();
        let [acme, other] = ["acme", "other"].map(|id| Tenant::new(id).unwrap());
        let at = Duration::from_millis;
        for step in 0..400 {
            usage.count(&acme, 50, at(step * 100));
            if step > 40 {
                let rate = usage.per_second(&acme, at(step * 100));
                assert!((470.0..=530.0).contains(&rate), "{rate} at step {step}");
            }
        }
        assert_eq!(usage.per_second(&other, at(40_000)), 0.0);
        assert_eq!(usage.per_second(&acme, at(44_000)), 0.0);
    }

    #[test]
    fn there_is_room_for_those_that_send() {
        let usage = Usage::default();
        let tenant = |number: usize| Tenant::new(&format!("t{number}")).unwrap();
        for number in 0..TENANTS_MAX + 5 {
            usage.count(&tenant(number), 1, Duration::ZERO);
        }
        assert_eq!(usage.0.lock().len(), TENANTS_MAX);
        usage.count(&tenant(TENANTS_MAX + 7), 8, Duration::from_secs(60));
        assert_eq!(usage.0.lock().len(), 1);
    }
}
