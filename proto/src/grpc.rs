//! The gRPC side of a process: one listener for all that nodes say to each other, and for the standard health service
//! (`grpc.health.v1.Health`), which load balancers and container platforms ask.

pub mod security;
pub mod ask;
pub mod push_client;
pub mod push_server;
mod raw;
pub mod thanos_write;

pub use tonic::service::Routes;

use futures::FutureExt;
use security::Security;
use std::{error::Error as StdError, future::Future, time::Duration};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint, Error, Server};

/// Longest time to wait for a client's HTTP/2 ping answer before its connection is given up.
const PING_TIME_MAX: Duration = Duration::from_secs(20);

/// Bytes that a stream and a connection may have under way: enough to keep a fast network busy.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Longest frame that is taken: a push of some thousand samples fits, so that it is written and read in one go.
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// How long a connection may take to come about.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// How often the other end of a connection is asked for a sign of life, and how long it may take to give one.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Serves `services` until `stop` completes, over TLS while `security` has keys for it. The overall state ("") is SERVING while `ready` is
/// true.
pub async fn serve(
    listener: TcpListener,
    ready: tokio::sync::watch::Receiver<bool>,
    services: Routes,
    security: &Security,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let follow_readiness = async {
        let mut ready = ready;
        loop {
            let status = if *ready.borrow_and_update() {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            reporter.set_service_status("", status).await;
            if ready.changed().await.is_err() {
                return std::future::pending::<()>().await;
            }
        }
    };
    let incoming = security.accept(listener);
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(PING_TIME_MAX))
        .http2_keepalive_timeout(Some(PING_TIME_MAX))
        .add_routes(services)
        .add_service(health)
        .serve_with_incoming_shutdown(incoming, stop);
    futures::pin_mut!(follow_readiness);
    futures::select_biased! {
        result = Box::pin(server).fuse() => result,
        () = follow_readiness.fuse() => Ok(()),
    }
}

/// How to reach the node at `address`, which is `host:port`.
fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| format!("{address}: {}", causes(&error)))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIME_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// A channel to the node at `address`, whose connection comes about when it is needed.
fn channel(address: &str, security: &Security) -> Result<Channel, String> {
    Ok(endpoint(address)?.connect_with_connector_lazy(security.connector()))
}

/// An error with its causes: tonic's own words are only "transport error".
pub(crate) fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
