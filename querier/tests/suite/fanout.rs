//! Several sources that look like one: exact unions, and failures that are never silent.

use crate::common::{Held, Memory, TestClock, collect, ready};
use model::{
    histogram::Histogram,
    label::Labels,
    matcher::Matcher,
    metadata::MetricType,
    sample::{HistogramSample, STALE_NAN, SampleBuffer, is_stale},
    select::{Samples, Select, SelectError, SelectRequest, SelectTenants},
    tenant::Tenant,
    time::{TimeRange, Timestamp},
};
use proptest::prelude::*;
use querier::{
    Fanout, Policy, Source, Spare,
    merge::{FailAlways, MergedSet},
    union::UnionSamples,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A sample by its bits, so that NaN equals itself: value and start of a float, sum of a histogram.
#[derive(Debug, Clone, PartialEq)]
enum Bits {
    Float(u64, Timestamp),
    Histogram(u64),
}

impl Bits {
    fn is_stale(&self) -> bool {
        match self {
            Bits::Float(bits, _) => is_stale(f64::from_bits(*bits)),
            Bits::Histogram(sum) => is_stale(f64::from_bits(*sum)),
        }
    }
}

fn bits_of(buffer: &SampleBuffer) -> Vec<(Timestamp, Bits)> {
    assert_eq!(buffer.timestamps.len(), buffer.values.len());
    assert!(buffer.starts.is_empty() || buffer.starts.len() == buffer.timestamps.len());
    let start = |index: usize| buffer.starts.get(index).copied().unwrap_or(0);
    let floats = buffer.timestamps.iter().enumerate();
    let mut all: Vec<_> = floats
        .map(|(index, at)| (*at, Bits::Float(buffer.values[index].to_bits(), start(index))))
        .collect();
    assert!(all.is_sorted_by_key(|(at, _)| *at), "floats are not sorted");
    assert!(
        buffer.histograms.is_sorted_by_key(|h| h.at),
        "histograms are not sorted"
    );
    all.extend(
        buffer
            .histograms
            .iter()
            .map(|h| (h.at, Bits::Histogram(h.histogram.sum.to_bits()))),
    );
    all.sort_by_key(|(at, _)| *at);
    all
}

/// What the union must be, the slow and obvious way.
fn model_union(parts: &[SampleBuffer], range: TimeRange) -> Vec<(Timestamp, Bits)> {
    let mut union: BTreeMap<Timestamp, Bits> = BTreeMap::new();
    for part in parts {
        for (at, sample) in bits_of(part).into_iter().filter(|(at, _)| range.contains(*at)) {
            match union.get(&at) {
                Some(first) if !first.is_stale() || sample.is_stale() => {}
                _ => drop(union.insert(at, sample)),
            }
        }
    }
    union.into_iter().collect()
}

fn union_of(parts: &[SampleBuffer]) -> Box<dyn Samples> {
    UnionSamples::join(
        parts
            .iter()
            .map(|part| Box::new(Held(part.clone())) as Box<dyn Samples>)
            .collect(),
    )
}

fn histogram(at: Timestamp, sum: f64) -> HistogramSample {
    HistogramSample {
        at,
        start: 0,
        histogram: Arc::new(Histogram {
            sum,
            count: 1.0,
            ..Histogram::default()
        }),
    }
}

/// Samples of one source: dense times, so that sources collide often.
fn buffer() -> impl Strategy<Value = SampleBuffer> {
    let sample = (
        0..3_i64,
        prop_oneof![Just(STALE_NAN), Just(f64::NAN), -3.0..3.0],
        0..4_u8,
        prop_oneof![4 => Just(0_i64), 1 => 1..9_i64],
    );
    (-20..40_i64, prop::collection::vec(sample, 0..40)).prop_map(|(begin, samples)| {
        let mut buffer = SampleBuffer::default();
        let mut at = begin;
        for (step, value, kind, start) in samples {
            at += 1 + step;
            if kind == 0 {
                buffer.histograms.push(histogram(at, value))
            } else {
                buffer.push_float_started(at, value, start)
            }
        }
        buffer
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_union_has_every_timestamp_once(
        parts in prop::collection::vec(buffer(), 1..5),
        copies in 0..3_usize,
        (min, max) in (-30..80_i64, -30..80_i64),
        wide in any::<bool>(),
    ) {
        let mut parts = parts;
        for copy in 0..copies.min(parts.len()) {
            parts.push(parts[copy].clone());
        }
        let range = if wide { TimeRange::ALL } else { TimeRange::new(min.min(max), min.max(max)) };
        // What the caller has in its buffer stays there.
        let mut read = SampleBuffer::default();
        read.push_float(-1_000_000, 7.0);
        read.histograms.push(histogram(-999_999, 7.0));
        union_of(&parts).read(range, &mut read).unwrap();
        let mut all = bits_of(&read);
        prop_assert_eq!(all.remove(0), (-1_000_000, Bits::Float(7.0_f64.to_bits(), 0)));
        prop_assert_eq!(all.remove(0).0, -999_999);
        prop_assert_eq!(all, model_union(&parts, range));
    }

    #[test]
    fn a_merge_has_every_series_once(
        sources in prop::collection::vec(prop::collection::btree_map(0..30_u32, buffer(), 0..20), 1..5),
        limit in 0..20_usize,
    ) {
        let labels = |id: u32| Labels::new([("id", id.to_string())]).unwrap();
        let mut expected: BTreeMap<Labels, Vec<SampleBuffer>> = BTreeMap::new();
        let mut sets = Vec::new();
        for source in &sources {
            let mut sorted: Vec<_> = source.iter().map(|(id, samples)| (labels(*id), samples.clone())).collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            for (labels, samples) in &sorted {
                expected.entry(labels.clone()).or_default().push(samples.clone());
            }
            sets.push(Some(ready(sorted)));
        }
        let mut merged = MergedSet::new(sets, limit, FailAlways);
        let merged = futures::executor::block_on(collect(&mut merged)).unwrap();
        let wanted = if limit == 0 { usize::MAX } else { limit };
        let expected: Vec<_> = expected.into_iter().take(wanted).map(|(labels, parts)| (labels, model_union(&parts, TimeRange::ALL))).collect();
        let merged: Vec<_> = merged.iter().map(|(labels, samples)| (labels.clone(), bits_of(samples))).collect();
        prop_assert_eq!(merged, expected);
    }
}

#[test]
fn a_value_beats_a_stale_marker_of_the_same_time_only() {
    let mut first = SampleBuffer::default();
    first.push_float(1, STALE_NAN);
    first.push_float(2, 2.0);
    let mut second = SampleBuffer::default();
    second.push_float(1, 1.0);
    second.push_float(2, STALE_NAN);
    second.push_float(3, STALE_NAN);
    let mut read = SampleBuffer::default();
    union_of(&[first, second]).read(TimeRange::ALL, &mut read).unwrap();
    assert_eq!(read.timestamps, [1, 2, 3]);
    assert_eq!(read.values[..2], [1.0, 2.0]);
    assert!(is_stale(read.values[2]));
}

#[test]
fn equal_chunks_of_replicas_are_given_once() {
    let mut old = SampleBuffer::default();
    old.push_float(1, 1.0);
    let mut new = SampleBuffer::default();
    new.push_float(5, 1.0);
    let chunks = union_of(&[new.clone(), old, new]).chunks().unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.min_time).collect::<Vec<_>>(), [1, 5]);
}

fn source(name: &str) -> Memory {
    let mut memory = Memory::new();
    for index in 0..10 {
        let index = index.to_string();
        memory = memory.floats(&[("__name__", "up"), ("i", &index)], &[(1, 1.0), (2, 2.0)]);
        memory = memory.floats(&[("__name__", "up"), ("i", &index), ("source", name)], &[(1, 1.0)]);
    }
    memory
}

fn request() -> SelectRequest {
    SelectRequest::new(vec![Matcher::equal("__name__", "up")], TimeRange::ALL)
}

fn select(fanout: &Fanout) -> Arc<dyn Select> {
    fanout.tenant(&Tenant::default())
}

async fn ask(fanout: &Fanout) -> Result<(usize, Vec<String>), SelectError> {
    let select = select(fanout);
    let mut set = select.select(request()).await?;
    let series = collect(&mut *set).await?;
    Ok((series.len(), set.warnings()))
}

fn refused() -> SelectError {
    SelectError::Unavailable("connection refused".into())
}

#[tokio::test]
async fn series_of_all_sources_are_merged() {
    let fanout = Fanout::new(vec![
        ("a".into(), source("a").shared()),
        ("b".into(), source("b").shared()),
    ]);
    assert_eq!(ask(&fanout).await.unwrap(), (30, vec![]));
    let names = select(&fanout).label_names(vec![], TimeRange::ALL, 2).await.unwrap();
    assert_eq!(names.items, ["__name__", "i"]);
    let values = select(&fanout)
        .label_values("source".into(), vec![], TimeRange::ALL, 0)
        .await
        .unwrap();
    assert_eq!(values.items, ["a", "b"]);
}

#[tokio::test]
async fn nothing_is_sorted_for_a_merge_with_nothing() {
    let lone = || Memory {
        unsorted: true,
        ..source("a")
    };
    let answer = async |other: Memory, policy: Policy| {
        let sources = vec![("a".into(), lone().shared()), ("b".into(), other.shared())];
        let fanout = Fanout::new(sources).with_policy(policy);
        let request = SelectRequest {
            sorted: false,
            ..request()
        };
        let mut set = select(&fanout).select(request).await?;
        let series = collect(&mut *set).await?;
        Ok::<_, SelectError>((series, set.warnings()))
    };
    let (series, warnings) = answer(Memory::new(), Policy::Strict).await.unwrap();
    assert_eq!((series.len(), warnings), (20, vec![]));
    assert!(
        series.first().unwrap().0 > series.last().unwrap().0,
        "the order was changed"
    );
    // A source that may hold something is no reason to give up the merge, and its failure is told.
    let error = answer(Memory::failing(refused()), Policy::Strict).await.unwrap_err();
    assert_eq!(error.to_string(), "source b failed: connection refused");
}

#[tokio::test]
async fn a_lone_source_is_handed_through() {
    let lone = Memory {
        unsorted: true,
        ..source("a")
    };
    let fanout = Fanout::new(vec![("a".into(), lone.shared())]);
    let select = select(&fanout);
    let mut set = select
        .select(SelectRequest {
            sorted: false,
            ..request()
        })
        .await
        .unwrap();
    let series = collect(&mut *set).await.unwrap();
    assert!(
        series.first().unwrap().0 > series.last().unwrap().0,
        "the order of the source was changed"
    );
}

#[tokio::test]
async fn a_failing_source_fails_a_strict_question() {
    let sources = || {
        vec![
            ("good".into(), source("a").shared()),
            ("bad".into(), Memory::failing(refused()).shared()),
        ]
    };
    let error = ask(&Fanout::new(sources())).await.unwrap_err();
    assert_eq!(
        error,
        SelectError::Unavailable("source bad failed: connection refused".into())
    );
    let names = select(&Fanout::new(sources()))
        .label_names(vec![], TimeRange::ALL, 0)
        .await;
    assert!(names.is_err());
}

#[tokio::test]
async fn a_failing_source_is_named_by_a_partial_answer() {
    let bad = Memory::failing(refused());
    let fanout = Fanout::new(vec![
        ("good".into(), source("a").shared()),
        ("bad".into(), bad.shared()),
    ]);
    let fanout = fanout.with_policy(Policy::Partial);
    let warning = "the result may be incomplete: source bad failed: connection refused".to_owned();
    assert_eq!(ask(&fanout).await.unwrap(), (20, vec![warning.clone()]));
    let names = select(&fanout).label_names(vec![], TimeRange::ALL, 0).await.unwrap();
    assert_eq!(names.warnings, std::slice::from_ref(&warning));
    let values = select(&fanout)
        .label_values("i".into(), vec![], TimeRange::ALL, 0)
        .await
        .unwrap();
    assert_eq!((values.items.len(), values.warnings), (10, vec![warning]));
}

#[tokio::test]
async fn a_lone_source_that_fails_is_named_and_is_an_error_under_every_policy() {
    let refusing = || Memory::failing(refused());
    let breaking = || Memory {
        late_error: Some(refused()),
        ..source("x")
    };
    let slow = || Memory {
        delay: Duration::from_secs(30),
        ..source("x")
    };
    for policy in [Policy::Strict, Policy::Partial] {
        for (memory, reason) in [
            (refusing(), "connection refused"),
            (breaking(), "connection refused"),
            (slow(), "no answer within 0.05 s"),
        ] {
            let fanout = Fanout::new(vec![("far:10901".into(), memory.shared())])
                .with_policy(policy)
                .with_timeout(Arc::new(TestClock), Duration::from_millis(50));
            let expected = SelectError::Unavailable(format!("source far:10901 failed: {reason}"));
            assert_eq!(ask(&fanout).await.unwrap_err(), expected);
        }
        let fanout = Fanout::new(vec![("far:10901".into(), refusing().shared())]).with_policy(policy);
        let (lone, range) = (select(&fanout), TimeRange::ALL);
        for error in [
            lone.label_names(vec![], range, 0).await.unwrap_err(),
            lone.label_values("i".into(), vec![], range, 0).await.unwrap_err(),
            lone.exemplars(vec![], range).await.unwrap_err(),
            lone.metadata(None).await.unwrap_err(),
        ] {
            assert!(error.to_string().starts_with("source far:10901 failed: "), "{error}");
        }
    }
}

#[tokio::test]
async fn a_source_that_breaks_off_is_named_too() {
    let broken = || Memory {
        late_error: Some(refused()),
        ..source("b")
    };
    let sources = || vec![("a".into(), source("a").shared()), ("b".into(), broken().shared())];
    assert!(ask(&Fanout::new(sources())).await.is_err());
    let (series, warnings) = ask(&Fanout::new(sources()).with_policy(Policy::Partial)).await.unwrap();
    assert!((20..30).contains(&series), "{series}");
    assert_eq!(
        warnings,
        ["the result may be incomplete: source b failed: connection refused"]
    );
}

#[tokio::test]
async fn a_slow_source_counts_as_failed() {
    let slow = Memory {
        delay: Duration::from_secs(30),
        ..source("slow")
    };
    let fanout = Fanout::new(vec![("a".into(), source("a").shared()), ("slow".into(), slow.shared())])
        .with_policy(Policy::Partial)
        .with_timeout(Arc::new(TestClock), Duration::from_millis(50));
    let (series, warnings) = ask(&fanout).await.unwrap();
    assert_eq!(series, 20);
    assert_eq!(
        warnings,
        ["the result may be incomplete: source slow failed: no answer within 0.05 s"]
    );
}

#[tokio::test]
async fn a_limit_fails_even_a_partial_question() {
    let greedy = Memory::failing(SelectError::Limit("more than 5 series".into()));
    let fanout = Fanout::new(vec![("a".into(), source("a").shared()), ("b".into(), greedy.shared())]);
    let error = ask(&fanout.with_policy(Policy::Partial)).await.unwrap_err();
    assert_eq!(error, SelectError::Limit("source b failed: more than 5 series".into()));
}

#[tokio::test]
async fn an_unsorted_source_is_found_out() {
    let unsorted = Memory {
        unsorted: true,
        ..source("b")
    };
    let fanout = Fanout::new(vec![
        ("a".into(), source("a").shared()),
        ("b".into(), unsorted.shared()),
    ]);
    let error = ask(&fanout).await.unwrap_err();
    assert!(
        matches!(&error, SelectError::Corrupt(text) if text.contains("source b failed: series are not sorted")),
        "{error}"
    );
}

#[tokio::test]
async fn as_many_replicas_may_fail_as_the_quorum_makes_up_for() {
    let replicas = |failing: usize| {
        let fanout = Fanout::new(vec![]);
        let sources = (0..3).map(|index| {
            let memory = if index < failing {
                Memory::failing(refused())
            } else {
                source("x")
            };
            Source::replica(&format!("node-{index}"), memory.shared())
        });
        fanout.set_sources(sources.collect(), 1);
        fanout
    };
    assert_eq!(ask(&replicas(0)).await.unwrap(), (20, vec![]));
    assert_eq!(
        ask(&replicas(1)).await.unwrap(),
        (20, vec![]),
        "one of three down and two complete is complete"
    );
    let error = ask(&replicas(2)).await.unwrap_err();
    assert_eq!(
        error,
        SelectError::Unavailable("source node-1 failed: connection refused".into())
    );
    let (series, warnings) = ask(&replicas(2).with_policy(Policy::Partial)).await.unwrap();
    assert_eq!((series, warnings.len()), (20, 2));
    let (series, warnings) = ask(&replicas(3).with_policy(Policy::Partial)).await.unwrap();
    assert_eq!((series, warnings.len()), (0, 3));
}

#[tokio::test]
async fn fewer_replicas_may_fail_for_times_with_fewer_copies() {
    let fanout = Fanout::new(vec![]).with_policy(Policy::Partial);
    let sources = [source("x"), Memory::failing(refused())];
    let sources = sources
        .into_iter()
        .map(|memory| Source::replica("node", memory.shared()));
    fanout.set_sources(sources.collect(), 0);
    let warned = async |until: i64, range: TimeRange| {
        let thin = Some((until, 0));
        fanout.set_replicas_spare(Spare { now: 1, thin });
        let names = select(&fanout).label_names(vec![], range, 0).await.unwrap();
        !names.warnings.is_empty()
    };
    assert!(warned(1_000, TimeRange::new(999, 5_000)).await);
    assert!(!warned(1_000, TimeRange::new(1_000, 5_000)).await);
    assert!(!warned(i64::MIN, TimeRange::new(i64::MIN, 0)).await);
}

#[tokio::test]
async fn warnings_of_sources_are_passed_on() {
    let doubtful = Memory {
        warnings: vec!["block 7 is damaged".into()],
        ..source("b")
    };
    let fanout = Fanout::new(vec![
        ("a".into(), source("a").shared()),
        ("b".into(), doubtful.shared()),
    ]);
    assert_eq!(ask(&fanout).await.unwrap(), (30, vec!["block 7 is damaged".into()]));
}

#[tokio::test]
async fn exemplars_and_metadata_are_merged_without_repetition() {
    let about = |memory: Memory| {
        memory
            .about("up", MetricType::Gauge, "alive")
            .exemplar(&[("__name__", "up")], &[("trace", "1")], 5, 1.0)
    };
    let more = about(Memory::new())
        .about("up", MetricType::Gauge, "is it up")
        .exemplar(&[("__name__", "up")], &[("trace", "2")], 3, 1.0);
    let fanout = Fanout::new(vec![
        ("a".into(), about(Memory::new()).shared()),
        ("b".into(), more.shared()),
    ]);
    let metadata = select(&fanout).metadata(None).await.unwrap();
    assert_eq!(
        metadata
            .items
            .iter()
            .map(|about| about.help.as_str())
            .collect::<Vec<_>>(),
        ["alive", "is it up"]
    );
    let selector = vec![vec![Matcher::equal("__name__", "up")]];
    let exemplars = select(&fanout).exemplars(selector, TimeRange::ALL).await.unwrap();
    assert_eq!(exemplars.items.len(), 1);
    assert_eq!(
        exemplars.items[0]
            .exemplars
            .iter()
            .map(|exemplar| exemplar.at)
            .collect::<Vec<_>>(),
        [3, 5]
    );
}

#[tokio::test]
async fn no_kind_of_answer_passes_over_a_source_in_silence() {
    let doubtful = Memory {
        warnings: vec!["block 7 is damaged".into()],
        ..source("b")
    };
    let doubtful = doubtful.shared();
    let sources = |first: Memory| vec![("a".into(), first.shared()), ("b".into(), doubtful.clone())];
    let told = async |select: Arc<dyn Select>| {
        let selectors = vec![vec![Matcher::equal("__name__", "up")]];
        [
            select
                .exemplars(selectors, TimeRange::ALL)
                .await
                .map(|list| list.warnings),
            select.metadata(None).await.map(|list| list.warnings),
            select
                .label_names(vec![], TimeRange::ALL, 0)
                .await
                .map(|list| list.warnings),
            select
                .label_values("job".into(), vec![], TimeRange::ALL, 0)
                .await
                .map(|list| list.warnings),
        ]
    };
    let failed = "source a failed: connection refused";
    let partial = Fanout::new(sources(Memory::failing(refused()))).with_policy(Policy::Partial);
    let expected = vec![
        "block 7 is damaged".to_owned(),
        format!("the result may be incomplete: {failed}"),
    ];
    for warnings in told(select(&partial)).await {
        assert_eq!(warnings.unwrap(), expected);
    }
    let strict = Fanout::new(sources(Memory::failing(refused())));
    for refusal in told(select(&strict)).await {
        assert_eq!(refusal, Err(SelectError::Unavailable(failed.into())));
    }
    let answering = Fanout::new(sources(source("a")));
    for warnings in told(select(&answering)).await {
        assert_eq!(warnings.unwrap(), ["block 7 is damaged"]);
    }
}

#[test]
fn tenants_of_all_sources_are_listed_once() {
    let tenant = |name: &str| Tenant::new(name).unwrap();
    let one = crate::common::Tenants::default()
        .with(tenant("b"), Memory::new())
        .with(tenant("a"), Memory::new());
    let two = crate::common::Tenants::default().with(tenant("b"), Memory::new());
    let fanout = Fanout::new(vec![("1".into(), Arc::new(one)), ("2".into(), Arc::new(two))]);
    assert_eq!(fanout.tenants(), [tenant("a"), tenant("b")]);
}
