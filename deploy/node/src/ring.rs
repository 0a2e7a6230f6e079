//! This process's place in its ring: who the others are, and what becomes of this node among them.
//!
//! There are two kinds of ring. Usually the members agree on a document by consensus ([`cluster::group`]); a process without
//! `--cluster.join` and without data founds a ring of one, which others can join. With `--ring.file` a static file in Thanos's schema says
//! who there is. In both cases the replicator is told of every change, and placement goes on with what it knew last.

mod file;
pub mod http;
mod life;

use crate::settings::Settings;
use anyhow::{Context, bail};
use cluster::{
    document::Document,
    group::{Group, GroupEnv, GroupSettings},
    limits::Limits,
    member::{MemberId, check_address},
    peers::MESSAGE_BYTES_MAX,
};
use futures::future::BoxFuture;
use ingest::Ingester;
use model::{
    env::Env,
    push::{Push, PushError, WriteBatch, WriteOutcome},
    tenant::Tenant,
    time::Timestamp,
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use proto::grpc::{
    Routes,
    ask::{Answerer, AskService},
    push_server::PushService,
};
use receiver::{
    limits::LimitSource,
    reach::{GrpcConnect, GrpcPeers},
    replicate::Replicator,
    ring::{NodeIndex, Placement, placement::Ring},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Series whose numbers at other nodes are remembered, about 80 bytes each; as many again may be about to be forgotten.
const SERIES_MAX: usize = 8 << 20;

/// How long the founding of a ring, which needs nobody else, may take to show.
const FOUND_TIME_MAX: Duration = Duration::from_secs(20);

/// What the process knows of its ring.
pub struct Membership {
    /// Takes writes for the ring.
    pub replicator: Arc<Replicator>,
    /// The group that agrees on the ring; none with a ring file.
    pub group: Option<Group>,
    /// Where others reach this node.
    pub address: String,
    ingester: Arc<Ingester>,
    /// Lets in what other nodes push.
    gate: Arc<Gate>,
    env: Env,
}

/// Stands before the ingester for what other nodes push; shut when this node leaves, so that nothing comes behind its last cut.
struct Gate {
    ingester: Arc<Ingester>,
    shut: AtomicBool,
}

impl Push for Gate {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        if self.shut.load(Ordering::Acquire) {
            return Box::pin(async {
                Err(PushError::Unavailable {
                    reason: "this node is leaving the ring".to_owned(),
                    retry_after: Duration::from_secs(1),
                })
            });
        }
        self.ingester.push(batch, received)
    }
}

impl Membership {
    /// Opens the ring that the settings and the data directory speak of. `listening` is where gRPC is served.
    pub async fn open(
        settings: &Settings,
        listening: SocketAddr,
        ingester: Arc<Ingester>,
        env: &Env,
        registry: &mut Registry,
    ) -> anyhow::Result<Arc<Self>> {
        let address = advertised(settings, listening)?;
        let gate = Arc::new(Gate {
            ingester: ingester.clone(),
            shut: AtomicBool::new(false),
        });
        let connect = Arc::new(GrpcConnect::new(env.clone(), registry));
        let replicator = Replicator::new(env.clone(), gate.clone(), connect, SERIES_MAX, registry);
        let group = match &settings.ring_file {
            Some(_) => None,
            None => Some(open_group(settings, env, registry).await?),
        };
        let membership = Arc::new(Self {
            replicator,
            group,
            address,
            ingester,
            gate,
            env: env.clone(),
        });
        match &settings.ring_file {
            Some(path) => file::load(&membership, path, settings)?,
            None => membership.begin(settings).await?,
        }
        Ok(membership)
    }

    /// Founds a ring unless there is one to join or to go on with, and places series by what is known.
    async fn begin(&self, settings: &Settings) -> anyhow::Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        if group.document().epoch == 0 && settings.cluster_join.is_empty() {
            let factor = settings.cluster_replication_factor;
            let founding = group.found(&self.address, &settings.cluster_zone, settings.cluster_weight, factor);
            let epoch = founding.await.context("found a ring of one")?;
            let document = group.wait_for(epoch, FOUND_TIME_MAX).await;
            document.context("the ring was founded, but its document does not come")?;
        }
        self.place(group.document()).await;
        Ok(())
    }

    /// What this node answers over gRPC.
    pub fn services(&self) -> Routes {
        let push = PushService::new(self.gate.clone(), self.env.spawn.clone());
        let routes = Routes::default().add_service(push);
        let Some(group) = self.group.clone() else { return routes };
        let answerer: Answerer = Arc::new(move |question| {
            let group = group.clone();
            Box::pin(async move { group.answer(&question).await.map_err(|error| error.to_string()) })
        });
        routes.add_service(AskService::new(answerer, MESSAGE_BYTES_MAX))
    }

    /// Follows the ring in the background until `stop` is cancelled, and does what becomes of this node in it.
    pub fn follow(self: &Arc<Self>, settings: &Settings, stop: CancellationToken) {
        match &settings.ring_file {
            Some(path) => file::watch(Arc::clone(self), path.clone(), settings, stop),
            None => life::start(self, settings, stop),
        }
    }

    /// Whether it is known where series belong.
    pub fn is_placed(&self) -> bool {
        self.replicator.placement().is_some()
    }

    /// The member that this node is.
    pub fn id(&self) -> Option<MemberId> {
        self.group.as_ref().map(Group::id)
    }

    /// Places series by `document` from now on; before the ring is founded there is nothing to place by.
    async fn place(&self, document: Arc<Document>) {
        if document.epoch == 0 {
            return;
        }
        // Building takes up to a second for the largest rings.
        let built = Arc::new(Mutex::new(None));
        let result = built.clone();
        let build = move || *result.lock() = Some(Ring::new(document));
        self.env.spawn.blocking("ring", Box::new(build)).await;
        let Some(ring) = built.lock().take() else { return };
        let own = ring.nodes().iter().position(|node| node.id == self.id());
        tracing::info!(
            epoch = ring.document().epoch,
            nodes = ring.nodes().len(),
            "series are placed by a new ring"
        );
        let placement = Arc::new(Placement::Document(ring));
        self.replicator.follow(placement, own.map(|own| own as NodeIndex));
    }

    /// Ends this node's part in the agreement. Writes and reads are not affected.
    pub async fn shutdown(&self) {
        if let Some(group) = &self.group {
            group.shutdown().await;
        }
    }
}

async fn open_group(settings: &Settings, env: &Env, registry: &mut Registry) -> anyhow::Result<Group> {
    let dir = settings.data_dir.join("ring");
    env.fs
        .create_dir(&dir)
        .with_context(|| format!("create the folder {}", dir.display()))?;
    let group_env = GroupEnv {
        spawn: env.spawn.clone(),
        clock: env.clock.clone(),
        rng: env.rng.clone(),
        peers: Arc::new(GrpcPeers::default()),
    };
    let shown = dir.display().to_string();
    let group = Group::open(GroupSettings::new(dir), group_env, registry).await;
    group.with_context(|| format!("open the ring's database in {shown}"))
}

/// Where others reach this node: as the settings say, or else where it listens.
fn advertised(settings: &Settings, listening: SocketAddr) -> anyhow::Result<String> {
    if let Some(address) = &settings.cluster_advertise {
        check_address(address).context("--cluster.advertise")?;
        return Ok(address.clone());
    }
    if !listening.ip().is_unspecified() {
        return Ok(listening.to_string());
    }
    if settings.ring_file.is_some() || !settings.cluster_join.is_empty() {
        bail!(
            "gRPC listens on {listening}, which is no address that others could use: say with --cluster.advertise HOST:PORT where they reach this node"
        );
    }
    Ok(format!("127.0.0.1:{}", listening.port()))
}

/// Limits as the ring agrees on them.
impl LimitSource for Membership {
    fn limits(&self, tenant: &Tenant) -> Limits {
        self.group
            .as_ref()
            .map(|group| group.document().limits_of(tenant))
            .unwrap_or_default()
    }

    fn nodes(&self) -> usize {
        self.replicator
            .placement()
            .map_or(1, |placement| placement.nodes().len())
    }
}
