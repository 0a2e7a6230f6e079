//! The order of symbols, so that series can be sorted by labels without building a label.
//!
//! A block wants its series sorted by labels and its symbols sorted by text. Texts are copied and sorted once for each round of
//! cuts, in small steps under the lock of the index; then label sets are compared as lists of numbers.

use crate::head::Head;

/// Symbols copied under one lock.
const STEP: u32 = 4096;

/// The symbols of a moment in the order of their texts.
pub(crate) struct Ranks {
    texts: String,
    /// Where the text of each symbol ends.
    ends: Vec<u32>,
    /// Symbols by rank, and the rank of each symbol.
    order: Vec<u32>,
    ranks: Vec<u32>,
}

impl Ranks {
    /// Ranks the symbols that are there now.
    pub(crate) fn new(head: &Head) -> Self {
        let bound = head.index.read().symbol_bound();
        let (mut texts, mut ends) = (String::new(), Vec::with_capacity(bound as usize));
        for begin in (0..bound).step_by(STEP as usize) {
            let index = head.index.read();
            for symbol in begin..(begin + STEP).min(bound) {
                texts.push_str(index.text(symbol));
                ends.push(texts.len() as u32);
            }
        }
        let mut ranks = Self {
            texts,
            ends,
            order: (0..bound).collect(),
            ranks: vec![0; bound as usize],
        };
        let mut order = std::mem::take(&mut ranks.order);
        order.sort_unstable_by(|&a, &b| ranks.text(a).cmp(ranks.text(b)));
        (0u32..)
            .zip(&order)
            .for_each(|(rank, &symbol)| ranks.ranks[symbol as usize] = rank);
        ranks.order = order;
        ranks
    }

    fn text(&self, symbol: u32) -> &str {
        let begin = symbol.checked_sub(1).map_or(0, |before| self.ends[before as usize]);
        &self.texts[begin as usize..self.ends[symbol as usize] as usize]
    }

    /// Sorts the series in `slots` by labels. A series with a symbol that is newer than the ranks is left out.
    pub(crate) fn sort(&self, head: &Head, slots: &[u32]) -> Sorted {
        let mut used = vec![false; self.order.len()];
        let mut keys = Keys {
            numbers: Vec::with_capacity(slots.len() * 16),
            series: Vec::with_capacity(slots.len()),
        };
        for step in slots.chunks(STEP as usize) {
            let index = head.index.read();
            for &slot in step {
                let begin = keys.numbers.len();
                let symbols = index.pairs(slot).flat_map(|(name, value)| [name, value]);
                keys.numbers
                    .extend(symbols.map(|symbol| self.ranks.get(symbol as usize).copied().unwrap_or(u32::MAX)));
                if keys.numbers[begin..].contains(&u32::MAX) {
                    keys.numbers.truncate(begin);
                    continue;
                }
                keys.numbers[begin..]
                    .iter()
                    .for_each(|&rank| used[rank as usize] = true);
                keys.series
                    .push((begin as u32, (keys.numbers.len() - begin) as u32, slot));
            }
        }
        let numbers = &keys.numbers;
        let key = |&(begin, len, _): &(u32, u32, u32)| &numbers[begin as usize..(begin + len) as usize];
        keys.series.sort_unstable_by(|a, b| key(a).cmp(key(b)));
        Sorted {
            slots: keys.series.iter().map(|(_, _, slot)| *slot).collect(),
            used,
        }
    }

    /// The texts of the symbols that sorted series use, ascending.
    pub(crate) fn texts<'a>(&'a self, sorted: &'a Sorted) -> impl Iterator<Item = &'a str> {
        let used = self.order.iter().zip(&sorted.used).filter(|(_, used)| **used);
        used.map(|(&symbol, _)| self.text(symbol))
    }
}

/// Label sets as ranks.
struct Keys {
    numbers: Vec<u32>,
    /// Where the key of each series begins, its length, its slot.
    series: Vec<(u32, u32, u32)>,
}

/// Series in the order of their labels.
pub(crate) struct Sorted {
    pub(crate) slots: Vec<u32>,
    /// Ranks that occur in them: a block of one tenant must not show the labels of another.
    used: Vec<bool>,
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
        let ranks = Ranks::new(&head);
        let sorted = ranks.sort(&head, &(0..500).collect::<Vec<_>>());
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
        assert_eq!(
            ranks.sort(&head, &[late]).slots,
            [0; 0],
            "symbols that came later have no rank"
        );
    }
}
