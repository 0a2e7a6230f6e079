//! `query` and `query_range`, as Grafana, promtool, vmalert and others call them, and as attackers might.

use crate::common::{
    Memory, NOW, Tenants,
    api::{Api, encoded},
    ten_minutes,
};
use http::{Method, StatusCode};
use model::{
    histogram::{Histogram, Span},
    sample::HistogramSample,
    tenant::Tenant,
};
use querier::QuerierSettings;
use serde_json::json;
use std::sync::Arc;

/// Times of the tests in seconds.
const SECOND: i64 = NOW / 1000;

fn api() -> Api {
    Api::new(ten_minutes())
}

// --- Grafana -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn grafana_health_check() {
    let expected = r#"{"status":"success","data":{"resultType":"scalar","result":[4,"2"]}}"#;
    api().post("/api/v1/query", "query=1%2B1&time=4").await.is(expected);
    api().get("/api/v1/query?query=1%2B1&time=4").await.is(expected);
}

#[tokio::test]
async fn grafana_panel() {
    let form = format!("query=up&start={}.25&end={}.25&step=15.5", SECOND - 62, SECOND);
    let reply = api().post("/api/v1/query_range", &form).await;
    let data = reply.data();
    assert_eq!(data["resultType"], "matrix");
    let series = data["result"].as_array().unwrap();
    assert_eq!(series.len(), 2);
    let times: Vec<f64> = series[0]["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point[0].as_f64().unwrap())
        .collect();
    let start = SECOND as f64 - 62.0 + 0.25;
    assert_eq!(times, [start, start + 15.5, start + 31.0, start + 46.5, start + 62.0]);
    let text = reply.text();
    assert!(
        text.starts_with(r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"#),
        "{text}"
    );
    assert!(text.contains("1709251138.250,"), "three digits after the point: {text}");
}

#[tokio::test]
async fn grafana_asks_again_and_gets_the_same_grid() {
    let ask = |start: i64, end: i64| format!("/api/v1/query_range?query=up&start={start}&end={end}&step=15");
    let all = api().get(&ask(SECOND - 300, SECOND - 60)).await.data();
    let later = api().get(&ask(SECOND - 150, SECOND - 60)).await.data();
    let points = |data: &serde_json::Value| data["result"][0]["values"].as_array().unwrap().clone();
    assert!(points(&all).ends_with(&points(&later)));
    assert_eq!(all["result"][0]["metric"], later["result"][0]["metric"]);
}

#[tokio::test]
async fn grafana_instant_panel_with_stats() {
    let form = format!("query=up&time={SECOND}&stats=all&max_samples_processed_warning_threshold=1");
    let data = api().post("/api/v1/query", &form).await.data();
    assert_eq!(data["resultType"], "vector");
    assert!(
        data["stats"]["samples"]["totalQueryableSamples"].as_u64().unwrap() > 0,
        "{data}"
    );
    for timing in [
        "evalTotalTime",
        "resultSortTime",
        "queryPreparationTime",
        "innerEvalTime",
        "execQueueTime",
        "execTotalTime",
    ] {
        assert!(data["stats"]["timings"][timing].is_number(), "{timing}");
    }
    let plain = api()
        .post("/api/v1/query", &format!("query=up&time={SECOND}"))
        .await
        .data();
    assert_eq!(plain.get("stats"), None);
}

#[tokio::test]
async fn samples_are_counted_step_by_step_where_that_is_switched_on() {
    let ask = |query: &str, stats: &str| {
        let (start, end) = (SECOND - 60, SECOND);
        format!(
            "/api/v1/query_range?query={}&start={start}&end={end}&step=30&stats={stats}",
            encoded(query)
        )
    };
    let path = ask("sum_over_time(up[1m])", "all");
    let off = api().get(&path).await.data();
    assert_eq!(off["stats"]["samples"].get("samplesReadPerStep"), None);
    let counting = QuerierSettings {
        stats_by_step: true,
        ..QuerierSettings::default()
    };
    let counting = Api::with(ten_minutes().shared(), counting);
    let check = async |query: &str, looked: [u64; 3], read: [u64; 3]| {
        let data = counting.get(&ask(query, "all")).await.data();
        let samples = &data["stats"]["samples"];
        let steps = |counts: [u64; 3]| {
            let at = |index: usize| SECOND - 60 + 30 * index as i64;
            json!([[at(0), counts[0]], [at(1), counts[1]], [at(2), counts[2]]])
        };
        assert_eq!(
            samples["totalQueryableSamplesPerStep"],
            steps(looked),
            "{query}: {samples}"
        );
        assert_eq!(samples["samplesReadPerStep"], steps(read), "{query}: {samples}");
        assert_eq!(samples["totalQueryableSamples"], looked.iter().sum::<u64>(), "{query}");
        assert_eq!(samples["samplesRead"], read.iter().sum::<u64>(), "{query}");
    };
    // Two series with a sample every 15 s, the last of them 15 s before the last step.
    check("up", [2, 2, 2], [2, 2, 2]).await;
    check("sum_over_time(up[1m])", [8, 8, 6], [8, 4, 2]).await;
    check("sum(rate(up[1m]))", [8, 8, 6], [8, 4, 2]).await;
    check(&format!("sum(up @ {SECOND})"), [2, 2, 2], [2, 0, 0]).await;
    check("1", [0, 0, 0], [0, 0, 0]).await;
    let odd = counting.get(&ask("up", "1")).await.json();
    assert!(odd["data"]["stats"]["samples"]["samplesRead"].is_number());
    assert!(odd["warnings"][0].as_str().unwrap().contains("stats"), "{odd}");
}

#[tokio::test]
async fn grafana_custom_parameters_in_the_url_of_a_post() {
    let reply = api()
        .post(
            "/api/v1/query?lookback_delta=1s&time=1709250907",
            "query=up&time=1709250900.5",
        )
        .await;
    assert_eq!(
        reply.data()["result"].as_array().unwrap().len(),
        2,
        "the form's time lies within a second of a sample"
    );
    let reply = api()
        .post("/api/v1/query?lookback_delta=1s", "query=up&time=1709250907")
        .await;
    assert_eq!(reply.data()["result"], json!([]), "the URL's lookback is too short");
}

#[tokio::test]
async fn special_values_and_empty_results_keep_their_shape() {
    let data = api()
        .get(&format!("/api/v1/query?query=odd&time={SECOND}"))
        .await
        .data();
    let values: Vec<_> = data["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["value"][1].clone())
        .collect();
    assert_eq!(values, [json!("NaN"), json!("+Inf"), json!("1e-07")]);
    api()
        .get("/api/v1/query?query=none")
        .await
        .is(r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#);
    let range = format!("/api/v1/query_range?query=none&start={SECOND}&end={SECOND}&step=1");
    api()
        .get(&range)
        .await
        .is(r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#);
    let text = r#"{"status":"success","data":{"resultType":"string","result":[1.5,"a\"b"]}}"#;
    api().get("/api/v1/query?query=%22a%5C%22b%22&time=1.5").await.is(text);
}

#[tokio::test]
async fn native_histograms_have_their_buckets() {
    let histogram = Histogram {
        count: 3.0,
        sum: 2.5,
        zero_threshold: 0.001,
        zero_count: 1.0,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_buckets: vec![2.0],
        ..Histogram::default()
    };
    let sample = HistogramSample {
        at: NOW,
        start: 0,
        histogram: Arc::new(histogram),
    };
    let api = Api::new(Memory::new().histograms(&[("__name__", "latency")], vec![sample]));
    let buckets = r#"{"count":"3","sum":"2.5","buckets":[[3,"-0.001","0.001","1"],[0,"0.5","1","2"]]}"#;
    let instant = api.get(&format!("/api/v1/query?query=latency&time={SECOND}")).await;
    instant.is(&format!(
        r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{"__name__":"latency"}},"histogram":[{SECOND},{buckets}]}}]}}}}"#
    ));
    let range = api
        .get(&format!(
            "/api/v1/query_range?query=latency&start={SECOND}&end={SECOND}&step=1"
        ))
        .await;
    range.is(&format!(
        r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{"__name__":"latency"}},"histograms":[[{SECOND},{buckets}]]}}]}}}}"#
    ));
}

// --- promtool, vmalert, autoscalers ------------------------------------------------------------------------------

#[tokio::test]
async fn promtool_instant_and_range() {
    let form = format!("query=up&time={SECOND}&timeout=120s");
    assert_eq!(
        api().post("/api/v1/query", &form).await.data()["result"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let range = format!("query=up&start={}&end={SECOND}&step=60", SECOND - 300);
    assert_eq!(
        api().post("/api/v1/query_range", &range).await.data()["result"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn vmalert_posts_an_empty_body_and_calls_it_json() {
    let uri = format!("/api/v1/query?query=up&time={SECOND}&step=60s");
    let headers = [("content-type", "application/json")];
    let reply = api().call(Method::POST, &uri, &headers, "").await;
    assert_eq!(reply.data()["result"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn vmalert_restores_its_state() {
    let query = encoded("last_over_time(ALERTS_FOR_STATE{alertname=\"x\",alertgroup=\"g\"}[3600s])");
    let uri = format!("/api/v1/query?query={query}&time={SECOND}");
    assert_eq!(
        api()
            .call(Method::POST, &uri, &[("content-type", "application/json")], "")
            .await
            .data()["result"],
        json!([])
    );
}

#[tokio::test]
async fn an_autoscaler_asks_for_its_tenant() {
    let tenant = |name: &str| Tenant::new(name).unwrap();
    let own = |value: f64| Memory::new().floats(&[("__name__", "load")], &[(NOW - 1000, value)]);
    let api = Api::tenants(
        Tenants::default()
            .with(tenant("a"), own(1.0))
            .with(tenant("b"), own(2.0)),
    );
    for (name, expected) in [("a", json!("1")), ("b", json!("2"))] {
        let reply = api
            .call(Method::GET, "/api/v1/query?query=load", &[("x-scope-orgid", name)], "")
            .await;
        assert_eq!(reply.data()["result"][0]["value"][1], expected);
    }
    assert_eq!(api.get("/api/v1/query?query=load").await.data()["result"], json!([]));
}

#[tokio::test]
async fn perses_and_others_ask_below_prometheus() {
    let reply = api()
        .get(&format!("/prometheus/api/v1/query?query=up&time={SECOND}"))
        .await;
    assert_eq!(reply.data()["result"].as_array().unwrap().len(), 2);
    let head = api().call(Method::HEAD, "/api/v1/query?query=up", &[], "").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
}
