//! Queries of one tenant over its blocks.
//!
//! Which series match is known from the headers of the blocks. In a first round the entries of those are read, of all blocks at once,
//! and series with the same labels joined; in a second their chunks. An answer that is too large for that comes piece by piece while
//! the asker consumes it.

use super::{Shared, batch::RemoteSet, lane::Lane, lanes::Lanes, remote::RemoteBlock, view::View};
use crate::{block::label_list, external::rewrite_matchers, index::Index};
use futures::{StreamExt as _, future::BoxFuture};
use model::{
    matcher::Matcher,
    select::{IdentifiedSet, LabelList, Select, SelectError, SelectRequest, SeriesSet},
    tenant::Tenant,
    time::TimeRange,
};
use std::{collections::BTreeSet, sync::Arc};

/// The blocks of one tenant.
pub(super) struct TenantBlocks {
    pub(super) shared: Arc<Shared>,
    pub(super) tenant: Tenant,
}

impl Select for TenantBlocks {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(async move {
            let found = self.find(request, None).await?;
            Ok(Box::new(found) as Box<dyn SeriesSet>)
        })
    }

    fn select_identified(
        &self,
        request: &SelectRequest,
        key: u64,
    ) -> Option<BoxFuture<'_, Result<Box<dyn IdentifiedSet>, SelectError>>> {
        let request = request.clone();
        Some(Box::pin(async move {
            let found = self.find(request, Some(key)).await?;
            Ok(Box::new(found) as Box<dyn IdentifiedSet>)
        }))
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async move {
            self.collect(&matchers, range, limit, |block, index, own, found| {
                let names = index.names_matching(own).map_err(|error| block.suspect_index(error))?;
                if !names.is_empty() {
                    found.extend(block.visible.iter().map(|(name, _)| name.to_owned()));
                }
                found.extend(names);
                Ok(())
            })
            .await
        })
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async move {
            self.collect(&matchers, range, limit, |block, index, own, found| {
                let suspect = |error| block.suspect_index(error);
                match block.visible.get(&name) {
                    // The value exists where a series does.
                    Some(value) => {
                        if !index.matching_exactly(own).map_err(suspect)?.is_empty() {
                            found.insert(value.to_owned());
                        }
                    }
                    None => found.extend(index.values_matching(&name, own).map_err(suspect)?),
                }
                Ok(())
            })
            .await
        })
    }
}

impl TenantBlocks {
    /// Gathers strings from all blocks in the range; `gather` gets the matchers that are left for a block's own labels.
    async fn collect(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        limit: usize,
        gather: impl Fn(&RemoteBlock, &Index, &[Matcher], &mut BTreeSet<String>) -> Result<(), SelectError> + Send + Sync,
    ) -> Result<LabelList, SelectError> {
        let state = self.shared.state();
        let mut warnings = state.warnings(&self.tenant, range);
        let mut found = BTreeSet::new();
        let blocks = state.overlapping(&self.tenant, range);
        let blocks = self.open(blocks, matchers, &mut warnings).await;
        for (block, index) in &blocks {
            if let Some(own) = rewrite_matchers(matchers, &block.external) {
                gather(block, index, &own, &mut found)?;
            }
            // The first ones are wanted, so what lies behind them is not.
            while limit > 0 && found.len() > limit {
                found.pop_last();
            }
        }
        let list = label_list(found.into_iter().collect(), limit);
        Ok(LabelList { warnings, ..list })
    }

    /// Those of the blocks that may hold what is asked for, each with its header. One whose header cannot be had is left out with a
    /// warning.
    async fn open(
        &self,
        mut blocks: Vec<Arc<RemoteBlock>>,
        matchers: &[Matcher],
        warnings: &mut Vec<String>,
    ) -> Vec<(Arc<RemoteBlock>, Arc<Index>)> {
        blocks.retain(|block| rewrite_matchers(matchers, &block.external).is_some());
        let opened = blocks.into_iter().map(|block| async {
            let header = self.shared.header(&block.listing).await;
            (block, header)
        });
        let in_flight = self.shared.settings.loads_in_flight.max(1);
        let mut opened = futures::stream::iter(opened).buffered(in_flight);
        let mut found = Vec::new();
        while let Some((block, header)) = opened.next().await {
            match header {
                Ok(index) => found.push((block, index)),
                Err(failure) => {
                    let (ulid, reason) = (block.meta.ulid, failure.reason);
                    warnings.push(format!("block {ulid} is missing from the answer: {reason}"));
                }
            }
        }
        found
    }

    /// Finds the series and where their chunks are; they come by labels, with identities if there is a `key` to make them with.
    async fn find(&self, request: SelectRequest, key: Option<u64>) -> Result<RemoteSet, SelectError> {
        let state = self.shared.state();
        let mut warnings = state.warnings(&self.tenant, request.range);
        let mut blocks = state.overlapping(&self.tenant, request.range);
        blocks.retain(|block| request.asks_block(&block.meta.ulid.to_string()));
        let blocks = self.open(blocks, &request.matchers, &mut warnings).await;
        let mut lanes = Vec::with_capacity(blocks.len());
        for (block, index) in blocks {
            if let Some(own) = rewrite_matchers(&request.matchers, &block.external) {
                lanes.push(Lane::open(block, lanes.len(), index, &own)?);
            }
        }
        let blocks = lanes.iter().map(|lane| lane.block.clone()).collect();
        let shape = (request.labels_only, request.limit);
        let view = View::new(&request, key);
        let mut lanes = Lanes::new(self.shared.clone(), request, lanes).await?;
        lanes.read().await?;
        lanes.rests();
        Ok(RemoteSet::new(lanes, view, blocks, warnings, shape))
    }
}
