//! The write ledger: knows of every sample whether it was sent and whether the server acknowledged it.
//!
//! [`LedgerWorkload`] makes samples whose value follows from (run, series, timestamp), so any sample found later can be
//! told from one that nobody sent. [`Ledger`] watches the write loop and keeps the fate of each sample, in memory and, if
//! wanted, in a file of JSON lines. [`crate::verify`] compares it with what a server answers.

use crate::{
    population::{Workload, mix},
    write::{Ending, Observer, Part},
};
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    sync::Mutex,
};

/// Name of every series in a ledger.
pub const METRIC: &str = "ledger_sample";

/// Series that share a `group` label and are read back together.
pub const GROUP_SERIES: usize = 500;

/// What identifies the samples of one run. It is the first line of a ledger file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Value of the label `run`: tells the run's series from those of any other.
    pub name: String,
    /// Number of series.
    pub series: usize,
    /// Timestamp of scrape 0 in milliseconds.
    pub start: i64,
    /// Milliseconds between scrapes.
    pub step: i64,
}

impl Run {
    /// The value of a series at a time: 53 random-looking bits, so that it is exact as text and nobody hits it by chance.
    pub fn value(&self, series: usize, timestamp: i64) -> f64 {
        (mix(mix(series as u64) ^ timestamp as u64) >> 11) as f64
    }

    /// The timestamp of a scrape.
    pub fn timestamp(&self, scrape: u64) -> i64 {
        self.start + scrape as i64 * self.step
    }

    /// The scrape that happened at `timestamp`, if there can have been one.
    pub fn scrape(&self, timestamp: i64) -> Option<u64> {
        let passed = timestamp.checked_sub(self.start)?;
        (passed >= 0 && passed % self.step == 0).then(|| (passed / self.step) as u64)
    }

    /// Value of the label `series`.
    pub fn series_label(series: usize) -> String {
        format!("{series:07}")
    }

    /// Value of the label `group`.
    pub fn group_label(group: usize) -> String {
        format!("{group:05}")
    }
}

/// The samples of a run, to be written.
pub struct LedgerWorkload(
    /// The run.
    pub Run,
);

impl Workload for LedgerWorkload {
    fn series(&self) -> usize {
        self.0.series
    }

    fn labels(&self, series: usize, _generation: u64) -> Vec<(String, String)> {
        let label = |name: &str, value: String| (name.to_owned(), value);
        vec![
            label("__name__", METRIC.to_owned()),
            label("group", Run::group_label(series / GROUP_SERIES)),
            label("instance", format!("writer-{:02}.example.net:9100", series % 20)),
            label("job", "ledger".to_owned()),
            label("run", self.0.name.clone()),
            label("series", Run::series_label(series)),
        ]
    }

    fn value(&self, series: usize, _scrape: u64, timestamp: i64) -> f64 {
        self.0.value(series, timestamp)
    }
}

/// What is known of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// It never left; nobody may hold it.
    #[default]
    NeverSent,
    /// It was sent and not acknowledged; the server may hold it or not.
    Open,
    /// The server promised to keep it.
    Acknowledged,
}

/// The fate of every sample of a run.
pub struct Ledger {
    run: Run,
    inner: Mutex<Inner>,
}

struct Inner {
    /// By series, then scrape.
    fates: Vec<Vec<Fate>>,
    file: Option<File>,
    /// The first failure to write the file; a ledger with holes proves nothing.
    failure: Option<std::io::Error>,
}

/// A line of the file after the first: some series in some consecutive scrapes.
#[derive(Serialize, Deserialize)]
struct Line {
    scrape: u64,
    scrapes: u64,
    /// First and last of each run of consecutive series.
    series: Vec<(usize, usize)>,
    acknowledged: bool,
}

impl Ledger {
    /// An empty ledger, kept in memory and in the file if one is named.
    pub fn new(run: Run, file: Option<&Path>) -> anyhow::Result<Self> {
        let file = match file {
            None => None,
            Some(path) => {
                let context = || format!("write ledger {}", path.display());
                let mut file = File::create(path).with_context(context)?;
                writeln!(file, "{}", serde_json::to_string(&run)?).with_context(context)?;
                Some(file)
            }
        };
        let fates = vec![Vec::new(); run.series];
        Ok(Self {
            run,
            inner: Mutex::new(Inner {
                fates,
                file,
                failure: None,
            }),
        })
    }

    /// Reads a ledger file. A torn last line, left by a writer that was killed, counts as not written.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("read ledger {}", path.display()))?;
        let mut lines = BufReader::new(file).lines().enumerate().peekable();
        let (_, first) = lines.next().with_context(|| format!("{} is empty", path.display()))?;
        let run: Run = serde_json::from_str(&first?).with_context(|| format!("{}: line 1", path.display()))?;
        ensure!(run.step > 0, "{}: line 1: the step must be positive", path.display());
        let mut fates = vec![Vec::new(); run.series];
        while let Some((number, text)) = lines.next() {
            let line: Line = match serde_json::from_str(&text?) {
                Ok(line) => line,
                Err(_) if lines.peek().is_none() => break,
                Err(error) => return Err(error).with_context(|| format!("{}: line {}", path.display(), number + 1)),
            };
            for (first, last) in line.series {
                ensure!(
                    last < run.series,
                    "{}: line {}: no series {last}",
                    path.display(),
                    number + 1
                );
                for series in &mut fates[first..=last] {
                    note(series, line.scrape, line.scrapes, line.acknowledged);
                }
            }
        }
        Ok(Self {
            run,
            inner: Mutex::new(Inner {
                fates,
                file: None,
                failure: None,
            }),
        })
    }

    /// What identifies the samples.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Number of scrapes of which any sample was sent.
    pub fn scrapes(&self) -> u64 {
        self.lock().fates.iter().map(Vec::len).max().unwrap_or(0) as u64
    }

    /// Number of acknowledged samples.
    pub fn acknowledged(&self) -> u64 {
        let inner = self.lock();
        let count = |fates: &Vec<Fate>| fates.iter().filter(|fate| **fate == Fate::Acknowledged).count() as u64;
        inner.fates.iter().map(count).sum()
    }

    /// What is known of a series, scrape by scrape; scrapes behind the end were never sent.
    pub fn fates(&self, series: usize) -> Vec<Fate> {
        self.lock().fates[series].clone()
    }

    /// Fails when the ledger could not be written to its file.
    pub fn finish(&self) -> anyhow::Result<()> {
        self.lock()
            .failure
            .take()
            .map_or(Ok(()), |error| Err(error).context("write the ledger's file"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread panics while it holds the ledger")
    }

    fn enter(&self, part: &Part<'_>, acknowledged: bool) {
        let mut inner = self.lock();
        for &series in part.series {
            note(&mut inner.fates[series], part.first_scrape, part.scrapes, acknowledged);
        }
        let Inner {
            file: Some(file),
            failure,
            ..
        } = &mut *inner
        else {
            return;
        };
        let line = Line {
            scrape: part.first_scrape,
            scrapes: part.scrapes,
            series: consecutive(part.series),
            acknowledged,
        };
        let text = serde_json::to_string(&line).expect("numbers are valid JSON");
        // One write per line: a reader never sees lines mixed up, and a killed writer tears only the last.
        if let Err(error) = file.write_all(format!("{text}\n").as_bytes()) {
            failure.get_or_insert(error);
        }
    }
}

impl Observer for Ledger {
    fn sending(&self, part: &Part<'_>) {
        self.enter(part, false);
    }

    fn ended(&self, part: &Part<'_>, ending: Ending) {
        if ending == Ending::Acknowledged {
            self.enter(part, true);
        }
    }
}

fn note(fates: &mut Vec<Fate>, first: u64, scrapes: u64, acknowledged: bool) {
    let (first, end) = (first as usize, (first + scrapes) as usize);
    if fates.len() < end {
        fates.resize(end, Fate::NeverSent);
    }
    for fate in &mut fates[first..end] {
        if acknowledged {
            *fate = Fate::Acknowledged;
        } else if *fate == Fate::NeverSent {
            *fate = Fate::Open;
        }
    }
}

fn consecutive(series: &[usize]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in series {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run {
            name: "t".to_owned(),
            series: 10,
            start: 1_000_007,
            step: 500,
        }
    }

    #[test]
    fn a_ledger_file_gives_the_same_fates_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let ledger = Ledger::new(run(), Some(&path)).unwrap();
        ledger.sending(&Part {
            series: &[0, 1, 2, 7],
            first_scrape: 0,
            scrapes: 1,
        });
        ledger.ended(
            &Part {
                series: &[0, 1, 2, 7],
                first_scrape: 0,
                scrapes: 1,
            },
            Ending::Acknowledged,
        );
        ledger.sending(&Part {
            series: &[1, 2],
            first_scrape: 1,
            scrapes: 2,
        });
        ledger.ended(
            &Part {
                series: &[1, 2],
                first_scrape: 1,
                scrapes: 2,
            },
            Ending::Unknown,
        );
        ledger.finish().unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"scrape\":9,\"scr")
            .unwrap();
        let again = Ledger::read(&path).unwrap();
        assert_eq!(*again.run(), run());
        for series in 0..10 {
            assert_eq!(ledger.fates(series), again.fates(series), "series {series}");
        }
        assert_eq!(again.fates(1), [Fate::Acknowledged, Fate::Open, Fate::Open]);
        assert_eq!((again.acknowledged(), again.scrapes()), (4, 3));
    }

    #[test]
    fn a_damaged_ledger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let header = serde_json::to_string(&run()).unwrap();
        let beyond = r#"{"scrape":0,"scrapes":1,"series":[[3,10]],"acknowledged":true}"#;
        for text in [
            "",
            "{}",
            &format!("{header}\nxx\n{beyond}\n"),
            &format!("{header}\n{beyond}\n\n"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(Ledger::read(&path).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_times_of_scrapes_have_a_scrape() {
        let run = run();
        assert_eq!(run.scrape(run.timestamp(42)), Some(42));
        assert_eq!(run.scrape(run.timestamp(42) + 1), None);
        assert_eq!(run.scrape(run.start - run.step), None);
        assert_ne!(run.value(1, 2), run.value(2, 1));
    }
}
