//! Reading while writing: what each does to the other's waiting times.
//!
//! A server gets half of the samples it can take, then questions at a pace, then both together. People notice a server
//! whose dashboards stall its senders, or the other way round.

use crate::{
    ask::Asker,
    fleet::Fleet,
    outcome::Latency,
    population::Workload,
    write::{Plan, write},
};
use anyhow::ensure;
use serde::Serialize;
use std::{sync::atomic::AtomicBool, thread, time::Duration};

/// Questions per second: some ten people with dashboards open.
pub const QUESTIONS_PER_SECOND: f64 = 10.0;

/// How far back the load before ends: what is written here comes after it, and must neither lie in the future nor be too old.
pub const ROOM_MS: i64 = 3_600_000;

/// Waiting times with and without the other.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Mixed {
    /// Samples per second that were written.
    pub rate: f64,
    /// Acknowledgements while nobody asks.
    pub acks_alone: Latency,
    /// Acknowledgements while questions come in.
    pub acks_together: Latency,
    /// Answers while nothing is written.
    pub answers_alone: Latency,
    /// Answers while samples come in.
    pub answers_together: Latency,
}

/// Runs the three parts, each for about `time`. `plan` is that of a run which has just ended; the samples written here come
/// after its last, so that questions find the same amount of data.
pub fn mixed(asker: &Asker, plan: &Plan, fleet: &Fleet, rate: f64, time: Duration) -> anyhow::Result<Mixed> {
    let scrapes = (rate * time.as_secs_f64() / fleet.series() as f64).ceil().max(1.0) as u64;
    let scrapes = scrapes.min((ROOM_MS / plan.step / 2).max(1) as u64);
    let part = |number: u64| Plan {
        start: plan.start + (plan.scrapes + number * scrapes) as i64 * plan.step,
        scrapes,
        rate: Some(rate),
        late: None,
        ..plan.clone()
    };
    let stop = AtomicBool::new(false);
    let write_part = |number| -> anyhow::Result<Latency> {
        let outcome = write(&part(number), fleet, &(), &stop, &|_| ())?;
        ensure!(
            outcome.refused == 0 && outcome.unknown == 0,
            "samples were not taken: {:?}",
            outcome.errors
        );
        Ok(outcome.ack_ms)
    };
    let acks_alone = write_part(0)?;
    let answers_alone = asker.pace(QUESTIONS_PER_SECOND, time, &stop)?;
    let (acks_together, answers_together) = thread::scope(|scope| {
        let asking = scope.spawn(|| asker.pace(QUESTIONS_PER_SECOND, time, &stop));
        let acks = write_part(1);
        (acks, asking.join().expect("the asking thread does not panic"))
    });
    Ok(Mixed {
        rate,
        acks_alone,
        acks_together: acks_together?,
        answers_alone,
        answers_together: answers_together?,
    })
}

impl std::fmt::Display for Mixed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} samples and {QUESTIONS_PER_SECOND} questions per second: acks p99 {:.1} ms alone, {:.1} together; \
             answers p99 {:.1} ms alone, {:.1} together",
            self.rate, self.acks_alone.p99, self.acks_together.p99, self.answers_alone.p99, self.answers_together.p99
        )
    }
}
