//! Reading: series of one tenant, from the head and from the local blocks.
//!
//! A query takes the lock of the index to find its series, and that of one shard at a time to copy the few hundred bytes of an open
//! chunk and to share complete ones. Samples are decoded by whoever reads them, outside of all locks. Blocks and head may hold the
//! same samples for a while; each timestamp comes out once.
//!
//! Reading runs on the threads that also take samples, and waits for nothing here. So it gives way before each batch: without that a
//! question for everything holds such a thread for some 50 ms, and with it the acknowledgements that are ready to go out. It gives way
//! in the manner of the runtime, which looks at its sockets first; nobody may block a thread of the runtime on these sources.

mod first;
mod head;
mod join;
mod ordered;

use crate::{
    blocks::{LocalBlock, Pin},
    core::Core,
};
use first::FirstTexts;
use futures::future::BoxFuture;
use head::HeadSeries;
use join::IdentityJoin;
use model::{
    matcher::Matcher,
    metadata::Metadata,
    sample::SampleBuffer,
    select::{
        Chunk, ExemplarSeries, IdentifiedSet, LabelList, Listed, Samples, Select, SelectError, SelectRequest,
        SelectTenants, SeriesSet,
    },
    tenant::Tenant,
    time::TimeRange,
};
use ordered::OrderedSet;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use storage::{chunk::read_joined, join::JOINED_SERIES_MAX};

/// Series handed out in one go.
const BATCH_SERIES: usize = 256;

/// The read side of one tenant.
pub(crate) struct TenantSelect {
    core: Arc<Core>,
    tenant: Tenant,
}

/// The read sides of all tenants.
pub(crate) struct AllTenants(pub(crate) Arc<Core>);

impl SelectTenants for AllTenants {
    fn tenant(&self, tenant: &Tenant) -> Arc<dyn Select> {
        Arc::new(TenantSelect {
            core: Arc::clone(&self.0),
            tenant: tenant.clone(),
        })
    }

    fn tenants(&self) -> Vec<Tenant> {
        let index = self.0.head.index.read();
        let in_head = index.tenants().iter().filter(|tenant| tenant.postings.len() > 0);
        let mut tenants: BTreeSet<Tenant> = in_head.map(|tenant| tenant.tenant.clone()).collect();
        tenants.extend(self.0.blocks.all().into_iter().map(|block| block.tenant.clone()));
        tenants.into_iter().collect()
    }
}

impl TenantSelect {
    fn check_ready(&self) -> Result<(), SelectError> {
        match self.core.wal() {
            Some(_) => Ok(()),
            None => Err(SelectError::Unavailable(self.core.not_ready())),
        }
    }

    async fn select_series(&self, request: SelectRequest) -> Result<Box<dyn SeriesSet>, SelectError> {
        self.check_ready()?;
        let (mut blocks, pin) = self.core.blocks.read(&self.tenant, request.range);
        blocks.retain(|local| request.asks_block(&local.ulid.to_string()));
        if !blocks.is_empty() && !request.sorted {
            let joined = self.join(&request, self.core.env.rng.next_u64(), &blocks, &pin).await;
            if joined.table_max() <= JOINED_SERIES_MAX {
                return Ok(Box::new(joined));
            }
        }
        // Series of a block come sorted; to join them with those of the head, the head's must be sorted as well.
        let sorted = request.sorted || !blocks.is_empty();
        let head = HeadSeries::new(&self.core, &self.tenant, &request, &pin, sorted).await;
        Ok(Box::new(OrderedSet::new(head, &blocks, &request).await))
    }

    /// Head and blocks brought together by identities.
    async fn join(
        &self,
        request: &SelectRequest,
        key: u64,
        blocks: &[Arc<LocalBlock>],
        pin: &Arc<Pin>,
    ) -> IdentityJoin {
        let head = HeadSeries::identified(&self.core, &self.tenant, request, pin, key);
        IdentityJoin::new(head, blocks, request, key).await
    }

    async fn names(&self, matchers: Vec<Matcher>, range: TimeRange, limit: usize) -> Result<LabelList, SelectError> {
        self.check_ready()?;
        let mut items = FirstTexts::new(limit);
        {
            let (slots, index) = self.core.head.find(&self.tenant, &matchers).exact(&self.core.head);
            let postings = index.postings(&self.tenant).into_iter();
            let names = postings.flat_map(|postings| postings.names_among(&slots));
            names.for_each(|name| items.add(index.text(name)));
        }
        let mut warnings = Vec::new();
        for local in self.core.blocks.of(&self.tenant, range) {
            match local.block.label_names(matchers.clone(), range, limit).await {
                Ok(list) => list.items.iter().for_each(|item| items.add(item)),
                Err(error) => warnings.push(damaged(&error)),
            }
        }
        Ok(items.into_list(warnings))
    }

    async fn values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> Result<LabelList, SelectError> {
        self.check_ready()?;
        let mut items = FirstTexts::new(limit);
        {
            let (slots, index) = self.core.head.find(&self.tenant, &matchers).exact(&self.core.head);
            let label = index.postings(&self.tenant).zip(index.symbol(&name));
            if let Some((postings, name)) = label {
                let mut add = |value: u32| items.add(index.text(value));
                if matchers.is_empty() {
                    postings.values(name).for_each(|(value, _)| add(value));
                } else if slots.len() < postings.value_count(name) as u64 {
                    // Few series: what they have is told faster by them than by all values.
                    let pairs = slots.iter().flat_map(|slot| index.pairs(slot));
                    let values: BTreeSet<u32> = pairs.filter(|pair| pair.0 == name).map(|pair| pair.1).collect();
                    values.into_iter().for_each(add);
                } else {
                    postings.values_among(name, &slots).for_each(add);
                }
            }
        }
        let mut warnings = Vec::new();
        for local in self.core.blocks.of(&self.tenant, range) {
            let list = local.block.label_values(name.clone(), matchers.clone(), range, limit);
            match list.await {
                Ok(list) => list.items.iter().for_each(|item| items.add(item)),
                Err(error) => warnings.push(damaged(&error)),
            }
        }
        Ok(items.into_list(warnings))
    }

    fn find_exemplars(&self, selectors: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<ExemplarSeries>, SelectError> {
        self.check_ready()?;
        let tenant = self.core.head.index.read().tenant_id(&self.tenant);
        let Some(tenant) = tenant else { return Ok(Vec::new()) };
        let all = self.core.extras.lock().exemplars(tenant, range);
        let index = self.core.head.index.read();
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for stored in all {
            let labels = index
                .labels(stored.slot)
                .filter(|_| index.number(stored.slot) == stored.number);
            let Some(labels) = labels else { continue };
            let fits = |matcher: &Matcher| matcher.matches(labels.get(&matcher.name).unwrap_or(""));
            if selectors.iter().any(|matchers| matchers.iter().all(fits)) {
                found.entry(labels).or_default().push(stored.exemplar);
            }
        }
        let series = |(labels, mut exemplars): (_, Vec<model::sample::Exemplar>)| {
            exemplars.sort_by_key(|exemplar| exemplar.at);
            ExemplarSeries { labels, exemplars }
        };
        Ok(found.into_iter().map(series).collect())
    }

    fn find_metadata(&self, family: Option<&str>) -> Result<Vec<Metadata>, SelectError> {
        self.check_ready()?;
        let tenant = self.core.head.index.read().tenant_id(&self.tenant);
        Ok(tenant
            .map(|tenant| self.core.extras.lock().metadata(tenant, family))
            .unwrap_or_default())
    }
}

impl Select for TenantSelect {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(self.select_series(request))
    }

    fn select_identified(
        &self,
        request: &SelectRequest,
        key: u64,
    ) -> Option<BoxFuture<'_, Result<Box<dyn IdentifiedSet>, SelectError>>> {
        let request = request.clone();
        Some(Box::pin(async move {
            self.check_ready()?;
            let (mut blocks, pin) = self.core.blocks.read(&self.tenant, request.range);
            blocks.retain(|local| request.asks_block(&local.ulid.to_string()));
            Ok(Box::new(self.join(&request, key, &blocks, &pin).await) as Box<dyn IdentifiedSet>)
        }))
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(self.names(matchers, range, limit))
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(self.values(name, matchers, range, limit))
    }

    fn exemplars(
        &self,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'_, Result<Listed<ExemplarSeries>, SelectError>> {
        Box::pin(async move { self.find_exemplars(&selectors, range).map(Listed::from) })
    }

    fn metadata(&self, family: Option<String>) -> BoxFuture<'_, Result<Listed<Metadata>, SelectError>> {
        Box::pin(async move { self.find_metadata(family.as_deref()).map(Listed::from) })
    }
}

/// What an answer says about a local block that could not be read: it goes on without the block (promises P6 and P7).
fn damaged(error: &SelectError) -> String {
    format!("a local block could not be read, its samples are missing: {error}")
}

/// The samples of one series from several sources.
struct Joined(Vec<Box<dyn Samples>>);

impl Joined {
    fn of(parts: Vec<Box<dyn Samples>>) -> Box<dyn Samples> {
        Box::new(Self(parts))
    }
}

impl Samples for Joined {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        read_joined(&self.0, range, buffer)
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        let mut chunks = Vec::new();
        for samples in &self.0 {
            chunks.extend(samples.chunks()?);
        }
        chunks.sort_by_key(|chunk| (chunk.min_time, chunk.max_time));
        // A chunk that was cut and not yet forgotten is in the block and in the head.
        chunks.dedup();
        Ok(chunks)
    }

    fn held_bytes(&self) -> usize {
        self.0.iter().map(|part| part.held_bytes()).sum()
    }
}
