//! Regular expressions as Go's `regexp` package reads them, written so that the `regex` crate reads them the same.
//!
//! Both descend from RE2 and mostly agree. They differ where a query would silently mean something else or be refused: braces
//! that are no repetition (`/api/{id}`) are literal in Go, `\d`, `\w`, `\s` and `\b` know ASCII only, `\Q…\E` and octal escapes
//! exist, classes have no set operations, and a repetition cannot be repeated. Matchers reach every store through here, so that
//! one expression means one thing everywhere. Errors read as Go's do.

use super::RegexError;

/// Greatest count of a repetition.
const REPEAT_MAX: u32 = 1000;

/// What stands around every pattern: anchors, and a dot that matches newlines. Error texts of Go quote it.
const BEFORE: &str = "^(?s:";
const AFTER: &str = ")$";

/// The pattern, anchored at both ends, for the `regex` crate.
pub(super) fn translate(pattern: &str) -> Result<String, RegexError> {
    // Most patterns are words, dots, stars and bars, and mean the same in both.
    if pattern
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-./: |".contains(&byte))
    {
        return Ok(format!("{BEFORE}{pattern}{AFTER}"));
    }
    let mut translation = Translation {
        pattern,
        position: 0,
        out: String::with_capacity(pattern.len() + 16),
        groups: 0,
        operand: Operand::Missing,
    };
    translation.out.push_str(BEFORE);
    translation.run()?;
    translation.out.push_str(AFTER);
    Ok(translation.out)
}

/// What a repetition would repeat.
#[derive(Clone, Copy)]
enum Operand {
    /// Nothing: the start of the pattern, of a group or of an alternative.
    Missing,
    /// Something.
    Present,
    /// A repetition that begins at this byte and cannot be repeated.
    Repetition(usize),
}

struct Translation<'a> {
    pattern: &'a str,
    /// Next byte to read.
    position: usize,
    out: String,
    /// Open groups; below zero when the pattern closes the one that stands around it.
    groups: i64,
    operand: Operand,
}

type Step<T = ()> = Result<T, RegexError>;

fn error<T>(what: &str, fragment: &str) -> Step<T> {
    Err(RegexError(format!("error parsing regexp: {what}: `{fragment}`")))
}

impl Translation<'_> {
    fn run(&mut self) -> Step {
        while let Some(c) = self.advance() {
            match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                ')' => {
                    self.groups -= 1;
                    if self.groups < -1 {
                        return error("unexpected )", &self.whole());
                    }
                    self.item(")");
                }
                '|' => {
                    self.out.push('|');
                    self.operand = Operand::Missing;
                }
                '*' | '+' | '?' => self.repetition(self.position - 1)?,
                '{' => match self.count() {
                    Some((length, valid)) => self.counted(length, valid)?,
                    None => self.item("\\{"),
                },
                '}' | ']' => self.literal(c),
                _ => {
                    self.out.push(c);
                    self.operand = Operand::Present;
                }
            }
        }
        match self.groups {
            0 => Ok(()),
            1.. => error("missing closing )", &self.whole()),
            _ => error("unexpected )", &self.whole()),
        }
    }

    /// The pattern as Go sees it.
    fn whole(&self) -> String {
        format!("{BEFORE}{}{AFTER}", self.pattern)
    }

    fn rest(&self) -> &str {
        &self.pattern[self.position..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn advance(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.position += c.len_utf8();
        Some(c)
    }

    fn item(&mut self, text: &str) {
        self.out.push_str(text);
        self.operand = Operand::Present;
    }

    fn literal(&mut self, c: char) {
        push_literal(&mut self.out, c);
        self.operand = Operand::Present;
    }

    /// Behind a backslash, outside of classes.
    fn escape(&mut self) -> Step {
        let start = self.position - 1;
        let Some(c) = self.peek() else {
            // Go would let it escape the closing parenthesis around the pattern.
            return error("missing closing )", &self.whole());
        };
        match c {
            'A' | 'z' => {
                self.position += 1;
                self.out.push('\\');
                self.out.push(c);
                self.operand = Operand::Present;
                Ok(())
            }
            'b' | 'B' => {
                self.position += 1;
                self.item(if c == 'b' { ASCII_BOUNDARY } else { ASCII_NO_BOUNDARY });
                Ok(())
            }
            'Q' => {
                self.position += 1;
                let Some(length) = self.rest().find("\\E") else {
                    return error("missing closing )", &self.whole());
                };
                let quoted = self.rest()[..length].to_owned();
                quoted.chars().for_each(|c| self.literal(c));
                self.position += length + 2;
                Ok(())
            }
            _ => {
                if let Some(class) = self.perl_or_unicode_class(start)? {
                    self.item(&class);
                } else {
                    let c = self.escaped_char(start)?;
                    self.literal(c);
                }
                Ok(())
            }
        }
    }

    /// `\d`, `\pN` and their like at the position behind the backslash, as a class that may also stand inside another one.
    fn perl_or_unicode_class(&mut self, start: usize) -> Step<Option<String>> {
        let class = match self.peek() {
            Some('d') => "[0-9]",
            Some('D') => "[^0-9]",
            Some('s') => "[\\t\\n\\f\\r ]",
            Some('S') => "[^\\t\\n\\f\\r ]",
            Some('w') => "[0-9A-Za-z_]",
            Some('W') => "[^0-9A-Za-z_]",
            Some(p @ ('p' | 'P')) => return self.unicode_class(start, p == 'P').map(Some),
            _ => return Ok(None),
        };
        self.position += 1;
        Ok(Some(class.to_owned()))
    }

    /// `\pN`, `\p{Greek}`, `\p{^Greek}`
    fn unicode_class(&mut self, start: usize, mut negative: bool) -> Step<String> {
        self.position += 1;
        let name = match self.advance() {
            Some('{') => {
                let Some(length) = self.rest().find('}') else {
                    return error("invalid character class range", &self.pattern[start..]);
                };
                let name = self.rest()[..length].to_owned();
                self.position += length + 1;
                name
            }
            Some(letter) => letter.to_string(),
            None => return error("invalid character class range", &self.pattern[start..]),
        };
        let bare = name.strip_prefix('^').unwrap_or(&name);
        negative ^= bare.len() != name.len();
        if bare.is_empty() || !bare.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return error("invalid character class range", &self.pattern[start..self.position]);
        }
        let class = format!("\\{}{{{bare}}}", if negative { 'P' } else { 'p' });
        if regex_syntax::parse(&class).is_err() {
            return error("invalid character class range", &self.pattern[start..self.position]);
        }
        Ok(class)
    }

    /// The character that an escape stands for, from behind its backslash.
    fn escaped_char(&mut self, start: usize) -> Step<char> {
        let invalid = |end: usize| {
            error(
                "invalid escape sequence",
                self.pattern.get(start..end).unwrap_or(self.pattern),
            )
        };
        let Some(c) = self.peek() else {
            return error("trailing backslash at end of expression", "");
        };
        let after = self.position + c.len_utf8();
        let digits =
            |text: &str, radix: u32, most: usize| text.chars().take(most).take_while(|c| c.is_digit(radix)).count();
        let (value, end) = match c {
            'a' => (7, after),
            'f' => (12, after),
            'n' => (10, after),
            'r' => (13, after),
            't' => (9, after),
            'v' => (11, after),
            '0'..='7' => {
                let length = digits(self.rest(), 8, 3);
                // One digit alone would refer back to a group.
                if c != '0' && length < 2 {
                    return invalid(after);
                }
                let end = self.position + length;
                (
                    u32::from_str_radix(&self.pattern[self.position..end], 8).unwrap_or(0),
                    end,
                )
            }
            'x' => {
                let (hexadecimal, end) = match self.pattern[after..].strip_prefix('{') {
                    Some(inner) => match inner.find('}') {
                        Some(length) => (&inner[..length], after + length + 2),
                        None => return invalid(self.pattern.len()),
                    },
                    None => {
                        let length = digits(&self.pattern[after..], 16, 2);
                        if length < 2 {
                            return invalid(after);
                        }
                        (&self.pattern[after..after + 2], after + 2)
                    }
                };
                match u32::from_str_radix(hexadecimal, 16) {
                    Ok(value) if !hexadecimal.starts_with('+') => (value, end),
                    _ => return invalid(end),
                }
            }
            _ if c.is_ascii() && !c.is_ascii_alphanumeric() => (c as u32, after),
            _ => return invalid(after),
        };
        match char::from_u32(value) {
            Some(c) => {
                self.position = end;
                Ok(c)
            }
            None => invalid(end),
        }
    }

    /// Behind an opening bracket.
    fn class(&mut self) -> Step {
        let start = self.position - 1;
        self.out.push('[');
        if self.peek() == Some('^') {
            self.position += 1;
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let Some(c) = self.peek() else {
                return error("missing closing ]", &format!("{}{AFTER}", &self.pattern[start..]));
            };
            if c == ']' && !first {
                self.position += 1;
                self.item("]");
                return Ok(());
            }
            first = false;
            if c == '[' && self.rest().starts_with("[:") && self.posix_class()? {
                continue;
            }
            if c == '\\' {
                let backslash = self.position;
                self.position += 1;
                if let Some(class) = self.perl_or_unicode_class(backslash)? {
                    self.out.push_str(&class);
                    continue;
                }
                self.position = backslash;
            }
            self.class_range(start)?;
        }
    }

    /// `[:alpha:]`; whether there was one.
    fn posix_class(&mut self) -> Step<bool> {
        const NAMES: [&str; 14] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper",
            "word", "xdigit",
        ];
        let Some(length) = self.rest()[2..].find(":]") else {
            return Ok(false);
        };
        let name = &self.rest()[2..2 + length];
        let class = self.rest()[..length + 4].to_owned();
        if !NAMES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return error("invalid character class range", &class);
        }
        self.position += class.len();
        self.out.push_str(&class);
        Ok(true)
    }

    /// One character of a class, or a range of them.
    fn class_range(&mut self, class: usize) -> Step {
        let start = self.position;
        let low = self.class_char(class)?;
        push_literal(&mut self.out, low);
        if !self.rest().starts_with('-') || self.rest().starts_with("-]") || self.rest().len() < 2 {
            return Ok(());
        }
        self.position += 1;
        let high = self.class_char(class)?;
        if high < low {
            return error("invalid character class range", &self.pattern[start..self.position]);
        }
        self.out.push('-');
        push_literal(&mut self.out, high);
        Ok(())
    }

    fn class_char(&mut self, class: usize) -> Step<char> {
        let start = self.position;
        match self.advance() {
            Some('\\') => self.escaped_char(start),
            Some(c) => Ok(c),
            None => error("missing closing ]", &format!("{}{AFTER}", &self.pattern[class..])),
        }
    }

    /// Behind an opening parenthesis.
    fn group(&mut self) -> Step {
        let start = self.position - 1;
        self.groups += 1;
        self.operand = Operand::Missing;
        self.out.push('(');
        if !self.rest().starts_with('?') {
            return Ok(());
        }
        for name in ["?P<", "?<"] {
            if self.rest().starts_with(name) {
                return self.named_group(start, name);
            }
        }
        self.position += 1;
        self.out.push('?');
        loop {
            let c = self.advance();
            match c {
                Some(':') => {
                    self.out.push(':');
                    return Ok(());
                }
                // Flags for the rest of the group around them; no group of their own.
                Some(')') => {
                    self.groups -= 1;
                    self.out.push(')');
                    return Ok(());
                }
                Some(flag @ ('i' | 'm' | 's' | 'U' | '-')) => self.out.push(flag),
                Some(_) => {
                    return error(
                        "invalid or unsupported Perl syntax",
                        &self.pattern[start..self.position],
                    );
                }
                None => return error("missing closing )", &self.whole()),
            }
        }
    }

    fn named_group(&mut self, start: usize, opening: &str) -> Step {
        self.position += opening.len();
        let Some(length) = self.rest().find('>') else {
            return error("invalid named capture", &format!("{}{AFTER}", &self.pattern[start..]));
        };
        let name = self.rest()[..length].to_owned();
        self.position += length + 1;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return error("invalid named capture", &self.pattern[start..self.position]);
        }
        self.out.push_str(&format!("?P<{name}>"));
        Ok(())
    }

    /// A repetition whose operator begins at `start` and has been read; a `?` behind it makes it lazy.
    fn repetition(&mut self, start: usize) -> Step {
        let lazy = self.rest().starts_with('?');
        self.position += usize::from(lazy);
        let operator = &self.pattern[start..self.position];
        match self.operand {
            Operand::Missing => return error("missing argument to repetition operator", operator),
            Operand::Repetition(first) => {
                return error(
                    "invalid nested repetition operator",
                    &self.pattern[first..self.position],
                );
            }
            Operand::Present => {}
        }
        self.out.push_str(operator);
        self.operand = Operand::Repetition(start);
        Ok(())
    }

    /// How long the `{n,m}` is whose brace was read, the brace included, and whether its numbers are; nothing when it is literal.
    fn count(&self) -> Option<(usize, bool)> {
        let rest = self.rest();
        let inner = &rest[..rest.find('}')?];
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let padded = text.len() > 1 && text.starts_with('0');
            (plain && !padded).then(|| text.parse().unwrap_or(u32::MAX))
        };
        let (low, high) = match inner.split_once(',') {
            None => (number(inner)?, number(inner)?),
            Some((low, "")) => (number(low)?, number(low)?),
            Some((low, high)) => (number(low)?, number(high)?),
        };
        Some((inner.len() + 2, low <= high && high <= REPEAT_MAX))
    }

    fn counted(&mut self, length: usize, valid: bool) -> Step {
        let start = self.position - 1;
        if !valid {
            return error("invalid repeat count", &self.pattern[start..start + length]);
        }
        self.position = start + length;
        self.repetition(start)
    }
}

/// A word boundary that takes only ASCII letters, digits and `_` for words.
const ASCII_BOUNDARY: &str = "(?-u:\\b)";
/// Its opposite.
const ASCII_NO_BOUNDARY: &str = "(?-u:\\B)";

/// A character that stands for itself, inside and outside of classes.
fn push_literal(out: &mut String, c: char) {
    if regex_syntax::is_meta_character(c) {
        out.push('\\');
    }
    out.push(c);
}

/// What the `regex` crate says against a pattern that this translation found no fault with, in one line.
pub(super) fn reason(error: &regex::Error) -> RegexError {
    let text = error.to_string();
    let last = text.rsplit("error: ").next().unwrap_or(&text);
    RegexError(format!("error parsing regexp: {}", last.trim()))
}
