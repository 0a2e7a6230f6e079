//! Asks a server the questions of [`crate::questions`]: one after the other to learn what each costs, or at a pace to
//! learn how long people wait while something else goes on.

use crate::{
    api::seconds,
    http::{Client, Url, form},
    meter::Usage,
    outcome::Latency,
    questions::{QUESTIONS, Question},
};
use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Graphs go back this far.
const GRAPH_SPAN: i64 = 45 * 60 * 1000;

/// And have a point every so many milliseconds.
const GRAPH_STEP: i64 = 15_000;

/// Whom to ask, and about what time.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The server; the query API is expected below it.
    pub url: Url,
    /// Headers on every request.
    pub headers: Vec<(String, String)>,
    /// The newest moment that is asked about, in milliseconds.
    pub time: i64,
    /// Bound for each answer.
    pub timeout: Duration,
}

/// What a question cost.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// The question.
    pub name: &'static str,
    /// Its expression.
    pub query: &'static str,
    /// The fastest answer, in milliseconds.
    pub best_ms: f64,
    /// CPU milliseconds of the server for one answer, on average.
    pub cpu_ms: f64,
    /// Size of the answer.
    pub bytes: usize,
    /// Why there is none, if the server refused.
    pub refusal: Option<String>,
}

impl Asker {
    fn client(&self) -> Client {
        Client::new(&self.url, &self.headers, self.timeout)
    }

    fn path(&self, question: &Question) -> String {
        let end = seconds(self.time);
        let base = self.url.path.trim_end_matches('/');
        if question.over_time {
            let (start, step) = (seconds(self.time - GRAPH_SPAN), seconds(GRAPH_STEP));
            let parameters = [
                ("query", question.query),
                ("start", &start),
                ("end", &end),
                ("step", &step),
            ];
            format!("{base}/api/v1/query_range?{}", form(&parameters))
        } else {
            format!(
                "{base}/api/v1/query?{}",
                form(&[("query", question.query), ("time", &end)])
            )
        }
    }

    /// Asks each question `repeat` times after once for warming up, and reads what process `pid` uses for it.
    ///
    /// CPU time comes in ticks of 10 ms, so the average over 20 answers is good to half a millisecond.
    pub fn costs(&self, pid: u32, repeat: u32) -> anyhow::Result<Vec<Cost>> {
        ensure!(repeat > 0, "each question is asked at least once");
        QUESTIONS
            .iter()
            .map(|question| {
                self.cost(question, pid, repeat)
                    .with_context(|| format!("ask {}", question.query))
            })
            .collect()
    }

    fn cost(&self, question: &Question, pid: u32, repeat: u32) -> anyhow::Result<Cost> {
        let (mut client, path) = (self.client(), self.path(question));
        let first = client.get(&path)?;
        let mut cost = Cost {
            name: question.name,
            query: question.query,
            best_ms: f64::INFINITY,
            cpu_ms: 0.0,
            bytes: first.body.len(),
            refusal: (first.status != 200).then(|| format!("{}: {}", first.status, first.text())),
        };
        let before = Usage::of(pid)?.cpu();
        for _ in 0..repeat {
            let asked = Instant::now();
            client.get(&path)?;
            cost.best_ms = cost.best_ms.min(asked.elapsed().as_secs_f64() * 1e3);
        }
        cost.cpu_ms = (Usage::of(pid)?.cpu() - before) * 1e3 / f64::from(repeat);
        Ok(cost)
    }

    /// Asks `rate` questions a second, each question in turn, until `stop` is set or `time` is over. A question counts
    /// from when it was due.
    ///
    /// # Errors
    /// When an answer is not 200, or does not come.
    pub fn pace(&self, rate: f64, time: Duration, stop: &AtomicBool) -> anyhow::Result<Latency> {
        ensure!(rate > 0.0, "the rate of questions must be positive");
        let lanes = 4;
        let started = Instant::now();
        let waited: Vec<anyhow::Result<Histogram<u64>>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..lanes)
                .map(|lane| scope.spawn(move || self.lane(lane, lanes, rate, started, time, stop)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a connection's thread does not panic"))
                .collect()
        });
        let mut all = Histogram::new(3)?;
        for lane in waited {
            all.add(lane?)?;
        }
        Ok(Latency::of(&all))
    }

    fn lane(
        &self,
        lane: usize,
        lanes: usize,
        rate: f64,
        started: Instant,
        time: Duration,
        stop: &AtomicBool,
    ) -> anyhow::Result<Histogram<u64>> {
        let (mut client, mut waited) = (self.client(), Histogram::new(3)?);
        for number in (lane..).step_by(lanes) {
            let passed = Duration::from_secs_f64(number as f64 / rate);
            while started.elapsed() < passed && !stop.load(Ordering::Relaxed) {
                thread::sleep(passed.saturating_sub(started.elapsed()).min(Duration::from_millis(20)));
            }
            if passed >= time || stop.load(Ordering::Relaxed) {
                break;
            }
            let question = &QUESTIONS[number % QUESTIONS.len()];
            let answer = client.get(&self.path(question))?;
            ensure!(
                answer.status == 200,
                "{}: {} {}",
                question.query,
                answer.status,
                answer.text()
            );
            waited.record((started + passed).elapsed().as_micros() as u64)?;
        }
        Ok(waited)
    }
}

/// The costs as lines of a table.
pub fn costs_table(costs: &[Cost]) -> String {
    let line = |cost: &Cost| match &cost.refusal {
        Some(refusal) => format!("{:<24} refused: {}", cost.name, refusal.trim()),
        None => format!(
            "{:<24} {:>9.1} {:>9.1} {:>10}",
            cost.name, cost.best_ms, cost.cpu_ms, cost.bytes
        ),
    };
    let head = format!("{:<24} {:>9} {:>9} {:>10}", "question", "best ms", "CPU ms", "bytes");
    std::iter::once(head)
        .chain(costs.iter().map(line))
        .collect::<Vec<_>>()
        .join("\n")
}
