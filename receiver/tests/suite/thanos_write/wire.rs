//! Thanos's messages as its own generator would write them, a client that sends them, and a receiver of Thanos that takes them.

use axum::{Router, routing::post};
use prost::Message;
use proto::grpc::security::Security;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tonic::{Request, Response, Status, body::Body, transport::Channel};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Label {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Sample {
    #[prost(double, tag = "1")]
    pub(crate) value: f64,
    #[prost(int64, tag = "2")]
    pub(crate) timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub(crate) labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TenantSeries {
    #[prost(message, optional, tag = "1")]
    pub(crate) timeseries: Option<TimeSeries>,
    #[prost(string, tag = "2")]
    pub(crate) tenant: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) timeseries: Vec<TimeSeries>,
    #[prost(string, tag = "2")]
    pub(crate) tenant: String,
    #[prost(int64, tag = "3")]
    pub(crate) replica: i64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) tuples: Vec<TenantSeries>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WriteResponse {}

const PATH: &str = "/thanos.WriteableStore/RemoteWrite";

pub(crate) fn series(name: &str, at: i64, value: f64) -> TimeSeries {
    let label = |name: &str, value: &str| Label {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    TimeSeries {
        labels: vec![label("__name__", name), label("job", "x")],
        samples: vec![Sample { value, timestamp: at }],
    }
}

impl TimeSeries {
    pub(crate) fn metric(&self) -> &str {
        &self.labels[0].value
    }
}

/// Sends as Thanos's router does.
pub(crate) async fn send(to: SocketAddr, request: WriteRequest) -> Result<(), Status> {
    let channel = Channel::from_shared(format!("http://{to}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<WriteRequest, WriteResponse>::default();
    let path = http::uri::PathAndQuery::from_static(PATH);
    grpc.unary(Request::new(request), path, codec).await.map(|_| ())
}

/// The same with the compression that Thanos uses by default.
pub(crate) async fn send_snappy(to: SocketAddr, request: WriteRequest) -> String {
    use std::io::Write;
    use tower::ServiceExt;
    let mut stream = snap::write::FrameEncoder::new(Vec::new());
    stream.write_all(&request.encode_to_vec()).unwrap();
    let stream = stream.into_inner().unwrap();
    let framed = [&[1][..], &(stream.len() as u32).to_be_bytes(), &stream].concat();
    let channel = Channel::from_shared(format!("http://{to}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let request = http::Request::post(format!("http://{to}{PATH}"))
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "snappy")
        .header("te", "trailers")
        .body(Body::new(http_body_util::Full::new(bytes::Bytes::from(framed))))
        .unwrap();
    let answer = channel.oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    let collected = http_body_util::BodyExt::collect(body).await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or(parts.headers);
    trailers["grpc-status"].to_str().unwrap().to_owned()
}

/// A receiver of Thanos that remembers what it was sent. It calls a series named `bad` a conflict, and all that comes with it, although
/// it keeps the others.
#[derive(Clone, Default)]
pub(crate) struct Thanos(pub(crate) Arc<Mutex<Vec<WriteRequest>>>);

impl Thanos {
    pub(crate) async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let thanos = self.clone();
        let serve = move |request: http::Request<axum::body::Body>| {
            let thanos = thanos.clone();
            async move {
                let take = tower::service_fn(move |request: Request<WriteRequest>| {
                    let answer = thanos.take(request.into_inner());
                    async move { answer.map(Response::new) }
                });
                tonic::server::Grpc::new(ProstCodec::<WriteResponse, WriteRequest>::default())
                    .unary(take, request)
                    .await
            }
        };
        let router = Router::new().route(PATH, post(serve));
        let routes = tonic::service::Routes::from(router);
        tokio::spawn(async move {
            let (_ready, watched) = tokio::sync::watch::channel(true);
            let security = Security::default();
            proto::grpc::serve(listener, watched, routes, &security, std::future::pending())
                .await
                .unwrap();
        });
        address
    }

    fn take(&self, request: WriteRequest) -> Result<WriteResponse, Status> {
        let is_bad = request.timeseries.iter().any(|series| series.metric() == "bad");
        self.0.lock().unwrap().push(request);
        match is_bad {
            true => Err(Status::already_exists("conflict")),
            false => Ok(WriteResponse {}),
        }
    }
}
