//! The labels that a question looks at, made once for all series that agree on them.
//!
//! Most questions end in an aggregation, which looks at one or two labels of each series. So those are compared as the numbers that
//! the index has for them, and texts are put together only for a combination that has not been met before.

use super::index::Index;
use hashbrown::HashMap;
use model::label::{Labels, LabelsBuilder};
use std::sync::Arc;

/// Names and values as symbols.
type Pairs = [(u32, u32)];

/// Gives the labels of series, or as many of them as are wanted.
#[derive(Debug, Default)]
pub(crate) struct Projection {
    /// The names that are wanted; `None` for all.
    names: Option<Arc<[String]>>,
    symbols: Vec<u32>,
    known: HashMap<Box<Pairs>, Labels, foldhash::fast::RandomState>,
    /// The series that came last, which the next one mostly equals.
    last: Option<(Vec<(u32, u32)>, Labels)>,
    scratch: Vec<(u32, u32)>,
    /// State of the index in which symbols stand for what they did.
    dropped: u64,
}

impl Projection {
    /// Gives the labels with these names, all for `None`.
    pub(crate) fn new(names: Option<Arc<[String]>>) -> Self {
        Self {
            names,
            ..Self::default()
        }
    }

    /// To be called whenever the index was locked anew: it may have got names, and used symbols for other texts.
    pub(crate) fn begin(&mut self, index: &Index) {
        let Some(names) = &self.names else { return };
        if index.dropped() != self.dropped {
            self.dropped = index.dropped();
            self.known.clear();
            self.last = None;
        }
        self.symbols.clear();
        self.symbols.extend(names.iter().filter_map(|name| index.symbol(name)));
    }

    /// The wanted labels of the series in a slot, `None` when there is none.
    pub(crate) fn labels(&mut self, index: &Index, slot: u32) -> Option<Labels> {
        if self.names.is_none() {
            return index.labels(slot);
        }
        if index.number(slot) == 0 {
            return None;
        }
        self.scratch.clear();
        if !self.symbols.is_empty() {
            index.append_pairs(slot, &mut self.scratch);
            self.scratch.retain(|pair| self.symbols.contains(&pair.0));
        }
        if let Some((pairs, labels)) = &self.last
            && *pairs == self.scratch
        {
            return Some(labels.clone());
        }
        let labels = match self.known.get(self.scratch.as_slice()) {
            Some(labels) => labels.clone(),
            None => {
                let mut builder = LabelsBuilder::default();
                let texts = |&(name, value): &(u32, u32)| (index.text(name), index.text(value));
                let texts = self.scratch.iter().map(texts);
                texts.for_each(|(name, value)| builder.push(name, value));
                let labels = builder.build_sorted();
                self.known.insert(self.scratch.as_slice().into(), labels.clone());
                labels
            }
        };
        self.last = Some((self.scratch.clone(), labels.clone()));
        Some(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Head;
    use model::tenant::Tenant;

    #[test]
    fn series_show_what_is_wanted_whatever_their_symbols_were_before() {
        let (head, tenant) = (Head::new(5), Tenant::default());
        let mut index = head.index.write();
        let id = index.ensure_tenant(&tenant);
        let series = |job: &str, pod: &str| Labels::new([("__name__", "up"), ("job", job), ("pod", pod)]).unwrap();
        let one = index.create(id, 1, &series("x", "1"));
        let two = index.create(id, 2, &series("x", "2"));
        let three = index.create(id, 3, &series("y", "1"));
        let mut some = Projection::new(Some(["job".to_owned(), "late".to_owned()].into()));
        let mut check = |index: &Index, slot, expected: &str| {
            some.begin(index);
            assert_eq!(
                some.labels(index, slot).map(|labels| labels.to_string()),
                Some(expected.to_owned())
            );
        };
        for (slot, expected) in [(one, "{job=\"x\"}"), (two, "{job=\"x\"}"), (three, "{job=\"y\"}")] {
            check(&index, slot, expected);
        }
        // The symbol of "y" now stands for "z"; a name that nothing had comes up.
        index.drop_series(three);
        let four = index.create(id, 4, &series("z", "1"));
        check(&index, four, "{job=\"z\"}");
        let late = Labels::new([("job", "x"), ("late", "1"), ("more", "2")]).unwrap();
        let five = index.create(id, 5, &late);
        check(&index, five, "{job=\"x\", late=\"1\"}");
        index.drop_series(five);
        assert_eq!(some.labels(&index, five), None);
        let mut none = Projection::new(Some([].into()));
        none.begin(&index);
        assert_eq!(none.labels(&index, one), Some(Labels::empty()));
        let mut all = Projection::new(None);
        all.begin(&index);
        assert_eq!(all.labels(&index, one), Some(series("x", "1")));
    }
}
