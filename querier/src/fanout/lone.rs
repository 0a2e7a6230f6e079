//! A fan-out over a single source, such as a querier with one endpoint.
//!
//! There is nothing to merge, so answers pass through as they are. What fails is an error under every policy, since no other source
//! answers; like the failures of several it counts, is bounded in time and says whose it is.

use super::{Rules, Source, within};
use futures::future::BoxFuture;
use model::{
    matcher::Matcher,
    metadata::Metadata,
    select::{
        ExemplarSeries, IdentifiedBatch, IdentifiedSet, LabelList, Listed, Select, SelectError, SelectRequest, Series,
        SeriesSet,
    },
    tenant::Tenant,
    time::TimeRange,
};
use std::sync::Arc;

/// The one source, for one tenant.
pub(super) struct LoneSource {
    select: Arc<dyn Select>,
    blame: Blame,
}

impl LoneSource {
    pub(super) fn new(source: &Source, tenant: &Tenant, rules: Rules) -> Self {
        Self {
            select: source.select.tenant(tenant),
            blame: Blame {
                name: source.name.clone(),
                rules,
            },
        }
    }
}

/// Knows whose failures it sees.
#[derive(Clone)]
struct Blame {
    name: Arc<str>,
    rules: Rules,
}

impl Blame {
    /// Waits for an answer, not longer than a source may take; names the source when there is none.
    async fn on<T>(&self, answer: BoxFuture<'_, Result<T, SelectError>>) -> Result<T, SelectError> {
        let answer = within(self.rules.timeout.clone(), answer).await;
        answer.map_err(|error| {
            if let Some(metrics) = &self.rules.metrics {
                metrics.failed(&self.name);
            }
            super::named(&self.name, error)
        })
    }
}

impl Select for LoneSource {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(async move {
            let set = self.blame.on(self.select.select(request)).await?;
            let blame = self.blame.clone();
            Ok(Box::new(Blamed { set, blame }) as Box<dyn SeriesSet>)
        })
    }

    fn select_identified(
        &self,
        request: &SelectRequest,
        key: u64,
    ) -> Option<BoxFuture<'_, Result<Box<dyn IdentifiedSet>, SelectError>>> {
        let set = self.select.select_identified(request, key)?;
        Some(Box::pin(async move {
            let set = self.blame.on(set).await?;
            let blame = self.blame.clone();
            Ok(Box::new(Blamed { set, blame }) as Box<dyn IdentifiedSet>)
        }))
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(self.blame.on(self.select.label_names(matchers, range, limit)))
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(self.blame.on(self.select.label_values(name, matchers, range, limit)))
    }

    fn exemplars(
        &self,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'_, Result<Listed<ExemplarSeries>, SelectError>> {
        Box::pin(self.blame.on(self.select.exemplars(selectors, range)))
    }

    fn metadata(&self, family: Option<String>) -> BoxFuture<'_, Result<Listed<Metadata>, SelectError>> {
        Box::pin(self.blame.on(self.select.metadata(family)))
    }
}

/// An answer whose failures say whose they are.
struct Blamed<S> {
    set: S,
    blame: Blame,
}

impl SeriesSet for Blamed<Box<dyn SeriesSet>> {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        let Self { set, blame } = self;
        let next = async move { set.next().await.transpose() };
        Box::pin(async move { blame.on(Box::pin(next)).await.transpose() })
    }

    fn warnings(&self) -> Vec<String> {
        self.set.warnings()
    }

    fn blocks(&self) -> Vec<String> {
        self.set.blocks()
    }
}

impl IdentifiedSet for Blamed<Box<dyn IdentifiedSet>> {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<IdentifiedBatch, SelectError>>> {
        let Self { set, blame } = self;
        let next = async move { set.next().await.transpose() };
        Box::pin(async move { blame.on(Box::pin(next)).await.transpose() })
    }

    fn series_max(&self) -> usize {
        self.set.series_max()
    }

    fn warnings(&self) -> Vec<String> {
        self.set.warnings()
    }

    fn blocks(&self) -> Vec<String> {
        self.set.blocks()
    }
}
