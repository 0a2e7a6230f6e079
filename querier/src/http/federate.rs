//! `/federate`: the newest sample of each selected series as text, for a Prometheus server to scrape.
//!
//! There is no place for warnings, so an answer that may be incomplete is an error unless the request says `partial_response=true`:
//! a gap that the scraper cannot see would be stored. The format is the text exposition format 0.0.4. It has no native histograms, so series of those are left out.

use super::{
    answer::{ApiError, ErrorKind},
    lookup::{select_any, selectors},
    number::{write_general, write_int},
    params::Asked,
};
use crate::querier::Querier;
use ::http::header;
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use model::{
    label::{Labels, METRIC_NAME, is_legacy_name},
    sample::{SampleBuffer, is_stale},
    select::{SelectError, SelectRequest, Series},
    time::{TimeRange, Timestamp},
};
use std::sync::Arc;

/// What the body is; `names` says how names that old readers do not take were written.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

pub(super) async fn federate(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Response, Response> {
    let sets = selectors(&asked).map_err(plain)?;
    let now = querier.env.clock.now();
    let range = TimeRange::new(now - querier.settings.lookback.as_millis() as i64 + 1, now);
    let reading = asked.whole_reading(&querier.settings).map_err(plain)?;
    let select = querier.select_of(&asked.tenant, &reading);
    let items_max = querier.settings.items_max;
    let work = async {
        let requests = sets.into_iter().map(|matchers| SelectRequest::new(matchers, range));
        let mut merged = select_any(&*select, requests).await?;
        let mut all: Vec<Series> = Vec::new();
        while let Some(batch) = merged.next().await {
            all.extend(batch?);
            if all.len() > items_max {
                let text = format!("more than {items_max} series are selected; narrow the selectors");
                return Err(SelectError::Limit(text));
            }
        }
        Ok((all, merged.warnings()))
    };
    let (series, warnings) = querier
        .lookup(&asked.tenant, work)
        .await
        .map_err(|late| plain(late.into()))?
        .map_err(|error| plain(error.into()))?;
    // Decoding and writing a hundred thousand series would hold up other requests of this thread.
    let written = querier.compute("federate", move || write_all(series, range)).await;
    let text = written
        .ok_or_else(|| plain(ApiError::new(ErrorKind::Internal, "writing the samples panicked")))?
        .map_err(|error| plain(error.into()))?;
    for warning in warnings {
        tracing::warn!(
            tenant = asked.tenant.as_str(),
            warning,
            "a federated answer may be incomplete"
        );
    }
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// Errors are plain text here, for a scraper shows them as they are.
fn plain(error: ApiError) -> Response {
    (error.kind.status(), format!("{}\n", error.text)).into_response()
}

/// The newest value of each series, grouped by metric name.
fn write_all(series: Vec<Series>, range: TimeRange) -> Result<Vec<u8>, SelectError> {
    let mut newest: Vec<(Labels, Timestamp, f64)> = Vec::with_capacity(series.len());
    let mut buffer = SampleBuffer::default();
    for series in series {
        buffer.clear();
        series.samples.read(range, &mut buffer)?;
        let (Some(&at), Some(&value)) = (buffer.timestamps.last(), buffer.values.last()) else {
            continue;
        };
        let histogram_is_newer = buffer.histograms.last().is_some_and(|histogram| histogram.at > at);
        if !histogram_is_newer && !is_stale(value) && !series.labels.metric_name().is_empty() {
            newest.push((series.labels, at, value));
        }
    }
    newest.sort_by(|a, b| a.0.metric_name().cmp(b.0.metric_name()));
    let mut out = Vec::new();
    let mut family = String::new();
    for (labels, at, value) in newest {
        let name = exposed_name(labels.metric_name(), true);
        if name != family {
            out.extend_from_slice(format!("# TYPE {name} untyped\n").as_bytes());
        }
        out.extend_from_slice(name.as_bytes());
        write_labels(&mut out, &labels);
        out.push(b' ');
        write_general(&mut out, value);
        out.push(b' ');
        write_int(&mut out, at);
        out.push(b'\n');
        family = name;
    }
    Ok(out)
}

/// All labels but the name. A series without `instance` says so, or the scraper would add its own.
fn write_labels(out: &mut Vec<u8>, labels: &Labels) {
    out.push(b'{');
    let mut separator = "";
    let mut write = |name: &str, value: &str| {
        out.extend_from_slice(format!("{separator}{name}=\"").as_bytes());
        for byte in value.bytes() {
            match byte {
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'"' => out.extend_from_slice(b"\\\""),
                b'\n' => out.extend_from_slice(b"\\n"),
                byte => out.push(byte),
            }
        }
        out.push(b'"');
        separator = ",";
    };
    for (name, value) in labels.iter().filter(|(name, _)| *name != METRIC_NAME) {
        write(&exposed_name(name, false), value);
    }
    if labels.get("instance").is_none() {
        write("instance", "");
    }
    out.push(b'}');
}

/// The name with an underscore for each character that the old alphabet lacks.
fn exposed_name(name: &str, colon: bool) -> String {
    if is_legacy_name(name) {
        return name.to_owned();
    }
    let fits = |(index, c): (usize, char)| {
        let allowed = c == '_' || c.is_ascii_alphabetic() || (index > 0 && c.is_ascii_digit()) || (colon && c == ':');
        if allowed { c } else { '_' }
    };
    name.chars().enumerate().map(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_old_alphabet_get_underscores() {
        let cases = [
            ("up", true, "up"),
            ("a:b", true, "a:b"),
            ("a:b", false, "a_b"),
            ("9.é", true, "___"),
            ("x.y", true, "x_y"),
        ];
        for (name, colon, expected) in cases {
            assert_eq!(exposed_name(name, colon), expected);
        }
    }
}
