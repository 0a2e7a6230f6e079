//! An answer that was looked into: the fan-out asks sources whether they have anything before it decides how to go on.

use futures::future::BoxFuture;
use model::select::{SelectError, Series, SeriesSet};

/// An answer whose first batch has been taken already.
pub(crate) struct Peeked {
    first: Option<Vec<Series>>,
    set: Box<dyn SeriesSet>,
}

impl Peeked {
    /// Gives `first` before what is left of `set`.
    pub(crate) fn new(first: Option<Vec<Series>>, set: Box<dyn SeriesSet>) -> Self {
        Self { first, set }
    }
}

impl SeriesSet for Peeked {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        match self.first.take() {
            Some(batch) => Box::pin(async move { Some(Ok(batch)) }),
            None => self.set.next(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.set.warnings()
    }

    fn blocks(&self) -> Vec<String> {
        self.set.blocks()
    }
}
