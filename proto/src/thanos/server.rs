//! Serves a [`SelectTenants`] to whoever speaks StoreAPI.
//!
//! Answers are streamed: the next batch is taken from the source when the caller has room for it, and a caller that goes away
//! takes its answer along. What one call may keep in memory is a batch of the source and a frame.

mod frames;
mod places;

use super::{MESSAGE_BYTES_MAX, convert, message as wire};
use axum::{Router, body::Body, routing::post};
use frames::{Frames, Shard, panicked, step, whole};
use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use model::{
    label::Labels,
    matcher::Matcher,
    select::{ExemplarSeries, Hints, ReadySet, Select, SelectError, SelectRequest, SelectTenants, Series, SeriesSet},
    tenant::{Tenant, tenant_of},
    time::TimeRange,
};
use places::Places;
use prost::Message;
use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Answers with series that are given at the same time unless something else is set. Thanos's number.
const CONCURRENCY_DEFAULT: usize = 20;

/// Bytes of an answer that must be put in order in memory, at most.
const GATHERED_BYTES_MAX: usize = 256 << 20;

/// Reads the selectors out of an expression, for exemplars, of which the wire has only the expression.
pub type ParseSelectors = fn(&str) -> Result<Vec<Vec<Matcher>>, String>;

/// What a process says of itself, so that a querier knows when to ask it.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// What kind of component it is, in Thanos's words: `receive`, `store`, `query`.
    pub component: &'static str,
    /// External labels of what it holds, set by set. Empty when anything may be there.
    pub label_sets: Vec<Labels>,
    /// The span of what it holds.
    pub range: TimeRange,
}

/// What is served.
#[derive(Clone)]
pub struct StoreService {
    select: Arc<dyn SelectTenants>,
    describe: Arc<dyn Fn() -> Option<Description> + Send + Sync>,
    selectors: ParseSelectors,
    places: Places,
}

impl StoreService {
    /// Serves `select`. While `describe` gives `None` the process is starting, and is asked for nothing.
    pub fn new(
        select: Arc<dyn SelectTenants>,
        describe: impl Fn() -> Option<Description> + Send + Sync + 'static,
        selectors: ParseSelectors,
    ) -> Self {
        Self {
            select,
            describe: Arc::new(describe),
            selectors,
            places: Places::new(CONCURRENCY_DEFAULT),
        }
    }

    /// The same with another bound on the answers with series that are given at the same time.
    pub fn with_concurrency(mut self, count: usize) -> Self {
        self.places = Places::new(count);
        self
    }
}

type Answer<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// The gRPC methods of `service`, to be served by [`crate::grpc::serve`].
pub fn routes(service: StoreService) -> Router {
    let router = unary(Router::new(), "/thanos.info.Info/Info", &service, info);
    let router = unary(router, "/thanos.Store/LabelNames", &service, label_names);
    let router = unary(router, "/thanos.Store/LabelValues", &service, label_values);
    let router = streaming(router, "/thanos.Store/Series", &service, answer_series);
    let router = streaming(router, "/thanos.Exemplars/Exemplars", &service, exemplars);
    streaming(router, "/thanos.Metadata/MetricMetadata", &service, metadata)
}

/// Adds a method that answers once.
fn unary<Q, A, F>(
    router: Router,
    path: &str,
    service: &StoreService,
    method: fn(StoreService, Request<Q>) -> F,
) -> Router
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let service = service.clone();
    let serve = move |request: http::Request<Body>| {
        let service = service.clone();
        async move {
            let call = tower::service_fn(move |request: Request<Q>| {
                let answer = method(service.clone(), request);
                let answer = AssertUnwindSafe(answer).catch_unwind();
                async move { answer.await.unwrap_or_else(|_| Err(panicked())).map(Response::new) }
            });
            let codec = ProstCodec::<A, Q>::default();
            tonic::server::Grpc::new(codec)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .unary(call, request)
                .await
        }
    };
    router.route(path, post(serve))
}

/// Adds a method that answers with a stream.
fn streaming<Q, A, F>(
    router: Router,
    path: &str,
    service: &StoreService,
    method: fn(StoreService, Request<Q>) -> F,
) -> Router
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Future<Output = Result<Answer<A>, Status>> + Send + 'static,
{
    let service = service.clone();
    let serve = move |request: http::Request<Body>| {
        let service = service.clone();
        async move {
            let call = tower::service_fn(move |request: Request<Q>| {
                let answer = method(service.clone(), request);
                let answer = AssertUnwindSafe(answer).catch_unwind();
                async move { answer.await.unwrap_or_else(|_| Err(panicked())).map(Response::new) }
            });
            let codec = ProstCodec::<A, Q>::default();
            tonic::server::Grpc::new(codec)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .server_streaming(call, request)
                .await
        }
    };
    router.route(path, post(serve))
}

fn tenant<Q>(request: &Request<Q>) -> Result<Tenant, Status> {
    let metadata = request.metadata();
    tenant_of(|name| metadata.get(name).and_then(|value| value.to_str().ok()))
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

async fn info(service: StoreService, _request: Request<wire::InfoRequest>) -> Result<wire::InfoResponse, Status> {
    let Some(description) = (service.describe)() else {
        return Err(Status::unavailable("the process is starting"));
    };
    let (min_time, max_time) = (description.range.min, description.range.max);
    let label_sets: Vec<_> = description.label_sets.iter().map(convert::labels_to_wire).collect();
    let tsdb_infos = label_sets.iter().map(|labels| wire::TsdbInfo {
        labels: Some(labels.clone()),
        min_time,
        max_time,
    });
    Ok(wire::InfoResponse {
        component_type: description.component.to_owned(),
        store: Some(wire::StoreInfo {
            min_time,
            max_time,
            supports_sharding: true,
            supports_without_replica_labels: true,
            tsdb_infos: tsdb_infos.collect(),
        }),
        label_sets,
        metric_metadata: Some(wire::Served {}),
        exemplars: Some(wire::ExemplarsInfo { min_time, max_time }),
        narthex: Some(wire::NarthexInfo { isolates_tenants: true }),
    })
}

async fn label_names(
    service: StoreService,
    request: Request<wire::LabelNamesRequest>,
) -> Result<wire::LabelNamesResponse, Status> {
    let select = service.select.tenant(&tenant(&request)?);
    let request = request.into_inner();
    let matchers = convert::matchers_from_wire(&request.matchers)?;
    let (range, limit) = (TimeRange::new(request.start, request.end), limit_of(request.limit));
    let mut list = select
        .label_names(matchers, range, limit)
        .await
        .map_err(|error| convert::status_of(&error))?;
    whole(request.partial_response_strategy, &list.warnings)?;
    list.items.retain(|name| !request.without_replica_labels.contains(name));
    Ok(wire::LabelNamesResponse {
        names: list.items,
        warnings: list.warnings,
        hints: None,
    })
}

async fn label_values(
    service: StoreService,
    request: Request<wire::LabelValuesRequest>,
) -> Result<wire::LabelValuesResponse, Status> {
    let select = service.select.tenant(&tenant(&request)?);
    let request = request.into_inner();
    if request.label.is_empty() {
        return Err(Status::invalid_argument("label name is empty"));
    }
    if request.without_replica_labels.contains(&request.label) {
        return Ok(wire::LabelValuesResponse::default());
    }
    let matchers = convert::matchers_from_wire(&request.matchers)?;
    let (range, limit) = (TimeRange::new(request.start, request.end), limit_of(request.limit));
    let list = select
        .label_values(request.label, matchers, range, limit)
        .await
        .map_err(|error| convert::status_of(&error))?;
    whole(request.partial_response_strategy, &list.warnings)?;
    Ok(wire::LabelValuesResponse {
        values: list.items,
        warnings: list.warnings,
        hints: None,
    })
}

/// A limit from the wire; 0 and nonsense mean none.
fn limit_of(limit: i64) -> usize {
    usize::try_from(limit).unwrap_or(0)
}

async fn exemplars(
    service: StoreService,
    request: Request<wire::ExemplarsRequest>,
) -> Result<Answer<wire::ExemplarsResponse>, Status> {
    let select = service.select.tenant(&tenant(&request)?);
    let request = request.into_inner();
    let selectors = (service.selectors)(&request.query).map_err(Status::invalid_argument)?;
    let found = select
        .exemplars(selectors, TimeRange::new(request.start, request.end))
        .await
        .map_err(|error| convert::status_of(&error))?;
    whole(request.partial_response_strategy, &found.warnings)?;
    let data = |series: ExemplarSeries| wire::ExemplarsResult::Data(convert::exemplars_to_wire(&series));
    let warnings = found.warnings.into_iter().map(wire::ExemplarsResult::Warning);
    let results = found.items.into_iter().map(data).chain(warnings);
    let frames = results.map(|result| Ok(wire::ExemplarsResponse { result: Some(result) }));
    Ok(futures::stream::iter(frames).boxed())
}

async fn metadata(
    service: StoreService,
    request: Request<wire::MetadataRequest>,
) -> Result<Answer<wire::MetadataResponse>, Status> {
    let select = service.select.tenant(&tenant(&request)?);
    let request = request.into_inner();
    let family = Some(request.metric).filter(|metric| !metric.is_empty());
    let found = select
        .metadata(family)
        .await
        .map_err(|error| convert::status_of(&error))?;
    whole(request.partial_response_strategy, &found.warnings)?;
    let map = convert::metadata_to_wire(found.items, limit_of(i64::from(request.limit)));
    let warnings = found.warnings.into_iter().map(wire::MetadataResult::Warning);
    let results = std::iter::once(wire::MetadataResult::Metadata(map)).chain(warnings);
    let frames = results.map(|result| Ok(wire::MetadataResponse { result: Some(result) }));
    Ok(futures::stream::iter(frames).boxed())
}

async fn answer_series(
    service: StoreService,
    request: Request<wire::SeriesRequest>,
) -> Result<Answer<wire::SeriesResponse>, Status> {
    let select = service.select.tenant(&tenant(&request)?);
    let request = request.into_inner();
    if request.matchers.is_empty() {
        return Err(Status::invalid_argument(
            "no matchers specified (excluding external labels)",
        ));
    }
    let matchers = convert::matchers_from_wire(&request.matchers)?;
    let blocks = block_hints(request.hints.as_ref())?;
    let place = service.places.enter().await?;
    let shard = Shard::new(request.shard_info.as_ref())?;
    let own_limit = shard.is_none() && request.without_replica_labels.is_empty();
    let asked = SelectRequest {
        labels_only: request.skip_chunks,
        limit: if own_limit { limit_of(request.limit) } else { 0 },
        blocks: blocks.clone().unwrap_or_default(),
        hints: hints(request.query_hints.as_ref()),
        ..SelectRequest::new(matchers, TimeRange::new(request.min_time, request.max_time))
    };
    let set = open(select, asked, &request.without_replica_labels)
        .await
        .map_err(|error| convert::status_of(&error))?;
    let frames = Frames::new(set, &request, shard, blocks.is_some(), place);
    Ok(futures::stream::try_unfold(frames, step).boxed())
}

/// The blocks that the caller means; `None` when it gave no hints of this kind.
fn block_hints(hints: Option<&wire::Any>) -> Result<Option<Vec<Matcher>>, Status> {
    let Some(hints) = hints.filter(|hints| hints.is_a(wire::REQUEST_HINTS)) else {
        return Ok(None);
    };
    let hints = wire::SeriesRequestHints::decode(hints.value.clone())
        .map_err(|error| Status::invalid_argument(format!("unmarshal series request hints: {error}")))?;
    convert::matchers_from_wire(&hints.block_matchers).map(Some)
}

fn hints(hints: Option<&wire::QueryHints>) -> Hints {
    let Some(hints) = hints else { return Hints::default() };
    Hints {
        step_ms: hints.step_millis,
        range_ms: hints.range.as_ref().map_or(0, |range| range.millis),
        function: hints
            .function
            .as_ref()
            .map_or_else(String::new, |function| function.name.clone()),
        grouping: hints
            .grouping
            .as_ref()
            .map_or_else(Vec::new, |grouping| grouping.labels.clone()),
        by: hints.grouping.as_ref().is_some_and(|grouping| grouping.by),
        ..Hints::default()
    }
}

/// Begins to read. Without labels that series carry the order is another, so then all series are gathered first.
async fn open(
    select: Arc<dyn Select>,
    request: SelectRequest,
    without: &[String],
) -> Result<Box<dyn SeriesSet>, SelectError> {
    let is_dropped = |name: &str| without.iter().any(|label| label == name);
    let mut reorders = false;
    if !without.is_empty() {
        let names = select.label_names(request.matchers.clone(), request.range, 0).await?;
        // A list that lacks something may lack one of them.
        reorders = !names.warnings.is_empty() || names.items.iter().any(|name| is_dropped(name));
    }
    let mut set = select.select(request).await?;
    if !reorders {
        return Ok(Box::new(Holding { set, _select: select }));
    }
    let (mut all, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = set.next().await {
        for Series { labels, samples } in batch? {
            let labels = labels.without(is_dropped);
            bytes += size_of::<Series>() + labels.text_len() + samples.held_bytes();
            all.push(Series { labels, samples });
        }
        if bytes > GATHERED_BYTES_MAX {
            let text = format!("the answer has more than {GATHERED_BYTES_MAX} bytes");
            let why = format!("without {} it is put in order in memory", without.join(", "));
            return Err(SelectError::Limit(format!("{text}, and {why}; narrow it down")));
        }
    }
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    Ok(Box::new(ReadySet::remade(all, &*set)))
}

/// An answer that keeps its source alive, as it may read on from it.
struct Holding {
    set: Box<dyn SeriesSet>,
    _select: Arc<dyn Select>,
}

impl SeriesSet for Holding {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        self.set.next()
    }

    fn warnings(&self) -> Vec<String> {
        self.set.warnings()
    }

    fn blocks(&self) -> Vec<String> {
        self.set.blocks()
    }
}

#[cfg(test)]
mod tests;
