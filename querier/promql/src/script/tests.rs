//! The runner itself, over a target that answers as it is told.

use super::*;
use crate::engine::{QueryStats, Times};
use crate::value::{MatrixSeries, Point, Value, VectorSample};
use model::sample::STALE_NAN;

/// Answers every instant query with the same value, and range queries with that value at each step.
struct Canned {
    answer: Result<Value, QueryError>,
    warnings: Vec<String>,
    asked: Vec<String>,
    loaded: Vec<LoadedSeries>,
}

impl Target for Canned {
    fn clear(&mut self) -> Result<(), String> {
        self.loaded.clear();
        Ok(())
    }

    fn load(&mut self, series: Vec<LoadedSeries>) -> Result<(), String> {
        self.loaded.extend(series);
        Ok(())
    }

    fn evaluate(&mut self, query: &Query) -> Result<QueryResult, QueryError> {
        self.asked.push(format!("{} {:?}", query.text, query.times));
        let value = match (self.answer.clone()?, query.times) {
            (Value::Vector(samples), Times::Range { start, end, step_ms }) => {
                let series = samples.into_iter().map(|sample| {
                    let Point::Float(value) = sample.value else {
                        panic!("only floats here")
                    };
                    let floats = (start..=end).step_by(step_ms as usize).map(|at| (at, value)).collect();
                    MatrixSeries {
                        labels: sample.labels,
                        floats,
                        histograms: Vec::new(),
                    }
                });
                Value::Matrix(series.collect())
            }
            (value, _) => value,
        };
        let stats = QueryStats::default();
        Ok(QueryResult {
            value,
            warnings: self.warnings.clone(),
            infos: Vec::new(),
            stats,
        })
    }
}

fn canned(answer: Result<Value, QueryError>) -> Canned {
    Canned {
        answer,
        warnings: Vec::new(),
        asked: Vec::new(),
        loaded: Vec::new(),
    }
}

fn vector(samples: &[(&str, f64)]) -> Canned {
    let samples = samples.iter().map(|(job, value)| VectorSample {
        labels: Labels::new([("job", job)]).unwrap(),
        at: 0,
        value: Point::Float(*value),
    });
    canned(Ok(Value::Vector(samples.collect())))
}

/// Runs a script of one evaluation; the reason of its failure.
#[track_caller]
fn check(script: &str, mut target: Canned) -> Result<(), String> {
    let report = run_on("test", script, &mut target);
    assert_eq!(report.passed + report.failed, 1, "{report:?}");
    assert_eq!(report.is_success(), report.failed == 0);
    match report.failures.into_iter().next() {
        Some(failure) => Err(failure.reason),
        None => Ok(()),
    }
}

#[test]
fn an_evaluation_is_run_in_all_its_variants() {
    let mut target = vector(&[("a", 1.0)]);
    let report = run_on("test", "eval instant at 1m x\n  {job=\"a\"} 1\n", &mut target);
    assert_eq!((report.passed, report.failed), (1, 0), "{report:?}");
    assert_eq!(target.asked.len(), 12);
    assert_eq!(target.asked[0], "x Instant(60000)");
    assert_eq!(target.asked[1], "x Range { start: 0, end: 120000, step_ms: 60000 }");
    assert_eq!(target.asked[2], "x @ 60.000 Instant(-600000)");
    assert_eq!(
        target.asked[11],
        "x @ 60.000 Range { start: 540000, end: 660000, step_ms: 60000 }"
    );

    let mut target = vector(&[("a", 1.0)]);
    run_on("test", "eval instant at 1m time() + x\n  {job=\"a\"} 1\n", &mut target);
    assert_eq!(target.asked.len(), 2, "time() depends on the time of evaluation");

    let mut target = vector(&[("a", 1.0)]);
    run_on("test", "eval instant at 1m x @ start()\n  {job=\"a\"} 1\n", &mut target);
    assert_eq!(
        target.asked[1], "x @ 60.000 Instant(-600000)",
        "a range query starts elsewhere"
    );
}

#[test]
fn values_are_compared_with_tolerance() {
    let expect = |expected: &str, found: f64| {
        check(
            &format!("eval instant at 0 x\n  {{job=\"a\"}} {expected}\n"),
            vector(&[("a", found)]),
        )
    };
    assert_eq!(expect("1", 1.000001), Ok(()));
    assert!(expect("1", 1.00001).is_err());
    assert!(expect("0", 1e-300).is_err(), "next to zero nothing is forgiven");
    assert_eq!(expect("NaN", f64::NAN), Ok(()));
    assert!(expect("NaN", STALE_NAN).is_err());
    assert_eq!(expect("Inf", f64::INFINITY), Ok(()));
    assert!(expect("-Inf", f64::INFINITY).is_err());
    assert!(expect("1 2", 1.0).is_err(), "an instant has one value");
}

#[test]
fn series_must_be_the_expected_ones() {
    let script = "eval instant at 0 x\n  {job=\"a\"} 1\n  {job=\"b\"} 2\n";
    assert_eq!(check(script, vector(&[("a", 1.0), ("b", 2.0)])), Ok(()));
    assert!(check(script, vector(&[("a", 1.0)])).unwrap_err().contains("is missing"));
    assert!(
        check(script, vector(&[("a", 1.0), ("b", 2.0), ("c", 3.0)]))
            .unwrap_err()
            .contains("unexpected series")
    );
    assert!(
        check(script, vector(&[("a", 1.0), ("a", 1.0), ("b", 2.0)]))
            .unwrap_err()
            .contains("twice")
    );
    let ordered = "eval instant at 0 x\n  expect ordered\n  {job=\"b\"} 2\n  {job=\"a\"} 1\n";
    assert_eq!(check(ordered, vector(&[("b", 2.0), ("a", 1.0)])), Ok(()));
    assert!(
        check(ordered, vector(&[("a", 1.0), ("b", 2.0)]))
            .unwrap_err()
            .contains("at place")
    );
}

#[test]
fn errors_are_expected_by_text() {
    let error = || canned(Err(QueryError::Execution("it broke".to_owned())));
    assert_eq!(check("eval instant at 0 x\n  expect fail\n", error()), Ok(()));
    assert_eq!(
        check("eval instant at 0 x\n  expect fail msg: it broke\n", error()),
        Ok(())
    );
    assert_eq!(
        check("eval instant at 0 x\n  expect fail regex:^it .*ke$\n", error()),
        Ok(())
    );
    assert_eq!(
        check("eval_fail instant at 0 x\n  expected_fail_message it broke\n", error()),
        Ok(())
    );
    assert_eq!(
        check(
            "eval_fail range from 0 to 10 step 5 x\n  expected_fail_regexp br.ke\n",
            error()
        ),
        Ok(())
    );
    assert!(check("eval instant at 0 x\n  expect fail msg: it\n", error()).is_err());
    assert_eq!(check("eval instant at 0 x\n", error()), Err("it broke".to_owned()));
    let none = check("eval instant at 0 x\n  expect fail\n", vector(&[]));
    assert_eq!(none, Err("expected an error, found none".to_owned()));
}

#[test]
fn warnings_count_only_where_they_are_mentioned() {
    let warned = || Canned {
        warnings: vec!["PromQL warning: odd (1:3)".to_owned()],
        ..vector(&[])
    };
    assert_eq!(check("eval instant at 0 x\n", warned()), Ok(()));
    assert_eq!(check("eval instant at 0 x\n expect warn\n", warned()), Ok(()));
    assert_eq!(
        check(
            "eval instant at 0 x\n expect warn msg: PromQL warning: odd (1:3)\n",
            warned()
        ),
        Ok(())
    );
    assert_eq!(
        check(
            "eval instant at 0 x\n expect warn regex: warning: o.d \\(\\d+:3\\)\n",
            warned()
        ),
        Ok(())
    );
    assert_eq!(check("eval instant at 0 x\n expect no_info\n", warned()), Ok(()));
    for wrong in [
        "no_warn",
        "info",
        "warn msg: PromQL warning: odd (1:4)",
        "warn regex: even",
    ] {
        assert!(
            check(&format!("eval instant at 0 x\n expect {wrong}\n"), warned()).is_err(),
            "{wrong}"
        );
    }
    assert!(check("eval instant at 0 x\n expect warn\n", vector(&[])).is_err());
}

#[test]
fn range_vectors_strings_and_scalars_are_results_too() {
    let labels = Labels::new([("job", "a")]).unwrap();
    let series = MatrixSeries {
        labels,
        floats: vec![(60_000, 1.0), (180_000, 3.0)],
        histograms: Vec::new(),
    };
    let matrix = || canned(Ok(Value::Matrix(vec![series.clone()])));
    let script = "eval instant at 3m x[3m]\n expect range vector from 1m to 3m step 60s\n {job=\"a\"} 1 _ 3\n";
    assert_eq!(check(script, matrix()), Ok(()));
    assert!(check(&script.replace("1 _ 3", "1 3"), matrix()).is_err());
    assert!(check("eval instant at 3m x[3m]\n {job=\"a\"} 1\n", matrix()).is_err());
    let string = || {
        canned(Ok(Value::String {
            at: 0,
            text: " Foo".to_owned(),
        }))
    };
    assert_eq!(
        check("eval instant at 0 ' Foo'\n expect string \" Foo\"\n", string()),
        Ok(())
    );
    assert!(check("eval instant at 0 'Foo'\n expect string `Foo`\n", string()).is_err());
    let scalar = check(
        "eval instant at 0 1\n 1\n",
        canned(Ok(Value::Scalar { at: 0, value: 2.0 })),
    );
    assert_eq!(scalar, Err("expected 1, found 2".to_owned()));
}

#[test]
fn loads_place_samples_at_the_step() {
    let mut target = vector(&[]);
    let script =
        "load 10s\n  m{a=\"b\"} 7x5\n  m{a=\"b\"}@st _ -1s 0\n  m{a=\"b\"} 1+1x2\n  # closes the block\n  lost 1\n";
    let report = run_on("test", script, &mut target);
    assert_eq!(report.failures.len(), 1, "a command of its own: {report:?}");
    assert_eq!(report.failures[0].line, 6);
    let samples = &target.loaded[0].samples;
    assert_eq!(samples.timestamps, [0, 10_000, 20_000]);
    assert_eq!(samples.values, [1.0, 2.0, 3.0]);
    assert_eq!(samples.starts, [0, 9_000, 20_000]);
}

#[test]
fn classic_histograms_become_native_ones() {
    let mut target = vector(&[]);
    let script = "load_with_nhcb 10s\n  h_bucket{le=\"2\"} 3\n  h_bucket{le=\"1\"} 1\n  h_bucket{le=\"1.0\"} 1\n  \
                  h_bucket{le=\"+Inf\"} 6\n  h_sum 9\n  h_count 6\n";
    let report = run_on("test", script, &mut target);
    assert!(report.is_success(), "{report:?}");
    let native = target.loaded.last().unwrap();
    assert_eq!(native.labels.to_string(), "{__name__=\"h\"}");
    let histogram = &native.samples.histograms[0].histogram;
    assert_eq!((histogram.count, histogram.sum), (6.0, 9.0));
    assert_eq!(histogram.custom_values, [1.0, 2.0]);
    assert_eq!(histogram.positive_buckets, [1.0, 2.0, 3.0]);
    assert_eq!(target.loaded.len(), 7);
}

#[test]
fn what_cannot_be_read_is_a_failure_and_the_rest_is_run() {
    for broken in [
        "evil instant at 0 x",
        "eval instant at noon x",
        "eval instant at 0",
        "eval range from 0 to 10 step 0 x",
        "eval instant at 0 x\n expect trouble",
        "eval instant at 0 x\n {job=} 1",
        "load 5x\n m 1",
        "load 5m\n m@st 1",
        "load_with_trouble 5m\n m 1",
        "load_with_nhcb 5m\n h_bucket{le=\"1\"} 5\n h_bucket{le=\"2\"} 3",
    ] {
        let script = format!("{broken}\n\neval instant at 0 x\n");
        let report = run_on("test", &script, &mut vector(&[]));
        assert_eq!((report.passed, report.failures.len()), (1, 1), "{broken}: {report:?}");
        assert_eq!(report.failures[0].line, 1, "{broken}");
    }
}
