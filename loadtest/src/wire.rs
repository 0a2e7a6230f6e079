//! Remote write request bodies, 1.0 and 2.0, made once and patched for each scrape.
//!
//! A sender repeats the labels of its series in every request; only values and timestamps change. So [`Body`] is built
//! with room for both at known offsets, and [`Body::set`] overwrites 14 bytes per sample. [`crate::write`] is the user.
//! [`encode_v1`] takes any labels and samples and is what tests use to say odd things.

use anyhow::ensure;
use std::collections::HashMap;

/// Which remote write message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `prometheus.WriteRequest`: labels in full.
    V1,
    /// `io.prometheus.write.v2.Request`: a symbol table and references.
    V2,
}

impl Protocol {
    /// The headers that name the message, each line ended.
    pub fn headers(self) -> &'static str {
        match self {
            Protocol::V1 => {
                "Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n\
                 X-Prometheus-Remote-Write-Version: 0.1.0\r\n"
            }
            Protocol::V2 => {
                "Content-Type: application/x-protobuf;proto=io.prometheus.write.v2.Request\r\n\
                 Content-Encoding: snappy\r\nX-Prometheus-Remote-Write-Version: 2.0.0\r\n"
            }
        }
    }
}

/// Timestamps whose varint has exactly six bytes: 1971 to 2109. It keeps the place of everything in a body fixed.
pub const TIMESTAMPS: std::ops::Range<i64> = 1 << 35..1 << 42;

/// A sample field with tag and length: value (fixed 64 bit) and timestamp (varint of six bytes).
const SAMPLE_LEN: usize = 2 + 9 + 7;

/// Checks that every timestamp of a run fits into the fixed place for it.
pub fn check_timestamps(first: i64, last: i64) -> anyhow::Result<()> {
    ensure!(
        TIMESTAMPS.contains(&first) && TIMESTAMPS.contains(&last),
        "timestamps from {first} to {last} ms leave the years 1971 to 2109, which this generator can write"
    );
    Ok(())
}

/// The labels of the series of one connection, encoded as far as they can be before a request is put together.
pub enum LabelTable {
    /// The label fields of each series, one after the other, and where each ends.
    V1 {
        /// Encoded label fields.
        bytes: Vec<u8>,
        /// End of each series in `bytes`.
        ends: Vec<usize>,
    },
    /// All symbols, and for each series its references into them.
    V2 {
        /// Every name and value once; number 0 is the empty string.
        symbols: Vec<String>,
        /// References of each series: name, value, name, … and last the help text.
        references: Vec<Vec<u32>>,
    },
}

impl LabelTable {
    /// Encodes the labels of each series; in the table they are numbered from 0 in this order.
    pub fn new(protocol: Protocol, series: impl Iterator<Item = Vec<(String, String)>>) -> Self {
        match protocol {
            Protocol::V1 => {
                let (mut bytes, mut ends) = (Vec::new(), Vec::new());
                for labels in series {
                    for (name, value) in labels {
                        put_label(&mut bytes, &name, &value);
                    }
                    ends.push(bytes.len());
                }
                LabelTable::V1 { bytes, ends }
            }
            Protocol::V2 => {
                let mut interner = Interner::default();
                let references = series.map(|labels| interner.series(&labels)).collect();
                LabelTable::V2 {
                    symbols: interner.symbols,
                    references,
                }
            }
        }
    }

    /// Puts a request together: the series of the table that `members` names, each with `samples_each` samples.
    pub fn body(&self, members: &[u32], samples_each: usize) -> Body {
        let mut body = Body {
            bytes: Vec::new(),
            samples_at: Vec::with_capacity(members.len() * samples_each),
        };
        match self {
            LabelTable::V1 { bytes, ends } => {
                for &member in members {
                    let end = ends[member as usize];
                    let start = if member == 0 { 0 } else { ends[member as usize - 1] };
                    body.put_series(0x0a, &bytes[start..end], samples_each, &[]);
                }
            }
            LabelTable::V2 { symbols, references } => body.put_v2(symbols, references, members, samples_each),
        }
        body
    }
}

/// A request body whose labels stay and whose samples are overwritten for each scrape.
pub struct Body {
    bytes: Vec<u8>,
    /// Where the value of each sample begins; its timestamp stands nine bytes later.
    samples_at: Vec<usize>,
}

impl Body {
    /// The encoded message.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where in [`Body::bytes`] the 15 bytes lie that [`Body::set`] may change, sample by sample.
    pub fn samples_at(&self) -> &[usize] {
        &self.samples_at
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.samples_at.len()
    }

    /// Writes sample number `sample`. `timestamp` must lie in [`TIMESTAMPS`].
    #[inline]
    pub fn set(&mut self, sample: usize, value: f64, timestamp: i64) {
        let at = self.samples_at[sample];
        Self::write_sample(&mut self.bytes[at..at + 15], value, timestamp);
    }

    /// Writes a value and its timestamp into their 15 bytes, the tag between them excepted.
    #[inline]
    pub fn write_sample(place: &mut [u8], value: f64, timestamp: i64) {
        place[..8].copy_from_slice(&value.to_le_bytes());
        place[9..].copy_from_slice(&fixed_varint(timestamp));
    }

    /// Appends a series: its label field(s) ready encoded, empty samples, and `tail` behind them.
    fn put_series(&mut self, tag: u8, labels: &[u8], samples_each: usize, tail: &[u8]) {
        self.bytes.push(tag);
        put_varint(
            &mut self.bytes,
            (labels.len() + samples_each * SAMPLE_LEN + tail.len()) as u64,
        );
        self.bytes.extend_from_slice(labels);
        for _ in 0..samples_each {
            self.bytes.extend_from_slice(&[0x12, 16, 0x09]);
            self.samples_at.push(self.bytes.len());
            self.bytes.extend_from_slice(&[0; 8]);
            self.bytes.push(0x10);
            self.bytes.extend_from_slice(&fixed_varint(TIMESTAMPS.start));
        }
        self.bytes.extend_from_slice(tail);
    }

    /// The symbols that `members` use, numbered anew for this request, then their series.
    fn put_v2(&mut self, symbols: &[String], references: &[Vec<u32>], members: &[u32], samples_each: usize) {
        let mut local: HashMap<u32, u32> = HashMap::from([(0, 0)]);
        self.put_symbol("");
        for &reference in members.iter().flat_map(|&member| &references[member as usize]) {
            let next = local.len() as u32;
            if *local.entry(reference).or_insert(next) == next {
                self.put_symbol(&symbols[reference as usize]);
            }
        }
        let (mut labels, mut packed, mut metadata) = (Vec::new(), Vec::new(), Vec::new());
        for &member in members {
            let Some((help, pairs)) = references[member as usize].split_last() else {
                continue;
            };
            packed.clear();
            for reference in pairs {
                put_varint(&mut packed, u64::from(local[reference]));
            }
            labels.clear();
            put_field(&mut labels, 0x0a, &packed);
            metadata.clear();
            // Field 5: {type: gauge, help_ref}. Senders should describe each series.
            let mut inner = vec![0x08, 2, 0x18];
            put_varint(&mut inner, u64::from(local[help]));
            put_field(&mut metadata, 0x2a, &inner);
            self.put_series(0x2a, &labels, samples_each, &metadata);
        }
    }

    fn put_symbol(&mut self, symbol: &str) {
        put_field(&mut self.bytes, 0x22, symbol.as_bytes());
    }
}

/// Gives each string one number.
struct Interner {
    symbols: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Default for Interner {
    fn default() -> Self {
        Self {
            symbols: vec![String::new()],
            numbers: HashMap::from([(String::new(), 0)]),
        }
    }
}

impl Interner {
    /// References of a series' labels, and of a help text made from its name.
    fn series(&mut self, labels: &[(String, String)]) -> Vec<u32> {
        let mut references: Vec<u32> = labels
            .iter()
            .flat_map(|(name, value)| [self.number(name), self.number(value)])
            .collect();
        let name = labels
            .iter()
            .find(|(name, _)| name == "__name__")
            .map_or("", |(_, value)| value);
        references.push(self.number(&format!("What {name} tells about its target.")));
        references
    }

    fn number(&mut self, symbol: &str) -> u32 {
        if let Some(&number) = self.numbers.get(symbol) {
            return number;
        }
        let number = self.symbols.len() as u32;
        self.symbols.push(symbol.to_owned());
        self.numbers.insert(symbol.to_owned(), number);
        number
    }
}

/// A series as a test spells it: labels in any order and shape, samples of any time.
pub struct AnySeries {
    /// Names and values; bytes, so that they need not be text.
    pub labels: Vec<(Vec<u8>, Vec<u8>)>,
    /// Timestamps and values.
    pub samples: Vec<(i64, f64)>,
}

impl AnySeries {
    /// A series of text labels.
    pub fn new(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Self {
        let labels = labels
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        Self {
            labels,
            samples: samples.to_vec(),
        }
    }
}

/// Encodes a 1.0 message of anything that fits its fields, sensible or not.
pub fn encode_v1(series: &[AnySeries]) -> Vec<u8> {
    let mut message = Vec::new();
    for AnySeries { labels, samples } in series {
        let mut inner = Vec::new();
        for (name, value) in labels {
            put_label(&mut inner, name, value);
        }
        for (timestamp, value) in samples {
            let mut sample = vec![0x09];
            sample.extend_from_slice(&value.to_le_bytes());
            sample.push(0x10);
            put_varint(&mut sample, *timestamp as u64);
            put_field(&mut inner, 0x12, &sample);
        }
        put_field(&mut message, 0x0a, &inner);
    }
    message
}

fn put_label(buffer: &mut Vec<u8>, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    let mut label = Vec::new();
    put_field(&mut label, 0x0a, name.as_ref());
    put_field(&mut label, 0x12, value.as_ref());
    put_field(buffer, 0x0a, &label);
}

fn put_field(buffer: &mut Vec<u8>, tag: u8, content: &[u8]) {
    buffer.push(tag);
    put_varint(buffer, content.len() as u64);
    buffer.extend_from_slice(content);
}

/// Appends a base-128 number, least significant group first.
pub fn put_varint(buffer: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buffer.push(number as u8 | 0x80);
        number >>= 7;
    }
    buffer.push(number as u8);
}

/// The varint of a timestamp inside [`TIMESTAMPS`].
#[inline]
fn fixed_varint(timestamp: i64) -> [u8; 6] {
    let group = |index: u32| (timestamp >> (7 * index)) as u8;
    let more = |index| group(index) | 0x80;
    [more(0), more(1), more(2), more(3), more(4), group(5) & 0x7f]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::population::{Population, Workload};

    /// Splits a message into its fields: tag number, and the varint, the eight bytes or the content.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let tag = take_varint(&mut bytes);
            match tag & 7 {
                0 => found.push((tag >> 3, take_varint(&mut bytes), Vec::new())),
                1 => {
                    let (value, rest) = bytes.split_at(8);
                    found.push((tag >> 3, u64::from_le_bytes(value.try_into().unwrap()), Vec::new()));
                    bytes = rest;
                }
                2 => {
                    let len = take_varint(&mut bytes) as usize;
                    found.push((tag >> 3, 0, bytes[..len].to_vec()));
                    bytes = &bytes[len..];
                }
                other => panic!("wire type {other}"),
            }
        }
        found
    }

    fn take_varint(bytes: &mut &[u8]) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return number;
            }
        }
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    type Decoded = (Vec<(String, String)>, Vec<(i64, f64)>);

    fn sample(bytes: &[u8]) -> (i64, f64) {
        let parts = fields(bytes);
        assert_eq!((parts[0].0, parts[1].0), (1, 2));
        (parts[1].1 as i64, f64::from_bits(parts[0].1))
    }

    fn decode_v1(bytes: &[u8]) -> Vec<Decoded> {
        let one = |(_, _, series): (u64, u64, Vec<u8>)| {
            let (mut labels, mut samples) = (Vec::new(), Vec::new());
            for (number, _, content) in fields(&series) {
                match number {
                    1 => {
                        let pair = fields(&content);
                        labels.push((text(&pair[0].2), text(&pair[1].2)));
                    }
                    2 => samples.push(sample(&content)),
                    other => panic!("field {other}"),
                }
            }
            (labels, samples)
        };
        fields(bytes).into_iter().map(one).collect()
    }

    fn decode_v2(bytes: &[u8]) -> Vec<Decoded> {
        let (symbols, series): (Vec<_>, Vec<_>) = fields(bytes).into_iter().partition(|field| field.0 == 4);
        assert!(symbols[0].2.is_empty(), "symbol 0 is the empty string");
        let distinct: std::collections::HashSet<_> = symbols.iter().map(|symbol| &symbol.2).collect();
        assert_eq!(distinct.len(), symbols.len(), "a symbol stands twice");
        let symbol = |reference: u64| text(&symbols[reference as usize].2);
        let one = |(number, _, series): (u64, u64, Vec<u8>)| {
            assert_eq!(number, 5);
            let (mut labels, mut samples) = (Vec::new(), Vec::new());
            for (number, _, content) in fields(&series) {
                match number {
                    1 => {
                        let mut packed = content.as_slice();
                        while !packed.is_empty() {
                            labels.push((symbol(take_varint(&mut packed)), symbol(take_varint(&mut packed))));
                        }
                    }
                    2 => samples.push(sample(&content)),
                    5 => assert!(symbol(fields(&content)[1].1).starts_with("What ")),
                    other => panic!("field {other}"),
                }
            }
            (labels, samples)
        };
        series.into_iter().map(one).collect()
    }

    #[test]
    fn a_patched_body_says_what_was_set_in_both_protocols() {
        let population = Population::new(700, Vec::new());
        let series: Vec<usize> = (100..700).collect();
        let members = [5, 0, 599, 321];
        for protocol in [Protocol::V1, Protocol::V2] {
            let mut body = {
                let labels = series.iter().map(|&number| population.labels(number, 0));
                LabelTable::new(protocol, labels).body(&members, 2)
            };
            assert_eq!(body.samples(), 8);
            for round in 0..2i64 {
                for sample in 0..8 {
                    body.set(
                        sample,
                        sample as f64 + 0.25,
                        1_700_000_000_000 + round * 15_000 + sample as i64,
                    );
                }
                let decoded = match protocol {
                    Protocol::V1 => decode_v1(body.bytes()),
                    Protocol::V2 => decode_v2(body.bytes()),
                };
                assert_eq!(decoded.len(), 4);
                for (index, (labels, samples)) in decoded.iter().enumerate() {
                    assert_eq!(*labels, population.labels(100 + members[index] as usize, 0));
                    let expected = [2 * index, 2 * index + 1]
                        .map(|n| (1_700_000_000_000 + round * 15_000 + n as i64, n as f64 + 0.25));
                    assert_eq!(samples[..], expected);
                }
            }
        }
    }

    #[test]
    fn any_series_keep_their_odd_samples() {
        let odd = [(i64::MIN, 1.0), (0, -0.0), (i64::MAX, f64::INFINITY)];
        let message = encode_v1(&[AnySeries::new(&[("b", "2"), ("a", "")], &odd)]);
        let decoded = decode_v1(&message);
        assert_eq!(
            decoded[0].0,
            [("b".to_owned(), "2".to_owned()), ("a".to_owned(), String::new())]
        );
        assert_eq!(decoded[0].1, odd);
    }

    #[test]
    fn timestamps_outside_the_fixed_place_are_refused() {
        assert!(check_timestamps(1_700_000_000_000, 1_800_000_000_000).is_ok());
        assert!(check_timestamps(0, 1_800_000_000_000).is_err());
        assert!(check_timestamps(1_700_000_000_000, 1 << 42).is_err());
    }
}
