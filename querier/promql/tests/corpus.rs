//! Every expression of Prometheus's test scripts parses, prints, and reads the same when printed.

use promql::ast::{Expr, ParserOptions};
use promql::parse::parse;
use promql::{print, script};
use std::path::PathBuf;

/// Name and text of each script, or nothing when they are not at hand.
#[expect(clippy::disallowed_methods, reason = "tests read their data themselves")]
fn scripts() -> Vec<(String, String)> {
    let sibling = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let root = std::env::var_os("NARTHEX_SHARED").map_or(sibling, PathBuf::from);
    let directory = root.join("promqltest/dev");
    let Ok(entries) = std::fs::read_dir(&directory) else {
        eprintln!(
            "SKIPPED: no scripts in {}; set NARTHEX_SHARED to their place",
            directory.display()
        );
        return Vec::new();
    };
    let mut scripts: Vec<(String, String)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let text = String::from_utf8(std::fs::read(&path).ok()?).ok()?;
            (path.extension()? == "test").then(|| (path.file_stem().unwrap().to_string_lossy().into_owned(), text))
        })
        .collect();
    scripts.sort();
    scripts
}

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
    for (name, text) in scripts() {
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
