//! Answers without order: series are joined by identities, and show the labels that are looked at.

use super::*;
use model::{
    identity::Identity,
    select::{IdentifiedSet, Select},
};

const KEY: u64 = 11;

async fn drain(set: &mut dyn IdentifiedSet) -> Vec<(Identity, String, Vec<Timestamp>)> {
    let mut all = Vec::new();
    while let Some(batch) = set.next().await {
        for (identity, series) in batch.unwrap() {
            let mut buffer = SampleBuffer::default();
            series.samples.read(TimeRange::ALL, &mut buffer).unwrap();
            all.push((identity, series.labels.to_string(), buffer.timestamps));
        }
    }
    assert_eq!(set.series_max(), 0);
    all
}

fn identified(select: &dyn Select, names: Option<&[&str]>) -> Vec<(Identity, String, Vec<Timestamp>)> {
    let mut request = SelectRequest::new(vec![Matcher::equal("__name__", "up")], TimeRange::ALL);
    request.hints.labels = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    let answer = select.select_identified(&request, KEY).unwrap();
    block_on(async { drain(&mut *answer.await.unwrap()).await })
}

#[test]
fn series_of_several_blocks_are_joined_whatever_labels_they_show() {
    let world = World::new();
    let (plain, zoned) = (
        [("tenant_id", "t"), ("replica", "a")],
        [("tenant_id", "t"), ("zone", "z")],
    );
    // One series has a label of its own where its block has an external one, which wins; so it is the same as another.
    let own = (labels(&[("__name__", "up"), ("job", "x"), ("zone", "own")]), at(&[7]));
    world.upload(1, 0, &plain, &[up("x", &[1, 2, 4]), up("y", &[5])]);
    world.upload(2, 2, &plain, &[up("w", &[2 * HOUR]), up("x", &[2 * HOUR])]);
    world.upload(3, 0, &zoned, &[up("x", &[3, 4]), own]);
    world.sync();
    let select = world.gateway.tenant(&Tenant::new("t").unwrap());
    let series = |job: &str, zone: &str| {
        let pairs = [("__name__", "up"), ("job", job), ("zone", zone)];
        Labels::new(pairs).unwrap()
    };
    let expected = |shown: &dyn Fn(&Labels) -> String| {
        let each = [
            (series("x", ""), vec![1, 2, 4, 2 * HOUR]),
            (series("y", ""), vec![5]),
            (series("x", "z"), vec![3, 4, 7]),
            (series("w", ""), vec![2 * HOUR]),
        ];
        let mut each =
            each.map(|(labels, times)| (labels.to_string(), Identity::of(&labels, KEY), shown(&labels), times));
        each.sort_by(|a, b| a.0.cmp(&b.0));
        each.map(|(_, identity, shown, times)| (identity, shown, times))
    };
    let in_order = |found: Vec<(Identity, String, Vec<Timestamp>)>, expected: &[(Identity, String, Vec<Timestamp>)]| {
        assert_eq!(found.len(), expected.len());
        for one in expected {
            assert!(found.contains(one), "{one:?} is not in {found:?}");
        }
    };
    in_order(identified(&*select, None), &expected(&|labels| labels.to_string()));
    in_order(identified(&*select, Some(&[])), &expected(&|_| "{}".to_owned()));
    let zone = |labels: &Labels| labels.filtered(|name| name == "zone").to_string();
    in_order(identified(&*select, Some(&["none", "zone"])), &expected(&zone));
}
