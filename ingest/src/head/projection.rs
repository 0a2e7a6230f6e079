//! The labels that a question looks at, made once for all series that agree on them.
//!
//! Most questions end in an aggregation, which looks at one or two labels of each series. So those are compared as the numbers that
//! the index has for them, and texts are put together only for a combination that has not been met before.

use super::index::Index;
use model::{
    identity::{Identifier, Identity, SharedLabels},
    label::Labels,
};
use std::{convert::Infallible, sync::Arc};

/// Gives the labels of series, or as many of them as are wanted, and what tells the series apart.
#[derive(Debug, Default)]
pub(crate) struct Projection {
    /// The names that are wanted; `None` for all.
    names: Option<Arc<[String]>>,
    symbols: Vec<u32>,
    shared: SharedLabels,
    /// Makes identities, where they are wanted.
    identifier: Option<Identifier>,
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

    /// The same, with identities made with `key` if there is one.
    pub(crate) fn identifying(mut self, key: Option<u64>) -> Self {
        self.identifier = key.map(Identifier::new);
        self
    }

    /// To be called whenever the index was locked anew: it may have got names, and used symbols for other texts.
    pub(crate) fn begin(&mut self, index: &Index) {
        if index.dropped() != self.dropped {
            self.dropped = index.dropped();
            self.shared.forget();
            if let Some(identifier) = &mut self.identifier {
                identifier.forget();
            }
        }
        if let Some(names) = &self.names {
            self.symbols.clear();
            self.symbols.extend(names.iter().filter_map(|name| index.symbol(name)));
        }
    }

    /// The wanted labels of the series in a slot and its identity, none when those are not made; `None` when there is no series.
    pub(crate) fn show(&mut self, index: &Index, slot: u32) -> Option<(Labels, Identity)> {
        if index.number(slot) == 0 {
            return None;
        }
        let text = |symbol| Ok::<_, Infallible>(index.text(symbol));
        self.scratch.clear();
        if self.identifier.is_some() || !self.symbols.is_empty() {
            index.append_pairs(slot, &mut self.scratch);
        }
        let identity = match &mut self.identifier {
            Some(identifier) => identifier.identify(&self.scratch, text).unwrap_or_default(),
            None => Identity::default(),
        };
        if self.names.is_none() {
            return index.labels(slot).map(|labels| (labels, identity));
        }
        self.scratch.retain(|pair| self.symbols.contains(&pair.0));
        let Ok(labels) = self.shared.labels(&self.scratch, text);
        Some((labels, identity))
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
        let shown =
            |projection: &mut Projection, index: &Index, slot| projection.show(index, slot).map(|shown| shown.0);
        let mut check = |index: &Index, slot, expected: &str| {
            some.begin(index);
            assert_eq!(
                shown(&mut some, index, slot).map(|labels| labels.to_string()),
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
        assert_eq!(shown(&mut some, &index, five), None);
        let mut none = Projection::new(Some([].into()));
        none.begin(&index);
        assert_eq!(shown(&mut none, &index, one), Some(Labels::empty()));
        let mut all = Projection::new(None);
        all.begin(&index);
        assert_eq!(shown(&mut all, &index, one), Some(series("x", "1")));
        let mut known = Projection::new(Some([].into())).identifying(Some(7));
        known.begin(&index);
        let (labels, identity) = known.show(&index, one).unwrap();
        assert_eq!(
            (labels, identity),
            (Labels::empty(), Identity::of(&series("x", "1"), 7))
        );
    }
}
