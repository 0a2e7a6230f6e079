//! Debian's Prometheus scrapes itself and the node exporter and writes to Narthex; from then on both must give the same
//! answers, also after Narthex cut a block, after it started again, and a Prometheus that is given the block agrees too.
#![expect(clippy::disallowed_methods, reason = "tests live in real time beside a real server")]

mod compare;
mod dump;
mod queries;

use anyhow::{Context, ensure};
use compare::{Question, Reply, ask_all, disagreements};
use loadtest::{
    api::{Answer, Api, seconds},
    clock::now_ms,
    process::{Launch, NODE_EXPORTER, PROMETHEUS, PROMTOOL, Server, installed},
};
use serde::Deserialize;
use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

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
    let place = |name: &str| -> anyhow::Result<std::path::PathBuf> {
        let path = dir.path().join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    };
    let launch = Launch::narthex(&place("narthex")?)?.with("--web.enable-admin-api");
    let narthex = launch.start()?;
    let exporter = Launch::node_exporter(&place("exporter")?)?.start()?;
    let prometheus = start_prometheus(&place("prometheus")?, &exporter, &narthex)?;

    let started = now_ms();
    thread::sleep(Duration::from_millis(COLLECT_MS as u64));
    let at = quiet_moment(&mut prometheus.api(), started)?;
    wait_for_samples(&narthex, at)?;

    let questions = questions(at);
    let told = |left: (&str, &[Reply]), right: (&str, &[Reply])| disagreements(&questions, left, right);
    let expected = ask_all(&mut prometheus.api(), &questions);
    let mut failures = told(
        ("Prometheus", &expected),
        ("Narthex", &ask_all(&mut narthex.api(), &questions)),
    );
    for (question, answer) in questions.iter().zip(&expected) {
        let as_wanted = match (question.wanted, answer) {
            (compare::Wanted::Refusal, answer) => answer.is_err(),
            (compare::Wanted::Nothing, Ok(answer)) => answer.series.is_empty(),
            (compare::Wanted::Something, Ok(answer)) => !answer.series.is_empty(),
            (_, Err(_)) => false,
        };
        assert!(
            as_wanted,
            "the test is wrong about {question}: Prometheus says {answer:?}"
        );
    }
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

/// Prometheus that scrapes itself and `exporter` every second and writes to `narthex` without delay.
fn start_prometheus(dir: &Path, exporter: &Server, narthex: &Server) -> anyhow::Result<Server> {
    let launch = Launch::prometheus(dir, "")?;
    let configuration = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\n\
         scrape_configs:\n\
         - {{job_name: prometheus, static_configs: [{{targets: ['{own}']}}]}}\n\
         - {{job_name: node, static_configs: [{{targets: ['{exporter}']}}]}}\n\
         remote_write:\n\
         - url: http://{narthex}/api/v1/write\n  \
           queue_config: {{batch_send_deadline: 200ms, max_samples_per_send: 500, min_backoff: 30ms}}\n",
        own = launch.url.authority,
        exporter = exporter.launch().url.authority,
        narthex = narthex.launch().url.authority,
    );
    std::fs::write(dir.join("prometheus.yml"), configuration)?;
    launch.start()
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

fn wait_for_samples(narthex: &Server, at: i64) -> anyhow::Result<()> {
    let (deadline, mut api) = (Instant::now() + Duration::from_secs(20), narthex.api());
    loop {
        let answer = api.instant("timestamp(up)", at + 1_500)?;
        let newest: Vec<f64> = answer
            .series
            .iter()
            .map(|series| series.samples[0].1 * 1000.0)
            .collect();
        if newest.len() == 2 && newest.iter().all(|&timestamp| timestamp > at as f64) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "samples do not arrive: {newest:?}, want {at}; {}",
            narthex.log_tail()
        );
        thread::sleep(Duration::from_millis(200));
    }
}

fn questions(at: i64) -> Vec<Question> {
    let lists = [
        (queries::QUERIES, compare::Wanted::Something),
        (queries::EMPTY_QUERIES, compare::Wanted::Nothing),
        (queries::REFUSED_QUERIES, compare::Wanted::Refusal),
    ];
    let mut questions = Vec::new();
    for (queries, wanted) in lists {
        for query in queries {
            let query = query.replace("{{at}}", &seconds(at - 4_000));
            questions.push(Question {
                query: query.clone(),
                start: at,
                end: at,
                step: 0,
                wanted,
            });
            questions.push(Question {
                query,
                start: at - RANGE_MS,
                end: at,
                step: 1_000,
                wanted,
            });
        }
    }
    questions
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
