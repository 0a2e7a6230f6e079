//! The querier: what can be asked, within which bounds.

use crate::{
    evaluate::Evaluator,
    gate::{Bounds, Full, Gate, Permit},
    metrics::Metrics,
    reading::Reading,
    settings::QuerierSettings,
    status::StatusProvider,
};
use futures::future::{Either, select};
use model::{
    env::Env,
    matcher::{MatchOp, Matcher},
    select::{Select, SelectTenants},
    tenant::Tenant,
};
use prometheus_client::registry::Registry;
use promql::{
    ast::ParserOptions,
    engine::{Engine, EngineOptions},
};
use std::{future::Future, pin::pin, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Answers questions about the samples behind a [`SelectTenants`].
pub struct Querier {
    pub(crate) env: Env,
    pub(crate) settings: QuerierSettings,
    pub(crate) status: Arc<dyn StatusProvider>,
    pub(crate) metrics: Metrics,
    /// Which parts of PromQL are spoken.
    pub(crate) parser: ParserOptions,
    /// Runs PromQL.
    pub(crate) evaluator: Evaluator,
    /// Whose pages may read answers.
    pub(crate) origins: Option<Origins>,
    select: Arc<dyn SelectTenants>,
    lookups: Gate,
    reads: Gate,
}

/// Origins that may read answers in a browser.
pub(crate) struct Origins {
    /// Whether that is every origin.
    pub(crate) any: bool,
    /// The expression for those that may.
    pub(crate) matcher: Matcher,
}

impl Origins {
    /// An expression that does not compile lets nobody in: the careful reading of a mistake.
    fn new(pattern: &str) -> Option<Self> {
        match Matcher::new(MatchOp::Regex, "origin", pattern) {
            Ok(matcher) => Some(Self {
                any: pattern == ".*",
                matcher,
            }),
            Err(error) => {
                tracing::warn!(pattern, %error, "the CORS origin is no regular expression; no page may read answers");
                None
            }
        }
    }
}

/// Why something was not done in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Late {
    #[error("{0}")]
    Full(#[from] Full),
    #[error("query timed out in query queue")]
    InQueue,
    #[error("query timed out in query execution")]
    InExecution,
}

impl Querier {
    /// A querier over `select`, with metrics in `registry`.
    pub fn new(
        env: Env,
        settings: QuerierSettings,
        select: Arc<dyn SelectTenants>,
        status: Arc<dyn StatusProvider>,
        registry: &mut Registry,
    ) -> Arc<Self> {
        let metrics = Metrics::new(registry);
        let gate = |kind, running| {
            let bounds = Bounds {
                running,
                tenant_running: settings.tenant_requests_max,
                waiting: settings.queue_max,
            };
            Gate::new(kind, bounds, &metrics)
        };
        let lookups = gate("lookup", settings.lookups_max);
        let queries = gate("query", settings.queries_max);
        let reads = gate("read", settings.remote_reads_max);
        let engine = Engine::new(engine_options(&settings));
        let evaluator = Evaluator::new(env.clone(), engine, queries, settings.samples_together_max);
        let origins = settings.cors_origin.as_deref().and_then(Origins::new);
        let parser = engine_options(&settings).parser_options();
        Arc::new(Self {
            env,
            settings,
            status,
            metrics,
            parser,
            evaluator,
            origins,
            select,
            lookups,
            reads,
        })
    }

    /// What a tenant may read, in the way that its request wants.
    pub(crate) fn select_of(&self, tenant: &Tenant, reading: &Reading) -> Arc<dyn Select> {
        reading.of(self.select.tenant(tenant))
    }

    /// Runs a request for names, series or the like: when its turn comes, and not for longer than allowed.
    pub(crate) async fn lookup<T>(&self, tenant: &Tenant, work: impl Future<Output = T> + Send) -> Result<T, Late> {
        let started = self.env.clock.monotonic();
        let permit = self
            .within(self.settings.timeout, self.lookups.enter(tenant))
            .await
            .ok_or(Late::InQueue)??;
        let waited = self.env.clock.monotonic().saturating_sub(started);
        let done = self.within(self.settings.timeout.saturating_sub(waited), work).await;
        drop(permit);
        done.ok_or(Late::InExecution)
    }

    /// Waits for the turn of a lookup that goes on while its answer is sent.
    pub(crate) async fn enter_lookup(&self, tenant: &Tenant) -> Result<Permit, Late> {
        let turn = self.within(self.settings.timeout, self.lookups.enter(tenant)).await;
        Ok(turn.ok_or(Late::InQueue)??)
    }

    /// Waits for the turn of a remote read, which lasts as long as the permit lives.
    pub(crate) async fn enter_read(&self, tenant: &Tenant) -> Result<Permit, Late> {
        let turn = self.within(self.settings.timeout, self.reads.enter(tenant)).await;
        Ok(turn.ok_or(Late::InQueue)??)
    }

    /// The output of `work`, which computes for longer than a thread that serves others may; `None` when it panicked.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        // Nobody may be waiting any more; then the output is for nobody.
        let work = Box::new(move || drop(sender.send(work())));
        self.env.spawn.blocking(name, work).await;
        receiver.await.ok()
    }

    /// The output of `work`, or `None` when it takes longer than `duration`.
    pub(crate) async fn within<T>(&self, duration: Duration, work: impl Future<Output = T> + Send) -> Option<T> {
        match select(pin!(work), self.env.clock.sleep(duration)).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }
}

fn engine_options(settings: &QuerierSettings) -> EngineOptions {
    EngineOptions {
        lookback_ms: settings.lookback.as_millis() as i64,
        samples_max: settings.samples_max,
        subquery_step_ms: settings.subquery_step.as_millis() as i64,
        experimental_functions: settings.experimental_functions,
        delayed_name_removal: settings.delayed_name_removal,
        extended_range_selectors: settings.extended_range_selectors,
        fill_modifiers: settings.fill_modifiers,
        use_start_timestamps: settings.use_start_timestamps,
        type_and_unit_labels: settings.type_and_unit_labels,
        ..EngineOptions::default()
    }
}
