//! Thanos's way to make one series of several replicas, for who needs the very numbers that Thanos gives.
//!
//! It sticks to a replica until that one has a gap, and is off whenever [`crate::replica`] would do: it needs two intervals to notice
//! a gap, and after a switch it skips samples of the other side. Who held a sample does not matter to it: chunks are dealt to
//! imaginary replicas so that those of one never overlap. Under a function that looks at increases, Thanos first takes the resets out
//! of each replica, so `resets()` is always 0 there, and drops what is no number, stale markers included; then it lifts counters at a
//! switch so that they do not seem to be reset.

use model::{
    sample::{HistogramSample, SampleBuffer, is_stale},
    select::{Chunk, Samples, SelectError},
    time::{TimeRange, Timestamp},
};
use storage::chunk::ChunkSamples;

/// How long the side that was not taken first has to wait, when nothing is known of the interval yet.
const FIRST_PENALTY_MS: i64 = 5000;

/// Functions that look at increases, for which counters are lifted.
const COUNTER_FUNCTIONS: [&str; 4] = ["increase", "rate", "irate", "resets"];

/// Whether a selector inside of this function has its counters lifted.
pub(crate) fn lifts_counters(function: &str) -> bool {
    COUNTER_FUNCTIONS.contains(&function)
}

/// Samples of a series as several replicas saw it, joined as Thanos does.
pub(crate) struct PenaltySamples {
    replicas: Vec<Box<dyn Samples>>,
    counter: bool,
    /// So long before what is read the choice between replicas begins.
    lead_ms: i64,
}

impl PenaltySamples {
    /// Joins the replicas of a series; with `counter` its values are lifted where the replica changes. The choice between replicas begins
    /// `lead_ms` before what is read.
    pub(crate) fn new(replicas: Vec<Box<dyn Samples>>, counter: bool, lead_ms: i64) -> Self {
        Self {
            replicas,
            counter,
            lead_ms,
        }
    }

    /// The chunks with something in the range, dealt so that those of one pile do not overlap.
    fn piles(&self, range: TimeRange) -> Result<Vec<Vec<Chunk>>, SelectError> {
        let mut chunks = self.chunks()?;
        chunks.retain(|chunk| range.overlaps(TimeRange::new(chunk.min_time, chunk.max_time)));
        chunks.dedup();
        let mut piles: Vec<Vec<Chunk>> = Vec::new();
        for chunk in chunks {
            let fits = |pile: &&mut Vec<Chunk>| pile.last().is_none_or(|last| last.max_time < chunk.min_time);
            match piles.iter_mut().find(fits) {
                Some(pile) => pile.push(chunk),
                None => piles.push(vec![chunk]),
            }
        }
        Ok(piles)
    }
}

impl Samples for PenaltySamples {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        let mut joined: Option<Vec<Sample>> = None;
        let asked = range;
        let range = TimeRange::new(asked.min.saturating_sub(self.lead_ms), asked.max);
        for pile in self.piles(range)? {
            let mut samples = SampleBuffer::default();
            // What a counter has gained counts from the begin of its first chunk.
            let span = if self.counter { TimeRange::ALL } else { range };
            ChunkSamples::new(pile, "replica".into()).read(span, &mut samples)?;
            let mut samples = in_order(samples);
            if self.counter {
                samples = without_resets(samples);
                samples.retain(|sample| range.contains(sample.at));
            }
            joined = Some(match joined {
                None => samples,
                Some(before) => join(before, samples, self.counter),
            });
        }
        let joined = joined.unwrap_or_default().into_iter();
        for sample in joined.filter(|sample| asked.contains(sample.at)) {
            match sample.value {
                Value::Float { value, start } => buffer.push_float_started(sample.at, value, start),
                Value::Histogram(histogram) => buffer.histograms.push(histogram),
            }
        }
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        let mut chunks = Vec::new();
        for replica in &self.replicas {
            chunks.extend(replica.chunks()?);
        }
        chunks.sort_by_key(|chunk| (chunk.min_time, chunk.max_time));
        Ok(chunks)
    }

    fn held_bytes(&self) -> usize {
        self.replicas.iter().map(|part| part.held_bytes()).sum()
    }
}

/// A sample of either kind.
struct Sample {
    at: Timestamp,
    value: Value,
}

enum Value {
    Float { value: f64, start: Timestamp },
    Histogram(HistogramSample),
}

/// Both columns of a buffer in the order of time.
fn in_order(samples: SampleBuffer) -> Vec<Sample> {
    let SampleBuffer {
        timestamps,
        values,
        starts,
        histograms,
    } = samples;
    let floats = timestamps.into_iter().zip(values).enumerate();
    let floats = floats.map(|(index, (at, value))| Sample {
        at,
        value: Value::Float {
            value,
            start: starts.get(index).copied().unwrap_or(0),
        },
    });
    let histograms = histograms.into_iter().map(|histogram| Sample {
        at: histogram.at,
        value: Value::Histogram(histogram),
    });
    let mut all: Vec<Sample> = floats.chain(histograms).collect();
    all.sort_by_key(|sample| sample.at);
    all
}

/// Adds up what a counter gained, so that it never falls; what is no number is dropped. Histograms stay as they are.
fn without_resets(samples: Vec<Sample>) -> Vec<Sample> {
    let (mut total, mut last) = (0.0, None);
    let mut steady = Vec::with_capacity(samples.len());
    for mut sample in samples {
        if let Value::Float { value, .. } = &mut sample.value {
            if value.is_nan() {
                continue;
            }
            total += match last {
                Some(last) if *value >= last => *value - last,
                _ => *value,
            };
            last = Some(*value);
            *value = total;
        }
        steady.push(sample);
    }
    steady
}

/// One of the two replicas that are joined.
struct Side {
    samples: std::iter::Peekable<std::vec::IntoIter<Sample>>,
    /// How far behind the last sample taken its next one must lie.
    penalty: i64,
    /// What its counter is lifted by.
    lift: f64,
}

impl Side {
    fn new(samples: Vec<Sample>) -> Self {
        Self {
            samples: samples.into_iter().peekable(),
            penalty: 0,
            lift: 0.0,
        }
    }

    /// Passes over what comes too early, and tells the time of the next sample.
    fn seek(&mut self, last: Option<Timestamp>) -> Option<Timestamp> {
        if let Some(last) = last {
            let earliest = last.saturating_add(1).saturating_add(self.penalty);
            while self.samples.next_if(|sample| sample.at < earliest).is_some() {}
        }
        self.samples.peek().map(|sample| sample.at)
    }

    /// The next value, if it is a float.
    fn next_value(&mut self) -> Option<f64> {
        match self.samples.peek()?.value {
            Value::Float { value, .. } => Some(value + self.lift),
            Value::Histogram(_) => None,
        }
    }

    /// Lifts the counter to where the answer already is.
    fn lift_to(&mut self, last_value: f64) {
        if let Some(value) = self.next_value()
            && last_value > value
        {
            self.lift += last_value - value;
        }
    }

    fn take(&mut self) -> Option<Sample> {
        self.samples.next().map(|mut sample| {
            // Adding anything, even 0, would make an ordinary NaN of a stale marker.
            if let Value::Float { value, .. } = &mut sample.value
                && !is_stale(*value)
            {
                *value += self.lift;
            }
            sample
        })
    }
}

/// Joins two replicas: the one that speaks goes on, the other may take over only two intervals after its last sample.
fn join(a: Vec<Sample>, b: Vec<Sample>, counter: bool) -> Vec<Sample> {
    let mut out: Vec<Sample> = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (Side::new(a), Side::new(b));
    let mut a_speaks = true;
    loop {
        let last = out.last().map(|sample| sample.at);
        let (at_a, at_b) = (a.seek(last), b.seek(last));
        let a_spoke = a_speaks;
        match (at_a, at_b) {
            (None, None) => return out,
            (Some(_), None) => a_speaks = true,
            (None, Some(_)) => a_speaks = false,
            (Some(at_a), Some(at_b)) => {
                a_speaks = at_a <= at_b;
                let (at, other) = if a_speaks { (at_a, &mut b) } else { (at_b, &mut a) };
                other.penalty = last.map_or(FIRST_PENALTY_MS, |last| at.saturating_sub(last).saturating_mul(2));
            }
        }
        let last_value = match out.last().map(|sample| &sample.value) {
            Some(Value::Float { value, .. }) => Some(*value),
            Some(Value::Histogram(_)) | None => None,
        };
        let speaker = if a_speaks { &mut a } else { &mut b };
        speaker.penalty = 0;
        if let Some(last_value) = last_value.filter(|_| counter && a_spoke != a_speaks) {
            speaker.lift_to(last_value);
        }
        out.extend(speaker.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(samples: &[(i64, f64)]) -> Vec<Sample> {
        let sample = |&(at, value): &(i64, f64)| Sample {
            at,
            value: Value::Float { value, start: 0 },
        };
        samples.iter().map(sample).collect()
    }

    fn joined(a: &[(i64, f64)], b: &[(i64, f64)], counter: bool) -> Vec<(i64, f64)> {
        let read = |sample: Sample| match sample.value {
            Value::Float { value, .. } => (sample.at, value),
            Value::Histogram(_) => panic!("no histogram was given"),
        };
        join(floats(a), floats(b), counter).into_iter().map(read).collect()
    }

    #[test]
    fn the_first_speaks_until_it_has_a_gap_of_two_intervals() {
        let a = [
            (10_000, 1.0),
            (20_000, 2.0),
            (30_000, 3.0),
            (80_000, 8.0),
            (90_000, 9.0),
        ];
        let b: Vec<(i64, f64)> = (1..10).map(|i| (i * 10_000 + 3000, i as f64 + 0.5)).collect();
        let expected = [
            (10_000, 1.0),
            (20_000, 2.0),
            (30_000, 3.0),
            (53_000, 5.5),
            (63_000, 6.5),
            (73_000, 7.5),
            (83_000, 8.5),
            (93_000, 9.5),
        ];
        assert_eq!(joined(&a, &b, false), expected);
    }

    #[test]
    fn who_speaks_depends_on_where_the_choice_begins() {
        let replica = |phase: i64| -> Box<dyn Samples> {
            let times: Vec<i64> = (0..20).map(|scrape| phase + scrape * 60_000).collect();
            let chunk = storage::chunk::encode_floats(&times, &[1.0; 20]);
            Box::new(ChunkSamples::new(vec![chunk], "replica".into()))
        };
        let read = |lead_ms| {
            let both = PenaltySamples::new(vec![replica(10_000), replica(42_000)], false, lead_ms);
            let mut buffer = SampleBuffer::default();
            both.read(TimeRange::new(300_000, 500_000), &mut buffer).unwrap();
            buffer.timestamps
        };
        // The first one gives way at once, since the first penalty is short.
        assert_eq!(read(0), [310_000, 342_000, 402_000, 462_000]);
        assert_eq!(read(300_000), [342_000, 402_000, 462_000]);
    }

    #[test]
    fn stale_markers_stay_stale() {
        let a = [(10_000, 1.0), (20_000, model::sample::STALE_NAN)];
        assert!(is_stale(joined(&a, &[(13_000, 1.0)], true)[1].1));
    }

    #[test]
    fn resets_and_what_is_no_number_are_taken_out() {
        let samples = [(1, 5.0), (2, 7.0), (3, f64::NAN), (4, 1.0), (5, 4.0)];
        let steady: Vec<(i64, f64)> = without_resets(floats(&samples))
            .iter_mut()
            .map(|sample| match sample.value {
                Value::Float { value, .. } => (sample.at, value),
                Value::Histogram(_) => panic!("no histogram was given"),
            })
            .collect();
        assert_eq!(steady, [(1, 5.0), (2, 7.0), (4, 8.0), (5, 11.0)]);
    }

    #[test]
    fn counters_never_fall_where_the_speaker_changes() {
        let a = [(10_000, 100.0), (20_000, 200.0)];
        let b = [
            (13_000, 5.0),
            (23_000, 6.0),
            (33_000, 7.0),
            (43_000, 8.0),
            (53_000, 9.0),
        ];
        let expected = [(10_000, 100.0), (20_000, 200.0), (43_000, 200.0), (53_000, 201.0)];
        assert_eq!(joined(&a, &b, true), expected);
    }
}
