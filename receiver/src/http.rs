//! The HTTP face of the receiver: routes, reading of bodies, and words for people who look at a write path.
//!
//! `node` mounts [`routes`]. Everything about the content of a request is decided in [`Receiver::write`]; here it is
//! only read, within limits of bytes, memory and time.

use crate::{
    answer::WriteAnswer,
    budget::Reservation,
    write::{Receiver, WriteRequest},
};
use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;

/// Paths under which senders of all kinds know the write endpoint.
pub const PATHS: [&str; 6] = [
    "/api/v1/write",
    "/api/v1/receive",
    "/api/v1/push",
    "/api/prom/push",
    "/prometheus/api/v1/write",
    "/api/v1/remote_write",
];

/// The same for senders that cannot set headers and name their tenant in the path.
pub const TENANT_PATHS: [&str; 2] = ["/t/{tenant}/api/v1/write", "/t/{tenant}/api/v1/receive"];

/// How much of a body that is too large is read and thrown away, so that the sender gets to read the answer.
const DRAIN_BYTES_MAX: usize = 64 << 20;

/// Memory for a body is taken ahead, by what its header declares, up to this.
const AHEAD_BYTES_MAX: usize = 256 << 10;

/// For people and health checks that look at a write path with GET.
const HELP: &str = "This is the remote write endpoint of Narthex. Point the remote_write url of a Prometheus, an agent or \
another sender here; it takes POST requests of remote write 1.0 and 2.0, compressed with snappy, zstd or gzip. The tenant \
is named by the header THANOS-TENANT or X-Scope-OrgID, or by a path that begins with /t/TENANT/.\n";

/// An extension of requests whose tenant was named by credentials: headers hold it, and nothing in the body can name another one.
#[derive(Debug, Clone, Copy)]
pub struct BoundTenant;

/// All routes of the write path.
pub fn routes(receiver: Arc<Receiver>) -> Router {
    let mut router = Router::new();
    for path in PATHS {
        let write = |State(receiver): State<Arc<Receiver>>, request: Request| answer(receiver, None, request);
        router = router.route(path, help().post(write));
    }
    for path in TENANT_PATHS {
        let write = |State(receiver): State<Arc<Receiver>>, Path(tenant): Path<String>, request: Request| {
            answer(receiver, Some(tenant), request)
        };
        router = router.route(path, help().post(write));
    }
    router.with_state(receiver)
}

fn help() -> MethodRouter<Arc<Receiver>> {
    get(|| async { HELP })
}

async fn answer(receiver: Arc<Receiver>, tenant: Option<String>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // Held until the answer: the body stays in memory so long.
    let mut reservation = receiver.budget.reservation();
    let answer = match read(&receiver, &parts.headers, body, &mut reservation).await {
        Ok(body) => {
            receiver
                .write(WriteRequest {
                    headers: parts.headers,
                    tenant,
                    bound: parts.extensions.get::<BoundTenant>().is_some(),
                    body,
                })
                .await
        }
        Err(answer) => receiver.answer_unread(&parts.headers, answer),
    };
    answer.into_response()
}

impl IntoResponse for WriteAnswer {
    fn into_response(self) -> Response {
        (self.status, self.headers, self.body).into_response()
    }
}

/// Reads a body within the limits of bytes, memory and time.
async fn read(
    receiver: &Receiver,
    headers: &HeaderMap,
    body: Body,
    reservation: &mut Reservation,
) -> Result<Bytes, WriteAnswer> {
    let timeout = receiver.env.clock.sleep(receiver.settings.body_timeout);
    match select(
        std::pin::pin!(read_frames(receiver, headers, body, reservation)),
        timeout,
    )
    .await
    {
        Either::Left((read, _)) => read,
        Either::Right(_) => {
            let text = format!("the body did not arrive within {:?}", receiver.settings.body_timeout);
            Err(WriteAnswer::unavailable(
                text,
                Duration::from_secs(1),
                &*receiver.env.rng,
            ))
        }
    }
}

async fn read_frames(
    receiver: &Receiver,
    headers: &HeaderMap,
    mut body: Body,
    reservation: &mut Reservation,
) -> Result<Bytes, WriteAnswer> {
    let limit = receiver.settings.body_bytes_max;
    let declared = declared_len(headers);
    if declared.is_some_and(|declared| declared > limit) {
        return Err(too_large(body, limit).await);
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let text = format!("the body could not be read to its end: {error}");
            WriteAnswer::unavailable(text, Duration::from_secs(1), &*receiver.env.rng)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let len = first.len().max(all.len()) + data.len();
        if len > limit {
            return Err(too_large(body, limit).await);
        }
        if !reservation.grow(data.len()) {
            return Err(receiver.overloaded());
        }
        if first.is_empty() && all.is_empty() {
            // Small bodies come in one piece, which need not be copied.
            first = data;
        } else {
            if all.is_empty() {
                // Growing piece by piece would copy each byte twice. What is declared and never comes is not much.
                all.reserve(declared.unwrap_or(0).min(AHEAD_BYTES_MAX));
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

fn declared_len(headers: &HeaderMap) -> Option<usize> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads the rest away, within bounds, and says what the limit is.
async fn too_large(mut body: Body, limit: usize) -> WriteAnswer {
    let mut drained = 0;
    while drained < DRAIN_BYTES_MAX {
        match body.frame().await {
            Some(Ok(frame)) => drained += frame.data_ref().map_or(1, Bytes::len),
            Some(Err(_)) | None => break,
        }
    }
    let text = format!("the body has more than the limit of {limit} bytes; let the sender make smaller requests");
    WriteAnswer::refused(StatusCode::BAD_REQUEST, text)
}
