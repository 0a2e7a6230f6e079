//! What every call has in common: parameters, HTTP, tenants, and sources that fail.

use crate::common::{Memory, NOW, Tenants, api::Api, fleet};
use http::{Method, StatusCode};
use model::{metadata::MetricType, select::SelectError, tenant::Tenant};
use querier::{Fanout, Policy, QuerierSettings};
use serde_json::json;
use std::{sync::Arc, time::Duration};

fn api() -> Api {
    Api::new(fleet())
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
            "invalid parameter \"start\": invalid time value for 'start': cannot parse \"foo\" to a valid timestamp",
        ),
        (
            "/api/v1/labels?end=foo",
            "invalid parameter \"end\": invalid time value for 'end': cannot parse \"foo\" to a valid timestamp",
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
        Api::with(fleet().shared(), settings)
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
        ("good".into(), fleet().shared()),
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
        ..fleet()
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
        ..fleet()
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
    let api = Api::with(fleet().shared(), settings());
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
