//! From matchers to series: the part of a query that the index answers.
//!
//! A matcher that refuses the empty string includes the series of the values it accepts; one that accepts it excludes the series
//! of the values it refuses, since a series without the label passes. Cheap and selective ones go first. When few series are
//! left, an expression over many values is not evaluated here but left to be tried on the labels of those few.

use super::{Candidates, Index, IndexError, candidates, postings::Postings};
use model::matcher::{MatchOp, Matcher};

/// What the index says about a set of matchers.
#[derive(Debug, Clone)]
pub struct Matching {
    /// Series that may match, ascending, that is sorted by labels.
    pub ids: Vec<u32>,
    /// Matchers that were not evaluated: to be tried on each of those series.
    pub rest: Vec<Matcher>,
}

/// Lookups of at most so many values are done without asking whether they pay off.
const CHEAP_VALUES: usize = 256;

/// How one matcher is evaluated.
struct Plan<'a> {
    matcher: &'a Matcher,
    /// Whether it takes series away (it accepts a series without the label) or brings them in.
    excludes: bool,
    /// The values worth trying.
    scope: Candidates,
    /// Whether every value is wanted, which saves trying them.
    always: bool,
    /// How many values will be tried at most.
    cost: usize,
}

impl<'a> Plan<'a> {
    fn new(matcher: &'a Matcher, index: &Index) -> Self {
        let excludes = matcher.matches_empty();
        let negated = matches!(matcher.op, MatchOp::NotEqual | MatchOp::NotRegex);
        // What is looked for is what the text describes when both or neither turn the meaning around.
        let scope = if negated == excludes {
            candidates(matcher)
        } else {
            Candidates::Any
        };
        let always = match matcher.op {
            MatchOp::Equal | MatchOp::NotEqual => matcher.value.is_empty(),
            MatchOp::Regex | MatchOp::NotRegex => &*matcher.value == ".+" && negated == excludes,
        };
        let values = index.table.value_count(&matcher.name);
        let cost = match &scope {
            Candidates::Literals(literals) => literals.len().min(values),
            Candidates::Prefix(_) | Candidates::Any => values,
        };
        let scope = if always { Candidates::Any } else { scope };
        Self {
            matcher,
            excludes,
            scope,
            always,
            cost,
        }
    }

    /// Whether the series with this value are brought in, or taken away.
    fn wants(&self, value: &str) -> bool {
        !value.is_empty() && (self.always || self.matcher.matches(value) != self.excludes)
    }

    /// The lists of the values that are wanted, and how many series they name together.
    fn lists<'i>(&self, index: &'i Index) -> Result<(Vec<Postings<'i>>, usize), IndexError> {
        let name = &self.matcher.name;
        let mut offsets = Vec::new();
        match &self.scope {
            Candidates::Literals(literals) => {
                let wanted = literals.iter().filter(|literal| self.wants(literal));
                offsets.extend(wanted.filter_map(|literal| index.table.find(&index.bytes, name, literal)));
            }
            Candidates::Prefix(prefix) => {
                let values = index.table.values_from(&index.bytes, name, prefix);
                let inside = values.take_while(|(value, _)| value.as_bytes().starts_with(prefix));
                offsets.extend(inside.filter(|(value, _)| self.wants(value)).map(|(_, list)| list));
            }
            Candidates::Any => {
                let values = index.table.values_from(&index.bytes, name, b"");
                offsets.extend(values.filter(|(value, _)| self.wants(value)).map(|(_, list)| list));
            }
        }
        let (mut lists, mut total) = (Vec::with_capacity(offsets.len()), 0);
        for offset in offsets {
            let list = index.postings(offset)?;
            total += list.len();
            // A series has one value of a name, so the lists of a name are disjoint; a broken index must not make us gather
            // more than there is.
            if total > index.series_count() {
                return Err(IndexError::malformed(
                    "postings list",
                    offset,
                    "values of one label share series",
                ));
            }
            lists.push(list);
        }
        Ok((lists, total))
    }
}

impl Index {
    /// Finds the series that satisfy `matchers`; all series when there are none.
    pub fn matching(&self, matchers: &[Matcher]) -> Result<Matching, IndexError> {
        self.evaluate(matchers, true)
    }

    /// Evaluates `matchers`; with `defer`, dear ones are left over when few series are.
    fn evaluate(&self, matchers: &[Matcher], defer: bool) -> Result<Matching, IndexError> {
        let mut plans: Vec<Plan<'_>> = matchers.iter().map(|matcher| Plan::new(matcher, self)).collect();
        // Those that bring in before those that take away, each from cheap to dear.
        plans.sort_by_key(|plan| (plan.excludes, plan.cost));
        let (cheap, dear): (Vec<_>, Vec<_>) = plans.into_iter().partition(|plan| plan.cost <= CHEAP_VALUES);
        let mut found = Found { index: self, ids: None };
        let mut included = Vec::new();
        for plan in cheap.iter().filter(|plan| !plan.excludes) {
            included.push(plan.lists(self)?);
        }
        included.sort_by_key(|(_, total)| *total);
        for (lists, total) in included {
            found.include(&lists, total);
        }
        for plan in cheap.iter().filter(|plan| plan.excludes) {
            let (lists, total) = plan.lists(self)?;
            found.exclude(&lists, total)?;
        }
        let mut rest = Vec::new();
        for plan in dear {
            if defer && found.ids.as_ref().is_some_and(|ids| ids.len() <= plan.cost) {
                rest.push(plan.matcher.clone());
                continue;
            }
            let (lists, total) = plan.lists(self)?;
            if plan.excludes {
                found.exclude(&lists, total)?
            } else {
                found.include(&lists, total)
            }
        }
        Ok(Matching {
            ids: found.all_or_some()?,
            rest,
        })
    }

    /// Like [`Self::matching`] with every matcher evaluated.
    pub fn matching_exactly(&self, matchers: &[Matcher]) -> Result<Vec<u32>, IndexError> {
        let Matching { mut ids, rest } = self.evaluate(matchers, self.has_series)?;
        if rest.is_empty() {
            return Ok(ids);
        }
        let (reader, mut series) = (self.series(), super::RawSeries::default());
        let mut failure = None;
        ids.retain(|&id| {
            let outcome = reader
                .read(id, &mut series)
                .and_then(|()| reader.matches(&series, &rest));
            failure.is_none() && outcome.map_err(|error| failure = Some(error)).unwrap_or(false)
        });
        failure.map_or(Ok(ids), Err)
    }
}

/// Series found so far.
struct Found<'a> {
    index: &'a Index,
    /// `None` stands for all.
    ids: Option<Vec<u32>>,
}

impl Found<'_> {
    /// Keeps only series of `lists`.
    fn include(&mut self, lists: &[Postings<'_>], total: usize) {
        // Lists of one label that name as many series as there are name all of them.
        if total == self.index.series_count() {
            return;
        }
        match (&mut self.ids, lists) {
            (None, lists) => self.ids = Some(union(lists, total)),
            (Some(ids), [list]) => list.retain(ids, true),
            (Some(ids), lists) => {
                let wanted = union(lists, total);
                retain_sorted(ids, &wanted, true);
            }
        }
    }

    /// Drops the series of `lists`.
    fn exclude(&mut self, lists: &[Postings<'_>], total: usize) -> Result<(), IndexError> {
        if total == self.index.series_count() {
            self.ids = Some(Vec::new());
        }
        if lists.is_empty() {
            return Ok(());
        }
        let mut ids = self.all_or_some()?;
        match lists {
            [list] => list.retain(&mut ids, false),
            lists => retain_sorted(&mut ids, &union(lists, total), false),
        }
        self.ids = Some(ids);
        Ok(())
    }

    fn all_or_some(&mut self) -> Result<Vec<u32>, IndexError> {
        match self.ids.take() {
            Some(ids) => Ok(ids),
            None => Ok(self.index.all()?.map_or(Vec::new(), |all| all.iter().collect())),
        }
    }
}

/// The ids of all lists, ascending.
fn union(lists: &[Postings<'_>], total: usize) -> Vec<u32> {
    let mut ids = Vec::with_capacity(total);
    for list in lists {
        ids.extend(list.iter());
    }
    // The stable sort finds the runs that the lists are.
    ids.sort();
    ids.dedup();
    ids
}

/// Keeps of the ascending `ids` those that are among the ascending `others`, or those that are not.
fn retain_sorted(ids: &mut Vec<u32>, others: &[u32], keep: bool) {
    let mut rest = others;
    ids.retain(|&id| {
        while rest.first().is_some_and(|&first| first < id) {
            rest = &rest[1..];
        }
        (rest.first() == Some(&id)) == keep
    });
}
