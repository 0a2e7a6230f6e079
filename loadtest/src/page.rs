//! The result of a comparison as a page for people: one file with a chart for each figure, no script, nothing to load.

use crate::{compare::Row, questions::QUESTIONS};
use std::fmt::Write;

/// A chart: what it shows, its unit, and how to read it off a row.
struct Chart {
    title: &'static str,
    unit: &'static str,
    note: &'static str,
    figure: fn(&Row) -> f64,
    /// Whether it is drawn for each part of the suite, and not only where more was measured than taking samples.
    of_each_part: bool,
}

const MIB: f64 = (1 << 20) as f64;

/// Less is better in all of them but those whose note says otherwise.
const CHARTS: &[Chart] = &[
    Chart {
        title: "CPU",
        unit: "CPU-seconds per million samples",
        note: "User and kernel time of the server until the last acknowledgement.",
        figure: |row| row.user_per_million + row.system_per_million,
        of_each_part: true,
    },
    Chart {
        title: "CPU when settled",
        unit: "CPU-seconds per million samples",
        note: "With the work that servers put off until after the acknowledgement.",
        figure: |row| row.settled_per_million,
        of_each_part: false,
    },
    Chart {
        title: "Throughput",
        unit: "samples per second",
        note: "More is better. Depends on what else the machine does; the generator runs on the same cores.",
        figure: |row| row.outcome.samples as f64 / row.outcome.seconds,
        of_each_part: true,
    },
    Chart {
        title: "Acknowledgement, 99th percentile",
        unit: "ms",
        note: "From when a request was due. Narthex answers after the fsync, the others before.",
        figure: |row| row.outcome.ack_ms.p99,
        of_each_part: true,
    },
    Chart {
        title: "Acknowledgement, slowest",
        unit: "ms",
        note: "The one request that waited longest.",
        figure: |row| row.outcome.ack_ms.max,
        of_each_part: false,
    },
    Chart {
        title: "Memory, peak",
        unit: "MiB",
        note: "Most resident memory while samples came in.",
        figure: |row| row.resident_peak as f64 / MIB,
        of_each_part: true,
    },
    Chart {
        title: "Written",
        unit: "bytes per sample",
        note: "What the server caused to be written to storage until settled.",
        figure: |row| row.written_per_sample,
        of_each_part: false,
    },
    Chart {
        title: "Stored",
        unit: "bytes per sample",
        note: "In the lasting format, index included.",
        figure: |row| row.stored_per_sample,
        of_each_part: false,
    },
    Chart {
        title: "Restart after SIGKILL",
        unit: "s",
        note: "Until the server says that it is ready. Who has no log to replay is fast and has lost what was in memory.",
        figure: |row| row.restart_seconds,
        of_each_part: false,
    },
    Chart {
        title: "Into the lasting format",
        unit: "CPU-seconds",
        note: "A block cut, a snapshot, or a merge.",
        figure: |row| row.flush_cpu_seconds,
        of_each_part: false,
    },
];

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667; --paper: #fbfaf7; --card: #fff; --line: #e4e1d8; --own: #d9480f; --peer: #8a94a8 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --soft: #9aa; --paper: #14171e; --card: #1c2029; --line: #2d333f; --own: #ff8a4c; --peer: #66728a } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 74rem; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin: 0 } p { color: var(--soft); margin: .2rem 0 }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem; margin: 1.5rem 0 }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem .8rem; margin: .8rem 0 0 } dt, dd { margin: 0 }
dd { display: flex; align-items: center; gap: .5rem; font-variant-numeric: tabular-nums }
i { display: block; height: .9rem; min-width: 2px; border-radius: .2rem; background: var(--peer) } .own i { background: var(--own) }
code { font-size: .85rem; overflow-wrap: anywhere } table { border-collapse: collapse } td { padding: .2rem .8rem .2rem 0; vertical-align: top }
";

/// The page: what was run in words, a chart for each figure, and how each server was started.
pub fn page(run: &str, rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows.iter().collect();
    let charts: String = CHARTS.iter().map(|chart| draw(chart, &rows)).collect();
    let charts = format!("<main>\n{charts}{}</main>\n{}", questions(&rows), together(&rows));
    whole("Side by side", run, &charts, &rows)
}

/// The page of a suite: for each part, by its name, the charts of what was measured in it.
pub fn suite_page(run: &str, parts: &[(String, Vec<&Row>)]) -> String {
    let mut charts = String::new();
    for (name, rows) in parts {
        let asked = rows.iter().any(|row| !row.questions.is_empty());
        charts += &format!("<h2>{}</h2>\n<main>\n", escape(name));
        for chart in CHARTS.iter().filter(|chart| chart.of_each_part || asked) {
            charts += &draw(chart, rows);
        }
        charts += &format!("{}</main>\n{}", questions(rows), together(rows));
    }
    let rows: Vec<&Row> = parts.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
    whole("The suite, side by side", run, &charts, &rows)
}

/// Head, charts, and how each server was started.
fn whole(title: &str, run: &str, charts: &str, rows: &[&Row]) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style>\n\
         <h1>{title}</h1><p>{}</p>\n{charts}<h2>How they were started</h2>\n<table>\n",
        escape(run)
    );
    for row in rows {
        let kept = if row.counted.0 == row.counted.1 as f64 {
            "all samples found afterwards".to_owned()
        } else {
            format!("{} of {} samples found afterwards", row.counted.0, row.counted.1)
        };
        let _ = writeln!(
            html,
            "<tr><td>{}<td><code>{}</code><br>{kept}; load of the machine {:.1} before, {:.1} after; generator {:.3} \
             CPU-seconds per million samples",
            escape(&row.server),
            escape(&row.command_line),
            row.load.0,
            row.load.1,
            row.generator_per_million,
        );
    }
    html + "</table></html>\n"
}

/// What reading and writing did to each other, in words.
fn together(rows: &[&Row]) -> String {
    let told = rows.iter().filter_map(|row| Some((&row.server, row.mixed.as_ref()?)));
    told.map(|(server, mixed)| format!("<p>{}: {}</p>\n", escape(server), escape(&mixed.to_string())))
        .collect()
}

/// A chart of the CPU time of each question, if any was asked.
fn questions(rows: &[&Row]) -> String {
    let asked = rows.iter().map(|row| row.questions.len()).max().unwrap_or(0);
    let mut html = String::new();
    for (number, question) in QUESTIONS.iter().enumerate().take(asked) {
        let note = format!("<code>{}</code>", escape(question.query));
        let figures: Vec<(&str, f64)> = rows
            .iter()
            .filter_map(|row| Some((row.server.as_str(), row.questions.get(number)?)))
            .filter(|(_, cost)| cost.refusal.is_none())
            .map(|(server, cost)| (server, cost.cpu_ms))
            .collect();
        html += &bars(
            &format!("Question: {}", question.name),
            "CPU milliseconds",
            &note,
            &figures,
        );
    }
    html
}

fn draw(chart: &Chart, rows: &[&Row]) -> String {
    let figures: Vec<(&str, f64)> = rows
        .iter()
        .map(|row| (row.server.as_str(), (chart.figure)(row)))
        .collect();
    bars(chart.title, chart.unit, &escape(chart.note), &figures)
}

/// One chart; `note` is HTML.
fn bars(title: &str, unit: &str, note: &str, figures: &[(&str, f64)]) -> String {
    let most = figures.iter().map(|(_, figure)| *figure).fold(0.0, f64::max);
    let mut html = format!("<section><h2>{}</h2><p>{unit}. {note}</p><dl>\n", escape(title));
    for &(server, figure) in figures {
        let width = if most > 0.0 { figure / most * 65.0 } else { 0.0 };
        let class = if server.starts_with("narthex") {
            " class=\"own\""
        } else {
            ""
        };
        let _ = writeln!(
            html,
            "<dt>{}<dd{class}><i style=\"width:{width:.1}%\"></i>{}",
            escape(server),
            readable(figure)
        );
    }
    html + "</dl></section>\n"
}

/// Three digits that say something, thousands apart.
fn readable(figure: f64) -> String {
    if figure >= 10_000.0 {
        let digits = format!("{figure:.0}");
        let groups: Vec<String> = digits
            .as_bytes()
            .rchunks(3)
            .rev()
            .map(|group| String::from_utf8_lossy(group).into_owned())
            .collect();
        return groups.join(" ");
    }
    let decimals = match figure {
        figure if figure >= 100.0 => 0,
        figure if figure >= 10.0 => 1,
        figure if figure >= 1.0 => 2,
        _ => 3,
    };
    format!("{figure:.decimals$}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::row;

    #[test]
    fn every_server_has_a_bar_in_every_chart() {
        let html = page(
            "1 series × 1 scrape & more",
            &[row("narthex 1", 0.3), row("prometheus 3", 6.0)],
        );
        assert_eq!(html.matches("<i style").count(), 2 * CHARTS.len());
        assert_eq!(html.matches("class=\"own\"").count(), CHARTS.len());
        assert!(html.contains("width:3.2%\"></i>0.300") && html.contains("width:65.0%\"></i>6.00"));
        assert!(html.contains("--flag=&lt;x&gt;") && html.contains("scrape &amp; more"));
    }

    #[test]
    fn the_suite_has_charts_for_each_part() {
        let (own, peer) = (row("narthex 1", 0.3), row("prometheus 3", 6.0));
        let parts = [
            ("steady & long".to_owned(), vec![&own, &peer]),
            ("shuffled".to_owned(), vec![&own]),
        ];
        let html = suite_page("today", &parts);
        assert!(html.contains("<h2>steady &amp; long</h2>") && html.contains("<h2>shuffled</h2>"));
        let asked = !own.questions.is_empty();
        let charts = CHARTS.iter().filter(|chart| chart.of_each_part || asked).count();
        assert!(charts >= 4);
        assert_eq!(html.matches("<h2>CPU</h2>").count(), 2);
        assert_eq!(
            html.matches("<code>").count() - html.matches("Question:").count(),
            3,
            "each server is told once"
        );
    }

    #[test]
    fn figures_are_readable() {
        let check = |figure, text| assert_eq!(readable(figure), text);
        check(1_234_567.0, "1 234 567");
        check(12_345.6, "12 346");
        check(345.6, "346");
        check(34.56, "34.6");
        check(3.456, "3.46");
        check(0.0, "0.000");
    }
}
