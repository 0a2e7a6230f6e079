//! The OpenAPI document: the catalogue of calls, written as YAML.

use super::catalogue::{Answered, CALLS, Call, ERROR, Kind, Parameter, Sent, Shape, Verb};
use crate::{querier::Querier, status::OtherCall};
use ::http::header;
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use std::sync::Arc;

/// The version of the OpenAPI specification that the document follows.
const OPENAPI_VERSION: &str = "3.1.0";

pub(super) async fn document(State(querier): State<Arc<Querier>>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/yaml; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let status = &querier.status;
    (headers, describe(&status.version(), &status.other_calls()).yaml()).into_response()
}

/// A value of the document.
enum Node {
    Text(String),
    Integer(usize),
    Flag(bool),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

fn text(text: impl Into<String>) -> Node {
    Node::Text(text.into())
}

fn map<const N: usize>(members: [(&str, Node); N]) -> Node {
    Node::Map(
        members
            .into_iter()
            .map(|(name, node)| (name.to_owned(), node))
            .collect(),
    )
}

fn texts(items: &[&str]) -> Node {
    Node::List(items.iter().map(|item| text(*item)).collect())
}

fn describe(version: &str, others: &[OtherCall]) -> Node {
    let about = "The HTTP API of Narthex. The calls of the Prometheus HTTP API that answer questions are served below /prometheus as well.";
    let info = map([
        ("title", text("Narthex API")),
        ("description", text(about)),
        ("version", text(version)),
    ]);
    let mut tags: Vec<&str> = Vec::new();
    for tag in CALLS
        .iter()
        .map(|call| call.tag)
        .chain(others.iter().map(|call| call.tag))
    {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let tags = tags.into_iter().map(|tag| map([("name", text(tag))]));
    let paths = CALLS.iter().map(|call| (call.path.to_owned(), describe_path(call)));
    let paths = paths.chain(others.iter().map(|call| (call.path.to_owned(), describe_other(call))));
    map([
        ("openapi", text(OPENAPI_VERSION)),
        ("info", info),
        ("tags", Node::List(tags.collect())),
        ("paths", Node::Map(paths.collect())),
        ("components", map([("schemas", map([("Error", schema(&ERROR))]))])),
    ])
}

fn describe_path(call: &Call) -> Node {
    let operations = call
        .verbs
        .iter()
        .map(|verb| (verb.as_str().to_owned(), describe_operation(call, *verb)));
    Node::Map(operations.collect())
}

/// The name of an operation, which no other has.
fn operation_id(method: &str, path: &str) -> Node {
    let name: String = path.chars().filter(|c| !matches!(c, '{' | '}')).collect();
    text(format!(
        "{method}{}",
        name.replace("/api/v1", "").replace(['/', '.'], "-")
    ))
}

/// A path that is not the querier's.
fn describe_other(call: &OtherCall) -> Node {
    let operations = call.methods.iter().map(|method| {
        let mut members = vec![
            ("operationId".to_owned(), operation_id(method, call.path)),
            ("tags".to_owned(), texts(&[call.tag])),
            ("summary".to_owned(), text(call.about)),
        ];
        let variable = call
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters: Vec<Node> = variable.map(describe_variable).collect();
        if !parameters.is_empty() {
            members.push(("parameters".to_owned(), Node::List(parameters)));
        }
        if *method != "get" && !call.body.is_empty() {
            members.push(("requestBody".to_owned(), describe_message(call.body)));
        }
        let answers = call.answers.iter().map(|(code, about, media_type)| {
            let mut answer = vec![("description".to_owned(), text(*about))];
            if !media_type.is_empty() {
                let any = map([("schema", Node::Map(Vec::new()))]);
                answer.push(("content".to_owned(), Node::Map(vec![((*media_type).to_owned(), any)])));
            }
            ((*code).to_owned(), Node::Map(answer))
        });
        members.push(("responses".to_owned(), Node::Map(answers.collect())));
        ((*method).to_owned(), Node::Map(members))
    });
    Node::Map(operations.collect())
}

/// A variable part of a path that is not the querier's.
fn describe_variable(name: &str) -> Node {
    map([
        ("name", text(name)),
        ("in", text("path")),
        ("required", Node::Flag(true)),
        ("schema", map([("type", text("string"))])),
    ])
}

/// A body that is a message of some media type.
fn describe_message(media_type: &str) -> Node {
    let binary = map([("schema", map([("type", text("string")), ("format", text("binary"))]))]);
    let content = Node::Map(vec![(media_type.to_owned(), binary)]);
    map([("required", Node::Flag(true)), ("content", content)])
}

fn describe_operation(call: &Call, verb: Verb) -> Node {
    let in_body = verb != Verb::Get && call.body == Sent::Form;
    let mut members = vec![
        ("operationId".to_owned(), operation_id(verb.as_str(), call.path)),
        ("tags".to_owned(), texts(&[call.tag])),
        ("summary".to_owned(), text(call.about)),
    ];
    let in_url = |parameter: &&Parameter| !in_body || parameter.kind == Kind::Path;
    let parameters: Vec<Node> = call.parameters.iter().filter(in_url).map(describe_parameter).collect();
    if !parameters.is_empty() {
        members.push(("parameters".to_owned(), Node::List(parameters)));
    }
    match call.body {
        Sent::Form if in_body && !call.parameters.is_empty() => {
            members.push(("requestBody".to_owned(), describe_form(call)));
        }
        Sent::Message(media_type) => {
            members.push(("requestBody".to_owned(), describe_message(media_type)));
        }
        Sent::Form => {}
    }
    members.push(("responses".to_owned(), describe_answers(call)));
    Node::Map(members)
}

fn describe_parameter(parameter: &Parameter) -> Node {
    let (place, required) = match parameter.kind {
        Kind::Path => ("path", true),
        Kind::Text | Kind::Time | Kind::Duration | Kind::Integer | Kind::Flag | Kind::OneOf(_) => {
            ("query", parameter.required)
        }
    };
    let mut members = vec![
        ("name".to_owned(), text(parameter.name)),
        ("in".to_owned(), text(place)),
        ("required".to_owned(), Node::Flag(required)),
        ("description".to_owned(), text(parameter.about)),
        ("schema".to_owned(), parameter_schema(parameter)),
    ];
    if !parameter.example.is_empty() {
        members.push(("example".to_owned(), example(parameter)));
    }
    Node::Map(members)
}

/// The parameters as fields of a form.
fn describe_form(call: &Call) -> Node {
    let fields = call.parameters.iter().filter(|parameter| parameter.kind != Kind::Path);
    let (mut properties, mut examples, mut required) = (Vec::new(), Vec::new(), Vec::new());
    for parameter in fields {
        let Node::Map(mut schema) = parameter_schema(parameter) else {
            continue;
        };
        schema.push(("description".to_owned(), text(parameter.about)));
        properties.push((parameter.name.to_owned(), Node::Map(schema)));
        if !parameter.example.is_empty() {
            examples.push((parameter.name.to_owned(), example(parameter)));
        }
        if parameter.required {
            required.push(parameter.name);
        }
    }
    let schema = map([
        ("type", text("object")),
        ("properties", Node::Map(properties)),
        ("required", texts(&required)),
    ]);
    let form = map([("schema", schema), ("example", Node::Map(examples))]);
    let about = "A form. The same parameters may be in the URL; those of the form come first.";
    map([
        ("description", text(about)),
        ("required", Node::Flag(!required.is_empty())),
        ("content", map([("application/x-www-form-urlencoded", form)])),
    ])
}

fn parameter_schema(parameter: &Parameter) -> Node {
    let one = match parameter.kind {
        Kind::Text | Kind::Path | Kind::Time | Kind::Duration => map([("type", text("string"))]),
        Kind::Integer => map([("type", text("integer"))]),
        Kind::Flag => map([("type", text("boolean"))]),
        Kind::OneOf(words) => map([("type", text("string")), ("enum", texts(words))]),
    };
    if parameter.repeated {
        map([("type", text("array")), ("items", one)])
    } else {
        one
    }
}

fn example(parameter: &Parameter) -> Node {
    let one = match (parameter.kind, parameter.example.parse::<usize>()) {
        (Kind::Integer, Ok(number)) => Node::Integer(number),
        (Kind::Flag, _) => Node::Flag(parameter.example == "true"),
        _ => text(parameter.example),
    };
    if parameter.repeated { Node::List(vec![one]) } else { one }
}

fn describe_answers(call: &Call) -> Node {
    let mut answers = Vec::new();
    let mut add = |code: &str, about: &str, content: Option<(&str, Node)>| {
        let mut members = vec![("description".to_owned(), text(about))];
        if let Some((media_type, schema)) = content {
            let content = Node::Map(vec![(media_type.to_owned(), map([("schema", schema)]))]);
            members.push(("content".to_owned(), content));
        }
        answers.push((code.to_owned(), Node::Map(members)));
    };
    match call.answer {
        Answered::Data(shape) => add("200", "Success.", Some(("application/json", envelope(&shape)))),
        Answered::Raw(media_type) => add("200", "Success.", Some((media_type, map([("type", text("string"))])))),
        Answered::Nothing => add("204", "Done; there is nothing to say.", None),
        Answered::NothingUnlessWarned => {
            add("204", "Done; there is nothing to say.", None);
            let warned = envelope(&Shape::Object(&[]));
            add("200", "Done, with warnings.", Some(("application/json", warned)));
        }
        Answered::NeverFound => {
            let error = map([("$ref", text("#/components/schemas/Error"))]);
            add("404", "There is none.", Some(("application/json", error)));
        }
    }
    let error = map([("$ref", text("#/components/schemas/Error"))]);
    add(
        "default",
        "An error; the status code and errorType say of what kind.",
        Some(("application/json", error)),
    );
    Node::Map(answers)
}

fn envelope(data: &Shape) -> Node {
    let notes = || map([("type", text("array")), ("items", map([("type", text("string"))]))]);
    let properties = map([
        ("status", map([("type", text("string")), ("enum", texts(&["success"]))])),
        ("data", schema(data)),
        ("warnings", notes()),
        ("infos", notes()),
    ]);
    map([
        ("type", text("object")),
        ("properties", properties),
        ("required", texts(&["status", "data"])),
        ("additionalProperties", Node::Flag(false)),
    ])
}

/// The JSON schema of a shape.
fn schema(shape: &Shape) -> Node {
    let typed = |name: &str| map([("type", text(name))]);
    match shape {
        Shape::Text => typed("string"),
        Shape::Integer => typed("integer"),
        Shape::Number => typed("number"),
        Shape::Flag => typed("boolean"),
        Shape::Any => Node::Map(Vec::new()),
        Shape::List(item) => map([("type", text("array")), ("items", schema(item))]),
        Shape::Map(value) => map([("type", text("object")), ("additionalProperties", schema(value))]),
        Shape::Object(members) => {
            let properties = members
                .iter()
                .map(|member| (member.name.to_owned(), schema(&member.shape)));
            let required: Vec<&str> = members
                .iter()
                .filter(|member| member.always)
                .map(|member| member.name)
                .collect();
            map([
                ("type", text("object")),
                ("properties", Node::Map(properties.collect())),
                ("required", texts(&required)),
                ("additionalProperties", Node::Flag(false)),
            ])
        }
        Shape::Tuple(items) => map([
            ("type", text("array")),
            ("prefixItems", Node::List(items.iter().map(schema).collect())),
            ("minItems", Node::Integer(items.len())),
            ("maxItems", Node::Integer(items.len())),
        ]),
        Shape::Either(shapes) => map([("oneOf", Node::List(shapes.iter().map(schema).collect()))]),
        Shape::OrNull(shape) => map([("anyOf", Node::List(vec![schema(shape), typed("null")]))]),
        Shape::Words(words) => map([("type", text("string")), ("enum", texts(words))]),
    }
}

impl Node {
    /// The document as YAML: maps and lists by indentation, texts quoted as in JSON.
    fn yaml(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    /// Writes what stands behind a key or a dash, line feed included.
    fn write(&self, out: &mut String, depth: usize) {
        match self {
            Node::Text(text) => out.push_str(&format!("{}\n", quoted(text))),
            Node::Integer(number) => out.push_str(&format!("{number}\n")),
            Node::Flag(flag) => out.push_str(&format!("{flag}\n")),
            Node::List(items) if items.is_empty() => out.push_str("[]\n"),
            Node::Map(members) if members.is_empty() => out.push_str("{}\n"),
            Node::List(items) => {
                for item in items {
                    begin_line(out, depth);
                    out.push_str("- ");
                    item.write(out, depth + 1);
                }
            }
            Node::Map(members) => {
                for (name, member) in members {
                    begin_line(out, depth);
                    out.push_str(&format!("{}:", quoted(name)));
                    if member.is_block() {
                        out.push('\n');
                    } else {
                        out.push(' ');
                    }
                    member.write(out, depth + 1);
                }
            }
        }
    }

    fn is_block(&self) -> bool {
        match self {
            Node::List(items) => !items.is_empty(),
            Node::Map(members) => !members.is_empty(),
            Node::Text(_) | Node::Integer(_) | Node::Flag(_) => false,
        }
    }
}

/// Indents a new line; behind a dash the line goes on.
fn begin_line(out: &mut String, depth: usize) {
    if out.ends_with("- ") {
        return;
    }
    out.push_str(&"  ".repeat(depth));
}

/// A word as it is, anything else in quotes.
fn quoted(text: &str) -> String {
    let word = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text);
    if word {
        return text.to_owned();
    }
    let mut json = super::json::Json::new();
    json.label_string(text);
    String::from_utf8_lossy(&json.out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_is_indented_and_quoted_where_it_must_be() {
        let node = map([
            ("a", text("two words")),
            ("on", text("null")),
            (
                "list",
                Node::List(vec![map([("x", Node::Integer(1)), ("y", texts(&[]))]), text("z")]),
            ),
            ("$ref", map([("deep", texts(&["p", "q"]))])),
            ("empty", Node::Map(Vec::new())),
        ]);
        let expected = "a: \"two words\"\n\"on\": \"null\"\nlist:\n  - x: 1\n    \"y\": []\n  - z\n\"$ref\":\n  deep:\n    - p\n    - q\nempty: {}\n";
        assert_eq!(node.yaml(), expected);
    }
}
