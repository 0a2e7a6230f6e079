//! The OpenAPI document against the server: every call it documents is made as its examples say, and every answer is held against
//! the schema that it promises.

use crate::common::{
    api::{Api, Reply, encoded},
    fleet,
};
use axum::body::Body;
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode};
use model::{
    admin::{AdminError, Administer, Deleted},
    matcher::Matcher,
    tenant::Tenant,
    time::TimeRange,
};
use proto::{compression::snappy, remote_read::ReadRequest};
use querier::QuerierSettings;
use serde_json::{Value, json};
use std::sync::Arc;

/// Does whatever it is told.
struct Willing;

impl Administer for Willing {
    fn delete_series<'a>(
        &'a self,
        _tenant: &'a Tenant,
        _selectors: Vec<Vec<Matcher>>,
        _range: TimeRange,
    ) -> BoxFuture<'a, Result<Deleted, AdminError>> {
        Box::pin(async { Ok(Deleted::default()) })
    }

    fn clean_tombstones<'a>(&'a self, _tenant: &'a Tenant) -> BoxFuture<'a, Result<(), AdminError>> {
        Box::pin(async { Ok(()) })
    }

    fn snapshot<'a>(&'a self, _tenant: &'a Tenant, _skip_head: bool) -> BoxFuture<'a, Result<String, AdminError>> {
        Box::pin(async { Ok("20240301T000000Z-1".to_owned()) })
    }
}

fn api() -> Api {
    Api::administered(fleet().shared(), QuerierSettings::default(), Some(Arc::new(Willing)))
}

async fn document(api: &Api) -> Value {
    let reply = api.get("/api/v1/openapi.yaml").await;
    assert_eq!(reply.headers["content-type"], "application/yaml; charset=utf-8");
    serde_saphyr::from_str(reply.text()).unwrap_or_else(|error| panic!("{error}:\n{}", reply.text()))
}

/// A documented call: method, path as documented, and what is said about it.
struct Operation {
    method: Method,
    path: String,
    about: Value,
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, about) in methods.as_object().unwrap() {
            all.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                about: about.clone(),
            });
        }
    }
    all
}

/// Name and example of each parameter, in URL or form, an element at a time.
fn examples(about: &Value) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    let mut add = |name: &str, place: &str, example: &Value| {
        let items = match example {
            Value::Array(items) => items.clone(),
            Value::Null => Vec::new(),
            one => vec![one.clone()],
        };
        for item in items {
            let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            all.push((name.to_owned(), place.to_owned(), text));
        }
    };
    for parameter in about["parameters"].as_array().into_iter().flatten() {
        let place = parameter["in"].as_str().unwrap();
        add(parameter["name"].as_str().unwrap(), place, &parameter["example"]);
    }
    let form = &about["requestBody"]["content"]["application/x-www-form-urlencoded"];
    for (name, example) in form["example"].as_object().into_iter().flatten() {
        add(name, "form", example);
    }
    all
}

/// Makes the call as documented, without the parameter `without`.
async fn make(api: &Api, operation: &Operation, without: &str) -> Reply {
    let mut path = operation.path.clone();
    let (mut url, mut form) = (String::new(), String::new());
    for (name, place, value) in examples(&operation.about) {
        if name == without {
            continue;
        }
        let pair = format!("{}={}&", encoded(&name), encoded(&value));
        match place.as_str() {
            "path" => path = path.replace(&format!("{{{name}}}"), &encoded(&value)),
            "query" => url.push_str(&pair),
            _ => form.push_str(&pair),
        }
    }
    let request = Request::builder()
        .method(&operation.method)
        .uri(format!("{path}?{url}"));
    let content = &operation.about["requestBody"]["content"];
    let request = if content["application/x-protobuf"].is_object() {
        let message = ReadRequest::default().encode();
        request
            .header("content-type", "application/x-protobuf")
            .body(Body::from(snappy(&message)))
    } else if form.is_empty() {
        request.body(Body::empty())
    } else {
        request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form))
    };
    api.send(request.unwrap()).await
}

/// What is wrong with `value` by the words of `schema`.
fn faults(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return faults(document, target, value, at);
    }
    for (word, wanted) in [("oneOf", 1..=1), ("anyOf", 1..=usize::MAX)] {
        if let Some(choices) = schema[word].as_array() {
            let fitting = choices
                .iter()
                .filter(|choice| faults(document, choice, value, at).is_empty());
            let count = fitting.count();
            return (!wanted.contains(&count))
                .then(|| format!("{at}: {count} of {word} fit {value}"))
                .into_iter()
                .collect();
        }
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return vec![format!("{at}: {value} is none of {words:?}")];
    }
    let right = match schema["type"].as_str() {
        None => true,
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some(other) => panic!("{at}: unknown type {other}"),
    };
    if !right {
        return vec![format!("{at}: {value} is no {}", schema["type"])];
    }
    let mut all = Vec::new();
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        let own = schema["prefixItems"].get(index).unwrap_or(&schema["items"]);
        all.extend(faults(document, own, item, &format!("{at}[{index}]")));
    }
    if let (Some(least), Some(items)) = (schema["minItems"].as_u64(), value.as_array())
        && items.len() as u64 != least
    {
        all.push(format!("{at}: {} items, not {least}", items.len()));
    }
    let none = Value::Null;
    for (name, member) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        let own = schema["properties"].get(name);
        match own.or_else(|| schema.get("additionalProperties")).unwrap_or(&none) {
            Value::Bool(false) => all.push(format!("{at} is not documented")),
            schema => all.extend(faults(document, schema, member, &at)),
        }
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            all.push(format!("{at} lacks {name}"));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_call_is_answered_as_documented() {
    let api = api();
    let document = document(&api).await;
    let operations = operations(&document);
    assert!(operations.len() > 35, "{} operations", operations.len());
    let mut complaints = Vec::new();
    for operation in &operations {
        let name = format!("{} {}", operation.method, operation.path);
        let reply = make(&api, operation, "").await;
        let answers = &operation.about["responses"];
        let code = reply.status.as_u16().to_string();
        // Each is documented to go well, and does, but for the one that never finds anything.
        let Some(answer) = answers.get(&code) else {
            complaints.push(format!("{name}: {code} is not documented: {}", reply.text()));
            continue;
        };
        let Some((media_type, content)) = answer["content"].as_object().and_then(|content| content.iter().next())
        else {
            assert!(reply.body.is_empty(), "{name} has a body");
            continue;
        };
        let sent = reply.headers["content-type"].to_str().unwrap();
        if !sent.starts_with(media_type.as_str()) {
            complaints.push(format!("{name}: {sent} instead of {media_type}"));
        }
        if media_type == "application/json" {
            complaints.extend(faults(&document, &content["schema"], &reply.json(), &name));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test]
async fn only_what_is_documented_is_served() {
    let api = api();
    let document = document(&api).await;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let uri = path.replace("{name}", "job");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let documented = methods.get(method.as_str().to_lowercase()).is_some();
            let status = api.call(method.clone(), &uri, &[], "").await.status;
            assert_ne!(
                documented,
                status == StatusCode::METHOD_NOT_ALLOWED,
                "{method} {path}: {status}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_required_is_missed_in_the_documented_form() {
    let api = api();
    let document = document(&api).await;
    let mut missed = 0;
    for operation in operations(&document) {
        let about = &operation.about;
        let form = &about["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]["required"];
        let in_form = form.as_array().into_iter().flatten().cloned();
        let parameters = about["parameters"].as_array().into_iter().flatten();
        let in_url = parameters
            .filter(|parameter| parameter["required"] == true && parameter["in"] == "query")
            .map(|parameter| parameter["name"].clone());
        for name in in_form.chain(in_url) {
            let reply = make(&api, &operation, name.as_str().unwrap()).await;
            assert_eq!(
                reply.status,
                StatusCode::BAD_REQUEST,
                "{} without {name}",
                operation.path
            );
            let error = json!({"$ref": "#/components/schemas/Error"});
            assert_eq!(faults(&document, &error, &reply.json(), "error"), [""; 0]);
            missed += 1;
        }
    }
    assert!(missed > 15, "only {missed} parameters are required");
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let schema = json!({"type": "object", "required": ["a"], "additionalProperties": false, "properties": {
        "a": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}], "minItems": 2},
        "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    }});
    let check = |value: Value| faults(&Value::Null, &schema, &value, "x").len();
    assert_eq!(check(json!({"a": [1.5, "y"], "b": null})), 0);
    assert_eq!(check(json!({"a": [1.5, 2], "b": 2.5})), 2);
    assert_eq!(check(json!({"a": [1.5]})), 1);
    assert_eq!(check(json!({"c": 1})), 2);
    assert_eq!(check(json!([])), 1);
}
