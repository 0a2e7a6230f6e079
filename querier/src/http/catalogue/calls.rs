//! The table itself.

use super::{
    Answered, Call, Kind, Parameter, Sent,
    Verb::{Get, Post, Put},
    shapes::{self, Shape},
};

const fn parameter(name: &'static str, kind: Kind, about: &'static str, example: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        required: false,
        repeated: false,
        about,
        example,
    }
}

const fn required(parameter: Parameter) -> Parameter {
    Parameter {
        required: true,
        ..parameter
    }
}

const fn repeated(parameter: Parameter) -> Parameter {
    Parameter {
        repeated: true,
        ..parameter
    }
}

/// For what only an earlier answer can give.
const NO_EXAMPLE: &str = "";

const QUERY: Parameter = required(parameter(
    "query",
    Kind::Text,
    "The PromQL expression.",
    "up{job=\"node\"}",
));
const AT: Parameter = parameter(
    "time",
    Kind::Time,
    "When to evaluate; now by default.",
    "2024-03-01T00:00:00Z",
);
const START: Parameter = parameter(
    "start",
    Kind::Time,
    "Start of the time looked at, included.",
    "1709247600",
);
const END: Parameter = parameter("end", Kind::Time, "End of the time looked at, included.", "1709251200");
const STEP: Parameter = required(parameter("step", Kind::Duration, "Time between evaluations.", "15s"));
const TIMEOUT: Parameter = parameter(
    "timeout",
    Kind::Duration,
    "Longest time for the answer. It can only shorten the server's own.",
    "30s",
);
const LIMIT: Parameter = parameter("limit", Kind::Integer, "Most elements to return; 0 for all.", "100");
const LOOKBACK: Parameter = parameter(
    "lookback_delta",
    Kind::Duration,
    "How far back an instant selector looks for a sample.",
    "5m",
);
const STATS: Parameter = parameter(
    "stats",
    Kind::Text,
    "`true` adds statistics to the answer; `all` adds those of each step where the server counts them.",
    "all",
);
const MATCH: Parameter = repeated(parameter(
    "match[]",
    Kind::Text,
    "A selector; series that match any of them count.",
    "{__name__=~\"up|http_.*\"}",
));
const PARTIAL: Parameter = parameter(
    "partial_response",
    Kind::Flag,
    "Whether an answer may lack, with a warning, what a failing source holds.",
    "true",
);
const DEDUP: Parameter = parameter(
    "dedup",
    Kind::Flag,
    "Whether the series of an HA pair become one.",
    "true",
);
const REPLICA_LABELS: Parameter = repeated(parameter(
    "replicaLabels[]",
    Kind::Text,
    "A label in which the series of an HA pair differ, instead of the server's setting.",
    "replica",
));
const RESOLUTION: Parameter = parameter(
    "max_source_resolution",
    Kind::Text,
    "Accepted as Thanos does; samples are always raw.",
    "0s",
);
const METRIC: Parameter = parameter("metric", Kind::Text, "Name of one metric family.", "up");

/// Every call, in the order of the document.
pub(in crate::http) const CALLS: &[Call] = &[
    Call {
        path: "/api/v1/query",
        verbs: &[Get, Post],
        tag: "query",
        about: "Evaluates an expression at one time.",
        body: Sent::Form,
        parameters: &[
            QUERY,
            AT,
            TIMEOUT,
            LIMIT,
            LOOKBACK,
            STATS,
            PARTIAL,
            DEDUP,
            REPLICA_LABELS,
            RESOLUTION,
        ],
        answer: Answered::Data(shapes::VALUE),
    },
    Call {
        path: "/api/v1/query_range",
        verbs: &[Get, Post],
        tag: "query",
        about: "Evaluates an expression at every step of a span of time.",
        body: Sent::Form,
        parameters: &[
            QUERY,
            required(START),
            required(END),
            STEP,
            TIMEOUT,
            LIMIT,
            LOOKBACK,
            STATS,
            PARTIAL,
            DEDUP,
            REPLICA_LABELS,
            RESOLUTION,
        ],
        answer: Answered::Data(shapes::RANGE),
    },
    Call {
        path: "/api/v1/query_exemplars",
        verbs: &[Get, Post],
        tag: "query",
        about: "Exemplars of the series that the selectors of an expression find.",
        body: Sent::Form,
        parameters: &[
            Parameter {
                example: "http_requests_total",
                ..QUERY
            },
            START,
            END,
            PARTIAL,
            DEDUP,
            REPLICA_LABELS,
        ],
        answer: Answered::Data(shapes::EXEMPLARS),
    },
    Call {
        path: "/api/v1/format_query",
        verbs: &[Get, Post],
        tag: "query",
        about: "The expression, laid out for readers.",
        body: Sent::Form,
        parameters: &[QUERY],
        answer: Answered::Data(Shape::Text),
    },
    Call {
        path: "/api/v1/parse_query",
        verbs: &[Get, Post],
        tag: "query",
        about: "The expression as a tree.",
        body: Sent::Form,
        parameters: &[QUERY],
        answer: Answered::Data(Shape::Map(&Shape::Any)),
    },
    Call {
        path: "/api/v1/labels",
        verbs: &[Get, Post],
        tag: "labels",
        about: "Names of labels.",
        body: Sent::Form,
        parameters: &[START, END, MATCH, LIMIT, PARTIAL, DEDUP, REPLICA_LABELS],
        answer: Answered::Data(shapes::TEXTS),
    },
    Call {
        path: "/api/v1/label/{name}/values",
        verbs: &[Get],
        tag: "labels",
        about: "Values of a label.",
        body: Sent::Form,
        parameters: &[
            required(parameter(
                "name",
                Kind::Path,
                "Name of the label; one beyond the old alphabet may be escaped as U__….",
                "job",
            )),
            START,
            END,
            MATCH,
            LIMIT,
            PARTIAL,
            DEDUP,
            REPLICA_LABELS,
        ],
        answer: Answered::Data(shapes::TEXTS),
    },
    Call {
        path: "/api/v1/series",
        verbs: &[Get, Post],
        tag: "labels",
        about: "Labels of series.",
        body: Sent::Form,
        parameters: &[required(MATCH), START, END, LIMIT, PARTIAL, DEDUP, REPLICA_LABELS],
        answer: Answered::Data(shapes::SERIES),
    },
    Call {
        path: "/api/v1/metadata",
        verbs: &[Get],
        tag: "labels",
        about: "Type, unit and help of metric families, as senders told them.",
        body: Sent::Form,
        parameters: &[
            METRIC,
            LIMIT,
            parameter("limit_per_metric", Kind::Integer, "Most entries of one family.", "1"),
            PARTIAL,
            DEDUP,
            REPLICA_LABELS,
        ],
        answer: Answered::Data(shapes::METADATA),
    },
    Call {
        path: "/api/v1/read",
        verbs: &[Post],
        tag: "remote",
        about: "Remote read: series for servers that evaluate queries themselves, as samples or as a stream of chunks. \
                The body is a prometheus.ReadRequest, compressed with snappy. An answer that may be incomplete is an error by default.",
        body: Sent::Message("application/x-protobuf"),
        parameters: &[PARTIAL, DEDUP, REPLICA_LABELS],
        answer: Answered::Raw("application/x-protobuf"),
    },
    Call {
        path: "/federate",
        verbs: &[Get],
        tag: "remote",
        about: "The newest sample of each selected series, for a Prometheus server to scrape. \
                An answer that may be incomplete is an error by default.",
        body: Sent::Form,
        parameters: &[MATCH, PARTIAL, DEDUP, REPLICA_LABELS],
        answer: Answered::Raw("text/plain"),
    },
    Call {
        path: "/api/v1/rules",
        verbs: &[Get],
        tag: "rules",
        about: "Rules; there are none in this process.",
        body: Sent::Form,
        parameters: &[
            parameter(
                "type",
                Kind::OneOf(&["alert", "record"]),
                "Which kind of rules.",
                "alert",
            ),
            repeated(parameter("rule_name[]", Kind::Text, "Name of a rule.", "TooSlow")),
            repeated(parameter("rule_group[]", Kind::Text, "Name of a group.", "latency")),
            repeated(parameter("file[]", Kind::Text, "Name of a file.", "rules.yml")),
            MATCH,
            parameter(
                "exclude_alerts",
                Kind::Flag,
                "Whether active alerts are left out.",
                "true",
            ),
            parameter("group_limit", Kind::Integer, "Most groups to return.", "10"),
            parameter(
                "group_next_token",
                Kind::Text,
                "Where the last answer ended; needs group_limit.",
                NO_EXAMPLE,
            ),
        ],
        answer: Answered::Data(shapes::RULES),
    },
    Call {
        path: "/api/v1/alerts",
        verbs: &[Get],
        tag: "rules",
        about: "Active alerts; there are none in this process.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Data(shapes::ALERTS),
    },
    Call {
        path: "/api/v1/alertmanagers",
        verbs: &[Get],
        tag: "rules",
        about: "Alertmanagers; there are none for this process.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Data(shapes::ALERTMANAGERS),
    },
    Call {
        path: "/api/v1/targets",
        verbs: &[Get],
        tag: "targets",
        about: "Scraped targets; samples are pushed here, so there are none.",
        body: Sent::Form,
        parameters: &[
            parameter(
                "state",
                Kind::OneOf(&["active", "dropped", "any"]),
                "Which targets.",
                "active",
            ),
            parameter("scrapePool", Kind::Text, "Name of a pool.", "node"),
        ],
        answer: Answered::Data(shapes::TARGETS),
    },
    Call {
        path: "/api/v1/targets/metadata",
        verbs: &[Get],
        tag: "targets",
        about: "Metadata by target. There are no targets, so it is never found; see /api/v1/metadata.",
        body: Sent::Form,
        parameters: &[
            parameter("match_target", Kind::Text, "A selector of targets.", "{job=\"node\"}"),
            METRIC,
            LIMIT,
        ],
        answer: Answered::NeverFound,
    },
    Call {
        path: "/api/v1/scrape_pools",
        verbs: &[Get],
        tag: "targets",
        about: "Names of scrape pools; there are none.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Data(shapes::POOLS),
    },
    Call {
        path: "/api/v1/status/buildinfo",
        verbs: &[Get],
        tag: "status",
        about: "Versions: that of the API which these answers follow, and our own.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Data(shapes::BUILD),
    },
    Call {
        path: "/api/v1/status/runtimeinfo",
        verbs: &[Get],
        tag: "status",
        about: "The process.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Data(shapes::RUNTIME),
    },
    Call {
        path: "/api/v1/status/flags",
        verbs: &[Get],
        tag: "status",
        about: "Settings; secrets are left out.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Data(shapes::FLAGS),
    },
    Call {
        path: "/api/v1/status/config",
        verbs: &[Get],
        tag: "status",
        about: "Settings as YAML; secrets are left out.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Data(shapes::CONFIG),
    },
    Call {
        path: "/api/v1/status/tsdb",
        verbs: &[Get],
        tag: "status",
        about: "What memory holds of a tenant.",
        body: Sent::Form,
        parameters: &[parameter(
            "limit",
            Kind::Integer,
            "Entries of each list, 10 by default.",
            "10",
        )],
        answer: Answered::Data(shapes::TSDB),
    },
    Call {
        path: "/api/v1/status/walreplay",
        verbs: &[Get],
        tag: "status",
        about: "Progress of the replay at start; it is over when this answers.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Data(shapes::REPLAY),
    },
    Call {
        path: "/api/v1/features",
        verbs: &[Get],
        tag: "status",
        about: "What clients may use, by category.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Data(shapes::FEATURES),
    },
    Call {
        path: "/api/v1/notifications",
        verbs: &[Get],
        tag: "status",
        about: "Notifications for the web UI; there are none.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Data(Shape::List(&Shape::Any)),
    },
    Call {
        path: "/api/v1/notifications/live",
        verbs: &[Get],
        tag: "status",
        about: "Notifications as they come. There are none, and the answer tells browsers not to ask again.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Nothing,
    },
    Call {
        path: "/api/v1/openapi.yaml",
        verbs: &[Get],
        tag: "status",
        about: "This document.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Raw("application/yaml"),
    },
    Call {
        path: "/api/v1/admin/tsdb/delete_series",
        verbs: &[Post, Put],
        tag: "admin",
        about: "Deletes samples of series. Copies that are not reached are told as warnings. Served with --web.enable-admin-api.",
        body: Sent::Form,
        parameters: &[required(MATCH), START, END],
        answer: Answered::NothingUnlessWarned,
    },
    Call {
        path: "/api/v1/admin/tsdb/clean_tombstones",
        verbs: &[Post, Put],
        tag: "admin",
        about: "Frees the space of deleted samples. Served with --web.enable-admin-api.",
        body: Sent::Form,
        parameters: &[],
        answer: Answered::Nothing,
    },
    Call {
        path: "/api/v1/admin/tsdb/snapshot",
        verbs: &[Post, Put],
        tag: "admin",
        about: "Copies the blocks of this process into a new folder below snapshots/ of its data. Served with --web.enable-admin-api.",
        body: Sent::Form,
        parameters: &[parameter(
            "skip_head",
            Kind::Flag,
            "Whether what is only in memory is left out.",
            "true",
        )],
        answer: Answered::Data(shapes::SNAPSHOT),
    },
];
