//! What becomes of a series before it is stored: other labels, another tenant, or nothing.
//!
//! `gather` asks once for each series that it meets for the first time, after the labels were checked: first relabelling, then, where the
//! operator wants it, the label that names the tenant, which is taken out of the series. The rules may be replaced while requests run;
//! `write` forgets all routes then, since they rest on the old ones.

use crate::{admit::show, relabel::Relabel};
use model::{
    label::{Labels, METRIC_NAME},
    tenant::Tenant,
    verdict::Reason,
};

/// Rules for the series of all tenants.
#[derive(Debug, Default)]
pub struct Shaping {
    /// Applied first.
    pub relabel: Relabel,
    /// A series with this label belongs to the tenant that it names.
    pub tenant_label: Option<String>,
}

/// What became of a series.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shaped {
    /// It is stored with these labels.
    Kept(Labels),
    /// It belongs to another tenant than that of its batch.
    Elsewhere(Tenant, Labels),
    /// A rule drops it, which is a success.
    Dropped,
    /// It can never be stored.
    Refused(Reason, String),
}

impl Shaping {
    /// Whether every series stays what it is.
    pub(crate) fn is_empty(&self) -> bool {
        self.relabel.is_empty() && self.tenant_label.is_none()
    }

    /// What becomes of a series that came for `tenant`. When the tenant is `bound`, by credentials, a label cannot name another one.
    pub(crate) fn shape(&self, labels: Labels, tenant: &Tenant, bound: bool) -> Shaped {
        let Some(labels) = self.relabel.apply(labels) else {
            return Shaped::Dropped;
        };
        if labels.get(METRIC_NAME).is_none() {
            let text = format!("after relabelling {} has no {METRIC_NAME}", show(&labels));
            return Shaped::Refused(Reason::MissingMetricName, text);
        }
        let named = self
            .tenant_label
            .as_deref()
            .and_then(|name| Some((name, labels.get(name)?)));
        let Some((name, id)) = named else {
            return Shaped::Kept(labels);
        };
        let owner = match Tenant::new(id) {
            Ok(owner) => owner,
            Err(error) => {
                let text = format!("the label {name} of {} names no tenant: {error}", show(&labels));
                return Shaped::Refused(Reason::InvalidLabel, text);
            }
        };
        let stripped = labels.without(|label| label == name);
        if owner == *tenant {
            return Shaped::Kept(stripped);
        }
        if bound {
            let text = format!(
                "the label {name} of {} names the tenant {owner}, but the credentials of the request are those of {tenant}",
                show(&labels)
            );
            return Shaped::Refused(Reason::InvalidLabel, text);
        }
        Shaped::Elsewhere(owner, stripped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::new(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn a_label_names_the_tenant_and_is_taken_out() {
        let shaping = Shaping {
            tenant_label: Some("team".to_owned()),
            ..Shaping::default()
        };
        let tenant = Tenant::new("a").unwrap();
        let with = |team: &str| labels(&[("__name__", "up"), ("team", team)]);
        let bare = labels(&[("__name__", "up")]);
        assert_eq!(shaping.shape(bare.clone(), &tenant, true), Shaped::Kept(bare.clone()));
        assert_eq!(shaping.shape(with("a"), &tenant, true), Shaped::Kept(bare.clone()));
        let other = Tenant::new("b").unwrap();
        assert_eq!(shaping.shape(with("b"), &tenant, false), Shaped::Elsewhere(other, bare));
        for (team, bound) in [("b", true), ("..", false), ("x/y", false), ("\0", true)] {
            let shaped = shaping.shape(with(team), &tenant, bound);
            assert!(matches!(shaped, Shaped::Refused(Reason::InvalidLabel, _)), "{shaped:?}");
        }
    }
}
