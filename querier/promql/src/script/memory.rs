//! Series in memory as a source of the engine.
//!
//! It stands in for Prometheus's storage, so histograms come back as from its chunks: the first counter histogram of a chunk says
//! nothing about resets, the others say that there was none. Hints of the script only decide where chunks begin.

use super::LoadedSeries;
use futures::future::BoxFuture;
use model::histogram::{Histogram, ResetHint};
use model::label::Labels;
use model::matcher::Matcher;
use model::sample::{HistogramSample, SampleBuffer, is_stale};
use model::select::{
    Chunk, Hints, LabelList, ReadySet, Samples, Select, SelectError, SelectRequest, Series, SeriesSet,
};
use model::time::TimeRange;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All series of a script, by labels.
#[derive(Default)]
pub struct Memory {
    series: BTreeMap<Labels, Arc<Column>>,
}

/// The samples of a series.
#[derive(Default)]
struct Column {
    /// As loaded, with the reset hints of the script.
    loaded: SampleBuffer,
    /// With the reset hints that a storage would give.
    stored: SampleBuffer,
}

impl Memory {
    /// Without series.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a series, or samples to one that is there. Another sample at a timestamp that is taken is an error.
    pub fn load(&mut self, series: LoadedSeries) -> Result<(), String> {
        for sample in &series.samples.histograms {
            let checked = if sample.histogram.is_stale() {
                Ok(())
            } else {
                sample.histogram.validate()
            };
            checked.map_err(|fault| format!("{} at {} ms: {fault}", series.labels, sample.at))?;
        }
        let known = self.series.get(&series.labels);
        let loaded = match known {
            Some(known) => merged(&known.loaded, &series.samples)
                .map_err(|at| format!("{} at {at} ms: the timestamp is taken", series.labels))?,
            None => series.samples,
        };
        let stored = with_hints(&loaded);
        self.series.insert(series.labels, Arc::new(Column { loaded, stored }));
        Ok(())
    }

    fn matching(&self, matchers: &[Matcher], range: TimeRange) -> Vec<(&Labels, &Arc<Column>)> {
        let matches = |labels: &Labels| {
            matchers
                .iter()
                .all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or("")))
        };
        self.series
            .iter()
            .filter(|(labels, column)| matches(labels) && column.overlaps(range))
            .collect()
    }
}

/// Both buffers as one, or the timestamp that both hold.
fn merged(left: &SampleBuffer, right: &SampleBuffer) -> Result<SampleBuffer, i64> {
    let mut times = BTreeSet::new();
    let mut floats = BTreeMap::new();
    let mut histograms = BTreeMap::new();
    for buffer in [left, right] {
        for (index, (&at, &value)) in buffer.timestamps.iter().zip(&buffer.values).enumerate() {
            let known = floats.get(&at).map(|known: &(f64, i64)| known.0.to_bits());
            if !times.insert(at) && known != Some(value.to_bits()) {
                return Err(at);
            }
            let start = buffer.starts.get(index).copied().unwrap_or(0);
            floats.entry(at).or_insert((value, start));
        }
        for sample in &buffer.histograms {
            let known = histograms
                .get(&sample.at)
                .map(|known: &HistogramSample| &known.histogram);
            if !times.insert(sample.at) && known != Some(&sample.histogram) {
                return Err(sample.at);
            }
            histograms.entry(sample.at).or_insert_with(|| sample.clone());
        }
    }
    let mut merged = SampleBuffer {
        histograms: histograms.into_values().collect(),
        ..SampleBuffer::default()
    };
    for (at, (value, start)) in floats {
        merged.push_float_started(at, value, start);
    }
    Ok(merged)
}

/// The samples with the hints that they have when they come back from chunks.
fn with_hints(loaded: &SampleBuffer) -> SampleBuffer {
    let mut stored = loaded.clone();
    let mut floats = loaded.timestamps.iter().peekable();
    // The histogram before, unless there is a float between.
    let mut last: Option<Arc<Histogram>> = None;
    for sample in &mut stored.histograms {
        while floats.next_if(|at| **at < sample.at).is_some() {
            last = None;
        }
        let histogram = sample.histogram.clone();
        let hint = match &last {
            _ if histogram.reset_hint == ResetHint::Gauge => ResetHint::Gauge,
            Some(last) if shares_chunk(last, &histogram) => ResetHint::NotReset,
            _ => ResetHint::Unknown,
        };
        last = Some(histogram);
        set_hint(sample, hint);
    }
    stored
}

fn set_hint(sample: &mut HistogramSample, hint: ResetHint) {
    if sample.histogram.reset_hint != hint {
        Arc::make_mut(&mut sample.histogram).reset_hint = hint;
    }
}

/// Whether a counter histogram is kept in the chunk of the one before it.
fn shares_chunk(last: &Histogram, next: &Histogram) -> bool {
    if last.reset_hint == ResetHint::Gauge || next.reset_hint == ResetHint::Reset {
        return false;
    }
    if is_stale(next.sum) || is_stale(last.sum) {
        return is_stale(next.sum);
    }
    // What the script says must not stand in for looking at the buckets.
    let plain = Histogram {
        reset_hint: ResetHint::Unknown,
        ..next.clone()
    };
    next.schema == last.schema
        && next.zero_threshold == last.zero_threshold
        && next.custom_values == last.custom_values
        && !plain.is_reset_since(last)
}

impl Column {
    fn overlaps(&self, range: TimeRange) -> bool {
        let float = self.stored.timestamps.partition_point(|at| *at < range.min);
        let histogram = self.stored.histograms.partition_point(|sample| sample.at < range.min);
        self.stored.timestamps.get(float).is_some_and(|at| *at <= range.max)
            || self
                .stored
                .histograms
                .get(histogram)
                .is_some_and(|sample| sample.at <= range.max)
    }
}

/// A series of an answer; shares the column with the store.
struct Reader {
    column: Arc<Column>,
    /// Whether samples before the newest are kept back: scripts then tell whether a plan asked for too little.
    newest_only: bool,
}

impl Reader {
    /// The range without all that lies before the newest sample in it.
    fn narrowed(&self, range: TimeRange) -> TimeRange {
        let stored = &self.column.stored;
        let floats = stored.timestamps.partition_point(|at| *at <= range.max);
        let histograms = stored.histograms.partition_point(|sample| sample.at <= range.max);
        let float = floats.checked_sub(1).map(|index| stored.timestamps[index]);
        let histogram = histograms.checked_sub(1).map(|index| stored.histograms[index].at);
        let newest = float.max(histogram).unwrap_or(range.min);
        TimeRange::new(newest.max(range.min), range.max)
    }
}

impl Samples for Reader {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        let range = if self.newest_only { self.narrowed(range) } else { range };
        let stored = &self.column.stored;
        let first = stored.timestamps.partition_point(|at| *at < range.min);
        for index in first..stored.timestamps.len() {
            if stored.timestamps[index] > range.max {
                break;
            }
            let start = stored.starts.get(index).copied().unwrap_or(0);
            buffer.push_float_started(stored.timestamps[index], stored.values[index], start);
        }
        let first = stored.histograms.partition_point(|sample| sample.at < range.min);
        let inside = stored.histograms[first..]
            .iter()
            .take_while(|sample| sample.at <= range.max);
        buffer.histograms.extend(inside.cloned());
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        Err(SelectError::Unavailable(
            "series of a script are not kept in chunks; read their samples instead".to_owned(),
        ))
    }
}

impl Select for Memory {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(async move {
            let limit = if request.limit == 0 { usize::MAX } else { request.limit };
            let found = self.matching(&request.matchers, request.range).into_iter().take(limit);
            let Hints {
                newest_only,
                labels: needed,
                ..
            } = request.hints;
            let needed = needed.filter(|_| !request.sorted);
            let series = found.map(|(labels, column)| Series {
                labels: match &needed {
                    Some(names) => labels.filtered(|name| names.iter().any(|needed| needed == name)),
                    None => labels.clone(),
                },
                samples: Box::new(Reader {
                    column: column.clone(),
                    newest_only,
                }) as Box<dyn Samples>,
            });
            Ok(Box::new(ReadySet::new(series.collect(), Vec::new())) as Box<dyn SeriesSet>)
        })
    }

    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        let found = self.matching(&matchers, range);
        let names = found
            .iter()
            .flat_map(|(labels, _)| labels.iter().map(|(name, _)| name.to_owned()));
        let list = label_list(names.collect(), limit);
        Box::pin(async move { Ok(list) })
    }

    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        let found = self.matching(&matchers, range);
        let values = found
            .iter()
            .filter_map(|(labels, _)| labels.get(&name).map(str::to_owned));
        let list = label_list(values.collect(), limit);
        Box::pin(async move { Ok(list) })
    }
}

fn label_list(items: BTreeSet<String>, limit: usize) -> LabelList {
    let limit = if limit == 0 { usize::MAX } else { limit };
    LabelList {
        items: items.into_iter().take(limit).collect(),
        warnings: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::{Item, parse_series};
    use futures::executor::block_on;

    fn load(memory: &mut Memory, text: &str) -> Result<(), String> {
        let description = parse_series(text).unwrap();
        let mut samples = SampleBuffer::default();
        for (at, item) in (0..).step_by(1000).zip(description.items) {
            match item {
                Item::Gap => {}
                Item::Float(value) => samples.push_float(at, value),
                Item::Histogram { histogram, .. } => {
                    samples.histograms.push(HistogramSample {
                        at,
                        start: 0,
                        histogram,
                    });
                }
            }
        }
        memory.load(LoadedSeries {
            labels: description.labels,
            samples,
        })
    }

    fn read(memory: &Memory, matcher: Matcher, range: TimeRange) -> Vec<(String, SampleBuffer)> {
        let request = SelectRequest::new(vec![matcher], range);
        let mut set = block_on(memory.select(request)).unwrap_or_else(|error| panic!("{error}"));
        let mut found = Vec::new();
        while let Some(batch) = block_on(set.next()) {
            for series in batch.unwrap_or_else(|error| panic!("{error}")) {
                let mut buffer = SampleBuffer::default();
                series.samples.read(range, &mut buffer).unwrap();
                found.push((series.labels.to_string(), buffer));
            }
        }
        found
    }

    #[test]
    fn only_what_is_asked_for_comes_back() {
        let mut memory = Memory::new();
        load(&mut memory, "up{job=\"b\"} 1 2 3").unwrap();
        load(&mut memory, "up{job=\"a\"} _ 5").unwrap();
        let found = read(&memory, Matcher::equal("__name__", "up"), TimeRange::new(500, 1500));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0, "{__name__=\"up\", job=\"a\"}");
        assert_eq!(found[1].1.timestamps, [1000]);
        assert_eq!(found[1].1.values, [2.0]);
        assert_eq!(read(&memory, Matcher::equal("job", "a"), TimeRange::new(0, 999)), []);
        let names = block_on(memory.label_names(Vec::new(), TimeRange::ALL, 0)).unwrap();
        assert_eq!(names.items, ["__name__", "job"]);
        let values = block_on(memory.label_values("job".to_owned(), Vec::new(), TimeRange::ALL, 1)).unwrap();
        assert_eq!(values.items, ["a"]);
    }

    #[test]
    fn samples_are_added_but_not_replaced() {
        let mut memory = Memory::new();
        load(&mut memory, "m _ 1").unwrap();
        load(&mut memory, "m 0").unwrap();
        assert_eq!(
            read(&memory, Matcher::equal("__name__", "m"), TimeRange::ALL)[0]
                .1
                .values,
            [0.0, 1.0]
        );
        assert!(load(&mut memory, "m 7").unwrap_err().contains("the timestamp is taken"));
        // The same sample twice is one.
        load(&mut memory, "m 0 _ {{count:2}}").unwrap();
        load(&mut memory, "m _ 1 {{count:2}}").unwrap();
        assert!(load(&mut memory, "m _ _ {{count:3}}").is_err() && load(&mut memory, "m _ _ 2").is_err());
    }

    #[test]
    fn histograms_carry_the_hints_of_chunks() {
        use ResetHint::{Gauge, NotReset, Unknown};
        let mut memory = Memory::new();
        let text = "m {{count:1}} {{count:2}} {{count:1}} {{count:2 counter_reset_hint:reset}} \
                    {{count:1 counter_reset_hint:gauge}} {{count:3}} {{count:4}} 5 {{count:6}} \
                    {{count:7 schema:1}} {{count:7 schema:1 counter_reset_hint:not_reset}}";
        load(&mut memory, text).unwrap();
        let found = read(&memory, Matcher::equal("__name__", "m"), TimeRange::ALL);
        let hints: Vec<ResetHint> = found[0]
            .1
            .histograms
            .iter()
            .map(|sample| sample.histogram.reset_hint)
            .collect();
        assert_eq!(
            hints,
            [
                Unknown, NotReset, Unknown, Unknown, Gauge, Unknown, NotReset, Unknown, Unknown, NotReset
            ]
        );
    }
}
