//! How many samples a query looked at: those of all windows, and those that were read; in all, and at each step when that is asked for.
//!
//! What one part of a query evaluates for another on a grid of its own (a subquery, what is the same at every step) counts apart
//! ([`Counts::apart`]), since its steps are not those of the query.

use std::sync::atomic::{AtomicU64, Ordering};

/// Samples that selectors looked at.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Samples in the windows of all steps; one that is in several windows counts for each.
    queryable: AtomicU64,
    /// Samples that were read for the windows; one that is in several windows of a selector counts once.
    read: AtomicU64,
    /// Both by step, or empty when nobody asked.
    steps: Box<[[AtomicU64; 2]]>,
}

impl Counts {
    /// Nothing yet; by step for as many steps as are given.
    pub(crate) fn new(steps: usize) -> Self {
        Self {
            steps: std::iter::repeat_with(Default::default).take(steps).collect(),
            ..Self::default()
        }
    }

    /// Nothing yet, for a grid of its own; by step if these are.
    pub(crate) fn apart(&self, steps: usize) -> Self {
        Self::new(if self.by_step() { steps } else { 0 })
    }

    /// Whether steps are counted, each on its own.
    pub(crate) fn by_step(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Counts the samples of one series at all steps.
    pub(crate) fn add(&self, queryable: u64, read: u64) {
        self.queryable.fetch_add(queryable, Ordering::Relaxed);
        self.read.fetch_add(read, Ordering::Relaxed);
    }

    /// Counts the samples of one series at a step for that step alone; [`Self::add`] must be told as well.
    pub(crate) fn add_at(&self, step: usize, queryable: u64, read: u64) {
        if let Some([at, read_at]) = self.steps.get(step) {
            at.fetch_add(queryable, Ordering::Relaxed);
            read_at.fetch_add(read, Ordering::Relaxed);
        }
    }

    /// Counts what was evaluated once for each of `steps` steps.
    pub(crate) fn repeat(&self, once: &Counts, steps: usize) {
        let (queryable, read) = (once.queryable(), once.read());
        self.add(queryable.saturating_mul(steps as u64), read);
        for step in 0..steps.min(self.steps.len()) {
            self.add_at(step, queryable, if step == 0 { read } else { 0 });
        }
    }

    /// Counts what was read for a subquery; what it looks at is counted by the windows over it.
    pub(crate) fn add_read(&self, inner: &Counts) {
        self.add(0, inner.read());
        self.add_at(0, 0, inner.read());
    }

    /// Samples in all windows.
    pub(crate) fn queryable(&self) -> u64 {
        self.queryable.load(Ordering::Relaxed)
    }

    /// Samples that were read.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Both by step.
    pub(crate) fn steps(&self) -> impl Iterator<Item = [u64; 2]> {
        self.steps
            .iter()
            .map(|counts| [0, 1].map(|index| counts[index].load(Ordering::Relaxed)))
    }
}
