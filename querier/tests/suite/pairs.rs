//! HA pairs against an oracle: what a target counted is known, two scrapers saw it with jitter, slow answers, gaps and restarts of
//! the target, and what comes out must tell the same.

use crate::common::{Held, Memory, NOW, api::Api, api::encoded};
use model::{
    histogram::Histogram,
    sample::{HistogramSample, SampleBuffer},
    select::Samples,
    time::TimeRange,
};
use proptest::prelude::*;
use querier::{QuerierSettings, replica::ReplicaSamples};

const INTERVAL: i64 = 15_000;
/// A scrape starts at most so much late, and is answered at most so much later.
const JITTER_MAX: i64 = 1_500;
const LATENCY_MAX: i64 = 4_000;

/// Counts `rate` events a second from each of its starts on.
#[derive(Debug, Clone)]
struct Target {
    rate: f64,
    /// When it started, ascending; the first long ago.
    starts: Vec<i64>,
}

impl Target {
    fn counter_at(&self, at: i64) -> f64 {
        let started = self.starts.iter().rev().find(|start| **start <= at).unwrap_or(&0);
        ((at - started) as f64 / 1000.0 * self.rate).floor()
    }

    fn restarts_within(&self, range: std::ops::RangeInclusive<i64>) -> usize {
        self.starts.iter().filter(|start| range.contains(start)).count()
    }
}

/// Chance that a seed decides, so that a failure repeats.
fn chance(seed: u64, number: i64) -> u64 {
    let mut bits = seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// What a scraper saw: the time at which it asked, and what was counted when the answer came. It is away in `gaps`.
fn scraped(target: &Target, seed: u64, phase: i64, scrapes: i64, gaps: &[(i64, i64)]) -> Vec<(i64, f64)> {
    let away = |scrape: i64| {
        gaps.iter()
            .any(|(from, length)| (*from..from + length).contains(&scrape))
    };
    let see = |scrape: i64| {
        let late = chance(seed, scrape * 2) as i64 & i64::MAX;
        let slow = chance(seed, scrape * 2 + 1) as i64 & i64::MAX;
        // One answer in five is slow.
        let latency = if slow % 5 == 0 {
            slow / 5 % LATENCY_MAX
        } else {
            slow % 50
        };
        let asked = phase + scrape * INTERVAL + late % JITTER_MAX;
        (asked, target.counter_at(asked + latency))
    };
    (0..scrapes).filter(|scrape| !away(*scrape)).map(see).collect()
}

fn floats(samples: &[(i64, f64)]) -> SampleBuffer {
    let mut buffer = SampleBuffer::default();
    samples.iter().for_each(|(at, value)| buffer.push_float(*at, *value));
    buffer
}

fn histograms(samples: &[(i64, f64)]) -> Vec<HistogramSample> {
    let sample = |(at, count): &(i64, f64)| {
        let histogram = Histogram {
            count: *count,
            zero_count: *count,
            sum: *count,
            ..Histogram::default()
        };
        HistogramSample {
            at: *at,
            start: 0,
            histogram: histogram.into(),
        }
    };
    samples.iter().map(sample).collect()
}

/// Resets that the values show, and what they gain in all.
fn told(values: &[f64]) -> (usize, f64) {
    let mut gained = 0.0;
    let mut resets = 0;
    for pair in values.windows(2) {
        let fell = pair[1] < pair[0];
        resets += usize::from(fell);
        gained += if fell { pair[1] } else { pair[1] - pair[0] };
    }
    (resets, gained)
}

fn gaps() -> impl Strategy<Value = Vec<(i64, i64)>> {
    prop::collection::vec((1..190_i64, 1..12_i64), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_counter_gains_what_was_counted_and_is_reset_only_when_it_was(
        seeds in (any::<u64>(), any::<u64>()),
        phase in JITTER_MAX..INTERVAL - JITTER_MAX,
        gaps in (gaps(), gaps()),
        restarts in prop::collection::btree_set(20..180_i64, 0..3),
        rate in 1.0..200.0_f64,
    ) {
        // Restarts that are far enough from one another to be told apart.
        let starts = std::iter::once(-86_400_000).chain(restarts.iter().map(|scrape| scrape * INTERVAL + 40));
        let target = Target { rate, starts: starts.collect() };
        let first = scraped(&target, seeds.0, 0, 200, &gaps.0);
        let second = scraped(&target, seeds.1, phase, 200, &gaps.1);
        let as_histograms = |samples: &[(i64, f64)]| SampleBuffer { histograms: histograms(samples), ..SampleBuffer::default() };
        for is_histogram in [false, true] {
            let part = |samples: &[(i64, f64)]| -> Box<dyn Samples> {
                Box::new(Held(if is_histogram { as_histograms(samples) } else { floats(samples) }))
            };
            let mut joined = SampleBuffer::default();
            let parts = vec![part(&first), part(&second)];
            ReplicaSamples::of_counter(parts).read(TimeRange::new(0, 4_000_000), &mut joined).unwrap();
            let (times, values): (Vec<i64>, Vec<f64>) = match is_histogram {
                true => joined.histograms.iter().map(|sample| (sample.at, sample.histogram.count)).unzip(),
                false => (joined.timestamps.clone(), joined.values.clone()),
            };
            let (resets, gained) = told(&values);
            let (begin, end) = (times[0], times[times.len() - 1]);
            let restarted = target.restarts_within(begin..=end + LATENCY_MAX);
            prop_assert!(resets <= restarted, "{resets} resets, {restarted} restarts: {times:?} {values:?}");
            // What was counted between the last look and a restart nobody saw; slow answers count later than they say.
            let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            let unseen = (LATENCY_MAX + restarted as i64 * (longest + LATENCY_MAX)) as f64 / 1000.0 * rate + 4.0;
            let counted = (end - begin) as f64 / 1000.0 * rate;
            prop_assert!((gained - counted).abs() <= unseen, "gained {gained}, counted {counted}, unseen {unseen}");
        }
    }
}

#[tokio::test]
async fn rates_and_sums_of_pairs_are_those_of_the_targets() {
    let (mut memory, begin, scrapes) = (Memory::new(), NOW - 3_600_000, 240);
    let mut rates = 0.0;
    for (number, rate) in [5.0, 20.0, 80.0].into_iter().enumerate() {
        rates += rate;
        let target = Target {
            rate,
            starts: vec![begin - 86_400_000],
        };
        let instance = format!("i{number}");
        for (replica, phase, gaps) in [
            ("a", 0, vec![(40, 10), (90, 1), (120, 30)]),
            ("b", 6_000, vec![(60, 20), (91, 1), (200, 3)]),
        ] {
            let seed = number as u64 * 7 + phase as u64;
            let samples: Vec<(i64, f64)> = scraped(&target, seed, begin + phase, scrapes, &gaps);
            let labels = |name| [("__name__", name), ("instance", &*instance), ("replica", replica)];
            memory = memory.floats(&labels("events_total"), &samples);
            memory = memory.histograms(&labels("sizes"), histograms(&samples));
        }
    }
    let settings = QuerierSettings {
        replica_labels: vec!["replica".into()],
        ..QuerierSettings::default()
    };
    let api = Api::with(memory.shared(), settings);
    for query in ["sum(rate(events_total[5m]))", "sum(histogram_count(rate(sizes[5m])))"] {
        let (start, end) = ((begin + 600_000) / 1000, NOW / 1000 - 60);
        let uri = format!(
            "/api/v1/query_range?query={}&start={start}&end={end}&step=30",
            encoded(query)
        );
        let answer = api.get(&uri).await.json();
        let values = answer["data"]["result"][0]["values"].as_array().unwrap().clone();
        assert!(values.len() > 90, "{query}: {answer}");
        let worst = values.iter().map(|point| {
            let value: f64 = point[1].as_str().unwrap().parse().unwrap();
            (value / rates - 1.0).abs()
        });
        let worst = worst.fold(0.0, f64::max);
        eprintln!("{query}: off by {:.2} % at most", worst * 100.0);
        assert!(worst < 0.03, "{query}: off by {worst}");
    }
}
