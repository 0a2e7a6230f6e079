//! Strings: how far they reach and what they mean.
//!
//! Escapes may produce bytes that are not UTF-8, so a meaning is bytes first.

use crate::format::is_printable;

/// How many bytes a string takes behind its opening quote, the closing one included.
pub(super) fn scan_string(rest: &str, open: char) -> Result<usize, String> {
    if open == '`' {
        return rest
            .find('`')
            .map(|end| end + 1)
            .ok_or_else(|| "unterminated raw string".to_owned());
    }
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == open => return Ok(at + 1),
            '\n' => break,
            '\\' => {
                let (_, length) = escape(&rest[at + 1..], open)?;
                while chars.as_str().len() > rest.len() - at - 1 - length {
                    chars.next();
                }
            }
            _ => {}
        }
    }
    Err("unterminated quoted string".to_owned())
}

/// What an escape stands for.
enum Escaped {
    Byte(u8),
    Char(char),
}

/// The meaning of the escape behind a backslash, and the bytes it takes.
fn escape(rest: &str, open: char) -> Result<(Escaped, usize), String> {
    let not_terminated = || "escape sequence not terminated".to_owned();
    let c = rest.chars().next().ok_or_else(not_terminated)?;
    let simple = match c {
        'a' => Some(7),
        'b' => Some(8),
        'f' => Some(12),
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        'v' => Some(11),
        '\\' => Some(b'\\'),
        _ if c == open => Some(open as u8),
        _ => None,
    };
    if let Some(byte) = simple {
        return Ok((Escaped::Byte(byte), 1));
    }
    let (skip, digits, base, maximum) = match c {
        '0'..='7' => (0, 3, 8, 255),
        'x' => (1, 2, 16, 255),
        'u' => (1, 4, 16, char::MAX as u32),
        'U' => (1, 8, 16, char::MAX as u32),
        _ => return Err(format!("unknown escape sequence {}", name_char(c))),
    };
    let mut value: u32 = 0;
    let mut chars = rest[skip..].chars();
    for _ in 0..digits {
        let c = chars.next().ok_or_else(not_terminated)?;
        let digit = c
            .to_digit(base)
            .ok_or_else(|| format!("illegal character {} in escape sequence", name_char(c)))?;
        value = value.wrapping_mul(base).wrapping_add(digit);
    }
    let invalid = || "escape sequence is an invalid Unicode code point".to_owned();
    if value > maximum {
        return Err(invalid());
    }
    let escaped = match maximum {
        255 => Escaped::Byte(value as u8),
        _ => Escaped::Char(char::from_u32(value).ok_or_else(invalid)?),
    };
    Ok((escaped, skip + digits))
}

/// `U+0071 'q'`, as Go's `%#U` writes a character.
fn name_char(c: char) -> String {
    if is_printable(c) {
        format!("U+{:04X} '{c}'", c as u32)
    } else {
        format!("U+{:04X}", c as u32)
    }
}

/// The meaning of a string token with its quotes, which the lexer has found valid.
pub(crate) fn unquote(token: &str) -> Result<Vec<u8>, String> {
    let mut chars = token.chars();
    let open = chars.next().unwrap_or('"');
    let inner = chars
        .as_str()
        .strip_suffix(open)
        .ok_or_else(|| "invalid syntax".to_owned())?;
    if open == '`' {
        return Ok(inner.replace('\r', "").into_bytes());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let (escaped, length) = escape(&rest[at + 1..], open)?;
        match escaped {
            Escaped::Byte(byte) => bytes.push(byte),
            Escaped::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = &rest[at + 1 + length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::quote;

    #[track_caller]
    fn check(token: &str, expected: &[u8]) {
        let length = scan_string(&token[1..], token.chars().next().unwrap()).unwrap();
        assert_eq!(length, token.len() - 1, "{token} ends elsewhere");
        assert_eq!(unquote(token).unwrap(), expected, "{token}");
    }

    #[test]
    fn escapes_mean_what_they_mean_in_go() {
        check(r#""a\n\t\\\"b""#, b"a\n\t\\\"b");
        check(r"'it\'s'", b"it's");
        check("`raw \\n \"`", b"raw \\n \"");
        check(r#""\x41\101\u00e9\U0001F600""#, "AA\u{e9}\u{1F600}".as_bytes());
        check(r#""a\xc5z""#, b"a\xc5z");
    }

    #[test]
    fn broken_escapes_are_errors() {
        for (rest, reason) in [
            (r#"\'""#, "unknown escape sequence U+0027 '''"),
            (r#"\xg1""#, "illegal character U+0067 'g' in escape sequence"),
            (r#"\400""#, "escape sequence is an invalid Unicode code point"),
            (r#"\ud800""#, "escape sequence is an invalid Unicode code point"),
            (r"\x1", "escape sequence not terminated"),
        ] {
            assert_eq!(scan_string(rest, '"'), Err(reason.to_owned()), "{rest}");
        }
    }

    #[test]
    fn quoting_is_read_back() {
        for text in [
            "",
            "plain",
            "q\"uo\\te",
            "line\nbreak\ttab\x07\x00\x7f",
            "é 日本 \u{301}\u{200b}\u{1F600}",
            "it's",
        ] {
            assert_eq!(unquote(&quote(text)).unwrap(), text.as_bytes(), "{text:?}");
        }
    }
}
