//! What `promtool` reads in blocks, sample by sample.

use crate::Block;
use anyhow::{Context, bail, ensure};
use loadtest::{
    api::{Answer, Labels},
    process::PROMTOOL,
};
use std::{collections::BTreeMap, path::Path, process::Command};

/// Samples by label set and timestamp. Those that are no number are left out: stale markers are among them, which a
/// query does not show.
type Samples = BTreeMap<(Labels, i64), f64>;

/// Differences told.
const DETAILS_MAX: usize = 5;

/// Lets promtool analyse each block and dump all of them, and tells where the dump differs from `everything`.
pub(crate) fn check_blocks(dir: &Path, blocks: &[Block], everything: &Answer) -> anyhow::Result<Vec<String>> {
    let mut failures = Vec::new();
    for block in blocks {
        let text = promtool(&["tsdb", "analyze", &dir.display().to_string(), &block.ulid])?;
        let series = format!("\nSeries: {}\n", block.series);
        if !text.contains(&block.ulid) || !text.contains(&series) {
            let head: Vec<&str> = text.lines().take(8).collect();
            failures.push(format!(
                "promtool does not find {} series in {}: {head:?}",
                block.series, block.ulid
            ));
        }
    }
    let text = promtool(&["tsdb", "dump", &dir.display().to_string()])?;
    let counted: u64 = blocks.iter().map(|block| block.samples).sum();
    if text.lines().count() as u64 != counted {
        failures.push(format!(
            "{} samples dumped, {counted} in the blocks by the cut's answer",
            text.lines().count()
        ));
    }
    let mut dumped = Samples::new();
    for line in text.lines() {
        let (labels, timestamp, value) = parse(line).with_context(|| format!("a dumped line: {line}"))?;
        let first = value.is_nan() || dumped.insert((labels, timestamp), value).is_none();
        ensure!(first, "dumped twice: {line}");
    }
    let mut answered = Samples::new();
    for series in &everything.series {
        for &(timestamp, value) in series.samples.iter().filter(|(_, value)| !value.is_nan()) {
            answered.insert((series.labels.clone(), timestamp), value);
        }
    }
    ensure!(
        answered.len() > 10_000,
        "only {} samples to compare with",
        answered.len()
    );
    println!("{} samples dumped, {} answered", dumped.len(), answered.len());
    let only = |name: &str, these: &Samples, others: &Samples| -> Vec<String> {
        let differs = |entry: &(&(Labels, i64), &f64)| {
            others.get(entry.0).map(|value| value.to_bits()) != Some(entry.1.to_bits())
        };
        these
            .iter()
            .filter(differs)
            .map(|(key, value)| format!("only {name}: {key:?} = {value}"))
            .collect()
    };
    let mut differences = only("dumped", &dumped, &answered);
    differences.extend(only("answered", &answered, &dumped));
    let more = differences.len().saturating_sub(DETAILS_MAX);
    failures.extend(differences.into_iter().take(DETAILS_MAX));
    if more > 0 {
        failures.push(format!(
            "and {more} more samples differ between the dump and the answers"
        ));
    }
    Ok(failures)
}

fn promtool(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(PROMTOOL)
        .args(arguments)
        .output()
        .context("run promtool")?;
    if !output.status.success() {
        bail!(
            "promtool {arguments:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Takes `{name="value", …} value timestamp` apart.
fn parse(line: &str) -> anyhow::Result<(Labels, i64, f64)> {
    let (text, timestamp) = line.rsplit_once(' ').context("no timestamp")?;
    let (text, value) = text.rsplit_once(' ').context("no value")?;
    let mut rest = text.strip_prefix('{').context("no labels")?;
    let mut labels = Labels::new();
    while let Some((name, tail)) = rest.split_once("=\"") {
        let (value, tail) = unquote(tail)?;
        labels.insert(name.to_owned(), value);
        rest = tail.strip_prefix(", ").unwrap_or(tail);
    }
    ensure!(rest == "}", "labels end with {rest:?}");
    Ok((labels, timestamp.parse()?, value.parse()?))
}

/// Reads a Go string up to its closing quote; gives what follows it as well.
fn unquote(text: &str) -> anyhow::Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next().context("a string ends in its escape")?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                c @ ('"' | '\\') => value.push(c),
                other => bail!("escape \\{other} is not expected"),
            },
            c => value.push(c),
        }
    }
    bail!("a string without end")
}
