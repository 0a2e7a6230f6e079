//! The command line: `loadtest write`, `verify` and `compare`.

mod compare;

pub use compare::CompareArguments;

use crate::{
    api::Api,
    ask::{Asker, costs_table},
    clock::{now_ms, run_name},
    fleet::{Fleet, Shape},
    http::{Url, parse_header},
    ledger::{Ledger, LedgerWorkload, Run},
    meter::Usage,
    outcome::Outcome,
    population::Workload,
    report::{Report, progress_bar, settle, write_json},
    verify::verify,
    wire::Protocol,
    write::{Late, Observer, Order, Plan, Snappy, last_scrapes_start, write},
};
use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use indicatif::ProgressBar;
use std::{path::PathBuf, sync::atomic::AtomicBool, time::Duration};

/// Writes samples to a remote write endpoint, measures the server, and proves what it kept.
#[derive(Parser)]
#[command(name = "loadtest", version)]
pub enum Command {
    /// Write a population of series, scrape after scrape.
    Write(Box<WriteArguments>),
    /// Ask what dashboards ask of such a population: what each question costs, or how long it takes at a pace.
    Query(QueryArguments),
    /// Read everything in a ledger back and compare.
    Verify(VerifyArguments),
    /// Measure Narthex and its installed peers side by side.
    Compare(Box<CompareArguments>),
}

impl Command {
    /// Runs the command; `false` when it ran and found the server wanting.
    pub fn run(self) -> anyhow::Result<bool> {
        match self {
            Command::Write(arguments) => arguments.run(),
            Command::Query(arguments) => arguments.run(),
            Command::Verify(arguments) => arguments.run(),
            Command::Compare(arguments) => arguments.run(),
        }
    }
}

/// What is written, and how it travels.
#[derive(clap::Args)]
struct LoadArguments {
    /// Number of series.
    #[arg(long, default_value_t = 100_000)]
    series: usize,
    /// Number of scrapes.
    #[arg(long, default_value_t = 200)]
    scrapes: u64,
    /// Time between scrapes.
    #[arg(long, default_value = "15s", value_parser = parse_duration)]
    step: Duration,
    /// Percentage of the series that is replaced by new ones in each scrape, host by host.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    churn: f64,
    /// Senders that scrape the same targets, as a pair of Prometheus does; the series get a label `replica`.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    replicas: usize,
    /// Tenants that share the series.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    tenants: usize,
    /// Header that carries the tenant.
    #[arg(long, value_name = "NAME", default_value = "THANOS-TENANT")]
    tenant_header: String,
    /// Percentage of the series that has one more sample in each scrape, which arrives late.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    late: f64,
    /// Age of the oldest late samples.
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_duration)]
    late_by: Duration,
    /// Samples per request.
    #[arg(long, default_value_t = 2_000)]
    batch: usize,
    /// Samples of each series in a request.
    #[arg(long, default_value_t = 1)]
    samples_each: usize,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Order of the series in a scrape.
    #[arg(long, value_enum, default_value = "steady")]
    order: OrderArgument,
    /// Remote write version.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    protocol: u8,
    /// Compress each body anew as senders do, or once and patch it, which costs the generator little and the server about
    /// the same.
    #[arg(long, value_enum, default_value = "standard")]
    snappy: SnappyArgument,
    /// How long to wait after the last answer before a server is measured a second time.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    settle: Duration,
    /// Write the result to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Arguments of `loadtest write`.
#[derive(clap::Args)]
pub struct WriteArguments {
    /// The remote write endpoint.
    #[arg(long, default_value = "http://127.0.0.1:10902/api/v1/write")]
    url: String,
    /// Header on every request, as "NAME: VALUE" (repeatable).
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Label on every series, as NAME=VALUE (repeatable).
    #[arg(long = "label", value_name = "NAME=VALUE", conflicts_with = "ledger")]
    labels: Vec<String>,
    #[command(flatten)]
    load: LoadArguments,
    /// Timestamp of the first scrape in milliseconds [default: such that the last is now].
    #[arg(long)]
    start: Option<i64>,
    /// Samples per second over all connections.
    #[arg(long, conflicts_with = "saturate")]
    rate: Option<f64>,
    /// Send as fast as the server answers (the default).
    #[arg(long)]
    saturate: bool,
    /// How often a request that failed for now is sent again.
    #[arg(long, default_value_t = 10)]
    retries: u32,
    /// Write recognisable samples and record the fate of each in this file, for `loadtest verify`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["churn", "replicas", "tenants", "late"])]
    ledger: Option<PathBuf>,
    /// Process id of the server, to measure what it uses.
    #[arg(long)]
    pid: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SnappyArgument {
    Standard,
    Patched,
}

#[derive(Clone, Copy, ValueEnum)]
enum OrderArgument {
    Steady,
    Shuffled,
}

/// Arguments of `loadtest query`.
#[derive(clap::Args)]
pub struct QueryArguments {
    /// The server's address; the query API is expected below it.
    #[arg(long, default_value = "http://127.0.0.1:10902")]
    url: String,
    /// Header on every request, as "NAME: VALUE" (repeatable).
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The newest moment to ask about, in milliseconds [default: now].
    #[arg(long)]
    time: Option<i64>,
    /// Process id of the server, to measure what each question costs it.
    #[arg(long, required_unless_present = "rate")]
    pid: Option<u32>,
    /// How often each question is asked to learn its cost.
    #[arg(long, default_value_t = 20)]
    repeat: u32,
    /// Ask this many questions per second instead, each in turn, and tell how long answers take.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "repeat")]
    rate: Option<f64>,
    /// How long to ask at that rate.
    #[arg(long = "for", value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    time_span: Duration,
    /// Write the result to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Arguments of `loadtest verify`.
#[derive(clap::Args)]
pub struct VerifyArguments {
    /// The server's address; the query API is expected below it.
    #[arg(long, default_value = "http://127.0.0.1:10902")]
    url: String,
    /// Header on every request, as "NAME: VALUE" (repeatable).
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The ledger that `loadtest write` made.
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Write the result to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl LoadArguments {
    /// A plan that leaves where to and when to the caller.
    fn plan(&self, url: Url, now: i64) -> anyhow::Result<Plan> {
        let step = self.step.as_millis() as i64;
        ensure!(step > 0, "the step between scrapes must be at least 1 ms");
        let late = Late {
            share: self.late / 100.0,
            age_max: self.late_by.as_millis() as i64,
        };
        Ok(Plan {
            scrapes: self.scrapes,
            step,
            batch: self.batch,
            samples_each: self.samples_each,
            connections: self.connections,
            order: self.order.into(),
            late: (self.late != 0.0).then_some(late),
            tenant_header: self.tenant_header.clone(),
            protocol: protocol(self.protocol),
            snappy: match self.snappy {
                SnappyArgument::Standard => Snappy::Standard,
                SnappyArgument::Patched => Snappy::Patched,
            },
            ..Plan::new(url, now)
        })
    }

    fn fleet(&self, labels: Vec<(String, String)>) -> anyhow::Result<Fleet> {
        Fleet::new(Shape {
            series: self.series,
            labels,
            churn: self.churn / 100.0,
            replicas: self.replicas,
            tenants: self.tenants,
            step: self.step.as_millis() as i64,
        })
    }

    /// Samples of a whole run, for a progress bar.
    fn samples(&self) -> u64 {
        let scrapes = (self.series * self.replicas) as u64 * self.scrapes;
        scrapes + (scrapes as f64 * self.late / 100.0) as u64
    }

    /// The shape in words.
    fn describe(&self) -> String {
        let mut text = format!(
            "{} series × {} scrapes, {} samples per request, {} of each series, {} connections, remote write {}.0",
            self.series, self.scrapes, self.batch, self.samples_each, self.connections, self.protocol,
        );
        text += if Order::from(self.order) == Order::Steady {
            ", steady order"
        } else {
            ", shuffled order"
        };
        if let SnappyArgument::Patched = self.snappy {
            text += ", patched snappy";
        }
        if self.churn > 0.0 {
            text += &format!(", {} % replaced each scrape", self.churn);
        }
        if self.replicas > 1 {
            text += &format!(", {} replicas", self.replicas);
        }
        if self.tenants > 1 {
            text += &format!(", {} tenants", self.tenants);
        }
        if self.late > 0.0 {
            text += &format!(", {} % late by up to {} s", self.late, self.late_by.as_secs());
        }
        text
    }
}

impl WriteArguments {
    fn run(self) -> anyhow::Result<bool> {
        let plan = self.plan()?;
        let bar = progress_bar(self.load.samples());
        let before = self.pid.map(Usage::of).transpose()?;
        let own_before = Usage::own()?.cpu();
        let stop = AtomicBool::new(false);
        let outcome = match &self.ledger {
            None => {
                bar.set_message("making the population");
                let fleet = self.load.fleet(parse_labels(&self.labels)?)?;
                self.drive(&plan, &fleet, &(), &stop, &bar)?
            }
            Some(path) => {
                let run = Run {
                    name: run_name(),
                    series: self.load.series,
                    start: plan.start,
                    step: plan.step,
                };
                let ledger = Ledger::new(run.clone(), Some(path))?;
                let outcome = self.drive(&plan, &LedgerWorkload(run), &ledger, &stop, &bar)?;
                ledger.finish()?;
                outcome
            }
        };
        bar.finish_and_clear();
        let generator_cpu_seconds = Usage::own()?.cpu() - own_before;
        let server = match (self.pid, before) {
            (Some(pid), Some(before)) => Some(settle(pid, before, self.load.settle, outcome.samples)?),
            _ => None,
        };
        let report = Report {
            outcome,
            generator_cpu_seconds,
            server,
        };
        println!("{}", report.summary());
        write_json(self.load.json.as_deref(), &report)?;
        Ok(report.outcome.refused == 0 && report.outcome.unknown == 0)
    }

    fn drive(
        &self,
        plan: &Plan,
        workload: &impl Workload,
        observer: &dyn Observer,
        stop: &AtomicBool,
        bar: &ProgressBar,
    ) -> anyhow::Result<Outcome> {
        bar.set_message("writing");
        write(plan, workload, observer, stop, &|samples| bar.inc(samples))
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let now = now_ms();
        let plan = self.load.plan(Url::parse(&self.url)?, now)?;
        Ok(Plan {
            headers: parse_headers(&self.headers)?,
            start: self
                .start
                .unwrap_or_else(|| last_scrapes_start(now, plan.scrapes, plan.step)),
            rate: self.rate,
            retries: self.retries,
            ..plan
        })
    }
}

impl From<OrderArgument> for Order {
    fn from(order: OrderArgument) -> Self {
        match order {
            OrderArgument::Steady => Order::Steady,
            OrderArgument::Shuffled => Order::Shuffled,
        }
    }
}

fn protocol(version: u8) -> Protocol {
    if version == 2 { Protocol::V2 } else { Protocol::V1 }
}

impl QueryArguments {
    fn run(self) -> anyhow::Result<bool> {
        let asker = Asker {
            url: Url::parse(&self.url)?,
            headers: parse_headers(&self.headers)?,
            time: self.time.unwrap_or_else(now_ms),
            timeout: Duration::from_secs(120),
        };
        if let Some(rate) = self.rate {
            let latency = asker.pace(rate, self.time_span, &AtomicBool::new(false))?;
            println!(
                "answers p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
                latency.p50, latency.p99, latency.max
            );
            write_json(self.json.as_deref(), &latency)?;
            return Ok(true);
        }
        let pid = self.pid.context("--pid names the server's process")?;
        let costs = asker.costs(pid, self.repeat)?;
        println!("{}", costs_table(&costs));
        write_json(self.json.as_deref(), &costs)?;
        Ok(costs.iter().all(|cost| cost.refusal.is_none()))
    }
}

impl VerifyArguments {
    fn run(self) -> anyhow::Result<bool> {
        let ledger = Ledger::read(&self.ledger)?;
        let headers = parse_headers(&self.headers)?;
        let mut api = Api::new(&Url::parse(&self.url)?, &headers, Duration::from_secs(60));
        let bar = progress_bar(ledger.run().series as u64 * ledger.scrapes());
        bar.set_message("reading back");
        let findings = verify(&mut api, &ledger, &|samples| bar.inc(samples))?;
        bar.finish_and_clear();
        println!("{findings}");
        write_json(self.json.as_deref(), &findings)?;
        Ok(findings.is_clean())
    }
}

fn parse_headers(headers: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    headers.iter().map(|header| parse_header(header)).collect()
}

fn parse_labels(labels: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |label: &String| {
        let (name, value) = label
            .split_once('=')
            .with_context(|| format!("label {label:?} is not NAME=VALUE"))?;
        ensure!(
            !name.is_empty() && !value.is_empty(),
            "label {label:?} has an empty side"
        );
        Ok((name.to_owned(), value.to_owned()))
    };
    labels.iter().map(pair).collect()
}

/// Reads `500ms`, `15s`, `5m` or `2h`.
pub fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .with_context(|| format!("{text:?} is no duration such as 15s"))?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => bail!("{text:?} needs a unit: ms, s, m or h"),
    };
    Ok(Duration::from_millis(number.saturating_mul(unit_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("15s").unwrap(), Duration::from_secs(15));
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        for bad in ["", "15", "s", "1d", "-1s", "1.5s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Command::command().debug_assert();
    }
}
