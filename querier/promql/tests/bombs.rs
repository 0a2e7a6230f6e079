//! Queries that ask for more than there is room: each ends with a clear error, in bounded time and memory, and a modest query beside
//! them is answered all the while.
//!
//! The source makes its series up when they are asked for, so that the memory of this process is that of the engine. One test, since
//! it measures the process.
#![expect(
    clippy::disallowed_methods,
    reason = "the test measures its own process, and runs queries side by side"
)]

use futures::{executor::block_on, future::BoxFuture};
use model::{
    label::Labels,
    matcher::Matcher,
    sample::SampleBuffer,
    select::{Chunk, LabelList, Samples, Select, SelectError, SelectRequest, Series, SeriesSet},
    time::TimeRange,
};
use promql::engine::{Cancel, Engine, EngineOptions, Pool, Query, QueryError, Times};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Series of the selector `everything`; any other name has ten.
const EVERYTHING: usize = 1_000_000;
/// Milliseconds between samples.
const INTERVAL: i64 = 15_000;
/// Series per batch of an answer.
const BATCH: usize = 1_000;
const YEAR: i64 = 365 * 86_400_000;

/// Samples of an endless counter.
struct Endless(usize);

impl Samples for Endless {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        let first = range.min.max(0).div_euclid(INTERVAL);
        for index in first..=range.max.min(YEAR).div_euclid(INTERVAL) {
            let at = index * INTERVAL;
            if at >= range.min {
                buffer.push_float(at, (index as usize * 7 + self.0) as f64 + 0.25);
            }
        }
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        Ok(Vec::new())
    }
}

struct Source;

struct MadeUp {
    name: String,
    range: std::ops::Range<usize>,
}

impl SeriesSet for MadeUp {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        let end = (self.range.start + BATCH).min(self.range.end);
        let series = (self.range.start..end).map(|index| Series {
            labels: Labels::new([
                ("__name__", self.name.clone()),
                ("instance", format!("host-{index:07}.example.org:9100")),
            ])
            .expect("labels are sound"),
            samples: Box::new(Endless(index)),
        });
        let batch: Vec<Series> = series.collect();
        self.range.start = end;
        Box::pin(async move { (!batch.is_empty()).then_some(Ok(batch)) })
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Select for Source {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        let name = request.matchers.iter().find(|matcher| &*matcher.name == "__name__");
        let name = name.map_or("everything", |matcher| &matcher.value).to_owned();
        let count = if name == "everything" { EVERYTHING } else { 10 };
        Box::pin(async move { Ok(Box::new(MadeUp { name, range: 0..count }) as Box<dyn SeriesSet>) })
    }

    fn label_names(&self, _: Vec<Matcher>, _: TimeRange, _: usize) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async { Ok(LabelList::default()) })
    }

    fn label_values(
        &self,
        _: String,
        _: Vec<Matcher>,
        _: TimeRange,
        _: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async { Ok(LabelList::default()) })
    }
}

fn run(engine: &Engine, text: &str, times: Times, pool: Option<std::sync::Arc<Pool>>) -> Result<(), QueryError> {
    let query = Query {
        text: text.to_owned(),
        times,
        lookback_ms: None,
        samples_max: None,
        stats_by_step: false,
    };
    let mut prepared = engine.prepare(&query)?;
    if let Some(pool) = pool {
        prepared = prepared.within(pool);
    }
    block_on(prepared.load(&Source))?.evaluate(&Cancel::never()).map(drop)
}

/// Most memory that this process ever had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or("0");
    line.split_whitespace()
        .next()
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn bombs_end_in_clear_errors_while_other_queries_go_on() {
    const SAMPLES_MAX: usize = 2_000_000;
    const BYTES_MAX: usize = 64 << 20;
    let engine = Engine::new(EngineOptions {
        samples_max: SAMPLES_MAX,
        bytes_max: BYTES_MAX,
        ..EngineOptions::everything()
    });
    let day = Times::Range {
        start: 30 * 86_400_000,
        end: 31 * 86_400_000,
        step_ms: 10_000,
    };
    let now = Times::Instant(YEAR);
    let long = "$1".repeat(400_000);
    let long_label = format!("label_replace(few, \"a\", \"{long}\", \"instance\", \"(.*)\")");
    let sum_of_many = vec!["few"; 400].join(" + ");
    let bombs: Vec<(&str, Times, &str)> = vec![
        ("everything", now, "bytes of series"),
        ("count(everything)", now, "bytes of series"),
        ("few[1y]", now, "too many samples"),
        ("few[1y:1ms]", now, "too many samples"),
        ("sum_over_time(few[1y:1s])", now, "too many samples"),
        (
            "max_over_time(max_over_time(few[30d:1s])[30d:1s])",
            now,
            "too many samples",
        ),
        (
            "sum_over_time(sum_over_time(sum_over_time(few[10d:10s])[10d:10s])[10d:10s])",
            day,
            "too many samples",
        ),
        (
            "few or (few * on (instance) group_left () few) or label_replace(few[1y:1s], \"a\", \"b\", \"c\", \"d\")",
            day,
            "",
        ),
        (
            "count_values(\"value\", few offset 1d)",
            Times::Range {
                start: 0,
                end: YEAR,
                step_ms: 15_000,
            },
            "too many samples",
        ),
        ("count_values(\"value\", {__name__=~\"e.*\"})", now, ""),
        (&long_label, now, "bytes of series"),
        (
            "vector(1)",
            Times::Range {
                start: i64::MIN / 2,
                end: i64::MAX / 2,
                step_ms: 1,
            },
            "too many samples",
        ),
        ("few @ 1e300", now, ""),
        ("few offset 292y", now, ""),
        ("quantile_over_time(0.5, few[300d])", now, ""),
    ];
    let stop = AtomicBool::new(false);
    let before = peak_mib();
    thread::scope(|scope| {
        // Also when an assertion fails, or else the bystander would go on for ever.
        let stopping = SetOnDrop(&stop);
        let bystander = scope.spawn(|| {
            let (mut slowest, mut answers) = (Duration::ZERO, 0);
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                run(
                    &engine,
                    "sum by (instance) (rate(few[5m]))",
                    Times::Instant(86_400_000),
                    None,
                )
                .expect("it is modest");
                slowest = slowest.max(started.elapsed());
                answers += 1;
                thread::sleep(Duration::from_millis(5));
            }
            (slowest, answers)
        });
        for (text, times, expected) in &bombs {
            let started = Instant::now();
            let outcome = run(&engine, text, *times, None).map_err(|error| error.to_string());
            let took = started.elapsed();
            let told: String = text.chars().take(70).collect();
            println!(
                "{:>6} ms  peak {:>4} MiB  {told}: {outcome:?}",
                took.as_millis(),
                peak_mib()
            );
            if !expected.is_empty() {
                assert!(
                    outcome.as_ref().is_err_and(|error| error.contains(expected)),
                    "{told}: {outcome:?}"
                );
            }
            assert!(took < Duration::from_secs(20), "{told} took {took:?}");
        }
        // A long sum is no bomb.
        run(&engine, &sum_of_many, now, None).expect("a long sum is answered");
        drop(stopping);
        let (slowest, answers) = bystander.join().expect("the bystander lives");
        println!("bystander: {answers} answers, the slowest after {slowest:?}");
        assert!(
            answers > 10 && slowest < Duration::from_secs(5),
            "{answers} answers, slowest {slowest:?}"
        );
    });
    let grown = peak_mib().saturating_sub(before);
    // Samples (16 bytes) and bytes that may be held, once more for what is being made, and the text of queries.
    let bound = 2 * ((SAMPLES_MAX * 16 + BYTES_MAX) as u64 >> 20) + 64;
    assert!(grown < bound, "memory grew by {grown} MiB, more than {bound}");

    // Together queries may hold less than one alone.
    let pool = Pool::new("tenant a", 100_000);
    let error = run(&engine, "few[100d]", now, Some(pool.clone())).expect_err("the pool is small");
    assert_eq!(
        error.to_string(),
        "all queries of tenant a together would hold more than 100000 samples in memory; try again later"
    );
    assert_eq!(pool.samples(), 0, "what a failed query held is given back");
}
