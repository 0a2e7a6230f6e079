//! The deepest queries that the parser lets through are evaluated on the stack of an ordinary worker thread.

use promql::ast::DEPTH_MAX;
use promql::script;

#[test]
fn the_deepest_queries_are_evaluated() {
    let levels = DEPTH_MAX - 8;
    let around = |levels: usize, open: &str, close: &str| format!("{}x{}", open.repeat(levels), close.repeat(levels));
    let nested = |open: &str, close: &str| around(levels, open, close);
    let mut text = String::from("load 1m\n  x 1 1 1\n\n");
    let sum = (levels + 1) as f64;
    for (expression, value) in [
        (nested("(", ")"), 1.0),
        (nested("abs(", ")"), 1.0),
        (nested("sum(", ")"), 1.0),
        (nested("-", ""), 1.0),
        (format!("x{}", " + x".repeat(levels)), sum),
        (format!("sum(x{})", " or x".repeat(levels)), 1.0),
        (format!("vector(1{})", " + 1".repeat(levels)), sum),
        (around(levels / 2, "max_over_time(", "[1m:1m])"), 1.0),
    ] {
        text.push_str(&format!("eval instant at 2m sum({expression})\n  {{}} {value}\n\n"));
    }
    let report = script::run("depth", &text);
    assert_eq!(
        (report.passed, report.failed),
        (8, 0),
        "{:?}",
        report.failures.first().map(|failure| &failure.reason)
    );
}
