//! Answers without order from sources that know identities: the same series and samples as a merge by labels gives, with no label that
//! nobody looks at, and failures that are told.

use crate::common::{Memory, TestClock, collect};
use model::{
    label::Labels,
    select::{SelectError, SelectRequest, SelectTenants as _},
    tenant::Tenant,
    time::{TimeRange, Timestamp},
};
use proptest::prelude::*;
use querier::{Fanout, Policy};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Samples by labels as text; what a question shows less of comes several times.
type Content = Vec<(String, Vec<(Timestamp, u64)>)>;

async fn ask(fanout: &Fanout, request: SelectRequest) -> Result<(Content, Vec<String>), SelectError> {
    let select = fanout.tenant(&Tenant::default());
    let mut set = select.select(request).await?;
    let series = collect(&mut *set).await?;
    let plain = |(labels, samples): (Labels, model::sample::SampleBuffer)| {
        let values = samples.values.iter().map(|value| value.to_bits());
        (
            labels.to_string(),
            samples.timestamps.iter().copied().zip(values).collect(),
        )
    };
    Ok((series.into_iter().map(plain).collect(), set.warnings()))
}

fn unordered(names: Option<&[&str]>) -> SelectRequest {
    let mut request = SelectRequest::new(vec![], TimeRange::ALL);
    request.sorted = false;
    request.hints.labels = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    request
}

/// A source with pods by number and when they have samples; the value tells the source.
fn source(number: usize, pods: &BTreeMap<u8, Vec<Timestamp>>) -> Memory {
    let mut memory = Memory {
        identified: true,
        ..Memory::new()
    };
    for (pod, times) in pods {
        let samples: Vec<_> = times.iter().map(|&at| (at, number as f64)).collect();
        let (pod, job) = (pod.to_string(), (pod % 3).to_string());
        memory = memory.floats(&[("__name__", "up"), ("job", &job), ("pod", &pod)], &samples);
    }
    memory
}

fn fanout(sources: &[Memory]) -> Fanout {
    let named = sources.iter().enumerate();
    Fanout::new(
        named
            .map(|(number, memory)| (number.to_string(), memory.clone().shared()))
            .collect(),
    )
}

fn pods() -> impl Strategy<Value = BTreeMap<u8, Vec<Timestamp>>> {
    let times = prop::collection::btree_set(0..12_i64, 1..6).prop_map(|times| times.into_iter().collect());
    prop::collection::btree_map(0..20_u8, times, 0..15)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_join_gives_what_a_merge_gives(sources in prop::collection::vec(pods(), 2..4), limit in 0..12_usize) {
        let sources: Vec<Memory> = sources.iter().enumerate().map(|(number, pods)| source(number, pods)).collect();
        let merged: Vec<Memory> = sources.iter().map(|one| Memory { identified: false, ..one.clone() }).collect();
        run(async {
            let all = |names| unordered(names);
            let (expected, _) = ask(&fanout(&merged), all(None)).await.unwrap();
            let (mut joined, warnings) = ask(&fanout(&sources), all(None)).await.unwrap();
            joined.sort();
            prop_assert_eq!(&joined, &expected);
            prop_assert_eq!(warnings, Vec::<String>::new());
            // With few labels, in the same order each time.
            let (shown, _) = ask(&fanout(&sources), all(Some(&["job"]))).await.unwrap();
            prop_assert_eq!(&shown, &ask(&fanout(&sources), all(Some(&["job"]))).await.unwrap().0);
            let job = |(labels, samples): &(String, Vec<(Timestamp, u64)>)| {
                let value = labels.split("job=").nth(1).and_then(|rest| rest.split('"').nth(1)).map(str::to_owned);
                (value, samples.clone())
            };
            let [mut shown, mut whole] = [&shown, &expected].map(|all| all.iter().map(job).collect::<Vec<_>>());
            shown.sort();
            whole.sort();
            prop_assert_eq!(&shown, &whole);
            let (some, _) = ask(&fanout(&sources), SelectRequest { limit, ..all(None) }).await.unwrap();
            let most = if limit == 0 { usize::MAX } else { limit };
            prop_assert_eq!(some.len(), joined.len().min(most));
            prop_assert!(some.iter().all(|series| joined.contains(series)));
            Ok(())
        })?;
    }
}

/// Seven pods, so that they come in three batches.
fn seven(number: usize) -> Memory {
    source(number, &(0..7).map(|pod| (pod, vec![1])).collect())
}

#[test]
fn a_source_that_fails_is_told_of_wherever_it_stands() {
    let refused = || SelectError::Unavailable("connection refused".into());
    for place in 0..3 {
        let sources = |change: &dyn Fn(Memory) -> Memory| {
            let each = (0..3).map(|number| {
                if number == place {
                    change(seven(number))
                } else {
                    seven(number)
                }
            });
            fanout(&each.collect::<Vec<_>>())
        };
        let failing = |memory| Memory {
            error: Some(refused()),
            ..memory
        };
        let breaking = |memory| Memory {
            late_error: Some(refused()),
            ..memory
        };
        let told = format!("source {place} failed: connection refused");
        for change in [&failing as &dyn Fn(Memory) -> Memory, &breaking] {
            let error = run(ask(&sources(change), unordered(Some(&[])))).unwrap_err();
            assert_eq!(error.to_string(), told);
            let partial = sources(change).with_policy(Policy::Partial);
            let (series, warnings) = run(ask(&partial, unordered(Some(&[])))).unwrap();
            assert_eq!(series.len(), 7, "{place}");
            assert_eq!(warnings, [format!("the result may be incomplete: {told}")]);
        }
        let slow = |memory| Memory {
            delay: Duration::from_secs(30),
            ..memory
        };
        let partial = sources(&slow).with_policy(Policy::Partial);
        let partial = partial.with_timeout(Arc::new(TestClock), Duration::from_millis(50));
        let (series, warnings) = run(ask(&partial, unordered(None))).unwrap();
        assert_eq!((series.len(), warnings.len()), (7, 1));
        assert!(warnings[0].ends_with("no answer within 0.05 s"), "{warnings:?}");
        let doubtful = |memory| Memory {
            warnings: vec!["block 7 is damaged".into()],
            ..memory
        };
        let (series, warnings) = run(ask(&sources(&doubtful), unordered(None))).unwrap();
        assert_eq!((series.len(), warnings), (7, vec!["block 7 is damaged".to_owned()]));
    }
}

#[test]
fn earlier_sources_are_preferred_and_one_that_knows_no_identities_is_merged() {
    let own = |number: usize| source(number, &[(1, vec![number as i64, 7])].into());
    let expected = |last: usize| {
        vec![
            (0, 0_f64.to_bits()),
            (1, 1_f64.to_bits()),
            (last as i64, (last as f64).to_bits()),
            (7, 0_f64.to_bits()),
        ]
    };
    let sources = [own(0), own(1), own(2)];
    let (series, _) = run(ask(&fanout(&sources), unordered(Some(&[])))).unwrap();
    assert_eq!(series, [("{}".to_owned(), expected(2))]);
    let mut sources = sources;
    sources[1].identified = false;
    let (series, _) = run(ask(&fanout(&sources), unordered(Some(&[])))).unwrap();
    // All labels are seen: they were needed.
    assert_eq!(
        series,
        [(r#"{__name__="up", job="1", pod="1"}"#.to_owned(), expected(2))]
    );
}

#[test]
fn a_lone_answer_is_handed_through() {
    let lone = Memory {
        unsorted: true,
        ..seven(0)
    };
    let nothing = source(1, &BTreeMap::new());
    let (series, _) = run(ask(&fanout(&[lone, nothing]), unordered(None))).unwrap();
    assert_eq!(series.len(), 7);
    assert!(series.first() > series.last(), "the order was changed");
}
