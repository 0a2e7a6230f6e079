//! Walking over trees: children in evaluation order, and forgetting spans so that trees can be compared.

use super::{DurationExpr, DurationKind, Expr, Shift, Span, VectorSelector};

impl Expr {
    /// The expressions directly inside, from left to right (the parameter of an aggregation first).
    pub fn children(&self) -> impl Iterator<Item = &Expr> {
        let (pair, rest): ([Option<&Expr>; 2], &[Expr]) = match self {
            Expr::Aggregate(node) => ([node.param.as_ref(), Some(&node.expr)], &[]),
            Expr::Binary(node) => ([Some(&node.left), Some(&node.right)], &[]),
            Expr::Call(node) => ([None, None], &node.args),
            Expr::Subquery(node) => ([Some(&node.expr), None], &[]),
            Expr::Paren(node) => ([Some(&node.expr), None], &[]),
            Expr::Unary(node) => ([Some(&node.expr), None], &[]),
            Expr::Matrix(_) | Expr::Vector(_) | Expr::Number(_) | Expr::String(_) => ([None, None], &[]),
        };
        pair.into_iter().flatten().chain(rest)
    }

    /// The same for changing them.
    pub fn children_mut(&mut self) -> impl Iterator<Item = &mut Expr> {
        let (pair, rest): ([Option<&mut Expr>; 2], &mut [Expr]) = match self {
            Expr::Aggregate(node) => ([node.param.as_mut(), Some(&mut node.expr)], &mut []),
            Expr::Binary(node) => ([Some(&mut node.left), Some(&mut node.right)], &mut []),
            Expr::Call(node) => ([None, None], &mut node.args),
            Expr::Subquery(node) => ([Some(&mut node.expr), None], &mut []),
            Expr::Paren(node) => ([Some(&mut node.expr), None], &mut []),
            Expr::Unary(node) => ([Some(&mut node.expr), None], &mut []),
            Expr::Matrix(_) | Expr::Vector(_) | Expr::Number(_) | Expr::String(_) => ([None, None], &mut []),
        };
        pair.into_iter().flatten().chain(rest)
    }

    /// Calls `visit` for this expression and every one inside, parents first.
    pub fn walk(&self, visit: &mut impl FnMut(&Expr)) {
        visit(self);
        for child in self.children() {
            child.walk(visit);
        }
    }

    /// Calls `visit` for this expression and every one inside, parents first; what it changes is walked into.
    pub fn walk_mut(&mut self, visit: &mut impl FnMut(&mut Expr)) {
        visit(self);
        for child in self.children_mut() {
            child.walk_mut(visit);
        }
    }

    /// The same tree with every span zero: equal for two spellings of one query.
    pub fn without_spans(mut self) -> Expr {
        self.walk_mut(&mut clear_spans);
        self
    }
}

fn clear_spans(expr: &mut Expr) {
    match expr {
        Expr::Aggregate(node) => node.span = Span::default(),
        Expr::Binary(node) => {
            node.span = Span::default();
            node.op_span = Span::default();
        }
        Expr::Call(node) => node.span = Span::default(),
        Expr::Matrix(node) => {
            node.span = Span::default();
            clear_duration(&mut node.range);
            clear_selector(&mut node.selector);
        }
        Expr::Subquery(node) => {
            node.span = Span::default();
            clear_duration(&mut node.range);
            node.step.iter_mut().for_each(clear_duration);
            clear_shift(&mut node.shift);
        }
        Expr::Number(node) => node.span = Span::default(),
        Expr::Paren(node) => node.span = Span::default(),
        Expr::String(node) => node.span = Span::default(),
        Expr::Unary(node) => node.span = Span::default(),
        Expr::Vector(node) => clear_selector(node),
    }
}

fn clear_selector(selector: &mut VectorSelector) {
    selector.span = Span::default();
    clear_shift(&mut selector.shift);
}

fn clear_shift(shift: &mut Shift) {
    shift.offset.iter_mut().for_each(clear_duration);
}

fn clear_duration(duration: &mut DurationExpr) {
    duration.span = Span::default();
    match &mut duration.kind {
        DurationKind::Number(number) => number.span = Span::default(),
        DurationKind::Sign(_, inner) => clear_duration(inner),
        DurationKind::Binary(_, left, right) | DurationKind::MinOf(left, right) | DurationKind::MaxOf(left, right) => {
            clear_duration(left);
            clear_duration(right);
        }
        DurationKind::Step | DurationKind::Range => {}
    }
}
