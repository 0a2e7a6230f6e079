//! `histogram_quantile`, `histogram_quantiles` and `histogram_fraction`, of native and of classic histograms alike.
//!
//! A classic histogram is a set of series that differ in the label `le` alone. Which series belong together is settled once.

use crate::{
    annotation::{Note, Repair},
    ast::{Function, Span},
    format::float_g,
    function::{bucket, bucket::Bucket, window::Notes},
    operator::{
        Evaluator, Scratch,
        call::text,
        column::{Cell, Cells, Column, Matrix, join_same_labels},
        metric_name,
        scalar::Scalars,
    },
    plan::{Call, Grid, Node},
    query::QueryError,
};
use hashbrown::HashMap;
use model::{
    histogram::{Histogram, quantile::NanEffect},
    label::Labels,
};

/// The label with the upper bound of a classic bucket.
const BUCKET_LABEL: &str = "le";

/// What is asked of each histogram.
enum Question {
    /// A quantile, and the label that tells which, if there may be several.
    Quantile(Scalars, Option<String>),
    /// The share of observations between two values.
    Fraction(Scalars, Scalars),
}

/// A classic histogram.
struct Classic<'a> {
    /// Labels of its series without `le`.
    labels: Labels,
    /// Upper bounds and their series.
    buckets: Vec<(f64, &'a Column)>,
}

impl Classic<'_> {
    fn has_bucket(&self, step: usize) -> bool {
        self.buckets
            .iter()
            .any(|(_, column)| matches!(column.cells.at(step), Cell::Float(_)))
    }
}

impl Subject<'_> {
    fn labels(&self) -> &Labels {
        match self {
            Subject::Native(column, _) => &column.labels,
            Subject::Classic(classic, _) => &classic.labels,
        }
    }
}

/// A histogram to ask.
enum Subject<'a> {
    /// A series of native histograms, and the classic one with the same labels.
    Native(&'a Column, Option<&'a Classic<'a>>),
    /// A classic histogram, and the series of native ones with the same labels.
    Classic(&'a Classic<'a>, Option<&'a Column>),
}

impl Evaluator<'_> {
    pub(super) fn bucket_function(&mut self, call: &Call, grid: Grid) -> Result<Matrix, QueryError> {
        let (questions, vector) = self.questions(call, grid)?;
        let matrix = self.vector(vector, grid)?;
        let span = vector.span;
        let classics = self.classics(&matrix, span);
        let natives: HashMap<&Labels, &Column, foldhash::fast::RandomState> = matrix
            .columns
            .iter()
            .filter(|column| column.cells.has_histograms())
            .map(|column| (&column.labels, column))
            .collect();
        let by_labels: HashMap<&Labels, &Classic<'_>, foldhash::fast::RandomState> =
            classics.iter().map(|classic| (&classic.labels, classic)).collect();
        let native_subjects = matrix
            .columns
            .iter()
            .filter(|column| column.cells.has_histograms())
            .map(|column| Subject::Native(column, by_labels.get(&column.labels).copied()));
        let classic_subjects = classics
            .iter()
            .map(|classic| Subject::Classic(classic, natives.get(&classic.labels).copied()));
        let subjects: Vec<Subject<'_>> = native_subjects.chain(classic_subjects).collect();
        let mut columns = Vec::new();
        for question in &questions {
            self.ask(question, &subjects, span, grid, &mut columns)?;
        }
        drop(subjects);
        drop((natives, by_labels));
        drop(classics);
        drop(matrix);
        self.matrix(join_same_labels(columns)?)
    }

    /// Adds the answers of all histograms to a question.
    fn ask(
        &mut self,
        question: &Question,
        subjects: &[Subject<'_>],
        span: Span,
        grid: Grid,
        columns: &mut Vec<Column>,
    ) -> Result<(), QueryError> {
        let answers = self.each(subjects, |shared, subject, scratch: &mut Scratch| {
            // Where names are dropped at once, notes do not know them any more.
            let delayed = shared.settings.delayed_name_removal;
            let metric = if delayed { metric_name(subject.labels()) } else { "" };
            let mut notes = Notes {
                all: &mut scratch.notes,
                metric,
                span,
            };
            Ok(match subject {
                Subject::Native(column, rival) => native_answers(question, column, *rival, &mut notes),
                Subject::Classic(classic, rival) => classic_answers(question, classic, *rival, grid, &mut notes),
            })
        })?;
        for (subject, answers) in subjects.iter().zip(answers) {
            for (value, cells) in answers.into_columns(question) {
                let labels = match (question, value) {
                    (Question::Quantile(_, Some(name)), Some(value)) => subject.labels().with(name, &value),
                    _ => subject.labels().clone(),
                };
                let mut column = Column {
                    labels,
                    drop_name: false,
                    cells,
                };
                self.drop_name(&mut column);
                columns.push(column);
            }
        }
        Ok(())
    }

    /// What is asked, and of which vector. Impossible quantiles are noted, whether there is a histogram or not.
    fn questions<'n>(&mut self, call: &'n Call, grid: Grid) -> Result<(Vec<Question>, &'n Node), QueryError> {
        match (call.function, call.args.as_slice()) {
            (Function::HistogramQuantile, [phi, vector]) => {
                let quantiles = self.quantiles(phi, grid)?;
                Ok((vec![Question::Quantile(quantiles, None)], vector))
            }
            (Function::HistogramFraction, [lower, upper, vector]) => {
                let (lower, upper) = (self.scalar(lower, grid)?, self.scalar(upper, grid)?);
                Ok((vec![Question::Fraction(lower, upper)], vector))
            }
            (Function::HistogramQuantiles, [vector, name, phis @ ..]) => {
                let name = text(name)?;
                let questions = phis
                    .iter()
                    .map(|phi| Ok(Question::Quantile(self.quantiles(phi, grid)?, Some(name.to_owned()))))
                    .collect::<Result<_, QueryError>>()?;
                Ok((questions, vector))
            }
            (function, _) => Err(QueryError::Internal(format!("{function} with unexpected arguments"))),
        }
    }

    fn quantiles(&mut self, node: &Node, grid: Grid) -> Result<Scalars, QueryError> {
        let quantiles = self.scalar(node, grid)?;
        for &phi in quantiles.values() {
            if !(0.0..=1.0).contains(&phi) {
                self.notes.add(Note::InvalidQuantile(phi.into()), node.span);
            }
        }
        Ok(quantiles)
    }

    /// The classic histograms, in the order of their first series. Series of floats without a usable bound are noted.
    fn classics<'m>(&mut self, matrix: &'m Matrix, span: Span) -> Vec<Classic<'m>> {
        let mut classics: Vec<Classic<'m>> = Vec::new();
        let mut places: HashMap<Labels, usize, foldhash::fast::RandomState> = HashMap::default();
        for column in matrix
            .columns
            .iter()
            .filter(|column| column.cells.floats().next().is_some())
        {
            let bound = column.labels.get(BUCKET_LABEL).unwrap_or("");
            let Some(upper) = parse_bound(bound) else {
                let metric = metric_name(&column.labels).into();
                self.notes.add(
                    Note::BadBucketLabel {
                        metric,
                        value: bound.into(),
                    },
                    span,
                );
                continue;
            };
            let labels = column.labels.without(|name| name == BUCKET_LABEL);
            let place = *places.entry(labels).or_insert_with_key(|labels| {
                classics.push(Classic {
                    labels: labels.clone(),
                    buckets: Vec::new(),
                });
                classics.len() - 1
            });
            classics[place].buckets.push((upper, column));
        }
        classics
    }
}

/// A bound as Go reads floats: decimal, hexadecimal excepted.
fn parse_bound(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// Answers by step. With several quantiles that change from step to step, each is a series of its own.
#[derive(Default)]
struct Answers {
    steps: Vec<(usize, f64)>,
}

impl Answers {
    /// The columns to make of the answers, with the quantile that they are for where that is told.
    fn into_columns(self, question: &Question) -> Vec<(Option<String>, Cells)> {
        let all = |steps: &mut dyn Iterator<Item = (usize, f64)>| {
            let mut cells = Cells::default();
            steps.for_each(|(step, value)| cells.push_float(step, value));
            cells
        };
        if self.steps.is_empty() {
            return Vec::new();
        }
        match question {
            Question::Quantile(Scalars::Constant(phi), Some(_)) => {
                vec![(Some(quantile_text(*phi)), all(&mut self.steps.into_iter()))]
            }
            Question::Quantile(phi, Some(_)) => {
                let mut parts: Vec<(String, Vec<(usize, f64)>)> = Vec::new();
                for (step, value) in self.steps {
                    let text = quantile_text(phi.at(step));
                    match parts.iter_mut().find(|(known, _)| *known == text) {
                        Some((_, steps)) => steps.push((step, value)),
                        None => parts.push((text, vec![(step, value)])),
                    }
                }
                parts
                    .into_iter()
                    .map(|(text, steps)| (Some(text), all(&mut steps.into_iter())))
                    .collect()
            }
            Question::Quantile(_, None) | Question::Fraction(..) => vec![(None, all(&mut self.steps.into_iter()))],
        }
    }
}

/// A quantile as a label value: as OpenMetrics writes floats, always with a point or an exponent.
fn quantile_text(phi: f64) -> String {
    let text = float_g(phi);
    if phi.is_finite() && !text.contains(['.', 'e']) {
        format!("{text}.0")
    } else {
        text
    }
}

fn native_answers(question: &Question, column: &Column, rival: Option<&Classic<'_>>, notes: &mut Notes<'_>) -> Answers {
    let mut answers = Answers::default();
    for (step, cell) in column.cells.iter() {
        let Cell::Histogram(histogram) = cell else { continue };
        if rival.is_some_and(|rival| rival.has_bucket(step)) {
            notes.add(Note::ClassicAndNative(metric_name(&column.labels).into()));
            continue;
        }
        answers
            .steps
            .push((step, native_answer(question, histogram, step, notes)));
    }
    answers
}

fn native_answer(question: &Question, histogram: &Histogram, step: usize, notes: &mut Notes<'_>) -> f64 {
    match question {
        Question::Quantile(phi, _) => {
            let (value, effect) = histogram.quantile(phi.at(step));
            match effect {
                NanEffect::None => {}
                NanEffect::Skewed => notes.add(Note::SkewedQuantile(notes.metric.into())),
                NanEffect::Result => notes.add(Note::NanQuantile(notes.metric.into())),
            }
            value
        }
        Question::Fraction(lower, upper) => {
            let (value, has_nan) = histogram.fraction(lower.at(step), upper.at(step));
            if has_nan {
                notes.add(Note::NanInFraction(notes.metric.into()));
            }
            value
        }
    }
}

fn classic_answers(
    question: &Question,
    classic: &Classic<'_>,
    rival: Option<&Column>,
    grid: Grid,
    notes: &mut Notes<'_>,
) -> Answers {
    let mut answers = Answers::default();
    let first = classic
        .buckets
        .iter()
        .map(|(_, column)| column.cells.steps().start)
        .min()
        .unwrap_or(0);
    let end = classic
        .buckets
        .iter()
        .map(|(_, column)| column.cells.steps().end)
        .max()
        .unwrap_or(0);
    let mut buckets: Vec<Bucket> = Vec::with_capacity(classic.buckets.len());
    for step in first..end {
        buckets.clear();
        buckets.extend(
            classic
                .buckets
                .iter()
                .filter_map(|&(upper, column)| match column.cells.at(step) {
                    Cell::Float(count) => Some(Bucket { upper, count }),
                    Cell::Absent | Cell::Histogram(_) => None,
                }),
        );
        if buckets.is_empty() || rival.is_some_and(|rival| matches!(rival.cells.at(step), Cell::Histogram(_))) {
            continue;
        }
        let value = match question {
            Question::Quantile(phi, _) => {
                let (value, forced) = bucket::quantile(phi.at(step), &mut buckets);
                if let Some(forced) = forced {
                    let at = grid.at(step);
                    notes.add_repair(Repair {
                        times: (at, at),
                        bounds: (forced.lowest, forced.highest),
                        difference: forced.difference,
                        count: 1,
                    });
                }
                value
            }
            Question::Fraction(lower, upper) => bucket::fraction(lower.at(step), upper.at(step), &mut buckets),
        };
        answers.steps.push((step, value));
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_told_with_a_point() {
        for (phi, text) in [
            (0.5, "0.5"),
            (1.0, "1.0"),
            (0.0, "0.0"),
            (1e-7, "1e-07"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(quantile_text(phi), text);
        }
    }

    #[test]
    fn bounds_are_numbers() {
        assert_eq!(parse_bound("+Inf"), Some(f64::INFINITY));
        assert_eq!(parse_bound(".2"), Some(0.2));
        assert_eq!(parse_bound("1e0"), Some(1.0));
        assert_eq!(parse_bound(""), None);
        assert_eq!(parse_bound("Hello World"), None);
    }
}
