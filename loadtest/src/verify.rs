//! Compares what a server answers with what the ledger knows: nothing acknowledged may be missing, nothing unsent may be
//! there, no value may differ, no timestamp may stand twice.

use crate::{
    api::{Api, Series},
    ledger::{Fate, GROUP_SERIES, Ledger, METRIC, Run},
};
use anyhow::Context;
use serde::Serialize;
use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
};

/// Samples asked for in one query: a few megabytes of JSON.
const SAMPLES_PER_QUERY: u64 = 100_000;

/// Violations described in words; the rest is only counted.
const EXAMPLES_MAX: usize = 10;

/// How far before the first and behind the last scrape unsent samples are looked for, in scrapes.
const MARGIN: u64 = 20;

/// What the comparison found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    /// Samples that the server acknowledged.
    pub acknowledged: u64,
    /// Samples that the server answers with, each timestamp of a series once.
    pub found: u64,
    /// Acknowledged and absent.
    pub lost: u64,
    /// Acknowledged and held by fewer nodes than promised, but not lost.
    pub thin: u64,
    /// Present and never sent.
    pub invented: u64,
    /// Sent with another value.
    pub wrong: u64,
    /// Timestamps that a series has a second time.
    pub duplicated: u64,
    /// The first violations, in words.
    pub examples: Vec<String>,
    /// Warnings of the server.
    pub warnings: Vec<String>,
}

impl Findings {
    /// Whether the server kept all its promises.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.thin == 0 && self.invented == 0 && self.wrong == 0 && self.duplicated == 0
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text());
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            acknowledged,
            found,
            lost,
            thin,
            invented,
            wrong,
            duplicated,
            examples,
            warnings,
        } = self;
        write!(
            f,
            "{acknowledged} samples acknowledged, {found} found: {lost} lost, {thin} on too few nodes, {invented} invented, {wrong} wrong, \
             {duplicated} duplicated"
        )?;
        for line in examples.iter().chain(warnings) {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

/// Reads every sample of the ledger's run back and compares.
pub fn verify(api: &mut Api, ledger: &Ledger, progress: &dyn Fn(u64)) -> anyhow::Result<Findings> {
    verify_nodes(std::slice::from_mut(api), 1, ledger, progress)
}

/// Reads every sample of the ledger's run back from each node, which answers with what it holds itself, and compares all of it together.
/// What is acknowledged must be on at least `copies_min` nodes.
pub fn verify_nodes(
    nodes: &mut [Api],
    copies_min: usize,
    ledger: &Ledger,
    progress: &dyn Fn(u64),
) -> anyhow::Result<Findings> {
    let run = ledger.run();
    let mut findings = Findings {
        acknowledged: ledger.acknowledged(),
        ..Findings::default()
    };
    let scrapes_per_query = (SAMPLES_PER_QUERY / GROUP_SERIES as u64).max(1) as i64;
    let end = (ledger.scrapes() + MARGIN) as i64;
    for group in 0..run.series.div_ceil(GROUP_SERIES) {
        let members = group * GROUP_SERIES..((group + 1) * GROUP_SERIES).min(run.series);
        let mut check = GroupCheck::new(ledger, members, &mut findings);
        let mut first = -(MARGIN as i64);
        check.copies_min = copies_min;
        while first < end {
            let scrapes = scrapes_per_query.min(end - first);
            // Window edges lie between scrapes, since versions of Prometheus differ on which edge belongs to a window.
            let edge = run.start + (first + scrapes - 1) * run.step + run.step / 2;
            let query = format!(
                "{METRIC}{{run={:?},group={:?}}}[{}ms]",
                run.name,
                Run::group_label(group),
                scrapes * run.step
            );
            for (node, api) in nodes.iter_mut().enumerate() {
                let answer = api.instant(&query, edge).context("read samples back")?;
                check.node = node;
                for series in &answer.series {
                    check.series(series);
                }
                check.findings.warnings.extend(answer.warnings);
                check.findings.warnings.dedup();
            }
            first += scrapes;
            progress(scrapes as u64 * check.members.len() as u64);
        }
        check.finish();
    }
    Ok(findings)
}

/// The comparison of one group of series.
struct GroupCheck<'a> {
    run: &'a Run,
    members: std::ops::Range<usize>,
    /// By member, then scrape.
    fates: Vec<Vec<Fate>>,
    /// Every sample seen by member and timestamp: on how many nodes, and on which last.
    seen: HashMap<(usize, i64), (usize, usize)>,
    /// Whose answer is being read.
    node: usize,
    /// Nodes that must hold what is acknowledged.
    copies_min: usize,
    findings: &'a mut Findings,
}

impl<'a> GroupCheck<'a> {
    fn new(ledger: &'a Ledger, members: std::ops::Range<usize>, findings: &'a mut Findings) -> Self {
        let fates = members.clone().map(|series| ledger.fates(series)).collect();
        Self {
            run: ledger.run(),
            members,
            fates,
            seen: HashMap::new(),
            node: 0,
            copies_min: 1,
            findings,
        }
    }

    fn series(&mut self, series: &Series) {
        let number = series.labels.get("series").and_then(|label| label.parse().ok());
        let Some(number) = number.filter(|number| self.members.contains(number)) else {
            self.findings.invented += series.samples.len() as u64;
            self.findings
                .example(|| format!("a series that nobody wrote: {:?}", series.labels));
            return;
        };
        for &(timestamp, value) in &series.samples {
            self.sample(number, timestamp, value);
        }
    }

    fn sample(&mut self, series: usize, timestamp: i64, value: f64) {
        match self.seen.entry((series, timestamp)) {
            Entry::Vacant(entry) => {
                entry.insert((1, self.node));
                self.findings.found += 1;
            }
            Entry::Occupied(mut entry) if entry.get().1 != self.node => {
                let copies = entry.get().0 + 1;
                entry.insert((copies, self.node));
            }
            Entry::Occupied(_) => {
                self.findings.duplicated += 1;
                self.findings
                    .example(|| format!("series {series} has {timestamp} twice"));
                return;
            }
        }
        let fates = &self.fates[series - self.members.start];
        let scrape = self
            .run
            .scrape(timestamp)
            .filter(|&scrape| (scrape as usize) < fates.len());
        if scrape.is_none_or(|scrape| fates[scrape as usize] == Fate::NeverSent) {
            self.findings.invented += 1;
            self.findings
                .example(|| format!("series {series} has {value} at {timestamp}, which nobody wrote"));
            return;
        }
        let expected = self.run.value(series, timestamp);
        if value.to_bits() != expected.to_bits() {
            self.findings.wrong += 1;
            self.findings
                .example(|| format!("series {series} has {value} at {timestamp} instead of {expected}"));
        }
    }

    /// Everything was read: what is acknowledged and was not seen is lost.
    fn finish(self) {
        for (member, fates) in self.fates.iter().enumerate() {
            let series = self.members.start + member;
            for (scrape, fate) in fates.iter().enumerate() {
                let timestamp = self.run.timestamp(scrape as u64);
                if *fate != Fate::Acknowledged {
                    continue;
                }
                let copies = self.seen.get(&(series, timestamp)).map_or(0, |(copies, _)| *copies);
                if copies == 0 {
                    self.findings.lost += 1;
                    self.findings
                        .example(|| format!("series {series} lost its sample at {timestamp} (scrape {scrape})"));
                } else if copies < self.copies_min {
                    self.findings.thin += 1;
                    self.findings
                        .example(|| format!("series {series} has its sample at {timestamp} on {copies} nodes only"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::Labels,
        write::{Ending, Observer, Part},
    };

    /// Each kind of violation is seen, and open samples may be there or not.
    #[test]
    fn violations_are_told_apart() {
        let run = Run {
            name: "t".to_owned(),
            series: 3,
            start: 1_000_000,
            step: 1_000,
        };
        let ledger = Ledger::new(run.clone(), None).unwrap();
        let all = Part {
            series: &[0, 1, 2],
            first_scrape: 0,
            scrapes: 4,
        };
        ledger.sending(&all);
        ledger.ended(&Part { series: &[0, 1], ..all }, Ending::Acknowledged);
        let mut findings = Findings::default();
        let mut check = GroupCheck::new(&ledger, 0..3, &mut findings);
        let right = |series, scrape| (run.timestamp(scrape), run.value(series, run.timestamp(scrape)));
        let answer = |series: usize, samples: Vec<(i64, f64)>| Series {
            labels: Labels::from([("series".to_owned(), Run::series_label(series))]),
            samples,
            histograms: Vec::new(),
        };
        // Series 0 is whole; series 1 lost scrape 2, has a wrong value and a double; series 2 is open and half there.
        check.series(&answer(0, (0..4).map(|scrape| right(0, scrape)).collect()));
        check.series(&answer(
            1,
            vec![right(1, 0), (run.timestamp(1), 5.0), right(1, 3), right(1, 3)],
        ));
        check.series(&answer(2, vec![right(2, 1)]));
        // Unsent: beside the grid, behind the end, in an unknown series.
        check.series(&answer(2, vec![(run.timestamp(1) + 1, 1.0), right(2, 9)]));
        check.series(&answer(7, vec![right(7, 0)]));
        check.finish();
        assert_eq!(
            (findings.lost, findings.invented, findings.wrong, findings.duplicated),
            (1, 3, 1, 1)
        );
        assert_eq!(findings.examples.len(), 6);
        assert!(!findings.is_clean());
    }
}
