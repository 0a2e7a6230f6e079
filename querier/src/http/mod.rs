//! The Prometheus HTTP API.
//!
//! [`routes`] gives a router for the node to mount. Each call reads its parameters ([`params`]), asks the [`Querier`] and writes its
//! answer ([`answer`]). Answers are those of Prometheus 3.14 to the byte, except where a comment says why not.

mod absent;
mod answer;
mod json;
mod layers;
mod number;
mod params;
mod status;
mod lookup;
mod result;
mod query;
mod syntax;
mod federate;
mod time;
mod stream;
mod read;
mod admin;

use crate::querier::Querier;
use answer::{ApiError, ErrorKind};
use axum::{
    Router, middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use std::{any::Any, sync::Arc};
use tower_http::{CompressionLevel, catch_panic::CatchPanicLayer, compression::CompressionLayer};

/// All calls, below `/api/v1` and `/federate`, and again below `/prometheus`, where clients of Mimir look.
pub fn routes(querier: Arc<Querier>) -> Router {
    let calls = calls(&querier);
    Router::new()
        .merge(calls.clone())
        .nest("/prometheus", calls)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .layer(middleware::from_fn_with_state(querier, layers::cross_origin))
}

fn calls(querier: &Arc<Querier>) -> Router {
    let mut router = Router::new();
    let mut add = |path: &'static str, method: MethodRouter<Arc<Querier>>| {
        let observe = middleware::from_fn_with_state((querier.clone(), path), layers::observe);
        router = std::mem::take(&mut router).route(path, method.layer(observe).with_state(querier.clone()));
    };
    add("/api/v1/query", get(query::instant).post(query::instant));
    add("/api/v1/query_range", get(query::range).post(query::range));
    add("/api/v1/labels", get(lookup::label_names).post(lookup::label_names));
    add("/api/v1/label/{name}/values", get(lookup::label_values));
    add("/api/v1/series", get(lookup::series).post(lookup::series));
    add("/api/v1/metadata", get(lookup::metadata));
    add(
        "/api/v1/query_exemplars",
        get(lookup::exemplars).post(lookup::exemplars),
    );
    add(
        "/api/v1/parse_query",
        get(syntax::parse_query).post(syntax::parse_query),
    );
    add(
        "/api/v1/format_query",
        get(syntax::format_query).post(syntax::format_query),
    );
    add("/api/v1/read", post(read::read));
    add(
        "/api/v1/admin/tsdb/delete_series",
        post(admin::delete_series).put(admin::delete_series),
    );
    add(
        "/api/v1/admin/tsdb/clean_tombstones",
        post(admin::clean_tombstones).put(admin::clean_tombstones),
    );
    add(
        "/api/v1/admin/tsdb/snapshot",
        post(admin::snapshot).put(admin::snapshot),
    );
    add("/federate", get(federate::federate));
    add("/api/v1/status/buildinfo", get(status::buildinfo));
    add("/api/v1/status/flags", get(status::flags));
    add("/api/v1/status/config", get(status::config));
    add("/api/v1/status/runtimeinfo", get(status::runtimeinfo));
    add("/api/v1/status/tsdb", get(status::tsdb));
    add("/api/v1/status/walreplay", get(status::walreplay));
    add("/api/v1/features", get(status::features));
    add("/api/v1/rules", get(absent::rules));
    add("/api/v1/alerts", get(absent::alerts));
    add("/api/v1/targets", get(absent::targets));
    add("/api/v1/targets/metadata", get(absent::targets_metadata));
    add("/api/v1/scrape_pools", get(absent::scrape_pools));
    add("/api/v1/alertmanagers", get(absent::alertmanagers));
    add("/api/v1/notifications", get(absent::notifications));
    router
}

/// A panic is our fault: it costs this request, not the connection. What it says is in the log of the process.
fn panicked(_cause: Box<dyn Any + Send>) -> Response {
    ApiError::new(ErrorKind::Internal, "unexpected error: a handler panicked").into_response()
}
