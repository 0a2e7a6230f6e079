//! The order of symbols, so that series can be sorted and written without building a label.
//!
//! A block wants its series sorted by labels and its symbols sorted by text. Texts are copied and sorted once for each round of
//! cuts, in small steps under the lock of the index; from then on a label is two small numbers that compare as its texts do. What a
//! tenant's block costs follows from the tenant's own series, not from the symbols of all.

use crate::head::Head;

/// Symbols copied, or series read, under one lock.
const STEP: usize = 1024;

/// Up to so many series have their labels gathered to be sorted; more are first parted by a label. Bounds memory to some MiB.
const GATHERED_MAX: usize = if cfg!(test) { 100 } else { 1 << 16 };

/// The symbol has no rank: it was free when ranks were given, so whoever uses it came later.
const NO_RANK: u32 = u32::MAX;

/// The symbols of a moment in the order of their texts.
pub(crate) struct Ranks {
    texts: String,
    /// Where in `texts` the one of each symbol ends.
    ends: Vec<usize>,
    /// Symbols by rank.
    order: Vec<u32>,
    /// The rank of each symbol.
    ranks: Vec<u32>,
    /// By symbol: the number among the symbols of the block at hand, from 1, or 0. All 0 between blocks.
    numbers: Vec<u32>,
    /// State of the index at the beginning: when series have been dropped since, symbols may stand for other texts.
    dropped: u64,
}

/// Series in the order of their labels.
pub(crate) struct Sorted {
    pub(crate) slots: Vec<u32>,
    /// Labels of all of them.
    pub(crate) labels: usize,
    /// Ranks of the symbols that they use, ascending: a block of one tenant must not show the labels of another.
    used: Vec<u32>,
}

impl Ranks {
    /// Ranks the symbols that are there now.
    pub(crate) fn new(head: &Head) -> Self {
        let (bound, dropped) = {
            let index = head.index.read();
            (index.symbol_bound() as usize, index.dropped())
        };
        let (mut texts, mut ends) = (String::new(), Vec::with_capacity(bound));
        for begin in (0..bound).step_by(STEP) {
            let index = head.index.read();
            for symbol in begin..(begin + STEP).min(bound) {
                texts.push_str(index.text(symbol as u32));
                ends.push(texts.len());
            }
        }
        let mut ranks = Self {
            texts,
            ends,
            order: Vec::new(),
            ranks: vec![NO_RANK; bound],
            numbers: Vec::new(),
            dropped,
        };
        // No label has an empty text: an empty one is a symbol that waits to be used again.
        let mut order: Vec<u32> = (0..bound as u32)
            .filter(|&symbol| !ranks.text(symbol).is_empty())
            .collect();
        order.sort_unstable_by(|&a, &b| ranks.text(a).cmp(ranks.text(b)));
        (0u32..)
            .zip(&order)
            .for_each(|(rank, &symbol)| ranks.ranks[symbol as usize] = rank);
        ranks.numbers = vec![0; bound];
        ranks.order = order;
        ranks
    }

    fn text(&self, symbol: u32) -> &str {
        let begin = symbol.checked_sub(1).map_or(0, |before| self.ends[before as usize]);
        &self.texts[begin..self.ends[symbol as usize]]
    }

    /// Sorts the series in `slots` by labels, and numbers their symbols until [`Self::done`]. A series with a symbol that is newer than
    /// the ranks is left out.
    pub(crate) fn sort(&mut self, head: &Head, mut slots: Vec<u32>) -> Sorted {
        let (mut used, mut labels) = (Vec::new(), 0);
        let (mut read, mut pairs) = (0, Vec::new());
        let mut kept = Vec::with_capacity(slots.len());
        while read < slots.len() {
            let index = head.index.read();
            if index.dropped() != self.dropped {
                kept.clear();
                break;
            }
            for &slot in slots[read..].iter().take(STEP) {
                read += 1;
                pairs.clear();
                index.append_pairs(slot, &mut pairs);
                let symbols = || pairs.iter().flat_map(|&(name, value)| [name, value]);
                if !symbols().all(|symbol| self.is_ranked(symbol)) {
                    continue;
                }
                for symbol in symbols() {
                    if std::mem::replace(&mut self.numbers[symbol as usize], 1) == 0 {
                        used.push(self.ranks[symbol as usize]);
                    }
                }
                labels += pairs.len();
                kept.push(slot);
            }
        }
        slots = kept;
        used.sort_unstable();
        for (number, &rank) in (1u32..).zip(&used) {
            self.numbers[self.order[rank as usize] as usize] = number;
        }
        self.sort_part(head, &mut slots, 0);
        Sorted { slots, labels, used }
    }

    /// Forgets the numbers of a block's symbols.
    pub(crate) fn done(&mut self, sorted: &Sorted) {
        let Self { numbers, order, .. } = self;
        sorted
            .used
            .iter()
            .for_each(|&rank| numbers[order[rank as usize] as usize] = 0);
    }

    /// Whether a symbol was there when ranks were given.
    fn is_ranked(&self, symbol: u32) -> bool {
        // One with a number was looked at before, and is more likely to be at hand than its rank.
        match self.numbers.get(symbol as usize) {
            Some(0) => self.ranks[symbol as usize] != NO_RANK,
            number => number.is_some(),
        }
    }

    /// The texts of the symbols that sorted series use, ascending.
    pub(crate) fn texts<'a>(&'a self, sorted: &'a Sorted) -> impl Iterator<Item = &'a str> {
        sorted.used.iter().map(|&rank| self.text(self.order[rank as usize]))
    }

    /// The number that a symbol of the series at hand has among [`Self::texts`], from 0.
    fn number(&self, symbol: u32) -> u32 {
        self.numbers[symbol as usize] - 1
    }

    /// Appends the labels of sorted series as numbers, and for each series where they end.
    pub(crate) fn pairs(&self, head: &Head, slots: &[u32], pairs: &mut Vec<(u32, u32)>, ends: &mut Vec<usize>) {
        for step in slots.chunks(STEP) {
            let index = head.index.read();
            for &slot in step {
                let begin = pairs.len();
                index.append_pairs(slot, pairs);
                for (name, value) in &mut pairs[begin..] {
                    (*name, *value) = (self.number(*name), self.number(*value));
                }
                ends.push(pairs.len());
            }
        }
    }

    /// Sorts series that are equal in their first `depth` labels.
    fn sort_part(&self, head: &Head, slots: &mut [u32], mut depth: usize) {
        while slots.len() > GATHERED_MAX {
            // Parted by their next label, which is nothing for a series that has no more: the shorter one comes first.
            let mut keyed: Vec<(u64, u32)> = Vec::with_capacity(slots.len());
            for step in slots.chunks(STEP) {
                let index = head.index.read();
                keyed.extend(step.iter().map(|&slot| {
                    let pair = index.pairs(slot).nth(depth);
                    let pair = pair.map(|(name, value)| (self.number(name), self.number(value)));
                    (pair.map_or(0, key), slot)
                }));
            }
            depth += 1;
            let first = keyed[0].0;
            if keyed.iter().all(|(key, _)| *key == first) {
                if first == 0 {
                    return;
                }
                continue;
            }
            keyed.sort_unstable();
            slots.iter_mut().zip(&keyed).for_each(|(slot, keyed)| *slot = keyed.1);
            let lens: Vec<usize> = keyed.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len).collect();
            drop(keyed);
            let mut rest = slots;
            for len in lens {
                let (part, behind) = rest.split_at_mut(len);
                self.sort_part(head, part, depth);
                rest = behind;
            }
            return;
        }
        if slots.len() > 1 {
            let (mut pairs, mut ends) = (Vec::new(), Vec::with_capacity(slots.len()));
            self.pairs(head, slots, &mut pairs, &mut ends);
            let gathered = Gathered { pairs, ends };
            let mut keyed: Vec<(u64, u32)> = (0..slots.len() as u32).map(|series| (0, series)).collect();
            gathered.sort(&mut keyed, depth);
            let sorted: Vec<u32> = keyed.iter().map(|(_, series)| slots[*series as usize]).collect();
            slots.copy_from_slice(&sorted);
        }
    }
}

/// A label as a number that compares as it does; 0 stands for no label.
fn key((name, value): (u32, u32)) -> u64 {
    (u64::from(name) + 1) << 32 | u64::from(value)
}

/// The labels of some series as numbers.
struct Gathered {
    pairs: Vec<(u32, u32)>,
    ends: Vec<usize>,
}

impl Gathered {
    fn key(&self, series: u32, depth: usize) -> u64 {
        let begin = (series as usize).checked_sub(1).map_or(0, |before| self.ends[before]);
        let labels = &self.pairs[begin..self.ends[series as usize]];
        labels.get(depth).copied().map_or(0, key)
    }

    /// Sorts series that are equal in their first `depth` labels: by the next one, then each run of equals by the one behind. Sorting
    /// plain numbers a few times is several times cheaper than comparing lists of them.
    fn sort(&self, mut keyed: &mut [(u64, u32)], mut depth: usize) {
        while keyed.len() > 1 {
            for (key, series) in keyed.iter_mut() {
                *key = self.key(*series, depth);
            }
            depth += 1;
            let first = keyed[0].0;
            if keyed.iter().any(|(key, _)| *key != first) {
                keyed.sort_unstable();
                let mut runs: Vec<&mut [(u64, u32)]> = keyed.chunk_by_mut(|a, b| a.0 == b.0).collect();
                let Some(last) = runs.pop() else { return };
                for run in runs {
                    self.sort(run, depth);
                }
                keyed = last;
            } else if first == 0 {
                return;
            }
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use model::{label::Labels, tenant::Tenant};

    #[test]
    fn series_are_sorted_and_only_their_symbols_shown() {
        let head = Head::new(1);
        let mut index = head.index.write();
        let (one, two) = (
            index.ensure_tenant(&Tenant::default()),
            index.ensure_tenant(&Tenant::new("two").unwrap()),
        );
        let mut expected = Vec::new();
        for number in 0..500u64 {
            let path = format!("/{}", number * 7919 % 1000);
            let mut pairs = vec![("__name__", "m"), ("path", &path)];
            if number % 3 == 0 {
                pairs.push(("zone", "z"));
            }
            let labels = Labels::new(pairs).unwrap();
            index.create(one, number + 1, &labels);
            expected.push(labels);
        }
        index.create(two, 9999, &Labels::new([("secret", "other tenant")]).unwrap());
        drop(index);
        let mut ranks = Ranks::new(&head);
        let sorted = ranks.sort(&head, (0..500).collect());
        expected.sort();
        let labels: Vec<_> = sorted
            .slots
            .iter()
            .map(|&slot| head.index.read().labels(slot).unwrap())
            .collect();
        assert_eq!(labels, expected);
        let texts: Vec<_> = ranks.texts(&sorted).collect();
        assert!(texts.is_sorted() && texts.contains(&"zone") && !texts.iter().any(|text| text.contains("secret")));
        let late = head
            .index
            .write()
            .create(one, 10_000, &Labels::new([("new", "symbol")]).unwrap());
        ranks.done(&sorted);
        assert!(ranks.numbers.iter().all(|number| *number == 0));
        assert_eq!(
            ranks.sort(&head, vec![late]).slots,
            [0; 0],
            "symbols that came later have no rank"
        );
    }
}
