//! The lexer: from the text of a query to tokens.
//!
//! The language has three moods: ordinary text, inside braces (where every word is a label name) and inside brackets (where
//! words are durations or their functions). The mood follows from the text alone, so all tokens are made at once and
//! the parser looks ahead freely. What cannot be a token becomes [`Kind::Error`], always the last token, so that the
//! parser meets it exactly when it would have read on.

mod number;
mod text;

pub(crate) use number::{parse_duration, parse_number, scan_number_or_duration};
pub(crate) use text::unquote;

use crate::ast::{AggregateOp, BinaryOp, Span};
use crate::format::{quote, quote_char};

/// A piece of the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

/// What a piece of the query is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Behind the last piece.
    Eof,
    /// Text that is no token; the reason is in [`Tokens::error`].
    Error,
    Comma,
    Colon,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    /// `@`
    At,
    /// `=`, a label matcher.
    Assign,
    /// `=~`
    EqualRegex,
    /// `!~`
    NotEqualRegex,
    /// A binary operator, `!=` between labels included.
    Op(BinaryOp),
    Aggregate(AggregateOp),
    Keyword(Keyword),
    Number,
    Duration,
    String,
    Identifier,
    /// A word with a colon, which can only name a metric.
    MetricIdentifier,
}

/// A word with a meaning of its own, in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyword {
    Anchored,
    Bool,
    By,
    Fill,
    FillLeft,
    FillRight,
    GroupLeft,
    GroupRight,
    Ignoring,
    Offset,
    On,
    Smoothed,
    Without,
    /// The next four may be functions, or stand for parts of the query's time.
    Start,
    End,
    Step,
    Range,
}

/// All tokens of a query.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// Ends with [`Kind::Eof`] or [`Kind::Error`].
    pub(crate) tokens: Vec<Token>,
    /// Why the last token is [`Kind::Error`].
    pub(crate) error: String,
}

/// Splits a query into tokens. The text must be shorter than 4 GiB.
pub(crate) fn tokenize(text: &str) -> Tokens {
    let mut lexer = Lexer {
        text,
        position: 0,
        start: 0,
        tokens: Vec::new(),
        parens: 0,
        mood: Mood::Plain,
    };
    let error = match lexer.run() {
        Ok(()) => {
            lexer.emit(Kind::Eof);
            String::new()
        }
        Err(reason) => {
            let end = lexer.text.len();
            lexer.tokens.push(Token {
                kind: Kind::Error,
                span: Span::new(lexer.start, end),
            });
            reason
        }
    };
    Tokens {
        tokens: lexer.tokens,
        error,
    }
}

/// What kind of text the lexer is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Plain,
    Braces,
    Brackets { seen_duration: bool, seen_colon: bool },
}

struct Lexer<'a> {
    text: &'a str,
    /// Next byte to read.
    position: usize,
    /// First byte of the token that is being read.
    start: usize,
    tokens: Vec<Token>,
    /// Parentheses that are open.
    parens: usize,
    mood: Mood,
}

type Step = Result<(), String>;

impl Lexer<'_> {
    fn run(&mut self) -> Step {
        loop {
            self.skip_blank();
            let Some(c) = self.advance() else {
                return self.end_of_input();
            };
            match self.mood {
                Mood::Plain => self.plain(c)?,
                Mood::Braces => self.inside_braces(c)?,
                Mood::Brackets {
                    seen_duration,
                    seen_colon,
                } => self.inside_brackets(c, seen_duration, seen_colon)?,
            }
        }
    }

    fn end_of_input(&self) -> Step {
        Err(match self.mood {
            Mood::Braces => "unexpected end of input inside braces",
            Mood::Brackets { .. } => "unexpected end of input in duration expression",
            Mood::Plain if self.parens > 0 => "unclosed left parenthesis",
            Mood::Plain => return Ok(()),
        }
        .to_owned())
    }

    fn plain(&mut self, c: char) -> Step {
        let kind = match c {
            ',' => Kind::Comma,
            '*' => Kind::Op(BinaryOp::Mul),
            '/' => Kind::Op(BinaryOp::Div),
            '%' => Kind::Op(BinaryOp::Mod),
            '+' => Kind::Op(BinaryOp::Add),
            '-' => Kind::Op(BinaryOp::Sub),
            '^' => Kind::Op(BinaryOp::Pow),
            '@' => Kind::At,
            '=' if self.accept('=') => Kind::Op(BinaryOp::Equal),
            '=' if self.peek() == Some('~') => return Err("unexpected character after '=': '~'".to_owned()),
            '=' => Kind::Assign,
            '!' if self.accept('=') => Kind::Op(BinaryOp::NotEqual),
            '!' => return Err(format!("unexpected character after '!': {}", self.quote_next())),
            '<' if self.accept('=') => Kind::Op(BinaryOp::LessEqual),
            '<' if self.accept('/') => Kind::Op(BinaryOp::TrimUpper),
            '<' => Kind::Op(BinaryOp::Less),
            '>' if self.accept('=') => Kind::Op(BinaryOp::GreaterEqual),
            '>' if self.accept('/') => Kind::Op(BinaryOp::TrimLower),
            '>' => Kind::Op(BinaryOp::Greater),
            '(' => Kind::LeftParen,
            ')' => Kind::RightParen,
            '{' => Kind::LeftBrace,
            '[' => Kind::LeftBracket,
            ']' => return Err("unexpected right bracket ']'".to_owned()),
            '"' | '\'' | '`' => return self.string(c),
            _ if c.is_ascii_digit() || (c == '.' && self.peek().is_some_and(|next| next.is_ascii_digit())) => {
                return self.number_or_duration();
            }
            _ if is_alpha(c) || c == ':' => return self.word(),
            _ => return Err(format!("unexpected character: {}", quote_char(c))),
        };
        self.bracket_or_operator(kind)
    }

    /// Emits a token, and keeps the books of open brackets.
    fn bracket_or_operator(&mut self, kind: Kind) -> Step {
        if kind == Kind::RightParen && self.parens == 0 {
            // Prometheus points behind the parenthesis.
            self.start = self.position;
            return Err("unexpected right parenthesis ')'".to_owned());
        }
        self.emit(kind);
        match kind {
            Kind::LeftParen => self.parens += 1,
            Kind::RightParen => self.parens -= 1,
            Kind::LeftBrace => self.mood = Mood::Braces,
            Kind::LeftBracket => {
                self.mood = Mood::Brackets {
                    seen_duration: false,
                    seen_colon: false,
                }
            }
            Kind::RightBrace | Kind::RightBracket => self.mood = Mood::Plain,
            _ => {}
        }
        Ok(())
    }

    fn inside_braces(&mut self, c: char) -> Step {
        let kind = match c {
            ',' => Kind::Comma,
            '=' if self.accept('~') => Kind::EqualRegex,
            '=' => Kind::Assign,
            '!' if self.accept('~') => Kind::NotEqualRegex,
            '!' if self.accept('=') => Kind::Op(BinaryOp::NotEqual),
            '!' => {
                return Err(format!(
                    "unexpected character after '!' inside braces: {}",
                    self.quote_next()
                ));
            }
            '}' => Kind::RightBrace,
            '{' => return Err("unexpected left brace '{'".to_owned()),
            '"' | '\'' | '`' => return self.string(c),
            _ if is_alpha(c) => {
                self.accept_while(is_alphanumeric);
                Kind::Identifier
            }
            _ => return Err(format!("unexpected character inside braces: {}", quote_char(c))),
        };
        self.bracket_or_operator(kind)
    }

    fn inside_brackets(&mut self, c: char, seen_duration: bool, seen_colon: bool) -> Step {
        let kind = match c {
            ']' => Kind::RightBracket,
            '(' => Kind::LeftParen,
            ')' => Kind::RightParen,
            ',' => Kind::Comma,
            '+' => Kind::Op(BinaryOp::Add),
            '-' => Kind::Op(BinaryOp::Sub),
            '*' => Kind::Op(BinaryOp::Mul),
            '/' => Kind::Op(BinaryOp::Div),
            '%' => Kind::Op(BinaryOp::Mod),
            '^' => Kind::Op(BinaryOp::Pow),
            ':' if !seen_duration => {
                return Err("unexpected colon before duration in duration expression".to_owned());
            }
            ':' if seen_colon => return Err("unexpected repeated colon in duration expression".to_owned()),
            ':' => {
                self.mood = Mood::Brackets {
                    seen_duration,
                    seen_colon: true,
                };
                Kind::Colon
            }
            '[' => return Err("unexpected left bracket '['".to_owned()),
            _ if c.is_ascii_digit() || (c == '.' && self.peek().is_some_and(|next| next.is_ascii_digit())) => {
                self.mood = Mood::Brackets {
                    seen_duration: true,
                    seen_colon,
                };
                return self.number_or_duration();
            }
            _ if is_alpha(c) => return self.duration_word(c, seen_colon),
            _ => {
                return Err(format!(
                    "unexpected character in duration expression: {}",
                    quote_char(c)
                ));
            }
        };
        self.bracket_or_operator(kind)
    }

    /// A word inside brackets: the name of one of the few functions that durations know.
    fn duration_word(&mut self, first: char, seen_colon: bool) -> Step {
        self.accept_while(is_alphanumeric);
        let kind = match self.text[self.start..self.position].to_ascii_lowercase().as_str() {
            "step" => Kind::Keyword(Keyword::Step),
            "range" => Kind::Keyword(Keyword::Range),
            "min_of" | "max_of" => Kind::Identifier,
            _ => {
                return Err(format!(
                    "unexpected character in duration expression: {}",
                    quote_char(first)
                ));
            }
        };
        self.mood = Mood::Brackets {
            seen_duration: true,
            seen_colon,
        };
        self.emit(kind);
        Ok(())
    }

    fn word(&mut self) -> Step {
        self.accept_while(|c| is_alphanumeric(c) || c == ':');
        let word = &self.text[self.start..self.position];
        let kind = word_kind(&word.to_ascii_lowercase()).unwrap_or(match word.contains(':') {
            true => Kind::MetricIdentifier,
            false => Kind::Identifier,
        });
        self.emit(kind);
        Ok(())
    }

    fn number_or_duration(&mut self) -> Step {
        let (length, kind) = scan_number_or_duration(&self.text[self.start..], false);
        self.position = self.start + length;
        let Some(is_duration) = kind else {
            let bad = quote(&self.text[self.start..self.position]);
            return Err(format!("bad number or duration syntax: {bad}"));
        };
        self.emit(if is_duration { Kind::Duration } else { Kind::Number });
        Ok(())
    }

    fn string(&mut self, open: char) -> Step {
        let length = text::scan_string(&self.text[self.position..], open)?;
        self.position += length;
        self.emit(Kind::String);
        Ok(())
    }

    fn emit(&mut self, kind: Kind) {
        self.tokens.push(Token {
            kind,
            span: Span::new(self.start, self.position),
        });
        self.start = self.position;
    }

    fn skip_blank(&mut self) {
        loop {
            self.accept_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
            if self.peek() != Some('#') {
                break;
            }
            self.accept_while(|c| c != '\n' && c != '\r');
        }
        self.start = self.position;
    }

    fn quote_next(&self) -> String {
        // Go's lexer stands on -1 at the end and prints that as the replacement character.
        quote_char(self.peek().unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn peek(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn advance(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.position += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.position += wanted.len_utf8();
        }
        found
    }

    fn accept_while(&mut self, wanted: impl Fn(char) -> bool) {
        let rest = &self.text[self.position..];
        self.position += rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    }
}

/// The meaning of a word that has one, in lower case.
fn word_kind(word: &str) -> Option<Kind> {
    let keyword = match word {
        "and" => return Some(Kind::Op(BinaryOp::And)),
        "or" => return Some(Kind::Op(BinaryOp::Or)),
        "unless" => return Some(Kind::Op(BinaryOp::Unless)),
        "atan2" => return Some(Kind::Op(BinaryOp::Atan2)),
        "nan" | "inf" => return Some(Kind::Number),
        "anchored" => Keyword::Anchored,
        "bool" => Keyword::Bool,
        "by" => Keyword::By,
        "fill" => Keyword::Fill,
        "fill_left" => Keyword::FillLeft,
        "fill_right" => Keyword::FillRight,
        "group_left" => Keyword::GroupLeft,
        "group_right" => Keyword::GroupRight,
        "ignoring" => Keyword::Ignoring,
        "offset" => Keyword::Offset,
        "on" => Keyword::On,
        "smoothed" => Keyword::Smoothed,
        "without" => Keyword::Without,
        "start" => Keyword::Start,
        "end" => Keyword::End,
        "step" => Keyword::Step,
        "range" => Keyword::Range,
        _ => {
            return AggregateOp::ALL
                .into_iter()
                .find(|op| op.as_str() == word)
                .map(Kind::Aggregate);
        }
    };
    Some(Kind::Keyword(keyword))
}

pub(crate) fn is_alpha(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

pub(crate) fn is_alphanumeric(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// How error texts name a token: `identifier "foo"`, `<op:+>`, `end of input`.
pub(crate) fn describe(kind: Kind, text: &str) -> String {
    let what = match kind {
        Kind::Eof => return "end of input".to_owned(),
        Kind::Op(_) | Kind::At | Kind::EqualRegex | Kind::NotEqualRegex => return format!("<op:{text}>"),
        Kind::Aggregate(_) => return format!("<aggr:{text}>"),
        Kind::Keyword(Keyword::Start | Keyword::End | Keyword::Step | Keyword::Range) => return quote(text),
        Kind::Keyword(_) => return format!("<{text}>"),
        Kind::Comma
        | Kind::Colon
        | Kind::LeftParen
        | Kind::RightParen
        | Kind::LeftBrace
        | Kind::RightBrace
        | Kind::LeftBracket
        | Kind::RightBracket
        | Kind::Assign => return quote(text),
        Kind::Error => "error",
        Kind::Identifier => return format!("identifier {}", quote(text)),
        Kind::MetricIdentifier => return format!("metric identifier {}", quote(text)),
        Kind::Number => "number",
        Kind::Duration => "duration",
        Kind::String => "string",
    };
    // Long texts are cut after ten characters.
    match text.char_indices().nth(10) {
        Some((end, _)) if text.len() > 10 => format!("{what} {}...", quote(&text[..end])),
        _ => format!("{what} {}", quote(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(Kind, &str)]) {
        let tokens = tokenize(text);
        let found: Vec<_> = tokens
            .tokens
            .iter()
            .map(|token| (token.kind, &text[token.span.start as usize..token.span.end as usize]))
            .collect();
        assert_eq!(found, expected, "{text} {}", tokens.error);
    }

    #[test]
    fn words_mean_different_things_in_different_places() {
        check(
            "sum BY(by{by=\"x\"}[5m])",
            &[
                (Kind::Aggregate(AggregateOp::Sum), "sum"),
                (Kind::Keyword(Keyword::By), "BY"),
                (Kind::LeftParen, "("),
                (Kind::Keyword(Keyword::By), "by"),
                (Kind::LeftBrace, "{"),
                (Kind::Identifier, "by"),
                (Kind::Assign, "="),
                (Kind::String, "\"x\""),
                (Kind::RightBrace, "}"),
                (Kind::LeftBracket, "["),
                (Kind::Duration, "5m"),
                (Kind::RightBracket, "]"),
                (Kind::RightParen, ")"),
                (Kind::Eof, ""),
            ],
        );
    }

    #[test]
    fn comments_and_colons() {
        check(
            "a:b # not this\n[1h:STEP()]",
            &[
                (Kind::MetricIdentifier, "a:b"),
                (Kind::LeftBracket, "["),
                (Kind::Duration, "1h"),
                (Kind::Colon, ":"),
                (Kind::Keyword(Keyword::Step), "STEP"),
                (Kind::LeftParen, "("),
                (Kind::RightParen, ")"),
                (Kind::RightBracket, "]"),
                (Kind::Eof, ""),
            ],
        );
    }

    #[test]
    fn what_is_no_token_says_why() {
        for (text, reason) in [
            ("1 !~ 1", "unexpected character after '!': '~'"),
            ("(1", "unclosed left parenthesis"),
            ("foo{", "unexpected end of input inside braces"),
            ("foo{1}", "unexpected character inside braces: '1'"),
            ("2.5.", "bad number or duration syntax: \"2.5.\""),
            ("100..4", "bad number or duration syntax: \"100..\""),
            ("0deadbeef", "bad number or duration syntax: \"0de\""),
            ("foo[5mm]", "bad number or duration syntax: \"5mm\""),
            ("foo[5m:1m:1m]", "unexpected repeated colon in duration expression"),
            ("\"abc", "unterminated quoted string"),
            ("`abc", "unterminated raw string"),
            ("\"\\q\"", "unknown escape sequence U+0071 'q'"),
        ] {
            let tokens = tokenize(text);
            assert_eq!(tokens.error, reason, "{text}");
            assert_eq!(tokens.tokens.last().unwrap().kind, Kind::Error);
        }
    }
}
