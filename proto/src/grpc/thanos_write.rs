//! `thanos.WriteableStore/RemoteWrite`: how Thanos's receivers hand series to each other, in both directions.
//!
//! ```text
//! WriteRequest { timeseries = 1, tenant = 2, replica = 3, timeseriesTenantData = 4 { timeseries = 1, tenant = 2 } }
//! ```
//!
//! Where field 4 is there, fields 1 and 2 count for nothing. The series are those of remote write 1.0, so the part of each tenant becomes a
//! body of that, series by series as they stand. We send fields 1 and 2, which Thanos of any age reads; a batch of ours has one tenant.
//! Thanos compresses messages with snappy's stream format, which tonic does not know, so that is undone before it.

use super::{
    causes, channel,
    raw::{Answering, Raw, unary, unimplemented},
    security::Security,
};
use crate::protobuf::{Fault, Reader, WireError, put_bytes, put_integer, wire};
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderValue, uri::PathAndQuery};
use http_body_util::{BodyExt, Full, Limited};
use std::{
    collections::HashMap,
    convert::Infallible,
    io::Read,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{
    Code, Request, Status, body::Body, client::Grpc, codegen::Service, server::NamedService, transport::Channel,
};

/// Path of the one method.
const PATH: &str = "/thanos.WriteableStore/RemoteWrite";

/// Longest message that is taken, compressed or not. Thanos has no bound; a request of its senders has some megabytes at most.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Tenants of one message.
const TENANTS_MAX: usize = 10_000;

const MESSAGE: &str = "thanos.WriteRequest";

/// A message taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteWrite {
    /// Which copy of its series this is, counted from 1; 0 when they are not replicated yet.
    pub replica: i64,
    /// Tenants, each with its series as a body of remote write 1.0.
    pub parts: Vec<(String, Vec<u8>)>,
}

/// Why a write is not taken as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteRefusal {
    /// Some samples can never be stored; the others are.
    #[error("{0}")]
    Conflict(String),
    /// The message makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
}

/// Takes writes.
pub type TakeWrite = Arc<dyn Fn(RemoteWrite) -> BoxFuture<'static, Result<(), WriteRefusal>> + Send + Sync>;

impl RemoteWrite {
    /// Takes a message apart.
    pub fn read(message: &[u8]) -> Result<Self, WireError> {
        read(message).map_err(|fault| fault.within(MESSAGE))
    }
}

fn read(message: &[u8]) -> Result<RemoteWrite, Fault> {
    let mut replica = 0;
    let mut sole = (String::new(), Vec::new());
    let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1 => {
                tag.expect(wire::BYTES)?;
                put_bytes(&mut sole.1, 1, reader.bytes()?);
            }
            2 => {
                tag.expect(wire::BYTES)?;
                sole.0 = text(2, reader.bytes()?)?;
            }
            3 => {
                tag.expect(wire::VARINT)?;
                replica = reader.varint()? as i64;
            }
            4 => {
                tag.expect(wire::BYTES)?;
                let (tenant, series) = tuple(reader.bytes()?)?;
                let place = match places.get(tenant) {
                    Some(place) => *place,
                    None if parts.len() == TENANTS_MAX => {
                        return Err(Fault::TooMany {
                            field: 4,
                            max: TENANTS_MAX,
                        });
                    }
                    None => {
                        parts.push((text(2, tenant)?, Vec::new()));
                        places.insert(tenant, parts.len() - 1);
                        parts.len() - 1
                    }
                };
                if let Some(series) = series {
                    put_bytes(&mut parts[place].1, 1, series);
                }
            }
            _ => reader.skip(tag)?,
        }
    }
    if parts.is_empty() && !sole.1.is_empty() {
        parts.push(sole);
    }
    Ok(RemoteWrite { replica, parts })
}

/// Tenant and series of one element of field 4.
fn tuple(message: &[u8]) -> Result<(&[u8], Option<&[u8]>), Fault> {
    let (mut tenant, mut series) = (&[][..], None);
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1 => {
                tag.expect(wire::BYTES)?;
                series = Some(reader.bytes()?);
            }
            2 => {
                tag.expect(wire::BYTES)?;
                tenant = reader.bytes()?;
            }
            _ => reader.skip(tag)?,
        }
    }
    Ok((tenant, series))
}

fn text(field: u32, bytes: &[u8]) -> Result<String, Fault> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Fault::Utf8 { field })
}

/// The message for series of one tenant, which are given as a body of remote write 1.0.
pub fn write_request(tenant: &str, replica: i64, mut series: Vec<u8>) -> Bytes {
    put_bytes(&mut series, 2, tenant.as_bytes());
    put_integer(&mut series, 3, replica as u64);
    series.into()
}

/// Hands series to one of Thanos's receivers.
#[derive(Debug, Clone)]
pub struct WriteClient {
    address: String,
    channel: Channel,
}

impl WriteClient {
    /// A client of the receiver at `address`; the connection comes about when it is needed.
    pub fn new(address: &str, security: &Security) -> Result<Self, String> {
        Ok(Self {
            address: address.to_owned(),
            channel: channel(address, security)?,
        })
    }

    /// Sends a message. It waits as long as the connection lives; the caller gives up by dropping the future.
    pub async fn write(&self, message: Bytes) -> Result<(), WriteRefusal> {
        let mut grpc = Grpc::new(self.channel.clone());
        let unavailable = |error: String| WriteRefusal::Unavailable(format!("{}: {error}", self.address));
        grpc.ready().await.map_err(|error| unavailable(causes(&error)))?;
        let path = PathAndQuery::from_static(PATH);
        match grpc.unary(Request::new(message), path, Raw).await {
            Ok(_) => Ok(()),
            Err(status) => {
                let text = format!("{}: {}", self.address, status.message());
                Err(match status.code() {
                    Code::AlreadyExists => WriteRefusal::Conflict(text),
                    Code::InvalidArgument => WriteRefusal::Invalid(text),
                    _ => WriteRefusal::Unavailable(text),
                })
            }
        }
    }
}

/// The service that hands messages to a [`TakeWrite`].
#[derive(Clone)]
pub struct WriteableStore(TakeWrite);

impl WriteableStore {
    /// Hands what comes to `take`.
    pub fn new(take: TakeWrite) -> Self {
        Self(take)
    }
}

impl NamedService for WriteableStore {
    const NAME: &'static str = "thanos.WriteableStore";
}

impl Service<http::Request<Body>> for WriteableStore {
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
        let take = Arc::clone(&self.0);
        Box::pin(async move {
            let request = match plain(request).await {
                Ok(request) => request,
                Err(status) => return Ok(status.into_http()),
            };
            let take = Box::new(move |message: Bytes| taken(&take, &message));
            Ok(unary(request, MESSAGE_BYTES_MAX, take).await)
        })
    }
}

/// Hands a message on; the answer is empty.
fn taken(take: &TakeWrite, message: &[u8]) -> Answering {
    let taken = RemoteWrite::read(message).map(|write| take(write));
    Box::pin(async move {
        let taken = taken.map_err(|error| Status::invalid_argument(error.to_string()))?;
        match taken.await {
            Ok(()) => Ok(Bytes::new()),
            Err(WriteRefusal::Conflict(text)) => Err(Status::already_exists(text)),
            Err(WriteRefusal::Invalid(text)) => Err(Status::invalid_argument(text)),
            Err(WriteRefusal::Unavailable(text)) => Err(Status::unavailable(text)),
        }
    })
}

/// The same request without snappy's stream format.
async fn plain(mut request: http::Request<Body>) -> Result<http::Request<Body>, Status> {
    let encoding = request.headers().get("grpc-encoding");
    if encoding != Some(&HeaderValue::from_static("snappy")) {
        return Ok(request);
    }
    request.headers_mut().remove("grpc-encoding");
    let (parts, body) = request.into_parts();
    let framed = Limited::new(body, MESSAGE_BYTES_MAX).collect().await;
    let framed = framed
        .map_err(|error| Status::out_of_range(error.to_string()))?
        .to_bytes();
    let message = unframed(&framed)?;
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.put_slice(&message);
    Ok(http::Request::from_parts(parts, Body::new(Full::new(out.freeze()))))
}

/// The content of a gRPC frame, decompressed when its flag says so.
fn unframed(framed: &[u8]) -> Result<Vec<u8>, Status> {
    let broken = || Status::invalid_argument("the message is no frame of gRPC");
    let (head, content) = framed.split_at_checked(5).ok_or_else(broken)?;
    let [flag, length @ ..] = head else {
        return Err(broken());
    };
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let content = content.get(..length).ok_or_else(broken)?;
    if *flag == 0 {
        return Ok(content.to_vec());
    }
    let mut message = Vec::new();
    let decoder = snap::read::FrameDecoder::new(content);
    let read = decoder.take(MESSAGE_BYTES_MAX as u64 + 1).read_to_end(&mut message);
    read.map_err(|error| Status::invalid_argument(format!("decompress snappy: {error}")))?;
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Status::out_of_range(format!(
            "the message has more than {MESSAGE_BYTES_MAX} bytes"
        )));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, number, bytes);
        out
    }

    #[test]
    fn both_forms_are_read() {
        let old = [field(1, b"x"), field(2, b"a"), vec![0x18, 2], field(1, b"y")].concat();
        let write = RemoteWrite::read(&old).unwrap();
        assert_eq!(write.replica, 2);
        assert_eq!(
            write.parts,
            [("a".to_owned(), [field(1, b"x"), field(1, b"y")].concat())]
        );
        assert_eq!(
            &write_request("a", 2, field(1, b"x"))[..],
            [field(1, b"x"), field(2, b"a"), vec![0x18, 2]].concat()
        );

        let tuple = |series: &[u8], tenant: &[u8]| field(4, &[field(1, series), field(2, tenant)].concat());
        let new = [old, tuple(b"1", b"b"), tuple(b"2", b"c"), tuple(b"3", b"b")].concat();
        let write = RemoteWrite::read(&new).unwrap();
        let both = [field(1, b"1"), field(1, b"3")].concat();
        assert_eq!(write.parts, [("b".to_owned(), both), ("c".to_owned(), field(1, b"2"))]);
        assert_eq!(RemoteWrite::read(b"").unwrap(), RemoteWrite::default());
    }

    #[test]
    fn broken_bytes_are_errors() {
        let whole = field(4, &[field(1, b"series"), field(2, b"tenant")].concat());
        for end in 1..whole.len() {
            assert!(RemoteWrite::read(&whole[..end]).is_err(), "{end}");
        }
        assert!(RemoteWrite::read(&field(2, &[0xff])).is_err());
        assert!(RemoteWrite::read(&field(3, b"x")).is_err());
        for broken in [
            &b""[..],
            &[0; 4],
            &[0, 0, 0, 0, 1],
            &[1, 0, 0, 0, 2, 9, 9],
            &[0, 255, 255, 255, 255, 0],
        ] {
            assert!(unframed(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn snappy_streams_are_bounded() {
        use std::io::Write;
        let frame = |content: &[u8]| {
            let mut stream = snap::write::FrameEncoder::new(Vec::new());
            stream.write_all(content).unwrap();
            let stream = stream.into_inner().unwrap();
            [&[1][..], &(stream.len() as u32).to_be_bytes(), &stream].concat()
        };
        assert_eq!(unframed(&frame(b"hello")).unwrap(), b"hello");
        assert!(unframed(&frame(&vec![0; MESSAGE_BYTES_MAX + 1])).is_err());
    }
}
