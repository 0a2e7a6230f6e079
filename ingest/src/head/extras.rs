//! What a head keeps beside samples: metadata of metric families, and the newest exemplars.
//!
//! Both are bounded for each tenant, both are in the WAL, neither is in blocks.

use model::{
    metadata::Metadata,
    sample::Exemplar,
    time::TimeRange,
    verdict::{Reason, Verdict},
};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Longest label set of an exemplar in characters, as OpenMetrics has it.
const EXEMPLAR_LABELS_MAX: usize = 128;

/// An exemplar and its series.
#[derive(Debug, Clone)]
pub(crate) struct StoredExemplar {
    pub(crate) slot: u32,
    /// Number of the series; a slot may be used again.
    pub(crate) number: u64,
    pub(crate) exemplar: Exemplar,
}

#[derive(Debug, Default)]
struct TenantExtras {
    metadata: BTreeMap<String, Metadata>,
    /// In the order in which they came.
    exemplars: VecDeque<StoredExemplar>,
    /// The newest exemplar of each series that has one in `exemplars`, with the number of those.
    newest: HashMap<u64, (Exemplar, usize)>,
}

/// The extras of all tenants, by their number in the index.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    tenants: HashMap<u32, TenantExtras>,
}

impl Extras {
    /// Keeps metadata; tells whether it was news. Beyond `max` families nothing new is kept.
    pub(crate) fn put_metadata(&mut self, tenant: u32, metadata: &Metadata, max: usize) -> bool {
        let known = &mut self.tenants.entry(tenant).or_default().metadata;
        let is_new = match known.get(&metadata.family) {
            Some(old) => old != metadata,
            None => known.len() < max,
        };
        if is_new {
            known.insert(metadata.family.clone(), metadata.clone());
        }
        is_new
    }

    /// Metadata of one family or all.
    pub(crate) fn metadata(&self, tenant: u32, family: Option<&str>) -> Vec<Metadata> {
        let Some(extras) = self.tenants.get(&tenant) else {
            return Vec::new();
        };
        match family {
            Some(family) => extras.metadata.get(family).cloned().into_iter().collect(),
            None => extras.metadata.values().cloned().collect(),
        }
    }

    /// What is to become of an exemplar of series `number`.
    pub(crate) fn judge(&self, tenant: u32, number: u64, exemplar: &Exemplar) -> Verdict {
        let length: usize = exemplar
            .labels
            .iter()
            .map(|(name, value)| name.chars().count() + value.chars().count())
            .sum();
        if length > EXEMPLAR_LABELS_MAX {
            return Verdict::Rejected(Reason::InvalidExemplar);
        }
        let newest = self.tenants.get(&tenant).and_then(|extras| extras.newest.get(&number));
        match newest {
            Some((newest, _)) if is_same(newest, exemplar) => Verdict::Duplicate,
            Some((newest, _)) if newest.at > exemplar.at => {
                let known = &self.tenants[&tenant].exemplars;
                let is_known = |stored: &StoredExemplar| stored.number == number && is_same(&stored.exemplar, exemplar);
                if known.iter().any(is_known) {
                    Verdict::Duplicate
                } else {
                    Verdict::Rejected(Reason::InvalidExemplar)
                }
            }
            _ => Verdict::Written,
        }
    }

    /// Keeps an exemplar; the oldest one makes room when there are more than `max`.
    pub(crate) fn put_exemplar(&mut self, tenant: u32, stored: StoredExemplar, max: usize) {
        let extras = self.tenants.entry(tenant).or_default();
        while extras.exemplars.len() >= max.max(1) {
            let Some(oldest) = extras.exemplars.pop_front() else {
                break;
            };
            if let Some((_, count)) = extras.newest.get_mut(&oldest.number) {
                *count -= 1;
                if *count == 0 {
                    extras.newest.remove(&oldest.number);
                }
            }
        }
        let newest = extras
            .newest
            .entry(stored.number)
            .or_insert_with(|| (stored.exemplar.clone(), 0));
        newest.0 = stored.exemplar.clone();
        newest.1 += 1;
        extras.exemplars.push_back(stored);
    }

    /// Exemplars of a tenant in `range`, in the order in which they came.
    pub(crate) fn exemplars(&self, tenant: u32, range: TimeRange) -> Vec<StoredExemplar> {
        let Some(extras) = self.tenants.get(&tenant) else {
            return Vec::new();
        };
        extras
            .exemplars
            .iter()
            .filter(|stored| range.contains(stored.exemplar.at))
            .cloned()
            .collect()
    }
}

fn is_same(a: &Exemplar, b: &Exemplar) -> bool {
    a.at == b.at && a.value.to_bits() == b.value.to_bits() && a.labels == b.labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::label::Labels;

    fn exemplar(at: i64, value: f64) -> Exemplar {
        Exemplar {
            labels: Labels::new([("trace_id", "x")]).unwrap(),
            value,
            at,
        }
    }

    fn stored(number: u64, at: i64) -> StoredExemplar {
        StoredExemplar {
            slot: number as u32,
            number,
            exemplar: exemplar(at, 1.0),
        }
    }

    #[test]
    fn exemplars_are_judged_and_bounded() {
        let mut extras = Extras::default();
        assert_eq!(extras.judge(0, 1, &exemplar(10, 1.0)), Verdict::Written);
        for at in 10..20 {
            extras.put_exemplar(0, stored(1, at), 5);
        }
        assert_eq!(extras.exemplars(0, TimeRange::ALL).len(), 5);
        assert_eq!(extras.exemplars(0, TimeRange::new(18, 100)).len(), 2);
        assert_eq!(extras.judge(0, 1, &exemplar(19, 1.0)), Verdict::Duplicate);
        assert_eq!(extras.judge(0, 1, &exemplar(17, 1.0)), Verdict::Duplicate);
        assert_eq!(
            extras.judge(0, 1, &exemplar(17, 2.0)),
            Verdict::Rejected(Reason::InvalidExemplar)
        );
        assert_eq!(extras.judge(0, 1, &exemplar(20, 2.0)), Verdict::Written);
        assert_eq!(
            extras.judge(1, 1, &exemplar(3, 2.0)),
            Verdict::Written,
            "tenants do not see one another"
        );
        let long = Exemplar {
            labels: Labels::new([("a", "x".repeat(128))]).unwrap(),
            value: 1.0,
            at: 30,
        };
        assert_eq!(extras.judge(0, 1, &long), Verdict::Rejected(Reason::InvalidExemplar));
        for at in 0..5 {
            extras.put_exemplar(0, stored(2, at), 5);
        }
        assert!(
            extras.tenants[&0].newest.keys().eq([&2]),
            "what is gone is not remembered"
        );
    }

    #[test]
    fn metadata_is_kept_once_and_bounded() {
        let mut extras = Extras::default();
        let metadata = |family: &str, help: &str| Metadata {
            family: family.into(),
            help: help.into(),
            ..Metadata::default()
        };
        assert!(extras.put_metadata(0, &metadata("a", "x"), 2));
        assert!(!extras.put_metadata(0, &metadata("a", "x"), 2));
        assert!(extras.put_metadata(0, &metadata("a", "y"), 2));
        assert!(extras.put_metadata(0, &metadata("b", ""), 2));
        assert!(!extras.put_metadata(0, &metadata("c", ""), 2));
        assert_eq!(extras.metadata(0, Some("a")), [metadata("a", "y")]);
        assert_eq!(extras.metadata(0, None).len(), 2);
        assert!(extras.metadata(1, None).is_empty());
    }
}
