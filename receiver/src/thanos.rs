//! Takes what a router of Thanos forwards.
//!
//! Series that are a copy already go to the taker of this node and nowhere else; only those that nobody replicated yet go to the ring. A
//! message may hold several tenants, each of which becomes a write of its own. Thanos counts by status: what can never be stored is a
//! conflict, whatever the reason, and what may pass is unavailable.

use crate::write::{Receiver, WriteRequest};
use futures::future::join_all;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use model::tenant::TENANT_HEADERS;
use proto::grpc::thanos_write::{RemoteWrite, TakeWrite, WriteRefusal};
use std::sync::Arc;

/// Hands copies to `near`, and what is not replicated yet to `ring`.
pub fn taker(ring: Arc<Receiver>, near: Arc<Receiver>) -> TakeWrite {
    Arc::new(move |write| {
        let receiver = if write.replica == 0 { &ring } else { &near };
        let receiver = Arc::clone(receiver);
        Box::pin(async move { take(&receiver, write).await })
    })
}

async fn take(receiver: &Receiver, write: RemoteWrite) -> Result<(), WriteRefusal> {
    if write.replica < 0 {
        let text = format!("{} is no number of a copy", write.replica);
        return Err(WriteRefusal::Invalid(text));
    }
    let mut requests = Vec::with_capacity(write.parts.len());
    for (tenant, body) in write.parts {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("identity"));
        if !tenant.is_empty() {
            let value = HeaderValue::from_str(&tenant);
            let value = value.map_err(|_| WriteRefusal::Invalid(format!("{tenant:?} is no tenant")))?;
            headers.insert(TENANT_HEADERS[0], value);
        }
        requests.push(WriteRequest {
            headers,
            body: body.into(),
            ..WriteRequest::default()
        });
    }
    let answers = join_all(requests.into_iter().map(|request| receiver.write(request))).await;
    let mut conflict = None;
    let mut invalid = None;
    for answer in answers {
        let text = answer.body.trim_end().to_owned();
        match answer.status {
            StatusCode::NO_CONTENT => {}
            StatusCode::SERVICE_UNAVAILABLE => return Err(WriteRefusal::Unavailable(text)),
            _ if answer.is_partial => conflict = Some(WriteRefusal::Conflict(text)),
            _ => invalid = Some(WriteRefusal::Invalid(text)),
        }
    }
    invalid.or(conflict).map_or(Ok(()), Err)
}
