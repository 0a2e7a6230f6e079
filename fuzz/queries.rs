//! What the fuzz target `query` does with bytes: take them for a query, and evaluate it. Nothing may panic, hang or take more than the
//! budget; what was parsed prints as something that parses again. `querier/promql/tests/anything.rs` runs the same with seeds.
#![allow(dead_code, reason = "the tests and the fuzz target use different parts of it")]

use futures::executor::block_on;
use model::{
    histogram::{CUSTOM_BUCKETS_SCHEMA, Histogram, Span},
    label::Labels,
    sample::{HistogramSample, STALE_NAN, SampleBuffer},
};
use promql::{
    ast::ParserOptions,
    engine::{Cancel, Engine, EngineOptions, Query, Times},
    parse::parse,
    print,
    script::{LoadedSeries, Memory},
};
use std::sync::{Arc, OnceLock};

/// The first byte chooses the time, the rest is the query.
pub(crate) fn query(bytes: &[u8]) {
    static ALL: OnceLock<(Engine, Memory)> = OnceLock::new();
    let (engine, source) = ALL.get_or_init(|| (Engine::new(EngineOptions::everything()), source()));
    let Some((&first, text)) = bytes.split_first() else {
        return;
    };
    let times = match first % 5 {
        0 => Times::Instant(300_000),
        1 => Times::Instant(-1),
        2 => Times::Instant(i64::MAX),
        3 => Times::Instant(i64::MIN),
        _ => Times::Range {
            start: 0,
            end: 899_999,
            step_ms: 7_000,
        },
    };
    try_out(engine, source, &String::from_utf8_lossy(text), times);
}

/// Series to ask about, with values of every kind.
pub(crate) fn source() -> Memory {
    let mut memory = Memory::new();
    for (name, job) in [("x", "a"), ("x", "b"), ("y", "a"), ("y", "c")] {
        let mut samples = SampleBuffer::default();
        for step in 0..60i64 {
            let value = match step % 13 {
                5 => f64::NAN,
                7 => f64::INFINITY,
                9 => STALE_NAN,
                _ => (step * step % 17) as f64,
            };
            samples.push_float(step * 15_000, value);
        }
        let labels = Labels::new([("__name__", name), ("job", job), ("le", "0.5")]).unwrap();
        memory.load(LoadedSeries { labels, samples }).unwrap();
    }
    // Classic buckets, native histograms that change their layout, and both in one series.
    for (job, bound) in [("a", "0.1"), ("a", "1"), ("a", "+Inf"), ("b", "nonsense")] {
        let mut samples = SampleBuffer::default();
        (0..60i64).for_each(|step| samples.push_float(step * 15_000, (step % 20 * (1 + bound.len() as i64)) as f64));
        let labels = Labels::new([("__name__", "h_bucket"), ("job", job), ("le", bound)]).unwrap();
        memory.load(LoadedSeries { labels, samples }).unwrap();
    }
    for job in ["a", "b", "mixed"] {
        let mut samples = SampleBuffer::default();
        for step in 0..60i64 {
            if job == "mixed" && step % 3 == 0 {
                samples.push_float(step * 15_000, step as f64);
                continue;
            }
            samples.histograms.push(HistogramSample {
                at: step * 15_000,
                start: 0,
                histogram: Arc::new(histogram(step, job == "b" && step > 30)),
            });
        }
        let labels = Labels::new([("__name__", "h"), ("job", job)]).unwrap();
        memory.load(LoadedSeries { labels, samples }).unwrap();
    }
    memory
}

/// A histogram that grows, starts again, and has exponential or custom buckets.
fn histogram(step: i64, custom: bool) -> Histogram {
    let count = (step % 25 + 1) as f64;
    Histogram {
        schema: if custom {
            CUSTOM_BUCKETS_SCHEMA
        } else {
            (step / 20) as i32
        },
        zero_threshold: if custom { 0.0 } else { 0.001 },
        zero_count: if custom { 0.0 } else { count },
        count: if custom { 3.0 * count } else { 4.0 * count },
        sum: if step == 17 { f64::NAN } else { count * 1.5 },
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_buckets: vec![count, 2.0 * count],
        custom_values: if custom { vec![0.5, 2.0] } else { Vec::new() },
        ..Histogram::default()
    }
}

/// Prometheus prints infinity with its sign, and so do we. Before a power that sign is read as one of the whole power, `+(Inf ^ 2)`: the
/// same value, but printed with one sign more.
fn without_signs_of_inf(mut printed: String) -> String {
    while printed.contains("+Inf") {
        printed = printed.replace("+Inf", "Inf");
    }
    printed
}

/// Parses, prints, plans and evaluates; whether there was an answer.
pub(crate) fn try_out(engine: &Engine, source: &Memory, text: &str, times: Times) -> bool {
    let Ok(expr) = parse(text, ParserOptions::ALL) else {
        return false;
    };
    let printed = expr.to_string();
    let again =
        parse(&printed, ParserOptions::ALL).unwrap_or_else(|error| panic!("{text} prints as {printed}: {error}"));
    assert_eq!(
        without_signs_of_inf(again.to_string()),
        without_signs_of_inf(printed),
        "{text}"
    );
    print::pretty(&expr);
    print::json(&expr);
    let query = Query {
        text: text.to_owned(),
        times,
        lookback_ms: None,
        samples_max: Some(20_000),
        stats_by_step: false,
    };
    let Ok(prepared) = engine.prepare(&query) else {
        return false;
    };
    let Ok(loaded) = block_on(prepared.load(source)) else {
        return false;
    };
    loaded.evaluate(&Cancel::never()).is_ok()
}
