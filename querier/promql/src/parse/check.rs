//! The type checker: what the grammar allows but the language does not.
//!
//! It also settles how binary operators match, which depends on the types of both sides.

use super::{ParseError, error_at};
use crate::ast::{Aggregate, Binary, Call, Cardinality, Expr, Function, Span, ValueType, VectorSelector};
use crate::format::quote;
use model::label::METRIC_NAME;

/// Checks a whole query.
pub(super) fn check(expr: &mut Expr, text: &str) -> Result<(), ParseError> {
    Checker { text }.expr(expr).map(|_| ())
}

struct Checker<'a> {
    text: &'a str,
}

type Checked<T> = Result<T, ParseError>;

impl Checker<'_> {
    fn error<T>(&self, span: Span, message: impl Into<String>) -> Checked<T> {
        Err(error_at(self.text, span, message))
    }

    fn expr(&self, expr: &mut Expr) -> Checked<ValueType> {
        match expr {
            Expr::Aggregate(node) => self.aggregate(node)?,
            Expr::Binary(node) => self.binary(node)?,
            Expr::Call(node) => self.call(node)?,
            Expr::Matrix(node) => self.selector(&node.selector)?,
            Expr::Vector(node) => self.selector(node)?,
            Expr::Paren(node) => {
                self.expr(&mut node.expr)?;
            }
            Expr::Subquery(node) => {
                let found = self.expr(&mut node.expr)?;
                if found != ValueType::Vector {
                    let found = found.as_str();
                    return self.error(
                        node.span,
                        format!("subquery is only allowed on instant vector, got {found} instead"),
                    );
                }
            }
            Expr::Unary(node) => {
                let found = self.expr(&mut node.expr)?;
                if !matches!(found, ValueType::Scalar | ValueType::Vector) {
                    let message = format!(
                        "unary expression only allowed on expressions of type scalar or instant vector, got \"{found}\""
                    );
                    return self.error(node.span, message);
                }
            }
            Expr::Number(_) | Expr::String(_) => {}
        }
        Ok(expr.value_type())
    }

    fn expect(&self, expr: &mut Expr, wanted: ValueType, context: &str) -> Checked<()> {
        let found = self.expr(expr)?;
        if found != wanted {
            return self.error(expr.span(), format!("expected type {wanted} in {context}, got {found}"));
        }
        Ok(())
    }

    fn aggregate(&self, node: &mut Aggregate) -> Checked<()> {
        self.expect(&mut node.expr, ValueType::Vector, "aggregation expression")?;
        if let (Some(wanted), Some(param)) = (node.op.takes_param(), &mut node.param) {
            self.expect(param, wanted, "aggregation parameter")?;
        }
        Ok(())
    }

    fn call(&self, node: &mut Call) -> Checked<()> {
        let signature = node.function.signature();
        let context = format!("call to function \"{}\"", node.function);
        self.argument_count(node)?;
        if node.function == Function::Info
            && let Some(selector) = node.args.get(1)
        {
            self.info_selector(node.span, selector, &context)?;
        }
        for (index, arg) in node.args.iter_mut().enumerate() {
            // The label selector of info() may match everything, so it is not checked as others are.
            if node.function == Function::Info && index == 1 {
                continue;
            }
            let Some(&wanted) = signature.args.get(index).or(signature.args.last()) else {
                break;
            };
            self.expect(arg, wanted, &context)?;
        }
        Ok(())
    }

    fn argument_count(&self, node: &Call) -> Checked<()> {
        let signature = node.function.signature();
        let (wanted, found) = (signature.args.len(), node.args.len());
        let name = node.function;
        if signature.variadic == 0 {
            if wanted != found {
                let message = format!("expected {wanted} argument(s) in call to \"{name}\", got {found}");
                return self.error(node.span, message);
            }
            return Ok(());
        }
        let least = wanted - 1;
        if found < least {
            let message = format!("expected at least {least} argument(s) in call to \"{name}\", got {found}");
            return self.error(node.span, message);
        }
        if let Ok(more) = usize::try_from(signature.variadic)
            && found > least + more
        {
            let most = least + more;
            let message = format!("expected at most {most} argument(s) in call to \"{name}\", got {found}");
            return self.error(node.span, message);
        }
        Ok(())
    }

    /// The second argument of info() is made of label matchers alone.
    fn info_selector(&self, call: Span, arg: &Expr, context: &str) -> Checked<()> {
        let found = arg.value_type();
        if found != ValueType::Vector {
            let wanted = ValueType::Vector;
            return self.error(call, format!("expected type {wanted} in {context}, got {found}"));
        }
        match arg {
            Expr::Vector(selector) if selector.name.is_none() => Ok(()),
            _ => self.error(arg.span(), "expected label selectors only, got vector selector instead"),
        }
    }

    fn binary(&self, node: &mut Binary) -> Checked<()> {
        let left = self.expr(&mut node.left)?;
        let right = self.expr(&mut node.right)?;
        if node.return_bool && !node.op.is_comparison() {
            return self.error(node.op_span, "bool modifier can only be used on comparison operators");
        }
        let scalars = left == ValueType::Scalar && right == ValueType::Scalar;
        if node.op.is_comparison() && !node.return_bool && scalars {
            return self.error(node.op_span, "comparisons between scalars must use BOOL modifier");
        }
        if let Some(matching) = &mut node.matching {
            if node.op.is_set() && matching.cardinality == Cardinality::OneToOne {
                matching.cardinality = Cardinality::ManyToMany;
            }
            let twice = matching
                .labels
                .iter()
                .find(|label| matching.on && matching.include.contains(label));
            if let Some(label) = twice {
                let message = format!("label {} must not occur in ON and GROUP clause at once", quote(label));
                return self.error(node.op_span, message);
            }
        }
        for (side, found) in [(&node.left, left), (&node.right, right)] {
            if !matches!(found, ValueType::Scalar | ValueType::Vector) {
                return self.error(
                    side.span(),
                    "binary expression must contain only scalar and instant vector types",
                );
            }
        }
        self.matching(node, left == ValueType::Vector && right == ValueType::Vector)
    }

    fn matching(&self, node: &mut Binary, vectors: bool) -> Checked<()> {
        let Some(matching) = &node.matching else { return Ok(()) };
        let fills = matching.fill_left.is_some() || matching.fill_right.is_some();
        if !vectors {
            if !matching.labels.is_empty() {
                return self.error(node.span, "vector matching only allowed between instant vectors");
            }
            if fills {
                return self.error(
                    node.span,
                    "filling in missing series only allowed between instant vectors",
                );
            }
            node.matching = None;
            if node.op.is_set() {
                let message = format!("set operator \"{}\" not allowed in binary scalar expression", node.op);
                return self.error(node.span, message);
            }
            return Ok(());
        }
        if node.op.is_set() && matching.cardinality != Cardinality::ManyToMany {
            return self.error(node.span, format!("no grouping allowed for \"{}\" operation", node.op));
        }
        if node.op.is_set() && fills {
            return self.error(node.span, "filling in missing series not allowed for set operators");
        }
        Ok(())
    }

    fn selector(&self, node: &VectorSelector) -> Checked<()> {
        let mut names = node
            .matchers
            .iter()
            .filter(|matcher| &*matcher.name == METRIC_NAME)
            .map(|matcher| &*matcher.value);
        if let Some(name) = &node.name {
            // The last matcher repeats the name that stands before the braces.
            if let Some(value) = names.next().filter(|_| names.next().is_some()) {
                return self.twice(node.span, name, value);
            }
            return Ok(());
        }
        if let (Some(first), Some(second)) = (names.next(), names.next()) {
            return self.twice(node.span, first, second);
        }
        if node.matchers.iter().all(|matcher| matcher.matches_empty()) {
            return self.error(node.span, "vector selector must contain at least one non-empty matcher");
        }
        Ok(())
    }

    fn twice(&self, span: Span, first: &str, second: &str) -> Checked<()> {
        let message = format!(
            "metric name must not be set twice: {} or {}",
            quote(first),
            quote(second)
        );
        self.error(span, message)
    }
}
