//! Serves a router on a listener, and gRPC on another: HTTP/1.1 and HTTP/2 on one port, bounded in connections and header time, and stopped gently.

use crate::web::{PeerCertificate, Web};
use axum::{Router, http::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use model::env::Env;
use proto::grpc::{Routes, security::Security};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Connections served at once, twice what Prometheus allows; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;

/// A sender that has not finished its headers by then is cut off.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);

/// How long requests may still run after the stop signal.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Accepts connections until `stop` is cancelled, then lets running requests end within [`DRAIN_TIME_MAX`]. `web` says whether they speak
/// TLS, anew for each connection.
pub async fn serve(listener: TcpListener, router: Router, web: Arc<Web>, env: Env, stop: CancellationToken) {
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
        let (router, access, watcher) = (router.clone(), web.access(), graceful.watcher());
        env.spawn.task(
            "connection",
            Box::pin(async move {
                match &access.tls {
                    None => speak(stream, router, None, watcher).await,
                    Some(tls) => speak_tls(TlsAcceptor::from(Arc::clone(tls)), stream, router, watcher).await,
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

/// Serves one connection over TLS.
async fn speak_tls(acceptor: TlsAcceptor, stream: TcpStream, router: Router, watcher: Watcher) {
    match timeout(HEADER_TIME_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = shown.map(|shown| PeerCertificate(shown.as_ref().into()));
            speak(stream, router, certificate, watcher).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

/// Serves one connection to its end.
async fn speak<S>(stream: S, router: Router, certificate: Option<PeerCertificate>, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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
    let service = router.map_request(move |mut request: Request<Incoming>| {
        if let Some(certificate) = &certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        request
    });
    let service = TowerToHyperService::new(service);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// Serves gRPC in the background until `stop` is cancelled: `services`, and the health service, which follows `ready`. `security` says whether
/// over TLS.
pub fn serve_rpc(
    listener: TcpListener,
    ready: watch::Receiver<bool>,
    services: Routes,
    security: Security,
    env: &Env,
    stop: CancellationToken,
) {
    let serve = async move {
        if let Err(error) = proto::grpc::serve(listener, ready, services, &security, stop.cancelled()).await {
            tracing::error!(%error, "gRPC is not served any more");
        }
    };
    env.spawn.task("grpc", Box::pin(serve));
}
