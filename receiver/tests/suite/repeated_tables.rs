//! Remote write 2.0 from senders that repeat their symbol tables: series are known by the bytes of their references, and never taken
//! for others whatever a table says.

use crate::common::*;
use model::metadata::{Metadata, MetricType};
use proptest::prelude::*;
use proto::compression::snappy;
use proto::protobuf::{put_bytes, put_double, put_integer, put_varint};
use proto::remote_write::encode::{Points, V2Encoder};
use std::collections::BTreeMap;

/// One sample of each of `count` series of a host, described.
fn scrape(host: &str, count: usize, kind: MetricType, at: i64) -> Vec<u8> {
    let mut encoder = V2Encoder::default();
    for number in 0..count {
        let name = format!("metric_{number}");
        let labels = [("__name__", name.as_str()), ("host", host)];
        let floats = [float(at, number as f64)];
        let points = Points {
            floats: &floats,
            ..Points::default()
        };
        let metadata = Metadata {
            family: String::new(),
            kind,
            help: format!("What {name} tells."),
            unit: String::new(),
        };
        encoder.series(labels, points, Some(&metadata));
    }
    encoder.finish()
}

/// A request by hand: a table, and series by the bytes of their references, each with a sample at `at`.
fn request_of(symbols: &[&str], series: &[&[u32]], at: i64) -> Vec<u8> {
    let mut body = Vec::new();
    for symbol in symbols {
        put_bytes(&mut body, 4, symbol.as_bytes());
    }
    for refs in series {
        let (mut packed, mut sample, mut message) = (Vec::new(), Vec::new(), Vec::new());
        refs.iter()
            .for_each(|number| put_varint(&mut packed, u64::from(*number)));
        put_double(&mut sample, 1, 1.0);
        put_integer(&mut sample, 2, at as u64);
        put_bytes(&mut message, 1, &packed);
        put_bytes(&mut message, 2, &sample);
        put_bytes(&mut body, 5, &message);
    }
    body
}

fn times(stand: &Stand, labels: &[(&str, &str)]) -> Vec<i64> {
    stand.floats(labels).into_iter().map(|(at, _)| at).collect()
}

#[test]
fn a_steady_sender_is_known_by_its_references_from_the_second_time_on() {
    let stand = Stand::default();
    for round in 0..5 {
        let answer = stand.v2(&scrape("a", 100, MetricType::Gauge, NOW + round));
        assert_eq!(
            (answer.status.as_u16(), written(&answer)),
            (204, [Some(100), Some(0), Some(0)])
        );
        let spellings = if round == 0 { 100.0 } else { 200.0 };
        assert_eq!(stand.metric("narthex_receiver_route_spellings"), spellings);
    }
    assert_eq!(stand.metric("narthex_receiver_route_misses_total"), 100.0);
    assert_eq!(stand.metric("narthex_receiver_route_hits_total"), 400.0);
    assert_eq!(stand.taker.sample_count(), 500);
    // Another table for the same series: they are known by their symbols.
    assert_eq!(
        stand.v2(&scrape("a", 50, MetricType::Gauge, NOW + 9)).status.as_u16(),
        204
    );
    assert_eq!(stand.metric("narthex_receiver_route_misses_total"), 100.0);
}

#[test]
fn the_same_references_into_another_table_are_other_series() {
    let stand = Stand::default();
    let refs: &[&[u32]] = &[&[1, 2], &[1, 2, 3, 4]];
    let tables = [["", "__name__", "up", "job", "a"], ["", "__name__", "up", "job", "b"]];
    for round in 0..12 {
        let table = tables[round / 2 % 2];
        assert_eq!(
            stand.v2(&request_of(&table, refs, NOW + round as i64)).status.as_u16(),
            204
        );
    }
    let all: Vec<i64> = (0..12).map(|round| NOW + round).collect();
    assert_eq!(times(&stand, &[("__name__", "up")]), all);
    let (first, second): (Vec<i64>, Vec<i64>) = all.iter().partition(|at| (*at - NOW) / 2 % 2 == 0);
    assert_eq!(times(&stand, &[("__name__", "up"), ("job", "a")]), first);
    assert_eq!(times(&stand, &[("__name__", "up"), ("job", "b")]), second);
}

#[test]
fn tenants_with_the_same_table_keep_their_series_apart() {
    let stand = Stand::default();
    for round in 0..6 {
        for tenant in ["one", "two"] {
            let body = scrape("a", 10, MetricType::Counter, NOW + round);
            let mut request = request(V2, "snappy", snappy(&body));
            request.tenant = Some(tenant.to_owned());
            assert_eq!(stand.write(request).status.as_u16(), 204);
        }
    }
    for tenant in ["one", "two"] {
        let labels = [("__name__", "metric_7"), ("host", "a")];
        assert_eq!(stand.floats_of(tenant, &labels).len(), 6, "{tenant}");
    }
    assert_eq!(stand.taker.sample_count(), 120);
}

#[test]
fn metadata_that_changes_is_seen_though_table_and_references_stay() {
    let stand = Stand::default();
    let send = |kind, at| {
        let misses = stand.metric("narthex_receiver_route_misses_total");
        assert_eq!(stand.v2(&scrape("a", 3, kind, NOW + at)).status.as_u16(), 204);
        stand.metric("narthex_receiver_route_misses_total") - misses
    };
    assert_eq!(send(MetricType::Gauge, 0), 3.0);
    assert_eq!(send(MetricType::Gauge, 1), 0.0);
    assert_eq!(send(MetricType::Gauge, 2), 0.0);
    assert_eq!(send(MetricType::Counter, 3), 3.0, "decoded anew for its metadata");
    assert_eq!(send(MetricType::Counter, 4), 0.0);
    assert_eq!(stand.taker.sample_count(), 15);
}

#[test]
fn what_is_refused_is_refused_each_time() {
    let stand = Stand::default();
    let table = ["", "__name__", "up", "job"];
    for round in 0..4 {
        let series: &[&[u32]] = &[&[1, 2], &[1, 2, 3], &[1, 9], &[3, 2]];
        let answer = stand.v2(&request_of(&table, series, NOW + round));
        assert_eq!(
            (answer.status.as_u16(), written(&answer)),
            (400, [Some(1), Some(0), Some(0)])
        );
        // Known by its references, and without a sample.
        let mut empty = request_of(&table, &[&[1, 2]], NOW + 100 + round);
        put_bytes(&mut empty, 5, &[0x0a, 2, 1, 2]);
        let answer = stand.v2(&empty);
        assert_eq!(
            (answer.status.as_u16(), written(&answer)),
            (400, [Some(1), Some(0), Some(0)])
        );
    }
    assert_eq!(times(&stand, &[("__name__", "up")]).len(), 8);
}

#[test]
fn a_taker_that_restarted_is_sent_the_labels_of_series_known_by_their_references() {
    let stand = Stand::default();
    let send = |at| stand.v2(&scrape("a", 20, MetricType::Gauge, NOW + at)).status.as_u16();
    (0..3).for_each(|at| assert_eq!(send(at), 204));
    stand.taker.restart();
    (3..6).for_each(|at| assert_eq!(send(at), 204));
    assert_eq!(stand.taker.sample_count(), 120);
    assert_eq!(
        stand.metric("narthex_receiver_routes_refused_total"),
        20.0,
        "once for each series"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever tables and references come in whatever order, each sample goes to the series that its references spell.
    #[test]
    fn every_sample_goes_where_its_references_say(
        tables in prop::collection::vec(prop::sample::subsequence(vec!["a", "b", "c", "d", "e", "f"], 3..=6), 1..4),
        requests in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec((2..4u32, 2..4u32, any::<bool>()), 1..6)), 1..12),
    ) {
        let stand = Stand::default();
        let mut expected: BTreeMap<Vec<(String, String)>, Vec<i64>> = BTreeMap::new();
        for (at, (table, series)) in (NOW..).zip(requests) {
            let mut symbols = vec!["", "__name__"];
            symbols.extend(&tables[table.index(tables.len())]);
            let mut refs: Vec<Vec<u32>> = Vec::new();
            for (metric, value, labelled) in series {
                let label = [4, value].into_iter().filter(|_| labelled);
                let one: Vec<u32> = [1, metric].into_iter().chain(label).collect();
                let pairs = one.chunks(2).map(|pair| (symbols[pair[0] as usize].to_owned(), symbols[pair[1] as usize].to_owned()));
                let times = expected.entry(pairs.collect()).or_default();
                if times.last() != Some(&at) {
                    times.push(at);
                }
                refs.push(one);
            }
            let refs: Vec<&[u32]> = refs.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(stand.v2(&request_of(&symbols, &refs, at)).status.as_u16(), 204);
        }
        for (labels, times_expected) in expected {
            let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            prop_assert_eq!(times(&stand, &labels), times_expected, "{:?}", labels);
        }
    }
}
