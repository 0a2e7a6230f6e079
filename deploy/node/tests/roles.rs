//! Roles as processes: what one process answers over its own data, a querier answers over that process.
#![expect(
    clippy::disallowed_methods,
    reason = "a test that starts processes and waits for them"
)]

use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A serving process that ends with the test.
struct Server {
    child: Child,
    http: SocketAddr,
    grpc: SocketAddr,
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

/// Starts a process and waits until it is ready.
fn start(role: &[&str], data: &Path, flags: &[&str]) -> Server {
    let (http, grpc) = (free_address(), free_address());
    let child = Command::new(env!("CARGO_BIN_EXE_narthex"))
        .args(role)
        .args(["--data.dir", data.to_str().unwrap()])
        .args(["--http.address", &http.to_string(), "--grpc.address", &grpc.to_string()])
        .args(flags)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { child, http, grpc };
    let begun = Instant::now();
    while !request(http, "GET", "/-/ready", &[], b"").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{role:?} is not ready after 30 s"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

fn request(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

fn ask(server: &Server, path: &str) -> Value {
    let answer = request(server.http, "GET", path, &[], b"").unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    // Answers without a length come in chunks; JSON begins at the first brace and ends at the last.
    let (from, to) = (body.find('{').unwrap(), body.rfind('}').unwrap());
    serde_json::from_str(&body[from..=to]).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"))
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Sends 50 series of one hour, a sample each 15 s; remote write 1.0 with snappy's literal form.
fn write(server: &Server, now_ms: i64) {
    let mut message = Vec::new();
    for index in 0..50 {
        let mut series = Vec::new();
        let instance = format!("host-{index:02}");
        for (name, value) in [("__name__", "requests_total"), ("instance", &instance), ("job", "node")] {
            let mut label = Vec::new();
            field(&mut label, 1, name.as_bytes());
            field(&mut label, 2, value.as_bytes());
            field(&mut series, 1, &label);
        }
        for step in 0..240i64 {
            let mut sample = vec![0x09];
            sample.extend_from_slice(&((step * (index + 1)) as f64).to_le_bytes());
            sample.push(0x10);
            varint(&mut sample, (now_ms - (239 - step) * 15_000) as u64);
            field(&mut series, 2, &sample);
        }
        field(&mut message, 1, &series);
    }
    let mut body = Vec::new();
    varint(&mut body, message.len() as u64);
    for piece in message.chunks(60) {
        body.push((piece.len() as u8 - 1) << 2);
        body.extend_from_slice(piece);
    }
    let headers = ["Content-Encoding: snappy", "Content-Type: application/x-protobuf"];
    let answer = request(server.http, "POST", "/api/v1/write", &headers, &body).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
}

/// Questions of all kinds over the hour that was written.
fn questions(now_ms: i64) -> Vec<String> {
    let (now, start) = (now_ms / 1000, now_ms / 1000 - 3600);
    let range = |query: &str| format!("/api/v1/query_range?query={query}&start={start}&end={now}&step=60");
    vec![
        range("requests_total"),
        range("sum(rate(requests_total%5B5m%5D))"),
        range("topk(3,increase(requests_total%5B10m%5D))"),
        format!("/api/v1/query?query=count(requests_total)by(job)&time={now}"),
        format!("/api/v1/query?query=requests_total%7Binstance%3D~%22host-1.%22%7D%5B7m%5D&time={now}"),
        format!("/api/v1/series?match%5B%5D=requests_total&start={start}&end={now}"),
        format!("/api/v1/labels?start={start}&end={now}"),
        format!("/api/v1/label/instance/values?start={start}&end={now}"),
    ]
}

#[track_caller]
fn assert_equal_answers(expected: &Server, got: &Server, now_ms: i64) {
    for question in questions(now_ms) {
        let (expected, got) = (ask(expected, &question), ask(got, &question));
        assert_eq!(got["status"], "success", "{question}: {got}");
        assert_eq!(got["data"], expected["data"], "{question}");
        assert_eq!(got["warnings"], Value::Null, "{question}");
        assert!(
            !got["data"].to_string().contains("[]") || question.contains("labels"),
            "{question}: {got}"
        );
    }
}

fn now_ms() -> i64 {
    // A whole second, so that instants and samples meet.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 * 1000
}

#[test]
fn a_querier_over_a_process_answers_like_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let all = start(
        &[],
        &dir.path().join("all"),
        &["--web.enable-admin-api", "--label", "region=eu"],
    );
    let now = now_ms();
    write(&all, now);

    // From the head, through one querier and through two.
    let endpoint = all.grpc.to_string();
    let querier = start(&["query"], &dir.path().join("query"), &["--endpoint", &endpoint]);
    assert_equal_answers(&all, &querier, now);
    let below = querier.grpc.to_string();
    let stacked = start(&["query"], &dir.path().join("stacked"), &["--endpoint", &below]);
    assert_equal_answers(&all, &stacked, now);

    // From the bucket, through a store.
    let cut = request(all.http, "POST", "/api/v1/admin/cut", &[], b"").unwrap();
    assert!(cut.contains("\"ulid\""), "{cut}");
    let bucket = dir.path().join("all/bucket");
    let config = format!("{{type: FILESYSTEM, config: {{directory: '{}'}}}}", bucket.display());
    let store = start(&["store"], &dir.path().join("store"), &["--objstore.config", &config]);
    let api = request(store.http, "GET", "/api/v1/query?query=1", &[], b"").unwrap();
    assert!(api.starts_with("HTTP/1.1 404"), "{api}");
    let list = dir.path().join("endpoints.yml");
    std::fs::write(&list, format!("- targets: ['{}']\n", store.grpc)).unwrap();
    let flags = [
        "--endpoint.file",
        list.to_str().unwrap(),
        "--endpoint.interval",
        "200ms",
    ];
    let historian = start(&["query"], &dir.path().join("historian"), &flags);
    assert_equal_answers(&all, &historian, now);

    // Both at once: what head and bucket have in common comes once.
    std::fs::write(&list, format!("['{}', '{}']", store.grpc, all.grpc)).unwrap();
    std::thread::sleep(Duration::from_millis(900));
    assert_equal_answers(&all, &historian, now);

    // An endpoint that dies is told of, and a strict question fails.
    drop(store);
    let question = format!("/api/v1/query?query=count(requests_total)&time={}", now / 1000);
    let answer = ask(&historian, &question);
    assert_eq!(answer["data"]["result"][0]["value"][1], "50", "{answer}");
    assert!(answer["warnings"].to_string().contains("failed"), "{answer}");
    let strict = ask(&historian, &format!("{question}&partial_response=false"));
    assert_eq!(strict["status"], "error", "{strict}");
}
