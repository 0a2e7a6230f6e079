//! Queries of one tenant over its blocks.
//!
//! Which series match is known from the headers of the blocks. In a first round the entries of those are read, of all blocks at once,
//! and series with the same labels joined; in a second their chunks, batch by batch while the asker consumes them.

use super::{
    GatewaySettings, Shared,
    remote::{ChunkWant, RemoteBlock},
};
use crate::{
    block::label_list,
    chunk::ChunkSamples,
    external::{rewrite_matchers, with_external},
    index::{ChunkRef, Index, Matching, Scan},
};
use futures::{StreamExt as _, TryStreamExt as _, future::BoxFuture};
use hashbrown::HashTable;
use model::{
    identity::Identity,
    label::Labels,
    matcher::Matcher,
    select::{
        BLOCK_ID, Chunk, IdentifiedBatch, IdentifiedSet, LabelList, Select, SelectError, SelectRequest, Series,
        SeriesSet,
    },
    tenant::Tenant,
    time::TimeRange,
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Series whose chunks are read at once, at most.
const BATCH_SERIES: usize = 8192;

/// Bytes of chunks read at once, at most, unless one series has more.
const BATCH_BYTES: u64 = 16 << 20;

/// Series of one block whose entries are read at once.
const SCAN_SERIES: usize = 65_536;

/// Blocks looked through at the same time by one query.
const BLOCKS_IN_FLIGHT: usize = 64;

/// The blocks of one tenant.
pub(super) struct TenantBlocks {
    pub(super) shared: Arc<Shared>,
    pub(super) tenant: Tenant,
}

impl Select for TenantBlocks {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(async move {
            let found = self.find(&request, None).await?;
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
            let found = self.find(&request, Some(key)).await?;
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

    /// Finds the series and where their chunks are: by labels, or without order and with identities made with `key`.
    async fn find(&self, request: &SelectRequest, key: Option<u64>) -> Result<RemoteSet, SelectError> {
        let state = self.shared.state();
        let mut warnings = state.warnings(&self.tenant, request.range);
        let mut blocks = state.overlapping(&self.tenant, request.range);
        blocks.retain(|block| is_named(block, &request.blocks));
        let blocks = self.open(blocks, &request.matchers, &mut warnings).await;
        let budget = Budget::default();
        let mut finds = Vec::with_capacity(blocks.len());
        for (number, (block, index)) in blocks.iter().enumerate() {
            finds.push(self.find_in(block, index, number, request, key, &budget));
        }
        let parts = futures::stream::iter(finds)
            .buffer_unordered(BLOCKS_IN_FLIGHT)
            .try_concat()
            .await?;
        let blocks: Vec<_> = blocks.into_iter().map(|(block, _)| block).collect();
        let mut series = match key {
            Some(_) => join_by_identity(parts),
            None => join(parts),
        };
        if request.limit > 0 {
            series.truncate(request.limit);
        }
        let origin = |block: &Arc<RemoteBlock>| format!("block {}", block.meta.ulid).into();
        Ok(RemoteSet {
            shared: self.shared.clone(),
            origins: blocks.iter().map(origin).collect(),
            blocks,
            series: series.into_iter(),
            held: None,
            warnings,
            bytes_left: self.shared.settings.query_bytes_max,
        })
    }

    async fn find_in(
        &self,
        block: &RemoteBlock,
        index: &Index,
        number: usize,
        request: &SelectRequest,
        key: Option<u64>,
        budget: &Budget,
    ) -> Result<Vec<Part>, SelectError> {
        let Some(own) = rewrite_matchers(&request.matchers, &block.external) else {
            return Ok(Vec::new());
        };
        let suspect = |error| block.suspect_index(error);
        let shown = request.hints.labels.as_deref().filter(|_| key.is_some());
        let Matching { ids, rest } = index.matching(&own).map_err(suspect)?;
        let mut parts = Vec::new();
        for ids in ids.chunks(SCAN_SERIES) {
            let entries = block.entries(&self.shared, index, ids).await?;
            let matching = Matching {
                ids: ids.to_vec(),
                rest: rest.clone(),
            };
            let mut scan = Scan::over(matching, request.range, request.labels_only);
            // External labels are part of what tells series apart, and take the place of their own.
            let plain = block.visible.is_empty();
            if plain {
                scan = scan.showing(index, shown).identifying(key);
            }
            let found = scan.next_batch_of(index, &entries, ids.len()).map_err(suspect)?;
            let chunks = found.iter().map(|found| found.chunks.len()).sum();
            budget.spend(found.len(), chunks, &self.shared.settings)?;
            parts.extend(found.into_iter().map(|found| {
                let (labels, identity) = match key {
                    _ if plain => (found.labels, found.identity),
                    None => (with_external(&found.labels, &block.visible), found.identity),
                    Some(key) => {
                        let labels = with_external(&found.labels, &block.visible);
                        let identity = Identity::of(&labels, key);
                        let is_shown = |name: &str| shown.is_none_or(|names| names.iter().any(|one| one == name));
                        (labels.filtered(is_shown), identity)
                    }
                };
                Part {
                    labels,
                    identity,
                    block: number,
                    chunks: found.chunks,
                    behind: found.behind,
                }
            }));
        }
        Ok(parts)
    }
}

/// Whether a question that names blocks means this one.
fn is_named(block: &RemoteBlock, names: &[Matcher]) -> bool {
    let ulid = block.meta.ulid.to_string();
    names.iter().all(|matcher| match &*matcher.name {
        BLOCK_ID => matcher.matches(&ulid),
        _ => matcher.matches(""),
    })
}

/// What a query found so far, in all blocks.
#[derive(Default)]
struct Budget {
    series: AtomicUsize,
    chunks: AtomicUsize,
}

impl Budget {
    fn spend(&self, series: usize, chunks: usize, settings: &GatewaySettings) -> Result<(), SelectError> {
        let limit = |what: &str, held: &AtomicUsize, more: usize, max: usize| {
            if held.fetch_add(more, Ordering::Relaxed).saturating_add(more) <= max {
                return Ok(());
            }
            let text = format!("the query finds more than {max} {what} in the blocks of the bucket; narrow it down");
            Err(SelectError::Limit(text))
        };
        limit("series", &self.series, series, settings.query_series_max)?;
        limit("chunks", &self.chunks, chunks, settings.query_chunks_max)
    }
}

/// A series of one block.
struct Part {
    labels: Labels,
    /// What tells the series apart, where series are joined by that.
    identity: Identity,
    /// Which of the query's blocks.
    block: usize,
    chunks: Vec<ChunkRef>,
    behind: Option<ChunkRef>,
}

/// A series with its parts in all blocks.
struct JoinedSeries {
    labels: Labels,
    identity: Identity,
    parts: Vec<Part>,
}

/// Sorts by labels and joins the parts of each series.
fn join(mut parts: Vec<Part>) -> Vec<JoinedSeries> {
    parts.sort_by(|a, b| a.labels.cmp(&b.labels).then(a.block.cmp(&b.block)));
    let mut series: Vec<JoinedSeries> = Vec::new();
    for part in parts {
        match series.last_mut() {
            Some(last) if last.labels == part.labels => last.parts.push(part),
            _ => series.push(JoinedSeries::beginning(part)),
        }
    }
    series
}

/// Joins the parts of each series by what tells it apart, in the order of the blocks.
fn join_by_identity(mut parts: Vec<Part>) -> Vec<JoinedSeries> {
    parts.sort_by_key(|part| part.block);
    let mut series: Vec<JoinedSeries> = Vec::new();
    let mut places: HashTable<usize> = HashTable::new();
    for part in parts {
        let same = |&place: &usize| series[place].identity == part.identity;
        if let Some(&place) = places.find(part.identity.low, same) {
            series[place].parts.push(part);
            continue;
        }
        let place = series.len();
        series.push(JoinedSeries::beginning(part));
        let hash = |&place: &usize| series[place].identity.low;
        places.insert_unique(hash(&place), place, hash);
    }
    series
}

impl JoinedSeries {
    fn beginning(part: Part) -> Self {
        Self {
            labels: part.labels.clone(),
            identity: part.identity,
            parts: vec![part],
        }
    }
}

/// A series, and its chunks each with the block it is in.
type Wanted = (JoinedSeries, Vec<(usize, ChunkWant)>);

/// Series whose chunks are read batch by batch.
struct RemoteSet {
    shared: Arc<Shared>,
    blocks: Vec<Arc<RemoteBlock>>,
    /// What errors call them.
    origins: Vec<Arc<str>>,
    series: std::vec::IntoIter<JoinedSeries>,
    /// A series that did not fit into the batch before.
    held: Option<Wanted>,
    warnings: Vec<String>,
    /// How much the query may still read.
    bytes_left: u64,
}

/// What is read at once.
struct Batch {
    /// Of each series what tells it apart, its labels and the first block it is in.
    series: Vec<(Identity, Labels, usize)>,
    /// Of each block the chunks to read.
    wants: Vec<Vec<ChunkWant>>,
}

impl RemoteSet {
    async fn next_batch(&mut self) -> Result<IdentifiedBatch, SelectError> {
        let Batch { series, wants } = self.gather()?;
        let mut chunks: Vec<Vec<Chunk>> = series.iter().map(|_| Vec::new()).collect();
        let mut reads = Vec::new();
        for (block, wants) in self.blocks.iter().zip(&wants) {
            let (found, fetches) = block.at_hand(&self.shared, wants);
            for (series, chunk) in found {
                chunks[series].push(chunk);
            }
            reads.extend(fetches.into_iter().map(|fetch| block.read(&self.shared, wants, fetch)));
        }
        let in_flight = self.shared.settings.fetches_in_flight.max(1);
        let mut reads = futures::stream::iter(reads).buffer_unordered(in_flight);
        while let Some(found) = reads.try_next().await? {
            for (series, chunk) in found {
                chunks[series].push(chunk);
            }
        }
        drop(reads);
        let series = series
            .into_iter()
            .zip(chunks)
            .map(|((identity, labels, block), chunks)| {
                let samples = Box::new(ChunkSamples::new(chunks, Arc::clone(&self.origins[block])));
                (identity, Series { labels, samples })
            });
        Ok(series.collect())
    }

    /// Takes the series of the next batch.
    fn gather(&mut self) -> Result<Batch, SelectError> {
        let wants = self.blocks.iter().map(|_| Vec::new()).collect();
        let mut batch = Batch {
            series: Vec::new(),
            wants,
        };
        let mut bytes = 0;
        while batch.series.len() < BATCH_SERIES {
            let Some((series, own)) = self.take_one()? else { break };
            let size: u64 = own.iter().map(|(_, want)| want.bytes()).sum();
            if !batch.series.is_empty() && bytes + size > BATCH_BYTES {
                self.held = Some((series, own));
                break;
            }
            bytes += size;
            for (block, want) in own {
                batch.wants[block].push(ChunkWant {
                    series: batch.series.len(),
                    ..want
                });
            }
            let first = series.parts.first().map_or(0, |part| part.block);
            batch.series.push((series.identity, series.labels, first));
        }
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(|| {
            let limit = self.shared.settings.query_bytes_max;
            let text = format!("the query reads more than {limit} bytes from the bucket; narrow it down");
            SelectError::Limit(text)
        })?;
        Ok(batch)
    }

    /// The next series with its chunks.
    fn take_one(&mut self) -> Result<Option<Wanted>, SelectError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let Some(series) = self.series.next() else {
            return Ok(None);
        };
        let mut wants = Vec::new();
        for part in &series.parts {
            let own = self.blocks[part.block].wants(&part.chunks, part.behind.as_ref())?;
            wants.extend(own.into_iter().map(|want| (part.block, want)));
        }
        Ok(Some((series, wants)))
    }

    /// Nothing comes after an error.
    fn end(&mut self) {
        self.series = Vec::new().into_iter();
        self.held = None;
    }
}

impl RemoteSet {
    async fn next_or_end(&mut self) -> Option<Result<IdentifiedBatch, SelectError>> {
        let batch = self.next_batch().await;
        if batch.is_err() {
            self.end();
        }
        batch
            .map(|series| Some(series).filter(|series| !series.is_empty()))
            .transpose()
    }
}

impl SeriesSet for RemoteSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async move {
            let batch = self.next_or_end().await?;
            Some(batch.map(|batch| batch.into_iter().map(|(_, series)| series).collect()))
        })
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn blocks(&self) -> Vec<String> {
        let ulids = self.blocks.iter().map(|block| block.meta.ulid.to_string());
        ulids.collect()
    }
}

impl IdentifiedSet for RemoteSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<IdentifiedBatch, SelectError>>> {
        Box::pin(self.next_or_end())
    }

    fn series_max(&self) -> usize {
        self.series.len() + usize::from(self.held.is_some())
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}
