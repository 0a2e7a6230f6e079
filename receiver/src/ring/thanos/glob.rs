//! Shell patterns as Go's path matcher reads them, since Thanos matches tenants by it.
//!
//! `*` and `?` stand for anything but `/`, `[a-c]` and `[^a]` for one character, `\` takes the next one literally. The whole name must
//! match. After a `*` the shortest stretch that lets the part up to the next `*` match is taken and never reconsidered; and text that is
//! no UTF-8 when looked at from its middle counts byte by byte. Both are peculiar, and both decide who matches.

/// A pattern that was read and found in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    parts: Vec<Part>,
}

/// A stretch of the pattern up to the next star.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Whether a star stands before it.
    star: bool,
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Literal(char),
    AnyButSlash,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// The pattern is malformed: an open class, a class that begins with `]` or `-`, or a `\` at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadPattern;

impl Glob {
    pub(super) fn new(pattern: &str) -> Result<Self, BadPattern> {
        let mut parts = vec![Part {
            star: false,
            items: Vec::new(),
        }];
        let mut rest = pattern.chars().peekable();
        while let Some(character) = rest.next() {
            let item = match character {
                '*' => {
                    parts.push(Part {
                        star: true,
                        items: Vec::new(),
                    });
                    while rest.next_if_eq(&'*').is_some() {}
                    continue;
                }
                '?' => Item::AnyButSlash,
                '[' => class(&mut rest)?,
                '\\' => Item::Literal(rest.next().ok_or(BadPattern)?),
                literal => Item::Literal(literal),
            };
            if let Some(part) = parts.last_mut() {
                part.items.push(item);
            }
        }
        Ok(Self { parts })
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        let mut rest = name.as_bytes();
        for (index, part) in self.parts.iter().enumerate() {
            let last = index + 1 == self.parts.len();
            if part.star && part.items.is_empty() {
                return !rest.contains(&b'/');
            }
            match part.find(rest, last) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        rest.is_empty()
    }
}

impl Part {
    /// What is left behind the first place where the part matches; the last part must leave nothing.
    fn find<'a>(&self, name: &'a [u8], last: bool) -> Option<&'a [u8]> {
        let furthest = if self.star {
            name.iter().position(|&byte| byte == b'/').unwrap_or(name.len())
        } else {
            0
        };
        let mut places = (0..=furthest).filter_map(|skipped| self.matches_at(&name[skipped..]));
        places.find(|behind| !last || behind.is_empty())
    }

    fn matches_at<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let mut rest = name;
        for item in &self.items {
            let (character, width) = decode(rest)?;
            let fits = match item {
                Item::Literal(literal) => character == *literal && width == literal.len_utf8(),
                Item::AnyButSlash => character != '/',
                Item::Class { negated, ranges } => {
                    ranges.iter().any(|(low, high)| (low..=high).contains(&&character)) != *negated
                }
            };
            if !fits {
                return None;
            }
            rest = &rest[width..];
        }
        Some(rest)
    }
}

/// The first character and its width; a byte that begins none counts as U+FFFD.
fn decode(bytes: &[u8]) -> Option<(char, usize)> {
    let chunk = bytes.utf8_chunks().next()?;
    Some(
        chunk
            .valid()
            .chars()
            .next()
            .map_or((char::REPLACEMENT_CHARACTER, 1), |first| (first, first.len_utf8())),
    )
}

/// The rest of a class behind its `[`.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Item, BadPattern> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
        let low = class_character(rest)?;
        let high = if rest.next_if_eq(&'-').is_some() {
            class_character(rest)?
        } else {
            low
        };
        ranges.push((low, high));
    }
    Ok(Item::Class { negated, ranges })
}

fn class_character(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, BadPattern> {
    match rest.next() {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => rest.next().ok_or(BadPattern),
        Some(character) => Ok(character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_a_shell_would() {
        for (pattern, matching, other) in [
            (
                "team-*",
                vec!["team-", "team-a", "team-*"],
                vec!["team", "a-team-", "team-a/b"],
            ),
            ("prod-?", vec!["prod-1", "prod-é"], vec!["prod-", "prod-12", "prod-/"]),
            ("[a-c]x", vec!["ax", "cx"], vec!["dx", "x", "-x"]),
            ("[^a]", vec!["b", "/", "日"], vec!["a", "", "bb"]),
            ("[!a]", vec!["a", "!"], vec!["b"]),
            ("*/b", vec!["a/b", "/b"], vec!["b", "a/b/b"]),
            (r"lit\*", vec!["lit*"], vec!["litx", r"lit\*"]),
            ("a*b*c", vec!["abc", "axxbyyc", "abcc"], vec!["ab", "acb"]),
            ("", vec![""], vec!["a"]),
            ("[b-a]", vec![], vec!["a", "b"]),
        ] {
            let glob = Glob::new(pattern).unwrap();
            matching
                .iter()
                .for_each(|name| assert!(glob.matches(name), "{pattern} does not match {name:?}"));
            other
                .iter()
                .for_each(|name| assert!(!glob.matches(name), "{pattern} matches {name:?}"));
        }
    }

    #[test]
    fn a_star_is_never_reconsidered_and_bytes_count_from_the_middle() {
        assert!(!Glob::new("*[^x]*b").unwrap().matches("a/b"));
        assert!(Glob::new("*??").unwrap().matches("日"));
        assert!(!Glob::new("??").unwrap().matches("日"));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["[", "[a", "[]", "[]a]", "[-a]", "[a-]", "a\\", "[\\", "[^", "x[a-\\"] {
            assert_eq!(Glob::new(pattern), Err(BadPattern), "{pattern}");
        }
    }
}
