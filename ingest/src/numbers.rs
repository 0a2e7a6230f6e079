//! A table by series number, for replay. Numbers are given out one after the other, so they lie close: small pages of them take an
//! eighth of the memory of a hash table, and a number out of nowhere costs one page.

use std::collections::HashMap;

/// Numbers of a page.
const PAGE: usize = 64;

/// Stands for no entry.
const NONE: u32 = u32::MAX;

/// Small numbers by series number.
#[derive(Default)]
pub(crate) struct Numbers {
    pages: HashMap<u64, Box<[u32; PAGE]>, foldhash::fast::FixedState>,
}

impl Numbers {
    /// The entry of a number.
    #[inline]
    pub(crate) fn get(&self, number: u64) -> Option<u32> {
        let page = self.pages.get(&(number / PAGE as u64))?;
        Some(page[number as usize % PAGE]).filter(|entry| *entry != NONE)
    }

    /// Sets the entry of a number; it must be below `u32::MAX`.
    pub(crate) fn set(&mut self, number: u64, entry: u32) {
        debug_assert!(entry != NONE);
        let page = self.pages.entry(number / PAGE as u64);
        page.or_insert_with(|| Box::new([NONE; PAGE]))[number as usize % PAGE] = entry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_wherever_numbers_lie() {
        let mut numbers = Numbers::default();
        let all = [0, 1, 63, 64, 65, 1 << 40, u64::MAX - 1, u64::MAX];
        for (entry, &number) in (0..).zip(&all) {
            assert_eq!(numbers.get(number), None);
            numbers.set(number, entry);
        }
        numbers.set(64, 77);
        for (entry, &number) in (0..).zip(&all) {
            assert_eq!(numbers.get(number), Some(if number == 64 { 77 } else { entry }));
        }
        assert_eq!(numbers.get(2), None);
    }
}
