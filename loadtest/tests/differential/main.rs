//! The same data in Narthex and in a Prometheus, the same generated questions to both: values, labels, errors and notes must be
//! the same, or the difference stands with its reason in a table.
//!
//! The short form asks what a fixed seed makes. `make differential` asks thousands of questions; `NARTHEX_DIFFERENTIAL_QUERIES` and
//! `NARTHEX_DIFFERENTIAL_SEED` change how many and which. `NARTHEX_DIFFERENTIAL_ASK` holds queries, one per line, to which both answers
//! are printed.

mod ask;
mod chance;
mod compare;
mod data;
mod dialect;
mod generate;
mod known;

use anyhow::{Context, ensure};
use ask::{Asker, Outcome};
use compare::differences;
use dialect::{AGGREGATIONS, Dialect, FUNCTIONS};
use generate::Generator;
use loadtest::process::{Launch, PROMETHEUS, Server, installed, newer_peer};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Questions of the short form, to each peer.
const SHORT: usize = 700;
/// Questions of the long form, to each peer.
const LONG: usize = 4_000;
const SEED: u64 = 20_26;
/// Differences without a reason that are told in full.
const UNKNOWN_TOLD_MAX: usize = 100;

#[test]
fn debian_s_prometheus_agrees() -> anyhow::Result<()> {
    match installed("generated queries beside Debian's Prometheus", &[PROMETHEUS]) {
        true => run(known::OLD, Path::new(PROMETHEUS), &[], SHORT, SEED),
        false => Ok(()),
    }
}

#[test]
fn prometheus_3_agrees() -> anyhow::Result<()> {
    match prometheus_3() {
        Some(binary) => run(known::NEW, &binary, NEW_FEATURES, SHORT, SEED),
        None => Ok(()),
    }
}

#[test]
#[ignore = "takes minutes; `make differential` runs it"]
fn debian_s_prometheus_agrees_at_length() -> anyhow::Result<()> {
    ensure!(Path::new(PROMETHEUS).exists(), "{PROMETHEUS} is not installed");
    run(
        known::OLD,
        Path::new(PROMETHEUS),
        &[],
        number("QUERIES", LONG as u64) as usize,
        number("SEED", SEED),
    )
}

#[test]
#[ignore = "takes minutes; `make differential` runs it"]
fn prometheus_3_agrees_at_length() -> anyhow::Result<()> {
    match prometheus_3() {
        Some(binary) => run(
            known::NEW,
            &binary,
            NEW_FEATURES,
            number("QUERIES", LONG as u64) as usize,
            number("SEED", SEED),
        ),
        None => Ok(()),
    }
}

/// What is off by default in the peer and has a counterpart here.
const NEW_FEATURES: &[&str] =
    &["--enable-feature=promql-experimental-functions,promql-duration-expr,native-histograms"];

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(format!("NARTHEX_DIFFERENTIAL_{name}")).ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A Prometheus of the third generation below the folder that `NARTHEX_PEERS` names: `prometheus*/usr/bin/prometheus`.
fn prometheus_3() -> Option<PathBuf> {
    let found = newer_peer("prometheus");
    if found.is_none() {
        eprintln!(
            "\n*** SKIPPED: generated queries beside Prometheus 3: no prometheus*/usr/bin/prometheus below the folder that \
             NARTHEX_PEERS names ***\n"
        );
    }
    found
}

/// Everything that was found out about one peer.
#[derive(Default)]
struct Findings {
    asked: usize,
    /// Both refuse.
    refused: usize,
    /// Both answer with something.
    something: usize,
    /// Known differences by reason.
    known: BTreeMap<&'static str, usize>,
    unknown: Vec<String>,
    /// Functions and aggregations in questions that had an answer with something in it.
    answered: BTreeSet<&'static str>,
}

fn run(peer_name: &str, binary: &Path, features: &[&str], questions: usize, seed: u64) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (ours, theirs) = (
        start_narthex(&dir.path().join("narthex"))?,
        start_peer(&dir.path().join("peer"), binary, features)?,
    );
    let (mut us, mut peer) = (Asker::new(&ours.launch().url), Asker::new(&theirs.launch().url));
    let probe = peer.ask("{\"up\"}", ask::Times::Instant(data::start()))?;
    let series = data::series(matches!(probe, Outcome::Success { .. }));
    for server in [&ours, &theirs] {
        data::load(&mut server.probe(), &series).with_context(|| format!("load {}", server.launch().name))?;
    }
    let dialect = Dialect::of(&mut peer)?;
    let own = Dialect::of(&mut us)?;
    println!(
        "not known to Prometheus {peer_name}: {:?}; to Narthex: {:?}",
        dialect.unknown, own.unknown
    );
    let missing: Vec<_> = own
        .unknown
        .iter()
        .filter(|name| !dialect.unknown.contains(name))
        .collect();
    ensure!(missing.is_empty(), "Narthex does not know {missing:?}");

    for query in std::env::var("NARTHEX_DIFFERENTIAL_ASK").unwrap_or_default().lines() {
        print_answers(query, &mut us, &mut peer)?;
    }
    let mut findings = Findings::default();
    let mut generator = Generator::new(seed, &dialect);
    for _ in 0..questions {
        let query = generator.query();
        let (ours, theirs) = (us.ask(&query.text, query.times)?, peer.ask(&query.text, query.times)?);
        findings.add(peer_name, &query, &ours, &theirs);
    }
    findings.tell(peer_name, &dialect, questions)
}

fn print_answers(query: &str, us: &mut Asker, peer: &mut Asker) -> anyhow::Result<()> {
    let (start, end, step) = (data::start() + 1_800_000, data::start() + 5_400_000, 60_000);
    for times in [ask::Times::Instant(end), ask::Times::Range { start, end, step }] {
        println!("{times:?} {query}");
        for (name, asker) in [("ours", &mut *us), ("theirs", &mut *peer)] {
            let text: String = format!("{:?}", asker.ask(query, times)?).chars().take(1_000).collect();
            println!("  {name:<6} {text}");
        }
    }
    Ok(())
}

impl Findings {
    fn add(&mut self, peer: &str, query: &generate::Query, ours: &Outcome, theirs: &Outcome) {
        self.asked += 1;
        match ours {
            Outcome::Failure { .. } => self.refused += 1,
            Outcome::Success { series, .. } if !series.is_empty() => {
                self.something += 1;
                let names = FUNCTIONS
                    .iter()
                    .map(|(name, _)| *name)
                    .chain(AGGREGATIONS.iter().map(|(name, _)| *name));
                self.answered
                    .extend(names.filter(|name| known::calls(&query.text, name)));
            }
            Outcome::Success { .. } => {}
        }
        for difference in differences(&query.text, ours, theirs, peer == known::NEW) {
            match known::reason(peer, &query.text, &difference) {
                Some(reason) => *self.known.entry(reason).or_default() += 1,
                None => self.unknown.push(format!(
                    "{:?} {:?} {}\n    {}",
                    difference.aspect, query.times, query.text, difference.detail
                )),
            }
        }
    }

    fn tell(self, peer: &str, dialect: &Dialect, questions: usize) -> anyhow::Result<()> {
        println!(
            "Prometheus {peer}: {} questions, {} refused by both, {} answered with something; known differences:",
            self.asked, self.refused, self.something
        );
        for (reason, count) in &self.known {
            println!("{count:>6}  {reason}");
        }
        println!("{:>6}  differences without a reason", self.unknown.len());
        for unknown in self.unknown.iter().take(UNKNOWN_TOLD_MAX) {
            println!("  {unknown}");
        }
        ensure!(
            self.unknown.is_empty(),
            "{} differences without a reason",
            self.unknown.len()
        );
        ensure!(
            self.something * 10 > self.asked * 4,
            "most answers are empty: this shows little"
        );
        let expected = dialect
            .functions
            .iter()
            .map(|(name, _)| *name)
            .chain(dialect.aggregations.iter().map(|(name, _)| *name));
        // Native histograms are for modern peers; `absent` of what is there is nothing.
        let may_be_silent = |name: &str| name == "absent" || !dialect.modern && name.starts_with("histogram_");
        let silent: Vec<&str> = expected
            .filter(|name| !self.answered.contains(name) && !may_be_silent(name))
            .collect();
        ensure!(
            silent.is_empty() || questions < LONG / 2,
            "never answered with something: {silent:?}"
        );
        Ok(())
    }
}

fn start_narthex(dir: &Path) -> anyhow::Result<Server> {
    std::fs::create_dir(dir)?;
    Launch::narthex(dir)?.with("--query.experimental-functions").start()
}

fn start_peer(dir: &Path, binary: &Path, features: &[&str]) -> anyhow::Result<Server> {
    std::fs::create_dir(dir)?;
    let mut launch = Launch {
        binary: binary.to_owned(),
        ..Launch::prometheus(dir, "global: {}\n")?
    };
    for feature in features {
        launch = launch.with(feature);
    }
    launch.start()
}
