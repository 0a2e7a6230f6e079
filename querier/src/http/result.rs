//! The value of a query as JSON, piece by piece.
//!
//! A small answer is one piece. A large one is written as the client reads it, a few hundred kilobytes at a time, and what has been
//! written is freed: an answer is never in memory twice.

use super::{
    json::Json,
    number::{write_fixed, write_short_timestamp},
};
use model::{
    histogram::{Histogram, buckets::Bucket},
    time::Timestamp,
};
use promql::value::{MatrixSeries, Point, Value, VectorSample};
use std::{sync::Arc, vec};

/// A piece is cut as soon as it has so many bytes. One series is never split.
pub(super) const PIECE_BYTES: usize = 512 << 10;

/// A value on its way to the client.
pub(super) struct ValueWriter {
    rest: Rest,
    /// What follows the value.
    tail: Option<Vec<u8>>,
}

enum Rest {
    Vector(vec::IntoIter<VectorSample>),
    Matrix(vec::IntoIter<MatrixSeries>),
    Done,
}

impl ValueWriter {
    /// Begins a value: its type first, so that clients can read what follows as a stream. `tail` comes after it.
    pub(super) fn new(json: &mut Json, value: Value, tail: Vec<u8>) -> Self {
        json.raw("{\"resultType\":\"").raw(value.kind()).raw("\",\"result\":[");
        let rest = match value {
            Value::Scalar { at, value } => {
                write_short_timestamp(&mut json.out, at);
                json.raw(",\"");
                write_fixed(&mut json.out, value);
                json.raw("\"");
                Rest::Done
            }
            Value::String { at, text } => {
                write_short_timestamp(&mut json.out, at);
                json.raw(",").string(&text);
                Rest::Done
            }
            Value::Vector(samples) => Rest::Vector(samples.into_iter()),
            Value::Matrix(series) => Rest::Matrix(series.into_iter()),
        };
        Self { rest, tail: Some(tail) }
    }

    /// Appends the next piece; false when nothing was left.
    pub(super) fn write(&mut self, json: &mut Json) -> bool {
        let end = json.out.len() + PIECE_BYTES;
        while json.out.len() < end {
            let more = match &mut self.rest {
                Rest::Vector(samples) => samples.next().map(|sample| write_sample(json, &sample)),
                Rest::Matrix(series) => series.next().map(|series| write_series(json, &series)),
                Rest::Done => None,
            };
            if more.is_none() {
                let Some(tail) = self.tail.take() else { return false };
                self.rest = Rest::Done;
                json.raw("]").out.extend_from_slice(&tail);
                return true;
            }
            // The separator goes behind an element, since a piece does not know what the last one ended with.
            if self.has_next() {
                json.raw(",");
            }
        }
        true
    }

    /// Whether everything has been written.
    pub(super) fn finished(&self) -> bool {
        self.tail.is_none()
    }

    fn has_next(&self) -> bool {
        match &self.rest {
            Rest::Vector(samples) => samples.len() > 0,
            Rest::Matrix(series) => series.len() > 0,
            Rest::Done => false,
        }
    }
}

fn write_sample(json: &mut Json, sample: &VectorSample) {
    json.raw("{\"metric\":").labels(&sample.labels);
    match &sample.value {
        Point::Float(value) => {
            json.raw(",\"value\":");
            write_float(json, sample.at, *value);
        }
        Point::Histogram(histogram) => {
            json.raw(",\"histogram\":");
            write_histogram_point(json, sample.at, histogram);
        }
    }
    json.raw("}");
}

fn write_series(json: &mut Json, series: &MatrixSeries) {
    json.raw("{\"metric\":").labels(&series.labels);
    if !series.floats.is_empty() {
        json.raw(",\"values\":[");
        for (index, (at, value)) in series.floats.iter().enumerate() {
            if index > 0 {
                json.raw(",");
            }
            write_float(json, *at, *value);
        }
        json.raw("]");
    }
    if !series.histograms.is_empty() {
        json.raw(",\"histograms\":[");
        for (at, histogram) in &series.histograms {
            json.comma();
            write_histogram_point(json, *at, histogram);
        }
        json.raw("]");
    }
    json.raw("}");
}

#[inline]
fn write_float(json: &mut Json, at: Timestamp, value: f64) {
    json.raw("[").timestamp(at).raw(",").value(value).raw("]");
}

fn write_histogram_point(json: &mut Json, at: Timestamp, histogram: &Arc<Histogram>) {
    json.raw("[").timestamp(at).raw(",");
    write_histogram(json, histogram);
    json.raw("]");
}

/// Count, sum, and the buckets that hold something; `buckets` is left out when none does.
pub(super) fn write_histogram(json: &mut Json, histogram: &Histogram) {
    json.raw("{")
        .key("count")
        .value(histogram.count)
        .key("sum")
        .value(histogram.sum);
    let threshold = histogram.zero_threshold;
    let negative = histogram.negative().rev().map(|bucket| outside_zero(bucket, threshold));
    let positive = histogram.positive().map(|bucket| outside_zero(bucket, threshold));
    let mut open = false;
    for bucket in negative.chain(histogram.zero()).chain(positive) {
        if bucket.count == 0.0 {
            continue;
        }
        json.raw(if open { "," } else { ",\"buckets\":[" });
        open = true;
        let rule = match (bucket.lower_inclusive, bucket.upper_inclusive) {
            (false, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (true, true) => 3,
        };
        json.raw("[")
            .int(rule)
            .raw(",")
            .value(bucket.lower)
            .raw(",")
            .value(bucket.upper);
        json.raw(",").value(bucket.count).raw("]");
    }
    json.raw(if open { "]}" } else { "}" });
}

/// The part of a bucket that the zero bucket leaves to it.
fn outside_zero(mut bucket: Bucket, threshold: f64) -> Bucket {
    if bucket.upper < 0.0 && bucket.upper > -threshold {
        bucket.upper = -threshold;
    } else if bucket.lower > 0.0 && bucket.lower < threshold {
        bucket.lower = threshold;
    }
    bucket
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{histogram::Span, label::Labels};

    fn labels(value: &str) -> Labels {
        Labels::new([("__name__", "x"), ("a", value)]).unwrap()
    }

    fn text(value: Value) -> String {
        let mut json = Json::new();
        let mut writer = ValueWriter::new(&mut json, value, b"}".to_vec());
        while writer.write(&mut json) {}
        assert!(writer.finished());
        String::from_utf8(json.out).unwrap()
    }

    #[test]
    fn each_type_has_its_shape() {
        let cases = [
            (
                Value::Scalar { at: 1500, value: 1e21 },
                r#"{"resultType":"scalar","result":[1.5,"1000000000000000000000"]}"#,
            ),
            (
                Value::Scalar { at: 4000, value: 2.0 },
                r#"{"resultType":"scalar","result":[4,"2"]}"#,
            ),
            (
                Value::String {
                    at: 0,
                    text: "a\"b".into(),
                },
                r#"{"resultType":"string","result":[0,"a\"b"]}"#,
            ),
            (Value::Vector(vec![]), r#"{"resultType":"vector","result":[]}"#),
            (Value::Matrix(vec![]), r#"{"resultType":"matrix","result":[]}"#),
            (
                Value::Vector(vec![
                    VectorSample {
                        labels: labels("1"),
                        at: 1500,
                        value: Point::Float(f64::NAN),
                    },
                    VectorSample {
                        labels: Labels::empty(),
                        at: 1500,
                        value: Point::Float(f64::NEG_INFINITY),
                    },
                ]),
                r#"{"resultType":"vector","result":[{"metric":{"__name__":"x","a":"1"},"value":[1.500,"NaN"]},{"metric":{},"value":[1.500,"-Inf"]}]}"#,
            ),
            (
                Value::Matrix(vec![MatrixSeries {
                    labels: labels("1"),
                    floats: vec![(0, 1.0), (1001, 0.5)],
                    histograms: vec![(2000, Arc::new(Histogram::default()))],
                }]),
                r#"{"resultType":"matrix","result":[{"metric":{"__name__":"x","a":"1"},"values":[[0,"1"],[1.001,"0.5"]],"histograms":[[2,{"count":"0","sum":"0"}]]}]}"#,
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(text(value), expected);
        }
    }

    #[test]
    fn histograms_list_their_populated_buckets() {
        let histogram = Histogram {
            count: 12.0,
            sum: 1.5,
            zero_threshold: 0.001,
            zero_count: 2.0,
            positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }],
            positive_buckets: vec![1.0, 0.0, 2.0],
            negative_spans: vec![Span { offset: 0, length: 2 }],
            negative_buckets: vec![3.0, 4.0],
            ..Histogram::default()
        };
        let mut json = Json::new();
        write_histogram(&mut json, &histogram);
        assert_eq!(
            String::from_utf8(json.out).unwrap(),
            r#"{"count":"12","sum":"1.5","buckets":[[1,"-2","-1","4"],[1,"-1","-0.5","3"],[3,"-0.001","0.001","2"],[0,"0.5","1","1"],[0,"4","8","2"]]}"#
        );
    }

    #[test]
    fn the_zero_bucket_cuts_its_neighbours() {
        let histogram = Histogram {
            zero_threshold: 0.75,
            zero_count: 1.0,
            positive_spans: vec![Span { offset: 0, length: 1 }],
            positive_buckets: vec![1.0],
            negative_spans: vec![Span { offset: 0, length: 1 }],
            negative_buckets: vec![1.0],
            ..Histogram::default()
        };
        let mut json = Json::new();
        write_histogram(&mut json, &histogram);
        let expected = r#""buckets":[[1,"-1","-0.75","1"],[3,"-0.75","0.75","1"],[0,"0.75","1","1"]]}"#;
        let text = String::from_utf8(json.out).unwrap();
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_large_value_comes_in_pieces_that_fit_together() {
        let series = |index: usize| MatrixSeries {
            labels: labels(&index.to_string()),
            floats: (0..1000).map(|at| (at * 1000, at as f64 + 0.25)).collect(),
            histograms: Vec::new(),
        };
        let mut json = Json::new();
        let mut writer = ValueWriter::new(&mut json, Value::Matrix((0..100).map(series).collect()), b"}".to_vec());
        let mut whole = std::mem::take(&mut json.out);
        let mut pieces = 0;
        while writer.write(&mut json) {
            assert!(json.out.len() < PIECE_BYTES + (64 << 10));
            whole.append(&mut json.out);
            pieces += 1;
        }
        assert!(pieces > 2, "{pieces}");
        let read: serde_json::Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(read["result"].as_array().unwrap().len(), 100);
        assert_eq!(read["result"][99]["values"][999], serde_json::json!([999, "999.25"]));
    }

    /// Answers that a Thanos querier gave, read and written again: the text must be the same to the byte.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "recorded answers are read from disk")]
    fn recorded_answers_are_written_alike() {
        let shared = std::env::var("NARTHEX_SHARED")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").to_owned());
        let mut compared = 0;
        for bucket in ["raw", "compacted", "vertical"] {
            let Ok(files) = std::fs::read_dir(format!("{shared}/golden/thanos-bucket/answers/{bucket}")) else {
                continue;
            };
            for file in files {
                let path = file.unwrap().path();
                let recorded = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
                let read: serde_json::Value = serde_json::from_str(&recorded).unwrap();
                let Some(value) = recorded_value(&read["data"]) else {
                    continue;
                };
                let mut json = crate::http::answer::Answer::new().json;
                let mut writer = ValueWriter::new(&mut json, value, Vec::new());
                while writer.write(&mut json) {}
                let written = String::from_utf8(json.out).unwrap();
                assert!(
                    recorded.starts_with(&written),
                    "{}:\n{written:.2000}\n{recorded:.2000}",
                    path.display()
                );
                compared += 1;
            }
        }
        if compared == 0 {
            eprintln!("SKIPPED: no recorded answers below {shared}; set NARTHEX_SHARED");
        } else {
            assert!(compared > 100, "only {compared} answers compared");
        }
    }

    /// The value of a recorded answer; `None` when it is of another call or has histograms, whose spans are not recorded.
    fn recorded_value(data: &serde_json::Value) -> Option<Value> {
        let number = |value: &serde_json::Value| -> f64 {
            let text = value.as_str().unwrap();
            text.strip_prefix('+').unwrap_or(text).parse().unwrap()
        };
        let millis = |value: &serde_json::Value| (value.as_f64().unwrap() * 1000.0).round() as i64;
        let labels = |element: &serde_json::Value| {
            let pairs = element["metric"].as_object().unwrap();
            Labels::new(
                pairs
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str().unwrap())),
            )
            .unwrap()
        };
        let result = data.get("result")?;
        let elements = || result.as_array().unwrap().iter();
        match data["resultType"].as_str()? {
            "scalar" => Some(Value::Scalar {
                at: millis(&result[0]),
                value: number(&result[1]),
            }),
            "vector" => {
                let sample = |element: &serde_json::Value| {
                    let value = element.get("value")?;
                    let (at, value) = (millis(&value[0]), Point::Float(number(&value[1])));
                    Some(VectorSample {
                        labels: labels(element),
                        at,
                        value,
                    })
                };
                elements().map(sample).collect::<Option<Vec<_>>>().map(Value::Vector)
            }
            "matrix" => {
                let series = |element: &serde_json::Value| {
                    let points = element.get("values").filter(|_| element.get("histograms").is_none())?;
                    let floats = points
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|point| (millis(&point[0]), number(&point[1])));
                    Some(MatrixSeries {
                        labels: labels(element),
                        floats: floats.collect(),
                        histograms: Vec::new(),
                    })
                };
                elements().map(series).collect::<Option<Vec<_>>>().map(Value::Matrix)
            }
            _ => None,
        }
    }
}
