//! A source in the way that a request wants it read: whole or not at all, and with the series of HA pairs as one.

use crate::{replica::join_replicas, settings::Dedup};
use futures::future::BoxFuture;
use model::{
    matcher::Matcher,
    metadata::Metadata,
    select::{
        ExemplarSeries, Hints, LabelList, Listed, ReadySet, Select, SelectError, SelectRequest, Series, SeriesSet,
    },
    time::TimeRange,
};
use std::sync::Arc;

/// How a request wants its series read.
pub struct Reading {
    /// Whether the answer may lack what a failing source holds, with a warning; else it fails.
    pub partial: bool,
    /// Labels in which the series of HA pairs differ. None are looked for when it is empty.
    pub replica_labels: Arc<[String]>,
    /// How they become one.
    pub dedup: Dedup,
}

impl Reading {
    /// `inner` read in this way.
    pub fn of(&self, inner: Arc<dyn Select>) -> Arc<dyn Select> {
        if self.partial && self.replica_labels.is_empty() {
            return inner;
        }
        Arc::new(Read {
            inner,
            is_whole: !self.partial,
            replica_labels: self.replica_labels.clone(),
            dedup: self.dedup,
        })
    }
}

struct Read {
    inner: Arc<dyn Select>,
    is_whole: bool,
    replica_labels: Arc<[String]>,
    dedup: Dedup,
}

impl Read {
    async fn series(&self, request: SelectRequest) -> Result<Box<dyn SeriesSet>, SelectError> {
        if self.replica_labels.is_empty() {
            return self.checked_set(request).await;
        }
        let limit = request.limit;
        let hints = Hints {
            newest_only: false,
            ..request.hints
        };
        let mut range = request.range;
        if self.dedup == Dedup::Penalty {
            // What it chooses depends on where it begins, and Thanos begins where Prometheus does.
            range.min = range.min.saturating_sub(hints.lead_ms);
        }
        let (function, lead_ms) = (hints.function.clone(), hints.lead_ms);
        // A limit counts series as they come out, and sorting decides which replica speaks first.
        let request = SelectRequest {
            limit: 0,
            sorted: true,
            range,
            hints,
            ..request
        };
        let mut set = self.checked_set(request).await?;
        let mut all = Vec::new();
        while let Some(batch) = set.next().await {
            all.extend(batch?);
        }
        let mut series = join_replicas(all, &self.replica_labels, self.dedup, (&function, lead_ms));
        if limit > 0 {
            series.truncate(limit);
        }
        Ok(Box::new(ReadySet::remade(series, &*set)))
    }

    async fn checked_set(&self, request: SelectRequest) -> Result<Box<dyn SeriesSet>, SelectError> {
        let set = self.inner.select(request).await?;
        Ok(match self.is_whole {
            true => Box::new(WholeSet { set }),
            false => set,
        })
    }

    /// The list that `answer` gives; an error when it lacks something and must not.
    fn checked<'a, T: 'a>(
        &self,
        answer: BoxFuture<'a, Result<Listed<T>, SelectError>>,
    ) -> BoxFuture<'a, Result<Listed<T>, SelectError>> {
        if !self.is_whole {
            return answer;
        }
        Box::pin(async move {
            let list = answer.await?;
            match list.warnings.first() {
                Some(warning) => Err(SelectError::Unavailable(warning.clone())),
                None => Ok(list),
            }
        })
    }
}

impl Select for Read {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(self.series(request))
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        self.checked(self.inner.label_names(matchers, range, limit))
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        self.checked(self.inner.label_values(name, matchers, range, limit))
    }

    fn exemplars(
        &self,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'_, Result<Listed<ExemplarSeries>, SelectError>> {
        self.checked(self.inner.exemplars(selectors, range))
    }

    fn metadata(&self, family: Option<String>) -> BoxFuture<'_, Result<Listed<Metadata>, SelectError>> {
        self.checked(self.inner.metadata(family))
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
            let warning = self.set.warnings().into_iter().next();
            warning.map(|warning| Err(SelectError::Unavailable(warning)))
        })
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn blocks(&self) -> Vec<String> {
        self.set.blocks()
    }
}
