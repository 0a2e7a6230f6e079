//! The engine from outside: what it asks of a source, what it refuses, what it says about its work.

use futures::{executor::block_on, future::BoxFuture};
use model::{
    label::Labels,
    matcher::Matcher,
    sample::{STALE_NAN, SampleBuffer},
    select::{LabelList, ReadySet, Select, SelectError, SelectRequest, SeriesSet},
    time::TimeRange,
};
use promql::{
    engine::{Cancel, Engine, EngineOptions, Query, QueryError, QueryResult, Times},
    script::{LoadedSeries, Memory},
    value::{Point, Value},
};
use std::sync::Mutex;

const MINUTE: i64 = 60_000;

/// `metric{i="…"}` for each of `count`, a sample each 10 s up to 100 s: i, i + 1, …
fn memory(count: usize) -> Memory {
    let mut memory = Memory::new();
    for index in 0..count {
        let labels = Labels::new([("__name__", "metric".to_owned()), ("i", format!("{index:04}"))]).unwrap();
        let mut samples = SampleBuffer::default();
        (0..=10).for_each(|step| samples.push_float(step * 10_000, index as f64 + step as f64));
        memory.load(LoadedSeries { labels, samples }).unwrap();
    }
    memory
}

fn query(text: &str, times: Times) -> Query {
    Query {
        text: text.into(),
        times,
        lookback_ms: None,
        samples_max: None,
        stats_by_step: false,
    }
}

fn run(engine: &Engine, source: &dyn Select, query: &Query) -> Result<QueryResult, QueryError> {
    let loaded = block_on(engine.prepare(query)?.load(source))?;
    loaded.evaluate(&Cancel::never())
}

/// Notes what is asked for, and answers as it is told to.
struct Witness {
    asked: Mutex<Vec<SelectRequest>>,
    answer: fn() -> Result<ReadySet, SelectError>,
}

impl Witness {
    fn new(answer: fn() -> Result<ReadySet, SelectError>) -> Self {
        Self {
            asked: Mutex::default(),
            answer,
        }
    }
}

impl Select for Witness {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        self.asked.lock().unwrap().push(request);
        let answer = (self.answer)().map(|set| Box::new(set) as Box<dyn SeriesSet>);
        Box::pin(async move { answer })
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

#[test]
fn series_of_several_kinds_are_asked_for_again_with_all_labels() {
    let mut memory = Memory::new();
    for (kind, job) in [("counter", "x"), ("gauge", "y")] {
        let labels = Labels::new([("__name__", "metric"), ("__type__", kind), ("job", job)]).unwrap();
        let mut samples = SampleBuffer::default();
        (0..=10).for_each(|step| samples.push_float(step * 10_000, step as f64));
        memory.load(LoadedSeries { labels, samples }).unwrap();
    }
    let engine = Engine::new(EngineOptions::default());
    let sum = |memory: &Memory| {
        let query = query("sum(rate(metric[1m]))", Times::Instant(100_000));
        run(&engine, memory, &query).map(|result| result.value)
    };
    let Ok(Value::Vector(samples)) = sum(&memory) else {
        panic!("labels that were left out were taken for ones that are not there")
    };
    assert!(matches!(samples[0].value, Point::Float(value) if (value - 0.2).abs() < 1e-12));
    // A series that differs from another one by its type alone is still told from it.
    let labels = Labels::new([("__name__", "metric"), ("__type__", "gauge"), ("job", "x")]).unwrap();
    let mut samples = SampleBuffer::default();
    (0..=10).for_each(|step| samples.push_float(step * 10_000, 1.0));
    memory.load(LoadedSeries { labels, samples }).unwrap();
    let error = sum(&memory).unwrap_err().to_string();
    assert_eq!(error, "vector cannot contain metrics with the same labelset");
}

#[test]
fn selectors_ask_for_what_their_windows_cover() {
    let check = |text: &str, expected: &[(i64, i64)]| {
        let witness = Witness::new(|| Ok(ReadySet::new(Vec::new(), Vec::new())));
        let times = Times::Range {
            start: 60 * MINUTE,
            end: 70 * MINUTE,
            step_ms: MINUTE,
        };
        run(&Engine::new(EngineOptions::everything()), &witness, &query(text, times)).unwrap();
        let asked = witness.asked.into_inner().unwrap();
        let found: Vec<(i64, i64)> = asked
            .iter()
            .map(|request| (request.range.min - 1, request.range.max))
            .collect();
        let expected: Vec<(i64, i64)> = expected.iter().map(|(from, to)| (from * MINUTE, to * MINUTE)).collect();
        assert_eq!(found, expected, "{text}");
    };
    check("x", &[(55, 70)]);
    check("x offset 10m", &[(45, 60)]);
    check("x @ 600", &[(5, 10)]);
    check("x @ end() offset 5m", &[(60, 65)]);
    check("x smoothed", &[(55, 75)]);
    check("rate(x[20m])", &[(40, 70)]);
    check("rate(x[20m] anchored)", &[(35, 70)]);
    check("rate(x[20m] smoothed)", &[(35, 75)]);
    // Evaluated at 31 m, 34 m, …, 69 m: the multiples of 3 m behind 30 m.
    check("max_over_time(rate(x[2m])[30m:3m])", &[(31, 69)]);
    check("max_over_time(x[30m:3m] offset 6m)", &[(22, 63)]);
    check("info(rate(y[10m]))", &[(50, 70), (55, 70)]);
    // The same selection is loaded once, another one is not.
    check("x + x * rate(x[5m])", &[(55, 70), (55, 70)]);
    check("sum(x) + sum(x)", &[(55, 70)]);
    check("1 + 2", &[]);
}

#[test]
fn selectors_tell_what_samples_are_for() {
    let witness = Witness::new(|| Ok(ReadySet::new(Vec::new(), Vec::new())));
    let times = Times::Range {
        start: 0,
        end: 10 * MINUTE,
        step_ms: MINUTE,
    };
    let text = "sum by (job) (x) + max without (pod) (rate(y[5m]))";
    run(&Engine::default(), &witness, &query(text, times)).unwrap();
    let asked = witness.asked.into_inner().unwrap();
    let hints: Vec<_> = asked.iter().map(|request| &request.hints).collect();
    assert_eq!(
        (hints[0].function.as_str(), hints[0].by, hints[0].step_ms),
        ("sum", true, MINUTE)
    );
    assert_eq!(hints[0].grouping, ["job"]);
    assert_eq!((hints[1].function.as_str(), hints[1].range_ms), ("rate", 5 * MINUTE));
}

#[test]
fn what_a_source_cannot_do_is_passed_on() {
    let failing = Witness::new(|| Err(SelectError::Unavailable("peer 3 is away".into())));
    let error = run(&Engine::default(), &failing, &query("x", Times::Instant(0))).unwrap_err();
    assert_eq!(
        error,
        QueryError::Select(SelectError::Unavailable("peer 3 is away".into()))
    );
    assert_eq!(error.to_string(), "expanding series: peer 3 is away");
    let partial = Witness::new(|| Ok(ReadySet::new(Vec::new(), vec!["block 7 is missing".into()])));
    let result = run(&Engine::default(), &partial, &query("x + y", Times::Instant(0))).unwrap();
    assert_eq!(result.warnings, ["block 7 is missing"]);
}

#[test]
fn queries_that_make_no_sense_are_refused_before_anything_is_loaded() {
    let check = |text: &str, times: Times, expected: &str| {
        let error = Engine::default().prepare(&query(text, times)).unwrap_err();
        assert!(matches!(error, QueryError::Parse(_)), "{text}: {error:?}");
        assert!(error.to_string().contains(expected), "{text}: {error}");
    };
    let range = Times::Range {
        start: 0,
        end: 10,
        step_ms: 1,
    };
    check("sum(", Times::Instant(0), "1:5: parse error");
    check(
        "x[5m]",
        range,
        "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector",
    );
    check("'x'", range, "invalid expression type \"string\" for range query");
    check(
        "x",
        Times::Range {
            start: 0,
            end: 10,
            step_ms: 0,
        },
        "zero or negative query resolution step widths",
    );
    check("limitk(1, x)", Times::Instant(0), "experimental");
}

#[test]
fn samples_are_bounded() {
    let source = memory(10);
    let times = Times::Range {
        start: 0,
        end: 100_000,
        step_ms: 10_000,
    };
    let limited = |text: &str, samples_max: usize| {
        let query = Query {
            samples_max: Some(samples_max),
            stats_by_step: false,
            ..query(text, times)
        };
        run(&Engine::default(), &source, &query).map(|result| result.stats.peak_samples)
    };
    assert_eq!(limited("metric", 110), Ok(110));
    assert_eq!(limited("metric", 109), Err(QueryError::TooManySamples));
    assert_eq!(
        limited("sum_over_time(metric[30s])", 109),
        Err(QueryError::TooManySamples)
    );
    // A query over more steps than it may hold samples need not begin.
    assert_eq!(limited("vector(1)", 10), Err(QueryError::TooManySamples));
    assert_eq!(
        limited("sum_over_time(vector(1)[1y:1ms])", 1000),
        Err(QueryError::TooManySamples)
    );
    // What is aggregated on the way is not held.
    assert!(limited("sum(metric)", 30).is_ok());
    let text = QueryError::TooManySamples.to_string();
    assert_eq!(
        text,
        "query processing would load too many samples into memory in query execution"
    );
}

#[test]
fn evaluation_stops_when_told_to() {
    let source = memory(3);
    let load = || {
        let prepared = Engine::default()
            .prepare(&query("sum(metric)", Times::Instant(0)))
            .unwrap();
        block_on(prepared.load(&source)).unwrap()
    };
    let cancel = Cancel::never();
    cancel.cancel();
    let error = load().evaluate(&cancel).unwrap_err();
    assert_eq!(error.to_string(), "query was canceled in expression evaluation");
    let error = load().evaluate(&Cancel::new(|| true)).unwrap_err();
    assert_eq!(error.to_string(), "query timed out in expression evaluation");
}

#[test]
fn work_is_counted() {
    let source = memory(2);
    let looked_at = |text: &str, times: Times| {
        let stats = run(&Engine::default(), &source, &query(text, times)).unwrap().stats;
        (stats.total_queryable_samples, stats.series)
    };
    let range = Times::Range {
        start: 0,
        end: 100_000,
        step_ms: 20_000,
    };
    assert_eq!(looked_at("metric", Times::Instant(100_000)), (2, 2));
    assert_eq!(looked_at("metric", range), (12, 2));
    assert_eq!(looked_at("sum(metric)", range), (12, 2));
    // Windows of 1, 3, 3, 3, 3 and 3 samples.
    assert_eq!(looked_at("sum_over_time(metric[30s])", range), (2 * 16, 2));
    assert_eq!(looked_at("rate(metric[30s])", range), (2 * 16, 2));
    assert_eq!(looked_at("metric[30s]", Times::Instant(100_000)), (6, 2));
    assert_eq!(looked_at("1", range), (0, 0));
}

#[test]
fn many_series_give_the_same_in_the_same_order() {
    let source = memory(500);
    let times = Times::Range {
        start: 0,
        end: 100_000,
        step_ms: 10_000,
    };
    let result = run(&Engine::default(), &source, &query("rate(metric[30s])", times)).unwrap();
    let Value::Matrix(series) = &result.value else {
        panic!("{:?}", result.value)
    };
    assert_eq!(series.len(), 500);
    assert!(series.is_sorted_by(|a, b| a.labels < b.labels));
    assert!(series.iter().all(|series| series.floats.len() == 10));
    assert_eq!(result.infos.len(), 1, "{:?}", result.infos);
    let sum = run(&Engine::default(), &source, &query("sum(metric)", Times::Instant(0))).unwrap();
    let Value::Vector(vector) = &sum.value else {
        panic!("{:?}", sum.value)
    };
    assert_eq!(vector[0].value, Point::Float((0..500).sum::<i32>() as f64));
}

#[test]
fn names_are_dropped_at_once_or_at_the_end() {
    let mut source = Memory::new();
    for name in ["a", "b"] {
        let mut samples = SampleBuffer::default();
        (0..=10).for_each(|step| samples.push_float(step * 10_000, step as f64));
        let labels = Labels::new([("__name__", name), ("job", "x")]).unwrap();
        source.load(LoadedSeries { labels, samples }).unwrap();
    }
    let at_once = Engine::default();
    let at_the_end = Engine::new(EngineOptions {
        delayed_name_removal: true,
        ..EngineOptions::default()
    });
    let run = |engine: &Engine, text: &str| {
        let value = run(engine, &source, &query(text, Times::Instant(100_000))).map(|result| result.value);
        value.map(|value| match value {
            Value::Vector(vector) => vector
                .iter()
                .map(|sample| sample.labels.to_string())
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        })
    };
    let renamed = "label_replace(rate({job='x'}[1m]), 'was', '$1', '__name__', '(.*)')";
    let same = QueryError::Execution("vector cannot contain metrics with the same labelset".into());
    assert_eq!(run(&at_once, renamed), Err(same.clone()));
    let both = ["{job=\"x\", was=\"a\"}".to_owned(), "{job=\"x\", was=\"b\"}".to_owned()];
    assert_eq!(run(&at_the_end, renamed), Ok(both.to_vec()));
    for engine in [&at_once, &at_the_end] {
        assert_eq!(run(engine, "rate({job='x'}[1m])"), Err(same.clone()));
        assert_eq!(run(engine, "-a"), Ok(vec!["{job=\"x\"}".to_owned()]));
        assert_eq!(
            run(engine, "last_over_time(a[1m])"),
            Ok(vec!["{__name__=\"a\", job=\"x\"}".to_owned()])
        );
    }
    // Aggregated straight from a range function, names that make the difference are noticed as well.
    assert_eq!(run(&at_once, "sum(rate({job='x'}[1m]))"), Err(same));
    assert_eq!(run(&at_the_end, "sum(rate({job='x'}[1m]))"), Ok(vec!["{}".to_owned()]));
    assert_eq!(
        run(&at_once, "sum by (__name__) (rate(a[1m]))"),
        Ok(vec!["{}".to_owned()])
    );
}

#[test]
fn odd_bits_are_values_and_only_the_stale_marker_is_not() {
    let mut source = Memory::new();
    let mut samples = SampleBuffer::default();
    let odd = f64::from_bits(STALE_NAN.to_bits() + 1);
    [1.0, odd, STALE_NAN]
        .into_iter()
        .enumerate()
        .for_each(|(step, value)| samples.push_float(step as i64 * 1000, value));
    source
        .load(LoadedSeries {
            labels: Labels::new([("__name__", "a")]).unwrap(),
            samples,
        })
        .unwrap();
    let times = Times::Range {
        start: 0,
        end: 3000,
        step_ms: 1000,
    };
    for text in [
        "a",
        "abs(a)",
        "a or a",
        "sum(a)",
        "-(-a)",
        "topk(1, a)",
        "clamp(a, 0, 9)",
    ] {
        let result = run(&Engine::default(), &source, &query(text, times)).unwrap();
        let Value::Matrix(series) = result.value else {
            panic!("{text}")
        };
        let floats = &series[0].floats;
        assert_eq!(floats.len(), 2, "{text}: {floats:?}");
        assert!(floats[1].1.is_nan());
    }
}

#[test]
fn the_end_of_a_query_is_the_one_asked_for() {
    let source = memory(1);
    let times = Times::Range {
        start: 0,
        end: 99_999,
        step_ms: 30_000,
    };
    let first_value = |text: &str| {
        let engine = Engine::new(EngineOptions::everything());
        match run(&engine, &source, &query(text, times)).unwrap().value {
            Value::Matrix(series) => (series[0].floats.len(), series[0].floats[0].1),
            other => panic!("{other:?}"),
        }
    };
    // The last step is at 90 s; the sample at 100 s is not yet there at the end.
    assert_eq!(first_value("metric @ end() offset -1ms"), (4, 10.0));
    assert_eq!(first_value("metric @ end()"), (4, 9.0));
    assert_eq!(first_value("vector(end())"), (4, 99.999));
    assert_eq!(first_value("vector(range())"), (4, 99.999));
}

#[test]
fn a_pairing_without_grouping_is_ambiguous_whatever_the_values_are() {
    let mut source = Memory::new();
    for (name, label, value) in [("many", "a", 0.0), ("many", "b", 1.0), ("one", "", 1.0)] {
        let mut samples = SampleBuffer::default();
        samples.push_float(0, value);
        let labels = Labels::new([("__name__", name), ("job", "x"), ("label", label)]).unwrap();
        source.load(LoadedSeries { labels, samples }).unwrap();
    }
    let outcome = |text: String| {
        let outcome = run(&Engine::default(), &source, &query(&text, Times::Instant(0)));
        outcome
            .map_err(|error| error.to_string())
            .map(|result| match result.value {
                Value::Vector(vector) => vector.len(),
                other => panic!("{other:?}"),
            })
    };
    for op in ["==", ">", "<", "!=", "<=", "+", "== bool"] {
        let expected = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
        assert_eq!(
            outcome(format!("many {op} on(job) one")),
            Err(expected.to_owned()),
            "{op}"
        );
    }
    // With grouping it depends on the results: what the comparison filters away is in nobody's way.
    for (op, results) in [("==", 1), (">", 0), ("<", 1)] {
        let text = format!("many {op} on(job) group_left(label) one");
        assert_eq!(outcome(text), Ok(results), "{op}");
    }
    // The side "one" must be unique whatever the values are.
    for op in ["==", ">", "<", "+", "== bool"] {
        let expected = "found duplicate series for the match group {job=\"x\"} on the right hand-side of the operation: \
                        [{__name__=\"many\", job=\"x\", label=\"a\"}, {__name__=\"many\", job=\"x\", label=\"b\"}]\
                        ;many-to-many matching not allowed: matching labels must be unique on one side";
        assert_eq!(
            outcome(format!("one {op} on(job) many")),
            Err(expected.to_owned()),
            "{op}"
        );
    }
}
