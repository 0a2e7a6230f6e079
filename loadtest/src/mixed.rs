//! Reading while writing: what each does to the other's waiting times.
//!
//! A server gets half of the samples it can take, then questions at a pace, then both together, and in the end samples while it brings
//! all of them into its lasting format. People notice a server whose dashboards stall its senders, or the other way round, and one that
//! stops every two hours.

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
    /// Acknowledgements while everything is brought into the lasting format.
    pub acks_through_flush: Latency,
    /// Answers while nothing is written.
    pub answers_alone: Latency,
    /// Answers while samples come in.
    pub answers_together: Latency,
}

/// Runs the parts, each for about `time`. `plan` is that of a run which has just ended; the samples written here come
/// after its last, so that questions find the same amount of data. `flush` brings everything into the lasting format.
pub fn mixed(
    asker: &Asker,
    plan: &Plan,
    fleet: &Fleet,
    rate: f64,
    time: Duration,
    flush: &(dyn Fn() -> anyhow::Result<()> + Sync),
) -> anyhow::Result<Mixed> {
    let scrapes = (rate * time.as_secs_f64() / fleet.series() as f64).ceil().max(1.0) as u64;
    let scrapes = scrapes.min((ROOM_MS / plan.step / 3).max(1) as u64);
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
    let (acks_through_flush, flushed) = thread::scope(|scope| {
        let flushing = scope.spawn(|| {
            // When the writing has begun.
            thread::sleep(time / 10);
            flush()
        });
        let acks = write_part(2);
        (acks, flushing.join().expect("the flushing thread does not panic"))
    });
    flushed?;
    Ok(Mixed {
        rate,
        acks_alone,
        acks_together: acks_together?,
        acks_through_flush: acks_through_flush?,
        answers_alone,
        answers_together: answers_together?,
    })
}

impl std::fmt::Display for Mixed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} samples and {QUESTIONS_PER_SECOND} questions per second: acks p99 {:.1} ms alone, {:.1} together; \
             answers p99 {:.1} ms alone, {:.1} together; acks through a flush p99 {:.1} ms, slowest {:.1}",
            self.rate,
            self.acks_alone.p99,
            self.acks_together.p99,
            self.answers_alone.p99,
            self.answers_together.p99,
            self.acks_through_flush.p99,
            self.acks_through_flush.max
        )
    }
}
