//! Runs PromQL: one query at a time through the gate, the engine and the clock.
//!
//! Reading samples happens on the asynchronous threads, computing on those for blocking work. Whoever stops waiting (a client that
//! leaves, a deadline) cancels the computation; its place behind the gate is free only when it has really ended.

use crate::gate::{Full, Gate};
use futures::future::{Either, select};
use hashbrown::HashMap;
use model::{env::Env, select::Select, tenant::Tenant};
use parking_lot::Mutex;
use promql::engine::{Cancel, Engine, Pool, Query, QueryError, QueryResult};
use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::oneshot;

/// After its deadline an evaluation has this long to notice it, before the client is answered without it.
const NOTICE: Duration = Duration::from_secs(1);

/// Evaluates queries within bounds.
pub(crate) struct Evaluator {
    env: Env,
    engine: Engine,
    gate: Gate,
    pools: Pools,
}

/// What all queries, and those of one tenant, may hold together.
struct Pools {
    all: Arc<Pool>,
    tenant_samples_max: usize,
    /// Pools of the tenants that have a query running.
    tenants: Mutex<HashMap<Tenant, Weak<Pool>>>,
}

impl Pools {
    /// Room for `samples_max` samples, but at least for those of the largest query.
    fn new(samples_max: usize, query_samples_max: usize) -> Self {
        Self {
            all: Pool::new("this process", samples_max.max(query_samples_max)),
            // So that no tenant takes the room of all others.
            tenant_samples_max: (samples_max / 2).max(query_samples_max),
            tenants: Mutex::default(),
        }
    }

    fn of(&self, tenant: &Tenant) -> Arc<Pool> {
        let mut tenants = self.tenants.lock();
        if let Some(pool) = tenants.get(tenant).and_then(Weak::upgrade) {
            return pool;
        }
        tenants.retain(|_, pool| pool.strong_count() > 0);
        let pool = Pool::new(format!("tenant {}", tenant.as_str()), self.tenant_samples_max);
        tenants.insert(tenant.clone(), Arc::downgrade(&pool));
        pool
    }
}

/// An answer and where the time went.
pub(crate) struct Evaluated {
    pub(crate) result: QueryResult,
    pub(crate) spent: Spent,
}

/// Where the time of a query went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// Waiting for a turn.
    pub(crate) queued: Duration,
    /// Parsing and reading.
    pub(crate) prepared: Duration,
    /// Computing.
    pub(crate) evaluated: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EvaluateError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Full(#[from] Full),
}

impl Evaluator {
    /// An evaluator whose queries hold `samples_max` samples together at most.
    pub(crate) fn new(env: Env, engine: Engine, gate: Gate, samples_max: usize) -> Self {
        let pools = Pools::new(samples_max, engine.options().samples_max);
        Self {
            env,
            engine,
            gate,
            pools,
        }
    }

    /// Evaluates `query` over what `source` gives, all within `timeout`.
    pub(crate) async fn run(
        &self,
        tenant: &Tenant,
        source: &dyn Select,
        query: Query,
        timeout: Duration,
    ) -> Result<Evaluated, EvaluateError> {
        let started = self.env.clock.monotonic();
        let deadline = started + timeout;
        // Before the queue, so that a typo is told at once.
        let prepared = self.engine.prepare(&query)?;
        let prepared = prepared.within(self.pools.all.clone()).within(self.pools.of(tenant));
        let parsed = self.env.clock.monotonic();
        let permit = self
            .until(deadline, self.gate.enter(tenant))
            .await
            .ok_or_else(|| timed_out("query queue"))??;
        let entered = self.env.clock.monotonic();
        let loaded = self.until(deadline, prepared.load(source)).await;
        let loaded = loaded.ok_or_else(|| timed_out("expression evaluation"))??;
        let loaded_at = self.env.clock.monotonic();

        let clock = self.env.clock.clone();
        let cancel = Cancel::new(move || clock.monotonic() >= deadline);
        let _stop_when_dropped = CancelOnDrop(cancel.clone());
        let (sender, receiver) = oneshot::channel();
        let work = self.env.spawn.blocking(
            "query",
            Box::new(move || {
                let result = loaded.evaluate(&cancel);
                drop(permit);
                // Nobody may be waiting any more; then the result is for nobody.
                let _ = sender.send(result);
            }),
        );
        let outcome = self.until(deadline + NOTICE, async {
            work.await;
            receiver.await
        });
        let result = match outcome.await {
            Some(Ok(result)) => result?,
            Some(Err(_)) => return Err(QueryError::Internal("the evaluation panicked".into()).into()),
            None => return Err(timed_out("expression evaluation").into()),
        };
        let spent = Spent {
            queued: entered.saturating_sub(parsed),
            prepared: parsed.saturating_sub(started) + loaded_at.saturating_sub(entered),
            evaluated: self.env.clock.monotonic().saturating_sub(loaded_at),
        };
        Ok(Evaluated { result, spent })
    }

    /// The output of `work`, or `None` when it is not there at `deadline`.
    async fn until<T>(&self, deadline: Duration, work: impl Future<Output = T> + Send) -> Option<T> {
        let left = deadline.saturating_sub(self.env.clock.monotonic());
        match select(pin!(work), self.env.clock.sleep(left)).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }
}

fn timed_out(phase: &str) -> QueryError {
    QueryError::Timeout(phase.to_owned())
}

/// Cancels the evaluation when the one who waits for it goes.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
