//! What placement promises: distinct members, distinct zones, fair shares, few moves, and the same answer for ever.

use super::{super::series_hash::series_hash, *};
use cluster::{
    document::{Command, Newcomer},
    limits::Limits,
};
use model::label::Labels;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Ids as they come: any number, always the same one for the same seed.
fn id(seed: u64) -> MemberId {
    MemberId::from_random(xxhash_rust::xxh64::xxh64(&seed.to_le_bytes(), 1))
}

/// A ring of active members: for each its seed, zone and weight.
fn document(replication_factor: u32, members: &[(u64, &str, u32)]) -> Document {
    let newcomer = |&(seed, zone, weight): &(u64, &str, u32)| Newcomer {
        id: id(seed),
        address: format!("n{seed}:10901"),
        zone: zone.to_owned(),
        weight,
    };
    let found = Command::Found {
        member: newcomer(&members[0]),
        replication_factor,
    };
    let mut document = Document::default().apply(&found).unwrap();
    for member in &members[1..] {
        document = document
            .apply(&Command::Join {
                member: newcomer(member),
            })
            .unwrap();
        document = document.apply(&Command::Activate { id: id(member.0) }).unwrap();
    }
    document
}

/// Members of usual weight, numbered on from `first`, their zones taken in turn.
fn members<'a>(first: u64, count: u64, zones: &[&'a str]) -> Vec<(u64, &'a str, u32)> {
    (first..first + count)
        .map(|seed| (seed, zones[(seed % zones.len() as u64) as usize], WEIGHT_NORMAL))
        .collect()
}

fn hashes() -> impl Iterator<Item = u64> + Clone {
    (0..20_000_u64).map(|number| xxhash_rust::xxh64::xxh64(&number.to_le_bytes(), 2))
}

fn everyone(ring: &Ring) -> TenantRing<'_> {
    ring.tenant(&Tenant::default())
}

/// The owners by id, so that two rings can be compared.
fn ids(ring: &Ring, owners: &Owners) -> BTreeSet<MemberId> {
    owners
        .iter()
        .map(|&owner| ring.nodes()[owner as usize].id.unwrap())
        .collect()
}

/// The exact share of all copies that each member holds, as a multiple of an even share, by member.
fn loads(ring: &Ring) -> BTreeMap<MemberId, f64> {
    let tokens: Vec<u64> = ring.circle.iter().map(|(token, _)| token).collect();
    let mut loads: BTreeMap<MemberId, f64> = ring.nodes.iter().map(|node| (node.id.unwrap(), 0.0)).collect();
    for (index, token) in tokens.iter().enumerate() {
        let before = tokens[(index + tokens.len() - 1) % tokens.len()];
        let arc = token.wrapping_sub(before) as f64 / 2_f64.powi(64);
        for member in ids(ring, &everyone(ring).owners(*token)) {
            *loads.get_mut(&member).unwrap() += arc * ring.nodes.len() as f64 / ring.stride as f64;
        }
    }
    loads
}

/// The share of copies that lie elsewhere in `after`.
fn moved(before: &Ring, after: &Ring) -> f64 {
    let (mut moved, mut all) = (0, 0);
    for hash in hashes() {
        let owners = ids(before, &everyone(before).owners(hash));
        moved += owners.difference(&ids(after, &everyone(after).owners(hash))).count();
        all += owners.len();
    }
    moved as f64 / all as f64
}

fn zones_of<'a>(ring: &'a Ring, owners: &Owners) -> HashSet<&'a str> {
    let zones: Vec<&str> = ring.nodes().iter().map(|node| node.zone.as_str()).collect();
    owners.iter().map(|&owner| zones[owner as usize]).collect()
}

fn distinct(owners: &Owners) -> usize {
    owners.iter().collect::<HashSet<_>>().len()
}

/// The places of some series in a ring of members 1 to 7 in zones b, c, a, b, c, a, b; worked out by another program from the rules
/// alone. Whoever changes one of these moves the data of every cluster that is running.
#[test]
fn places_stay_what_they_were() {
    let newcomer = |number: u64| Newcomer {
        id: MemberId::new(number).unwrap(),
        address: format!("n{number}:1"),
        zone: ["a", "b", "c"][number as usize % 3].into(),
        weight: WEIGHT_NORMAL,
    };
    let rings = [(3, 0), (5, 0), (3, 4)].map(|(replication_factor, shard_size)| {
        let mut document = Document::default();
        document = document
            .apply(&Command::Found {
                member: newcomer(1),
                replication_factor,
            })
            .unwrap();
        for number in 2..=7 {
            document = document
                .apply(&Command::Join {
                    member: newcomer(number),
                })
                .unwrap();
            document = document
                .apply(&Command::Activate {
                    id: MemberId::new(number).unwrap(),
                })
                .unwrap();
        }
        let limits = Limits {
            shard_size: Some(shard_size),
            ..Limits::default()
        };
        Ring::new(document.apply(&Command::SetLimits { limits }).unwrap())
    });
    let up = |job| Labels::new([("__name__", "up"), ("job", job)]).unwrap();
    for (tenant, labels, three, five, sharded) in [
        ("default-tenant", up("node"), [7, 5, 3], [7, 5, 3, 1, 2], [7, 2, 6]),
        ("default-tenant", up("x"), [1, 6, 2], [1, 6, 2, 5, 7], [1, 6, 2]),
        ("a", up(""), [1, 5, 3], [1, 5, 3, 4, 6], [4, 5, 6]),
        ("b", Labels::empty(), [6, 4, 5], [6, 4, 5, 7, 2], [6, 4, 5]),
    ] {
        let hash = series_hash(tenant, &labels);
        let tenant = Tenant::new(tenant).unwrap();
        let places = |ring: &Ring| -> Vec<u64> {
            let owners = ring.tenant(&tenant).owners(hash);
            owners
                .iter()
                .map(|&owner| ring.nodes()[owner as usize].id.unwrap().get())
                .collect()
        };
        assert_eq!(
            (places(&rings[0]), places(&rings[1]), places(&rings[2])),
            (three.into(), five.into(), sharded.into()),
            "{tenant}{labels}"
        );
    }
}

/// A ring of members in three zones where each tenant has a shard of `size`.
fn limited(replication_factor: u32, count: u64, size: u32) -> Document {
    let limits = Limits {
        shard_size: Some(size),
        ..Limits::default()
    };
    document(replication_factor, &members(1, count, &["a", "b", "c"]))
        .apply(&Command::SetLimits { limits })
        .unwrap()
}

#[test]
fn only_active_members_own_series() {
    let mut document = document(3, &members(1, 5, &[""]));
    document = document.apply(&Command::Drain { id: id(2) }).unwrap();
    let joining = Newcomer {
        id: id(9),
        address: "n9:1".into(),
        zone: String::new(),
        weight: 100,
    };
    document = document.apply(&Command::Join { member: joining }).unwrap();
    let ring = Ring::new(document);
    let members: Vec<MemberId> = ring.nodes().iter().filter_map(|node| node.id).collect();
    assert_eq!(members.len(), 4);
    assert!(!members.contains(&id(2)) && !members.contains(&id(9)));
}

#[test]
fn a_ring_smaller_than_the_factor_gives_all_it_has() {
    let ring = Ring::new(document(3, &members(1, 1, &[""])));
    assert_eq!(&*everyone(&ring).owners(7), &[0]);
    let nobody = Ring::new(Document::default());
    assert!(everyone(&nobody).owners(7).is_empty());
    assert!(everyone(&nobody).owners_among(7, |_| true).is_empty());
}

#[test]
fn weights_are_honoured() {
    let ring = Ring::new(document(1, &[(1, "", 100), (2, "", 200), (3, "", 50), (4, "", 100)]));
    let loads = loads(&ring);
    for (seed, share) in [(1, 100.0), (2, 200.0), (3, 50.0), (4, 100.0)] {
        let expected = share / 450.0 * 4.0;
        let error = loads[&id(seed)] / expected - 1.0;
        assert!(
            error.abs() < 0.1,
            "member {seed} has {:.3} of {expected:.3}",
            loads[&id(seed)]
        );
    }
}

#[test]
fn a_dead_owner_is_replaced_at_its_place_in_its_zone() {
    let ring = Ring::new(document(3, &members(1, 9, &["a", "b", "c"])));
    for hash in hashes().take(2000) {
        let owners = everyone(&ring).owners(hash);
        for dead in 0..3 {
            let now = everyone(&ring).owners_among(hash, |node| node != owners[dead]);
            for place in 0..3 {
                assert_eq!(now[place] == owners[place], place != dead);
            }
            assert_eq!((distinct(&now), zones_of(&ring, &now).len()), (3, 3));
        }
    }
}

#[test]
fn a_dead_zone_is_replaced_by_what_is_left() {
    let ring = Ring::new(document(3, &members(1, 9, &["a", "b", "c"])));
    let alive = |node: NodeIndex| ring.nodes()[node as usize].zone != "b";
    for hash in hashes().take(2000) {
        let owners = everyone(&ring).owners_among(hash, alive);
        assert!(owners.iter().all(|&owner| alive(owner)));
        assert_eq!((distinct(&owners), zones_of(&ring, &owners).len()), (3, 2));
    }
}

#[test]
fn an_owner_that_nobody_can_replace_keeps_its_place() {
    let ring = Ring::new(document(3, &members(1, 4, &[""])));
    for hash in hashes().take(200) {
        let owners = everyone(&ring).owners(hash);
        let now = everyone(&ring).owners_among(hash, |node| node == owners[1]);
        assert_eq!(now, owners);
        assert_eq!(everyone(&ring).owners_among(hash, |_| false), owners);
    }
}

#[test]
fn a_shard_holds_all_series_of_its_tenant() {
    let document = limited(3, 30, 6);
    let ring = Ring::new(document);
    let mut shards = HashSet::new();
    let mut tenants_of = vec![0; 30];
    for number in 0..200 {
        let tenant = Tenant::new(&format!("tenant-{number}")).unwrap();
        let view = ring.tenant(&tenant);
        let shard: Vec<NodeIndex> = view.nodes().collect();
        assert_eq!(shard.len(), 6);
        for zone in ["a", "b", "c"] {
            assert_eq!(
                shard
                    .iter()
                    .filter(|&&node| ring.nodes()[node as usize].zone == zone)
                    .count(),
                2
            );
        }
        for hash in hashes().take(200) {
            let owners = view.owners(hash);
            assert!(owners.iter().all(|owner| shard.contains(owner)));
            assert_eq!((distinct(&owners), zones_of(&ring, &owners).len()), (3, 3));
        }
        shard.iter().for_each(|&node| tenants_of[node as usize] += 1);
        shards.insert(shard);
    }
    assert!(shards.len() > 150, "200 tenants share {} shards", shards.len());
    let (least, most) = (tenants_of.iter().min().unwrap(), tenants_of.iter().max().unwrap());
    assert!(
        *least > 15 && *most < 75,
        "tenants by member, 40 is even: {tenants_of:?}"
    );
}

#[test]
fn a_shard_goes_outside_only_when_nobody_inside_is_left() {
    let ring = Ring::new(limited(3, 12, 4));
    let tenant = Tenant::new("a").unwrap();
    let view = ring.tenant(&tenant);
    let shard: Vec<NodeIndex> = view.nodes().collect();
    let (mut inside, mut outside) = (0, 0);
    for hash in hashes().take(500) {
        let owners = view.owners(hash);
        let spare = *shard.iter().find(|node| !owners.contains(node)).unwrap();
        assert_eq!(view.owners_among(hash, |node| node != owners[0])[0], spare);
        inside += 1;
        let now = view.owners_among(hash, |node| node != owners[0] && node != spare);
        assert!(!shard.contains(&now[0]));
        outside += 1;
    }
    assert_eq!((inside, outside), (500, 500));
}

#[test]
fn a_tenant_of_its_own_size_and_one_of_all() {
    let mut document = limited(3, 9, 3);
    for (tenant, size) in [("big", 6), ("all", 0), ("tiny", 1), ("huge", 900)] {
        let limits = Limits {
            shard_size: Some(size),
            ..Limits::default()
        };
        document = document
            .apply(&Command::SetTenant {
                tenant: tenant.into(),
                limits,
            })
            .unwrap();
    }
    let ring = Ring::new(document);
    for (tenant, nodes) in [("other", 3), ("big", 6), ("all", 9), ("tiny", 3), ("huge", 9)] {
        assert_eq!(
            ring.tenant(&Tenant::new(tenant).unwrap()).nodes().count(),
            nodes,
            "{tenant}"
        );
    }
}

#[test]
fn a_shard_that_grows_keeps_its_members_and_a_newcomer_changes_few() {
    let small = Ring::new(limited(3, 30, 4));
    let large = Ring::new(limited(3, 30, 7));
    let newcomer = Ring::new(limited(3, 31, 4));
    let mut changed = 0;
    for number in 0..500 {
        let tenant = Tenant::new(&format!("tenant-{number}")).unwrap();
        let shard = |ring: &Ring| -> BTreeSet<MemberId> {
            ring.tenant(&tenant)
                .nodes()
                .map(|node| ring.nodes()[node as usize].id.unwrap())
                .collect()
        };
        assert!(shard(&small).is_subset(&shard(&large)));
        changed += shard(&small).difference(&shard(&newcomer)).count();
    }
    // An even share of the 2000 shard places is 65.
    assert!(changed > 20 && changed < 130, "{changed} of 2000 shard places changed");
}

/// Any ring of 1 to 40 members in up to four zones of any sizes, with any weights.
fn any_members() -> impl Strategy<Value = Vec<(u64, &'static str, u32)>> {
    let zones = prop::sample::select(vec!["", "a", "b", "c"]);
    let weight = prop::sample::select(vec![100_u32, 100, 100, 50, 200]);
    prop::collection::btree_map(1..1000_u64, (zones, weight), 1..40).prop_map(|members| {
        members
            .into_iter()
            .map(|(seed, (zone, weight))| (seed, zone, weight))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Copies lie on distinct members always, and no zone has two more than another that has members to spare.
    #[test]
    fn copies_are_spread(members in any_members(), factor in 1..6_u32, shard in 0..12_u32) {
        let limits = Limits { shard_size: Some(shard), ..Limits::default() };
        let ring = Ring::new(document(factor, &members).apply(&Command::SetLimits { limits }).unwrap());
        let view = everyone(&ring);
        let mut sizes = BTreeMap::new();
        for node in view.nodes() {
            *sizes.entry(ring.nodes()[node as usize].zone.as_str()).or_insert(0) += 1;
        }
        for hash in hashes().take(500) {
            let owners = view.owners(hash);
            prop_assert_eq!(owners.len(), (factor as usize).min(members.len()));
            prop_assert_eq!(distinct(&owners), owners.len());
            if let Some(all) = view.everyone() {
                prop_assert_eq!(ids(&ring, &all), ids(&ring, &owners));
            }
            prop_assert_eq!(view.everyone().is_some(), members.len() <= factor as usize && !members.is_empty());
            let copies = |zone: &str| owners.iter().filter(|&&owner| ring.nodes()[owner as usize].zone == zone).count();
            let most = sizes.keys().map(|zone| copies(zone)).max().unwrap();
            for (zone, size) in &sizes {
                prop_assert!(copies(zone) + 1 >= most || copies(zone) == *size, "zone {} of {:?}: {:?}", zone, sizes, owners);
            }
        }
    }

    /// With members dead at random: live owners keep their places, the others are replaced by live members as long as there are any.
    #[test]
    fn dead_owners_are_replaced(members in any_members(), factor in 1..5_u32, dead in prop::collection::vec(any::<bool>(), 40), shard in 0..6_u32) {
        let limits = Limits { shard_size: Some(shard), ..Limits::default() };
        let ring = Ring::new(document(factor, &members).apply(&Command::SetLimits { limits }).unwrap());
        let usable = |node: NodeIndex| !dead[node as usize];
        let alive = (0..members.len()).filter(|&node| !dead[node]).count();
        for hash in hashes().take(200) {
            let (before, now) = (everyone(&ring).owners(hash), everyone(&ring).owners_among(hash, usable));
            prop_assert_eq!(distinct(&now), before.len());
            prop_assert_eq!(now.iter().filter(|&&node| usable(node)).count(), alive.min(before.len()));
            for (before, now) in before.iter().zip(now.iter()).filter(|(before, _)| usable(**before)) {
                prop_assert_eq!(before, now);
            }
        }
    }

    /// A member that joins takes copies and moves no other; leaving is the same backwards.
    #[test]
    fn a_newcomer_moves_only_what_it_takes(members in any_members(), factor in 1..5_u32) {
        prop_assume!(members.len() > factor as usize);
        let (newcomer, rest) = members.split_last().unwrap();
        let (before, after) = (Ring::new(document(factor, rest)), Ring::new(document(factor, &members)));
        for hash in hashes().take(1000) {
            let (old, new) = (ids(&before, &everyone(&before).owners(hash)), ids(&after, &everyone(&after).owners(hash)));
            prop_assert!(new.difference(&old).all(|member| *member == id(newcomer.0)), "{:?} became {:?}", old, new);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Members alike in zones alike: no load strays by a tenth, and a newcomer moves what is its share.
    #[test]
    fn shares_are_fair_and_moves_few(first in 0..1_000_000_u64, per_zone in 1..12_u64, zone_count in 1..4_usize, factor in 1..4_u32) {
        let zones = &["a", "b", "c"][..zone_count];
        let count = per_zone * zones.len() as u64;
        prop_assume!(count > u64::from(factor));
        let ring = Ring::new(document(factor, &members(first, count, zones)));
        for (member, load) in loads(&ring) {
            prop_assert!((0.9..1.1).contains(&load), "member {} of {} has {:.3} of an even share", member, count, load);
        }
        let larger = Ring::new(document(factor, &members(first, count + 1, zones)));
        let share = moved(&ring, &larger);
        prop_assert!(share <= 1.0 / (count + 1) as f64 + 0.05, "{:.3} of the copies moved from {} to {} members", share, count, count + 1);
        let back = moved(&larger, &ring);
        prop_assert!(back <= 1.0 / (count + 1) as f64 + 0.05, "{:.3} of the copies moved from {} to {} members", back, count + 1, count);
    }
}

/// `cargo test --release -p receiver ring_costs -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, for release builds"]
#[expect(clippy::disallowed_methods, reason = "measures")]
fn ring_costs() {
    for (count, shard) in [
        (3, 0),
        (10, 0),
        (30, 0),
        (100, 0),
        (500, 0),
        (10, 3),
        (100, 3),
        (100, 12),
    ] {
        let document = limited(3, count, shard);
        let start = std::time::Instant::now();
        let ring = Ring::new(document);
        let build = start.elapsed();
        let start = std::time::Instant::now();
        let mut views = 0;
        for _ in 0..1000 {
            views += usize::from(std::hint::black_box(everyone(&ring)).shard.is_some());
        }
        let view_cost = start.elapsed() / 1000;
        let view = everyone(&ring);
        let hashes: Vec<u64> = hashes().collect();
        let mut sum = 0_u64;
        let start = std::time::Instant::now();
        for &hash in hashes.iter().cycle().take(1_000_000) {
            sum += u64::from(view.owners(std::hint::black_box(hash))[0]);
        }
        let lookup = start.elapsed().as_nanos() as f64 / 1e6;
        println!(
            "{count:4} members, shard {shard:2}: build {build:?}, tenant view {view_cost:?}, owners {lookup:.1} ns ({sum} {views})"
        );
    }
}
