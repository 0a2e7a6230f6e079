//! The benchmark as a whole: each shape of load that BENCHMARKS.md tells of, run one after the other.
//!
//! `loadtest compare --suite` runs it and [`crate::markdown`] makes the file of it. Sizes are chosen so that all of it takes a quarter of
//! an hour on two cores, and that 10 ms, the unit in which the kernel counts CPU time, are below one per cent of what Narthex uses.

use crate::{
    clock::now_ms,
    compare::{Binaries, Contestant, Extent, Row, contest},
    fleet::{Fleet, Shape},
    http::Url,
    mixed::ROOM_MS,
    report::progress_bar,
    wire::Protocol,
    write::{Order, Plan, last_scrapes_start, one_window_start},
};
use anyhow::Context;
use std::{path::Path, time::Duration};

use Contestant::{Narthex, Prometheus, VictoriaMetrics};

/// Time between the scrapes that are written while questions are asked.
const MIXED_STEP_MS: i64 = 5_000;

/// One shape of load, and who gets it.
pub struct Part {
    /// What it is called in tables.
    pub name: &'static str,
    /// Series.
    pub series: usize,
    /// Scrapes of them.
    pub scrapes: u64,
    /// Scrapes that Prometheus gets, whose CPU time would take most of the suite's otherwise.
    pub scrapes_of_prometheus: u64,
    /// Share of the series that is replaced in each scrape.
    pub churn: f64,
    /// What is unusual about the requests.
    pub requests: fn(Plan) -> Plan,
    /// In this order; who stands there twice shows how far figures scatter.
    pub servers: &'static [Contestant],
    /// How often each question is asked after the load.
    pub questions: u32,
    /// How long each part of reading while writing takes, if that is measured.
    pub mixed: Option<Duration>,
}

const PART: Part = Part {
    name: "",
    series: 100_000,
    scrapes: 60,
    scrapes_of_prometheus: 60,
    churn: 0.0,
    requests: |plan| plan,
    servers: &[Narthex, VictoriaMetrics],
    questions: 0,
    mixed: None,
};

/// All shapes, the most important first.
pub const PARTS: &[Part] = &[
    Part {
        name: "steady",
        scrapes: 200,
        scrapes_of_prometheus: 100,
        servers: &[Narthex, VictoriaMetrics, Prometheus, Narthex],
        questions: 10,
        ..PART
    },
    Part {
        name: "a million series",
        series: 1_000_000,
        scrapes: 20,
        scrapes_of_prometheus: 5,
        servers: &[Narthex, VictoriaMetrics, Prometheus],
        ..PART
    },
    Part {
        name: "other order each scrape",
        requests: |plan| Plan {
            order: Order::Shuffled,
            ..plan
        },
        ..PART
    },
    Part {
        name: "500 samples per request, 8 connections",
        requests: |plan| Plan {
            batch: 500,
            connections: 8,
            ..plan
        },
        ..PART
    },
    Part {
        name: "remote write 2.0",
        // As long as the steady load, which it is to be compared with.
        scrapes: 200,
        scrapes_of_prometheus: 60,
        requests: |plan| Plan {
            protocol: Protocol::V2,
            ..plan
        },
        servers: &[Narthex, Prometheus],
        ..PART
    },
    Part {
        name: "ten samples of a series per request",
        requests: |plan| Plan {
            samples_each: 10,
            ..plan
        },
        ..PART
    },
    Part {
        name: "10 % of the series replaced each scrape",
        churn: 0.1,
        ..PART
    },
    Part {
        name: "first sight of a million series",
        series: 1_000_000,
        scrapes: 1,
        scrapes_of_prometheus: 1,
        servers: &[Narthex, VictoriaMetrics, Prometheus],
        ..PART
    },
    Part {
        name: "reading while writing",
        mixed: Some(Duration::from_secs(15)),
        ..PART
    },
];

/// What one server did with one shape.
pub struct Measured {
    /// The shape.
    pub part: &'static Part,
    /// Series in a scrape.
    pub series: usize,
    /// Scrapes that it got.
    pub scrapes: u64,
    /// New series in all of them.
    pub series_ever: u64,
    /// What it did.
    pub row: Row,
}

impl Part {
    fn scrapes_of(&self, server: Contestant) -> u64 {
        match server {
            Prometheus => self.scrapes_of_prometheus,
            Narthex | VictoriaMetrics => self.scrapes,
        }
    }

    /// Runs the shape on one server, below `dir`, with a fraction of its series.
    fn measure(
        &'static self,
        server: Contestant,
        binaries: &Binaries,
        dir: &Path,
        fraction: usize,
    ) -> anyhow::Result<Measured> {
        let (series, scrapes) = (self.series / fraction, self.scrapes_of(server));
        let plan = (self.requests)(Plan::new(Url::parse("http://127.0.0.1:1")?, now_ms()));
        let plan = match self.mixed {
            None => Plan {
                scrapes,
                start: one_window_start(now_ms(), scrapes, plan.step),
                ..plan
            },
            // What is written while questions are asked comes after the load, and must neither lie in the future nor be too old.
            Some(_) => Plan {
                scrapes,
                step: MIXED_STEP_MS,
                start: last_scrapes_start(now_ms() - ROOM_MS, scrapes, MIXED_STEP_MS),
                ..plan
            },
        };
        let fleet = Fleet::new(Shape {
            churn: self.churn,
            ..Shape::plain(series, plan.step)
        })?;
        let bar = progress_bar(series as u64 * scrapes);
        bar.set_message(format!("{server:?}"));
        let extent = Extent {
            settle: Duration::from_secs(2),
            questions: self.questions,
            mixed: self.mixed.map(|time| time / fraction as u32),
        };
        let row = contest(server, binaries, dir, &plan, &fleet, extent, &|samples| {
            bar.inc(samples)
        });
        bar.finish_and_clear();
        let row = row.with_context(|| format!("measure {server:?}, {}", self.name))?;
        Ok(Measured {
            part: self,
            series,
            scrapes,
            series_ever: fleet.series_ever(scrapes),
            row,
        })
    }
}

/// Runs all shapes on the servers that are installed, telling on standard error what it does. A peer that fails is told there and left
/// out of that shape; Narthex must not fail. A `fraction` above 1 divides the sizes, to try the suite itself.
pub fn run(servers: &[Contestant], binaries: &Binaries, dir: &Path, fraction: usize) -> anyhow::Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for (number, part) in PARTS.iter().enumerate() {
        for &server in part.servers.iter().filter(|server| servers.contains(server)) {
            eprintln!(
                "{} of {}: {}: {server:?}, {} series × {} scrapes",
                number + 1,
                PARTS.len(),
                part.name,
                part.series / fraction,
                part.scrapes_of(server),
            );
            match part.measure(server, binaries, dir, fraction) {
                Ok(one) => {
                    eprintln!("    {}", one.in_short());
                    measured.push(one);
                }
                Err(error) => eprintln!("    left out: {error:#}"),
            }
        }
    }
    Ok(measured)
}

impl Measured {
    /// CPU seconds per million samples until the last acknowledgement.
    pub fn cpu_per_million(&self) -> f64 {
        self.row.user_per_million + self.row.system_per_million
    }

    /// CPU microseconds for each new series, its samples included.
    pub fn cpu_per_series(&self) -> f64 {
        self.cpu_per_million() * self.row.outcome.samples as f64 / self.series_ever as f64
    }

    fn in_short(&self) -> String {
        let row = &self.row;
        format!(
            "{:.3} CPU-s per million samples, acks p99 {:.1} ms, {:.0} MiB at most",
            self.cpu_per_million(),
            row.outcome.ack_ms.p99,
            row.resident_peak as f64 / f64::from(1 << 20),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_a_name_and_narthex() {
        for part in PARTS {
            assert!(
                !part.name.is_empty() && part.servers.contains(&Narthex),
                "{}",
                part.name
            );
            assert!(part.scrapes >= part.scrapes_of_prometheus, "{}", part.name);
            let names = PARTS.iter().filter(|other| other.name == part.name).count();
            assert_eq!(names, 1, "{}", part.name);
        }
    }
}
