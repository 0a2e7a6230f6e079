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

/// Series that will be gone through in the order of their labels.
pub(crate) struct Chosen {
    /// Slots, each with the key of its first label.
    keyed: Vec<(u64, u32)>,
    /// Labels of all of them.
    pub(crate) labels: usize,
    /// Ranks of the symbols that they use, ascending: a block of one tenant must not show the labels of another.
    used: Vec<u32>,
}

impl Chosen {
    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.keyed.len()
    }

    /// Where they are.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.keyed.iter().map(|(_, slot)| *slot)
    }
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

    /// Chooses the series in `slots`, and numbers their symbols until [`Self::done`]. A series with a symbol that is newer than the
    /// ranks is left out.
    pub(crate) fn choose(&mut self, head: &Head, slots: &[u32]) -> Chosen {
        let (mut used, mut labels, mut pairs) = (Vec::new(), 0, Vec::new());
        let mut keyed = Vec::with_capacity(slots.len());
        for step in slots.chunks(STEP) {
            let index = head.index.read();
            if index.dropped() != self.dropped {
                keyed.clear();
                break;
            }
            for &slot in step {
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
                // Symbols have no numbers yet, but their ranks compare in the same way.
                let rank = |symbol: u32| self.ranks[symbol as usize];
                let first = pairs.first().map(|&(name, value)| (rank(name), rank(value)));
                keyed.push((first.map_or(0, key), slot));
            }
        }
        used.sort_unstable();
        for (number, &rank) in (1u32..).zip(&used) {
            self.numbers[self.order[rank as usize] as usize] = number;
        }
        Chosen { keyed, labels, used }
    }

    /// Forgets the numbers of a block's symbols.
    pub(crate) fn done(&mut self, chosen: &Chosen) {
        let Self { numbers, order, .. } = self;
        chosen
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

    /// The texts of the symbols that chosen series use, ascending.
    pub(crate) fn texts<'a>(&'a self, chosen: &'a Chosen) -> impl Iterator<Item = &'a str> {
        chosen.used.iter().map(|&rank| self.text(self.order[rank as usize]))
    }

    /// The number that a symbol of the series at hand has among [`Self::texts`], from 0.
    fn number(&self, symbol: u32) -> u32 {
        self.numbers[symbol as usize] - 1
    }

    /// Hands chosen series to `visit` in the order of their labels, many at a time.
    pub(crate) fn visit<E>(
        &self,
        head: &Head,
        chosen: &mut Chosen,
        mut visit: impl FnMut(&Sorted<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.visit_part(head, &mut chosen.keyed, 0, &mut Gathered::default(), &mut visit)
    }

    /// The same for series that are equal in their first `depth` labels and have the key of the next one.
    fn visit_part<E>(
        &self,
        head: &Head,
        keyed: &mut [(u64, u32)],
        depth: usize,
        gathered: &mut Gathered,
        visit: &mut impl FnMut(&Sorted<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if keyed.len() <= GATHERED_MAX {
            return self.visit_gathered(head, keyed, depth, gathered, visit);
        }
        // Too many to have their labels at hand: parted by their next label, which is nothing for a series that has no more.
        keyed.sort_unstable();
        let mut rest = keyed;
        while !rest.is_empty() {
            // Small parts go together: their labels are read in the order in which they lie in memory.
            let mut end = 0;
            for run in rest.chunk_by(|a, b| a.0 == b.0) {
                if end > 0 && end + run.len() > GATHERED_MAX {
                    break;
                }
                end += run.len();
            }
            let (part, behind) = rest.split_at_mut(end);
            rest = behind;
            if part.len() <= GATHERED_MAX {
                self.visit_gathered(head, part, depth, gathered, visit)?;
            } else {
                self.key_at(head, part, depth + 1);
                self.visit_part(head, part, depth + 1, gathered, visit)?;
            }
        }
        Ok(())
    }

    /// The same for so few that their labels may be at hand.
    fn visit_gathered<E>(
        &self,
        head: &Head,
        keyed: &mut [(u64, u32)],
        depth: usize,
        gathered: &mut Gathered,
        visit: &mut impl FnMut(&Sorted<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // What lies side by side is read together.
        keyed.sort_unstable_by_key(|(_, slot)| *slot);
        gathered.fill(self, head, keyed);
        gathered.sort(depth);
        visit(&Sorted {
            series: keyed,
            gathered,
        })
    }

    /// Gives series the key of another label.
    fn key_at(&self, head: &Head, keyed: &mut [(u64, u32)], depth: usize) {
        for step in keyed.chunks_mut(STEP) {
            let index = head.index.read();
            for (place, slot) in step {
                let pair = index.pairs(*slot).nth(depth);
                let pair = pair.map(|(name, value)| (self.number(name), self.number(value)));
                *place = pair.map_or(0, key);
            }
        }
    }
}

/// A label as a number that compares as it does; 0 stands for no label.
fn key((name, value): (u32, u32)) -> u64 {
    (u64::from(name) + 1) << 32 | u64::from(value)
}

/// The labels of some series as numbers. Its memory is used again.
#[derive(Default)]
struct Gathered {
    pairs: Vec<(u32, u32)>,
    ends: Vec<usize>,
    /// The order of the series.
    order: Vec<(u64, u32)>,
}

impl Gathered {
    /// Takes in the labels of series.
    fn fill(&mut self, ranks: &Ranks, head: &Head, series: &[(u64, u32)]) {
        self.pairs.clear();
        self.ends.clear();
        for step in series.chunks(STEP) {
            let index = head.index.read();
            for &(_, slot) in step {
                let begin = self.pairs.len();
                index.append_pairs(slot, &mut self.pairs);
                for (name, value) in &mut self.pairs[begin..] {
                    (*name, *value) = (ranks.number(*name), ranks.number(*value));
                }
                self.ends.push(self.pairs.len());
            }
        }
    }

    fn labels(pairs: &[(u32, u32)], ends: &[usize], series: u32) -> std::ops::Range<usize> {
        let begin = (series as usize).checked_sub(1).map_or(0, |before| ends[before]);
        debug_assert!(ends[series as usize] <= pairs.len());
        begin..ends[series as usize]
    }

    /// Sorts series that are equal in their first `depth` labels.
    fn sort(&mut self, depth: usize) {
        let Self { pairs, ends, order } = self;
        order.clear();
        order.extend((0..ends.len() as u32).map(|series| (0, series)));
        let key_of = |series: u32, depth: usize| {
            let labels = &pairs[Self::labels(pairs, ends, series)];
            labels.get(depth).copied().map_or(0, key)
        };
        sort_by_keys(order, depth, &key_of);
    }
}

/// Series in the order of their labels.
pub(crate) struct Sorted<'a> {
    /// Their slots.
    series: &'a [(u64, u32)],
    gathered: &'a Gathered,
}

impl Sorted<'_> {
    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.series.len()
    }

    /// Where a series is.
    pub(crate) fn slot(&self, index: usize) -> u32 {
        self.series[self.gathered.order[index].1 as usize].1
    }

    /// Its labels as numbers.
    pub(crate) fn labels(&self, index: usize) -> &[(u32, u32)] {
        let Gathered { pairs, ends, order } = self.gathered;
        &pairs[Gathered::labels(pairs, ends, order[index].1)]
    }
}

/// Sorts by the label at `depth`, then each run of equals by the one behind. Sorting plain numbers a few times is several times cheaper
/// than comparing lists of them.
fn sort_by_keys(mut keyed: &mut [(u64, u32)], mut depth: usize, key_of: &impl Fn(u32, usize) -> u64) {
    while keyed.len() > 1 {
        for (key, series) in keyed.iter_mut() {
            *key = key_of(*series, depth);
        }
        depth += 1;
        let first = keyed[0].0;
        if keyed.iter().any(|(key, _)| *key != first) {
            keyed.sort_unstable();
            let mut runs: Vec<&mut [(u64, u32)]> = keyed.chunk_by_mut(|a, b| a.0 == b.0).collect();
            let Some(last) = runs.pop() else { return };
            for run in runs {
                sort_by_keys(run, depth, key_of);
            }
            keyed = last;
        } else if first == 0 {
            return;
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
        let mut chosen = ranks.choose(&head, &(0..500).collect::<Vec<u32>>());
        expected.sort();
        let texts: Vec<_> = ranks.texts(&chosen).map(str::to_owned).collect();
        let mut found = Vec::new();
        let visit = |series: &Sorted<'_>| {
            for index in 0..series.len() {
                let labels = head.index.read().labels(series.slot(index)).unwrap();
                let text = |number: u32| texts[number as usize].as_str();
                let pairs = series.labels(index).iter();
                assert!(labels.iter().eq(pairs.map(|&(name, value)| (text(name), text(value)))));
                found.push(labels);
            }
            Ok::<(), ()>(())
        };
        ranks.visit(&head, &mut chosen, visit).unwrap();
        assert_eq!(found, expected);
        assert!(
            texts.is_sorted()
                && texts.iter().any(|text| text == "zone")
                && !texts.iter().any(|text| text.contains("secret"))
        );
        let late = head
            .index
            .write()
            .create(one, 10_000, &Labels::new([("new", "symbol")]).unwrap());
        ranks.done(&chosen);
        assert!(ranks.numbers.iter().all(|number| *number == 0));
        assert_eq!(
            ranks.choose(&head, &[late]).len(),
            0,
            "symbols that came later have no rank"
        );
    }
}
