//! Remote write 1.0 (`prometheus.WriteRequest`), walked in place.
//!
//! ```text
//! WriteRequest { timeseries = 1, metadata = 3 }
//! TimeSeries   { labels = 1 { name = 1, value = 2 }, samples = 2, exemplars = 3, histograms = 4 }
//! ```
//!
//! The receiver walks [`Entries`] and then the [`Points`] of each series. Labels are handed out as the bytes that stand
//! in the request, since a steady sender repeats them and a known byte string need not be understood again.
//! Fields may come in any order, messages may be concatenated, unknown fields are passed over.

use crate::protobuf::{Fault, Reader, Tag, WireError, last_varint, wire};
use model::{
    metadata::{Metadata, MetricType},
    sample::FloatSample,
};

const REQUEST: &str = "WriteRequest";
const SERIES: &str = "TimeSeries";
const LABEL: &str = "Label";
const SAMPLE: &str = "Sample";
const EXEMPLAR: &str = "Exemplar";
const METADATA: &str = "MetricMetadata";

/// A top-level field of a request, its series in the form that the walk was asked for.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a, S = Series<'a>> {
    /// A series with its samples.
    Series(S),
    /// Metadata of a metric family, for [`metadata`].
    Metadata(&'a [u8]),
    /// A field of remote write 2.0, which version 1.0 does not know. Legal, but a hint at a wrong content type.
    Version2,
}

/// The entries of a request, in the sender's order.
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
        self.next_with(Series::new)
    }

    /// The next entry; `series` makes something of the message of a series, which need not be looked at.
    #[inline(always)]
    pub fn next_with<S>(
        &mut self,
        series: impl FnOnce(&'a [u8]) -> Result<S, WireError>,
    ) -> Result<Option<Entry<'a, S>>, WireError> {
        while let Some(tag) = self.reader.tag().map_err(|fault| fault.within(REQUEST))? {
            match tag.field {
                1 => return Ok(Some(Entry::Series(series(self.message(tag)?)?))),
                3 => return Ok(Some(Entry::Metadata(self.message(tag)?))),
                _ => self.reader.skip(tag).map_err(|fault| fault.within(REQUEST))?,
            }
            if (tag.field == 4 || tag.field == 5) && tag.wire == wire::BYTES {
                return Ok(Some(Entry::Version2));
            }
        }
        Ok(None)
    }

    #[inline]
    fn message(&mut self, tag: Tag) -> Result<&'a [u8], WireError> {
        tag.expect(wire::BYTES)
            .and_then(|()| self.reader.bytes())
            .map_err(|fault| fault.within(REQUEST))
    }
}

/// One `TimeSeries` message.
#[derive(Debug, Clone, Copy)]
pub struct Series<'a> {
    bytes: &'a [u8],
    /// Where the label fields at the beginning of the message end.
    labels_end: usize,
}

impl<'a> Series<'a> {
    /// Finds the end of the leading label fields; nothing else is looked at yet.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut rest = bytes;
        while let [0x0a, tail @ ..] = rest {
            let mut reader = Reader::new(tail);
            reader.bytes().map_err(|fault| fault.within(SERIES))?;
            rest = reader.rest();
        }
        Ok(Self {
            bytes,
            labels_end: bytes.len() - rest.len(),
        })
    }

    /// A series whose leading label fields are the first `labels_end` bytes, if nothing speaks against it at once. The caller must make
    /// sure that these bytes are the same as those of a series that [`Series::new`] divided there: then it would do so again.
    #[inline]
    pub fn divided(bytes: &'a [u8], labels_end: usize) -> Option<Self> {
        let rest = bytes.get(labels_end..)?;
        // One more label would belong to the others.
        (rest.first() != Some(&0x0a)).then_some(Self { bytes, labels_end })
    }

    /// The whole message.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The label fields at the beginning: all of them, unless [`Points`] meets a [`Point::Label`] later.
    #[inline]
    pub fn leading_labels(&self) -> &'a [u8] {
        &self.bytes[..self.labels_end]
    }

    /// Everything behind the leading labels.
    #[inline]
    pub fn points(&self) -> Points<'a> {
        Points {
            reader: Reader::new(&self.bytes[self.labels_end..]),
        }
    }

    /// Name and value of every label, wherever it stands in the message.
    pub fn labels(&self) -> LabelPairs<'a> {
        label_pairs(self.bytes, SERIES)
    }

    /// Appends all label fields one behind the other: what [`Series::leading_labels`] would be had they come first.
    pub fn gather_labels(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        out.extend_from_slice(self.leading_labels());
        let mut points = self.points();
        while let Some(point) = points.next_point()? {
            if let Point::Label(label) = point {
                crate::protobuf::put_bytes(out, 1, label);
            }
        }
        Ok(())
    }
}

/// What stands behind the leading labels of a series.
#[derive(Debug, Clone, Copy)]
pub enum Point<'a> {
    /// A float sample.
    Sample(FloatSample),
    /// A native histogram, for [`crate::histogram::decode`].
    Histogram(&'a [u8]),
    /// An exemplar, for [`exemplar`].
    Exemplar(&'a [u8]),
    /// A label that does not stand with the others; rare.
    Label(&'a [u8]),
}

/// Iterates over the fields of a series behind its leading labels.
#[derive(Debug, Clone)]
pub struct Points<'a> {
    reader: Reader<'a>,
}

impl<'a> Points<'a> {
    /// The next point, `None` at the end of the series.
    #[inline]
    pub fn next_point(&mut self) -> Result<Option<Point<'a>>, WireError> {
        while let Some(tag) = self.reader.tag().map_err(|fault| fault.within(SERIES))? {
            if !(1..=4).contains(&tag.field) {
                self.reader.skip(tag).map_err(|fault| fault.within(SERIES))?;
                continue;
            }
            let bytes = tag
                .expect(wire::BYTES)
                .and_then(|()| self.reader.bytes())
                .map_err(|fault| fault.within(SERIES))?;
            return Ok(Some(match tag.field {
                2 => Point::Sample(sample(bytes).map_err(|fault| fault.within(SAMPLE))?),
                3 => Point::Exemplar(bytes),
                4 => Point::Histogram(bytes),
                _ => Point::Label(bytes),
            }));
        }
        Ok(None)
    }
}

/// A `Sample` message of either version: value, timestamp, and in 2.0 the start timestamp.
#[inline]
pub(crate) fn sample(bytes: &[u8]) -> Result<FloatSample, Fault> {
    // What every known sender writes: value, then timestamp, and nothing else.
    if let [0x09, tail @ ..] = bytes
        && let Some((value, [0x10, tail @ ..])) = tail.split_first_chunk::<8>()
        && let Some(at) = last_varint(bytes, tail.len())
    {
        return Ok(FloatSample {
            at: at as i64,
            value: f64::from_le_bytes(*value),
            start: 0,
        });
    }
    any_sample(bytes)
}

fn any_sample(bytes: &[u8]) -> Result<FloatSample, Fault> {
    let mut sample = FloatSample {
        at: 0,
        value: 0.0,
        start: 0,
    };
    let mut reader = Reader::new(bytes);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1 => {
                tag.expect(wire::FIXED64)?;
                sample.value = reader.double()?;
            }
            2 => {
                tag.expect(wire::VARINT)?;
                sample.at = reader.varint()? as i64;
            }
            3 => {
                tag.expect(wire::VARINT)?;
                sample.start = reader.varint()? as i64;
            }
            _ => reader.skip(tag)?,
        }
    }
    Ok(sample)
}

/// Name and value of a label as sent: not checked for UTF-8, order, emptiness or repetition.
pub type RawPair<'a> = (&'a [u8], &'a [u8]);

/// The labels in a message whose field 1 is `Label`: a series or an exemplar.
#[derive(Debug, Clone)]
pub struct LabelPairs<'a> {
    reader: Reader<'a>,
    message: &'static str,
}

fn label_pairs<'a>(bytes: &'a [u8], message: &'static str) -> LabelPairs<'a> {
    LabelPairs {
        reader: Reader::new(bytes),
        message,
    }
}

impl<'a> LabelPairs<'a> {
    fn next_pair(&mut self) -> Result<Option<RawPair<'a>>, WireError> {
        let outer = self.message;
        while let Some(tag) = self.reader.tag().map_err(|fault| fault.within(outer))? {
            if tag.field != 1 {
                self.reader.skip(tag).map_err(|fault| fault.within(outer))?;
                continue;
            }
            let label = tag
                .expect(wire::BYTES)
                .and_then(|()| self.reader.bytes())
                .map_err(|fault| fault.within(outer))?;
            return pair(label).map(Some).map_err(|fault| fault.within(LABEL));
        }
        Ok(None)
    }
}

impl<'a> Iterator for LabelPairs<'a> {
    type Item = Result<RawPair<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_pair().transpose()
    }
}

fn pair(bytes: &[u8]) -> Result<RawPair<'_>, Fault> {
    let (mut name, mut value) = (&b""[..], &b""[..]);
    let mut reader = Reader::new(bytes);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1 | 2 => {
                tag.expect(wire::BYTES)?;
                let text = reader.bytes()?;
                if tag.field == 1 { name = text } else { value = text }
            }
            _ => reader.skip(tag)?,
        }
    }
    Ok((name, value))
}

/// An exemplar with its labels still on the wire.
#[derive(Debug, Clone)]
pub struct Exemplar<'a> {
    /// Its own labels, such as a trace id.
    pub labels: LabelPairs<'a>,
    /// The observed value.
    pub value: f64,
    /// When it was observed, 0 when not stated.
    pub at: i64,
}

/// Reads an exemplar.
pub fn exemplar(bytes: &[u8]) -> Result<Exemplar<'_>, WireError> {
    let mut exemplar = Exemplar {
        labels: label_pairs(bytes, EXEMPLAR),
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

/// Reads metadata of a metric family. Text that is not UTF-8 is repaired, since metadata never fails a request.
pub fn metadata(bytes: &[u8]) -> Result<Metadata, WireError> {
    let mut metadata = Metadata::default();
    let mut reader = Reader::new(bytes);
    let mut read = || -> Result<(), Fault> {
        while let Some(tag) = reader.tag()? {
            match tag.field {
                1 => {
                    tag.expect(wire::VARINT)?;
                    metadata.kind = MetricType::from_wire(reader.varint()?);
                }
                2 | 4 | 5 => {
                    tag.expect(wire::BYTES)?;
                    let text = String::from_utf8_lossy(reader.bytes()?).into_owned();
                    match tag.field {
                        2 => metadata.family = text,
                        4 => metadata.help = text,
                        _ => metadata.unit = text,
                    }
                }
                _ => reader.skip(tag)?,
            }
        }
        Ok(())
    };
    read().map_err(|fault| fault.within(METADATA))?;
    Ok(metadata)
}
