//! The population that load is made of: series like those of node_exporter, cAdvisor and an instrumented application,
//! 500 of them per host, about ten labels and 230 bytes of label text each.
//!
//! Everything is a pure function of (series number, scrape number), so two runs send the same bytes and any sample can
//! be computed again later. What each series looks like is in [`crate::families`].

use crate::families::{CONTAINERS, Family, HOST_FAMILIES, Kind, Source};

/// Something that can be written: a fixed number of series with a value for each scrape.
pub trait Workload: Sync {
    /// Number of series.
    fn series(&self) -> usize;

    /// Labels of series number `series` in its generation number `generation`, sorted by name, `__name__` among them.
    fn labels(&self, series: usize, generation: u64) -> Vec<(String, String)>;

    /// Value of series number `series` in scrape number `scrape`, which happens at `timestamp`.
    fn value(&self, series: usize, scrape: u64, timestamp: i64) -> f64;

    /// How often series number `series` was replaced by a new one until scrape number `scrape`.
    fn generation(&self, _series: usize, _scrape: u64) -> u64 {
        0
    }

    /// Milliseconds by which the samples of series number `series` come after the time of their scrape.
    fn delay(&self, _series: usize) -> i64 {
        0
    }

    /// Number of the tenant that series number `series` belongs to, if there are several. Series of a tenant have numbers
    /// in a row.
    fn tenant(&self, _series: usize) -> Option<usize> {
        None
    }
}

/// Series per host.
pub const SERIES_PER_HOST: usize = 500;

/// A deterministic fleet of hosts.
pub struct Population {
    /// How each of the first `count` series behaves; eight bytes each, since the hot loop walks it.
    behaviour: Vec<Behaviour>,
    /// Pairs added to every series (a replica label, a tenant's mark, a salt for new series).
    extra: Vec<(String, String)>,
    /// One entry for each series of a host.
    slots: Vec<Slot>,
}

/// What the value of a series depends on.
#[derive(Clone, Copy)]
struct Behaviour {
    kind: Kind,
    /// Average step per scrape, in the unit of the kind.
    pace: u16,
    /// Random, different for each series.
    seed: u32,
}

/// One series of a host: its family and the choice among the values of the family's own labels.
struct Slot {
    family: &'static Family,
    choice: usize,
}

impl Population {
    /// The first `count` series of the fleet, each with the pairs of `extra` on top.
    pub fn new(count: usize, extra: Vec<(String, String)>) -> Self {
        let slots: Vec<Slot> = HOST_FAMILIES
            .iter()
            .flat_map(|family| (0..family.series()).map(move |choice| Slot { family, choice }))
            .collect();
        assert_eq!(
            slots.len(),
            SERIES_PER_HOST,
            "the families of a host make up {SERIES_PER_HOST} series"
        );
        let behaviour = (0..count)
            .map(|series| {
                let random = mix(series as u64);
                let kind = slots[series % SERIES_PER_HOST].family.kind;
                Behaviour {
                    kind,
                    pace: pace(kind, random >> 32),
                    seed: random as u32,
                }
            })
            .collect();
        Self {
            behaviour,
            extra,
            slots,
        }
    }
}

impl Workload for Population {
    fn series(&self) -> usize {
        self.behaviour.len()
    }

    fn labels(&self, series: usize, _generation: u64) -> Vec<(String, String)> {
        let slot = &self.slots[series % SERIES_PER_HOST];
        let mut labels = source_labels(slot.family, slot.choice, series / SERIES_PER_HOST);
        labels.push(("__name__".to_owned(), slot.family.name.to_owned()));
        for (name, values) in slot.family.own_choice(slot.choice) {
            labels.push((name.to_owned(), values.to_owned()));
        }
        for (name, value) in &self.extra {
            labels.retain(|(present, _)| present != name);
            labels.push((name.clone(), value.clone()));
        }
        labels.sort();
        labels
    }

    #[inline]
    fn value(&self, series: usize, scrape: u64, _timestamp: i64) -> f64 {
        self.behaviour[series].value(scrape)
    }
}

impl Behaviour {
    /// The value at one scrape. Counters never fall: the random part of a step stays below its average.
    #[inline]
    fn value(self, scrape: u64) -> f64 {
        let base = u64::from(self.seed);
        let pace = u64::from(self.pace);
        let random = || mix(scrape.wrapping_mul(0x9e37_79b9).wrapping_add(base << 24));
        match self.kind {
            Kind::Constant => (base % 100_000) as f64,
            // Some idle counters move now and then, all at another time.
            Kind::IdleCounter => (base % 5_000 + (scrape + base % 150) / 150) as f64,
            Kind::IntegerCounter => (base % 1_000_000 + scrape * pace + random() % pace) as f64,
            Kind::CpuSeconds => (base % 10_000_000 + scrape * pace + random() % pace) as f64 / 100.0,
            Kind::PageGauge => ((base % 500_000 + random() % pace) * 4096) as f64,
            Kind::SmallGauge => (random() % pace) as f64,
            Kind::Noise => {
                let unit = (random() >> 11) as f64 / (1u64 << 53) as f64;
                f64::from(self.seed % 1000 + 1) * (1.0 + unit)
            }
        }
    }
}

/// Average step per scrape: as spread as in real fleets, where few counters are fast.
fn pace(kind: Kind, random: u64) -> u16 {
    let largest = match kind {
        Kind::Constant | Kind::IdleCounter | Kind::Noise => 1,
        Kind::IntegerCounter => [6, 90, 1_000, 9_000, 60_000][(random % 5) as usize],
        Kind::CpuSeconds => [40, 250, 900][(random % 3) as usize],
        Kind::PageGauge => [80, 900, 9_000][(random % 3) as usize],
        Kind::SmallGauge => [7, 40, 200][(random % 3) as usize],
    };
    (1 + (random >> 8) % largest) as u16
}

/// The labels that come from what is scraped and where it runs.
fn source_labels(family: &Family, choice: usize, host: usize) -> Vec<(String, String)> {
    let zone = ["eu-central-1a", "eu-central-1b", "eu-central-1c"][host % 3];
    let node = format!("worker-{host:05}.{zone}");
    let mut labels = vec![
        ("cluster".to_owned(), "production-europe".to_owned()),
        ("env".to_owned(), "production".to_owned()),
        ("job".to_owned(), family.source.job().to_owned()),
    ];
    match family.source {
        Source::Node => {
            labels.push(("instance".to_owned(), format!("{node}:9100")));
            labels.push(("zone".to_owned(), zone.to_owned()));
            labels.push(("rack".to_owned(), format!("rack-{:03}", host / 24)));
            labels.push(("team".to_owned(), "platform".to_owned()));
            labels.push(("os".to_owned(), "linux".to_owned()));
        }
        Source::Container => {
            let container = family.own_index(choice, 0);
            let random = mix((host * 64 + container) as u64);
            let service = CONTAINERS[container];
            let namespace = NAMESPACES[(host + container) % NAMESPACES.len()];
            labels.push(("instance".to_owned(), format!("{node}:10250")));
            labels.push((
                "id".to_owned(),
                format!("/kubepods.slice/pod{random:016x}/{:016x}", mix(random)),
            ));
            labels.push((
                "image".to_owned(),
                format!("registry.example.net/{service}:v1.{}", container + 3),
            ));
            labels.push(("namespace".to_owned(), namespace.to_owned()));
            labels.push((
                "pod".to_owned(),
                format!("{service}-{:08x}-{:05x}", random >> 32, random & 0xf_ffff),
            ));
        }
        Source::Application => {
            let service = CONTAINERS[host % CONTAINERS.len()];
            let random = mix(host as u64 ^ 0xa11);
            labels.push((
                "instance".to_owned(),
                format!("10.{}.{}.7:8080", host / 250 % 250, host % 250),
            ));
            labels.push(("namespace".to_owned(), NAMESPACES[host % NAMESPACES.len()].to_owned()));
            labels.push((
                "pod".to_owned(),
                format!("{service}-{:08x}-{:05x}", random >> 32, random & 0xf_ffff),
            ));
            labels.push(("service".to_owned(), format!("{service}-service")));
            labels.push(("node".to_owned(), node));
        }
    }
    labels
}

const NAMESPACES: &[&str] = &[
    "shop",
    "payments",
    "search",
    "platform",
    "observability",
    "batch-jobs",
    "identity",
];

/// A fast bijective scrambler of 64 bits (the finaliser of SplitMix64): one seed, one reproducible number.
#[inline]
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Bits that the Gorilla XOR code needs for `value` after `before`; the window of meaningful bits is carried along.
    fn xor_bits(before: f64, value: f64, window: &mut (u32, u32)) -> u32 {
        let delta = before.to_bits() ^ value.to_bits();
        if delta == 0 {
            return 1;
        }
        let (leading, trailing) = (delta.leading_zeros().min(31), delta.trailing_zeros());
        if leading >= window.0 && trailing >= window.1 && *window != (0, 0) {
            return 2 + 64 - window.0 - window.1;
        }
        *window = (leading, trailing);
        2 + 5 + 6 + 64 - leading - trailing
    }

    #[test]
    fn series_are_distinct_and_shaped_like_a_fleet() {
        let hosts = 20;
        let population = Population::new(hosts * SERIES_PER_HOST, Vec::new());
        let mut seen = HashSet::new();
        let (mut pairs, mut bytes) = (0, 0);
        for series in 0..population.series() {
            let labels = population.labels(series, 0);
            assert!(
                labels.windows(2).all(|pair| pair[0].0 < pair[1].0),
                "unsorted or doubled: {labels:?}"
            );
            assert!(labels.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()));
            pairs += labels.len();
            bytes += labels
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum::<usize>();
            assert!(seen.insert(labels), "series {series} is a second copy");
        }
        let (pairs, bytes) = (pairs as f64 / seen.len() as f64, bytes as f64 / seen.len() as f64);
        println!("{pairs:.2} labels, {bytes:.1} bytes of label text per series");
        assert!((9.4..10.4).contains(&pairs), "{pairs} labels per series");
        assert!(
            (222.0..240.0).contains(&bytes),
            "{bytes} bytes of label text per series"
        );
    }

    #[test]
    fn counters_never_fall_and_values_cost_what_real_ones_cost() {
        let population = Population::new(10 * SERIES_PER_HOST, Vec::new());
        let mut bits = 0u64;
        let scrapes = 240;
        for series in 0..population.series() {
            let mut window = (0, 0);
            let counter = matches!(
                population.behaviour[series].kind,
                Kind::IdleCounter | Kind::IntegerCounter | Kind::CpuSeconds
            );
            for scrape in 1..scrapes {
                let before = population.value(series, scrape - 1, 0);
                let value = population.value(series, scrape, 0);
                assert!(
                    !counter || value >= before,
                    "series {series} fell from {before} to {value}"
                );
                // A new chunk every 120 samples: whole first value and timestamp, header, length and checksum.
                let chunk_bits = 8 * (8 + 6 + 2 + 2 + 1 + 1 + 4);
                if scrape % 120 == 0 {
                    window = (0, 0);
                }
                bits += if scrape % 120 == 0 {
                    chunk_bits
                } else {
                    u64::from(xor_bits(before, value, &mut window))
                };
                bits += 1;
            }
        }
        let bytes = bits as f64 / 8.0 / (population.series() as u64 * (scrapes - 1)) as f64;
        println!("{bytes:.2} bytes per sample in the XOR code");
        assert!((2.5..2.8).contains(&bytes), "{bytes} bytes per sample in the XOR code");
    }

    #[test]
    fn extra_labels_replace_or_join_the_others() {
        let extra = vec![
            ("cluster".to_owned(), "b".to_owned()),
            ("replica".to_owned(), "1".to_owned()),
        ];
        let labels = Population::new(1, extra).labels(0, 0);
        assert_eq!(labels.iter().filter(|(name, _)| name == "cluster").count(), 1);
        assert!(labels.contains(&("cluster".to_owned(), "b".to_owned())));
        assert!(labels.contains(&("replica".to_owned(), "1".to_owned())));
    }
}
