//! Buckets behind TLS: whom they trust, and what they want to see of who asks.

use crate::{
    requests::exchange,
    server::S3,
    world::{env, open},
};
use model::env::Fs as _;
use object_store::{ObjectStoreExt as _, PutPayload, path::Path as ObjectPath};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};
use storage::disk::Disk;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

const KEYS: &str = "access_key: me, secret_key: s, region: here, max_retries: 1";

/// Connections that speak TLS.
struct Secure {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Secure {
    type Io = TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, peer) = self.listener.accept().await.unwrap();
            // Whoever does not trust the certificate hangs up.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Makes an authority, a certificate of this machine, and one of a client with a key that is not its own beside; false without openssl.
fn certificates(dir: &Path) -> bool {
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let sign = "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 2";
    let steps = [
        format!("{new} -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"),
        format!("{new} -subj /CN=store -addext subjectAltName=IP:127.0.0.1 -keyout store.key -out store.csr"),
        format!("{sign} -in store.csr -copy_extensions copy -out store.pem"),
        // With an extension, since certificates of the first version, which have none, are trusted by nobody.
        format!("{new} -subj /CN=narthex -addext extendedKeyUsage=clientAuth -keyout client.key -out client.csr"),
        format!("{sign} -in client.csr -copy_extensions copy -out client.pem"),
    ];
    let made = steps.iter().all(|step| {
        let mut openssl = Command::new("openssl");
        let openssl = openssl.args(step.split(' ')).current_dir(dir).stderr(Stdio::null());
        openssl.status().is_ok_and(|status| status.success())
    });
    if !made {
        eprintln!("SKIPPED: no openssl to make certificates with");
    }
    made
}

/// A server with the certificate in `dir`; with `asks` it lets nobody in who shows none of the same authority.
async fn secure(dir: &Path, asks: bool) -> S3 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = |file: &str| Disk.read(&dir.join(file)).unwrap();
    let certificate = |file| CertificateDer::from_pem_slice(&read(file)).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read("store.key")).unwrap();
    let config = match asks {
        true => {
            let mut roots = RootCertStore::empty();
            roots.add(certificate("ca.pem")).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
        false => ServerConfig::builder().with_no_client_auth(),
    };
    let config = config.with_single_cert(vec![certificate("store.pem")], key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, acceptor) = (listener.local_addr().unwrap(), TlsAcceptor::from(Arc::new(config)));
    S3::start_on(Secure { listener, acceptor }, address)
}

/// How a put through `document` fails.
async fn refusal(document: &str) -> String {
    let put = open(document)
        .put(&ObjectPath::from("o"), PutPayload::from_static(b"x"))
        .await;
    format!("{:?}", put.unwrap_err())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_certificate_of_its_own_authority_is_trusted_when_told() {
    let dir = tempfile::tempdir().unwrap();
    if !certificates(dir.path()) {
        return;
    }
    let server = secure(dir.path(), false).await;
    let authority = dir.path().join("ca.pem");
    let trusting = format!(
        "{KEYS}, http_config: {{tls_config: {{ca_file: '{}'}}}}",
        authority.display()
    );
    exchange(&server, &server.document_with(&trusting)).await;
    let refused = refusal(&server.document_with(KEYS)).await;
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let careless = format!("{KEYS}, http_config: {{insecure_skip_verify: true}}");
    exchange(&server, &server.document_with(&careless)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_wants_to_know_who_asks_is_shown_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    if !certificates(dir.path()) {
        return;
    }
    let server = secure(dir.path(), true).await;
    let document = |more: &str| {
        let authority = dir.path().join("ca.pem");
        let tls = format!("tls_config: {{ca_file: '{}'{more}}}", authority.display());
        server.document_with(&format!("{KEYS}, http_config: {{{tls}}}"))
    };
    let shown = |certificate: &str, key: &str| {
        let path = |file| dir.path().join(file).display().to_string();
        document(&format!(
            ", cert_file: '{}', key_file: '{}'",
            path(certificate),
            path(key)
        ))
    };
    exchange(&server, &shown("client.pem", "client.key")).await;
    let seen = server.requests();
    let refused = refusal(&document("")).await;
    assert!(refused.contains("CertificateRequired"), "{refused}");
    assert_eq!(server.requests(), seen, "nobody else gets through");
    let mistake = |document: &str| {
        let opened = node::objstore::open_document(document, &env());
        format!("{:#}", opened.err().expect("it was opened"))
    };
    for (document, reason) in [
        (shown("client.pem", "store.key"), "with the key"),
        (shown("client.pem", "ca.pem"), "no certificate and key"),
        (shown("client.pem", "gone.key"), "gone.key"),
        (document(", cert_file: '/a'"), "go together"),
        (document(", server_name: a"), "server_name is not supported"),
    ] {
        let error = mistake(&document);
        assert!(error.contains("tls_config") && error.contains(reason), "{error}");
    }
}
