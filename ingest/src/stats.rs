//! What the head holds of a tenant, in numbers: for `/api/v1/status/tsdb` and for whoever looks for what fills the memory.

use crate::{
    core::Core,
    head::{
        index::Index,
        shard::{place, shard_of},
    },
};
use model::{label::METRIC_NAME, tenant::Tenant, time::Timestamp};
use std::{cmp::Reverse, collections::BinaryHeap};

/// Something that series have, and how many.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cardinality {
    /// How many, or how many bytes.
    pub count: u64,
    /// A metric name, a label name, or `name=value`.
    pub name: String,
}

/// The head in numbers, for one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadStats {
    /// Series.
    pub series: u64,
    /// Chunks, open ones included.
    pub chunks: u64,
    /// Distinct pairs of label name and value.
    pub label_pairs: u64,
    /// Oldest and newest timestamp of the samples in memory.
    pub time: Option<(Timestamp, Timestamp)>,
    /// Metric names with the most series.
    pub series_by_metric: Vec<Cardinality>,
    /// Label names with the most values.
    pub values_by_label: Vec<Cardinality>,
    /// Label names whose values take the most bytes.
    pub bytes_by_label: Vec<Cardinality>,
    /// Label pairs with the most series.
    pub series_by_pair: Vec<Cardinality>,
}

/// The first `limit` of many, largest first.
struct Top {
    limit: usize,
    heap: BinaryHeap<Reverse<(u64, Reverse<String>)>>,
}

impl Top {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            heap: BinaryHeap::new(),
        }
    }

    fn offer(&mut self, count: u64, name: impl FnOnce() -> String) {
        let smallest = self.heap.peek().map(|Reverse((count, _))| *count);
        // The name is only made for what has a chance.
        if self.limit == 0 || (self.heap.len() >= self.limit && smallest.is_some_and(|smallest| count < smallest)) {
            return;
        }
        self.heap.push(Reverse((count, Reverse(name()))));
        if self.heap.len() > self.limit {
            self.heap.pop();
        }
    }

    fn finish(self) -> Vec<Cardinality> {
        let sorted = self.heap.into_sorted_vec().into_iter();
        sorted
            .map(|Reverse((count, Reverse(name)))| Cardinality { count, name })
            .collect()
    }
}

/// Numbers of a tenant, with lists of at most `limit`.
pub(crate) fn stats(core: &Core, tenant: &Tenant, limit: usize) -> HeadStats {
    let mut stats = HeadStats::default();
    let slots = {
        let index = core.head.index.read();
        let Some(id) = index.tenant_id(tenant) else {
            return stats;
        };
        count_labels(&index, id, limit, &mut stats);
        index.tenants()[id as usize].postings.all().clone()
    };
    let shards = core.head.shards();
    let mut slots = slots.iter().peekable();
    while let Some(&first) = slots.peek() {
        let number = shard_of(first);
        let Some(shard) = shards.get(number) else { break };
        let shard = shard.lock();
        while let Some(slot) = slots.next_if(|&slot| shard_of(slot) == number) {
            let Some((chunks, time)) = shard.extent(place(slot)) else {
                continue;
            };
            stats.chunks += chunks;
            if let Some((min, max)) = time {
                let (low, high) = stats.time.unwrap_or((min, max));
                stats.time = Some((low.min(min), high.max(max)));
            }
        }
    }
    stats
}

fn count_labels(index: &Index, tenant: u32, limit: usize, stats: &mut HeadStats) {
    let postings = &index.tenants()[tenant as usize].postings;
    let (mut metrics, mut values) = (Top::new(limit), Top::new(limit));
    let (mut bytes, mut pairs) = (Top::new(limit), Top::new(limit));
    for (name, count) in postings.names() {
        let text = index.text(name);
        let mut size = 0;
        for (value, series) in postings.values(name) {
            let value = index.text(value);
            size += value.len() as u64;
            pairs.offer(series, || format!("{text}={value}"));
            if text == METRIC_NAME {
                metrics.offer(series, || value.to_owned());
            }
        }
        values.offer(count as u64, || text.to_owned());
        bytes.offer(size, || text.to_owned());
        stats.label_pairs += count as u64;
    }
    stats.series = postings.len();
    stats.series_by_metric = metrics.finish();
    stats.values_by_label = values.finish();
    stats.bytes_by_label = bytes.finish();
    stats.series_by_pair = pairs.finish();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_equal_ones_by_name() {
        let mut top = Top::new(3);
        for (count, name) in [(1, "a"), (5, "c"), (5, "b"), (2, "d"), (5, "e"), (0, "f")] {
            top.offer(count, || name.to_owned());
        }
        let names: Vec<_> = top
            .finish()
            .into_iter()
            .map(|found| (found.count, found.name))
            .collect();
        assert_eq!(names, [(5, "b".into()), (5, "c".into()), (5, "e".into())]);
        let mut none = Top::new(0);
        none.offer(1, || "x".into());
        assert!(none.finish().is_empty());
    }
}
