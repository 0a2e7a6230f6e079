//! Protobuf by hand: a reader that borrows and checks every length, and the few writers that encoders need.
//!
//! Bytes come from the network, so nothing here panics, and nothing allocates by a length that the bytes claim.
//! Unknown fields are the caller's to [`Reader::skip`]; a known field with another wire type is an error.

use std::fmt;

/// Why bytes are no protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The message ends inside a field.
    Truncated,
    /// A varint is longer than ten bytes or does not fit 64 bits.
    Varint,
    /// A tag with field number 0, a number beyond 2^29 - 1, or an undefined wire type.
    Tag(u64),
    /// A known field came with a wire type that its definition does not allow.
    WireType {
        /// The field's number.
        field: u32,
        /// The wire type found.
        wire: u8,
    },
    /// An enum has a value that its definition does not know.
    Enum {
        /// The field's number.
        field: u32,
        /// The value found.
        number: i64,
    },
    /// A text is no UTF-8.
    Utf8 {
        /// The field's number.
        field: u32,
    },
    /// A field is repeated more often than anybody needs.
    TooMany {
        /// The field's number.
        field: u32,
        /// How often it may be there.
        max: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Truncated => f.write_str("a length points beyond the end"),
            Fault::Varint => f.write_str("a varint does not fit 64 bits"),
            Fault::Tag(tag) => write!(f, "{tag} is no field tag"),
            Fault::WireType { field, wire } => write!(f, "field {field} has wire type {wire}"),
            Fault::Enum { field, number } => write!(f, "field {field} has the unknown value {number}"),
            Fault::Utf8 { field } => write!(f, "field {field} is no valid UTF-8"),
            Fault::TooMany { field, max } => write!(f, "field {field} is there more than {max} times"),
        }
    }
}

/// A [`Fault`] with the message that it was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid protobuf in {message}: {fault}")]
pub struct WireError {
    /// Name of the message in its definition.
    pub message: &'static str,
    /// What is wrong with it.
    pub fault: Fault,
}

impl Fault {
    /// The error that says in which message the fault lies.
    pub fn within(self, message: &'static str) -> WireError {
        WireError { message, fault: self }
    }
}

/// The low three bits of a tag.
pub mod wire {
    /// Varint: all integers, booleans, enums.
    pub const VARINT: u8 = 0;
    /// Eight bytes: double, fixed64.
    pub const FIXED64: u8 = 1;
    /// Length, then so many bytes: strings, messages, packed lists.
    pub const BYTES: u8 = 2;
    /// Start of a group, a form of nesting that is not used any more.
    pub const GROUP_START: u8 = 3;
    /// End of a group.
    pub const GROUP_END: u8 = 4;
    /// Four bytes: float, fixed32.
    pub const FIXED32: u8 = 5;
}

/// Number and wire type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The number in the message's definition.
    pub field: u32,
    /// How the value is encoded.
    pub wire: u8,
}

impl Tag {
    /// The fault of a known field with this wire type.
    pub fn wrong_wire_type(self) -> Fault {
        Fault::WireType {
            field: self.field,
            wire: self.wire,
        }
    }

    /// Errs unless the field is encoded as `wire`.
    #[inline]
    pub fn expect(self, wire: u8) -> Result<(), Fault> {
        if self.wire == wire {
            Ok(())
        } else {
            Err(self.wrong_wire_type())
        }
    }
}

/// Reads the fields of one message, front to back.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of a message's bytes.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not read yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next tag, `None` at the end of the message.
    #[inline]
    pub fn tag(&mut self) -> Result<Option<Tag>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = (tag & 7) as u8;
        let field = tag >> 3;
        if field == 0 || field >= 1 << 29 || wire > wire::FIXED32 {
            return Err(Fault::Tag(tag));
        }
        Ok(Some(Tag {
            field: field as u32,
            wire,
        }))
    }

    /// A varint of up to 64 bits.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, Fault> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            // Lengths of series and symbol numbers mostly have two bytes.
            [low, high, rest @ ..] if *high < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*low & 0x7f) | u64::from(*high) << 7)
            }
            _ => self.long_varint(),
        }
    }

    /// Varints of up to eight bytes, all at once.
    fn long_varint(&mut self) -> Result<u64, Fault> {
        if let Some((head, _)) = self.rest.split_first_chunk::<8>() {
            let word = u64::from_le_bytes(*head);
            let ends = !word & CONTINUATION_BITS;
            if ends != 0 {
                let bytes = (ends.trailing_zeros() / 8 + 1) as usize;
                self.rest = &self.rest[bytes..];
                return Ok(closed_up(word & (ends ^ (ends - 1))));
            }
        }
        self.slow_varint()
    }

    #[cold]
    fn slow_varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            if index == 9 && *byte > 1 {
                return Err(Fault::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 {
            Fault::Truncated
        } else {
            Fault::Varint
        })
    }

    /// A length and so many bytes.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.varint()?;
        match usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len))
        {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(Fault::Truncated),
        }
    }

    /// A double.
    #[inline]
    pub fn double(&mut self) -> Result<f64, Fault> {
        let (head, rest) = self.rest.split_first_chunk::<8>().ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(f64::from_le_bytes(*head))
    }

    /// Passes over the value of a field that is not known.
    pub fn skip(&mut self, tag: Tag) -> Result<(), Fault> {
        let mut open_groups = 0usize;
        let mut wire = tag.wire;
        loop {
            match wire {
                wire::VARINT => drop(self.varint()?),
                wire::FIXED64 => self.advance(8)?,
                wire::BYTES => drop(self.bytes()?),
                wire::FIXED32 => self.advance(4)?,
                wire::GROUP_START => open_groups += 1,
                _ if open_groups == 0 => return Err(tag.wrong_wire_type()),
                _ => open_groups -= 1,
            }
            if open_groups == 0 {
                return Ok(());
            }
            wire = self.tag()?.ok_or(Fault::Truncated)?.wire;
        }
    }

    fn advance(&mut self, len: usize) -> Result<(), Fault> {
        self.rest = self.rest.get(len..).ok_or(Fault::Truncated)?;
        Ok(())
    }
}

/// The top bit of each byte: set in all bytes of a varint but the last.
const CONTINUATION_BITS: u64 = 0x8080_8080_8080_8080;

/// The value of a varint whose bytes stand in `word`, lowest first, with zeros behind them.
#[inline]
fn closed_up(word: u64) -> u64 {
    let word = word & !CONTINUATION_BITS;
    let word = (word & 0x007f_007f_007f_007f) | ((word & 0x7f00_7f00_7f00_7f00) >> 1);
    let word = (word & 0x0000_3fff_0000_3fff) | ((word & 0x3fff_0000_3fff_0000) >> 2);
    (word & 0x0fff_ffff) | ((word & 0x0fff_ffff_0000_0000) >> 4)
}

/// The varint in the last `len` bytes of `bytes`, when it fills them. For the last field of a message, where the bytes
/// before it can be read along; `None` when the reader has to look closer.
#[inline]
pub fn last_varint(bytes: &[u8], len: usize) -> Option<u64> {
    let tail = u64::from_le_bytes(*bytes.last_chunk::<8>()?);
    if len == 0 || len > 8 {
        return None;
    }
    let word = tail >> (64 - 8 * len);
    let last = 0x80u64 << (8 * (len - 1));
    // Every byte but the last goes on, and the last ends it.
    (word & CONTINUATION_BITS & (last | (last - 1)) == CONTINUATION_BITS & (last - 1)).then(|| closed_up(word))
}

/// Zigzag: small numbers of both signs become small varints.
#[inline]
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The inverse of [`unzigzag`].
#[inline]
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a tag.
pub fn put_tag(out: &mut Vec<u8>, field: u32, wire: u8) {
    put_varint(out, u64::from(field) << 3 | u64::from(wire));
}

/// Appends a string, a message or a packed list.
pub fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_tag(out, field, wire::BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends an integer field, even when it is 0.
pub fn put_integer(out: &mut Vec<u8>, field: u32, value: u64) {
    put_tag(out, field, wire::VARINT);
    put_varint(out, value);
}

/// Appends a double field, even when it is 0.
pub fn put_double(out: &mut Vec<u8>, field: u32, value: f64) {
    put_tag(out, field, wire::FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a packed list of doubles; nothing when it is empty.
pub fn put_doubles(out: &mut Vec<u8>, field: u32, values: &[f64]) {
    if values.is_empty() {
        return;
    }
    put_tag(out, field, wire::BYTES);
    put_varint(out, values.len() as u64 * 8);
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_come_back(values in prop::collection::vec((any::<u64>(), 0u32..64), 0..40)) {
            let values: Vec<u64> = values.into_iter().map(|(value, shift)| value >> shift).collect();
            let mut bytes = Vec::new();
            values.iter().for_each(|value| put_varint(&mut bytes, *value));
            let mut reader = Reader::new(&bytes);
            for value in values {
                prop_assert_eq!(reader.varint(), Ok(value));
            }
            prop_assert!(reader.rest().is_empty());
        }

        #[test]
        fn the_last_varint_is_read_from_the_end(before in prop::collection::vec(any::<u8>(), 8..12), value: u64, shift in 0u32..64) {
            let mut bytes = before.clone();
            put_varint(&mut bytes, value >> shift);
            let len = bytes.len() - before.len();
            let expected = (len <= 8).then_some(value >> shift);
            prop_assert_eq!(last_varint(&bytes, len), expected);
            // One byte too few or too many is not the whole varint.
            prop_assert_eq!(last_varint(&bytes, len + 1).is_some(), len < 8 && before.last().unwrap() >= &0x80);
        }

        #[test]
        fn zigzag_comes_back(value in any::<i64>()) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while let Ok(Some(tag)) = reader.tag() {
                if reader.skip(tag).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn varints_too_long_or_cut_are_errors() {
        let check = |bytes: &[u8], expected| assert_eq!(Reader::new(bytes).varint(), expected, "{bytes:x?}");
        check(&[], Err(Fault::Truncated));
        check(&[0x80], Err(Fault::Truncated));
        check(&[0x80; 9], Err(Fault::Truncated));
        check(&[0xff; 10], Err(Fault::Varint));
        check(&[0xff; 12], Err(Fault::Varint));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Ok(u64::MAX));
        check(
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            Err(Fault::Varint),
        );
        check(&[0x80, 0x80, 0x00], Ok(0));
    }

    #[test]
    fn groups_of_unknown_fields_are_passed_over_whole() {
        // Field 9 starts a group that holds a varint and another group.
        let bytes = [0x4b, 0x08, 0x01, 0x53, 0x10, 0x02, 0x54, 0x4c, 0x08, 0x07];
        let mut reader = Reader::new(&bytes);
        let tag = reader.tag().unwrap().unwrap();
        reader.skip(tag).unwrap();
        assert_eq!(reader.rest(), [0x08, 0x07]);
        assert!(Reader::new(&[0x4b, 0x08]).tag().is_ok());
        let mut cut = Reader::new(&bytes[..4]);
        let tag = cut.tag().unwrap().unwrap();
        assert_eq!(cut.skip(tag), Err(Fault::Truncated));
    }
}
