//! The tree as JSON, in the shape of `/api/v1/parse_query`. Tools that draw or explain queries read it.

use crate::ast::{At, Binary, BinaryOp, Call, DurationExpr, Expr, Extension, Shift, VectorSelector};
use crate::format::float_f;
use serde_json::{Value, json};

/// Describes a query.
pub fn json(expr: &Expr) -> Value {
    match expr {
        Expr::Aggregate(node) => json!({
            "type": "aggregation",
            "op": node.op.as_str(),
            "expr": json(&node.expr),
            "param": node.param.as_ref().map(json),
            "grouping": node.grouping,
            "without": node.without,
        }),
        Expr::Binary(node) => binary(node),
        Expr::Call(node) => call(node),
        Expr::Matrix(node) => {
            let mut value = selector("matrixSelector", &node.selector);
            value["range"] = milliseconds(Some(&node.range));
            value
        }
        Expr::Subquery(node) => {
            let mut value = json!({
                "type": "subquery",
                "expr": json(&node.expr),
                "range": milliseconds(Some(&node.range)),
                "step": milliseconds(node.step.as_ref()),
            });
            shift(&node.shift, &mut value);
            value
        }
        Expr::Number(node) => json!({ "type": "numberLiteral", "val": float_f(node.value) }),
        Expr::Paren(node) => json!({ "type": "parenExpr", "expr": json(&node.expr) }),
        Expr::String(node) => json!({ "type": "stringLiteral", "val": node.value }),
        Expr::Unary(node) => {
            let op = if node.negative { BinaryOp::Sub } else { BinaryOp::Add };
            json!({ "type": "unaryExpr", "op": op.as_str(), "expr": json(&node.expr) })
        }
        Expr::Vector(node) => selector("vectorSelector", node),
    }
}

fn binary(node: &Binary) -> Value {
    let matching = node.matching.as_ref().map(|matching| {
        json!({
            "card": matching.cardinality.as_str(),
            "labels": matching.labels,
            "on": matching.on,
            "include": matching.include,
            "fillValues": {
                "lhs": matching.fill_left.map(float_or_null),
                "rhs": matching.fill_right.map(float_or_null),
            },
        })
    });
    json!({
        "type": "binaryExpr",
        "op": node.op.as_str(),
        "lhs": json(&node.left),
        "rhs": json(&node.right),
        "matching": matching,
        "bool": node.return_bool,
    })
}

/// JSON has no infinities and no NaN, so those are written as strings.
fn float_or_null(value: f64) -> Value {
    if value.is_finite() {
        json!(value)
    } else {
        json!(float_f(value))
    }
}

fn call(node: &Call) -> Value {
    let signature = node.function.signature();
    json!({
        "type": "call",
        "func": {
            "name": node.function.as_str(),
            "argTypes": signature.args.iter().map(|arg| arg.as_str()).collect::<Vec<_>>(),
            "variadic": signature.variadic,
            "returnType": signature.returns.as_str(),
        },
        "args": node.args.iter().map(json).collect::<Vec<_>>(),
    })
}

fn selector(kind: &str, node: &VectorSelector) -> Value {
    let matchers: Vec<Value> = node
        .matchers
        .iter()
        .map(|matcher| json!({ "name": &*matcher.name, "value": &*matcher.value, "type": matcher.op.as_str() }))
        .collect();
    let mut value = json!({
        "type": kind,
        "name": node.name.as_deref().unwrap_or(""),
        "matchers": matchers,
        "anchored": node.extension == Some(Extension::Anchored),
        "smoothed": node.extension == Some(Extension::Smoothed),
    });
    shift(&node.shift, &mut value);
    value
}

fn shift(shift: &Shift, value: &mut Value) {
    value["offset"] = milliseconds(shift.offset.as_ref());
    let (timestamp, start_or_end) = match shift.at {
        None => (Value::Null, Value::Null),
        Some(At::Time(at)) => (json!(at), Value::Null),
        Some(At::Start) => (Value::Null, json!("start")),
        Some(At::End) => (Value::Null, json!("end")),
    };
    value["timestamp"] = timestamp;
    value["startOrEnd"] = start_or_end;
}

/// 0 for what is absent or only known at evaluation, as in Prometheus.
fn milliseconds(duration: Option<&DurationExpr>) -> Value {
    json!(duration.and_then(DurationExpr::literal_ms).unwrap_or(0))
}
