//! Serves a [`SelectTenants`] to whoever speaks StoreAPI.
//!
//! Answers are streamed: the next batch is taken from the source when the caller has room for it, and a caller that goes away
//! takes its answer along. What one call may keep in memory is a batch of the source and a frame.

use super::{
    MESSAGE_BYTES_MAX, convert,
    message::{self as wire, SeriesResult},
    series,
};
use axum::{Router, body::Body, routing::post};
use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use model::{
    label::Labels,
    matcher::Matcher,
    select::{Chunk, Hints, ReadySet, Samples, Select, SelectError, SelectRequest, SelectTenants, Series, SeriesSet},
    tenant::{Tenant, tenant_of},
    time::TimeRange,
};
use prost::Message;
use std::{collections::VecDeque, panic::AssertUnwindSafe, pin::Pin, sync::Arc, vec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Bytes of chunks in a frame, about: as much as Thanos puts into one.
const FRAME_BYTES: usize = 1 << 20;

/// Series in a frame, however many a caller asks for.
const FRAME_SERIES_MAX: usize = 1024;

/// Answers with series that are given at the same time; more wait. Thanos's number.
const SERIES_CALLS_MAX: usize = 20;

/// How hints name themselves, before the slash of which anything may stand.
const REQUEST_HINTS: &str = "/hintspb.SeriesRequestHints";
const RESPONSE_HINTS: &str = "type.googleapis.com/hintspb.SeriesResponseHints";

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
    places: Arc<Semaphore>,
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
            places: Arc::new(Semaphore::new(SERIES_CALLS_MAX)),
        }
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

/// A panic is our fault, and ends one call and not the process.
fn panicked() -> Status {
    Status::internal("the answer could not be made; the log of the process says why")
}

fn tenant<Q>(request: &Request<Q>) -> Result<Tenant, Status> {
    let metadata = request.metadata();
    tenant_of(|name| metadata.get(name).and_then(|value| value.to_str().ok()))
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

/// An answer that must be whole, and is not.
fn whole(strategy: i32, warnings: &[String]) -> Result<(), Status> {
    match warnings.first() {
        Some(warning) if strategy == wire::PartialResponse::Abort as i32 => Err(Status::aborted(warning.clone())),
        _ => Ok(()),
    }
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
    let frames = found.into_iter().map(|series| {
        let data = convert::exemplars_to_wire(&series);
        Ok(wire::ExemplarsResponse {
            result: Some(wire::ExemplarsResult::Data(data)),
        })
    });
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
    let map = convert::metadata_to_wire(found, limit_of(i64::from(request.limit)));
    let frame = wire::MetadataResponse {
        result: Some(wire::MetadataResult::Metadata(map)),
    };
    Ok(futures::stream::iter([Ok(frame)]).boxed())
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
    let place = service.places.clone().acquire_owned().await;
    let place = place.map_err(|_| Status::unavailable("the process is stopping"))?;
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
    let left = match limit_of(request.limit) {
        0 => usize::MAX,
        limit => limit,
    };
    let frames = Frames {
        set: Some(set),
        batch: Vec::new().into_iter(),
        parts: VecDeque::new(),
        range: TimeRange::new(request.min_time, request.max_time),
        labels_only: request.skip_chunks,
        shard,
        left,
        frame_series: usize::try_from(request.response_batch_size)
            .unwrap_or(0)
            .clamp(1, FRAME_SERIES_MAX),
        strategy: request.partial_response_strategy,
        warnings: Vec::new().into_iter(),
        tells_blocks: blocks.is_some(),
        blocks: None,
        _place: place,
    };
    Ok(futures::stream::try_unfold(frames, step).boxed())
}

/// The blocks that the caller means; `None` when it gave no hints of this kind.
fn block_hints(hints: Option<&wire::Any>) -> Result<Option<Vec<Matcher>>, Status> {
    let Some(hints) = hints.filter(|hints| hints.type_url.ends_with(REQUEST_HINTS)) else {
        return Ok(None);
    };
    let hints = wire::SeriesRequestHints::decode(hints.value.clone())
        .map_err(|error| Status::invalid_argument(format!("unmarshal series request hints: {error}")))?;
    convert::matchers_from_wire(&hints.block_matchers).map(Some)
}

/// The frame that ends an answer whose caller gave hints.
fn blocks_told(blocks: Vec<String>) -> SeriesResult {
    let queried_blocks = blocks.into_iter().map(|id| wire::Block { id }).collect();
    SeriesResult::Hints(wire::Any {
        type_url: RESPONSE_HINTS.to_owned(),
        value: wire::SeriesResponseHints { queried_blocks }.encode_to_vec().into(),
    })
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

/// Begins to read. Without some labels the order is another, so then all labels are gathered first.
async fn open(
    select: Arc<dyn Select>,
    request: SelectRequest,
    without: &[String],
) -> Result<Box<dyn SeriesSet>, SelectError> {
    let set = select.select(request).await?;
    if without.is_empty() {
        return Ok(Box::new(Holding { set, _select: select }));
    }
    let mut set = set;
    let mut all = Vec::new();
    while let Some(batch) = set.next().await {
        all.extend(batch?.into_iter().map(|series| Series {
            labels: series.labels.without(|name| without.iter().any(|label| label == name)),
            samples: series.samples,
        }));
    }
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    Ok(Box::new(ReadySet::new(all, set.warnings())))
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

/// Which share of the series the caller wants.
struct Shard {
    index: u64,
    count: u64,
    by: bool,
    labels: Vec<String>,
}

impl Shard {
    fn new(info: Option<&wire::ShardInfo>) -> Result<Option<Self>, Status> {
        let Some(info) = info.filter(|info| info.total_shards > 1) else {
            return Ok(None);
        };
        let index = u64::try_from(info.shard_index).ok();
        let count = info.total_shards.unsigned_abs();
        let Some(index) = index.filter(|index| *index < count) else {
            let text = format!("shard {} of {count} does not exist", info.shard_index);
            return Err(Status::invalid_argument(text));
        };
        Ok(Some(Self {
            index,
            count,
            by: info.by,
            labels: info.labels.clone(),
        }))
    }

    fn holds(&self, labels: &Labels) -> bool {
        let counted = labels.filtered(|name| self.labels.iter().any(|label| label == name) == self.by);
        counted.stable_hash() % self.count == self.index
    }
}

/// An answer that becomes frames, one at a time.
struct Frames {
    /// `None` after its end.
    set: Option<Box<dyn SeriesSet>>,
    batch: vec::IntoIter<Series>,
    /// Of the series at hand the parts that are not sent yet.
    parts: VecDeque<(Labels, Vec<Chunk>)>,
    range: TimeRange,
    labels_only: bool,
    shard: Option<Shard>,
    /// Series that may still be sent.
    left: usize,
    frame_series: usize,
    strategy: i32,
    warnings: vec::IntoIter<String>,
    /// Whether the answer ends with the blocks that it is from.
    tells_blocks: bool,
    /// Those blocks, once they are known.
    blocks: Option<Vec<String>>,
    /// Held as long as the answer lasts.
    _place: OwnedSemaphorePermit,
}

type Step = Result<Option<(wire::SeriesResponse, Frames)>, Status>;

async fn step(mut frames: Frames) -> Step {
    let frame = AssertUnwindSafe(frames.next()).catch_unwind().await;
    let frame = frame.unwrap_or_else(|_| Err(panicked()))?;
    Ok(frame.map(|result| (wire::SeriesResponse { result: Some(result) }, frames)))
}

impl Frames {
    async fn next(&mut self) -> Result<Option<SeriesResult>, Status> {
        loop {
            let frame = self.gather()?;
            if frame.is_some() {
                return Ok(frame);
            }
            let Some(set) = &mut self.set else {
                let warning = self.warnings.next().map(SeriesResult::Warning);
                return Ok(warning.or_else(|| self.blocks.take().map(blocks_told)));
            };
            match set.next().await {
                Some(Ok(batch)) if self.left > 0 => self.batch = batch.into_iter(),
                Some(Err(error)) => return Err(convert::status_of(&error)),
                _ => {
                    let warnings = set.warnings();
                    whole(self.strategy, &warnings)?;
                    self.warnings = warnings.into_iter();
                    self.blocks = self.tells_blocks.then(|| set.blocks());
                    self.set = None;
                }
            }
        }
    }

    /// A frame of what is at hand; `None` when nothing is.
    fn gather(&mut self) -> Result<Option<SeriesResult>, Status> {
        let mut series = Vec::new();
        let mut bytes = 0;
        while series.len() < self.frame_series && bytes < FRAME_BYTES {
            let Some((labels, chunks)) = self.next_part()? else {
                break;
            };
            let encoded = series::encode(&labels, &chunks);
            bytes += encoded.len();
            series.push(encoded);
        }
        Ok(match series.len() {
            0 => None,
            _ if self.frame_series > 1 => Some(SeriesResult::Batch(wire::SeriesBatch { series })),
            _ => series.pop().map(SeriesResult::Series),
        })
    }

    /// The next series, or the next part of one with many chunks.
    fn next_part(&mut self) -> Result<Option<(Labels, Vec<Chunk>)>, Status> {
        while self.parts.is_empty() {
            if self.left == 0 {
                self.batch = Vec::new().into_iter();
            }
            let Some(series) = self.batch.next() else {
                return Ok(None);
            };
            if self.shard.as_ref().is_some_and(|shard| !shard.holds(&series.labels)) {
                continue;
            }
            self.split(series)?;
        }
        Ok(self.parts.pop_front())
    }

    /// Takes a series apart into pieces that fit a frame.
    fn split(&mut self, series: Series) -> Result<(), Status> {
        if self.labels_only {
            self.parts.push_back((series.labels, Vec::new()));
            self.left -= 1;
            return Ok(());
        }
        let mut chunks = wanted(&*series.samples, self.range)?.into_iter().peekable();
        // A series without a chunk in the range is none.
        self.left -= usize::from(chunks.peek().is_some());
        while chunks.peek().is_some() {
            let mut part: Vec<Chunk> = Vec::new();
            let mut bytes = 0;
            while let Some(chunk) = chunks.next_if(|_| bytes < FRAME_BYTES) {
                bytes += chunk.data.len();
                part.push(chunk);
            }
            self.parts.push_back((series.labels.clone(), part));
        }
        Ok(())
    }
}

/// The chunks of a series that hold something of the range.
fn wanted(samples: &dyn Samples, range: TimeRange) -> Result<Vec<Chunk>, Status> {
    let mut chunks = samples.chunks().map_err(|error| convert::status_of(&error))?;
    chunks.retain(|chunk| range.overlaps(TimeRange::new(chunk.min_time, chunk.max_time)));
    Ok(chunks)
}

#[cfg(test)]
mod tests;
