//! TLS between nodes: what a connection is made of, on both ends, and words for what goes wrong with certificates.
//!
//! A [`Security`] is shared by the listener and by all who dial. Its keys may change at any time; connections that come about later
//! use the new ones. Without keys everything is spoken in the clear.

use futures::{Stream, StreamExt, future::Either, stream};
use http::Uri;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use parking_lot::RwLock;
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use std::{
    convert::Infallible,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tonic::{
    Status,
    body::Body,
    transport::server::{Connected, TcpIncoming},
};
use tower::Service;

/// How long the two ends may take to agree on keys.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a refused caller is listened to.
const LINGER: Duration = Duration::from_millis(500);

/// Handshakes at the same time; more wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 1024;

/// The first byte of whatever begins with TLS.
const HANDSHAKE: u8 = 0x16;

/// What a caller is told that does not speak TLS to a node that does.
const SPEAK_TLS: &str = "this port speaks TLS: give the calling process --grpc.config.file with a tls_config (a querier, --endpoint.tls with --endpoint.tls-ca, and --endpoint.tls-cert and --endpoint.tls-key where certificates are asked for)";

/// Keys for both ends.
#[derive(Clone, Default)]
pub struct Keys {
    /// For the listener; in the clear without.
    pub server: Option<Arc<ServerConfig>>,
    /// For those who dial; in the clear without.
    pub client: Option<ClientKeys>,
}

/// Keys of those who dial.
#[derive(Clone)]
pub struct ClientKeys {
    /// Whom to trust, and what to show.
    pub config: Arc<ClientConfig>,
    /// The name in the certificates of other nodes when it is not that of their address.
    pub server_name: Option<String>,
}

/// How connections between nodes are secured. Clones share it.
#[derive(Clone, Default)]
pub struct Security(Arc<RwLock<Keys>>);

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.read();
        let (server, client) = (keys.server.is_some(), keys.client.is_some());
        write!(f, "Security {{ server: {server}, client: {client} }}")
    }
}

impl Security {
    /// Connections that come about from now on use these keys.
    pub fn set(&self, keys: Keys) {
        *self.0.write() = keys;
    }

    /// Dials the host and port of an URI.
    pub(crate) fn connector(
        &self,
    ) -> impl Service<Uri, Response = TokioIo<Connection>, Error = io::Error, Future: Send> + Send + 'static {
        let security = self.clone();
        tower::service_fn(move |uri: Uri| {
            let security = security.clone();
            async move { security.dial(&uri).await.map(TokioIo::new) }
        })
    }

    async fn dial(&self, uri: &Uri) -> io::Result<Connection> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or_default();
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let Some(ClientKeys { config, server_name }) = self.0.read().client.clone() else {
            return Ok(Connection::Plain(stream));
        };
        let name = ServerName::try_from(server_name.unwrap_or(host));
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(advise)?;
        Ok(Connection::Tls(Box::new(stream.into())))
    }

    /// The connections of a listener, after their handshake. Those whose handshake fails do not appear.
    pub(super) fn accept(&self, listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> + use<> {
        let security = self.clone();
        let accepted = TcpIncoming::from(listener).with_nodelay(Some(true));
        let shaken = accepted.map(move |stream| match stream {
            Err(error) => Either::Left(std::future::ready(Some(Err(error)))),
            Ok(stream) => match security.0.read().server.clone() {
                None => Either::Left(std::future::ready(Some(Ok(Connection::Plain(stream))))),
                Some(keys) => Either::Right(shake(TlsAcceptor::from(keys), stream)),
            },
        });
        let shaken = shaken.buffer_unordered(HANDSHAKES_MAX);
        shaken.flat_map(stream::iter)
    }
}

/// Agrees with a caller on keys; `None` when that cannot be.
async fn shake(acceptor: TlsAcceptor, stream: TcpStream) -> Option<io::Result<Connection>> {
    let peer = stream.peer_addr().ok();
    let agree = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
            refuse(stream).await;
            return Err(io::Error::other("the caller does not speak TLS and was told so"));
        }
        match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => Ok(stream),
            Err((error, stream)) => {
                hear_out(stream).await;
                Err(error)
            }
        }
    };
    match timeout(HANDSHAKE_TIME_MAX, agree).await {
        Ok(Ok(stream)) => Some(Ok(Connection::Tls(Box::new(stream.into())))),
        Ok(Err(error)) => {
            tracing::info!(?peer, %error, "a connection was refused: no TLS handshake");
            None
        }
        Err(_) => {
            tracing::debug!(?peer, "the TLS handshake took too long");
            None
        }
    }
}

/// Reads what a refused caller still sends: closing over unread bytes would take back the alert that says why.
async fn hear_out(mut stream: TcpStream) {
    let mut scrap = [0; 1024];
    // Whatever goes wrong, the connection has ended.
    let _ = stream.shutdown().await;
    while matches!(timeout(LINGER, stream.read(&mut scrap)).await, Ok(Ok(1..))) {}
}

/// Answers every call of a connection in the clear with what to do.
async fn refuse(stream: TcpStream) {
    let answer = tower::service_fn(async |_: http::Request<hyper::body::Incoming>| {
        Ok::<http::Response<Body>, Infallible>(Status::failed_precondition(SPEAK_TLS).into_http())
    });
    let builder = Builder::new(TokioExecutor::new());
    // How it ends does not matter: the caller has its answer or has gone.
    let _ = builder
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(answer))
        .await;
}

/// An error of TLS with what to do about it.
fn advise(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let advice = match inner {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "its certificate is not to be trusted: look at ca_file and server_name of tls_config here and at cert_file of tls_server_config there"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "it refuses the certificate of this node: look at cert_file of tls_config here and at client_ca_file of tls_server_config there"
        }
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS: give it --grpc.config.file as well",
        Some(rustls::Error::NoCertificatesPresented) => "it shows no certificate",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{advice} ({error})"))
}

/// A connection between nodes.
pub(crate) enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(stream) => Pin::new(stream).poll_read(context, into),
            // In TLS 1.3 the other end may refuse our certificate after the handshake is over for us.
            Connection::Tls(stream) => Pin::new(stream).poll_read(context, into).map_err(advise),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Connection::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Connection::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Connection::Plain(stream) => stream.is_write_vectored(),
            Connection::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(stream) => Pin::new(stream).poll_flush(context),
            Connection::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Connection::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
