//! The API without sockets: requests go straight into the router.

use super::{Memory, NOW, Tenants, env};
use axum::{
    Router,
    body::{Body, Bytes},
};
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use model::{
    admin::Administer,
    select::{SelectError, SelectTenants},
    tenant::Tenant,
    time::Timestamp,
};
use prometheus_client::registry::Registry;
use querier::{Querier, QuerierSettings, StatusProvider, http::routes, status::HeadStats};
use serde_json::Value;
use std::sync::Arc;
use tower::ServiceExt;

/// What the process says about itself in the tests.
#[derive(Default)]
pub struct Status {
    /// Who administers, when that is switched on.
    pub admin: Option<Arc<dyn Administer>>,
}

impl StatusProvider for Status {
    fn version(&self) -> String {
        "0.1.0".into()
    }
    fn revision(&self) -> String {
        "abc".into()
    }
    fn flags(&self) -> Vec<(String, String)> {
        vec![
            ("http.address".into(), "127.0.0.1:10902".into()),
            ("data.dir".into(), "./data".into()),
        ]
    }
    fn config(&self) -> String {
        "data:\n  dir: ./data\n".into()
    }
    fn started(&self) -> Timestamp {
        NOW - 60_000
    }
    fn admin(&self) -> Option<Arc<dyn Administer>> {
        self.admin.clone()
    }
    fn retention(&self) -> String {
        "15d".into()
    }
    fn head_stats(&self, tenant: &Tenant, limit: usize) -> BoxFuture<'_, Result<HeadStats, SelectError>> {
        let mine = *tenant == Tenant::default();
        Box::pin(async move {
            if !mine {
                return Ok(HeadStats::default());
            }
            let series_by_metric = vec![("up".to_owned(), 2), ("x".to_owned(), 1)];
            Ok(HeadStats {
                series: 3,
                label_pairs: 4,
                chunks: 5,
                min_time: 6,
                max_time: 7,
                series_by_metric: series_by_metric.into_iter().take(limit).collect(),
                ..HeadStats::default()
            })
        })
    }
}

/// A router over a source, and what a test wants of it.
pub struct Api {
    pub router: Router,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Api {
    pub fn new(memory: Memory) -> Self {
        Self::with(memory.shared(), QuerierSettings::default())
    }

    pub fn with(select: Arc<dyn SelectTenants>, settings: QuerierSettings) -> Self {
        Self::administered(select, settings, None)
    }

    pub fn administered(
        select: Arc<dyn SelectTenants>,
        settings: QuerierSettings,
        admin: Option<Arc<dyn Administer>>,
    ) -> Self {
        let mut registry = Registry::default();
        let querier = Querier::new(env(), settings, select, Arc::new(Status { admin }), &mut registry);
        Self {
            router: routes(querier),
        }
    }

    pub fn tenants(tenants: Tenants) -> Self {
        Self::with(Arc::new(tenants), QuerierSettings::default())
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub async fn call(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub async fn get(&self, uri: &str) -> Reply {
        self.call(Method::GET, uri, &[], "").await
    }

    pub async fn post(&self, uri: &str, form: &str) -> Reply {
        self.call(
            Method::POST,
            uri,
            &[("content-type", "application/x-www-form-urlencoded")],
            form,
        )
        .await
    }
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The data of a success.
    pub fn data(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        assert_eq!(self.headers["content-type"], "application/json");
        let mut json = self.json();
        assert_eq!(json["status"], "success", "{json}");
        json["data"].take()
    }

    /// The exact text of a success.
    pub fn is(&self, expected: &str) {
        assert_eq!((self.status, self.text()), (StatusCode::OK, expected));
    }

    /// The whole of an error: status code, type, text.
    pub fn fails(&self, status: u16, kind: &str, text: &str) {
        let quoted = serde_json::to_string(text).unwrap();
        let quoted = quoted
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026");
        let expected = format!("{{\"status\":\"error\",\"errorType\":\"{kind}\",\"error\":{quoted}}}");
        assert_eq!((self.status.as_u16(), self.text()), (status, expected.as_str()));
    }
}

/// Percent-encoding of everything that is not a letter or digit.
pub fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
