//! Memory that requests in progress may take together.
//!
//! The HTTP layer reserves what it has read, `write` what it decompresses to. A reservation that does not fit fails at
//! once; nobody waits, since a sender that is told to come again costs less than one whose body is kept.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The bytes that may be in progress, and those that are.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            max,
        })
    }

    /// An empty reservation, to be grown.
    pub(crate) fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    /// Makes the reservation `bytes` large, smaller or larger than it was. When that does not fit it stays as it was.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            self.budget.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        } else {
            let more = bytes - self.bytes;
            let taken = self
                .budget
                .used
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                    used.checked_add(more).filter(|used| *used <= self.budget.max)
                });
            if taken.is_err() {
                return false;
            }
        }
        self.bytes = bytes;
        true
    }

    /// Adds `bytes` to the reservation.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        self.bytes.checked_add(bytes).is_some_and(|bytes| self.resize(bytes))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_fit_or_fail_and_are_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.reservation();
        let mut second = budget.reservation();
        assert!(first.grow(60) && second.grow(40));
        assert!(!first.grow(1) && !second.grow(usize::MAX));
        assert!(first.resize(10) && second.grow(50));
        assert_eq!(budget.used(), 100);
        drop(first);
        assert_eq!(budget.used(), 90);
        drop(second);
        assert_eq!(budget.used(), 0);
    }
}
