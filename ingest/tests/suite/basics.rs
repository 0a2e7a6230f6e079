//! Push, read, restart: what an ingester does on a good day, on the real disk.

use crate::support::*;
use ingest::{Ingester, OpenError, SyncPolicy};
use model::{
    metadata::{Metadata, MetricType},
    push::{Exception, Push, PushError, SampleKind, SeriesId, WriteBatch},
    sample::{Exemplar, FloatSample},
    select::{SelectError, SelectRequest, SelectTenants},
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange},
    verdict::{Reason, Verdict},
};
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Duration};

fn rejected(series: u32, sample: u32, reason: Reason) -> Exception {
    Exception {
        series,
        sample,
        kind: SampleKind::Float,
        verdict: Verdict::Rejected(reason),
    }
}

#[tokio::test]
async fn it_keeps_the_contract_of_push() {
    let dir = tempfile::tempdir().unwrap();
    let ingester = World::on_disk(dir.path()).open().await;
    model::push::conformance::check(&*ingester, NOW).await;
}

#[tokio::test]
async fn what_is_pushed_is_read_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let samples: Vec<Vec<_>> = (0..50)
        .map(|s| {
            (0..300)
                .map(|i| (NOW + i * 15_000, (s * 1000 + i) as f64 / 3.0))
                .collect()
        })
        .collect();
    let all: Vec<_> = samples
        .iter()
        .enumerate()
        .map(|(s, samples)| (series(s), &samples[..]))
        .collect();
    let ingester = world.open().await;
    for step in 0..3 {
        let part: Vec<_> = all
            .iter()
            .map(|(l, s)| (l.clone(), &s[step * 100..step * 100 + 100]))
            .collect();
        let outcome = push(&ingester, &batch(&part)).await;
        assert_eq!(outcome.exceptions, []);
        assert_eq!(outcome.refs.len(), 50);
    }
    assert_eq!(content(&ingester, "default-tenant").await, expected(&all));
    ingester.shutdown().await;
    drop(ingester);
    for _ in 0..2 {
        let ingester = world.open().await;
        assert_eq!(content(&ingester, "default-tenant").await, expected(&all));
        let again = push(&ingester, &batch(&all)).await;
        assert_eq!(again.exceptions.len(), 50 * 300, "all of it is known");
        assert!(
            again
                .exceptions
                .iter()
                .all(|exception| exception.verdict == Verdict::Duplicate)
        );
        ingester.shutdown().await;
    }
}

#[tokio::test]
async fn each_sample_is_judged_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let ingester = World::on_disk(dir.path()).open().await;
    push(
        &ingester,
        &batch(&[(series(1), &[(NOW, 1.0), (NOW + 10, 2.0), (NOW + 20, f64::NAN)])]),
    )
    .await;
    let mixed = batch(&[
        (
            series(1),
            &[
                (NOW + 10, 2.0),
                (NOW + 10, 2.5),
                (NOW + 5, 1.0),
                (NOW + 20, f64::NAN),
                (NOW + 30, 3.0),
            ],
        ),
        (
            series(2),
            &[
                (NOW - 100 * BLOCK_RANGE_MS, 1.0),
                (NOW + 1_000_000, 1.0),
                (NOW + 40, 1.0),
                (i64::MIN, 0.0),
            ],
        ),
        (series(3), &[(i64::MAX, 1.0), (NOW - 100 * BLOCK_RANGE_MS, 1.0)]),
    ]);
    let outcome = ingester.push(&mixed, NOW).await.unwrap();
    let duplicate = |sample| Exception {
        series: 0,
        sample,
        kind: SampleKind::Float,
        verdict: Verdict::Duplicate,
    };
    let expected = [
        duplicate(0),
        rejected(0, 1, Reason::DuplicateTimestamp),
        duplicate(3),
        rejected(1, 5, Reason::TooOld),
        rejected(1, 6, Reason::TooFarInFuture),
        rejected(1, 8, Reason::TooOld),
        rejected(2, 9, Reason::TooFarInFuture),
        rejected(2, 10, Reason::TooOld),
    ];
    assert_eq!(outcome.exceptions, expected);
    let refs: Vec<_> = outcome.refs.iter().map(|(index, _)| *index).collect();
    assert_eq!(
        refs,
        [0, 1],
        "a series without a sample that can be stored is not taken in"
    );
    let content = content(&ingester, "default-tenant").await;
    assert_eq!(content.len(), 2);
    assert!(content[&series(1).to_string()].contains_key(&(NOW + 30)));
}

#[tokio::test]
async fn a_fast_clock_shuts_out_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let ingester = World::on_disk(dir.path()).open().await;
    let fast = batch_of("fast", &[(series(1), &[(NOW + 9 * 60_000, 1.0)])]);
    assert_eq!(ingester.push(&fast, NOW).await.unwrap().exceptions, []);
    let slow: &[_] = &[(NOW - BLOCK_RANGE_MS, 1.0), (NOW, 2.0)];
    for tenant in ["fast", "slow"] {
        let outcome = ingester
            .push(&batch_of(tenant, &[(series(2), slow)]), NOW)
            .await
            .unwrap();
        assert_eq!(outcome.exceptions, [], "series and tenants are judged apart");
    }
}

#[tokio::test]
async fn refs_of_an_earlier_run_and_of_other_tenants_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on_disk(dir.path());
    let ingester = world.open().await;
    let refs = push(&ingester, &batch(&[(series(1), &[(NOW, 1.0)])])).await.refs;
    let mut by_ref = WriteBatch::default();
    by_ref.floats.push(FloatSample {
        at: NOW + 1,
        value: 2.0,
        start: 0,
    });
    by_ref.finish_series(SeriesId::Known(refs[0].1));
    assert_eq!(push(&ingester, &by_ref).await, Default::default());
    let stolen = WriteBatch {
        tenant: Tenant::new("thief").unwrap(),
        ..by_ref.clone()
    };
    assert_eq!(push(&ingester, &stolen).await.unknown, [0]);
    ingester.shutdown().await;
    drop(ingester);
    world.env.rng.next_u64();
    world.env = World::on_disk(dir.path()).env;
    world.env.rng.next_u64();
    let ingester = world.open().await;
    assert_eq!(push(&ingester, &by_ref).await.unknown, [0], "the node restarted");
    assert_eq!(content(&ingester, "thief").await.len(), 0);
}

#[tokio::test]
async fn queries_see_their_tenant_and_their_range() {
    let dir = tempfile::tempdir().unwrap();
    let ingester = World::on_disk(dir.path()).open().await;
    let samples: Vec<_> = (0..1000).map(|i| (NOW + i * 1000, i as f64)).collect();
    push(
        &ingester,
        &batch_of("a", &[(series(1), &samples), (series(2), &samples[..10])]),
    )
    .await;
    push(&ingester, &batch_of("b", &[(series(3), &samples)])).await;
    assert_eq!(
        content(&ingester, "a").await,
        expected(&[(series(1), &samples), (series(2), &samples[..10])])
    );
    assert_eq!(content(&ingester, "nobody").await.len(), 0);
    let late = content_in(&ingester, "a", TimeRange::new(NOW + 500_000, NOW + 500_999)).await;
    assert_eq!(late, expected(&[(series(1), &samples[500..501])]));
    assert_eq!(
        ingester.tenants().iter().map(Tenant::as_str).collect::<Vec<_>>(),
        ["a", "b"]
    );

    let select = ingester.tenant(&Tenant::new("a").unwrap());
    let all = TimeRange::ALL;
    let one = vec![model::matcher::Matcher::equal("series", "1")];
    assert_eq!(
        select.label_names(vec![], all, 0).await.unwrap().items,
        ["__name__", "job", "series"]
    );
    assert_eq!(
        select
            .label_values("series".into(), vec![], all, 0)
            .await
            .unwrap()
            .items,
        ["1", "2"]
    );
    assert_eq!(
        select
            .label_values("series".into(), one.clone(), all, 0)
            .await
            .unwrap()
            .items,
        ["1"]
    );
    assert_eq!(
        select
            .label_values("series".into(), vec![], all, 1)
            .await
            .unwrap()
            .items,
        ["1"]
    );
    assert_eq!(
        select
            .label_values("nothing".into(), one, all, 0)
            .await
            .unwrap()
            .items
            .len(),
        0
    );
    let mut limited = SelectRequest::new(vec![], all);
    (limited.limit, limited.labels_only) = (1, true);
    let mut set = select.select(limited).await.unwrap();
    assert_eq!(set.next().await.unwrap().unwrap().len(), 1);
    assert!(set.next().await.is_none());
}

#[tokio::test]
async fn a_limit_gives_the_first_of_many_series() {
    let dir = tempfile::tempdir().unwrap();
    let ingester = World::on_disk(dir.path()).open().await;
    // Every third one has nothing in the range that is asked about.
    let (new, old) = ([(NOW, 1.0)], [(NOW - 3_600_000, 1.0)]);
    let samples = |i: usize| if i.is_multiple_of(3) { &old[..] } else { &new[..] };
    let all: Vec<_> = (0..900).map(|i| (series(i), samples(i))).collect();
    push(&ingester, &batch_of("a", &all)).await;
    let mut expected: Vec<_> = (0..900).filter(|i: &usize| !i.is_multiple_of(3)).map(series).collect();
    expected.sort();
    for limit in [1, 7, 250, 599, 600, 0] {
        let mut request = SelectRequest::new(vec![], TimeRange::new(NOW - 1, NOW));
        request.limit = limit;
        let mut set = ingester
            .tenant(&Tenant::new("a").unwrap())
            .select(request)
            .await
            .unwrap();
        let mut found = Vec::new();
        while let Some(batch) = set.next().await {
            found.extend(batch.unwrap().into_iter().map(|series| series.labels));
        }
        let count = if limit == 0 { 600 } else { limit };
        assert_eq!(found, expected[..count], "limit {limit}");
    }
}

#[tokio::test]
async fn the_head_is_counted_for_each_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let ingester = World::on_disk(dir.path()).open().await;
    let samples: Vec<_> = (0..300).map(|i| (NOW + i * 1000, i as f64)).collect();
    push(
        &ingester,
        &batch_of("a", &[(series(1), &samples), (series(20), &samples[..10])]),
    )
    .await;
    push(&ingester, &batch_of("b", &[(series(3), &samples)])).await;
    let stats = ingester.stats(&Tenant::new("a").unwrap(), 1);
    assert_eq!((stats.series, stats.chunks, stats.label_pairs), (2, 4, 4));
    assert_eq!(stats.time, Some((NOW, NOW + 299_000)));
    let first = |list: &[ingest::Cardinality]| list.iter().map(|one| (one.name.clone(), one.count)).collect::<Vec<_>>();
    assert_eq!(first(&stats.series_by_metric), [("metric".into(), 2)]);
    assert_eq!(first(&stats.values_by_label), [("series".into(), 2)]);
    assert_eq!(first(&stats.bytes_by_label), [("__name__".into(), 6)]);
    assert_eq!(first(&stats.series_by_pair), [("__name__=metric".into(), 2)]);
    assert_eq!(ingester.stats(&Tenant::new("nobody").unwrap(), 10), Default::default());
}

#[tokio::test]
async fn metadata_and_exemplars_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let labels = model::label::Labels::new([("trace_id", "t")]).unwrap();
    let exemplar = Exemplar {
        labels,
        value: 0.5,
        at: NOW,
    };
    let metadata = Metadata {
        family: "metric".into(),
        kind: MetricType::Counter,
        unit: "bytes".into(),
        help: "Helps.".into(),
    };
    let mut batch = WriteBatch::default();
    batch.floats.push(FloatSample {
        at: NOW,
        value: 1.0,
        start: 0,
    });
    batch.exemplars.push(exemplar.clone());
    batch.metadata.push(metadata.clone());
    batch.finish_series(SeriesId::New(series(1)));
    let ingester = world.open().await;
    assert_eq!(push(&ingester, &batch).await.exceptions, []);
    ingester.shutdown().await;
    drop(ingester);
    let ingester = world.open().await;
    let select = ingester.tenant(&Tenant::default());
    let about = async |family: Option<&str>| select.metadata(family.map(str::to_owned)).await.unwrap().items;
    assert_eq!(about(None).await, std::slice::from_ref(&metadata));
    assert_eq!(about(Some("metric")).await, [metadata]);
    assert_eq!(about(Some("other")).await, []);
    let selector = vec![model::matcher::Matcher::equal("series", "1")];
    let found = select.exemplars(vec![selector], TimeRange::ALL).await.unwrap().items;
    assert_eq!((found.len(), &found[0].exemplars), (1, &vec![exemplar]));
    let verdicts: Vec<_> = push(&ingester, &batch)
        .await
        .exceptions
        .iter()
        .map(|e| (e.kind, e.verdict))
        .collect();
    assert_eq!(
        verdicts,
        [
            (SampleKind::Float, Verdict::Duplicate),
            (SampleKind::Exemplar, Verdict::Duplicate)
        ]
    );
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path());
    let first = world.open().await;
    let second = Ingester::open(
        world.env.clone(),
        world.settings.clone(),
        world.bucket.clone(),
        &mut Registry::default(),
    );
    let Err(OpenError::Locked { dir: locked }) = second else {
        panic!("two ingesters in one folder")
    };
    assert_eq!(locked, dir.path());
    first.shutdown().await;
    world.open().await;
}

#[tokio::test]
async fn nothing_is_taken_or_read_before_replay_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let ingester = World::on_disk(dir.path()).open_unready();
    // On this runtime of one thread nothing happens in the background until the test waits.
    assert!(!ingester.is_ready() && !ingester.progress().ready);
    let refused = try_push(&ingester, &batch(&[(series(1), &[(NOW, 1.0)])])).await;
    assert!(matches!(refused, Err(PushError::Unavailable { retry_after, .. }) if retry_after > Duration::ZERO));
    let select = ingester.tenant(&Tenant::default());
    let refused = select.select(SelectRequest::new(vec![], TimeRange::ALL)).await;
    assert!(matches!(refused, Err(SelectError::Unavailable(_))));
    wait_until("it is ready", || ingester.is_ready()).await;
    push(&ingester, &batch(&[(series(1), &[(NOW, 1.0)])])).await;
}

#[tokio::test]
async fn a_tenant_can_be_limited_to_some_series() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on_disk(dir.path());
    world.settings.tenant_series_max = 2;
    let ingester = world.open().await;
    let one: &[_] = &[(NOW, 1.0)];
    let outcome = push(
        &ingester,
        &batch(&[(series(1), one), (series(2), one), (series(3), one), (series(1), one)]),
    )
    .await;
    assert_eq!(outcome.exceptions[0], rejected(2, 2, Reason::SeriesLimit));
    assert_eq!(outcome.exceptions[1].verdict, Verdict::Duplicate);
    assert_eq!(
        push(&ingester, &batch(&[(series(2), &[(NOW + 1, 1.0)])]))
            .await
            .exceptions,
        []
    );
    assert_eq!(
        push(&ingester, &batch_of("other", &[(series(3), one)]))
            .await
            .exceptions,
        []
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_senders_push_at_once_under_each_policy() {
    for sync in [
        SyncPolicy::EveryWrite,
        SyncPolicy::Interval(Duration::from_millis(20)),
        SyncPolicy::Never,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::on_disk(dir.path());
        world.settings.sync = sync;
        world.settings.segment_bytes_max = 20_000;
        let ingester = world.open().await;
        let senders: Vec<_> = (0..8)
            .map(|sender| {
                let ingester = Arc::clone(&ingester);
                #[expect(clippy::disallowed_methods, reason = "the senders are real tasks")]
                tokio::spawn(async move {
                    for step in 0..100 {
                        let one = [(NOW + step * 1000, f64::from(sender) + step as f64)];
                        let all: Vec<_> = (0..20).map(|s| (series(s * 8 + sender as usize), &one[..])).collect();
                        assert_eq!(push(&ingester, &batch(&all)).await.exceptions, []);
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.await.unwrap();
        }
        let before = content(&ingester, "default-tenant").await;
        assert_eq!(
            before.values().map(|samples| samples.len()).sum::<usize>(),
            8 * 20 * 100
        );
        ingester.shutdown().await;
        drop(ingester);
        let ingester = world.open().await;
        assert_eq!(content(&ingester, "default-tenant").await, before);
        ingester.shutdown().await;
    }
}
