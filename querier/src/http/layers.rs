//! What surrounds every call: cross-origin headers, answers to OPTIONS, metrics.

use super::catalogue::Call;
use crate::querier::Querier;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::sync::Arc;

/// Counts and times a call, and tells what follows which call it is.
pub(super) async fn observe(
    State((querier, call)): State<(Arc<Querier>, &'static Call)>,
    mut request: Request,
    next: Next,
) -> Response {
    request.extensions_mut().insert(call);
    let started = querier.env.clock.monotonic();
    let response = next.run(request).await;
    let elapsed = querier.env.clock.monotonic().saturating_sub(started);
    querier
        .metrics
        .answered(call.path, response.status().as_u16(), elapsed.as_secs_f64());
    response
}

/// Answers OPTIONS, and tells browsers which pages may read answers.
pub(super) async fn cross_origin(State(querier): State<Arc<Querier>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    if let Some(origin) = origin {
        allow(&querier, origin, response.headers_mut());
    }
    response
}

fn allow(querier: &Querier, origin: HeaderValue, headers: &mut HeaderMap) {
    let Some(allowed) = &querier.origins else { return };
    let fixed = [
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Accept, Authorization, Content-Type, Origin",
        ),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if allowed.any {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else if origin.to_str().is_ok_and(|origin| allowed.matcher.matches(origin)) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
}
