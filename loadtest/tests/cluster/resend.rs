//! The same again: senders that repeat what they sent, or never get their answers, change nothing and are told that all is well.

use crate::ring::{Cluster, Load, under_load, write_again};

#[test]
fn what_is_sent_three_times_is_there_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(3, 3)?;
    let load = Load {
        series: 1_000,
        retries: 0,
        ..Load::default()
    };
    for (time, written) in write_again(&cluster, &load, 60, 3)?.into_iter().enumerate() {
        let outcome = &written.outcome;
        assert_eq!(
            (outcome.samples, outcome.refused, outcome.unknown),
            (60_000, 0, 0),
            "time {time}: {:?} {:?}",
            outcome.errors,
            outcome.first_refusal
        );
        let findings = cluster.verify(&written.ledger, 2)?;
        println!("time {time}: {findings}");
        assert!(findings.is_clean(), "{findings}");
    }
    Ok(())
}

/// The last hour, with a sample each second, three times, while one of seven answers never arrives.
#[test]
#[ignore = "takes some minutes; make cluster runs it"]
fn the_last_hour_sent_three_times_is_there_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(3, 3)?;
    let load = Load {
        series: 1_000,
        retries: 50,
        ..Load::default()
    };
    cluster.balancer.lose_answers(150);
    for (time, written) in write_again(&cluster, &load, 3_500, 3)?.into_iter().enumerate() {
        let outcome = &written.outcome;
        println!(
            "time {time}: {} samples, answers {:?}, p99 {} ms",
            outcome.samples, outcome.errors, outcome.ack_ms.p99
        );
        assert_eq!(
            (outcome.samples, outcome.refused, outcome.unknown),
            (3_500_000, 0, 0),
            "{:?}",
            outcome.first_refusal
        );
        // Nothing but lost connections: every answer that arrived was a 2xx.
        assert!(outcome.errors.keys().all(|error| error.starts_with("connection")));
        let findings = cluster.verify(&written.ledger, 2)?;
        println!("{findings}");
        assert!(findings.is_clean(), "{findings}");
    }
    Ok(())
}

#[test]
fn lost_answers_leave_no_duplicates() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3, 3)?;
    let load = Load {
        retries: 20,
        ..Load::default()
    };
    let written = under_load(&mut cluster, &load, |cluster, progress| {
        cluster.balancer.lose_answers(150);
        progress.wait(60_000)?;
        cluster.balancer.lose_answers(0);
        // Requests whose answers were lost wait before they are sent again; the load must not end meanwhile.
        progress.wait(60_000)?;
        Ok(())
    })?;
    let outcome = &written.outcome;
    assert!(
        outcome.errors.keys().any(|error| error.starts_with("connection")),
        "no answer was lost"
    );
    cluster.check("with lost answers", &written, 2)
}
