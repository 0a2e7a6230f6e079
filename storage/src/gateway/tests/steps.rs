//! Answers that come in many small steps are those that would come in one.

use super::*;
use crate::external::with_external;
use std::collections::BTreeSet;

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

#[test]
fn answers_in_small_steps_are_whole_and_in_order() {
    let world = World::with(|settings| settings.query_memory_bytes = 0);
    let (zone, shift) = ([("tenant_id", "t"), ("zone", "m")], [0, 2 * HOUR, 2 * HOUR]);
    let mut expected: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut in_order: BTreeSet<Labels> = BTreeSet::new();
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
            expected.entry(shown.to_string()).or_default().push(time);
            in_order.insert(shown);
            series.push((own, at(&[time])));
        }
        world.upload(number as u128 + 1, at_ms / HOUR, &zone, &series);
    }
    assert_eq!(world.sync().blocks, 3);
    let up = vec![Matcher::equal("__name__", "up")];
    let (found, warnings) = world.read("t", up.clone(), TimeRange::ALL).unwrap();
    assert_eq!(warnings, [""; 0]);
    let order: Vec<String> = in_order.iter().map(Labels::to_string).collect();
    let got: Vec<String> = found.iter().map(|(labels, _)| labels.clone()).collect();
    assert_eq!(got, order);
    for (labels, times) in found {
        assert_eq!(times, expected[&labels], "{labels}");
    }
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
