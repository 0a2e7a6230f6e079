//! What a query may hold at once: samples, and bytes of series and labels. And what it held.
//!
//! Everything that grows with the data is charged here before or while it is made, so that a query that asks for too much ends with
//! a clear error instead of taking the memory of the process. Queries may share [`Pool`]s besides: one of a tenant, one of all.

use crate::query::{Pool, QueryError};
use model::select::{Account, SelectError};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The bounds of a query, shared by all its operators.
#[derive(Debug)]
pub(crate) struct Budget {
    samples_max: usize,
    samples: AtomicUsize,
    samples_peak: AtomicUsize,
    bytes_max: usize,
    bytes: AtomicUsize,
    /// Bounds that other queries share.
    pools: Vec<Arc<Pool>>,
}

impl Budget {
    pub(crate) fn new(samples_max: usize, bytes_max: usize, pools: Vec<Arc<Pool>>) -> Arc<Self> {
        Arc::new(Self {
            samples_max,
            samples: AtomicUsize::new(0),
            samples_peak: AtomicUsize::new(0),
            bytes_max,
            bytes: AtomicUsize::new(0),
            pools,
        })
    }

    /// Holds `samples` more, until the charge is dropped.
    pub(crate) fn take(self: &Arc<Self>, samples: usize) -> Result<Charge, QueryError> {
        let mut charge = self.nothing();
        charge.grow(samples)?;
        Ok(charge)
    }

    /// A charge that can grow.
    pub(crate) fn nothing(self: &Arc<Self>) -> Charge {
        Charge {
            budget: Some(self.clone()),
            samples: 0,
            bytes: 0,
        }
    }

    /// Fails when `samples` more, held for a moment, would be too many.
    #[inline]
    pub(crate) fn check(&self, samples: usize) -> Result<(), QueryError> {
        let would_hold = self.samples.load(Ordering::Relaxed).saturating_add(samples);
        if would_hold > self.samples_peak.load(Ordering::Relaxed) {
            self.samples_peak.fetch_max(would_hold, Ordering::Relaxed);
        }
        if would_hold > self.samples_max {
            Err(QueryError::TooManySamples)
        } else {
            Ok(())
        }
    }

    /// Most samples held at once.
    pub(crate) fn peak(&self) -> usize {
        self.samples_peak.load(Ordering::Relaxed)
    }

    /// Most samples that may be held.
    pub(crate) fn max(&self) -> usize {
        self.samples_max
    }
}

/// What sources hold for a query counts like what it holds itself.
impl Account for Budget {
    fn hold(&self, bytes: usize) -> Result<(), SelectError> {
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if held > self.bytes_max {
            let error = QueryError::TooManyBytes(self.bytes_max);
            return Err(SelectError::Limit(error.to_string()));
        }
        Ok(())
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What is held; given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    budget: Option<Arc<Budget>>,
    samples: usize,
    bytes: usize,
}

impl Charge {
    /// Holds `samples` more.
    pub(crate) fn grow(&mut self, samples: usize) -> Result<(), QueryError> {
        let Some(budget) = &self.budget else { return Ok(()) };
        let held = budget
            .samples
            .fetch_add(samples, Ordering::Relaxed)
            .saturating_add(samples);
        self.samples += samples;
        for pool in &budget.pools {
            pool.take(samples);
        }
        budget.samples_peak.fetch_max(held, Ordering::Relaxed);
        if held > budget.samples_max {
            return Err(QueryError::TooManySamples);
        }
        budget.pools.iter().try_for_each(|pool| pool.check())
    }

    /// Holds `bytes` of series and labels more.
    pub(crate) fn grow_bytes(&mut self, bytes: usize) -> Result<(), QueryError> {
        let Some(budget) = &self.budget else { return Ok(()) };
        let held = budget.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        self.bytes += bytes;
        if held > budget.bytes_max {
            return Err(QueryError::TooManyBytes(budget.bytes_max));
        }
        Ok(())
    }

    /// Holds what `other` holds as well.
    pub(crate) fn join(&mut self, mut other: Charge) {
        if self.budget.is_none() {
            *self = other;
            return;
        }
        self.samples += std::mem::take(&mut other.samples);
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let Some(budget) = &self.budget else { return };
        budget.samples.fetch_sub(self.samples, Ordering::Relaxed);
        budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        for pool in &budget.pools {
            pool.give_back(self.samples);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_held_again() {
        let budget = Budget::new(10, 100, Vec::new());
        let first = budget.take(6).unwrap();
        assert_eq!(budget.take(5).unwrap_err(), QueryError::TooManySamples);
        assert_eq!(budget.check(5).unwrap_err(), QueryError::TooManySamples);
        let mut joined = budget.nothing();
        joined.join(first);
        assert_eq!(budget.take(5).unwrap_err(), QueryError::TooManySamples);
        drop((joined, budget.take(4).unwrap()));
        assert!(budget.check(10).is_ok());
        assert_eq!(budget.peak(), 11);
    }

    #[test]
    fn bytes_have_a_bound_of_their_own() {
        let budget = Budget::new(10, 100, Vec::new());
        let mut charge = budget.nothing();
        charge.grow_bytes(100).unwrap();
        assert_eq!(charge.grow_bytes(1).unwrap_err(), QueryError::TooManyBytes(100));
        drop(charge);
        assert!(budget.nothing().grow_bytes(100).is_ok());
    }

    #[test]
    fn what_sources_hold_counts_as_well() {
        let budget = Budget::new(10, 100, Vec::new());
        let mut charge = budget.nothing();
        charge.grow_bytes(60).unwrap();
        budget.hold(40).unwrap();
        assert!(matches!(budget.hold(1), Err(SelectError::Limit(text)) if text.contains("100")));
        budget.release(41);
        assert_eq!(charge.grow_bytes(41).unwrap_err(), QueryError::TooManyBytes(100));
    }

    #[test]
    fn queries_share_a_pool() {
        let pool = Pool::new("tenant a", 10);
        let budgets = [0, 1].map(|_| Budget::new(8, 100, vec![pool.clone()]));
        let first = budgets[0].take(8).unwrap();
        let error = budgets[1].take(3).unwrap_err();
        assert!(
            matches!(&error, QueryError::PoolExhausted { name, samples_max: 10 } if name == "tenant a"),
            "{error}"
        );
        drop(first);
        assert!(budgets[1].take(8).is_ok());
        assert_eq!(pool.samples(), 0);
    }
}
