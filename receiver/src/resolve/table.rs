//! The routes of one tenant: slots in first-seen order, found by prediction or through a hash index.
//!
//! A remote write shard sends its series in the same order each time, so the series behind the last one is guessed from
//! what followed it before, and the guess is checked against the stored hash: one comparison of memory that lies next to
//! the last one, where an index would go to a random place. A wrong guess costs the index lookup and corrects the guess.
//!
//! When guesses keep being wrong, as for a sender whose order is another one each time, the reader is *lost*: then the caller collects
//! keys and has them looked up one directly behind the other ([`RouteReader::find_lost`]). Each look-up waits for three places
//! in memory, two of the index and the slot. Those of many keys are read before, place by place ([`RouteReader::fetch`]), so that the waits
//! happen at the same time.

use super::Key;
use hashbrown::HashTable;
use model::push::SeriesRef;
use parking_lot::{RwLock, RwLockReadGuard};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Number of a slot in its half.
type SlotNumber = u32;

/// No slot has this number.
const NO_SLOT: SlotNumber = SlotNumber::MAX;

struct Slot {
    key: Key,
    /// The taker's number of the series; replaced in place when the taker numbers anew.
    reference: AtomicU64,
    /// The slot that followed when this one was last used.
    next: AtomicU32,
    /// Where in its message the labels of the series end, or 0. Part of the key's bytes, so it never changes.
    labels_end: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() == 32, "two slots share a cache line");

/// One generation of routes.
#[derive(Default)]
pub(crate) struct Half {
    slots: Vec<Slot>,
    index: HashTable<SlotNumber>,
}

impl Half {
    fn find(&self, key: Key) -> Option<SlotNumber> {
        self.index
            .find(key.low, |number| self.slots[*number as usize].key == key)
            .copied()
    }

    /// Adds a route or renews it; whether it was added.
    fn put(&mut self, key: Key, reference: SeriesRef) -> bool {
        if let Some(number) = self.find(key) {
            self.slots[number as usize]
                .reference
                .store(reference.0, Ordering::Relaxed);
            return false;
        }
        let number = self.slots.len() as SlotNumber;
        // What is learnt together stood together in a request, so the next slot is the first guess.
        self.slots.push(Slot {
            key,
            reference: AtomicU64::new(reference.0),
            next: AtomicU32::new(number.wrapping_add(1)),
            labels_end: AtomicU32::new(0),
        });
        let slots = &self.slots;
        self.index
            .insert_unique(key.low, number, |number| slots[*number as usize].key.low);
        true
    }
}

#[derive(Default)]
struct Halves {
    young: Half,
    old: Half,
}

/// The routes of one tenant.
#[derive(Default)]
pub(crate) struct Routes {
    halves: RwLock<Halves>,
}

impl Routes {
    /// For looking up the series of one request; others may do so at the same time.
    pub(crate) fn reader(&self) -> RouteReader<'_> {
        RouteReader {
            halves: self.halves.read(),
            last: NO_SLOT,
            guessed: false,
            strays: 0,
        }
    }

    /// Adds and renews routes; answers how many were added.
    pub(super) fn learn(&self, learnt: &[(Key, SeriesRef)]) -> usize {
        let mut halves = self.halves.write();
        learnt
            .iter()
            .filter(|(key, reference)| halves.young.put(*key, *reference))
            .count()
    }

    /// Makes the young half the old one. The one forgotten is handed out, to be dropped where no lock is held.
    pub(super) fn rotate(&self) -> Half {
        let mut halves = self.halves.write();
        let young = std::mem::take(&mut halves.young);
        std::mem::replace(&mut halves.old, young)
    }

    pub(super) fn len(&self) -> usize {
        let halves = self.halves.read();
        halves.young.slots.len() + halves.old.slots.len()
    }
}

/// What is known of a spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its series has this number.
    Known(SeriesRef),
    /// The same, but it is about to be forgotten and should be learnt again.
    Fading(SeriesRef),
    /// Nothing.
    Missing,
}

/// Looks up the series of one request in their order.
pub(crate) struct RouteReader<'a> {
    halves: RwLockReadGuard<'a, Halves>,
    /// Slot of the series before.
    last: SlotNumber,
    /// Whether that one had been guessed.
    guessed: bool,
    /// Wrong guesses, less the right ones since.
    strays: u32,
}

/// After so many wrong guesses a reader is lost. At the beginning of a request, and where a target came or went, there are a few.
const LOST: u32 = 8;

/// So many look-ups are prepared together at most. Processors wait for ten to twenty places in memory at a time.
pub(crate) const FETCHED_MAX: usize = 32;

impl RouteReader<'_> {
    /// The slot that is expected next, and its number.
    #[inline]
    fn expected(&self) -> Option<(SlotNumber, &Slot)> {
        let slots = &self.halves.young.slots;
        let guess = slots.get(self.last as usize)?.next.load(Ordering::Relaxed);
        Some((guess, slots.get(guess as usize)?))
    }

    /// Where the labels end of the series that is expected next, if that is known. While guesses are wrong, as in a new order, nothing
    /// is expected: trying would cost a hash each time.
    #[inline]
    pub(crate) fn expected_labels_end(&self) -> Option<usize> {
        let (_, slot) = self.expected().filter(|_| self.guessed)?;
        match slot.labels_end.load(Ordering::Relaxed) {
            0 => None,
            end => Some(end as usize),
        }
    }

    /// Whether the series that is expected next has this key.
    #[inline]
    pub(crate) fn is_expected(&self, key: Key) -> bool {
        self.expected().is_some_and(|(_, slot)| slot.key == key)
    }

    /// Remembers where the labels end of the series that was just found.
    #[inline]
    pub(crate) fn note_labels_end(&self, end: usize) {
        if let Some(slot) = self.halves.young.slots.get(self.last as usize)
            && let Ok(end) = u32::try_from(end)
            && slot.labels_end.load(Ordering::Relaxed) != end
        {
            slot.labels_end.store(end, Ordering::Relaxed);
        }
    }

    /// The route of the next series.
    #[inline]
    pub(crate) fn find(&mut self, key: Key) -> Found {
        if let Some((guess, slot)) = self.expected()
            && slot.key == key
        {
            let reference = SeriesRef(slot.reference.load(Ordering::Relaxed));
            (self.last, self.guessed, self.strays) = (guess, true, 0);
            return Found::Known(reference);
        }
        self.search(key)
    }

    /// Whether guessing does not work at the moment.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        self.strays >= LOST
    }

    /// Reads what the look-ups of some keys will read, so that it is in the cache then: first the index for all of them, then the slots.
    /// A loop so short has many of its turns under way at once.
    #[inline(never)]
    pub(crate) fn fetch(&self, keys: impl Iterator<Item = Key>) {
        let young = &self.halves.young;
        let mut numbers = [NO_SLOT; FETCHED_MAX];
        for (number, key) in numbers.iter_mut().zip(keys) {
            // The first one whose hash looks right, mostly the right one; without looking at its slot.
            if let Some(found) = young.index.find(key.low, |_| true) {
                *number = *found;
            }
        }
        let low = |number: &SlotNumber| young.slots.get(*number as usize).map_or(0, |slot| slot.key.low);
        // Nothing is done with what is read; the processor does not know.
        std::hint::black_box(numbers.iter().fold(0, |sum, number| sum ^ low(number)));
    }

    /// The same as [`Self::find`] without trying a guess, which would wait for one more place in memory; but whether it would have been
    /// right is noted, so that the reader finds its way again.
    #[inline]
    pub(crate) fn find_lost(&mut self, key: Key) -> Found {
        let last = self.halves.young.slots.get(self.last as usize);
        let guess = last.map(|last| last.next.load(Ordering::Relaxed));
        let found = self.search(key);
        if guess == Some(self.last) {
            self.guessed = true;
            self.strays = self.strays.saturating_sub(2);
        }
        found
    }

    /// Without a guess, or after a wrong one.
    fn search(&mut self, key: Key) -> Found {
        self.guessed = false;
        self.strays = (self.strays + 1).min(2 * LOST);
        let Some(number) = self.halves.young.find(key) else {
            self.last = NO_SLOT;
            return match self.halves.old.find(key) {
                Some(number) => Found::Fading(self.halves.old.reference(number)),
                None => Found::Missing,
            };
        };
        if let Some(last) = self.halves.young.slots.get(self.last as usize) {
            last.next.store(number, Ordering::Relaxed);
        }
        self.last = number;
        Found::Known(self.halves.young.reference(number))
    }
}

impl Half {
    fn reference(&self, number: SlotNumber) -> SeriesRef {
        SeriesRef(self.slots[number as usize].reference.load(Ordering::Relaxed))
    }
}
