//! What the parser takes, where things stand, and what it says about the rest.

mod errors;

use super::*;
use crate::ast::{At, BinaryOp, DurationExpr, Extension, ValueType};

#[track_caller]
fn good(text: &str) -> Expr {
    parse(text, ParserOptions::ALL).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The tree with every operation in brackets.
fn brackets(expr: &Expr) -> String {
    match expr {
        Expr::Binary(node) => format!("[{} {} {}]", brackets(&node.left), node.op, brackets(&node.right)),
        Expr::Unary(node) => format!("[{}{}]", if node.negative { '-' } else { '+' }, brackets(&node.expr)),
        Expr::Paren(node) => format!("({})", brackets(&node.expr)),
        other => other.to_string(),
    }
}

#[test]
fn operators_bind_as_they_should() {
    for (text, expected) in [
        ("a + b * c ^ d", "[a + [b * [c ^ d]]]"),
        ("a ^ b ^ c", "[a ^ [b ^ c]]"),
        ("a - b - c", "[[a - b] - c]"),
        ("-a ^ b", "[-[a ^ b]]"),
        ("-a * b", "[[-a] * b]"),
        ("a ^ -b ^ c", "[a ^ [-[b ^ c]]]"),
        ("a ^ -b * c", "[[a ^ [-b]] * c]"),
        ("-1 ^ 2", "[-[1 ^ 2]]"),
        ("- -1", "1"),
        ("a or b and c == d + e", "[a or [b and [c == [d + e]]]]"),
        ("a and b unless c", "[[a and b] unless c]"),
        ("a atan2 b * c % d", "[[[a atan2 b] * c] % d]"),
        ("h </ 2 + 1", "[h </ [2 + 1]]"),
        ("a == bool b > c", "[[a == b] > c]"),
        ("a * on(x) group_left(y) b", "[a * b]"),
        ("-x offset 5m", "[-x offset 5m]"),
        ("x offset 5m + 2", "[x offset 5m + 2]"),
        ("x offset -5m ^ 2", "[x offset -5m ^ 2]"),
    ] {
        assert_eq!(brackets(&good(text)), expected, "{text}");
    }
}

#[test]
fn keywords_may_be_names() {
    for name in [
        "sum",
        "count_values",
        "by",
        "without",
        "offset",
        "and",
        "or",
        "unless",
        "start",
        "end",
        "step",
        "range",
        "fill",
        "fill_left",
        "anchored",
        "smoothed",
        "limitk",
        "min_of",
        "rate",
        "a:b",
        ":a",
    ] {
        let Expr::Vector(selector) = good(name) else {
            panic!("{name} is no selector")
        };
        assert_eq!(selector.name.as_deref(), Some(name));
        good(&format!("{name}{{{}=\"x\"}} + {name}", name.replace(':', "_")));
        good(&format!("rate({name}[5m] offset 1m)"));
    }
    for label in [
        "bool",
        "on",
        "ignoring",
        "group_left",
        "by",
        "sum",
        "and",
        "atan2",
        "offset",
        "start",
        "inf",
    ] {
        good(&format!("{{{label}=\"x\"}}"));
        if label != "inf" {
            good(&format!("sum by ({label},) (x) + on ({label}) group_left ({label}_) y"));
        }
    }
    assert!(matches!(good("sum{a=\"b\"}"), Expr::Vector(_)));
    assert!(matches!(good("a + fill"), Expr::Binary(_)));
}

#[test]
fn names_may_be_any_text_in_quotes() {
    let Expr::Vector(selector) = good("{\"my.metric\", 'a b'!~\"c\", d=\"\"}") else {
        panic!("no selector")
    };
    let matchers: Vec<String> = selector.matchers.iter().map(|matcher| format!("{matcher:?}")).collect();
    assert_eq!(matchers, ["__name__=\"my.metric\"", "a b!~\"c\"", "d=\"\""]);
    let Expr::Aggregate(sum) = good("sum by (\"a.b\", `ü`) (x)") else {
        panic!("no aggregation")
    };
    assert_eq!(sum.grouping, ["a.b", "ü"]);
}

#[test]
fn modifiers_stand_in_any_order() {
    for text in [
        "x[5m] offset 1m @ 10 anchored",
        "x[5m] anchored @ 10 offset 1m",
        "x anchored [5m] @ 10 offset 60",
    ] {
        let Expr::Matrix(matrix) = good(text) else {
            panic!("{text} is no range selector")
        };
        assert_eq!(matrix.selector.shift.at, Some(At::Time(10_000)));
        assert_eq!(
            matrix.selector.shift.offset.as_ref().and_then(DurationExpr::literal_ms),
            Some(60_000)
        );
        assert_eq!(matrix.selector.extension, Some(Extension::Anchored));
        assert_eq!(matrix.range.literal_ms(), Some(300_000));
    }
    let Expr::Subquery(subquery) = good("(a + b)[1h:] @ end() offset -1m") else {
        panic!("no subquery")
    };
    assert_eq!(subquery.shift.at, Some(At::End));
    assert!(subquery.step.is_none());
}

#[test]
fn numbers_may_stand_for_durations_and_back() {
    let Expr::Number(number) = good("1h30m") else {
        panic!("no number")
    };
    assert_eq!((number.value, number.duration), (5400.0, true));
    let Expr::Matrix(matrix) = good("x[1.5]") else {
        panic!("no range selector")
    };
    assert_eq!(matrix.range.literal_ms(), Some(1500));
    good("x[0x1F]");
    good("x @ 1_000");
    good("x @ -100s");
    good("x[30m+0s]");
    good("x offset 0s");
}

#[test]
fn every_node_knows_its_place() {
    let text = "sum by (a) (\n  rate(x{b=\"c\"}[5m] offset 1m)\n) * -y @ 5 + \"s\"[1h:2m]";
    let text = text.replace(" + \"s\"[1h:2m]", " > (z)[1h:2m]");
    // The last operand is wrong, so parse without it first.
    let good_text = text.split(" > ").next().unwrap();
    let Expr::Binary(product) = good(good_text) else {
        panic!("no product")
    };
    let at = |span: Span| &good_text[span.start as usize..span.end as usize];
    assert_eq!(at(product.span), good_text);
    assert_eq!(at(product.op_span), "*");
    assert_eq!(at(product.right.span()), "-y @ 5");
    let Expr::Aggregate(sum) = &product.left else {
        panic!("no sum")
    };
    assert!(at(sum.span).starts_with("sum by") && at(sum.span).ends_with("\n)"));
    assert_eq!(at(sum.expr.span()), "rate(x{b=\"c\"}[5m] offset 1m)");
    assert_eq!(sum.expr.span().line_col(good_text), (2, 3));
    let Expr::Call(rate) = &sum.expr else { panic!("no call") };
    assert_eq!(at(rate.args[0].span()), "x{b=\"c\"}[5m] offset 1m");
    let error = parse(&text, ParserOptions::ALL).unwrap_err();
    assert_eq!(
        error.to_string(),
        "3:14: parse error: binary expression must contain only scalar and instant vector types"
    );
}

#[test]
fn matching_is_kept_between_vectors_only() {
    let Expr::Binary(node) = good("a + on(x) fill_left(-1) fill_right(Inf) b") else {
        panic!("no sum")
    };
    let matching = node.matching.unwrap();
    assert_eq!(
        (matching.fill_left, matching.fill_right),
        (Some(-1.0), Some(f64::INFINITY))
    );
    let Expr::Binary(node) = good("a + on() 1") else {
        panic!("no sum")
    };
    assert!(node.matching.is_none());
    let Expr::Binary(node) = good("a and b") else {
        panic!("no set")
    };
    assert_eq!(
        (node.op, node.matching.unwrap().cardinality),
        (BinaryOp::And, crate::ast::Cardinality::ManyToMany)
    );
}

#[test]
fn types_follow_from_the_parts() {
    for (text, expected) in [
        ("1 + 2", ValueType::Scalar),
        ("1 + x", ValueType::Vector),
        ("-(time())", ValueType::Scalar),
        ("x[5m]", ValueType::Matrix),
        ("x[5m:]", ValueType::Matrix),
        ("'a'", ValueType::String),
        ("vector(1)", ValueType::Vector),
        ("sum(x)", ValueType::Vector),
        ("max_of(1, 2)", ValueType::Scalar),
    ] {
        assert_eq!(good(text).value_type(), expected, "{text}");
    }
}

#[test]
fn experimental_parts_are_off_unless_asked_for() {
    let on = ParserOptions {
        duration_expressions: false,
        ..ParserOptions::default()
    };
    for (text, expected) in [
        ("info(x)", "1:1: parse error: function \"info\" is not enabled"),
        (
            "limitk(1, x)",
            "1:1: parse error: limitk() is experimental and must be enabled with \
             --enable-feature=promql-experimental-functions",
        ),
        (
            "x anchored",
            "1:1: parse error: anchored modifier is experimental and not enabled",
        ),
        (
            "a + fill(1) b",
            "1:5: parse error: binary operator fill modifiers are experimental and not enabled",
        ),
        (
            "x[1m+1m]",
            "1:3: parse error: experimental duration expression is not enabled",
        ),
    ] {
        assert_eq!(parse(text, on).unwrap_err().to_string(), expected);
    }
    assert!(parse("x[1m+1m]", ParserOptions::default()).is_ok());
}

#[test]
fn depth_and_length_are_bounded() {
    let fits = DEPTH_MAX - 2;
    for (open, close) in [
        ("(", ")"),
        ("abs(", ")"),
        ("sum(", ")"),
        ("-", ""),
        ("2 ^ ", ""),
        ("x + (", ")"),
    ] {
        let nested = |levels: usize| format!("{}x{}", open.repeat(levels), close.repeat(levels));
        let error = parse(&nested(100_000), ParserOptions::ALL).unwrap_err();
        assert!(
            error.message.starts_with("expression is nested deeper than"),
            "{open}: {error}"
        );
        let levels = if open == "x + (" { fits / 3 } else { fits };
        let expr = parse(&nested(levels), ParserOptions::ALL).unwrap_or_else(|error| panic!("{open}: {error}"));
        assert_eq!(
            parse(&expr.to_string(), ParserOptions::ALL).unwrap().to_string(),
            expr.to_string()
        );
        crate::print::pretty(&expr);
        crate::print::json(&expr);
    }
    for operator in [" + x", " or x", "[1m:]", " offset 1m"] {
        let chain = format!("x{}", operator.repeat(100_000));
        assert!(parse(&chain, ParserOptions::ALL).is_err(), "{operator}");
    }
    assert!(
        parse(
            &format!("x[{}1m{}]", "(".repeat(9000), ")".repeat(9000)),
            ParserOptions::ALL
        )
        .is_err()
    );
    assert!(parse(&format!("x[1m{}]", "+1m".repeat(9000)), ParserOptions::ALL).is_err());
    let long = parse(&"x".repeat(QUERY_BYTES_MAX + 1), ParserOptions::ALL).unwrap_err();
    assert_eq!(
        long.message,
        format!(
            "query has {} bytes, at most {QUERY_BYTES_MAX} are allowed",
            QUERY_BYTES_MAX + 1
        )
    );
}

#[test]
fn lone_selectors_and_series() {
    let matchers = parse_selector("up{job=~\"a|b\"}").unwrap();
    assert_eq!(matchers.len(), 2);
    assert!(
        parse_selector("{a=\"\"}").is_ok(),
        "whether it is too wide is for the caller to say"
    );
    for text in ["up[5m]", "up + up", "sum(up)", "", "1"] {
        assert!(parse_selector(text).is_err(), "{text}");
    }
    assert_eq!(
        parse_metric("up{b=\"1\",a=\"2\",}").unwrap().to_string(),
        "{__name__=\"up\", a=\"2\", b=\"1\"}"
    );
    assert!(parse_metric("up{a!=\"1\"}").is_err());
}

mod arbitrary {
    use super::*;
    use proptest::prelude::*;

    /// Pieces that make queries which are nearly right.
    const PIECES: [&str; 48] = [
        "sum",
        "by",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        "5m",
        "1",
        "x",
        "\"s\"",
        ",",
        "=",
        "=~",
        "!=",
        "+",
        "-",
        "*",
        "^",
        "and",
        "or",
        "offset",
        "@",
        "start()",
        "end()",
        "rate(",
        "topk(",
        "on(",
        "ignoring",
        "group_left",
        "bool",
        "fill(",
        "anchored",
        "smoothed",
        ":",
        "step()",
        "min_of(",
        "1h:1m",
        "==",
        "</",
        "'",
        "`",
        "\\",
        "#",
        "\n",
        "é",
        ".",
    ];

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            let _ = parse(&text, ParserOptions::ALL);
            let _ = parse_selector(&text);
            let _ = crate::series::parse_series(&text);
            let _ = crate::series::parse_starts(&text);
            let _ = crate::script::expressions(&text);
        }

        #[test]
        fn what_is_parsed_is_printed_and_parsed_again(picks in proptest::collection::vec(0..PIECES.len(), 0..24)) {
            let text: Vec<&str> = picks.iter().map(|&pick| PIECES[pick]).collect();
            for glue in [" ", ""] {
                let text = text.join(glue);
                if let Ok(expr) = parse(&text, ParserOptions::ALL) {
                    let printed = expr.to_string();
                    let again = parse(&printed, ParserOptions::ALL);
                    prop_assert!(again.is_ok(), "{text} printed as {printed}: {again:?}");
                    prop_assert_eq!(again.unwrap().to_string(), printed);
                }
            }
        }
    }
}
