//! Head and local blocks as one answer in the order of labels, a batch at a time.
//!
//! For who asked for that order; others are served by identities (`join.rs`), which takes fewer texts.

use super::{BATCH_SERIES, Joined, damaged, head::HeadSeries};
use crate::blocks::LocalBlock;
use futures::future::BoxFuture;
use model::select::{Samples, Select as _, SelectError, SelectRequest, Series, SeriesSet};
use std::{collections::VecDeque, sync::Arc};
use tokio::task::yield_now;
use ulid::Ulid;

/// The series of a block, sorted.
struct Source {
    ulid: Ulid,
    set: Box<dyn SeriesSet>,
    ready: VecDeque<Series>,
    done: bool,
}

impl Source {
    /// Makes sure that the next series is in `ready`, unless there is none; gives a warning when the block could not be read on.
    async fn fill(&mut self) -> Option<String> {
        while self.ready.is_empty() && !self.done {
            match self.set.next().await {
                Some(Ok(batch)) => self.ready = batch.into(),
                Some(Err(error)) => {
                    self.done = true;
                    return Some(damaged(&error));
                }
                None => self.done = true,
            }
        }
        None
    }
}

/// Head and blocks as one set.
pub(super) struct OrderedSet {
    head: HeadSeries,
    sources: Vec<Source>,
    warnings: Vec<String>,
    /// Series that may still come.
    left: usize,
}

impl OrderedSet {
    /// The head's series, which must be sorted where there are blocks, with those of `blocks`.
    pub(super) async fn new(head: HeadSeries, blocks: &[Arc<LocalBlock>], request: &SelectRequest) -> Self {
        let (mut sources, mut warnings) = (Vec::with_capacity(blocks.len()), Vec::new());
        for local in blocks {
            let mut inner = request.clone();
            // A limit counts joined series, and which of a block's go into them is not known before.
            (inner.sorted, inner.limit) = (true, 0);
            match local.block.select(inner).await {
                Ok(set) => sources.push(Source {
                    ulid: local.ulid,
                    set,
                    ready: VecDeque::new(),
                    done: false,
                }),
                Err(error) => warnings.push(damaged(&error)),
            }
        }
        Self {
            head,
            sources,
            warnings,
            left: if request.limit == 0 { usize::MAX } else { request.limit },
        }
    }

    async fn next_batch(&mut self) -> Vec<Series> {
        if self.sources.is_empty() {
            let mut batch = Vec::from(self.head.take());
            batch.truncate(self.left);
            self.left -= batch.len();
            return batch;
        }
        let mut batch = Vec::new();
        while batch.len() < BATCH_SERIES.min(self.left) {
            self.head.fill();
            for source in &mut self.sources {
                self.warnings.extend(source.fill().await);
            }
            match self.next_series() {
                Some(series) => batch.push(series),
                None => break,
            }
        }
        self.left -= batch.len();
        batch
    }

    /// The series that comes first of all that are ready, joined from all sources that have it.
    fn next_series(&mut self) -> Option<Series> {
        let head = &mut self.head.ready;
        let fronts = self
            .sources
            .iter()
            .filter_map(|source| source.ready.front())
            .chain(head.front());
        let labels = fronts.map(|series| &series.labels).min()?.clone();
        let queues = self.sources.iter_mut().map(|source| &mut source.ready).chain([head]);
        let take = |queue: &mut VecDeque<Series>| queue.pop_front_if(|series| series.labels == labels);
        let mut parts: Vec<Box<dyn Samples>> = queues.filter_map(take).map(|series| series.samples).collect();
        let samples = if parts.len() == 1 {
            parts.remove(0)
        } else {
            Joined::of(parts)
        };
        Some(Series { labels, samples })
    }
}

impl SeriesSet for OrderedSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async move {
            yield_now().await;
            let batch = self.next_batch().await;
            Some(Ok(batch)).filter(|batch| !matches!(batch, Ok(series) if series.is_empty()))
        })
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn blocks(&self) -> Vec<String> {
        self.sources.iter().map(|source| source.ulid.to_string()).collect()
    }
}
