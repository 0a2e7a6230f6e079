//! TLS between nodes, with real processes: a ring that trusts one authority works as one in the clear, lets nobody else in, tells those it
//! refuses what to do, and takes new certificates without a restart. So does a querier that proves itself to its endpoints.
#![expect(
    clippy::disallowed_methods,
    reason = "a test that starts processes and waits for them"
)]

use model::sample::FloatSample;
use proto::{
    compression::snappy,
    remote_write::encode::{Points, V1Encoder},
};
use serde_json::Value;
use std::{
    fs::{File, read_to_string},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A process that ends with the test.
struct Node {
    child: Child,
    http: SocketAddr,
    grpc: SocketAddr,
    log: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Node {
    /// Starts a receiver named `name`; one that was there before keeps its addresses.
    fn start(dir: &Path, name: &str, before: Option<Node>, flags: &[&str]) -> Self {
        Self::start_as("receive", dir, name, before, flags)
    }

    fn start_as(role: &str, dir: &Path, name: &str, before: Option<Node>, flags: &[&str]) -> Self {
        let (http, grpc) = match before {
            Some(before) => (before.http, before.grpc),
            None => (free_address(), free_address()),
        };
        let log = dir.join(format!("{name}.log"));
        let data = dir.join(name);
        let child = Command::new(env!("CARGO_BIN_EXE_narthex"))
            .args([role, "--data.dir", data.to_str().unwrap(), "--endpoint.interval=1s"])
            .args(["--http.address", &http.to_string(), "--grpc.address", &grpc.to_string()])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, http, grpc, log }
    }

    async fn get(&self, path: &str) -> Option<String> {
        self.answer(path)
            .await
            .filter(|(is_good, _)| *is_good)
            .map(|(_, text)| text)
    }

    /// What it answers, and whether that is no error.
    async fn answer(&self, path: &str) -> Option<(bool, String)> {
        let answer = client().get(format!("http://{}{path}", self.http)).send().await.ok()?;
        let is_good = answer.status().is_success();
        Some((is_good, answer.text().await.ok()?))
    }

    /// Members that are active and reached.
    async fn reached(&self) -> usize {
        let ring = self.get("/api/v1/cluster/ring").await.unwrap_or_default();
        let ring: Value = serde_json::from_str(&ring).unwrap_or_default();
        let members = ring["members"].as_array().cloned().unwrap_or_default();
        let is_well = |member: &&Value| member["state"] == "ACTIVE" && member["reachable"] == true;
        members.iter().filter(is_well).count()
    }

    async fn write(&self, name: &str) -> u16 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let floats = [FloatSample {
            at: now.as_millis() as i64,
            value: 1.0,
            start: 0,
        }];
        let mut encoder = V1Encoder::default();
        encoder.series(
            [("__name__", name)],
            Points {
                floats: &floats,
                ..Points::default()
            },
        );
        let url = format!("http://{}/api/v1/write", self.http);
        let request = client().post(url).header("content-encoding", "snappy");
        let answer = request.body(snappy(&encoder.finish())).send().await;
        answer.map_or(0, |answer| answer.status().as_u16())
    }

    async fn until_log_says(&self, phrase: &str) {
        eventually(phrase, || async {
            read_to_string(&self.log).is_ok_and(|log| log.contains(phrase))
        })
        .await;
    }

    /// Samples that were sent to other nodes.
    async fn sent(&self) -> f64 {
        let metrics = self.get("/metrics").await.unwrap_or_default();
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("narthex_receiver_peer_sent_samples_total"));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20));
    builder.build().unwrap()
}

async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn openssl(dir: &Path, arguments: &str) -> bool {
    let mut command = Command::new("openssl");
    let command = command
        .args(arguments.split(' '))
        .current_dir(dir)
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Makes an authority and, signed by it, a certificate of a node, as files that begin with `name`.
fn authority(dir: &Path, name: &str) -> bool {
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    let own = format!("{new} -x509 -days 2 -subj /CN={name} -keyout {name}-ca.key -out {name}-ca.pem");
    let request = format!("{new} -subj /CN=node -keyout {name}.key -out {name}.csr");
    let sign = format!(
        "x509 -req -in {name}.csr -CA {name}-ca.pem -CAkey {name}-ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
    );
    openssl(dir, &own) && openssl(dir, &request) && openssl(dir, &sign)
}

/// A configuration with these certificates; the flag that names it.
fn config(dir: &Path, file: &str, own: &str, trusts: &str) -> String {
    let text = format!(
        "tls_server_config: {{cert_file: {own}.pem, key_file: {own}.key, client_ca_file: {trusts}-ca.pem, client_auth_type: RequireAndVerifyClientCert}}\n"
    );
    std::fs::write(dir.join(file), text).unwrap();
    format!("--grpc.config.file={}", dir.join(file).display())
}

#[tokio::test]
async fn a_ring_speaks_tls_and_lets_nobody_else_in() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    if !["ours", "theirs"].iter().all(|name| authority(dir, name)) {
        eprintln!("SKIPPED: no openssl to make certificates with");
        return;
    }
    let secure = config(dir, "grpc.yml", "ours", "ours");
    let first = Node::start(dir, "first", None, &[&secure, "--cluster.replication-factor=2"]);
    let join = format!("--cluster.join={}", first.grpc);
    eventually("the ring is founded", || async { first.reached().await == 1 }).await;
    let second = Node::start(dir, "second", None, &[&secure, &join]);
    for node in [&first, &second] {
        eventually("both are there", || async { node.reached().await == 2 }).await;
    }
    assert_eq!(first.write("a").await, 204);
    eventually("the second got its copy", || async { first.sent().await > 0.0 }).await;
    // The second asks the first for its half of the answer, and fails where it cannot.
    let question = "/api/v1/query?query=a&partial_response=false";
    eventually("the answer is whole", || async {
        second
            .get(question)
            .await
            .is_some_and(|answer| answer.contains("\"a\"") && !answer.contains("warnings"))
    })
    .await;

    let plain = Node::start(dir, "plain", None, &[&join]);
    plain.until_log_says("this port speaks TLS").await;
    let stranger = config(dir, "stranger.yml", "theirs", "theirs");
    let stranger = Node::start(dir, "stranger", None, &[&stranger, &join]);
    stranger.until_log_says("its certificate is not to be trusted").await;
    // It trusts us, we do not trust it.
    let follower = config(dir, "follower.yml", "theirs", "ours");
    let follower = Node::start(dir, "follower", None, &[&follower, &join]);
    first.until_log_says("invalid peer certificate: UnknownIssuer").await;
    follower.until_log_says("it refuses the certificate of this node").await;
    assert_eq!(first.reached().await, 2);
    drop(first);
    drop(second);
    // The other way round: a ring in the clear.
    let clear = Node::start(dir, "clear", None, &[]);
    eventually("the other ring is founded", || async { clear.reached().await == 1 }).await;
    let join = format!("--cluster.join={}", clear.grpc);
    let third = Node::start(dir, "third", None, &[&secure, &join]);
    third.until_log_says("it does not speak TLS").await;
    assert_eq!(clear.reached().await, 1);
}

#[tokio::test]
async fn a_querier_proves_itself_to_its_endpoints() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    if !["ours", "theirs"].iter().all(|name| authority(dir, name)) {
        eprintln!("SKIPPED: no openssl to make certificates with");
        return;
    }
    let receiver = Node::start(dir, "receiver", None, &[&config(dir, "grpc.yml", "ours", "ours")]);
    eventually("a sample is taken", || async { receiver.write("a").await == 204 }).await;
    let querier = |name: &str, own: Option<&str>, trusts: &str| {
        let file = |name: &str, kind: &str| format!("{}/{name}{kind}", dir.display());
        let mut flags = vec![
            format!("--endpoint={}", receiver.grpc),
            "--endpoint.tls".to_owned(),
            format!("--endpoint.tls-ca={}", file(trusts, "-ca.pem")),
        ];
        if let Some(own) = own {
            flags.push(format!("--endpoint.tls-cert={}", file(own, ".pem")));
            flags.push(format!("--endpoint.tls-key={}", file(own, ".key")));
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Node::start_as("query", dir, name, None, &flags)
    };
    let answer = async |node: &Node| node.get("/api/v1/query?query=a").await.unwrap_or_default();
    let known = querier("known", Some("ours"), "ours");
    eventually("the endpoint answers", || async {
        let answer = answer(&known).await;
        answer.contains("\"a\"") && !answer.contains("warnings")
    })
    .await;
    // Without a certificate, with one of others, and before an endpoint that others signed: each says what is wrong.
    for (name, own, trusts) in [
        ("nameless", None, "ours"),
        ("stranger", Some("theirs"), "ours"),
        ("wary", Some("ours"), "theirs"),
    ] {
        let refused = querier(name, own, trusts);
        eventually(name, || async {
            let Some((is_good, text)) = refused.answer("/api/v1/query?query=a").await else {
                return false;
            };
            assert!(!text.contains("\"a\""), "{name}: {text}");
            let is_told = ["CertificateRequired", "DecryptError", "UnknownCA", "UnknownIssuer"].iter();
            !is_good && is_told.into_iter().any(|reason| text.contains(reason))
        })
        .await;
    }
    assert!(answer(&known).await.contains("\"a\""));
}

#[tokio::test]
async fn new_certificates_need_no_restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    if !["old", "new"].iter().all(|name| authority(dir, name)) {
        eprintln!("SKIPPED: no openssl to make certificates with");
        return;
    }
    let secure = config(dir, "grpc.yml", "old", "old");
    let first = Node::start(dir, "first", None, &[&secure, "--cluster.replication-factor=2"]);
    let join = format!("--cluster.join={}", first.grpc);
    let second = Node::start(dir, "second", None, &[&secure, &join]);
    eventually("both are there", || async { first.reached().await == 2 }).await;
    // Both read the file; a file that names nothing usable changes nothing.
    std::fs::write(dir.join("grpc.yml"), "tls_server_config: {cert_file: nowhere.pem}\n").unwrap();
    first.until_log_says("cannot be used, all stays as it was").await;
    config(dir, "grpc.yml", "new", "new");
    for node in [&first, &second] {
        node.until_log_says("a changed file is in use").await;
    }
    // Connections that were there stay. One that is new can only come about with the new authority on both sides, in both directions.
    let second = Node::start(dir, "second", Some(second), &[&secure, &join]);
    eventually("the first is reached", || async { second.reached().await == 2 }).await;
    let sent = first.sent().await;
    eventually("the second is reached", || async {
        first.write("a").await == 204 && first.sent().await > sent
    })
    .await;
}
