//! Set operators: `and`, `or`, `unless`. Series meet by their matching labels, step by step.

use crate::{
    ast::BinaryOp,
    operator::{
        Evaluator,
        column::{Cells, Column, Matrix, join_same_labels},
        matching::signatures,
    },
    plan::{Binary, Grid},
    query::QueryError,
};

impl Evaluator<'_> {
    pub(super) fn set_operator(&mut self, binary: &Binary, grid: Grid) -> Result<Matrix, QueryError> {
        let left = self.vector(&binary.left, grid)?;
        let right = self.vector(&binary.right, grid)?;
        let signatures = signatures(&binary.matching, &left, &right);
        let columns = match binary.op {
            BinaryOp::Or => {
                let taken = Marks::of(&left.columns, &signatures.left, signatures.count, grid.count);
                let rest = filtered(&right.columns, &signatures.right, &taken, false);
                left.columns.iter().cloned().chain(rest).collect()
            }
            _ => {
                let met = Marks::of(&right.columns, &signatures.right, signatures.count, grid.count);
                filtered(&left.columns, &signatures.left, &met, binary.op == BinaryOp::And).collect()
            }
        };
        drop((left, right));
        // Both sides of `or` may hold parts of the same series, at different steps.
        self.matrix(if binary.op == BinaryOp::Or {
            join_same_labels(columns)?
        } else {
            columns
        })
    }
}

/// For each signature, the steps at which some column with it has a value: a bit per step, nothing when there is no such column.
struct Marks {
    rows: Vec<Vec<u64>>,
}

impl Marks {
    fn of(columns: &[Column], signatures: &[u32], count: usize, steps: usize) -> Self {
        let mut rows = vec![Vec::new(); count];
        for (column, &signature) in columns.iter().zip(signatures) {
            let row = &mut rows[signature as usize];
            row.resize(steps.div_ceil(64), 0);
            for (step, _) in column.cells.iter() {
                row[step / 64] |= 1 << (step % 64);
            }
        }
        Self { rows }
    }

    fn has(&self, signature: u32, step: usize) -> bool {
        self.rows[signature as usize]
            .get(step / 64)
            .is_some_and(|word| word >> (step % 64) & 1 == 1)
    }
}

/// The columns with only the cells whose signature is (`met`) or is not (else) marked at their step.
fn filtered<'a>(
    columns: &'a [Column],
    signatures: &'a [u32],
    marks: &'a Marks,
    met: bool,
) -> impl Iterator<Item = Column> + 'a {
    columns.iter().zip(signatures).filter_map(move |(column, &signature)| {
        if column.cells.steps().all(|step| marks.has(signature, step) == met) {
            return Some(column.clone());
        }
        let mut cells = Cells::default();
        for (step, cell) in column
            .cells
            .iter()
            .filter(|(step, _)| marks.has(signature, *step) == met)
        {
            if let Some(point) = cell.to_point() {
                cells.push(step, point);
            }
        }
        (!cells.is_empty()).then(|| Column {
            cells,
            labels: column.labels.clone(),
            drop_name: column.drop_name,
        })
    })
}
