//! Calls that look things up, as Grafana, promtool, pint and others make them.

mod common;

use common::{
    Memory, NOW, Tenants,
    api::{Api, encoded},
};
use http::{Method, StatusCode};
use model::{metadata::MetricType, select::SelectError, tenant::Tenant};
use querier::{Fanout, Policy, QuerierSettings};
use serde_json::json;
use std::{sync::Arc, time::Duration};

fn memory() -> Memory {
    let at = NOW - 30_000;
    Memory::new()
        .floats(
            &[("__name__", "up"), ("job", "node"), ("instance", "a:1")],
            &[(at, 1.0), (at + 15_000, 1.0)],
        )
        .floats(
            &[("__name__", "up"), ("job", "node"), ("instance", "b:1")],
            &[(at, 0.0)],
        )
        .floats(
            &[("__name__", "http_requests_total"), ("code", "200")],
            &[(at, 12_345_678.5)],
        )
        .floats(&[("__name__", "old"), ("job", "gone")], &[(NOW - 86_400_000, 1.0)])
        .floats(
            &[("__name__", "dotted.name"), ("http.status", "5\"0\\0\n")],
            &[(at, 3.0)],
        )
        .about("up", MetricType::Gauge, "Whether it is up")
        .about("http_requests_total", MetricType::Counter, "Requests")
        .about("http_requests_total", MetricType::Counter, "Requests, differently")
        .exemplar(
            &[("__name__", "http_requests_total"), ("code", "200")],
            &[("trace_id", "abc")],
            at,
            0.25,
        )
}

fn api() -> Api {
    Api::new(memory())
}

// --- Grafana -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn grafana_label_names_for_the_editor() {
    let form = format!(
        "start=1709250000&end=1709251200&limit=40000&match[]={}",
        encoded("{__name__!=\"\"}")
    );
    let expected = r#"{"status":"success","data":["__name__","code","http.status","instance","job"]}"#;
    api().post("/api/v1/labels", &form).await.is(expected);
    api().get(&format!("/api/v1/labels?{form}")).await.is(expected);
}

#[tokio::test]
async fn grafana_label_names_cut_by_its_limit() {
    let reply = api().post("/api/v1/labels", "limit=2").await;
    let expected = concat!(
        r#"{"status":"success","data":["__name__","code"],"#,
        r#""warnings":["results truncated due to limit"]}"#
    );
    reply.is(expected);
    assert_eq!(reply.headers["cache-control"], "no-store");
    let whole = api().post("/api/v1/labels", "limit=0").await.json();
    assert_eq!(
        (whole["data"].as_array().unwrap().len(), &whole["warnings"]),
        (5, &json!(null))
    );
    let exact = api().post("/api/v1/labels", "limit=5").await.json();
    assert_eq!(exact["warnings"], json!(null), "nothing was cut");
}

#[tokio::test]
async fn grafana_metric_names() {
    let reply = api()
        .get("/api/v1/label/__name__/values?start=1709250000&end=1709251200&limit=40000")
        .await;
    assert_eq!(reply.data(), json!(["dotted.name", "http_requests_total", "up"]));
}

#[tokio::test]
async fn grafana_variable_with_an_escaped_utf8_label() {
    let expected = json!(["5\"0\\0\n"]);
    assert_eq!(
        api().get("/api/v1/label/U__http_2e_status/values").await.data(),
        expected
    );
    assert_eq!(api().get("/api/v1/label/http.status/values").await.data(), expected);
    assert_eq!(api().get("/api/v1/label/http%2Estatus/values").await.data(), expected);
}

#[tokio::test]
async fn grafana_classic_variable_by_series() {
    let form = format!("match[]={}&limit=40000&start=1709250000&end=1709251200", encoded("up"));
    let expected = concat!(
        r#"{"status":"success","data":[{"__name__":"up","instance":"a:1","job":"node"},"#,
        r#"{"__name__":"up","instance":"b:1","job":"node"}]}"#
    );
    api().post("/api/v1/series", &form).await.is(expected);
    let everything = format!("match[]={}&limit=40000", encoded("{__name__!=\"\"}"));
    assert_eq!(
        api()
            .post("/api/v1/series", &everything)
            .await
            .data()
            .as_array()
            .unwrap()
            .len(),
        5
    );
}

#[tokio::test]
async fn grafana_metadata_at_start_and_for_one_metric() {
    let expected = concat!(
        r#"{"status":"success","data":{"http_requests_total":[{"type":"counter","help":"Requests","unit":""},"#,
        r#"{"type":"counter","help":"Requests, differently","unit":""}],"#,
        r#""up":[{"type":"gauge","help":"Whether it is up","unit":""}]}}"#
    );
    api().get("/api/v1/metadata?limit=40000").await.is(expected);
    let one = api().get("/api/v1/metadata?metric=up").await.data();
    assert_eq!(
        one,
        json!({"up": [{"type": "gauge", "help": "Whether it is up", "unit": ""}]})
    );
    let cut = api().get("/api/v1/metadata?limit=1&limit_per_metric=1").await.data();
    assert_eq!(
        cut,
        json!({"http_requests_total": [{"type": "counter", "help": "Requests", "unit": ""}]})
    );
    assert_eq!(api().get("/api/v1/metadata?metric=none").await.data(), json!({}));
}

#[tokio::test]
async fn grafana_exemplar_probe_with_milliseconds() {
    let form = format!("query=test&start={}&end={}", NOW - 3_600_000, NOW);
    api()
        .post("/api/v1/query_exemplars", &form)
        .await
        .is(r#"{"status":"success","data":[]}"#);
}

#[tokio::test]
async fn grafana_exemplars_of_a_panel() {
    let query = encoded("rate(http_requests_total{code=\"200\"}[5m]) > 0");
    let reply = api()
        .get(&format!(
            "/api/v1/query_exemplars?query={query}&start=1709250000&end=1709251200"
        ))
        .await;
    let expected = concat!(
        r#"{"status":"success","data":[{"seriesLabels":{"__name__":"http_requests_total","code":"200"},"#,
        r#""exemplars":[{"labels":{"trace_id":"abc"},"value":"0.25","timestamp":1709251170}]}]}"#
    );
    reply.is(expected);
    let earlier = api()
        .get(&format!("/api/v1/query_exemplars?query={query}&start=0&end=10"))
        .await;
    assert_eq!(earlier.data(), json!([]));
}

#[tokio::test]
async fn grafana_rules_and_alerts_are_empty_but_there() {
    api()
        .get("/api/v1/rules")
        .await
        .is(r#"{"status":"success","data":{"groups":[]}}"#);
    api()
        .get("/api/v1/rules?type=alert")
        .await
        .is(r#"{"status":"success","data":{"groups":[]}}"#);
    api()
        .get("/api/v1/alerts")
        .await
        .is(r#"{"status":"success","data":{"alerts":[]}}"#);
    let wrong = api().get("/api/v1/rules?type=foo").await;
    wrong.fails(
        400,
        "bad_data",
        "invalid parameter \"type\": not supported value \"foo\"",
    );
}

#[tokio::test]
async fn grafana_takes_us_for_a_prometheus_without_ruler() {
    let info = api().get("/api/v1/status/buildinfo").await.data();
    let version: Vec<u32> = info["version"]
        .as_str()
        .unwrap()
        .split('.')
        .map(|part| part.parse().unwrap())
        .collect();
    assert!(version >= vec![2, 24, 0], "{version:?}");
    assert_eq!(info["narthexVersion"], "0.1.0");
    assert_eq!(info["revision"], "abc");
    assert_eq!(info.get("features"), None, "Grafana would take us for Mimir");
    assert!(
        info.as_object().unwrap().values().all(|value| value.is_string()),
        "{info}"
    );
}

// --- pint, promtool, the Prometheus UI -------------------------------------------------------------------------------

#[tokio::test]
async fn pint_reads_flags_and_config() {
    let reply = api().get("/api/v1/status/flags").await;
    reply.is(r#"{"status":"success","data":{"data.dir":"./data","http.address":"127.0.0.1:10902"}}"#);
    let config = api().get("/api/v1/status/config").await.data();
    assert_eq!(config, json!({"yaml": "data:\n  dir: ./data\n"}));
}

#[tokio::test]
async fn promtool_asks_for_years_around_now() {
    let window = "start=-9223309901257974&end=9223309901257974";
    let series = api().get(&format!("/api/v1/series?match[]=old&{window}")).await.data();
    assert_eq!(series, json!([{"__name__": "old", "job": "gone"}]));
    let values = api().get(&format!("/api/v1/label/job/values?{window}")).await.data();
    assert_eq!(values, json!(["gone", "node"]));
    let names = "start=-292273086-05-16T16%3A47%3A06Z&end=292277025-08-18T07%3A12%3A54.999999999Z";
    assert_eq!(
        api().get(&format!("/api/v1/labels?match[]=old&{names}")).await.data(),
        json!(["__name__", "job"])
    );
}

#[tokio::test]
async fn the_ui_reads_runtime_and_head_status() {
    let info = api().get("/api/v1/status/runtimeinfo").await.data();
    assert_eq!(info["startTime"], "2024-02-29T23:59:00Z");
    assert_eq!(info["serverTime"], "2024-03-01T00:00:00Z");
    assert_eq!(
        (&info["storageRetention"], &info["reloadConfigSuccess"]),
        (&json!("15d"), &json!(true))
    );
    let expected = concat!(
        r#"{"status":"success","data":{"headStats":{"numSeries":3,"numLabelPairs":4,"chunkCount":5,"minTime":6,"#,
        r#""maxTime":7},"seriesCountByMetricName":[{"name":"up","value":2}],"labelValueCountByLabelName":[],"#,
        r#""memoryInBytesByLabelName":[],"seriesCountByLabelValuePair":[]}}"#
    );
    api().get("/api/v1/status/tsdb?limit=1").await.is(expected);
    for limit in ["0", "-1", "x"] {
        let reply = api().get(&format!("/api/v1/status/tsdb?limit={limit}")).await;
        reply.fails(400, "bad_data", "limit must be a positive number");
    }
}

#[tokio::test]
async fn the_ui_asks_for_replay_and_features() {
    assert_eq!(
        api().get("/api/v1/status/walreplay").await.data(),
        json!({"min": 0, "max": 0, "current": 0})
    );
    let features = api().get("/api/v1/features").await.data();
    assert_eq!(features["promql_functions"]["rate"], true);
    assert_eq!(
        features["promql_functions"]["info"], false,
        "experimental functions are off"
    );
}

#[tokio::test]
async fn the_ui_asks_for_targets_we_do_not_have() {
    let targets = json!({"activeTargets": [], "droppedTargets": [], "droppedTargetCounts": {}});
    assert_eq!(api().get("/api/v1/targets?state=active").await.data(), targets);
    let alertmanagers = json!({"activeAlertmanagers": [], "droppedAlertmanagers": []});
    assert_eq!(api().get("/api/v1/alertmanagers").await.data(), alertmanagers);
    assert_eq!(
        api().get("/api/v1/scrape_pools").await.data(),
        json!({"scrapePools": []})
    );
    assert_eq!(api().get("/api/v1/targets/metadata").await.data(), json!([]));
    assert_eq!(api().get("/api/v1/notifications").await.data(), json!([]));
}

#[tokio::test]
async fn the_ui_explains_a_query_by_its_tree() {
    let query = encoded("sum by (job) (rate(up{job=~\"n.*\"}[5m] offset 1m)) / on (job) group_left () -(up) > bool 2");
    let tree = api().get(&format!("/api/v1/parse_query?query={query}")).await.data();
    let rate = &tree["lhs"]["lhs"]["expr"];
    assert_eq!(tree["op"], ">");
    assert_eq!(tree["bool"], true);
    assert_eq!(tree["rhs"], json!({"type": "numberLiteral", "val": "2"}));
    assert_eq!(tree["lhs"]["lhs"]["grouping"], json!(["job"]));
    let matching = &tree["lhs"]["matching"];
    assert_eq!(
        (&matching["card"], &matching["labels"], &matching["on"]),
        (&json!("many-to-one"), &json!(["job"]), &json!(true))
    );
    let function = json!({"name": "rate", "argTypes": ["matrix"], "variadic": 0, "returnType": "vector"});
    assert_eq!(rate["func"], function);
    let selector = json!({
        "type": "matrixSelector",
        "name": "up",
        "range": 300_000,
        "offset": 60_000,
        "matchers": [
            {"name": "job", "value": "n.*", "type": "=~"},
            {"name": "__name__", "value": "up", "type": "="},
        ],
        "timestamp": null,
        "startOrEnd": null,
        "anchored": false,
        "smoothed": false,
    });
    assert_eq!(rate["args"], json!([selector]));
    let at = api()
        .post(
            "/api/v1/parse_query",
            "query=topk(3, max_over_time(x[1h:5m] @ start())) or y @ 12.5",
        )
        .await
        .data();
    assert_eq!(
        (&at["rhs"]["timestamp"], &at["rhs"]["startOrEnd"]),
        (&json!(12_500), &json!(null))
    );
    let subquery = &at["lhs"]["expr"]["args"][0];
    assert_eq!(
        (&subquery["type"], &subquery["step"]),
        (&json!("subquery"), &json!(300_000))
    );
    assert_eq!(subquery["startOrEnd"], "start");
    assert_eq!(at["lhs"]["param"], json!({"type": "numberLiteral", "val": "3"}));
    let wrong = api().get("/api/v1/parse_query?query=sum(").await;
    wrong.fails(
        400,
        "bad_data",
        "invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis",
    );
}

#[tokio::test]
async fn the_ui_formats_a_query() {
    let expected = r#"{"status":"success","data":"sum by (job) (rate(up{a=\"b\"}[5m]))"}"#;
    api()
        .post("/api/v1/format_query", "query=sum(rate(up{a='b'}[5m]))by(job)")
        .await
        .is(expected);
    let wrong = api().get("/api/v1/format_query?query=invalid_expression/").await;
    wrong.fails(
        400,
        "bad_data",
        "invalid parameter \"query\": 1:20: parse error: unexpected end of input",
    );
}

// --- Federation ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn prometheus_federates_the_newest_samples() {
    let all = encoded("{__name__=~\".+\"}");
    let reply = api().get(&format!("/federate?match[]={all}&match[]=up")).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(
        reply.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let expected = concat!(
        "# TYPE dotted_name untyped\n",
        "dotted_name{http_status=\"5\\\"0\\\\0\\n\",instance=\"\"} 3 1709251170000\n",
        "# TYPE http_requests_total untyped\n",
        "http_requests_total{code=\"200\",instance=\"\"} 1.23456785e+07 1709251170000\n",
        "# TYPE up untyped\n",
        "up{instance=\"a:1\",job=\"node\"} 1 1709251185000\n",
        "up{instance=\"b:1\",job=\"node\"} 0 1709251170000\n",
    );
    assert_eq!(reply.text(), expected);
    let wrong = api().get("/federate?match[]={}").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let text = "invalid parameter \"match[]\": match[] must contain at least one non-empty matcher\n";
    assert_eq!(wrong.text(), text);
}

// --- What is wrong with a request -----------------------------------------------------------------------------------

#[tokio::test]
async fn wrong_parameters_are_told_in_the_words_of_prometheus() {
    let cases = [
        ("/api/v1/series", "no match[] parameter provided"),
        (
            "/api/v1/series?match[]={}",
            "invalid parameter \"match[]\": match[] must contain at least one non-empty matcher",
        ),
        (
            "/api/v1/series?match[]={job=~%22.*%22}",
            "invalid parameter \"match[]\": match[] must contain at least one non-empty matcher",
        ),
        (
            "/api/v1/labels?start=foo",
            "invalid parameter \"start\": cannot parse \"foo\" to a valid timestamp",
        ),
        (
            "/api/v1/labels?end=foo",
            "invalid parameter \"end\": cannot parse \"foo\" to a valid timestamp",
        ),
        (
            "/api/v1/labels?limit=x",
            "invalid parameter \"limit\": strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (
            "/api/v1/labels?limit=-1",
            "invalid parameter \"limit\": limit must be non-negative",
        ),
        ("/api/v1/label/U__/values", "invalid label name: \"\""),
        ("/api/v1/metadata?limit=x", "limit must be a number"),
        (
            "/api/v1/metadata?limit_per_metric=x",
            "limit_per_metric must be a number",
        ),
        (
            "/api/v1/query_exemplars?query=up&start=2&end=1",
            "end timestamp must not be before start timestamp",
        ),
        (
            "/api/v1/labels?partial_response=maybe",
            "invalid parameter \"partial_response\": cannot parse \"maybe\" to a bool",
        ),
    ];
    for (uri, text) in cases {
        api().get(uri).await.fails(400, "bad_data", text);
    }
}

#[tokio::test]
async fn form_and_url_are_read_together() {
    let reply = api()
        .post("/api/v1/series?match[]=old", "match[]=up&end=9999999999")
        .await;
    assert_eq!(reply.data().as_array().unwrap().len(), 3);
    // The form comes first, so its limit holds.
    let reply = api().post("/api/v1/labels?limit=1", "limit=2").await;
    assert_eq!(reply.data().as_array().unwrap().len(), 2);
    // A body that is no form is not read.
    let headers = [("content-type", "application/json")];
    let reply = api()
        .call(Method::POST, "/api/v1/labels?limit=1", &headers, "limit=2")
        .await;
    assert_eq!(reply.data().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn unknown_parameters_and_unknown_paths() {
    let uri =
        "/api/v1/labels?max_samples_processed_warning_threshold=5&max_samples_processed_error_threshold=9&dedup=true";
    assert_eq!(api().get(uri).await.status, StatusCode::OK);
    assert_eq!(api().get("/api/v1/nothing").await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        api().call(Method::DELETE, "/api/v1/labels", &[], "").await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn a_form_that_is_too_large_is_refused() {
    let reply = api()
        .post("/api/v1/series", &format!("match[]={}", "x".repeat(11 << 20)))
        .await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.text().contains("error parsing form values"), "{}", reply.text());
    let many = api().post("/api/v1/series", &"a=b&".repeat(20_000)).await;
    many.fails(400, "bad_data", "error parsing form values: more than 10000 parameters");
    let selectors = "match[]=up&".repeat(1001);
    let reply = api().post("/api/v1/series", &selectors).await;
    reply.fails(
        400,
        "bad_data",
        "invalid parameter \"match[]\": more than 1000 selectors",
    );
}

// --- HTTP -------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn head_answers_like_get_without_body() {
    let get = api().get("/api/v1/labels").await;
    let head = api().call(Method::HEAD, "/api/v1/labels", &[], "").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert_eq!(head.headers["content-type"], get.headers["content-type"]);
}

#[tokio::test]
async fn options_and_origins() {
    let origin = [("origin", "https://example.org")];
    let reply = api().call(Method::OPTIONS, "/api/v1/series", &origin, "").await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
    assert_eq!(reply.headers["access-control-allow-methods"], "GET, POST, OPTIONS");
    assert_eq!(
        reply.headers["access-control-allow-headers"],
        "Accept, Authorization, Content-Type, Origin"
    );
    let reply = api().call(Method::GET, "/api/v1/labels", &origin, "").await;
    assert_eq!(reply.headers["access-control-expose-headers"], "Date");
    assert!(
        !api()
            .get("/api/v1/labels")
            .await
            .headers
            .contains_key("access-control-allow-origin")
    );

    let only = |origin: Option<&str>| {
        let settings = QuerierSettings {
            cors_origin: origin.map(str::to_owned),
            ..QuerierSettings::default()
        };
        Api::with(memory().shared(), settings)
    };
    let some = only(Some("https://.*\\.example\\.com"));
    let good = some
        .call(
            Method::GET,
            "/api/v1/labels",
            &[("origin", "https://a.example.com")],
            "",
        )
        .await;
    assert_eq!(good.headers["access-control-allow-origin"], "https://a.example.com");
    let bad = some
        .call(
            Method::GET,
            "/api/v1/labels",
            &[("origin", "https://a.example.com.evil.org")],
            "",
        )
        .await;
    assert!(!bad.headers.contains_key("access-control-allow-origin"));
    for off in [None, Some("(")] {
        let reply = only(off).call(Method::OPTIONS, "/api/v1/labels", &origin, "").await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT);
        assert!(!reply.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn gzip_only_when_asked() {
    let plain = api().get("/api/v1/labels").await;
    assert!(!plain.headers.contains_key("content-encoding"));
    let headers = [("accept-encoding", "gzip, deflate, br, zstd")];
    let packed = api().call(Method::GET, "/api/v1/labels", &headers, "").await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert_eq!(packed.body[..2], [0x1f, 0x8b]);
    let other = api()
        .call(Method::GET, "/api/v1/labels", &[("accept-encoding", "zstd, br")], "")
        .await;
    assert!(
        !other.headers.contains_key("content-encoding"),
        "nothing but gzip is sent, and only when asked"
    );
    assert_eq!(other.body, plain.body);
}

#[tokio::test]
async fn everything_is_there_below_prometheus_too() {
    assert_eq!(
        api().get("/prometheus/api/v1/label/job/values").await.data(),
        json!(["gone", "node"])
    );
    assert_eq!(
        api().get("/prometheus/api/v1/status/buildinfo").await.status,
        StatusCode::OK
    );
}

// --- Tenants ----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_tenant_sees_its_own_series_only() {
    let tenant = |name: &str| Tenant::new(name).unwrap();
    let own = |name: &str| {
        Memory::new()
            .floats(&[("__name__", "up"), ("owner", name)], &[(NOW - 1000, 1.0)])
            .about(name, MetricType::Gauge, name)
            .exemplar(&[("__name__", "up"), ("owner", name)], &[], NOW - 1000, 1.0)
    };
    let api = Api::tenants(
        Tenants::default()
            .with(tenant("a"), own("a"))
            .with(tenant("b"), own("b")),
    );
    let uris = [
        "/api/v1/label/owner/values",
        "/api/v1/series?match[]=up",
        "/api/v1/metadata",
        "/api/v1/query_exemplars?query=up",
        "/federate?match[]=up",
    ];
    for header in ["thanos-tenant", "x-scope-orgid", "THANOS-TENANT", "X-Scope-OrgID"] {
        for uri in uris {
            let reply = api.call(Method::GET, uri, &[(header, "a")], "").await;
            assert!(
                reply.text().contains("\"a\"") && !reply.text().contains("\"b\""),
                "{uri}: {}",
                reply.text()
            );
            let nobody = api.call(Method::GET, uri, &[(header, "nobody")], "").await;
            assert!(
                !nobody.text().contains("\"a\"") && !nobody.text().contains("\"b\""),
                "{uri}"
            );
        }
    }
    let both = [("thanos-tenant", "a"), ("x-scope-orgid", "b")];
    let reply = api.call(Method::GET, "/api/v1/labels", &both, "").await;
    reply.fails(400, "bad_data", "the request names two tenants: a and b");
    for evil in ["..", "a/b", "", "\u{e9}"] {
        let reply = api
            .call(Method::GET, "/api/v1/labels", &[("x-scope-orgid", evil)], "")
            .await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{evil:?}");
    }
}

// --- Sources that fail ------------------------------------------------------------------------------------------------

fn refused() -> SelectError {
    SelectError::Unavailable("connection refused".into())
}

fn half_broken(settings: QuerierSettings) -> Api {
    let sources = vec![
        ("good".into(), memory().shared()),
        ("bad".into(), Memory::failing(refused()).shared()),
    ];
    Api::with(Arc::new(Fanout::new(sources).with_policy(Policy::Partial)), settings)
}

#[tokio::test]
async fn a_partial_answer_says_so_or_fails_when_that_was_asked() {
    let warning = "the result may be incomplete: source bad failed: connection refused";
    for uri in [
        "/api/v1/labels",
        "/api/v1/label/job/values",
        "/api/v1/series?match[]=up",
    ] {
        let api = half_broken(QuerierSettings::default());
        let reply = api.get(uri).await;
        assert_eq!(reply.json()["warnings"], json!([warning]), "{uri}");
        assert_eq!(reply.headers["cache-control"], "no-store");
        let separator = if uri.contains('?') { '&' } else { '?' };
        let strict = api.get(&format!("{uri}{separator}partial_response=false")).await;
        strict.fails(503, "unavailable", warning);
        assert!(strict.headers.contains_key("retry-after"));
        let strict = half_broken(QuerierSettings {
            partial_response: false,
            ..QuerierSettings::default()
        });
        strict.get(uri).await.fails(503, "unavailable", warning);
        assert_eq!(
            strict
                .get(&format!("{uri}{separator}partial_response=true"))
                .await
                .status,
            StatusCode::OK
        );
    }
}

#[tokio::test]
async fn errors_of_sources_have_their_codes() {
    let cases = [
        (SelectError::Limit("too many series".into()), 422, "execution"),
        (SelectError::Unavailable("starting".into()), 503, "unavailable"),
        (SelectError::Corrupt("block 1, offset 7".into()), 500, "internal"),
        (SelectError::Canceled("gone".into()), 499, "canceled"),
    ];
    for (error, code, kind) in cases {
        let api = Api::new(Memory::failing(error.clone()));
        for uri in [
            "/api/v1/labels",
            "/api/v1/series?match[]=up",
            "/api/v1/metadata",
            "/api/v1/query_exemplars?query=up",
        ] {
            api.get(uri).await.fails(code, kind, &error.to_string());
        }
    }
}

#[tokio::test]
async fn a_slow_source_ends_with_the_time_for_the_request() {
    let slow = Memory {
        delay: Duration::from_secs(30),
        ..memory()
    };
    let settings = QuerierSettings {
        timeout: Duration::from_millis(50),
        ..QuerierSettings::default()
    };
    let api = Api::with(slow.shared(), settings);
    api.get("/api/v1/labels")
        .await
        .fails(503, "timeout", "query timed out in query execution");
}

#[tokio::test]
async fn too_many_lookups_at_once_are_refused() {
    let slow = Memory {
        delay: Duration::from_millis(300),
        ..memory()
    };
    let settings = QuerierSettings {
        lookups_max: 1,
        queue_max: 1,
        ..QuerierSettings::default()
    };
    let api = Api::with(slow.shared(), settings);
    let (one, two, three) = tokio::join!(
        api.get("/api/v1/labels"),
        api.get("/api/v1/labels"),
        api.get("/api/v1/labels")
    );
    let mut codes = [one.status.as_u16(), two.status.as_u16(), three.status.as_u16()];
    codes.sort_unstable();
    assert_eq!(codes, [200, 200, 503]);
}

#[tokio::test]
async fn the_server_bounds_what_one_call_returns() {
    let settings = || QuerierSettings {
        items_max: 2,
        ..QuerierSettings::default()
    };
    let api = Api::with(memory().shared(), settings());
    let warning =
        "results truncated due to limit: this server returns at most 2 items; narrow the selectors or the time";
    for uri in [
        "/api/v1/labels",
        "/api/v1/labels?limit=100",
        "/api/v1/series?match[]={__name__!=%22%22}",
    ] {
        let reply = api.get(uri).await.json();
        assert_eq!(
            (reply["data"].as_array().unwrap().len(), &reply["warnings"]),
            (2, &json!([warning])),
            "{uri}"
        );
    }
    let reply = api.get("/federate?match[]={__name__!=%22%22}").await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
}
