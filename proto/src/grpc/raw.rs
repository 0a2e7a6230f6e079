//! gRPC with messages as bytes, for services whose messages are read and written by hand.

use bytes::{Buf, BufMut, Bytes};
use futures::future::BoxFuture;
use std::future::{Future, ready};
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, UnaryService},
};

/// Answers one question of bytes with bytes.
pub(crate) type Answering = BoxFuture<'static, Result<Bytes, Status>>;

/// Answers the questions of one call.
pub(crate) type Answerer = Box<dyn Fn(Bytes) -> Answering + Send + Sync>;

struct Unary(Answerer);

impl UnaryService<Bytes> for Unary {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        Box::pin(async move { answer.await.map(Response::new) })
    }
}

/// Serves a call of a method with one question and one answer. Questions longer than `bytes_max` are refused.
pub(crate) async fn unary(request: http::Request<Body>, bytes_max: usize, answer: Answerer) -> http::Response<Body> {
    let mut grpc = Grpc::new(Raw)
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(bytes_max);
    grpc.unary(Unary(answer), request).await
}

/// Passes messages through as they are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}

/// The answer to a method that a service does not have.
pub(crate) fn unimplemented<E>() -> impl Future<Output = Result<http::Response<Body>, E>> {
    let status = Status::new(Code::Unimplemented, "no such method");
    ready(Ok(status.into_http()))
}
