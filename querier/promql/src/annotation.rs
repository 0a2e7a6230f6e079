//! What an evaluation has to say about its result besides the result: warnings (it may be wrong) and infos (it may be worth
//! knowing). Operators and functions add notes; the engine turns them into texts when it is done.
//!
//! The same note from many series and steps is kept once.

mod note;

pub(crate) use note::{HistogramOperation, Kind, Note};

use crate::{ast::Span, calendar::Moment};
use hashbrown::HashMap;
use model::{histogram::text::Shortest, time::Timestamp};
use std::fmt;

/// Where classic buckets had to be made monotonic: merged over all steps and series of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Repair {
    /// First and last evaluation time.
    pub(crate) times: (Timestamp, Timestamp),
    /// Lowest and highest upper bound of a bucket that was changed.
    pub(crate) bounds: (f64, f64),
    /// Greatest change.
    pub(crate) difference: f64,
    /// How many quantiles were affected.
    pub(crate) count: usize,
}

impl Repair {
    fn merge(&mut self, other: Repair) {
        self.times = (self.times.0.min(other.times.0), self.times.1.max(other.times.1));
        self.bounds = (self.bounds.0.min(other.bounds.0), self.bounds.1.max(other.bounds.1));
        self.difference = self.difference.max(other.difference);
        self.count += other.count;
    }
}

/// The distinct notes of an evaluation, in the order in which they first came up.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    /// Place of each note in `entries`.
    places: HashMap<Note<'static>, usize, foldhash::fast::RandomState>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The part of the query that it is about; of several, the last.
    span: Span,
    repair: Option<Repair>,
}

impl Annotations {
    /// Adds a note about the part of the query at `span`.
    pub(crate) fn add(&mut self, note: Note<'_>, span: Span) {
        self.insert(note, span, None);
    }

    /// Adds the note that classic buckets of `metric` had to be made monotonic.
    pub(crate) fn add_repair(&mut self, metric: &str, span: Span, repair: Repair) {
        self.insert(Note::ForcedMonotonicity(metric.into()), span, Some(repair));
    }

    /// Adds all notes of `other` behind those that are already here.
    pub(crate) fn merge(&mut self, other: Annotations) {
        for (note, entry) in other.in_order() {
            self.insert(note, entry.span, entry.repair);
        }
    }

    fn insert(&mut self, note: Note<'_>, span: Span, repair: Option<Repair>) {
        // Shared, the map of notes that live for ever can be asked for one that does not.
        let places: &HashMap<Note<'_>, usize, _> = &self.places;
        let Some(&place) = places.get(&note) else {
            self.places.insert(note.into_owned(), self.entries.len());
            self.entries.push(Entry { span, repair });
            return;
        };
        let entry = &mut self.entries[place];
        entry.span = span;
        match (&mut entry.repair, repair) {
            (Some(known), Some(new)) => known.merge(new),
            (known @ None, new) => *known = new,
            (Some(_), None) => {}
        }
    }

    fn in_order(self) -> impl Iterator<Item = (Note<'static>, Entry)> {
        let mut notes: Vec<_> = self.places.into_iter().collect();
        notes.sort_unstable_by_key(|(_, place)| *place);
        notes.into_iter().map(move |(note, place)| (note, self.entries[place]))
    }

    /// The texts of warnings and of infos, each with line and column in `query`.
    pub(crate) fn into_texts(self, query: &str) -> (Vec<String>, Vec<String>) {
        let (mut warnings, mut infos) = (Vec::new(), Vec::new());
        for (note, entry) in self.in_order() {
            let (line, column) = entry.span.line_col(query);
            let text = match entry.repair {
                Some(repair) => format!("{note}{repair} ({line}:{column})"),
                None => format!("{note} ({line}:{column})"),
            };
            if note.is_warning() {
                warnings.push(text)
            } else {
                infos.push(text)
            }
        }
        (warnings, infos)
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = (Shortest(self.bounds.0), Shortest(self.bounds.1));
        let (from, to) = (Moment(self.times.0), Moment(self.times.1));
        let difference = TwoDigits(self.difference);
        write!(
            f,
            ", from buckets {low} to {high}, with a max diff of {difference}, over {} samples",
            self.count
        )?;
        write!(f, " from {from} to {to}")
    }
}

/// A float rounded to two digits, as `%.2g` of C prints it.
struct TwoDigits(f64);

impl fmt::Display for TwoDigits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded: f64 = format!("{:.1e}", self.0).parse().unwrap_or(self.0);
        if rounded == 0.0 || (1e-4..100.0).contains(&rounded.abs()) {
            return write!(f, "{rounded}");
        }
        let text = format!("{rounded:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(f, "{digits}e{sign}{:02}", exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ast::AggregateOp;

    #[test]
    fn a_note_is_kept_once_and_says_where() {
        let query = "sum(a)\n + rate(b[5m])";
        let mut notes = Annotations::default();
        notes.add(Note::NotCounterHistogram("b".into()), Span::new(15, 20));
        notes.add(Note::HistogramIgnored(AggregateOp::Max), Span::new(4, 5));
        let mut others = Annotations::default();
        others.add(Note::InvalidQuantile(f64::NAN.into()), Span::new(0, 1));
        others.add(Note::NotCounterHistogram(String::from("b").into()), Span::new(15, 20));
        others.add(
            Note::InvalidRatio {
                got: 1.1.into(),
                capped: 1,
            },
            Span::new(0, 1),
        );
        notes.merge(others);
        let (warnings, infos) = notes.into_texts(query);
        let expected = [
            "PromQL warning: this native histogram metric is not a counter: \"b\" (2:9)",
            "PromQL warning: quantile value should be between 0 and 1, got NaN (1:1)",
            "PromQL warning: ratio value should be between -1 and 1, got 1.1, capping to 1 (1:1)",
        ];
        assert_eq!(warnings, expected);
        assert_eq!(infos, ["PromQL info: ignored histogram in max aggregation (1:5)"]);
    }

    #[test]
    fn repairs_of_a_metric_are_told_together() {
        let mut notes = Annotations::default();
        let repair = Repair {
            times: (1000, 1000),
            bounds: (0.1, 10.0),
            difference: 3.0,
            count: 1,
        };
        notes.add_repair("m", Span::default(), repair);
        let later = Repair {
            times: (61_500, 61_500),
            bounds: (1.0, f64::INFINITY),
            difference: 123.0,
            count: 1,
        };
        notes.add_repair("m", Span::default(), later);
        let (_, infos) = notes.into_texts("x");
        let expected = "for metric name \"m\", from buckets 0.1 to +Inf, with a max diff of 1.2e+02, over 2 samples \
                        from 1970-01-01T00:00:01Z to 1970-01-01T00:01:01.5Z (1:1)";
        assert!(infos[0].ends_with(expected), "{infos:?}");
    }
}
