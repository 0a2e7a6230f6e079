//! Answers that are whole or none, for requests that ask for `partial_response=false`.

use futures::future::BoxFuture;
use model::{
    matcher::Matcher,
    metadata::Metadata,
    select::{ExemplarSeries, LabelList, Select, SelectError, SelectRequest, Series, SeriesSet},
    time::TimeRange,
};
use std::sync::Arc;

/// A select that gives nothing away half: an answer with warnings is an error.
pub(crate) struct Whole {
    inner: Arc<dyn Select>,
}

impl Whole {
    /// Wraps `inner`.
    pub(crate) fn new(inner: Arc<dyn Select>) -> Self {
        Self { inner }
    }
}

impl Select for Whole {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(async move {
            let set = self.inner.select(request).await?;
            Ok(Box::new(WholeSet { set }) as Box<dyn SeriesSet>)
        })
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async move { whole(self.inner.label_names(matchers, range, limit).await?) })
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async move { whole(self.inner.label_values(name, matchers, range, limit).await?) })
    }

    fn exemplars(
        &self,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'_, Result<Vec<ExemplarSeries>, SelectError>> {
        self.inner.exemplars(selectors, range)
    }

    fn metadata(&self, family: Option<String>) -> BoxFuture<'_, Result<Vec<Metadata>, SelectError>> {
        self.inner.metadata(family)
    }
}

fn whole(list: LabelList) -> Result<LabelList, SelectError> {
    match list.warnings.first() {
        Some(warning) => Err(SelectError::Unavailable(warning.clone())),
        None => Ok(list),
    }
}

/// An answer whose end is an error when it carries warnings.
struct WholeSet {
    set: Box<dyn SeriesSet>,
}

impl SeriesSet for WholeSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async move {
            if let Some(batch) = self.set.next().await {
                return Some(batch);
            }
            self.set
                .warnings()
                .into_iter()
                .next()
                .map(|warning| Err(SelectError::Unavailable(warning)))
        })
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}
