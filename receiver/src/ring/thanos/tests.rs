//! What a ring file does, in small rings; needs no recordings.

use super::*;
use crate::ring::series_hash::series_hash;
use model::label::Labels;

const ZONED: &str = r#"[{"algorithm": "ketama", "endpoints": [
    {"address": "north-0:10901", "az": "n"}, {"address": "north-1:10901", "az": "n"}, {"address": "north-2:10901", "az": "n"},
    {"address": "south-0:10901", "az": "s"}, {"address": "south-1:10901", "az": "s"}, {"address": "south-2:10901", "az": "s"},
    {"address": "west-0:10901", "az": "w"}, {"address": "west-1:10901", "az": "w"}, {"address": "west-2:10901", "az": "w"}]"#;

fn rings(text: &str, copies: usize) -> Rings {
    Rings::from_json(text, Algorithm::Ketama, copies).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn names<'a>(rings: &'a Rings, owners: &Owners) -> Vec<&'a str> {
    owners
        .iter()
        .map(|&owner| rings.nodes()[owner as usize].address.split(':').next().unwrap())
        .collect()
}

fn up(job: &str) -> u64 {
    series_hash("team-a", &Labels::new([("__name__", "up"), ("job", job)]).unwrap())
}

#[test]
fn places_stay_what_they_were() {
    let ketama = rings(&format!("{ZONED}}}]"), 3);
    let sharded = rings(
        &format!(r#"{ZONED}, "shuffle_sharding_config": {{"shard_size": 3}}}}]"#),
        3,
    );
    let hashmod = rings(r#"[{"algorithm": "hashmod", "endpoints": ["c:1", "a:1", "b:1"]}]"#, 2);
    let place = |rings: &Rings, job| names(rings, &rings.tenant("team-a").unwrap().owners(up(job))).join(" ");
    for (job, three, shard, two) in [
        ("node", "north-1 south-0 west-1", "north-2 west-1 south-2", "b c"),
        ("api", "west-2 south-1 north-0", "west-1 north-2 south-2", "c a"),
        ("etcd", "south-0 north-0 west-0", "south-2 west-1 north-2", "b c"),
    ] {
        let places = [place(&ketama, job), place(&sharded, job), place(&hashmod, job)];
        assert_eq!(places, [three, shard, two], "job {job}");
    }
}

#[test]
fn the_first_ring_that_fits_serves_the_tenant() {
    let rings = rings(
        r#"[{"tenants": ["a"], "endpoints": ["one:1"]},
            {"tenants": ["team-*"], "tenant_matcher_type": "glob", "endpoints": ["two:1"]}]"#,
        1,
    );
    let chosen = |tenant| rings.tenant(tenant).map(|view| names(&rings, &view.owners(1)).concat());
    assert_eq!(chosen("a").as_deref(), Some("one"));
    assert_eq!(chosen("team-b").as_deref(), Some("two"));
    assert_eq!(chosen("b"), None);
}

#[test]
fn a_dead_node_is_replaced_at_its_place() {
    for (text, zoned) in [
        (format!("{ZONED}}}]"), true),
        (
            r#"[{"algorithm": "hashmod", "endpoints": ["a:1", "b:1", "c:1", "d:1"]}]"#.to_owned(),
            false,
        ),
    ] {
        let rings = rings(&text, 3);
        let view = rings.tenant("t").unwrap();
        for job in 0..200 {
            let hash = up(&job.to_string());
            let owners = view.owners(hash);
            let now = view.owners_among(hash, |node| node != owners[1]);
            assert_eq!((now[0], now[2]), (owners[0], owners[2]));
            assert!(!owners.contains(&now[1]));
            let zone = |node: NodeIndex| &rings.nodes()[node as usize].zone;
            assert_eq!(zoned, zoned && zone(now[1]) == zone(owners[1]));
            assert_eq!(view.owners_among(hash, |_| true), owners);
            assert_eq!(view.owners_among(hash, |_| false), owners);
        }
    }
}

#[test]
fn a_shard_is_left_only_when_nobody_inside_is_alive() {
    let rings = rings(
        &format!(r#"{ZONED}, "shuffle_sharding_config": {{"shard_size": 6}}}}]"#),
        3,
    );
    let view = rings.tenant("team-a").unwrap();
    let shard: HashSet<NodeIndex> = (0..300)
        .flat_map(|job| view.owners(up(&job.to_string())).to_vec())
        .collect();
    assert_eq!(shard.len(), 6);
    for job in 0..200 {
        let hash = up(&job.to_string());
        let owners = view.owners(hash);
        assert!(shard.contains(&view.owners_among(hash, |node| node != owners[0])[0]));
        let spare: Vec<NodeIndex> = shard.iter().copied().filter(|node| !owners.contains(node)).collect();
        let now = view.owners_among(hash, |node| node != owners[0] && !spare.contains(&node));
        assert!(!shard.contains(&now[0]));
    }
}

#[test]
fn memory_of_shards_is_bounded_and_forgetting_changes_nothing() {
    let rings = rings(
        &format!(r#"{ZONED}, "shuffle_sharding_config": {{"shard_size": 3, "cache_size": 2}}}}]"#),
        3,
    );
    let place = |tenant: &str| rings.tenant(tenant).unwrap().owners(7);
    let first = place("tenant-0");
    for tenant in 0..20 {
        place(&format!("tenant-{tenant}"));
        let cache = &rings.rings[0].shuffle.as_ref().unwrap().cache;
        let kept = cache.kept.lock();
        assert!(kept.shards.len() <= 2 && kept.order.len() == kept.shards.len());
    }
    assert_eq!(place("tenant-0"), first);
}

#[test]
fn rings_that_cannot_work_are_refused_with_the_reason() {
    let two = r#""endpoints": ["a:1", "b:1"]"#;
    for (text, copies, expected) in [
        ("{".to_owned(), 1, "not JSON"),
        (format!("[{{{two}}}]"), 0, "replication factor 0"),
        (format!("[{{{two}}}]"), 10, "replication factor 10"),
        (format!("[{{{two}}}]"), 3, "hashring 0: 2 endpoints cannot hold 3 copies"),
        (r#"[{"hashring": "x"}]"#.to_owned(), 1, r#"hashring 0 ("x"): 0 endpoints cannot hold 1 copies"#),
        (format!(r#"[{{{two}, "algorithm": "hashmod"}}]"#), 3, "2 endpoints cannot hold 3 copies"),
        (format!(r#"[{{{two}, "algorithm": "Ketama"}}]"#), 1, r#"unknown algorithm "Ketama""#),
        (format!(r#"[{{{two}, "tenants": ["a"], "tenant_matcher_type": "regex"}}]"#), 1, "exact or glob"),
        (format!(r#"[{{{two}, "tenants": ["["], "tenant_matcher_type": "glob"}}]"#), 1, r#"malformed tenant pattern "[""#),
        (r#"[{"endpoints": ["a:1", {"address": "a:1", "az": "z"}]}]"#.to_owned(), 1, r#""a:1" stands twice"#),
        (r#"[{"algorithm": "hashmod", "endpoints": [{"address": "a:1", "az": "z"}]}]"#.to_owned(), 1, "cannot heed zones"),
        (format!(r#"[{{{two}, "algorithm": "hashmod", "shuffle_sharding_config": {{"shard_size": 1}}}}]"#), 1, "shuffle"),
        (format!(r#"[{{{two}, "shuffle_sharding_config": {{"shard_size": 3}}}}]"#), 1, "larger than the ring of 2"),
        (format!(r#"[{{{two}, "shuffle_sharding_config": {{"shard_size": 1}}}}]"#), 2, "1 endpoints cannot hold 2"),
        (
            r#"[{"endpoints": [{"address": "a:1", "az": "x"}, {"address": "b:1", "az": "y"}, {"address": "c:1", "az": "y"},
                {"address": "d:1", "az": "y"}]}]"#
                .to_owned(),
            4,
            "can hold 3 copies, not 4",
        ),
        (format!(r#"{ZONED}, "shuffle_sharding_config": {{"shard_size": 5, "zone_awareness_disabled": true}}}}]"#), 4, "uneven"),
        (
            format!(r#"[{{{two}, "shuffle_sharding_config": {{"shard_size": 1, "overrides": [{{"shard_size": 1, "tenants": ["a"]}}]}}}}]"#),
            1,
            "write exact or glob",
        ),
        (
            format!(
                r#"[{{{two}, "shuffle_sharding_config": {{"shard_size": 1, "overrides": [{{"shard_size": -1, "tenants": ["a"],
                "tenant_matcher_type": "exact"}}]}}}}]"#
            ),
            1,
            "shard_size -1 is not positive",
        ),
    ] {
        let error = Rings::from_json(&text, Algorithm::Ketama, copies).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn what_has_no_effect_is_told() {
    let rings = rings(
        r#"[{"hashring": "all", "endpoints": ["a:1"], "external_labels": {"x": "1"}},
            {"endpoints": ["a:1"], "tenants": ["t*"], "tenant_matcher_type": "glob", "external_labels": {"x": "1"},
             "shuffle_sharding_config": {"shard_size": -1, "overrides": [{"shard_size": 1}]}}]"#,
        1,
    );
    let warnings = rings.warnings().join("\n");
    assert_eq!(rings.warnings().len(), 5, "{warnings}");
    assert!(warnings.contains(r#"hashring 1 is never used: hashring 0 ("all") in front of it serves every tenant"#));
}
