//! A server whose disk is full says 503 and goes on answering queries, takes writes again by itself when there is room,
//! and has lost nothing that it acknowledged.
#![expect(clippy::disallowed_methods, reason = "tests live in real time beside a real server")]

use anyhow::Context;
use loadtest::{
    clock::{now_ms, run_name},
    ledger::{Ledger, LedgerWorkload, METRIC, Run},
    outcome::Outcome,
    process::{Launch, Server},
    verify::verify,
    write::{Plan, last_scrapes_start, write},
};
use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Room that the ballast leaves to the server before the load begins.
const ROOM_BYTES: u64 = 3 << 20;

/// A small file system in memory, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None` when this user may not mount.
    fn new(at: PathBuf, size: &str) -> anyhow::Result<Option<Self>> {
        std::fs::create_dir(&at)?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at)
            .output();
        match output {
            Ok(output) if output.status.success() => Ok(Some(Self(at))),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                eprintln!("\n*** SKIPPED: the full disk: {why} ***\n");
                Ok(None)
            }
            Err(error) => Err(error).context("run mount"),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("could not unmount {}", self.0.display());
        }
    }
}

#[test]
fn a_full_disk_is_survived() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(mount) = Mount::new(dir.path().join("disk"), "48m")? else {
        return Ok(());
    };
    let mut launch = Launch::narthex(dir.path())?;
    let data = mount.0.join("data");
    for argument in &mut launch.arguments {
        if argument.starts_with("--data.dir=") {
            *argument = format!("--data.dir={}", data.display());
        }
    }
    let mut server = launch.start()?;
    let ballast = mount.0.join("ballast");
    fill_all_but(&ballast, ROOM_BYTES)?;

    let (scrapes, step, series) = (3_500, 1_000, 5_000);
    let run = Run {
        name: run_name(),
        series,
        start: last_scrapes_start(now_ms(), scrapes, step),
        step,
    };
    let plan = Plan {
        scrapes,
        start: run.start,
        step,
        batch: 500,
        rate: Some(100_000.0),
        retries: u32::MAX,
        backoff_max: Duration::from_millis(200),
        ..Plan::new(launch.write_url(), now_ms())
    };
    let ledger = Ledger::new(run.clone(), None)?;
    let (stop, ended) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcome = thread::scope(|scope| -> anyhow::Result<Outcome> {
        let (plan, ledger, stop, ended) = (&plan, &ledger, &stop, &ended);
        let writer = scope.spawn(move || {
            write(plan, &LedgerWorkload(run), ledger, stop, &|samples| {
                ended.fetch_add(samples, Ordering::Relaxed);
            })
        });
        let story = fill_hold_and_free(&mut server, &ballast, ended);
        stop.store(true, Ordering::Relaxed);
        let outcome = writer.join().expect("the writer does not panic");
        story?;
        outcome
    })?;
    assert_eq!(outcome.refused, 0, "refused: {:?}", outcome.first_refusal);
    assert!(outcome.errors.contains_key("503"), "{:?}", outcome.errors);
    assert!(
        outcome.errors.keys().all(|error| error == "503"),
        "other failures than 503: {:?}",
        outcome.errors
    );

    let findings = verify(&mut server.api(), &ledger, &|_| ())?;
    println!("full disk: {findings}; {:?}", outcome.errors);
    assert!(findings.is_clean(), "{findings}");
    server.kill()?;
    let server = launch.start()?;
    let findings = verify(&mut server.api(), &ledger, &|_| ())?;
    assert!(findings.is_clean(), "after a restart: {findings}");
    Ok(())
}

/// The story, told while the load goes on.
fn fill_hold_and_free(server: &mut Server, ballast: &Path, ended: &AtomicU64) -> anyhow::Result<()> {
    let mut probe = server.probe();
    let push = |probe: &mut loadtest::probe::Probe| probe.push_one("full_disk_probe", now_ms(), 1.0);
    let mut waited = wait_for(server, "503 on a full disk", Duration::from_secs(60), || {
        let answer = push(&mut probe)?;
        if answer.status == 503 {
            assert!(
                answer.header("retry-after").is_some(),
                "a 503 without Retry-After: {}",
                answer.text()
            );
            println!("while full: {}", answer.text().trim());
        }
        Ok(answer.status == 503)
    })?;
    println!("full after {waited:?}");

    // Full it stays for a while: the server lives, answers queries, and takes nothing.
    let mut api = server.api();
    let full_until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < full_until {
        anyhow::ensure!(
            server.is_alive()?,
            "the server died of a full disk:\n{}",
            server.log_tail()
        );
        let answer = api.instant(&format!("count(last_over_time({METRIC}[2h]))"), now_ms())?;
        assert!(!answer.series.is_empty(), "a full disk hides what was stored");
        thread::sleep(Duration::from_millis(200));
    }
    let stored = ended.load(Ordering::Relaxed);
    std::fs::remove_file(ballast)?;
    waited = wait_for(
        server,
        "a write after there is room again",
        Duration::from_secs(10),
        || Ok(push(&mut probe)?.status == 204),
    )?;
    println!("writes again {waited:?} after the ballast was gone");
    wait_for(server, "the load to go on", Duration::from_secs(30), || {
        Ok(ended.load(Ordering::Relaxed) > stored + 50_000)
    })?;
    Ok(())
}

fn wait_for(
    server: &mut Server,
    what: &str,
    timeout: Duration,
    mut happened: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    while !happened().with_context(|| format!("while waiting for {what}"))? {
        anyhow::ensure!(
            server.is_alive()?,
            "the server died while waiting for {what}:\n{}",
            server.log_tail()
        );
        anyhow::ensure!(
            started.elapsed() < timeout,
            "no {what} within {timeout:?}; the log ends:\n{}",
            server.log_tail()
        );
        thread::sleep(Duration::from_millis(20));
    }
    Ok(started.elapsed())
}

/// Writes a file until the disk is full, then shortens it by `room`.
fn fill_all_but(path: &Path, room: u64) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let block = [0x5a; 64 << 10];
    let mut size = 0;
    loop {
        match file.write(&block) {
            Ok(0) => break,
            Ok(written) => size += written as u64,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error).context("write the ballast"),
        }
    }
    anyhow::ensure!(size > room, "the server left only {size} bytes of its disk");
    file.set_len(size - room).context("shorten the ballast")
}
