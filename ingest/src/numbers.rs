//! Tables by series number, for replay. Numbers are given out one after the other, so they lie close: small pages of them take an
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

/// Slots of series by number.
#[derive(Default)]
pub(crate) struct Slots {
    by_number: Numbers,
    /// By slot: the number that the series came under last.
    numbers: Vec<u64>,
}

impl Slots {
    /// Whether a number is known.
    pub(crate) fn knows(&self, number: u64) -> bool {
        self.by_number.get(number).is_some()
    }

    /// The slot of a number. `last` is the slot that was found last: mostly the next number is in the next slot.
    #[inline]
    pub(crate) fn find(&self, last: &mut u32, number: u64) -> Option<u32> {
        let next = last.wrapping_add(1);
        let slot = match self.numbers.get(next as usize) {
            Some(known) if *known == number => next,
            _ => self.by_number.get(number)?,
        };
        *last = slot;
        Some(slot)
    }

    /// The slot of `first`, and how many numbers from there on lie in that slot and those behind it; at most `count`.
    pub(crate) fn find_run(&self, last: &mut u32, first: u64, count: u32) -> Option<(u32, u32)> {
        let slot = self.find(last, first)?;
        let behind = self.numbers[slot as usize..].iter().take(count as usize);
        let same = behind
            .zip(0..)
            .take_while(|(known, index)| **known == first.wrapping_add(*index));
        // A series may have come back under another number.
        let len = (same.count() as u32).max(1);
        *last = slot + len - 1;
        Some((slot, len))
    }

    /// Notes that a number names the series in a slot.
    pub(crate) fn add(&mut self, number: u64, slot: u32) {
        self.by_number.set(number, slot);
        if self.numbers.len() <= slot as usize {
            self.numbers.resize(slot as usize + 1, u64::MAX);
        }
        self.numbers[slot as usize] = number;
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

    #[test]
    fn runs_of_numbers_are_runs_of_slots() {
        let (mut slots, mut last) = (Slots::default(), 0);
        (0..100u32).for_each(|slot| slots.add(u64::from(slot) + 1000, slot));
        assert_eq!(slots.find_run(&mut last, 1010, 50), Some((10, 50)));
        assert_eq!(last, 59);
        assert_eq!(slots.find_run(&mut last, 1060, 50), Some((60, 40)));
        assert_eq!(slots.find_run(&mut last, 1100, 1), None);
        // A series that came back: both numbers name its slot.
        slots.add(5000, 20);
        assert_eq!(slots.find_run(&mut last, 1010, 50), Some((10, 10)));
        assert_eq!(slots.find_run(&mut last, 1020, 40), Some((20, 1)));
        assert_eq!(slots.find_run(&mut last, 5000, 40), Some((20, 1)));
        assert!(slots.knows(1020) && !slots.knows(7));
    }
}
