//! Calls that look things up, as Grafana, promtool, pint and others make them.

use crate::common::NOW;
use crate::common::{
    api::{Api, encoded},
    fleet,
};
use http::StatusCode;
use serde_json::json;

fn api() -> Api {
    Api::new(fleet())
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
        r#"{"status":"success","data":{"http_requests_total":[{"type":"counter","unit":"","help":"Requests"},"#,
        r#"{"type":"counter","unit":"","help":"Requests, differently"}],"#,
        r#""up":[{"type":"gauge","unit":"","help":"Whether it is up"}]}}"#
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
    let wrong = [
        ("type=foo", "type", "not supported value \"foo\""),
        (
            "exclude_alerts=x",
            "exclude_alerts",
            "error converting exclude_alerts: strconv.ParseBool: parsing \"x\": invalid syntax",
        ),
        (
            "group_next_token=a",
            "group_next_token",
            "group_limit needs to be present in order to paginate over the groups",
        ),
        ("group_limit=0", "group_limit", "group_limit needs to be greater than 0"),
        (
            "group_limit=x",
            "group_limit",
            "group_limit needs to be a valid number: strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        (
            "group_limit=1&group_next_token=a",
            "group_next_token",
            "invalid group_next_token 'a'. were rule groups changed?",
        ),
    ];
    for (parameters, name, reason) in wrong {
        let reply = api().get(&format!("/api/v1/rules?{parameters}")).await;
        reply.fails(400, "bad_data", &format!("invalid parameter \"{name}\": {reason}"));
    }
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
    let targets =
        |counts: serde_json::Value| json!({"activeTargets": [], "droppedTargets": [], "droppedTargetCounts": counts});
    for (state, counts) in [("any", json!({})), ("Dropped", json!({})), ("active", json!(null))] {
        let reply = api().get(&format!("/api/v1/targets?state={state}")).await;
        assert_eq!(reply.data(), targets(counts), "{state}");
    }
    let alertmanagers = json!({"activeAlertmanagers": [], "droppedAlertmanagers": []});
    assert_eq!(api().get("/api/v1/alertmanagers").await.data(), alertmanagers);
    assert_eq!(
        api().get("/api/v1/scrape_pools").await.data(),
        json!({"scrapePools": []})
    );
    let uri = "/api/v1/targets/metadata?match_target={job=%22a%22}&limit=1";
    api()
        .get(uri)
        .await
        .fails(404, "not_found", "specified metadata not found");
    assert_eq!(api().get("/api/v1/notifications").await.data(), json!([]));
    let live = api().get("/api/v1/notifications/live").await;
    assert_eq!((live.status, live.body.len()), (StatusCode::NO_CONTENT, 0));
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
