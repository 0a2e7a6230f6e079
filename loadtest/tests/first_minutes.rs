//! The first minutes of a new user: the server is there at once, says where to send, takes the first sample, stops when
//! asked, and explains itself.
#![expect(clippy::disallowed_methods, reason = "tests live in real time beside a real server")]

use loadtest::{
    clock::now_ms,
    http::Client,
    process::{Launch, narthex_binary},
};
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// From nothing to the first accepted sample within a second, and to the first answer within two. Other load on the
/// machine must not fail this, so the best of a few tries counts.
#[test]
fn the_first_sample_is_there_within_seconds() -> anyhow::Result<()> {
    let tries: Vec<(Duration, Duration)> = (0..5).map(|_| first_sample()).collect::<anyhow::Result<_>>()?;
    println!("time to the first acknowledgement and to the first answer: {tries:?}");
    let accepted = tries.iter().map(|(accepted, _)| *accepted).min().unwrap_or_default();
    let visible = tries.iter().map(|(_, visible)| *visible).min().unwrap_or_default();
    assert!(
        accepted <= Duration::from_secs(1),
        "first acknowledgement after {accepted:?}"
    );
    assert!(visible <= Duration::from_secs(2), "first answer after {visible:?}");
    Ok(())
}

fn first_sample() -> anyhow::Result<(Duration, Duration)> {
    let dir = tempfile::tempdir()?;
    let launch = Launch::narthex(dir.path())?;
    let started = Instant::now();
    let server = launch.spawn()?;
    let mut probe = server.probe();
    let timestamp = now_ms();
    let deadline = started + Duration::from_secs(30);
    while probe
        .push_one("first_sample", timestamp, 42.0)
        .map_or(0, |answer| answer.status)
        != 204
    {
        anyhow::ensure!(
            Instant::now() < deadline,
            "no sample is accepted; the log ends:\n{}",
            server.log_tail()
        );
        thread::sleep(Duration::from_millis(2));
    }
    let accepted = started.elapsed();
    let mut api = server.api();
    loop {
        let answer = api.instant("first_sample", timestamp)?;
        if let Some(series) = answer.series.first() {
            assert_eq!(series.samples, [(timestamp, 42.0)]);
            return Ok((accepted, started.elapsed()));
        }
        anyhow::ensure!(Instant::now() < deadline, "the accepted sample is not seen");
    }
}

#[test]
fn an_idle_server_is_small() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Launch::narthex(dir.path())?.start()?;
    thread::sleep(Duration::from_secs(2));
    let resident = server.usage()?.resident as f64 / f64::from(1 << 20);
    println!("{resident:.1} MiB resident when idle");
    assert!(resident <= 60.0, "{resident:.1} MiB resident when idle");
    Ok(())
}

#[test]
fn the_banner_holds_the_block_to_paste() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Launch::narthex(dir.path())?.start()?;
    let log = server.log();
    let url = format!("url: http://{}/api/v1/write", server.launch().url.authority);
    assert!(
        log.contains("remote_write:") && log.contains(&url),
        "no block to paste with {url:?} in:\n{log}"
    );
    assert!(
        log.contains(&server.launch().data.display().to_string()),
        "the banner does not say where data lies:\n{log}"
    );
    assert!(
        !server.log().contains("RaftState"),
        "a library chats:\n{}",
        server.log()
    );
    Ok(())
}

#[test]
fn a_second_process_on_the_same_data_is_refused() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let first = Launch::narthex(dir.path())?;
    let mut running = first.start()?;
    let mut second = Launch::narthex(dir.path())?;
    second.log = dir.path().join("second.log");
    let mut refused = second.spawn()?;
    let status = refused.wait_end(STOP_TIMEOUT)?;
    let log = refused.log();
    assert!(!status.success(), "the second process ended with success:\n{log}");
    assert!(
        log.contains(&first.data.display().to_string()),
        "the message does not name the folder:\n{log}"
    );
    assert!(!log.contains("panicked"), "{log}");
    assert!(
        running.is_alive()? && running.api().get("/-/ready")?.status == 200,
        "the first process was disturbed"
    );
    Ok(())
}

#[test]
fn sigterm_ends_it_in_time_and_in_peace() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let launch = Launch::narthex(dir.path())?;
    let server = launch.start()?;
    let timestamp = now_ms();
    let mut probe = server.probe();
    assert_eq!(probe.push_one("kept", timestamp, 7.0)?.status, 204);
    let (log, started) = (server.launch().log.clone(), Instant::now());
    // The probe's connection is still open and idle; it must not hold the server up.
    let status = server.terminate(STOP_TIMEOUT)?;
    println!("ended {:?} after SIGTERM", started.elapsed());
    assert!(status.success(), "{status}:\n{}", std::fs::read_to_string(log)?);
    let answer = launch.start()?.api().instant("kept", timestamp)?;
    assert_eq!(answer.series.len(), 1, "the sample did not outlive a stop in peace");
    Ok(())
}

#[test]
fn probes_get_their_answers() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Launch::narthex(dir.path())?.start()?;
    let mut client = Client::new(&server.launch().url, &[], Duration::from_secs(5));
    for path in ["/-/healthy", "/-/ready"] {
        let get = client.send("GET", path, "", b"")?;
        assert_eq!(get.status, 200, "GET {path}: {}", get.text());
        let head = client.send("HEAD", path, "", b"")?;
        assert_eq!((head.status, head.body.len()), (200, 0), "HEAD {path}");
    }
    let metrics = client.get("/metrics")?;
    assert_eq!(metrics.status, 200);
    assert!(
        metrics.text().contains("\nnarthex_"),
        "no metrics of its own:\n{}",
        metrics.text()
    );
    // Some senders probe the endpoint by GET, and people paste it into a browser.
    let pasted = client.get("/api/v1/write")?;
    assert_eq!(pasted.status, 200, "{}", pasted.text());
    assert!(
        pasted.text().contains("remote"),
        "the write endpoint does not explain itself: {}",
        pasted.text()
    );
    assert_eq!(client.get("/no/such/path")?.status, 404);
    Ok(())
}

#[test]
fn help_and_version_are_printed() -> anyhow::Result<()> {
    let run = |argument: &str| -> anyhow::Result<(bool, String)> {
        let output = Command::new(narthex_binary()?).arg(argument).output()?;
        Ok((
            output.status.success(),
            String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?,
        ))
    };
    let (success, help) = run("--help")?;
    assert!(success);
    for flag in [
        "--data.dir",
        "--http.address",
        "--grpc.address",
        "--config.file",
        "--web.enable-admin-api",
    ] {
        assert!(help.contains(flag), "no {flag} in:\n{help}");
    }
    let (success, version) = run("--version")?;
    assert!(success && version.contains(loadtest::VERSION), "{version}");
    let (success, error) = run("--data.dri=/tmp")?;
    assert!(
        !success && error.contains("--data.dir"),
        "an unknown flag is answered without a suggestion:\n{error}"
    );
    Ok(())
}
