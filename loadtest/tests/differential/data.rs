//! The data that all servers get: two hours, scrape by scrape, with everything that makes answers hard: gaps, resets, stale
//! markers, NaN and infinities, classic and native histograms, odd labels.
//!
//! Values are short binary fractions, so that sums do not depend on their order. Timestamps lie 7 ms beside whole seconds: old
//! Prometheus closed windows on the left, new ones leave them open, and nobody can tell where no sample lies on an edge.

use crate::chance::Chance;
use loadtest::{
    clock::now_ms,
    probe::{Probe, compress},
    wire::{Protocol, put_varint},
};
use std::sync::OnceLock;

/// The first scrape: an hour that began two to three hours ago, since servers refuse samples that are much older.
pub(crate) fn start() -> i64 {
    const HOUR: i64 = 3_600_000;
    static START: OnceLock<i64> = OnceLock::new();
    *START.get_or_init(|| now_ms() / HOUR * HOUR - 2 * HOUR)
}

/// Milliseconds between scrapes.
pub(crate) const SCRAPE: i64 = 15_000;
/// Number of scrapes.
pub(crate) const SCRAPES: usize = 480;
/// How far scrapes lie beside whole seconds.
const BESIDE: i64 = 7;
/// Scrapes per request.
const SCRAPES_PER_REQUEST: usize = 20;

const STALE: u64 = 0x7ff0_0000_0000_0002;

/// A value of a series.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Float(f64),
    Histogram(NativeHistogram),
}

/// A native histogram with integer counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct NativeHistogram {
    schema: i32,
    sum: f64,
    zero_threshold: f64,
    zero: u64,
    /// Offset of the first bucket, and counts.
    positive: (i32, Vec<u64>),
    negative: (i32, Vec<u64>),
    /// Upper bounds of schema -53.
    bounds: Vec<f64>,
    gauge: bool,
    stale: bool,
}

/// A series: labels, and a value or none for each scrape.
pub(crate) struct Series {
    labels: Vec<(String, String)>,
    values: Vec<Option<Value>>,
}

impl Series {
    fn floats(labels: &[(&str, &str)], value: impl FnMut(usize) -> Option<f64>) -> Self {
        Self::new(
            labels,
            (0..SCRAPES).map(value).map(|value| value.map(Value::Float)).collect(),
        )
    }

    fn histograms(labels: &[(&str, &str)], value: impl FnMut(usize) -> Option<NativeHistogram>) -> Self {
        let values = (0..SCRAPES).map(value);
        Self::new(labels, values.map(|value| value.map(Value::Histogram)).collect())
    }

    fn new(labels: &[(&str, &str)], values: Vec<Option<Value>>) -> Self {
        let mut labels: Vec<(String, String)> =
            labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        labels.sort();
        Self { labels, values }
    }
}

/// All series; native histograms only when asked for.
pub(crate) fn series(native: bool) -> Vec<Series> {
    let mut all = Vec::new();
    let chance = &mut Chance::new(42);
    gauges(&mut all, chance);
    counters(&mut all, chance);
    classic_histograms(&mut all, chance);
    oddities(&mut all);
    partners(&mut all);
    if native {
        native_histograms(&mut all, chance);
    }
    all
}

fn stale() -> f64 {
    f64::from_bits(STALE)
}

fn gauges(all: &mut Vec<Series>, chance: &mut Chance) {
    for room in ["attic", "cellar", "kitchen", "hall-1"] {
        for floor in ["0", "1", "2"] {
            let mut level = chance.below(400) as f64 / 8.0 - 10.0;
            let labels = [
                ("__name__", "temperature"),
                ("room", room),
                ("floor", floor),
                ("job", "house"),
            ];
            let values: Vec<f64> = (0..SCRAPES)
                .map(|_| {
                    level += (chance.below(33) as f64 - 16.0) / 8.0;
                    level
                })
                .collect();
            let gap = chance.below(SCRAPES);
            // A gap that the lookback bridges, and one that it does not.
            all.push(Series::floats(&labels, |scrape| {
                let away = (gap..gap + 9).contains(&scrape) || (gap + 60..gap + 90).contains(&scrape);
                (!away).then(|| values[scrape])
            }));
        }
    }
}

fn counters(all: &mut Vec<Series>, chance: &mut Chance) {
    for job in ["api", "web"] {
        for instance in ["a:1", "b:1", "c:2"] {
            for (code, most) in [("200", 40), ("404", 5), ("500", 2)] {
                let labels = [
                    ("__name__", "requests_total"),
                    ("job", job),
                    ("instance", instance),
                    ("code", code),
                ];
                let mut count = chance.below(1000) as f64;
                let reset = chance.below(SCRAPES);
                let values: Vec<f64> = (0..SCRAPES)
                    .map(|scrape| {
                        count += chance.below(most) as f64;
                        if scrape == reset || scrape == reset / 2 {
                            count = chance.below(3) as f64;
                        }
                        count
                    })
                    .collect();
                let ends = chance.percent(30).then(|| chance.below(SCRAPES));
                all.push(Series::floats(&labels, |scrape| match ends {
                    Some(end) if scrape == end => Some(stale()),
                    Some(end) if (end..end + 40).contains(&scrape) => None,
                    _ => Some(values[scrape]),
                }));
            }
            let mut seconds = 0.0;
            let steps: Vec<f64> = (0..SCRAPES).map(|_| chance.below(64) as f64 / 16.0).collect();
            let labels = [("__name__", "cpu_seconds_total"), ("job", job), ("instance", instance)];
            all.push(Series::floats(&labels, |scrape| {
                seconds += steps[scrape];
                Some(seconds)
            }));
        }
    }
}

fn classic_histograms(all: &mut Vec<Series>, chance: &mut Chance) {
    const BOUNDS: [&str; 7] = ["0.01", "0.05", "0.1", "0.5", "1", "2.5", "+Inf"];
    for (job, instance) in [("api", "a:1"), ("api", "b:1"), ("web", "a:1")] {
        let mut counts = [[0.0; 7]; SCRAPES];
        let mut sums = [0.0; SCRAPES];
        let (mut count, mut sum) = ([0.0; 7], 0.0);
        for scrape in 0..SCRAPES {
            let place = chance.below(7);
            let more = chance.below(9) as f64;
            count.iter_mut().skip(place).for_each(|count| *count += more);
            sum += more * [0.0078125, 0.03125, 0.0625, 0.25, 0.75, 2.0, 5.0][place];
            if scrape == 300 && instance == "b:1" {
                (count, sum) = ([0.0; 7], 0.0);
            }
            (counts[scrape], sums[scrape]) = (count, sum);
        }
        for (bucket, bound) in BOUNDS.iter().enumerate() {
            let labels = [
                ("__name__", "latency_seconds_bucket"),
                ("job", job),
                ("instance", instance),
                ("le", bound),
            ];
            all.push(Series::floats(&labels, |scrape| Some(counts[scrape][bucket])));
        }
        let of = |name| [("__name__", name), ("job", job), ("instance", instance)];
        all.push(Series::floats(&of("latency_seconds_sum"), |scrape| Some(sums[scrape])));
        all.push(Series::floats(&of("latency_seconds_count"), |scrape| {
            Some(counts[scrape][6])
        }));
    }
    for (bound, count) in [("0.1", 5.0), ("1", 3.0), ("10", 8.0), ("+Inf", 8.0)] {
        let labels = [("__name__", "crooked_bucket"), ("le", bound), ("job", "api")];
        all.push(Series::floats(&labels, |scrape| Some(count + (scrape % 4) as f64)));
    }
    for (bound, count) in [("0.1", 5.0), ("many", 7.0), ("", 9.0)] {
        let labels = [("__name__", "broken_bucket"), ("le", bound), ("job", "api")];
        all.push(Series::floats(&labels, |_| Some(count)));
    }
}

fn oddities(all: &mut Vec<Series>) {
    type Rule = fn(usize) -> Option<f64>;
    let rules: [(&str, Rule); 9] = [
        ("nan", |scrape| {
            Some(if scrape % 3 == 0 { f64::NAN } else { scrape as f64 })
        }),
        ("inf", |scrape| Some(if scrape % 5 == 0 { f64::INFINITY } else { 1.5 })),
        ("ninf", |scrape| {
            Some(if scrape % 7 == 0 { f64::NEG_INFINITY } else { -2.5 })
        }),
        ("zero", |scrape| Some(if scrape % 2 == 0 { 0.0 } else { -0.0 })),
        ("huge", |scrape| Some(if scrape % 4 == 0 { 1e300 } else { 3e300 })),
        ("tiny", |scrape| Some(scrape as f64 * 1e-300)),
        ("flapping", |scrape| match scrape % 50 {
            0..30 => Some(scrape as f64),
            30 => Some(f64::from_bits(STALE)),
            _ => None,
        }),
        ("once", |scrape| (scrape == 200).then_some(7.0)),
        ("moment", |scrape| {
            Some(start() as f64 / 1000.0 + scrape as f64 * 86_400.0 * 9.5)
        }),
    ];
    for (kind, rule) in rules {
        all.push(Series::floats(
            &[("__name__", "odd"), ("kind", kind), ("job", "odd")],
            rule,
        ));
    }
    let words = [("a", "näher: 12µs \"q\" \\ \t x"), ("b", "line\nbreak"), ("c", "12-34")];
    for (place, (kind, text)) in words.into_iter().enumerate() {
        let labels = [("__name__", "words"), ("kind", kind), ("text", text)];
        all.push(Series::floats(&labels, |scrape| {
            Some((scrape % 10) as f64 * 0.5 + place as f64)
        }));
    }
}

/// Series for the other side of a match.
fn partners(all: &mut Vec<Series>) {
    for (place, (job, instance)) in [("api", "a:1"), ("api", "b:1"), ("web", "a:1"), ("web", "z:9")]
        .into_iter()
        .enumerate()
    {
        let version = ["1.0", "1.1", "2.0", "2.0"][place];
        let of = |name| {
            [
                ("__name__", name),
                ("job", job),
                ("instance", instance),
                ("version", version),
            ]
        };
        all.push(Series::floats(&of("build_info"), |_| Some(1.0)));
        all.push(Series::floats(&of("target_info"), |_| Some(1.0)));
        let of = |name| [("__name__", name), ("job", job), ("instance", instance)];
        all.push(Series::floats(&of("up"), |scrape| {
            Some(f64::from(u8::from(scrape % 40 != place)))
        }));
        all.push(Series::floats(&of("limit"), |_| Some(64.0 * (place + 1) as f64)));
    }
    for job in ["api", "web"] {
        all.push(Series::floats(&[("__name__", "quota"), ("job", job)], |_| Some(8.0)));
    }
}

fn native_histograms(all: &mut Vec<Series>, chance: &mut Chance) {
    for (job, instance, schema) in [
        ("api", "a:1", 0),
        ("api", "b:1", 2),
        ("web", "a:1", 1),
        ("web", "c:2", 3),
    ] {
        let mut now = NativeHistogram {
            schema,
            zero_threshold: 0.125,
            positive: (-2, vec![0; 8]),
            negative: (1, vec![0; 3]),
            ..NativeHistogram::default()
        };
        let reset = chance.below(SCRAPES);
        let values: Vec<NativeHistogram> = (0..SCRAPES)
            .map(|scrape| {
                if scrape == reset {
                    now.positive.1.fill(0);
                    now.negative.1.fill(0);
                    (now.zero, now.sum) = (0, 0.0);
                }
                let (bucket, more) = (chance.below(8), chance.below(5) as u64);
                now.positive.1[bucket] += more;
                now.sum += more as f64 * 0.5;
                if chance.percent(20) {
                    now.negative.1[bucket % 3] += 1;
                    now.sum -= 2.0;
                }
                now.zero += u64::from(chance.percent(15));
                now.clone()
            })
            .collect();
        let labels = [("__name__", "native_seconds"), ("job", job), ("instance", instance)];
        all.push(Series::histograms(&labels, |scrape| match scrape % 97 {
            90 => Some(NativeHistogram {
                stale: true,
                ..NativeHistogram::default()
            }),
            91.. => None,
            _ => Some(values[scrape].clone()),
        }));
        let labels = [("__name__", "native_gauge"), ("job", job), ("instance", instance)];
        all.push(Series::histograms(&labels, |scrape| {
            let gauge = NativeHistogram {
                gauge: true,
                ..values[(scrape * 7) % SCRAPES].clone()
            };
            Some(gauge)
        }));
        let labels = [("__name__", "mixed"), ("job", job), ("instance", instance)];
        let mixed = (0..SCRAPES).map(|scrape| match scrape / 50 % 2 {
            0 => Some(Value::Float(scrape as f64 * 0.25)),
            _ => Some(Value::Histogram(values[scrape].clone())),
        });
        all.push(Series::new(&labels, mixed.collect()));
    }
    for (job, bounds) in [("api", [0.125, 0.5, 1.0, 4.0]), ("web", [0.125, 0.5, 2.0, 4.0])] {
        let mut counts = vec![0; 5];
        let mut sum = 0.0;
        let labels = [("__name__", "custom_seconds"), ("job", job), ("instance", "a:1")];
        let values: Vec<NativeHistogram> = (0..SCRAPES)
            .map(|_| {
                let (bucket, more) = (chance.below(5), chance.below(6) as u64);
                counts[bucket] += more;
                sum += more as f64 * 0.5;
                NativeHistogram {
                    schema: -53,
                    sum,
                    positive: (0, counts.clone()),
                    bounds: bounds.to_vec(),
                    ..NativeHistogram::default()
                }
            })
            .collect();
        all.push(Series::histograms(&labels, |scrape| Some(values[scrape].clone())));
    }
}

/// Pushes all series, in the order of time.
pub(crate) fn load(probe: &mut Probe, all: &[Series]) -> anyhow::Result<()> {
    for from in (0..SCRAPES).step_by(SCRAPES_PER_REQUEST) {
        let mut message = Vec::new();
        for series in all {
            let mut inner = Vec::new();
            for (name, value) in series.labels.iter().filter(|(_, value)| !value.is_empty()) {
                let mut label = Vec::new();
                put_field(&mut label, 0x0a, name.as_bytes());
                put_field(&mut label, 0x12, value.as_bytes());
                put_field(&mut inner, 0x0a, &label);
            }
            let labels_end = inner.len();
            for scrape in from..(from + SCRAPES_PER_REQUEST).min(SCRAPES) {
                let at = start() + BESIDE + scrape as i64 * SCRAPE;
                match &series.values[scrape] {
                    Some(Value::Float(value)) => put_field(&mut inner, 0x12, &float(*value, at)),
                    Some(Value::Histogram(histogram)) => put_field(&mut inner, 0x22, &histogram.encoded(at)),
                    None => {}
                }
            }
            if inner.len() > labels_end {
                put_field(&mut message, 0x0a, &inner);
            }
        }
        let answer = probe.send(Protocol::V1.headers(), &compress(&message))?;
        anyhow::ensure!(answer.status < 300, "push: {} {}", answer.status, answer.text());
    }
    Ok(())
}

fn float(value: f64, at: i64) -> Vec<u8> {
    let mut sample = Vec::new();
    put_double(&mut sample, 0x09, value);
    sample.push(0x10);
    put_varint(&mut sample, at as u64);
    sample
}

impl NativeHistogram {
    fn encoded(&self, at: i64) -> Vec<u8> {
        let mut out = Vec::new();
        let count = self.zero + self.positive.1.iter().sum::<u64>() + self.negative.1.iter().sum::<u64>();
        put_number(&mut out, 0x08, count);
        put_double(&mut out, 0x19, if self.stale { stale() } else { self.sum });
        put_number(&mut out, 0x20, zigzag(i64::from(self.schema)));
        put_double(&mut out, 0x29, self.zero_threshold);
        put_number(&mut out, 0x30, self.zero);
        put_buckets(&mut out, (0x42, 0x4a), &self.negative);
        put_buckets(&mut out, (0x5a, 0x62), &self.positive);
        if self.gauge {
            put_number(&mut out, 0x70, 3);
        }
        put_number(&mut out, 0x78, at as u64);
        if !self.bounds.is_empty() {
            let packed: Vec<u8> = self.bounds.iter().flat_map(|bound| bound.to_le_bytes()).collect();
            // Field 16.
            put_varint(&mut out, 0x82);
            put_varint(&mut out, packed.len() as u64);
            out.extend(packed);
        }
        out
    }
}

/// One span and the differences between its counts.
fn put_buckets(out: &mut Vec<u8>, (span_tag, delta_tag): (u8, u8), (offset, counts): &(i32, Vec<u64>)) {
    if counts.is_empty() {
        return;
    }
    let mut span = Vec::new();
    put_number(&mut span, 0x08, zigzag(i64::from(*offset)));
    put_number(&mut span, 0x10, counts.len() as u64);
    put_field(out, span_tag, &span);
    let (mut packed, mut before) = (Vec::new(), 0);
    for &count in counts {
        put_varint(&mut packed, zigzag(count as i64 - before));
        before = count as i64;
    }
    put_field(out, delta_tag, &packed);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn put_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    out.push(tag);
    put_varint(out, number);
}

fn put_double(out: &mut Vec<u8>, tag: u8, value: f64) {
    out.push(tag);
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_field(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}
