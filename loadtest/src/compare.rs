//! The side-by-side benchmark: the same bytes to Narthex and to each peer that is installed, one server at a time, each
//! in a fresh folder. CPU seconds decide; wall times depend on what else the machine does.

use crate::{
    ask::{Asker, Cost},
    fleet::Fleet,
    http::{Client, form},
    meter::Usage,
    mixed::{Mixed, mixed},
    outcome::Outcome,
    population::Workload,
    process::{Launch, PROMETHEUS, Server, VICTORIA_METRICS, narthex_binary, newer_peer},
    questions::QUESTIONS,
    write::{Plan, tenant_name, write},
};
use anyhow::{Context, ensure};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant},
};

/// The metric whose samples are counted afterwards, to see that a server kept what it was sent.
const COUNTED_METRIC: &str = "node_cpu_seconds_total";

/// A server that can take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Contestant {
    /// This project, every acknowledgement durable.
    Narthex,
    /// VictoriaMetrics, which acknowledges from memory.
    VictoriaMetrics,
    /// Prometheus, which acknowledges before its log is synced.
    Prometheus,
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// Prometheus.
    pub prometheus: PathBuf,
    /// VictoriaMetrics.
    pub victoria_metrics: PathBuf,
}

impl Default for Binaries {
    fn default() -> Self {
        Self {
            prometheus: newer_peer("prometheus").unwrap_or_else(|| PROMETHEUS.into()),
            victoria_metrics: newer_peer("victoria-metrics").unwrap_or_else(|| VICTORIA_METRICS.into()),
        }
    }
}

impl Contestant {
    /// Why it cannot take part, if so.
    pub fn missing(self, binaries: &Binaries) -> Option<String> {
        let path = match self {
            Contestant::Narthex => return narthex_binary().err().map(|error| error.to_string()),
            Contestant::Prometheus => &binaries.prometheus,
            Contestant::VictoriaMetrics => &binaries.victoria_metrics,
        };
        (!path.exists()).then(|| format!("{} is not installed", path.display()))
    }

    fn launch(self, dir: &Path, binaries: &Binaries) -> anyhow::Result<Launch> {
        match self {
            Contestant::Narthex => Ok(Launch::narthex(dir)?.with("--web.enable-admin-api")),
            Contestant::Prometheus => Ok(Launch {
                binary: binaries.prometheus.clone(),
                ..Launch::prometheus(dir, "global: {}\n")?
            }),
            Contestant::VictoriaMetrics => Ok(Launch {
                binary: binaries.victoria_metrics.clone(),
                ..Launch::victoria_metrics(dir)?
            }),
        }
    }

    /// Ends the server by SIGKILL. VictoriaMetrics would lose what it holds in memory, often more than ten seconds'
    /// worth, and leave nothing to measure; it is asked to end by SIGTERM.
    fn end(self, server: Server) -> anyhow::Result<()> {
        if self == Contestant::VictoriaMetrics {
            server.terminate(Duration::from_secs(120)).map(drop)
        } else {
            server.kill()
        }
    }

    /// Makes the server put everything into its lasting format; gives the folders where that then lies.
    fn flush(self, server: &Server, client: &mut Client) -> anyhow::Result<Vec<PathBuf>> {
        let (path, folders): (&str, &[&str]) = match self {
            Contestant::Narthex => ("/api/v1/admin/cut", &["bucket"]),
            Contestant::Prometheus => ("/api/v1/admin/tsdb/snapshot", &["snapshots"]),
            Contestant::VictoriaMetrics => ("/internal/force_merge", &["data", "indexdb"]),
        };
        if self == Contestant::VictoriaMetrics {
            client.post("/internal/force_flush", "", b"").context("flush")?;
        }
        let answer = client.post(path, "", b"").with_context(|| format!("post {path}"))?;
        ensure!(answer.status < 300, "{path}: {} {}", answer.status, answer.text());
        if self == Contestant::VictoriaMetrics {
            // Merges go on behind the answer; wait until the server rests.
            wait_until_idle(server)?;
        }
        Ok(folders.iter().map(|folder| server.launch().data.join(folder)).collect())
    }

    fn version(self, server: &Server, client: &mut Client) -> String {
        let mut reported = || {
            let text = client.get("/metrics").ok()?.text();
            let line = text.lines().find(|line| line.starts_with("vm_app_version"))?;
            let value = line.split_once("short_version=\"")?.1.split('"').next()?;
            (!value.is_empty()).then(|| value.to_owned())
        };
        let own = || first_word_like_version(Command::new(&server.launch().binary).arg("--version"));
        let package = || {
            let program = server.launch().binary.file_name()?.to_owned();
            first_word_like_version(Command::new("dpkg-query").args(["-W", "-f=${Version}"]).arg(program))
        };
        let version = match self {
            Contestant::Narthex | Contestant::Prometheus => own(),
            Contestant::VictoriaMetrics => reported()
                .or_else(|| version_in_path(&server.launch().binary))
                .or_else(package),
        };
        version.unwrap_or_else(|| "of unknown version".to_owned())
    }
}

fn first_word_like_version(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    text.split(|c: char| c.is_whitespace() || c == ',')
        .find(is_version)
        .map(str::to_owned)
}

/// The version in a folder named as Debian names packages (`name_version_architecture`), for unpacked ones.
fn version_in_path(binary: &Path) -> Option<String> {
    let folder = |part: std::path::Component<'_>| {
        let name = part.as_os_str().to_str()?.to_owned();
        let version = name.split('_').nth(1)?;
        version
            .starts_with(|c: char| c.is_ascii_digit())
            .then(|| version.to_owned())
    };
    binary.components().find_map(folder)
}

/// What one server did.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Name and version.
    pub server: String,
    /// How it was started.
    pub command_line: String,
    /// What the generator saw.
    pub outcome: Outcome,
    /// CPU seconds per million samples in user mode, until the last acknowledgement.
    pub user_per_million: f64,
    /// The same in the kernel.
    pub system_per_million: f64,
    /// Both, with the work of the seconds after the last acknowledgement.
    pub settled_per_million: f64,
    /// Resident memory after the load, in bytes.
    pub resident: u64,
    /// Most resident memory, in bytes, before the flush.
    pub resident_peak: u64,
    /// Bytes written to storage per sample until settled.
    pub written_per_sample: f64,
    /// What each question cost after the load, if questions were asked.
    pub questions: Vec<Cost>,
    /// What reading and writing do to each other, if that was measured.
    pub mixed: Option<Mixed>,
    /// Seconds from the start after SIGKILL until the server is ready again.
    pub restart_seconds: f64,
    /// CPU seconds of that.
    pub restart_cpu_seconds: f64,
    /// Most resident memory of the server that was started again, in bytes, through the flush.
    pub flush_peak: u64,
    /// CPU seconds of bringing everything into the lasting format.
    pub flush_cpu_seconds: f64,
    /// Bytes per sample in the lasting format, index included.
    pub stored_per_sample: f64,
    /// Samples of one metric that were found afterwards, and how many there should be.
    pub counted: (f64, u64),
    /// CPU seconds of the generator per million samples.
    pub generator_per_million: f64,
    /// Load of the machine over one minute, before and after.
    pub load: (f64, f64),
}

/// What is measured beside the load itself.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// How long to wait after the last answer before a server is measured a second time.
    pub settle: Duration,
    /// How often each question is asked; 0 for not at all.
    pub questions: u32,
    /// How long each part of reading while writing takes; `None` leaves it out.
    pub mixed: Option<Duration>,
}

/// Runs one contestant in a new folder below `dir`.
pub fn contest(
    contestant: Contestant,
    binaries: &Binaries,
    dir: &Path,
    plan: &Plan,
    fleet: &Fleet,
    extent: Extent,
    progress: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Row> {
    let dir = tempfile::tempdir_in(dir).with_context(|| format!("make a folder in {}", dir.display()))?;
    let launch = contestant.launch(dir.path(), binaries)?;
    let server = launch.start()?;
    let mut client = Client::new(&launch.url, &[], Duration::from_secs(600));
    let version = contestant.version(&server, &mut client);
    let plan = Plan {
        url: launch.write_url(),
        ..plan.clone()
    };

    let (load_before, own_before, before) = (load_average(), Usage::own()?.cpu(), server.usage()?);
    let outcome = write(&plan, fleet, &(), &AtomicBool::new(false), progress)?;
    let (after, own_after) = (server.usage()?, Usage::own()?.cpu());
    ensure!(
        outcome.samples > 0,
        "{} acknowledged nothing: {:?}, first {:?}",
        launch.name,
        outcome.errors,
        outcome.first_refusal
    );
    thread::sleep(extent.settle);
    let settled = server.usage()?;
    let load_after = load_average();

    let samples_per_second = outcome.samples as f64 / outcome.seconds;
    let (questions, mixed) = ask(contestant, &server, &plan, fleet, extent, samples_per_second)?;
    contestant.end(server)?;
    let lasting = lasting(contestant, &launch, &plan, fleet)?;
    let expected = expected_samples(fleet, &plan);
    let samples = outcome.samples as f64;
    let per_million = |seconds: f64| seconds / samples * 1e6;
    Ok(Row {
        server: format!("{} {version}", launch.name),
        command_line: launch.command_line(),
        user_per_million: per_million(after.user - before.user),
        system_per_million: per_million(after.system - before.system),
        settled_per_million: per_million(settled.cpu() - before.cpu()),
        resident: after.resident,
        resident_peak: settled.resident_peak,
        written_per_sample: settled.written.saturating_sub(before.written) as f64 / samples,
        questions,
        mixed,
        restart_seconds: lasting.restart_seconds,
        restart_cpu_seconds: lasting.restarted.cpu(),
        flush_peak: lasting.flushed.resident_peak,
        flush_cpu_seconds: lasting.flushed.cpu() - lasting.restarted.cpu(),
        stored_per_sample: lasting.stored as f64 / samples,
        counted: (lasting.counted, expected),
        generator_per_million: per_million(own_after - own_before),
        load: (load_before, load_after),
        outcome,
    })
}

/// What a server did after its end.
struct Lasting {
    restart_seconds: f64,
    restarted: Usage,
    flushed: Usage,
    /// Bytes in the lasting format.
    stored: u64,
    /// Samples of the counted metric.
    counted: f64,
}

/// Starts a server again on what it has, and has it bring everything into its lasting format.
fn lasting(contestant: Contestant, launch: &Launch, plan: &Plan, fleet: &Fleet) -> anyhow::Result<Lasting> {
    let started = Instant::now();
    let server = launch.start()?;
    let (restart_seconds, restarted) = (started.elapsed().as_secs_f64(), server.usage()?);
    let mut client = Client::new(&launch.url, &[], Duration::from_secs(600));
    let folders = contestant.flush(&server, &mut client)?;
    let flushed = server.usage()?;
    // Only Narthex keeps tenants apart.
    let tenants = match contestant {
        Contestant::Narthex => fleet.tenants(),
        Contestant::VictoriaMetrics | Contestant::Prometheus => 1,
    };
    Ok(Lasting {
        restart_seconds,
        restarted,
        flushed,
        stored: folders.iter().map(|folder| bytes_below(folder)).sum(),
        counted: count_samples(&mut client, plan, tenants)?,
    })
}

/// Asks about the time of the run.
fn ask(
    contestant: Contestant,
    server: &Server,
    plan: &Plan,
    fleet: &Fleet,
    extent: Extent,
    samples_per_second: f64,
) -> anyhow::Result<(Vec<Cost>, Option<Mixed>)> {
    let mut headers = plan.headers.clone();
    if fleet.tenants() > 1 {
        headers.push((plan.tenant_header.clone(), tenant_name(0)));
    }
    let asker = Asker {
        url: server.launch().url.clone(),
        headers,
        time: plan.start + plan.scrapes as i64 * plan.step,
        timeout: Duration::from_secs(120),
    };
    let questions = match extent.questions {
        0 => Vec::new(),
        repeat => asker.costs(server.pid(), repeat)?,
    };
    let half = samples_per_second / 2.0;
    let flush = || {
        let mut client = Client::new(&server.launch().url, &[], Duration::from_secs(600));
        contestant.flush(server, &mut client).map(drop)
    };
    let mixed = extent
        .mixed
        .map(|time| mixed(&asker, plan, fleet, half, time, &flush))
        .transpose()?;
    Ok((questions, mixed))
}

/// Samples of the counted metric in a run.
fn expected_samples(fleet: &Fleet, plan: &Plan) -> u64 {
    let is_counted = |labels: Vec<(String, String)>| {
        labels
            .iter()
            .any(|(name, value)| name == "__name__" && value == COUNTED_METRIC)
    };
    let late = |series: usize| match plan.late {
        None => 0,
        Some(late) => (0..plan.scrapes)
            .filter_map(|scrape| late.scrape(series, scrape, plan.step))
            .count() as u64,
    };
    (0..fleet.series())
        .filter(|&series| is_counted(fleet.labels(series, 0)))
        .map(|series| plan.scrapes + late(series))
        .sum()
}

/// Asks the server how many samples of one metric it has in the time of the plan, all tenants together.
fn count_samples(client: &mut Client, plan: &Plan, tenants: usize) -> anyhow::Result<f64> {
    // One step more than the run, so that late samples before the first scrape and shifted ones after the last are in.
    let span = (plan.scrapes as i64 + 1) * plan.step;
    let end = crate::api::seconds(plan.start + plan.scrapes as i64 * plan.step - 1);
    let query = format!("sum(count_over_time({COUNTED_METRIC}[{span}ms]))");
    let path = format!("/api/v1/query?{}", form(&[("query", &query), ("time", &end)]));
    let mut total = 0.0;
    for tenant in 0..tenants {
        let header = format!("{}: {}\r\n", plan.tenant_header, tenant_name(tenant));
        let headers = if tenants > 1 { header.as_str() } else { "" };
        let answer = client.send("GET", &path, headers, b"").context("count samples")?;
        let json: serde_json::Value = serde_json::from_slice(&answer.body)
            .with_context(|| format!("count samples: {} {}", answer.status, answer.text()))?;
        let value = json.pointer("/data/result/0/value/1").and_then(|value| value.as_str());
        total += value.and_then(|value| value.parse().ok()).unwrap_or(0.0);
    }
    Ok(total)
}

fn wait_until_idle(server: &Server) -> anyhow::Result<()> {
    let mut last = server.usage()?.cpu();
    for _ in 0..60 {
        thread::sleep(Duration::from_secs(1));
        let now = server.usage()?.cpu();
        if now - last < 0.05 {
            return Ok(());
        }
        last = now;
    }
    Ok(())
}

/// Bytes of all files below a folder; a file that goes away meanwhile counts as gone. Links to the same file count once.
fn bytes_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut total, mut folders) = (0, vec![folder.to_owned()]);
    let mut seen = std::collections::HashSet::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) if seen.insert(metadata.ino()) => total += metadata.len(),
                _ => {}
            }
        }
    }
    total
}

fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(f64::NAN)
}

/// The rows as a table, and under it how the CPU seconds relate to those of the first row.
pub fn table(rows: &[Row]) -> String {
    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    let mut cells: Vec<Vec<String>> = vec![
        [
            "server",
            "samples/s",
            "CPU-s/M",
            "user",
            "sys",
            "settled",
            "ack p50",
            "p99",
            "max ms",
            "RSS MiB",
            "peak",
            "written B",
            "stored B",
            "restart s",
            "flush CPU-s",
            "kept",
            "× CPU",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let first = rows
        .first()
        .map_or(f64::NAN, |row| row.user_per_million + row.system_per_million);
    for row in rows {
        let Outcome {
            samples,
            seconds,
            ack_ms,
            ..
        } = &row.outcome;
        let cpu = row.user_per_million + row.system_per_million;
        cells.push(vec![
            row.server.clone(),
            format!("{:.0}", *samples as f64 / seconds),
            format!("{cpu:.3}"),
            format!("{:.3}", row.user_per_million),
            format!("{:.3}", row.system_per_million),
            format!("{:.3}", row.settled_per_million),
            format!("{:.1}", ack_ms.p50),
            format!("{:.1}", ack_ms.p99),
            format!("{:.1}", ack_ms.max),
            mib(row.resident),
            mib(row.resident_peak),
            format!("{:.2}", row.written_per_sample),
            format!("{:.2}", row.stored_per_sample),
            format!("{:.2}", row.restart_seconds),
            format!("{:.2}", row.flush_cpu_seconds),
            if row.counted.0 == row.counted.1 as f64 {
                "all".to_owned()
            } else {
                format!("{:?}", row.counted)
            },
            format!("{:.1}", cpu / first),
        ]);
    }
    aligned(&cells)
}

/// The questions as a table: a line for each, and for each server the fastest answer and the CPU time, in milliseconds.
pub fn questions_table(rows: &[Row]) -> String {
    let mut cells = vec![vec!["question: best ms / CPU ms".to_owned()]];
    cells[0].extend(rows.iter().map(|row| row.server.clone()));
    for (number, question) in QUESTIONS.iter().enumerate() {
        let mut line = vec![question.name.to_owned()];
        line.extend(rows.iter().map(|row| match row.questions.get(number) {
            None => String::new(),
            Some(Cost { refusal: Some(_), .. }) => "refused".to_owned(),
            Some(cost) => format!("{:.1} / {:.1}", cost.best_ms, cost.cpu_ms),
        }));
        cells.push(line);
    }
    aligned(&cells)
}

/// Cells under each other, the first column to the left.
fn aligned(cells: &[Vec<String>]) -> String {
    let columns = cells[0].len();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(column, text): (usize, &String)| match column {
            0 => format!("{text:<width$}", width = widths[0]),
            _ => format!("{text:>width$}", width = widths[column]),
        };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ")
    };
    cells.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::outcome::Latency;

    /// What a server might have done.
    pub(crate) fn row(server: &str, cpu: f64) -> Row {
        Row {
            server: server.to_owned(),
            command_line: format!("{server} --flag=<x>"),
            outcome: Outcome {
                samples: 1_000_000,
                refused: 0,
                unknown: 0,
                requests: 500,
                seconds: 2.0,
                ack_ms: Latency {
                    p50: 1.0,
                    p99: 5.0,
                    max: 20.0,
                },
                errors: Default::default(),
                first_refusal: None,
                message_bytes: 1,
                body_bytes: 1,
            },
            user_per_million: cpu,
            system_per_million: 0.0,
            settled_per_million: cpu,
            resident: 1 << 20,
            resident_peak: 1 << 21,
            written_per_sample: 4.0,
            questions: Vec::new(),
            mixed: None,
            restart_seconds: 0.5,
            restart_cpu_seconds: 0.4,
            flush_peak: 1 << 21,
            flush_cpu_seconds: 0.2,
            stored_per_sample: 2.7,
            counted: (5.0, 5),
            generator_per_million: 0.05,
            load: (0.1, 2.0),
        }
    }

    #[test]
    fn bytes_of_a_folder_are_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/x"), [0; 100]).unwrap();
        std::fs::write(dir.path().join("y"), [0; 11]).unwrap();
        std::fs::hard_link(dir.path().join("y"), dir.path().join("a/z")).unwrap();
        assert_eq!(bytes_below(dir.path()), 111);
        assert_eq!(bytes_below(Path::new("/nonexistent")), 0);
    }

    #[test]
    fn a_version_is_found_in_what_programs_print() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                first_word_like_version(Command::new("echo").arg(text)).as_deref(),
                expected,
                "{text}"
            );
        };
        check(
            "prometheus, version 2.42.0+ds (branch: x, revision: 2.42)",
            Some("2.42.0+ds"),
        );
        check("narthex 0.1.0", Some("0.1.0"));
        let unpacked = Path::new("peers/victoria-metrics_1.145.0+ds1-2_amd64/usr/bin/victoria-metrics");
        assert_eq!(version_in_path(unpacked).as_deref(), Some("1.145.0+ds1-2"));
        assert_eq!(version_in_path(Path::new("/usr/bin/victoria-metrics")), None);
        check("", None);
    }
}
