//! What an answer shows of each series besides its samples.
//!
//! The blocks of a bucket are merged by all labels, since that needs no more of each block than a window of its series, however many
//! they are. So whoever wants identities and few labels gets them from the merged series, once for all blocks that have it.

use model::{identity::Identity, label::Labels, select::SelectRequest};
use std::sync::Arc;

/// Makes of the labels of a series what the asker wants to know of them.
pub(super) struct View {
    /// What identities are made with, if they are wanted.
    key: Option<u64>,
    /// Names of the labels that are shown; `None` for all.
    shown: Option<Arc<[String]>>,
    /// What was shown last: the next series mostly shows the same.
    last: Labels,
}

impl View {
    pub(super) fn new(request: &SelectRequest, key: Option<u64>) -> Self {
        let shown = request.hints.labels.clone();
        Self {
            key,
            // Who merges by labels needs them all.
            shown: shown.filter(|_| key.is_some() || !request.sorted),
            last: Labels::empty(),
        }
    }

    /// What tells apart the series with these labels, and those of them that are shown.
    pub(super) fn of(&mut self, labels: Labels) -> (Identity, Labels) {
        let identity = self.key.map(|key| Identity::of(&labels, key)).unwrap_or_default();
        let Some(names) = &self.shown else {
            return (identity, labels);
        };
        let is_shown = |name: &str| names.iter().any(|shown| shown == name);
        if !labels.iter().filter(|(name, _)| is_shown(name)).eq(self.last.iter()) {
            self.last = labels.filtered(is_shown);
        }
        (identity, self.last.clone())
    }
}
