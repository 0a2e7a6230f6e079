//! The gRPC side of a process. Today it answers the standard health service (`grpc.health.v1.Health`), which load balancers and
//! container platforms ask; node-to-node services join it on the same listener.

use futures::FutureExt;
use std::future::Future;
use tokio::net::TcpListener;
use tonic::transport::{Error, Server, server::TcpIncoming};

/// Longest time to wait for a client's HTTP/2 ping answer before its connection is given up.
const PING_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(20);

/// Serves until `stop` completes. The overall state ("") is SERVING while `ready` is true.
pub async fn serve(
    listener: TcpListener,
    ready: tokio::sync::watch::Receiver<bool>,
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
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_TIME_MAX))
        .http2_keepalive_timeout(Some(PING_TIME_MAX))
        .add_service(health)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop);
    futures::pin_mut!(follow_readiness);
    futures::select_biased! {
        result = Box::pin(server).fuse() => result,
        () = follow_readiness.fuse() => Ok(()),
    }
}
