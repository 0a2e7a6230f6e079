//! Queries and how they read when printed.

use super::{json as describe, pretty};
use crate::ast::ParserOptions;
use crate::parse::parse;
use serde_json::json;

#[track_caller]
fn printed(text: &str) -> String {
    let expr = parse(text, ParserOptions::ALL).unwrap_or_else(|error| panic!("{text}: {error}"));
    let printed = expr.to_string();
    let again = parse(&printed, ParserOptions::ALL).unwrap_or_else(|error| panic!("{printed}: {error}"));
    assert_eq!(again.to_string(), printed, "{text} prints differently the second time");
    printed
}

#[test]
fn queries_are_printed_in_one_spelling() {
    for (text, expected) in [
        ("sum(up)by(job)", "sum by (job) (up)"),
        ("sum by() (up)", "sum(up)"),
        ("SUM WITHOUT(a, 'b.c',) (up)", "sum without (a, \"b.c\") (up)"),
        ("topk by(x)(5,up)", "topk by (x) (5, up)"),
        ("a+on()b", "a + on () b"),
        ("a + ignoring() b", "a + b"),
        ("a/on(x,y)group_left b", "a / on (x, y) group_left () b"),
        (
            "a>=bool ignoring(x) group_right(z) b",
            "a >= bool ignoring (x) group_right (z) b",
        ),
        ("a+fill(0)b", "a + fill (0) b"),
        ("a+fill_right(2)fill_left(-1)b", "a + fill_left (-1) fill_right (2) b"),
        ("a + fill_right(NaN) b", "a + fill_right (NaN) b"),
        (
            "up{z='1',a=~\"x|y\",} offset 90s @ 1.5",
            "up{a=~\"x|y\",z=\"1\"} @ 1.500 offset 1m30s",
        ),
        (
            "{'my.metric', \"a.b\"!=`c\\d`}",
            "{\"a.b\"!=\"c\\\\d\",__name__=\"my.metric\"}",
        ),
        (
            "x[300] anchored offset -5m @ start()",
            "x[5m] anchored @ start() offset -5m",
        ),
        ("x smoothed", "x smoothed"),
        ("rate(x[5m])[1h:]@-1", "rate(x[5m])[1h:] @ -1.000"),
        ("x[2h:90] offset (1m+step())", "x[2h:1m30s] offset (1m + step())"),
        ("x[-5m+35m]", "x[-5m + 35m]"),
        ("x[(-5m)^2]", "x[(-5m) ^ 2]"),
        (
            "x[min_of(step(),range())*-(3+1)]",
            "x[min_of(step(), range()) * -(3 + 1)]",
        ),
        ("-1^2", "-1 ^ 2"),
        ("(-1)^2", "(-1) ^ 2"),
        ("- - foo", "--foo"),
        ("1000000 + 5m + 1_0 + -Inf", "1e+06 + 5m + 10 + -Inf"),
        ("foo[0.0005]", "foo[0.0005]"),
        (
            "label_replace(x, 'a', \"\\xff\", `b\n`, \"\")",
            "label_replace(x, \"a\", \"\\xff\", \"b\\n\", \"\")",
        ),
        ("STEP() + start()", "step() + start()"),
        ("info(x, {a=\"b\"})", "info(x, {a=\"b\"})"),
    ] {
        assert_eq!(printed(text), expected);
    }
}

#[test]
fn long_queries_are_broken_over_lines() {
    let long = "first_quite_long_metric_name_for_this_test{job=\"one\", instance=\"another\"}";
    let text = format!("sum by (job) (rate({long}[5m]) + on (job) {long}) or topk(5, -({long} * {long}))");
    let first = "first_quite_long_metric_name_for_this_test{instance=\"another\",job=\"one\"}";
    let expected = [
        "  sum by (job) (",
        &format!("      rate({first}[5m])"),
        "    + on (job)",
        &format!("      {first}"),
        "  )",
        "or",
        "  topk(",
        "    5,",
        "    -(",
        &format!("        {first}"),
        "      *",
        &format!("        {first}"),
        "    )",
        "  )",
    ]
    .join("\n");
    let expr = parse(&text, ParserOptions::ALL).unwrap();
    assert_eq!(pretty(&expr), expected);
    assert_eq!(
        parse(&expected, ParserOptions::ALL).unwrap().to_string(),
        expr.to_string()
    );
}

#[test]
fn trees_are_described_as_json() {
    let expr = parse(
        "sum by (a) (rate(x{b=~\"c\"}[5m] offset 1m)) > bool 1.5",
        ParserOptions::ALL,
    )
    .unwrap();
    let matchers = json!([
        {"name": "b", "value": "c", "type": "=~"},
        {"name": "__name__", "value": "x", "type": "="},
    ]);
    let rate = json!({
        "type": "call",
        "func": {"name": "rate", "argTypes": ["matrix"], "variadic": 0, "returnType": "vector"},
        "args": [{
            "type": "matrixSelector", "name": "x", "matchers": matchers, "range": 300_000, "offset": 60_000,
            "timestamp": null, "startOrEnd": null, "anchored": false, "smoothed": false,
        }],
    });
    let expected = json!({
        "type": "binaryExpr", "op": ">", "bool": true, "matching": null,
        "lhs": {
            "type": "aggregation", "op": "sum", "expr": rate, "param": null, "grouping": ["a"], "without": false,
        },
        "rhs": {"type": "numberLiteral", "val": "1.5"},
    });
    assert_eq!(describe(&expr), expected);
}
