//! What requests to a bucket carry: who asks, how objects are to be encrypted, and whom they trust.

use crate::{
    server::{Fault, S3},
    world::open,
};
use axum::http::{HeaderMap, Method};
use model::env::Fs as _;
use object_store::{MultipartUpload as _, ObjectStoreExt as _, PutPayload, path::Path as ObjectPath};
use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};
use storage::disk::Disk;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

const KEYS: &str = "insecure: true, access_key: me, secret_key: s, region: here";

/// Requests that a server saw.
type Heard = Arc<Mutex<Vec<(Method, HeaderMap)>>>;

fn listen(server: &S3) -> Heard {
    let heard = Heard::default();
    let kept = heard.clone();
    server.script(move |seen| {
        kept.lock().unwrap().push((seen.method.clone(), seen.headers.clone()));
        Fault::None
    });
    heard
}

/// The headers of the first request with this method.
fn headers(heard: &Heard, method: &Method) -> HeaderMap {
    let heard = heard.lock().unwrap();
    let found = heard.iter().find(|(heard, _)| heard == method);
    found.unwrap_or_else(|| panic!("no {method} was sent")).1.clone()
}

/// Puts an object, begins a large one, and reads the first.
async fn exchange(server: &S3, document: &str) -> Heard {
    let heard = listen(server);
    let store = open(document);
    let path = ObjectPath::from("object");
    store.put(&path, PutPayload::from_static(b"text")).await.unwrap();
    let mut large = store.put_multipart(&ObjectPath::from("large")).await.unwrap();
    large.abort().await.unwrap();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap()[..], *b"text");
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_say_who_asks_and_how_to_encrypt() {
    let server = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    Disk.create(&key).unwrap().append(&[7; 32]).unwrap();
    let encryption = "x-amz-server-side-encryption";
    let customer = |what: &str| format!("{encryption}-customer-{what}");
    let expect = async |fields: &str, writing: &[(&str, &str)], reading: &[(&str, &str)]| {
        let heard = exchange(&server, &server.document_with(&format!("{KEYS}, {fields}"))).await;
        for (method, expected) in [(Method::PUT, writing), (Method::POST, writing), (Method::GET, reading)] {
            let headers = headers(&heard, &method);
            let signed = headers["authorization"].to_str().unwrap();
            assert!(
                signed.contains("Credential=me/") && signed.contains("/here/s3/aws4_request"),
                "{signed}"
            );
            for (name, value) in expected {
                let got = headers.get(*name).map(|value| value.to_str().unwrap());
                assert_eq!(got, Some(*value), "{fields}: {name} of {method}");
            }
            let named = |name: &&http::HeaderName| name.as_str().starts_with(encryption);
            let known = expected.iter().filter(|(name, _)| name.starts_with(encryption)).count();
            assert!(headers.keys().filter(named).count() >= known, "{fields}: {headers:?}");
        }
    };
    let token = ("x-amz-security-token", "visitor");
    expect("session_token: visitor", &[token], &[token]).await;
    expect("sse_config: {type: SSE-S3}", &[(encryption, "AES256")], &[]).await;
    let kms = [
        (encryption, "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "K1"),
    ];
    expect("sse_config: {type: SSE-KMS, kms_key_id: K1}", &kms, &[]).await;
    let (algorithm, sent) = (customer("algorithm"), customer("key"));
    let own = [
        (&*algorithm, "AES256"),
        (&*sent, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="),
    ];
    let fields = format!("sse_config: {{type: SSE-C, encryption_key: '{}'}}", key.display());
    expect(&fields, &own, &own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_the_environment_when_the_document_has_none() {
    let server = S3::start().await;
    let list = |fields: &str| {
        let heard = listen(&server);
        let ended = Command::new(env!("CARGO_BIN_EXE_narthex"))
            .args([
                "tools",
                "bucket",
                "ls",
                "--objstore.config",
                &server.document_with(fields),
            ])
            .env("AWS_ACCESS_KEY_ID", "cloud")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_SESSION_TOKEN", "lent")
            .env("AWS_REGION", "afar")
            .stdout(Stdio::null())
            .status();
        assert!(ended.unwrap().success());
        headers(&heard, &Method::GET)
    };
    let says = |headers: &HeaderMap, text: &str| headers["authorization"].to_str().unwrap().contains(text);
    let taken = list("insecure: true");
    assert!(
        says(&taken, "Credential=cloud/") && says(&taken, "/afar/s3/"),
        "{taken:?}"
    );
    assert_eq!(taken["x-amz-security-token"], "lent");
    // A token belongs to its keys: beside others it would have every request refused.
    let own = list(KEYS);
    assert!(says(&own, "Credential=me/") && says(&own, "/here/s3/"), "{own:?}");
    assert!(!own.contains_key("x-amz-security-token"), "{own:?}");
}

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

/// Makes an authority and a certificate of this machine; false without openssl.
fn certificates(dir: &Path) -> bool {
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let steps = [
        format!("{new} -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"),
        format!("{new} -subj /CN=store -addext subjectAltName=IP:127.0.0.1 -keyout store.key -out store.csr"),
        "x509 -req -in store.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out store.pem"
            .to_owned(),
    ];
    steps.iter().all(|step| {
        let mut openssl = Command::new("openssl");
        let openssl = openssl.args(step.split(' ')).current_dir(dir).stderr(Stdio::null());
        openssl.status().is_ok_and(|status| status.success())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_certificate_of_its_own_authority_is_trusted_when_told() {
    let dir = tempfile::tempdir().unwrap();
    if !certificates(dir.path()) {
        eprintln!("SKIPPED: no openssl to make certificates with");
        return;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let read = |file: &str| Disk.read(&dir.path().join(file)).unwrap();
    let certificate = CertificateDer::from_pem_slice(&read("store.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read("store.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate], key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, acceptor) = (listener.local_addr().unwrap(), TlsAcceptor::from(Arc::new(config)));
    let server = S3::start_on(Secure { listener, acceptor }, address);

    let authority = dir.path().join("ca.pem");
    let keys = "access_key: me, secret_key: s, region: here, max_retries: 1";
    let trusting = format!(
        "{keys}, http_config: {{tls_config: {{ca_file: '{}'}}}}",
        authority.display()
    );
    exchange(&server, &server.document_with(&trusting)).await;
    let strange = open(&server.document_with(keys));
    let refused = strange.put(&ObjectPath::from("o"), PutPayload::from_static(b"x")).await;
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let careless = format!("{keys}, http_config: {{insecure_skip_verify: true}}");
    exchange(&server, &server.document_with(&careless)).await;
}
