//! Texts that are no queries, and what the parser says about them.

use super::good;
use crate::ast::ParserOptions;
use crate::parse::parse;

#[track_caller]
fn check(text: &str, expected: &str) {
    match parse(text, ParserOptions::ALL) {
        Ok(expr) => panic!("{text} was taken for {expr}"),
        Err(error) => assert_eq!(error.to_string().replace(": parse error: ", " "), expected, "{text}"),
    }
}

#[test]
fn syntax_errors_say_what_stands_where() {
    for (text, expected) in [
        ("", "unknown position no expression found in input"),
        ("# only this", "1:1 no expression found in input"),
        ("1 +", "1:4 unexpected end of input"),
        (".", "1:1 unexpected character: '.'"),
        ("1 /", "1:4 unexpected end of input"),
        ("* 1", "1:1 unexpected <op:*>"),
        ("(1))", "1:5 unexpected right parenthesis ')'"),
        ("((1)", "1:5 unclosed left parenthesis"),
        ("()", "1:2 unexpected \")\""),
        ("1 2", "1:3 unexpected number \"2\""),
        ("foo bar", "1:5 unexpected identifier \"bar\""),
        ("foo \"0123456789ab\"", "1:5 unexpected string \"\\\"012345678\"..."),
        ("sum(foo bar)", "1:9 unexpected identifier \"bar\" in aggregation"),
        ("min keep_common (foo)", "1:5 unexpected identifier \"keep_common\""),
        (
            "sum(foo) by bar",
            "1:13 unexpected identifier \"bar\" in grouping opts, expected \"(\"",
        ),
        (
            "sum by (a b) (foo)",
            "1:11 unexpected identifier \"b\" in grouping opts, expected \",\" or \")\"",
        ),
        (
            "sum by (1) (foo)",
            "1:9 unexpected number \"1\" in grouping opts, expected label",
        ),
        ("sum by (\"\") (foo)", "1:9 invalid label name \"\""),
        (
            "foo and on(,) bar",
            "1:12 unexpected \",\" in grouping opts, expected label",
        ),
        ("a - on(b) ignoring(c) d", "1:11 unexpected <ignoring>"),
        ("a + group_left(b) c", "1:5 unexpected <group_left>"),
        ("a + fill(1) fill_left(2) b", "1:13 unexpected <fill_left>"),
        ("a + fill(b) c", "1:10 unexpected identifier \"b\""),
        (
            "foo{a}",
            "1:6 unexpected \"}\" in label matching, expected label matching operator",
        ),
        (
            "foo{,}",
            "1:5 unexpected \",\" in label matching, expected identifier or \"}\"",
        ),
        ("foo{a= =}", "1:8 unexpected \"=\" in label matching, expected string"),
        (
            "foo{a=\"b\" c}",
            "1:11 unexpected identifier \"c\" in label matching, expected \",\" or \"}\"",
        ),
        ("foo{\"a\"=}", "1:9 unexpected \"}\" in label matching, expected string"),
        ("foo{", "1:5 unexpected end of input inside braces"),
        ("foo{a~\"b\"}", "1:6 unexpected character inside braces: '~'"),
        ("}", "1:1 unexpected character: '}'"),
        (
            "foo[]",
            "1:5 unexpected \"]\" in subquery or range selector, expected number, duration, step(), or range()",
        ),
        (
            "foo[5m+]",
            "1:8 unexpected \"]\" in subquery or range selector, expected number, duration, step(), or range()",
        ),
        (
            "foo[5m 5m]",
            "1:8 unexpected duration \"5m\" in subquery or range, expected \":\" or \"]\"",
        ),
        (
            "foo[5m:5m 5m]",
            "1:11 unexpected duration \"5m\" in subquery selector, expected \"]\"",
        ),
        (
            "foo[5m:+]",
            "1:9 unexpected \"]\" in subquery selector, expected number, duration, step(), range(), or \"]\"",
        ),
        ("foo[5m", "1:7 unexpected end of input in duration expression"),
        ("foo[\"5m\"]", "1:5 unexpected character in duration expression: '\"'"),
        ("foo[5y1hs]", "1:5 not a valid duration string: \"5y1hs\""),
        ("foo[1.5h]", "1:5 not a valid duration string: \"1.5h\""),
        (
            "foo offset",
            "1:11 unexpected end of input in offset, expected number, duration, step(), or range()",
        ),
        (
            "foo offset bar",
            "1:12 unexpected identifier \"bar\" in offset, expected number, duration, step(), or range()",
        ),
        ("foo @", "1:6 unexpected end of input in @, expected timestamp"),
        (
            "foo @ bar",
            "1:7 unexpected identifier \"bar\" in @, expected timestamp",
        ),
        ("foo @ start", "1:12 unexpected end of input in @, expected timestamp"),
        (
            "rate(foo[5m],)",
            "1:13 trailing commas not allowed in function call args",
        ),
        ("\"\\q\"", "1:1 unknown escape sequence U+0071 'q'"),
        ("e-+=/(0)", "1:4 unexpected \"=\""),
        ("foo\n  bar", "2:3 unexpected identifier \"bar\""),
    ] {
        check(text, expected);
    }
}

#[test]
fn what_cannot_mean_anything_is_refused() {
    for (text, expected) in [
        ("{}", "1:1 vector selector must contain at least one non-empty matcher"),
        (
            "{a=\"\"}",
            "1:1 vector selector must contain at least one non-empty matcher",
        ),
        (
            "{a=~\".*\",b!~\".+\"}",
            "1:1 vector selector must contain at least one non-empty matcher",
        ),
        (
            "foo{__name__=\"bar\"}",
            "1:1 metric name must not be set twice: \"foo\" or \"bar\"",
        ),
        (
            "{__name__=\"a\",\"b\"}",
            "1:1 metric name must not be set twice: \"a\" or \"b\"",
        ),
        ("foo[0]", "1:5 duration must be greater than 0"),
        ("foo[-1m]", "1:5 duration must be greater than 0"),
        ("foo[5m/0]", "1:7 division by zero"),
        ("foo[5m%0s]", "1:7 modulo by zero"),
        ("foo[300y]", "1:5 duration out of range"),
        ("foo offset 1e11", "1:12 duration out of range"),
        ("foo offset 1m[5m]", "1:14 no offset modifiers allowed before range"),
        ("foo @ 1 [5m]", "1:9 no @ modifiers allowed before range"),
        ("(a + b)[5m]", "1:8 ranges only allowed for vector selectors"),
        ("foo[5m][5m]", "1:8 ranges only allowed for vector selectors"),
        ("foo offset 1m offset 2m", "1:1 offset may not be set multiple times"),
        ("foo @ 1 @ 2", "1:1 @ <timestamp> may not be set multiple times"),
        ("foo @ Inf", "1:1 timestamp out of bounds for @ modifier: +Inf"),
        (
            "foo @ 1e30",
            "1:1 timestamp out of bounds for @ modifier: 1000000000000000019884624838656.000000",
        ),
        (
            "1 offset 1d",
            "1:1 offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
        ),
        (
            "rate(x[5m]) @ 1",
            "1:1 @ modifier must be preceded by an instant vector selector or range vector selector or a subquery",
        ),
        (
            "x[1h:] anchored",
            "1:1 anchored modifier is not supported for subqueries",
        ),
        ("sum(x) smoothed", "1:1 smoothed modifier not implemented"),
        (
            "x anchored smoothed",
            "1:1 anchored and smoothed modifiers cannot be used together",
        ),
        (
            "foo[5m][5m:30s]",
            "1:1 subquery is only allowed on instant vector, got matrix instead",
        ),
        (
            "-\"s\"",
            "1:1 unary expression only allowed on expressions of type scalar or instant vector, got \"string\"",
        ),
        (
            "-x[5m]",
            "1:1 unary expression only allowed on expressions of type scalar or instant vector, got \"range vector\"",
        ),
        ("1 == 1", "1:3 comparisons between scalars must use BOOL modifier"),
        (
            "1 and 1",
            "1:1 set operator \"and\" not allowed in binary scalar expression",
        ),
        (
            "foo or 1",
            "1:1 set operator \"or\" not allowed in binary scalar expression",
        ),
        (
            "a + bool b",
            "1:3 bool modifier can only be used on comparison operators",
        ),
        (
            "a == on(x) 1",
            "1:1 vector matching only allowed between instant vectors",
        ),
        (
            "a and on(x) group_left(y) b",
            "1:1 no grouping allowed for \"and\" operation",
        ),
        (
            "a + on(x) group_left(x) b",
            "1:3 label \"x\" must not occur in ON and GROUP clause at once",
        ),
        (
            "a or fill(0) b",
            "1:1 filling in missing series not allowed for set operators",
        ),
        (
            "a + fill(0) 1",
            "1:1 filling in missing series only allowed between instant vectors",
        ),
        (
            "a + \"s\"",
            "1:5 binary expression must contain only scalar and instant vector types",
        ),
        (
            "a[5m] + 1",
            "1:1 binary expression must contain only scalar and instant vector types",
        ),
        ("nope(1)", "1:1 unknown function with name \"nope\""),
        ("RATE(x[5m])", "1:1 unknown function with name \"RATE\""),
        ("floor()", "1:1 expected 1 argument(s) in call to \"floor\", got 0"),
        (
            "hour(a, b)",
            "1:1 expected at most 1 argument(s) in call to \"hour\", got 2",
        ),
        (
            "label_join(a, 'b')",
            "1:1 expected at least 3 argument(s) in call to \"label_join\", got 2",
        ),
        (
            "floor(1)",
            "1:7 expected type instant vector in call to function \"floor\", got scalar",
        ),
        (
            "rate(x)",
            "1:6 expected type range vector in call to function \"rate\", got instant vector",
        ),
        (
            "sum(1)",
            "1:5 expected type instant vector in aggregation expression, got scalar",
        ),
        (
            "topk(x, y)",
            "1:6 expected type scalar in aggregation parameter, got instant vector",
        ),
        (
            "count_values(5, y)",
            "1:14 expected type string in aggregation parameter, got scalar",
        ),
        ("sum() by (a)", "1:1 no arguments for aggregate expression provided"),
        (
            "topk(x)",
            "1:1 wrong number of arguments for aggregate expression provided, expected 2, got 1",
        ),
        (
            "sum(x, y)",
            "1:1 wrong number of arguments for aggregate expression provided, expected 1, got 2",
        ),
        (
            "info(x, 1)",
            "1:1 expected type instant vector in call to function \"info\", got scalar",
        ),
        (
            "info(x, y{a=\"b\"})",
            "1:9 expected label selectors only, got vector selector instead",
        ),
    ] {
        check(text, expected);
    }
    good("info(x, {a=~\".*\"})");
}
