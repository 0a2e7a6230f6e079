//! Spread and moves of a million series as Thanos has them, node by node; what its reload dies of; its hash of a file.

use super::{Tally, file, lines, list, recordings, text};
use crate::ring::{
    NodeIndex,
    series_hash::SeriesHasher,
    thanos::{Algorithm, Rings, TenantRing},
};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

const SERIES: usize = 1_000_000;

/// Hashes of the series that were counted.
fn hashes() -> Vec<u64> {
    const NAMES: [&str; 5] = [
        "http_requests_total",
        "node_cpu_seconds_total",
        "container_memory_working_set_bytes",
        "go_goroutines",
        "up",
    ];
    let mut hashers: Vec<SeriesHasher> = (0..10)
        .map(|number| SeriesHasher::new(&format!("tenant-{number}")))
        .collect();
    let hash = |i: usize| {
        let instance = format!("10.{}.{}.{}:9100", i >> 16 & 255, i >> 8 & 255, i & 255);
        let number = i.to_string();
        hashers[i % 10].hash([
            ("__name__", NAMES[i % 5]),
            ("instance", instance.as_str()),
            ("job", "node"),
            ("n", number.as_str()),
        ])
    };
    (0..SERIES).map(hash).collect()
}

fn address(kind: &str, number: usize) -> String {
    match kind {
        "short" => format!("rcv-{number}:10901"),
        "k8s" => format!("thanos-receive-{number}.thanos-receive.monitoring.svc.cluster.local:10901"),
        "ip" => format!("10.0.0.{number}:10901"),
        other => panic!("{other:?}"),
    }
}

/// A ring of these nodes, given as number and zone.
fn ring(kind: &str, algorithm: &str, nodes: &[(usize, String)], copies: usize) -> Rings {
    let endpoint = |(number, zone): &(usize, String)| json!({"address": address(kind, *number), "az": zone});
    let endpoints: Vec<Value> = nodes.iter().map(endpoint).collect();
    let file = json!([{"algorithm": algorithm, "endpoints": endpoints}]).to_string();
    Rings::from_json(&file, Algorithm::Hashmod, copies).unwrap()
}

fn plain(numbers: impl Iterator<Item = usize>) -> Vec<(usize, String)> {
    numbers.map(|number| (number, String::new())).collect()
}

/// The number that stands in front of a word of a text, and so on.
fn numbers(text: &str) -> Vec<usize> {
    let words = text.split(|c: char| !c.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn a_million_series_lie_as_measured() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("spread of a million series", 0);
    let hashes = hashes();
    let mut known: HashMap<String, Vec<Vec<usize>>> = HashMap::new();
    let measured = lines(&folder, "measured.jsonl");
    // Copies of fewer are the first of more, so that a ring is asked once with the most.
    for line in measured.iter().rev().filter(|line| text(line, "kind") == "spread") {
        let (name, copies) = (text(line, "ring"), line["rf"].as_u64().unwrap() as usize);
        let by_copy = known
            .entry(name.to_owned())
            .or_insert_with(|| spread(name, copies, &hashes));
        let sum = |copies: usize| -> Vec<usize> {
            (0..by_copy[0].len())
                .map(|node| by_copy[..copies].iter().map(|counts| counts[node]).sum())
                .collect()
        };
        for (key, copies) in [("first_replica", 1), ("all_replicas", copies)] {
            if line[key].is_object() {
                let theirs: Vec<usize> = list(&line[key]["counts"])
                    .iter()
                    .map(|n| n.as_u64().unwrap() as usize)
                    .collect();
                tally.same(&format!("{name}, {key}"), sum(copies), theirs);
            }
        }
    }
    tally.done(48 * 2 + 3);
}

/// Series by copy and node.
fn spread(name: &str, copies: usize, hashes: &[u64]) -> Vec<Vec<usize>> {
    let algorithm = if name.starts_with("ketama") {
        "ketama"
    } else {
        "hashmod"
    };
    let kind = ["k8s", "ip"]
        .into_iter()
        .find(|kind| name.contains(&format!("{kind} addresses")))
        .unwrap_or("short");
    let (nodes, zones) = name.split_once("zones").unwrap_or((name, ""));
    let count = numbers(nodes)[0];
    let zones = numbers(zones.split(']').next().unwrap());
    let zone_of = zones
        .iter()
        .enumerate()
        .flat_map(|(zone, count)| vec![format!("az-{zone}"); *count]);
    let nodes: Vec<(usize, String)> = match zones.is_empty() {
        true => plain(0..count),
        false => (0..count).zip(zone_of).collect(),
    };
    let rings = ring(kind, algorithm, &nodes, copies);
    let view = rings.tenant("whoever").unwrap();
    let place: HashMap<&str, usize> = rings
        .nodes()
        .iter()
        .enumerate()
        .map(|(at, node)| (node.address.as_str(), at))
        .collect();
    let mut counts = vec![vec![0; count]; copies];
    for hash in hashes {
        for (copy, owner) in view.owners(*hash).iter().enumerate() {
            counts[copy][*owner as usize] += 1;
        }
    }
    // The recording counts in the order of the ring: as configured, or sorted by address.
    let mut order: Vec<String> = (0..count).map(|number| address(kind, number)).collect();
    if algorithm == "hashmod" {
        order.sort();
    }
    let in_order = |counts: &Vec<usize>| order.iter().map(|address| counts[place[address.as_str()]]).collect();
    counts.iter().map(in_order).collect()
}

#[test]
fn joins_and_leaves_move_what_was_measured() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("moves of a million series", 0);
    let hashes = hashes();
    for line in lines(&folder, "measured.jsonl")
        .iter()
        .filter(|line| text(line, "kind") == "move")
    {
        let (change, copies) = (text(line, "change"), line["rf"].as_u64().unwrap() as usize);
        let algorithm = change.split(' ').next().unwrap();
        let kind = if text(line, "addresses").is_empty() {
            "short"
        } else {
            text(line, "addresses")
        };
        let [before, after] = numbers(change)[..] else {
            panic!("{change}")
        };
        let first = usize::from(change.contains("(first)"));
        let rings = [0..before, first..first + after].map(|nodes| ring(kind, algorithm, &plain(nodes), copies));
        let moved = match algorithm {
            // The recording compares places in the list.
            "hashmod" => [places_moved(&rings, &hashes); 3],
            _ => moved(&rings, copies, &hashes),
        };
        for (key, moved) in ["first_replica_moved", "copies_moved", "series_with_a_new_node"]
            .iter()
            .zip(moved)
        {
            if let Some(theirs) = line[*key].as_f64() {
                let digits = if algorithm == "hashmod" { 1e6 } else { 1e4 };
                tally.same(
                    &format!("{change}, {kind}, {key}"),
                    (moved * digits).round() / digits,
                    theirs,
                );
            }
        }
    }
    tally.done(32 * 3 + 3);
}

/// Shares: of series whose first copy moved, of copies that moved, of series with at least one new node.
fn moved(rings: &[Rings; 2], copies: usize, hashes: &[u64]) -> [f64; 3] {
    let [before, after] = rings;
    let (views, nodes) = (
        [before.tenant("t").unwrap(), after.tenant("t").unwrap()],
        [before.nodes(), after.nodes()],
    );
    let number: HashMap<&str, NodeIndex> = nodes[0]
        .iter()
        .zip(0..)
        .map(|(node, at)| (node.address.as_str(), at))
        .collect();
    let old: Vec<Option<NodeIndex>> = nodes[1]
        .iter()
        .map(|node| number.get(node.address.as_str()).copied())
        .collect();
    let [mut first, mut all, mut any] = [0u64; 3];
    for hash in hashes {
        let [before, after] = [views[0].owners(*hash), views[1].owners(*hash)];
        let is_new = |node: &NodeIndex| old[*node as usize].is_none_or(|node| !before.contains(&node));
        let new = after.iter().filter(|node| is_new(node)).count() as u64;
        first += u64::from(old[after[0] as usize] != Some(before[0]));
        all += new;
        any += u64::from(new > 0);
    }
    let series = hashes.len() as f64;
    [
        first as f64 / series,
        all as f64 / (series * copies as f64),
        any as f64 / series,
    ]
}

/// Share of series whose first copy has another place in the list of addresses.
fn places_moved(rings: &[Rings; 2], hashes: &[u64]) -> f64 {
    let [before, after] = rings.each_ref().map(|rings| {
        let mut sorted: Vec<&str> = rings.nodes().iter().map(|node| node.address.as_str()).collect();
        sorted.sort_unstable();
        let place = |address: &str| sorted.iter().position(|other| *other == address).unwrap();
        let places: Vec<usize> = rings.nodes().iter().map(|node| place(&node.address)).collect();
        (rings.tenant("t").unwrap(), places)
    });
    let place = |ring: &(TenantRing<'_>, Vec<usize>), hash: u64| ring.1[ring.0.owners(hash)[0] as usize];
    let moved = hashes
        .iter()
        .filter(|hash| place(&before, **hash) != place(&after, **hash));
    moved.count() as f64 / hashes.len() as f64
}

#[test]
fn shards_of_tenants_lie_as_measured() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("shards of tenants", 0);
    for line in lines(&folder, "measured.jsonl")
        .iter()
        .filter(|line| text(line, "kind") == "shuffle-shard")
    {
        let number = |key: &str| line[key].as_u64().unwrap() as usize;
        let size = number("shard_size");
        let shards = |nodes: usize| -> Vec<HashSet<String>> {
            let endpoints: Vec<String> = (0..nodes).map(|node| address("short", node)).collect();
            let config = json!({"shard_size": size});
            let file = json!([{"algorithm": "ketama", "endpoints": endpoints, "shuffle_sharding_config": config}]);
            let rings = Rings::from_json(&file.to_string(), Algorithm::Ketama, 1).unwrap();
            let shard = |tenant: usize| {
                let view = rings.tenant(&format!("tenant-{tenant}")).unwrap();
                let members = view.shard_members().expect("the ring shards");
                members
                    .map(|node| rings.nodes()[node as usize].address.clone())
                    .collect()
            };
            (0..number("tenants")).map(shard).collect()
        };
        let (before, after) = (shards(number("nodes_before")), shards(number("nodes_after")));
        let mut tenants: HashMap<&String, usize> = HashMap::new();
        before
            .iter()
            .flatten()
            .for_each(|node| *tenants.entry(node).or_default() += 1);
        tally.same(
            "most",
            tenants.values().max().copied(),
            Some(number("tenants_per_node_max")),
        );
        tally.same(
            "least",
            tenants.values().min().copied(),
            Some(number("tenants_per_node_min")),
        );
        let pairs = || before.iter().zip(&after);
        let changed = pairs().filter(|(before, after)| before != after).count() as f64 / before.len() as f64;
        tally.same(
            "changed",
            changed,
            line["tenants_with_a_changed_shard"].as_f64().unwrap(),
        );
        let members: usize = pairs().map(|(before, after)| after.difference(before).count()).sum();
        let members = members as f64 / (before.len() * size) as f64;
        tally.same("members", members, line["shard_members_changed"].as_f64().unwrap());
    }
    tally.done(12);
}

/// Thanos dies when rings with shards are built a second time, or when two of them share a name. Here both are everyday.
#[test]
fn rings_with_shards_can_be_built_again() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("reloads", 0);
    for line in lines(&folder, "shuffle_reload.jsonl") {
        let case = text(&line, "case");
        let ring = |name: &str, tenant: &str| {
            json!({
                "hashring": name, "tenants": [tenant], "algorithm": "ketama", "endpoints": ["a:1", "b:1", "c:1"],
                "shuffle_sharding_config": {"shard_size": 2},
            })
        };
        let [one, other] = match case {
            _ if case.contains("same name") => ["x", "x"],
            _ if case.contains("without a name") => ["", ""],
            _ => ["x", "y"],
        };
        let file = json!([ring(one, "a"), ring(other, "b")]).to_string();
        let build = || Rings::from_json(&file, Algorithm::Hashmod, 2);
        let (first, again) = (build(), build());
        tally.same(case, (first.is_ok(), again.is_ok()), (true, true));
    }
    tally.done(5);
}

#[test]
fn the_hash_of_a_file_agrees() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("hashes of files", 0);
    for line in lines(&folder, "config.jsonl") {
        if let Some(theirs) = line["config_hash_metric"].as_u64() {
            tally.same(text(&line, "case"), file::config_hash(text(&line, "input")), theirs);
        }
    }
    tally.done(41);
}
