//! Writes JSON into one buffer: the small part of it that answers need, with numbers as Go prints them.

use super::number::{write_int, write_timestamp, write_value};
use model::{label::Labels, time::Timestamp};

/// A buffer of JSON text. Commas are put by position: a list or object knows from the last byte whether it is still empty.
#[derive(Default)]
pub(crate) struct Json {
    pub(crate) out: Vec<u8>,
}

impl Json {
    /// An empty buffer.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Appends text that is JSON already.
    #[inline]
    pub(crate) fn raw(&mut self, text: &str) -> &mut Self {
        self.out.extend_from_slice(text.as_bytes());
        self
    }

    /// Appends a comma unless an object or list has just begun.
    #[inline]
    pub(crate) fn comma(&mut self) -> &mut Self {
        if !matches!(self.out.last(), None | Some(b'{' | b'[')) {
            self.out.push(b',');
        }
        self
    }

    /// Appends the key of a member, with the comma before it. Keys are ours and need no escaping.
    #[inline]
    pub(crate) fn key(&mut self, key: &str) -> &mut Self {
        self.comma().raw("\"").raw(key).raw("\":")
    }

    /// Appends a member with a text.
    pub(crate) fn text_member(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key).string(value)
    }

    /// Appends a member with an integer.
    pub(crate) fn int_member(&mut self, key: &str, value: i64) -> &mut Self {
        self.key(key).int(value)
    }

    /// Appends a string, quoted and escaped. As Go does by default, what could end a script element is escaped, too, so that an
    /// answer pasted into a page stays text.
    pub(crate) fn string(&mut self, text: &str) -> &mut Self {
        self.escaped(text, |byte| {
            byte < b' ' || matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&')
        })
    }

    /// Appends a string, quoted and with the escapes that JSON demands: labels are written so.
    #[inline]
    pub(crate) fn label_string(&mut self, text: &str) -> &mut Self {
        self.escaped(text, |byte| byte < b' ' || byte == b'"' || byte == b'\\')
    }

    fn escaped(&mut self, text: &str, special: impl Fn(u8) -> bool) -> &mut Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.out.push(b'"');
        let bytes = text.as_bytes();
        let mut plain = 0;
        for (index, &byte) in bytes.iter().enumerate() {
            if !special(byte) {
                continue;
            }
            self.out.extend_from_slice(&bytes[plain..index]);
            plain = index + 1;
            match byte {
                b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
                b'\n' => self.out.extend_from_slice(b"\\n"),
                b'\r' => self.out.extend_from_slice(b"\\r"),
                b'\t' => self.out.extend_from_slice(b"\\t"),
                _ => {
                    self.out.extend_from_slice(b"\\u00");
                    self.out
                        .extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                }
            }
        }
        self.out.extend_from_slice(&bytes[plain..]);
        self.out.push(b'"');
        self
    }

    /// Appends a list of strings.
    pub(crate) fn strings<S: AsRef<str>>(&mut self, items: impl IntoIterator<Item = S>) -> &mut Self {
        self.raw("[");
        for item in items {
            self.comma().string(item.as_ref());
        }
        self.raw("]")
    }

    /// Appends an integer.
    #[inline]
    pub(crate) fn int(&mut self, value: i64) -> &mut Self {
        write_int(&mut self.out, value);
        self
    }

    /// Appends a timestamp as seconds.
    #[inline]
    pub(crate) fn timestamp(&mut self, at: Timestamp) -> &mut Self {
        write_timestamp(&mut self.out, at);
        self
    }

    /// Appends a sample value, which is a number inside a string.
    #[inline]
    pub(crate) fn value(&mut self, value: f64) -> &mut Self {
        self.out.push(b'"');
        write_value(&mut self.out, value);
        self.out.push(b'"');
        self
    }

    /// Appends labels as an object.
    pub(crate) fn labels(&mut self, labels: &Labels) -> &mut Self {
        self.raw("{");
        for (name, value) in labels.iter() {
            self.comma().label_string(name).raw(":").label_string(value);
        }
        self.raw("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_survive_a_round_trip() {
        for text in [
            "",
            "plain",
            "a\"b\\c",
            "line\nfeed\r\t",
            "\u{0}\u{1f}\u{7f}",
            "ünï→😀",
            "</script>",
            "\u{2028}",
        ] {
            let mut json = Json::new();
            json.string(text);
            let read: String = serde_json::from_slice(&json.out).unwrap();
            assert_eq!(read, text);
            let mut json = Json::new();
            json.label_string(text);
            let read: String = serde_json::from_slice(&json.out).unwrap();
            assert_eq!(read, text);
        }
    }

    #[test]
    fn markup_is_escaped_except_in_labels() {
        let mut json = Json::new();
        json.string("a<b>&").raw(" ").label_string("a<b>&");
        assert_eq!(
            String::from_utf8(json.out).unwrap(),
            r#""a\u003cb\u003e\u0026" "a<b>&""#
        );
    }

    #[test]
    fn commas_stand_between_members_only() {
        let mut json = Json::new();
        json.raw("{")
            .text_member("a", "x")
            .int_member("b", -1)
            .key("c")
            .strings(["p", "q"]);
        json.key("d")
            .strings([""; 0])
            .key("e")
            .timestamp(1500)
            .key("f")
            .value(2.5)
            .raw("}");
        let text = String::from_utf8(json.out).unwrap();
        assert_eq!(text, r#"{"a":"x","b":-1,"c":["p","q"],"d":[],"e":1.500,"f":"2.5"}"#);
    }

    #[test]
    fn labels_are_an_object_sorted_by_name() {
        let mut json = Json::new();
        json.labels(&Labels::new([("b", "2"), ("a", "\"1\"")]).unwrap());
        assert_eq!(String::from_utf8(json.out).unwrap(), r#"{"a":"\"1\"","b":"2"}"#);
    }
}
