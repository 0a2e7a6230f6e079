//! What `make gate` counts here: `rate` over windows of a counter.

use futures::executor::block_on;
use model::{label::Labels, sample::SampleBuffer};
use promql::{
    engine::{Cancel, Engine, EngineOptions, Query, QueryResult, Times},
    script::{LoadedSeries, Memory},
};

const SERIES: usize = 200;
const SAMPLES: i64 = 240;

#[inline(never)]
fn counted_rate(engine: &Engine, memory: &Memory, query: &Query) -> QueryResult {
    let loaded = block_on(engine.prepare(query).unwrap().load(memory)).unwrap();
    loaded.evaluate(&Cancel::never()).unwrap()
}

#[test]
#[ignore = "counted by `make gate`"]
fn rate() {
    let mut memory = Memory::new();
    for index in 0..SERIES {
        let labels = Labels::new([("__name__", "metric".to_owned()), ("i", format!("{index:04}"))]).unwrap();
        let mut samples = SampleBuffer::default();
        // One reset each, at another time.
        (0..SAMPLES).for_each(|step| samples.push_float(step * 15_000, ((step + index as i64) % SAMPLES * 7) as f64));
        memory.load(LoadedSeries { labels, samples }).unwrap();
    }
    let query = Query {
        text: "sum(rate(metric[5m]))".into(),
        times: Times::Range {
            start: 300_000,
            end: SAMPLES * 15_000,
            step_ms: 15_000,
        },
        lookback_ms: None,
        samples_max: None,
        stats_by_step: false,
    };
    let engine = Engine::new(EngineOptions::everything());
    // One thread, and the counted function on it: what other threads do is not counted.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let result = pool.install(|| counted_rate(&engine, &memory, &query));
    assert!(format!("{:?}", result.value).contains("7"), "{:?}", result.value);
    eprintln!("samples {}", SERIES as i64 * SAMPLES);
}
