//! The shapes of answers, as far as clients rely on them.

/// The shape of a JSON value.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) enum Shape {
    Text,
    Integer,
    Number,
    Flag,
    /// Anything.
    Any,
    List(&'static Shape),
    /// An object with names that are not known before, and values of one shape.
    Map(&'static Shape),
    /// An object with these members and no others.
    Object(&'static [Member]),
    /// A list whose elements have their own shapes.
    Tuple(&'static [Shape]),
    /// One of several.
    Either(&'static [Shape]),
    /// The shape, or null.
    OrNull(&'static Shape),
    /// One of a few words.
    Words(&'static [&'static str]),
}

/// A member of an object.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Member {
    pub(in crate::http) name: &'static str,
    pub(in crate::http) shape: Shape,
    /// Whether it is always there.
    pub(in crate::http) always: bool,
}

const fn always(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        shape,
        always: true,
    }
}

const fn sometimes(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        shape,
        always: false,
    }
}

pub(super) const TEXTS: Shape = Shape::List(&Shape::Text);

const LABELS: Shape = Shape::Map(&Shape::Text);

/// The labels of series.
pub(super) const SERIES: Shape = Shape::List(&LABELS);

/// An error.
pub(in crate::http) const ERROR: Shape = Shape::Object(&[
    always("status", Shape::Words(&["error"])),
    always(
        "errorType",
        Shape::Words(&[
            "bad_data",
            "execution",
            "canceled",
            "timeout",
            "internal",
            "unavailable",
            "not_found",
        ]),
    ),
    always("error", Shape::Text),
]);

/// A bucket of a native histogram: which ends belong to it, lower end, upper end, count.
const BUCKET: Shape = Shape::Tuple(&[Shape::Integer, Shape::Text, Shape::Text, Shape::Text]);

const HISTOGRAM: Shape = Shape::Object(&[
    always("count", Shape::Text),
    always("sum", Shape::Text),
    sometimes("buckets", Shape::List(&BUCKET)),
]);

/// Seconds and a number as text.
const POINT: Shape = Shape::Tuple(&[Shape::Number, Shape::Text]);

const HISTOGRAM_POINT: Shape = Shape::Tuple(&[Shape::Number, HISTOGRAM]);

const VECTOR_SAMPLE: Shape = Shape::Object(&[
    always("metric", LABELS),
    sometimes("value", POINT),
    sometimes("histogram", HISTOGRAM_POINT),
]);

const MATRIX_SERIES: Shape = Shape::Object(&[
    always("metric", LABELS),
    sometimes("values", Shape::List(&POINT)),
    sometimes("histograms", Shape::List(&HISTOGRAM_POINT)),
]);

const TIMINGS: Shape = Shape::Object(&[
    always("evalTotalTime", Shape::Number),
    always("resultSortTime", Shape::Number),
    always("queryPreparationTime", Shape::Number),
    always("innerEvalTime", Shape::Number),
    always("execQueueTime", Shape::Number),
    always("execTotalTime", Shape::Number),
]);

const STEP_COUNT: Shape = Shape::Tuple(&[Shape::Number, Shape::Integer]);

const SAMPLE_COUNTS: Shape = Shape::Object(&[
    always("totalQueryableSamples", Shape::Integer),
    always("samplesRead", Shape::Integer),
    always("peakSamples", Shape::Integer),
    sometimes("totalQueryableSamplesPerStep", Shape::List(&STEP_COUNT)),
    sometimes("samplesReadPerStep", Shape::List(&STEP_COUNT)),
]);

const STATS: Shape = Shape::Object(&[always("timings", TIMINGS), always("samples", SAMPLE_COUNTS)]);

const fn result(kind: &'static [&'static str], shape: &'static Shape) -> [Member; 3] {
    [
        always("resultType", Shape::Words(kind)),
        always("result", *shape),
        sometimes("stats", STATS),
    ]
}

const VECTOR: [Member; 3] = result(&["vector"], &Shape::List(&VECTOR_SAMPLE));
const MATRIX: [Member; 3] = result(&["matrix"], &Shape::List(&MATRIX_SERIES));
const SCALAR: [Member; 3] = result(&["scalar", "string"], &POINT);

/// The value of an instant query.
pub(super) const VALUE: Shape =
    Shape::Either(&[Shape::Object(&VECTOR), Shape::Object(&MATRIX), Shape::Object(&SCALAR)]);

/// The value of a range query.
pub(super) const RANGE: Shape = Shape::Object(&MATRIX);

const EXEMPLAR: Shape = Shape::Object(&[
    always("labels", LABELS),
    always("value", Shape::Text),
    always("timestamp", Shape::Number),
]);

pub(super) const EXEMPLARS: Shape = Shape::List(&Shape::Object(&[
    always("seriesLabels", LABELS),
    always("exemplars", Shape::List(&EXEMPLAR)),
]));

pub(super) const METADATA: Shape = Shape::Map(&Shape::List(&Shape::Object(&[
    always("type", Shape::Text),
    always("unit", Shape::Text),
    always("help", Shape::Text),
])));

pub(super) const BUILD: Shape = Shape::Object(&[
    always("version", Shape::Text),
    always("revision", Shape::Text),
    always("branch", Shape::Text),
    always("buildUser", Shape::Text),
    always("buildDate", Shape::Text),
    always("goVersion", Shape::Text),
    always("application", Shape::Text),
    always("narthexVersion", Shape::Text),
]);

pub(super) const FLAGS: Shape = Shape::Map(&Shape::Text);

pub(super) const CONFIG: Shape = Shape::Object(&[always("yaml", Shape::Text)]);

pub(super) const RUNTIME: Shape = Shape::Object(&[
    always("startTime", Shape::Text),
    always("CWD", Shape::Text),
    always("hostname", Shape::Text),
    always("serverTime", Shape::Text),
    always("reloadConfigSuccess", Shape::Flag),
    always("lastConfigTime", Shape::Text),
    always("corruptionCount", Shape::Integer),
    always("goroutineCount", Shape::Integer),
    always("GOMAXPROCS", Shape::Integer),
    always("GOMEMLIMIT", Shape::Integer),
    always("GOGC", Shape::Text),
    always("GODEBUG", Shape::Text),
    always("storageRetention", Shape::Text),
]);

const COUNTS: Shape = Shape::List(&Shape::Object(&[
    always("name", Shape::Text),
    always("value", Shape::Integer),
]));

const HEAD: Shape = Shape::Object(&[
    always("numSeries", Shape::Integer),
    always("numLabelPairs", Shape::Integer),
    always("chunkCount", Shape::Integer),
    always("minTime", Shape::Integer),
    always("maxTime", Shape::Integer),
]);

pub(super) const TSDB: Shape = Shape::Object(&[
    always("headStats", HEAD),
    always("seriesCountByMetricName", COUNTS),
    always("labelValueCountByLabelName", COUNTS),
    always("memoryInBytesByLabelName", COUNTS),
    always("seriesCountByLabelValuePair", COUNTS),
]);

pub(super) const REPLAY: Shape = Shape::Object(&[
    always("min", Shape::Integer),
    always("max", Shape::Integer),
    always("current", Shape::Integer),
]);

pub(super) const FEATURES: Shape = Shape::Map(&Shape::Map(&Shape::Flag));

pub(super) const RULES: Shape = Shape::Object(&[
    always("groups", Shape::List(&Shape::Any)),
    sometimes("groupNextToken", Shape::Text),
]);

pub(super) const ALERTS: Shape = Shape::Object(&[always("alerts", Shape::List(&Shape::Any))]);

pub(super) const TARGETS: Shape = Shape::Object(&[
    always("activeTargets", Shape::List(&Shape::Any)),
    always("droppedTargets", Shape::List(&Shape::Any)),
    always("droppedTargetCounts", Shape::OrNull(&Shape::Map(&Shape::Integer))),
]);

pub(super) const POOLS: Shape = Shape::Object(&[always("scrapePools", TEXTS)]);

pub(super) const ALERTMANAGERS: Shape = Shape::Object(&[
    always("activeAlertmanagers", Shape::List(&Shape::Any)),
    always("droppedAlertmanagers", Shape::List(&Shape::Any)),
]);

pub(super) const SNAPSHOT: Shape = Shape::Object(&[always("name", Shape::Text)]);
