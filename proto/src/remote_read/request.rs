//! The request: queries, each with matchers and a span of time, and the forms of answers that the asker understands.

use crate::protobuf::{Fault, Reader, Tag, WireError, put_bytes, put_integer, put_varint, wire};
use model::{matcher::MatchOp, time::TimeRange};

/// Queries that one request may hold. Prometheus sends one.
const QUERIES_MAX: usize = 1000;

/// Matchers, and labels of the hints, that one query may have.
const MATCHERS_MAX: usize = 1000;

/// `prometheus.ReadRequest`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadRequest {
    /// Each is answered on its own.
    pub queries: Vec<Query>,
    /// Numbers of the forms that the asker understands, best first; none at all means samples.
    pub accepted: Vec<u64>,
}

/// `prometheus.Query`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which samples, both ends included.
    pub range: TimeRange,
    /// All must match.
    pub matchers: Vec<LabelMatcher>,
    /// What the samples are for, when the asker tells.
    pub hints: Option<Hints>,
}

/// `prometheus.LabelMatcher`. The expression of a regular one is not compiled yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMatcher {
    /// How it compares.
    pub op: MatchOp,
    /// Name of the label.
    pub name: String,
    /// Value or expression.
    pub value: String,
}

/// `prometheus.ReadHints`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// Step of the query in milliseconds.
    pub step_ms: i64,
    /// Function or aggregation around the selector.
    pub function: String,
    /// Start of the time that the function needs.
    pub start_ms: i64,
    /// End of it.
    pub end_ms: i64,
    /// Labels of the aggregation.
    pub grouping: Vec<String>,
    /// Whether they are those of `by`.
    pub by: bool,
    /// Width of the range selector in milliseconds.
    pub range_ms: i64,
}

/// A form of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseType {
    /// One message with all samples.
    Samples,
    /// Frames with chunks.
    StreamedChunks,
}

impl ResponseType {
    /// Its number on the wire.
    pub const fn number(self) -> u64 {
        match self {
            ResponseType::Samples => 0,
            ResponseType::StreamedChunks => 1,
        }
    }

    /// Its name in the definition.
    pub const fn as_str(self) -> &'static str {
        match self {
            ResponseType::Samples => "SAMPLES",
            ResponseType::StreamedChunks => "STREAMED_XOR_CHUNKS",
        }
    }

    const ALL: [Self; 2] = [ResponseType::Samples, ResponseType::StreamedChunks];
}

impl ReadRequest {
    /// Reads the message. Regular expressions are not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut request = Self::default();
        request.read(bytes).map_err(|fault| fault.within("ReadRequest"))?;
        Ok(request)
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut reader = Reader::new(bytes);
        while let Some(tag) = reader.tag()? {
            match tag.field {
                1 => {
                    tag.expect(wire::BYTES)?;
                    let query = Query::read(reader.bytes()?)?;
                    if self.queries.len() == QUERIES_MAX {
                        return Err(too_many(tag, QUERIES_MAX));
                    }
                    self.queries.push(query);
                }
                2 => self.read_accepted(tag, &mut reader)?,
                _ => reader.skip(tag)?,
            }
        }
        Ok(())
    }

    /// A list of numbers, packed or one by one. What nobody can understand is not worth keeping twice.
    fn read_accepted(&mut self, tag: Tag, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let mut keep = |number: u64| {
            if !self.accepted.contains(&number) && self.accepted.len() < 16 {
                self.accepted.push(number);
            }
        };
        if tag.wire == wire::VARINT {
            keep(reader.varint()?);
            return Ok(());
        }
        tag.expect(wire::BYTES)?;
        let mut packed = Reader::new(reader.bytes()?);
        while !packed.rest().is_empty() {
            keep(packed.varint()?);
        }
        Ok(())
    }

    /// The first form in the asker's list that we have; samples when the list is empty; `None` when we have none of them.
    pub fn response_type(&self) -> Option<ResponseType> {
        if self.accepted.is_empty() {
            return Some(ResponseType::Samples);
        }
        let known = |number: &u64| ResponseType::ALL.into_iter().find(|form| form.number() == *number);
        self.accepted.iter().find_map(known)
    }

    /// Writes the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for query in &self.queries {
            put_bytes(&mut out, 1, &query.encode());
        }
        if !self.accepted.is_empty() {
            let mut packed = Vec::new();
            self.accepted.iter().for_each(|form| put_varint(&mut packed, *form));
            put_bytes(&mut out, 2, &packed);
        }
        out
    }
}

impl Query {
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut query = Self {
            range: TimeRange::new(0, 0),
            matchers: Vec::new(),
            hints: None,
        };
        let mut reader = Reader::new(bytes);
        while let Some(tag) = reader.tag()? {
            match tag.field {
                1 => query.range.min = integer(tag, &mut reader)?,
                2 => query.range.max = integer(tag, &mut reader)?,
                3 => {
                    tag.expect(wire::BYTES)?;
                    let matcher = LabelMatcher::read(reader.bytes()?)?;
                    if query.matchers.len() == MATCHERS_MAX {
                        return Err(too_many(tag, MATCHERS_MAX));
                    }
                    query.matchers.push(matcher);
                }
                4 => {
                    tag.expect(wire::BYTES)?;
                    query.hints = Some(Hints::read(reader.bytes()?)?);
                }
                _ => reader.skip(tag)?,
            }
        }
        Ok(query)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_integer(&mut out, 1, self.range.min as u64);
        put_integer(&mut out, 2, self.range.max as u64);
        for matcher in &self.matchers {
            let mut message = Vec::new();
            put_integer(&mut message, 1, op_number(matcher.op));
            put_bytes(&mut message, 2, matcher.name.as_bytes());
            put_bytes(&mut message, 3, matcher.value.as_bytes());
            put_bytes(&mut out, 3, &message);
        }
        if let Some(hints) = &self.hints {
            put_bytes(&mut out, 4, &hints.encode());
        }
        out
    }
}

impl LabelMatcher {
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut matcher = Self {
            op: MatchOp::Equal,
            name: String::new(),
            value: String::new(),
        };
        let mut reader = Reader::new(bytes);
        while let Some(tag) = reader.tag()? {
            match tag.field {
                1 => {
                    let number = integer(tag, &mut reader)?;
                    matcher.op = op_of(number).ok_or(Fault::Enum {
                        field: tag.field,
                        number,
                    })?;
                }
                2 => matcher.name = text(tag, &mut reader)?,
                3 => matcher.value = text(tag, &mut reader)?,
                _ => reader.skip(tag)?,
            }
        }
        Ok(matcher)
    }
}

const OPS: [MatchOp; 4] = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];

fn op_of(number: i64) -> Option<MatchOp> {
    OPS.get(usize::try_from(number).ok()?).copied()
}

fn op_number(op: MatchOp) -> u64 {
    OPS.iter().position(|known| *known == op).unwrap_or(0) as u64
}

impl Hints {
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut hints = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some(tag) = reader.tag()? {
            match tag.field {
                1 => hints.step_ms = integer(tag, &mut reader)?,
                2 => hints.function = text(tag, &mut reader)?,
                3 => hints.start_ms = integer(tag, &mut reader)?,
                4 => hints.end_ms = integer(tag, &mut reader)?,
                5 => {
                    let label = text(tag, &mut reader)?;
                    if hints.grouping.len() == MATCHERS_MAX {
                        return Err(too_many(tag, MATCHERS_MAX));
                    }
                    hints.grouping.push(label);
                }
                6 => hints.by = integer(tag, &mut reader)? != 0,
                7 => hints.range_ms = integer(tag, &mut reader)?,
                _ => reader.skip(tag)?,
            }
        }
        Ok(hints)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_integer(&mut out, 1, self.step_ms as u64);
        put_bytes(&mut out, 2, self.function.as_bytes());
        put_integer(&mut out, 3, self.start_ms as u64);
        put_integer(&mut out, 4, self.end_ms as u64);
        for label in &self.grouping {
            put_bytes(&mut out, 5, label.as_bytes());
        }
        put_integer(&mut out, 6, u64::from(self.by));
        put_integer(&mut out, 7, self.range_ms as u64);
        out
    }
}

fn too_many(tag: Tag, max: usize) -> Fault {
    Fault::TooMany { field: tag.field, max }
}

fn integer(tag: Tag, reader: &mut Reader<'_>) -> Result<i64, Fault> {
    tag.expect(wire::VARINT)?;
    Ok(reader.varint()? as i64)
}

fn text(tag: Tag, reader: &mut Reader<'_>) -> Result<String, Fault> {
    tag.expect(wire::BYTES)?;
    match std::str::from_utf8(reader.bytes()?) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Fault::Utf8 { field: tag.field }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> ReadRequest {
        let matcher = |op, name: &str, value: &str| LabelMatcher {
            op,
            name: name.into(),
            value: value.into(),
        };
        ReadRequest {
            queries: vec![
                Query {
                    range: TimeRange::new(-5, 1_700_000_000_000),
                    matchers: vec![
                        matcher(MatchOp::Equal, "__name__", "up"),
                        matcher(MatchOp::NotRegex, "job", "a|b"),
                    ],
                    hints: Some(Hints {
                        step_ms: 15_000,
                        function: "rate".into(),
                        start_ms: -5,
                        end_ms: 7,
                        grouping: vec!["job".into(), "é".into()],
                        by: true,
                        range_ms: 300_000,
                    }),
                },
                Query {
                    range: TimeRange::new(0, 0),
                    matchers: Vec::new(),
                    hints: None,
                },
            ],
            accepted: vec![1, 0],
        }
    }

    #[test]
    fn a_request_comes_back() {
        assert_eq!(ReadRequest::decode(&request().encode()), Ok(request()));
        assert_eq!(ReadRequest::decode(&[]), Ok(ReadRequest::default()));
    }

    #[test]
    fn the_first_form_that_is_known_is_taken() {
        let cases: [(&[u64], Option<ResponseType>); 6] = [
            (&[], Some(ResponseType::Samples)),
            (&[0], Some(ResponseType::Samples)),
            (&[1], Some(ResponseType::StreamedChunks)),
            (&[1, 0], Some(ResponseType::StreamedChunks)),
            (&[9, 0, 1], Some(ResponseType::Samples)),
            (&[9], None),
        ];
        for (accepted, expected) in cases {
            let request = ReadRequest {
                accepted: accepted.to_vec(),
                ..ReadRequest::default()
            };
            assert_eq!(request.response_type(), expected, "{accepted:?}");
        }
        // The same list, one number at a time.
        assert_eq!(ReadRequest::decode(&[0x10, 1, 0x10, 0]).unwrap().accepted, [1, 0]);
    }

    #[test]
    fn matchers_of_no_known_kind_and_names_that_are_no_text_are_refused() {
        let unknown = [0x0a, 0x04, 0x1a, 0x02, 0x08, 0x04];
        let error = ReadRequest::decode(&unknown).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid protobuf in ReadRequest: field 1 has the unknown value 4"
        );
        let broken = [0x0a, 0x05, 0x1a, 0x03, 0x12, 0x01, 0xff];
        let error = ReadRequest::decode(&broken).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid protobuf in ReadRequest: field 2 is no valid UTF-8"
        );
    }

    #[test]
    fn floods_of_queries_and_matchers_are_refused() {
        let many = [0x0a, 0x00].repeat(QUERIES_MAX + 1);
        assert!(ReadRequest::decode(&many).is_err());
        let mut query = Vec::new();
        put_bytes(&mut query, 1, &[0x1a, 0x00].repeat(MATCHERS_MAX + 1));
        assert!(ReadRequest::decode(&query).is_err());
        assert!(
            ReadRequest::decode(&[0x10, 0x02].repeat(100_000))
                .unwrap()
                .accepted
                .len()
                <= 16
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = ReadRequest::decode(&bytes);
        }

        #[test]
        fn a_damaged_request_is_read_without_panic(at in 0usize..200, byte: u8) {
            let mut bytes = request().encode();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = ReadRequest::decode(&bytes);
        }
    }
}
