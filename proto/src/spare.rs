//! Batches that are not needed any more, kept for their memory: the next one needs as much, and pages that go back to the kernel and come
//! again cost more than what is written to them. Sessions and the replicator keep some each.

use model::push::WriteBatch;
use parking_lot::Mutex;

/// Batches kept in one place.
const BATCHES_MAX: usize = 4;

/// Larger batches are not kept: in four of this size are some 4 MB.
const ITEMS_MAX: usize = 1 << 14;

/// Batches to be used again.
#[derive(Debug, Default)]
pub struct Spares(Mutex<Vec<WriteBatch>>);

impl Spares {
    /// An empty batch, with memory if there is one.
    pub fn take(&self) -> WriteBatch {
        self.0.lock().pop().unwrap_or_default()
    }

    /// Keeps the memory of a batch.
    pub fn keep(&self, mut batch: WriteBatch) {
        let columns = [
            batch.series.capacity(),
            batch.floats.capacity(),
            batch.histograms.capacity(),
            batch.exemplars.capacity(),
            batch.metadata.capacity(),
        ];
        if columns.into_iter().any(|capacity| capacity > ITEMS_MAX) {
            return;
        }
        batch.clear();
        let mut kept = self.0.lock();
        if kept.len() < BATCHES_MAX {
            kept.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{label::Labels, push::SeriesId};

    #[test]
    fn memory_is_kept_within_bounds_and_content_is_not() {
        let spares = Spares::default();
        let mut batch = WriteBatch::default();
        batch.series.reserve(100);
        batch.finish_series(SeriesId::New(Labels::empty()));
        spares.keep(batch);
        let again = spares.take();
        assert!(again.series.is_empty() && again.series.capacity() >= 100);
        assert_eq!(spares.take().series.capacity(), 0);
        let mut large = WriteBatch::default();
        large.floats.reserve(ITEMS_MAX + 1);
        spares.keep(large);
        assert!(spares.0.lock().is_empty());
        (0..9).for_each(|_| spares.keep(WriteBatch::default()));
        assert_eq!(spares.0.lock().len(), BATCHES_MAX);
    }
}
