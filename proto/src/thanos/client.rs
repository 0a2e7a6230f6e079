//! Asks another process for series, in model's nouns.
//!
//! The querier builds a source of each endpoint upon it. Nothing is read ahead beyond the window of the connection, so a slow
//! reader slows the other side down; dropping a stream cancels it over there.

use super::{
    MESSAGE_BYTES_MAX, TENANT_KEY, convert,
    message::{self as wire, SeriesResult},
    series::{self, WireSeries},
};
use crate::grpc::causes;
use crate::grpc::security::Security;
use http::uri::PathAndQuery;
use model::{
    label::{Labels, LabelsBuilder},
    matcher::Matcher,
    metadata::Metadata,
    select::{ExemplarSeries, LabelList, Listed, SelectError, SelectRequest},
    tenant::Tenant,
    time::TimeRange,
};
use prost::Message;
use std::time::Duration;
use tonic::{
    Request, Streaming,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

/// Series in a frame that we ask for, as Thanos's querier does.
const BATCH_SERIES: i64 = 64;

/// A peer that does not take our call by then counts as gone.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// How often an idle connection is tried, and how long its answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIME_MAX: Duration = Duration::from_secs(5);

/// What may be on its way to us at once: of one answer, and of all answers of a connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Families and exemplars that one answer may carry.
const ITEMS_MAX: usize = 1_000_000;

/// How to speak to endpoints behind TLS. All as PEM.
#[derive(Debug, Clone, Default)]
pub struct ClientTls {
    /// Who signs their certificates; the system's authorities when `None`.
    pub authority: Option<Vec<u8>>,
    /// Our certificate and key, for endpoints that ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in their certificates when it is not that of the address.
    pub server_name: Option<String>,
}

fn endpoint(scheme: &str, address: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"));
    Ok(endpoint
        .map_err(|_| format!("{address:?} is no HOST:PORT"))?
        .connect_timeout(CONNECT_TIME_MAX)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIME_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// What an endpoint says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointInfo {
    /// What kind of component it is.
    pub component: String,
    /// External labels of what it holds. Empty when anything may be there.
    pub label_sets: Vec<Labels>,
    /// The span of what it holds.
    pub range: TimeRange,
    /// Whether it serves series at all.
    pub serves_series: bool,
    /// Whether it serves exemplars.
    pub serves_exemplars: bool,
    /// Whether it serves metadata.
    pub serves_metadata: bool,
    /// Whether it can leave labels out before it sorts.
    pub strips_labels: bool,
    /// Whether it shows a caller only what belongs to the tenant in the call's metadata. Thanos's components do not.
    pub isolates_tenants: bool,
}

/// A connection to an endpoint, made when it is first needed and made again when it breaks.
#[derive(Debug, Clone)]
pub struct StoreClient {
    channel: Channel,
}

impl StoreClient {
    /// A client of `host:port`. Must be called inside of the runtime. Only what can be wrong with the address or the certificates is
    /// an error here.
    pub fn new(address: &str, tls: Option<&ClientTls>) -> Result<Self, String> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = endpoint(scheme, address)?.tcp_nodelay(true);
        let endpoint = match tls {
            None => endpoint,
            Some(tls) => endpoint
                .tls_config(tls_config(tls))
                .map_err(|error| format!("certificates for {address}: {error}"))?,
        };
        Ok(Self {
            channel: endpoint.connect_lazy(),
        })
    }

    /// A client of another node of the same cluster.
    pub fn of_node(address: &str, security: &Security) -> Result<Self, String> {
        Ok(Self {
            channel: endpoint("http", address)?.connect_with_connector_lazy(security.connector()),
        })
    }

    /// What the endpoint serves.
    pub async fn info(&self) -> Result<EndpointInfo, SelectError> {
        let request = Request::new(wire::InfoRequest {});
        let info: wire::InfoResponse = self.unary(request, "/thanos.info.Info/Info").await?;
        let label_sets = info.label_sets.iter().map(convert::labels_from_wire);
        let label_sets = label_sets
            .collect::<Result<Vec<Labels>, _>>()
            .map_err(|status| convert::error_of(&status))?;
        let store = info.store.as_ref();
        Ok(EndpointInfo {
            component: info.component_type,
            label_sets,
            range: store.map_or(TimeRange::ALL, |store| TimeRange::new(store.min_time, store.max_time)),
            serves_series: store.is_some(),
            serves_exemplars: info.exemplars.is_some(),
            serves_metadata: info.metric_metadata.is_some(),
            strips_labels: store.is_some_and(|store| store.supports_without_replica_labels),
            isolates_tenants: info.narthex.is_some_and(|narthex| narthex.isolates_tenants),
        })
    }

    /// Series that match, without the labels in `without`, sorted.
    pub async fn series(
        &self,
        tenant: &Tenant,
        request: &SelectRequest,
        without: &[String],
    ) -> Result<SeriesStream, SelectError> {
        let (min_time, max_time) = convert::range_to_wire(request.range);
        let hints = &request.hints;
        let message = wire::SeriesRequest {
            min_time,
            max_time,
            matchers: request.matchers.iter().map(convert::matcher_to_wire).collect(),
            aggregates: vec![wire::Aggregate::Raw as i32],
            partial_response_strategy: wire::PartialResponse::Warn as i32,
            skip_chunks: request.labels_only,
            query_hints: Some(wire::QueryHints {
                step_millis: hints.step_ms,
                function: Some(&hints.function)
                    .filter(|name| !name.is_empty())
                    .map(|name| wire::Function { name: name.clone() }),
                grouping: (!hints.grouping.is_empty() || hints.by).then(|| wire::Grouping {
                    by: hints.by,
                    labels: hints.grouping.clone(),
                }),
                range: (hints.range_ms > 0).then_some(wire::Range { millis: hints.range_ms }),
            }),
            without_replica_labels: without.to_vec(),
            limit: i64::try_from(request.limit).unwrap_or(i64::MAX),
            hints: block_hints(&request.blocks),
            response_batch_size: BATCH_SERIES,
            ..wire::SeriesRequest::default()
        };
        let frames = self.streaming(tagged(message, tenant)?, "/thanos.Store/Series").await?;
        Ok(SeriesStream {
            frames: Some(frames),
            builder: LabelsBuilder::default(),
            warnings: Vec::new(),
            blocks: Vec::new(),
        })
    }

    /// Names of labels of the series that match.
    pub async fn label_names(
        &self,
        tenant: &Tenant,
        matchers: &[Matcher],
        range: TimeRange,
        limit: usize,
    ) -> Result<LabelList, SelectError> {
        let (start, end) = convert::range_to_wire(range);
        let request = wire::LabelNamesRequest {
            start,
            end,
            matchers: matchers.iter().map(convert::matcher_to_wire).collect(),
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
            ..wire::LabelNamesRequest::default()
        };
        let answer: wire::LabelNamesResponse = self.unary(tagged(request, tenant)?, "/thanos.Store/LabelNames").await?;
        Ok(LabelList {
            items: answer.names,
            warnings: answer.warnings,
        })
    }

    /// Values of a label of the series that match.
    pub async fn label_values(
        &self,
        tenant: &Tenant,
        name: &str,
        matchers: &[Matcher],
        range: TimeRange,
        limit: usize,
    ) -> Result<LabelList, SelectError> {
        let (start, end) = convert::range_to_wire(range);
        let request = wire::LabelValuesRequest {
            label: name.to_owned(),
            start,
            end,
            matchers: matchers.iter().map(convert::matcher_to_wire).collect(),
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
            ..wire::LabelValuesRequest::default()
        };
        let answer: wire::LabelValuesResponse = self
            .unary(tagged(request, tenant)?, "/thanos.Store/LabelValues")
            .await?;
        Ok(LabelList {
            items: answer.values,
            warnings: answer.warnings,
        })
    }

    /// Exemplars of the series that match any of the selectors.
    pub async fn exemplars(
        &self,
        tenant: &Tenant,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Listed<ExemplarSeries>, SelectError> {
        let (start, end) = convert::range_to_wire(range);
        let request = wire::ExemplarsRequest {
            query: convert::selectors_to_query(selectors),
            start,
            end,
            partial_response_strategy: wire::PartialResponse::Warn as i32,
        };
        let mut frames: Streaming<wire::ExemplarsResponse> = self
            .streaming(tagged(request, tenant)?, "/thanos.Exemplars/Exemplars")
            .await?;
        let mut found = Listed::default();
        let failed = |status| convert::error_of(&status);
        while let Some(frame) = frames.message().await.map_err(failed)? {
            match frame.result {
                Some(wire::ExemplarsResult::Data(data)) => {
                    found.items.push(convert::exemplars_from_wire(&data).map_err(failed)?);
                }
                Some(wire::ExemplarsResult::Warning(warning)) => found.warnings.push(warning),
                None => {}
            }
            if found.items.len() + found.warnings.len() > ITEMS_MAX {
                return Err(SelectError::Limit(format!(
                    "more than {ITEMS_MAX} series with exemplars"
                )));
            }
        }
        Ok(found)
    }

    /// Metadata of metric families.
    pub async fn metadata(&self, tenant: &Tenant, family: Option<&str>) -> Result<Listed<Metadata>, SelectError> {
        let request = wire::MetadataRequest {
            metric: family.unwrap_or("").to_owned(),
            // Less than 0 is no limit to Thanos, 0 is nothing at all.
            limit: -1,
            partial_response_strategy: wire::PartialResponse::Warn as i32,
        };
        let mut frames: Streaming<wire::MetadataResponse> = self
            .streaming(tagged(request, tenant)?, "/thanos.Metadata/MetricMetadata")
            .await?;
        let mut found = Listed::default();
        while let Some(frame) = frames.message().await.map_err(|status| convert::error_of(&status))? {
            match frame.result {
                Some(wire::MetadataResult::Metadata(map)) => found.items.extend(convert::metadata_from_wire(map)),
                Some(wire::MetadataResult::Warning(warning)) => found.warnings.push(warning),
                None => {}
            }
            if found.items.len() + found.warnings.len() > ITEMS_MAX {
                return Err(SelectError::Limit(format!(
                    "metadata of more than {ITEMS_MAX} families"
                )));
            }
        }
        Ok(found)
    }

    async fn unary<Q, A>(&self, request: Request<Q>, path: &'static str) -> Result<A, SelectError>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| convert::error_of(&status))
    }

    async fn streaming<Q, A>(&self, request: Request<Q>, path: &'static str) -> Result<Streaming<A>, SelectError>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc
            .server_streaming(request, PathAndQuery::from_static(path), codec)
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| convert::error_of(&status))
    }

    async fn ready(&self) -> Result<tonic::client::Grpc<Channel>, SelectError> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        match grpc.ready().await {
            Ok(()) => Ok(grpc),
            Err(error) => Err(SelectError::Unavailable(causes(&error))),
        }
    }
}

/// Names the blocks that are asked; nothing where all are.
fn block_hints(blocks: &[Matcher]) -> Option<wire::Any> {
    let hints = wire::SeriesRequestHints {
        block_matchers: blocks.iter().map(convert::matcher_to_wire).collect(),
    };
    (!blocks.is_empty()).then(|| wire::Any {
        type_url: wire::REQUEST_HINTS.to_owned(),
        value: hints.encode_to_vec().into(),
    })
}

/// The blocks that an endpoint tells of; hints of other kinds are none of ours.
fn blocks_of(hints: &wire::Any) -> Vec<String> {
    let told = hints
        .is_a(wire::RESPONSE_HINTS)
        .then(|| wire::SeriesResponseHints::decode(hints.value.clone()));
    let blocks = told.and_then(Result::ok).unwrap_or_default().queried_blocks;
    blocks.into_iter().map(|block| block.id).collect()
}

fn tls_config(tls: &ClientTls) -> ClientTlsConfig {
    let config = match &tls.authority {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    let config = match &tls.identity {
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
        None => config,
    };
    match &tls.server_name {
        Some(name) => config.domain_name(name),
        None => config,
    }
}

/// A request in the name of a tenant.
fn tagged<Q>(message: Q, tenant: &Tenant) -> Result<Request<Q>, SelectError> {
    let mut request = Request::new(message);
    let id = MetadataValue::try_from(tenant.as_str())
        .map_err(|_| SelectError::Unavailable(format!("tenant {tenant} cannot be named in a call")))?;
    request.metadata_mut().insert(TENANT_KEY, id);
    Ok(request)
}

/// An answer with series, as it comes.
pub struct SeriesStream {
    /// `None` after the end.
    frames: Option<Streaming<wire::SeriesResponse>>,
    builder: LabelsBuilder,
    warnings: Vec<String>,
    blocks: Vec<String>,
}

impl SeriesStream {
    /// The series of the next frame that has some; `None` after the last. Neighbours with equal labels, also of two frames, are
    /// parts of one series.
    pub async fn next(&mut self) -> Option<Result<Vec<WireSeries>, SelectError>> {
        loop {
            let frames = self.frames.as_mut()?;
            let result = match frames.message().await {
                Ok(Some(frame)) => frame.result,
                Ok(None) => {
                    self.frames = None;
                    return None;
                }
                Err(status) => {
                    self.frames = None;
                    return Some(Err(convert::error_of(&status)));
                }
            };
            let encoded = match result {
                Some(SeriesResult::Series(series)) => vec![series],
                Some(SeriesResult::Batch(batch)) => batch.series,
                Some(SeriesResult::Warning(warning)) => {
                    self.warnings.push(warning);
                    continue;
                }
                Some(SeriesResult::Hints(hints)) => {
                    self.blocks.extend(blocks_of(&hints));
                    continue;
                }
                None => continue,
            };
            let decoded: Result<Vec<WireSeries>, _> = encoded
                .iter()
                .map(|bytes| series::decode(bytes, &mut self.builder))
                .collect();
            match decoded {
                Ok(series) if series.is_empty() => {}
                Ok(series) => return Some(Ok(series)),
                Err(error) => {
                    self.frames = None;
                    return Some(Err(SelectError::Corrupt(error.to_string())));
                }
            }
        }
    }

    /// What the endpoint says is missing, so far.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The blocks that the endpoint looked into, if blocks were named in the question.
    pub fn blocks(&self) -> &[String] {
        &self.blocks
    }
}
