//! What dashboards and people ask of the population: the mix behind `loadtest query` and the query part of a comparison.

/// A question to the query API.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// What it is called in tables.
    pub name: &'static str,
    /// The expression.
    pub query: &'static str,
    /// Whether it is asked over time, as a graph is, or for one moment.
    pub over_time: bool,
}

const fn graph(name: &'static str, query: &'static str) -> Question {
    Question {
        name,
        query,
        over_time: true,
    }
}

const fn moment(name: &'static str, query: &'static str) -> Question {
    Question {
        name,
        query,
        over_time: false,
    }
}

/// The questions, heavy ones first.
pub const QUESTIONS: &[Question] = &[
    graph("rate by mode", "sum by (mode) (rate(node_cpu_seconds_total[5m]))"),
    moment("rate by mode, now", "sum by (mode) (rate(node_cpu_seconds_total[5m]))"),
    graph(
        "quantile of buckets",
        "histogram_quantile(0.99, sum by (le, namespace) (rate(http_request_duration_seconds_bucket[5m])))",
    ),
    graph(
        "memory by pod",
        "sum by (namespace, pod) (container_memory_working_set_bytes)",
    ),
    graph(
        "top ten pods",
        "topk(10, sum by (pod) (rate(container_cpu_usage_seconds_total[5m])))",
    ),
    graph(
        "share of memory",
        "1 - sum by (instance) (node_memory_MemAvailable_bytes) / sum by (instance) (node_memory_MemTotal_bytes)",
    ),
    graph("all counters", "sum(last_over_time({__name__=~\".+_total\"}[5m]))"),
    moment("count of everything", "count({__name__=~\".+\"})"),
    moment("prefix", "count(node_load1{instance=~\"worker-0000.+\"})"),
    moment(
        "alternatives",
        "sum(container_threads{container=~\"audit-log|session-cache|web-frontend\"})",
    ),
];
