//! What of the language a peer knows: each function and aggregation is tried on it, so that no list here can be out of date.

use crate::ask::{Asker, Outcome, Times};
use crate::data;

/// How a function is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Of an instant vector.
    Vector,
    /// Of a range vector.
    Range,
    /// Of a range vector of native or other histograms as well, with another template.
    Special(&'static str),
}

/// Every function of the language with its shape. In a template `V` stands for a vector, `R` for a range vector, `S` for a scalar, `Q` for a
/// number between 0 and 1, `H` for classic buckets, `N` for native histograms, `L` for a label.
pub(crate) const FUNCTIONS: &[(&str, Shape)] = &[
    ("abs", Shape::Vector),
    ("absent", Shape::Vector),
    ("absent_over_time", Shape::Range),
    ("acos", Shape::Vector),
    ("acosh", Shape::Vector),
    ("asin", Shape::Vector),
    ("asinh", Shape::Vector),
    ("atan", Shape::Vector),
    ("atanh", Shape::Vector),
    ("avg_over_time", Shape::Range),
    ("ceil", Shape::Vector),
    ("changes", Shape::Range),
    ("clamp", Shape::Special("clamp(V, S, S)")),
    ("clamp_max", Shape::Special("clamp_max(V, S)")),
    ("clamp_min", Shape::Special("clamp_min(V, S)")),
    ("cos", Shape::Vector),
    ("cosh", Shape::Vector),
    ("count_over_time", Shape::Range),
    ("day_of_month", Shape::Vector),
    ("day_of_week", Shape::Vector),
    ("day_of_year", Shape::Vector),
    ("days_in_month", Shape::Vector),
    ("deg", Shape::Vector),
    ("delta", Shape::Range),
    ("deriv", Shape::Range),
    (
        "double_exponential_smoothing",
        Shape::Special("double_exponential_smoothing(R, Q, Q)"),
    ),
    ("end", Shape::Special("vector(end())")),
    ("exp", Shape::Vector),
    ("first_over_time", Shape::Range),
    ("floor", Shape::Vector),
    ("histogram_avg", Shape::Special("histogram_avg(N)")),
    ("histogram_count", Shape::Special("histogram_count(N)")),
    ("histogram_fraction", Shape::Special("histogram_fraction(S, S, N)")),
    ("histogram_quantile", Shape::Special("histogram_quantile(Q, H)")),
    (
        "histogram_quantiles",
        Shape::Special("histogram_quantiles(H, \"q\", Q, Q)"),
    ),
    ("histogram_stddev", Shape::Special("histogram_stddev(N)")),
    ("histogram_stdvar", Shape::Special("histogram_stdvar(N)")),
    ("histogram_sum", Shape::Special("histogram_sum(N)")),
    ("hour", Shape::Vector),
    ("idelta", Shape::Range),
    ("increase", Shape::Range),
    ("info", Shape::Special("info(V)")),
    ("irate", Shape::Range),
    (
        "label_join",
        Shape::Special("label_join(V, \"joined\", \"-\", \"L\", \"L\")"),
    ),
    (
        "label_replace",
        Shape::Special("label_replace(V, \"L\", \"x$1\", \"L\", \"(.).*\")"),
    ),
    ("last_over_time", Shape::Range),
    ("ln", Shape::Vector),
    ("log10", Shape::Vector),
    ("log2", Shape::Vector),
    ("mad_over_time", Shape::Range),
    ("max_of", Shape::Special("vector(max_of(S, S))")),
    ("max_over_time", Shape::Range),
    ("min_of", Shape::Special("vector(min_of(S, S))")),
    ("min_over_time", Shape::Range),
    ("minute", Shape::Vector),
    ("month", Shape::Vector),
    ("pi", Shape::Special("vector(pi())")),
    ("predict_linear", Shape::Special("predict_linear(R, S)")),
    ("present_over_time", Shape::Range),
    ("quantile_over_time", Shape::Special("quantile_over_time(Q, R)")),
    ("rad", Shape::Vector),
    ("range", Shape::Special("vector(range())")),
    ("rate", Shape::Range),
    ("resets", Shape::Range),
    ("round", Shape::Special("round(V, S)")),
    ("scalar", Shape::Special("vector(scalar(V))")),
    ("sgn", Shape::Vector),
    ("sin", Shape::Vector),
    ("sinh", Shape::Vector),
    ("sort", Shape::Vector),
    ("sort_by_label", Shape::Special("sort_by_label(V, \"L\", \"L\")")),
    ("sort_by_label_desc", Shape::Special("sort_by_label_desc(V, \"L\")")),
    ("sort_desc", Shape::Vector),
    ("sqrt", Shape::Vector),
    ("start", Shape::Special("vector(start())")),
    ("start_timestamp", Shape::Vector),
    ("stddev_over_time", Shape::Range),
    ("stdvar_over_time", Shape::Range),
    ("step", Shape::Special("vector(step())")),
    ("sum_over_time", Shape::Range),
    ("tan", Shape::Vector),
    ("tanh", Shape::Vector),
    ("time", Shape::Special("vector(time())")),
    ("timestamp", Shape::Vector),
    ("ts_of_first_over_time", Shape::Range),
    ("ts_of_last_over_time", Shape::Range),
    ("ts_of_max_over_time", Shape::Range),
    ("ts_of_min_over_time", Shape::Range),
    ("vector", Shape::Special("vector(S)")),
    ("year", Shape::Vector),
];

/// Every aggregation with the parameter it takes.
pub(crate) const AGGREGATIONS: &[(&str, &str)] = &[
    ("avg", ""),
    ("bottomk", "K"),
    ("count", ""),
    ("count_values", "\"value\""),
    ("group", ""),
    ("limit_ratio", "P"),
    ("limitk", "K"),
    ("max", ""),
    ("min", ""),
    ("quantile", "Q"),
    ("stddev", ""),
    ("stdvar", ""),
    ("sum", ""),
    ("topk", "K"),
];

/// What may stand in a query for both sides.
#[derive(Debug, Default)]
pub(crate) struct Dialect {
    pub(crate) functions: Vec<(&'static str, Shape)>,
    pub(crate) aggregations: Vec<(&'static str, &'static str)>,
    /// Native histograms, and names that are any text.
    pub(crate) modern: bool,
    /// Arithmetic in durations.
    pub(crate) duration_expressions: bool,
    /// What the peer does not know.
    pub(crate) unknown: Vec<&'static str>,
}

impl Dialect {
    /// Tries everything on a peer that has the data already.
    pub(crate) fn of(peer: &mut Asker) -> anyhow::Result<Self> {
        let mut knows = |query: &str| -> anyhow::Result<bool> {
            let outcome = peer.ask(query, Times::Instant(data::start() + 3_600_000))?;
            Ok(!matches!(outcome, Outcome::Failure { kind, .. } if kind == "bad_data"))
        };
        let mut dialect = Self {
            modern: knows("{\"up\"}")?,
            duration_expressions: knows("rate(up[1m + 1m])")?,
            ..Self::default()
        };
        for &(name, shape) in FUNCTIONS {
            let call = match shape {
                Shape::Vector => format!("{name}(up)"),
                Shape::Range => format!("{name}(up[1m])"),
                Shape::Special(template) => filled_plainly(template),
            };
            if knows(&call)? {
                dialect.functions.push((name, shape));
            } else {
                dialect.unknown.push(name);
            }
        }
        for &(name, template) in AGGREGATIONS {
            let parameter = match template {
                "" => String::new(),
                _ => format!("{}, ", filled_plainly(template)),
            };
            if knows(&format!("{name}({parameter}up)"))? {
                dialect.aggregations.push((name, template));
            } else {
                dialect.unknown.push(name);
            }
        }
        Ok(dialect)
    }
}

fn filled_plainly(template: &str) -> String {
    template
        .chars()
        .map(|c| match c {
            'V' | 'H' | 'N' => "up".to_owned(),
            'R' => "up[1m]".to_owned(),
            'S' | 'K' => "1".to_owned(),
            'Q' | 'P' => "0.5".to_owned(),
            'L' => "job".to_owned(),
            other => other.to_string(),
        })
        .collect()
}
