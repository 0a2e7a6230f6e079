//! One write from its first check to its answer: negotiate, decompress, gather, push, settle, answer.
//!
//! The HTTP layer calls [`Receiver::write`], and so do tests, without a socket. It is safe to drop the future at any
//! await: what was pushed is stored or not, and the sender, which got no answer, sends it again.

use crate::{
    answer::WriteAnswer,
    budget::{Budget, Reservation},
    gather::{Broken, Request, Slice, symbols::SymbolTable, v1, v2},
    limits::{Allowance, LimitMetrics, LimitSource, TenantLimits, TooMuch},
    metrics::{KindLabel, Metrics, ReasonId, ReasonLabel, RequestLabels},
    negotiate::{self, Refusal, Version},
    rejections::RejectionLog,
    resolve::{Resolver, Routes},
    settings::ReceiverSettings,
    shape::Shaping,
    tally::{Tally, Written},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use model::env::Env;
use model::push::{Push, PushError, WriteOutcome};
use model::tenant::Tenant;
use model::time::Timestamp;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use proto::compression::{CompressionError, Decompressor, Encoding};
use std::sync::Arc;
use std::time::Duration;

/// Scratch memory that is kept for requests to come, and how much of it each may keep.
const POOL_MAX: usize = 64;
const POOLED_BYTES_MAX: usize = 8 << 20;

/// After how long a sender may come again when memory is short.
const OVERLOAD_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What gzip and headerless zstd are thought to unfold to before it is known.
const ASSUMED_RATIO: usize = 20;

/// Takes remote write requests and hands them on.
pub struct Receiver {
    pub(crate) env: Env,
    pub(crate) settings: ReceiverSettings,
    pub(crate) budget: Arc<Budget>,
    pub(crate) metrics: Metrics,
    resolver: Resolver,
    push: Arc<dyn Push>,
    limits: Arc<TenantLimits>,
    shaping: RwLock<Option<Arc<Shaping>>>,
    log: RejectionLog,
    pool: Mutex<Vec<Scratch>>,
}

/// A write as it came.
#[derive(Debug, Clone, Default)]
pub struct WriteRequest {
    /// Headers of the request.
    pub headers: HeaderMap,
    /// The tenant that the path names, if it does.
    pub tenant: Option<String>,
    /// Whether credentials named the tenant, so that the label of a series cannot name another one.
    pub bound: bool,
    /// The body as it came over the wire.
    pub body: Bytes,
}

/// Memory of one request, used again by later ones.
#[derive(Default)]
struct Scratch {
    decompressor: Decompressor,
    symbols: SymbolTable,
    slice: Slice,
}

/// Why a request ends early.
enum Stop {
    Refused(StatusCode, String),
    Unavailable(String, Duration),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal.status, refusal.text)
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Stop::Refused(StatusCode::BAD_REQUEST, broken.0)
    }
}

impl From<PushError> for Stop {
    fn from(error: PushError) -> Self {
        let PushError::Unavailable { reason, retry_after } = error;
        Stop::Unavailable(reason, retry_after)
    }
}

impl From<CompressionError> for Stop {
    fn from(error: CompressionError) -> Self {
        let status = match error {
            CompressionError::WrongEncoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            CompressionError::TooLarge { .. } | CompressionError::Corrupt { .. } | CompressionError::SnappyFramed => {
                StatusCode::BAD_REQUEST
            }
        };
        Stop::Refused(status, error.to_string())
    }
}

impl Receiver {
    /// A receiver that hands everything to `push`.
    pub fn new(env: Env, settings: ReceiverSettings, push: Arc<dyn Push>, registry: &mut Registry) -> Arc<Self> {
        let limits = Arc::<TenantLimits>::default();
        registry.register_collector(Box::new(LimitMetrics {
            limits: Arc::clone(&limits),
            clock: env.clock.clone(),
        }));
        Arc::new(Self {
            budget: Budget::new(settings.in_flight_bytes_max),
            metrics: Metrics::new(registry),
            resolver: Resolver::new(&*env.rng, settings.spellings_max, settings.tenants_max),
            push,
            limits,
            shaping: RwLock::default(),
            log: RejectionLog::default(),
            pool: Mutex::default(),
            env,
            settings,
        })
    }

    /// A receiver beside this one, for what was shaped and replicated elsewhere: it hands everything to `push`, knows no limits of tenants
    /// and no rules, and shares memory and metrics with this one.
    pub fn beside(&self, push: Arc<dyn Push>) -> Arc<Self> {
        let settings = self.settings.clone();
        Arc::new(Self {
            env: self.env.clone(),
            budget: Arc::clone(&self.budget),
            metrics: self.metrics.clone(),
            resolver: Resolver::new(&*self.env.rng, settings.spellings_max, settings.tenants_max),
            push,
            limits: Arc::default(),
            shaping: RwLock::default(),
            log: RejectionLog::default(),
            pool: Mutex::default(),
            settings,
        })
    }

    /// Applies the limits of tenants that `source` gives from now on.
    pub fn limit_by(&self, source: Arc<dyn LimitSource>) {
        self.limits.follow(source);
    }

    /// Shapes series by these rules from now on. Routes rest on the old rules and are forgotten, after the new ones are in place.
    pub fn shape_by(&self, shaping: Shaping) {
        let shaping = Some(Arc::new(shaping)).filter(|shaping| !shaping.is_empty());
        *self.shaping.write() = shaping;
        self.resolver.forget();
    }

    /// Takes one request and answers it.
    pub async fn write(&self, request: WriteRequest) -> WriteAnswer {
        let begun = self.env.clock.monotonic();
        let mut tally = Tally::default();
        let version = negotiate::version(&request.headers);
        let result = match &version {
            Ok(version) => self.process(*version, &request, &mut tally).await,
            Err(refusal) => Err(refusal.clone().into()),
        };
        let answer = self
            .answer(result, &tally)
            .with_written(*version.as_ref().unwrap_or(&Version::V1), tally.written);
        self.observe(version.map_or("unknown", Version::as_str), &answer, &tally);
        self.metrics
            .request_seconds
            .observe(self.env.clock.monotonic().saturating_sub(begun).as_secs_f64());
        answer
    }

    /// The answer to a request that never came to its end: too large, too slow, or one too many.
    pub(crate) fn answer_unread(&self, headers: &HeaderMap, answer: WriteAnswer) -> WriteAnswer {
        let version = negotiate::version(headers).unwrap_or(Version::V1);
        let answer = answer.with_written(version, Written::default());
        self.observe(version.as_str(), &answer, &Tally::default());
        answer
    }

    /// Not now: too many bytes are in progress.
    pub(crate) fn overloaded(&self) -> WriteAnswer {
        self.metrics.overloads.inc();
        let text = format!(
            "overloaded: requests in progress hold {} of {} bytes; send again later",
            self.budget.used(),
            self.budget.max()
        );
        WriteAnswer::unavailable(text, OVERLOAD_RETRY_AFTER, &*self.env.rng)
    }

    async fn process(&self, version: Version, request: &WriteRequest, tally: &mut Tally) -> Result<(), Stop> {
        let tenant = negotiate::tenant(&request.headers, request.tenant.as_deref())?;
        let encoding = negotiate::encoding(&request.headers)?;
        let allowance = self.limits.allowance(&tenant, &self.settings.labels);
        self.admit_request(&tenant, &allowance, request.body.len())?;
        let received = self.env.clock.now();
        let mut reservation = self.budget.reservation();
        let mut scratch = self.scratch();
        let Scratch {
            decompressor,
            symbols,
            slice,
        } = &mut scratch.inner;
        let body = self.decompress(encoding, &request.body, decompressor, &mut reservation)?;
        symbols.clear();
        if version == Version::V2 {
            let resolver = &self.resolver;
            let is_repeated = |table| resolver.is_repeated_table(table);
            symbols.read(body, resolver.hasher(), self.settings.symbols_max, is_repeated)?;
            if !reservation.resize(body.len() + symbols.bytes()) {
                return Err(self.out_of_memory());
            }
        }
        // The routes before the rules: whoever got new routes sees new rules.
        let routes = self.resolver.routes(&tenant);
        let shaping = self.shaping.read().clone();
        let request = Request {
            version,
            body,
            symbols,
            hasher: self.resolver.hasher(),
            limits: &allowance.labels,
            samples_max: allowance.samples_max,
            series_max: allowance.series_max,
            type_and_unit_labels: self.settings.type_and_unit_labels,
            shaping: shaping.as_deref(),
            bound: request.bound,
        };
        slice.batch.tenant = tenant.clone();
        let stored = self.store(received, &request, &routes, slice, tally).await;
        let others = tally.counts.elsewhere;
        self.limits
            .sent(&tenant, &allowance, tally.counts.seen.saturating_sub(others));
        self.log.note(&tally.rejections, &tenant, self.env.clock.monotonic());
        stored?;
        if tally.counts.own_fields == 0 && tally.counts.foreign_fields > 0 {
            return Err(other_version(version));
        }
        Ok(())
    }

    /// Turns requests away that their tenant may not send, or not now.
    fn admit_request(&self, tenant: &Tenant, allowance: &Allowance, body_bytes: usize) -> Result<(), Stop> {
        if let Some(max) = allowance.body_bytes_max.filter(|max| body_bytes > *max) {
            self.metrics.count_limited("request_bytes");
            let text = format!("the tenant's limit is {max} bytes in one request; let the sender make smaller ones");
            return Err(Stop::Refused(StatusCode::BAD_REQUEST, text));
        }
        let now = self.env.clock.monotonic();
        self.limits.may_send(tenant, allowance, now).map_err(|too_much| {
            let (text, wait) = match too_much {
                TooMuch::Tenant(wait) => (
                    format!("tenant {tenant} has sent more samples per second than its limit"),
                    wait,
                ),
                TooMuch::Process(wait) => ("this node takes no more samples per second".to_owned(), wait),
            };
            self.metrics.count_limited("samples_per_second");
            Stop::Unavailable(text + "; send again later", wait)
        })
    }

    /// Walks the request and pushes it, slice by slice.
    async fn store(
        &self,
        received: Timestamp,
        request: &Request<'_>,
        routes: &Routes,
        slice: &mut Slice,
        tally: &mut Tally,
    ) -> Result<(), Stop> {
        let mut v1_entries = proto::remote_write::v1::entries(request.body);
        let mut v2_entries = proto::remote_write::v2::entries(request.body);
        let mut limited = None;
        let mut more = true;
        while more {
            slice.clear();
            let rejections = &mut tally.rejections;
            let filled = match request.version {
                Version::V1 => v1::fill(&mut v1_entries, request, routes, slice, rejections),
                Version::V2 => v2::fill(&mut v2_entries, request, routes, slice, rejections),
            };
            more = filled?;
            slice.admit_missing(request, rejections)?;
            tally.met(slice.counts);
            self.check_size(request, tally)?;
            self.push(slice, received, request, routes, tally).await?;
            if !slice.elsewhere.is_empty() {
                let others = std::mem::take(&mut slice.elsewhere);
                limited = self.push_others(others, received, request, tally).await?.or(limited);
            }
        }
        limited.map_or(Ok(()), Err)
    }

    /// Errs when the request has more in it than its tenant may send at once.
    fn check_size(&self, request: &Request<'_>, tally: &Tally) -> Result<(), Stop> {
        let counts = &tally.counts;
        for (limit, what, max, found) in [
            ("request_samples", "samples", request.samples_max, counts.seen),
            (
                "request_series",
                "series",
                request.series_max,
                counts.hits + counts.misses,
            ),
        ] {
            if let Some(max) = max.filter(|max| found > *max) {
                self.metrics.count_limited(limit);
                let text =
                    format!("the tenant's limit is {max} {what} in one request; let the sender make smaller ones");
                return Err(Stop::Refused(StatusCode::BAD_REQUEST, text));
            }
        }
        Ok(())
    }

    /// Pushes series that belong to other tenants than the request. A tenant that may not send now costs the others nothing, but the
    /// request is answered so that it comes again, which is what is handed back.
    async fn push_others(
        &self,
        others: Vec<Slice>,
        received: Timestamp,
        request: &Request<'_>,
        tally: &mut Tally,
    ) -> Result<Option<Stop>, Stop> {
        let mut limited = None;
        let mut parts = Vec::with_capacity(others.len());
        for mut slice in others {
            let tenant = slice.batch.tenant.clone();
            let allowance = self.limits.allowance(&tenant, &self.settings.labels);
            if let Err(stop) = self.admit_request(&tenant, &allowance, 0) {
                limited = Some(stop);
                continue;
            }
            self.limits.sent(&tenant, &allowance, slice.samples());
            let routes = self.resolver.routes(&tenant);
            slice.take_routes(&mut routes.reader());
            parts.push((slice, routes));
        }
        // At the same time, so that they share an fsync.
        let pushes = parts.iter().map(|(slice, _)| self.push.push(&slice.batch, received));
        let outcomes = futures::future::join_all(pushes).await;
        for ((slice, routes), outcome) in parts.iter().zip(outcomes) {
            self.settle(slice, outcome?, received, request, routes, tally).await?;
        }
        Ok(limited)
    }

    /// Pushes a slice.
    async fn push(
        &self,
        slice: &Slice,
        received: Timestamp,
        request: &Request<'_>,
        routes: &Routes,
        tally: &mut Tally,
    ) -> Result<(), Stop> {
        if slice.batch.series.is_empty() && slice.batch.metadata.is_empty() {
            return Ok(());
        }
        let outcome = self.push.push(&slice.batch, received).await?;
        self.settle(slice, outcome, received, request, routes, tally).await
    }

    /// Counts what became of a slice, and pushes with labels what the taker does not know by number.
    async fn settle(
        &self,
        slice: &Slice,
        outcome: WriteOutcome,
        received: Timestamp,
        request: &Request<'_>,
        routes: &Routes,
        tally: &mut Tally,
    ) -> Result<(), Stop> {
        tally.settle(slice, &outcome, request);
        self.learn(slice, &outcome, routes);
        if outcome.unknown.is_empty() {
            return Ok(());
        }
        tally.refused_routes += outcome.unknown.len() as u64;
        let again = slice.with_labels(&outcome.unknown, request, &mut tally.rejections)?;
        if !again.elsewhere.is_empty() {
            let text = "the rules that name tenants have changed meanwhile; send again";
            return Err(Stop::Unavailable(text.to_owned(), OVERLOAD_RETRY_AFTER));
        }
        let outcome = self.push.push(&again.batch, received).await?;
        if !outcome.unknown.is_empty() {
            let text = "the taker does not know series that were sent with their labels";
            return Err(Stop::Unavailable(text.to_owned(), OVERLOAD_RETRY_AFTER));
        }
        tally.settle(&again, &outcome, request);
        self.learn(&again, &outcome, routes);
        Ok(())
    }

    /// Remembers the numbers that an outcome gave.
    fn learn(&self, slice: &Slice, outcome: &WriteOutcome, routes: &Routes) {
        if outcome.refs.is_empty() && slice.to_learn.is_empty() {
            return;
        }
        let mut learnt = slice.to_learn.clone();
        // In the order of the request, so that the routes lie in memory as they will be asked for.
        let mut refs = outcome.refs.clone();
        refs.sort_unstable();
        for (series, reference) in refs {
            if let Some(origin) = slice.origins.get(series as usize) {
                learnt.push((origin.key, reference));
            }
        }
        self.resolver.learn(routes, &learnt);
        self.metrics.spellings.set(self.resolver.spellings() as i64);
    }

    /// Decompresses a body after memory for it was reserved.
    fn decompress<'a>(
        &self,
        encoding: Encoding,
        body: &'a [u8],
        decompressor: &'a mut Decompressor,
        reservation: &mut Reservation,
    ) -> Result<&'a [u8], Stop> {
        let limit = self.settings.decoded_bytes_max;
        let declared = Decompressor::declared_len(encoding, body);
        let expected = declared.map_or(body.len().saturating_mul(ASSUMED_RATIO), |declared| declared as usize);
        if !reservation.resize(expected.min(limit)) {
            return Err(self.out_of_memory());
        }
        let decoded = decompressor.decompress(encoding, body, limit)?;
        if !reservation.resize(decoded.len()) {
            return Err(self.out_of_memory());
        }
        self.metrics.body_bytes.inc_by(body.len() as u64);
        self.metrics.decoded_bytes.inc_by(decoded.len() as u64);
        Ok(decoded)
    }

    fn out_of_memory(&self) -> Stop {
        self.metrics.overloads.inc();
        Stop::Unavailable(
            format!(
                "overloaded: requests in progress hold {} of {} bytes; send again later",
                self.budget.used(),
                self.budget.max()
            ),
            OVERLOAD_RETRY_AFTER,
        )
    }

    fn answer(&self, result: Result<(), Stop>, tally: &Tally) -> WriteAnswer {
        match result {
            Ok(()) if tally.rejections.is_empty() => WriteAnswer::stored(),
            Ok(()) => WriteAnswer {
                is_partial: true,
                ..WriteAnswer::refused(StatusCode::BAD_REQUEST, tally.rejections.text(tally.counts.seen))
            },
            Err(Stop::Refused(status, text)) => WriteAnswer::refused(status, text),
            Err(Stop::Unavailable(text, retry_after)) => WriteAnswer::unavailable(text, retry_after, &*self.env.rng),
        }
    }

    fn observe(&self, version: &'static str, answer: &WriteAnswer, tally: &Tally) {
        let metrics = &self.metrics;
        let labels = RequestLabels {
            version,
            code: answer.status.as_u16(),
        };
        metrics.requests.get_or_create(&labels).inc();
        let written = tally.written;
        for (kind, count) in [
            ("float", written.floats),
            ("histogram", written.histograms),
            ("exemplar", written.exemplars),
        ] {
            if count > 0 {
                metrics.written.get_or_create(&KindLabel { kind }).inc_by(count);
            }
        }
        for (reason, count) in tally.rejections.counts() {
            metrics
                .rejected
                .get_or_create(&ReasonLabel {
                    reason: ReasonId(reason),
                })
                .inc_by(count);
        }
        metrics.dropped_samples.inc_by(tally.counts.dropped_samples);
        metrics.dropped_exemplars.inc_by(tally.counts.dropped_exemplars);
        metrics.dropped_metadata.inc_by(tally.counts.dropped_metadata);
        metrics.route_hits.inc_by(tally.counts.hits);
        metrics.route_misses.inc_by(tally.counts.misses);
        metrics.routes_refused.inc_by(tally.refused_routes);
        metrics.in_flight_bytes.set(self.budget.used() as i64);
    }

    fn scratch(&self) -> Pooled<'_> {
        Pooled {
            inner: self.pool.lock().pop().unwrap_or_default(),
            pool: &self.pool,
        }
    }
}

/// Scratch memory on loan; it goes back to the pool unless it grew too large.
struct Pooled<'a> {
    inner: Scratch,
    pool: &'a Mutex<Vec<Scratch>>,
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        let Scratch {
            decompressor,
            symbols,
            slice,
        } = &self.inner;
        if decompressor.retained_bytes() + symbols.retained_bytes() + slice.retained_bytes() > POOLED_BYTES_MAX {
            return;
        }
        let scratch = std::mem::take(&mut self.inner);
        let mut pool = self.pool.lock();
        if pool.len() < POOL_MAX {
            pool.push(scratch);
        }
    }
}

/// The body speaks the other version than its content type says. By the letter it is an empty request, but to answer
/// success would lose what it holds.
fn other_version(version: Version) -> Stop {
    let (says, is) = match version {
        Version::V1 => (Version::V1, Version::V2),
        Version::V2 => (Version::V2, Version::V1),
    };
    Stop::Refused(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!(
            "the Content-Type header says remote write {}, but the body is a message of remote write {}",
            says.as_str(),
            is.as_str()
        ),
    )
}
