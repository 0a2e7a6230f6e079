//! Remote write requests, made: for the load generator, for tests, and for whoever forwards.
//!
//! Encoders write what they are told, valid or not: labels in the given order, empty or repeated. They return protobuf;
//! compress it with [`crate::compression::snappy`].

use crate::histogram;
use crate::protobuf::{put_bytes, put_double, put_integer, put_tag, put_varint, wire};
use model::metadata::{Metadata, MetricType};
use model::sample::{Exemplar, FloatSample, HistogramSample};
use std::collections::HashMap;

/// What a series carries besides its labels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Points<'a> {
    /// Float samples.
    pub floats: &'a [FloatSample],
    /// Native histograms.
    pub histograms: &'a [HistogramSample],
    /// Exemplars.
    pub exemplars: &'a [Exemplar],
}

/// Makes a request of remote write 1.0.
#[derive(Debug, Default)]
pub struct V1Encoder {
    out: Vec<u8>,
    series: Vec<u8>,
    message: Vec<u8>,
}

impl V1Encoder {
    /// Adds a series.
    pub fn series<'l>(&mut self, labels: impl IntoIterator<Item = (&'l str, &'l str)>, points: Points<'_>) {
        self.series.clear();
        put_labels(&mut self.series, &mut self.message, labels);
        for sample in points.floats {
            self.message.clear();
            put_double(&mut self.message, 1, sample.value);
            put_integer(&mut self.message, 2, sample.at as u64);
            put_bytes(&mut self.series, 2, &self.message);
        }
        for exemplar in points.exemplars {
            let mut label = Vec::new();
            self.message.clear();
            put_labels(&mut self.message, &mut label, exemplar.labels.iter());
            put_double(&mut self.message, 2, exemplar.value);
            put_integer(&mut self.message, 3, exemplar.at as u64);
            put_bytes(&mut self.series, 3, &self.message);
        }
        for sample in points.histograms {
            self.message.clear();
            histogram::encode(&mut self.message, sample);
            put_bytes(&mut self.series, 4, &self.message);
        }
        put_bytes(&mut self.out, 1, &self.series);
    }

    /// Adds metadata of a metric family.
    pub fn metadata(&mut self, metadata: &Metadata) {
        self.message.clear();
        put_integer(&mut self.message, 1, type_number(metadata.kind));
        put_bytes(&mut self.message, 2, metadata.family.as_bytes());
        put_bytes(&mut self.message, 4, metadata.help.as_bytes());
        put_bytes(&mut self.message, 5, metadata.unit.as_bytes());
        put_bytes(&mut self.out, 3, &self.message);
    }

    /// The request; the encoder is empty afterwards.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

fn put_labels<'l>(out: &mut Vec<u8>, label: &mut Vec<u8>, labels: impl IntoIterator<Item = (&'l str, &'l str)>) {
    for (name, value) in labels {
        label.clear();
        put_bytes(label, 1, name.as_bytes());
        put_bytes(label, 2, value.as_bytes());
        put_bytes(out, 1, label);
    }
}

/// Makes a request of remote write 2.0.
#[derive(Debug, Default)]
pub struct V2Encoder {
    symbols: Vec<u8>,
    /// Number of each symbol but the empty one, which is number 0.
    numbers: HashMap<String, u32>,
    out: Vec<u8>,
    series: Vec<u8>,
    message: Vec<u8>,
}

impl V2Encoder {
    /// Adds a series. The family's name in `metadata` is not used: in 2.0 metadata belongs to the series.
    pub fn series<'l>(
        &mut self,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        points: Points<'_>,
        metadata: Option<&Metadata>,
    ) {
        let mut series = std::mem::take(&mut self.series);
        series.clear();
        self.put_refs(&mut series, labels);
        for sample in points.floats {
            self.message.clear();
            put_double(&mut self.message, 1, sample.value);
            put_integer(&mut self.message, 2, sample.at as u64);
            if sample.start != 0 {
                put_integer(&mut self.message, 3, sample.start as u64);
            }
            put_bytes(&mut series, 2, &self.message);
        }
        for sample in points.histograms {
            self.message.clear();
            histogram::encode(&mut self.message, sample);
            put_bytes(&mut series, 3, &self.message);
        }
        for exemplar in points.exemplars {
            let mut message = Vec::new();
            self.put_refs(&mut message, exemplar.labels.iter());
            put_double(&mut message, 2, exemplar.value);
            put_integer(&mut message, 3, exemplar.at as u64);
            put_bytes(&mut series, 4, &message);
        }
        if let Some(metadata) = metadata {
            let (help, unit) = (self.symbol(&metadata.help), self.symbol(&metadata.unit));
            self.message.clear();
            put_integer(&mut self.message, 1, type_number(metadata.kind));
            put_integer(&mut self.message, 3, u64::from(help));
            put_integer(&mut self.message, 4, u64::from(unit));
            put_bytes(&mut series, 5, &self.message);
        }
        put_bytes(&mut self.out, 5, &series);
        self.series = series;
    }

    /// The number of a symbol, which is added when it is new.
    pub fn symbol(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.numbers.len() as u32 + 1;
        self.numbers.insert(text.to_owned(), number);
        put_bytes(&mut self.symbols, 4, text.as_bytes());
        number
    }

    /// The request; the encoder is empty afterwards.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut request = Vec::with_capacity(self.symbols.len() + self.out.len() + 2);
        put_bytes(&mut request, 4, b"");
        request.append(&mut self.symbols);
        request.append(&mut self.out);
        self.numbers.clear();
        request
    }

    fn put_refs<'l>(&mut self, out: &mut Vec<u8>, labels: impl IntoIterator<Item = (&'l str, &'l str)>) {
        let mut packed = Vec::new();
        for (name, value) in labels {
            put_varint(&mut packed, u64::from(self.symbol(name)));
            put_varint(&mut packed, u64::from(self.symbol(value)));
        }
        if !packed.is_empty() {
            put_tag(out, 1, wire::BYTES);
            put_varint(out, packed.len() as u64);
            out.extend_from_slice(&packed);
        }
    }
}

/// The number of a metric type, the same in both versions.
fn type_number(kind: MetricType) -> u64 {
    match kind {
        MetricType::Unknown => 0,
        MetricType::Counter => 1,
        MetricType::Gauge => 2,
        MetricType::Histogram => 3,
        MetricType::GaugeHistogram => 4,
        MetricType::Summary => 5,
        MetricType::Info => 6,
        MetricType::StateSet => 7,
    }
}
