//! Selectors and what may stand behind them: ranges, subqueries, `offset`, `@`, `anchored`, `smoothed`.

use super::{Node, Parsed, Parser};
use crate::ast::{At, BinaryOp, Expr, Extension, MatrixSelector, Shift, Span, Subquery, VectorSelector};
use crate::format::{float_f, quote};
use crate::lex::{Keyword, Kind, Token};
use model::label::METRIC_NAME;
use model::matcher::{MatchOp, Matcher};

const AFTER_SELECTORS: &str =
    "modifier must be preceded by an instant vector selector or range vector selector or a subquery";

impl Parser<'_> {
    /// Whether the next token begins a selector.
    pub(super) fn at_selector(&self) -> bool {
        match self.kind() {
            Kind::LeftBrace | Kind::Identifier | Kind::MetricIdentifier | Kind::Aggregate(_) => true,
            Kind::Op(op) => op.is_set(),
            Kind::Keyword(keyword) => !matches!(
                keyword,
                Keyword::Bool | Keyword::On | Keyword::Ignoring | Keyword::GroupLeft | Keyword::GroupRight
            ),
            _ => false,
        }
    }

    /// A selector that is all of the text; names that mean something elsewhere need no care here.
    pub(super) fn lone_selector(&mut self) -> Parsed<VectorSelector> {
        if self.at_selector() {
            self.selector()
        } else {
            Err(self.unexpected("", ""))
        }
    }

    /// `name`, `name{…}` or `{…}`.
    pub(super) fn selector(&mut self) -> Parsed<VectorSelector> {
        let start = self.token().span.start;
        let name = match self.kind() {
            Kind::LeftBrace => None,
            _ => {
                let token = self.advance();
                Some(self.text_of(token.span).to_owned())
            }
        };
        let mut matchers = Vec::new();
        if self.accept(Kind::LeftBrace).is_some() {
            self.matchers(&mut matchers)?;
        }
        if let Some(name) = &name {
            matchers.push(Matcher::equal(METRIC_NAME, name));
        }
        let span = self.span_from(start);
        Ok(VectorSelector {
            span,
            name,
            matchers,
            shift: Shift::default(),
            extension: None,
        })
    }

    fn matchers(&mut self, matchers: &mut Vec<Matcher>) -> Parsed<()> {
        while self.accept(Kind::RightBrace).is_none() {
            matchers.push(self.matcher()?);
            if self.accept(Kind::Comma).is_none() && self.kind() != Kind::RightBrace {
                return Err(self.unexpected("label matching", "\",\" or \"}\""));
            }
        }
        Ok(())
    }

    /// `name="value"`, `"name"="value"`, or `"metric name"`.
    fn matcher(&mut self) -> Parsed<Matcher> {
        let label = self.token();
        let name = match label.kind {
            Kind::Identifier => self.text_of(label.span).to_owned(),
            Kind::String => self.utf8_string(label)?,
            _ => return Err(self.unexpected("label matching", "identifier or \"}\"")),
        };
        self.advance();
        let op = match self.kind() {
            Kind::Assign => MatchOp::Equal,
            Kind::Op(BinaryOp::NotEqual) => MatchOp::NotEqual,
            Kind::EqualRegex => MatchOp::Regex,
            Kind::NotEqualRegex => MatchOp::NotRegex,
            _ if label.kind == Kind::String => return Ok(Matcher::equal(METRIC_NAME, &name)),
            _ => return Err(self.unexpected("label matching", "label matching operator")),
        };
        self.advance();
        let Some(value) = self.accept(Kind::String) else {
            return Err(self.unexpected("label matching", "string"));
        };
        self.make_matcher(op, label, &name, value)
    }

    fn make_matcher(&self, op: MatchOp, label: Token, name: &str, value: Token) -> Parsed<Matcher> {
        let span = label.span.to(value.span);
        if name.is_empty() {
            return Err(self.error(span, format!("invalid label name {}", quote(name))));
        }
        let value = self.utf8_string(value)?;
        Matcher::new(op, name, &value).map_err(|error| self.error(span, error.to_string()))
    }

    /// Name and value of each label of a lone series, the metric name included.
    pub(super) fn label_set(&mut self) -> Parsed<Vec<(String, String)>> {
        let mut pairs = Vec::new();
        if !self.at_selector() {
            return Err(self.unexpected("", ""));
        }
        if self.kind() != Kind::LeftBrace {
            let name = self.advance();
            pairs.push((METRIC_NAME.to_owned(), self.text_of(name.span).to_owned()));
        }
        if self.accept(Kind::LeftBrace).is_none() {
            return Ok(pairs);
        }
        while self.accept(Kind::RightBrace).is_none() {
            pairs.push(self.label_pair()?);
            if self.accept(Kind::Comma).is_none() && self.kind() != Kind::RightBrace {
                return Err(self.unexpected("label set", "\",\" or \"}\""));
            }
        }
        Ok(pairs)
    }

    /// `name="value"`, `"name"="value"`, or `"metric name"`.
    fn label_pair(&mut self) -> Parsed<(String, String)> {
        let label = self.token();
        let name = match label.kind {
            Kind::Identifier => self.text_of(label.span).to_owned(),
            Kind::String => self.utf8_string(label)?,
            _ => return Err(self.unexpected("label set", "identifier or \"}\"")),
        };
        self.advance();
        if self.accept(Kind::Assign).is_none() {
            return match label.kind {
                Kind::String => Ok((METRIC_NAME.to_owned(), name)),
                _ => Err(self.unexpected("label set", "\"=\"")),
            };
        }
        let Some(value) = self.accept(Kind::String) else {
            return Err(self.unexpected("label set", "string"));
        };
        Ok((name, self.utf8_string(value)?))
    }

    /// Whether a range, a subquery, or a modifier follows.
    pub(super) fn at_modifier(&self) -> bool {
        matches!(
            self.kind(),
            Kind::LeftBracket | Kind::At | Kind::Keyword(Keyword::Offset | Keyword::Anchored | Keyword::Smoothed)
        )
    }

    pub(super) fn modifier(&mut self, node: Node) -> Parsed<Node> {
        let token = self.advance();
        match token.kind {
            Kind::LeftBracket => self.brackets(node, token),
            Kind::At => self.at(node),
            Kind::Keyword(Keyword::Offset) => self.offset(node),
            Kind::Keyword(Keyword::Anchored) => self.extension(node, Extension::Anchored),
            _ => self.extension(node, Extension::Smoothed),
        }
    }

    /// `[5m]`, `[1h:]` or `[1h:5m]`, behind its opening bracket.
    fn brackets(&mut self, node: Node, open: Token) -> Parsed<Node> {
        let range = self.positive_duration("subquery or range selector", "number, duration, step(), or range()")?;
        if let Some(close) = self.accept(Kind::RightBracket) {
            return self.matrix(node, range, open.span.to(close.span));
        }
        if self.accept(Kind::Colon).is_none() {
            return Err(self.unexpected("subquery or range", "\":\" or \"]\""));
        }
        let step = match self.kind() {
            Kind::RightBracket => None,
            _ => {
                let expected = "number, duration, step(), range(), or \"]\"";
                Some(self.positive_duration("subquery selector", expected)?)
            }
        };
        if self.accept(Kind::RightBracket).is_none() {
            return Err(self.unexpected("subquery selector", "\"]\""));
        }
        let span = self.span_from(node.expr.span().start);
        let height = self.height_above(node.height, span)?;
        let subquery = Subquery {
            span,
            expr: node.expr,
            range,
            step,
            shift: Shift::default(),
        };
        Ok(Node {
            expr: Expr::Subquery(Box::new(subquery)),
            height,
        })
    }

    fn matrix(&self, node: Node, range: crate::ast::DurationExpr, brackets: Span) -> Parsed<Node> {
        let Expr::Vector(selector) = node.expr else {
            return Err(self.error(brackets, "ranges only allowed for vector selectors"));
        };
        if selector.shift.offset.is_some() {
            return Err(self.error(brackets, "no offset modifiers allowed before range"));
        }
        if selector.shift.at.is_some() {
            return Err(self.error(brackets, "no @ modifiers allowed before range"));
        }
        let span = selector.span.to(brackets);
        let matrix = MatrixSelector {
            span,
            selector: *selector,
            range,
        };
        Ok(Node {
            expr: Expr::Matrix(Box::new(matrix)),
            height: node.height,
        })
    }

    fn offset(&mut self, mut node: Node) -> Parsed<Node> {
        let offset = self.offset_duration()?;
        let span = node.expr.span();
        let Some(shift) = shift_mut(&mut node.expr) else {
            return Err(self.error(span, format!("offset {AFTER_SELECTORS}")));
        };
        if shift.offset.is_some() {
            return Err(self.error(span, "offset may not be set multiple times"));
        }
        shift.offset = Some(offset);
        self.extend_span(&mut node.expr);
        Ok(node)
    }

    fn at(&mut self, mut node: Node) -> Parsed<Node> {
        let span = node.expr.span();
        let at = self.at_time(span)?;
        let Some(shift) = shift_mut(&mut node.expr) else {
            return Err(self.error(span, format!("@ {AFTER_SELECTORS}")));
        };
        if shift.at.is_some() {
            return Err(self.error(span, "@ <timestamp> may not be set multiple times"));
        }
        shift.at = Some(at);
        self.extend_span(&mut node.expr);
        Ok(node)
    }

    fn at_time(&mut self, selector: Span) -> Parsed<At> {
        for (keyword, at) in [(Keyword::Start, At::Start), (Keyword::End, At::End)] {
            if self.at_keyword(keyword) {
                self.advance();
                for paren in [Kind::LeftParen, Kind::RightParen] {
                    if self.accept(paren).is_none() {
                        return Err(self.unexpected("@", "timestamp"));
                    }
                }
                return Ok(at);
            }
        }
        let negative = self.kind() == Kind::Op(BinaryOp::Sub);
        if negative || self.kind() == Kind::Op(BinaryOp::Add) {
            self.advance();
        }
        if !matches!(self.kind(), Kind::Number | Kind::Duration) {
            return Err(self.unexpected("@", "timestamp"));
        }
        let number = self.number()?;
        let seconds = if negative { -number.value } else { number.value };
        if seconds.is_nan() || seconds >= i64::MAX as f64 || seconds <= i64::MIN as f64 {
            let shown = if seconds.is_finite() {
                format!("{seconds:.6}")
            } else {
                float_f(seconds)
            };
            return Err(self.error(selector, format!("timestamp out of bounds for @ modifier: {shown}")));
        }
        Ok(At::Time((seconds * 1000.0).round() as i64))
    }

    fn extension(&mut self, mut node: Node, extension: Extension) -> Parsed<Node> {
        let span = node.expr.span();
        let word = extension.as_str();
        if !self.options.extended_range_selectors {
            return Err(self.error(span, format!("{word} modifier is experimental and not enabled")));
        }
        let place = match &mut node.expr {
            Expr::Vector(selector) => &mut selector.extension,
            Expr::Matrix(matrix) => &mut matrix.selector.extension,
            Expr::Subquery(_) => {
                return Err(self.error(span, format!("{word} modifier is not supported for subqueries")));
            }
            _ => return Err(self.error(span, format!("{word} modifier not implemented"))),
        };
        if place.is_some_and(|other| other != extension) {
            return Err(self.error(span, "anchored and smoothed modifiers cannot be used together"));
        }
        *place = Some(extension);
        self.extend_span(&mut node.expr);
        Ok(node)
    }

    /// Lets a selector end where its last modifier does.
    fn extend_span(&self, expr: &mut Expr) {
        let span = match expr {
            Expr::Vector(selector) => &mut selector.span,
            Expr::Matrix(matrix) => &mut matrix.span,
            Expr::Subquery(subquery) => &mut subquery.span,
            _ => return,
        };
        *span = self.span_from(span.start);
    }
}

/// The place of the modifiers of an expression that takes them.
fn shift_mut(expr: &mut Expr) -> Option<&mut Shift> {
    match expr {
        Expr::Vector(selector) => Some(&mut selector.shift),
        Expr::Matrix(matrix) => Some(&mut matrix.selector.shift),
        Expr::Subquery(subquery) => Some(&mut subquery.shift),
        _ => None,
    }
}
