//! This process's place in its ring: who the others are, and what becomes of this node among them.
//!
//! There are two kinds of ring. Usually the members agree on a document by consensus ([`cluster::group`]); a receiver without
//! `--cluster.join` and without data founds a ring of one, which others can join. With `--ring.file` a static file in Thanos's schema says
//! who there is. In both cases the replicator is told of every change, and placement goes on with what it knew last.
//!
//! A process that holds all roles and names no other is alone: a ring of one that nobody agreed on. Agreement needs a database, which costs
//! more memory than all the rest of an idle process.

mod file;
pub mod http;
mod life;
mod usage;

use crate::{role::Role, settings::Settings};
use anyhow::{Context, bail};
use cluster::{
    document::Document,
    group::{Group, GroupEnv, GroupSettings},
    limits::Limits,
    member::{Member, MemberId, State, check_address},
    peers::MESSAGE_BYTES_MAX,
};
use futures::future::BoxFuture;
use ingest::Ingester;
use model::{
    env::{Clock, Env},
    push::{Push, PushError, WriteBatch, WriteOutcome},
    tenant::Tenant,
    time::Timestamp,
};
use parking_lot::Mutex;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use proto::grpc::{
    Routes,
    ask::{Answerer, AskService},
    push_server::PushService,
    security::Security,
};
use receiver::{
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
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use usage::Usage;

/// Series whose numbers at other nodes are remembered, about 80 bytes each; as many again may be about to be forgotten.
const SERIES_MAX: usize = 8 << 20;

/// The folder of the group's database, in the data folder.
const RING_DIR: &str = "ring";

/// The member that is alone.
const ALONE: MemberId = MemberId::FIRST;

/// How long the founding of a ring, which needs nobody else, may take to show.
const FOUND_TIME_MAX: Duration = Duration::from_secs(20);

/// What the process knows of its ring.
pub struct Membership {
    /// Takes writes for the ring.
    pub replicator: Arc<Replicator>,
    /// The group that agrees on the ring; none with a ring file, and none when alone.
    pub group: Option<Group>,
    /// Where others reach this node.
    pub address: String,
    /// Whether a file says who is in the ring.
    pub from_file: bool,
    ingester: Arc<Ingester>,
    /// Notified with every change of the ring.
    changed: watch::Sender<()>,
    /// Which ring file is in use, as Thanos counts files.
    file_hash: Gauge,
    /// Lets in what other nodes push.
    gate: Arc<Gate>,
    usage: Arc<Usage>,
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

/// The gate for others: counts what comes.
struct Counting {
    gate: Arc<Gate>,
    usage: Arc<Usage>,
    clock: Arc<dyn Clock>,
}

impl Push for Counting {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        let samples = batch.floats.len() + batch.histograms.len();
        self.usage.count(&batch.tenant, samples, self.clock.monotonic());
        self.gate.push(batch, received)
    }
}

impl Membership {
    /// Opens the ring that the settings and the data directory speak of. `listening` is where gRPC is served.
    pub async fn open(
        role: Role,
        settings: &Settings,
        listening: SocketAddr,
        ingester: Arc<Ingester>,
        security: &Security,
        env: &Env,
        registry: &mut Registry,
    ) -> anyhow::Result<Arc<Self>> {
        let address = advertised(settings, listening)?;
        let gate = Arc::new(Gate {
            ingester: ingester.clone(),
            shut: AtomicBool::new(false),
        });
        let connect = Arc::new(GrpcConnect::new(env.clone(), security.clone(), registry));
        let replicator = Replicator::new(env.clone(), gate.clone(), connect, SERIES_MAX, registry);
        let file_hash = Gauge::default();
        if settings.ring_file.is_some() {
            let help = "Which ring file is in use: the number that Thanos gives as thanos_receive_config_hash";
            registry.register("narthex_ring_file_hash", help, file_hash.clone());
        }
        let group = match settings.ring_file.is_some() || is_alone(role, settings, env) {
            true => None,
            false => Some(open_group(settings, security, env, registry).await?),
        };
        let membership = Arc::new(Self {
            replicator,
            group,
            address,
            from_file: settings.ring_file.is_some(),
            ingester,
            changed: watch::Sender::new(()),
            file_hash,
            gate,
            usage: Arc::default(),
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
        let Some(group) = &self.group else {
            let alone = ring_of_one(&self.address, settings);
            self.place(Arc::new(alone), Some(ALONE)).await;
            return Ok(());
        };
        if group.document().epoch == 0 && settings.cluster_join.is_empty() {
            let factor = settings.cluster_replication_factor;
            let founding = group.found(&self.address, &settings.cluster_zone, settings.cluster_weight, factor);
            let epoch = founding.await.context("found a ring of one")?;
            let document = group.wait_for(epoch, FOUND_TIME_MAX).await;
            document.context("the ring was founded, but its document does not come")?;
        }
        self.place(group.document(), self.id()).await;
        Ok(())
    }

    /// What this node answers over gRPC.
    pub fn services(&self) -> Routes {
        let push = PushService::new(self.near(), self.replicator.process());
        let routes = Routes::default().add_service(push);
        let (group, unasked) = (self.group.clone(), self.no_group());
        let answerer: Answerer = Arc::new(move |question| {
            let group = group.clone();
            Box::pin(async move {
                let group = group.ok_or(unasked)?;
                group.answer(&question).await.map_err(|error| error.to_string())
            })
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

    /// Why nobody agrees here on the ring, and what to do; said where there is no group.
    pub fn no_group(&self) -> &'static str {
        match self.from_file {
            true => "the ring comes from a file: change the file (--ring.file)",
            false => {
                "this process is alone, with all roles: start it as `narthex receive`, on the same data, to found a ring"
            }
        }
    }

    /// Limits of a tenant as the members agree on them; none with a ring file.
    pub fn limits(&self, tenant: &Tenant) -> Limits {
        let group = self.group.as_ref();
        group
            .map(|group| group.document().limits_of(tenant))
            .unwrap_or_default()
    }

    /// Takes what other nodes replicated, for this node alone.
    pub fn near(&self) -> Arc<dyn Push> {
        Arc::new(Counting {
            gate: self.gate.clone(),
            usage: self.usage.clone(),
            clock: self.env.clock.clone(),
        })
    }

    /// Samples per second of a tenant that other nodes take, by what they hand on to this one.
    pub fn taken_elsewhere(&self, tenant: &Tenant) -> f64 {
        let (copies, nodes) = self.copies_and_nodes();
        self.usage.per_second(tenant, self.monotonic()) * (nodes as f64 / copies.min(nodes).max(1) as f64)
    }

    /// Copies of a series, and nodes that take series.
    pub fn copies_and_nodes(&self) -> (usize, usize) {
        let placement = self.replicator.placement();
        placement.map_or((1, 1), |placement| {
            (placement.replication_factor(), placement.nodes().len())
        })
    }

    /// Time by the clock that never goes back.
    pub fn monotonic(&self) -> Duration {
        self.env.clock.monotonic()
    }

    /// How many of the nodes cannot be reached from here.
    pub fn away(&self) -> usize {
        self.replicator.away()
    }

    /// Tells of every change of the ring, after series are placed by it or shortly before.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Tells that the ring has changed.
    fn tell_change(&self) {
        self.changed.send_replace(());
    }

    /// The member that this node is.
    pub fn id(&self) -> Option<MemberId> {
        self.group.as_ref().map(Group::id)
    }

    /// Places series by `document` from now on; before the ring is founded there is nothing to place by.
    async fn place(&self, document: Arc<Document>, id: Option<MemberId>) {
        if document.epoch == 0 {
            return;
        }
        // Building takes up to a second for the largest rings.
        let built = Arc::new(Mutex::new(None));
        let result = built.clone();
        let build = move || *result.lock() = Some(Ring::new(document));
        self.env.spawn.blocking("ring", Box::new(build)).await;
        let Some(ring) = built.lock().take() else { return };
        let own = ring.nodes().iter().position(|node| node.id == id);
        tracing::info!(
            epoch = ring.document().epoch,
            nodes = ring.nodes().len(),
            "series are placed by a new ring"
        );
        let placement = Arc::new(Placement::Document(ring));
        self.replicator.follow(placement, own.map(|own| own as NodeIndex));
        self.tell_change();
    }

    /// Ends this node's part in the agreement. Writes and reads are not affected.
    pub async fn shutdown(&self) {
        if let Some(group) = &self.group {
            group.shutdown().await;
        }
    }
}

/// Whether this process has no ring: it holds all roles, and nothing says that it is or was one of several.
fn is_alone(role: Role, settings: &Settings, env: &Env) -> bool {
    let asked = !settings.cluster_join.is_empty() || settings.cluster_replication_factor != 1;
    role == Role::All
        && !asked
        && !env
            .fs
            .list(&settings.data_dir.join(RING_DIR))
            .is_ok_and(|held| !held.is_empty())
}

/// The ring of a process that is alone.
fn ring_of_one(address: &str, settings: &Settings) -> Document {
    let member = Member {
        id: ALONE,
        address: address.to_owned(),
        zone: settings.cluster_zone.clone(),
        weight: settings.cluster_weight,
        state: State::Active,
        since_epoch: 1,
    };
    Document {
        epoch: 1,
        replication_factor: 1,
        members: vec![member],
        ..Document::default()
    }
}

async fn open_group(
    settings: &Settings,
    security: &Security,
    env: &Env,
    registry: &mut Registry,
) -> anyhow::Result<Group> {
    let dir = settings.data_dir.join(RING_DIR);
    env.fs
        .create_dir(&dir)
        .with_context(|| format!("create the folder {}", dir.display()))?;
    let group_env = GroupEnv {
        spawn: env.spawn.clone(),
        clock: env.clock.clone(),
        rng: env.rng.clone(),
        peers: Arc::new(GrpcPeers::new(security.clone())),
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
