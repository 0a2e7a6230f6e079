//! `/`, `/-/healthy`, `/-/ready`, `/metrics` and the operations that only an operator may ask for.

use crate::{banner, ring::Membership};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ingest::Ingester;
use prometheus_client::registry::Registry;
use serde_json::json;
use std::{net::SocketAddr, sync::Arc};
use storage::gateway::Gateway;
use tokio::sync::watch;

/// What the routes need.
pub struct Admin {
    /// Whether everything is served.
    pub ready: watch::Receiver<bool>,
    /// Whose progress and cut this is, in a process that takes samples.
    pub ingester: Option<Arc<Ingester>>,
    /// Told to look again after a cut, in a process that reads the bucket.
    pub gateway: Option<Arc<Gateway>>,
    /// What `/metrics` shows.
    pub registry: Registry,
    /// Without a ring there is nowhere to write; none in a process that takes no samples.
    pub membership: Option<Arc<Membership>>,
    /// For the hints on the first page.
    pub address: SocketAddr,
    /// Whether operations that change data are served.
    pub admin_api: bool,
}

/// The routes.
pub fn routes(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(first_page))
        .route("/-/healthy", get(|| async { "Narthex is healthy.\n" }))
        .route("/-/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/admin/cut", post(cut).put(cut))
        .with_state(admin)
}

async fn first_page(State(admin): State<Arc<Admin>>) -> String {
    format!(
        "Narthex {} takes Prometheus remote write and answers PromQL.\n\nSend samples, in prometheus.yml:\n\n{}\n\
         Ask: the Prometheus HTTP API is at /api/v1/query and its siblings; in Grafana add a data source of type Prometheus with this address.\n\
         See: /metrics, /-/ready, /ring, /api/v1/status/tsdb\n",
        env!("CARGO_PKG_VERSION"),
        banner::remote_write_block(admin.address),
    )
}

/// 200 once everything is served, before that 503 with the progress of the start.
async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    if *admin.ready.borrow() {
        return "Narthex is ready.\n".into_response();
    }
    let is_placed = admin
        .membership
        .as_ref()
        .is_none_or(|membership| membership.is_placed());
    let text = match &admin.ingester {
        Some(ingester) if ingester.is_ready() && !is_placed => {
            "Narthex is starting: it has not heard of its ring yet.\n".to_owned()
        }
        Some(ingester) => {
            let progress = ingester.progress();
            format!(
                "Narthex is starting: {} of {} bytes of the write-ahead log are replayed.\n",
                progress.bytes_done, progress.bytes_total
            )
        }
        None => "Narthex is starting: it looks through the bucket or asks its endpoints.\n".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], text).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("encode metrics: {error}\n")).into_response(),
    }
}

/// Cuts everything in memory into blocks, ships them, and lists them.
async fn cut(State(admin): State<Arc<Admin>>, uri: Uri) -> Response {
    if !admin.admin_api {
        let text = format!("{} is off; start with --web.enable-admin-api to serve it", uri.path());
        return error(StatusCode::FORBIDDEN, "unavailable", &text);
    }
    let Some(ingester) = &admin.ingester else {
        let text = "this process takes no samples and has nothing to cut";
        return error(StatusCode::NOT_FOUND, "not_found", text);
    };
    let blocks = match ingester.cut_now().await {
        Ok(blocks) => blocks,
        Err(failure) => return error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &failure.to_string()),
    };
    if let Some(gateway) = &admin.gateway
        && let Err(failure) = gateway.sync().await
    {
        tracing::warn!(error = %failure, "the bucket could not be listed after a cut; the next look will find the blocks");
    }
    let blocks: Vec<_> = blocks
        .iter()
        .map(|block| {
            json!({
                "ulid": block.ulid.to_string(),
                "tenant": block.tenant.as_str(),
                "minTime": block.min_time,
                "maxTime": block.max_time,
                "series": block.series,
                "samples": block.samples,
            })
        })
        .collect();
    Json(json!({"status": "success", "data": {"blocks": blocks}})).into_response()
}

/// The error envelope of the Prometheus API.
fn error(status: StatusCode, kind: &str, text: &str) -> Response {
    (
        status,
        Json(json!({"status": "error", "errorType": kind, "error": text})),
    )
        .into_response()
}
