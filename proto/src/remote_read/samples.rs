//! The answer of samples: `prometheus.ReadResponse`, one result for each query, compressed as a whole.

use crate::{
    compression::snappy,
    histogram::{self, HistogramError},
    protobuf::{Fault, Reader, put_bytes, wire},
    remote_write::{
        encode::{Points, V1Encoder},
        v1::{Point, Series},
    },
};
use model::{
    label::Labels,
    sample::{FloatSample, HistogramSample, SampleBuffer},
};

/// Makes the answer, result after result. A result has the fields of a remote write request with nothing but series.
#[derive(Debug, Default)]
pub struct SamplesEncoder {
    out: Vec<u8>,
    result: V1Encoder,
    floats: Vec<FloatSample>,
}

impl SamplesEncoder {
    /// Adds a series to the current result.
    pub fn series(&mut self, labels: &Labels, samples: &SampleBuffer) {
        self.floats.clear();
        let floats = samples.timestamps.iter().zip(&samples.values);
        self.floats
            .extend(floats.map(|(&at, &value)| FloatSample { at, value, start: 0 }));
        let points = Points {
            floats: &self.floats,
            histograms: &samples.histograms,
            exemplars: &[],
        };
        self.result.series(labels.iter(), points);
    }

    /// Ends the current result and begins the next.
    pub fn finish_result(&mut self) {
        let result = self.result.finish();
        put_bytes(&mut self.out, 1, &result);
    }

    /// The body of the response.
    pub fn finish(self) -> Vec<u8> {
        snappy(&self.out)
    }
}

/// A series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledSeries {
    /// Name and value of each label, as they came.
    pub labels: Vec<(String, String)>,
    /// Its floats.
    pub floats: Vec<(i64, f64)>,
    /// Its histograms.
    pub histograms: Vec<HistogramSample>,
}

/// Reads an answer that is not compressed any more: the series of each result.
pub fn decode_samples(bytes: &[u8]) -> Result<Vec<Vec<SampledSeries>>, HistogramError> {
    let within = |fault: Fault| fault.within("ReadResponse");
    let mut results = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some(tag) = reader.tag().map_err(within)? {
        if tag.field != 1 {
            reader.skip(tag).map_err(within)?;
            continue;
        }
        tag.expect(wire::BYTES).map_err(within)?;
        results.push(decode_result(reader.bytes().map_err(within)?)?);
    }
    Ok(results)
}

fn decode_result(bytes: &[u8]) -> Result<Vec<SampledSeries>, HistogramError> {
    let within = |fault: Fault| fault.within("QueryResult");
    let mut all = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some(tag) = reader.tag().map_err(within)? {
        if tag.field != 1 {
            reader.skip(tag).map_err(within)?;
            continue;
        }
        tag.expect(wire::BYTES).map_err(within)?;
        all.push(decode_series(reader.bytes().map_err(within)?)?);
    }
    Ok(all)
}

fn decode_series(bytes: &[u8]) -> Result<SampledSeries, HistogramError> {
    let wire = Series::new(bytes)?;
    let mut series = SampledSeries {
        labels: Vec::new(),
        floats: Vec::new(),
        histograms: Vec::new(),
    };
    for pair in wire.labels() {
        let (name, value) = pair?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        series.labels.push((text(name), text(value)));
    }
    let mut points = wire.points();
    while let Some(point) = points.next_point()? {
        match point {
            Point::Sample(sample) => series.floats.push((sample.at, sample.value)),
            Point::Histogram(bytes) => series.histograms.push(histogram::decode(bytes)?),
            Point::Exemplar(_) | Point::Label(_) => {}
        }
    }
    Ok(series)
}
