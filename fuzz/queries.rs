//! What the fuzz target `query` does with bytes: take them for a query, and evaluate it. Nothing may panic, hang or take more than the
//! budget; what was parsed prints as something that parses again. `querier/promql/tests/anything.rs` runs the same with seeds.
#![allow(dead_code, reason = "the tests and the fuzz target use different parts of it")]

use futures::executor::block_on;
use model::{
    label::Labels,
    sample::{STALE_NAN, SampleBuffer},
};
use promql::{
    ast::ParserOptions,
    engine::{Cancel, Engine, EngineOptions, Query, Times},
    parse::parse,
    print,
    script::{LoadedSeries, Memory},
};
use std::sync::OnceLock;

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
    memory
}

/// Parses, prints, plans and evaluates; whether there was an answer.
pub(crate) fn try_out(engine: &Engine, source: &Memory, text: &str, times: Times) -> bool {
    let Ok(expr) = parse(text, ParserOptions::ALL) else {
        return false;
    };
    let printed = expr.to_string();
    let again =
        parse(&printed, ParserOptions::ALL).unwrap_or_else(|error| panic!("{text} prints as {printed}: {error}"));
    assert_eq!(again.to_string(), printed, "{text}");
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
