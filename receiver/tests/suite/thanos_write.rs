//! Fleets in which Thanos and Narthex receive side by side, over real gRPC: a router of Thanos forwards to us, and our ring file names
//! receivers of Thanos.

#![expect(clippy::disallowed_methods, reason = "tests live in real time and on real sockets")]

mod wire;

use crate::common::{NOW, Stand};
use futures::future::BoxFuture;
use model::{
    env::{Clock, Env, Spawn},
    label::Labels,
    push::{Push, PushError, SeriesId, WriteBatch, memory::MemoryTaker},
    sample::FloatSample,
    tenant::Tenant,
    time::Timestamp,
    verdict::{Reason, Verdict},
};
use prometheus_client::registry::Registry;
use proto::grpc::{Routes, security::Security, thanos_write::WriteableStore};
use receiver::{
    reach::GrpcConnect,
    replicate::Replicator,
    ring::{
        Placement,
        series_hash::series_hash,
        thanos::{Algorithm, Rings},
    },
};
use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};
use tonic::Code;
use wire::{TenantSeries, Thanos, WriteRequest, send, send_snappy, series};

/// A node of ours: what comes as a copy goes to `near`, the rest to the ring.
struct Ours {
    address: SocketAddr,
    near: Arc<MemoryTaker>,
    ring: Stand,
}

async fn ours() -> Ours {
    let ring = Stand::default();
    let near = Arc::new(MemoryTaker::new());
    let beside = ring.receiver.beside(near.clone());
    let take = receiver::thanos::taker(ring.receiver.clone(), beside);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (_ready, watched) = tokio::sync::watch::channel(true);
        let routes = Routes::default().add_service(WriteableStore::new(take));
        let security = Security::default();
        proto::grpc::serve(listener, watched, routes, &security, std::future::pending())
            .await
            .unwrap();
    });
    Ours { address, near, ring }
}

fn stored(taker: &MemoryTaker, tenant: &str, name: &str) -> usize {
    let labels = Labels::new([("__name__", name), ("job", "x")]).unwrap();
    let series = taker.series(&Tenant::new(tenant).unwrap(), &labels);
    series.map_or(0, |series| series.samples.len())
}

#[tokio::test]
async fn a_router_of_thanos_forwards_in_both_forms() {
    let ours = ours().await;
    let old = WriteRequest {
        timeseries: vec![series("a", NOW, 1.0), series("b", NOW, 1.0)],
        tenant: "one".to_owned(),
        replica: 2,
        tuples: Vec::new(),
    };
    send(ours.address, old.clone()).await.unwrap();
    let tuple = |tenant: &str, name: &str, at| TenantSeries {
        timeseries: Some(series(name, at, 2.0)),
        tenant: tenant.to_owned(),
    };
    let new = WriteRequest {
        // What stands in the old fields counts for nothing then.
        tuples: vec![
            tuple("one", "a", NOW + 1),
            tuple("two", "a", NOW),
            tuple("one", "c", NOW),
        ],
        ..old
    };
    send(ours.address, new.clone()).await.unwrap();
    assert_eq!(send_snappy(ours.address, new).await, "0");
    for (tenant, name, samples) in [("one", "a", 2), ("one", "b", 1), ("one", "c", 1), ("two", "a", 1)] {
        assert_eq!(stored(&ours.near, tenant, name), samples, "{tenant} {name}");
    }
    assert_eq!(ours.ring.taker.sample_count(), 0);
}

#[tokio::test]
async fn what_nobody_replicated_yet_goes_to_the_ring() {
    let ours = ours().await;
    let request = WriteRequest {
        timeseries: vec![series("a", NOW, 1.0)],
        ..WriteRequest::default()
    };
    send(ours.address, request).await.unwrap();
    assert_eq!(stored(&ours.ring.taker, "default-tenant", "a"), 1);
    assert_eq!(ours.near.sample_count(), 0);
}

#[tokio::test]
async fn refusals_are_told_in_the_codes_of_thanos() {
    let ours = ours().await;
    let request = |tenant: &str, replica, at, value| WriteRequest {
        timeseries: vec![series("a", at, value), series("b", at, 1.0)],
        tenant: tenant.to_owned(),
        replica,
        tuples: Vec::new(),
    };
    send(ours.address, request("one", 1, NOW, 1.0)).await.unwrap();
    // Another value for a taken timestamp: the rest is stored.
    let code = |answer: Result<(), tonic::Status>| answer.unwrap_err().code();
    let conflict = code(send(ours.address, request("one", 1, NOW, 2.0)).await);
    assert_eq!(conflict, Code::AlreadyExists);
    for tenant in ["..", "a/b", "a\0b", &"x".repeat(300)] {
        let refused = code(send(ours.address, request(tenant, 1, NOW, 1.0)).await);
        assert_eq!(refused, Code::InvalidArgument, "{tenant:?}");
    }
    assert_eq!(
        code(send(ours.address, request("one", -1, NOW, 1.0)).await),
        Code::InvalidArgument
    );
    ours.near.fail(Some(PushError::Unavailable {
        reason: "starting".to_owned(),
        retry_after: Duration::from_secs(1),
    }));
    let later = request("one", 1, NOW + 5, 1.0);
    assert_eq!(code(send(ours.address, later.clone()).await), Code::Unavailable);
    ours.near.fail(None);
    send(ours.address, later).await.unwrap();
}

/// A world with real time and tasks.
struct Live(std::time::Instant);

impl Clock for Live {
    fn now(&self) -> Timestamp {
        NOW
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

impl Spawn for Live {
    fn task(&self, _: &str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }
    fn blocking(&self, _: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        work();
        Box::pin(std::future::ready(()))
    }
    fn thread(&self, _: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        std::thread::spawn(work);
        Ok(())
    }
}

fn batch(ids: impl Iterator<Item = SeriesId>, at: Timestamp) -> WriteBatch {
    let mut batch = WriteBatch {
        tenant: Tenant::new("one").unwrap(),
        ..WriteBatch::default()
    };
    for id in ids {
        batch.floats.push(FloatSample {
            at,
            value: 1.0,
            start: 0,
        });
        batch.finish_series(id);
    }
    batch
}

fn labels(name: &str) -> Labels {
    Labels::new([("__name__", name), ("job", "x")]).unwrap()
}

/// A ring file with two receivers of Thanos and this node, and so many copies.
struct Fleet {
    thanos: HashMap<String, Thanos>,
    replicator: Arc<Replicator>,
    placement: Arc<Placement>,
}

async fn fleet(copies: usize, with_us: bool) -> Fleet {
    let mut thanos = HashMap::new();
    for _ in 0..2 {
        let server = Thanos::default();
        thanos.insert(server.start().await.to_string(), server);
    }
    let mut endpoints: Vec<String> = thanos.keys().cloned().collect();
    if with_us {
        endpoints.push("here:1".to_owned());
    }
    let file = serde_json::json!([{"hashring": "all", "algorithm": "ketama", "endpoints": endpoints}]);
    let rings = Rings::from_json(&file.to_string(), Algorithm::Ketama, copies).unwrap();
    let placement = Arc::new(Placement::File(rings));
    let own = placement.nodes().iter().position(|node| node.address == "here:1");
    let world = Arc::new(Live(std::time::Instant::now()));
    let env = Env {
        clock: world.clone(),
        spawn: world,
        ..crate::common::env()
    };
    let mut registry = Registry::default();
    let connect = Arc::new(GrpcConnect::new(env.clone(), Security::default(), &mut registry));
    let near = Arc::new(MemoryTaker::new());
    let replicator = Replicator::new(env, near, connect, 10_000, &mut registry);
    replicator.follow(Arc::clone(&placement), own.map(|own| own as u16));
    Fleet {
        thanos,
        replicator,
        placement,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_of_thanos_get_their_copies() {
    let fleet = fleet(2, true).await;
    let names: Vec<String> = (0..200).map(|number| format!("m{number}")).collect();
    let ids = names.iter().map(|name| SeriesId::New(labels(name)));
    let outcome = fleet.replicator.push(&batch(ids, NOW), NOW).await.unwrap();
    assert_eq!((outcome.exceptions.len(), outcome.refs.len()), (0, 200));
    let mut refs = outcome.refs;
    refs.sort_unstable();
    // The answer comes before all copies are written; their numbers are known only then.
    wait_for_copies(&fleet, &names, 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The second time by number: labels come from what is kept for the peer.
    let ids = refs.iter().map(|(_, number)| SeriesId::Known(*number));
    let outcome = fleet.replicator.push(&batch(ids, NOW + 1), NOW).await.unwrap();
    assert_eq!(outcome.exceptions.len(), 0);
    // A slow machine may not have noted all numbers yet; whoever pushes brings labels then, as the receiver does.
    if !outcome.unknown.is_empty() {
        let ids = outcome
            .unknown
            .iter()
            .map(|index| SeriesId::New(labels(&names[*index as usize])));
        fleet.replicator.push(&batch(ids, NOW + 1), NOW).await.unwrap();
    }
    wait_for_copies(&fleet, &names, 2).await;
}

/// Waits until each receiver of Thanos has so many samples of each series that is placed on it, and of no other.
async fn wait_for_copies(fleet: &Fleet, names: &[String], samples: usize) {
    let tenant = Tenant::new("one").unwrap();
    let placement = fleet.placement.tenant(&tenant).unwrap();
    for (address, thanos) in &fleet.thanos {
        let node = fleet
            .placement
            .nodes()
            .iter()
            .position(|node| node.address == *address)
            .unwrap();
        let copy = |name: &str| {
            let owners = placement.owners(series_hash("one", &labels(name)));
            owners.iter().position(|owner| usize::from(*owner) == node)
        };
        let wanted = names.iter().filter(|name| copy(name).is_some()).count() * samples;
        assert!(wanted > 0);
        let begun = std::time::Instant::now();
        loop {
            let mut found = std::collections::HashSet::new();
            for request in thanos.0.lock().unwrap().iter() {
                assert_eq!((request.tenant.as_str(), request.tuples.len()), ("one", 0));
                for series in &request.timeseries {
                    let name = series.metric();
                    assert_eq!(Some(request.replica), copy(name).map(|copy| copy as i64 + 1), "{name}");
                    found.extend(series.samples.iter().map(|sample| (name.to_owned(), sample.timestamp)));
                }
            }
            if found.len() == wanted {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{address}: {} of {wanted}",
                found.len()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_is_found_and_costs_only_its_series() {
    let fleet = fleet(1, false).await;
    let names: Vec<String> = (0..50)
        .map(|number| format!("m{number}"))
        .chain(["bad".to_owned()])
        .collect();
    let ids = names.iter().map(|name| SeriesId::New(labels(name)));
    let outcome = fleet.replicator.push(&batch(ids, NOW), NOW).await.unwrap();
    let refused: Vec<(u32, Verdict)> = outcome.exceptions.iter().map(|one| (one.series, one.verdict)).collect();
    assert_eq!(refused, [(50, Verdict::Rejected(Reason::OutOfOrder))]);
}
