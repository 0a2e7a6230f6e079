//! Series of a block come in the order of their own labels; they are wanted in the order of the labels that they show.
//!
//! The two differ in one way only, as long as no series has a label of its own under the name of an external one: a series whose
//! labels are the beginning of another's comes first by itself, and behind the other when the other's next name sorts before an
//! external label. So it is held back until the last of those has passed.

use super::lane::Part;
use model::label::Labels;
use std::collections::VecDeque;

/// Puts series into order one at a time, and holds back a few: never more than the largest series has labels.
pub(super) struct Order {
    /// The external label that sorts last; `None` when nothing is added and so nothing changes.
    last_added: Option<String>,
    /// Own labels and series that are held back. The labels of each are the beginning of those of the next.
    held: Vec<(Labels, Part)>,
}

impl Order {
    /// The order of series that show `added` besides their own labels.
    pub(super) fn new(added: &Labels) -> Self {
        Self {
            last_added: added.iter().next_back().map(|(name, _)| name.to_owned()),
            held: Vec::new(),
        }
    }

    /// Takes the next series, whose own labels are `own`, and gives those whose turn has come to `out`.
    pub(super) fn push(&mut self, own: Labels, part: Part, out: &mut VecDeque<Part>) {
        let Some(last_added) = &self.last_added else {
            out.push_back(part);
            return;
        };
        while let Some((_, held)) = self.held.pop_if(|(held, _)| !goes_before(&own, held, last_added)) {
            out.push_back(held);
        }
        self.held.push((own, part));
    }

    /// How many are held back.
    pub(super) fn held_back(&self) -> usize {
        self.held.len()
    }

    /// Gives the rest, when no series follows.
    pub(super) fn finish(&mut self, out: &mut VecDeque<Part>) {
        out.extend(self.held.drain(..).rev().map(|(_, part)| part));
    }
}

/// Whether the series with the labels `own`, which came later, goes before the one with the labels `held`.
fn goes_before(own: &Labels, held: &Labels, last_added: &str) -> bool {
    let ((text, ends), (held_text, held_ends)) = (own.raw(), held.raw());
    let is_longer = ends.len() > held_ends.len() && ends.starts_with(held_ends) && text.starts_with(held_text);
    is_longer && own.pair(held.len()).0 < last_added
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::external::with_external;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_held_back_comes_where_its_labels_belong(
            sets in proptest::collection::btree_set(proptest::collection::btree_map("[acegi]", "[xy]", 0..5), 1..40),
            added in proptest::collection::btree_map("[bdfhj]", "[xy]", 0..4),
        ) {
            let added = Labels::new(added).unwrap();
            let mut own: Vec<Labels> = sets.into_iter().map(|set| Labels::new(set).unwrap()).collect();
            own.sort();
            let mut expected: Vec<Labels> = own.iter().map(|labels| with_external(labels, &added)).collect();
            expected.sort();
            let (mut order, mut out) = (Order::new(&added), VecDeque::new());
            for labels in own {
                let part = Part { labels: with_external(&labels, &added), block: 0, chunks: Vec::new(), behind: None };
                order.push(labels, part, &mut out);
                prop_assert!(order.held.len() <= 6);
            }
            order.finish(&mut out);
            let got: Vec<Labels> = out.into_iter().map(|part| part.labels).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
