//! What senders of every habit write is read back sample by sample: both protocol versions, any order, whole catch-ups,
//! the same samples from two senders at once, and the same again after a restart.

use loadtest::{
    clock::{now_ms, run_name},
    ledger::{Ledger, LedgerWorkload, Run},
    outcome::Outcome,
    process::{Launch, Server},
    verify::verify,
    wire::Protocol,
    write::{Order, Plan, last_scrapes_start, write},
};
use std::{sync::atomic::AtomicBool, thread, time::Duration};

const SCRAPES: u64 = 120;
const STEP: i64 = 5_000;
const SERIES: usize = 3_000;

fn plan(server: &Server) -> Plan {
    let now = now_ms();
    Plan {
        scrapes: SCRAPES,
        start: last_scrapes_start(now, SCRAPES, STEP),
        step: STEP,
        ..Plan::new(server.launch().write_url(), now)
    }
}

/// Sends a run as the plan says, with everything acknowledged.
fn send(plan: &Plan, ledger: &Ledger) -> anyhow::Result<Outcome> {
    let workload = LedgerWorkload(ledger.run().clone());
    let outcome = write(plan, &workload, ledger, &AtomicBool::new(false), &|_| ())?;
    assert_eq!(outcome.refused, 0, "refused: {:?}", outcome.first_refusal);
    assert_eq!(outcome.unknown, 0, "given up: {:?}", outcome.errors);
    assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
    Ok(outcome)
}

fn ledger(plan: &Plan) -> anyhow::Result<Ledger> {
    let name = format!(
        "{}-{:?}-{:?}-{}",
        run_name(),
        plan.protocol,
        plan.order,
        plan.samples_each
    );
    Ledger::new(
        Run {
            name,
            series: SERIES,
            start: plan.start,
            step: plan.step,
        },
        None,
    )
}

fn must_hold(server: &Server, ledger: &Ledger, when: &str) -> anyhow::Result<()> {
    let findings = verify(&mut server.api(), ledger, &|_| ())?;
    assert!(findings.is_clean(), "{when}, {}: {findings}", ledger.run().name);
    assert_eq!(findings.found, SERIES as u64 * SCRAPES, "{when}, {}", ledger.run().name);
    assert!(findings.warnings.is_empty(), "{when}: {findings}");
    Ok(())
}

#[test]
fn every_way_to_send_is_kept_to_the_sample() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let launch = Launch::narthex(dir.path())?;
    let server = launch.start()?;
    let mut ledgers = Vec::new();
    for protocol in [Protocol::V1, Protocol::V2] {
        for (order, samples_each) in [(Order::Steady, 1), (Order::Shuffled, 1), (Order::Steady, 10)] {
            let plan = Plan {
                protocol,
                order,
                samples_each,
                ..plan(&server)
            };
            let ledger = ledger(&plan)?;
            send(&plan, &ledger)?;
            must_hold(&server, &ledger, "after writing")?;
            ledgers.push(ledger);
        }
    }
    server.kill()?;
    let server = launch.start()?;
    for ledger in &ledgers {
        must_hold(&server, ledger, "after a crash")?;
    }
    Ok(())
}

/// Two senders that push the very same samples at once, and a third that repeats all of them after a restart, see
/// nothing but success, and nothing is doubled.
#[test]
fn repeated_samples_are_a_success_and_stay_single() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let launch = Launch::narthex(dir.path())?;
    let mut server = launch.start()?;
    let plan = plan(&server);
    let ledger = ledger(&plan)?;
    thread::scope(|scope| -> anyhow::Result<()> {
        let senders = [0, 1].map(|_| scope.spawn(|| send(&plan, &ledger).map(|_| ())));
        for sender in senders {
            sender.join().expect("a sender does not panic")?;
        }
        Ok(())
    })?;
    must_hold(&server, &ledger, "after two senders at once")?;
    server.terminate(Duration::from_secs(10))?;
    server = launch.start()?;
    send(&plan, &ledger)?;
    must_hold(&server, &ledger, "after a repeat behind a restart")
}
