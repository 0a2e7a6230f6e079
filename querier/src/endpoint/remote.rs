//! An endpoint as a source.

use super::{
    EndpointSettings,
    health::{EndpointStatus, Health},
    scope::{Scope, scope},
};
use crate::fanout::within;
use futures::future::BoxFuture;
use model::{
    env::Env,
    label::Labels,
    matcher::Matcher,
    metadata::Metadata,
    select::{
        Chunk, ExemplarSeries, LabelList, Listed, ReadySet, Select, SelectError, SelectRequest, SelectTenants, Series,
        SeriesSet,
    },
    tenant::Tenant,
    time::TimeRange,
};
use parking_lot::RwLock;
use proto::thanos::{EndpointInfo, SeriesStream, StoreClient};
use std::{future::Future, sync::Arc, time::Duration};
use storage::chunk::ChunkSamples;

/// Series of an endpoint that must be sorted here, at most: they are held in memory.
const RESORTED_SERIES_MAX: usize = 1_000_000;

/// A process that speaks StoreAPI. Clones share everything.
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

struct Shared {
    address: String,
    client: StoreClient,
    env: Env,
    settings: EndpointSettings,
    health: RwLock<Health>,
    origin: Arc<str>,
}

impl Endpoint {
    /// The endpoint at `host:port`. Nothing is sent yet. Must be called inside of the runtime.
    pub fn new(address: &str, settings: EndpointSettings, env: &Env) -> Result<Self, String> {
        let client = match &settings.between_nodes {
            Some(security) => StoreClient::of_node(address, security)?,
            None => StoreClient::new(address, settings.tls.as_ref())?,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                address: address.to_owned(),
                env: env.clone(),
                settings,
                health: RwLock::default(),
                origin: format!("endpoint {address}").into(),
            }),
        })
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Asks what it holds. Call it from time to time; questions rely on the last answer, and fail at once while there is none.
    pub async fn probe(&self) -> Result<(), SelectError> {
        self.shared.probe().await.map(drop)
    }

    /// What it is and how it does.
    pub fn status(&self) -> EndpointStatus {
        let shared = &self.shared;
        shared
            .health
            .read()
            .status(&shared.address, shared.env.clock.monotonic())
    }
}

impl SelectTenants for Endpoint {
    fn tenant(&self, tenant: &Tenant) -> Arc<dyn Select> {
        Arc::new(RemoteSelect {
            endpoint: self.shared.clone(),
            tenant: tenant.clone(),
        })
    }

    /// StoreAPI does not tell.
    fn tenants(&self) -> Vec<Tenant> {
        Vec::new()
    }
}

impl Shared {
    async fn probe(&self) -> Result<Arc<EndpointInfo>, SelectError> {
        let answer = within(self.timeout(), Box::pin(self.client.info())).await;
        let now = self.env.clock.now();
        let mut health = self.health.write();
        match answer {
            Ok(info) => {
                health.described(info, now);
                health
                    .info
                    .clone()
                    .ok_or_else(|| SelectError::Unavailable("no answer".to_owned()))
            }
            Err(error) => {
                health.silent(&error, now);
                Err(error)
            }
        }
    }

    fn timeout(&self) -> Option<(Arc<dyn model::env::Clock>, Duration)> {
        Some((self.env.clock.clone(), self.settings.timeout))
    }

    /// What it said of itself; a question that comes before the first probe asks for it.
    async fn info(&self) -> Result<Arc<EndpointInfo>, SelectError> {
        let health = self.health.read().clone();
        health.check(self.env.clock.monotonic())?;
        match health.info {
            Some(info) => Ok(info),
            None => self.probe().await,
        }
    }

    /// Waits for a call, and remembers how it went.
    async fn call<T>(&self, call: impl Future<Output = Result<T, SelectError>> + Send) -> Result<T, SelectError> {
        let answer = within(self.timeout(), Box::pin(call)).await;
        match &answer {
            Ok(_) => self.health.write().served(),
            // Asking for too much says nothing about the endpoint.
            Err(SelectError::Limit(_) | SelectError::Canceled(_)) => {}
            Err(error) => self.health.write().failed(error, self.env.clock.monotonic()),
        }
        answer
    }
}

/// What one tenant may read from an endpoint.
struct RemoteSelect {
    endpoint: Arc<Shared>,
    tenant: Tenant,
}

impl RemoteSelect {
    /// How to ask; `None` when there is nothing to ask for.
    async fn scope(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
    ) -> Result<Option<(Arc<EndpointInfo>, Scope)>, SelectError> {
        let info = self.endpoint.info().await?;
        let scope = scope(&info, &self.endpoint.settings, &self.tenant, matchers, range)?;
        Ok(scope.map(|scope| (info, scope)))
    }

    async fn select_inner(&self, mut request: SelectRequest) -> Result<Box<dyn SeriesSet>, SelectError> {
        let empty = || Box::new(ReadySet::new(Vec::new(), Vec::new()));
        let Some((info, scope)) = self.scope(&request.matchers, request.range).await? else {
            return Ok(empty());
        };
        request.matchers = scope.matchers;
        let strip_here = !scope.without.is_empty() && !info.strips_labels;
        let without: &[String] = if strip_here { &[] } else { &scope.without };
        if strip_here {
            request.limit = 0;
        }
        let endpoint = &self.endpoint;
        let stream = endpoint
            .call(endpoint.client.series(&self.tenant, &request, without))
            .await?;
        let set = RemoteSet {
            endpoint: endpoint.clone(),
            stream: Some(stream),
            pending: None,
            warnings: Vec::new(),
            blocks: Vec::new(),
        };
        if strip_here {
            return resorted(set, &scope.without).await;
        }
        Ok(Box::new(set))
    }

    async fn label_names_inner(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> Result<LabelList, SelectError> {
        let Some((_, scope)) = self.scope(&matchers, range).await? else {
            return Ok(LabelList::default());
        };
        let endpoint = &self.endpoint;
        let names = endpoint.client.label_names(&self.tenant, &scope.matchers, range, limit);
        let mut list = endpoint.call(names).await?;
        list.items.retain(|name| !scope.without.contains(name));
        Ok(self.in_order(list))
    }

    async fn label_values_inner(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> Result<LabelList, SelectError> {
        let Some((_, scope)) = self.scope(&matchers, range).await? else {
            return Ok(LabelList::default());
        };
        if scope.without.contains(&name) {
            return Ok(LabelList::default());
        }
        let endpoint = &self.endpoint;
        let values = endpoint
            .client
            .label_values(&self.tenant, &name, &scope.matchers, range, limit);
        Ok(self.in_order(endpoint.call(values).await?))
    }

    /// Lists come sorted from those who keep the contract.
    fn in_order(&self, mut list: LabelList) -> LabelList {
        list.items.sort();
        list.items.dedup();
        self.told(list)
    }

    /// The list with the endpoint's name in its warnings.
    fn told<T>(&self, mut list: Listed<T>) -> Listed<T> {
        for warning in &mut list.warnings {
            *warning = self.endpoint.told(warning);
        }
        list
    }

    async fn exemplars_inner(
        &self,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> Result<Listed<ExemplarSeries>, SelectError> {
        let mut asked = Vec::new();
        let mut without = Vec::new();
        for matchers in &selectors {
            let Some((info, scope)) = self.scope(matchers, range).await? else {
                continue;
            };
            if info.serves_exemplars {
                asked.push(scope.matchers);
                without = scope.without;
            }
        }
        if asked.is_empty() {
            return Ok(Listed::default());
        }
        let endpoint = &self.endpoint;
        let mut found = endpoint
            .call(endpoint.client.exemplars(&self.tenant, &asked, range))
            .await?;
        for series in &mut found.items {
            series.labels = series.labels.without(|name| without.iter().any(|label| label == name));
        }
        Ok(self.told(found))
    }

    async fn metadata_inner(&self, family: Option<String>) -> Result<Listed<Metadata>, SelectError> {
        let endpoint = &self.endpoint;
        // A component that does not know tenants would show those of all.
        let info = endpoint.info().await?;
        let own = info.isolates_tenants || self.tenant == endpoint.settings.default_tenant;
        if !info.serves_metadata || !own {
            return Ok(Listed::default());
        }
        let found = endpoint.client.metadata(&self.tenant, family.as_deref());
        Ok(self.told(endpoint.call(found).await?))
    }
}

impl Shared {
    /// A warning of the endpoint, with its name.
    fn told(&self, warning: &str) -> String {
        format!("{}: {warning}", self.origin)
    }
}

impl Select for RemoteSelect {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(self.select_inner(request))
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(self.label_names_inner(matchers, range, limit))
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(self.label_values_inner(name, matchers, range, limit))
    }

    fn exemplars(
        &self,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'_, Result<Listed<ExemplarSeries>, SelectError>> {
        Box::pin(self.exemplars_inner(selectors, range))
    }

    fn metadata(&self, family: Option<String>) -> BoxFuture<'_, Result<Listed<Metadata>, SelectError>> {
        Box::pin(self.metadata_inner(family))
    }
}

/// An answer of an endpoint, frame by frame.
struct RemoteSet {
    endpoint: Arc<Shared>,
    /// `None` after the end.
    stream: Option<SeriesStream>,
    /// The last series of the frame before: more of its chunks may follow.
    pending: Option<(Labels, Vec<Chunk>)>,
    warnings: Vec<String>,
    blocks: Vec<String>,
}

impl RemoteSet {
    /// The series that are complete after the next frame.
    async fn next_batch(&mut self) -> Result<Vec<Series>, SelectError> {
        let mut out = Vec::new();
        while out.is_empty() {
            let Some(stream) = &mut self.stream else { break };
            let frame = async { stream.next().await.transpose() };
            let Some(frame) = self.endpoint.call(frame).await? else {
                (self.warnings, self.blocks) = (stream.warnings().to_vec(), stream.blocks().to_vec());
                self.stream = None;
                self.finish(&mut out);
                break;
            };
            for series in frame {
                match &mut self.pending {
                    Some((labels, chunks)) if *labels == series.labels => chunks.extend(series.chunks),
                    _ => {
                        self.finish(&mut out);
                        self.pending = Some((series.labels, series.chunks));
                    }
                }
            }
        }
        Ok(out)
    }

    fn finish(&mut self, out: &mut Vec<Series>) {
        if let Some((labels, chunks)) = self.pending.take() {
            out.push(Series {
                labels,
                samples: Box::new(ChunkSamples::new(chunks, self.endpoint.origin.clone())),
            });
        }
    }
}

impl SeriesSet for RemoteSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async move {
            let batch = self.next_batch().await;
            if batch.is_err() {
                self.stream = None;
                self.pending = None;
            }
            batch
                .map(|series| Some(series).filter(|series| !series.is_empty()))
                .transpose()
        })
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings
            .iter()
            .map(|warning| self.endpoint.told(warning))
            .collect()
    }

    fn blocks(&self) -> Vec<String> {
        self.blocks.clone()
    }
}

/// All series of an answer without some labels, in the order that is then theirs.
async fn resorted(mut set: RemoteSet, without: &[String]) -> Result<Box<dyn SeriesSet>, SelectError> {
    let mut all = Vec::new();
    while let Some(batch) = set.next().await {
        all.extend(batch?.into_iter().map(|series| Series {
            labels: series.labels.without(|name| without.iter().any(|label| label == name)),
            samples: series.samples,
        }));
        if all.len() > RESORTED_SERIES_MAX {
            let text = format!("the query finds more than {RESORTED_SERIES_MAX} series; narrow it down");
            return Err(SelectError::Limit(text));
        }
    }
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    Ok(Box::new(ReadySet::remade(all, &set)))
}
