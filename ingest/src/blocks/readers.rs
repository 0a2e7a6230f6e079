//! Who reads head and blocks at the moment, and which blocks they know.
//!
//! A query takes the list of blocks first and copies from the head afterwards. Meanwhile a block may come that it does not know; as long as
//! such a query runs, the head must not forget what is in that block, or the query would find it nowhere.

use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// Queries that run, by how many blocks had been added when they took their list.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<BTreeMap<u64, usize>>);

impl Readers {
    /// A reader that knows the first `added` blocks, until the pin is dropped.
    pub(super) fn pin(self: &Arc<Self>, added: u64) -> Pin {
        *self.0.lock().entry(added).or_default() += 1;
        Pin {
            readers: Arc::clone(self),
            added,
        }
    }

    /// Whether every reader knows the block that was added as number `added`.
    pub(super) fn all_know(&self, added: u64) -> bool {
        self.0.lock().first_key_value().is_none_or(|(known, _)| *known >= added)
    }
}

/// Keeps the head from forgetting what is in blocks that a reader does not know.
#[derive(Debug)]
pub(crate) struct Pin {
    readers: Arc<Readers>,
    added: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut readers = self.readers.0.lock();
        if let Some(count) = readers.get_mut(&self.added) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.added);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_known_to_all_when_the_last_older_reader_is_gone() {
        let readers = Arc::new(Readers::default());
        assert!(readers.all_know(7));
        let (old, also_old, young) = (readers.pin(6), readers.pin(6), readers.pin(7));
        assert!(readers.all_know(6) && !readers.all_know(7));
        drop(old);
        assert!(!readers.all_know(7));
        drop(also_old);
        assert!(readers.all_know(7) && !readers.all_know(8));
        drop(young);
        assert!(readers.all_know(8));
    }
}
