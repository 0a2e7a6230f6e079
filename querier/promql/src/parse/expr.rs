//! Expressions: operators by precedence, and what stands between them.

use super::{Node, Parsed, Parser};
use crate::ast::{Aggregate, AggregateOp, BinaryOp, Call, Expr, Function, Number, Paren, Span, StringLiteral, Unary};
use crate::format::quote;
use crate::lex::{Keyword, Kind, Token, parse_duration, parse_number};

/// A sign binds like `*`, so its operand may only hold what binds tighter.
const UNARY_OPERAND: u8 = BinaryOp::Mul.precedence() + 1;

impl Parser<'_> {
    /// An expression whose operators all bind at least as tightly as `minimum`.
    pub(super) fn expr(&mut self, minimum: u8) -> Parsed<Node> {
        self.nested(|parser| {
            let mut left = parser.unary()?;
            while let Kind::Op(op) = parser.kind() {
                if op.precedence() < minimum {
                    break;
                }
                left = parser.binary(left, op)?;
            }
            Ok(left)
        })
    }

    fn unary(&mut self) -> Parsed<Node> {
        let negative = match self.kind() {
            Kind::Op(BinaryOp::Sub) => true,
            Kind::Op(BinaryOp::Add) => false,
            _ => return self.primary(),
        };
        let sign = self.advance();
        let Node { expr, height } = self.expr(UNARY_OPERAND)?;
        let span = sign.span.to(expr.span());
        if let Expr::Number(number) = expr {
            let value = if negative { -number.value } else { number.value };
            return Ok(Node {
                expr: Expr::Number(Number { span, value, ..number }),
                height,
            });
        }
        let height = self.height_above(height, span)?;
        Ok(Node {
            expr: Expr::Unary(Box::new(Unary { span, negative, expr })),
            height,
        })
    }

    fn primary(&mut self) -> Parsed<Node> {
        let mut node = match self.kind() {
            Kind::Number | Kind::Duration => {
                let number = self.number()?;
                Node {
                    expr: Expr::Number(number),
                    height: 1,
                }
            }
            Kind::String => self.string()?,
            Kind::LeftParen => self.paren()?,
            Kind::Identifier if self.is_call() => self.call()?,
            Kind::Keyword(Keyword::Start | Keyword::End | Keyword::Step | Keyword::Range) if self.is_call() => {
                self.call()?
            }
            Kind::Aggregate(op) if self.is_aggregation() => self.aggregate(op)?,
            _ if self.at_selector() => {
                let selector = self.selector()?;
                Node {
                    expr: Expr::Vector(Box::new(selector)),
                    height: 1,
                }
            }
            _ => return Err(self.unexpected_here()),
        };
        while self.at_modifier() {
            node = self.modifier(node)?;
        }
        Ok(node)
    }

    /// Whether the next token can begin an expression.
    pub(super) fn at_expr(&self) -> bool {
        matches!(
            self.kind(),
            Kind::Number | Kind::Duration | Kind::String | Kind::LeftParen | Kind::Op(BinaryOp::Add | BinaryOp::Sub)
        ) || self.at_selector()
    }

    fn is_call(&self) -> bool {
        self.peek(1).kind == Kind::LeftParen
    }

    /// A number or duration; a duration counts in seconds.
    pub(super) fn number(&mut self) -> Parsed<Number> {
        let token = self.advance();
        let text = self.text_of(token.span);
        let duration = token.kind == Kind::Duration;
        let value = match duration {
            true => parse_duration(text).map(|milliseconds| milliseconds as f64 / 1000.0),
            false => parse_number(text),
        };
        let value = value.map_err(|reason| self.error(token.span, reason))?;
        Ok(Number {
            span: token.span,
            value,
            duration,
        })
    }

    fn string(&mut self) -> Parsed<Node> {
        let token = self.advance();
        let bytes = self.string_bytes(token)?;
        let literal = match String::from_utf8(bytes) {
            Ok(value) => StringLiteral {
                span: token.span,
                value,
                bytes: None,
            },
            Err(error) => StringLiteral {
                span: token.span,
                value: String::from_utf8_lossy(error.as_bytes()).into_owned(),
                bytes: Some(error.into_bytes()),
            },
        };
        Ok(Node {
            expr: Expr::String(literal),
            height: 1,
        })
    }

    fn paren(&mut self) -> Parsed<Node> {
        let open = self.advance();
        let Node { expr, height } = self.expr(0)?;
        let close = self.expect(Kind::RightParen)?;
        let span = open.span.to(close.span);
        let height = self.height_above(height, span)?;
        Ok(Node {
            expr: Expr::Paren(Box::new(Paren { span, expr })),
            height,
        })
    }

    fn call(&mut self) -> Parsed<Node> {
        let name = self.advance();
        let text = self.text_of(name.span);
        let (args, height) = self.args()?;
        let span = self.span_from(name.span.start);
        // The four words that are keywords as well are so in any case.
        let known = match name.kind {
            Kind::Keyword(_) => Function::from_name(&text.to_ascii_lowercase()),
            _ => Function::from_name(text),
        };
        let Some(function) = known else {
            return Err(self.error(name.span, format!("unknown function with name {}", quote(text))));
        };
        if function.signature().experimental && !self.options.experimental_functions {
            return Err(self.error(name.span, format!("function {} is not enabled", quote(text))));
        }
        let height = self.height_above(height, span)?;
        Ok(Node {
            expr: Expr::Call(Box::new(Call { span, function, args })),
            height,
        })
    }

    /// Arguments in parentheses, and the height of the highest.
    fn args(&mut self) -> Parsed<(Vec<Expr>, usize)> {
        self.expect(Kind::LeftParen)?;
        let mut args = Vec::new();
        let mut height = 0;
        if self.accept(Kind::RightParen).is_some() {
            return Ok((args, height));
        }
        loop {
            let node = self.expr(0)?;
            height = height.max(node.height);
            args.push(node.expr);
            let Some(comma) = self.accept(Kind::Comma) else { break };
            // Prometheus blames the comma whatever stands behind it in place of an argument.
            if self.kind() != Kind::Error && !self.at_expr() {
                return Err(self.error(comma.span, "trailing commas not allowed in function call args"));
            }
        }
        self.expect(Kind::RightParen)?;
        Ok((args, height))
    }

    /// Whether the word begins an aggregation; else it is a metric name.
    fn is_aggregation(&self) -> bool {
        matches!(
            self.peek(1).kind,
            Kind::LeftParen | Kind::Keyword(Keyword::By | Keyword::Without)
        )
    }

    fn aggregate(&mut self, op: AggregateOp) -> Parsed<Node> {
        self.aggregations += 1;
        let operator = self.advance();
        let mut grouping = self.aggregate_modifier()?;
        let (args, height) = self.args()?;
        if grouping.is_none() {
            grouping = self.aggregate_modifier()?;
        }
        if self.kind() == Kind::Error {
            return Err(self.unexpected_here());
        }
        self.aggregations -= 1;
        let (without, grouping) = grouping.unwrap_or_default();
        let span = self.span_from(operator.span.start);
        let (param, expr) = self.aggregate_args(op, args, span)?;
        let height = self.height_above(height, span)?;
        let aggregate = Aggregate {
            span,
            op,
            expr,
            param,
            grouping,
            without,
        };
        Ok(Node {
            expr: Expr::Aggregate(Box::new(aggregate)),
            height,
        })
    }

    /// `by (…)` or `without (…)`, if one follows.
    fn aggregate_modifier(&mut self) -> Parsed<Option<(bool, Vec<String>)>> {
        let without = match self.kind() {
            Kind::Keyword(Keyword::By) => false,
            Kind::Keyword(Keyword::Without) => true,
            _ => return Ok(None),
        };
        self.advance();
        Ok(Some((without, self.grouping_labels()?)))
    }

    fn aggregate_args(&self, op: AggregateOp, args: Vec<Expr>, span: Span) -> Parsed<(Option<Expr>, Expr)> {
        let found = args.len();
        if found == 0 {
            return Err(self.error(span, "no arguments for aggregate expression provided"));
        }
        if op.is_experimental() && !self.options.experimental_functions {
            let message = format!(
                "{op}() is experimental and must be enabled with --enable-feature=promql-experimental-functions"
            );
            return Err(self.error(span, message));
        }
        let wanted = if op.takes_param().is_some() { 2 } else { 1 };
        let mut args = args.into_iter();
        match (wanted, found, args.next(), args.next()) {
            (1, 1, Some(expr), _) => Ok((None, expr)),
            (2, 2, Some(param), Some(expr)) => Ok((Some(param), expr)),
            _ => {
                let message = format!(
                    "wrong number of arguments for aggregate expression provided, expected {wanted}, got {found}"
                );
                Err(self.error(span, message))
            }
        }
    }

    /// Labels in parentheses: names, keywords included, or strings.
    pub(super) fn grouping_labels(&mut self) -> Parsed<Vec<String>> {
        if self.accept(Kind::LeftParen).is_none() {
            return Err(self.unexpected("grouping opts", "\"(\""));
        }
        let mut labels = Vec::new();
        while self.accept(Kind::RightParen).is_none() {
            labels.push(self.grouping_label()?);
            if self.accept(Kind::Comma).is_none() && self.kind() != Kind::RightParen {
                return Err(self.unexpected("grouping opts", "\",\" or \")\""));
            }
        }
        Ok(labels)
    }

    fn grouping_label(&mut self) -> Parsed<String> {
        let token: Token = self.token();
        match token.kind {
            Kind::Identifier
            | Kind::Aggregate(_)
            | Kind::Keyword(_)
            | Kind::Op(BinaryOp::And | BinaryOp::Or | BinaryOp::Unless | BinaryOp::Atan2) => {
                self.advance();
                Ok(self.text_of(token.span).to_owned())
            }
            Kind::String => {
                let name = self.utf8_string(token)?;
                if name.is_empty() {
                    return Err(self.error(token.span, format!("invalid label name {}", quote(&name))));
                }
                self.advance();
                Ok(name)
            }
            _ => Err(self.unexpected("grouping opts", "label")),
        }
    }
}
