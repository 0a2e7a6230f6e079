//! The command line: `loadtest write`, `verify` and `compare`.

use crate::{
    api::Api,
    http::{Url, parse_header},
    ledger::{Ledger, LedgerWorkload, Run},
    meter::Usage,
    population::Population,
    verify::verify,
    wire::Protocol,
    write::{Observer, Order, Outcome, Plan, last_scrapes_start, write},
};
use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Writes samples to a remote write endpoint, measures the server, and proves what it kept.
#[derive(Parser)]
#[command(name = "loadtest", version)]
pub enum Command {
    /// Write a population of series, scrape after scrape.
    Write(Box<WriteArguments>),
    /// Read everything in a ledger back and compare.
    Verify(VerifyArguments),
}

impl Command {
    /// Runs the command; `false` when it ran and found the server wanting.
    pub fn run(self) -> anyhow::Result<bool> {
        match self {
            Command::Write(arguments) => arguments.run(),
            Command::Verify(arguments) => arguments.run(),
        }
    }
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
    /// Number of series.
    #[arg(long, default_value_t = 100_000)]
    series: usize,
    /// Label on every series, as NAME=VALUE (repeatable).
    #[arg(long = "label", value_name = "NAME=VALUE", conflicts_with = "ledger")]
    labels: Vec<String>,
    /// Number of scrapes.
    #[arg(long, default_value_t = 200)]
    scrapes: u64,
    /// Time between scrapes.
    #[arg(long, default_value = "15s", value_parser = parse_duration)]
    step: Duration,
    /// Timestamp of the first scrape in milliseconds [default: such that the last is now].
    #[arg(long)]
    start: Option<i64>,
    /// Samples per request.
    #[arg(long, default_value_t = 2_000)]
    batch: usize,
    /// Samples of each series in a request.
    #[arg(long, default_value_t = 1)]
    samples_each: usize,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Samples per second over all connections.
    #[arg(long, conflicts_with = "saturate")]
    rate: Option<f64>,
    /// Send as fast as the server answers (the default).
    #[arg(long)]
    saturate: bool,
    /// Order of the series in a scrape.
    #[arg(long, value_enum, default_value = "steady")]
    order: OrderArgument,
    /// Remote write version.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    protocol: u8,
    /// How often a request that failed for now is sent again.
    #[arg(long, default_value_t = 10)]
    retries: u32,
    /// Write recognisable samples and record the fate of each in this file, for `loadtest verify`.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Process id of the server, to measure what it uses.
    #[arg(long)]
    pid: Option<u32>,
    /// How long to wait after the last answer before the server is measured a second time.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    settle: Duration,
    /// Write the result to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OrderArgument {
    Steady,
    Shuffled,
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

/// What `loadtest write --json` leaves behind.
#[derive(Serialize)]
pub struct Report {
    /// What the generator saw.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// CPU seconds of the generator itself.
    pub generator_cpu_seconds: f64,
    /// What the server used, if it was named.
    pub server: Option<ServerUsage>,
}

/// What a server used for a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ServerUsage {
    /// User CPU seconds per million acknowledged samples, until the last answer.
    pub user_seconds_per_million: f64,
    /// Kernel CPU seconds per million acknowledged samples, until the last answer.
    pub system_seconds_per_million: f64,
    /// Both, with the work after the last answer.
    pub settled_seconds_per_million: f64,
    /// Bytes it wrote to storage per sample, with the work after the last answer.
    pub written_per_sample: f64,
    /// Usage before, right after, and settled.
    pub readings: [Usage; 3],
}

impl ServerUsage {
    /// Relates three readings to a number of samples.
    pub fn new(before: Usage, after: Usage, settled: Usage, samples: u64) -> Self {
        let millions = samples as f64 / 1e6;
        Self {
            user_seconds_per_million: (after.user - before.user) / millions,
            system_seconds_per_million: (after.system - before.system) / millions,
            settled_seconds_per_million: (settled.cpu() - before.cpu()) / millions,
            written_per_sample: settled.written.saturating_sub(before.written) as f64 / samples as f64,
            readings: [before, after, settled],
        }
    }
}

impl WriteArguments {
    fn run(self) -> anyhow::Result<bool> {
        let plan = self.plan()?;
        let bar = progress_bar(self.series as u64 * plan.scrapes);
        let before = self.pid.map(Usage::of).transpose()?;
        let own_before = Usage::own()?.cpu();
        let stop = AtomicBool::new(false);
        let outcome = match &self.ledger {
            None => {
                bar.set_message("making the population");
                let population = Population::new(self.series, parse_labels(&self.labels)?);
                self.drive(&plan, &population, &(), &stop, &bar)?
            }
            Some(path) => {
                let run = Run {
                    name: run_name(),
                    series: self.series,
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
            (Some(pid), Some(before)) => Some(settle(pid, before, self.settle, outcome.samples)?),
            _ => None,
        };
        let report = Report {
            outcome,
            generator_cpu_seconds,
            server,
        };
        println!("{}", report.summary());
        write_json(self.json.as_deref(), &report)?;
        Ok(report.outcome.refused == 0 && report.outcome.unknown == 0)
    }

    fn drive(
        &self,
        plan: &Plan,
        workload: &impl crate::population::Workload,
        observer: &dyn Observer,
        stop: &AtomicBool,
        bar: &ProgressBar,
    ) -> anyhow::Result<Outcome> {
        bar.set_message("writing");
        write(plan, workload, observer, stop, &|samples| bar.inc(samples))
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let step = self.step.as_millis() as i64;
        ensure!(step > 0, "the step between scrapes must be at least 1 ms");
        let now = now_ms();
        Ok(Plan {
            headers: parse_headers(&self.headers)?,
            scrapes: self.scrapes,
            start: self
                .start
                .unwrap_or_else(|| last_scrapes_start(now, self.scrapes, step)),
            step,
            batch: self.batch,
            samples_each: self.samples_each,
            connections: self.connections,
            rate: self.rate,
            order: match self.order {
                OrderArgument::Steady => Order::Steady,
                OrderArgument::Shuffled => Order::Shuffled,
            },
            protocol: if self.protocol == 2 { Protocol::V2 } else { Protocol::V1 },
            retries: self.retries,
            ..Plan::new(Url::parse(&self.url)?, now)
        })
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

impl Report {
    /// The result in a few lines.
    pub fn summary(&self) -> String {
        let Outcome {
            samples,
            seconds,
            ack_ms,
            errors,
            refused,
            unknown,
            ..
        } = &self.outcome;
        let samples_f = (*samples).max(1) as f64;
        let mut lines = vec![format!(
            "{samples} samples in {seconds:.2} s, {:.0} per second; acks p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms; \
             {:.1} bytes per sample sent, generator {:.3} CPU-s per million",
            samples_f / seconds,
            ack_ms.p50,
            ack_ms.p99,
            ack_ms.max,
            self.outcome.body_bytes as f64 / samples_f,
            self.generator_cpu_seconds / samples_f * 1e6,
        )];
        if let Some(server) = &self.server {
            let [_, after, settled] = &server.readings;
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            lines.push(format!(
                "server: {:.3} CPU-s per million ({:.3} user, {:.3} system), {:.3} when settled; {:.0} MiB resident, \
                 {:.0} at the end, {:.0} peak; {:.2} bytes per sample written",
                server.user_seconds_per_million + server.system_seconds_per_million,
                server.user_seconds_per_million,
                server.system_seconds_per_million,
                server.settled_seconds_per_million,
                mib(after.resident),
                mib(settled.resident),
                mib(settled.resident_peak),
                server.written_per_sample,
            ));
        }
        if !errors.is_empty() {
            let list: Vec<String> = errors
                .iter()
                .map(|(error, count)| format!("{error} × {count}"))
                .collect();
            lines.push(format!(
                "errors: {}; {refused} samples refused, {unknown} given up",
                list.join(", ")
            ));
        }
        if let Some(text) = &self.outcome.first_refusal {
            lines.push(format!("first refusal: {}", text.trim()));
        }
        lines.join("\n")
    }
}

/// Reads a server's usage now and after `settle`.
pub fn settle(pid: u32, before: Usage, settle: Duration, samples: u64) -> anyhow::Result<ServerUsage> {
    ensure!(
        samples > 0,
        "no sample was acknowledged, so there is nothing to relate the server's usage to"
    );
    let after = Usage::of(pid)?;
    thread::sleep(settle);
    Ok(ServerUsage::new(before, after, Usage::of(pid)?, samples))
}

/// A progress bar on a terminal, nothing elsewhere.
pub fn progress_bar(samples: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}");
    ProgressBar::new(samples).with_style(style.expect("the template is valid"))
}

/// Writes a result as JSON, if a file is named.
pub fn write_json(path: Option<&Path>, result: &impl Serialize) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(result)?;
    std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// A name that no other run has.
pub fn run_name() -> String {
    format!("{}-{}", now_ms(), std::process::id())
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
