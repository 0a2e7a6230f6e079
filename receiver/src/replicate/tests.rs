//! A replicator over takers in memory: it keeps the promises of every taker, and it keeps its own with nodes that fail, hang and restart.

use super::*;
use crate::ring::placement::Ring;
use cluster::document::Document;
use model::{
    env::{Clock, Rng, Spawn, memory::MemoryFs},
    label::Labels,
    push::{SeriesId, SeriesRef, conformance, memory::MemoryTaker},
    sample::FloatSample,
    verdict::Verdict,
};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

const NOW: Timestamp = 1_790_000_000_000;

/// How long nodes wait for another before they ask a third.
const PATIENCE_MS: u64 = 1;

/// Tasks on the test's runtime, and a clock whose sleeps end at once when told to.
struct World {
    runtime: tokio::runtime::Handle,
    random: AtomicU64,
    /// Sleeps of up to so many milliseconds end at once; others never do.
    hurry_ms: AtomicU64,
    /// Tasks that have not ended.
    tasks: Arc<AtomicUsize>,
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        NOW
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration <= Duration::from_millis(self.hurry_ms.load(Ordering::Relaxed)) {
            Box::pin(std::future::ready(()))
        } else {
            Box::pin(std::future::pending())
        }
    }
}

impl Rng for World {
    fn next_u64(&self) -> u64 {
        self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

impl Spawn for World {
    fn task(&self, _name: &str, task: BoxFuture<'static, ()>) {
        let tasks = Arc::clone(&self.tasks);
        tasks.fetch_add(1, Ordering::SeqCst);
        self.runtime.spawn(async move {
            task.await;
            tasks.fetch_sub(1, Ordering::SeqCst);
        });
    }
    fn blocking(&self, _name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        work();
        Box::pin(std::future::ready(()))
    }
    fn thread(&self, _name: &str, _work: Box<dyn FnOnce() + Send>) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// A node in memory. Its numbers carry a life above, as those of a session do.
struct Node {
    taker: MemoryTaker,
    life: AtomicU32,
    up: AtomicBool,
    /// Never answers.
    hangs: AtomicBool,
    /// Has a fault in its code.
    panics: AtomicBool,
    /// Keeps others waiting.
    late: AtomicBool,
    /// The number of its process; 0 while it is not known.
    process: AtomicU64,
    /// What a push makes known of its process.
    tells: AtomicU64,
}

impl Push for Node {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        Box::pin(async move {
            if self.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let tells = self.tells.load(Ordering::Relaxed);
            if tells != 0 {
                self.process.store(tells, Ordering::Relaxed);
            }
            assert!(!self.panics.load(Ordering::Relaxed), "as the test wants it");
            if !self.up.load(Ordering::Relaxed) {
                return Err(not_now("away".to_owned()));
            }
            let life = u64::from(self.life.load(Ordering::Relaxed));
            let mut own = batch.clone();
            for series in &mut own.series {
                if let SeriesId::Known(number) = series.id {
                    let stale = number.0 >> 32 != life;
                    series.id = SeriesId::Known(SeriesRef(if stale { u64::MAX } else { number.0 & 0xffff_ffff }));
                }
            }
            let mut outcome = self.taker.push(&own, received).await?;
            for (_, number) in &mut outcome.refs {
                number.0 |= life << 32;
            }
            Ok(outcome)
        })
    }
}

impl Peer for End {
    fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }
    fn life(&self) -> u32 {
        self.0.life.load(Ordering::Relaxed)
    }
    fn patience(&self) -> Duration {
        Duration::from_millis(PATIENCE_MS)
    }
    fn is_late(&self) -> bool {
        self.0.late.load(Ordering::Relaxed)
    }
    fn process(&self) -> Option<u64> {
        Some(self.0.process.load(Ordering::Relaxed)).filter(|process| *process != 0)
    }
}

/// One end of the line to a far node.
struct End(Arc<Node>);

impl Push for End {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        self.0.push(batch, received)
    }
}

struct Ends(Vec<Arc<Node>>);

impl Connect for Ends {
    fn connect(&self, address: &str) -> Arc<dyn Peer> {
        let number: usize = address
            .trim_start_matches('n')
            .split(':')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        Arc::new(End(Arc::clone(&self.0[number - 2])))
    }
}

/// A node with others, of which it is number one.
struct Cluster {
    replicator: Arc<Replicator>,
    near: Arc<Node>,
    far: Vec<Arc<Node>>,
    world: Arc<World>,
}

fn placement(nodes: usize, copies: usize) -> Arc<Placement> {
    let members: Vec<String> = (1..=nodes)
        .map(|id| format!(r#"{{"id":{id},"address":"n{id}:1","state":"ACTIVE"}}"#))
        .collect();
    let json = format!(
        r#"{{"epoch":1,"replication_factor":{copies},"members":[{}]}}"#,
        members.join(",")
    );
    let document = Document::from_json(json.as_bytes()).unwrap();
    Arc::new(Placement::Document(Ring::new(document)))
}

fn cluster(nodes: usize, copies: usize) -> Cluster {
    let world = Arc::new(World {
        runtime: tokio::runtime::Handle::current(),
        random: AtomicU64::new(1),
        hurry_ms: AtomicU64::new(0),
        tasks: Arc::default(),
    });
    let env = Env {
        clock: world.clone(),
        rng: world.clone(),
        fs: Arc::new(MemoryFs::new()),
        spawn: world.clone(),
    };
    let node = |number: usize| {
        Arc::new(Node {
            taker: MemoryTaker::new(),
            // The numbers of the near node are those of no session.
            life: AtomicU32::new(if number == 1 { 0 } else { number as u32 }),
            up: AtomicBool::new(true),
            hangs: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            late: AtomicBool::new(false),
            process: AtomicU64::new(1000 + number as u64),
            tells: AtomicU64::new(0),
        })
    };
    let near = node(1);
    let far: Vec<_> = (2..=nodes).map(node).collect();
    let connect = Arc::new(Ends(far.clone()));
    let replicator = Replicator::new(env, near.clone(), connect, 1000, &mut Registry::default());
    replicator.follow(placement(nodes, copies), Some(0));
    Cluster {
        replicator,
        near,
        far,
        world,
    }
}

fn labels(number: usize) -> Labels {
    Labels::new([("__name__".to_owned(), format!("m{number}"))]).unwrap()
}

fn batch(series: impl IntoIterator<Item = SeriesId>, at: Timestamp) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for id in series {
        batch.floats.push(FloatSample {
            at,
            value: 1.0,
            start: 0,
        });
        batch.finish_series(id);
    }
    batch
}

fn new_ones(series: usize, at: Timestamp) -> WriteBatch {
    batch((0..series).map(|number| SeriesId::New(labels(number))), at)
}

impl Cluster {
    async fn push(&self, batch: &WriteBatch) -> Result<WriteOutcome, PushError> {
        self.replicator.push(batch, NOW).await
    }

    /// Numbers of so many new series.
    async fn register(&self, series: usize) -> Vec<SeriesRef> {
        let outcome = self.push(&new_ones(series, NOW)).await.unwrap();
        let mut refs = outcome.refs;
        refs.sort_unstable();
        assert_eq!(refs.len(), series);
        self.idle();
        refs.into_iter().map(|(_, number)| number).collect()
    }

    /// Samples on all nodes, once all that is under way has arrived.
    fn copies(&self) -> usize {
        self.near.taker.sample_count() + self.far.iter().map(|far| far.taker.sample_count()).sum::<usize>()
    }

    /// Waits until no push is under way any more, also none that its caller did not wait for.
    fn idle(&self) {
        for _ in 0..5000 {
            if self.world.tasks.load(Ordering::SeqCst) == 0 {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "waits for other threads")]
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("a push never ends");
    }

    fn settled(&self, copies: usize) {
        self.idle();
        assert_eq!(self.copies(), copies);
    }
}

/// Answers when the last replica has, not at the quorum: a series that some replica has not named yet is asked for with labels again.
struct Patient(Cluster);

impl Push for Patient {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        Box::pin(async move {
            let outcome = self.0.replicator.push(batch, received).await;
            self.0.idle();
            outcome
        })
    }
}

fn known(numbers: &[SeriesRef], at: Timestamp) -> WriteBatch {
    batch(numbers.iter().map(|number| SeriesId::Known(*number)), at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_promises_what_its_takers_do() {
    conformance::check(&Patient(cluster(1, 1)), NOW).await;
    conformance::check(&Patient(cluster(1, 2)), NOW).await;
    conformance::check(&Patient(cluster(3, 3)), NOW).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_owner_gets_every_sample_and_labels_only_once() {
    let cluster = cluster(3, 3);
    let numbers = cluster.register(50).await;
    cluster.settled(150);
    for step in 1..4 {
        let outcome = cluster.push(&known(&numbers, NOW + step)).await.unwrap();
        assert_eq!(outcome, WriteOutcome::default());
        cluster.settled(150 * (step as usize + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_nodes_only_the_owners_get_a_series() {
    let cluster = cluster(6, 3);
    cluster.register(60).await;
    cluster.settled(180);
    assert!(cluster.near.taker.sample_count() < 60 && cluster.near.taker.sample_count() > 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_node_of_three_costs_nothing() {
    let cluster = cluster(3, 3);
    let numbers = cluster.register(10).await;
    cluster.settled(30);
    // Not noticed yet: the push fails. Noticed: it is not asked at all.
    for step in 1..5 {
        cluster.far[0].up.store(false, Ordering::Relaxed);
        let outcome = cluster.push(&known(&numbers, NOW + step)).await.unwrap();
        assert_eq!(outcome, WriteOutcome::default());
    }
    cluster.settled(30 + 4 * 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_acknowledged() {
    let cluster = cluster(3, 3);
    let numbers = cluster.register(10).await;
    cluster
        .far
        .iter()
        .for_each(|far| far.up.store(false, Ordering::Relaxed));
    let error = cluster.push(&known(&numbers, NOW + 1)).await.unwrap_err();
    assert!(error.to_string().contains("2 of 3 nodes are away"), "{error}");
    cluster.far[1].up.store(true, Ordering::Relaxed);
    cluster.push(&known(&numbers, NOW + 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_stands_in_for_a_dead_one() {
    let cluster = cluster(5, 3);
    let numbers = cluster.register(40).await;
    cluster.settled(120);
    cluster.far[0].up.store(false, Ordering::Relaxed);
    // The substitutes have never seen the series: those come again with labels.
    let outcome = cluster.push(&known(&numbers, NOW + 1)).await.unwrap();
    assert!(!outcome.unknown.is_empty() && outcome.unknown.len() < 40);
    let again = outcome
        .unknown
        .iter()
        .map(|index| SeriesId::New(labels(*index as usize)));
    let again = cluster.push(&batch(again, NOW + 1)).await.unwrap();
    assert!(again.unknown.is_empty());
    cluster.settled(240);
    let outcome = cluster.push(&known(&numbers, NOW + 2)).await.unwrap();
    assert_eq!(outcome, WriteOutcome::default());
    cluster.settled(360);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_fails_in_the_middle_is_replaced_when_labels_are_at_hand() {
    let cluster = cluster(5, 3);
    let busy = PushError::Unavailable {
        reason: "disk full".into(),
        retry_after: Duration::from_secs(1),
    };
    cluster.far[0].taker.fail(Some(busy.clone()));
    cluster.far[1].taker.fail(Some(busy));
    let outcome = cluster.push(&new_ones(40, NOW)).await.unwrap();
    assert_eq!(outcome.refs.len(), 40);
    assert!(outcome.unknown.is_empty() && outcome.exceptions.is_empty());
    // Two copies of each are certain; a third is not replaced once two are on disk.
    assert!((80..=120).contains(&cluster.copies()), "{}", cluster.copies());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_disk_may_hang_and_is_then_not_waited_for() {
    let hurry_ms = ANSWER_WITHIN.as_millis() as u64;
    for (nodes, copies) in [(1, 1), (2, 1)] {
        let cluster = cluster(nodes, copies);
        let numbers = cluster.register(10).await;
        cluster.near.hangs.store(true, Ordering::Relaxed);
        cluster.world.hurry_ms.store(hurry_ms, Ordering::Relaxed);
        let error = cluster.push(&known(&numbers, NOW + 1)).await.unwrap_err();
        assert!(error.to_string().contains("see whether it hangs"), "{error}");
    }
    // A quorum without it is one.
    let cluster = cluster(3, 3);
    let numbers = cluster.register(10).await;
    cluster.near.hangs.store(true, Ordering::Relaxed);
    let outcome = cluster.push(&known(&numbers, NOW + 1)).await.unwrap();
    assert_eq!(outcome, WriteOutcome::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_in_a_taker_costs_its_vote_and_nothing_else() {
    let cluster = cluster(3, 3);
    let numbers = cluster.register(10).await;
    cluster.far[0].panics.store(true, Ordering::Relaxed);
    let outcome = cluster.push(&known(&numbers, NOW + 1)).await.unwrap();
    assert_eq!(outcome, WriteOutcome::default());
    cluster.settled(30 + 20);
    cluster.near.panics.store(true, Ordering::Relaxed);
    let error = cluster.push(&known(&numbers, NOW + 2)).await.unwrap_err();
    assert!(error.to_string().contains("a fault of the taker"), "{error}");
    cluster.settled(30 + 20 + 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_node_is_hedged() {
    let cluster = cluster(4, 1);
    cluster.world.hurry_ms.store(PATIENCE_MS, Ordering::Relaxed);
    cluster.far[0].hangs.store(true, Ordering::Relaxed);
    let outcome = cluster.push(&new_ones(40, NOW)).await.unwrap();
    assert_eq!(outcome.refs.len(), 40);
    assert_eq!(cluster.far[0].taker.sample_count(), 0);
    assert!(cluster.copies() >= 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_node_is_passed_by_while_there_are_enough_others() {
    let cluster = cluster(4, 2);
    let late = &cluster.far[0];
    late.late.store(true, Ordering::Relaxed);
    cluster.register(40).await;
    cluster.settled(80);
    assert_eq!(late.taker.sample_count(), 0);
    // Without it there would be too few: it is asked like the others.
    cluster.far[1].up.store(false, Ordering::Relaxed);
    cluster.far[2].up.store(false, Ordering::Relaxed);
    cluster.push(&new_ones(40, NOW + 1)).await.unwrap();
    cluster.settled(160);
    assert_eq!(late.taker.sample_count(), 40);
}

/// An address may lead to a process that is reached under another one as well: it was given anew, or written down twice. That is one disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_addresses_of_one_process_are_one_vote() {
    let cluster = cluster(3, 3);
    cluster.far[1].up.store(false, Ordering::Relaxed);
    let own = cluster.replicator.process();
    cluster.far[0].process.store(own, Ordering::Relaxed);
    let error = cluster.push(&new_ones(5, NOW)).await.unwrap_err().to_string();
    assert!(
        error.contains("n1:1") && error.contains("n2:1") && error.contains("same process"),
        "{error}"
    );
    // It may come out with the push only.
    cluster.far[0].process.store(0, Ordering::Relaxed);
    cluster.far[0].tells.store(own, Ordering::Relaxed);
    let error = cluster.push(&new_ones(5, NOW)).await.unwrap_err().to_string();
    assert!(error.contains("same process"), "{error}");
    cluster.far[0].tells.store(0, Ordering::Relaxed);
    // With a third that is another, two disks hold it.
    cluster.far[1].up.store(true, Ordering::Relaxed);
    cluster.push(&new_ones(5, NOW)).await.unwrap();
    // Two far ones that are the same are no quorum either.
    let far = cluster.far[1].process.load(Ordering::Relaxed);
    cluster.far[0].process.store(far, Ordering::Relaxed);
    cluster.near.taker.fail(Some(not_now("disk full".to_owned())));
    let error = cluster.push(&new_ones(5, NOW + 1)).await.unwrap_err().to_string();
    assert!(error.contains("copies must be on disk"), "{error}");
}

/// Cut off from both others, a node acknowledges nothing: not while they hang, not by asking in their place, not when the detector still
/// takes them for alive, not when the ring changes meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_alone_never_acknowledges() {
    let cluster = cluster(3, 3);
    let numbers = cluster.register(10).await;
    cluster
        .far
        .iter()
        .for_each(|far| far.hangs.store(true, Ordering::Relaxed));
    for hurry_ms in [0, PATIENCE_MS] {
        cluster.world.hurry_ms.store(hurry_ms, Ordering::Relaxed);
        for (late, batch) in [(false, known(&numbers, NOW + 1)), (true, new_ones(10, NOW + 2))] {
            cluster
                .far
                .iter()
                .for_each(|far| far.late.store(late, Ordering::Relaxed));
            let pushed = tokio::time::timeout(Duration::from_millis(100), cluster.push(&batch)).await;
            assert!(pushed.is_err(), "answered: {pushed:?}");
        }
    }
    let batch = new_ones(10, NOW + 3);
    let pushing = tokio::time::timeout(Duration::from_millis(100), cluster.push(&batch));
    let (answered, ()) = tokio::join!(pushing, async {
        tokio::task::yield_now().await;
        cluster.replicator.follow(placement(2, 3), Some(0));
        cluster.replicator.follow(placement(3, 3), Some(0));
    });
    assert!(answered.is_err(), "answered: {answered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_gets_labels_again() {
    let cluster = cluster(3, 3);
    let numbers = cluster.register(10).await;
    cluster.settled(30);
    cluster.far[0].life.store(77, Ordering::Relaxed);
    let outcome = cluster.push(&known(&numbers, NOW + 1)).await.unwrap();
    assert_eq!(outcome.unknown.len(), 10);
    cluster.push(&new_ones(10, NOW + 1)).await.unwrap();
    cluster.settled(60);
    let outcome = cluster.push(&known(&numbers, NOW + 2)).await.unwrap();
    assert_eq!(outcome, WriteOutcome::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_again_is_a_duplicate_even_where_it_was_half_stored() {
    let cluster = cluster(3, 3);
    cluster.far[0].up.store(false, Ordering::Relaxed);
    cluster.register(5).await;
    cluster.settled(10);
    cluster.far[0].up.store(true, Ordering::Relaxed);
    cluster.far[1].up.store(false, Ordering::Relaxed);
    let outcome = cluster.push(&new_ones(5, NOW)).await.unwrap();
    assert!(
        outcome
            .exceptions
            .iter()
            .all(|exception| exception.verdict == Verdict::Duplicate)
    );
    cluster.settled(15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_from_before_the_ring_grew_are_unknown() {
    let cluster = cluster(1, 1);
    let numbers = cluster.register(5).await;
    cluster.replicator.follow(placement(1, 2), Some(0));
    let outcome = cluster.push(&known(&numbers, NOW + 1)).await.unwrap();
    assert_eq!(outcome.unknown, [0, 1, 2, 3, 4]);
    let ours = cluster.register(5).await;
    cluster.replicator.follow(placement(1, 1), Some(0));
    let outcome = cluster.push(&known(&ours, NOW + 2)).await.unwrap();
    assert_eq!(outcome.unknown, [0, 1, 2, 3, 4]);
}
