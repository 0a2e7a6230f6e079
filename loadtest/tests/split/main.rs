//! The whole of it, as a cluster is run: two Prometheus scrape the same target and write to three receivers with three copies, which ship to
//! S3; a querier answers over the ring and a store gateway. Its answers are those of one Prometheus, over what is in the bucket, what is
//! in the heads, and the seam between, while the receivers are killed in turn; and an answer is marked as partial exactly when it may be.
#![expect(clippy::disallowed_methods, reason = "tests live in real time beside real servers")]

#[path = "../end_to_end/compare.rs"]
mod compare;
#[path = "../end_to_end/queries.rs"]
mod queries;
#[path = "../end_to_end/scene.rs"]
mod scene;

use anyhow::{Context, ensure};
use compare::{Question, Wanted, ask_all, disagreements};
use loadtest::{
    api::Answer,
    clock::now_ms,
    process::{Launch, NODE_EXPORTER, PROMETHEUS, Server, installed},
    s3::{self, Bucket},
};
use scene::{Scrapes, ensure_wanted, folder, start_prometheus, wait_for_samples};
use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long samples are collected before the cut, and again after it.
const COLLECT: Duration = Duration::from_secs(30);
/// Range queries go from so long before the last evaluation time up to it.
const RANGE_MS: i64 = 10_000;
/// The longest look back of a question: its range and the widest window in it.
const REACH_MS: i64 = 24_000;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that runs.
struct World {
    receivers: Vec<(Launch, Option<Server>)>,
    store: Option<Server>,
    querier: Server,
    /// The pair; the first one speaks where both have samples.
    pair: [Server; 2],
    _exporter: Server,
    _bucket: Bucket,
}

#[test]
fn a_pair_of_prometheus_is_answered_for_as_one() -> anyhow::Result<()> {
    if !installed("a pair of Prometheus before a ring", &[PROMETHEUS, NODE_EXPORTER]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut world = World::start(dir.path())?;
    println!("the bucket is {}", world._bucket.name);
    let begun = now_ms();
    thread::sleep(COLLECT);
    let in_bucket = world.quiet_moment(begun)?;
    world.wait_for_samples(in_bucket)?;
    let before = world.check("before the cut", in_bucket)?;

    world.cut()?;
    let cut_at = now_ms();
    thread::sleep(COLLECT);
    let on_seam = world.quiet_moment(cut_at - RANGE_MS)?;
    world.wait_for_samples(on_seam)?;
    world.check("over the seam", on_seam)?;
    let after = world.check("from bucket and heads", in_bucket)?;
    assert_eq!(before, after, "as many questions were asked");

    // Each receiver in turn: two of three have everything.
    for number in 0..3 {
        world.kill(number)?;
        let questions = world.check(&format!("without receiver {number}"), on_seam)?;
        assert!(questions > 40, "only {questions} questions");
        world.restart(number)?;
        world.settle(on_seam)?;
    }
    world.raw_samples_are_all_there(begun + 5_000, on_seam)?;

    // With two gone, or without the store, something may be missing, and the answer says so.
    world.kill(0)?;
    world.kill(1)?;
    world.assert_marked("two receivers are gone", on_seam)?;
    world.restart(0)?;
    world.restart(1)?;
    world.settle(on_seam)?;
    world.store = None;
    world.assert_marked("the store is gone", on_seam)?;
    Ok(())
}

/// Narthex with a role; gives where it is reached over gRPC as well.
fn narthex(dir: &Path, name: &str, role: &str) -> anyhow::Result<(Launch, String)> {
    let mut launch = Launch::narthex(&folder(dir, name)?)?;
    launch.name = name.to_owned();
    launch.arguments.insert(0, role.to_owned());
    let address = launch
        .arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("--grpc.address="));
    let address = address.context("the launch names its gRPC address")?.to_owned();
    Ok((launch, address))
}

impl World {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let bucket = s3::any(&folder(dir, "s3")?)?;
        let objstore = format!("--objstore.config={}", bucket.document);
        let mut receivers = Vec::new();
        let mut ring = String::new();
        for number in 0..3 {
            let (launch, address) = narthex(dir, &format!("receive{number}"), "receive")?;
            let launch = launch
                .with(&objstore)
                .with("--web.enable-admin-api")
                .with("--store.sync-interval=1s");
            let launch = match number {
                0 => launch.with("--cluster.replication-factor=3"),
                _ => launch.with(&format!("--cluster.join={ring}")),
            };
            if number == 0 {
                ring = address;
            }
            let server = launch.start()?;
            receivers.push((launch, Some(server)));
        }
        let (store, store_address) = narthex(dir, "store", "store")?;
        let store = store.with(&objstore).with("--store.sync-interval=1s").start()?;
        let (querier, _) = narthex(dir, "query", "query")?;
        let querier = querier
            .with(&format!("--cluster.join={ring}"))
            .with(&format!("--endpoint={store_address}"))
            .with("--endpoint.interval=1s")
            .with("--query.replica-label=replica")
            .start()?;
        let exporter = Launch::node_exporter(&folder(dir, "exporter")?)?.start()?;
        let prometheus = |number: usize| -> anyhow::Result<Server> {
            let scrapes = Scrapes {
                itself: false,
                replica: Some(number),
            };
            let folder = folder(dir, &format!("prometheus{number}"))?;
            start_prometheus(&folder, &scrapes, &exporter, &receivers[number].0)
        };
        let pair = [prometheus(0)?, prometheus(1)?];
        Ok(Self {
            receivers,
            store: Some(store),
            querier,
            pair,
            _exporter: exporter,
            _bucket: bucket,
        })
    }

    fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        self.receivers[number].1.take().context("the receiver runs")?.kill()
    }

    fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        let (launch, server) = &mut self.receivers[number];
        *server = Some(launch.start()?);
        Ok(())
    }

    /// Waits until the querier has found everybody again. One that is missing is not told, so there is time for it to be found.
    fn settle(&self, at: i64) -> anyhow::Result<()> {
        thread::sleep(Duration::from_secs(3));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask("count(up)", at)?;
            if answer.warnings.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "answers stay marked: {:?}", answer.warnings);
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Every receiver ships what it has.
    fn cut(&mut self) -> anyhow::Result<()> {
        for (launch, server) in &self.receivers {
            let mut api = server.as_ref().context("the receiver runs")?.api();
            let answer: (serde_json::Value, _) = api.call("/api/v1/admin/cut", &[])?;
            let blocks = answer.0["blocks"].as_array().map_or(0, Vec::len);
            ensure!(blocks > 0, "{} cut nothing: {}", launch.name, answer.0);
        }
        Ok(())
    }

    fn ask(&self, query: &str, at: i64) -> anyhow::Result<Answer> {
        self.querier.api().instant(query, at)
    }

    /// Asks the querier and the pair's first; gives how many questions agreed.
    fn check(&self, story: &str, at: i64) -> anyhow::Result<usize> {
        let questions = questions(at);
        let expected = ask_all(&mut self.pair[0].api(), &questions);
        let got = ask_all(&mut self.querier.api(), &questions);
        ensure_wanted(&questions, &expected).with_context(|| story.to_owned())?;
        let told = disagreements(&questions, ("Prometheus", &expected), ("the querier", &got));
        ensure!(
            told.is_empty(),
            "{story}: {} of {}: {told:#?}",
            told.len(),
            questions.len()
        );
        for (question, reply) in questions.iter().zip(&got) {
            // What the language warns of has nothing to do with what is missing.
            let of_sources = |warning: &&String| !warning.starts_with("PromQL");
            let warnings = reply.iter().flat_map(|answer| &answer.warnings);
            let warnings: Vec<&String> = warnings.filter(of_sources).collect();
            ensure!(
                warnings.is_empty(),
                "{story}: {question} is marked: {warnings:?}\n{}",
                self.querier.log_tail()
            );
        }
        println!("{story}: {} questions agree", questions.len());
        Ok(questions.len())
    }

    /// An answer that may lack something is marked, and refused to who wants it whole.
    fn assert_marked(&self, story: &str, at: i64) -> anyhow::Result<()> {
        let answer = self.ask("count(up)", at)?;
        ensure!(!answer.warnings.is_empty(), "{story}, and the answer is not marked");
        let strict = self
            .querier
            .api()
            .with("partial_response", "false")
            .instant("count(up)", at);
        ensure!(
            strict.is_err(),
            "{story}, and a strict question is answered: {strict:?}"
        );
        println!("{story}: {:?}", answer.warnings);
        Ok(())
    }

    /// Every sample that each Prometheus stored is found under its replica label, once.
    fn raw_samples_are_all_there(&self, from: i64, to: i64) -> anyhow::Result<()> {
        let query = format!("{{__name__=~\"node_.*|up\"}}[{}ms]", to - from);
        let mut api = self.querier.api().with("dedup", "false");
        let got = by_labels(api.instant(&query, to)?);
        for (number, prometheus) in self.pair.iter().enumerate() {
            let stored = prometheus.api().instant(&query, to)?;
            let mut samples = 0;
            for series in stored.series {
                let mut labels = series.labels;
                labels.insert("replica".to_owned(), number.to_string());
                let found = got.get(&labels).with_context(|| format!("{labels:?} is lost"))?;
                let bits = |samples: &[(i64, f64)]| -> Vec<(i64, u64)> {
                    samples.iter().map(|(at, value)| (*at, value.to_bits())).collect()
                };
                ensure!(
                    bits(found) == bits(&series.samples),
                    "{labels:?}: {found:?} for {:?}",
                    series.samples
                );
                samples += found.len();
            }
            ensure!(samples > 10_000, "only {samples} samples were compared");
            println!("replica {number}: {samples} samples are the same");
        }
        Ok(())
    }

    /// An evaluation time some seconds ago that is clear of the samples of both, with no scrape missed in the reach of a question.
    fn quiet_moment(&self, not_before: i64) -> anyhow::Result<i64> {
        let now = now_ms();
        let scrapes = |server: &Server| -> anyhow::Result<Vec<i64>> {
            let answer = server
                .api()
                .instant(&format!("up{{job=\"node\"}}[{}ms]", now - not_before), now)?;
            let samples = answer.series.into_iter().flat_map(|series| series.samples);
            Ok(samples.map(|(at, _)| at).collect())
        };
        let (first, second) = (scrapes(&self.pair[0])?, scrapes(&self.pair[1])?);
        let clear = |at: i64| {
            let around = |times: &[i64]| {
                times
                    .iter()
                    .all(|time| (time - at).rem_euclid(1000).min((at - time).rem_euclid(1000)) >= 5)
            };
            let reach: Vec<i64> = first
                .iter()
                .copied()
                .filter(|time| (at - REACH_MS..=at).contains(time))
                .collect();
            let whole =
                reach.windows(2).all(|pair| pair[1] - pair[0] < 1_150) && reach.len() as i64 >= REACH_MS / 1000 - 1;
            whole && around(&first) && around(&second)
        };
        let candidates = (not_before + REACH_MS..now - 2_000).rev().step_by(7);
        let found = candidates.into_iter().find(|at| clear(*at));
        found.with_context(|| format!("no moment is clear of scrapes and gaps: {first:?} {second:?}"))
    }

    fn wait_for_samples(&self, at: i64) -> anyhow::Result<()> {
        let mut api = self.querier.api().with("dedup", "false");
        wait_for_samples(&mut api, "up{job=\"node\"}", at)
    }
}

fn by_labels(answer: Answer) -> BTreeMap<loadtest::api::Labels, Vec<(i64, f64)>> {
    answer
        .series
        .into_iter()
        .map(|series| (series.labels, series.samples))
        .collect()
}

/// Questions about the exporter, whose series all come from the same scrapes, and those that have no answer.
fn questions(at: i64) -> Vec<Question> {
    let others = ["prometheus", "go_", "process_", "up", "scrape_", "offset", "{{at}}"];
    let about_node = |query: &&&str| query.contains("node_") && !others.iter().any(|other| query.contains(other));
    let answered = queries::QUERIES
        .iter()
        .filter(about_node)
        .map(|query| (query, Wanted::Something));
    let nothing = queries::EMPTY_QUERIES.iter().map(|query| (query, Wanted::Nothing));
    let refused = queries::REFUSED_QUERIES.iter().map(|query| (query, Wanted::Refusal));
    let all = answered.chain(nothing).chain(refused);
    scene::questions(all.map(|(query, wanted)| ((*query).to_owned(), wanted)), at, RANGE_MS)
}
