//! HA pairs: one replica speaks, the other fills its gaps.

use crate::common::{Held, Memory, NOW, api::Api, collect};
use model::{
    matcher::Matcher,
    sample::{STALE_NAN, SampleBuffer, is_stale},
    select::{Samples, SelectRequest},
    time::{TimeRange, Timestamp},
};
use proptest::prelude::*;
use querier::{Dedup, QuerierSettings, Reading, replica::ReplicaSamples};
use serde_json::json;
use std::sync::Arc;

/// The scrape interval of the tests.
const INTERVAL: i64 = 15_000;

/// Samples at `phase`, `phase + INTERVAL`, … for the scrapes in `scrapes`; the value says which replica.
fn scraped(replica: f64, phase: i64, scrapes: impl IntoIterator<Item = i64>) -> SampleBuffer {
    let mut samples = SampleBuffer::default();
    for scrape in scrapes {
        samples.push_float(phase + scrape * INTERVAL, replica);
    }
    samples
}

fn with_marker(mut samples: SampleBuffer, at: Timestamp) -> SampleBuffer {
    samples.push_float(at, STALE_NAN);
    samples
}

fn read(replicas: &[SampleBuffer], range: TimeRange) -> SampleBuffer {
    let parts = replicas
        .iter()
        .map(|samples| Box::new(Held(samples.clone())) as Box<dyn Samples>)
        .collect();
    let mut joined = SampleBuffer::default();
    ReplicaSamples::new(parts).read(range, &mut joined).unwrap();
    assert!(joined.timestamps.is_sorted_by(|a, b| a < b), "{:?}", joined.timestamps);
    joined
}

fn pairs(samples: &SampleBuffer) -> Vec<(Timestamp, u64)> {
    samples
        .timestamps
        .iter()
        .copied()
        .zip(samples.values.iter().map(|value| value.to_bits()))
        .collect()
}

/// The longest silence between values, end markers not counted.
fn longest_silence(samples: &SampleBuffer) -> i64 {
    let alive: Vec<Timestamp> = samples
        .timestamps
        .iter()
        .zip(&samples.values)
        .filter(|(_, value)| !is_stale(**value))
        .map(|(at, _)| *at)
        .collect();
    alive.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

#[test]
fn of_two_healthy_replicas_the_first_speaks() {
    let first = scraped(1.0, 0, 0..100);
    let second = scraped(2.0, 7_000, 0..100);
    assert_eq!(
        read(&[first.clone(), second.clone()], TimeRange::new(0, 2_000_000)),
        first
    );
    let jitter: Vec<i64> = (0..100)
        .map(|scrape| scrape * INTERVAL + (scrape * 7919) % 1500)
        .collect();
    let mut jittered = SampleBuffer::default();
    jitter.iter().for_each(|at| jittered.push_float(*at, 1.0));
    assert_eq!(
        read(&[jittered.clone(), second], TimeRange::new(0, 2_000_000)),
        jittered
    );
}

#[test]
fn a_gap_is_filled_by_the_other() {
    let first = scraped(1.0, 0, (0..20).chain(40..60));
    let second = scraped(2.0, 7_000, 0..60);
    let joined = read(&[first.clone(), second.clone()], TimeRange::new(0, 2_000_000));
    let filled = joined.values.iter().filter(|value| **value == 2.0).count();
    assert!((19..=21).contains(&filled), "{filled}");
    assert!(longest_silence(&joined) <= INTERVAL * 22 / 10);
    assert_eq!(
        joined.values.last(),
        Some(&1.0),
        "the first speaks again when it is back"
    );
    // The other way round the first never falls silent.
    assert_eq!(read(&[second.clone(), first], TimeRange::new(0, 2_000_000)), second);
}

#[test]
fn a_single_missed_scrape_is_filled_too() {
    let first = scraped(1.0, 0, (0..20).chain(21..40));
    let second = scraped(2.0, 7_000, 0..40);
    let joined = read(&[first, second], TimeRange::new(0, 2_000_000));
    assert_eq!(joined.values.iter().filter(|value| **value == 2.0).count(), 1);
    assert!(longest_silence(&joined) < 2 * INTERVAL);
}

#[test]
fn a_replica_that_is_gone_or_comes_late_is_replaced() {
    let none = SampleBuffer::default();
    let second = scraped(2.0, 7_000, 0..40);
    assert_eq!(
        read(&[none.clone(), second.clone()], TimeRange::new(0, 600_000)),
        second
    );
    assert_eq!(
        read(&[second.clone(), none.clone()], TimeRange::new(0, 600_000)),
        second
    );
    assert!(read(&[none.clone(), none], TimeRange::ALL).is_empty());
    let late = scraped(1.0, 0, 20..40);
    let joined = read(&[late, second], TimeRange::new(0, 600_000));
    assert_eq!(joined.values.iter().filter(|value| **value == 2.0).count(), 20);
    assert!(longest_silence(&joined) <= INTERVAL);
}

#[test]
fn a_series_that_ends_ends_once() {
    for (our_end, their_end) in [(300_000, 303_000), (303_000, 300_000), (300_000, 314_000)] {
        let first = with_marker(scraped(1.0, 0, 0..20), our_end);
        let second = with_marker(scraped(2.0, 7_000, 0..19), their_end);
        let joined = read(&[first, second], TimeRange::new(0, 2_000_000));
        assert!(
            joined.values.last().is_some_and(|value| is_stale(*value)),
            "the end is lost: {:?}",
            joined.timestamps.last()
        );
        assert_eq!(joined.values.iter().filter(|value| is_stale(**value)).count(), 1);
    }
}

#[test]
fn an_end_that_only_one_replica_sees_is_no_end() {
    // The first cannot reach the target for a while: a marker, silence, then samples again.
    let mut first = with_marker(scraped(1.0, 0, 0..20), 20 * INTERVAL);
    scraped(1.0, 0, 40..60)
        .timestamps
        .iter()
        .for_each(|at| first.push_float(*at, 1.0));
    let second = scraped(2.0, 7_000, 0..60);
    let joined = read(&[first, second], TimeRange::new(0, 2_000_000));
    assert!(
        !joined.values.iter().any(|value| is_stale(*value)),
        "a marker of the one who cannot see"
    );
    assert!(longest_silence(&joined) <= INTERVAL * 2);
}

#[test]
fn three_replicas_fill_each_others_gaps() {
    let first = scraped(1.0, 0, (0..10).chain(30..40));
    let second = scraped(2.0, 5_000, (0..20).chain(30..40));
    let third = scraped(3.0, 10_000, 0..40);
    let joined = read(&[first, second, third], TimeRange::new(0, 600_000));
    assert!(
        longest_silence(&joined) <= INTERVAL * 22 / 10,
        "{}",
        longest_silence(&joined)
    );
    for replica in [1.0, 2.0, 3.0] {
        assert!(joined.values.contains(&replica));
    }
}

#[test]
fn overlapping_questions_get_equal_answers() {
    let first = scraped(1.0, 0, (0..30).chain(33..50).chain(90..120));
    let second = scraped(2.0, 7_000, (0..60).chain(70..120));
    let whole = read(&[first.clone(), second.clone()], TimeRange::new(0, 1_800_000));
    for start in (0..1_200_000).step_by(3_500) {
        let part = read(&[first.clone(), second.clone()], TimeRange::new(start, 1_800_000));
        let from = start + 2 * INTERVAL;
        let tail =
            |samples: &SampleBuffer| -> Vec<_> { pairs(samples).into_iter().filter(|(at, _)| *at >= from).collect() };
        assert_eq!(tail(&part), tail(&whole), "from {start}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_invented_and_no_gap_stays_that_one_replica_could_fill(
        seen in prop::collection::vec((prop::bool::weighted(0.85), prop::bool::weighted(0.85)), 30..120),
        phase in 0..INTERVAL,
    ) {
        let scrapes = |pick: fn(&(bool, bool)) -> bool| -> Vec<i64> {
            (0_i64..).zip(&seen).filter(|(_, seen)| pick(seen)).map(|(scrape, _)| scrape).collect()
        };
        let first = scraped(1.0, 0, scrapes(|seen| seen.0));
        let second = scraped(2.0, phase, scrapes(|seen| seen.1));
        let range = TimeRange::new(0, INTERVAL * 200);
        let joined = read(&[first.clone(), second.clone()], range);
        let (ours, theirs) = (pairs(&first), pairs(&second));
        for sample in pairs(&joined) {
            prop_assert!(ours.contains(&sample) || theirs.contains(&sample));
        }
        for sample in &ours {
            prop_assert!(pairs(&joined).contains(sample), "the speaker lost {sample:?}");
        }
        for sample in &theirs {
            let begun = ours.first().is_some_and(|first| first.0 < sample.0);
            let silent = !ours.iter().any(|ours| (sample.0 - INTERVAL * 6 / 5..=sample.0).contains(&ours.0));
            prop_assert!(!(begun && silent) || pairs(&joined).contains(sample), "a gap was left at {sample:?}");
        }
    }
}

fn pair() -> Memory {
    let mut memory = Memory::new();
    for (replica, phase) in [("a", 0), ("b", 7_000)] {
        for (job, zone) in [("x", "1"), ("x", "2")] {
            let samples: Vec<_> = (0..20)
                .map(|scrape| (NOW - 300_000 + phase + scrape * INTERVAL, f64::from(phase as i32)))
                .collect();
            memory = memory.floats(
                &[("__name__", "up"), ("job", job), ("replica", replica), ("zone", zone)],
                &samples,
            );
        }
    }
    memory.floats(&[("__name__", "up"), ("job", "lone")], &[(NOW, 5.0)])
}

#[tokio::test]
async fn series_lose_their_replica_label_and_stay_sorted() {
    let reading = Reading {
        partial: true,
        replica_labels: ["replica".to_owned()].into(),
        dedup: Dedup::Gaps,
    };
    let select = reading.of(Arc::new(pair()));
    let request = SelectRequest::new(vec![Matcher::equal("__name__", "up")], TimeRange::ALL);
    let mut set = select.select(request.clone()).await.unwrap();
    let series = collect(&mut *set).await.unwrap();
    let labels: Vec<String> = series.iter().map(|(labels, _)| labels.to_string()).collect();
    let expected = [
        r#"{__name__="up", job="lone"}"#,
        r#"{__name__="up", job="x", zone="1"}"#,
        r#"{__name__="up", job="x", zone="2"}"#,
    ];
    assert_eq!(labels, expected);
    assert!(series[1].1.values.iter().all(|value| *value == 0.0), "replica a speaks");
    let mut set = select.select(SelectRequest { limit: 2, ..request }).await.unwrap();
    assert_eq!(
        collect(&mut *set).await.unwrap().len(),
        2,
        "a limit counts series as they come out"
    );
}

#[tokio::test]
async fn requests_can_switch_it_on_and_off() {
    let count = async |api: &Api, uri: &str| api.get(uri).await.data().as_array().unwrap().len();
    let set = QuerierSettings {
        replica_labels: vec!["replica".into()],
        ..QuerierSettings::default()
    };
    let on = Api::with(pair().shared(), set);
    assert_eq!(count(&on, "/api/v1/series?match[]=up").await, 3);
    assert_eq!(count(&on, "/api/v1/series?match[]=up&dedup=false").await, 5);
    assert_eq!(count(&on, "/api/v1/series?match[]=up&replicaLabels[]=zone").await, 3);
    let off = Api::new(pair());
    assert_eq!(count(&off, "/api/v1/series?match[]=up").await, 5);
    assert_eq!(
        count(&off, "/api/v1/series?match[]=up&replicaLabels[]=replica&dedup=true").await,
        3
    );
    let wrong = off.get("/api/v1/series?match[]=up&dedup=perhaps").await;
    wrong.fails(
        400,
        "bad_data",
        "invalid parameter \"dedup\": cannot parse \"perhaps\" to a bool",
    );
    assert_eq!(off.get("/api/v1/label/replica/values").await.data(), json!(["a", "b"]));
}
