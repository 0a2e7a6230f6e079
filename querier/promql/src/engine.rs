//! The engine: from a query's text to its value.
//!
//! Three steps, so that callers decide where each runs: [`Engine::prepare`] makes a plan of a [`Query`], [`Prepared::load`] does all
//! input and output, [`Loaded::evaluate`] computes, which takes processor time only and belongs on a thread that may be busy.

pub use crate::query::{Cancel, EngineOptions, Pool, Query, QueryError, QueryResult, QueryStats, StepStats, Times};

use crate::{
    annotation::Annotations,
    ast::{Expr, ValueType},
    operator::{
        self, Evaluator, Selected, Settings, Shared,
        budget::{Budget, Charge},
        counts::Counts,
    },
    parse::parse,
    plan::{Grid, Plan, PlanOptions, Selection},
};
use futures::future::try_join_all;
use model::select::{Hints, Select, SelectRequest, Series};
use std::sync::Arc;

/// Evaluates queries.
#[derive(Debug, Clone, Default)]
pub struct Engine {
    options: EngineOptions,
}

/// A query with its plan.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    text: String,
    instant: bool,
    stats_by_step: bool,
    samples_max: usize,
    bytes_max: usize,
    pools: Vec<Arc<Pool>>,
    settings: Settings,
}

/// A query with all that must be read for it.
pub struct Loaded {
    prepared: Prepared,
    budget: Arc<Budget>,
    selected: Vec<Selected>,
    /// What the selected series take of the budget.
    charge: Charge,
    /// What makes the selections incomplete.
    warnings: Vec<String>,
}

impl Engine {
    /// An engine with these options.
    pub fn new(options: EngineOptions) -> Self {
        Self { options }
    }

    /// How the engine was set up.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Reads an expression as this engine understands the language.
    pub fn parse(&self, text: &str) -> Result<Expr, QueryError> {
        parse(text, self.options.parser_options()).map_err(|error| QueryError::Parse(error.to_string()))
    }

    /// Parses, checks and plans a query.
    pub fn prepare(&self, query: &Query) -> Result<Prepared, QueryError> {
        let expr = self.parse(&query.text)?;
        let (grid, step_ms, end) = match query.times {
            Times::Instant(at) => (Grid::instant(at), 0, at),
            Times::Range { step_ms, .. } if step_ms <= 0 => {
                let text = "zero or negative query resolution step widths are not accepted. Try a positive integer";
                return Err(QueryError::Parse(text.into()));
            }
            Times::Range { start, end, step_ms } => (Grid::range(start, end, step_ms), step_ms, end),
        };
        let value_type = expr.value_type();
        let instant = step_ms == 0;
        if !instant && matches!(value_type, ValueType::Matrix | ValueType::String) {
            let text =
                format!("invalid expression type \"{value_type}\" for range query, must be Scalar or instant Vector");
            return Err(QueryError::Parse(text));
        }
        let lookback_ms = query.lookback_ms.unwrap_or(self.options.lookback_ms).max(1);
        let options = PlanOptions {
            lookback_ms,
            subquery_step_ms: self.options.subquery_step_ms.max(1),
            step_ms,
            end,
            delayed_name_removal: self.options.delayed_name_removal,
        };
        Ok(Prepared {
            plan: Plan::new(&expr, grid, options)?,
            text: query.text.clone(),
            instant,
            stats_by_step: query.stats_by_step,
            samples_max: query.samples_max.unwrap_or(usize::MAX).min(self.options.samples_max),
            bytes_max: self.options.bytes_max,
            pools: Vec::new(),
            settings: Settings {
                lookback_ms,
                delayed_name_removal: self.options.delayed_name_removal,
                use_start_timestamps: self.options.use_start_timestamps,
                type_and_unit_labels: self.options.type_and_unit_labels,
            },
        })
    }
}

impl Prepared {
    /// Counts what the query holds in `pool` as well.
    pub fn within(mut self, pool: Arc<Pool>) -> Self {
        self.pools.push(pool);
        self
    }

    /// Selects all series that the query needs, all selections at once. They are charged as they come, so that a selector of everything
    /// fails before everything is there.
    pub async fn load(self, source: &dyn Select) -> Result<Loaded, QueryError> {
        let budget = Budget::new(self.samples_max, self.bytes_max, self.pools.clone());
        let loads = self
            .plan
            .selections
            .iter()
            .map(|selection| load_checked(source, selection, &budget));
        let loaded = try_join_all(loads).await?;
        let (mut selected, mut warnings, mut charge) = (Vec::new(), Vec::new(), budget.nothing());
        for (series, mut more, part) in loaded {
            selected.push(series);
            warnings.append(&mut more);
            charge.join(part);
        }
        warnings.sort_unstable();
        warnings.dedup();
        Ok(Loaded {
            prepared: self,
            budget,
            selected,
            charge,
            warnings,
        })
    }
}

/// A query of more steps is not told what each of them cost.
const STEPS_COUNTED_MAX: usize = 100_000;

/// What a selected series takes besides its labels and the chunks that it holds: the handle and what it points to.
const SERIES_BYTES: usize = 160;

/// What a selection gave, what makes it incomplete, and what it takes of the budget.
type LoadedSelection = (Selected, Vec<String>, Charge);

/// Loads a selection; once more with all labels when those that were thought to be enough are not.
async fn load_checked(
    source: &dyn Select,
    selection: &Selection,
    budget: &Arc<Budget>,
) -> Result<LoadedSelection, QueryError> {
    let loaded = load(source, selection, selection.hints.clone(), budget).await?;
    if !selection.one_metric || operator::is_one_metric(&loaded.0.series) {
        return Ok(loaded);
    }
    drop(loaded);
    let hints = Hints {
        labels: None,
        ..selection.hints.clone()
    };
    load(source, selection, hints, budget).await
}

async fn load(
    source: &dyn Select,
    selection: &Selection,
    hints: Hints,
    budget: &Arc<Budget>,
) -> Result<LoadedSelection, QueryError> {
    let request = SelectRequest {
        // The order in which the source has them is good enough; an order by labels costs a sort.
        sorted: false,
        hints,
        account: Some(budget.clone()),
        ..SelectRequest::new(selection.matchers.clone(), selection.range)
    };
    let mut set = source.select(request).await?;
    let (mut series, mut charge) = (Vec::new(), budget.nothing());
    while let Some(batch) = set.next().await {
        let mut batch = batch?;
        let bytes = |one: &Series| SERIES_BYTES + one.labels.text_len() + one.samples.held_bytes();
        charge.grow_bytes(batch.iter().map(bytes).sum())?;
        series.append(&mut batch);
    }
    let selected = Selected {
        series,
        range: selection.range,
        stats_only: selection.stats_only,
    };
    Ok((selected, set.warnings(), charge))
}

impl Loaded {
    /// Computes the value of the query.
    pub fn evaluate(self, cancel: &Cancel) -> Result<QueryResult, QueryError> {
        let Prepared {
            plan,
            text,
            instant,
            settings,
            stats_by_step,
            ..
        } = self.prepared;
        let budget = self.budget;
        let shared = Shared {
            settings,
            selected: &self.selected,
            cancel,
            budget: budget.clone(),
            counts: Counts::new(if stats_by_step && plan.grid.count <= STEPS_COUNTED_MAX {
                plan.grid.count
            } else {
                0
            }),
        };
        let mut evaluator = Evaluator {
            shared,
            notes: Annotations::default(),
        };
        let value = operator::value(&mut evaluator, &plan, instant)?;
        drop(self.charge);
        let (notes, infos) = evaluator.notes.into_texts(&text);
        let counts = &evaluator.shared.counts;
        let step = |(index, [queryable_samples, samples_read]): (usize, [u64; 2])| StepStats {
            at: plan.grid.at(index),
            queryable_samples,
            samples_read,
        };
        let by_step = counts.steps().enumerate().map(step);
        let stats = QueryStats {
            total_queryable_samples: counts.queryable(),
            samples_read: counts.read(),
            by_step: by_step.collect(),
            peak_samples: budget.peak(),
            series: self.selected.iter().map(|selected| selected.series.len()).sum(),
        };
        Ok(QueryResult {
            value,
            warnings: [self.warnings, notes].concat(),
            infos,
            stats,
        })
    }
}
