//! How many samples a query may hold at once, and how many it held.

use crate::query::QueryError;
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// The bound of a query, shared by all its operators.
#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    held: AtomicUsize,
    peak: AtomicUsize,
    /// Samples that selectors looked at.
    looked_at: AtomicU64,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            looked_at: AtomicU64::new(0),
        })
    }

    /// Holds `samples` more, until the charge is dropped.
    pub(crate) fn take(self: &Arc<Self>, samples: usize) -> Result<Charge, QueryError> {
        let mut charge = Charge {
            budget: Some(self.clone()),
            samples: 0,
        };
        charge.grow(samples)?;
        Ok(charge)
    }

    /// Fails when `samples` more, held for a moment, would be too many.
    #[inline]
    pub(crate) fn check(&self, samples: usize) -> Result<(), QueryError> {
        let would_hold = self.held.load(Ordering::Relaxed).saturating_add(samples);
        if would_hold > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(would_hold, Ordering::Relaxed);
        }
        if would_hold > self.max {
            Err(QueryError::TooManySamples)
        } else {
            Ok(())
        }
    }

    /// Counts samples that a selector looked at.
    pub(crate) fn count_looked_at(&self, samples: u64) {
        self.looked_at.fetch_add(samples, Ordering::Relaxed);
    }

    /// Most samples held at once.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Samples that selectors looked at.
    pub(crate) fn looked_at(&self) -> u64 {
        self.looked_at.load(Ordering::Relaxed)
    }

    /// Most samples that may be held.
    pub(crate) fn max(&self) -> usize {
        self.max
    }
}

/// Samples held; given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    budget: Option<Arc<Budget>>,
    samples: usize,
}

impl Charge {
    /// Holds `samples` more.
    pub(crate) fn grow(&mut self, samples: usize) -> Result<(), QueryError> {
        let Some(budget) = &self.budget else { return Ok(()) };
        let held = budget
            .held
            .fetch_add(samples, Ordering::Relaxed)
            .saturating_add(samples);
        self.samples += samples;
        budget.peak.fetch_max(held, Ordering::Relaxed);
        if held > budget.max {
            Err(QueryError::TooManySamples)
        } else {
            Ok(())
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.held.fetch_sub(self.samples, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_held_again() {
        let budget = Budget::new(10);
        let first = budget.take(6).unwrap();
        assert_eq!(budget.take(5).unwrap_err(), QueryError::TooManySamples);
        assert_eq!(budget.check(5).unwrap_err(), QueryError::TooManySamples);
        drop((first, budget.take(4).unwrap()));
        assert!(budget.check(10).is_ok());
        assert_eq!(budget.peak(), 11);
    }
}
