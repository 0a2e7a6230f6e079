//! What one node gets of a batch.

use crate::ring::NodeIndex;
use model::{
    label::Labels,
    push::{SeriesId, SeriesRef},
};

/// Series of a batch that go to one node.
pub(super) struct Part {
    pub(super) node: NodeIndex,
    /// What the node calls its series, or their labels.
    pub(super) ids: Vec<SeriesId>,
    /// Its series by their place in the whole batch.
    pub(super) series: Vec<u32>,
}

impl Part {
    /// For up to `series` series.
    pub(super) fn new(node: NodeIndex, series: usize) -> Self {
        Self {
            node,
            ids: Vec::with_capacity(series),
            series: Vec::with_capacity(series),
        }
    }

    #[inline]
    pub(super) fn add(&mut self, index: u32, number: Option<SeriesRef>, labels: Option<&Labels>) {
        self.ids.push(match (number, labels) {
            (None, Some(labels)) => SeriesId::New(labels.clone()),
            (number, _) => SeriesId::Known(number.unwrap_or(SeriesRef(u64::MAX))),
        });
        self.series.push(index);
    }
}
