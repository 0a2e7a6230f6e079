//! Asks several sources at the same time and gives one answer.
//!
//! The node builds one over its head, its bucket and the other nodes. A source that fails or is too slow is never silent
//! (promise P7): the answer fails, or carries a warning that names the source. Sources that hold replicas of each other's samples
//! may be declared so; then as many of them may fail as a write quorum allows, and the answer is still complete.

mod lone;
mod unordered;

use crate::{
    merge::{MergedSet, OnFailure},
    metrics::SourceMetrics,
};
use futures::future::{BoxFuture, Either, join_all, select};
use lone::LoneSource;
use model::{
    env::Clock,
    label::Labels,
    matcher::Matcher,
    metadata::Metadata,
    sample::Exemplar,
    select::{ExemplarSeries, LabelList, Listed, Select, SelectError, SelectRequest, SelectTenants, Series, SeriesSet},
    tenant::Tenant,
    time::{TimeRange, Timestamp},
};
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

/// What to do when a source does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The question fails.
    #[default]
    Strict,
    /// The others answer, with a warning that names the source.
    Partial,
}

/// One source of a fan-out.
#[derive(Clone)]
pub struct Source {
    /// How warnings and metrics call it.
    pub name: Arc<str>,
    /// Where its series are.
    pub select: Arc<dyn SelectTenants>,
    /// Whether every sample of it is also on other sources of this kind, as on the ingesters of a ring.
    pub replicated: bool,
}

impl Source {
    /// A source that alone holds what it holds.
    pub fn sole(name: &str, select: Arc<dyn SelectTenants>) -> Self {
        Self {
            name: name.into(),
            select,
            replicated: false,
        }
    }

    /// A source whose samples are on others, too.
    pub fn replica(name: &str, select: Arc<dyn SelectTenants>) -> Self {
        Self {
            name: name.into(),
            select,
            replicated: true,
        }
    }
}

/// How many replicated sources may fail before an answer counts as incomplete: as many as a write quorum leaves out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spare {
    /// For samples that are written now.
    pub now: usize,
    /// For samples of earlier times than this, of which there are fewer copies.
    pub thin: Option<(Timestamp, usize)>,
}

impl Spare {
    /// For questions that go back to `oldest`.
    fn since(self, oldest: Timestamp) -> usize {
        match self.thin {
            Some((until, spare)) if oldest < until => spare.min(self.now),
            _ => self.now,
        }
    }
}

/// Several sources that look like one. Sources may be changed while questions are answered.
pub struct Fanout {
    groups: RwLock<Groups>,
    rules: Rules,
}

/// Sources by who looks after them, and all of them in one list.
#[derive(Default)]
struct Groups {
    by_name: BTreeMap<&'static str, Vec<Source>>,
    all: Arc<[Source]>,
}

impl Groups {
    fn set(&mut self, name: &'static str, sources: Vec<Source>) {
        self.by_name.insert(name, sources);
        self.all = self.by_name.values().flatten().cloned().collect();
    }
}

/// The group of the sources that a fan-out began with. Its name sorts before all others, so they are preferred.
const FIRST_GROUP: &str = "";

/// How to treat sources; the same for all questions.
#[derive(Clone, Default)]
struct Rules {
    policy: Policy,
    spare: Arc<RwLock<Spare>>,
    /// How long one call or one batch of a source may take.
    timeout: Option<(Arc<dyn Clock>, Duration)>,
    metrics: Option<SourceMetrics>,
}

impl Fanout {
    /// A strict fan-out over sources that each hold something of their own. Earlier sources are preferred at equal timestamps.
    pub fn new(sources: Vec<(String, Arc<dyn SelectTenants>)>) -> Self {
        let sources: Vec<Source> = sources
            .iter()
            .map(|(name, select)| Source::sole(name, select.clone()))
            .collect();
        let mut groups = Groups::default();
        groups.set(FIRST_GROUP, sources);
        Self {
            groups: RwLock::new(groups),
            rules: Rules::default(),
        }
    }

    /// The same with another policy.
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.rules.policy = policy;
        self
    }

    /// The same, with a bound on the time that one call or one batch of a source may take. A slow source counts as failed.
    pub fn with_timeout(mut self, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        self.rules.timeout = Some((clock, timeout));
        self
    }

    /// The same, counting failures in a metric; at most one fan-out of a process should.
    pub fn with_metrics(mut self, registry: &mut Registry) -> Self {
        self.rules.metrics = Some(SourceMetrics::new(registry));
        self
    }

    /// Replaces the sources; questions under way keep the old ones. `replicas_spare` says how many of the replicated sources may
    /// fail before the answer counts as incomplete.
    pub fn set_sources(&self, sources: Vec<Source>, replicas_spare: usize) {
        self.set_replicas_spare(Spare {
            now: replicas_spare,
            thin: None,
        });
        self.set_group(FIRST_GROUP, sources);
    }

    /// Replaces the sources of one group, such as the endpoints of a file, and leaves the others. Groups are asked in the order of
    /// their names.
    pub fn set_group(&self, group: &'static str, sources: Vec<Source>) {
        self.groups.write().set(group, sources);
    }

    /// Says how many replicated sources may fail before an answer counts as incomplete.
    pub fn set_replicas_spare(&self, spare: Spare) {
        *self.rules.spare.write() = spare;
    }

    /// The sources as they are now.
    pub fn sources(&self) -> Arc<[Source]> {
        self.groups.read().all.clone()
    }
}

impl SelectTenants for Fanout {
    fn tenant(&self, tenant: &Tenant) -> Arc<dyn Select> {
        let sources = self.sources();
        if let [lone] = &*sources {
            return Arc::new(LoneSource::new(lone, tenant, self.rules.clone()));
        }
        let selects = sources.iter().map(|source| source.select.tenant(tenant)).collect();
        Arc::new(TenantFanout {
            sources,
            selects,
            rules: self.rules.clone(),
        })
    }

    fn tenants(&self) -> Vec<Tenant> {
        let mut tenants: Vec<Tenant> = self
            .sources()
            .iter()
            .flat_map(|source| source.select.tenants())
            .collect();
        tenants.sort();
        tenants.dedup();
        tenants
    }
}

/// The sources of one tenant.
struct TenantFanout {
    sources: Arc<[Source]>,
    selects: Vec<Arc<dyn Select>>,
    rules: Rules,
}

impl TenantFanout {
    /// Asks every source at the same time; one that failed in a way that can be tolerated gives `None`.
    async fn ask_all<'a, T>(
        &'a self,
        failures: &mut Failures,
        ask: impl Fn(&'a dyn Select) -> BoxFuture<'a, Result<T, SelectError>>,
    ) -> Result<Vec<Option<T>>, SelectError> {
        let asked = self
            .selects
            .iter()
            .map(|select| within(self.rules.timeout.clone(), ask(&**select)));
        let mut answers = Vec::with_capacity(self.selects.len());
        for (index, answer) in join_all(asked).await.into_iter().enumerate() {
            answers.push(match answer {
                Ok(answer) => Some(answer),
                Err(error) => {
                    failures.failed(index, error)?;
                    None
                }
            });
        }
        Ok(answers)
    }

    /// None yet, of a question that goes back to `oldest`.
    fn failures(&self, oldest: Timestamp) -> Failures {
        Failures {
            sources: self.sources.clone(),
            rules: self.rules.clone(),
            oldest,
            failed: Vec::new(),
        }
    }
}

impl Select for TenantFanout {
    fn select(&self, mut request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(async move {
            let mut failures = self.failures(request.range.min);
            let replicated = self.sources.iter().skip(1).any(|source| source.replicated);
            if !request.sorted && !replicated && !self.selects.is_empty() {
                return self.select_unsorted(request, failures).await;
            }
            request.sorted = true;
            let sets = self
                .ask_all(&mut failures, |select| select.select(request.clone()))
                .await?;
            let timed = sets.into_iter().map(|set| set.map(|set| self.timed(set))).collect();
            Ok(Box::new(MergedSet::new(timed, request.limit, failures)) as Box<dyn SeriesSet>)
        })
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async move {
            let mut failures = self.failures(range.min);
            let lists = self
                .ask_all(&mut failures, |select| {
                    select.label_names(matchers.clone(), range, limit)
                })
                .await?;
            Ok(merge(lists, &failures, |items| merge_labels(items, limit)))
        })
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async move {
            let mut failures = self.failures(range.min);
            let lists = self
                .ask_all(&mut failures, |select| {
                    select.label_values(name.clone(), matchers.clone(), range, limit)
                })
                .await?;
            Ok(merge(lists, &failures, |items| merge_labels(items, limit)))
        })
    }

    fn exemplars(
        &self,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'_, Result<Listed<ExemplarSeries>, SelectError>> {
        Box::pin(async move {
            let mut failures = self.failures(range.min);
            let answers = self
                .ask_all(&mut failures, |select| select.exemplars(selectors.clone(), range))
                .await?;
            Ok(merge(answers, &failures, merge_exemplars))
        })
    }

    fn metadata(&self, family: Option<String>) -> BoxFuture<'_, Result<Listed<Metadata>, SelectError>> {
        Box::pin(async move {
            let mut failures = self.failures(Timestamp::MIN);
            let answers = self
                .ask_all(&mut failures, |select| select.metadata(family.clone()))
                .await?;
            Ok(merge(answers, &failures, merge_metadata))
        })
    }
}

impl TenantFanout {
    fn timed(&self, set: Box<dyn SeriesSet>) -> Box<dyn SeriesSet> {
        match &self.rules.timeout {
            Some(timeout) => Box::new(TimedSet {
                set,
                timeout: timeout.clone(),
            }),
            None => set,
        }
    }
}

/// An answer of which no batch may take too long.
struct TimedSet {
    set: Box<dyn SeriesSet>,
    timeout: (Arc<dyn Clock>, Duration),
}

impl SeriesSet for TimedSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        let timeout = Some(self.timeout.clone());
        let next = async move { self.set.next().await.transpose() };
        Box::pin(async move { within(timeout, Box::pin(next)).await.transpose() })
    }

    fn warnings(&self) -> Vec<String> {
        self.set.warnings()
    }

    fn blocks(&self) -> Vec<String> {
        self.set.blocks()
    }
}

/// Waits for `answer`, not longer than allowed.
pub(crate) async fn within<T>(
    timeout: Option<(Arc<dyn Clock>, Duration)>,
    answer: BoxFuture<'_, Result<T, SelectError>>,
) -> Result<T, SelectError> {
    let Some((clock, duration)) = timeout else {
        return answer.await;
    };
    match select(answer, pin!(clock.sleep(duration))).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => {
            let text = format!("no answer within {} s", duration.as_secs_f64());
            Err(SelectError::Unavailable(text))
        }
    }
}

/// The sources that failed during one question, and whether that can be borne.
struct Failures {
    sources: Arc<[Source]>,
    rules: Rules,
    /// How far back the question goes.
    oldest: Timestamp,
    /// Indices and errors, in the order of failing.
    failed: Vec<(usize, SelectError)>,
}

impl Failures {
    /// Whether more replicas failed than the write quorum makes up for.
    fn replicas_exhausted(&self) -> bool {
        let failed = self
            .failed
            .iter()
            .filter(|(index, _)| self.sources[*index].replicated)
            .count();
        failed > self.rules.spare.read().since(self.oldest)
    }
}

impl OnFailure for Failures {
    fn failed(&mut self, index: usize, error: SelectError) -> Result<(), SelectError> {
        let source = &self.sources[index];
        if let Some(metrics) = &self.rules.metrics {
            metrics.failed(&source.name);
        }
        // Asking for too much, or going away, is the asker's doing: other sources cannot make up for it.
        if matches!(error, SelectError::Limit(_) | SelectError::Canceled(_)) {
            return Err(named(&source.name, error));
        }
        tracing::debug!(source = &*source.name, %error, "source failed");
        let replicated = source.replicated;
        self.failed.push((index, error.clone()));
        let bearable = replicated && !self.replicas_exhausted();
        match self.rules.policy {
            Policy::Strict if !bearable => Err(named(&self.sources[index].name, error)),
            Policy::Strict | Policy::Partial => Ok(()),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let exhausted = self.replicas_exhausted();
        let missing = self
            .failed
            .iter()
            .filter(|(index, _)| exhausted || !self.sources[*index].replicated);
        missing
            .map(|(index, error)| {
                format!(
                    "the result may be incomplete: source {} failed: {error}",
                    self.sources[*index].name
                )
            })
            .collect()
    }
}

/// The error with the name of the source before it.
fn named(source: &str, error: SelectError) -> SelectError {
    let text = format!("source {source} failed: {error}");
    match error {
        SelectError::Limit(_) => SelectError::Limit(text),
        SelectError::Unavailable(_) => SelectError::Unavailable(text),
        SelectError::Corrupt(_) => SelectError::Corrupt(text),
        SelectError::Canceled(_) => SelectError::Canceled(text),
    }
}

/// One list of several; `fold` makes one of the items. What sources lack, and sources that are lacking, it says.
fn merge<T>(lists: Vec<Option<Listed<T>>>, failures: &Failures, fold: impl FnOnce(Vec<T>) -> Vec<T>) -> Listed<T> {
    let (mut items, mut warnings) = (Vec::new(), failures.warnings());
    for list in lists.into_iter().flatten() {
        items.extend(list.items);
        warnings.extend(list.warnings);
    }
    warnings.sort();
    warnings.dedup();
    Listed {
        items: fold(items),
        warnings,
    }
}

/// Names or values sorted, none twice, up to `limit` of them; 0 for all.
fn merge_labels(mut items: Vec<String>, limit: usize) -> Vec<String> {
    // Runs that are sorted already are found by the stable sort, so this is a merge.
    items.sort();
    items.dedup();
    if limit > 0 {
        items.truncate(limit);
    }
    items
}

/// Exemplars of equal labels together, ascending, none twice.
fn merge_exemplars(answers: Vec<ExemplarSeries>) -> Vec<ExemplarSeries> {
    let mut merged: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
    for series in answers {
        merged.entry(series.labels).or_default().extend(series.exemplars);
    }
    let finish = |(labels, mut exemplars): (Labels, Vec<Exemplar>)| {
        exemplars.sort_by(|a, b| (a.at, a.value.to_bits(), &a.labels).cmp(&(b.at, b.value.to_bits(), &b.labels)));
        exemplars.dedup_by(|a, b| a.at == b.at && a.value.to_bits() == b.value.to_bits() && a.labels == b.labels);
        ExemplarSeries { labels, exemplars }
    };
    merged.into_iter().map(finish).collect()
}

/// Metadata sorted by family, equal entries once.
fn merge_metadata(mut merged: Vec<Metadata>) -> Vec<Metadata> {
    merged.sort_by(|a, b| {
        (&a.family, a.kind.as_str(), &a.unit, &a.help).cmp(&(&b.family, b.kind.as_str(), &b.unit, &b.help))
    });
    merged.dedup();
    merged
}
