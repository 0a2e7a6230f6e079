//! Push sessions over real sockets: what every taker promises, and peers that die, hang, restart or lie.
#![expect(clippy::disallowed_methods, reason = "tests live in real time and on real sockets")]

use futures::future::BoxFuture;
use model::{
    env::{Clock, Env, Rng, Spawn, memory::MemoryFs},
    label::Labels,
    push::{Push, PushError, SeriesId, SeriesRef, WriteBatch, WriteOutcome, conformance, memory::MemoryTaker},
    sample::FloatSample,
    time::Timestamp,
};
use proto::grpc::{
    Routes,
    push_client::{BY_LABELS, Lives, PushClient, PushClientSettings},
    push_server::PushService,
    security::Security,
    serve,
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

const NOW: Timestamp = 1_790_000_000_000;

struct World(Instant);

impl Clock for World {
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

impl Rng for World {
    fn next_u64(&self) -> u64 {
        7
    }
}

impl Spawn for World {
    fn task(&self, _name: &str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }
    fn blocking(&self, _name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async { drop(tokio::task::spawn_blocking(work).await) })
    }
    fn thread(&self, _name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        std::thread::spawn(work);
        Ok(())
    }
}

fn env() -> Env {
    let world = Arc::new(World(Instant::now()));
    Env {
        clock: world.clone(),
        rng: world.clone(),
        fs: Arc::new(MemoryFs::new()),
        spawn: world,
    }
}

/// A node that takes pushes; it ends when dropped.
struct Node {
    address: SocketAddr,
    /// With a runtime of its own, whose end breaks all connections.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Node {
    async fn start(taker: Arc<dyn Push>, address: &str) -> Self {
        let deadline = Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "bind {address}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let routes = Routes::default().add_service(PushService::new(taker, 11));
            let (_ready, watched) = watch::channel(true);
            let listener = TcpListener::from_std(listener).unwrap();
            serve(listener, watched, routes, &Security::default(), std::future::pending())
                .await
                .unwrap();
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    /// Ends it as a crash does: connections break.
    fn kill(self) {}
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn settings() -> PushClientSettings {
    PushClientSettings {
        silence_max: Duration::from_millis(600),
        session_silence_max: Duration::from_secs(5),
        pause_last: Duration::from_millis(100),
        answer_time: (Duration::from_millis(1500), Duration::from_secs(5)),
        ..PushClientSettings::default()
    }
}

fn client(address: impl ToString) -> PushClient {
    PushClient::new(address.to_string(), Arc::new(Lives::default()), &env(), settings())
}

fn labels(name: &str) -> Labels {
    Labels::new([("__name__", name)]).unwrap()
}

fn one(id: SeriesId, at: Timestamp) -> WriteBatch {
    let mut batch = WriteBatch::default();
    batch.floats.push(FloatSample {
        at,
        value: 1.0,
        start: 0,
    });
    batch.finish_series(id);
    batch
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_far_taker_promises_what_a_near_one_does() {
    let taker = Arc::new(MemoryTaker::new());
    let node = Node::start(taker.clone(), "127.0.0.1:0").await;
    let client = client(node.address);
    conformance::check(&client, NOW).await;
    assert!(taker.sample_count() > 0);
}

#[tokio::test]
async fn numbers_of_a_session_before_are_unknown() {
    let taker = Arc::new(MemoryTaker::new());
    let node = Node::start(taker.clone(), "127.0.0.1:0").await;
    let client = client(node.address);
    let outcome = client.push(&one(SeriesId::New(labels("a")), NOW), NOW).await.unwrap();
    let number = outcome.refs[0].1;
    assert_eq!(PushClient::life_of(number), client.life());
    let again = client.push(&one(SeriesId::Known(number), NOW + 1), NOW).await.unwrap();
    assert_eq!(again, WriteOutcome::default());

    let address = node.address.to_string();
    node.kill();
    until("the loss is noticed", || !client.is_up()).await;
    let begun = Instant::now();
    let error = client
        .push(&one(SeriesId::Known(number), NOW + 2), NOW)
        .await
        .unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(200), "{error}");

    let _node = Node::start(taker.clone(), &address).await;
    until("the session is back", || client.is_open()).await;
    let outcome = client.push(&one(SeriesId::Known(number), NOW + 3), NOW).await.unwrap();
    assert_eq!((outcome.unknown, taker.sample_count()), (vec![0], 2));
    assert_eq!(client.counts().sessions.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_taker_that_cannot_says_so_through_the_wire() {
    let taker = Arc::new(MemoryTaker::new());
    let node = Node::start(taker.clone(), "127.0.0.1:0").await;
    let client = client(node.address);
    taker.fail(Some(PushError::Unavailable {
        reason: "disk full".into(),
        retry_after: Duration::from_secs(4),
    }));
    let error = client
        .push(&one(SeriesId::New(labels("a")), NOW), NOW)
        .await
        .unwrap_err();
    let PushError::Unavailable { reason, retry_after } = error;
    assert_eq!((reason.as_str(), retry_after), ("disk full", Duration::from_secs(4)));
    assert!(client.is_up(), "a full disk is no dead node");
}

/// Samples of so many new series.
fn many(series: usize, at: Timestamp) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for number in 0..series {
        batch.floats.push(FloatSample {
            at,
            value: number as f64,
            start: 0,
        });
        batch.finish_series(SeriesId::New(labels(&format!("m{number}"))));
    }
    batch
}

#[tokio::test]
async fn a_part_of_a_batch_is_sent_at_once_or_not_at_all() {
    let taker = Arc::new(MemoryTaker::new());
    let node = Node::start(taker.clone(), "127.0.0.1:0").await;
    let client = client(node.address);
    let (batch, part) = (many(5, NOW), [1, 4]);
    assert!(
        client.push_part(&batch, &part, &[BY_LABELS; 2], NOW).is_none(),
        "no session is open"
    );
    until("a session is open", || client.is_open()).await;
    let answer = client.push_part(&batch, &part, &[BY_LABELS; 2], NOW).unwrap();
    // The answer needs nothing of it.
    drop(batch);
    let outcome = answer.await.unwrap();
    let places: Vec<u32> = outcome.refs.iter().map(|(place, _)| *place).collect();
    assert_eq!((places, taker.sample_count()), (vec![0, 1], 2));
    let [one, four] = [outcome.refs[0].1, outcome.refs[1].1];

    // By number, in another order, beside one with labels; what is a duplicate is named by its place in the part.
    let batch = many(5, NOW + 1);
    let answer = client
        .push_part(&batch, &[4, 0, 1], &[four, BY_LABELS, one], NOW)
        .unwrap();
    assert_eq!(answer.await.unwrap().refs.len(), 1);
    let stored = |name: &str| {
        let series = taker.series(&batch.tenant, &labels(name)).unwrap();
        series.samples.len()
    };
    assert_eq!(["m0", "m1", "m4"].map(stored), [1, 2, 2]);
    let again = client
        .push_part(&batch, &[4, 1], &[four, one], NOW)
        .unwrap()
        .await
        .unwrap();
    let places: Vec<_> = again.exceptions.iter().map(|told| (told.series, told.sample)).collect();
    assert_eq!(places, [(0, 0), (1, 1)]);

    // A number of another session leaves a series out, so nothing is sent.
    let (sent, stale) = (
        client.counts().samples.load(Ordering::Relaxed),
        SeriesRef(one.0 + (1 << 32)),
    );
    assert!(client.push_part(&batch, &[4, 1], &[four, stale], NOW).is_none());
    assert_eq!(client.counts().samples.load(Ordering::Relaxed), sent);
    // As it is when one message does not hold it.
    let mut wide = WriteBatch::default();
    for number in 0..50 {
        let name = format!("m{number}");
        let long = "x".repeat(100_000);
        wide.finish_series(SeriesId::New(
            Labels::new([("__name__", name.as_str()), ("wide", &long)]).unwrap(),
        ));
    }
    let all: Vec<u32> = (0..50).collect();
    assert!(client.push_part(&wide, &all, &[BY_LABELS; 50], NOW).is_none());
    assert_eq!(sent, 7);
}

/// Has a fault in its code that some batches meet.
struct Faulty(MemoryTaker);

impl Push for Faulty {
    fn push<'a>(&'a self, batch: &'a WriteBatch, at: Timestamp) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        Box::pin(async move {
            assert!(batch.floats.len() > 1, "as the test wants it");
            self.0.push(batch, at).await
        })
    }
}

#[tokio::test]
async fn a_fault_in_the_taker_costs_one_batch_its_answer_and_no_session() {
    let node = Node::start(Arc::new(Faulty(MemoryTaker::new())), "127.0.0.1:0").await;
    let client = client(node.address);
    for round in 0..3 {
        let (good, bad) = (many(2, NOW + round), many(1, NOW + round));
        let (good, bad) = tokio::join!(client.push(&good, NOW), client.push(&bad, NOW));
        assert!(good.is_ok(), "{good:?}");
        let error = bad.unwrap_err().to_string();
        assert!(error.contains("a fault of the taker"), "{error}");
    }
    assert_eq!(client.counts().sessions.load(Ordering::Relaxed), 1);
}

/// More batches at once than a session takes at a time, and a taker that answers them in its own order.
#[tokio::test]
async fn many_batches_at_once_are_all_answered() {
    let slow = Arc::new(Slow::default());
    slow.delay_ms.store(20, Ordering::Relaxed);
    let node = Node::start(slow.clone(), "127.0.0.1:0").await;
    let client = client(node.address);
    let batches: Vec<WriteBatch> = (0..300).map(|round| many(3, NOW + round)).collect();
    let answers = batches.iter().map(|batch| client.push(batch, NOW));
    for answer in futures::future::join_all(answers).await {
        assert_eq!(answer.unwrap().refs.len(), 3);
    }
    assert_eq!(slow.taker.sample_count(), 900);
}

/// Takes nothing and never answers.
struct Hung;

impl Push for Hung {
    fn push<'a>(&'a self, _: &'a WriteBatch, _: Timestamp) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        Box::pin(std::future::pending())
    }
}

/// Takes its time.
#[derive(Default)]
struct Slow {
    taker: MemoryTaker,
    delay_ms: AtomicU64,
}

impl Push for Slow {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))).await;
            self.taker.push(batch, received).await
        })
    }
}

/// How long a peer is waited for depends on what is usual for it: before another is asked, before it counts as late, before it is given up.
#[tokio::test]
async fn patience_is_learnt() {
    let slow = Arc::new(Slow::default());
    let node = Node::start(slow.clone(), "127.0.0.1:0").await;
    let settings = PushClientSettings {
        answer_time: (Duration::from_millis(600), Duration::from_secs(10)),
        ..settings()
    };
    let most = settings.patience.1;
    let client = PushClient::new(node.address.to_string(), Arc::new(Lives::default()), &env(), settings);
    assert_eq!(client.patience(), most, "nothing is known of it yet");
    let push = async |step: i64| client.push(&one(SeriesId::New(labels("a")), NOW + step), NOW).await;
    for step in 0..30 {
        push(step).await.unwrap();
    }
    let quick = client.patience();
    assert!(quick < Duration::from_millis(400), "{quick:?}");
    // It hangs: late after a moment, although its session lives, and given up soon.
    slow.delay_ms.store(7_000, Ordering::Relaxed);
    let begun = Instant::now();
    let late = async {
        until("it is late", || client.is_late()).await;
        begun.elapsed()
    };
    let (given_up, late) = tokio::join!(push(40), late);
    let (given_up_after, error) = (begun.elapsed(), given_up.unwrap_err());
    assert!(late < Duration::from_millis(1200) && client.is_up(), "{late:?}");
    assert!(given_up_after < Duration::from_secs(5), "{given_up_after:?}: {error}");
    until("it is late, with a push that nobody waits for", || client.is_late()).await;
    until("the push is answered", || !client.is_late()).await;
    // One that always takes its time is waited for.
    slow.delay_ms.store(200, Ordering::Relaxed);
    for step in 50..70 {
        push(step).await.unwrap();
    }
    assert!(
        client.patience() > Duration::from_millis(350).max(quick),
        "{:?}",
        client.patience()
    );
    slow.delay_ms.store(900, Ordering::Relaxed);
    push(80).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_answers_pings_and_no_pushes_is_given_up_in_time() {
    let node = Node::start(Arc::new(Hung), "127.0.0.1:0").await;
    let client = client(node.address);
    let begun = Instant::now();
    let error = client
        .push(&one(SeriesId::New(labels("a")), NOW), NOW)
        .await
        .unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(8), "{error}");
}

/// Passes bytes between client and node until told to hold them back.
async fn proxy(to: SocketAddr, hold: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(to).await.unwrap();
            let mut hold = hold.clone();
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.split();
                let (mut far_read, mut far_write) = far.split();
                let passing = async {
                    tokio::join!(
                        tokio::io::copy(&mut near_read, &mut far_write),
                        tokio::io::copy(&mut far_read, &mut near_write)
                    )
                };
                tokio::pin!(passing);
                loop {
                    hold.wait_for(|hold| !hold).await.unwrap();
                    tokio::select! {
                        _ = &mut passing => return,
                        held = hold.wait_for(|hold| *hold) => drop(held.unwrap()),
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_stopped_peer_is_left_aside_and_comes_back_with_its_numbers() {
    let taker = Arc::new(MemoryTaker::new());
    let node = Node::start(taker.clone(), "127.0.0.1:0").await;
    let (hold, held) = watch::channel(false);
    let client = client(proxy(node.address, held).await);
    let outcome = client.push(&one(SeriesId::New(labels("a")), NOW), NOW).await.unwrap();
    let number = outcome.refs[0].1;

    hold.send_replace(true);
    let begun = Instant::now();
    let error = client
        .push(&one(SeriesId::Known(number), NOW + 1), NOW)
        .await
        .unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3), "{error}");
    until("it counts as away", || !client.is_up()).await;
    let begun = Instant::now();
    client
        .push(&one(SeriesId::Known(number), NOW + 2), NOW)
        .await
        .unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(100));

    hold.send_replace(false);
    until("it is back", || client.is_up()).await;
    let outcome = client.push(&one(SeriesId::Known(number), NOW + 3), NOW).await.unwrap();
    assert_eq!(outcome, WriteOutcome::default());
    assert_eq!(client.counts().sessions.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_is_under_way_is_bounded() {
    let node = Node::start(Arc::new(Hung), "127.0.0.1:0").await;
    let settings = PushClientSettings {
        queue_bytes_max: 1000,
        unanswered_max: Duration::from_secs(7),
        ..settings()
    };
    let client = PushClient::new(node.address.to_string(), Arc::new(Lives::default()), &env(), settings);
    let long = labels(&"x".repeat(800));
    let batch = one(SeriesId::New(long), NOW);
    let (first, second) = tokio::join!(client.push(&batch, NOW), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.push(&batch, NOW).await
    });
    assert!(first.unwrap_err().to_string().contains("in time"));
    assert!(second.unwrap_err().to_string().contains("bytes wait"));
    // Nobody waits for the first any more, but its message still takes room.
    let third = client.push(&batch, NOW).await;
    assert!(third.unwrap_err().to_string().contains("bytes wait"));
    // In the end the session is given up, and with it the message.
    for _ in 0..100 {
        if client.counts().sessions.load(Ordering::Relaxed) == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.counts().sessions.load(Ordering::Relaxed), 2);
    let again = client.push(&batch, NOW).await;
    assert!(again.unwrap_err().to_string().contains("in time"));
}

/// An answer that comes too late to be waited for gives its room back, and one that is always slow gets the time that it needs.
#[tokio::test]
async fn a_peer_that_became_slow_is_given_time() {
    let slow = Arc::new(Slow::default());
    let node = Node::start(slow.clone(), "127.0.0.1:0").await;
    let settings = PushClientSettings {
        queue_bytes_max: 1000,
        answer_time: (Duration::from_millis(600), Duration::from_secs(5)),
        ..settings()
    };
    let client = PushClient::new(node.address.to_string(), Arc::new(Lives::default()), &env(), settings);
    let long = labels(&"x".repeat(800));
    let push = async |step: i64| client.push(&one(SeriesId::New(long.clone()), NOW + step), NOW).await;
    for step in 0..20 {
        push(step).await.unwrap();
    }
    slow.delay_ms.store(2_000, Ordering::Relaxed);
    let error = push(30).await.unwrap_err();
    assert!(error.to_string().contains("in time"), "{error}");
    until("it is late", || client.is_late()).await;
    until("the late answer has come", || !client.is_late()).await;
    for step in 40..43 {
        push(step).await.unwrap();
    }
}

#[tokio::test]
async fn what_speaks_no_grpc_is_an_error_in_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            use tokio::io::AsyncWriteExt;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let client = client(address);
    let error = client
        .push(&one(SeriesId::Known(SeriesRef(1)), NOW), NOW)
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with(&address.to_string()), "{error}");
    assert!(!client.is_open());
}
