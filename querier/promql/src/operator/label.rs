//! `label_replace` and `label_join`: series under other labels.

use crate::{
    function::label::expand,
    operator::{
        Evaluator,
        call::text,
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
        let (target, replacement) = (text(target)?, text(replacement)?);
        let (source, pattern) = (text(source)?, text(pattern)?);
        let invalid =
            |what: &str, text: &str| QueryError::Execution(format!("invalid {what} in label_replace(): {text}"));
        let regex = anchored(pattern).map_err(|_| invalid("regular expression", pattern))?;
        if target.is_empty() {
            return Err(invalid("destination label name", target));
        }
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
        let (target, separator) = (text(target)?, text(separator)?);
        let sources = sources.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        if let Some(empty) = sources.iter().find(|source| source.is_empty()) {
            return Err(QueryError::Execution(format!(
                "invalid source label name in label_join(): {empty}"
            )));
        }
        if target.is_empty() {
            return Err(QueryError::Execution(format!(
                "invalid destination label name in label_join(): {target}"
            )));
        }
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
        for column in &mut columns {
            let Some(value) = value(column) else { continue };
            column.labels = column.labels.with(target, &value);
            if target == METRIC_NAME {
                column.drop_name = false;
            }
        }
        self.matrix(join_same_labels(columns)?)
    }
}
