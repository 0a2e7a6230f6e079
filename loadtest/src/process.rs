//! Starts and ends the servers that tests and benchmarks need: Narthex, and its peers as far as they are installed.
//!
//! Each server listens on a free loopback port, keeps its data and its log in a folder that the caller owns, and is
//! killed when its [`Server`] is dropped.

use crate::{
    api::Api,
    http::{Client, Url},
    meter::Usage,
    probe::Probe,
};
use anyhow::{Context, bail, ensure};
use std::{
    fs::OpenOptions,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Debian's Prometheus.
pub const PROMETHEUS: &str = "/usr/bin/prometheus";
/// Debian's tool for Prometheus's blocks and rules.
pub const PROMTOOL: &str = "/usr/bin/promtool";
/// Debian's node exporter.
pub const NODE_EXPORTER: &str = "/usr/bin/prometheus-node-exporter";
/// Debian's VictoriaMetrics.
pub const VICTORIA_METRICS: &str = "/usr/bin/victoria-metrics";

/// How long a server may take to start before a test gives up on it.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How to start a server, once or again.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What it is called in messages and for its log file.
    pub name: String,
    /// The program.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables added to its environment.
    pub environment: Vec<(String, String)>,
    /// Where it listens.
    pub url: Url,
    /// Path that answers 200 when it is ready.
    pub ready_path: &'static str,
    /// Where its remote write endpoint is.
    pub write_path: &'static str,
    /// Its standard output and error, of all starts.
    pub log: PathBuf,
    /// Where it keeps its data.
    pub data: PathBuf,
}

impl Launch {
    /// Narthex in one process, with its data in `dir/data`. The binary is the one that the variable `NARTHEX_BIN` names,
    /// or else `target/release/narthex` of this repository.
    pub fn narthex(dir: &Path) -> anyhow::Result<Self> {
        let grpc = free_port()?;
        let mut launch = Self::new("narthex", narthex_binary()?, dir, "/-/ready", "/api/v1/write")?;
        launch.arguments = vec![
            format!("--data.dir={}", launch.data.display()),
            format!("--http.address={}", launch.url.authority),
            format!("--grpc.address=127.0.0.1:{grpc}"),
        ];
        Ok(launch)
    }

    /// Debian's Prometheus with the configuration file's text. It takes remote writes.
    pub fn prometheus(dir: &Path, configuration: &str) -> anyhow::Result<Self> {
        let mut launch = Self::new("prometheus", PROMETHEUS.into(), dir, "/-/ready", "/api/v1/write")?;
        let file = dir.join("prometheus.yml");
        std::fs::write(&file, configuration).with_context(|| format!("write {}", file.display()))?;
        launch.arguments = vec![
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", launch.data.display()),
            format!("--web.listen-address={}", launch.url.authority),
            "--web.enable-remote-write-receiver".to_owned(),
            "--web.enable-admin-api".to_owned(),
        ];
        Ok(launch)
    }

    /// Debian's VictoriaMetrics.
    pub fn victoria_metrics(dir: &Path) -> anyhow::Result<Self> {
        let mut launch = Self::new(
            "victoria-metrics",
            VICTORIA_METRICS.into(),
            dir,
            "/health",
            "/api/v1/write",
        )?;
        launch.arguments = vec![
            format!("-storageDataPath={}", launch.data.display()),
            format!("-httpListenAddr={}", launch.url.authority),
        ];
        Ok(launch)
    }

    /// Debian's node exporter.
    pub fn node_exporter(dir: &Path) -> anyhow::Result<Self> {
        let mut launch = Self::new("node-exporter", NODE_EXPORTER.into(), dir, "/metrics", "")?;
        launch.arguments = vec![format!("--web.listen-address={}", launch.url.authority)];
        Ok(launch)
    }

    fn new(
        name: &str,
        binary: PathBuf,
        dir: &Path,
        ready_path: &'static str,
        write_path: &'static str,
    ) -> anyhow::Result<Self> {
        ensure!(
            binary.exists(),
            "{} is not installed: there is no {}",
            name,
            binary.display()
        );
        Ok(Self {
            name: name.to_owned(),
            binary,
            arguments: Vec::new(),
            environment: Vec::new(),
            url: Url::parse(&format!("http://127.0.0.1:{}", free_port()?))?,
            ready_path,
            write_path,
            log: dir.join(format!("{name}.log")),
            data: dir.join("data"),
        })
    }

    /// The same with another argument.
    pub fn with(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Address of the remote write endpoint.
    pub fn write_url(&self) -> Url {
        self.url.join(self.write_path)
    }

    /// The command line, for messages and reports: the program without its folder, and DIR for the folder of this run.
    pub fn command_line(&self) -> String {
        let program = self.binary.file_name().unwrap_or_default().display();
        let line = format!("{program} {}", self.arguments.join(" "));
        let dir = self.data.parent().map(|dir| dir.display().to_string());
        match dir.filter(|dir| !dir.is_empty()) {
            Some(dir) => line.replace(&dir, "DIR"),
            None => line,
        }
    }

    /// Starts the server and waits until it is ready.
    pub fn start(&self) -> anyhow::Result<Server> {
        let mut server = self.spawn()?;
        server.wait_ready(READY_TIMEOUT)?;
        Ok(server)
    }

    /// Starts the server and does not wait.
    pub fn spawn(&self) -> anyhow::Result<Server> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open log {}", self.log.display()))?;
        let mut command = Command::new(&self.binary);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("start {}", self.command_line()))?;
        Ok(Server {
            child,
            launch: self.clone(),
        })
    }
}

/// A running server, killed when dropped.
pub struct Server {
    child: Child,
    launch: Launch,
}

impl Server {
    /// How it was started.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has used so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.pid())
    }

    /// A connection to its query API.
    pub fn api(&self) -> Api {
        Api::new(&self.launch.url, &[], Duration::from_secs(60))
    }

    /// A connection to its remote write endpoint, for single requests.
    pub fn probe(&self) -> Probe {
        Probe::new(&self.launch.write_url())
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until it says that it is ready. It must not end before.
    pub fn wait_ready(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        let mut client = Client::new(&self.launch.url, &[], Duration::from_secs(5));
        let name = self.launch.name.clone();
        loop {
            let answer = client.get(self.launch.ready_path);
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{name} ended with {status} before it was ready; its log ends:\n{}",
                    self.log_tail()
                );
            }
            if Instant::now() > deadline {
                let last = answer
                    .map(|answer| answer.status.to_string())
                    .unwrap_or_else(|error| error.to_string());
                bail!(
                    "{name} is not ready after {timeout:?} ({last}); its log ends:\n{}",
                    self.log_tail()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until it ends by itself.
    pub fn wait_end(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} still runs after {timeout:?}; its log ends:\n{}",
                    self.launch.name,
                    self.log_tail()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it at once with SIGKILL, as a crash does.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end with SIGTERM and waits for that.
    pub fn terminate(mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("send SIGTERM")?;
        self.wait_end(timeout)
    }

    /// The whole log, of this and earlier starts.
    pub fn log(&self) -> String {
        std::fs::read(&self.launch.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary under test.
pub fn narthex_binary() -> anyhow::Result<PathBuf> {
    let binary = match std::env::var_os("NARTHEX_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
            let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
            target
                .unwrap_or_else(|| manifest.with_file_name("target"))
                .join("release/narthex")
        }
    };
    ensure!(
        binary.is_file(),
        "there is no narthex binary at {}: run `cargo build --release` first, or name one in NARTHEX_BIN",
        binary.display()
    );
    Ok(binary)
}

/// A newer peer than Debian's: `NAME*/usr/bin/NAME` below the folder that the variable `NARTHEX_PEERS` names.
pub fn newer_peer(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("NARTHEX_PEERS")?);
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|folder| folder.to_string_lossy().starts_with(name))
        })
        .map(|path| path.join("usr/bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop()
}

/// A loopback port that is free now. Ports lie below the range from which the kernel takes the ports of outgoing
/// connections, so that it stays free until a server takes it; every process begins at another place.
pub fn free_port() -> anyhow::Result<u16> {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = (std::process::id().wrapping_mul(7919) as u16).wrapping_add(step) % COUNT;
        if TcpListener::bind(("127.0.0.1", FIRST + offset)).is_ok() {
            return Ok(FIRST + offset);
        }
    }
    bail!("no port between {FIRST} and {} is free on 127.0.0.1", FIRST + COUNT)
}

/// Whether all of `programs` are installed; says loudly on standard error what a test leaves out when not.
pub fn installed(story: &str, programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|program| !Path::new(program).exists())
        .collect();
    if !missing.is_empty() {
        eprintln!("\n*** SKIPPED: {story}: {} not installed ***\n", missing.join(", "));
    }
    missing.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_early_is_told_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut launch = Launch::new("shell", "/bin/sh".into(), dir.path(), "/", "/").unwrap();
        launch.arguments = vec!["-c".to_owned(), "echo no disk left >&2; exit 3".to_owned()];
        let error = launch.start().err().unwrap().to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("no disk left"),
            "{error}"
        );
    }

    #[test]
    fn sigterm_reaches_the_process_and_drop_kills_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut launch = Launch::new("shell", "/bin/sh".into(), dir.path(), "/", "/").unwrap();
        launch.arguments = vec![
            "-c".to_owned(),
            "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done".to_owned(),
        ];
        let server = launch.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !server.log().contains("up") {
            assert!(Instant::now() < deadline, "the shell does not start");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(server.terminate(Duration::from_secs(10)).unwrap().code(), Some(7));
        let pid = launch.spawn().unwrap().pid();
        assert!(Usage::of(pid).is_err(), "process {pid} outlived its handle");
    }

    #[test]
    fn a_missing_binary_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Launch::new("thing", "/nonexistent/thing".into(), dir.path(), "/", "/")
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nonexistent/thing"), "{error}");
    }
}
