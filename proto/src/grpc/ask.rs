//! One question, one answer, both bytes: how members of the ring's group talk.

use super::{
    raw::{Answering, Raw, unary, unimplemented},
    security::Security,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{
    Code, Request, Status, body::Body, client::Grpc, codegen::Service, server::NamedService, transport::Channel,
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
    security: Security,
    channels: Mutex<HashMap<String, Channel>>,
    message_bytes_max: usize,
}

impl Asker {
    /// Answers longer than `message_bytes_max` are refused.
    pub fn new(message_bytes_max: usize, security: Security) -> Self {
        Self {
            security,
            channels: Mutex::default(),
            message_bytes_max,
        }
    }

    /// Asks the node at `address`. It waits as long as the connection lives; the caller gives up by dropping the future.
    pub async fn ask(&self, address: &str, question: Bytes) -> Result<Bytes, AskError> {
        let channel = self.channel(address)?;
        let mut grpc = Grpc::new(channel)
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
            // The words of a connection that broke are only "transport error".
            Err(status) => Err(match status.source() {
                Some(cause) => unreachable(&super::causes(cause)),
                None => unreachable(&status.message()),
            }),
        }
    }

    fn channel(&self, address: &str) -> Result<Channel, AskError> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        let channel = super::channel(address, &self.security).map_err(AskError::Unreachable)?;
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
        let (answerer, bytes_max) = (Arc::clone(&self.answerer), self.message_bytes_max);
        Box::pin(async move {
            let ask = Box::new(move |question| -> Answering {
                let answer = answerer(question);
                Box::pin(async move { answer.await.map_err(Status::invalid_argument) })
            });
            Ok(unary(request, bytes_max, ask).await)
        })
    }
}
