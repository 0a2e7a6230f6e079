//! Finding series by matchers, without holding the lock of the index for long: a commit with new series waits for it, and all
//! other commits behind that one.
//!
//! Matchers that name values are looked up at once. Regular expressions are tried value by value, in small steps; or not at all, when
//! the others leave so few series that it is cheaper to try each of those.

use super::{Head, index::Index, projection::Projection};
use model::{identity::Identity, label::Labels, matcher::Matcher, tenant::Tenant};
use parking_lot::RwLockReadGuard;
use roaring::RoaringBitmap;

/// Values or series tried under one lock.
const STEP: usize = 1024;

/// Slots of series that satisfy matchers, as far as they were tried.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    slots: RoaringBitmap,
    tenant: u32,
    matchers: Vec<Matcher>,
    /// Whether each series must still be tried.
    untried: bool,
    /// State of the index at the beginning: when it has changed, slots may hold other series.
    dropped: u64,
}

/// A series that matched.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) slot: u32,
    /// Tells the series from a later one in the same slot.
    pub(crate) number: u64,
    pub(crate) labels: Labels,
    /// What tells it apart, if that was asked for.
    pub(crate) identity: Identity,
}

impl Selection {
    /// Slots that may satisfy the matchers, ascending.
    pub(crate) fn candidates(&self) -> Vec<u32> {
        self.slots.iter().collect()
    }

    /// Whether a candidate is a series that satisfies the matchers.
    fn holds(&self, index: &Index, slot: u32) -> bool {
        let certain = !self.untried && index.dropped() == self.dropped;
        certain || index.satisfies(slot, self.tenant, &self.matchers)
    }

    /// Those of some candidates that satisfy the matchers, with the labels that are wanted of them.
    pub(crate) fn resolve(&self, head: &Head, candidates: &[u32], projection: &mut Projection) -> Vec<Found> {
        let mut found = Vec::with_capacity(candidates.len());
        for step in candidates.chunks(STEP) {
            let index = head.index.read();
            projection.begin(&index);
            for &slot in step.iter().filter(|slot| self.holds(&index, **slot)) {
                if let Some((labels, identity)) = projection.show(&index, slot) {
                    found.push(Found {
                        slot,
                        number: index.number(slot),
                        labels,
                        identity,
                    });
                }
            }
        }
        found
    }

    /// Exactly the slots that satisfy the matchers, under a lock of the index during which they stay so.
    pub(crate) fn exact<'h>(&self, head: &'h Head) -> (RoaringBitmap, RwLockReadGuard<'h, Index>) {
        let mut slots = RoaringBitmap::new();
        if self.untried {
            for step in self.candidates().chunks(STEP) {
                let index = head.index.read();
                slots.extend(step.iter().filter(|slot| self.holds(&index, **slot)));
            }
        } else {
            slots.clone_from(&self.slots);
        }
        let index = head.index.read();
        if index.dropped() != self.dropped {
            slots = slots
                .iter()
                .filter(|slot| index.satisfies(*slot, self.tenant, &self.matchers))
                .collect();
        }
        (slots, index)
    }
}

impl Head {
    /// The series of a tenant that satisfy all matchers.
    pub(crate) fn find(&self, tenant: &Tenant, matchers: &[Matcher]) -> Selection {
        let index = self.index.read();
        let Some(id) = index.tenant_id(tenant) else {
            return Selection::default();
        };
        let (slots, rest) = index.tenants()[id as usize]
            .postings
            .narrow(matchers, |text| index.symbol(text));
        let dropped = index.dropped();
        drop(index);
        let mut selection = Selection {
            slots,
            tenant: id,
            matchers: matchers.to_vec(),
            untried: false,
            dropped,
        };
        for matcher in rest {
            self.try_values(&mut selection, matcher);
        }
        selection
    }

    /// Narrows a selection by a matcher of which every value must be tried.
    fn try_values(&self, selection: &mut Selection, matcher: &Matcher) {
        let tenant = selection.tenant as usize;
        let index = self.index.read();
        let Some(name) = index.symbol(&matcher.name) else {
            return;
        };
        let postings = &index.tenants()[tenant].postings;
        if selection.slots.len() <= postings.value_count(name) as u64 {
            selection.untried = true;
            return;
        }
        let values: Vec<u32> = postings.values(name).map(|(value, _)| value).collect();
        drop(index);
        // A matcher that a missing label satisfies takes away what does not match; others keep what does.
        let keeps = !matcher.matches_empty();
        let mut hits = Vec::new();
        for step in values.chunks(STEP) {
            let index = self.index.read();
            hits.extend(
                step.iter()
                    .filter(|value| matcher.matches(index.text(**value)) == keeps),
            );
        }
        let ids = self.index.read().tenants()[tenant].postings.having(name, &hits);
        if keeps {
            selection.slots &= ids;
        } else {
            selection.slots -= ids;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::matcher::MatchOp;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn matcher() -> impl Strategy<Value = Matcher> {
        let op = prop_oneof![
            Just(MatchOp::Equal),
            Just(MatchOp::NotEqual),
            Just(MatchOp::Regex),
            Just(MatchOp::NotRegex)
        ];
        let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("missing")];
        let values = [
            "", "v0", "v1", "v1|v2", "v.*", ".+", ".*", "|v1", "v[01]?", "nothing", "v[0-3].*", "(v7)",
        ];
        (op, name, prop::sample::select(values.to_vec()))
            .prop_map(|(op, name, value)| Matcher::new(op, name, value).unwrap())
    }

    proptest! {
        #[test]
        fn selection_is_what_the_matchers_say(
            values in proptest::collection::vec((0..4u8, 0..3u8, 0..90u8), 0..150),
            matchers in proptest::collection::vec(matcher(), 0..4),
            gone in proptest::collection::vec(any::<bool>(), 150),
            gone_later in proptest::collection::vec(any::<bool>(), 150),
        ) {
            let (head, tenant) = (Head::new(3), Tenant::default());
            let mut series: Vec<(u32, Labels)> = Vec::new();
            for (number, (a, b, c)) in (1..).zip(values) {
                let value = |number: u8| if number == 0 { String::new() } else { format!("v{}", number - 1) };
                let labels = Labels::new([("a", value(a)), ("b", value(b)), ("c", value(c))]).unwrap();
                let mut index = head.index.write();
                let id = index.ensure_tenant(&tenant);
                let hash = index.hash(id, &labels);
                if let (slot, true) = index.find_or_create(hash, id, number, &labels) {
                    series.push((slot, labels));
                }
            }
            let drop_some = |series: &mut Vec<(u32, Labels)>, gone: &[bool]| {
                let mut gone = gone.iter();
                series.retain(|(slot, _)| {
                    let stays = !gone.next().unwrap();
                    if !stays {
                        head.index.write().drop_series(*slot);
                    }
                    stays
                });
            };
            drop_some(&mut series, &gone);
            let selection = head.find(&tenant, &matchers);
            // Series leave, and their slots go to series of another tenant, while a query is under way.
            drop_some(&mut series, &gone_later);
            let mut index = head.index.write();
            let other = index.ensure_tenant(&Tenant::new("other").unwrap());
            (0..20u64).for_each(|number| {
                let labels = Labels::new([("a", "v1"), ("b", "v1"), ("n", &number.to_string())]).unwrap();
                index.create(other, 1000 + number, &labels);
            });
            drop(index);

            let fits = |labels: &Labels| matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or("")));
            let expected: BTreeSet<_> = series.iter().filter(|(_, labels)| fits(labels)).cloned().collect();
            let found = selection.resolve(&head, &selection.candidates(), &mut Projection::default());
            let found: BTreeSet<_> = found.into_iter().map(|found| (found.slot, found.labels)).collect();
            prop_assert_eq!(&found, &expected);
            let (slots, index) = selection.exact(&head);
            let expected_slots: BTreeSet<u32> = expected.iter().map(|(slot, _)| *slot).collect();
            prop_assert!(slots.iter().eq(expected_slots));
            for name in ["a", "b", "c"] {
                let (Some(postings), Some(symbol)) = (index.postings(&tenant), index.symbol(name)) else { continue };
                let values = postings.values_among(symbol, &slots).map(|value| index.text(value).to_owned());
                let expected = expected.iter().filter_map(|(_, labels)| labels.get(name)).map(str::to_owned);
                prop_assert_eq!(values.collect::<BTreeSet<_>>(), expected.collect::<BTreeSet<_>>());
            }
        }
    }
}
