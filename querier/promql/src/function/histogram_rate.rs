//! How much native histograms increased inside a window.

use crate::{
    annotation::{HistogramOperation, Note},
    function::{
        change::began_between,
        window::{Notes, Sample},
    },
};
use model::{
    histogram::{Histogram, ResetHint, arithmetic::IncompatibleSchemas},
    sample::HistogramSample,
};

/// Increase between the first and the last histogram as a gauge, with what was before a reset added. `from_zero` says that the
/// counter is known to have begun at zero ahead of the first one. What cannot be told is noted.
pub(super) fn histogram_increase(
    samples: &[HistogramSample],
    counter: bool,
    trust_starts: bool,
    from_zero: bool,
    notes: &mut Notes<'_>,
) -> Option<Histogram> {
    let (first, last) = (samples.first()?, samples.last()?);
    let is_gauge = |sample: &HistogramSample| sample.histogram.reset_hint == ResetHint::Gauge;
    if counter && samples.iter().any(is_gauge) {
        notes.not_a_counter();
    }
    let mut increase = Increase::new(samples, counter, trust_starts);
    let Ok(mut total) = increase.total(from_zero) else {
        notes.exponential_and_custom();
        return None;
    };
    if !(counter || is_gauge(first) && is_gauge(last)) {
        notes.not_a_gauge();
    }
    increase
        .reconciled
        .iter()
        .flatten()
        .for_each(|&operation| notes.add(Note::ReconciledBounds(operation)));
    total.reset_hint = ResetHint::Gauge;
    total.compact();
    Some(total)
}

/// The histograms of a window; at least one.
struct Increase<'a> {
    samples: &'a [HistogramSample],
    counter: bool,
    /// For each but the first one, whether the counter began anew ahead of it.
    resets: Vec<bool>,
    /// Operations that had to bring custom bounds together.
    reconciled: [Option<HistogramOperation>; 2],
}

impl<'a> Increase<'a> {
    fn new(samples: &'a [HistogramSample], counter: bool, trust_starts: bool) -> Self {
        let is_reset = |pair: &[HistogramSample]| {
            pair[1].histogram.is_reset_since(&pair[0].histogram)
                || (trust_starts && began_between(Sample::Histogram(&pair[0]), Sample::Histogram(&pair[1])))
        };
        let resets = samples.windows(2).map(|pair| counter && is_reset(pair)).collect();
        Self {
            samples,
            counter,
            resets,
            reconciled: [None; 2],
        }
    }

    fn total(&mut self, from_zero: bool) -> Result<Histogram, IncompatibleSchemas> {
        let (first, last) = (
            &self.samples[0].histogram,
            &self.samples[self.samples.len() - 1].histogram,
        );
        // A first histogram that the second one has nothing to do with says nothing but when the window's data begins. Its
        // layout does not matter then.
        let is_void = self.resets.first() == Some(&true);
        let relevant = &self.samples[usize::from(is_void)..];
        let reference = &relevant[0].histogram;
        let differs =
            |sample: &HistogramSample| sample.histogram.uses_custom_buckets() != reference.uses_custom_buckets();
        if self.counter && relevant.iter().any(differs) {
            return Err(IncompatibleSchemas);
        }
        let mut total = (**last).clone();
        let ends = [reference.schema, last.schema];
        let inner = relevant
            .iter()
            .filter(|_| self.counter)
            .map(|sample| sample.histogram.schema);
        total.reduce(inner.chain(ends).min().unwrap_or(last.schema));
        match (is_void, from_zero) {
            (false, false) => self.combine(&mut total, first, HistogramOperation::Subtraction)?,
            (true, true) => self.combine(&mut total, first, HistogramOperation::Addition)?,
            (true, false) | (false, true) => {}
        }
        for index in usize::from(is_void)..self.resets.len() {
            if self.resets[index] {
                let before = self.samples[index].histogram.clone();
                self.combine(&mut total, &before, HistogramOperation::Addition)?;
            }
        }
        Ok(total)
    }

    fn combine(
        &mut self,
        total: &mut Histogram,
        other: &Histogram,
        operation: HistogramOperation,
    ) -> Result<(), IncompatibleSchemas> {
        let (combined, place) = match operation {
            HistogramOperation::Subtraction => (total.subtract(other)?, 0),
            HistogramOperation::Addition | HistogramOperation::Aggregation => (total.add(other)?, 1),
        };
        if combined.bounds_reconciled {
            self.reconciled[place] = Some(operation);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{annotation::Annotations, ast::Span};
    use model::histogram::CUSTOM_BUCKETS_SCHEMA;
    use std::sync::Arc;

    /// Counts with schemas; each is a minute after the one before.
    fn check(items: &[(f64, i32)], counter: bool, from_zero: bool, expected: Option<f64>, expected_notes: &[&str]) {
        let sample = |(index, &(count, schema)): (usize, &(f64, i32))| HistogramSample {
            at: index as i64 * 60_000,
            start: 0,
            histogram: Arc::new(Histogram {
                schema,
                count,
                ..Histogram::default()
            }),
        };
        let samples: Vec<HistogramSample> = items.iter().enumerate().map(sample).collect();
        let mut all = Annotations::default();
        let mut notes = Notes {
            all: &mut all,
            metric: "m",
            span: Span::default(),
        };
        let total = histogram_increase(&samples, counter, false, from_zero, &mut notes);
        assert_eq!(total.as_ref().map(|total| total.count), expected, "{items:?}");
        assert!(total.is_none_or(|total| total.reset_hint == ResetHint::Gauge));
        let (warnings, infos) = all.into_texts("m");
        let notes = [warnings, infos].concat();
        assert!(notes.len() == expected_notes.len(), "{items:?}: {notes:?}");
        assert!(
            notes.iter().zip(expected_notes).all(|(note, text)| note.contains(text)),
            "{items:?}: {notes:?}"
        );
    }

    #[test]
    fn resets_add_what_was_before_them() {
        check(&[(1.0, 0), (4.0, 0), (9.0, 0)], true, false, Some(8.0), &[]);
        check(&[(1.0, 0), (4.0, 0), (3.0, 0), (5.0, 0)], true, false, Some(8.0), &[]);
        check(&[(4.0, 0), (3.0, 0), (5.0, 0)], true, false, Some(5.0), &[]);
        check(&[(4.0, 0), (3.0, 0)], false, false, Some(-1.0), &["not a gauge"]);
    }

    #[test]
    fn a_known_beginning_counts_the_first_one_as_well() {
        check(&[(7.0, 0)], true, true, Some(7.0), &[]);
        check(&[(1.0, 0), (4.0, 0)], true, true, Some(4.0), &[]);
        check(&[(4.0, 0), (3.0, 0)], true, true, Some(7.0), &[]);
    }

    #[test]
    fn kinds_of_buckets_do_not_mix_unless_the_first_is_void() {
        const CUSTOM: i32 = CUSTOM_BUCKETS_SCHEMA;
        check(&[(1.0, CUSTOM), (4.0, 0), (5.0, 0)], true, false, Some(5.0), &[]);
        check(
            &[(1.0, 0), (4.0, CUSTOM), (5.0, 0)],
            true,
            false,
            None,
            &["exponential and custom"],
        );
        check(
            &[(1.0, 0), (4.0, 0), (5.0, CUSTOM)],
            true,
            false,
            None,
            &["exponential and custom"],
        );
        check(
            &[(1.0, 0), (4.0, CUSTOM)],
            false,
            false,
            None,
            &["exponential and custom"],
        );
        check(&[(1.0, 3), (4.0, 1), (5.0, 1)], true, false, Some(4.0), &[]);
        // A finer resolution is a restart.
        check(&[(1.0, 3), (4.0, 1), (5.0, 2)], true, false, Some(8.0), &[]);
    }
}
