//! `count_values`: how many series have each value.

use crate::{
    format::{float_f, quote_bytes},
    operator::{
        Evaluator,
        call::label_name,
        column::{Cell, Cells, Column, Matrix},
        grouping::group_labels,
    },
    plan::{Aggregate, Grid},
    query::QueryError,
};
use hashbrown::HashMap;
use model::label::Labels;
use std::collections::BTreeMap;

impl Evaluator<'_> {
    pub(super) fn count_values(&mut self, aggregate: &Aggregate, grid: Grid) -> Result<Matrix, QueryError> {
        let Some(param) = &aggregate.param else {
            return Err(QueryError::Internal("count_values without a label name".into()));
        };
        let target = label_name(param, |name| {
            let bytes = name.bytes.as_deref().unwrap_or(name.value.as_bytes());
            format!("invalid label name {}", quote_bytes(bytes))
        })?;
        let mut grouping = aggregate.grouping.clone();
        if !aggregate.without {
            grouping.push(target.to_owned());
        }
        let matrix = self.vector(&aggregate.inner, grid)?;
        let mut counts: HashMap<Labels, Counts, foldhash::fast::RandomState> = HashMap::default();
        // A group for each value: label text is what there may be too much of.
        let mut charge = self.shared.budget.nothing();
        for column in &matrix.columns {
            self.shared.cancel.check()?;
            for (step, cell) in column.cells.iter() {
                let value = match cell {
                    Cell::Float(value) => float_f(value),
                    Cell::Histogram(histogram) => histogram.to_string(),
                    Cell::Absent => continue,
                };
                let labels = group_labels(&column.labels.with(target, &value), &grouping, aggregate.without);
                let (order, text) = (counts.len(), labels.text_len());
                let counts = counts.entry(labels).or_insert_with(|| Counts {
                    order,
                    drop_name: false,
                    steps: BTreeMap::new(),
                });
                counts.drop_name |= column.drop_name;
                *counts.steps.entry(step).or_default() += 1.0;
                // Its first count makes a group new.
                if counts.order == order {
                    charge.grow_bytes(GROUP_BYTES + text)?;
                }
            }
            self.shared.budget.check(counts.len())?;
        }
        let mut counted: Vec<_> = counts.into_iter().collect();
        counted.sort_unstable_by_key(|(_, counts)| counts.order);
        drop(matrix);
        let column = |(labels, counts): (Labels, Counts)| {
            let mut cells = Cells::default();
            counts
                .steps
                .into_iter()
                .for_each(|(step, count)| cells.push_float(step, count));
            Column {
                labels,
                drop_name: counts.drop_name,
                cells,
            }
        };
        let mut matrix = self.matrix(counted.into_iter().map(column).collect())?;
        matrix.charge.join(charge);
        Ok(matrix)
    }
}

/// What a group takes besides its labels.
const GROUP_BYTES: usize = 256;

/// How many series of a group had a value, by step.
struct Counts {
    /// Position among the groups.
    order: usize,
    drop_name: bool,
    steps: BTreeMap<usize, f64>,
}
