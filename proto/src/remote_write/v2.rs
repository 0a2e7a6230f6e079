//! Remote write 2.0 (`io.prometheus.write.v2.Request`), walked in place.
//!
//! ```text
//! Request    { symbols = 4, timeseries = 5 }                 fields 1 to 3 are those of 1.0 and reserved
//! TimeSeries { labels_refs = 1, samples = 2, histograms = 3, exemplars = 4, metadata = 5 }
//! ```
//!
//! All text lies in the symbol table and everything else points into it. The receiver reads [`symbols`] first, which
//! works wherever they stand in the message, then walks [`Entries`] and the [`Field`]s of each series.

use super::v1;
use crate::protobuf::{Fault, Reader, Tag, WireError, wire};
use model::{metadata::MetricType, sample::FloatSample};

const REQUEST: &str = "Request";
const SERIES: &str = "TimeSeries";
const SAMPLE: &str = "Sample";
const EXEMPLAR: &str = "Exemplar";
const METADATA: &str = "Metadata";

/// The tag of a series as everybody writes it, in one byte: field 5, with a length.
const SERIES_TAG: u8 = 0x2a;

/// Calls `take` for each symbol in order; it may end the walk by an error of its own.
pub fn symbols<'a, E: From<WireError>>(
    body: &'a [u8],
    mut take: impl FnMut(&'a [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = Reader::new(body);
    loop {
        // Series, of which there are many; passing over them like over anything else would cost several times as much.
        while let Some((_, rest)) = leading_field(reader.rest(), SERIES_TAG) {
            reader = Reader::new(rest);
        }
        let Some(tag) = reader.tag().map_err(|fault| fault.within(REQUEST))? else {
            return Ok(());
        };
        match tag.field {
            4 => take(message(&mut reader, tag, REQUEST)?)?,
            _ => reader.skip(tag).map_err(|fault| fault.within(REQUEST))?,
        }
    }
}

#[inline]
fn message<'a>(reader: &mut Reader<'a>, tag: Tag, inside: &'static str) -> Result<&'a [u8], WireError> {
    tag.expect(wire::BYTES)
        .and_then(|()| reader.bytes())
        .map_err(|fault| fault.within(inside))
}

/// A top-level field of a request other than a symbol.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    /// A series with its samples.
    Series(Series<'a>),
    /// A field of remote write 1.0, reserved here. Legal, but a hint at a wrong content type.
    Version1,
}

/// The series of a request, in the sender's order.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    reader: Reader<'a>,
}

/// Walks a decompressed request.
#[inline]
pub fn entries(body: &[u8]) -> Entries<'_> {
    Entries {
        reader: Reader::new(body),
    }
}

impl<'a> Entries<'a> {
    /// The next entry, `None` at the end. After an error nothing sensible follows.
    #[inline]
    pub fn next_entry(&mut self) -> Result<Option<Entry<'a>>, WireError> {
        if let Some((bytes, rest)) = leading_field(self.reader.rest(), SERIES_TAG) {
            self.reader = Reader::new(rest);
            return Ok(Some(Entry::Series(Series { bytes })));
        }
        self.other_entry()
    }

    /// The next entry where a symbol, something unknown or something broken comes first.
    fn other_entry(&mut self) -> Result<Option<Entry<'a>>, WireError> {
        while let Some(tag) = self.reader.tag().map_err(|fault| fault.within(REQUEST))? {
            if tag.field == 5 {
                return Ok(Some(Entry::Series(Series {
                    bytes: message(&mut self.reader, tag, REQUEST)?,
                })));
            }
            self.reader.skip(tag).map_err(|fault| fault.within(REQUEST))?;
            if (tag.field == 1 || tag.field == 3) && tag.wire == wire::BYTES {
                return Ok(Some(Entry::Version1));
            }
        }
        Ok(None)
    }
}

/// One `TimeSeries` message.
#[derive(Debug, Clone, Copy)]
pub struct Series<'a> {
    bytes: &'a [u8],
}

impl<'a> Series<'a> {
    /// A series from the bytes of its message.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The whole message.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its parts, when it is such a series.
    #[inline]
    pub fn plain(&self) -> Option<Plain<'a>> {
        let (refs, rest) = leading_field(self.bytes, 0x0a)?;
        let (sample, metadata) = leading_field(rest, 0x12)?;
        // Behind the metadata there must be nothing, behind the sample nothing but it.
        let ends = metadata.is_empty() || leading_field(metadata, 0x2a)?.1.is_empty();
        ends.then_some(Plain { refs, sample, metadata })
    }

    /// Its fields.
    #[inline]
    pub fn fields(&self) -> Fields<'a> {
        Fields {
            reader: Reader::new(self.bytes),
        }
    }
}

/// What nearly all series are: references in one list, one float sample, and maybe metadata, in this order. Only lengths were checked.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a> {
    /// The packed references to the labels.
    pub refs: &'a [u8],
    sample: &'a [u8],
    /// The field of the metadata, its head included; empty when there is none.
    pub metadata: &'a [u8],
}

impl Plain<'_> {
    /// The sample.
    #[inline]
    pub fn sample(&self) -> Result<FloatSample, WireError> {
        v1::sample(self.sample).map_err(|fault| fault.within(SAMPLE))
    }
}

/// The content of the first field if it has this tag of one byte, and what stands behind it.
#[inline]
fn leading_field(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (_, rest) = bytes.split_first().filter(|(first, _)| **first == tag)?;
    let mut reader = Reader::new(rest);
    let content = reader.bytes().ok()?;
    Some((content, reader.rest()))
}

/// A field of a series.
#[derive(Debug, Clone, Copy)]
pub enum Field<'a> {
    /// Some or all of the label references.
    LabelRefs(Refs<'a>),
    /// A float sample.
    Sample(FloatSample),
    /// A native histogram, for [`crate::histogram::decode`].
    Histogram(&'a [u8]),
    /// An exemplar, for [`exemplar`].
    Exemplar(&'a [u8]),
    /// Type, help and unit.
    Metadata(MetadataRefs),
}

/// Iterates over the fields of a series.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    reader: Reader<'a>,
}

impl<'a> Fields<'a> {
    /// The next field, `None` at the end of the series.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, WireError> {
        let inside = |fault: Fault| fault.within(SERIES);
        while let Some(tag) = self.reader.tag().map_err(inside)? {
            match tag.field {
                1 => {
                    return Refs::read(&mut self.reader, tag)
                        .map(|refs| Some(Field::LabelRefs(refs)))
                        .map_err(inside);
                }
                2..=5 => {}
                _ => {
                    self.reader.skip(tag).map_err(inside)?;
                    continue;
                }
            }
            let bytes = message(&mut self.reader, tag, SERIES)?;
            return Ok(Some(match tag.field {
                2 => Field::Sample(v1::sample(bytes).map_err(|fault| fault.within(SAMPLE))?),
                3 => Field::Histogram(bytes),
                4 => Field::Exemplar(bytes),
                _ => Field::Metadata(metadata(bytes).map_err(|fault| fault.within(METADATA))?),
            }));
        }
        Ok(None)
    }
}

/// References into the symbol table: a packed list, or a single one.
#[derive(Debug, Clone, Copy)]
pub struct Refs<'a> {
    packed: &'a [u8],
    single: Option<u32>,
}

impl<'a> Refs<'a> {
    #[inline]
    fn read(reader: &mut Reader<'a>, tag: Tag) -> Result<Self, Fault> {
        match tag.wire {
            wire::BYTES => Ok(Self {
                packed: reader.bytes()?,
                single: None,
            }),
            wire::VARINT => Ok(Self {
                packed: &[],
                single: Some(reference(reader.varint()?)),
            }),
            _ => Err(tag.wrong_wire_type()),
        }
    }

    /// Hands each reference to `take`.
    #[inline]
    pub fn for_each(&self, mut take: impl FnMut(u32)) -> Result<(), WireError> {
        self.single.into_iter().for_each(&mut take);
        let mut reader = Reader::new(self.packed);
        while !reader.rest().is_empty() {
            take(reference(reader.varint().map_err(|fault| fault.within(SERIES))?));
        }
        Ok(())
    }

    /// Appends the references to `out`, but none beyond `max` elements in all, so that a hostile list stays small;
    /// whether there were more is told by the answer.
    pub fn append_to(&self, out: &mut Vec<u32>, max: usize) -> Result<Complete, WireError> {
        if let Some(single) = self.single {
            if out.len() == max {
                return Ok(Complete::No);
            }
            out.push(single);
        }
        let mut reader = Reader::new(self.packed);
        while !reader.rest().is_empty() {
            if out.len() == max {
                return Ok(Complete::No);
            }
            out.push(reference(reader.varint().map_err(|fault| fault.within(SERIES))?));
        }
        Ok(Complete::Yes)
    }
}

/// Whether a list fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complete {
    /// All of it.
    Yes,
    /// There was more.
    No,
}

/// A reference wider than 32 bits becomes the largest one, which no table holds, rather than a valid one by wrapping.
#[inline]
fn reference(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Metadata of a series; text by reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MetadataRefs {
    /// Type of the metric.
    pub kind: MetricType,
    /// Help text.
    pub help: u32,
    /// Unit.
    pub unit: u32,
}

#[inline]
fn metadata(bytes: &[u8]) -> Result<MetadataRefs, Fault> {
    let mut metadata = MetadataRefs::default();
    let mut reader = Reader::new(bytes);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1 | 3 | 4 => {
                tag.expect(wire::VARINT)?;
                let value = reader.varint()?;
                match tag.field {
                    1 => metadata.kind = MetricType::from_wire(value),
                    3 => metadata.help = reference(value),
                    _ => metadata.unit = reference(value),
                }
            }
            _ => reader.skip(tag)?,
        }
    }
    Ok(metadata)
}

/// An exemplar with its labels still by reference.
#[derive(Debug, Clone)]
pub struct Exemplar<'a> {
    bytes: &'a [u8],
    /// The observed value.
    pub value: f64,
    /// When it was observed, 0 when not stated.
    pub at: i64,
}

impl Exemplar<'_> {
    /// Appends the references of its labels to `out`, none beyond `max` elements in all.
    pub fn label_refs(&self, out: &mut Vec<u32>, max: usize) -> Result<Complete, WireError> {
        let mut complete = Complete::Yes;
        let mut reader = Reader::new(self.bytes);
        while let Some(tag) = reader.tag().map_err(|fault| fault.within(EXEMPLAR))? {
            if tag.field != 1 {
                reader.skip(tag).map_err(|fault| fault.within(EXEMPLAR))?;
                continue;
            }
            let refs = Refs::read(&mut reader, tag).map_err(|fault| fault.within(EXEMPLAR))?;
            if refs.append_to(out, max)? == Complete::No {
                complete = Complete::No;
            }
        }
        Ok(complete)
    }
}

/// Reads an exemplar.
pub fn exemplar(bytes: &[u8]) -> Result<Exemplar<'_>, WireError> {
    let mut exemplar = Exemplar {
        bytes,
        value: 0.0,
        at: 0,
    };
    let mut reader = Reader::new(bytes);
    let mut read = || -> Result<(), Fault> {
        while let Some(tag) = reader.tag()? {
            match tag.field {
                2 => {
                    tag.expect(wire::FIXED64)?;
                    exemplar.value = reader.double()?;
                }
                3 => {
                    tag.expect(wire::VARINT)?;
                    exemplar.at = reader.varint()? as i64;
                }
                _ => reader.skip(tag)?,
            }
        }
        Ok(())
    };
    read().map_err(|fault| fault.within(EXEMPLAR))?;
    Ok(exemplar)
}
