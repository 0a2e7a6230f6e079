//! The Prometheus HTTP API.
//!
//! [`routes`] gives a router for the node to mount. Each call reads its parameters ([`params`]), asks the [`Querier`] and writes its
//! answer ([`answer`]); the table of calls ([`catalogue`]) is also the OpenAPI document ([`openapi`]). Answers are those of Prometheus 3.14 to the byte, except where a comment says why not.

mod catalogue;
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
mod openapi;

use crate::querier::Querier;
use answer::{ApiError, ErrorKind};
use axum::{
    Router,
    handler::Handler,
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter},
};
use catalogue::Verb;
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

/// Each call with the code that answers it. Which methods it takes is in its row of the catalogue.
fn calls(querier: &Arc<Querier>) -> Router {
    let mut calls = Calls {
        router: Router::new(),
        querier,
    };
    calls.add("/api/v1/query", query::instant);
    calls.add("/api/v1/query_range", query::range);
    calls.add("/api/v1/query_exemplars", lookup::exemplars);
    calls.add("/api/v1/format_query", syntax::format_query);
    calls.add("/api/v1/parse_query", syntax::parse_query);
    calls.add("/api/v1/labels", lookup::label_names);
    calls.add("/api/v1/label/{name}/values", lookup::label_values);
    calls.add("/api/v1/series", lookup::series);
    calls.add("/api/v1/metadata", lookup::metadata);
    calls.add("/api/v1/read", read::read);
    calls.add("/federate", federate::federate);
    calls.add("/api/v1/rules", absent::rules);
    calls.add("/api/v1/alerts", absent::alerts);
    calls.add("/api/v1/alertmanagers", absent::alertmanagers);
    calls.add("/api/v1/targets", absent::targets);
    calls.add("/api/v1/targets/metadata", absent::targets_metadata);
    calls.add("/api/v1/scrape_pools", absent::scrape_pools);
    calls.add("/api/v1/status/buildinfo", status::buildinfo);
    calls.add("/api/v1/status/runtimeinfo", status::runtimeinfo);
    calls.add("/api/v1/status/flags", status::flags);
    calls.add("/api/v1/status/config", status::config);
    calls.add("/api/v1/status/tsdb", status::tsdb);
    calls.add("/api/v1/status/walreplay", status::walreplay);
    calls.add("/api/v1/features", status::features);
    calls.add("/api/v1/notifications", absent::notifications);
    calls.add("/api/v1/notifications/live", absent::notifications_live);
    calls.add("/api/v1/openapi.yaml", openapi::document);
    calls.add("/api/v1/admin/tsdb/delete_series", admin::delete_series);
    calls.add("/api/v1/admin/tsdb/clean_tombstones", admin::clean_tombstones);
    calls.add("/api/v1/admin/tsdb/snapshot", admin::snapshot);
    calls.router
}

struct Calls<'a> {
    router: Router,
    querier: &'a Arc<Querier>,
}

impl Calls<'_> {
    fn add<T: 'static>(&mut self, path: &'static str, handler: impl Handler<T, Arc<Querier>>) {
        let call = catalogue::call(path);
        let mut methods = MethodRouter::new();
        for verb in call.verbs {
            let filter = match verb {
                Verb::Get => MethodFilter::GET,
                Verb::Post => MethodFilter::POST,
                Verb::Put => MethodFilter::PUT,
            };
            methods = methods.on(filter, handler.clone());
        }
        let observe = middleware::from_fn_with_state((self.querier.clone(), call), layers::observe);
        let methods = methods.layer(observe).with_state(self.querier.clone());
        self.router = std::mem::take(&mut self.router).route(path, methods);
    }
}

/// A panic is our fault: it costs this request, not the connection. What it says is in the log of the process.
fn panicked(_cause: Box<dyn Any + Send>) -> Response {
    ApiError::new(ErrorKind::Internal, "unexpected error: a handler panicked").into_response()
}
