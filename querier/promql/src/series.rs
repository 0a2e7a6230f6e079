//! Series descriptions: `metric{a="b"} 1+2x3 _ stale {{schema:0 count:5}}x2`, the notation of test scripts and rule tests for a
//! series and its values at equal distances.
//!
//! | item | values |
//! |---|---|
//! | `5`, `-0.1`, `NaN`, `stale` | one |
//! | `5x3` | four times 5 |
//! | `5+2x3`, `5-2x3` | 5 and three more, each 2 more or less |
//! | `_`, `_x3` | one gap, three gaps |
//! | `{{…}}`, `{{…}}x3`, `{{…}}+{{…}}x3` | the same with native histograms |

mod histogram;

use crate::ast::Span;
use crate::format::quote;
use crate::lex::{is_alphanumeric, parse_duration, parse_number, scan_number_or_duration};
use crate::parse::{ParseError, parse_metric};
use model::histogram::Histogram;
use model::label::Labels;
use model::sample::STALE_NAN;
use std::sync::Arc;

/// Values that one description may unfold to; scripts use some thousands.
const VALUES_MAX: usize = 1_000_000;

/// The value of a series at one place of the sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// No sample.
    Gap,
    /// A float; the stale marker included.
    Float(f64),
    /// A native histogram.
    Histogram {
        /// The histogram, not compacted.
        histogram: Arc<Histogram>,
        /// Whether the description says something about counter resets.
        hint_stated: bool,
    },
}

/// A series and its values.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesDescription {
    /// Labels, the metric name included.
    pub labels: Labels,
    /// One value for each step.
    pub items: Vec<Item>,
}

/// Parses a series with its values.
pub fn parse_series(text: &str) -> Result<SeriesDescription, ParseError> {
    let (labels, end) = leading_metric(text)?;
    let items = Scan { text, position: end }.items()?;
    Ok(SeriesDescription { labels, items })
}

/// Whether the description gives start timestamps (`metric{…}@st …`) instead of values.
pub fn is_starts(text: &str) -> bool {
    text.get(metric_length(text)..)
        .is_some_and(|rest| rest.starts_with("@st"))
}

/// Parses a series with the start timestamps of its samples: milliseconds relative to each sample, `None` when unknown.
pub fn parse_starts(text: &str) -> Result<(Labels, Vec<Option<i64>>), ParseError> {
    let (labels, end) = leading_metric(text)?;
    let mut scan = Scan { text, position: end };
    if !scan.accept("@st") {
        return Err(scan.error("expected \"@st\" behind the series"));
    }
    Ok((labels, scan.starts()?))
}

fn leading_metric(text: &str) -> Result<(Labels, usize), ParseError> {
    let end = metric_length(text);
    Ok((parse_metric(&text[..end])?, end))
}

/// How many bytes at the start of the text are a name and labels.
fn metric_length(text: &str) -> usize {
    let name = text
        .find(|c: char| !is_alphanumeric(c) && c != ':')
        .unwrap_or(text.len());
    if !text[name..].starts_with('{') {
        return name;
    }
    let mut quote: Option<u8> = None;
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(name) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(open) if byte == b'\\' && open != b'`' => escaped = true,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if matches!(byte, b'"' | b'\'' | b'`') => quote = Some(byte),
            None if byte == b'}' => return index + 1,
            None => {}
        }
    }
    text.len()
}

/// Reads the sequence behind a series.
struct Scan<'a> {
    text: &'a str,
    position: usize,
}

type Scanned<T> = Result<T, ParseError>;

impl Scan<'_> {
    fn items(mut self) -> Scanned<Vec<Item>> {
        let mut items = Vec::new();
        while self.next_item()? {
            if self.accept("_") {
                let count = self.times()?.unwrap_or(1);
                self.reserve(items.len(), count)?;
                items.extend(std::iter::repeat_n(Item::Gap, count));
            } else if self.rest().starts_with("{{") {
                self.histograms(&mut items)?;
            } else if self.accept("stale") {
                let count = self.times()?.unwrap_or(0) + 1;
                self.reserve(items.len(), count)?;
                items.extend(std::iter::repeat_n(Item::Float(STALE_NAN), count));
            } else {
                let values = self.progression(items.len(), Scan::number)?;
                items.extend(values.into_iter().map(Item::Float));
            }
        }
        Ok(items)
    }

    fn starts(mut self) -> Scanned<Vec<Option<i64>>> {
        let mut starts = Vec::new();
        while self.next_item()? {
            if self.accept("_") {
                let count = self.times()?.unwrap_or(1);
                self.reserve(starts.len(), count)?;
                starts.extend(std::iter::repeat_n(None, count));
            } else {
                let values = self.progression(starts.len(), Scan::milliseconds)?;
                starts.extend(values.into_iter().map(|value| Some(value as i64)));
            }
        }
        Ok(starts)
    }

    /// Skips the blank in front of an item; whether there is one.
    fn next_item(&mut self) -> Scanned<bool> {
        let rest = self.rest();
        let blank = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        self.position += blank;
        if self.rest().is_empty() {
            return Ok(false);
        }
        if blank == 0 {
            return Err(self.unexpected());
        }
        Ok(true)
    }

    /// `a`, `axN`, `a+bxN` or `a-bxN`.
    fn progression(&mut self, before: usize, read: fn(&mut Self) -> Scanned<f64>) -> Scanned<Vec<f64>> {
        let mut value = read(self)?;
        let step = if self.rest().starts_with(['+', '-']) {
            Some(read(self)?)
        } else {
            None
        };
        let times = match (self.times()?, step) {
            (Some(times), _) => times,
            (None, None) => 0,
            (None, Some(_)) => return Err(self.unexpected()),
        };
        self.reserve(before, times + 1)?;
        let mut values = Vec::with_capacity(times + 1);
        for _ in 0..=times {
            values.push(value);
            value += step.unwrap_or(0.0);
        }
        Ok(values)
    }

    fn histograms(&mut self, items: &mut Vec<Item>) -> Scanned<()> {
        let (base, hint_stated) = self.histogram()?;
        let negative = self.rest().starts_with('-');
        let step = if negative || self.rest().starts_with('+') {
            self.position += 1;
            Some(self.histogram()?.0)
        } else {
            None
        };
        let times = match (self.times()?, &step) {
            (Some(times), _) => times,
            (None, None) => 0,
            (None, Some(_)) => return Err(self.unexpected()),
        };
        self.reserve(items.len(), times + 1)?;
        let mut current = Arc::new(base);
        for index in 0..=times {
            if let (Some(step), true) = (&step, index > 0) {
                current = Arc::new(self.combine(&current, step, negative)?);
            }
            items.push(Item::Histogram {
                histogram: current.clone(),
                hint_stated,
            });
        }
        Ok(())
    }

    fn combine(&self, histogram: &Histogram, step: &Histogram, negative: bool) -> Scanned<Histogram> {
        if histogram.schema > step.schema {
            return Err(self.error(format!(
                "error combining histograms: cannot merge from schema {} to {}",
                step.schema, histogram.schema
            )));
        }
        let mut result = histogram.clone();
        let combined = if negative {
            result.subtract(step)
        } else {
            result.add(step)
        };
        combined.map_err(|error| self.error(format!("error combining histograms: {error}")))?;
        Ok(result)
    }

    /// A histogram in double braces, and whether it states its reset hint.
    fn histogram(&mut self) -> Scanned<(Histogram, bool)> {
        let start = self.position;
        if !self.accept("{{") {
            return Err(self.unexpected());
        }
        let Some(length) = self.rest().find("}}") else {
            return Err(self.error("histogram description is not closed by \"}}\""));
        };
        let inner = &self.text[self.position..self.position + length];
        let parsed = histogram::parse(inner).map_err(|reason| self.error_from(start, reason))?;
        self.position += length + 2;
        Ok(parsed)
    }

    /// `xN`, if it follows.
    fn times(&mut self) -> Scanned<Option<usize>> {
        if !self.accept("x") {
            return Ok(None);
        }
        let digits = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let start = self.position;
        self.position += digits;
        match self.text[start..self.position].parse() {
            Ok(times) if times < VALUES_MAX => Ok(Some(times)),
            Ok(_) => Err(self.error_from(start, format!("more than {VALUES_MAX} values"))),
            Err(_) => Err(self.error_from(start, "expected a number of repetitions behind \"x\"")),
        }
    }

    fn number(&mut self) -> Scanned<f64> {
        let start = self.position;
        let length = self.scan_value()?.0;
        self.position = start + length;
        parse_number(&self.text[start..self.position]).map_err(|reason| self.error_from(start, reason))
    }

    /// A duration with a sign, or a number of seconds.
    fn milliseconds(&mut self) -> Scanned<f64> {
        let start = self.position;
        let (length, is_duration) = self.scan_value()?;
        self.position = start + length;
        let text = &self.text[start..self.position];
        let value = match text.strip_prefix('-').or(text.strip_prefix('+')) {
            _ if !is_duration => parse_number(text).map(|seconds| seconds * 1000.0),
            Some(unsigned) if text.starts_with('-') => {
                parse_duration(unsigned).map(|milliseconds| -(milliseconds as f64))
            }
            Some(unsigned) => parse_duration(unsigned).map(|milliseconds| milliseconds as f64),
            None => parse_duration(text).map(|milliseconds| milliseconds as f64),
        };
        value.map_err(|reason| self.error_from(start, reason))
    }

    /// Length of the number or duration that comes next, its sign included, and whether it is a duration.
    fn scan_value(&self) -> Scanned<(usize, bool)> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with(['+', '-']));
        let unsigned = &rest[sign..];
        for word in ["nan", "inf"] {
            if unsigned
                .get(..word.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(word))
            {
                return Ok((sign + word.len(), false));
            }
        }
        match scan_number_or_duration(unsigned, true) {
            (length, Some(is_duration)) if length > 0 => Ok((sign + length, is_duration)),
            _ => Err(self.unexpected()),
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.position..]
    }

    fn accept(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        self.position += if found { wanted.len() } else { 0 };
        found
    }

    fn reserve(&self, before: usize, more: usize) -> Scanned<()> {
        if before + more > VALUES_MAX {
            return Err(self.error(format!("more than {VALUES_MAX} values")));
        }
        Ok(())
    }

    fn unexpected(&self) -> ParseError {
        let word: String = self
            .rest()
            .chars()
            .take_while(|c| !c.is_whitespace())
            .take(20)
            .collect();
        self.error(format!("unexpected {} in series values", quote(&word)))
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        self.error_from(self.position, message)
    }

    fn error_from(&self, start: usize, message: impl Into<String>) -> ParseError {
        let span = Span::new(start, self.text.len());
        ParseError {
            span,
            message: message.into(),
            position: span.position(self.text),
        }
    }
}

#[cfg(test)]
mod tests;
