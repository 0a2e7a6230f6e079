//! Two scrapers of the same target become one series.
//!
//! An HA pair scrapes the same targets at different moments, and its series differ in a replica label. A union would have twice the
//! samples at odd distances, so one replica speaks and the others fill its gaps: where it has been silent for longer than its
//! usual interval, or says that the series ended while another still sees it. What is chosen depends on the samples nearby only, so
//! that overlapping questions get equal answers. Replicas with equal timestamps need none of this; [`crate::union`] merges those.

use crate::{
    penalty::{PenaltySamples, lifts_counters},
    settings::Dedup,
    union::{Cursor, UnionSamples},
};
use model::{
    label::Labels,
    sample::SampleBuffer,
    select::{Chunk, Samples, SelectError, Series},
    time::{TimeRange, Timestamp},
};

/// A replica that is silent for longer than its usual interval times this (in fifths: 1.2) has a gap. Scrapes jitter by a few
/// percent; one that is missed doubles the distance.
const GAP_FIFTHS: i64 = 6;

/// A replica that was seen alive within its usual interval times this (in fifths: 1.6) is believed over another's end marker.
const ALIVE_FIFTHS: i64 = 8;

/// The usual interval when there are too few samples to tell: the default of Prometheus.
const INTERVAL_DEFAULT_MS: i64 = 60_000;

/// Distances that are looked at to find the usual interval.
const DISTANCES_MAX: usize = 64;

/// Series that differ in nothing but `replica_labels` become one without them, for who looks at them with `function`, and begins so many
/// milliseconds before what it looks at.
pub(crate) fn join_replicas(
    series: Vec<Series>,
    replica_labels: &[String],
    dedup: Dedup,
    (function, lead_ms): (&str, i64),
) -> Vec<Series> {
    let counter = lifts_counters(function);
    let is_replica = |name: &str| replica_labels.iter().any(|label| label == name);
    let stripped = |labels: Labels| match labels.iter().any(|(name, _)| is_replica(name)) {
        true => labels.without(is_replica),
        false => labels,
    };
    let all = series
        .into_iter()
        .map(|series| (stripped(series.labels), series.samples));
    let mut all: Vec<_> = all.collect();
    // Without a label the order is another. The sort is stable: replicas stay in the order of their names.
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let mut series: Vec<Series> = Vec::new();
    let mut replicas: Vec<Box<dyn Samples>> = Vec::new();
    let mut all = all.into_iter().peekable();
    while let Some((labels, samples)) = all.next() {
        replicas.push(samples);
        if all.peek().is_none_or(|(next, _)| *next != labels) {
            series.push(Series {
                labels,
                samples: joined(std::mem::take(&mut replicas), dedup, (counter, lead_ms)),
            });
        }
    }
    series
}

fn joined(mut replicas: Vec<Box<dyn Samples>>, dedup: Dedup, (counter, lead_ms): (bool, i64)) -> Box<dyn Samples> {
    match replicas.pop() {
        // Thanos takes the resets out of a lone counter as well.
        Some(lone) if replicas.is_empty() && !(counter && dedup == Dedup::Penalty) => lone,
        last => {
            replicas.extend(last);
            match dedup {
                Dedup::Gaps => Box::new(ReplicaSamples { replicas, counter }),
                Dedup::Penalty => Box::new(PenaltySamples::new(replicas, counter, lead_ms)),
            }
        }
    }
}

/// Samples of a series as several replicas saw it; the first one speaks when it can.
pub struct ReplicaSamples {
    replicas: Vec<Box<dyn Samples>>,
    /// Whether a function asks that takes a smaller value for a reset.
    counter: bool,
}

impl ReplicaSamples {
    /// Joins the replicas of a series.
    pub fn new(replicas: Vec<Box<dyn Samples>>) -> Self {
        Self {
            replicas,
            counter: false,
        }
    }

    /// Joins the replicas of a counter, for a function that takes a smaller value for a reset.
    pub fn of_counter(replicas: Vec<Box<dyn Samples>>) -> Self {
        Self {
            replicas,
            counter: true,
        }
    }
}

impl Samples for ReplicaSamples {
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        let mut speaker = SampleBuffer::default();
        let mut other = SampleBuffer::default();
        for (index, replica) in self.replicas.iter().enumerate() {
            other.clear();
            replica.read(range, &mut other)?;
            if index == 0 {
                std::mem::swap(&mut speaker, &mut other);
                continue;
            }
            let mut filled = SampleBuffer::default();
            if are_copies(&speaker, &other) {
                let parts: Vec<Box<dyn Samples>> =
                    vec![Box::new(Held(speaker)), Box::new(Held(std::mem::take(&mut other)))];
                UnionSamples::join(parts).read(range, &mut filled)?;
            } else {
                fill_gaps(range, &speaker, &other, self.counter, &mut filled);
            }
            speaker = filled;
        }
        Cursor::new(&speaker).append_to(buffer);
        Ok(())
    }

    /// Chunks cannot be cut where the speaker changes; whoever reads chunks gets those of all replicas.
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

/// Samples that are read already, inside of the range.
struct Held(SampleBuffer);

impl Samples for Held {
    fn read(&self, _range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError> {
        Cursor::new(&self.0).append_to(buffer);
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        Ok(Vec::new())
    }
}

/// Whether the two are copies of one scrape, as receivers keep them, and not two scrapes: half of the samples of the smaller have
/// the other's timestamps. Of copies, no sample may be left out.
fn are_copies(a: &SampleBuffer, b: &SampleBuffer) -> bool {
    let (mut ours, mut theirs) = (Cursor::new(a), Cursor::new(b));
    let mut common = 0;
    while let (Some(our), Some(their)) = (ours.time(), theirs.time()) {
        common += usize::from(our == their);
        if our <= their {
            ours.skip();
        }
        if their <= our {
            theirs.skip();
        }
    }
    common > 0 && common * 2 >= a.len().min(b.len())
}

/// Appends the samples of `speaker`, and those of `other` in its gaps.
///
/// Timestamps are those of the scrapers' clocks, from before the target answered: a slow answer to the other, shortly before the
/// speaker is back, may hold a larger value than the speaker then gets. In a `counter` that would look like a reset, so such a
/// sample is left out. When the target did start anew just then, that costs less than one interval of its counting.
fn fill_gaps(range: TimeRange, speaker: &SampleBuffer, other: &SampleBuffer, counter: bool, filled: &mut SampleBuffer) {
    let interval = usual_interval(speaker, other);
    let gap = interval * GAP_FIFTHS / 5;
    let mut ours = Cursor::new(speaker);
    let mut theirs = Cursor::new(other);
    // Before the range nothing is known. The speaker counts as alive there if it has a sample soon enough after.
    let begins_with_gap = ours.time().is_none_or(|first| first.saturating_sub(range.min) > gap);
    let mut others_turn = begins_with_gap;
    let mut our_last: Option<Timestamp> = None;
    // Newest sample of the other, and whether it was a value (and not the end marker).
    let mut their_last: Option<(Timestamp, bool)> = None;
    loop {
        let (our_time, their_time) = (ours.time(), theirs.time());
        let ours_first = match (our_time, their_time) {
            (None, None) => return,
            (Some(our), Some(their)) => our <= their,
            (our, _) => our.is_some(),
        };
        if ours_first {
            let Some(at) = our_time else { return };
            // Both may have the same moment; then ours counts.
            if their_time == Some(at) {
                their_last = Some((at, !theirs.is_stale()));
                theirs.skip();
            }
            if ours.is_stale() {
                let seen_alive = their_last
                    .is_some_and(|(seen, alive)| alive && at.saturating_sub(seen) <= interval * ALIVE_FIFTHS / 5);
                if seen_alive || others_turn {
                    others_turn = true;
                    ours.skip();
                } else {
                    ours.take(filled);
                }
            } else {
                others_turn = false;
                our_last = Some(at);
                ours.take(filled);
            }
        } else {
            let Some(at) = their_time else { return };
            their_last = Some((at, !theirs.is_stale()));
            others_turn |= our_last.is_some_and(|last| at.saturating_sub(last) > gap);
            let is_near = our_time.is_some_and(|next| next.saturating_sub(at) < interval / 2);
            let overtakes = counter && is_near && theirs.size() > ours.size();
            if others_turn && !overtakes {
                theirs.take(filled)
            } else {
                theirs.skip()
            }
        }
    }
}

/// The median distance of samples, of the speaker if it has enough of them.
fn usual_interval(speaker: &SampleBuffer, other: &SampleBuffer) -> i64 {
    let median = |samples: &SampleBuffer| {
        let mut cursor = Cursor::new(samples);
        let mut distances = Vec::with_capacity(DISTANCES_MAX);
        let mut before = cursor.time()?;
        cursor.skip();
        while let Some(at) = cursor.time().filter(|_| distances.len() < DISTANCES_MAX) {
            distances.push(at.saturating_sub(before));
            before = at;
            cursor.skip();
        }
        let middle = distances.len() / 2;
        (distances.len() >= 2).then(|| *distances.select_nth_unstable(middle).1)
    };
    // A day is more than any scrape interval, and keeps the arithmetic far from its ends.
    median(speaker)
        .or_else(|| median(other))
        .unwrap_or(INTERVAL_DEFAULT_MS)
        .clamp(1, 86_400_000)
}
