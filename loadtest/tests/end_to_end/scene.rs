//! What the end-to-end tests set up and wait for: a Prometheus that scrapes and writes, samples that arrive, questions.

use crate::compare::{Question, Reply, Wanted};
use anyhow::ensure;
use loadtest::{
    api::Api,
    process::{Launch, Server},
};
use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for samples.
const PATIENCE: Duration = Duration::from_secs(60);

/// A new folder.
pub(crate) fn folder(dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = dir.join(name);
    std::fs::create_dir(&path)?;
    Ok(path)
}

/// What a Prometheus scrapes besides the exporter, and what tells it from another.
#[derive(Default)]
pub(crate) struct Scrapes {
    pub(crate) itself: bool,
    pub(crate) replica: Option<usize>,
}

/// Prometheus that scrapes every second and writes to `receiver` without delay.
pub(crate) fn start_prometheus(
    dir: &Path,
    scrapes: &Scrapes,
    exporter: &Server,
    receiver: &Launch,
) -> anyhow::Result<Server> {
    let launch = Launch::prometheus(dir, "")?;
    let external = match scrapes.replica {
        Some(number) => format!(", external_labels: {{replica: '{number}'}}"),
        None => String::new(),
    };
    let itself = match scrapes.itself {
        true => format!(
            "- {{job_name: prometheus, static_configs: [{{targets: ['{}']}}]}}\n",
            launch.url.authority
        ),
        false => String::new(),
    };
    let configuration = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 900ms{external}}}\n\
         scrape_configs:\n\
         {itself}\
         - {{job_name: node, static_configs: [{{targets: ['{exporter}']}}]}}\n\
         remote_write:\n\
         - url: http://{receiver}/api/v1/write\n  \
           queue_config: {{batch_send_deadline: 200ms, max_samples_per_send: 500, min_backoff: 30ms, max_backoff: 500ms}}\n",
        exporter = exporter.launch().url.authority,
        receiver = receiver.url.authority,
    );
    std::fs::write(dir.join("prometheus.yml"), configuration)?;
    launch.start()
}

/// Waits until two series of `up` that `selector` names have samples behind `at`.
pub(crate) fn wait_for_samples(api: &mut Api, selector: &str, at: i64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = api.instant(&format!("timestamp({selector})"), at + 1_500)?;
        let newest = answer.series.iter().map(|series| series.samples[0].1 * 1000.0);
        let newest: Vec<f64> = newest.collect();
        if newest.len() == 2 && newest.iter().all(|&timestamp| timestamp > at as f64) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "samples do not arrive: {newest:?}, want {at}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// Each query at `at`, and each second of the `range_ms` before it.
pub(crate) fn questions(queries: impl Iterator<Item = (String, Wanted)>, at: i64, range_ms: i64) -> Vec<Question> {
    let ask = |(query, wanted): (String, Wanted)| {
        let question = |start, step| Question {
            query: query.clone(),
            start,
            end: at,
            step,
            wanted,
        };
        [question(at, 0), question(at - range_ms, 1_000)]
    };
    queries.flat_map(ask).collect()
}

/// Fails when questions have answers from Prometheus that show nothing: then the test is wrong about them.
pub(crate) fn ensure_wanted(questions: &[Question], replies: &[Reply]) -> anyhow::Result<()> {
    for (question, reply) in questions.iter().zip(replies) {
        let as_wanted = match (question.wanted, reply) {
            (Wanted::Refusal, reply) => reply.is_err(),
            (Wanted::Nothing, Ok(answer)) => answer.series.is_empty(),
            (Wanted::Something, Ok(answer)) => !answer.series.is_empty(),
            (_, Err(_)) => false,
        };
        ensure!(
            as_wanted,
            "the test is wrong about {question}: Prometheus says {reply:?}"
        );
    }
    Ok(())
}
