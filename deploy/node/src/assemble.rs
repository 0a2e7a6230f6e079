//! Parts become a process: builds what the settings ask for, from the bottom of the data flow to its top.
//!
//! Everything the parts do to the world goes through the [`Env`] passed in; a simulation calls the same function.

use crate::{
    admin::{self, Admin},
    discover::{self, Discovery, SystemDns},
    limits::{LimitBook, SeriesMetrics},
    members, objstore,
    ring::Membership,
    role::Role,
    settings::Settings,
    status::Status,
    tenancy,
    web::Web,
};
use anyhow::Context;
use axum::Router;
use ingest::{IngestSettings, Ingester, OutOfOrderWindows, SeriesLimits, SyncPolicy};
use model::{
    env::Env,
    label::Labels,
    select::{Select, SelectTenants},
    tenant::Tenant,
    time::TimeRange,
};
use prometheus_client::registry::Registry;
use proto::{
    grpc::{Routes, thanos_write::WriteableStore},
    thanos::{Description, StoreService},
};
use querier::{Dedup, EndpointSet, Fanout, Policy, Querier, QuerierSettings, Source};
use receiver::{Receiver, ReceiverSettings};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use storage::{
    external::WithExternalLabels,
    gateway::{Gateway, GatewaySettings},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a power loss may take under `--wal.sync interval`.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// How soon a bucket that could not be listed is tried again, at most.
const SYNC_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// How often a replay is asked whether it is over.
const READINESS_PAUSE: Duration = Duration::from_millis(20);

/// A process put together, not yet listening.
pub struct Assembly {
    /// Everything it serves over HTTP.
    pub router: Router,
    /// Everything it answers over gRPC.
    pub services: Routes,
    /// Whether HTTP is served over TLS.
    pub web: Arc<Web>,
    /// The bucket in words; empty without one.
    pub bucket_shown: String,
    ready: watch::Receiver<bool>,
    ingester: Option<Arc<Ingester>>,
    membership: Option<Arc<Membership>>,
}

/// Where a process listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Its HTTP.
    pub http: SocketAddr,
    /// Its gRPC.
    pub grpc: SocketAddr,
}

impl Assembly {
    /// Becomes true once everything is served.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Call after the last request has ended. It is quick: nothing is uploaded, and a kill instead of it loses nothing acknowledged.
    pub async fn shutdown(&self) {
        if let Some(membership) = &self.membership {
            membership.shutdown().await;
        }
        if let Some(ingester) = &self.ingester {
            ingester.shutdown().await;
        }
    }
}

/// What a process reads from by itself.
struct Local {
    ingester: Option<Arc<Ingester>>,
    gateway: Option<Arc<Gateway>>,
    bucket_shown: String,
    /// External labels of the head.
    external: Labels,
}

/// Builds a process with this role, which will be reached at `addresses`. Background work ends when `stop` is cancelled.
pub async fn assemble(
    role: Role,
    settings: &Settings,
    addresses: Addresses,
    env: Env,
    stop: CancellationToken,
) -> anyhow::Result<Assembly> {
    let mut registry = Registry::default();
    crate::metrics::register(&mut registry, env.clock.now() as f64 / 1000.0);
    let book = Arc::<LimitBook>::default();
    if let Some(path) = &settings.tenancy.limits_file {
        book.follow_file(path.clone(), &env, stop.clone())?;
    }
    let local = open_local(role, settings, &book, &env, &mut registry)?;
    let policy = match settings.query_partial_response {
        true => Policy::Partial,
        false => Policy::Strict,
    };
    let fanout = Fanout::new(Vec::new()).with_policy(policy).with_metrics(&mut registry);
    fanout.set_sources(local.sources(), 0);
    let fanout = Arc::new(fanout);
    let endpoints = Arc::new(EndpointSet::new(
        env.clone(),
        discover::endpoint_settings(settings, &*env.fs)?,
        "endpoints",
        false,
        fanout.clone(),
    ));
    let discovered = follow_endpoints(role, settings, &endpoints, &env, &stop)?;
    let synced = local
        .gateway
        .clone()
        .map(|gateway| follow_bucket(gateway, settings.store_sync_interval, &env, stop.clone()));
    let synced = synced.filter(|_| role == Role::Store);
    let membership = match &local.ingester {
        Some(ingester) => {
            Some(Membership::open(role, settings, addresses.grpc, ingester.clone(), &env, &mut registry).await?)
        }
        None => None,
    };
    if let Some(membership) = &membership {
        book.follow_ring(membership.clone());
        membership.follow(settings, stop.clone());
        let members = EndpointSet::new(
            env.clone(),
            discover::endpoint_settings(settings, &*env.fs)?,
            "ring",
            true,
            fanout.clone(),
        );
        let (members, interval) = (Arc::new(members), settings.endpoint_interval);
        members::follow(
            membership.clone(),
            members,
            fanout.clone(),
            interval,
            &env,
            stop.clone(),
        );
    }
    let parts = [discovered, synced];
    let ready = follow_readiness(local.ingester.clone(), membership.clone(), parts, &env, stop.clone());

    // Endpoints are not passed on by a process that has data of its own: two that name each other would ask in circles.
    let shared: Arc<dyn SelectTenants> = match role {
        Role::Query => fanout.clone(),
        Role::All | Role::Receive | Role::Store => {
            let own = Fanout::new(Vec::new()).with_policy(policy);
            own.set_sources(local.sources(), 0);
            Arc::new(own)
        }
    };
    let describe = describe(role, &local, &endpoints, ready.clone());
    let service = StoreService::new(shared, describe, querier::endpoint::selectors_of);

    let mut router = Router::new();
    let mut thanos = None;
    if let Some(membership) = &membership {
        let taker = membership.replicator.clone();
        let receiver = Receiver::new(env.clone(), receiver_settings(settings), taker, &mut registry);
        receiver.limit_by(book.clone());
        tenancy::shape(&receiver, &settings.tenancy, &env, &stop)?;
        let near = receiver.beside(membership.near());
        thanos = Some(WriteableStore::new(receiver::thanos::taker(receiver.clone(), near)));
        router = router.merge(receiver::http::routes(receiver));
        router = router.merge(crate::ring::http::routes(membership.clone()));
    }
    if role.queries() {
        let status = Arc::new(Status::new(settings, &env, local.ingester.clone()));
        let settings = querier_settings(settings);
        let querier = Querier::new(env.clone(), settings, fanout, status, &mut registry);
        router = router.merge(querier::http::routes(querier));
    }
    let web = tenancy::open_web(&settings.tenancy, &env, &stop)?;
    let admin = Arc::new(Admin {
        ready: ready.clone(),
        ingester: local.ingester.clone(),
        gateway: local.gateway.clone(),
        registry,
        address: addresses.http,
        membership: membership.clone(),
        admin_api: settings.web_enable_admin_api,
    });
    let router = router.merge(admin::routes(admin));
    Ok(Assembly {
        router: tenancy::guard(router, &settings.tenancy, &web, &env)?,
        web,
        services: services_of(service, membership.as_deref().zip(thanos)),
        bucket_shown: local.bucket_shown,
        ready,
        ingester: local.ingester,
        membership,
    })
}

/// Opens what the role keeps or reads by itself.
fn open_local(
    role: Role,
    settings: &Settings,
    book: &Arc<LimitBook>,
    env: &Env,
    registry: &mut Registry,
) -> anyhow::Result<Local> {
    let mut local = Local {
        ingester: None,
        gateway: None,
        bucket_shown: String::new(),
        external: Labels::new(settings.labels.iter().map(|(name, value)| (name, value)))
            .context("the labels given by --label")?,
    };
    let configured = settings.objstore_config.is_some() || settings.objstore_config_file.is_some();
    if !role.reads_bucket(configured) {
        return Ok(local);
    }
    let bucket = objstore::open(settings, env)?;
    let gateway_settings = gateway_settings(settings, env)?;
    let gateway = Gateway::new(env.clone(), bucket.store.clone(), gateway_settings, registry);
    local.gateway = Some(Arc::new(gateway));
    local.bucket_shown = bucket.shown;
    if role.ingests() {
        let ingester = Ingester::open(env.clone(), ingest_settings(settings, book), bucket.store, registry)?;
        registry.register_collector(Box::new(SeriesMetrics {
            book: book.clone(),
            ingester: ingester.clone(),
        }));
        local.ingester = Some(ingester);
    }
    Ok(local)
}

impl Local {
    /// The head is one of the copies that the members of a ring hold.
    fn sources(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        if let Some(ingester) = &self.ingester {
            let head = HeadWithLabels {
                ingester: ingester.clone(),
                external: self.external.clone(),
            };
            sources.push(Source::replica("head", Arc::new(head)));
        }
        if let Some(gateway) = &self.gateway {
            sources.push(Source::sole("bucket", gateway.clone()));
        }
        sources
    }
}

/// Everything that is answered over gRPC.
fn services_of(service: StoreService, taking: Option<(&Membership, WriteableStore)>) -> Routes {
    let store = proto::thanos::routes(service);
    match taking {
        Some((membership, thanos)) => {
            let services = membership.services().add_service(thanos);
            Routes::from(services.into_axum_router().merge(store))
        }
        None => Routes::from(store),
    }
}

/// What the process says of itself to queriers; nothing until it is ready.
fn describe(
    role: Role,
    local: &Local,
    endpoints: &Arc<EndpointSet>,
    ready: watch::Receiver<bool>,
) -> impl Fn() -> Option<Description> + Send + Sync + 'static {
    let (gateway, endpoints) = (local.gateway.clone(), endpoints.clone());
    let head = local.ingester.is_some().then(|| local.external.clone());
    move || {
        if !*ready.borrow() {
            return None;
        }
        let mut sets: BTreeSet<Labels> = head.iter().cloned().collect();
        // What is in the head cannot be told without looking at every series.
        let mut range = head.as_ref().map_or(NOTHING, |_| TimeRange::ALL);
        if let Some((labels, blocks)) = gateway.as_ref().map(|gateway| gateway.holds()) {
            sets.extend(labels);
            range = TimeRange::new(range.min.min(blocks.min), range.max.max(blocks.max));
        }
        let mut label_sets: Vec<Labels> = sets.into_iter().collect();
        if role == Role::Query {
            let (labels, held) = endpoints.holds();
            range = TimeRange::new(range.min.min(held.min), range.max.max(held.max));
            // No label sets mean that anything may be there, which must not be narrowed.
            match labels.is_empty() && held != NOTHING {
                true => label_sets.clear(),
                false => label_sets.extend(labels),
            }
        }
        Some(Description {
            component: role.component(),
            label_sets,
            range,
        })
    }
}

/// The span that holds nothing.
const NOTHING: TimeRange = TimeRange::new(i64::MAX, i64::MIN);

/// Begins to look for endpoints, where the role has any; the answer turns true after the first round.
fn follow_endpoints(
    role: Role,
    settings: &Settings,
    endpoints: &Arc<EndpointSet>,
    env: &Env,
    stop: &CancellationToken,
) -> anyhow::Result<Option<watch::Receiver<bool>>> {
    if !role.queries() || (settings.endpoints.is_empty() && settings.endpoint_files.is_empty()) {
        return Ok(None);
    }
    let discovery = Discovery::new(settings, env.fs.clone(), Arc::new(SystemDns::new()?))?;
    let interval = settings.endpoint_interval;
    Ok(Some(discover::follow(
        discovery,
        endpoints.clone(),
        interval,
        env,
        stop.clone(),
    )))
}

fn gateway_settings(settings: &Settings, env: &Env) -> anyhow::Result<GatewaySettings> {
    let store = &settings.store;
    Ok(GatewaySettings {
        min_time: store.store_min_time,
        max_time: store.store_max_time,
        writes_manifest: store.store_manifest,
        selector: objstore::selector(store, env)?,
        consistency_delay: store.store_consistency_delay,
        deletion_marks_delay: store.store_ignore_deletion_marks_delay,
        cache_memory_bytes: store.store_cache_memory_bytes,
        cache_disk_bytes: store.store_cache_disk_bytes,
        query_series_max: store.store_series_max,
        query_chunks_max: store.store_chunks_max,
        query_bytes_max: store.store_query_bytes_max,
        ..GatewaySettings::new(settings.data_dir.join("gateway"))
    })
}

fn ingest_settings(settings: &Settings, book: &Arc<LimitBook>) -> IngestSettings {
    let (windows, series, all) = (book.clone(), book.clone(), book.clone());
    let window = OutOfOrderWindows::all(settings.write_out_of_order_window);
    IngestSettings {
        external_labels: settings.labels.clone(),
        future_max: settings.write_future_max,
        out_of_order: window.with_tenants(move |tenant| windows.window_of(tenant)),
        series_limits: SeriesLimits::new(move |tenant| series.series_of(tenant), move || all.series_of_process()),
        sync: match settings.wal_sync.as_str() {
            "interval" => SyncPolicy::Interval(SYNC_INTERVAL),
            "never" => SyncPolicy::Never,
            _ => SyncPolicy::EveryWrite,
        },
        ..IngestSettings::new(&settings.data_dir)
    }
}

fn receiver_settings(settings: &Settings) -> ReceiverSettings {
    ReceiverSettings {
        body_bytes_max: settings.write_body_bytes_max,
        decoded_bytes_max: settings.write_body_bytes_max,
        ..ReceiverSettings::default()
    }
}

fn querier_settings(settings: &Settings) -> QuerierSettings {
    let enabled = |feature: &str| settings.enable_feature.iter().any(|name| name == feature);
    QuerierSettings {
        queries_max: settings.query_concurrency,
        tenant_requests_max: settings.query_tenant_concurrency,
        remote_reads_max: settings.query_remote_read_concurrency,
        remote_read_samples_max: settings.query_remote_read_samples_max,
        timeout: settings.query_timeout,
        lookback: settings.query_lookback_delta,
        samples_max: settings.query_max_samples,
        partial_response: settings.query_partial_response,
        replica_labels: settings.query_replica_labels.clone(),
        samples_together_max: settings.query_max_samples_together,
        experimental_functions: settings.query_experimental_functions || enabled("promql-experimental-functions"),
        delayed_name_removal: enabled("promql-delayed-name-removal"),
        extended_range_selectors: enabled("promql-extended-range-selectors"),
        fill_modifiers: enabled("promql-binop-fill-modifiers"),
        use_start_timestamps: enabled("use-start-timestamps"),
        type_and_unit_labels: enabled("type-and-unit-labels"),
        stats_by_step: enabled("promql-per-step-stats"),
        dedup: Dedup::named(&settings.query_dedup).unwrap_or_default(),
        cors_origin: settings.web_cors_origin.clone(),
        ..QuerierSettings::default()
    }
}

/// Turns true when the replay is over, the ring is known, and every part in `parts` is.
fn follow_readiness(
    ingester: Option<Arc<Ingester>>,
    membership: Option<Arc<Membership>>,
    parts: [Option<watch::Receiver<bool>>; 2],
    env: &Env,
    stop: CancellationToken,
) -> watch::Receiver<bool> {
    let is_ready = move || {
        let part_is_ready = |part: &watch::Receiver<bool>| *part.borrow();
        let placed = membership.as_ref().is_none_or(|membership| membership.is_placed());
        let replayed = ingester.as_ref().is_none_or(|ingester| ingester.is_ready());
        placed && replayed && parts.iter().flatten().all(part_is_ready)
    };
    let (told, ready) = watch::channel(is_ready());
    let clock = env.clock.clone();
    let follow = async move {
        while !is_ready() {
            tokio::select! { () = clock.sleep(READINESS_PAUSE) => {}, () = stop.cancelled() => return }
        }
        told.send_replace(true);
        // Dropping the sender would tell that nothing changes any more, which is true, but too early for late subscribers.
        stop.cancelled().await;
    };
    env.spawn.task("readiness", Box::pin(follow));
    ready
}

/// Looks for new blocks now and every `interval`; the answer turns true after the first time that went well.
fn follow_bucket(
    gateway: Arc<Gateway>,
    interval: Duration,
    env: &Env,
    stop: CancellationToken,
) -> watch::Receiver<bool> {
    let (told, synced) = watch::channel(false);
    let clock = env.clock.clone();
    let follow = async move {
        loop {
            let pause = match gateway.sync().await {
                Ok(report) => {
                    told.send_replace(true);
                    // What the manifest says is served; now for what the bucket says.
                    if report.from_manifest { Duration::ZERO } else { interval }
                }
                Err(error) => {
                    tracing::warn!(%error, "the bucket could not be listed; blocks known so far are served");
                    interval.min(SYNC_RETRY_PAUSE)
                }
            };
            tokio::select! { () = clock.sleep(pause) => {}, () = stop.cancelled() => return }
        }
    };
    env.spawn.task("gateway-sync", Box::pin(follow));
    synced
}

/// The head under the external labels of this process, so that a series has the same labels before and after its block is cut.
struct HeadWithLabels {
    ingester: Arc<Ingester>,
    external: Labels,
}

impl SelectTenants for HeadWithLabels {
    fn tenant(&self, tenant: &Tenant) -> Arc<dyn Select> {
        let head = self.ingester.tenant(tenant);
        if self.external.is_empty() {
            head
        } else {
            Arc::new(WithExternalLabels::new(head, self.external.clone()))
        }
    }

    fn tenants(&self) -> Vec<Tenant> {
        self.ingester.tenants()
    }
}
