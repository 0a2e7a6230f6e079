//! `format_query` and `parse_query`: what a query looks like, written well or as a tree.

use super::{
    answer::{Answer, ApiError},
    json::Json,
    number::write_fixed,
    params::Asked,
};
use crate::querier::Querier;
use axum::extract::State;
use model::matcher::Matcher;
use promql::ast::{Aggregate, At, Binary, Call, DurationExpr, Expr, Extension, Matching, Shift, VectorSelector};
use promql::parse::parse;
use std::sync::Arc;

pub(super) async fn parse_query(State(querier): State<Arc<Querier>>, asked: Asked) -> Result<Answer, ApiError> {
    let expr = parse(asked.first("query"), querier.parser).map_err(|error| ApiError::parameter("query", error))?;
    let mut answer = Answer::new();
    write_expr(&mut answer.json, &expr);
    Ok(answer)
}

/// One node with those below it. The parser bounds the height. Members come in the order of their names, as from Go's maps.
fn write_expr(json: &mut Json, expr: &Expr) {
    match expr {
        Expr::Aggregate(node) => write_aggregate(json, node),
        Expr::Binary(node) => write_binary(json, node),
        Expr::Call(node) => write_call(json, node),
        Expr::Vector(node) => {
            json.raw("{");
            write_selector(json, node, None);
            json.text_member("type", "vectorSelector").raw("}");
        }
        Expr::Matrix(node) => {
            json.raw("{");
            write_selector(json, &node.selector, Some(&node.range));
            json.text_member("type", "matrixSelector").raw("}");
        }
        Expr::Subquery(node) => {
            json.raw("{").key("expr");
            write_expr(json, &node.expr);
            json.int_member("offset", offset(&node.shift))
                .int_member("range", millis(&node.range));
            write_edge(json, &node.shift);
            json.int_member("step", node.step.as_ref().map_or(0, millis));
            write_at(json, &node.shift);
            json.text_member("type", "subquery").raw("}");
        }
        Expr::Number(node) => {
            json.raw("{").text_member("type", "numberLiteral").key("val").raw("\"");
            write_fixed(&mut json.out, node.value);
            json.raw("\"}");
        }
        Expr::String(node) => {
            json.raw("{")
                .text_member("type", "stringLiteral")
                .text_member("val", &node.value)
                .raw("}");
        }
        Expr::Paren(node) => {
            json.raw("{").key("expr");
            write_expr(json, &node.expr);
            json.text_member("type", "parenExpr").raw("}");
        }
        Expr::Unary(node) => {
            json.raw("{").key("expr");
            write_expr(json, &node.expr);
            json.text_member("op", if node.negative { "-" } else { "+" })
                .text_member("type", "unaryExpr")
                .raw("}");
        }
    }
}

fn write_aggregate(json: &mut Json, node: &Aggregate) {
    json.raw("{").key("expr");
    write_expr(json, &node.expr);
    json.key("grouping")
        .strings(&node.grouping)
        .text_member("op", node.op.as_str())
        .key("param");
    match &node.param {
        Some(param) => write_expr(json, param),
        None => drop(json.raw("null")),
    }
    json.text_member("type", "aggregation")
        .key("without")
        .raw(bool_text(node.without))
        .raw("}");
}

fn write_binary(json: &mut Json, node: &Binary) {
    json.raw("{").key("bool").raw(bool_text(node.return_bool)).key("lhs");
    write_expr(json, &node.left);
    json.key("matching");
    match &node.matching {
        Some(matching) => write_matching(json, matching),
        None => drop(json.raw("null")),
    }
    json.text_member("op", node.op.as_str()).key("rhs");
    write_expr(json, &node.right);
    json.text_member("type", "binaryExpr").raw("}");
}

fn write_matching(json: &mut Json, matching: &Matching) {
    json.raw("{").text_member("card", matching.cardinality.as_str());
    if matching.fill_left.is_some() || matching.fill_right.is_some() {
        json.key("fillValues").raw("{");
        for (side, fill) in [("lhs", matching.fill_left), ("rhs", matching.fill_right)] {
            match fill {
                Some(fill) => drop(json.key(side).value(fill)),
                None => drop(json.key(side).raw("null")),
            }
        }
        json.raw("}");
    }
    json.key("include")
        .strings(&matching.include)
        .key("labels")
        .strings(&matching.labels);
    json.key("on").raw(bool_text(matching.on)).raw("}");
}

fn write_call(json: &mut Json, node: &Call) {
    let signature = node.function.signature();
    json.raw("{").key("args").raw("[");
    for arg in &node.args {
        json.comma();
        write_expr(json, arg);
    }
    json.raw("]")
        .key("func")
        .raw("{")
        .key("argTypes")
        .strings(signature.args.iter().map(|arg| arg.as_str()));
    json.text_member("name", node.function.as_str())
        .text_member("returnType", signature.returns.as_str());
    json.int_member("variadic", i64::from(signature.variadic))
        .raw("}")
        .text_member("type", "call")
        .raw("}");
}

/// The members of a selector up to its type.
fn write_selector(json: &mut Json, node: &VectorSelector, range: Option<&DurationExpr>) {
    if let Some(Extension::Anchored) = node.extension {
        json.key("anchored").raw("true");
    }
    json.key("matchers").raw("[");
    for Matcher { op, name, value, .. } in &node.matchers {
        json.comma()
            .raw("{")
            .text_member("name", name)
            .text_member("type", op.as_str());
        json.text_member("value", value).raw("}");
    }
    json.raw("]")
        .text_member("name", node.name.as_deref().unwrap_or(""))
        .int_member("offset", offset(&node.shift));
    if let Some(range) = range {
        json.int_member("range", millis(range));
    }
    if let Some(Extension::Smoothed) = node.extension {
        json.key("smoothed").raw("true");
    }
    write_edge(json, &node.shift);
    write_at(json, &node.shift);
}

fn write_edge(json: &mut Json, shift: &Shift) {
    json.key("startOrEnd").raw(match shift.at {
        Some(At::Start) => "\"start\"",
        Some(At::End) => "\"end\"",
        Some(At::Time(_)) | None => "null",
    });
}

fn write_at(json: &mut Json, shift: &Shift) {
    match shift.at {
        Some(At::Time(at)) => json.int_member("timestamp", at),
        Some(At::Start | At::End) | None => json.key("timestamp").raw("null"),
    };
}

fn offset(shift: &Shift) -> i64 {
    shift.offset.as_ref().map_or(0, millis)
}

/// Milliseconds of a literal duration. One that must be computed has no value without a query's times; Prometheus shows 0 as well.
fn millis(duration: &DurationExpr) -> i64 {
    duration.literal_ms().unwrap_or(0)
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}
