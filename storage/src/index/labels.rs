//! Label names and values, of all series or of those that match.

use super::{Index, IndexError, RawSeries};
use model::matcher::Matcher;
use std::collections::BTreeSet;

/// When a matching series stands for more than this many of all series, going through the lists of the label's values is cheaper
/// than reading each matching series.
const LISTS_PAY_OFF: usize = 64;

impl Index {
    /// Names of the labels of the series that match, ascending.
    pub fn names_matching(&self, matchers: &[Matcher]) -> Result<Vec<String>, IndexError> {
        if matchers.is_empty() {
            return Ok(self.label_names().map(str::to_owned).collect());
        }
        let ids = self.matching_exactly(matchers)?;
        if !self.has_series {
            return self.names_by_lists(&ids);
        }
        let (reader, mut series) = (self.series(), RawSeries::default());
        let mut numbers = BTreeSet::new();
        for id in ids {
            reader.read(id, &mut series)?;
            numbers.extend(reader.name_numbers(&series));
        }
        // Numbers ascend with the symbols they stand for.
        numbers
            .into_iter()
            .map(|number| Ok(reader.name(number)?.to_owned()))
            .collect()
    }

    /// Names of which some list holds one of `ids`.
    fn names_by_lists(&self, ids: &[u32]) -> Result<Vec<String>, IndexError> {
        let mut names = Vec::new();
        for name in self.label_names() {
            for (_, list) in self.table.values_from(&self.bytes, name, b"") {
                if self.postings(list)?.intersects(ids) {
                    names.push(name.to_owned());
                    break;
                }
            }
        }
        Ok(names)
    }

    /// Values of label `name` among the series that match, ascending.
    pub fn values_matching(&self, name: &str, matchers: &[Matcher]) -> Result<Vec<String>, IndexError> {
        // Conditions on this very label can be tried on its values.
        let (own, others): (Vec<&Matcher>, Vec<&Matcher>) = matchers.iter().partition(|m| &*m.name == name);
        let wanted = |value: &str| own.iter().all(|matcher| matcher.matches(value));
        if others.is_empty() {
            return Ok(self
                .label_values(name)
                .filter(|value| wanted(value))
                .map(str::to_owned)
                .collect());
        }
        let ids = self.matching_exactly(matchers)?;
        if self.has_series && ids.len().saturating_mul(LISTS_PAY_OFF) < self.series_count() {
            return self.values_of(name, &ids);
        }
        let mut values = Vec::new();
        for (value, list) in self
            .table
            .values_from(&self.bytes, name, b"")
            .filter(|(value, _)| wanted(value))
        {
            if self.postings(list)?.intersects(&ids) {
                values.push(value.to_owned());
            }
        }
        Ok(values)
    }

    /// Values of label `name` among the given series, read one by one.
    fn values_of(&self, name: &str, ids: &[u32]) -> Result<Vec<String>, IndexError> {
        let (reader, mut series) = (self.series(), RawSeries::default());
        let mut values = BTreeSet::new();
        for &id in ids {
            reader.read(id, &mut series)?;
            if let Some(value) = reader.value(&series, name)? {
                values.insert(value);
            }
        }
        Ok(values.into_iter().map(str::to_owned).collect())
    }
}
