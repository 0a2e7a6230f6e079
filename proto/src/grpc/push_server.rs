//! The server's end of push sessions: reads messages, hands batches to the taker of this node, sends the verdicts back.
//!
//! The taker is the ingester itself. So what one node forwarded can never be forwarded again: there is no way to say it.

use super::raw::{Raw, unimplemented};
use crate::{
    push::{
        ClientMessage, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, PushRequest, read_client_message, write_hello,
        write_outcome, write_pong,
    },
    spare::Spares,
};
use bytes::Bytes;
use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, ready},
    ready,
    stream::FuturesUnordered,
};
use model::{
    push::{Push, PushError, SeriesId, SeriesRef, WriteBatch, WriteOutcome},
    tenant::Tenant,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    convert::Infallible,
    mem,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::Service,
    server::{Grpc, NamedService, StreamingService},
};

/// Path of the one method.
pub(super) const PATH: &str = "/narthex.v1.Push/Session";

/// Messages of one session that are being taken at the same time. They share an fsync.
const MESSAGES_MAX: usize = 64;

/// Series that one session numbers, in some 400 MB at most. Then the session ends, and the next one begins anew.
const NUMBERS_MAX: usize = 1 << 23;

/// The service.
#[derive(Clone)]
pub struct PushService {
    taker: Arc<dyn Push>,
    process: u64,
}

impl PushService {
    /// Hands what comes to `taker`. `process` is a number that no other process has: by it clients know that two addresses lead to the same
    /// one.
    pub fn new(taker: Arc<dyn Push>, process: u64) -> Self {
        Self { taker, process }
    }
}

impl NamedService for PushService {
    const NAME: &'static str = "narthex.v1.Push";
}

impl Service<http::Request<Body>> for PushService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != PATH {
            return Box::pin(unimplemented());
        }
        let open = Open(self.clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok(grpc.streaming(open, request).await)
        })
    }
}

/// Opens sessions.
struct Open(PushService);

impl StreamingService<Bytes> for Open {
    type Response = Bytes;
    type ResponseStream = Session;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let mut hello = Vec::new();
        write_hello(PROTOCOL_VERSION, self.0.process, &mut hello);
        Box::pin(ready(Ok(Response::new(Session {
            taker: Arc::clone(&self.0.taker),
            series: Arc::new(Mutex::new(Numbered::new(NUMBERS_MAX))),
            spares: Arc::default(),
            messages: request.into_inner(),
            under_way: FuturesUnordered::new(),
            hello: Some(hello.into()),
            unsent: false,
            ended: false,
        }))))
    }
}

/// Series by their number of the session.
struct Numbered {
    /// Most numbers that are given.
    max: usize,
    tenants: HashMap<Tenant, u32>,
    /// Whose series, and the taker's number of it.
    series: Vec<(u32, SeriesRef)>,
    /// The other way round, so that a series which comes with labels again keeps its number.
    numbers: HashMap<(u32, SeriesRef), u32>,
}

impl Numbered {
    fn new(max: usize) -> Self {
        Self {
            max,
            tenants: HashMap::new(),
            series: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.series.len() >= self.max
    }

    fn tenant(&mut self, tenant: &Tenant) -> u32 {
        let next = self.tenants.len() as u32;
        *self.tenants.entry(tenant.clone()).or_insert(next)
    }

    /// Puts the taker's numbers in the place of the session's; gives the series whose number is not known.
    fn resolve(&self, batch: &mut WriteBatch) -> Vec<u32> {
        let tenant = self.tenants.get(&batch.tenant);
        let mut unknown = Vec::new();
        for (index, series) in batch.series.iter_mut().enumerate() {
            let SeriesId::Known(number) = series.id else { continue };
            match self.series.get(number.0 as usize) {
                Some((owner, reference)) if Some(owner) == tenant => series.id = SeriesId::Known(*reference),
                _ => unknown.push(index as u32),
            }
        }
        unknown
    }

    /// Numbers the series that the taker gave numbers to.
    fn number(&mut self, tenant: &Tenant, outcome: &mut WriteOutcome) {
        if outcome.refs.is_empty() {
            return;
        }
        let tenant = self.tenant(tenant);
        // In the order of the batch, so that the numbers of series that travel together are neighbours.
        outcome.refs.sort_unstable();
        outcome.refs.retain_mut(|(_, reference)| {
            let next = self.series.len();
            let known = self.numbers.get(&(tenant, *reference)).copied();
            if known.is_none() && next >= self.max {
                return false;
            }
            let number = known.unwrap_or_else(|| {
                self.series.push((tenant, *reference));
                self.numbers.insert((tenant, *reference), next as u32);
                next as u32
            });
            *reference = SeriesRef(u64::from(number));
            true
        });
    }
}

/// A session, as the stream of what it says. It is driven by the connection's own task for this stream: a message is committed where it
/// was read, and its answer written where it is known, without passing it from task to task.
struct Session {
    taker: Arc<dyn Push>,
    series: Arc<Mutex<Numbered>>,
    spares: Arc<Spares>,
    messages: Streaming<Bytes>,
    /// Batches that are being taken; each gives its answer.
    under_way: FuturesUnordered<BoxFuture<'static, Bytes>>,
    hello: Option<Bytes>,
    /// Something was said that may not have left yet.
    unsent: bool,
    /// Nothing more comes.
    ended: bool,
}

impl Session {
    /// Hears a message; gives what is to be said at once, if anything.
    fn hear(&mut self, message: &[u8]) -> Option<Result<Bytes, Status>> {
        if self.series.lock().is_full() {
            tracing::info!("a push session has numbered {NUMBERS_MAX} series; it ends, and the next one begins anew");
            self.ended = true;
            self.under_way.clear();
            return None;
        }
        match read_client_message(message, self.spares.take()) {
            Ok(ClientMessage::Push(request)) => {
                self.under_way.push(Box::pin(self.outcome(request)));
                None
            }
            Ok(ClientMessage::Ping { id }) => {
                let mut pong = Vec::new();
                write_pong(id, &mut pong);
                Some(Ok(pong.into()))
            }
            Err(error) => {
                tracing::warn!(%error, "a node sent what is no push message; its session ends");
                self.ended = true;
                self.under_way.clear();
                Some(Err(Status::invalid_argument(error.to_string())))
            }
        }
    }

    /// Takes a batch; gives the answer.
    fn outcome(&self, request: PushRequest) -> impl Future<Output = Bytes> + Send + 'static {
        let PushRequest {
            id,
            received,
            mut batch,
        } = request;
        let (taker, numbered) = (Arc::clone(&self.taker), Arc::clone(&self.series));
        let spares = Arc::clone(&self.spares);
        async move {
            let unknown = numbered.lock().resolve(&mut batch);
            let taken = take(&*taker, &batch, unknown, received, &numbered);
            // A fault in the taker costs this batch its answer, not the others their session.
            let result = AssertUnwindSafe(taken).catch_unwind().await;
            let result = result.unwrap_or_else(|_| Err(unavailable("a fault of the taker, told in its log")));
            spares.keep(batch);
            let mut message = Vec::new();
            write_outcome(id, &result, &mut message);
            message.into()
        }
    }
}

impl Stream for Session {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let session = &mut *self;
        loop {
            if let Some(hello) = session.hello.take() {
                return Poll::Ready(Some(Ok(hello)));
            }
            if let Poll::Ready(Some(answer)) = session.under_way.poll_next_unpin(context) {
                session.unsent = true;
                return Poll::Ready(Some(Ok(answer)));
            }
            if mem::take(&mut session.unsent) {
                // What was said lies in a buffer until nothing more is said at once. It leaves before the next batch is committed.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if session.ended && session.under_way.is_empty() {
                return Poll::Ready(None);
            }
            if session.ended || session.under_way.len() >= MESSAGES_MAX {
                return Poll::Pending;
            }
            match ready!(session.messages.poll_next_unpin(context)) {
                Some(Ok(message)) => {
                    if let Some(said) = session.hear(&message) {
                        return Poll::Ready(Some(said));
                    }
                }
                // Who left does not wait for answers.
                Some(Err(_)) => return Poll::Ready(None),
                None => session.ended = true,
            }
        }
    }
}

fn unavailable(reason: &str) -> PushError {
    PushError::Unavailable {
        reason: reason.to_owned(),
        retry_after: Duration::from_secs(1),
    }
}

async fn take(
    taker: &dyn Push,
    batch: &WriteBatch,
    unknown: Vec<u32>,
    received: i64,
    numbered: &Mutex<Numbered>,
) -> Result<WriteOutcome, PushError> {
    if unknown.is_empty() {
        let mut outcome = taker.push(batch, received).await?;
        numbered.lock().number(&batch.tenant, &mut outcome);
        return Ok(outcome);
    }
    let kept: Vec<u32> = (0..batch.series.len() as u32)
        .filter(|index| unknown.binary_search(index).is_err())
        .collect();
    let ids = kept.iter().map(|index| batch.series[*index as usize].id.clone());
    let part = batch.part(&kept, ids.collect());
    let mut outcome = taker.push(&part, received).await?;
    numbered.lock().number(&batch.tenant, &mut outcome);
    let Some(mut outcome) = outcome.of_whole(batch, &kept) else {
        return Err(unavailable("the taker judged samples that it was not given"));
    };
    outcome.unknown.extend(unknown);
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::label::Labels;

    #[test]
    fn beyond_the_last_number_series_stay_without_one() {
        let mut numbered = Numbered::new(3);
        let tenant = Tenant::new("a").unwrap();
        let refs = (0..5).map(|index| (index, SeriesRef(100 + u64::from(index)))).collect();
        let mut outcome = WriteOutcome {
            refs,
            ..WriteOutcome::default()
        };
        numbered.number(&tenant, &mut outcome);
        assert_eq!(
            outcome.refs,
            [0, 1, 2].map(|number| (number, SeriesRef(u64::from(number))))
        );
        assert!(numbered.is_full());
        // One that has a number keeps it.
        let mut again = WriteOutcome {
            refs: vec![(7, SeriesRef(102)), (8, SeriesRef(103))],
            ..WriteOutcome::default()
        };
        numbered.number(&tenant, &mut again);
        assert_eq!(again.refs, [(7, SeriesRef(2))]);
        let mut batch = WriteBatch {
            tenant,
            ..WriteBatch::default()
        };
        for id in [
            SeriesId::Known(SeriesRef(2)),
            SeriesId::Known(SeriesRef(3)),
            SeriesId::New(Labels::default()),
        ] {
            batch.finish_series(id);
        }
        assert_eq!(numbered.resolve(&mut batch), [1]);
        assert_eq!(batch.series[0].id, SeriesId::Known(SeriesRef(102)));
    }
}
