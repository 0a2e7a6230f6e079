//! Durations of ranges, offsets and subquery steps: literals, and arithmetic over them.

use super::{Parsed, Parser};
use crate::ast::{BinaryOp, DurationExpr, DurationKind, DurationOp, Number, SECONDS_MAX, Span};
use crate::lex::{Keyword, Kind};

/// Operators that one duration may hold. Its tree is at most as high.
const OPERATORS_MAX: usize = 128;

/// Binding power of `^`, and of a sign, which binds like `*`.
const POWER: u8 = BinaryOp::Pow.precedence();

/// What went wrong: an error of its own, or a token that the construct around the duration complains about.
pub(super) enum DurationFault {
    Unexpected,
    Error(super::ParseError),
}

impl From<super::ParseError> for DurationFault {
    fn from(error: super::ParseError) -> Self {
        DurationFault::Error(error)
    }
}

type Duration = Result<DurationExpr, DurationFault>;

impl Parser<'_> {
    /// A range or step, which must be positive. `construct` and `expected` word the error when there is no duration.
    pub(super) fn positive_duration(&mut self, construct: &str, expected: &str) -> Parsed<DurationExpr> {
        let parsed = self.duration(0, &mut 0);
        let duration = self.settle(parsed, construct, expected)?;
        if let DurationKind::Number(number) = &duration.kind
            && (number.value <= 0.0 || number.value.is_nan())
        {
            return Err(self.error(number.span, "duration must be greater than 0"));
        }
        self.check_duration(&duration)?;
        Ok(duration)
    }

    /// An offset: one term, so that `x offset 1m + 2` adds to `x`.
    pub(super) fn offset_duration(&mut self) -> Parsed<DurationExpr> {
        let parsed = self.offset_term();
        let duration = self.settle(parsed, "offset", "number, duration, step(), or range()")?;
        self.check_duration(&duration)?;
        Ok(duration)
    }

    fn settle(&self, parsed: Duration, construct: &str, expected: &str) -> Parsed<DurationExpr> {
        let mut duration = parsed.map_err(|fault| match fault {
            DurationFault::Unexpected => self.unexpected(construct, expected),
            DurationFault::Error(error) => error,
        })?;
        // Parentheses around all of a literal say nothing.
        if matches!(duration.kind, DurationKind::Number(_)) {
            duration.parens = false;
        }
        Ok(duration)
    }

    fn check_duration(&self, duration: &DurationExpr) -> Parsed<()> {
        match &duration.kind {
            DurationKind::Number(number) if number.value.is_nan() || number.value.abs() > SECONDS_MAX => {
                Err(self.error(number.span, "duration out of range"))
            }
            DurationKind::Number(_) => Ok(()),
            _ if self.options.duration_expressions => Ok(()),
            _ => Err(self.error(duration.span, "experimental duration expression is not enabled")),
        }
    }

    fn offset_term(&mut self) -> Duration {
        let start = self.token().span;
        let mut operators = 0;
        let negative = match self.kind() {
            Kind::Op(BinaryOp::Sub) => Some(true),
            Kind::Op(BinaryOp::Add) => Some(false),
            _ => None,
        };
        let Some(negative) = negative else {
            return self.duration_term(&mut operators);
        };
        self.advance();
        let operand = self.duration_term(&mut operators)?;
        Ok(signed(negative, operand, start))
    }

    fn duration(&mut self, minimum: u8, operators: &mut usize) -> Duration {
        let mut left = self.duration_unary(operators)?;
        while let Some((op, precedence)) = duration_op(self.kind()).filter(|(_, precedence)| *precedence >= minimum) {
            let op_span = self.advance().span;
            *operators += 1;
            if *operators > OPERATORS_MAX {
                return Err(self
                    .error(op_span, format!("duration has more than {OPERATORS_MAX} operators"))
                    .into());
            }
            let tighter = if precedence == POWER {
                precedence
            } else {
                precedence + 1
            };
            let right = self.duration(tighter, operators)?;
            if let (DurationKind::Number(number), Some(message)) = (&right.kind, zero_message(op))
                && number.value == 0.0
            {
                return Err(self.error(op_span, message).into());
            }
            let span = left.span.to(right.span);
            let kind = DurationKind::Binary(op, Box::new(left), Box::new(right));
            left = DurationExpr {
                span,
                kind,
                parens: false,
            };
        }
        Ok(left)
    }

    fn duration_unary(&mut self, operators: &mut usize) -> Duration {
        let negative = match self.kind() {
            Kind::Op(BinaryOp::Sub) => true,
            Kind::Op(BinaryOp::Add) => false,
            _ => return self.duration_term(operators),
        };
        let sign = self.advance();
        *operators += 1;
        if *operators > OPERATORS_MAX {
            return Err(self
                .error(sign.span, format!("duration has more than {OPERATORS_MAX} operators"))
                .into());
        }
        let operand = self.duration(POWER, operators)?;
        Ok(signed(negative, operand, sign.span))
    }

    fn duration_term(&mut self, operators: &mut usize) -> Duration {
        let token = self.token();
        match token.kind {
            Kind::Number | Kind::Duration => Ok(DurationExpr::number(self.number()?)),
            Kind::LeftParen => self.duration_parens(operators),
            Kind::Keyword(Keyword::Step) => self.duration_time(DurationKind::Step),
            Kind::Keyword(Keyword::Range) => self.duration_time(DurationKind::Range),
            Kind::Identifier => {
                let name = self.text_of(token.span).to_ascii_lowercase();
                match name.as_str() {
                    "min_of" => self.duration_pair(DurationKind::MinOf, operators),
                    "max_of" => self.duration_pair(DurationKind::MaxOf, operators),
                    _ => Err(DurationFault::Unexpected),
                }
            }
            _ => Err(DurationFault::Unexpected),
        }
    }

    fn duration_parens(&mut self, operators: &mut usize) -> Duration {
        *operators += 1;
        let open = self.advance().span;
        if *operators > OPERATORS_MAX {
            return Err(self
                .error(open, format!("duration has more than {OPERATORS_MAX} operators"))
                .into());
        }
        let mut inner = self.duration(0, operators)?;
        self.duration_token(Kind::RightParen)?;
        // Only a negative literal needs its parentheses, as in `(-5m)^2`.
        inner.parens = match &inner.kind {
            DurationKind::Number(number) => number.value.is_sign_negative(),
            _ => true,
        };
        Ok(inner)
    }

    fn duration_time(&mut self, kind: DurationKind) -> Duration {
        let start = self.advance().span.start;
        self.duration_token(Kind::LeftParen)?;
        self.duration_token(Kind::RightParen)?;
        Ok(DurationExpr {
            span: self.span_from(start),
            kind,
            parens: false,
        })
    }

    fn duration_pair(
        &mut self,
        make: fn(Box<DurationExpr>, Box<DurationExpr>) -> DurationKind,
        operators: &mut usize,
    ) -> Duration {
        let start = self.advance().span;
        *operators += 1;
        if *operators > OPERATORS_MAX {
            return Err(self
                .error(start, format!("duration has more than {OPERATORS_MAX} operators"))
                .into());
        }
        self.duration_token(Kind::LeftParen)?;
        let left = self.duration(0, operators)?;
        self.duration_token(Kind::Comma)?;
        let right = self.duration(0, operators)?;
        self.duration_token(Kind::RightParen)?;
        let kind = make(Box::new(left), Box::new(right));
        Ok(DurationExpr {
            span: self.span_from(start.start),
            kind,
            parens: false,
        })
    }

    fn duration_token(&mut self, kind: Kind) -> Result<(), DurationFault> {
        self.accept(kind).map(|_| ()).ok_or(DurationFault::Unexpected)
    }
}

/// A sign folds into a literal, and vanishes when it is `+`.
fn signed(negative: bool, operand: DurationExpr, sign: Span) -> DurationExpr {
    let span = sign.to(operand.span);
    match operand.kind {
        DurationKind::Number(number) if !operand.parens => {
            let value = if negative { -number.value } else { number.value };
            DurationExpr::number(Number { span, value, ..number })
        }
        _ => DurationExpr {
            span,
            kind: DurationKind::Sign(negative, Box::new(operand)),
            parens: false,
        },
    }
}

fn duration_op(kind: Kind) -> Option<(DurationOp, u8)> {
    let Kind::Op(op) = kind else { return None };
    let duration_op = match op {
        BinaryOp::Add => DurationOp::Add,
        BinaryOp::Sub => DurationOp::Sub,
        BinaryOp::Mul => DurationOp::Mul,
        BinaryOp::Div => DurationOp::Div,
        BinaryOp::Mod => DurationOp::Mod,
        BinaryOp::Pow => DurationOp::Pow,
        _ => return None,
    };
    Some((duration_op, op.precedence()))
}

fn zero_message(op: DurationOp) -> Option<&'static str> {
    match op {
        DurationOp::Div => Some("division by zero"),
        DurationOp::Mod => Some("modulo by zero"),
        DurationOp::Add | DurationOp::Sub | DurationOp::Mul | DurationOp::Pow => None,
    }
}
