//! The first names or values of many, in order: what an answer with a limit holds, and no more.

use model::select::LabelList;
use std::collections::BTreeSet;

/// The smallest texts of those that were added, each once.
pub(super) struct FirstTexts {
    items: BTreeSet<String>,
    limit: usize,
}

impl FirstTexts {
    /// Keeps at most `limit`, 0 for all.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            items: BTreeSet::new(),
            limit: if limit == 0 { usize::MAX } else { limit },
        }
    }

    /// Keeps `text` if it is among the first.
    pub(super) fn add(&mut self, text: &str) {
        let full = self.items.len() == self.limit;
        if full && self.items.last().is_none_or(|last| last.as_str() <= text) || self.items.contains(text) {
            return;
        }
        self.items.insert(text.to_owned());
        if self.items.len() > self.limit {
            self.items.pop_last();
        }
    }

    /// The answer.
    pub(super) fn into_list(self, warnings: Vec<String>) -> LabelList {
        LabelList {
            items: self.items.into_iter().collect(),
            warnings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_of_all_are_kept(texts in proptest::collection::vec("[a-d]{0,3}", 0..60), limit in 0usize..20) {
            let mut first = FirstTexts::new(limit);
            for text in &texts {
                first.add(text);
                prop_assert!(limit == 0 || first.items.len() <= limit);
            }
            let all: BTreeSet<&String> = texts.iter().collect();
            let expected = all.into_iter().take(if limit == 0 { usize::MAX } else { limit });
            prop_assert_eq!(first.into_list(Vec::new()).items, expected.cloned().collect::<Vec<_>>());
        }
    }
}
