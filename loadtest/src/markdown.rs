//! BENCHMARKS.md: what the suite measured, as tables, with what a reader needs to repeat and to doubt it.

use crate::{
    questions::QUESTIONS,
    suite::{Measured, PARTS},
};
use std::fmt::Write;

const HOW: &str = "\
Written by `make bench`, which runs `loadtest compare --suite` (see [loadtest](loadtest/README.md)): one server at a time, each in a \
new folder, all with the same bytes from the same generator, which runs on the same cores. CPU seconds are those of the server's \
process, user and kernel, from `/proc`, until the last acknowledgement; they repeat within some per cent where wall times do not. \
Peers come from Debian, or are the newer ones below the folder in `NARTHEX_PEERS`.";

const DOUBTS: &str = "\
- **Acknowledgements mean different things.** Narthex answers when the samples are fsynced; Prometheus when they are in its log but \
not synced; VictoriaMetrics from memory, up to some seconds before they reach a file.
- **Restart**: Narthex and Prometheus are killed by SIGKILL and replay their logs. VictoriaMetrics is ended by SIGTERM, since it would \
lose what it has in memory; it has no log to replay.
- **Stored bytes**: Narthex and Prometheus write the same format, Prometheus's blocks, here as one block of less than two hours whose \
index weighs more than in larger ones; VictoriaMetrics has a format of its own.
- **Lasting format**: a block cut and its upload to a folder, a snapshot, a merge. They are not the same work.
- **Answers to questions** are equal between Narthex and Prometheus. VictoriaMetrics extrapolates in its own way, \
and answers a graph that it was asked before from its cache of results.
- **The population** is harder to compress than many real ones (an eighth of the values is noise). Bytes per sample compare within \
this page only.
- Prometheus gets fewer scrapes, as the tables say. That is in its disfavour where new series count: they are spread over fewer samples.
- Everything runs on loopback, without TLS, with servers at their defaults.";

/// The whole file.
pub fn benchmarks(date: &str, measured: &[Measured]) -> String {
    let mut text = format!("# Benchmarks\n\n{HOW}\n\n{}\n", machine(date, measured));
    text += &ingest(measured);
    text += &acknowledgements(measured);
    text += &new_series(measured);
    text += &memory(measured);
    text += &lasting(measured);
    text += &questions(measured);
    text += &together(measured);
    text += &servers(measured);
    text + &format!("\n## What is not comparable\n\n{DOUBTS}\n")
}

/// A heading, a sentence, and a table with a line for each of the `measured` that `line` makes one of; nothing without lines.
fn section(
    title: &str,
    note: &str,
    head: &[&str],
    measured: &[Measured],
    line: impl Fn(&Measured) -> Option<Vec<String>>,
) -> String {
    let lines: Vec<Vec<String>> = measured.iter().filter_map(line).collect();
    if lines.is_empty() {
        return String::new();
    }
    let mut text = format!("\n## {title}\n\n{note}\n\n| {} |\n|", head.join(" | "));
    for column in 0..head.len() {
        text += if column < 2 { "---|" } else { "---:|" };
    }
    for line in lines {
        let _ = write!(text, "\n| {} |", line.join(" | "));
    }
    text + "\n"
}

fn ingest(measured: &[Measured]) -> String {
    let head = [
        "load",
        "server",
        "series × scrapes",
        "CPU-s/M",
        "user",
        "kernel",
        "settled",
        "× Narthex",
        "samples/s",
        "written B/sample",
        "generator CPU-s/M",
    ];
    section(
        "Ingest",
        "CPU-seconds per million samples. *Settled* has the work in it that a server puts off until after the acknowledgement. One \
         sample of each series per request unless the load says otherwise, 2,000 samples per request, 4 connections, remote write 1.0, \
         standard snappy.",
        &head,
        measured,
        |one| {
            let row = &one.row;
            let first = measured.iter().find(|other| other.part.name == one.part.name)?;
            Some(vec![
                one.part.name.to_owned(),
                row.server.clone(),
                format!("{} × {}", thousands(one.series as f64), one.scrapes),
                format!("**{:.3}**", one.cpu_per_million()),
                format!("{:.3}", row.user_per_million),
                format!("{:.3}", row.system_per_million),
                format!("{:.3}", row.settled_per_million),
                format!("{:.1}", one.cpu_per_million() / first.cpu_per_million()),
                thousands(row.outcome.samples as f64 / row.outcome.seconds),
                format!("{:.2}", row.written_per_sample),
                format!("{:.3}", row.generator_per_million),
            ])
        },
    )
}

fn acknowledgements(measured: &[Measured]) -> String {
    section(
        "Acknowledgements at saturation",
        "Milliseconds from when a request was sent. The generator sends as fast as answers come.",
        &["load", "server", "p50", "p99", "slowest"],
        measured,
        |one| {
            let acks = &one.row.outcome.ack_ms;
            Some(vec![
                one.part.name.to_owned(),
                one.row.server.clone(),
                format!("{:.1}", acks.p50),
                format!("{:.1}", acks.p99),
                format!("{:.1}", acks.max),
            ])
        },
    )
}

fn new_series(measured: &[Measured]) -> String {
    section(
        "New series",
        "CPU microseconds for each series that was not there before, with the one sample that came with it.",
        &["load", "server", "new series", "µs each"],
        measured,
        |one| {
            (one.scrapes == 1).then(|| {
                vec![
                    one.part.name.to_owned(),
                    one.row.server.clone(),
                    thousands(one.series_ever as f64),
                    format!("{:.1}", one.cpu_per_series()),
                ]
            })
        },
    )
}

fn memory(measured: &[Measured]) -> String {
    let mib = |bytes: u64| thousands(bytes as f64 / f64::from(1 << 20));
    section(
        "Memory",
        "Resident memory in MiB: after the last acknowledgement, most of all until then, and most while everything was brought into the \
         lasting format after a restart. *Per series* relates the larger peak to the active series.",
        &["load", "server", "after", "peak", "peak, flush", "kB per series"],
        measured,
        |one| {
            let row = &one.row;
            let peak = row.resident_peak.max(row.flush_peak);
            Some(vec![
                one.part.name.to_owned(),
                row.server.clone(),
                mib(row.resident),
                mib(row.resident_peak),
                mib(row.flush_peak),
                format!("{:.2}", peak as f64 / 1e3 / one.series as f64),
            ])
        },
    )
}

fn lasting(measured: &[Measured]) -> String {
    let head = [
        "load",
        "server",
        "restart s",
        "restart CPU-s",
        "flush CPU-s",
        "stored B/sample",
        "samples found afterwards",
    ];
    section(
        "Restart, and into the lasting format",
        "Seconds from the start after the end of the process until the server says that it is ready; then CPU-seconds of a block cut, a \
         snapshot or a merge, and the bytes that lie there afterwards, index included.",
        &head,
        measured,
        |one| {
            let row = &one.row;
            let found = if row.counted.0 == row.counted.1 as f64 {
                "all".to_owned()
            } else {
                format!("{:.3} %", row.counted.0 / row.counted.1 as f64 * 100.0)
            };
            Some(vec![
                one.part.name.to_owned(),
                row.server.clone(),
                format!("{:.2}", row.restart_seconds),
                format!("{:.2}", row.restart_cpu_seconds),
                format!("{:.2}", row.flush_cpu_seconds),
                // Where questions were asked meanwhile there are samples that the load does not count.
                row.mixed
                    .map_or(format!("{:.2}", row.stored_per_sample), |_| "–".to_owned()),
                found,
            ])
        },
    )
}

/// A line for each question and a column for each server that was asked.
fn questions(measured: &[Measured]) -> String {
    let asked: Vec<&Measured> = measured.iter().filter(|one| !one.row.questions.is_empty()).collect();
    if asked.is_empty() {
        return String::new();
    }
    let mut text = "\n## Questions\n\nOf dashboards, after the first load: fastest answer in milliseconds / CPU milliseconds on average. \
                    Graphs are 45 minutes in steps of 15 s.\n\n| question |"
        .to_owned();
    for one in &asked {
        let _ = write!(text, " {}, {} scrapes |", one.row.server, one.scrapes);
    }
    text += "\n|---|";
    text += &"---:|".repeat(asked.len());
    for (number, question) in QUESTIONS.iter().enumerate() {
        let _ = write!(text, "\n| {} |", question.name);
        for one in &asked {
            match one.row.questions.get(number) {
                Some(cost) if cost.refusal.is_none() => {
                    let _ = write!(text, " {:.1} / {:.1} |", cost.best_ms, cost.cpu_ms);
                }
                Some(_) => text += " refused |",
                None => text += " |",
            }
        }
    }
    text + "\n"
}

fn together(measured: &[Measured]) -> String {
    section(
        "Reading while writing",
        "Samples at half of what the server took before, and 10 questions a second, each in turn: 99th percentiles in milliseconds, \
         alone and together; then, and the slowest, of acknowledgements while everything is brought into the lasting format.",
        &[
            "load",
            "server",
            "samples/s",
            "ack alone",
            "ack together",
            "answer alone",
            "answer together",
            "ack, flush",
            "slowest, flush",
        ],
        measured,
        |one| {
            let mixed = one.row.mixed?;
            let ms = |figure: f64| format!("{figure:.1}");
            Some(vec![
                one.part.name.to_owned(),
                one.row.server.clone(),
                thousands(mixed.rate),
                ms(mixed.acks_alone.p99),
                ms(mixed.acks_together.p99),
                ms(mixed.answers_alone.p99),
                ms(mixed.answers_together.p99),
                ms(mixed.acks_through_flush.p99),
                ms(mixed.acks_through_flush.max),
            ])
        },
    )
}

fn machine(date: &str, measured: &[Measured]) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let unknown = || "unknown".to_owned();
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| {
        let kib: f64 = text.split(' ').next()?.parse().ok()?;
        Some(format!("{:.0} GiB", kib / f64::from(1 << 20)))
    });
    let load = measured.iter().map(|one| one.row.load.0).fold(0.0, f64::max);
    format!(
        "Machine: {} × {}, {}, Linux {}; {date}. The load average before a run was {load:.1} at most, with what the run before it left.",
        std::thread::available_parallelism().map_or(1, usize::from),
        field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
        memory.unwrap_or_else(unknown),
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

/// Each server once, as it was started.
fn servers(measured: &[Measured]) -> String {
    let mut text = "\n## Programs and flags\n\nWhat stands for folders and ports differs from run to run.\n".to_owned();
    let mut seen = Vec::new();
    for one in measured {
        if !seen.contains(&&one.row.server) {
            seen.push(&one.row.server);
            let _ = write!(text, "\n- {}: `{}`", one.row.server, one.row.command_line);
        }
    }
    text + "\n"
}

fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let groups: Vec<String> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| String::from_utf8_lossy(group).into_owned())
        .collect();
    groups.join(",")
}

/// The shapes, for a message that says what is to come.
pub fn contents() -> String {
    let names: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
    names.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::row;

    fn one(part: usize, server: &str, cpu: f64) -> Measured {
        let part = &PARTS[part];
        Measured {
            part,
            series: part.series,
            scrapes: part.scrapes,
            series_ever: part.series as u64,
            row: row(server, cpu),
        }
    }

    #[test]
    fn every_server_has_a_line_where_it_took_part() {
        let measured = [
            one(0, "narthex 1", 0.25),
            one(0, "prometheus 3", 6.0),
            one(7, "narthex 1", 2.0),
        ];
        let text = benchmarks("today", &measured);
        assert!(text.contains(
            "| steady | prometheus 3 | 100,000 × 200 | **6.000** | 6.000 | 0.000 | 6.000 | 24.0 | 500,000 |"
        ));
        assert!(
            text.contains("| first sight of a million series | narthex 1 | 1,000,000 | 2.0 |"),
            "{text}"
        );
        assert_eq!(text.matches("- narthex 1: `narthex 1 --flag=<x>`").count(), 1);
        assert!(!text.contains("## Questions") && !text.contains("## Reading while writing"));
    }

    #[test]
    fn tables_are_even() {
        let text = benchmarks("today", &[one(0, "narthex 1", 0.25)]);
        for table in text.split("\n\n").filter(|block| block.starts_with('|')) {
            let mut columns = table.lines().map(|line| line.matches('|').count());
            let first = columns.next().unwrap();
            assert!(columns.all(|count| count == first), "{table}");
        }
    }
}
