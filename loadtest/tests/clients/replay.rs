//! What clients ask, one row after the other: Grafana's Prometheus source first, in the order in which it uses the calls, then the
//! others. Each row is a request as the client makes it, with what the client needs of the answer.

use crate::Fleet;
use anyhow::{Context, ensure};
use loadtest::{
    api::seconds,
    http::{Client, Response, form},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, thread, time::Duration};

/// A call of a client.
struct Row {
    client: &'static str,
    /// What the client wants to know.
    about: &'static str,
    method: &'static str,
    path: String,
    headers: &'static str,
    body: String,
    check: Check,
}

type Check = Box<dyn Fn(&Response) -> anyhow::Result<()>>;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

fn get(client: &'static str, about: &'static str, path: &str, parameters: &[(&str, &str)], check: Check) -> Row {
    let path = match form(parameters) {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    };
    Row {
        client,
        about,
        method: "GET",
        path,
        headers: "",
        body: String::new(),
        check,
    }
}

fn post(client: &'static str, about: &'static str, path: &str, parameters: &[(&str, &str)], check: Check) -> Row {
    Row {
        client,
        about,
        method: "POST",
        path: path.to_owned(),
        headers: FORM,
        body: form(parameters),
        check,
    }
}

/// The data of a success is as `check` wants it.
fn data(check: impl Fn(&Value) -> bool + 'static) -> Check {
    Box::new(move |response| {
        ensure!(response.status == 200, "status {}", response.status);
        ensure!(response.header("content-type") == Some("application/json"), "not JSON");
        let json: Value = serde_json::from_slice(&response.body)?;
        ensure!(json["status"] == "success", "no success");
        ensure!(check(&json["data"]), "not the data that the client needs");
        Ok(())
    })
}

fn is(expected: Value) -> Check {
    data(move |data| *data == expected)
}

fn list_of(count: usize) -> Check {
    data(move |data| data.as_array().is_some_and(|list| list.len() == count))
}

fn vector_of(count: usize) -> Check {
    data(move |data| data["resultType"] == "vector" && data["result"].as_array().is_some_and(|all| all.len() == count))
}

fn status(wanted: u16) -> Check {
    Box::new(move |response| {
        ensure!(
            response.status == wanted,
            "status {} instead of {wanted}",
            response.status
        );
        Ok(())
    })
}

/// Both must hold.
fn and(first: Check, second: impl Fn(&Response) -> anyhow::Result<()> + 'static) -> Check {
    Box::new(move |response| {
        first(response)?;
        second(response)
    })
}

#[test]
fn every_known_call_of_every_known_client_is_answered() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let fleet = Fleet::start(dir.path(), &[])?;
    let mut client = Client::new(&fleet.server.launch().url, &[], Duration::from_secs(20));
    let mut passed: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut failures = Vec::new();
    for row in grafana(&fleet).into_iter().chain(others(&fleet)) {
        let response = client
            .send(row.method, &row.path, row.headers, row.body.as_bytes())
            .with_context(|| format!("{} {}", row.method, row.path))?;
        let counts = passed.entry(row.client).or_default();
        counts.1 += 1;
        match (row.check)(&response) {
            Ok(()) => counts.0 += 1,
            Err(error) => failures.push(format!(
                "{}, {}: {} {} {}: {error:#}; status {}: {:.600}",
                row.client,
                row.about,
                row.method,
                row.path,
                row.body,
                response.status,
                response.text()
            )),
        }
    }
    for (client, (good, all)) in &passed {
        println!("{client}: {good} of {all} calls");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// Grafana asks for ten panels at once, and merges what it gets by labels and times: they must be the same each time.
#[test]
fn ten_panels_at_once_get_the_same_grid() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let fleet = Fleet::start(dir.path(), &[])?;
    let (start, end) = (seconds(fleet.newest - 300_000), fleet.seconds());
    let url = fleet.server.launch().url.clone();
    let panels: Vec<_> = (0..10)
        .map(|_| {
            let (url, start, end) = (url.clone(), start.clone(), end.clone());
            thread::spawn(move || -> anyhow::Result<Vec<u8>> {
                let parameters = [
                    ("query", "sum by (code) (rate(http_requests_total[1m]))"),
                    ("start", &start),
                    ("end", &end),
                    ("step", "15"),
                ];
                let mut client = Client::new(&url, &[], Duration::from_secs(20));
                let response = client.post("/api/v1/query_range", FORM, form(&parameters).as_bytes())?;
                ensure!(response.status == 200, "{}", response.text());
                Ok(response.body)
            })
        })
        .collect();
    let mut answers = Vec::new();
    for panel in panels {
        answers.push(panel.join().expect("no panic")?);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let first: Value = serde_json::from_slice(&answers[0])?;
    assert_eq!(first["data"]["result"].as_array().map(Vec::len), Some(2));
    Ok(())
}

fn grafana(fleet: &Fleet) -> Vec<Row> {
    let (start, end) = (seconds(fleet.newest - 300_000), fleet.seconds());
    let millis = [(fleet.newest - 300_000).to_string(), fleet.newest.to_string()];
    let times = [("start", start.as_str()), ("end", end.as_str())];
    let grafana = "Grafana";
    let mut rows = Vec::new();

    // query_range: panels and alerting; times are decimal seconds, the step has no unit.
    let range = [("query", "up"), times[0], times[1], ("step", "15")];
    let on_grid = data(|data| {
        let first = &data["result"][0]["values"];
        data["resultType"] == "matrix" && first.as_array().is_some_and(|values| values.len() == 21)
    });
    let kind_first = and(on_grid, |response| {
        let text = response.text();
        ensure!(
            text.find("\"resultType\"") < text.find("\"result\":"),
            "the client holds the whole result back when its type comes later"
        );
        Ok(())
    });
    rows.push(post(grafana, "panel", "/api/v1/query_range", &range, kind_first));
    let fractions = [
        ("query", "up"),
        ("start", "1700000000.123"),
        ("end", "1700000010.623"),
        ("step", "0.5"),
        ("timeout", "30s"),
    ];
    rows.push(get(
        grafana,
        "panel by GET, with fractions",
        "/api/v1/query_range",
        &fractions,
        is(json!({"resultType": "matrix", "result": []})),
    ));
    let fine = [("query", "up"), ("start", "0"), ("end", "86400"), ("step", "1")];
    let advice = Box::new(|response: &Response| {
        ensure!(
            response.status == 400 && response.text().contains("exceeded maximum resolution of 11,000 points"),
            "no advice about the resolution"
        );
        Ok(())
    });
    rows.push(post(grafana, "panel too fine", "/api/v1/query_range", &fine, advice));

    // query: instant panels, variables, alert rules, and the health check.
    let health = is(json!({"resultType": "scalar", "result": [4, "2"]}));
    rows.push(post(
        grafana,
        "health check",
        "/api/v1/query",
        &[("query", "1+1"), ("time", "4")],
        health,
    ));
    let now = [("query", "up"), ("time", end.as_str())];
    rows.push(post(grafana, "instant panel", "/api/v1/query", &now, vector_of(2)));
    rows.push(get(
        grafana,
        "instant panel by GET",
        "/api/v1/query",
        &now,
        vector_of(2),
    ));
    let histogram = [("query", "latency_seconds"), ("time", end.as_str())];
    let buckets = data(|data| {
        let histogram = &data["result"][0]["histogram"][1];
        *histogram == json!({"count": "80", "sum": "60", "buckets": [[0, "0.5", "1", "40"], [0, "1", "2", "40"]]})
    });
    rows.push(post(grafana, "native histogram", "/api/v1/query", &histogram, buckets));
    let odd = [(
        "query",
        "vector(1) / 0 or label_replace(-vector(0) / 0, \"n\", \"1\", \"\", \"\")",
    )];
    let special = data(|data| {
        let values: Vec<&Value> = data["result"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|sample| &sample["value"][1])
            .collect();
        values == ["+Inf", "NaN"]
    });
    rows.push(post(grafana, "numbers that JSON lacks", "/api/v1/query", &odd, special));

    // query_exemplars: the probe at start sends milliseconds where seconds belong.
    let probe = [
        ("query", "test"),
        ("start", millis[0].as_str()),
        ("end", millis[1].as_str()),
    ];
    rows.push(post(
        grafana,
        "exemplar probe",
        "/api/v1/query_exemplars",
        &probe,
        is(json!([])),
    ));
    let exemplars = [("query", "http_requests_total"), times[0], times[1]];
    let found = data(|data| {
        let first = &data[0];
        data.as_array().is_some_and(|all| all.len() == 2)
            && first["seriesLabels"]["code"] == "200"
            && first["exemplars"][0]["labels"]["trace_id"] == "4bf92f3577b34da6"
    });
    rows.push(get(grafana, "exemplars", "/api/v1/query_exemplars", &exemplars, found));

    // labels: the editor and ad-hoc filters.
    let labels = [("limit", "40000"), ("match[]", "{__name__=\"up\"}"), times[0], times[1]];
    let names = is(json!(["__name__", "instance", "job"]));
    rows.push(post(grafana, "label names", "/api/v1/labels", &labels, names));
    rows.push(get(
        grafana,
        "label names without limit",
        "/api/v1/labels",
        &[("limit", "0")],
        list_of(5),
    ));
    let cut = and(list_of(1), |response| {
        ensure!(response.text().contains("results truncated due to limit"), "no warning");
        Ok(())
    });
    rows.push(post(
        grafana,
        "label names cut",
        "/api/v1/labels",
        &[("limit", "1")],
        cut,
    ));

    // label values: the metric list, and variables. Names beyond the old alphabet are escaped.
    let metrics = is(json!(["dotted.name", "http_requests_total", "latency_seconds", "up"]));
    let recent = [times[0], times[1], ("limit", "40000")];
    rows.push(get(
        grafana,
        "metric names",
        "/api/v1/label/__name__/values",
        &recent,
        metrics,
    ));
    let escaped = "/api/v1/label/U__http_2e_status/values";
    rows.push(get(
        grafana,
        "values of an escaped name",
        escaped,
        &recent,
        is(json!(["5\"0"])),
    ));
    let chosen = [("match[]", "http_requests_total{job=\"api\"}"), times[0], times[1]];
    rows.push(get(
        grafana,
        "values for a variable",
        "/api/v1/label/code/values",
        &chosen,
        is(json!(["200", "500"])),
    ));

    // series: old sources and classic variables.
    let all = [("match[]", "{__name__!=\"\"}"), ("limit", "40000"), times[0], times[1]];
    rows.push(post(grafana, "series", "/api/v1/series", &all, list_of(6)));

    // metadata: at start, and metric by metric.
    let told = data(|data| data["up"] == json!([{"type": "gauge", "unit": "", "help": "Whether it is up"}]));
    rows.push(get(
        grafana,
        "metadata",
        "/api/v1/metadata",
        &[("limit", "40000")],
        told,
    ));
    let one = data(|data| data.as_object().is_some_and(|all| all.len() == 1));
    rows.push(get(
        grafana,
        "metadata of a metric",
        "/api/v1/metadata",
        &[("metric", "http_requests_total"), ("limit", "40000")],
        one,
    ));

    // rules and alerts: at start and in the alert list.
    rows.push(get(grafana, "rules", "/api/v1/rules", &[], is(json!({"groups": []}))));
    rows.push(get(grafana, "alerts", "/api/v1/alerts", &[], is(json!({"alerts": []}))));

    // buildinfo: no features, or we are taken for Mimir; a version below 2.24 means slow calls.
    let prometheus = data(|data| {
        let parts: Vec<u32> = data["version"]
            .as_str()
            .unwrap_or_default()
            .split('.')
            .filter_map(|part| part.parse().ok())
            .collect();
        parts.len() == 3 && parts >= vec![2, 24, 0] && data.get("features").is_none()
    });
    rows.push(get(
        grafana,
        "save and test",
        "/api/v1/status/buildinfo",
        &[],
        prometheus,
    ));
    rows.push(get(
        grafana,
        "alerting detection",
        "/api/v1/status/flags",
        &[],
        data(|data| data["query.timeout"].is_string()),
    ));
    // Rule editing is optional, and 404 says that it is not there.
    for path in ["/rules", "/config/v1/rules"] {
        rows.push(get(grafana, "rule editing", path, &[], status(404)));
    }

    // Further habits: parameters of the URL beside a form, parameters that nobody knows, statistics.
    let mut custom = post(
        grafana,
        "custom parameters",
        "/api/v1/query?max_samples_processed_warning_threshold=5&max_samples_processed_error_threshold=9&time=4",
        &[("query", "time()")],
        is(json!({"resultType": "scalar", "result": [4, "4"]})),
    );
    rows.push(custom);
    let counted = data(|data| data["stats"]["samples"]["totalQueryableSamples"].as_u64() > Some(0));
    let with_stats = [("query", "up"), ("time", end.as_str()), ("stats", "all")];
    rows.push(post(grafana, "statistics", "/api/v1/query", &with_stats, counted));
    custom = get(grafana, "gzip", "/api/v1/labels", &[], packed("gzip"));
    custom.headers = "Accept-Encoding: gzip, deflate, br\r\n";
    rows.push(custom);
    let plain = and(list_of(5), |response| {
        ensure!(
            response.header("content-encoding").is_none(),
            "an encoding that was not asked for"
        );
        Ok(())
    });
    rows.push(get(grafana, "no encoding", "/api/v1/labels", &[], plain));
    rows
}

fn packed(encoding: &'static str) -> Check {
    Box::new(move |response| {
        ensure!(response.status == 200, "status {}", response.status);
        ensure!(response.header("content-encoding") == Some(encoding), "not packed");
        ensure!(response.body.starts_with(&[0x1f, 0x8b]), "not {encoding}");
        Ok(())
    })
}

fn others(fleet: &Fleet) -> Vec<Row> {
    let end = fleet.seconds();
    let mut rows = Vec::new();

    // promtool asks with windows of years, also into the future.
    let years = [
        ("match[]", "up"),
        ("start", "2000-01-01T00:00:00Z"),
        ("end", "2100-01-01T00:00:00Z"),
    ];
    rows.push(get(
        "promtool",
        "series of a century",
        "/api/v1/series",
        &years,
        list_of(2),
    ));
    rows.push(get(
        "promtool",
        "label values of a century",
        "/api/v1/label/job/values",
        &years[1..],
        is(json!(["api", "node"])),
    ));

    // vmalert posts everything in the URL, calls the empty body JSON, and restores its state.
    for (about, query, found) in [
        ("evaluation", "up == 1", 2),
        (
            "state restore",
            "last_over_time(ALERTS_FOR_STATE{alertname=\"Down\",alertgroup=\"g\"}[3600s])",
            0,
        ),
    ] {
        let query = form(&[("query", query), ("time", end.as_str()), ("step", "15s")]);
        let mut row = post(
            "vmalert",
            about,
            &format!("/api/v1/query?{query}"),
            &[],
            vector_of(found),
        );
        row.headers = "Content-Type: application/json\r\n";
        rows.push(row);
    }

    // Prometheus reads remotely; the real one is tested beside this. A body that is none is refused, not retried.
    let mut read = post("Prometheus", "remote read", "/api/v1/read", &[], status(400));
    read.headers = "Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n";
    rows.push(read);
    let federated = Box::new(|response: &Response| {
        ensure!(response.status == 200, "status {}", response.status);
        ensure!(
            response.text().contains("up{instance=\"a:1\",job=\"node\"} 1 "),
            "no sample"
        );
        Ok(())
    });
    rows.push(get(
        "Prometheus",
        "federation",
        "/federate",
        &[("match[]", "up")],
        federated,
    ));

    // pint checks rules against a server.
    let yaml = data(|data| data["yaml"].as_str().is_some_and(|text| text.contains("query.timeout")));
    rows.push(get("pint", "configuration", "/api/v1/status/config", &[], yaml));
    let flags = data(|data| data.as_object().is_some_and(|flags| !flags.is_empty()));
    rows.push(get("pint", "flags", "/api/v1/status/flags", &[], flags));
    let build = data(|data| data["version"].is_string());
    rows.push(get("pint", "build", "/api/v1/status/buildinfo", &[], build));
    let gauge = data(|data| data["up"][0]["type"] == "gauge");
    rows.push(get(
        "pint",
        "type of a metric",
        "/api/v1/metadata",
        &[("metric", "up")],
        gauge,
    ));
    let counting = [("query", "count(up)"), ("time", end.as_str())];
    rows.push(post(
        "pint",
        "number of series",
        "/api/v1/query",
        &counting,
        vector_of(1),
    ));

    // mimirtool and other clients of Mimir look below /prometheus.
    let everything = [("match[]", "{__name__!=\"\"}")];
    let below = "/prometheus/api/v1/series";
    rows.push(get("mimirtool", "series", below, &everything, list_of(6)));

    // The web interface of Prometheus 3.
    let query = [("query", "sum(rate(up[5m])) by (job)")];
    let tree = data(|data| data["type"] == "aggregation" && data["op"] == "sum");
    rows.push(post(
        "Prometheus UI",
        "explanation",
        "/api/v1/parse_query",
        &query,
        tree,
    ));
    let pretty = is(json!("sum by (job) (rate(up[5m]))"));
    rows.push(get("Prometheus UI", "format", "/api/v1/format_query", &query, pretty));
    rows.push(get(
        "Prometheus UI",
        "notifications",
        "/api/v1/notifications",
        &[],
        is(json!([])),
    ));
    rows.push(get(
        "Prometheus UI",
        "live notifications",
        "/api/v1/notifications/live",
        &[],
        status(204),
    ));
    let head = data(|data| data["headStats"]["numSeries"] == 6);
    rows.push(get(
        "Prometheus UI",
        "head",
        "/api/v1/status/tsdb",
        &[("limit", "10")],
        head,
    ));
    let runtime = data(|data| data["startTime"].is_string());
    rows.push(get(
        "Prometheus UI",
        "runtime",
        "/api/v1/status/runtimeinfo",
        &[],
        runtime,
    ));
    let targets = data(|data| data["activeTargets"] == json!([]));
    rows.push(get(
        "Prometheus UI",
        "targets",
        "/api/v1/targets",
        &[("state", "active")],
        targets,
    ));
    let document = Box::new(|response: &Response| {
        ensure!(response.status == 200, "status {}", response.status);
        ensure!(response.text().contains("\"/api/v1/query_range\":"), "no document");
        Ok(())
    });
    rows.push(get("Prometheus UI", "OpenAPI", "/api/v1/openapi.yaml", &[], document));

    // Autoscalers name a tenant and need an answer at once; a tenant without data has none.
    let scaler = [("query", "sum(up)")];
    let mut mine = get("KEDA", "own tenant", "/api/v1/query", &scaler, vector_of(1));
    mine.headers = "X-Scope-OrgID: default-tenant\r\n";
    rows.push(mine);
    let mut foreign = get("KEDA", "another tenant", "/api/v1/query", &scaler, vector_of(0));
    foreign.headers = "X-Scope-OrgID: somebody-else\r\n";
    rows.push(foreign);

    // Scripts and assistants post whatever they ask.
    for path in ["/api/v1/labels", "/api/v1/series"] {
        let some = data(|data| data.as_array().is_some_and(|list| !list.is_empty()));
        rows.push(post("scripts", "lookup by POST", path, &[("match[]", "up")], some));
    }
    rows
}
