//! Parts become a process: builds what the settings ask for, from the bottom of the data flow to its top.
//!
//! Everything the parts do to the world goes through the [`Env`] passed in; a simulation calls the same function.

mod background;
mod translate;

use crate::{
    admin::{self, Admin},
    between,
    discover::{self, Discovery, SystemDns},
    limits::{LimitBook, SeriesMetrics},
    members::{self, Ring},
    objstore,
    ring::Membership,
    role::Role,
    settings::Settings,
    status::Status,
    tenancy,
    web::Web,
};
use anyhow::Context;
use axum::Router;
use cluster::follow::Follower;
use ingest::Ingester;
use model::{
    env::Env,
    label::Labels,
    select::{Select, SelectTenants},
    tenant::Tenant,
    time::TimeRange,
};
use prometheus_client::registry::Registry;
use proto::{
    grpc::{Routes, security::Security, thanos_write::WriteableStore},
    thanos::{Description, StoreService},
};
use querier::{EndpointSet, EndpointSettings, Fanout, Policy, Querier, Source};
use receiver::{Receiver, reach::GrpcPeers};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};
use storage::{bucket::MeteredBucket, external::WithExternalLabels, gateway::Gateway};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

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
    /// How the gRPC listener and those who dial other nodes are secured.
    pub security: Security,
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
    let security = between::security(settings.tenancy.grpc_config_file.as_ref(), &env, &stop)?;
    let mut build = Build {
        role,
        security,
        settings,
        addresses,
        env,
        stop,
        registry,
        book,
    };
    let local = build.open_local()?;
    let reading = build.open_reading(&local)?;
    let membership = build.open_membership(&local).await?;
    let parts = build.follow_others(&local, &reading, membership.as_ref())?;
    let ready = background::follow_readiness(
        local.ingester.clone(),
        membership.clone(),
        parts,
        &build.env,
        build.stop.clone(),
    );
    let service = build.store_service(&local, &reading, &ready);
    let mut router = Router::new();
    let mut thanos = None;
    if let Some(membership) = &membership {
        let (routes, taking) = build.receiver(membership)?;
        router = router.merge(routes);
        thanos = Some(taking);
    }
    if role.queries() {
        router = router.merge(build.querier(&local, &reading));
    }
    build.finish(router, service, local, membership, thanos, ready)
}

/// A process while it is put together.
struct Build<'a> {
    role: Role,
    settings: &'a Settings,
    addresses: Addresses,
    env: Env,
    stop: CancellationToken,
    registry: Registry,
    book: Arc<LimitBook>,
    /// How nodes speak to each other.
    security: Security,
}

/// What a process reads from.
struct Reading {
    policy: Policy,
    fanout: Arc<Fanout>,
    /// Processes that the settings name.
    endpoints: Arc<EndpointSet>,
    /// The members of a ring.
    members: Arc<EndpointSet>,
}

impl Build<'_> {
    fn open_reading(&mut self, local: &Local) -> anyhow::Result<Reading> {
        let policy = match self.settings.query_partial_response {
            true => Policy::Partial,
            false => Policy::Strict,
        };
        let fanout = Fanout::new(Vec::new())
            .with_policy(policy)
            .with_metrics(&mut self.registry);
        fanout.set_sources(local.sources(), 0);
        let fanout = Arc::new(fanout);
        let endpoint_settings = discover::endpoint_settings(self.settings, &*self.env.fs)?;
        let member_settings = EndpointSettings {
            between_nodes: Some(self.security.clone()),
            ..endpoint_settings.clone()
        };
        let set = |settings, group, replicated| {
            let set = EndpointSet::new(self.env.clone(), settings, group, replicated, fanout.clone());
            Arc::new(set)
        };
        Ok(Reading {
            policy,
            endpoints: set(endpoint_settings, "endpoints", false),
            members: set(member_settings, "ring", true),
            fanout,
        })
    }

    /// The place in the ring of a process that takes samples.
    async fn open_membership(&mut self, local: &Local) -> anyhow::Result<Option<Arc<Membership>>> {
        let Some(ingester) = &local.ingester else {
            return Ok(None);
        };
        let membership = Membership::open(
            self.role,
            self.settings,
            self.addresses.grpc,
            ingester.clone(),
            &self.security,
            &self.env,
            &mut self.registry,
        );
        let membership = membership.await?;
        let (ring, dir) = (membership.clone(), &self.settings.data_dir);
        self.book.follow_ring(ring, dir, &self.env, self.stop.clone());
        membership.follow(self.settings, self.stop.clone());
        Ok(Some(membership))
    }

    /// Begins to look for everything that is not here; what the process is not ready without turns true.
    fn follow_others(
        &self,
        local: &Local,
        reading: &Reading,
        membership: Option<&Arc<Membership>>,
    ) -> anyhow::Result<Vec<watch::Receiver<bool>>> {
        let (settings, env, interval) = (self.settings, &self.env, self.settings.endpoint_interval);
        let mut needed = Vec::new();
        if self.role.queries() && !(settings.endpoints.is_empty() && settings.endpoint_files.is_empty()) {
            let discovery = Discovery::new(settings, env.fs.clone(), Arc::new(SystemDns::new()?))?;
            let endpoints = reading.endpoints.clone();
            needed.push(discover::follow(discovery, endpoints, interval, env, self.stop.clone()));
        }
        if let Some(gateway) = local.gateway.clone() {
            let synced = background::follow_bucket(gateway, settings.store_sync_interval, env, self.stop.clone());
            needed.extend((self.role == Role::Store).then_some(synced));
        }
        if let Some(ring) = self.ring(membership) {
            let (set, fanout) = (reading.members.clone(), reading.fanout.clone());
            let asked = members::follow(ring, set, fanout, interval, env, self.stop.clone());
            needed.extend((self.role == Role::Query).then_some(asked));
        }
        Ok(needed)
    }

    /// The ring whose members are read.
    fn ring(&self, membership: Option<&Arc<Membership>>) -> Option<Ring> {
        if let Some(membership) = membership {
            return Some(Ring::Own(membership.clone()));
        }
        let seeds = self.settings.cluster_join.clone();
        let reads = self.role == Role::Query && !seeds.is_empty();
        reads.then(|| {
            let (peers, clock) = (Arc::new(GrpcPeers::new(self.security.clone())), self.env.clock.clone());
            Ring::Other(Follower::start(seeds, peers, clock, &*self.env.spawn))
        })
    }

    /// What is answered to other queriers.
    fn store_service(&self, local: &Local, reading: &Reading, ready: &watch::Receiver<bool>) -> StoreService {
        // Endpoints are not passed on by a process that has data of its own: two that name each other would ask in circles.
        let shared: Arc<dyn SelectTenants> = match self.role {
            Role::Query => reading.fanout.clone(),
            Role::All | Role::Receive | Role::Store => {
                let own = Fanout::new(Vec::new()).with_policy(reading.policy);
                own.set_sources(local.sources(), 0);
                Arc::new(own)
            }
        };
        let passed_on = match self.role {
            Role::Query => vec![reading.endpoints.clone(), reading.members.clone()],
            Role::All | Role::Receive | Role::Store => Vec::new(),
        };
        let describe = describe(self.role, local, passed_on, ready.clone());
        StoreService::new(shared, describe, querier::endpoint::selectors_of)
            .with_concurrency(self.settings.store.store_concurrency)
    }

    /// What takes samples: over HTTP, and over gRPC from Thanos.
    fn receiver(&mut self, membership: &Arc<Membership>) -> anyhow::Result<(Router, WriteableStore)> {
        let taker = membership.replicator.clone();
        let settings = translate::receiver(self.settings);
        let receiver = Receiver::new(self.env.clone(), settings, taker, &mut self.registry);
        receiver.limit_by(self.book.clone());
        tenancy::shape(&receiver, &self.settings.tenancy, &self.env, &self.stop)?;
        let near = receiver.beside(membership.near());
        let thanos = WriteableStore::new(receiver::thanos::taker(receiver.clone(), near));
        let routes = receiver::http::routes(receiver).merge(crate::ring::http::routes(membership.clone()));
        Ok((routes, thanos))
    }

    /// What answers PromQL.
    fn querier(&mut self, local: &Local, reading: &Reading) -> Router {
        let status = Arc::new(Status::new(self.settings, &self.env, local.ingester.clone()));
        let settings = translate::querier(self.settings);
        let (env, fanout) = (self.env.clone(), reading.fanout.clone());
        querier::http::routes(Querier::new(env, settings, fanout, status, &mut self.registry))
    }

    fn finish(
        self,
        router: Router,
        service: StoreService,
        local: Local,
        membership: Option<Arc<Membership>>,
        thanos: Option<WriteableStore>,
        ready: watch::Receiver<bool>,
    ) -> anyhow::Result<Assembly> {
        let tenancy = &self.settings.tenancy;
        let web = tenancy::open_web(tenancy, &self.env, &self.stop)?;
        let admin = Arc::new(Admin {
            ready: ready.clone(),
            ingester: local.ingester.clone(),
            gateway: local.gateway.clone(),
            registry: self.registry,
            address: self.addresses.http,
            membership: membership.clone(),
            admin_api: self.settings.web_enable_admin_api,
        });
        let router = router.merge(admin::routes(admin));
        Ok(Assembly {
            router: tenancy::guard(router, tenancy, &web, &self.env)?,
            web,
            services: services_of(service, membership.as_deref().zip(thanos))?,
            bucket_shown: local.bucket_shown,
            security: self.security,
            ready,
            ingester: local.ingester,
            membership,
        })
    }

    /// Opens what the role keeps or reads by itself.
    fn open_local(&mut self) -> anyhow::Result<Local> {
        let (settings, env, registry) = (self.settings, &self.env, &mut self.registry);
        let mut local = Local {
            ingester: None,
            gateway: None,
            bucket_shown: String::new(),
            external: Labels::new(settings.labels.iter().map(|(name, value)| (name, value)))
                .context("the labels given by --label")?,
        };
        let configured = settings.objstore_config.is_some() || settings.objstore_config_file.is_some();
        if !self.role.reads_bucket(configured) {
            return Ok(local);
        }
        let bucket = objstore::open(settings, env)?;
        let store = MeteredBucket::wrap(bucket.store, env.clock.clone(), registry);
        let gateway_settings = translate::gateway(settings, env)?;
        let gateway = Gateway::new(env.clone(), store.clone(), gateway_settings, registry);
        local.gateway = Some(Arc::new(gateway));
        local.bucket_shown = bucket.shown;
        if self.role.ingests() {
            let ingester = Ingester::open(env.clone(), translate::ingest(settings, &self.book), store, registry)?;
            registry.register_collector(Box::new(SeriesMetrics {
                book: self.book.clone(),
                ingester: ingester.clone(),
            }));
            local.ingester = Some(ingester);
        }
        Ok(local)
    }
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
fn services_of(service: StoreService, taking: Option<(&Membership, WriteableStore)>) -> anyhow::Result<Routes> {
    let store = proto::thanos::routes(service);
    let takes_writes = taking.is_some();
    let services = match taking {
        Some((membership, thanos)) => {
            let services = membership.services().add_service(thanos);
            Routes::from(services.into_axum_router().merge(store))
        }
        None => Routes::from(store),
    };
    proto::thanos::add_reflection(services, takes_writes).context("describe the gRPC services")
}

/// What the process says of itself to queriers, and of the processes that it passes on; nothing until it is ready.
fn describe(
    role: Role,
    local: &Local,
    passed_on: Vec<Arc<EndpointSet>>,
    ready: watch::Receiver<bool>,
) -> impl Fn() -> Option<Description> + Send + Sync + 'static {
    let gateway = local.gateway.clone();
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
        let mut anything = false;
        for (labels, held) in passed_on.iter().map(|endpoints| endpoints.holds()) {
            range = TimeRange::new(range.min.min(held.min), range.max.max(held.max));
            anything |= labels.is_empty() && held != NOTHING;
            sets.extend(labels);
        }
        // No label sets mean that anything may be there, which must not be narrowed.
        if anything {
            sets.clear();
        }
        Some(Description {
            component: role.component(),
            label_sets: sets.into_iter().collect(),
            range,
        })
    }
}

/// The span that holds nothing.
const NOTHING: TimeRange = TimeRange::new(i64::MAX, i64::MIN);

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
