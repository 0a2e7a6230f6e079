//! Answers that come in many small steps are those that would come in one.

use super::*;
use crate::external::with_external;
use model::identity::Identity;
use std::collections::{BTreeSet, HashMap};

/// Series of which many are the beginning of others, so that a label that is added changes their order.
fn kin(count: usize) -> BTreeSet<Labels> {
    let mut all = BTreeSet::new();
    for index in 0..count {
        let mut pairs = vec![("__name__", "up".to_owned()), ("job", format!("j{:04}", index / 3))];
        if index % 3 > 0 {
            pairs.push(("pod", format!("p{}", index % 3)));
        }
        if index % 6 == 5 {
            pairs.push(("zz", "last".to_owned()));
        }
        all.insert(Labels::new(pairs).unwrap());
    }
    all
}

/// Three blocks of which queries hold as little as can be, and each series of theirs with its samples.
fn blocks_of_kin() -> (World, BTreeMap<Labels, Vec<i64>>) {
    let world = World::with(|settings| settings.query_memory_bytes = 0);
    let (zone, shift) = ([("tenant_id", "t"), ("zone", "m")], [0, 2 * HOUR, 2 * HOUR]);
    let mut expected: BTreeMap<Labels, Vec<i64>> = BTreeMap::new();
    for (number, at_ms) in shift.into_iter().enumerate() {
        let mut series: Vec<(Labels, Vec<Chunk>)> = Vec::new();
        for (index, own) in kin(4000).into_iter().enumerate() {
            // The third block has labels of its own where others have external ones, so that nothing is in order.
            let own = match number {
                2 => own.with("zone", ["a", "z"][index % 2]),
                _ => own,
            };
            let time = at_ms + number as i64;
            let shown = with_external(&own, &labels(&zone[1..]));
            expected.entry(shown).or_default().push(time);
            series.push((own, at(&[time])));
        }
        world.upload(number as u128 + 1, at_ms / HOUR, &zone, &series);
    }
    assert_eq!(world.sync().blocks, 3);
    (world, expected)
}

#[test]
fn answers_in_small_steps_are_whole_and_in_order() {
    let (world, expected) = blocks_of_kin();
    let up = vec![Matcher::equal("__name__", "up")];
    let (found, warnings) = world.read("t", up.clone(), TimeRange::ALL).unwrap();
    assert_eq!(warnings, [""; 0]);
    let order: Vec<String> = expected.keys().map(Labels::to_string).collect();
    let expected = order.iter().cloned().zip(expected.into_values());
    assert!(found.into_iter().eq(expected));
    assert_eq!(world.gateway.shared.metrics.query_memory.get(), 0, "nothing is held");

    // A limit counts series of the answer, and labels alone come in the same order.
    let select = world.gateway.tenant(&Tenant::new("t").unwrap());
    for labels_only in [false, true] {
        let mut request = SelectRequest::new(up.clone(), TimeRange::ALL);
        (request.limit, request.labels_only) = (1500, labels_only);
        let mut set = block_on(select.select(request)).unwrap();
        let mut names = Vec::new();
        while let Some(batch) = block_on(set.next()) {
            names.extend(batch.unwrap().iter().map(|series| series.labels.to_string()));
        }
        assert_eq!(names, order[..1500]);
    }
}

#[test]
fn answers_without_order_come_in_small_steps_as_well() {
    let (world, expected) = blocks_of_kin();
    let select = world.gateway.tenant(&Tenant::new("t").unwrap());
    let (mut request, key) = (SelectRequest::new(vec![], TimeRange::ALL), 5);
    request.hints.labels = Some(["pod".to_owned()].into());
    let mut set = block_on(select.select_identified(&request, key).unwrap()).unwrap();
    let (mut got, mut most) = (HashMap::new(), set.series_max());
    while let Some(batch) = block_on(set.next()) {
        let batch = batch.unwrap();
        assert!(batch.len() + set.series_max() <= most, "more came than was said");
        most = set.series_max();
        for (identity, series) in batch {
            let mut buffer = SampleBuffer::default();
            series.samples.read(TimeRange::ALL, &mut buffer).unwrap();
            let before = got.insert(identity, (series.labels.to_string(), buffer.timestamps));
            assert!(before.is_none(), "a series came twice");
        }
    }
    assert_eq!(most, 0);
    drop(set);
    let shown = |labels: &Labels| labels.filtered(|name| name == "pod").to_string();
    let expected = expected
        .into_iter()
        .map(|(labels, times)| (Identity::of(&labels, key), (shown(&labels), times)));
    assert!(got == expected.collect::<HashMap<_, _>>());
    assert_eq!(world.gateway.shared.metrics.query_memory.get(), 0, "nothing is held");
}

#[test]
fn chunks_that_replicas_have_in_common_are_given_once() {
    let world = World::new();
    for (number, replica) in [(1, "a"), (2, "b")] {
        let external = [("tenant_id", "t"), ("replica", replica)];
        world.upload(number, 0, &external, &[up("x", &[1, 2, 3]), up(replica, &[4])]);
    }
    world.sync();
    let select = world.gateway.tenant(&Tenant::new("t").unwrap());
    let mut set = block_on(select.select(SelectRequest::new(vec![], TimeRange::ALL))).unwrap();
    let series = block_on(set.next()).unwrap().unwrap();
    let chunks: Vec<usize> = series
        .iter()
        .map(|series| series.samples.chunks().unwrap().len())
        .collect();
    assert_eq!(chunks, [1, 1, 1]);
}
