//! Queries at their bounds: limits, time, the queue, large answers, sources that fail.

use crate::common::{
    Memory, NOW,
    api::{Api, Status, encoded},
    env, ten_minutes,
};
use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use model::select::SelectError;
use prometheus_client::{encoding::text::encode, registry::Registry};
use querier::{Fanout, Policy, Querier, QuerierSettings, http::routes};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tower::ServiceExt;

/// Times of the tests in seconds.
const SECOND: i64 = NOW / 1000;

fn api() -> Api {
    Api::new(ten_minutes())
}

// --- Limits -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_limit_cuts_the_result_and_says_so() {
    let reply = api()
        .get(&format!("/api/v1/query?query=up&time={SECOND}&limit=1"))
        .await
        .json();
    assert_eq!(reply["data"]["result"].as_array().unwrap().len(), 1);
    assert_eq!(reply["warnings"], json!(["results truncated due to limit"]));
    let range = format!(
        "/api/v1/query_range?query=up&start={}&end={SECOND}&step=15&limit=",
        SECOND - 60
    );
    let reply = api().get(&format!("{range}1")).await.json();
    assert_eq!(reply["data"]["result"].as_array().unwrap().len(), 1);
    assert_eq!(reply["warnings"], json!(["results truncated due to limit"]));
    assert_eq!(api().get(&format!("{range}2")).await.json()["warnings"], json!(null));
    assert_eq!(
        api().get("/api/v1/query?query=1&limit=1").await.json()["warnings"],
        json!(null)
    );
}

#[tokio::test]
async fn wrong_parameters_are_told_in_the_words_of_prometheus() {
    let points =
        "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
    let step = "invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer";
    let cases = [
        (
            "query?query=up&time=foo",
            "invalid parameter \"time\": invalid time value for 'time': cannot parse \"foo\" to a valid timestamp",
        ),
        (
            "query?query=up&timeout=foo",
            "invalid parameter \"timeout\": cannot parse \"foo\" to a valid duration",
        ),
        (
            "query?query=up&limit=-1",
            "invalid parameter \"limit\": limit must be non-negative",
        ),
        (
            "query?query=up&lookback_delta=foo",
            "error parsing lookback delta duration: cannot parse \"foo\" to a valid duration",
        ),
        (
            "query?query=up{",
            "invalid parameter \"query\": 1:4: parse error: unexpected end of input inside braces",
        ),
        (
            "query",
            "invalid parameter \"query\": unknown position: parse error: no expression found in input",
        ),
        (
            "query_range?query=up",
            "invalid parameter \"start\": cannot parse \"\" to a valid timestamp",
        ),
        (
            "query_range?query=up&start=1",
            "invalid parameter \"end\": cannot parse \"\" to a valid timestamp",
        ),
        (
            "query_range?query=up&start=1&end=2",
            "invalid parameter \"step\": cannot parse \"\" to a valid duration",
        ),
        ("query_range?query=up&start=1&end=2&step=0", step),
        ("query_range?query=up&start=1&end=2&step=-1", step),
        (
            "query_range?query=up&start=1&end=2&step=1ms&limit=x",
            "invalid parameter \"limit\": strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (
            "query_range?query=up&start=2&end=1&step=1",
            "invalid parameter \"end\": end timestamp must not be before start time",
        ),
        ("query_range?query=up&start=0&end=11001&step=1", points),
        (
            "query_range?query=up&start=-9223309901257974&end=9223309901257974&step=1",
            points,
        ),
        (
            "query_range?query=up&start=0&end=1&step=148966367200.372",
            "invalid parameter \"step\": cannot parse \"148966367200.372\" to a valid duration. It overflows int64",
        ),
    ];
    for (rest, text) in cases {
        api().get(&format!("/api/v1/{rest}")).await.fails(400, "bad_data", text);
    }
    assert_eq!(
        api()
            .get("/api/v1/query_range?query=1&start=0&end=11000&step=1")
            .await
            .status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn too_many_samples_are_refused() {
    let settings = QuerierSettings {
        samples_max: 10,
        ..QuerierSettings::default()
    };
    let api = Api::with(ten_minutes().shared(), settings);
    let text = "query processing would load too many samples into memory in query execution";
    api.get(&format!(
        "/api/v1/query_range?query=up&start={}&end={SECOND}&step=1",
        SECOND - 300
    ))
    .await
    .fails(422, "execution", text);
}

#[tokio::test]
async fn bombs_end_in_an_error() {
    let deep = encoded(&"(".repeat(100_000));
    let long = encoded(&"x".repeat(2 << 20));
    let regex = encoded("up{a=~\"((a{1000}){1000}){1000}\"}");
    let wide = encoded(&vec!["1"; 10_000].join("+"));
    for bomb in [deep, long, regex, wide] {
        let reply = api().post("/api/v1/query", &format!("query={bomb}")).await;
        assert_eq!(
            reply.status,
            StatusCode::BAD_REQUEST,
            "{}",
            &reply.text()[..200.min(reply.text().len())]
        );
    }
}

/// A query that keeps a processor busy for minutes, however fast it is: hundreds of thousands of medians of tens of thousands of values.
const SLOW_QUERY: &str = "max_over_time(quantile_over_time(0.5, up[1h:10ms])[1h:10ms])";

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_with_its_time() {
    let slow = Memory {
        delay: Duration::from_secs(30),
        ..ten_minutes()
    };
    let settings = QuerierSettings {
        timeout: Duration::from_millis(100),
        ..QuerierSettings::default()
    };
    let text = "query timed out in expression evaluation";
    Api::with(slow.shared(), settings)
        .get("/api/v1/query?query=up")
        .await
        .fails(503, "timeout", text);
    let slow = Memory {
        delay: Duration::from_secs(30),
        ..ten_minutes()
    };
    Api::new(slow)
        .get("/api/v1/query?query=up&timeout=100ms")
        .await
        .fails(503, "timeout", text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computation_ends_with_its_time() {
    let uri = format!("/api/v1/query?query={}&timeout=30ms&time={SECOND}", encoded(SLOW_QUERY));
    let reply = api().get(&uri).await;
    reply.fails(503, "timeout", "query timed out in expression evaluation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_its_query() {
    let settings = QuerierSettings {
        queries_max: 1,
        ..QuerierSettings::default()
    };
    let mut registry = Registry::default();
    let querier = Querier::new(
        env(),
        settings,
        ten_minutes().shared(),
        Arc::new(Status::default()),
        &mut registry,
    );
    let router = routes(querier);
    let uri = format!("/api/v1/query?query={}&time={SECOND}", encoded(SLOW_QUERY));
    let request = Request::builder().uri(&uri).body(Body::empty()).unwrap();
    let asked = tokio::time::timeout(Duration::from_millis(100), router.clone().oneshot(request)).await;
    assert!(asked.is_err(), "the query was too fast to leave it: {asked:?}");
    let running = |registry: &Registry| {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text.contains("narthex_querier_running{kind=\"query\"} 1")
    };
    for _ in 0..200 {
        if !running(&registry) {
            // The only place is free again.
            let request = Request::builder()
                .uri("/api/v1/query?query=1")
                .body(Body::empty())
                .unwrap();
            assert_eq!(router.oneshot(request).await.unwrap().status(), StatusCode::OK);
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the query of a client that left still runs after two seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_take_turns_and_the_queue_is_bounded() {
    let slow = Memory {
        delay: Duration::from_millis(300),
        ..ten_minutes()
    };
    let settings = QuerierSettings {
        queries_max: 1,
        queue_max: 1,
        ..QuerierSettings::default()
    };
    let api = Api::with(slow.shared(), settings);
    let ask = || api.get("/api/v1/query?query=up");
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    let replies = [one, two, three];
    assert_eq!(replies.iter().filter(|reply| reply.status == StatusCode::OK).count(), 2);
    let refused = replies.iter().find(|reply| reply.status != StatusCode::OK).unwrap();
    assert!(refused.headers.contains_key("retry-after"));
    let text = "too many requests at once: 1 of kind query may run and 1 may wait; try again later";
    refused.fails(503, "unavailable", text);
    let (first, waiting) = tokio::join!(ask(), api.get("/api/v1/query?query=up&timeout=50ms"));
    assert_eq!(first.status, StatusCode::OK);
    waiting.fails(503, "timeout", "query timed out in query queue");
}

// --- Large answers ----------------------------------------------------------------------------------------------------

fn large() -> Memory {
    let samples: Vec<_> = (0..2000)
        .map(|index| (NOW - 2_000_000 + index * 1000, index as f64 + 0.125))
        .collect();
    (0..60).fold(Memory::new(), |memory, index| {
        memory.floats(&[("__name__", "big"), ("index", &format!("{index:03}"))], &samples)
    })
}

fn large_uri() -> String {
    format!(
        "/api/v1/query_range?query=big&start={}&end={SECOND}&step=1",
        SECOND - 2000
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_streamed_whole() {
    let api = Api::new(large());
    let reply = api.get(&large_uri()).await;
    assert!(reply.body.len() > 2 << 20, "{}", reply.body.len());
    let data = reply.data();
    let series = data["result"].as_array().unwrap();
    assert_eq!(series.len(), 60);
    assert!(
        series
            .iter()
            .all(|series| series["values"].as_array().unwrap().len() >= 2000)
    );
    let packed = api
        .call(Method::GET, &large_uri(), &[("accept-encoding", "gzip")], "")
        .await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.body.len() < reply.body.len() / 3);
}

/// So many series that their labels fill several pieces.
fn many_series() -> Memory {
    let long = "x".repeat(200);
    (0..6000).fold(Memory::new(), |memory, index| {
        memory.floats(
            &[("__name__", "many"), ("index", &format!("{index:04}")), ("long", &long)],
            &[(NOW, 1.0)],
        )
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_many_series_are_streamed() {
    let api = Api::new(many_series());
    let reply = api.get("/api/v1/series?match[]=many").await;
    assert!(reply.body.len() > 1 << 20, "{}", reply.body.len());
    let data = reply.data();
    let indices: Vec<&str> = data
        .as_array()
        .unwrap()
        .iter()
        .map(|series| series["index"].as_str().unwrap())
        .collect();
    assert_eq!(indices.len(), 6000);
    assert!(indices.is_sorted());
    assert!(reply.json().get("warnings").is_none());
    let cut = api.get("/api/v1/series?match[]=many&limit=5000").await;
    assert_eq!(cut.json()["data"].as_array().unwrap().len(), 5000);
    assert_eq!(cut.json()["warnings"], json!(["results truncated due to limit"]));
    assert_eq!(cut.headers["cache-control"], "no-store");
    let none = api.get("/api/v1/series?match[]=nothing").await;
    none.is(r#"{"status":"success","data":[]}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_or_does_not_read_series_gives_the_place_free() {
    let settings = QuerierSettings {
        lookups_max: 1,
        send_timeout: Duration::from_millis(200),
        ..QuerierSettings::default()
    };
    let api = Api::with(many_series().shared(), settings);
    let ask = || {
        let request = Request::get("/api/v1/series?match[]=many").body(Body::empty()).unwrap();
        api.router.clone().oneshot(request)
    };
    drop(ask().await.unwrap());
    let sleeping = ask().await.unwrap();
    assert_eq!(api.get("/api/v1/labels?limit=1").await.status, StatusCode::OK);
    assert!(
        sleeping.into_body().collect().await.is_err(),
        "a torn answer was taken for whole"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_does_not_take_every_place() {
    let slow = || Memory {
        delay: Duration::from_millis(1500),
        ..ten_minutes()
    };
    let tenant = |name: &str| model::tenant::Tenant::new(name).unwrap();
    let tenants = crate::common::Tenants::default()
        .with(tenant("a"), slow())
        .with(tenant("b"), ten_minutes());
    let settings = QuerierSettings {
        queries_max: 2,
        tenant_requests_max: 1,
        timeout: Duration::from_millis(2200),
        ..QuerierSettings::default()
    };
    let api = Api::with(Arc::new(tenants), settings);
    let ask = |name: &'static str| {
        let headers = [("thanos-tenant", name)];
        let api = &api;
        async move {
            api.call(Method::GET, "/api/v1/query?query=up", &headers, "")
                .await
                .status
        }
    };
    let (first, second, other) = tokio::join!(ask("a"), ask("a"), async {
        tokio::time::timeout(Duration::from_millis(1200), ask("b")).await
    });
    assert_eq!(other, Ok(StatusCode::OK), "the other tenant had to wait");
    let mut codes = [first.as_u16(), second.as_u16()];
    codes.sort_unstable();
    assert_eq!(codes, [200, 503], "the second one ran beside the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_gets_a_broken_answer() {
    let settings = QuerierSettings {
        send_timeout: Duration::from_millis(50),
        ..QuerierSettings::default()
    };
    let api = Api::with(large().shared(), settings);
    let request = Request::builder().uri(large_uri()).body(Body::empty()).unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = response
        .into_body()
        .collect()
        .await
        .expect_err("a torn answer was taken for whole");
    assert!(format!("{error:?}").contains("not read in time"), "{error:?}");
}

// --- Sources that fail ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_partial_answer_says_so_or_fails_when_that_was_asked() {
    let bad = Memory::failing(SelectError::Unavailable("connection refused".into()));
    let sources = vec![("good".into(), ten_minutes().shared()), ("bad".into(), bad.shared())];
    let api = Api::with(
        Arc::new(Fanout::new(sources).with_policy(Policy::Partial)),
        QuerierSettings::default(),
    );
    let uri = format!("/api/v1/query?query=up&time={SECOND}");
    let reply = api.get(&uri).await;
    let warning = "the result may be incomplete: source bad failed: connection refused";
    assert_eq!(reply.json()["warnings"], json!([warning]));
    assert_eq!(reply.json()["data"]["result"].as_array().unwrap().len(), 2);
    assert_eq!(reply.headers["cache-control"], "no-store");
    let strict = api.get(&format!("{uri}&partial_response=false")).await;
    strict.fails(503, "unavailable", &format!("expanding series: {warning}"));
}

#[tokio::test]
async fn many_warnings_are_cut_to_ten() {
    let doubtful = Memory {
        warnings: (0..14).map(|index| format!("block {index:02}")).collect(),
        ..ten_minutes()
    };
    let warnings = Api::new(doubtful).get("/api/v1/query?query=up").await.json()["warnings"].clone();
    let warnings = warnings.as_array().unwrap();
    assert_eq!(
        (warnings.len(), &warnings[10]),
        (11, &json!("4 more warning annotations omitted"))
    );
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
        let reply = Api::new(Memory::failing(error.clone()))
            .get("/api/v1/query?query=up")
            .await;
        reply.fails(code, kind, &format!("expanding series: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_one_request() {
    let broken = Memory {
        broken_code: true,
        ..ten_minutes()
    };
    let settings = QuerierSettings {
        queries_max: 1,
        ..QuerierSettings::default()
    };
    let api = Api::with(broken.shared(), settings);
    for _ in 0..3 {
        let reply = api.get(&format!("/api/v1/query?query=up&time={SECOND}")).await;
        reply.fails(500, "internal", "unexpected error: the evaluation panicked");
    }
    assert_eq!(api.get("/api/v1/query?query=1").await.status, StatusCode::OK);
    assert_eq!(
        api.get("/federate?match[]=up").await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

// --- Telemetry --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn requests_are_counted_by_route_and_code() {
    let mut registry = Registry::default();
    let querier = Querier::new(
        env(),
        QuerierSettings::default(),
        ten_minutes().shared(),
        Arc::new(Status::default()),
        &mut registry,
    );
    let api = Api {
        router: routes(querier),
    };
    api.get("/api/v1/query?query=up").await;
    api.get("/api/v1/query?query=up{").await;
    api.get("/api/v1/label/job/values").await;
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        "narthex_querier_requests_total{handler=\"/api/v1/query\",code=\"200\"} 1",
        "narthex_querier_requests_total{handler=\"/api/v1/query\",code=\"400\"} 1",
        "narthex_querier_requests_total{handler=\"/api/v1/label/{name}/values\",code=\"200\"} 1",
        "narthex_querier_running{kind=\"query\"} 0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
