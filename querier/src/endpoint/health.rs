//! Whether an endpoint is worth asking: what it said of itself last, and a circuit breaker.
//!
//! A dead endpoint costs a query nothing: after a few failures in a row it fails at once for a while that doubles, and one call
//! is let through when the while is over. An endpoint that answers what it is, and not what it is asked for, is caught by the
//! same rule, so a good answer to the former does not close the breaker early, unless it was silent on that as well: then the
//! process is another one by now.

use model::{
    label::Labels,
    select::SelectError,
    time::{TimeRange, Timestamp},
};
use proto::thanos::EndpointInfo;
use std::{sync::Arc, time::Duration};

/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 3;

/// How long it stays open at first, and at most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is known of an endpoint.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    /// What it said of itself last.
    pub(super) info: Option<Arc<EndpointInfo>>,
    /// Why it did not say anything when it was asked last.
    down: Option<String>,
    /// When that was.
    checked: Timestamp,
    /// Failed reads in a row, and the last reason.
    failures: u32,
    failure: String,
    /// Until when it is not asked, on the monotonic clock.
    closed_until: Duration,
}

/// What an endpoint is and how it does, for status pages.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointStatus {
    /// Its address.
    pub address: String,
    /// What kind of component it is; empty until it answered once.
    pub component: String,
    /// External labels of what it holds.
    pub label_sets: Vec<Labels>,
    /// The span of what it holds.
    pub range: TimeRange,
    /// When it was asked last what it holds, 0 when never.
    pub last_check: Timestamp,
    /// Why it is not used, if so.
    pub error: Option<String>,
}

impl Health {
    /// It answered what it holds.
    pub(super) fn described(&mut self, info: EndpointInfo, now: Timestamp) {
        self.info = Some(Arc::new(info));
        if self.down.take().is_some() {
            self.served();
        }
        self.checked = now;
    }

    /// It did not answer what it holds.
    pub(super) fn silent(&mut self, error: &SelectError, now: Timestamp) {
        self.down = Some(error.to_string());
        self.checked = now;
    }

    /// A read ended well.
    pub(super) fn served(&mut self) {
        self.failures = 0;
        self.closed_until = Duration::ZERO;
    }

    /// A read failed. `monotonic` is the time now.
    pub(super) fn failed(&mut self, error: &SelectError, monotonic: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.failure = error.to_string();
        if let Some(over) = self.failures.checked_sub(FAILURES_MAX) {
            let pause = PAUSE_MIN.saturating_mul(1 << over.min(10)).min(PAUSE_MAX);
            self.closed_until = monotonic.saturating_add(pause);
        }
    }

    /// Errs when asking is pointless now.
    pub(super) fn check(&self, monotonic: Duration) -> Result<(), SelectError> {
        if let Some(reason) = &self.down {
            return Err(SelectError::Unavailable(reason.clone()));
        }
        if monotonic < self.closed_until {
            let text = format!("not asked after {} failures in a row: {}", self.failures, self.failure);
            return Err(SelectError::Unavailable(text));
        }
        Ok(())
    }

    pub(super) fn status(&self, address: &str, monotonic: Duration) -> EndpointStatus {
        let info = self.info.as_deref();
        EndpointStatus {
            address: address.to_owned(),
            component: info.map_or_else(String::new, |info| info.component.clone()),
            label_sets: info.map_or_else(Vec::new, |info| info.label_sets.clone()),
            range: info.map_or(TimeRange::ALL, |info| info.range),
            last_check: self.checked,
            error: self.check(monotonic).err().map(|error| error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_the_breaker_for_a_while_that_doubles() {
        let mut health = Health::default();
        let error = SelectError::Unavailable("broken pipe".into());
        let at = Duration::from_secs(100);
        for _ in 0..2 {
            health.failed(&error, at);
            assert_eq!(health.check(at), Ok(()));
        }
        health.failed(&error, at);
        let refused = health.check(at).unwrap_err().to_string();
        assert_eq!(refused, "not asked after 3 failures in a row: broken pipe");
        assert_eq!(health.check(at + PAUSE_MIN), Ok(()));
        health.failed(&error, at + PAUSE_MIN);
        assert!(health.check(at + PAUSE_MIN * 2).is_err());
        assert_eq!(health.check(at + PAUSE_MIN * 3), Ok(()));
        for _ in 0..100 {
            health.failed(&error, at);
        }
        assert_eq!(health.check(at + PAUSE_MAX), Ok(()));
        health.failed(&error, at);
        health.served();
        assert_eq!(health.check(at), Ok(()));
    }

    #[test]
    fn a_process_that_came_back_is_asked_at_once() {
        let (mut health, at) = (Health::default(), Duration::from_secs(100));
        let error = SelectError::Unavailable("broken pipe".into());
        let info = EndpointInfo {
            component: "receive".into(),
            label_sets: Vec::new(),
            range: TimeRange::ALL,
            serves_series: true,
            serves_exemplars: true,
            serves_metadata: true,
            strips_labels: true,
            isolates_tenants: true,
        };
        (0..20).for_each(|_| health.failed(&error, at));
        health.described(info.clone(), 1);
        assert!(
            health.check(at).is_err(),
            "it answers what it is, and fails at what it is asked for"
        );
        health.silent(&error, 2);
        health.described(info, 3);
        assert_eq!(health.check(at), Ok(()));
    }
}
