//! Binary operators: what may stand between the operator and its right operand.

use super::{Node, Parsed, Parser};
use crate::ast::{Binary, BinaryOp, Cardinality, Expr, Matching};
use crate::lex::{Keyword, Kind};

impl Parser<'_> {
    /// The operator that comes next, its modifiers and its right operand.
    pub(super) fn binary(&mut self, left: Node, op: BinaryOp) -> Parsed<Node> {
        let op_span = self.advance().span;
        let return_bool = self.accept(Kind::Keyword(Keyword::Bool)).is_some();
        let mut matching = self.matching()?;
        self.fill(&mut matching)?;
        let tighter = if op.is_right_associative() {
            op.precedence()
        } else {
            op.precedence() + 1
        };
        let right = self.expr(tighter)?;
        let span = left.expr.span().to(right.expr.span());
        let height = self.height_above(left.height.max(right.height), span)?;
        let (left, right) = (left.expr, right.expr);
        let binary = Binary {
            span,
            op,
            op_span,
            left,
            right,
            return_bool,
            matching: Some(matching),
        };
        Ok(Node {
            expr: Expr::Binary(Box::new(binary)),
            height,
        })
    }

    /// `on (…)` or `ignoring (…)`, and then perhaps `group_left` or `group_right`.
    fn matching(&mut self) -> Parsed<Matching> {
        let mut matching = Matching::default();
        matching.on = match self.kind() {
            Kind::Keyword(Keyword::On) => true,
            Kind::Keyword(Keyword::Ignoring) => false,
            _ => return Ok(matching),
        };
        self.advance();
        matching.labels = self.grouping_labels()?;
        matching.cardinality = match self.kind() {
            Kind::Keyword(Keyword::GroupLeft) => Cardinality::ManyToOne,
            Kind::Keyword(Keyword::GroupRight) => Cardinality::OneToMany,
            _ => return Ok(matching),
        };
        self.advance();
        if self.kind() == Kind::LeftParen || !self.at_expr() {
            matching.include = self.grouping_labels()?;
        }
        Ok(matching)
    }

    /// `fill(v)`, or `fill_left(v)` and `fill_right(v)` in any order, each at most once.
    fn fill(&mut self, matching: &mut Matching) -> Parsed<()> {
        // A metric may have these names too, but no parenthesis follows it.
        while self.peek(1).kind == Kind::LeftParen {
            let (left, right) = match self.kind() {
                Kind::Keyword(Keyword::Fill) => (true, true),
                Kind::Keyword(Keyword::FillLeft) => (true, false),
                Kind::Keyword(Keyword::FillRight) => (false, true),
                _ => return Ok(()),
            };
            if (left && matching.fill_left.is_some()) || (right && matching.fill_right.is_some()) {
                return Err(self.unexpected_here());
            }
            let keyword = self.advance();
            if !self.options.fill_modifiers {
                return Err(self.error(
                    keyword.span,
                    "binary operator fill modifiers are experimental and not enabled",
                ));
            }
            let value = self.fill_value()?;
            if left {
                matching.fill_left = Some(value);
            }
            if right {
                matching.fill_right = Some(value);
            }
        }
        Ok(())
    }

    fn fill_value(&mut self) -> Parsed<f64> {
        self.expect(Kind::LeftParen)?;
        let negative = self.kind() == Kind::Op(BinaryOp::Sub);
        if negative || self.kind() == Kind::Op(BinaryOp::Add) {
            self.advance();
        }
        if !matches!(self.kind(), Kind::Number | Kind::Duration) {
            return Err(self.unexpected_here());
        }
        let number = self.number()?;
        self.expect(Kind::RightParen)?;
        Ok(if negative { -number.value } else { number.value })
    }
}
