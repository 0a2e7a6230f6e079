//! The status pages: who we are, how we are set, what the head holds.

use super::{
    answer::{Answer, ApiError},
    params::{Asked, atoi},
    time::format_rfc3339,
};
use crate::{querier::Querier, status::PROMETHEUS_VERSION};
use axum::extract::State;
use promql::ast::Function;
use std::sync::Arc;

/// Entries of each list of `status/tsdb` when the request names no number, and at most.
const STATS_ENTRIES: i64 = 10;
const STATS_ENTRIES_MAX: i64 = 10_000;

/// Clients read `version` to learn what they may ask, so it is that of the API. There is no `features`: Grafana would take us for
/// Mimir.
pub(super) async fn buildinfo(State(querier): State<Arc<Querier>>) -> Answer {
    let mut answer = Answer::new();
    let json = answer.json.raw("{").text_member("version", PROMETHEUS_VERSION);
    json.text_member("revision", &querier.status.revision());
    for key in ["branch", "buildUser", "buildDate", "goVersion"] {
        json.text_member(key, "");
    }
    json.text_member("application", "Narthex")
        .text_member("narthexVersion", &querier.status.version())
        .raw("}");
    answer
}

pub(super) async fn flags(State(querier): State<Arc<Querier>>) -> Answer {
    let mut flags = querier.status.flags();
    flags.sort();
    let mut answer = Answer::new();
    answer.json.raw("{");
    for (name, value) in flags {
        answer.json.comma().string(&name).raw(":").string(&value);
    }
    answer.json.raw("}");
    answer
}

pub(super) async fn config(State(querier): State<Arc<Querier>>) -> Answer {
    let mut answer = Answer::new();
    answer
        .json
        .raw("{")
        .text_member("yaml", &querier.status.config())
        .raw("}");
    answer
}

pub(super) async fn runtimeinfo(State(querier): State<Arc<Querier>>) -> Answer {
    let started = format_rfc3339(querier.status.started());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as i64);
    let mut answer = Answer::new();
    let json = answer
        .json
        .raw("{")
        .text_member("startTime", &started)
        .text_member("CWD", "")
        .text_member("hostname", "");
    json.text_member("serverTime", &format_rfc3339(querier.env.clock.now()));
    json.key("reloadConfigSuccess")
        .raw("true")
        .text_member("lastConfigTime", &started);
    json.int_member("corruptionCount", 0)
        .int_member("goroutineCount", 0)
        .int_member("GOMAXPROCS", threads);
    json.int_member("GOMEMLIMIT", 0)
        .text_member("GOGC", "")
        .text_member("GODEBUG", "");
    json.text_member("storageRetention", &querier.status.retention())
        .raw("}");
    answer
}

pub(super) async fn tsdb(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Answer, ApiError> {
    let limit = match asked.first("limit") {
        "" => STATS_ENTRIES,
        text => atoi(text)
            .ok()
            .filter(|limit| *limit >= 1)
            .ok_or_else(|| ApiError::bad_data("limit must be a positive number"))?,
    };
    if limit > STATS_ENTRIES_MAX {
        return Err(ApiError::bad_data(format!("limit must not exceed {STATS_ENTRIES_MAX}")));
    }
    let stats = querier
        .lookup(&asked.tenant, querier.status.head_stats(&asked.tenant, limit as usize))
        .await??;
    let mut answer = Answer::new();
    let json = answer
        .json
        .raw("{")
        .key("headStats")
        .raw("{")
        .int_member("numSeries", stats.series as i64);
    json.int_member("numLabelPairs", stats.label_pairs as i64)
        .int_member("chunkCount", stats.chunks as i64);
    json.int_member("minTime", stats.min_time)
        .int_member("maxTime", stats.max_time)
        .raw("}");
    let lists = [
        ("seriesCountByMetricName", &stats.series_by_metric),
        ("labelValueCountByLabelName", &stats.values_by_label),
        ("memoryInBytesByLabelName", &stats.bytes_by_label),
        ("seriesCountByLabelValuePair", &stats.series_by_pair),
    ];
    for (key, list) in lists {
        json.key(key).raw("[");
        for (name, value) in list.iter().take(limit as usize) {
            json.comma()
                .raw("{")
                .text_member("name", name)
                .int_member("value", *value as i64)
                .raw("}");
        }
        json.raw("]");
    }
    json.raw("}");
    Ok(answer)
}

/// There is no replay to watch here: the head answers when it is ready.
pub(super) async fn walreplay() -> Answer {
    let mut answer = Answer::new();
    answer.json.raw("{\"min\":0,\"max\":0,\"current\":0}");
    answer
}

/// What clients may use, by category.
pub(super) async fn features(State(querier): State<Arc<Querier>>) -> Answer {
    let experimental = querier.settings.experimental_functions;
    let api = [
        "exemplars",
        "label_values_match",
        "labels_match",
        "query_stats",
        "query_warnings",
        "remote_write_receiver",
    ];
    let mut answer = Answer::new();
    let json = answer.json.raw("{").key("api").raw("{");
    for name in api {
        json.key(name).raw("true");
    }
    let settings = &querier.settings;
    let promql = [
        ("delayed_name_removal", settings.delayed_name_removal),
        ("duration_expr", true),
        ("extended_range_selectors", settings.extended_range_selectors),
        ("fill_modifiers", settings.fill_modifiers),
        ("per_step_stats", settings.stats_by_step),
        ("type_and_unit_labels", settings.type_and_unit_labels),
        ("use_start_timestamps", settings.use_start_timestamps),
    ];
    json.raw("}").key("promql").raw("{");
    for (name, on) in promql {
        json.key(name).raw(if on { "true" } else { "false" });
    }
    json.raw("}").key("promql_functions").raw("{");
    for function in Function::ALL {
        let on = experimental || !function.signature().experimental;
        json.key(function.as_str()).raw(if on { "true" } else { "false" });
    }
    json.raw("}}");
    answer
}
