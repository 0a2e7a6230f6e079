//! `absent` and `absent_over_time`: a series where there is none.

use crate::{
    function::window::Samples,
    operator::{
        Evaluator, Scratch,
        column::{Cells, Column, Matrix},
        range::for_each_window,
    },
    plan::{Call, Grid, Kind, Node},
    query::QueryError,
};
use model::{
    label::{Labels, METRIC_NAME},
    matcher::{MatchOp, Matcher},
};
use std::collections::{BTreeMap, btree_map::Entry};

impl Evaluator<'_> {
    pub(super) fn absent(&mut self, call: &Call, grid: Grid) -> Result<Matrix, QueryError> {
        let arg = only_arg(call)?;
        let present = self.vector(arg, grid)?.presence(grid.count);
        self.absence(arg, &present)
    }

    pub(super) fn absent_over_time(&mut self, call: &Call, grid: Grid) -> Result<Matrix, QueryError> {
        let arg = only_arg(call)?;
        let (source, frame) = self.source(arg, grid)?;
        let items = source.items();
        let presence = self.each(&items, |shared, item, scratch: &mut Scratch| {
            item.read(shared, &mut scratch.buffer)?;
            let mut present = vec![false; grid.count];
            let samples = Samples::of(&scratch.buffer);
            for_each_window(samples, frame, grid, shared.settings.lookback_ms, |step, window| {
                present[step] = !window.samples.is_empty();
                shared.budget.check(window.samples.len())?;
                shared
                    .counts
                    .add(window.samples.len() as u64, window.samples.len() as u64);
                Ok(())
            })?;
            Ok(present)
        })?;
        let mut present = vec![false; grid.count];
        for series in presence {
            present.iter_mut().zip(series).for_each(|(any, one)| *any |= one);
        }
        self.absence(arg, &present)
    }

    /// A series that is 1 where nothing is present, with the labels that `arg` asked for.
    fn absence(&self, arg: &Node, present: &[bool]) -> Result<Matrix, QueryError> {
        let mut cells = Cells::default();
        for (step, _) in present.iter().enumerate().filter(|(_, present)| !**present) {
            cells.push_float(step, 1.0);
        }
        if cells.is_empty() {
            return Ok(Matrix::default());
        }
        self.matrix(vec![Column {
            labels: labels_asked_for(arg),
            drop_name: false,
            cells,
        }])
    }
}

fn only_arg(call: &Call) -> Result<&Node, QueryError> {
    call.args
        .first()
        .ok_or_else(|| QueryError::Internal(format!("{} without an argument", call.function)))
}

/// The labels that a selector fixes by equality, each if it is not named again. Anything but a selector fixes none.
fn labels_asked_for(arg: &Node) -> Labels {
    let matchers: &[Matcher] = match &arg.kind {
        Kind::Instant(instant) => &instant.matchers,
        Kind::Window(window) => &window.matchers,
        Kind::Invariant(inner) => return labels_asked_for(inner),
        _ => &[],
    };
    // In the order of the query: whatever comes behind the first equality takes the label away again, what came before does not count.
    let mut fixed: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for matcher in matchers.iter().filter(|matcher| &*matcher.name != METRIC_NAME) {
        match fixed.entry(&matcher.name) {
            Entry::Vacant(entry) if matcher.op == MatchOp::Equal => {
                entry.insert(Some(&matcher.value));
            }
            Entry::Vacant(_) => {}
            Entry::Occupied(mut entry) => {
                entry.insert(None);
            }
        }
    }
    Labels::new(fixed.into_iter().filter_map(|(name, value)| Some((name, value?)))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ast::Span,
        plan::{Instant, Shift, Yield},
    };

    #[test]
    fn labels_named_twice_or_not_by_equality_are_unknown() {
        let matchers = vec![
            Matcher::equal("__name__", "x"),
            Matcher::equal("job", "a"),
            Matcher::equal("twice", "a"),
            Matcher::not_equal("twice", "b"),
            Matcher::not_equal("after", "b"),
            Matcher::equal("after", "a"),
            Matcher::not_equal("other", "b"),
        ];
        let instant = Instant {
            selection: 0,
            shift: Shift::default(),
            smoothed: false,
            yields: Yield::Value,
            matchers,
        };
        let node = Node {
            span: Span::default(),
            kind: Kind::Instant(instant),
        };
        assert_eq!(labels_asked_for(&node).to_string(), "{after=\"a\", job=\"a\"}");
        assert!(
            labels_asked_for(&Node {
                span: Span::default(),
                kind: Kind::Number(1.0)
            })
            .is_empty()
        );
    }
}
