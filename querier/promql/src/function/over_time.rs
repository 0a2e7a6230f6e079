//! The `_over_time` family: what can be said about the samples of a window regardless of time.

use crate::{
    annotation::{HistogramOperation, Note},
    function::{
        math::quantile,
        window::{HintsSeen, Notes, Sample, Window},
    },
    value::Point,
};
use model::{
    histogram::{
        Histogram,
        arithmetic::{Combined, IncompatibleSchemas},
        compensated::{HistogramSum, kahan_add},
    },
    sample::HistogramSample,
};
use std::sync::Arc;

/// Number of samples.
pub(crate) fn count(window: &Window<'_>, _: &mut Notes<'_>) -> Option<Point> {
    float(window.samples.len() as f64)
}

/// 1 if there is a sample.
pub(crate) fn present(_: &Window<'_>, _: &mut Notes<'_>) -> Option<Point> {
    float(1.0)
}

/// The last sample.
pub(crate) fn last(window: &Window<'_>, _: &mut Notes<'_>) -> Option<Point> {
    last_sample(window).map(Sample::to_point)
}

/// The first sample.
pub(crate) fn first(window: &Window<'_>, _: &mut Notes<'_>) -> Option<Point> {
    window.samples.iter().next().map(Sample::to_point)
}

/// Time of the last sample in seconds.
pub(crate) fn time_of_last(window: &Window<'_>, _: &mut Notes<'_>) -> Option<Point> {
    float(last_sample(window)?.at() as f64 / 1000.0)
}

/// Time of the first sample in seconds.
pub(crate) fn time_of_first(window: &Window<'_>, _: &mut Notes<'_>) -> Option<Point> {
    float(window.samples.iter().next()?.at() as f64 / 1000.0)
}

fn last_sample<'a>(window: &Window<'a>) -> Option<Sample<'a>> {
    let samples = window.samples;
    let floats = samples.times.len().saturating_sub(1)..samples.times.len();
    let histograms = samples.histograms.len().saturating_sub(1)..samples.histograms.len();
    samples.slice(floats, histograms).iter().last()
}

/// Sum of the samples.
pub(crate) fn sum(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    let samples = &window.samples;
    if samples.is_mixed() {
        notes.floats_and_histograms();
        return None;
    }
    if samples.times.is_empty() {
        return histogram_over_time(samples.histograms, notes, false);
    }
    let (mut sum, mut error) = (0.0, 0.0);
    for &value in samples.values {
        kahan_add(value, &mut sum, &mut error);
    }
    float(sum + error)
}

/// Mean of the samples.
pub(crate) fn average(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    let samples = &window.samples;
    if samples.is_mixed() {
        notes.floats_and_histograms();
        return None;
    }
    let Some((&first, rest)) = samples.values.split_first() else {
        return histogram_over_time(samples.histograms, notes, true);
    };
    let mut mean = Mean::new(first);
    for &value in rest {
        mean.add(value);
    }
    float(mean.finish())
}

/// A mean of floats: their sum divided by their number as long as the sum is finite, and from then on the mean so far, moved by each
/// new value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mean {
    /// The sum, or the mean so far.
    value: f64,
    error: f64,
    count: f64,
    incremental: bool,
}

impl Mean {
    pub(crate) fn new(first: f64) -> Self {
        Self {
            value: first,
            error: 0.0,
            count: 1.0,
            incremental: false,
        }
    }

    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.incremental {
            let (mut sum, mut error) = (self.value, self.error);
            kahan_add(value, &mut sum, &mut error);
            if !sum.is_infinite() {
                (self.value, self.error) = (sum, error);
                return;
            }
            self.incremental = true;
            self.value /= self.count - 1.0;
            self.error /= self.count - 1.0;
        }
        let share = (self.count - 1.0) / self.count;
        self.value *= share;
        self.error *= share;
        kahan_add(value / self.count, &mut self.value, &mut self.error);
    }

    pub(crate) fn finish(&self) -> f64 {
        if self.incremental {
            self.value + self.error
        } else {
            self.value / self.count + self.error / self.count
        }
    }
}

/// A sum or mean of histograms.
#[derive(Debug, Clone)]
pub(crate) struct HistogramTotal {
    sum: HistogramSum,
    count: f64,
    /// Whether `sum` is the mean so far, since the sum itself would be infinite.
    incremental: bool,
    hints: HintsSeen,
    bounds_reconciled: bool,
}

impl HistogramTotal {
    pub(crate) fn new(first: &Histogram) -> Self {
        let mut hints = HintsSeen::default();
        hints.see(first.reset_hint);
        let sum = HistogramSum::new(first.clone());
        Self {
            sum,
            count: 1.0,
            incremental: false,
            hints,
            bounds_reconciled: false,
        }
    }

    /// Adds a histogram to a sum.
    pub(crate) fn add_to_sum(&mut self, other: &Histogram) -> Result<(), IncompatibleSchemas> {
        self.hints.see(other.reset_hint);
        self.count += 1.0;
        let combined = self.sum.add(other)?;
        self.note(combined);
        Ok(())
    }

    /// Adds a histogram to a mean.
    pub(crate) fn add_to_mean(&mut self, other: &Histogram) -> Result<(), IncompatibleSchemas> {
        self.hints.see(other.reset_hint);
        self.count += 1.0;
        if !self.incremental && self.sum.has_room_for(other) {
            let combined = self.sum.add(other)?;
            self.note(combined);
            return Ok(());
        }
        if !self.incremental {
            let mut sum = self.sum.clone();
            let combined = sum.add(other)?;
            if !sum.has_overflow() {
                self.sum = sum;
                self.note(combined);
                return Ok(());
            }
            self.incremental = true;
            self.sum.divide(self.count - 1.0);
        }
        let mut part = other.clone();
        part.divide(self.count);
        self.sum.multiply((self.count - 1.0) / self.count);
        let combined = self.sum.add(&part)?;
        self.note(combined);
        Ok(())
    }

    fn note(&mut self, combined: Combined) {
        self.bounds_reconciled |= combined.bounds_reconciled;
    }

    /// What is to be said about the total.
    pub(crate) fn notes(&self) -> impl Iterator<Item = Note<'static>> {
        let reconciled = self
            .bounds_reconciled
            .then_some(Note::ReconciledBounds(HistogramOperation::Aggregation));
        self.hints.conflict().into_iter().chain(reconciled)
    }

    /// The sum.
    pub(crate) fn sum(self) -> Histogram {
        self.sum.finish()
    }

    /// The mean.
    pub(crate) fn mean(mut self) -> Histogram {
        if !self.incremental && self.count != 1.0 {
            self.sum.divide(self.count);
        }
        self.sum.finish()
    }
}

/// Sum, or else mean, of histograms.
fn histogram_over_time(samples: &[HistogramSample], notes: &mut Notes<'_>, mean: bool) -> Option<Point> {
    let (first, rest) = samples.split_first()?;
    let mut total = HistogramTotal::new(&first.histogram);
    for HistogramSample { histogram, .. } in rest {
        let added = if mean {
            total.add_to_mean(histogram)
        } else {
            total.add_to_sum(histogram)
        };
        if added.is_err() {
            notes.exponential_and_custom();
            return None;
        }
    }
    total.notes().for_each(|note| notes.add(note));
    Some(Point::Histogram(Arc::new(if mean {
        total.mean()
    } else {
        total.sum()
    })))
}

/// The floats of a window whose histograms are ignored; `None` when there is no float. Says so when there are both.
fn floats_only<'a>(window: &Window<'a>, notes: &mut Notes<'_>) -> Option<&'a [f64]> {
    if window.samples.values.is_empty() {
        return None;
    }
    if window.samples.is_mixed() {
        notes.histogram_ignored_in_range();
    }
    Some(window.samples.values)
}

/// Greatest float.
pub(crate) fn max(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    let values = floats_only(window, notes)?;
    float(values.iter().fold(
        f64::NAN,
        |most, &value| if value > most || most.is_nan() { value } else { most },
    ))
}

/// Least float.
pub(crate) fn min(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    let values = floats_only(window, notes)?;
    float(values.iter().fold(
        f64::NAN,
        |least, &value| if value < least || least.is_nan() { value } else { least },
    ))
}

/// Time of the last of the greatest floats, in seconds.
pub(crate) fn time_of_max(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    time_of_best(window, notes, |value, best| value >= best)
}

/// Time of the last of the least floats, in seconds.
pub(crate) fn time_of_min(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    time_of_best(window, notes, |value, best| value <= best)
}

fn time_of_best(window: &Window<'_>, notes: &mut Notes<'_>, better: fn(f64, f64) -> bool) -> Option<Point> {
    let values = floats_only(window, notes)?;
    let mut best = (values[0], window.samples.times[0]);
    for (&value, &at) in values.iter().zip(window.samples.times) {
        if better(value, best.0) || best.0.is_nan() {
            best = (value, at);
        }
    }
    float(best.1 as f64 / 1000.0)
}

/// The φ-quantile of the floats.
pub(crate) fn quantile_of(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    let phi = window.params[0];
    if window.samples.values.is_empty() {
        return None;
    }
    if !(0.0..=1.0).contains(&phi) {
        notes.add(Note::InvalidQuantile(phi.into()));
    }
    let values = floats_only(window, notes)?;
    float(quantile(phi, &mut values.to_vec()))
}

/// Variance of the floats.
pub(crate) fn variance(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    float(variance_of(floats_only(window, notes)?))
}

/// Standard deviation of the floats.
pub(crate) fn deviation(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    float(variance_of(floats_only(window, notes)?).sqrt())
}

fn variance_of(values: &[f64]) -> f64 {
    let mut count = 0.0;
    let (mut mean, mut mean_error) = (0.0, 0.0);
    let (mut squares, mut squares_error) = (0.0, 0.0);
    for &value in values {
        count += 1.0;
        let distance = value - (mean + mean_error);
        kahan_add(distance / count, &mut mean, &mut mean_error);
        kahan_add(
            distance * (value - (mean + mean_error)),
            &mut squares,
            &mut squares_error,
        );
    }
    (squares + squares_error) / count
}

/// Median of the absolute distances from the median; NaN if any float is.
pub(crate) fn median_deviation(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    let mut values = floats_only(window, notes)?.to_vec();
    if values.iter().any(|value| value.is_nan()) {
        return float(f64::NAN);
    }
    let median = quantile(0.5, &mut values);
    values.iter_mut().for_each(|value| *value = (*value - median).abs());
    float(quantile(0.5, &mut values))
}

fn float(value: f64) -> Option<Point> {
    Some(Point::Float(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{annotation::Annotations, ast::Span, function::window::Samples};
    use model::sample::SampleBuffer;

    type Kernel = fn(&Window<'_>, &mut Notes<'_>) -> Option<Point>;

    fn buffer(values: &[f64]) -> SampleBuffer {
        let mut buffer = SampleBuffer::default();
        values
            .iter()
            .enumerate()
            .for_each(|(index, &value)| buffer.push_float(index as i64 * 1000, value));
        buffer
    }

    fn apply(kernel: Kernel, buffer: &SampleBuffer, param: f64) -> (Option<Point>, Vec<String>) {
        let mut all = Annotations::default();
        let samples = Samples::of(buffer);
        let window = Window {
            samples,
            at: 0,
            start: 0,
            end: 0,
            range_ms: 1000,
            params: [param, 0.0],
            trust_starts: false,
        };
        let point = kernel(
            &window,
            &mut Notes {
                all: &mut all,
                metric: "m",
                span: Span::default(),
            },
        );
        let (warnings, infos) = all.into_texts("m");
        (point, [warnings, infos].concat())
    }

    fn check(kernel: Kernel, values: &[f64], expected: f64) {
        let (point, notes) = apply(kernel, &buffer(values), 0.0);
        let Some(Point::Float(found)) = point else {
            panic!("{values:?}: {point:?}")
        };
        let close = (found - expected).abs() <= expected.abs() * 1e-12;
        assert!(
            close || found == expected || (found.is_nan() && expected.is_nan()),
            "{values:?}: {found}"
        );
        assert!(notes.is_empty());
    }

    #[test]
    fn sums_and_means_keep_what_is_small_and_do_not_overflow() {
        const BIG: f64 = f64::MAX / 1.8;
        const INF: f64 = f64::INFINITY;
        check(sum, &[1.0, 1e100, 1.0, -1e100], 2.0);
        check(average, &[1.0, 1e100, 1.0, -1e100], 0.5);
        check(sum, &[BIG, BIG], INF);
        check(average, &[BIG, BIG], BIG);
        check(average, &[-BIG, -BIG, -BIG], -BIG);
        check(average, &[1.0, 2.0, INF], INF);
        check(average, &[INF, 0.0, INF], INF);
        check(average, &[1.0, INF, -INF], f64::NAN);
        check(average, &[52.0; 13], 52.0);
        check(
            average,
            &[5.30921651659898, 0.961118537914768, 1.62091361305318, 0.865089463758091],
            2.189084532831255,
        );
    }

    #[test]
    fn extremes_prefer_numbers_to_nan() {
        check(max, &[2.0, f64::NAN, 1.0], 2.0);
        check(min, &[f64::NAN, 0.0, 1.0], 0.0);
        check(max, &[f64::NAN, f64::NAN], f64::NAN);
        check(time_of_max, &[1.0, 6.0, 2.0, 6.0, 4.0], 3.0);
        check(time_of_min, &[f64::NAN, 1.0, 2.0], 1.0);
    }

    #[test]
    fn spread() {
        check(variance, &[0.0, 8.0, 8.0, 2.0, 3.0], 10.56);
        check(deviation, &[1.5990505637277868; 3], 0.0);
        check(median_deviation, &[4.0, 6.0, 2.0, 1.0, 999.0, 1.0, 2.0], 1.0);
        check(median_deviation, &[1.0, 2.0, f64::NAN, 4.0], f64::NAN);
        let (point, notes) = apply(quantile_of, &buffer(&[0.0, 1.0, 4.0]), 0.75);
        assert_eq!((point, notes.len()), (Some(Point::Float(2.5)), 0));
        let (point, notes) = apply(quantile_of, &buffer(&[0.0]), 2.0);
        assert_eq!(point, Some(Point::Float(f64::INFINITY)));
        assert_eq!(
            notes,
            ["PromQL warning: quantile value should be between 0 and 1, got 2 (1:1)"]
        );
    }

    #[test]
    fn mixed_windows_are_ignored_or_refused() {
        let mut mixed = buffer(&[1.0, 2.0]);
        mixed.histograms.push(HistogramSample {
            at: 5000,
            start: 0,
            histogram: Arc::default(),
        });
        let (point, notes) = apply(sum, &mixed, 0.0);
        let text = "PromQL warning: encountered a mix of histograms and floats for metric name \"m\" (1:1)";
        assert_eq!((point, notes), (None, vec![text.to_owned()]));
        let (point, notes) = apply(max, &mixed, 0.0);
        assert_eq!((point, notes.len()), (Some(Point::Float(2.0)), 1));
        let (point, notes) = apply(count, &mixed, 0.0);
        assert_eq!((point, notes.len()), (Some(Point::Float(3.0)), 0));
        assert_eq!(apply(time_of_last, &mixed, 0.0).0, Some(Point::Float(5.0)));
        mixed.timestamps.clear();
        mixed.values.clear();
        assert_eq!(apply(max, &mixed, 0.0), (None, vec![]));
        assert_eq!(apply(average, &mixed, 0.0).0, Some(Point::Histogram(Arc::default())));
    }
}
