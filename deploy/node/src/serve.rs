//! Serves a router on a listener, and gRPC on another: HTTP/1.1 and HTTP/2 on one port, bounded in connections and header time, and stopped gently.

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use model::env::Env;
use proto::grpc::Routes;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Connections served at once, twice what Prometheus allows; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;

/// A sender that has not finished its headers by then is cut off.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);

/// How long requests may still run after the stop signal.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Accepts connections until `stop` is cancelled, then lets running requests end within [`DRAIN_TIME_MAX`].
pub async fn serve(listener: TcpListener, router: Router, env: Env, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: waiting lets connections end.
                tracing::warn!(%error, "accept failed");
                env.clock.sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .max_concurrent_streams(256);
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        env.spawn.task(
            "connection",
            Box::pin(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
                drop(place);
            }),
        );
    }
    drop(listener);
    if timeout(DRAIN_TIME_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running after {DRAIN_TIME_MAX:?} and are cut off; senders repeat them");
    }
}

/// Serves gRPC in the background until `stop` is cancelled: `services`, and the health service, which follows `ready`.
pub fn serve_rpc(
    listener: TcpListener,
    ready: watch::Receiver<bool>,
    services: Routes,
    env: &Env,
    stop: CancellationToken,
) {
    let serve = async move {
        if let Err(error) = proto::grpc::serve(listener, ready, services, stop.cancelled()).await {
            tracing::error!(%error, "gRPC is not served any more");
        }
    };
    env.spawn.task("grpc", Box::pin(serve));
}
