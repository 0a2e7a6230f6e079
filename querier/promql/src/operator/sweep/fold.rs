//! Sums, means and extremes of all windows of a series at once.
//!
//! Windows that begin evenly spaced are gone through side by side: first the first sample of each, then the second. So many are added at
//! once where one window alone would wait for each of its additions. Each window still takes its samples in their order, and the
//! results are those of [`crate::function::over_time`], bit for bit.

use super::Run;
use crate::{function::over_time::Mean, operator::column::Cells};
use model::histogram::compensated::kahan_add;

/// What is made of the samples of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fold {
    Sum,
    Mean,
    Greatest,
    Least,
}

/// Windows that are gone through side by side: what is known about them stays near.
const TILE: usize = 64;

/// The results of a run of windows.
pub(super) fn fold(run: Run, values: &[f64], fold: Fold, cells: &mut Cells) {
    let width = run.to - run.from;
    // Windows that do not move are all the same one.
    let windows = if run.stride == 0 { 1 } else { run.count };
    for begin in (0..windows).step_by(TILE) {
        let count = TILE.min(windows - begin);
        let samples = Samples {
            values: &values[run.from + begin * run.stride..],
            stride: run.stride,
            count,
            width,
        };
        let mut results = [0.0; TILE];
        match fold {
            Fold::Sum => samples.sum(&mut results),
            Fold::Mean => samples.mean(&mut results),
            Fold::Greatest => samples.extreme(&mut results, |value, most| value > most),
            Fold::Least => samples.extreme(&mut results, |value, least| value < least),
        }
        match run.stride {
            0 => cells.extend_floats(run.step, std::iter::repeat_n(results[0], run.count)),
            _ => cells.extend_floats(run.step + begin, results[..count].iter().copied()),
        }
    }
}

/// The samples of some windows.
#[derive(Clone, Copy)]
struct Samples<'a> {
    /// From the first sample of the first window on.
    values: &'a [f64],
    /// From one window to the next.
    stride: usize,
    count: usize,
    /// Samples in each.
    width: usize,
}

impl Samples<'_> {
    /// Visits the sample number `index` of each window, with what is kept for the window.
    #[inline(always)]
    fn each<K>(self, index: usize, kept: &mut [K], mut visit: impl FnMut(f64, &mut K)) {
        let values = &self.values[index..];
        if self.stride == 1 {
            // Known to be as many as there are windows, so that several are visited at once.
            let pairs = values[..self.count].iter().zip(&mut kept[..self.count]);
            pairs.for_each(|(value, kept)| visit(*value, kept));
        } else {
            let values = values.iter().step_by(self.stride.max(1));
            let pairs = values.zip(&mut kept[..self.count]);
            pairs.for_each(|(value, kept)| visit(*value, kept));
        }
    }

    fn sum(self, results: &mut [f64; TILE]) {
        let mut sums = [(0.0, 0.0); TILE];
        for index in 0..self.width {
            self.each(index, &mut sums, |value, (sum, error)| kahan_add(value, sum, error));
        }
        for (result, (sum, error)) in results.iter_mut().zip(sums) {
            *result = sum + error;
        }
    }

    fn mean(self, results: &mut [f64; TILE]) {
        let mut sums = [(0.0, 0.0); TILE];
        self.each(0, &mut sums, |value, (sum, _)| *sum = value);
        for index in 1..self.width {
            self.each(index, &mut sums, |value, (sum, error)| kahan_add(value, sum, error));
        }
        let count = self.width as f64;
        for (window, (result, (sum, error))) in results.iter_mut().zip(sums).enumerate().take(self.count) {
            *result = if sum.is_finite() {
                sum / count + error / count
            } else {
                self.mean_of(window)
            };
        }
    }

    /// The mean of one window whose sum is not finite.
    #[cold]
    fn mean_of(self, window: usize) -> f64 {
        let values = &self.values[window * self.stride..][..self.width];
        let mut mean = Mean::new(values[0]);
        values[1..].iter().for_each(|value| mean.add(*value));
        mean.finish()
    }

    fn extreme(self, results: &mut [f64; TILE], better: impl Fn(f64, f64) -> bool + Copy) {
        results.fill(f64::NAN);
        for index in 0..self.width {
            self.each(index, results, |value, best| {
                *best = if better(value, *best) || best.is_nan() {
                    value
                } else {
                    *best
                };
            });
        }
    }
}
