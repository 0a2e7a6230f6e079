//! Writes the messages of a push stream.

use super::{DUPLICATE, MESSAGE_BYTES_SPLIT, REASONS, REASONS_FROM, SAME_FIRST, WITH_COUNTS, WITH_LABELS, field, kind};
use crate::{
    histogram,
    protobuf::{put_bytes, put_integer, put_varint, zigzag},
};
use model::{
    label::Labels,
    metadata::Metadata,
    push::{PushError, SampleKind, SeriesId, WriteBatch, WriteOutcome},
    sample::{Exemplar, FloatSample},
    time::Timestamp,
    verdict::Verdict,
};
/// What of a batch is sent, and by what names.
pub trait Sent {
    /// How many series.
    fn count(&self) -> usize;

    /// Series number `place` of those: its index in the batch, and its name. Without a name it is left out of the message.
    fn series(&self, place: usize) -> (usize, Option<Name>);
}

/// How a series is named in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// By the labels that it has in the batch.
    Labels,
    /// By its number of the session.
    Number(u32),
}

/// Writes a batch in one message or more. It keeps its columns, so that writing does not allocate.
#[derive(Debug, Default)]
pub struct PushWriter {
    series: Vec<u8>,
    labels: Vec<u8>,
    times: Vec<u8>,
    lengths: Vec<u8>,
    values: Vec<u8>,
    starts: Vec<u8>,
    rest: Vec<u8>,
    scratch: Vec<u8>,
    floats: usize,
    histograms: usize,
    has_starts: bool,
    /// Differences of zero that are not written yet; those at the end never are.
    same_times: usize,
    number: u32,
    at: Timestamp,
    /// First byte of the last value that was not 0.
    first: u8,
}

/// A message, and what it holds.
#[derive(Debug)]
pub struct Written {
    /// Its bytes.
    pub message: Vec<u8>,
    /// Places of the series that it holds, ascending; answers count by this list.
    pub sent: Vec<u32>,
    /// How many floats and histograms it holds.
    pub samples: usize,
    /// The place that the next message begins with; all are written when that is their number.
    pub next: usize,
}

impl PushWriter {
    /// Writes the message `id` with series from the place `first` on, as many as fit. Metadata goes with the first message.
    pub fn write(
        &mut self,
        id: u64,
        batch: &WriteBatch,
        received: Timestamp,
        first: usize,
        series: &impl Sent,
    ) -> Written {
        self.clear(received);
        let mut sent = Vec::with_capacity(series.count() - first.min(series.count()));
        let mut next = first;
        while next < series.count() && self.labels.len() + self.rest.len() < MESSAGE_BYTES_SPLIT {
            let (index, name) = series.series(next);
            if self.series(batch, index, name) {
                sent.push(next as u32);
            }
            next += 1;
        }
        if first == 0 {
            for metadata in &batch.metadata {
                self.metadata(metadata);
            }
        }
        Written {
            message: self.message(id, batch, received),
            sent,
            samples: self.floats + self.histograms,
            next,
        }
    }

    /// Puts the columns together.
    fn message(&self, id: u64, batch: &WriteBatch, received: Timestamp) -> Vec<u8> {
        let columns = [&self.series, &self.labels, &self.times, &self.lengths, &self.values];
        let bytes: usize = columns.iter().map(|column| column.len() + 8).sum();
        let mut message = Vec::with_capacity(bytes + self.starts.len() + self.rest.len() + 256);
        let out = &mut message;
        put_integer(out, field::ID, id);
        put_integer(out, field::KIND, kind::PUSH);
        put_bytes(out, field::TENANT, batch.tenant.as_str().as_bytes());
        put_integer(out, field::RECEIVED, zigzag(received));
        for (number, column) in [
            (field::SERIES, &self.series),
            (field::LABELS, &self.labels),
            (field::TIMES, &self.times),
            (field::LENGTHS, &self.lengths),
            (field::VALUES, &self.values),
        ] {
            if !column.is_empty() {
                put_bytes(out, number, column);
            }
        }
        if self.has_starts {
            put_bytes(out, field::STARTS, &self.starts);
        }
        out.extend_from_slice(&self.rest);
        message
    }

    fn clear(&mut self, received: Timestamp) {
        for column in [
            &mut self.series,
            &mut self.labels,
            &mut self.times,
            &mut self.lengths,
            &mut self.values,
            &mut self.starts,
            &mut self.rest,
        ] {
            column.clear();
        }
        (self.floats, self.histograms, self.has_starts) = (0, 0, false);
        (self.number, self.at) = (0, received);
        (self.same_times, self.first) = (0, 0);
    }

    /// Adds a series with its samples; false when it is left out.
    #[inline]
    fn series(&mut self, batch: &WriteBatch, index: usize, name: Option<Name>) -> bool {
        let [floats, histograms, exemplars] = batch.columns(index);
        let plain = floats.len() == 1 && histograms.is_empty() && exemplars.is_empty();
        let counts = if plain { 0 } else { WITH_COUNTS };
        match name {
            Some(Name::Number(number)) => {
                let difference = i64::from(number) - i64::from(self.number);
                put_varint(&mut self.series, zigzag(difference) << 2 | counts);
                self.number = number;
            }
            Some(Name::Labels) => {
                let Some(SeriesId::New(labels)) = batch.series.get(index).map(|series| &series.id) else {
                    return false;
                };
                put_varint(&mut self.series, WITH_LABELS | counts);
                put_labels(&mut self.labels, labels);
            }
            None => return false,
        }
        if !plain {
            for count in [floats.len(), histograms.len(), exemplars.len()] {
                put_varint(&mut self.series, count as u64);
            }
        }
        for sample in &batch.floats[floats] {
            self.float(sample);
        }
        self.histograms += histograms.len();
        for sample in &batch.histograms[histograms] {
            self.scratch.clear();
            histogram::encode(&mut self.scratch, sample);
            put_bytes(&mut self.rest, field::HISTOGRAM, &self.scratch);
        }
        for exemplar in &batch.exemplars[exemplars] {
            self.exemplar(exemplar);
        }
        true
    }

    #[inline]
    fn float(&mut self, sample: &FloatSample) {
        if sample.at == self.at {
            self.same_times += 1;
        } else {
            self.times.resize(self.times.len() + self.same_times, 0);
            self.same_times = 0;
            put_varint(&mut self.times, zigzag(sample.at.wrapping_sub(self.at)));
            self.at = sample.at;
        }
        let bits = sample.value.to_bits();
        let significant = 8 - (bits.trailing_zeros() / 8).min(8) as usize;
        let first = (bits >> 56) as u8;
        // Sign and most of the exponent: neighbours often have the same.
        let same = significant > 1 && first == self.first;
        // All eight bytes, of which some go again: a copy of known length is a fraction of the work.
        let end = self.values.len() + significant - usize::from(same);
        let from_there = bits << (8 * u32::from(same));
        self.values.extend_from_slice(&from_there.to_be_bytes());
        self.values.truncate(end);
        if significant > 0 {
            self.first = first;
        }
        let length = if same {
            significant as u8 + SAME_FIRST
        } else {
            significant as u8
        };
        if self.floats.is_multiple_of(2) {
            self.lengths.push(length);
        } else if let Some(last) = self.lengths.last_mut() {
            *last |= length << 4;
        }
        self.floats += 1;
        self.start(sample);
    }

    /// Most samples have no start: the column is filled from the first that has one.
    #[inline]
    fn start(&mut self, sample: &FloatSample) {
        if sample.start != 0 && !self.has_starts {
            self.has_starts = true;
            // 0 stands for a start that is not known.
            self.starts.resize(self.floats - 1, 0);
        }
        if self.has_starts {
            let start = match sample.start {
                0 => 0,
                start => zigzag(sample.at.wrapping_sub(start)).wrapping_add(1),
            };
            put_varint(&mut self.starts, start);
        }
    }

    fn exemplar(&mut self, exemplar: &Exemplar) {
        self.scratch.clear();
        put_varint(&mut self.scratch, zigzag(exemplar.at));
        self.scratch.extend_from_slice(&exemplar.value.to_bits().to_be_bytes());
        put_labels(&mut self.scratch, &exemplar.labels);
        put_bytes(&mut self.rest, field::EXEMPLAR, &self.scratch);
    }

    fn metadata(&mut self, metadata: &Metadata) {
        self.scratch.clear();
        put_varint(&mut self.scratch, metadata.kind as u64);
        for text in [&metadata.family, &metadata.unit, &metadata.help] {
            put_text(&mut self.scratch, text);
        }
        put_bytes(&mut self.rest, field::METADATA, &self.scratch);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_labels(out: &mut Vec<u8>, labels: &Labels) {
    put_varint(out, labels.len() as u64);
    for (name, value) in labels.iter() {
        put_text(out, name);
        put_text(out, value);
    }
}

/// Writes a question for a sign of life.
pub fn write_ping(id: u64, out: &mut Vec<u8>) {
    put_integer(out, field::ID, id);
    put_integer(out, field::KIND, kind::PING);
}

/// Writes the answer to a ping.
pub fn write_pong(id: u64, out: &mut Vec<u8>) {
    put_integer(out, field::ID, id);
    put_integer(out, field::KIND, kind::PONG);
}

/// Writes the opening of a session.
pub fn write_hello(version: u64, process: u64, out: &mut Vec<u8>) {
    put_integer(out, field::KIND, kind::HELLO);
    put_integer(out, field::VERSION, version);
    put_integer(out, field::PROCESS, process);
}

/// Writes what became of a push.
pub fn write_outcome(id: u64, result: &Result<WriteOutcome, PushError>, out: &mut Vec<u8>) {
    put_integer(out, field::ID, id);
    put_integer(out, field::KIND, kind::OUTCOME);
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(PushError::Unavailable { reason, retry_after }) => {
            put_bytes(out, field::UNAVAILABLE, reason.as_bytes());
            put_integer(
                out,
                field::RETRY_AFTER_MS,
                retry_after.as_millis().min(3_600_000) as u64,
            );
            return;
        }
    };
    let mut column = Vec::new();
    for exception in &outcome.exceptions {
        let code = match exception.verdict {
            Verdict::Duplicate => DUPLICATE,
            Verdict::Rejected(reason) => {
                let place = REASONS.iter().position(|other| *other == reason);
                REASONS_FROM + place.expect("every reason has a number") as u64
            }
            // It is what no exception means.
            Verdict::Written => continue,
        };
        let kind = match exception.kind {
            SampleKind::Float => 0,
            SampleKind::Histogram => 1,
            SampleKind::Exemplar => 2,
        };
        put_varint(&mut column, u64::from(exception.series));
        put_varint(&mut column, u64::from(exception.sample));
        put_varint(&mut column, code << 2 | kind);
    }
    if !column.is_empty() {
        put_bytes(out, field::EXCEPTIONS, &column);
        column.clear();
    }
    let (mut series_before, mut number_before) = (0, 0);
    for (series, number) in &outcome.refs {
        let number = number.0 as i64;
        put_varint(&mut column, zigzag(i64::from(*series) - series_before));
        put_varint(&mut column, zigzag(number.wrapping_sub(number_before)));
        (series_before, number_before) = (i64::from(*series), number);
    }
    if !column.is_empty() {
        put_bytes(out, field::REFS, &column);
        column.clear();
    }
    let mut before = 0;
    for series in &outcome.unknown {
        put_varint(&mut column, zigzag(i64::from(*series) - before));
        before = i64::from(*series);
    }
    if !column.is_empty() {
        put_bytes(out, field::UNKNOWN, &column);
    }
}
