//! When things are evaluated and when they look. Times saturate: a query may name any moment, a sample has a sane one.

use model::time::Timestamp;

/// The moments at which an expression is evaluated, evenly spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    /// The first one.
    pub(crate) start: Timestamp,
    /// Distance between two, positive.
    pub(crate) step_ms: i64,
    /// How many there are.
    pub(crate) count: usize,
}

impl Grid {
    /// One moment.
    pub(crate) const fn instant(at: Timestamp) -> Self {
        Self {
            start: at,
            step_ms: 1,
            count: 1,
        }
    }

    /// From `start` in steps of `step_ms` up to `end`; none when `end` lies before `start`.
    pub(crate) fn range(start: Timestamp, end: Timestamp, step_ms: i64) -> Self {
        let step_ms = step_ms.max(1);
        let count = match end.checked_sub(start) {
            Some(width) if width >= 0 => (width / step_ms) as usize + 1,
            Some(_) => 0,
            None if end < start => 0,
            None => usize::MAX,
        };
        Self { start, step_ms, count }
    }

    /// Moment number `index`.
    #[inline]
    pub(crate) fn at(&self, index: usize) -> Timestamp {
        self.start.saturating_add((index as i64).saturating_mul(self.step_ms))
    }

    /// First and last moment.
    pub(crate) fn span(&self) -> Span {
        Span {
            first: self.start,
            last: self.at(self.count.saturating_sub(1)),
        }
    }
}

/// A first and a last evaluation time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

/// From the time of evaluation to the time at which something looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Shift {
    /// A fixed time instead of that of evaluation.
    pub(crate) at: Option<Timestamp>,
    /// How far back from it.
    pub(crate) offset_ms: i64,
}

impl Shift {
    /// Where something evaluated at `at` looks.
    #[inline]
    pub(crate) fn apply(&self, at: Timestamp) -> Timestamp {
        self.at.unwrap_or(at).saturating_sub(self.offset_ms)
    }

    /// The same for a first and a last time.
    pub(crate) fn apply_span(&self, span: Span) -> Span {
        Span {
            first: self.apply(span.first),
            last: self.apply(span.last),
        }
    }
}

/// The evaluations of a subquery whose windows end from `ends.first` to `ends.last`: at absolute multiples of the step, the first
/// one strictly inside the first window, which is open on the left.
pub(crate) fn subquery_grid(ends: Span, range_ms: i64, step_ms: i64) -> Grid {
    let open = ends.first.saturating_sub(range_ms);
    let start = open.div_euclid(step_ms).saturating_add(1).saturating_mul(step_ms);
    Grid::range(start, ends.last, step_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_hold_both_ends_when_the_step_fits() {
        assert_eq!(Grid::range(0, 10, 5).count, 3);
        assert_eq!(Grid::range(0, 9, 5).count, 2);
        assert_eq!(Grid::range(3, 2, 5).count, 0);
        assert_eq!(Grid::range(-10, 0, 5).at(2), 0);
        assert_eq!(Grid::range(i64::MIN, i64::MAX, 1).count, usize::MAX);
        assert_eq!(Grid::instant(7).span(), Span { first: 7, last: 7 });
    }

    #[test]
    fn subqueries_are_aligned_to_multiples_of_their_step() {
        let check = |end: i64, range: i64, step: i64, start: i64, count: usize| {
            let grid = subquery_grid(Span { first: end, last: end }, range, step);
            assert_eq!((grid.start, grid.count), (start, count), "[{range}:{step}] at {end}");
        };
        check(10, 50, 10, -30, 5);
        check(1010, 30, 10, 990, 3);
        check(1001, 30, 10, 980, 3);
        check(-5, 50, 10, -50, 5);
        check(10, 3, 60, 60, 0);
    }
}
