//! Routes are found, corrected, renewed and forgotten.

use super::{testing::Counting, *};

fn resolver(spellings_max: usize, tenants_max: usize) -> Resolver {
    Resolver::new(&Counting::new(1), spellings_max, tenants_max)
}

fn key(resolver: &Resolver, number: u64) -> Key {
    resolver.hasher().key(&number.to_le_bytes())
}

fn tenant(id: &str) -> Tenant {
    Tenant::new(id).unwrap()
}

/// Teaches the series `numbers`, each with its own number for a ref.
fn learn(resolver: &Resolver, routes: &Routes, numbers: impl IntoIterator<Item = u64>) {
    let learnt: Vec<_> = numbers
        .into_iter()
        .map(|number| (key(resolver, number), SeriesRef(number)))
        .collect();
    resolver.learn(routes, &learnt);
}

#[test]
fn series_are_found_in_any_order() {
    let resolver = resolver(10_000, 10);
    let routes = resolver.routes(&tenant("a"));
    learn(&resolver, &routes, 0..1_000);
    for step in [1, 7, 333, 999] {
        for _ in 0..2 {
            let mut reader = routes.reader();
            for index in 0..1_000 {
                let number = index * step % 1_000;
                assert_eq!(
                    reader.find(key(&resolver, number)),
                    Found::Known(SeriesRef(number)),
                    "step {step}"
                );
            }
        }
    }
    assert_eq!(routes.reader().find(key(&resolver, 1_000)), Found::Missing);
}

#[test]
fn a_series_that_repeats_or_is_missing_does_not_confuse_those_behind_it() {
    let resolver = resolver(100, 10);
    let routes = resolver.routes(&tenant("a"));
    learn(&resolver, &routes, 0..5);
    for _ in 0..3 {
        let mut reader = routes.reader();
        for number in [0, 0, 1, 77, 2, 1, 4, 4, 3] {
            let expected = if number == 77 {
                Found::Missing
            } else {
                Found::Known(SeriesRef(number))
            };
            assert_eq!(reader.find(key(&resolver, number)), expected);
        }
    }
}

#[test]
fn another_number_replaces_the_first() {
    let resolver = resolver(100, 10);
    let routes = resolver.routes(&tenant("a"));
    learn(&resolver, &routes, [5]);
    resolver.learn(&routes, &[(key(&resolver, 5), SeriesRef(50))]);
    assert_eq!(routes.reader().find(key(&resolver, 5)), Found::Known(SeriesRef(50)));
    assert_eq!(resolver.spellings(), 1);
}

#[test]
fn tenants_share_nothing() {
    let resolver = resolver(100, 10);
    learn(&resolver, &resolver.routes(&tenant("a")), [5]);
    assert_eq!(
        resolver.routes(&tenant("b")).reader().find(key(&resolver, 5)),
        Found::Missing
    );
    assert!(matches!(
        resolver.routes(&tenant("a")).reader().find(key(&resolver, 5)),
        Found::Known(_)
    ));
}

#[test]
fn spellings_are_bounded_and_what_is_used_stays() {
    let resolver = resolver(1_000, 10);
    let routes = resolver.routes(&tenant("a"));
    learn(&resolver, &routes, 0..10);
    for round in 1..100u64 {
        learn(&resolver, &routes, round * 100..round * 100 + 100);
        for number in 0..10 {
            let found = routes.reader().find(key(&resolver, number));
            match found {
                Found::Fading(reference) => resolver.learn(&routes, &[(key(&resolver, number), reference)]),
                found => assert_eq!(found, Found::Known(SeriesRef(number)), "round {round}"),
            }
        }
        assert!(
            resolver.spellings() <= 1_000 + 110,
            "{} spellings",
            resolver.spellings()
        );
    }
    assert_eq!(routes.reader().find(key(&resolver, 150)), Found::Missing);
}

#[test]
fn a_flood_of_tenants_makes_room_only_now_and_then() {
    let resolver = resolver(1_000, 3);
    for id in ["a", "b", "c"] {
        learn(&resolver, &resolver.routes(&tenant(id)), [1]);
    }
    // Served without being kept, until so many came that the idle ones had to go: aged once, then forgotten.
    for flood in 0..5 {
        let routes = resolver.routes(&tenant(&format!("flood-{flood}")));
        assert_eq!(routes.reader().find(key(&resolver, 1)), Found::Missing);
        let expected = if flood == 2 {
            Found::Fading(SeriesRef(1))
        } else {
            Found::Known(SeriesRef(1))
        };
        assert_eq!(
            resolver.routes(&tenant("a")).reader().find(key(&resolver, 1)),
            expected,
            "after {flood}"
        );
        learn(&resolver, &resolver.routes(&tenant("a")), [1]);
    }
    resolver.routes(&tenant("flood-5"));
    let kept: Vec<_> = resolver
        .tenants
        .read()
        .keys()
        .map(|tenant| tenant.to_string())
        .collect();
    assert_eq!(kept, ["a"]);
    assert!(matches!(
        resolver.routes(&tenant("a")).reader().find(key(&resolver, 1)),
        Found::Fading(_)
    ));
}

#[test]
fn another_secret_gives_other_keys() {
    let one = Resolver::new(&Counting::new(1), 10, 10);
    let two = Resolver::new(&Counting::new(2), 10, 10);
    for len in [0, 1, 16, 17, 128, 129, 240, 241, 1_000] {
        let bytes = vec![7u8; len];
        assert_ne!(one.hasher().key(&bytes), two.hasher().key(&bytes), "{len} bytes");
    }
}

#[test]
fn lists_of_keys_have_keys_of_their_own() {
    let resolver = resolver(10, 10);
    let hasher = resolver.hasher();
    let keys: Vec<Key> = (0..200).map(|number| key(&resolver, number)).collect();
    let mix = |list: &[Key]| {
        let mut mixer = hasher.mixer();
        list.iter().for_each(|key| mixer.add(*key));
        mixer.finish()
    };
    let mut seen = std::collections::HashSet::new();
    for len in 0..200 {
        assert!(seen.insert(mix(&keys[..len])), "{len} keys");
        assert!(len == 0 || seen.insert(mix(&keys[len..])), "all but {len} keys");
    }
    // Exchanged neighbours, and exchanged blocks.
    for place in 0..199 {
        let mut swapped = keys.clone();
        swapped.swap(place, place + 1);
        assert!(seen.insert(mix(&swapped)), "{place} exchanged");
    }
    let mut blocks = keys.clone();
    blocks[..128].rotate_left(64);
    assert!(seen.insert(mix(&blocks)));
    assert_eq!(mix(&keys), mix(&keys.clone()));
}

/// The index looks at the low bits of a key and at its highest seven of the lower half.
#[test]
fn keys_of_lists_are_spread_in_their_low_bits() {
    let resolver = resolver(10, 10);
    let mut buckets = [0u32; 256];
    for number in 0..25_600 {
        let mut mixer = resolver.hasher().mixer();
        mixer.add(key(&resolver, 1));
        mixer.add(key(&resolver, number));
        buckets[(mixer.finish().low & 0xff) as usize] += 1;
    }
    assert!(buckets.iter().all(|count| (40..200).contains(count)), "{buckets:?}");
}
