//! `loadtest compare`: one shape of load as the arguments say, or the suite of BENCHMARKS.md.

use super::{LoadArguments, parse_duration};
use crate::{
    clock::{now_ms, today},
    compare::{Binaries, Contestant, Extent, Row, contest, questions_table, table},
    http::Url,
    markdown::{benchmarks, contents},
    mixed::ROOM_MS,
    page::{page, suite_page},
    report::{progress_bar, write_json},
    suite,
    write::{Plan, one_window_start},
};
use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use std::{path::PathBuf, time::Duration};

/// Arguments of `loadtest compare`.
#[derive(clap::Args)]
pub struct CompareArguments {
    /// Who takes part, in this order (repeatable) [default: all that are installed].
    #[arg(long = "server", value_enum)]
    servers: Vec<Contestant>,
    /// How often the whole order is run; more than once shows how far figures scatter.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    #[command(flatten)]
    load: LoadArguments,
    /// Where servers keep their data while they run; needs room for some gigabytes on a real disk.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// The Prometheus to compare with [default: that below the folder in NARTHEX_PEERS, or else Debian's].
    #[arg(long)]
    prometheus: Option<PathBuf>,
    /// The VictoriaMetrics to compare with [default: that below the folder in NARTHEX_PEERS, or else Debian's].
    #[arg(long)]
    victoria_metrics: Option<PathBuf>,
    /// How often each of the questions of `loadtest query` is asked after the load; 0 leaves them out.
    #[arg(long, value_name = "TIMES", default_value_t = 20)]
    questions: u32,
    /// Also measure what reading and writing do to each other, each part for so long.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    mixed: Option<Duration>,
    /// Write the result to this file as a page with charts.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Measure a fixed set of shapes, instead of the one that the other options describe, in about a quarter of an hour; print their
    /// tables as Markdown.
    #[arg(long, conflicts_with_all = ["rounds", "questions", "mixed"])]
    suite: bool,
    /// Divide the suite's numbers of series by this, to see that it works; the figures then say nothing.
    #[arg(long, value_name = "NUMBER", requires = "suite", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    fraction: u32,
    /// Also write those tables to this file.
    #[arg(long, value_name = "FILE", requires = "suite")]
    markdown: Option<PathBuf>,
}

impl CompareArguments {
    pub(super) fn run(self) -> anyhow::Result<bool> {
        let installed = Binaries::default();
        let binaries = Binaries {
            prometheus: self.prometheus.clone().unwrap_or(installed.prometheus),
            victoria_metrics: self.victoria_metrics.clone().unwrap_or(installed.victoria_metrics),
        };
        if self.suite {
            return self.run_suite(&binaries);
        }
        // What is written for the mixed part comes after the load and must not lie in the future.
        let room = if self.mixed.is_some() { ROOM_MS } else { 0 };
        let now = now_ms() - room;
        let plan = self.load.plan(Url::parse("http://127.0.0.1:1")?, now)?;
        let plan = Plan {
            start: one_window_start(now, plan.scrapes, plan.step),
            ..plan
        };
        let fleet = self.load.fleet(Vec::new())?;
        let mut rows = Vec::new();
        for contestant in self.contestants(&binaries)?.repeat(self.rounds) {
            let bar = progress_bar(self.load.samples());
            bar.set_message(format!("{contestant:?}"));
            let progress = |samples| bar.inc(samples);
            let extent = Extent {
                settle: self.load.settle,
                questions: self.questions,
                mixed: self.mixed,
            };
            let row = contest(contestant, &binaries, &self.dir, &plan, &fleet, extent, &progress);
            bar.finish_and_clear();
            rows.push(row.with_context(|| format!("measure {contestant:?}"))?);
        }
        println!("{}\n\n{}", self.load.describe(), table(&rows));
        println!(
            "\nNarthex acknowledges what is fsynced; the others acknowledge before that. Before the restart \
             they are killed, but VictoriaMetrics ends by SIGTERM: else what it holds in memory would be lost."
        );
        if self.questions > 0 {
            println!("\n{}", questions_table(&rows));
        }
        for row in &rows {
            if let Some(mixed) = row.mixed {
                println!("\n{}: {mixed}", row.server);
            }
        }
        write_json(self.load.json.as_deref(), &rows)?;
        if let Some(path) = &self.html {
            let page = page(&self.load.describe(), &rows);
            std::fs::write(path, page).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(rows
            .iter()
            .all(|row| row.outcome.refused == 0 && row.outcome.unknown == 0))
    }

    fn run_suite(&self, binaries: &Binaries) -> anyhow::Result<bool> {
        let contestants = self.contestants(binaries)?;
        eprintln!("about a quarter of an hour: {}", contents());
        let measured = suite::run(&contestants, binaries, &self.dir, self.fraction as usize)?;
        let today = today()?;
        let text = benchmarks(&today, &measured);
        print!("{text}");
        if let Some(path) = &self.markdown {
            std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        }
        if let Some(path) = &self.html {
            let mut parts: Vec<(String, Vec<&Row>)> = Vec::new();
            for one in &measured {
                match parts.last_mut().filter(|(name, _)| name == one.part.name) {
                    Some((_, rows)) => rows.push(&one.row),
                    None => parts.push((one.part.name.to_owned(), vec![&one.row])),
                }
            }
            let run = format!("The suite on {today}: {}.", contents());
            std::fs::write(path, suite_page(&run, &parts)).with_context(|| format!("write {}", path.display()))?;
        }
        let rows: Vec<&Row> = measured.iter().map(|one| &one.row).collect();
        write_json(self.load.json.as_deref(), &rows)?;
        Ok(rows
            .iter()
            .all(|row| row.outcome.refused == 0 && row.outcome.unknown == 0))
    }

    fn contestants(&self, binaries: &Binaries) -> anyhow::Result<Vec<Contestant>> {
        let mut contestants = Vec::new();
        let asked = if self.servers.is_empty() {
            Contestant::value_variants()
        } else {
            &self.servers
        };
        for &contestant in asked {
            match contestant.missing(binaries) {
                Some(why) if !self.servers.is_empty() => bail!("{why}"),
                Some(why) => eprintln!("left out: {why}"),
                None => contestants.push(contestant),
            }
        }
        ensure!(!contestants.is_empty(), "there is no server to measure");
        Ok(contestants)
    }
}
