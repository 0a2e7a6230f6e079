//! Long queries over several lines, as `/api/v1/format_query` answers: what fits stays on its line, what does not is
//! opened and its parts indented.

use super::{aggregate_head, binary_modifiers, subquery_suffix};
use crate::ast::Expr;
use std::fmt::{self, Display, Write};

/// Longest line that is not broken, indentation not counted.
const LINE_BYTES_MAX: usize = 100;

const INDENT: &str = "  ";

/// The query on as many lines as it takes.
pub fn pretty(expr: &Expr) -> String {
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write_pretty(expr, 0, &mut out);
    out
}

fn write_pretty(expr: &Expr, level: usize, out: &mut String) -> fmt::Result {
    match expr {
        // A sign stays with what it belongs to, whose own indentation goes.
        Expr::Unary(node) => {
            indent(level, out);
            out.push(if node.negative { '-' } else { '+' });
            let start = out.len();
            write_pretty(&node.expr, level, out)?;
            let trimmed = out[start..].trim().to_owned();
            out.truncate(start);
            out.push_str(&trimmed);
            Ok(())
        }
        Expr::Subquery(node) if !fits(expr) => {
            write_pretty(&node.expr, level, out)?;
            subquery_suffix(node, out)
        }
        Expr::Subquery(_) => write!(out, "{expr}"),
        _ => {
            indent(level, out);
            if fits(expr) {
                write!(out, "{expr}")
            } else {
                write_open(expr, level, out)
            }
        }
    }
}

/// Something too long for a line, behind its indentation.
fn write_open(expr: &Expr, level: usize, out: &mut String) -> fmt::Result {
    match expr {
        Expr::Aggregate(node) => {
            aggregate_head(node, out)?;
            out.push_str("(\n");
            if let Some(param) = &node.param {
                write_pretty(param, level + 1, out)?;
                out.push_str(",\n");
            }
            write_pretty(&node.expr, level + 1, out)?;
            close(level, out);
        }
        Expr::Binary(node) => {
            // The left side brings its own, deeper indentation.
            out.truncate(out.len() - level * INDENT.len());
            write_pretty(&node.left, level + 1, out)?;
            out.push('\n');
            indent(level, out);
            out.push_str(node.op.as_str());
            binary_modifiers(node, out)?;
            out.push('\n');
            write_pretty(&node.right, level + 1, out)?;
        }
        Expr::Call(node) => {
            writeln!(out, "{}(", node.function)?;
            for (index, arg) in node.args.iter().enumerate() {
                out.push_str(if index > 0 { ",\n" } else { "" });
                write_pretty(arg, level + 1, out)?;
            }
            close(level, out);
        }
        Expr::Paren(node) => {
            out.push_str("(\n");
            write_pretty(&node.expr, level + 1, out)?;
            close(level, out);
        }
        Expr::Matrix(_) | Expr::Vector(_) | Expr::Number(_) | Expr::String(_) | Expr::Unary(_) | Expr::Subquery(_) => {
            write!(out, "{expr}")?
        }
    }
    Ok(())
}

fn close(level: usize, out: &mut String) {
    out.push('\n');
    indent(level, out);
    out.push(')');
}

fn indent(level: usize, out: &mut String) {
    out.push_str(&INDENT.repeat(level));
}

/// Whether the expression fits on one line. Printing stops at the limit, so that this is cheap for large trees.
fn fits(expr: &impl Display) -> bool {
    struct Room(usize);

    impl Write for Room {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.checked_sub(text.len()).ok_or(fmt::Error)?;
            Ok(())
        }
    }

    write!(Room(LINE_BYTES_MAX), "{expr}").is_ok()
}
