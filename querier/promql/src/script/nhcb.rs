//! `load_with_nhcb`: classic histograms, one series per bucket, as native histograms with custom buckets.

use super::LoadedSeries;
use hashbrown::HashMap;
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, Histogram, Span};
use model::label::{Labels, METRIC_NAME};
use model::sample::{HistogramSample, SampleBuffer};
use model::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of a classic histogram at one time.
#[derive(Default)]
struct Classic {
    /// Upper bound and cumulative count.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

/// The native histograms that `series` describe, named without the suffix.
pub(super) fn convert(series: &[LoadedSeries]) -> Result<Vec<LoadedSeries>, String> {
    let mut found: Vec<(Labels, BTreeMap<Timestamp, Classic>)> = Vec::new();
    let mut places: HashMap<Labels, usize> = HashMap::new();
    for one in series {
        let name = one.labels.metric_name();
        let (base, part) = if let Some(base) = name.strip_suffix("_bucket") {
            let Some(bound) = one.labels.get("le").and_then(parse_bound) else {
                continue;
            };
            (base, Part::Bucket(bound))
        } else if let Some(base) = name.strip_suffix("_count") {
            (base, Part::Count)
        } else if let Some(base) = name.strip_suffix("_sum") {
            (base, Part::Sum)
        } else {
            continue;
        };
        let labels = one.labels.with(METRIC_NAME, base).with("le", "");
        let place = *places.entry(labels.clone()).or_insert_with(|| {
            found.push((labels, BTreeMap::new()));
            found.len() - 1
        });
        let times = &mut found[place].1;
        for (&at, &value) in one.samples.timestamps.iter().zip(&one.samples.values) {
            times.entry(at).or_default().set(&part, value);
        }
    }
    found.into_iter().map(|(labels, times)| native(labels, times)).collect()
}

enum Part {
    Bucket(f64),
    Count,
    Sum,
}

fn parse_bound(text: &str) -> Option<f64> {
    text.parse().ok().filter(|bound: &f64| !bound.is_nan())
}

fn native(labels: Labels, times: BTreeMap<Timestamp, Classic>) -> Result<LoadedSeries, String> {
    let mut samples = SampleBuffer::default();
    for (at, classic) in times {
        let histogram = classic
            .into_native()
            .map_err(|reason| format!("{labels} at {at} ms: {reason}"))?;
        samples.histograms.push(HistogramSample {
            at,
            start: 0,
            histogram: Arc::new(histogram),
        });
    }
    Ok(LoadedSeries { labels, samples })
}

impl Classic {
    fn set(&mut self, part: &Part, value: f64) {
        match part {
            Part::Bucket(bound) => self.buckets.push((*bound, value)),
            Part::Count => self.count = Some(value),
            Part::Sum => self.sum = value,
        }
    }

    fn into_native(mut self) -> Result<Histogram, String> {
        // Two spellings of one bound are one bucket; the first one counts.
        self.buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        self.buckets.dedup_by(|later, first| later.0 == first.0);
        let last = self.buckets.last().copied();
        let count = self.count.or(last.map(|(_, count)| count)).unwrap_or(0.0);
        if last.is_none_or(|(bound, _)| bound != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        let mut previous = 0.0;
        let mut histogram = Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count,
            sum: self.sum,
            ..Histogram::default()
        };
        for &(bound, cumulative) in &self.buckets {
            if cumulative < previous {
                return Err(format!("bucket counts are not cumulative at le={bound}"));
            }
            histogram.positive_buckets.push(cumulative - previous);
            previous = cumulative;
            if bound != f64::INFINITY {
                histogram.custom_values.push(bound);
            }
        }
        if previous != count {
            return Err(format!(
                "count {count} differs from that of the last bucket, {previous}"
            ));
        }
        histogram.positive_spans = vec![Span {
            offset: 0,
            length: histogram.positive_buckets.len() as u32,
        }];
        histogram.compact();
        Ok(histogram)
    }
}
