//! Any query over a few series, at any times: it is answered or refused within its budget.
#![no_main]

use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use model::{label::Labels, sample::SampleBuffer};
use promql::{
    engine::{Cancel, Engine, EngineOptions, Query, Times},
    script::{LoadedSeries, Memory},
};
use std::sync::OnceLock;

/// `x`, `y` and `x_bucket` with values that repeat, rise, fall, and are missing.
fn source() -> &'static Memory {
    static SOURCE: OnceLock<Memory> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let mut memory = Memory::new();
        for (place, name) in ["x", "y", "x_bucket", "x_bucket"].into_iter().enumerate() {
            let mut samples = SampleBuffer::default();
            for step in (0..60i64).filter(|step| step % 11 != 3) {
                let value = if step % 13 == 5 { f64::NAN } else { (step * step % 17) as f64 };
                samples.push_float(step * 15_000, value);
            }
            let bound = ["0.1", "0.5", "1", "+Inf"][place];
            let labels = Labels::new([("__name__", name), ("job", "a"), ("le", bound)]).expect("labels are sound");
            memory.load(LoadedSeries { labels, samples }).expect("samples are in order");
        }
        memory
    })
}

fuzz_target!(|input: (&str, i64, u16, u16)| {
    let (text, start, step, steps) = input;
    let times = match step {
        0 => Times::Instant(start),
        _ => Times::Range {
            start,
            end: start.saturating_add(i64::from(step) * i64::from(steps % 500)),
            step_ms: i64::from(step),
        },
    };
    let query = Query {
        text: text.to_owned(),
        times,
        lookback_ms: None,
        samples_max: Some(20_000),
    };
    let engine = Engine::new(EngineOptions::everything());
    if let Ok(prepared) = engine.prepare(&query)
        && let Ok(loaded) = block_on(prepared.load(source()))
    {
        let _ = loaded.evaluate(&Cancel::never());
    }
});
