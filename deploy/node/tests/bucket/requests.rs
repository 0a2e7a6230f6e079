//! What requests to a bucket carry: who asks, and how objects are to be encrypted.

use crate::{
    server::{Fault, S3},
    world::open,
};
use axum::http::{HeaderMap, Method};
use model::env::Fs as _;
use object_store::{MultipartUpload as _, ObjectStoreExt as _, PutPayload, path::Path as ObjectPath};
use sha2::{Digest as _, Sha256};
use std::{
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};
use storage::disk::Disk;

const KEYS: &str = "insecure: true, access_key: me, secret_key: s, region: here";

/// Requests that a server saw: method, key, query and headers.
type Heard = Arc<Mutex<Vec<(Method, String, String, HeaderMap)>>>;

fn listen(server: &S3) -> Heard {
    let heard = Heard::default();
    let kept = heard.clone();
    server.script(move |seen| {
        let (method, key) = (seen.method.clone(), seen.key.clone());
        let request = (method, key, seen.query.clone(), seen.headers.clone());
        kept.lock().unwrap().push(request);
        Fault::None
    });
    heard
}

/// The headers of the first request with this method.
fn headers(heard: &Heard, method: &Method) -> HeaderMap {
    let heard = heard.lock().unwrap();
    let found = heard.iter().find(|(heard, ..)| heard == method);
    found.unwrap_or_else(|| panic!("no {method} was sent")).3.clone()
}

/// Puts an object, begins a large one, and reads the first.
pub(crate) async fn exchange(server: &S3, document: &str) -> Heard {
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // No key here is longer than a block.
    let padded = |pad: u8| (0..64).map(move |at| key.get(at).copied().unwrap_or(0) ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36).collect::<Vec<u8>>());
    let inner = inner.chain_update(text).finalize();
    let outer = Sha256::new().chain_update(padded(0x5c).collect::<Vec<u8>>());
    outer.chain_update(inner).finalize().to_vec()
}

/// The signature that the headers which are named as signed should have, as Amazon describes it.
fn signature(secret: &str, method: &Method, path: &str, query: &str, headers: &HeaderMap) -> (String, Vec<String>) {
    let text = |name: &str| headers[name].to_str().unwrap();
    let authorization = text("authorization");
    let part = |name: &str| {
        let rest = authorization.split_once(&format!("{name}=")).unwrap().1;
        rest.split(',').next().unwrap().trim().to_owned()
    };
    let (credential, named) = (part("Credential"), part("SignedHeaders"));
    let scope = credential.split_once('/').unwrap().1;
    let query = query.split('&').filter(|pair| !pair.is_empty());
    let mut query: Vec<String> = query
        .map(|pair| {
            if pair.contains('=') {
                pair.to_owned()
            } else {
                format!("{pair}=")
            }
        })
        .collect();
    query.sort();
    let lines: String = named
        .split(';')
        .map(|name| format!("{name}:{}\n", text(name).trim()))
        .collect();
    let digest = text("x-amz-content-sha256");
    let canonical = format!("{method}\n{path}\n{}\n{lines}\n{named}\n{digest}", query.join("&"));
    let canonical = hex(&Sha256::digest(canonical));
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{canonical}", text("x-amz-date"));
    let key = scope
        .split('/')
        .fold(format!("AWS4{secret}").into_bytes(), |key, step| hmac(&key, step));
    (
        hex(&hmac(&key, &to_sign)),
        named.split(';').map(str::to_owned).collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encryption_context_is_sent_and_signed() {
    let server = S3::start().await;
    let name = "x-amz-server-side-encryption-context";
    let fields = "sse_config: {type: SSE-KMS, kms_key_id: K1, kms_encryption_context: {team: a, b: c}}";
    for token in ["", ", session_token: visitor"] {
        let heard = exchange(&server, &server.document_with(&format!("{KEYS}, {fields}{token}"))).await;
        let mut with_context = 0;
        for (method, key, query, headers) in heard.lock().unwrap().iter() {
            let (expected, signed) = signature("s", method, &format!("/b/{key}"), query, headers);
            let authorization = headers["authorization"].to_str().unwrap();
            assert!(
                authorization.ends_with(&format!("Signature={expected}")),
                "{method} {key}: {authorization}"
            );
            // Amazon refuses it where nothing is written.
            let writes = *method == Method::PUT || query.contains("uploads");
            assert_eq!(headers.contains_key(name), writes, "{method} {key}?{query}");
            let Some(context) = headers.get(name) else { continue };
            with_context += 1;
            // {"b":"c","team":"a"}
            assert_eq!(context, "eyJiIjoiYyIsInRlYW0iOiJhIn0=");
            assert!(signed.iter().any(|signed| signed == name), "{signed:?}");
        }
        assert!(with_context >= 2);
    }
    let odd = "sse_config: {type: SSE-S3, kms_encryption_context: {a: b}}";
    let opened = node::objstore::open_document(&server.document_with(&format!("{KEYS}, {odd}")), &crate::world::env());
    let error = format!("{:#}", opened.err().expect("it was opened"));
    assert!(error.contains("for type SSE-KMS only"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_of_the_machine_is_asked_for_by_its_id() {
    let machine = S3::start().await;
    let token = r#"{"access_token": "t", "expires_on": "4102444800"}"#;
    machine.put("token", token.into());
    let ask = |fields: &str| {
        let heard = listen(&machine);
        let account = "storage_account: a, container: c, endpoint: host.invalid, max_retries: 1";
        let ended = Command::new(env!("CARGO_BIN_EXE_narthex"))
            .args(["tools", "bucket", "ls", "--objstore.config"])
            .arg(format!("type: AZURE\nconfig: {{{account}{fields}}}\n"))
            .env(
                "IDENTITY_ENDPOINT",
                format!("http://{}/metadata/token", machine.address),
            )
            .envs([("AZURE_CLIENT_ID", "other"), ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")])
            .stdout(Stdio::null())
            .output();
        (heard, String::from_utf8(ended.unwrap().stderr).unwrap())
    };
    let (heard, said) = ask(", user_assigned_id: mine");
    let requests = heard.lock().unwrap().clone();
    let [(method, key, query, headers)] = &requests[..] else {
        panic!("{requests:?} {said}")
    };
    assert_eq!(
        (method, &**key, &headers["metadata"]),
        (&Method::GET, "token", &"true".parse().unwrap())
    );
    assert!(
        query.contains("client_id=mine") && query.contains("resource=https"),
        "{query}"
    );
    // It had what it asked for, and went on to the store, which does not exist.
    assert!(said.contains("a.host.invalid"), "{said}");
    // Without an id the environment's own credentials are taken.
    let (heard, said) = ask("");
    assert!(
        heard.lock().unwrap().is_empty() && said.contains("a.host.invalid"),
        "{said}"
    );
    let (_, said) = ask(", user_assigned_id: mine, storage_account_key: c2VjcmV0");
    assert!(said.contains("user_assigned_id goes with neither"), "{said}");
}
