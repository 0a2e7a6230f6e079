//! What operators hand to each other: series as columns of cells, one cell per step.
//!
//! A column covers the steps from its first present cell to its last, so that a short-lived series costs little. Inside,
//! a cell is a float, a histogram, or absent; which one is told by the bits of the float, so that the common case is a plain
//! array of numbers. Those bits are never a value: samples are cleaned of signalling NaNs when they are read
//! ([`quieted`]), and arithmetic does not make any.

use crate::{operator::budget::Charge, query::QueryError, value::Point};
use hashbrown::{HashMap, hash_map::Entry};
use model::{
    histogram::Histogram,
    label::{Labels, METRIC_NAME},
    sample::STALE_NAN_BITS,
};
use std::sync::Arc;

/// Bits of a cell without a value.
const ABSENT: u64 = STALE_NAN_BITS;

/// Bits of a cell whose value is a histogram.
const HISTOGRAM: u64 = STALE_NAN_BITS + 1;

/// The bit that tells a quiet NaN from a signalling one.
const QUIET: u64 = 1 << 51;

/// `value`, made quiet if it is a signalling NaN.
#[inline]
pub(crate) fn quieted(value: f64) -> f64 {
    if value.is_nan() {
        f64::from_bits(value.to_bits() | QUIET)
    } else {
        value
    }
}

/// A cell.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cell<'a> {
    Absent,
    Float(f64),
    Histogram(&'a Arc<Histogram>),
}

impl Cell<'_> {
    pub(crate) fn is_present(&self) -> bool {
        !matches!(self, Cell::Absent)
    }

    /// The value for keeps.
    pub(crate) fn to_point(self) -> Option<Point> {
        match self {
            Cell::Absent => None,
            Cell::Float(value) => Some(Point::Float(value)),
            Cell::Histogram(histogram) => Some(Point::Histogram(histogram.clone())),
        }
    }
}

/// The cells of one series.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cells {
    /// Step of the first cell.
    first: usize,
    /// Floats and marks.
    values: Vec<f64>,
    /// One for each of `values`, or empty when there is none at all.
    histograms: Vec<Option<Arc<Histogram>>>,
}

impl Cells {
    /// No cells, with room for `count`.
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self {
            first: 0,
            values: Vec::with_capacity(count),
            histograms: Vec::new(),
        }
    }

    /// The same float at steps 0 to `count`.
    pub(crate) fn constant(value: f64, count: usize) -> Self {
        Self {
            first: 0,
            values: vec![quieted(value); count],
            histograms: Vec::new(),
        }
    }

    /// Adds a float at `step`, which lies behind all steps so far.
    #[inline]
    pub(crate) fn push_float(&mut self, step: usize, value: f64) {
        if step != self.first + self.values.len() || !self.histograms.is_empty() {
            self.pad_to(step);
            if !self.histograms.is_empty() {
                self.histograms.push(None);
            }
        }
        self.values.push(quieted(value));
    }

    /// Adds floats at `step` and the steps after it, which lie behind all steps so far. None of them may be a signalling NaN.
    pub(crate) fn extend_floats(&mut self, step: usize, values: impl Iterator<Item = f64>) {
        self.pad_to(step);
        self.values.extend(values);
        if !self.histograms.is_empty() {
            self.histograms.resize(self.values.len(), None);
        }
    }

    /// Adds a histogram at `step`, which lies behind all steps so far.
    pub(crate) fn push_histogram(&mut self, step: usize, histogram: Arc<Histogram>) {
        self.pad_to(step);
        self.histograms.resize(self.values.len(), None);
        self.values.push(f64::from_bits(HISTOGRAM));
        self.histograms.push(Some(histogram));
    }

    /// Adds a value at `step`, which lies behind all steps so far.
    pub(crate) fn push(&mut self, step: usize, point: Point) {
        match point {
            Point::Float(value) => self.push_float(step, value),
            Point::Histogram(histogram) => self.push_histogram(step, histogram),
        }
    }

    #[cold]
    fn pad_to(&mut self, step: usize) {
        if self.values.is_empty() {
            self.first = step;
        }
        let index = step - self.first;
        if index > self.values.len() {
            self.values.resize(index, f64::from_bits(ABSENT));
            if !self.histograms.is_empty() {
                self.histograms.resize(index, None);
            }
        }
    }

    /// Whether no cell has a value.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The steps from the first to the last value.
    pub(crate) fn steps(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.values.len()
    }

    /// The cell at `step`.
    #[inline]
    pub(crate) fn at(&self, step: usize) -> Cell<'_> {
        match step.checked_sub(self.first) {
            Some(index) if index < self.values.len() => self.cell(index),
            _ => Cell::Absent,
        }
    }

    #[inline]
    fn cell(&self, index: usize) -> Cell<'_> {
        let value = self.values[index];
        if !value.is_nan() {
            return Cell::Float(value);
        }
        match value.to_bits() {
            ABSENT => Cell::Absent,
            HISTOGRAM => self.histograms[index].as_ref().map_or(Cell::Absent, Cell::Histogram),
            _ => Cell::Float(value),
        }
    }

    /// All present cells with their steps, ascending.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, Cell<'_>)> {
        (0..self.values.len())
            .map(|index| (self.first + index, self.cell(index)))
            .filter(|(_, cell)| cell.is_present())
    }

    /// The floats of [`Self::steps`], if every one of them has a float that is a number.
    #[inline]
    pub(crate) fn plain_floats(&self) -> Option<&[f64]> {
        // Marks are no numbers. Without a way out of the loop, many are looked at at once.
        let all = !self.values.iter().fold(false, |any, value| any | value.is_nan());
        all.then_some(&self.values)
    }

    /// What is a float of each of [`Self::steps`].
    #[inline]
    pub(crate) fn marked_floats(&self) -> impl Iterator<Item = Option<f64>> {
        let present = |value: f64| !value.is_nan() || !matches!(value.to_bits(), ABSENT | HISTOGRAM);
        self.values.iter().map(move |&value| present(value).then_some(value))
    }

    /// The present floats with their steps, ascending.
    #[inline]
    pub(crate) fn floats(&self) -> impl Iterator<Item = (usize, f64)> {
        let present = |value: f64| !value.is_nan() || !matches!(value.to_bits(), ABSENT | HISTOGRAM);
        self.values
            .iter()
            .enumerate()
            .filter(move |(_, value)| present(**value))
            .map(|(index, &value)| (self.first + index, value))
    }

    /// Whether a cell holds a histogram.
    pub(crate) fn has_histograms(&self) -> bool {
        !self.histograms.is_empty()
    }

    /// Changes every float by `change`, keeps what is absent, removes histograms.
    pub(crate) fn map_floats(&mut self, mut change: impl FnMut(usize, f64) -> f64) {
        if self.has_histograms() {
            let mut floats = Cells::with_capacity(self.values.len());
            for (step, value) in self.floats() {
                floats.push_float(step, change(step, value));
            }
            *self = floats;
            return;
        }
        for (index, value) in self.values.iter_mut().enumerate() {
            if !value.is_nan() || value.to_bits() != ABSENT {
                *value = quieted(change(self.first + index, *value));
            }
        }
    }

    /// What `combine` makes of the floats at steps where both have one; neither has histograms.
    pub(crate) fn combine_floats(&self, other: &Cells, combine: impl Fn(f64, f64) -> f64) -> Cells {
        let (mine, theirs) = (self.steps(), other.steps());
        let (first, end) = (mine.start.max(theirs.start), mine.end.min(theirs.end));
        let mut cells = Cells::with_capacity(end.saturating_sub(first));
        for step in first..end {
            let (left, right) = (self.values[step - self.first], other.values[step - other.first]);
            if left.to_bits() != ABSENT && right.to_bits() != ABSENT {
                cells.push_float(step, combine(left, right));
            }
        }
        cells
    }

    /// How many samples the cells count as while they are made: memory that is taken for absent cells counts, too.
    pub(crate) fn weight(&self) -> usize {
        // A sample stands for 16 bytes, a cell takes 8.
        self.samples().max(self.values.capacity() / 2)
    }

    /// How many samples the cells count as, see [`histogram_samples`].
    pub(crate) fn samples(&self) -> usize {
        if let Some(floats) = self.plain_floats() {
            return floats.len();
        }
        if self.histograms.is_empty() {
            return self.floats().count();
        }
        self.iter().map(|(_, cell)| cell_samples(cell)).sum()
    }
}

/// How many samples a cell counts as.
pub(crate) fn cell_samples(cell: Cell<'_>) -> usize {
    match cell {
        Cell::Absent => 0,
        Cell::Float(_) => 1,
        Cell::Histogram(histogram) => histogram_samples(histogram),
    }
}

/// How many samples a histogram counts as: its size in 16 bytes, the size of a float with its time.
pub(crate) fn histogram_samples(histogram: &Histogram) -> usize {
    let spans = histogram.positive_spans.len() + histogram.negative_spans.len();
    let numbers = histogram.positive_buckets.len() + histogram.negative_buckets.len() + histogram.custom_values.len();
    (168 + 8 * (spans + numbers) + 8) / 16
}

/// A series of a vector over all steps.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// Its labels.
    pub(crate) labels: Labels,
    /// Whether name, type and unit are to be dropped at the end of the query.
    pub(crate) drop_name: bool,
    /// Its cells; at least one is present.
    pub(crate) cells: Cells,
}

/// A vector over all steps. Where the order of series matters, it is that of the columns.
#[derive(Debug, Default)]
pub(crate) struct Matrix {
    /// Its series. No two with the same labels (and the same wish to drop names) have a value at the same step.
    pub(crate) columns: Vec<Column>,
    /// What its cells take of the query's budget.
    pub(crate) charge: Charge,
}

impl Matrix {
    /// Whether some series has a value at each of `count` steps.
    pub(crate) fn presence(&self, count: usize) -> Vec<bool> {
        let mut present = vec![false; count];
        for column in &self.columns {
            for (step, _) in column.cells.iter() {
                present[step] = true;
            }
        }
        present
    }
}

/// Whether a label describes the metric as a whole, and goes when an operation changes what the values mean.
pub(crate) fn is_metadata(name: &str) -> bool {
    matches!(name, METRIC_NAME | "__type__" | "__unit__")
}

/// `labels` without name, type and unit.
pub(crate) fn without_metadata(labels: &Labels) -> Labels {
    if labels.iter().any(|(name, _)| is_metadata(name)) {
        labels.without(is_metadata)
    } else {
        labels.clone()
    }
}

/// Name, type and unit.
pub(crate) fn metadata(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().filter(|(name, _)| is_metadata(name))
}

/// Whether name, type and unit are the same for all columns.
pub(crate) fn same_metadata(columns: &[Column]) -> bool {
    columns
        .windows(2)
        .all(|pair| metadata(&pair[0].labels).eq(metadata(&pair[1].labels)))
}

/// Joins columns with the same labels into one; fails when two of them have a value at the same step.
///
/// Which name-dropping wish counts: any of them.
pub(crate) fn join_same_labels(columns: Vec<Column>) -> Result<Vec<Column>, QueryError> {
    let mut places: HashMap<Labels, usize, foldhash::fast::RandomState> =
        HashMap::with_capacity_and_hasher(columns.len(), Default::default());
    let mut joined: Vec<Column> = Vec::with_capacity(columns.len());
    for column in columns {
        match places.entry(column.labels.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(joined.len());
                joined.push(column);
            }
            Entry::Occupied(place) => {
                let known = &mut joined[*place.get()];
                known.drop_name |= column.drop_name;
                known.cells = joined_cells(&known.cells, &column.cells).ok_or_else(same_labelset)?;
            }
        }
    }
    Ok(joined)
}

/// The error of a vector in which labels stand twice.
pub(crate) fn same_labelset() -> QueryError {
    QueryError::Execution("vector cannot contain metrics with the same labelset".into())
}

/// The cells of both; `None` when both have a value at the same step.
pub(crate) fn joined_cells(left: &Cells, right: &Cells) -> Option<Cells> {
    if left.is_empty() || right.is_empty() {
        return Some(if left.is_empty() { right.clone() } else { left.clone() });
    }
    let (first, end) = (left.first.min(right.first), left.steps().end.max(right.steps().end));
    let mut joined = Cells::with_capacity(end - first);
    for step in first..end {
        match (left.at(step), right.at(step)) {
            (Cell::Absent, Cell::Absent) => {}
            (Cell::Absent, cell) | (cell, Cell::Absent) => {
                if let Some(point) = cell.to_point() {
                    joined.push(step, point);
                }
            }
            _ => return None,
        }
    }
    Some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(labels: &[(&str, &str)], cells: &[(usize, f64)]) -> Column {
        let mut built = Cells::default();
        for &(step, value) in cells {
            built.push_float(step, value);
        }
        Column {
            labels: Labels::new(labels.iter().copied()).unwrap(),
            drop_name: false,
            cells: built,
        }
    }

    #[test]
    fn cells_are_floats_histograms_or_absent() {
        let mut cells = Cells::default();
        cells.push_float(3, 1.0);
        cells.push_histogram(5, Arc::default());
        cells.push_float(6, f64::from_bits(ABSENT));
        assert_eq!(cells.steps(), 3..7);
        assert!(matches!(cells.at(2), Cell::Absent));
        assert!(matches!(cells.at(3), Cell::Float(1.0)));
        assert!(matches!(cells.at(4), Cell::Absent));
        assert!(matches!(cells.at(5), Cell::Histogram(_)));
        assert!(
            matches!(cells.at(6), Cell::Float(value) if value.is_nan()),
            "a value is never taken for a mark"
        );
        assert!(matches!(cells.at(7), Cell::Absent));
        assert_eq!(cells.floats().count(), 2);
        assert_eq!(cells.samples(), 2 + 11);
        cells.map_floats(|_, value| value + 1.0);
        assert_eq!(cells.iter().map(|(step, _)| step).collect::<Vec<_>>(), [3, 6]);
        assert!(!cells.has_histograms());
    }

    #[test]
    fn floats_are_combined_where_both_are() {
        let cells = |cells: &[(usize, f64)]| column(&[], cells).cells;
        let left = cells(&[(1, 1.0), (2, 2.0), (4, 4.0), (5, 5.0)]);
        let right = cells(&[(0, 10.0), (2, 20.0), (3, 30.0), (5, 50.0), (6, 60.0)]);
        let sum = left.combine_floats(&right, |left, right| left + right);
        assert_eq!(sum.floats().collect::<Vec<_>>(), [(2, 22.0), (5, 55.0)]);
        assert!(left.combine_floats(&cells(&[(7, 1.0)]), |left, _| left).is_empty());
    }

    #[test]
    fn columns_of_the_same_labels_become_one_unless_they_overlap() {
        let columns = vec![
            column(&[("a", "1")], &[(0, 1.0), (3, 4.0)]),
            column(&[("a", "2")], &[(0, 1.0)]),
            column(&[("a", "1")], &[(1, 2.0)]),
        ];
        let joined = join_same_labels(columns.clone()).unwrap();
        assert_eq!(joined.len(), 2);
        assert_eq!(
            joined[0].cells.floats().collect::<Vec<_>>(),
            [(0, 1.0), (1, 2.0), (3, 4.0)]
        );
        let overlapping = [columns, vec![column(&[("a", "2")], &[(0, 9.0)])]].concat();
        let error = join_same_labels(overlapping).unwrap_err().to_string();
        assert_eq!(error, "vector cannot contain metrics with the same labelset");
    }

    #[test]
    fn names_types_and_units_are_metadata() {
        let labels = Labels::new([("__name__", "up"), ("__type__", "gauge"), ("job", "x")]).unwrap();
        assert_eq!(without_metadata(&labels).to_string(), "{job=\"x\"}");
        let of = |name| column(&[("__name__", name), ("job", "x")], &[(0, 1.0)]);
        assert!(same_metadata(&[of("a"), of("a")]) && same_metadata(&[]));
        assert!(!same_metadata(&[of("a"), of("a"), of("b")]));
    }
}
