//! Debian's Prometheus scrapes itself and the node exporter and writes to Narthex; from then on both must give the same
//! answers, also after Narthex cut a block, after it started again, and a Prometheus that is given the block agrees too.
#![expect(clippy::disallowed_methods, reason = "tests live in real time beside a real server")]

mod compare;
mod dump;
mod queries;
mod scene;

use anyhow::{Context, ensure};
use compare::{Question, Reply, Wanted, ask_all, disagreements};
use loadtest::{
    api::{Answer, Api, seconds},
    clock::now_ms,
    process::{Launch, NODE_EXPORTER, PROMETHEUS, PROMTOOL, installed},
};
use scene::{Scrapes, ensure_wanted, folder, start_prometheus, wait_for_samples};
use serde::Deserialize;
use std::{path::Path, process::Command, thread, time::Duration};

/// How long samples are collected. The first seconds are not asked about: a sender's first samples may be older than
/// its queue.
const COLLECT_MS: i64 = 40_000;
/// Range queries go from so long before the last evaluation time up to it.
const RANGE_MS: i64 = 10_000;

#[test]
fn narthex_answers_as_prometheus_does_also_from_its_blocks() -> anyhow::Result<()> {
    if !installed("Prometheus beside Narthex", &[PROMETHEUS, PROMTOOL, NODE_EXPORTER]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let place = |name: &str| folder(dir.path(), name);
    let launch = Launch::narthex(&place("narthex")?)?.with("--web.enable-admin-api");
    let narthex = launch.start()?;
    let exporter = Launch::node_exporter(&place("exporter")?)?.start()?;
    let scrapes = Scrapes {
        itself: true,
        replica: None,
    };
    let prometheus = start_prometheus(&place("prometheus")?, &scrapes, &exporter, narthex.launch())?;

    let started = now_ms();
    thread::sleep(Duration::from_millis(COLLECT_MS as u64));
    let at = quiet_moment(&mut prometheus.api(), started)?;
    wait_for_samples(&mut narthex.api(), "up", at)?;

    let questions = questions(at);
    let told = |left: (&str, &[Reply]), right: (&str, &[Reply])| disagreements(&questions, left, right);
    let expected = ask_all(&mut prometheus.api(), &questions);
    let mut failures = told(
        ("Prometheus", &expected),
        ("Narthex", &ask_all(&mut narthex.api(), &questions)),
    );
    ensure_wanted(&questions, &expected)?;
    println!(
        "{} questions, {} disagreements: {failures:#?}",
        questions.len(),
        failures.len()
    );
    prometheus.terminate(Duration::from_secs(20))?;
    drop(exporter);

    let before = ask_all(&mut narthex.api(), &questions);
    let everything = everything(&mut narthex.api(), at)?;
    let blocks = cut(&mut narthex.api())?;
    failures.extend(told(
        ("before the cut", &before),
        ("after it", &ask_all(&mut narthex.api(), &questions)),
    ));
    let bucket = launch.data.join("bucket");
    let copy = copy_blocks(&bucket, &blocks, &place("copy")?)?;
    failures.extend(dump::check_blocks(&copy, &blocks, &everything)?);

    let reader = Launch {
        data: copy,
        ..Launch::prometheus(&place("reader")?, "global: {}\n")?
    };
    let reader = with_data(reader).start()?;
    failures.extend(told(
        ("Prometheus", &expected),
        ("Prometheus on the block", &ask_all(&mut reader.api(), &questions)),
    ));

    narthex.terminate(Duration::from_secs(10))?;
    let narthex = launch.start()?;
    failures.extend(told(
        ("before the cut", &before),
        ("after a restart", &ask_all(&mut narthex.api(), &questions)),
    ));
    assert!(
        failures.is_empty(),
        "{} disagreements:\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(())
}

/// Points the flag at the folder that `data` names.
fn with_data(mut launch: Launch) -> Launch {
    for argument in &mut launch.arguments {
        if argument.starts_with("--storage.tsdb.path=") {
            *argument = format!("--storage.tsdb.path={}", launch.data.display());
        }
    }
    launch
}

/// An evaluation time a few seconds ago whose millisecond lies as far as can be from those of the samples, since windows
/// that end on a sample are cut differently by Prometheus 2 and 3.
fn quiet_moment(api: &mut Api, started: i64) -> anyhow::Result<i64> {
    let end = started + COLLECT_MS - 2_000;
    let answer = api.instant("up[30s]", end)?;
    let taken: Vec<i64> = answer
        .series
        .iter()
        .flat_map(|series| &series.samples)
        .map(|(t, _)| t.rem_euclid(1000))
        .collect();
    ensure!(taken.len() > 40, "only {} scrapes happened", taken.len());
    let distance = |millisecond: i64| {
        let away = |&t: &i64| {
            (t - millisecond)
                .rem_euclid(1000)
                .min((millisecond - t).rem_euclid(1000))
        };
        taken.iter().map(away).min().unwrap_or(0)
    };
    let best = (0..1000).max_by_key(|&millisecond| distance(millisecond)).unwrap_or(0);
    ensure!(
        distance(best) >= 5,
        "scrapes are spread over the whole second; no evaluation time is clear of them"
    );
    Ok(end / 1000 * 1000 + best - 1000)
}

fn questions(at: i64) -> Vec<Question> {
    let lists = [
        (queries::QUERIES, Wanted::Something),
        (queries::EMPTY_QUERIES, Wanted::Nothing),
        (queries::REFUSED_QUERIES, Wanted::Refusal),
    ];
    let then = seconds(at - 4_000);
    let all = lists
        .into_iter()
        .flat_map(|(queries, wanted)| queries.iter().map(move |query| (query, wanted)));
    let all = all.map(|(query, wanted)| (query.replace("{{at}}", &then), wanted));
    scene::questions(all, at, RANGE_MS)
}

/// A block as the cut lists it.
#[derive(Deserialize)]
pub(crate) struct Block {
    ulid: String,
    series: u64,
    samples: u64,
}

fn cut(api: &mut Api) -> anyhow::Result<Vec<Block>> {
    #[derive(Deserialize)]
    struct Cut {
        blocks: Vec<Block>,
    }
    let (cut, _): (Cut, _) = api.call("/api/v1/admin/cut", &[]).context("cut")?;
    ensure!(!cut.blocks.is_empty(), "the cut made no block");
    Ok(cut.blocks)
}

/// Every sample that Narthex has, before anything is cut.
fn everything(api: &mut Api, at: i64) -> anyhow::Result<Answer> {
    api.instant("{__name__!=\"\"}[1h]", at + 600_000)
}

fn copy_blocks(bucket: &Path, blocks: &[Block], to: &Path) -> anyhow::Result<std::path::PathBuf> {
    for block in blocks {
        let from = bucket.join(&block.ulid);
        ensure!(from.join("meta.json").is_file(), "no block at {}", from.display());
        let status = Command::new("cp").arg("-r").arg(&from).arg(to).status()?;
        ensure!(status.success(), "copy {}", from.display());
    }
    // promtool opens a folder only when there is room for a log in it.
    std::fs::create_dir(to.join("wal"))?;
    Ok(to.to_owned())
}
