//! `label_replace` and `label_join`: series under other labels.

use crate::{
    ast::StringLiteral,
    function::label::expand,
    operator::{
        Evaluator,
        call::{label_name, text},
        column::{Column, Matrix, join_same_labels},
    },
    plan::{Grid, Node},
    query::QueryError,
};
use model::{label::METRIC_NAME, matcher::anchored};

impl Evaluator<'_> {
    pub(super) fn label_replace(&mut self, args: &[Node], grid: Grid) -> Result<Matrix, QueryError> {
        let [vector, target, replacement, source, pattern] = args else {
            return Err(QueryError::Internal("label_replace() takes five arguments".into()));
        };
        let target = label_name(target, |name| invalid_target("label_replace", name))?;
        let (replacement, source, pattern) = (text(replacement)?, text(source)?, text(pattern)?);
        let regex = anchored(pattern)
            .map_err(|_| QueryError::Execution(format!("invalid regular expression in label_replace(): {pattern}")))?;
        let matrix = self.vector(vector, grid)?;
        self.with_label(matrix, target, |column| {
            let captures = regex.captures(column.labels.get(source).unwrap_or(""))?;
            Some(expand(replacement, &captures))
        })
    }

    pub(super) fn label_join(&mut self, args: &[Node], grid: Grid) -> Result<Matrix, QueryError> {
        let [vector, target, separator, sources @ ..] = args else {
            return Err(QueryError::Internal(
                "label_join() takes three arguments at least".into(),
            ));
        };
        let separator = text(separator)?;
        let invalid = |name: &StringLiteral| format!("invalid source label name in label_join(): {}", name.value);
        let sources: Vec<&str> = sources
            .iter()
            .map(|source| label_name(source, invalid))
            .collect::<Result<_, _>>()?;
        let target = label_name(target, |name| invalid_target("label_join", name))?;
        let matrix = self.vector(vector, grid)?;
        self.with_label(matrix, target, |column| {
            let values: Vec<&str> = sources
                .iter()
                .map(|source| column.labels.get(source).unwrap_or(""))
                .collect();
            Some(values.join(separator))
        })
    }

    /// Sets a label of the series for which `value` gives one. A name set this way is not dropped in the end.
    fn with_label(
        &mut self,
        matrix: Matrix,
        target: &str,
        value: impl Fn(&Column) -> Option<String>,
    ) -> Result<Matrix, QueryError> {
        let mut columns = matrix.columns;
        drop(matrix.charge);
        // Values are made of values and of the text of the query, so they may grow out of all proportion.
        let mut charge = self.shared.budget.nothing();
        for column in &mut columns {
            self.shared.cancel.check()?;
            let Some(value) = value(column) else { continue };
            charge.grow_bytes(column.labels.text_len() + value.len())?;
            column.labels = column.labels.with(target, &value);
            if target == METRIC_NAME {
                column.drop_name = false;
            }
        }
        let mut matrix = self.matrix(join_same_labels(columns)?)?;
        matrix.charge.join(charge);
        Ok(matrix)
    }
}

fn invalid_target(function: &str, name: &StringLiteral) -> String {
    format!("invalid destination label name in {function}(): {}", name.value)
}
