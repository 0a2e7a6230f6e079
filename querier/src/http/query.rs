//! `query` and `query_range`: PromQL over HTTP.

use super::{
    answer::{Answer, ApiError, ErrorKind, json_response},
    json::Json,
    lookup::TRUNCATED,
    number::{write_timestamp, write_value},
    params::Asked,
    result::ValueWriter,
    stream,
};
use crate::{
    evaluate::{EvaluateError, Evaluated, Spent},
    querier::Querier,
};
use ::http::StatusCode;
use axum::{body::Body, extract::State, response::Response};
use model::time::Timestamp;
use promql::{
    engine::{Query, QueryError, QueryStats, Times},
    value::Value,
};
use std::{sync::Arc, time::Duration};

/// Evaluations of one range query. Enough for a week at a minute or a year at an hour; clients know the bound by its text.
const POINTS_MAX: i64 = 11_000;

/// Headers by which Grafana says who asks; a slow query is logged with them.
const ASKER_HEADERS: [&str; 8] = [
    "x-dashboard-uid",
    "x-panel-id",
    "x-grafana-user",
    "x-grafana-org-id",
    "fromalert",
    "x-rule-uid",
    "x-rule-name",
    "user-agent",
];

pub(super) async fn instant(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Response, ApiError> {
    let limit = asked.limit()?;
    let at = asked.time_or("time", querier.env.clock.now())?;
    run(&querier, &asked, Times::Instant(at), limit).await
}

pub(super) async fn range(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Response, ApiError> {
    let limit = asked.limit()?;
    let start = asked.time("start")?;
    let end = asked.time("end")?;
    if end < start {
        return Err(ApiError::parameter(
            "end",
            "end timestamp must not be before start time",
        ));
    }
    let step_ms = asked.step()?;
    // A step below a millisecond counts as none: time goes in milliseconds.
    if step_ms <= 0 {
        let text = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(ApiError::parameter("step", text));
    }
    if end.saturating_sub(start) / step_ms > POINTS_MAX {
        return Err(ApiError::bad_data(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    run(&querier, &asked, Times::Range { start, end, step_ms }, limit).await
}

async fn run(querier: &Arc<Querier>, asked: &Asked, times: Times, limit: usize) -> Result<Response, ApiError> {
    let timeout = asked.timeout()?.unwrap_or(Duration::MAX).min(querier.settings.timeout);
    let lookback_ms = asked.lookback()?;
    let reading = asked.reading(&querier.settings)?;
    let stats = Stats::of(asked.first("stats"));
    let query = Query {
        text: asked.first("query").to_owned(),
        times,
        lookback_ms,
        samples_max: None,
        stats_by_step: stats == Stats::ByStep && querier.settings.stats_by_step,
    };
    let source = querier.select_of(&asked.tenant, &reading);
    let started = querier.env.clock.monotonic();
    let evaluated = querier.evaluator.run(&asked.tenant, &*source, query, timeout).await;
    let elapsed = querier.env.clock.monotonic().saturating_sub(started);
    if elapsed >= querier.settings.slow_query {
        log_slow(asked, times, elapsed, evaluated.as_ref().ok());
    }
    let Evaluated { mut result, spent } = evaluated?;
    querier.metrics.samples.inc_by(result.stats.total_queryable_samples);
    if truncate(&mut result.value, limit) {
        result.warnings.push(TRUNCATED.to_owned());
    }
    if !result.warnings.is_empty() {
        querier.metrics.warned.inc();
    }
    let mut tail = Json::new();
    if stats == Stats::Unknown {
        let text = "unknown value of parameter \"stats\", taken for \"true\"; say \"true\" or \"all\"";
        result.warnings.push(text.to_owned());
    }
    if stats != Stats::None {
        write_stats(&mut tail, &result.stats, &spent);
    }
    tail.raw("}");
    tail.out.extend(Answer::tail(&mut result.warnings, &mut result.infos));
    let mut json = Answer::new().json;
    let writer = ValueWriter::new(&mut json, result.value, tail.out);
    Ok(respond(querier, json, writer, !result.warnings.is_empty()))
}

fn write_steps(json: &mut Json, counts: impl Iterator<Item = (Timestamp, u64)>) {
    json.raw("[");
    for (index, (at, count)) in counts.enumerate() {
        json.raw(if index == 0 { "[" } else { ",[" });
        write_timestamp(&mut json.out, at);
        json.raw(&format!(",{count}]"));
    }
    json.raw("]");
}

/// What a request wants to know of its cost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stats {
    None,
    Summary,
    ByStep,
    /// The summary, by a word that may get a meaning of its own.
    Unknown,
}

impl Stats {
    fn of(text: &str) -> Self {
        match text {
            "" => Stats::None,
            "true" => Stats::Summary,
            "all" => Stats::ByStep,
            _ => Stats::Unknown,
        }
    }
}

/// Cuts a value to `limit` elements; says whether some went away.
fn truncate(value: &mut Value, limit: usize) -> bool {
    let before = match value {
        Value::Vector(samples) => samples.len(),
        Value::Matrix(series) => series.len(),
        Value::Scalar { .. } | Value::String { .. } => 0,
    };
    if limit == 0 || before <= limit {
        return false;
    }
    match value {
        Value::Vector(samples) => samples.truncate(limit),
        Value::Matrix(series) => series.truncate(limit),
        Value::Scalar { .. } | Value::String { .. } => {}
    }
    true
}

fn write_stats(json: &mut Json, stats: &QueryStats, spent: &Spent) {
    let total = spent.queued + spent.prepared + spent.evaluated;
    let timings = [
        ("evalTotalTime", spent.prepared + spent.evaluated),
        ("resultSortTime", Duration::ZERO),
        ("queryPreparationTime", spent.prepared),
        ("innerEvalTime", spent.evaluated),
        ("execQueueTime", spent.queued),
        ("execTotalTime", total),
    ];
    json.raw(",\"stats\":{\"timings\":{");
    for (name, duration) in timings {
        json.key(name);
        write_value(&mut json.out, duration.as_secs_f64());
    }
    json.raw("},\"samples\":{")
        .int_member("totalQueryableSamples", stats.total_queryable_samples as i64);
    json.int_member("samplesRead", stats.samples_read as i64)
        .int_member("peakSamples", stats.peak_samples as i64);
    if !stats.by_step.is_empty() {
        let by_step = || stats.by_step.iter();
        let queryable = by_step().map(|step| (step.at, step.queryable_samples));
        write_steps(json.key("totalQueryableSamplesPerStep"), queryable);
        let read = by_step().map(|step| (step.at, step.samples_read));
        write_steps(json.key("samplesReadPerStep"), read);
    }
    json.raw("}}");
}

/// A small answer in one piece with its length, a large one as a stream.
fn respond(querier: &Arc<Querier>, mut json: Json, mut writer: ValueWriter, incomplete: bool) -> Response {
    writer.write(&mut json);
    let body = if writer.finished() {
        Body::from(json.out)
    } else {
        stream_body(querier, json, writer)
    };
    json_response(StatusCode::OK, body, incomplete)
}

/// Writes piece by piece as the client reads.
fn stream_body(querier: &Arc<Querier>, mut json: Json, mut writer: ValueWriter) -> Body {
    stream::body(querier, async move |pieces| {
        loop {
            let last = writer.finished();
            pieces.send(std::mem::take(&mut json.out)).await?;
            if last {
                return Ok(());
            }
            writer.write(&mut json);
        }
    })
}

fn log_slow(asked: &Asked, times: Times, elapsed: Duration, evaluated: Option<&Evaluated>) {
    /// Longest text of a query in the log.
    const TEXT_CHARS_MAX: usize = 2000;
    let mut asker = String::new();
    for name in ASKER_HEADERS {
        if let Some(value) = asked.headers.get(name).and_then(|value| value.to_str().ok()) {
            let value: String = value.chars().take(100).collect();
            asker.push_str(&format!("{name}={value:?} "));
        }
    }
    let text: String = asked.first("query").chars().take(TEXT_CHARS_MAX).collect();
    let stats = evaluated
        .map(|evaluated| evaluated.result.stats.clone())
        .unwrap_or_default();
    tracing::info!(
        tenant = asked.tenant.as_str(),
        query = text,
        ?times,
        seconds = elapsed.as_secs_f64(),
        samples = stats.total_queryable_samples,
        series = stats.series,
        answered = evaluated.is_some(),
        asker = asker.trim_end(),
        "slow query"
    );
}

impl From<EvaluateError> for ApiError {
    fn from(error: EvaluateError) -> Self {
        let text = error.to_string();
        let kind = match error {
            EvaluateError::Full(full) => return full.into(),
            EvaluateError::Query(QueryError::Parse(text)) => return ApiError::parameter("query", text),
            EvaluateError::Query(QueryError::Select(error)) => ApiError::from(error).kind,
            EvaluateError::Query(
                QueryError::Execution(_) | QueryError::TooManySamples | QueryError::TooManyBytes(_),
            ) => ErrorKind::Execution,
            EvaluateError::Query(QueryError::PoolExhausted { .. }) => ErrorKind::Unavailable,
            EvaluateError::Query(QueryError::Timeout(_)) => ErrorKind::Timeout,
            EvaluateError::Query(QueryError::Canceled(_)) => ErrorKind::Canceled,
            EvaluateError::Query(QueryError::Internal(_)) => ErrorKind::Internal,
        };
        ApiError::new(kind, text)
    }
}
