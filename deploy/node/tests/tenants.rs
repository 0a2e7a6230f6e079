//! Who may write what, against a real process: every way of naming a tenant, credentials, TLS, limits and rules that change while it runs.
#![expect(
    clippy::disallowed_methods,
    reason = "a test that starts processes and waits for them"
)]

use model::sample::FloatSample;
use proto::{
    compression::snappy,
    remote_write::encode::{Points, V1Encoder},
};
use reqwest::{Client, RequestBuilder, StatusCode};
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A serving process that ends with the test.
struct Server {
    child: Child,
    address: SocketAddr,
    scheme: &'static str,
    client: Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn client() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(Duration::from_secs(20))
}

async fn start(data: &Path, flags: &[&str], scheme: &'static str, client: Client) -> Server {
    let (http, grpc) = (free_address(), free_address());
    let child = Command::new(env!("CARGO_BIN_EXE_narthex"))
        .args(["--data.dir", data.join("data").to_str().unwrap()])
        .args(["--http.address", &http.to_string(), "--grpc.address", &grpc.to_string()])
        .args(flags)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server {
        child,
        address: http,
        scheme,
        client,
    };
    let begun = Instant::now();
    loop {
        let answer = server.client.get(server.url("/-/ready")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return server;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn body(labels: &[(&str, &str)]) -> Vec<u8> {
    let floats = [FloatSample {
        at: now(),
        value: 1.0,
        start: 0,
    }];
    let mut encoder = V1Encoder::default();
    let points = Points {
        floats: &floats,
        ..Points::default()
    };
    encoder.series(labels.iter().copied(), points);
    snappy(&encoder.finish())
}

impl Server {
    fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.address.port())
    }

    fn post(&self, path: &str, name: &str) -> RequestBuilder {
        let request = self.client.post(self.url(path)).body(body(&[("__name__", name)]));
        request.header("content-encoding", "snappy")
    }

    fn write(&self, name: &str) -> RequestBuilder {
        self.post("/api/v1/write", name)
    }

    /// Label sets of a tenant's series of this name, as the API shows them.
    async fn series(&self, tenant: &str, name: &str, credentials: impl Fn(RequestBuilder) -> RequestBuilder) -> String {
        let url = self.url(&format!("/api/v1/series?match[]={name}"));
        let request = credentials(self.client.get(url).header("x-scope-orgid", tenant));
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        let (_, data) = text.split_once("\"data\":").unwrap();
        data.split_once(']').unwrap().0.trim_start_matches('[').to_owned()
    }
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// `HASH` becomes the bcrypt hash of `secret`, of the least cost.
fn web_config(text: &str) -> String {
    text.replace("HASH", &bcrypt::hash("secret", 4).unwrap())
}

#[tokio::test]
async fn every_carrier_names_the_tenant_and_none_may_contradict() {
    let dir = tempfile::tempdir().unwrap();
    let text = web_config("basic_auth_users: {one: HASH, two: HASH}\nbearer_tokens: [{tenant: one, token: sesame}]\n");
    let web = file(dir.path(), "web.yml", &text);
    let flags = [
        "--web.config.file",
        &web,
        "--tenant.basic-auth",
        "--tenant.header=X-Team",
        "--tenant.series-label=team",
    ];
    let server = start(dir.path(), &flags, "http", client().build().unwrap()).await;
    let one = |request: RequestBuilder| request.basic_auth("one", Some("secret"));

    // Nobody comes in without credentials, whatever else is said; probes do.
    assert_eq!(status(server.write("a")).await, 401);
    assert_eq!(status(server.write("a").header("x-scope-orgid", "one")).await, 401);
    assert_eq!(status(server.write("a").basic_auth("one", Some("wrong"))).await, 401);
    assert_eq!(
        status(server.write("a").basic_auth("nobody", Some("secret"))).await,
        401
    );
    assert_eq!(status(server.write("a").bearer_auth("guess")).await, 401);
    assert_eq!(status(server.client.get(server.url("/metrics"))).await, 401);
    assert_eq!(status(server.client.get(server.url("/-/healthy"))).await, 200);

    // Each carrier alone, and all at once.
    assert_eq!(status(one(server.write("by_user"))).await, 204);
    assert_eq!(status(server.write("by_token").bearer_auth("sesame")).await, 204);
    let all = one(server.post("/t/one/api/v1/write", "by_all"));
    let all = all
        .header("THANOS-TENANT", "one")
        .header("X-Scope-OrgID", "one")
        .header("X-Team", "one");
    assert_eq!(status(all).await, 204);
    for name in ["by_user", "by_token", "by_all"] {
        assert!(server.series("one", name, one).await.contains(name), "{name}");
    }

    // One that differs, whichever it is.
    for header in ["THANOS-TENANT", "X-Scope-OrgID", "X-Team"] {
        assert_eq!(
            status(one(server.write("stolen")).header(header, "two")).await,
            400,
            "{header}"
        );
        let both = server.write("stolen").bearer_auth("sesame").header(header, "two");
        assert_eq!(status(both).await, 400, "{header}");
    }
    assert_eq!(status(one(server.post("/t/two/api/v1/write", "stolen"))).await, 400);
    let twice = one(server.write("stolen"))
        .header("X-Team", "one")
        .header("X-Team", "two");
    assert_eq!(status(twice).await, 400);
    // Reading as somebody else is refused as well, and so is a series that names somebody else.
    let read = one(server
        .client
        .get(server.url("/api/v1/labels"))
        .header("X-Scope-OrgID", "two"));
    assert_eq!(status(read).await, 400);
    let labelled = server
        .client
        .post(server.url("/api/v1/write"))
        .header("content-encoding", "snappy");
    let labelled = one(labelled.body(body(&[("__name__", "stolen"), ("team", "two")])));
    assert_eq!(status(labelled).await, 400);
    let two = |request: RequestBuilder| request.basic_auth("two", Some("secret"));
    assert_eq!(server.series("two", "stolen", two).await, "");
}

#[tokio::test]
async fn hostile_ids_reach_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let flags = [
        "--tenant.header=X-Team",
        "--tenant.basic-auth",
        "--tenant.series-label=team",
    ];
    let server = start(dir.path(), &flags, "http", client().build().unwrap()).await;
    let long = "x".repeat(300);
    for id in [
        "..",
        ".",
        "a/b",
        "../../etc",
        "a\\b",
        "a b",
        "%2e%2e",
        &long,
        "a,b",
        "a;b",
        "{a}",
    ] {
        for header in ["THANOS-TENANT", "X-Scope-OrgID", "X-Team"] {
            assert_eq!(
                status(server.write("a").header(header, id)).await,
                400,
                "{header}: {id:?}"
            );
        }
        assert_eq!(
            status(server.write("a").basic_auth(id, Some("x"))).await,
            400,
            "user {id:?}"
        );
    }
    for id in ["a\0b", "tеam", "team\u{200b}", "ＴＥＡＭ"] {
        // Bytes that no header may hold are refused by our client already; users and labels can hold them.
        assert_eq!(
            status(server.write("a").basic_auth(id, Some("x"))).await,
            400,
            "user {id:?}"
        );
        let labelled = server
            .client
            .post(server.url("/api/v1/write"))
            .header("content-encoding", "snappy");
        let labelled = labelled.body(body(&[("__name__", "a"), ("team", id)]));
        assert_eq!(status(labelled).await, 400, "label {id:?}");
    }
    for path in [
        "/t/a%2Fb/api/v1/write",
        "/t/a%00/api/v1/write",
        "/t/%2e%2e%2f/api/v1/write",
        "/t/t%D0%B5am/api/v1/write",
    ] {
        assert_eq!(status(server.post(path, "a")).await, 400, "{path}");
    }
    // Names that look alike are different tenants, and case counts.
    assert_eq!(status(server.write("mine").header("X-Team", "team")).await, 204);
    for other in ["Team", "TEAM", "team.", "team-"] {
        assert_eq!(server.series(other, "mine", |request| request).await, "", "{other}");
    }
    // No file or folder carries the name of a tenant from outside.
    let names = walk(dir.path());
    assert!(
        names.iter().all(|name| !name.contains("etc") && !name.contains("xxx")),
        "{names:?}"
    );
}

fn walk(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        names.push(entry.file_name().to_string_lossy().into_owned());
        if entry.path().is_dir() {
            names.extend(walk(&entry.path()));
        }
    }
    names
}

/// Until `holds` or too long.
async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn limits_and_rules_change_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let limits = file(dir.path(), "limits.yml", "tenants: {small: {active_series_max: 2}}\n");
    let rules = file(
        dir.path(),
        "relabel.yml",
        "- {source_labels: [__name__], regex: 'drop_.*', action: drop}\n",
    );
    let flags = ["--limits.file", &limits, "--write.relabel-config-file", &rules];
    let server = start(dir.path(), &flags, "http", client().build().unwrap()).await;
    let small = |name: &'static str| server.write(name).header("X-Scope-OrgID", "small");

    // Only new series are refused at the limit; others may have as many as they like.
    for (name, expected) in [("a", 204), ("b", 204), ("c", 400), ("a", 204), ("d", 400), ("b", 204)] {
        assert_eq!(status(small(name)).await, expected, "{name}");
    }
    assert_eq!(status(server.write("c")).await, 204);
    let metrics = server
        .client
        .get(server.url("/metrics"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        "narthex_tenant_active_series{tenant=\"small\"} 2",
        "narthex_tenant_active_series_max{tenant=\"small\"} 2",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    assert_eq!(status(small("drop_me")).await, 204);
    assert_eq!(server.series("small", "drop_me", |request| request).await, "");

    std::fs::write(
        &limits,
        "tenants: {small: {active_series_max: 3, label_value_bytes_max: 10}}\n",
    )
    .unwrap();
    eventually("the limit is raised", || async { status(small("c")).await == 204 }).await;
    assert_eq!(status(small("a_name_that_is_long")).await, 400);
    // What cannot be used changes nothing.
    std::fs::write(&limits, "tenants: {small: {active_series_max: many}}\n").unwrap();
    std::fs::write(&rules, "[]").unwrap();
    eventually("the rule is gone", || async {
        assert_eq!(status(server.write("drop_me")).await, 204);
        !server
            .series("default-tenant", "drop_me", |request| request)
            .await
            .is_empty()
    })
    .await;
    assert_eq!(status(small("d")).await, 400);
    // All of the process together.
    std::fs::write(&limits, "process: {active_series_max: 1}\n").unwrap();
    let tries = AtomicUsize::new(0);
    eventually("the process is full", || {
        // A new series each time: those that are known go on.
        let name = format!("new{}", tries.fetch_add(1, Ordering::Relaxed));
        let request = server.write(&name);
        async move { status(request).await == 400 }
    })
    .await;
    assert_eq!(status(small("a")).await, 204);
}

/// Makes a key and a certificate for `subject`, signed by the authority in the folder, which is made first.
fn certificate(dir: &Path, name: &str, subject: &str) -> bool {
    let run = |arguments: &[&str]| {
        let done = Command::new("openssl")
            .args(arguments)
            .current_dir(dir)
            .stderr(Stdio::null())
            .status();
        done.is_ok_and(|status| status.success())
    };
    let new = [
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    if !dir.join("ca.pem").exists() {
        let own = [
            "-x509",
            "-days",
            "2",
            "-subj",
            "/CN=authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ];
        if !run(&[&new[..], &own].concat()) {
            return false;
        }
    }
    let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
    std::fs::write(dir.join("san"), "subjectAltName=DNS:localhost").unwrap();
    let sign = [
        "x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2", "-extfile", "san",
    ];
    run(&[&new[..], &["-subj", subject, "-keyout", &key, "-out", &request]].concat())
        && run(&[&sign[..], &["-CAcreateserial", "-out", &certificate]].concat())
}

#[tokio::test]
async fn certificates_name_the_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let made = [
        ("server", "/CN=localhost"),
        ("one", "/O=acme/CN=one"),
        ("hostile", "/CN=a.b\\/.."),
    ];
    if !made
        .iter()
        .all(|(name, subject)| certificate(dir.path(), name, subject))
    {
        eprintln!("SKIPPED: no openssl to make certificates with");
        return;
    }
    let text = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  client_ca_file: ca.pem\n  client_auth_type: VerifyClientCertIfGiven\n";
    let web = file(dir.path(), "web.yml", text);
    let with = |name: Option<&str>| {
        let read = |file: String| std::fs::read(dir.path().join(file)).unwrap();
        let client = client().add_root_certificate(reqwest::Certificate::from_pem(&read("ca.pem".into())).unwrap());
        match name {
            None => client.build().unwrap(),
            Some(name) => {
                let pem = [read(format!("{name}.key")), read(format!("{name}.pem"))].concat();
                client
                    .identity(reqwest::Identity::from_pem(&pem).unwrap())
                    .build()
                    .unwrap()
            }
        }
    };
    let flags = ["--web.config.file", &web, "--tenant.certificate-field=commonName"];
    let mut server = start(dir.path(), &flags, "https", with(None)).await;
    // Without a certificate nothing is taken, whatever a header says.
    assert_eq!(status(server.write("a").header("X-Scope-OrgID", "one")).await, 400);
    server.client = with(Some("one"));
    assert_eq!(status(server.write("a")).await, 204);
    assert_eq!(status(server.write("a").header("X-Scope-OrgID", "two")).await, 400);
    assert!(server.series("one", "a", |request| request).await.contains("\"a\""));
    server.client = with(Some("hostile"));
    assert_eq!(status(server.write("a")).await, 400);
    // Plain HTTP is not spoken on this port.
    server.scheme = "http";
    assert!(server.write("a").send().await.is_err());
}
