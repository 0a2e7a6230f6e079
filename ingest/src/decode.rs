//! The first half of replay: from records to steps. It needs nothing of the head, so that it can run beside the second half,
//! which takes the steps.
//!
//! What a record says may depend on the records before it: a float is written against the previous value of its series. Those values
//! are kept here. When something was lost, the check in each float record tells whether they are still the right ones.

use crate::{
    codec::Damage,
    numbers::Numbers,
    wal::{
        floats::{self, Bases, FloatRuns},
        format::RecordKind,
        histograms::{HistogramEntry, decode_histograms},
        late::{LateEntry, decode_late},
        payload,
        reader::Record,
        tombstones::Deletion,
    },
};
use model::{label::Labels, metadata::Metadata, sample::Exemplar, tenant::Tenant};

/// What a record says.
pub(crate) enum Step {
    /// New series of a tenant with their numbers.
    Series(Tenant, Vec<(u64, Labels)>),
    /// Floats of known numbers.
    Floats(FloatRuns),
    Histograms(Vec<HistogramEntry>),
    Metadata(Tenant, Vec<Metadata>),
    Exemplars(Vec<(u64, Exemplar)>),
    /// Samples that were older than the newest of their series.
    Late(Vec<LateEntry>),
    /// Samples that stand before it were taken back.
    Delete(Deletion),
    /// A record of an image: payload with the state of series.
    ImageSeries(Vec<u8>),
    /// So many samples depend on something that is lost.
    Dropped(u64),
    /// The record makes no sense: its sequence number, its size.
    Damaged(u64, u64, Damage),
    /// Nothing to do.
    Nothing,
}

/// Turns records into steps, in order.
#[derive(Default)]
pub(crate) struct Decoder {
    values: Values,
    /// Memory of steps that were taken: new memory for each record would cost more than decoding it.
    spare: Vec<FloatRuns>,
}

impl Decoder {
    /// Begins a segment that stands on its own.
    pub(crate) fn begin_epoch(&mut self) {
        self.values.epoch += 1;
    }

    /// Takes memory back that steps came in.
    pub(crate) fn recycle(&mut self, spare: Vec<FloatRuns>) {
        self.spare.extend(spare);
    }

    /// What a record says.
    pub(crate) fn decode(&mut self, record: &Record<'_>) -> Step {
        let damaged = |damage| Step::Damaged(record.header.sequence, record.bytes().len() as u64, damage);
        self.try_decode(record).unwrap_or_else(damaged)
    }

    fn try_decode(&mut self, record: &Record<'_>) -> Result<Step, Damage> {
        let payload = record.payload();
        Ok(match record.header.kind {
            RecordKind::Series => {
                let mut series = Vec::new();
                let tenant = payload::decode_series(payload, |_, number, labels| series.push((number, labels)))?;
                Step::Series(tenant, series)
            }
            RecordKind::Floats => {
                let mut runs = self.spare.pop().unwrap_or_default();
                match floats::decode(payload, &mut self.values, &mut runs)? {
                    true => Step::Floats(runs),
                    false => Step::Dropped(runs.bits.len() as u64),
                }
            }
            RecordKind::Histograms => Step::Histograms(decode_histograms(payload)?),
            RecordKind::Metadata => {
                let (tenant, all) = payload::decode_metadata(payload)?;
                Step::Metadata(tenant, all)
            }
            RecordKind::Exemplars => Step::Exemplars(payload::decode_exemplars(payload)?),
            RecordKind::ImageSeries => Step::ImageSeries(payload.to_vec()),
            RecordKind::ImageSummary => Step::Nothing,
            RecordKind::OutOfOrder => Step::Late(decode_late(payload)?),
            RecordKind::Tombstones => Step::Delete(Deletion::decode(payload)?),
        })
    }
}

/// The previous value of a series.
#[derive(Debug, Clone, Copy)]
struct Value {
    number: u64,
    bits: u64,
    /// The run of segments in which it stands.
    epoch: u32,
}

/// The previous values of all series.
#[derive(Default)]
struct Values {
    values: Vec<Value>,
    by_number: Numbers,
    /// Counts the segments that stand on their own.
    epoch: u32,
    /// The value found last; mostly the next number is behind it.
    last: usize,
}

impl Values {
    #[inline]
    fn place(&mut self, number: u64) -> usize {
        let next = self.last + 1;
        self.last = match self.values.get(next) {
            Some(value) if value.number == number => next,
            _ => self.search(number),
        };
        self.last
    }

    fn search(&mut self, number: u64) -> usize {
        if let Some(place) = self.by_number.get(number) {
            return place as usize;
        }
        let place = self.values.len();
        self.by_number.set(number, place as u32);
        self.values.push(Value {
            number,
            bits: 0,
            epoch: 0,
        });
        place
    }
}

impl Bases for Values {
    #[inline]
    fn replace(&mut self, number: u64, decode: impl FnOnce(u64) -> Result<u64, Damage>) -> Result<u64, Damage> {
        let (epoch, place) = (self.epoch, self.place(number));
        let value = &mut self.values[place];
        value.bits = decode(if value.epoch == epoch { value.bits } else { 0 })?;
        value.epoch = epoch;
        Ok(value.bits)
    }
}
