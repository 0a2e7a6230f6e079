//! Deleting series and making snapshots over HTTP: off, on, and when it fails.

use crate::common::{api::Api, fleet};
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use model::{
    admin::{AdminError, Administer, Deleted},
    matcher::Matcher,
    tenant::Tenant,
    time::TimeRange,
};
use parking_lot::Mutex;
use querier::QuerierSettings;
use serde_json::json;
use std::sync::Arc;

/// Notes what it is asked, and answers as it is told.
#[derive(Default)]
struct Notes {
    calls: Mutex<Vec<String>>,
    unreached: Vec<String>,
    error: Option<AdminError>,
}

impl Notes {
    fn note<T>(&self, call: String, answer: T) -> BoxFuture<'_, Result<T, AdminError>>
    where
        T: Send + 'static,
    {
        self.calls.lock().push(call);
        let answer = self.error.clone().map_or(Ok(answer), Err);
        Box::pin(async move { answer })
    }
}

impl Administer for Notes {
    fn delete_series<'a>(
        &'a self,
        tenant: &'a Tenant,
        selectors: Vec<Vec<Matcher>>,
        range: TimeRange,
    ) -> BoxFuture<'a, Result<Deleted, AdminError>> {
        let deleted = Deleted {
            series: 1,
            unreached: self.unreached.clone(),
        };
        self.note(
            format!("delete {tenant} {selectors:?} {}..{}", range.min, range.max),
            deleted,
        )
    }

    fn clean_tombstones<'a>(&'a self, tenant: &'a Tenant) -> BoxFuture<'a, Result<(), AdminError>> {
        self.note(format!("clean {tenant}"), ())
    }

    fn snapshot<'a>(&'a self, tenant: &'a Tenant, skip_head: bool) -> BoxFuture<'a, Result<String, AdminError>> {
        self.note(
            format!("snapshot {tenant} {skip_head}"),
            "20240301T000000Z-1".to_owned(),
        )
    }
}

fn api(notes: &Arc<Notes>) -> Api {
    let admin: Arc<dyn Administer> = notes.clone();
    Api::administered(fleet().shared(), QuerierSettings::default(), Some(admin))
}

const PATHS: [&str; 3] = ["delete_series?match[]=up", "clean_tombstones", "snapshot"];

async fn call(api: &Api, method: Method, path: &str) -> crate::common::api::Reply {
    api.call(method, &format!("/api/v1/admin/tsdb/{path}"), &[], "").await
}

#[tokio::test]
async fn without_the_switch_nothing_is_done() {
    let off = Api::new(fleet());
    for path in PATHS {
        for method in [Method::POST, Method::PUT] {
            call(&off, method, path)
                .await
                .fails(500, "unavailable", "admin APIs disabled");
        }
        assert_eq!(
            call(&off, Method::GET, path).await.status,
            StatusCode::METHOD_NOT_ALLOWED,
            "a link or an image must never change anything"
        );
    }
}

#[tokio::test]
async fn each_operation_reaches_who_does_it() {
    let notes = Arc::new(Notes::default());
    let api = api(&notes);
    let uri = "/api/v1/admin/tsdb/delete_series";
    let reply = api
        .post(
            uri,
            "match[]=up{job=\"node\"}&match[]={__name__=~\"a.*\"}&start=1.5&end=2",
        )
        .await;
    assert_eq!((reply.status, reply.body.len()), (StatusCode::NO_CONTENT, 0));
    // PUT may carry a form as well, and another tenant.
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("thanos-tenant", "a"),
    ];
    let reply = api.call(Method::PUT, uri, &headers, "match[]=old").await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    assert_eq!(
        call(&api, Method::POST, "clean_tombstones").await.status,
        StatusCode::NO_CONTENT
    );
    for path in ["snapshot", "snapshot?skip_head=true"] {
        let name = call(&api, Method::POST, path).await.data();
        assert_eq!(name, json!({"name": "20240301T000000Z-1"}));
    }
    assert_eq!(
        *notes.calls.lock(),
        [
            "delete default-tenant [[job=\"node\", __name__=\"up\"], [__name__=~\"a.*\"]] 1500..2000",
            "delete a [[__name__=\"old\"]] -9223309901257974000..9223309901257974999",
            "clean default-tenant",
            "snapshot default-tenant false",
            "snapshot default-tenant true",
        ]
    );
}

#[tokio::test]
async fn mistakes_delete_nothing() {
    let notes = Arc::new(Notes::default());
    let api = api(&notes);
    let cases = [
        ("delete_series", "no match[] parameter provided"),
        (
            "delete_series?match[]=up{",
            "invalid parameter \"match[]\": 1:4: parse error: unexpected end of input inside braces",
        ),
        // One good selector does not save the other.
        (
            "delete_series?match[]=up&match[]={a=~%22.*%22}",
            "invalid parameter \"match[]\": match[] must contain at least one non-empty matcher",
        ),
        (
            "delete_series?match[]=up&start=x",
            "invalid parameter \"start\": invalid time value for 'start': cannot parse \"x\" to a valid timestamp",
        ),
        (
            "snapshot?skip_head=maybe",
            "invalid parameter \"skip_head\": unable to parse boolean: strconv.ParseBool: parsing \"maybe\": invalid syntax",
        ),
    ];
    for (path, text) in cases {
        call(&api, Method::POST, path).await.fails(400, "bad_data", text);
    }
    assert_eq!(*notes.calls.lock(), [""; 0]);
}

#[tokio::test]
async fn what_a_deletion_does_not_reach_is_said() {
    let unreached = "block 01HQ… lies in the bucket".to_owned();
    let notes = Arc::new(Notes {
        unreached: vec![unreached.clone()],
        ..Notes::default()
    });
    let reply = call(&api(&notes), Method::POST, PATHS[0]).await;
    assert_eq!(reply.json()["warnings"], json!([unreached]));
    assert_eq!(reply.data(), json!({}));
}

#[tokio::test]
async fn errors_say_whether_to_ask_again() {
    let cases = [
        (AdminError::Unavailable("starting".into()), 503, "unavailable"),
        (AdminError::Storage("disk full".into()), 500, "internal"),
    ];
    for (error, code, kind) in cases {
        let notes = Arc::new(Notes {
            error: Some(error.clone()),
            ..Notes::default()
        });
        for path in PATHS {
            let reply = call(&api(&notes), Method::POST, path).await;
            reply.fails(code, kind, &error.to_string());
            assert_eq!(reply.headers.contains_key("retry-after"), code == 503);
        }
    }
}
