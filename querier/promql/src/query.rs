//! What a query is, how it may end, and how it is stopped: the nouns of [`crate::engine`].

use crate::{ast::ParserOptions, value::Value};
use model::{select::SelectError, time::Timestamp};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// How an engine reads the language and bounds its work. The default is a Prometheus server without feature flags.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// How far an instant selector looks back for a sample.
    pub lookback_ms: i64,
    /// Samples that a query may hold at once; a histogram counts as several.
    pub samples_max: usize,
    /// Bytes that the series and the labels of a query may take, samples aside.
    pub bytes_max: usize,
    /// Step of subqueries that state none.
    pub subquery_step_ms: i64,
    /// Drop metric names at the end of a query instead of in each function.
    pub delayed_name_removal: bool,
    /// Take counter resets and beginnings from start timestamps.
    pub use_start_timestamps: bool,
    /// Tell counters by the label `__type__` instead of by the suffix of the name.
    pub type_and_unit_labels: bool,
    /// Accept experimental functions and aggregations.
    pub experimental_functions: bool,
    /// Accept arithmetic where a duration is expected.
    pub duration_expressions: bool,
    /// Accept `anchored` and `smoothed` selectors.
    pub extended_range_selectors: bool,
    /// Accept `fill`, `fill_left` and `fill_right`.
    pub fill_modifiers: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            lookback_ms: 300_000,
            samples_max: 50_000_000,
            bytes_max: 1 << 30,
            subquery_step_ms: 60_000,
            delayed_name_removal: false,
            use_start_timestamps: false,
            type_and_unit_labels: false,
            experimental_functions: false,
            duration_expressions: true,
            extended_range_selectors: false,
            fill_modifiers: false,
        }
    }
}

impl EngineOptions {
    /// Every part of the language switched on, as the language test suite needs it. What a counter is, is told by names there.
    pub fn everything() -> Self {
        Self {
            delayed_name_removal: true,
            use_start_timestamps: true,
            experimental_functions: true,
            extended_range_selectors: true,
            fill_modifiers: true,
            ..Self::default()
        }
    }

    /// What the parser is to accept.
    pub fn parser_options(&self) -> ParserOptions {
        ParserOptions {
            experimental_functions: self.experimental_functions,
            duration_expressions: self.duration_expressions,
            extended_range_selectors: self.extended_range_selectors,
            fill_modifiers: self.fill_modifiers,
        }
    }
}

/// When to evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// At one moment.
    Instant(Timestamp),
    /// At `start`, `start + step_ms`, … up to `end`.
    Range {
        /// First evaluation time.
        start: Timestamp,
        /// No evaluation after this time.
        end: Timestamp,
        /// Distance of evaluation times, positive.
        step_ms: i64,
    },
}

/// A question to the engine.
#[derive(Debug, Clone)]
pub struct Query {
    /// The expression.
    pub text: String,
    /// When to evaluate it.
    pub times: Times,
    /// Lookback instead of the engine's.
    pub lookback_ms: Option<i64>,
    /// Bound of samples instead of the engine's; the smaller one holds.
    pub samples_max: Option<usize>,
    /// Whether samples are counted at each step, which takes longer.
    pub stats_by_step: bool,
}

/// What a query cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Samples that evaluation looked at; one that several steps look at counts for each of them.
    pub total_queryable_samples: u64,
    /// Samples that were read; one that several windows of a selector share counts once.
    pub samples_read: u64,
    /// Both at each step, if that was asked for.
    pub by_step: Vec<StepStats>,
    /// Most samples held at once.
    pub peak_samples: usize,
    /// Series that were selected.
    pub series: usize,
}

/// What a step of a query cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepStats {
    /// The step.
    pub at: Timestamp,
    /// As [`QueryStats::total_queryable_samples`].
    pub queryable_samples: u64,
    /// As [`QueryStats::samples_read`].
    pub samples_read: u64,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone)]
pub struct QueryResult {
    /// What the expression evaluates to.
    pub value: Value,
    /// What makes the value doubtful or incomplete.
    pub warnings: Vec<String>,
    /// What may be worth knowing about the value.
    pub infos: Vec<String>,
    /// What the query cost.
    pub stats: QueryStats,
}

/// Why a query has no answer. The texts are those of Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The expression is not PromQL, or its types do not fit.
    #[error("{0}")]
    Parse(String),
    /// The expression cannot be evaluated on this data.
    #[error("{0}")]
    Execution(String),
    /// More samples than a query may hold.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// More bytes of series and labels than a query may hold.
    #[error(
        "query processing would hold more than {0} bytes of series and labels in memory; select fewer series or make shorter labels"
    )]
    TooManyBytes(usize),
    /// All queries together hold more than they may; the query may be asked again.
    #[error("all queries of {name} together would hold more than {samples_max} samples in memory; try again later")]
    PoolExhausted {
        /// Who shares the bound.
        name: String,
        /// The bound.
        samples_max: usize,
    },
    /// Time was up; says during what.
    #[error("query timed out in {0}")]
    Timeout(String),
    /// Nobody waits for the answer any more; says during what.
    #[error("query was canceled in {0}")]
    Canceled(String),
    /// Samples could not be read.
    #[error("expanding series: {0}")]
    Select(#[from] SelectError),
    /// The engine is at fault.
    #[error("unexpected error: {0}")]
    Internal(String),
}

/// A bound on the samples that several queries hold together: those of a tenant, or all of a process.
#[derive(Debug)]
pub struct Pool {
    name: String,
    samples_max: usize,
    samples: AtomicUsize,
}

impl Pool {
    /// A pool of `samples_max` samples; `name` says in errors whose it is.
    pub fn new(name: impl Into<String>, samples_max: usize) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            samples_max,
            samples: AtomicUsize::new(0),
        })
    }

    /// Samples that are held now.
    pub fn samples(&self) -> usize {
        self.samples.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self, samples: usize) {
        self.samples.fetch_add(samples, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, samples: usize) {
        self.samples.fetch_sub(samples, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<(), QueryError> {
        if self.samples() > self.samples_max {
            return Err(QueryError::PoolExhausted {
                name: self.name.clone(),
                samples_max: self.samples_max,
            });
        }
        Ok(())
    }
}

/// Stops an evaluation from outside. Clones share their state; every long loop looks at it.
#[derive(Clone)]
pub struct Cancel {
    canceled: Arc<AtomicBool>,
    timed_out: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Cancel {
    /// A switch that also stops the evaluation as soon as `timed_out` says so.
    pub fn new(timed_out: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self {
            canceled: Arc::default(),
            timed_out: Arc::new(timed_out),
        }
    }

    /// A switch without a deadline.
    pub fn never() -> Self {
        Self::new(|| false)
    }

    /// Stops the evaluation soon.
    pub fn cancel(&self) {
        self.canceled.store(true, Ordering::Relaxed);
    }

    /// Fails when the evaluation should stop.
    pub fn check(&self) -> Result<(), QueryError> {
        if self.canceled.load(Ordering::Relaxed) {
            return Err(QueryError::Canceled("expression evaluation".into()));
        }
        if (self.timed_out)() {
            return Err(QueryError::Timeout("expression evaluation".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canceled_or_late_evaluation_says_which() {
        let cancel = Cancel::never();
        assert_eq!(cancel.check(), Ok(()));
        cancel.clone().cancel();
        assert_eq!(
            cancel.check().unwrap_err().to_string(),
            "query was canceled in expression evaluation"
        );
        let late = Cancel::new(|| true).check().unwrap_err();
        assert_eq!(late.to_string(), "query timed out in expression evaluation");
    }
}
