//! Every expression of Prometheus's test scripts parses, prints, and reads the same when printed.

mod shared;

use promql::ast::{Expr, ParserOptions};
use promql::parse::parse;
use promql::{print, script};

/// The tree without spans, and with matchers in the order of the printer.
fn comparable(expr: Expr) -> Expr {
    let mut expr = expr.without_spans();
    expr.walk_mut(&mut |expr| match expr {
        Expr::Vector(selector) => selector.matchers.sort_by_key(|matcher| format!("{matcher:?}")),
        Expr::Matrix(matrix) => matrix.selector.matchers.sort_by_key(|matcher| format!("{matcher:?}")),
        _ => {}
    });
    expr
}

#[test]
fn expressions_survive_printing() {
    let mut count = 0;
    for (name, text) in shared::scripts() {
        for (line, expression, fails) in script::expressions(&text) {
            let expr = match parse(&expression, ParserOptions::ALL) {
                Ok(expr) => expr,
                Err(_) if fails => continue,
                Err(error) => panic!("{name}:{line}: {expression}: {error}"),
            };
            count += 1;
            for printed in [expr.to_string(), print::pretty(&expr)] {
                let again = parse(&printed, ParserOptions::ALL)
                    .unwrap_or_else(|error| panic!("{name}:{line}: {expression} printed as {printed}: {error}"));
                assert_eq!(again.to_string(), expr.to_string(), "{name}:{line}: {expression}");
                assert_eq!(
                    shape(&again),
                    shape(&expr),
                    "{name}:{line}: {expression} printed as {printed}"
                );
            }
            print::json(&expr);
        }
    }
    eprintln!("{count} expressions");
}

/// What must survive printing: the tree, except whether a lone duration was written as a number.
fn shape(expr: &Expr) -> String {
    let text = format!("{:?}", comparable(expr.clone()));
    text.replace("duration: true", "duration: _")
        .replace("duration: false", "duration: _")
}
