//! External labels: what a source adds to each of its series.
//!
//! [`WithExternalLabels`] wraps any [`Select`], such as the head; the gateway does the same for the blocks of a bucket. An external
//! label takes the place of a series' own label of that name, as in Thanos.

use crate::chunk::read_joined;
use futures::future::BoxFuture;
use model::{
    label::{Labels, LabelsBuilder},
    matcher::Matcher,
    metadata::Metadata,
    sample::SampleBuffer,
    select::{
        Chunk, ExemplarSeries, LabelList, Listed, ReadySet, Samples, Select, SelectError, SelectRequest, Series,
        SeriesSet,
    },
    time::TimeRange,
};
use std::sync::Arc;

/// The matchers that are left for the series' own labels; `None` when an external label refuses already.
pub fn rewrite_matchers(matchers: &[Matcher], external: &Labels) -> Option<Vec<Matcher>> {
    let mut own = Vec::with_capacity(matchers.len());
    for matcher in matchers {
        match external.get(&matcher.name) {
            Some(value) if matcher.matches(value) => {}
            Some(_) => return None,
            None => own.push(matcher.clone()),
        }
    }
    Some(own)
}

/// A series' labels with the external ones, which win.
pub fn with_external(labels: &Labels, external: &Labels) -> Labels {
    let mut builder = LabelsBuilder::default();
    let mut added = external.iter().peekable();
    for (name, value) in labels.iter() {
        while let Some((external_name, external_value)) = added.next_if(|(external_name, _)| *external_name < name) {
            builder.push(external_name, external_value);
        }
        match added.next_if(|(external_name, _)| *external_name == name) {
            Some((_, external_value)) => builder.push(name, external_value),
            None => builder.push(name, value),
        }
    }
    added.for_each(|(name, value)| builder.push(name, value));
    builder.build_sorted()
}

/// Another source whose series carry external labels as well.
pub struct WithExternalLabels {
    inner: Arc<dyn Select>,
    external: Labels,
}

impl WithExternalLabels {
    /// Adds `external` to every series of `inner`.
    pub fn new(inner: Arc<dyn Select>, external: Labels) -> Self {
        Self { inner, external }
    }

    async fn select_inner(&self, mut request: SelectRequest) -> Result<Box<dyn SeriesSet>, SelectError> {
        if self.external.is_empty() {
            return self.inner.select(request).await;
        }
        let Some(own) = rewrite_matchers(&request.matchers, &self.external) else {
            return Ok(Box::new(ReadySet::new(Vec::new(), Vec::new())));
        };
        request.matchers = own;
        // The order changes with the labels, and two series may become one, so all are gathered. Their samples stay where they are.
        // What becomes one is told by all labels, however few the question looks at.
        request.sorted = false;
        request.hints.labels = None;
        let mut set = self.inner.select(request).await?;
        let mut gathered = Vec::new();
        while let Some(batch) = set.next().await {
            let relabelled = batch?.into_iter().map(|series| {
                let labels = with_external(&series.labels, &self.external);
                Series {
                    labels,
                    samples: series.samples,
                }
            });
            gathered.extend(relabelled);
        }
        Ok(Box::new(ReadySet::remade(unite(gathered), &*set)))
    }

    async fn label_names_inner(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> Result<LabelList, SelectError> {
        let Some(own) = rewrite_matchers(&matchers, &self.external) else {
            return Ok(LabelList::default());
        };
        let mut list = self.inner.label_names(own, range, limit).await?;
        if !list.items.is_empty() {
            list.items.extend(self.external.iter().map(|(name, _)| name.to_owned()));
            list.items.sort_unstable();
            list.items.dedup();
            if limit > 0 {
                list.items.truncate(limit);
            }
        }
        Ok(list)
    }

    async fn label_values_inner(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> Result<LabelList, SelectError> {
        let Some(own) = rewrite_matchers(&matchers, &self.external) else {
            return Ok(LabelList::default());
        };
        let Some(value) = self.external.get(&name) else {
            return self.inner.label_values(name, own, range, limit).await;
        };
        // The value exists where a series does, and a series has names.
        let mut list = self.inner.label_names(own, range, 1).await?;
        if !list.items.is_empty() {
            list.items = vec![value.to_owned()];
        }
        Ok(list)
    }

    async fn exemplars_inner(
        &self,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> Result<Listed<ExemplarSeries>, SelectError> {
        let own: Vec<_> = selectors
            .iter()
            .filter_map(|matchers| rewrite_matchers(matchers, &self.external))
            .collect();
        if own.is_empty() {
            return Ok(Listed::default());
        }
        let mut found = self.inner.exemplars(own, range).await?;
        for series in &mut found.items {
            series.labels = with_external(&series.labels, &self.external);
        }
        Ok(found)
    }
}

impl Select for WithExternalLabels {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(self.select_inner(request))
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(self.label_names_inner(matchers, range, limit))
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(self.label_values_inner(name, matchers, range, limit))
    }

    fn exemplars(
        &self,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'_, Result<Listed<ExemplarSeries>, SelectError>> {
        Box::pin(self.exemplars_inner(selectors, range))
    }

    fn metadata(&self, family: Option<String>) -> BoxFuture<'_, Result<Listed<Metadata>, SelectError>> {
        self.inner.metadata(family)
    }
}

/// Sorts series by labels and makes those with the same labels one.
fn unite(mut series: Vec<Series>) -> Vec<Series> {
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    let mut united: Vec<Series> = Vec::with_capacity(series.len());
    let mut series = series.into_iter().peekable();
    while let Some(Series { labels, samples }) = series.next() {
        let mut parts = vec![samples];
        while let Some(same) = series.next_if(|next| next.labels == labels) {
            parts.push(same.samples);
        }
        let samples = match <[Box<dyn Samples>; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => Box::new(United(parts)),
        };
        united.push(Series { labels, samples });
    }
    united
}

/// The samples of series that have become one; of samples with the same timestamp the first is kept.
struct United(Vec<Box<dyn Samples>>);

impl Samples for United {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        read_joined(&self.0, range, buffer)
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        let mut chunks = Vec::new();
        for samples in &self.0 {
            chunks.extend(samples.chunks()?);
        }
        chunks.sort_by_key(|chunk| chunk.min_time);
        Ok(chunks)
    }

    fn held_bytes(&self) -> usize {
        self.0.iter().map(|part| part.held_bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkSamples, encode_floats};
    use futures::executor::block_on;
    use model::matcher::MatchOp;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::new(pairs.iter().copied()).unwrap()
    }

    /// A source of fixed series with one sample each, which shows no more labels than it must.
    struct Fixed(Vec<(Labels, i64)>);

    impl Fixed {
        fn matching(&self, matchers: &[Matcher]) -> Vec<&(Labels, i64)> {
            let fits = |labels: &Labels| matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or("")));
            self.0.iter().filter(|(labels, _)| fits(labels)).collect()
        }
    }

    impl Select for Fixed {
        fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
            let shown = request.hints.labels.filter(|_| !request.sorted);
            let is_shown = |name: &str| {
                shown
                    .as_ref()
                    .is_none_or(|names| names.iter().any(|shown| shown == name))
            };
            let series = self.matching(&request.matchers).into_iter().map(|(labels, at)| {
                let chunks = vec![encode_floats(&[*at], &[*at as f64])];
                Series {
                    labels: Labels::new(labels.iter().filter(|(name, _)| is_shown(name))).unwrap(),
                    samples: Box::new(ChunkSamples::new(chunks, "test".into())),
                }
            });
            let set: Box<dyn SeriesSet> = Box::new(ReadySet::new(series.collect(), vec!["warned".into()]));
            Box::pin(async { Ok(set) })
        }

        fn label_names(
            &self,
            matchers: Vec<Matcher>,
            _: TimeRange,
            _: usize,
        ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
            let names = self
                .matching(&matchers)
                .into_iter()
                .flat_map(|(labels, _)| labels.iter().map(|(n, _)| n.into()));
            let mut items: Vec<String> = names.collect();
            items.sort();
            items.dedup();
            Box::pin(async {
                Ok(LabelList {
                    items,
                    warnings: vec![],
                })
            })
        }

        fn label_values(
            &self,
            name: String,
            matchers: Vec<Matcher>,
            _: TimeRange,
            _: usize,
        ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
            let values = self
                .matching(&matchers)
                .into_iter()
                .filter_map(|(labels, _)| labels.get(&name).map(str::to_owned));
            let items = values.collect();
            Box::pin(async {
                Ok(LabelList {
                    items,
                    warnings: vec![],
                })
            })
        }
    }

    fn wrapped() -> WithExternalLabels {
        let inner = Fixed(vec![
            (labels(&[("a", "1")]), 10),
            (labels(&[("a", "1"), ("b", "1")]), 20),
            (labels(&[("a", "1"), ("c", "own")]), 30),
        ]);
        WithExternalLabels::new(Arc::new(inner), labels(&[("c", "x"), ("zone", "z")]))
    }

    #[test]
    fn series_are_sorted_by_their_new_labels_and_colliding_ones_united() {
        let select = wrapped();
        let mut set = block_on(select.select(SelectRequest::new(vec![], TimeRange::ALL))).unwrap();
        let series = block_on(set.next()).unwrap().unwrap();
        assert_eq!(set.warnings(), ["warned"]);
        let shown: Vec<String> = series.iter().map(|series| series.labels.to_string()).collect();
        assert_eq!(
            shown,
            [r#"{a="1", b="1", c="x", zone="z"}"#, r#"{a="1", c="x", zone="z"}"#]
        );
        let mut buffer = SampleBuffer::default();
        series[1].samples.read(TimeRange::ALL, &mut buffer).unwrap();
        assert_eq!(buffer.timestamps, [10, 30]);
        assert_eq!(series[1].samples.chunks().unwrap().len(), 2);
    }

    #[test]
    fn series_stay_apart_when_a_question_looks_at_few_of_their_labels() {
        let mut request = SelectRequest::new(vec![], TimeRange::ALL);
        (request.sorted, request.hints.labels) = (false, Some([].into()));
        let mut set = block_on(wrapped().select(request)).unwrap();
        assert_eq!(block_on(set.next()).unwrap().unwrap().len(), 2);
    }

    #[test]
    fn matchers_on_external_labels_are_answered_here() {
        let select = wrapped();
        let count = |matcher: Matcher| {
            let mut set = block_on(select.select(SelectRequest::new(vec![matcher], TimeRange::ALL))).unwrap();
            block_on(set.next()).map_or(0, |batch| batch.unwrap().len())
        };
        assert_eq!(count(Matcher::equal("c", "x")), 2);
        assert_eq!(count(Matcher::equal("c", "own")), 0);
        assert_eq!(count(Matcher::new(MatchOp::NotRegex, "zone", "y.*").unwrap()), 2);
        assert_eq!(count(Matcher::equal("b", "1")), 1);
        let values = |name: &str, matcher| block_on(select.label_values(name.into(), vec![matcher], TimeRange::ALL, 0));
        assert_eq!(values("zone", Matcher::equal("b", "1")).unwrap().items, ["z"]);
        assert!(values("zone", Matcher::equal("b", "2")).unwrap().items.is_empty());
        assert_eq!(values("b", Matcher::equal("zone", "z")).unwrap().items, ["1"]);
        let names = block_on(select.label_names(vec![Matcher::equal("b", "1")], TimeRange::ALL, 0)).unwrap();
        assert_eq!(names.items, ["a", "b", "c", "zone"]);
    }

    proptest! {
        #[test]
        fn merging_labels_is_the_union_where_external_ones_win(
            own in proptest::collection::btree_map("[a-e]", "[0-9]", 0..5),
            external in proptest::collection::btree_map("[a-e]", "[x-z]", 0..5),
        ) {
            let mut expected = own.clone();
            expected.extend(external.clone());
            let merged = with_external(&Labels::new(own).unwrap(), &Labels::new(external).unwrap());
            prop_assert_eq!(merged, Labels::new(expected).unwrap());
        }
    }
}
