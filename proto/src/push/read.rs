//! Reads the messages of a push stream.

use super::{
    ClientMessage, DUPLICATE, MESSAGE_ITEMS_MAX, MessageError, PushRequest, REASONS, REASONS_FROM, SAME_FIRST,
    ServerMessage, WITH_COUNTS, WITH_LABELS, field, kind,
};
use crate::{
    histogram,
    protobuf::{Fault, Reader, WireError, unzigzag, wire},
};
use model::{
    label::{Labels, LabelsBuilder},
    metadata::{Metadata, MetricType},
    push::{Exception, PushError, SampleKind, SeriesId, SeriesRef, WriteBatch, WriteOutcome},
    sample::{Exemplar, FloatSample},
    tenant::Tenant,
    time::Timestamp,
    verdict::Verdict,
};
use std::time::Duration;

/// Longest text of an error that is kept.
const REASON_BYTES_MAX: usize = 1 << 10;

fn inside(fault: Fault) -> WireError {
    fault.within("push message")
}

/// The columns of a push, not understood yet.
#[derive(Default)]
struct Columns<'a> {
    series: &'a [u8],
    labels: &'a [u8],
    times: &'a [u8],
    lengths: &'a [u8],
    values: &'a [u8],
    starts: Option<&'a [u8]>,
}

/// Reads what a client sent. Samples go into `batch`, of which only the memory is used.
pub fn read_client_message(bytes: &[u8], mut batch: WriteBatch) -> Result<ClientMessage, MessageError> {
    batch.clear();
    let (mut id, mut message_kind, mut received) = (0, kind::PUSH, 0);
    let mut tenant = None;
    let mut columns = Columns::default();
    let mut reader = Reader::new(bytes);
    while let Some(tag) = reader.tag().map_err(inside)? {
        if matches!(tag.field, field::ID | field::KIND | field::RECEIVED) {
            tag.expect(wire::VARINT).map_err(inside)?;
            let value = reader.varint().map_err(inside)?;
            match tag.field {
                field::ID => id = value,
                field::KIND => message_kind = value,
                _ => received = unzigzag(value),
            }
            continue;
        }
        if !(field::TENANT..=field::METADATA).contains(&tag.field) {
            reader.skip(tag).map_err(inside)?;
            continue;
        }
        tag.expect(wire::BYTES).map_err(inside)?;
        let value = reader.bytes().map_err(inside)?;
        match tag.field {
            field::TENANT => tenant = Some(text(value)?),
            field::SERIES => columns.series = value,
            field::LABELS => columns.labels = value,
            field::TIMES => columns.times = value,
            field::LENGTHS => columns.lengths = value,
            field::VALUES => columns.values = value,
            field::STARTS => columns.starts = Some(value),
            field::HISTOGRAM => batch.histograms.push(histogram::decode(value)?),
            field::EXEMPLAR => batch.exemplars.push(exemplar(value)?),
            _ => batch.metadata.push(metadata(value)?),
        }
        if batch.histograms.len() + batch.exemplars.len() + batch.metadata.len() > MESSAGE_ITEMS_MAX {
            return Err(MessageError::Column("too many histograms, exemplars and metadata"));
        }
    }
    match message_kind {
        kind::PING => return Ok(ClientMessage::Ping { id }),
        kind::PUSH => {}
        _ => return Err(MessageError::Column("a kind that this version does not know")),
    }
    batch.tenant = Tenant::new(tenant.ok_or(MessageError::Column("no tenant"))?)?;
    columns.fill(received, &mut batch)?;
    Ok(ClientMessage::Push(PushRequest { id, received, batch }))
}

impl Columns<'_> {
    fn fill(&self, received: Timestamp, batch: &mut WriteBatch) -> Result<(), MessageError> {
        let (floats, histograms, exemplars) = self.series(batch)?;
        if histograms != batch.histograms.len() || exemplars != batch.exemplars.len() {
            return Err(MessageError::Column("the counts of histograms or exemplars do not fit"));
        }
        if self.lengths.len() != floats.div_ceil(2) {
            return Err(MessageError::Column("the count of floats does not fit"));
        }
        batch.floats.reserve_exact(floats);
        let (mut times, mut values) = (Reader::new(self.times), self.values);
        let mut starts = self.starts.map(Reader::new);
        let mut at = received;
        let mut first = 0;
        for index in 0..floats {
            if !times.rest().is_empty() {
                at = at.wrapping_add(unzigzag(times.varint().map_err(inside)?));
            }
            let length = usize::from(self.lengths[index / 2] >> (index % 2 * 4) & 0xf);
            let value;
            (value, values) = float(values, length, &mut first)?;
            let start = match &mut starts {
                None => 0,
                Some(starts) => match starts.varint().map_err(inside)? {
                    0 => 0,
                    difference => at.wrapping_sub(unzigzag(difference.wrapping_sub(1))),
                },
            };
            batch.floats.push(FloatSample { at, value, start });
        }
        let starts_left = starts.is_some_and(|starts| !starts.rest().is_empty());
        if !times.rest().is_empty() || !values.is_empty() || starts_left {
            return Err(MessageError::Column("a column goes on behind the last sample"));
        }
        Ok(())
    }

    /// Reads the series; gives how many floats, histograms and exemplars they claim.
    fn series(&self, batch: &mut WriteBatch) -> Result<(usize, usize, usize), MessageError> {
        let mut series = Reader::new(self.series);
        let mut labels = Reader::new(self.labels);
        // Each varint ends with such a byte, and most series are one varint.
        let most = self.series.iter().filter(|byte| **byte < 0x80).count();
        batch.series.reserve_exact(most.min(MESSAGE_ITEMS_MAX));
        let mut number: i64 = 0;
        let mut ends = [0u64; 3];
        let mut builder = LabelsBuilder::default();
        while !series.rest().is_empty() {
            let head = series.varint().map_err(inside)?;
            let id = if head & WITH_LABELS != 0 {
                SeriesId::New(read_labels(&mut labels, &mut builder)?)
            } else {
                number = number.wrapping_add(unzigzag(head >> 2));
                let number = u32::try_from(number).map_err(|_| MessageError::Column("a number out of range"))?;
                SeriesId::Known(SeriesRef(u64::from(number)))
            };
            if head & WITH_COUNTS == 0 {
                ends[0] += 1;
            } else {
                for end in &mut ends {
                    *end = end.saturating_add(series.varint().map_err(inside)?);
                }
            }
            if ends.iter().any(|end| *end > MESSAGE_ITEMS_MAX as u64) || batch.series.len() >= MESSAGE_ITEMS_MAX {
                return Err(MessageError::Column("more samples than a message may hold"));
            }
            batch.series.push(model::push::BatchSeries {
                id,
                floats_end: ends[0] as u32,
                histograms_end: ends[1] as u32,
                exemplars_end: ends[2] as u32,
            });
        }
        if !labels.rest().is_empty() {
            return Err(MessageError::Column("labels of no series"));
        }
        Ok((ends[0] as usize, ends[1] as usize, ends[2] as usize))
    }
}

/// The value that a length of four bits stands for, and the bytes behind it. `first` is the first byte of the last value that was not 0.
#[inline]
fn float<'a>(bytes: &'a [u8], length: usize, first: &mut u8) -> Result<(f64, &'a [u8]), MessageError> {
    let (same, significant) = match length.checked_sub(usize::from(SAME_FIRST)) {
        Some(significant) if length > 8 => (1, significant),
        Some(_) | None => (0, length),
    };
    let taken = significant - same;
    let missing = || MessageError::Column("a value that is not there");
    // Eight bytes at once wherever there are so many, also where the value has fewer.
    let (word, rest) = match bytes.split_first_chunk() {
        Some((word, _)) => (u64::from_be_bytes(*word), &bytes[taken..]),
        None => {
            let (value, rest) = bytes.split_at_checked(taken).ok_or_else(missing)?;
            let mut word = [0; 8];
            word[..taken].copy_from_slice(value);
            (u64::from_be_bytes(word), rest)
        }
    };
    let own = word & u64::MAX.checked_shl(64 - 8 * taken as u32).unwrap_or(0);
    let bits = match same {
        0 => own,
        _ => own >> 8 | u64::from(*first) << 56,
    };
    if significant > 0 {
        *first = (bits >> 56) as u8;
    }
    Ok((f64::from_bits(bits), rest))
}

fn text(bytes: &[u8]) -> Result<&str, MessageError> {
    std::str::from_utf8(bytes).map_err(|_| MessageError::Column("text that is not UTF-8"))
}

fn read_labels(reader: &mut Reader<'_>, builder: &mut LabelsBuilder) -> Result<Labels, MessageError> {
    let count = reader.varint().map_err(inside)?;
    for _ in 0..count {
        let name = text(reader.bytes().map_err(inside)?)?;
        let value = text(reader.bytes().map_err(inside)?)?;
        builder.push(name, value);
    }
    Ok(builder.build()?)
}

fn exemplar(bytes: &[u8]) -> Result<Exemplar, MessageError> {
    let mut reader = Reader::new(bytes);
    let at = unzigzag(reader.varint().map_err(inside)?);
    let (value, rest) = float(reader.rest(), 8, &mut 0)?;
    let labels = read_labels(&mut Reader::new(rest), &mut LabelsBuilder::default())?;
    Ok(Exemplar { labels, value, at })
}

fn metadata(bytes: &[u8]) -> Result<Metadata, MessageError> {
    let mut reader = Reader::new(bytes);
    let kind = MetricType::from_wire(reader.varint().map_err(inside)?);
    let mut next = || -> Result<String, MessageError> { Ok(text(reader.bytes().map_err(inside)?)?.to_owned()) };
    Ok(Metadata {
        kind,
        family: next()?,
        unit: next()?,
        help: next()?,
    })
}

/// Reads what a server sent.
pub fn read_server_message(bytes: &[u8]) -> Result<ServerMessage, MessageError> {
    let (mut id, mut message_kind, mut version, mut process, mut retry_after_ms) = (0, kind::OUTCOME, 0, 0, 0);
    let mut unavailable = None;
    let mut outcome = WriteOutcome::default();
    let mut reader = Reader::new(bytes);
    while let Some(tag) = reader.tag().map_err(inside)? {
        match tag.field {
            field::ID | field::KIND | field::VERSION | field::PROCESS | field::RETRY_AFTER_MS => {
                tag.expect(wire::VARINT).map_err(inside)?;
                let value = reader.varint().map_err(inside)?;
                match tag.field {
                    field::ID => id = value,
                    field::KIND => message_kind = value,
                    field::VERSION => version = value,
                    field::PROCESS => process = value,
                    _ => retry_after_ms = value,
                }
            }
            field::UNAVAILABLE | field::EXCEPTIONS | field::REFS | field::UNKNOWN => {
                tag.expect(wire::BYTES).map_err(inside)?;
                let value = reader.bytes().map_err(inside)?;
                match tag.field {
                    field::UNAVAILABLE => {
                        let shown = &value[..value.len().min(REASON_BYTES_MAX)];
                        unavailable = Some(String::from_utf8_lossy(shown).into_owned());
                    }
                    field::EXCEPTIONS => outcome.exceptions = exceptions(value)?,
                    field::REFS => outcome.refs = refs(value)?,
                    _ => outcome.unknown = unknown(value)?,
                }
            }
            _ => reader.skip(tag).map_err(inside)?,
        }
    }
    Ok(match message_kind {
        kind::HELLO => ServerMessage::Hello { version, process },
        kind::PONG => ServerMessage::Pong { id },
        kind::OUTCOME => ServerMessage::Outcome {
            id,
            result: match unavailable {
                None => Ok(outcome),
                Some(reason) => Err(PushError::Unavailable {
                    reason,
                    retry_after: Duration::from_millis(retry_after_ms.min(3_600_000)),
                }),
            },
        },
        _ => return Err(MessageError::Column("a kind that this version does not know")),
    })
}

fn small(value: u64) -> Result<u32, MessageError> {
    u32::try_from(value).map_err(|_| MessageError::Column("an index out of range"))
}

fn exceptions(bytes: &[u8]) -> Result<Vec<Exception>, MessageError> {
    let mut reader = Reader::new(bytes);
    let mut exceptions = Vec::new();
    while !reader.rest().is_empty() {
        let series = small(reader.varint().map_err(inside)?)?;
        let sample = small(reader.varint().map_err(inside)?)?;
        let code = reader.varint().map_err(inside)?;
        let kind = match code & 3 {
            0 => SampleKind::Float,
            1 => SampleKind::Histogram,
            2 => SampleKind::Exemplar,
            _ => return Err(MessageError::Column("a kind of sample that this version does not know")),
        };
        let verdict = match code >> 2 {
            DUPLICATE => Verdict::Duplicate,
            reason => {
                let place = usize::try_from(reason - REASONS_FROM).unwrap_or(usize::MAX);
                let reason = REASONS.get(place);
                Verdict::Rejected(*reason.ok_or(MessageError::Column("a reason that this version does not know"))?)
            }
        };
        exceptions.push(Exception {
            series,
            sample,
            kind,
            verdict,
        });
    }
    Ok(exceptions)
}

fn refs(bytes: &[u8]) -> Result<Vec<(u32, SeriesRef)>, MessageError> {
    let mut reader = Reader::new(bytes);
    let (mut series, mut number) = (0i64, 0i64);
    let mut refs = Vec::new();
    while !reader.rest().is_empty() {
        series = series.wrapping_add(unzigzag(reader.varint().map_err(inside)?));
        number = number.wrapping_add(unzigzag(reader.varint().map_err(inside)?));
        refs.push((small(series as u64)?, SeriesRef(number as u64)));
    }
    Ok(refs)
}

fn unknown(bytes: &[u8]) -> Result<Vec<u32>, MessageError> {
    let mut reader = Reader::new(bytes);
    let mut series = 0i64;
    let mut unknown = Vec::new();
    while !reader.rest().is_empty() {
        series = series.wrapping_add(unzigzag(reader.varint().map_err(inside)?));
        unknown.push(small(series as u64)?);
    }
    Ok(unknown)
}
