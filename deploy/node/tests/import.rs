//! `narthex tools import`, run as a user runs it: what real Prometheus servers left behind is answered by a server afterwards.
#![expect(
    clippy::disallowed_methods,
    reason = "a test that starts processes and waits for them"
)]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const NARTHEX: &str = env!("CARGO_BIN_EXE_narthex");

/// A serving process that ends with the test.
struct Server(Child, String);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

impl Server {
    fn start(data: &Path) -> Self {
        let (http, grpc) = (free_address(), free_address());
        let child = Command::new(NARTHEX)
            .args(["--data.dir", data.to_str().unwrap()])
            .args(["--http.address", &http, "--grpc.address", &grpc])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self(child, http);
        let begun = Instant::now();
        while !server
            .get("/-/ready")
            .is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        {
            assert!(begun.elapsed() < Duration::from_secs(60), "not ready after a minute");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.1).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../storage/tests/prometheus")
        .join(version)
}

fn import(from: &Path, data: &Path) -> Output {
    Command::new(NARTHEX)
        .args(["tools", "import", "--prometheus.data", from.to_str().unwrap()])
        .args(["--data.dir", data.to_str().unwrap()])
        .output()
        .unwrap()
}

/// Samples that the command says it brought along, over all blocks.
fn told(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let samples = text.lines().filter_map(|line| line.strip_suffix(" samples"));
    samples
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[test]
fn what_a_prometheus_left_is_answered_afterwards() {
    for version in ["2.42", "3.5"] {
        let dir = tempfile::tempdir().unwrap();
        let first = import(&fixture(version), dir.path());
        assert!(
            first.status.success(),
            "{version}: {}",
            String::from_utf8_lossy(&first.stderr)
        );
        assert!(told(&first) > 1000, "{version}: {} samples", told(&first));
        // Blocks get the same ids, so a second try brings nothing twice.
        let again = import(&fixture(version), dir.path());
        assert_eq!(
            (again.status.success(), told(&again)),
            (true, told(&first)),
            "{version}"
        );

        let server = Server::start(dir.path());
        let begun = Instant::now();
        loop {
            // The fixtures end in November 2023.
            let query =
                "/api/v1/query?query=sum(count_over_time(%7B__name__%3D~%22.%2B%22%7D%5B2d%5D))&time=1700100000";
            let answer = server.get(query).unwrap();
            let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
            let found = body["data"]["result"][0]["value"][1]
                .as_str()
                .map(|text| text.parse::<u64>().unwrap());
            // One sample is a stale marker, which is stored and not counted.
            if found.is_some_and(|found| found + 1 == told(&first)) {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{version}: {found:?} of {} samples: {body}",
                told(&first)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_folder_without_data_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let missing = import(&dir.path().join("nowhere"), &dir.path().join("data"));
    assert!(!missing.status.success());
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("nowhere"),
        "{}",
        String::from_utf8_lossy(&missing.stderr)
    );
}
