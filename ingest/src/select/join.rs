//! Head and local blocks as one answer without order: parts of a series find each other by its identity.
//!
//! No labels are put together that the question does not look at, and nothing is sorted, so that a question costs about the same
//! whether what it asks for was cut or not. Series of blocks are held until the head's have passed, then come those of blocks alone.

use super::{BATCH_SERIES, Joined, damaged, head::HeadSeries};
use crate::blocks::LocalBlock;
use futures::future::BoxFuture;
use model::select::{
    Account, IdentifiedBatch, IdentifiedSet, Select as _, SelectError, SelectRequest, Series, SeriesSet,
};
use std::sync::Arc;
use storage::join::{JoinTable, hold};
use tokio::task::yield_now;
use ulid::Ulid;

/// Series of head and blocks, each once.
pub(super) struct IdentityJoin {
    head: HeadSeries,
    /// Blocks that were not put into the table yet.
    blocks: Vec<Box<dyn IdentifiedSet>>,
    table: JoinTable,
    account: Option<Arc<dyn Account>>,
    /// Names of the blocks that are looked into.
    ulids: Vec<Ulid>,
    warnings: Vec<String>,
    /// Series that may still come.
    left: usize,
}

impl IdentityJoin {
    /// The series of `head` and `blocks`, identified with `key`.
    pub(super) async fn new(head: HeadSeries, blocks: &[Arc<LocalBlock>], request: &SelectRequest, key: u64) -> Self {
        // A limit counts joined series, and which of a block's go into them is not known before.
        let inner = SelectRequest {
            limit: 0,
            ..request.clone()
        };
        let (mut sets, mut ulids, mut warnings) = (Vec::with_capacity(blocks.len()), Vec::new(), Vec::new());
        for local in blocks {
            let Some(set) = local.block.select_identified(&inner, key) else {
                continue;
            };
            match set.await {
                Ok(set) => {
                    sets.push(set);
                    ulids.push(local.ulid);
                }
                Err(error) => warnings.push(damaged(&error)),
            }
        }
        Self {
            head,
            blocks: sets,
            table: JoinTable::counted(request.account.clone()),
            account: request.account.clone(),
            ulids,
            warnings,
            left: if request.limit == 0 { usize::MAX } else { request.limit },
        }
    }

    /// How many series the table will hold at most.
    pub(super) fn table_max(&self) -> usize {
        self.blocks.iter().map(|block| block.series_max()).sum()
    }

    /// Puts all series of the blocks into the table. A block that breaks off leaves what it gave, and a warning.
    async fn fill_table(&mut self) -> Result<(), SelectError> {
        for mut block in std::mem::take(&mut self.blocks) {
            while let Some(batch) = block.next().await {
                yield_now().await;
                match batch {
                    Ok(batch) => {
                        hold(self.account.as_ref(), &batch)?;
                        batch
                            .into_iter()
                            .for_each(|(identity, series)| self.table.add(identity, series));
                    }
                    Err(error) => {
                        self.warnings.push(damaged(&error));
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    async fn next_batch(&mut self) -> Result<IdentifiedBatch, SelectError> {
        if self.left == 0 {
            return Ok(Vec::new());
        }
        if let Err(error) = self.fill_table().await {
            // Nothing comes after an error.
            self.left = 0;
            return Err(error);
        }
        let head = self.head.take_identified();
        let mut batch: IdentifiedBatch = if self.table.is_empty() {
            head.collect()
        } else {
            head.map(|(identity, series)| (identity, self.table.complete(identity, series, Joined::of)))
                .collect()
        };
        if batch.is_empty() {
            let left = std::iter::from_fn(|| self.table.take_left()).take(BATCH_SERIES);
            batch.extend(left.map(|(identity, parted)| (identity, parted.into_series(Joined::of))));
        }
        batch.truncate(self.left);
        self.left -= batch.len();
        Ok(batch)
    }
}

impl SeriesSet for IdentityJoin {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async move {
            yield_now().await;
            let batch = self.next_batch().await;
            let series = |batch: IdentifiedBatch| batch.into_iter().map(|(_, series)| series).collect();
            batch
                .map(series)
                .map(|series: Vec<Series>| Some(series).filter(|series| !series.is_empty()))
                .transpose()
        })
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn blocks(&self) -> Vec<String> {
        self.ulids.iter().map(Ulid::to_string).collect()
    }
}

impl IdentifiedSet for IdentityJoin {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<IdentifiedBatch, SelectError>>> {
        Box::pin(async move {
            yield_now().await;
            let batch = self.next_batch().await;
            batch
                .map(|batch| Some(batch).filter(|batch| !batch.is_empty()))
                .transpose()
        })
    }

    fn series_max(&self) -> usize {
        let coming = self.head.series_max().saturating_add(self.table_max());
        coming.saturating_add(self.table.len()).min(self.left)
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn blocks(&self) -> Vec<String> {
        self.ulids.iter().map(Ulid::to_string).collect()
    }
}
