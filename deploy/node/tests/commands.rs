//! The commands that the README names, run as a user runs them: on the real binary, against a real process on loopback.
#![expect(
    clippy::disallowed_methods,
    reason = "a test that starts processes and waits for them"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const NARTHEX: &str = env!("CARGO_BIN_EXE_narthex");

/// A serving process that ends with the test.
struct Server {
    child: Child,
    http: SocketAddr,
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

/// Starts a process on free ports and waits until it is ready.
fn start(data: &Path, flags: &[&str]) -> Server {
    let (http, grpc) = (free_address(), free_address());
    let child = Command::new(NARTHEX)
        .args(["--data.dir", data.to_str().unwrap()])
        .args(["--http.address", &http.to_string(), "--grpc.address", &grpc.to_string()])
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { child, http };
    let begun = Instant::now();
    while !request(http, "GET", "/-/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
        assert!(begun.elapsed() < Duration::from_secs(20), "not ready after 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

/// A request without a body; `None` when nobody listens.
fn request(address: SocketAddr, method: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(NARTHEX).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_health_check_says_whether_the_process_is_ready() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]);
    let url = format!("http://{}/-/ready", server.http);
    let output = run(&["healthcheck", "--url", &url]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    drop(server);
    let output = run(&["healthcheck", "--url", &url, "--timeout", "1"]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains(&url), "{}", text(&output.stderr));
}

#[test]
fn a_cut_is_refused_unless_switched_on() {
    let data = tempfile::tempdir().unwrap();
    let server = start(&data.path().join("off"), &[]);
    let output = run(&["tools", "cut", "--server", &format!("http://{}", server.http)]);
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("--web.enable-admin-api"),
        "{}",
        text(&output.stderr)
    );

    let server = start(&data.path().join("on"), &["--web.enable-admin-api"]);
    let output = run(&["tools", "cut", "--server", &format!("http://{}", server.http)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "0 blocks cut and in the bucket\n");
}

#[test]
fn scripts_are_counted_and_failures_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("mixed.test");
    let good = "load 1m\n  requests_total{job=\"a\"} 0+60x10\n\neval instant at 10m rate(requests_total[5m])\n  {job=\"a\"} 1\n";
    std::fs::write(
        &script,
        format!("{good}\neval instant at 10m requests_total\n  requests_total{{job=\"a\"}} 1\n"),
    )
    .unwrap();
    let folder = dir.path().to_str().unwrap();
    let output = run(&["tools", "promqltest", folder, "--list-failures"]);
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stdout);
    assert_eq!(printed.lines().last(), Some("1 passed, 1 failed"), "{printed}");
    assert!(printed.contains("mixed.test:7: requests_total"), "{printed}");

    std::fs::write(&script, good).unwrap();
    let output = run(&["tools", "promqltest", script.to_str().unwrap()]);
    assert!(output.status.success());
    assert_eq!(text(&output.stdout).lines().last(), Some("1 passed, 0 failed"));
}

#[test]
fn a_settings_file_is_checked_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("narthex.yml");
    std::fs::write(&file, "web.enable-admin-api: true\nlabel: [region=eu]\n").unwrap();
    let path = file.to_str().unwrap();
    assert!(run(&["check", "config", path]).status.success());
    let server = start(&dir.path().join("data"), &["--config.file", path]);
    let flags = request(server.http, "GET", "/api/v1/status/flags").unwrap();
    assert!(
        flags.contains(r#""label":"region=eu""#) && flags.contains(r#""web.enable-admin-api":"true""#),
        "{flags}"
    );

    std::fs::write(&file, "query: {timout: 3s}\n").unwrap();
    let output = run(&["check", "config", path]);
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("query.timeout"),
        "{}",
        text(&output.stderr)
    );
    assert!(!run(&["--config.file", path]).status.success());
}

#[test]
fn the_first_page_and_the_version_help_a_newcomer() {
    let output = run(&["--version"]);
    assert!(text(&output.stdout).starts_with("narthex "), "{}", text(&output.stdout));
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]);
    let page = request(server.http, "GET", "/").unwrap();
    assert!(
        page.contains(&format!("url: http://{}/api/v1/write", server.http)),
        "{page}"
    );
    let metrics = request(server.http, "GET", "/metrics").unwrap();
    assert!(
        metrics.contains("narthex_build_info") && metrics.trim_end().ends_with("# EOF"),
        "{metrics}"
    );
}
