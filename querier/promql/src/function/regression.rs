//! `deriv`, `predict_linear` and `double_exponential_smoothing`: fitting a line to the floats of a window.

use crate::{
    function::window::{Notes, Window},
    query::QueryError,
    value::Point,
};
use model::{histogram::compensated::kahan_add, time::Timestamp};

/// Slope per second.
pub(crate) fn deriv(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    let (times, values) = line_of_floats(window, notes)?;
    // Any time near the samples serves: small numbers lose less.
    let (slope, _) = fit(times, values, times[0]);
    Some(Point::Float(slope))
}

/// Value that the line reaches some seconds after the evaluation.
pub(crate) fn predict_linear(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    let (times, values) = line_of_floats(window, notes)?;
    let (slope, intercept) = fit(times, values, window.at);
    Some(Point::Float(slope * window.params[0] + intercept))
}

/// The floats of a window, if there are two at least. Says so when histograms are ignored.
fn line_of_floats<'a>(window: &Window<'a>, notes: &mut Notes<'_>) -> Option<(&'a [Timestamp], &'a [f64])> {
    if window.samples.is_mixed() {
        notes.histogram_ignored_in_range();
    }
    (window.samples.times.len() >= 2).then_some((window.samples.times, window.samples.values))
}

/// Least squares: slope per second, and value at `origin`.
fn fit(times: &[Timestamp], values: &[f64], origin: Timestamp) -> (f64, f64) {
    if values.iter().all(|&value| value == values[0]) {
        return if values[0].is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, values[0])
        };
    }
    let mut sums = [(0.0, 0.0); 4];
    for (&at, &y) in times.iter().zip(values) {
        let x = at.wrapping_sub(origin) as f64 / 1000.0;
        for ((sum, error), term) in sums.iter_mut().zip([x, y, x * y, x * x]) {
            kahan_add(term, sum, error);
        }
    }
    let [x, y, xy, xx] = sums.map(|(sum, error)| sum + error);
    let count = values.len() as f64;
    let slope = (xy - x * y / count) / (xx - x * x / count);
    (slope, y / count - slope * x / count)
}

/// The smoothed value at the end of the window, with the smoothing and the trend factor as parameters.
pub(crate) fn smooth(window: &Window<'_>, notes: &mut Notes<'_>) -> Option<Point> {
    let (_, values) = line_of_floats(window, notes)?;
    let [smoothing, trend_factor] = window.params;
    let (mut before, mut smoothed) = (0.0, values[0]);
    let mut trend = values[1] - values[0];
    for (index, &value) in values.iter().enumerate().skip(1) {
        if index > 1 {
            trend = trend_factor * (smoothed - before) + (1.0 - trend_factor) * trend;
        }
        let next = smoothing * value + (1.0 - smoothing) * (smoothed + trend);
        (before, smoothed) = (smoothed, next);
    }
    Some(Point::Float(smoothed))
}

/// Refuses factors of [`smooth`] that are not strictly between 0 and 1.
pub(crate) fn check_smoothing(smoothing: f64, trend: f64) -> Result<(), QueryError> {
    for (name, factor, letters) in [("smoothing", smoothing, "sf"), ("trend", trend, "tf")] {
        if factor <= 0.0 || factor >= 1.0 {
            let text = format!("invalid {name} factor. Expected: 0 < {letters} < 1, got: {factor:.6}");
            return Err(QueryError::Execution(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_fitted() {
        let times: Vec<i64> = (0..11).map(|index| index * 300_000).collect();
        let values = [0.0, 10.0, 20.0, 30.0, 40.0, 0.0, 10.0, 20.0, 30.0, 40.0, 50.0];
        let (slope, intercept) = fit(&times, &values, 3_000_000);
        assert!((slope - 0.010606060606060607).abs() < 1e-15);
        assert!((intercept - 38.63636363636364).abs() < 1e-12);
        assert_eq!(fit(&times[..3], &[7.0; 3], 0), (0.0, 7.0));
        assert!(fit(&times[..2], &[f64::INFINITY; 2], 0).0.is_nan());
        assert!(fit(&times[..3], &[f64::INFINITY, 1.0, 2.0], 0).0.is_nan());
    }

    #[test]
    fn factors_are_checked() {
        assert!(check_smoothing(0.5, 0.5).is_ok());
        let text = check_smoothing(1.0, 0.5).unwrap_err().to_string();
        assert_eq!(text, "invalid smoothing factor. Expected: 0 < sf < 1, got: 1.000000");
        assert!(
            check_smoothing(0.5, 0.0)
                .unwrap_err()
                .to_string()
                .starts_with("invalid trend factor")
        );
    }
}
