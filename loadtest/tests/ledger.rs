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

/// After an outage a sender's backlog arrives behind newer samples of the same series.
#[test]
fn a_backlog_behind_newer_samples_is_kept() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let launch = Launch::narthex(dir.path())?;
    let server = launch.start()?;
    let whole = plan(&server);
    let ledger = ledger(&whole)?;
    // The run's first half is the backlog; the observer of each half counts scrapes from its own start.
    let half = SCRAPES / 2;
    let newer = Plan {
        scrapes: half,
        start: whole.start + half as i64 * STEP,
        ..whole.clone()
    };
    let older = Plan { scrapes: half, ..whole };
    let shifted = Shifted {
        ledger: &ledger,
        scrapes: half,
    };
    let outcome = write(
        &newer,
        &LedgerWorkload(ledger.run().clone()),
        &shifted,
        &AtomicBool::new(false),
        &|_| (),
    )?;
    assert_eq!(
        (outcome.refused, outcome.unknown),
        (0, 0),
        "{:?}",
        outcome.first_refusal
    );
    send(&older, &ledger)?;
    must_hold(&server, &ledger, "after the backlog")?;
    server.kill()?;
    let server = launch.start()?;
    must_hold(&server, &ledger, "after a crash")?;
    // Repeated as a whole, as by a sender that lost its notes: success, and nothing is doubled.
    let whole = Plan {
        scrapes: SCRAPES,
        ..older
    };
    send(&whole, &ledger)?;
    must_hold(&server, &ledger, "after a repeat")
}

/// Enters what a plan with a later start sends into the ledger of the whole run.
struct Shifted<'a> {
    ledger: &'a Ledger,
    scrapes: u64,
}

impl Shifted<'_> {
    fn part<'p>(&self, part: &loadtest::write::Part<'p>) -> loadtest::write::Part<'p> {
        loadtest::write::Part {
            series: part.series,
            first_scrape: part.first_scrape + self.scrapes,
            scrapes: part.scrapes,
        }
    }
}

impl loadtest::write::Observer for Shifted<'_> {
    fn sending(&self, part: &loadtest::write::Part<'_>) {
        self.ledger.sending(&self.part(part));
    }

    fn ended(&self, part: &loadtest::write::Part<'_>, ending: loadtest::write::Ending) {
        self.ledger.ended(&self.part(part), ending);
    }
}
