//! Asks a server a question and takes its answer apart, errors and notes included.

use anyhow::Context;
use loadtest::{
    api::seconds,
    http::{Client, Url, form},
};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// When a query is evaluated, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    Instant(i64),
    Range { start: i64, end: i64, step: i64 },
}

/// A value of a series at a point in time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Point {
    Float(f64),
    /// Count, sum, and buckets: rule, bounds, count.
    Histogram {
        count: f64,
        sum: f64,
        buckets: Vec<[f64; 4]>,
    },
}

/// The points of a series by time in milliseconds.
pub(crate) type Points = Vec<(i64, Point)>;

/// What came of a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Success {
        /// Type of the value.
        kind: String,
        /// Labels as text and points, in the order of the answer.
        series: Vec<(String, Points)>,
        /// A string value.
        text: String,
        warnings: Vec<String>,
        infos: Vec<String>,
    },
    Failure {
        status: u16,
        kind: String,
        text: String,
    },
}

/// A connection to a server.
pub(crate) struct Asker {
    client: Client,
}

impl Asker {
    pub(crate) fn new(url: &Url) -> Self {
        Self {
            client: Client::new(url, &[], Duration::from_secs(60)),
        }
    }

    pub(crate) fn ask(&mut self, query: &str, times: Times) -> anyhow::Result<Outcome> {
        let (path, body) = match times {
            Times::Instant(at) => ("/api/v1/query", form(&[("query", query), ("time", &seconds(at))])),
            Times::Range { start, end, step } => {
                let times = [seconds(start), seconds(end), seconds(step)];
                let parameters = [
                    ("query", query),
                    ("start", &times[0]),
                    ("end", &times[1]),
                    ("step", &times[2]),
                ];
                ("/api/v1/query_range", form(&parameters))
            }
        };
        let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
        let answer = self
            .client
            .post(path, headers, body.as_bytes())
            .with_context(|| format!("ask {query}"))?;
        let json: Value = serde_json::from_slice(&answer.body)
            .with_context(|| format!("{query}: status {}: {}", answer.status, answer.text()))?;
        outcome(answer.status, &json).with_context(|| format!("{query}: {}", answer.text()))
    }
}

fn outcome(status: u16, json: &Value) -> Option<Outcome> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if json["status"] != "success" {
        return Some(Outcome::Failure {
            status,
            kind: text(&json["errorType"]),
            text: text(&json["error"]),
        });
    }
    let notes = |value: &Value| {
        let mut notes: Vec<String> = value.as_array().into_iter().flatten().map(text).collect();
        notes.sort();
        notes
    };
    let data = &json["data"];
    let kind = text(&data["resultType"]);
    let (mut series, mut string) = (Vec::new(), String::new());
    match kind.as_str() {
        "scalar" => series.push((String::new(), vec![float(&data["result"])?])),
        "string" => string = text(&data["result"][1]),
        _ => {
            for item in data["result"].as_array()? {
                series.push((labels(&item["metric"])?, points(item)?));
            }
        }
    }
    Some(Outcome::Success {
        kind,
        series,
        text: string,
        warnings: notes(&json["warnings"]),
        infos: notes(&json["infos"]),
    })
}

fn labels(metric: &Value) -> Option<String> {
    let labels: BTreeMap<&String, &Value> = metric.as_object()?.iter().collect();
    Some(format!("{labels:?}"))
}

fn points(item: &Value) -> Option<Points> {
    let mut points = Points::new();
    if item.get("value").is_some() {
        points.push(float(&item["value"])?);
    }
    if item.get("histogram").is_some() {
        points.push(histogram(&item["histogram"])?);
    }
    for value in item["values"].as_array().into_iter().flatten() {
        points.push(float(value)?);
    }
    for value in item["histograms"].as_array().into_iter().flatten() {
        points.push(histogram(value)?);
    }
    points.sort_by_key(|(at, _)| *at);
    Some(points)
}

fn milliseconds(value: &Value) -> Option<i64> {
    Some((value.as_f64()? * 1000.0).round() as i64)
}

fn number(value: &Value) -> Option<f64> {
    value.as_str()?.parse().ok()
}

fn float(pair: &Value) -> Option<(i64, Point)> {
    Some((milliseconds(&pair[0])?, Point::Float(number(&pair[1])?)))
}

fn histogram(pair: &Value) -> Option<(i64, Point)> {
    let value = &pair[1];
    let bucket = |bucket: &Value| {
        Some([
            bucket[0].as_f64()?,
            number(&bucket[1])?,
            number(&bucket[2])?,
            number(&bucket[3])?,
        ])
    };
    let buckets = value["buckets"]
        .as_array()
        .into_iter()
        .flatten()
        .map(bucket)
        .collect::<Option<_>>()?;
    let point = Point::Histogram {
        count: number(&value["count"])?,
        sum: number(&value["sum"])?,
        buckets,
    };
    Some((milliseconds(&pair[0])?, point))
}
