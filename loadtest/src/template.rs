//! Request bodies that are compressed once and patched for each scrape.
//!
//! Compression is most of what a generator costs. A snappy stream is made of literals and of copies of what came before;
//! if every byte of a value or timestamp stands in a literal and no copy takes from it, those bytes can be overwritten in
//! the compressed stream. [`Template::new`] compresses in that way. The stream is a valid one, and longer than usual
//! because timestamps no longer repeat. The format: <https://github.com/google/snappy/blob/main/format_description.txt>.

use crate::wire::{Body, put_varint};

/// Bytes from the first of a value to the last of its timestamp.
const PLACE_LEN: usize = 15;

/// Shortest copy that is worth looking for.
const MATCH_MIN: usize = 4;

/// How far back a copy may reach with an offset of two bytes.
const BACK_MAX: usize = u16::MAX as usize;

/// The table that remembers where four bytes stood last has two to the power of this many entries.
const TABLE_BITS: u32 = 14;

/// A compressed body with known places for values and timestamps.
pub struct Template {
    compressed: Vec<u8>,
    /// Where in `compressed` the place of each sample begins.
    places: Vec<usize>,
}

impl Template {
    /// Compresses `body`.
    pub fn new(body: &Body) -> Self {
        let message = body.bytes();
        let mut patched = vec![false; message.len()];
        for &at in body.samples_at() {
            patched[at..at + PLACE_LEN].fill(true);
        }
        let mut template = Self {
            compressed: Vec::with_capacity(message.len() / 4),
            places: Vec::with_capacity(body.samples()),
        };
        put_varint(&mut template.compressed, message.len() as u64);
        let mut last_seen = vec![usize::MAX; 1 << TABLE_BITS];
        let (mut position, mut literal) = (0, 0);
        while position + MATCH_MIN <= message.len() {
            let Some(next) = four_bytes(message, &patched, position) else {
                position += 1;
                continue;
            };
            let entry = &mut last_seen[(next.wrapping_mul(0x9e37_79b1) >> (32 - TABLE_BITS)) as usize];
            let candidate = std::mem::replace(entry, position);
            let is_near = candidate != usize::MAX && position - candidate <= BACK_MAX;
            if !is_near || four_bytes(message, &patched, candidate) != Some(next) {
                position += 1;
                continue;
            }
            let len = agreement(message, &patched, candidate, position);
            template.put_literal(body, literal..position);
            template.put_copy(position - candidate, len);
            position += len;
            literal = position;
        }
        template.put_literal(body, literal..message.len());
        template
    }

    /// Appends bytes of the message as they are and notes the places among them.
    fn put_literal(&mut self, body: &Body, range: std::ops::Range<usize>) {
        let Some(last) = range.len().checked_sub(1) else { return };
        if last < 60 {
            self.compressed.push((last as u8) << 2);
        } else {
            self.compressed.push(63 << 2);
            self.compressed.extend_from_slice(&(last as u32).to_le_bytes());
        }
        let start = self.compressed.len();
        self.compressed.extend_from_slice(&body.bytes()[range.clone()]);
        let samples = body.samples_at()[self.places.len()..].iter();
        self.places.extend(
            samples
                .take_while(|&&at| at < range.end)
                .map(|&at| start + at - range.start),
        );
    }

    /// Appends copies of `len` bytes that stand `back` bytes before.
    fn put_copy(&mut self, back: usize, mut len: usize) {
        while len > 0 {
            let piece = len.min(64);
            self.compressed.push((piece as u8 - 1) << 2 | 2);
            self.compressed.extend_from_slice(&(back as u16).to_le_bytes());
            len -= piece;
        }
    }

    /// Writes sample number `sample`; `timestamp` must lie in [`crate::wire::TIMESTAMPS`].
    #[inline]
    pub fn set(&mut self, sample: usize, value: f64, timestamp: i64) {
        let at = self.places[sample];
        Body::write_sample(&mut self.compressed[at..at + PLACE_LEN], value, timestamp);
    }

    /// The request body.
    pub fn bytes(&self) -> &[u8] {
        &self.compressed
    }
}

/// The four bytes at `at` as a number, if none of them may change.
fn four_bytes(message: &[u8], patched: &[bool], at: usize) -> Option<u32> {
    let bytes = message.get(at..at + MATCH_MIN)?;
    let fixed = !patched[at..at + MATCH_MIN].contains(&true);
    fixed.then(|| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// How many bytes agree from two positions on, none of which may change.
fn agreement(message: &[u8], patched: &[bool], first: usize, second: usize) -> usize {
    (0..message.len() - second)
        .take_while(|&step| {
            message[first + step] == message[second + step] && !patched[first + step] && !patched[second + step]
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        population::{Population, Workload},
        wire::{LabelTable, Protocol},
    };

    #[test]
    fn a_patched_stream_is_the_message() {
        let population = Population::new(4_000, Vec::new());
        for protocol in [Protocol::V1, Protocol::V2] {
            let labels = (0..4_000).map(|series| population.labels(series, 0));
            let table = LabelTable::new(protocol, labels);
            for (members, samples_each) in [
                (vec![0], 1),
                ((0..2_000).collect(), 1),
                ((1_000..4_000).rev().collect::<Vec<u32>>(), 3),
                (vec![5; 100], 1),
            ] {
                let mut body = table.body(&members, samples_each);
                let mut template = Template::new(&body);
                for scrape in 0..2 {
                    for sample in 0..body.samples() {
                        let value = population.value(members[sample / samples_each] as usize, scrape, 0);
                        let timestamp = 1_700_000_000_000 + scrape as i64 * 15_000;
                        template.set(sample, value, timestamp);
                        body.set(sample, value, timestamp);
                    }
                    let message = snap::raw::Decoder::new().decompress_vec(template.bytes()).unwrap();
                    assert_eq!(message, body.bytes(), "{protocol:?}, {} series", members.len());
                }
                let standard = snap::raw::Encoder::new().compress_vec(body.bytes()).unwrap().len();
                let longer = template.bytes().len() as f64 / standard as f64;
                println!("{protocol:?}, {} series: {longer:.2} × as long as usual", members.len());
                // The more of a body is samples, the more is lost by not copying their timestamps.
                let is_usual = protocol == Protocol::V1 && samples_each == 1 && members.len() > 1_000;
                assert!(longer < 1.35 || !is_usual, "{longer} × as long as usual");
            }
        }
    }
}
