//! A server that is killed again and again under load keeps every sample that it acknowledged, once and unchanged.
#![expect(clippy::disallowed_methods, reason = "tests live in real time beside a real server")]

use loadtest::{
    clock::{now_ms, run_name},
    ledger::{Ledger, LedgerWorkload, Run},
    outcome::Outcome,
    population::mix,
    process::{Launch, Server},
    verify::verify,
    write::{Plan, last_scrapes_start, write},
};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

const SERIES: usize = 4_000;
/// Requests of 200 samples, so that many are in flight and share an fsync when the blow falls.
const BATCH: usize = 200;
const RATE: f64 = 60_000.0;
/// Samples that must be acknowledged after each restart before the next blow.
const SAMPLES_PER_ROUND: u64 = 20_000;
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn twenty_crashes_under_load_lose_nothing() -> anyhow::Result<()> {
    crash(20, &|_, _| Ok(()))
}

/// The blow falls somewhere between the start of a cut and the time when its blocks are in the bucket.
#[test]
fn crashes_during_a_cut_lose_nothing() -> anyhow::Result<()> {
    crash(6, &|server, round| {
        let url = server.launch().url.clone();
        // The answer is not awaited: it may never come.
        thread::spawn(move || {
            let mut client = loadtest::http::Client::new(&url, &[], Duration::from_secs(10));
            client.post("/api/v1/admin/cut", "", b"")
        });
        thread::sleep(Duration::from_millis(mix(round) % 400));
        Ok(())
    })
}

/// Ends the writers when a round fails, so that the failure is told instead of waited for.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn crash(rounds: u64, before_blow: &dyn Fn(&Server, u64) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let launch = Launch::narthex(dir.path())?.with("--web.enable-admin-api");
    let mut server = launch.start()?;
    let (scrapes, step) = (3_500, 1_000);
    let run = Run {
        name: run_name(),
        series: SERIES,
        start: last_scrapes_start(now_ms(), scrapes, step),
        step,
    };
    let plan = Plan {
        scrapes,
        start: run.start,
        step,
        batch: BATCH,
        connections: 8,
        rate: Some(RATE),
        retries: u32::MAX,
        backoff_max: Duration::from_millis(100),
        timeout: Duration::from_secs(10),
        ..Plan::new(launch.write_url(), now_ms())
    };
    let ledger = Ledger::new(run.clone(), None)?;
    let (stop, ended) = (AtomicBool::new(false), AtomicU64::new(0));
    let (outcome, server) = thread::scope(|scope| -> anyhow::Result<(Outcome, Server)> {
        let guard = StopOnDrop(&stop);
        let workload = LedgerWorkload(run);
        let (plan, ledger, stop, ended) = (&plan, &ledger, &stop, &ended);
        let writer = scope.spawn(move || {
            write(plan, &workload, ledger, stop, &|samples| {
                ended.fetch_add(samples, Ordering::Relaxed);
            })
        });
        for round in 0..rounds {
            wait_for_samples(&server, ended, round)?;
            before_blow(&server, round)?;
            // Somewhere in the stream of requests, not always right after one.
            thread::sleep(Duration::from_millis(mix(round ^ 0xb10) % 300));
            server.kill()?;
            server = launch.start()?;
        }
        wait_for_samples(&server, ended, rounds)?;
        drop(guard);
        let outcome = writer.join().expect("the writer does not panic")?;
        Ok((outcome, server))
    })?;
    assert_eq!(outcome.refused, 0, "refused: {:?}", outcome.first_refusal);
    assert!(
        outcome.errors.keys().any(|error| error.starts_with("connection")),
        "no blow hit a request"
    );
    let findings = verify(&mut server.api(), &ledger, &|_| ())?;
    println!(
        "{rounds} crashes, {} samples per second: {findings}",
        (outcome.samples as f64 / outcome.seconds).round()
    );
    assert!(findings.is_clean(), "{findings}");
    assert!(findings.acknowledged >= SAMPLES_PER_ROUND * rounds);

    // The same after a stop in peace and once more from what that left on disk.
    server.terminate(Duration::from_secs(10))?;
    let findings = verify(&mut launch.start()?.api(), &ledger, &|_| ())?;
    assert!(findings.is_clean(), "after a restart: {findings}");
    Ok(())
}

fn wait_for_samples(server: &Server, ended: &AtomicU64, round: u64) -> anyhow::Result<()> {
    let (before, deadline) = (ended.load(Ordering::Relaxed), Instant::now() + ROUND_TIMEOUT);
    while ended.load(Ordering::Relaxed) < before + SAMPLES_PER_ROUND {
        anyhow::ensure!(
            Instant::now() < deadline,
            "round {round}: only {} samples acknowledged in {ROUND_TIMEOUT:?}; the log ends:\n{}",
            ended.load(Ordering::Relaxed) - before,
            server.log_tail()
        );
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
