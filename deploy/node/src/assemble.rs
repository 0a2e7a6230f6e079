//! Parts become a process: builds what the settings ask for, from the bottom of the data flow to its top.
//!
//! Everything the parts do to the world goes through the [`Env`] passed in; a simulation calls the same function.

use crate::{
    admin::{self, Admin},
    objstore,
    ring::Membership,
    settings::Settings,
    status::Status,
};
use anyhow::Context;
use axum::Router;
use ingest::{IngestSettings, Ingester, OutOfOrderWindows, SyncPolicy};
use model::{
    env::Env,
    label::Labels,
    select::{Select, SelectTenants},
    tenant::Tenant,
};
use prometheus_client::registry::Registry;
use proto::grpc::Routes;
use querier::{Fanout, Querier, QuerierSettings};
use receiver::{Receiver, ReceiverSettings};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use storage::{
    external::WithExternalLabels,
    gateway::{Gateway, GatewaySettings},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a power loss may take under `--wal.sync interval`.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// How often a replay is asked whether it is over.
const READINESS_PAUSE: Duration = Duration::from_millis(20);

/// A process put together, not yet listening.
pub struct Assembly {
    /// Everything it serves over HTTP.
    pub router: Router,
    /// Everything it answers over gRPC.
    pub services: Routes,
    /// The bucket in words.
    pub bucket_shown: String,
    ready: watch::Receiver<bool>,
    ingester: Arc<Ingester>,
    membership: Arc<Membership>,
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
    /// Becomes true once writes and queries are served.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Call after the last request has ended. It is quick: nothing is uploaded, and a kill instead of it loses nothing acknowledged.
    pub async fn shutdown(&self) {
        self.membership.shutdown().await;
        self.ingester.shutdown().await;
    }
}

/// Builds all roles in one process, which will be reached at `addresses`. Background work ends when `stop` is cancelled.
pub async fn assemble(
    settings: &Settings,
    addresses: Addresses,
    env: Env,
    stop: CancellationToken,
) -> anyhow::Result<Assembly> {
    let mut registry = Registry::default();
    crate::metrics::register(&mut registry, env.clock.now() as f64 / 1000.0);

    let bucket = objstore::open(settings, &env)?;
    let gateway = Gateway::new(
        env.clone(),
        bucket.store.clone(),
        gateway_settings(settings),
        &mut registry,
    );
    let gateway = Arc::new(gateway);
    let ingester = Ingester::open(env.clone(), ingest_settings(settings), bucket.store, &mut registry)?;
    let membership = Membership::open(settings, addresses.grpc, ingester.clone(), &env, &mut registry).await?;
    let receiver = Receiver::new(
        env.clone(),
        receiver_settings(settings),
        membership.replicator.clone(),
        &mut registry,
    );
    receiver.limit_by(membership.clone());

    let external = Labels::new(settings.labels.iter().map(|(name, value)| (name, value)))
        .context("the labels given by --label")?;
    let head = Arc::new(HeadWithLabels {
        ingester: ingester.clone(),
        external,
    });
    let sources: Vec<(String, Arc<dyn SelectTenants>)> =
        vec![("head".to_owned(), head), ("bucket".to_owned(), gateway.clone())];
    let fanout = Fanout::new(sources).with_metrics(&mut registry);
    let status = Arc::new(Status::new(settings, &env, ingester.clone()));
    let querier = Querier::new(
        env.clone(),
        querier_settings(settings),
        Arc::new(fanout),
        status,
        &mut registry,
    );

    let ready = follow_readiness(ingester.clone(), membership.clone(), &env, stop.clone());
    membership.follow(settings, stop.clone());
    follow_bucket(gateway.clone(), settings.store_sync_interval, &env, stop);
    let admin = Arc::new(Admin {
        ingester: ingester.clone(),
        gateway,
        registry,
        address: addresses.http,
        membership: membership.clone(),
        admin_api: settings.web_enable_admin_api,
    });
    let router = Router::new()
        .merge(receiver::http::routes(receiver))
        .merge(querier::http::routes(querier))
        .merge(crate::ring::http::routes(membership.clone()))
        .merge(admin::routes(admin));
    Ok(Assembly {
        router,
        services: membership.services(),
        bucket_shown: bucket.shown,
        ready,
        ingester,
        membership,
    })
}

fn gateway_settings(settings: &Settings) -> GatewaySettings {
    GatewaySettings::new(settings.data_dir.join("gateway"))
}

fn ingest_settings(settings: &Settings) -> IngestSettings {
    IngestSettings {
        external_labels: settings.labels.clone(),
        future_max: settings.write_future_max,
        out_of_order: OutOfOrderWindows::all(settings.write_out_of_order_window),
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
    QuerierSettings {
        queries_max: settings.query_concurrency,
        tenant_requests_max: settings.query_tenant_concurrency,
        remote_reads_max: settings.query_remote_read_concurrency,
        remote_read_samples_max: settings.query_remote_read_samples_max,
        timeout: settings.query_timeout,
        lookback: settings.query_lookback_delta,
        samples_max: settings.query_max_samples,
        replica_labels: settings.query_replica_labels.clone(),
        experimental_functions: settings.query_experimental_functions,
        cors_origin: settings.web_cors_origin.clone(),
        ..QuerierSettings::default()
    }
}

/// Turns true when the replay is over and the ring is known.
fn follow_readiness(
    ingester: Arc<Ingester>,
    membership: Arc<Membership>,
    env: &Env,
    stop: CancellationToken,
) -> watch::Receiver<bool> {
    let is_ready = move || ingester.is_ready() && membership.is_placed();
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

/// Looks for new blocks now and every `interval`.
fn follow_bucket(gateway: Arc<Gateway>, interval: Duration, env: &Env, stop: CancellationToken) {
    let clock = env.clock.clone();
    let follow = async move {
        loop {
            if let Err(error) = gateway.sync().await {
                tracing::warn!(%error, "the bucket could not be listed; blocks known so far are served");
            }
            tokio::select! { () = clock.sleep(interval) => {}, () = stop.cancelled() => return }
        }
    };
    env.spawn.task("gateway-sync", Box::pin(follow));
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
