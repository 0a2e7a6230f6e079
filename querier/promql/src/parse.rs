//! The parser: from the text of a query to a checked tree.
//!
//! Operators are parsed by precedence climbing, everything else by recursive descent over the tokens of [`crate::lex`].
//! [`parse`] promises a tree that is well typed, no higher than [`DEPTH_MAX`], and spans that lie in the text; any text at
//! all gives a tree or an error, never a panic. Errors read as those of Prometheus do.

mod binary;
mod check;
mod duration;
mod expr;
mod selector;

use crate::ast::{DEPTH_MAX, Expr, ParserOptions, Span};
use crate::lex::{Keyword, Kind, Token, describe, tokenize, unquote};
use model::label::Labels;
use model::matcher::Matcher;
use std::fmt;

/// Longest query in bytes. Generated queries of some hundred kilobytes exist; beyond a mebibyte something is wrong.
pub const QUERY_BYTES_MAX: usize = 1 << 20;

/// Why a text is no query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Which part of the text is wrong.
    pub span: Span,
    /// What is wrong with it.
    pub message: String,
    /// `line:col` of the part.
    pub position: String,
}

/// `1:5: parse error: unexpected end of input`
impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: parse error: {}", self.position, self.message)
    }
}

impl std::error::Error for ParseError {}

/// Parses and checks a query.
pub fn parse(text: &str, options: ParserOptions) -> Result<Expr, ParseError> {
    let mut expr = with_parser(text, options, |parser| {
        if parser.kind() == Kind::Eof {
            return Err(parser.error(Span::default(), "no expression found in input"));
        }
        let node = parser.expr(0)?;
        parser.end_of_input()?;
        Ok(node.expr)
    })?;
    check::check(&mut expr, text)?;
    Ok(expr)
}

/// Parses a lone selector such as the `match[]` of the HTTP API, and gives its matchers. Whether they may all match the
/// empty string is for the caller to decide.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    with_parser(text, ParserOptions::default(), |parser| {
        let selector = parser.lone_selector()?;
        parser.end_of_input()?;
        Ok(selector.matchers)
    })
}

/// Parses a lone series, such as `up{job="x"}`, and gives its labels.
pub fn parse_metric(text: &str) -> Result<Labels, ParseError> {
    with_parser(text, ParserOptions::default(), |parser| {
        let start = parser.token().span;
        let pairs = parser.label_set()?;
        parser.end_of_input()?;
        Labels::new(pairs).map_err(|error| parser.error(start, error.to_string()))
    })
}

fn with_parser<T>(
    text: &str,
    options: ParserOptions,
    work: impl FnOnce(&mut Parser) -> Result<T, ParseError>,
) -> Result<T, ParseError> {
    if text.len() > QUERY_BYTES_MAX {
        let message = format!("query has {} bytes, at most {QUERY_BYTES_MAX} are allowed", text.len());
        return Err(error_at(text, Span::default(), message));
    }
    let tokens = tokenize(text);
    let mut parser = Parser {
        text,
        tokens: &tokens.tokens,
        lex_error: &tokens.error,
        next: 0,
        options,
        depth: 0,
        aggregations: 0,
    };
    work(&mut parser)
}

fn error_at(text: &str, span: Span, message: impl Into<String>) -> ParseError {
    ParseError {
        span,
        message: message.into(),
        position: span.position(text),
    }
}

/// An expression and how high its tree is.
struct Node {
    expr: Expr,
    height: usize,
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token],
    lex_error: &'a str,
    /// Index of the token to look at.
    next: usize,
    options: ParserOptions,
    /// How deep the calls are nested.
    depth: usize,
    /// How many aggregations are being parsed; errors inside name them.
    aggregations: usize,
}

type Parsed<T> = Result<T, ParseError>;

impl<'a> Parser<'a> {
    fn token(&self) -> Token {
        self.peek(0)
    }

    /// The token `ahead` of the next one; the last one again beyond the end.
    fn peek(&self, ahead: usize) -> Token {
        let index = (self.next + ahead).min(self.tokens.len() - 1);
        self.tokens[index]
    }

    fn kind(&self) -> Kind {
        self.token().kind
    }

    fn advance(&mut self) -> Token {
        let token = self.token();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn accept(&mut self, kind: Kind) -> Option<Token> {
        (self.kind() == kind).then(|| self.advance())
    }

    fn at_keyword(&self, keyword: Keyword) -> bool {
        self.kind() == Kind::Keyword(keyword)
    }

    fn text_of(&self, span: Span) -> &'a str {
        &self.text[span.start as usize..span.end as usize]
    }

    /// From `start` to the end of the token that was read last.
    fn span_from(&self, start: u32) -> Span {
        let last = self.tokens[self.next.saturating_sub(1)].span;
        Span {
            start,
            end: last.end.max(start),
        }
    }

    fn error(&self, span: Span, message: impl Into<String>) -> ParseError {
        error_at(self.text, span, message)
    }

    /// The next token cannot stand `in` this construct, where `expected` should. Both may be empty.
    fn unexpected(&self, construct: &str, expected: &str) -> ParseError {
        let token = self.token();
        if token.kind == Kind::Error {
            return self.error(token.span, self.lex_error);
        }
        let mut message = format!("unexpected {}", describe(token.kind, self.text_of(token.span)));
        if !construct.is_empty() {
            message.push_str(" in ");
            message.push_str(construct);
        }
        if !expected.is_empty() {
            message.push_str(", expected ");
            message.push_str(expected);
        }
        self.error(token.span, message)
    }

    /// The same where no construct claims the error but perhaps an aggregation around it.
    fn unexpected_here(&self) -> ParseError {
        self.unexpected(if self.aggregations > 0 { "aggregation" } else { "" }, "")
    }

    fn expect(&mut self, kind: Kind) -> Parsed<Token> {
        self.accept(kind).ok_or_else(|| self.unexpected_here())
    }

    fn end_of_input(&self) -> Parsed<()> {
        if self.kind() == Kind::Eof {
            Ok(())
        } else {
            Err(self.unexpected_here())
        }
    }

    /// Runs `work` one level deeper.
    fn nested<T>(&mut self, work: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEPTH_MAX {
            return Err(self.too_deep(self.token().span));
        }
        self.depth += 1;
        let result = work(self);
        self.depth -= 1;
        result
    }

    /// Counts a level of the tree above children of this height.
    fn height_above(&self, children: usize, span: Span) -> Parsed<usize> {
        if children >= DEPTH_MAX {
            Err(self.too_deep(span))
        } else {
            Ok(children + 1)
        }
    }

    fn too_deep(&self, span: Span) -> ParseError {
        self.error(span, format!("expression is nested deeper than {DEPTH_MAX} levels"))
    }

    /// The meaning of a string token that must be UTF-8.
    fn utf8_string(&self, token: Token) -> Parsed<String> {
        let bytes = self.string_bytes(token)?;
        String::from_utf8(bytes).map_err(|_| self.error(token.span, "string is not valid UTF-8"))
    }

    fn string_bytes(&self, token: Token) -> Parsed<Vec<u8>> {
        unquote(self.text_of(token.span)).map_err(|reason| self.error(token.span, reason))
    }
}

#[cfg(test)]
mod tests;
