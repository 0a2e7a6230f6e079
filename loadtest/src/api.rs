//! Reads from a server through the Prometheus HTTP API: instant and range queries, answers as plain series.
//!
//! The ledger's reader and the side-by-side tests use it; it asks any server that speaks the API.

use crate::http::{Client, Response, Url, form};
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, de::DeserializeOwned};
use std::{collections::BTreeMap, time::Duration};

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// A series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels; none for a scalar.
    pub labels: Labels,
    /// Timestamps in milliseconds, and values.
    pub samples: Vec<(i64, f64)>,
    /// Native histograms as the server wrote them, with their timestamps.
    pub histograms: Vec<(i64, serde_json::Value)>,
}

/// An answer to a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `vector`, `matrix`, `scalar` or `string`.
    pub kind: String,
    /// The series, in the server's order.
    pub series: Vec<Series>,
    /// What the server says beside the answer.
    pub warnings: Vec<String>,
}

/// A connection to a server's query API.
pub struct Api {
    client: Client,
    url: Url,
    /// Sent along with every query.
    along: Vec<(&'static str, &'static str)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<T> {
    status: String,
    data: Option<T>,
    #[serde(default)]
    error_type: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueryData {
    result_type: String,
    #[serde(default)]
    result: serde_json::Value,
}

/// A series on the wire: a vector has `value` or `histogram`, a matrix the plural.
#[derive(Deserialize)]
struct WireSeries {
    metric: Labels,
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
    histogram: Option<(f64, serde_json::Value)>,
    #[serde(default)]
    histograms: Vec<(f64, serde_json::Value)>,
}

impl Api {
    /// A connection to the API below `url`, for example `http://localhost:9090`.
    pub fn new(url: &Url, headers: &[(String, String)], timeout: Duration) -> Self {
        Self {
            client: Client::new(url, headers, timeout),
            url: url.clone(),
            along: Vec::new(),
        }
    }

    /// The same with a parameter that goes along with every query.
    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.along.push((name, value));
        self
    }

    /// Evaluates `query` at `time` (milliseconds).
    pub fn instant(&mut self, query: &str, time: i64) -> anyhow::Result<Answer> {
        self.query("/api/v1/query", &[("query", query), ("time", &seconds(time))])
    }

    /// Evaluates `query` from `start` to `end` every `step`, all in milliseconds.
    pub fn range(&mut self, query: &str, start: i64, end: i64, step: i64) -> anyhow::Result<Answer> {
        let times = [seconds(start), seconds(end), seconds(step)];
        let parameters = [
            ("query", query),
            ("start", &times[0]),
            ("end", &times[1]),
            ("step", &times[2]),
        ];
        self.query("/api/v1/query_range", &parameters)
    }

    /// Posts a form and gives `data` of the answer, whatever it is, with the warnings.
    pub fn call<T: DeserializeOwned>(
        &mut self,
        path: &str,
        parameters: &[(&str, &str)],
    ) -> anyhow::Result<(T, Vec<String>)> {
        let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
        let path = self.url.join(path).path;
        let body = form(parameters);
        let response = self
            .client
            .post(&path, headers, body.as_bytes())
            .with_context(|| format!("post {path}"))?;
        parse(&response).with_context(|| format!("{path} {parameters:?}"))
    }

    /// Fetches a path below the server's address.
    pub fn get(&mut self, path: &str) -> anyhow::Result<Response> {
        let path = self.url.join(path).path;
        self.client.get(&path).with_context(|| format!("get {path}"))
    }

    fn query(&mut self, path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let parameters = [parameters, &self.along].concat();
        let (data, warnings): (QueryData, _) = self.call(path, &parameters)?;
        let series = match data.result_type.as_str() {
            "vector" | "matrix" => serde_json::from_value::<Vec<WireSeries>>(data.result)?
                .into_iter()
                .map(series)
                .collect::<anyhow::Result<_>>()?,
            "scalar" => {
                let (time, value): (f64, String) = serde_json::from_value(data.result)?;
                vec![Series {
                    labels: Labels::new(),
                    samples: vec![(milliseconds(time), number(&value)?)],
                    histograms: Vec::new(),
                }]
            }
            "string" => Vec::new(),
            other => bail!("result type {other:?}"),
        };
        Ok(Answer {
            kind: data.result_type,
            series,
            warnings,
        })
    }
}

fn parse<T: DeserializeOwned>(response: &Response) -> anyhow::Result<(T, Vec<String>)> {
    let envelope: Envelope<T> = serde_json::from_slice(&response.body).with_context(|| {
        let text: String = response.text().chars().take(300).collect();
        format!("status {}, not an answer of the query API: {text:?}", response.status)
    })?;
    ensure!(
        envelope.status == "success",
        "status {}, {}: {}",
        response.status,
        envelope.error_type,
        envelope.error
    );
    let data = envelope.data.context("a success without data")?;
    Ok((data, envelope.warnings))
}

fn series(wire: WireSeries) -> anyhow::Result<Series> {
    let points = wire.value.into_iter().chain(wire.values);
    let samples = points
        .map(|(time, value)| Ok((milliseconds(time), number(&value)?)))
        .collect::<anyhow::Result<_>>()?;
    let histograms = wire.histogram.into_iter().chain(wire.histograms);
    let histograms = histograms.map(|(time, value)| (milliseconds(time), value)).collect();
    Ok(Series {
        labels: wire.metric,
        samples,
        histograms,
    })
}

fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

fn number(text: &str) -> anyhow::Result<f64> {
    text.parse().with_context(|| format!("{text:?} is no number"))
}

/// Milliseconds as the decimal seconds of a query parameter.
pub fn seconds(milliseconds: i64) -> String {
    let sign = if milliseconds < 0 { "-" } else { "" };
    let magnitude = milliseconds.unsigned_abs();
    format!("{sign}{}.{:03}", magnitude / 1000, magnitude % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_decimals() {
        assert_eq!(seconds(1_700_000_000_007), "1700000000.007");
        assert_eq!(seconds(-1_500), "-1.500");
        assert_eq!(milliseconds(1_700_000_000.007), 1_700_000_000_007);
    }

    #[test]
    fn special_values_are_read_and_failures_told() {
        assert!(number("NaN").unwrap().is_nan());
        assert_eq!(number("+Inf").unwrap(), f64::INFINITY);
        assert_eq!(number("-Inf").unwrap(), f64::NEG_INFINITY);
        let response = |status, body: &str| Response {
            status,
            headers: Vec::new(),
            body: body.into(),
        };
        let failed = response(
            422,
            r#"{"status":"error","errorType":"execution","error":"too many samples"}"#,
        );
        let error = parse::<QueryData>(&failed).err().unwrap().to_string();
        assert!(error.contains("422") && error.contains("too many samples"), "{error}");
        assert!(parse::<QueryData>(&response(502, "<html>")).is_err());
    }
}
