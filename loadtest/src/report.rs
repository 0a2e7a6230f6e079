//! What `loadtest write` tells at its end: a few lines for people, JSON for programs, a progress bar meanwhile.

use crate::{meter::Usage, outcome::Outcome};
use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{path::Path, thread, time::Duration};

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
