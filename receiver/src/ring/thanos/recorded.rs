//! Agreement with Thanos: every recorded vector of a real Thanos Receive. The recordings lie outside the repository, in `thanos-hashring`
//! below `golden` of the folder that `NARTHEX_SHARED` names.

use super::{
    build::{self, entries},
    file::RingConfig,
    go_random::GoRandom,
    ketama::Entry,
    *,
};
use crate::ring::series_hash::SeriesHasher;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

mod measured;
mod tenants;

/// The folder of recordings, if it is there.
fn recordings() -> Option<PathBuf> {
    let shared = std::env::var_os("NARTHEX_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")));
    let folder = shared.join("golden/thanos-hashring");
    if !folder.is_dir() {
        eprintln!(
            "SKIPPED: no recordings of Thanos in {}; set NARTHEX_SHARED",
            folder.display()
        );
        return None;
    }
    Some(folder)
}

/// The lines of one recording.
#[expect(clippy::disallowed_methods, reason = "reads test data")]
fn lines(folder: &std::path::Path, name: &str) -> Vec<Value> {
    let bytes = std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = String::from_utf8(bytes).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}")))
        .collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(|item| item.as_str().unwrap()).collect()
}

fn hex(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap(), 16).unwrap()
}

fn pairs(value: &Value) -> Vec<(&str, &str)> {
    list(value)
        .iter()
        .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect()
}

fn hash(tenant: &str, labels: &Value) -> u64 {
    SeriesHasher::new(tenant).hash(pairs(labels))
}

/// Endpoints of a recording, each entry a node of its own even when an address stands twice.
fn endpoints(value: &Value) -> Vec<(NodeIndex, Endpoint)> {
    let endpoint = |value: &Value| Endpoint {
        address: text(value, "address").into(),
        zone: text(value, "az").into(),
    };
    list(value)
        .iter()
        .enumerate()
        .map(|(index, value)| (index as NodeIndex, endpoint(value)))
        .collect()
}

/// The addresses of owners, given the entries that the node numbers count.
fn addresses<'a>(entries: &[Entry<'a>], owners: &[NodeIndex]) -> Vec<&'a str> {
    owners.iter().map(|&owner| entries[owner as usize].address).collect()
}

fn hashmod_owners(order: &[NodeIndex], hash: u64, copies: usize) -> Vec<NodeIndex> {
    (0..copies as u64)
        .map(|copy| order[(hash.wrapping_add(copy) % order.len() as u64) as usize])
        .collect()
}

/// Counts comparisons and says how many there were, so that an empty recording does not pass for agreement.
struct Tally(&'static str, usize);

impl Tally {
    #[track_caller]
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, ours: T, theirs: T) {
        assert_eq!(ours, theirs, "{}: {what}", self.0);
        self.1 += 1;
    }

    fn done(self, at_least: usize) {
        println!("{}: {} comparisons with Thanos", self.0, self.1);
        assert!(self.1 >= at_least, "{}: only {} comparisons", self.0, self.1);
    }
}

/// Hashes, in the order of the series' numbers.
fn series(folder: &std::path::Path) -> Vec<u64> {
    lines(folder, "series.jsonl")
        .iter()
        .map(|line| hash(text(line, "tenant"), &line["labels"]))
        .collect()
}

#[test]
fn hashes_agree() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("series and sections", 0);
    for line in lines(&folder, "series.jsonl") {
        tally.same(
            &line["id"].to_string(),
            hash(text(&line, "tenant"), &line["labels"]),
            hex(&line["hash"]),
        );
    }
    for line in lines(&folder, "section_hashes.jsonl") {
        for pair in list(&line["hashes"]) {
            let section = format!("{}:{}", text(&line, "address"), pair[0]);
            tally.same(
                &section,
                xxhash_rust::xxh64::xxh64(section.as_bytes(), 0),
                hex(&pair[1]),
            );
        }
    }
    tally.done(332);
}

#[test]
fn whole_rings_agree() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("whole rings", 0);
    let digest = |ring: &Ketama, entries: &[Entry<'_>], shown: usize| {
        let mut sum = Sha256::new();
        for (section, owners) in ring.sections() {
            sum.update(format!(
                "{section:016x} {}\n",
                addresses(entries, &owners[..shown]).join(" ")
            ));
        }
        sum.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    for line in lines(&folder, "rings.jsonl")
        .iter()
        .filter(|line| text(line, "algorithm") == "ketama")
    {
        let (name, endpoints) = (text(line, "ring"), endpoints(&line["endpoints"]));
        let entries = entries(&endpoints);
        let one = Ketama::new(&entries, 1).unwrap();
        tally.same(name, one.sections().count() as u64, line["sections"].as_u64().unwrap());
        if let Some(sum) = line["sorted_sha256"].as_str() {
            tally.same(name, digest(&one, &entries, 1), sum.to_owned());
        }
        for (copies, sum) in line["replicas_sha256"].as_object().into_iter().flatten() {
            let ring = Ketama::new(&entries, copies.parse().unwrap()).unwrap();
            tally.same(
                name,
                digest(&ring, &entries, copies.parse().unwrap()),
                sum.as_str().unwrap().to_owned(),
            );
        }
    }
    tally.done(25 + 26 + 70);
}

#[test]
fn placements_agree() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("placements", 0);
    let hashes = series(&folder);
    let rings: HashMap<String, Value> = lines(&folder, "rings.jsonl")
        .into_iter()
        .map(|line| (text(&line, "ring").to_owned(), line))
        .collect();
    for line in lines(&folder, "placements.jsonl")
        .iter()
        .chain(&lines(&folder, "ketama_edges.jsonl"))
    {
        let (name, copies) = (text(line, "ring"), line["rf"].as_u64().unwrap() as usize);
        let endpoints = endpoints(&rings[name]["endpoints"]);
        let entries = entries(&endpoints);
        let order = build::hashmod(&entries);
        let ketama = (text(&rings[name], "algorithm") == "ketama").then(|| Ketama::new(&entries, copies).unwrap());
        let owners = |hash| match &ketama {
            Some(ring) => ring.owners(hash).to_vec(),
            None => hashmod_owners(&order, hash, copies),
        };
        if let Some(edge) = line["hash"].as_str() {
            let edge = u64::from_str_radix(edge, 16).unwrap();
            tally.same(name, hash(text(line, "tenant"), &line["labels"]), edge);
            tally.same(name, addresses(&entries, &owners(edge)), texts(&line["p"]));
            continue;
        }
        assert_eq!(list(&line["p"]).len(), hashes.len());
        for (hash, theirs) in hashes.iter().zip(list(&line["p"])) {
            tally.same(name, addresses(&entries, &owners(*hash)), texts(theirs));
        }
        let duplicates = endpoints.iter().map(|(_, e)| &e.address).collect::<HashSet<_>>().len() < endpoints.len();
        if !duplicates {
            through_a_file(line, &rings[name], &hashes, &mut tally);
        }
    }
    tally.done(2 * 20_000);
}

/// The same placements once more, asked the way the receiver asks.
fn through_a_file(line: &Value, ring: &Value, hashes: &[u64], tally: &mut Tally) {
    let file = serde_json::json!([{"endpoints": ring["endpoints"], "algorithm": ring["algorithm"]}]).to_string();
    let rings = Rings::from_json(&file, Algorithm::Hashmod, line["rf"].as_u64().unwrap() as usize).unwrap();
    let view = rings.tenant("whoever").unwrap();
    for (hash, theirs) in hashes.iter().zip(list(&line["p"])) {
        let owners = view.owners(*hash);
        let ours: Vec<&str> = owners
            .iter()
            .map(|&owner| rings.nodes()[owner as usize].address.as_str())
            .collect();
        tally.same(text(line, "ring"), ours, texts(theirs));
    }
}

#[test]
fn numbers_of_nodes_and_copies_that_thanos_refuses_or_dies_of_are_refused() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("nodes and copies", 0);
    let zero = hash_of_series_zero(&folder);
    for line in lines(&folder, "getn_errors.jsonl")
        .iter()
        .filter(|line| line["rf"].is_u64())
    {
        let (nodes, copies) = (line["nodes"].as_u64().unwrap(), line["rf"].as_u64().unwrap() as usize);
        let endpoints: Vec<String> = (0..nodes).map(|node| format!("rcv-{node}:10901")).collect();
        let file = serde_json::json!([{"endpoints": endpoints, "algorithm": line["algorithm"]}]).to_string();
        let built = Rings::from_json(&file, Algorithm::Hashmod, copies);
        // What Thanos answers for each copy that the factor asks for; nothing else is ever asked of a ring that works.
        let answers: Vec<&str> = texts(&line["get"]).into_iter().take(copies).collect();
        let works =
            text(line, "build").is_empty() && copies > 0 && answers.iter().all(|answer| answer.starts_with("ok "));
        tally.same(&line.to_string(), built.is_ok(), works);
        if let Ok(rings) = built {
            let owners = rings.tenant("t").unwrap().owners(zero);
            let ours: Vec<String> = owners
                .iter()
                .map(|&o| format!("ok {}", rings.nodes()[o as usize].address))
                .collect();
            tally.same(
                &line.to_string(),
                ours,
                answers.iter().map(|answer| (*answer).to_owned()).collect(),
            );
        }
    }
    tally.done(50);
}

fn hash_of_series_zero(folder: &std::path::Path) -> u64 {
    series(folder)[0]
}

#[test]
fn zones_on_which_thanos_hangs_are_refused() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("zone layouts", 0);
    for line in lines(&folder, "az_termination.jsonl") {
        let mut endpoints = Vec::new();
        for (zone, count) in list(&line["nodes_per_zone"]).iter().enumerate() {
            for _ in 0..count.as_u64().unwrap() {
                let address = format!("rcv-{}:10901", endpoints.len());
                endpoints.push((
                    endpoints.len() as NodeIndex,
                    Endpoint {
                        address,
                        zone: format!("az-{zone}"),
                    },
                ));
            }
        }
        let copies = line["rf"].as_u64().unwrap() as usize;
        let outcome = match Ketama::new(&entries(&endpoints), copies) {
            Ok(_) => "ok",
            Err(Fault::UnevenZones { .. }) => "never-ends",
            Err(_) => "too-few-endpoints-for-replication-factor",
        };
        tally.same(&line.to_string(), outcome, text(&line, "result"));
    }
    tally.done(18);
}

#[test]
fn random_numbers_agree() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("random numbers", 0);
    for line in lines(&folder, "go_rand.jsonl") {
        let mut random = GoRandom::new(line["seed"].as_i64().unwrap());
        for theirs in list(&line["uint64"]) {
            tally.same(&line["seed"].to_string(), random.next_u64(), hex(theirs));
        }
    }
    for line in lines(&folder, "shuffle_seeds.jsonl") {
        let seed = shard::seed(text(&line, "tenant"), text(&line, "zone"));
        tally.same("seed", seed, line["seed"].as_i64().unwrap());
        let mut random = GoRandom::new(seed);
        for theirs in list(&line["first_draws"]) {
            tally.same("draw", random.next_u64(), hex(theirs));
        }
    }
    tally.done(1300 + 24 * 5);
}

#[test]
fn shards_agree() {
    let Some(folder) = recordings() else { return };
    let mut tally = Tally("shuffle sharding", 0);
    let hashes = lines(&folder, "series.jsonl");
    for line in lines(&folder, "shuffle_sharding.jsonl") {
        let (case, copies) = (text(&line, "case"), line["rf"].as_u64().unwrap() as usize);
        let config = &line["shuffle_sharding_config"];
        let file = serde_json::json!([{
            "endpoints": line["endpoints"], "algorithm": "ketama", "shuffle_sharding_config": config,
        }]);
        let built = Rings::from_json(&file.to_string(), Algorithm::Hashmod, copies);
        let fails = !text(&line, "build").is_empty() || list(&line["tenants"]).iter().any(|t| t["error"].is_string());
        let strict = matches!(
            built,
            Err(RingsError::Ring {
                fault: Fault::Duplicate(_) | Fault::MatcherUnset | Fault::Pattern(_),
                ..
            })
        );
        tally.same(case, built.is_err(), fails || strict);

        let endpoints = endpoints(&line["endpoints"]);
        let entries = entries(&endpoints);
        let whole = Ketama::new(&entries, copies).unwrap();
        for tenant in list(&line["tenants"])
            .iter()
            .filter(|tenant| tenant["shard"].is_array())
        {
            let name = text(tenant, "tenant");
            let sharding = Sharding {
                size: tenant["shard_size"].as_u64().unwrap() as usize,
                zone_aware: !config["zone_awareness_disabled"].as_bool().unwrap_or(false),
            };
            let drawn: Vec<Entry<'_>> = sharding
                .draw(&whole, &entries, name)
                .unwrap()
                .into_iter()
                .map(|index| entries[index])
                .collect();
            let mut shard: Vec<&str> = drawn.iter().map(|entry| entry.address).collect();
            shard.sort_unstable();
            tally.same(&format!("{case}: {name}"), shard, texts(&tenant["shard"]));
            let ring = Ketama::new(&drawn, copies).unwrap();
            for (id, theirs) in list(&line["series"]).iter().zip(list(&tenant["p"])) {
                let hash = hash(name, &hashes[id.as_u64().unwrap() as usize]["labels"]);
                tally.same(
                    &format!("{case}: {name}"),
                    addresses(&entries, &ring.owners(hash)),
                    texts(theirs),
                );
                if let Ok(rings) = &built {
                    let owners = rings.tenant(name).unwrap().owners(hash);
                    tally.same(&format!("{case}: {name}"), addresses(&entries, &owners), texts(theirs));
                }
            }
        }
        shards_on_which_thanos_fails(&line, &entries, &whole, copies, &mut tally);
    }
    tally.done(248 * 9 + 80);
}

/// Tenants for whom each write fails in Thanos: here the file is refused, for the reason that theirs comes from.
fn shards_on_which_thanos_fails(line: &Value, entries: &[Entry<'_>], whole: &Ketama, copies: usize, tally: &mut Tally) {
    for tenant in list(&line["tenants"])
        .iter()
        .filter(|tenant| tenant["error"].is_string())
    {
        let zone_aware = !line["shuffle_sharding_config"]["zone_awareness_disabled"]
            .as_bool()
            .unwrap_or(false);
        let Ok(size) = usize::try_from(tenant["shard_size"].as_i64().unwrap()) else {
            tally.same(text(line, "case"), text(tenant, "error"), "panic");
            continue;
        };
        let sharding = Sharding { size, zone_aware };
        let ours = match sharding.check(entries, copies) {
            Err(Fault::ShardAboveZone { .. }) => "shard-size-larger-than-zone",
            Err(Fault::ShardBelowFactor { .. }) => "too-few-endpoints-for-replication-factor",
            other => panic!("{tenant}: {other:?}"),
        };
        tally.same(text(line, "case"), ours, text(tenant, "error"));
        let drawn = sharding.draw(whole, entries, text(tenant, "tenant"));
        tally.same(
            text(line, "case"),
            drawn.is_ok(),
            ours == "too-few-endpoints-for-replication-factor",
        );
    }
}
