//! Which symbol tables of remote write 2.0 came before.
//!
//! Routes by the bytes of references are only worth learning when the table that they refer to comes again. Senders whose requests begin
//! with another series each time never repeat a table, and would fill the routes with what nobody asks for. The memory is
//! bounded and common to all tenants; forgetting a table costs the next request the hashes of its symbols.

use super::Key;
use hashbrown::HashSet;
use parking_lot::Mutex;

/// Tables remembered at least; up to twice as many take 1 MiB or so. Those of a scrape of tens of millions of series.
const TABLES_MAX: usize = 16_384;

#[derive(Default)]
pub(super) struct Tables {
    /// Those that came lately, and those of a while ago.
    halves: Mutex<(HashSet<Key>, HashSet<Key>)>,
}

impl Tables {
    /// Whether a table came before; it is remembered from now on.
    pub(super) fn came_before(&self, table: Key) -> bool {
        let mut halves = self.halves.lock();
        let (young, old) = &mut *halves;
        if !young.insert(table) {
            return true;
        }
        let known = old.contains(&table);
        if young.len() >= TABLES_MAX {
            *old = std::mem::take(young);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_known_from_the_second_time_on_until_many_others_came() {
        let tables = Tables::default();
        let key = |number: usize| Key::from_number(number as u64);
        assert!(!tables.came_before(key(0)));
        assert!(tables.came_before(key(0)));
        (1..TABLES_MAX).for_each(|number| assert!(!tables.came_before(key(number))));
        assert!(tables.came_before(key(0)), "in the old half");
        (TABLES_MAX..4 * TABLES_MAX).for_each(|number| assert!(!tables.came_before(key(number))));
        assert!(!tables.came_before(key(0)));
        assert!(tables.halves.lock().0.len() <= TABLES_MAX);
    }
}
