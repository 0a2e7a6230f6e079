//! Operators between two vectors: series are paired by their matching labels, step by step.
//!
//! Which series can meet is settled once per series; whether a pairing is unambiguous is a question of each step, and the answer no
//! at any step fails the query.

use crate::{
    annotation::Note,
    ast::{Cardinality, Matching, Span},
    operator::{
        Evaluator,
        binary::{drops_name, element},
        column::{Cell, Cells, Column, Matrix, is_metadata, join_same_labels, without_metadata},
        scalar::arithmetic,
    },
    plan::{Binary, Grid},
    query::{Cancel, QueryError},
    value::Point,
};
use hashbrown::HashMap;
use model::label::Labels;

/// For the series of two sides, which of them can meet: those with the same number.
pub(super) struct Signatures {
    pub(super) left: Vec<u32>,
    pub(super) right: Vec<u32>,
    /// How many numbers there are.
    pub(super) count: usize,
}

/// Numbers the distinct values of the matching labels.
pub(super) fn signatures(matching: &Matching, left: &Matrix, right: &Matrix) -> Signatures {
    let mut numbers: HashMap<Box<[u8]>, u32, foldhash::fast::RandomState> = HashMap::default();
    let mut key = Vec::new();
    let mut number = |column: &Column| {
        key.clear();
        for (name, value) in column.labels.iter().filter(|(name, _)| is_matched(matching, name)) {
            for text in [name, value] {
                key.extend_from_slice(&(text.len() as u32).to_le_bytes());
                key.extend_from_slice(text.as_bytes());
            }
        }
        if let Some(&number) = numbers.get(key.as_slice()) {
            return number;
        }
        let number = numbers.len() as u32;
        numbers.insert(key.as_slice().into(), number);
        number
    };
    let left = left.columns.iter().map(&mut number).collect();
    let right = right.columns.iter().map(&mut number).collect();
    Signatures {
        left,
        right,
        count: numbers.len(),
    }
}

/// Whether series must agree on the label to meet.
fn is_matched(matching: &Matching, name: &str) -> bool {
    let named = matching.labels.iter().any(|label| label == name);
    if matching.on {
        named
    } else {
        !named && !is_metadata(name)
    }
}

/// The labels on which series agree that meet.
fn matched_labels(matching: &Matching, labels: &Labels) -> Labels {
    labels.filtered(|name| is_matched(matching, name))
}

/// Labels of the result of a pair.
fn result_labels(binary: &Binary, many: &Labels, one: &Labels) -> Labels {
    let matching = &binary.matching;
    let mut labels = if drops_name(binary.op) {
        without_metadata(many)
    } else {
        many.clone()
    };
    if matching.cardinality == Cardinality::OneToOne {
        let named = |name: &str| matching.labels.iter().any(|label| label == name);
        labels = if matching.on {
            labels.filtered(named)
        } else {
            labels.without(named)
        };
    }
    for name in &matching.include {
        labels = labels.with(name, one.get(name).unwrap_or(""));
    }
    labels
}

/// Series that can meet, by position in their side.
#[derive(Default)]
struct Group {
    many: Vec<usize>,
    one: Vec<usize>,
}

/// The two sides of an operator. The side "one" is the right one except for `group_right`.
struct Sides<'a> {
    binary: &'a Binary,
    /// Whether results of a comparison lose their names at once, so that they must not be the only difference.
    names_go: bool,
    many: &'a [Column],
    one: &'a [Column],
    groups: Vec<Group>,
    /// Group of each column of the side "many".
    many_groups: Vec<u32>,
    /// Group of each column of the side "one".
    one_groups: Vec<u32>,
    /// Value for a missing series of the side "many".
    fill_many: Option<f64>,
    /// Value for a missing series of the side "one".
    fill_one: Option<f64>,
    /// Steps at which there is anything to match.
    active: Vec<bool>,
}

/// An error, and at which step it comes up. Of several, the one at the first step is the answer.
struct Ambiguity {
    step: usize,
    text: String,
}

impl Evaluator<'_> {
    pub(super) fn match_vectors(&mut self, binary: &Binary, span: Span, grid: Grid) -> Result<Matrix, QueryError> {
        let left = self.vector(&binary.left, grid)?;
        let right = self.vector(&binary.right, grid)?;
        let signatures = signatures(&binary.matching, &left, &right);
        let mut sides = Sides::new(binary, &left, &right, signatures, grid);
        sides.names_go = binary.return_bool && !self.shared.settings.delayed_name_removal;
        if let Some(ambiguity) = sides.duplicates_on_side_one() {
            let earlier = sides.ambiguous_matches().filter(|other| other.step < ambiguity.step);
            return Err(QueryError::Execution(earlier.unwrap_or(ambiguity).text));
        }
        if let Some(ambiguity) = sides.ambiguous_matches() {
            return Err(QueryError::Execution(ambiguity.text));
        }
        let notes = &mut self.notes;
        let columns = sides.results(self.shared.cancel, &mut |note| notes.add(note, span))?;
        let columns: Vec<Column> = columns
            .into_iter()
            .map(|mut column| {
                if binary.return_bool {
                    self.drop_name(&mut column);
                }
                column
            })
            .collect();
        let columns = join_same_labels(columns)?;
        drop((left, right));
        self.matrix(columns)
    }
}

impl<'a> Sides<'a> {
    fn new(binary: &'a Binary, left: &'a Matrix, right: &'a Matrix, signatures: Signatures, grid: Grid) -> Self {
        let Matching {
            fill_left,
            fill_right,
            cardinality,
            ..
        } = binary.matching;
        let swapped = cardinality == Cardinality::OneToMany;
        let mut groups: Vec<Group> = (0..signatures.count).map(|_| Group::default()).collect();
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        let (many_groups, one_groups) = if swapped {
            (signatures.right, signatures.left)
        } else {
            (signatures.left, signatures.right)
        };
        let (fill_many, fill_one) = if swapped {
            (fill_right, fill_left)
        } else {
            (fill_left, fill_right)
        };
        many_groups
            .iter()
            .enumerate()
            .for_each(|(index, &group)| groups[group as usize].many.push(index));
        one_groups
            .iter()
            .enumerate()
            .for_each(|(index, &group)| groups[group as usize].one.push(index));
        let fills = fill_many.is_some() || fill_one.is_some();
        let present = (many.presence(grid.count), one.presence(grid.count));
        let active = present
            .0
            .iter()
            .zip(&present.1)
            .map(|(&many, &one)| if fills { many || one } else { many && one })
            .collect();
        let (many, one) = (&*many.columns, &*one.columns);
        Self {
            binary,
            names_go: false,
            many,
            one,
            groups,
            many_groups,
            one_groups,
            fill_many,
            fill_one,
            active,
        }
    }

    /// Two series of the side "one" with the same matching labels at the same step.
    fn duplicates_on_side_one(&self) -> Option<Ambiguity> {
        let groups = self.groups.iter().filter(|group| group.one.len() > 1);
        let overlaps = groups.filter_map(|group| first_overlap(self.one, &group.one, |_, step| self.active[step]));
        let (step, first, second) = overlaps.min_by_key(|(step, ..)| *step)?;
        let matching = &self.binary.matching;
        let mut pair = [&self.one[first].labels, &self.one[second].labels];
        pair.sort();
        let side = if matching.cardinality == Cardinality::OneToMany {
            "left"
        } else {
            "right"
        };
        let group = matched_labels(matching, pair[0]);
        let text = format!(
            "found duplicate series for the match group {group} on the {side} hand-side of the operation: [{}, {}]\
             ;many-to-many matching not allowed: matching labels must be unique on one side",
            pair[0], pair[1]
        );
        Some(Ambiguity { step, text })
    }

    /// Series of the side "many" that must not meet the same series of the side "one" at the same step.
    ///
    /// Without grouping, what a comparison filters away counts as well: whether a query is an error must not hang on values. With
    /// grouping, only results can collide.
    fn ambiguous_matches(&self) -> Option<Ambiguity> {
        let explicit = self.binary.matching.cardinality != Cardinality::OneToOne;
        let mut first: Option<usize> = None;
        for group in self.groups.iter().filter(|group| group.many.len() > 1) {
            let matched = self.matched_steps(group);
            let is_matched =
                |many: usize, step: usize| matched[step] && (!explicit || self.gives_value(group, many, step));
            let step = if explicit {
                self.same_results(group)
                    .filter_map(|same| first_overlap(self.many, &same, is_matched))
                    .map(|(step, ..)| step)
                    .min()
            } else {
                first_overlap(self.many, &group.many, is_matched).map(|(step, ..)| step)
            };
            first = first.into_iter().chain(step).min();
        }
        let text = if explicit {
            "multiple matches for labels: grouping labels must ensure unique matches"
        } else {
            "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
        };
        first.map(|step| Ambiguity {
            step,
            text: text.to_owned(),
        })
    }

    /// Steps at which series of the side "many" find a partner in the group.
    fn matched_steps(&self, group: &Group) -> Vec<bool> {
        if self.fill_one.is_some() {
            return self.active.clone();
        }
        let mut matched = vec![false; self.active.len()];
        for (step, _) in group.one.iter().flat_map(|&index| self.one[index].cells.iter()) {
            matched[step] = true;
        }
        matched
    }

    /// Whether a series of the side "many" has a result at a step. What a comparison filters away is in nobody's way.
    fn gives_value(&self, group: &Group, many: usize, step: usize) -> bool {
        let partners = group.one.iter().map(|&index| self.one[index].cells.at(step));
        let filled = self.fill_one.map(Cell::Float);
        let Some(one) = partners.into_iter().find(|cell| cell.is_present()).or(filled) else {
            return false;
        };
        let (left, right) = self.in_order(self.many[many].cells.at(step), one);
        element(self.binary.op, left, right, &mut |_| {}).is_some_and(|(_, holds)| holds || self.binary.return_bool)
    }

    /// Cells of the sides "many" and "one" as left and right operand.
    fn in_order<'c>(&self, many: Cell<'c>, one: Cell<'c>) -> (Cell<'c>, Cell<'c>) {
        if self.is_swapped() { (one, many) } else { (many, one) }
    }

    /// Sets of series of the side "many" that have the same result labels as one another.
    fn same_results(&self, group: &Group) -> impl Iterator<Item = Vec<usize>> {
        let one = group
            .one
            .first()
            .map_or_else(Labels::empty, |&index| self.one[index].labels.clone());
        let mut sets: HashMap<Labels, Vec<usize>, foldhash::fast::RandomState> = HashMap::default();
        for &index in &group.many {
            let mut labels = result_labels(self.binary, &self.many[index].labels, &one);
            if self.names_go {
                labels = without_metadata(&labels);
            }
            sets.entry(labels).or_default().push(index);
        }
        sets.into_values().filter(|set| set.len() > 1)
    }

    /// The results of all pairs, in the order of the side "many"; those with a filled side "many" last.
    fn results(&self, cancel: &Cancel, note: &mut dyn FnMut(Note<'_>)) -> Result<Vec<Column>, QueryError> {
        let mut columns = Vec::new();
        for (many, &group) in self.many.iter().zip(&self.many_groups) {
            cancel.check()?;
            let partners = &self.groups[group as usize].one;
            for &partner in partners {
                let one = &self.one[partner];
                if let Some(cells) = self.floats(&many.cells, &one.cells) {
                    columns.extend((!cells.is_empty()).then(|| Column {
                        labels: result_labels(self.binary, &many.labels, &one.labels),
                        drop_name: many.drop_name,
                        cells,
                    }));
                    continue;
                }
                let (from, to) = (many.cells.steps(), one.cells.steps());
                let steps = from.start.max(to.start)..from.end.min(to.end);
                let pairs = steps.map(|step| (step, many.cells.at(step), one.cells.at(step)));
                columns.extend(self.column(
                    pairs,
                    || result_labels(self.binary, &many.labels, &one.labels),
                    many.drop_name,
                    note,
                ));
            }
            if let Some(fill) = self.fill_one {
                let lonely = many
                    .cells
                    .iter()
                    .filter(|(step, _)| !self.is_present(self.one, partners, *step));
                let pairs = lonely.map(|(step, cell)| (step, cell, Cell::Float(fill)));
                let one = || matched_labels(&self.binary.matching, &many.labels);
                columns.extend(self.column(
                    pairs,
                    || result_labels(self.binary, &many.labels, &one()),
                    many.drop_name,
                    note,
                ));
            }
        }
        let Some(fill) = self.fill_many else { return Ok(columns) };
        for (one, &group) in self.one.iter().zip(&self.one_groups) {
            cancel.check()?;
            let partners = &self.groups[group as usize].many;
            let lonely = one
                .cells
                .iter()
                .filter(|(step, _)| !self.is_present(self.many, partners, *step));
            let pairs = lonely.map(|(step, cell)| (step, Cell::Float(fill), cell));
            let many = || matched_labels(&self.binary.matching, &one.labels);
            columns.extend(self.column(
                pairs,
                || result_labels(self.binary, &many(), &one.labels),
                one.drop_name,
                note,
            ));
        }
        Ok(columns)
    }

    /// The results of an arithmetic operator on a pair of series without histograms; `None` for others.
    fn floats(&self, many: &Cells, one: &Cells) -> Option<Cells> {
        let op = self.binary.op;
        if !drops_name(op) || many.has_histograms() || one.has_histograms() {
            return None;
        }
        let (left, right) = if self.is_swapped() { (one, many) } else { (many, one) };
        Some(left.combine_floats(right, |left, right| arithmetic(op, left, right)))
    }

    /// Whether the side "many" stands on the right.
    fn is_swapped(&self) -> bool {
        self.binary.matching.cardinality == Cardinality::OneToMany
    }

    fn is_present(&self, side: &[Column], partners: &[usize], step: usize) -> bool {
        partners.iter().any(|&index| side[index].cells.at(step).is_present())
    }

    /// The results of pairs of cells (of the sides "many" and "one") of a pair of series.
    fn column<'c>(
        &self,
        pairs: impl Iterator<Item = (usize, Cell<'c>, Cell<'c>)>,
        labels: impl FnOnce() -> Labels,
        drop_name: bool,
        note: &mut dyn FnMut(Note<'_>),
    ) -> Option<Column> {
        let mut cells = Cells::default();
        for (step, many, one) in pairs {
            let (left, right) = self.in_order(many, one);
            let Some((point, holds)) = element(self.binary.op, left, right, note) else {
                continue;
            };
            if self.binary.return_bool {
                cells.push(step, Point::Float(f64::from(u8::from(holds))));
            } else if holds {
                cells.push(step, point);
            }
        }
        (!cells.is_empty()).then(|| Column {
            labels: labels(),
            drop_name,
            cells,
        })
    }
}

/// The first step at which two of the columns have a value, among the columns and steps that count, and which two.
fn first_overlap(
    columns: &[Column],
    indexes: &[usize],
    counts: impl Fn(usize, usize) -> bool,
) -> Option<(usize, usize, usize)> {
    let mut owners: HashMap<usize, usize, foldhash::fast::RandomState> = HashMap::default();
    let mut first: Option<(usize, usize, usize)> = None;
    for &index in indexes {
        for (step, _) in columns[index].cells.iter().filter(|(step, _)| counts(index, *step)) {
            match owners.get(&step) {
                Some(&owner) if first.is_none_or(|(known, ..)| step < known) => first = Some((step, owner, index)),
                Some(_) => {}
                None => {
                    owners.insert(step, index);
                }
            }
        }
    }
    first
}
