//! The commands of a script and how they are read.
//!
//! A command is a line and the lines under it up to an empty one. Comments are empty lines. A command that cannot be read is a
//! failure; the next one is read all the same.

use super::{Failure, LoadedSeries, failure, nhcb};
use crate::engine::Times;
use crate::lex::{parse_duration, parse_number, unquote};
use crate::series::{Item, is_starts, parse_series, parse_starts};
use hashbrown::HashMap;
use model::label::Labels;
use model::sample::{HistogramSample, SampleBuffer};
use model::time::Timestamp;

/// A step of a script.
pub(super) enum Command {
    Clear { line: usize },
    Load { line: usize, series: Vec<LoadedSeries> },
    Eval(Box<Eval>),
}

/// An expression and what is expected of it.
pub(super) struct Eval {
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) times: Times,
    /// Whether the result must come in the order of the expectations.
    pub(super) ordered: bool,
    /// Conditions on the error, when there must be one.
    pub(super) fail: Option<Vec<TextMatch>>,
    pub(super) warnings: Annotations,
    pub(super) infos: Annotations,
    pub(super) expected: Expected,
}

/// What is expected of warnings or of infos.
#[derive(Default)]
pub(super) struct Annotations {
    /// There must be none.
    pub(super) none: bool,
    /// Each must be met, and each annotation must meet one. Nothing is checked when empty.
    pub(super) some: Vec<TextMatch>,
}

/// A condition on a text.
pub(super) enum TextMatch {
    Any,
    Exact(String),
    Regex(regex::Regex),
}

/// The expected result.
pub(super) enum Expected {
    Series(Vec<(Labels, Vec<Item>)>),
    Scalar(f64),
    String(String),
    /// Samples of a range vector, at times of their own.
    RangeVector {
        start: Timestamp,
        end: Timestamp,
        step_ms: i64,
        series: Vec<(Labels, Vec<Item>)>,
    },
}

/// Reads all commands.
pub(super) fn parse(text: &str) -> Vec<Result<Command, Failure>> {
    let lines: Vec<&str> = text.lines().map(clean).collect();
    let mut commands = Vec::new();
    let mut next = 0;
    while next < lines.len() {
        let start = next;
        next += 1;
        if lines[start].is_empty() {
            continue;
        }
        let body_length = lines[next..].iter().take_while(|line| !line.is_empty()).count();
        // Only loads and evaluations have lines of their own under them.
        let word = lines[start].split_whitespace().next().unwrap_or("");
        let body = if word == "clear" {
            &[]
        } else {
            &lines[next..next + body_length]
        };
        next += body.len();
        let line = start + 1;
        let command = match word {
            "clear" => Ok(Command::Clear { line }),
            _ if word.starts_with("load") => load(line, lines[start], body),
            _ if word.starts_with("eval") => eval(line, lines[start], body).map(|eval| Command::Eval(Box::new(eval))),
            _ => Err(format!("unknown command {word:?}")),
        };
        commands.push(command.map_err(|reason| failure(line, lines[start], reason)));
    }
    commands
}

/// The expressions of all evaluations, with their lines, and whether they are meant to fail.
pub fn expressions(text: &str) -> Vec<(usize, String, bool)> {
    let evals = parse(text).into_iter().filter_map(|command| match command {
        Ok(Command::Eval(eval)) => Some((eval.line, eval.text, eval.fail.is_some())),
        Ok(Command::Clear { .. } | Command::Load { .. }) | Err(_) => None,
    });
    evals.collect()
}

fn clean(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') { "" } else { line }
}

fn load(line: usize, head: &str, body: &[&str]) -> Result<Command, String> {
    let (word, step) = head
        .split_once(char::is_whitespace)
        .ok_or("load needs the distance of its samples")?;
    let step_ms = time(step.trim())?;
    let mut series: Vec<LoadedSeries> = Vec::new();
    let mut starts: HashMap<Labels, Vec<Option<i64>>> = HashMap::new();
    for (index, text) in body.iter().enumerate() {
        let located = |error| format!("line {}: {error}", line + 1 + index);
        if is_starts(text) {
            let (labels, values) = parse_starts(text).map_err(|error| located(error.to_string()))?;
            starts.insert(labels, values);
            continue;
        }
        let description = parse_series(text).map_err(|error| located(error.to_string()))?;
        let starts = starts.remove(&description.labels).unwrap_or_default();
        let samples = samples(&description.items, &starts, step_ms);
        // Of two lines for one series the later counts.
        series.retain(|known| known.labels != description.labels);
        series.push(LoadedSeries {
            labels: description.labels,
            samples,
        });
    }
    if let Some(labels) = starts.keys().next() {
        return Err(format!("{labels} has start timestamps but no samples"));
    }
    match word {
        "load" => {}
        "load_with_nhcb" => series.extend(nhcb::convert(&series)?),
        _ => return Err(format!("unknown command {word:?}")),
    }
    Ok(Command::Load { line, series })
}

fn samples(items: &[Item], starts: &[Option<i64>], step_ms: i64) -> SampleBuffer {
    let mut buffer = SampleBuffer::default();
    for (index, item) in items.iter().enumerate() {
        let at = step_ms * index as i64;
        let start = starts.get(index).copied().flatten().map_or(0, |offset| at + offset);
        match item {
            Item::Gap => {}
            Item::Float(value) => buffer.push_float_started(at, *value, start),
            Item::Histogram { histogram, .. } => {
                buffer.histograms.push(HistogramSample {
                    at,
                    start,
                    histogram: histogram.clone(),
                });
            }
        }
    }
    buffer
}

fn eval(line: usize, head: &str, body: &[&str]) -> Result<Eval, String> {
    let mut words = Words(head);
    let word = words.next()?;
    let mut eval = match words.next()? {
        "instant" => {
            words.expect("at")?;
            let at = time(words.next()?)?;
            new_eval(line, words.0, Times::Instant(at))
        }
        "range" => {
            let (start, end, step_ms) = words.range()?;
            new_eval(line, words.0, Times::Range { start, end, step_ms })
        }
        kind => return Err(format!("expected \"instant\" or \"range\", found {kind:?}")),
    };
    match word {
        "eval" => {}
        "eval_ordered" => eval.ordered = true,
        "eval_fail" => eval.fail = Some(Vec::new()),
        "eval_warn" => eval.warnings.some.push(TextMatch::Any),
        "eval_info" => eval.infos.some.push(TextMatch::Any),
        _ => return Err(format!("unknown command {word:?}")),
    }
    for (index, text) in body.iter().enumerate() {
        expectation(&mut eval, text).map_err(|error| format!("line {}: {error}", line + 1 + index))?;
    }
    if eval.text.is_empty() {
        return Err("there is no expression".to_owned());
    }
    Ok(eval)
}

fn new_eval(line: usize, text: &str, times: Times) -> Eval {
    Eval {
        line,
        text: text.trim().to_owned(),
        times,
        ordered: false,
        fail: None,
        warnings: Annotations::default(),
        infos: Annotations::default(),
        expected: Expected::Series(Vec::new()),
    }
}

/// One line under an evaluation: an `expect`, a number, or a series.
fn expectation(eval: &mut Eval, text: &str) -> Result<(), String> {
    let mut words = Words(text);
    match words.next()? {
        "expect" => return expect(eval, words),
        "expected_fail_message" => {
            eval.fail
                .get_or_insert_default()
                .push(TextMatch::Exact(words.0.trim().to_owned()));
            return Ok(());
        }
        "expected_fail_regexp" => {
            eval.fail.get_or_insert_default().push(regex(words.0)?);
            return Ok(());
        }
        _ => {}
    }
    if let Ok(number) = parse_number(text) {
        eval.expected = Expected::Scalar(number);
        return Ok(());
    }
    let description = parse_series(text).map_err(|error| error.to_string())?;
    let place = match &mut eval.expected {
        Expected::Series(series) | Expected::RangeVector { series, .. } => series,
        Expected::Scalar(_) | Expected::String(_) => return Err("a single value and a series are expected".to_owned()),
    };
    place.push((description.labels, description.items));
    Ok(())
}

fn expect(eval: &mut Eval, mut words: Words) -> Result<(), String> {
    match words.next()? {
        "ordered" => eval.ordered = true,
        "no_warn" => eval.warnings.none = true,
        "no_info" => eval.infos.none = true,
        "warn" => eval.warnings.some.push(condition(words.0)?),
        "info" => eval.infos.some.push(condition(words.0)?),
        "fail" => {
            let condition = condition(words.0)?;
            eval.fail.get_or_insert_default().push(condition);
        }
        "range" => {
            words.expect("vector")?;
            let (start, end, step_ms) = words.range()?;
            eval.expected = Expected::RangeVector {
                start,
                end,
                step_ms,
                series: Vec::new(),
            };
        }
        "string" => {
            let bytes = unquote(words.0.trim())?;
            eval.expected = Expected::String(String::from_utf8_lossy(&bytes).into_owned());
        }
        other => return Err(format!("unknown expectation {other:?}")),
    }
    Ok(())
}

/// Nothing, `msg: text` or `regex: expression`.
fn condition(text: &str) -> Result<TextMatch, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(TextMatch::Any);
    }
    match text.split_once(':') {
        Some(("msg", message)) => Ok(TextMatch::Exact(message.trim().to_owned())),
        Some(("regex", pattern)) => regex(pattern),
        _ => Err(format!("expected \"msg:\" or \"regex:\", found {text:?}")),
    }
}

fn regex(pattern: &str) -> Result<TextMatch, String> {
    regex::Regex::new(pattern.trim())
        .map(TextMatch::Regex)
        .map_err(|error| error.to_string())
}

/// A duration since the epoch with an optional sign, or seconds.
fn time(text: &str) -> Result<Timestamp, String> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, text),
    };
    let milliseconds = match parse_number(unsigned) {
        Ok(seconds) if seconds.is_finite() => (seconds * 1000.0).round() as i64,
        _ => parse_duration(unsigned)?,
    };
    Ok(if negative { -milliseconds } else { milliseconds })
}

/// The rest of a line, taken word by word.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        let rest = self.0.trim_start();
        let (word, tail) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
        self.0 = tail;
        if word.is_empty() {
            Err("the line ends too early".to_owned())
        } else {
            Ok(word)
        }
    }

    fn expect(&mut self, wanted: &str) -> Result<(), String> {
        let word = self.next()?;
        if word == wanted {
            Ok(())
        } else {
            Err(format!("expected {wanted:?}, found {word:?}"))
        }
    }

    /// `from A to B step S`
    fn range(&mut self) -> Result<(Timestamp, Timestamp, i64), String> {
        self.expect("from")?;
        let start = time(self.next()?)?;
        self.expect("to")?;
        let end = time(self.next()?)?;
        self.expect("step")?;
        let step_ms = time(self.next()?)?;
        if step_ms <= 0 || end < start {
            return Err("the range has no steps".to_owned());
        }
        Ok((start, end, step_ms))
    }
}
