//! What one node gets of a batch.

use crate::ring::NodeIndex;
use model::push::{BatchSeries, SeriesId, SeriesRef, WriteBatch};
use proto::grpc::push_client::BY_LABELS;

/// Series of a batch that go to one node.
#[derive(Debug)]
pub struct Part {
    pub(super) node: NodeIndex,
    /// Its series by their place in the whole batch.
    pub(super) series: Vec<u32>,
    /// What the node calls each of them, or [`BY_LABELS`].
    pub(super) numbers: Vec<SeriesRef>,
}

impl Part {
    /// For up to `series` series.
    pub(super) fn new(node: NodeIndex, series: usize) -> Self {
        Self {
            node,
            series: Vec::with_capacity(series),
            numbers: Vec::with_capacity(series),
        }
    }

    #[inline]
    pub(super) fn add(&mut self, index: u32, number: SeriesRef) {
        self.series.push(index);
        self.numbers.push(number);
    }

    /// Places of its series in the whole batch.
    pub fn series(&self) -> &[u32] {
        &self.series
    }

    /// What the node calls each of them, or [`BY_LABELS`].
    pub fn numbers(&self) -> &[SeriesRef] {
        &self.numbers
    }

    /// The part as a batch of its own, in the memory of `copy`, which is empty.
    pub(super) fn copy(&self, batch: &WriteBatch, mut copy: WriteBatch) -> WriteBatch {
        copy.tenant.clone_from(&batch.tenant);
        copy.metadata.clone_from(&batch.metadata);
        let names = self.series.iter().map(|index| *index as usize).zip(&self.numbers);
        let names = names.map(|(index, number)| match *number {
            BY_LABELS => (index, batch.series[index].id.clone()),
            number => (index, SeriesId::Known(number)),
        });
        if self.is_whole(batch) {
            copy.floats.extend_from_slice(&batch.floats);
            copy.histograms.extend_from_slice(&batch.histograms);
            copy.exemplars.extend_from_slice(&batch.exemplars);
            let named = batch.series.iter().zip(names);
            copy.series.extend(named.map(|(series, (_, id))| BatchSeries {
                id,
                floats_end: series.floats_end,
                histograms_end: series.histograms_end,
                exemplars_end: series.exemplars_end,
            }));
            return copy;
        }
        for (index, id) in names {
            let [floats, histograms, exemplars] = batch.columns(index);
            copy.floats.extend_from_slice(&batch.floats[floats]);
            copy.histograms.extend_from_slice(&batch.histograms[histograms]);
            copy.exemplars.extend_from_slice(&batch.exemplars[exemplars]);
            copy.finish_series(id);
        }
        copy
    }

    fn is_whole(&self, batch: &WriteBatch) -> bool {
        self.series.len() == batch.series.len() && (0..).zip(&self.series).all(|(place, index)| place == *index)
    }
}
