//! How this node reaches the others: gRPC behind the seams of the replicator and of the ring's group.

mod thanos;

use crate::{
    replicate::{Connect, Peer},
    ring::Placement,
};
use bytes::Bytes;
use cluster::peers::{Destination, MESSAGE_BYTES_MAX, PeerError, Peers};
use futures::future::BoxFuture;
use model::env::Env;
use parking_lot::{Mutex, RwLock};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use proto::grpc::{
    ask::{AskError, Asker},
    push_client::{Lives, PushClient, PushClientSettings},
    security::Security,
};
use std::{
    fmt,
    sync::{Arc, Weak, atomic::Ordering},
};
use thanos::{MixedPeer, ThanosPeer};

/// Carries the messages of the ring's group.
#[derive(Debug)]
pub struct GrpcPeers {
    asker: Arc<Asker>,
}

impl GrpcPeers {
    /// Connections are secured as `security` says.
    pub fn new(security: Security) -> Self {
        Self {
            asker: Arc::new(Asker::new(MESSAGE_BYTES_MAX, security)),
        }
    }
}

impl Peers for GrpcPeers {
    fn send(&self, to: Destination, request: Bytes) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let asker = Arc::clone(&self.asker);
        Box::pin(async move {
            asker.ask(&to.address, request).await.map_err(|error| match error {
                AskError::Unreachable(reason) => PeerError::Unreachable(reason),
                AskError::Refused(reason) => PeerError::Refused(reason),
            })
        })
    }
}

/// Dials nodes that take samples, and tells how that goes.
pub struct GrpcConnect {
    env: Env,
    /// What is followed now.
    placement: Arc<RwLock<Option<Arc<Placement>>>>,
    lives: Arc<Lives>,
    settings: PushClientSettings,
    clients: Arc<Clients>,
}

/// Clients that are in use.
#[derive(Default)]
struct Clients(Mutex<Vec<Weak<PushClient>>>);

impl GrpcConnect {
    /// Its clients are secured as `security` says, and show themselves in `registry`.
    pub fn new(env: Env, security: Security, registry: &mut Registry) -> Self {
        let clients = Arc::<Clients>::default();
        registry.register_collector(Box::new(PeerMetrics(Arc::clone(&clients))));
        Self {
            env,
            placement: Arc::default(),
            lives: Arc::default(),
            settings: PushClientSettings {
                security,
                ..PushClientSettings::default()
            },
            clients,
        }
    }
}

impl Connect for GrpcConnect {
    fn connect(&self, address: &str) -> Arc<dyn Peer> {
        let lives = Arc::clone(&self.lives);
        let client = PushClient::new(address.to_owned(), lives, &self.env, self.settings.clone());
        let client = Arc::new(client);
        let mut clients = self.clients.0.lock();
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Arc::downgrade(&client));
        drop(clients);
        let is_file = matches!(self.placement.read().as_deref(), Some(Placement::File(_)));
        // A ring file may name receivers of Thanos; the members of a ring are all of our kind.
        let security = &self.settings.security;
        let thanos = is_file.then(|| ThanosPeer::new(address, security, &self.env, &self.lives, &self.placement));
        match thanos {
            Some(Ok(thanos)) => Arc::new(MixedPeer { client, thanos }),
            Some(Err(_)) | None => client,
        }
    }

    fn follow(&self, placement: &Arc<Placement>) {
        *self.placement.write() = Some(Arc::clone(placement));
    }
}

struct PeerMetrics(Arc<Clients>);

impl fmt::Debug for PeerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerMetrics")
    }
}

impl Collector for PeerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let clients: Vec<Arc<PushClient>> = self.0.0.lock().iter().filter_map(Weak::upgrade).collect();
        if clients.is_empty() {
            return Ok(());
        }
        type Read = fn(&PushClient) -> u64;
        let counters: [(&str, &str, Read); 5] = [
            ("sent_bytes", "Bytes of push messages sent to a peer", |client| {
                client.counts().bytes.load(Ordering::Relaxed)
            }),
            ("sent_samples", "Samples sent to a peer", |client| {
                client.counts().samples.load(Ordering::Relaxed)
            }),
            ("sent_labels", "Series sent to a peer with their labels", |client| {
                client.counts().labels.load(Ordering::Relaxed)
            }),
            ("sessions", "Push sessions opened to a peer", |client| {
                client.counts().sessions.load(Ordering::Relaxed)
            }),
            ("failures", "Pushes to a peer that got no verdicts", |client| {
                client.counts().failures.load(Ordering::Relaxed)
            }),
        ];
        for (name, help, read) in counters {
            let name = format!("narthex_receiver_peer_{name}");
            let mut family =
                encoder.encode_descriptor(&name, help, None, prometheus_client::metrics::MetricType::Counter)?;
            for client in &clients {
                let labels = [("peer", client.address())];
                ConstCounter::new(read(client)).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "narthex_receiver_peer_up",
            "Whether a peer can be pushed to",
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        for client in &clients {
            let labels = [("peer", client.address())];
            ConstGauge::new(i64::from(client.is_up())).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
