//! One question, one answer, both bytes: how members of the ring's group talk.

use super::{
    endpoint,
    raw::{Raw, unimplemented},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    client::Grpc as ClientGrpc,
    codegen::Service,
    server::{Grpc as ServerGrpc, NamedService, UnaryService},
    transport::Channel,
};

/// Path of the one method.
const PATH: &str = "/narthex.v1.Members/Ask";

/// Connections that are kept; more than any ring has members.
const CHANNELS_MAX: usize = 1_000;

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The other side was not reached.
    #[error("{0}")]
    Unreachable(String),
    /// The other side does not want to answer.
    #[error("{0}")]
    Refused(String),
}

/// Answers questions.
pub type Answerer = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// Asks nodes by their address and keeps the connections.
#[derive(Debug)]
pub struct Asker {
    channels: Mutex<HashMap<String, Channel>>,
    message_bytes_max: usize,
}

impl Asker {
    /// Answers longer than `message_bytes_max` are refused.
    pub fn new(message_bytes_max: usize) -> Self {
        Self {
            channels: Mutex::default(),
            message_bytes_max,
        }
    }

    /// Asks the node at `address`. It waits as long as the connection lives; the caller gives up by dropping the future.
    pub async fn ask(&self, address: &str, question: Bytes) -> Result<Bytes, AskError> {
        let channel = self.channel(address)?;
        let mut grpc = ClientGrpc::new(channel)
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(self.message_bytes_max);
        let unreachable = |error: &dyn std::fmt::Display| AskError::Unreachable(format!("{address}: {error}"));
        grpc.ready()
            .await
            .map_err(|error| unreachable(&super::causes(&error)))?;
        let answer = grpc
            .unary(Request::new(question), PathAndQuery::from_static(PATH), Raw)
            .await;
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) if status.code() == Code::InvalidArgument => {
                Err(AskError::Refused(status.message().to_owned()))
            }
            Err(status) => Err(unreachable(&status.message())),
        }
    }

    fn channel(&self, address: &str) -> Result<Channel, AskError> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = endpoint(address).map_err(AskError::Unreachable)?;
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        let channel = endpoint.connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// The service that hands questions to an [`Answerer`].
#[derive(Clone)]
pub struct AskService {
    answerer: Answerer,
    message_bytes_max: usize,
}

impl AskService {
    /// Questions longer than `message_bytes_max` are refused.
    pub fn new(answerer: Answerer, message_bytes_max: usize) -> Self {
        Self {
            answerer,
            message_bytes_max,
        }
    }
}

impl NamedService for AskService {
    const NAME: &'static str = "narthex.v1.Members";
}

struct Ask(Answerer);

impl UnaryService<Bytes> for Ask {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        Box::pin(async move {
            match answer.await {
                Ok(answer) => Ok(Response::new(answer)),
                Err(reason) => Err(Status::invalid_argument(reason)),
            }
        })
    }
}

impl Service<http::Request<Body>> for AskService {
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
        let (ask, max) = (Ask(Arc::clone(&self.answerer)), self.message_bytes_max);
        Box::pin(async move {
            let mut grpc = ServerGrpc::new(Raw)
                .max_decoding_message_size(max)
                .max_encoding_message_size(max);
            Ok(grpc.unary(ask, request).await)
        })
    }
}
