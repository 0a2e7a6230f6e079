//! What to ask an endpoint on behalf of a tenant: nothing when it cannot hold the answer, and never for another tenant's series.
//!
//! Narthex's processes keep tenants apart by themselves. Thanos's components show everything to everyone; there the tenant is an
//! external label, so a matcher on it is added to each question and the label is taken off the answer.

use super::EndpointSettings;
use model::{
    label::Labels,
    matcher::{MatchOp, Matcher},
    select::SelectError,
    tenant::Tenant,
    time::TimeRange,
};
use proto::thanos::EndpointInfo;

/// How to ask.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scope {
    /// The question's matchers, and the one that keeps other tenants out.
    pub(super) matchers: Vec<Matcher>,
    /// Labels to take off the answer.
    pub(super) without: Vec<String>,
}

/// How to ask for `matchers` in `range`; `None` when the endpoint cannot hold any of it.
pub(super) fn scope(
    info: &EndpointInfo,
    settings: &EndpointSettings,
    tenant: &Tenant,
    matchers: &[Matcher],
    range: TimeRange,
) -> Result<Option<Scope>, SelectError> {
    if !info.serves_series || !info.range.overlaps(range) {
        return Ok(None);
    }
    let mut asked = matchers.to_vec();
    let mut without = Vec::new();
    let label = &settings.tenant_label;
    let tells_tenant = info.label_sets.is_empty() || info.label_sets.iter().any(|set| set.get(label).is_some());
    if !info.isolates_tenants {
        if tells_tenant {
            asked.push(own_series(label, settings, tenant)?);
            without.push(label.clone());
        } else if *tenant != settings.default_tenant {
            return Ok(None);
        }
    }
    let may_hold = |set: &Labels| {
        let fits = |matcher: &Matcher| set.get(&matcher.name).is_none_or(|value| matcher.matches(value));
        // What an isolating endpoint says of the tenant's label is its own affair.
        let concerns = |matcher: &&Matcher| !(info.isolates_tenants && *matcher.name == **label);
        asked.iter().filter(concerns).all(fits)
    };
    if !info.label_sets.is_empty() && !info.label_sets.iter().any(may_hold) {
        return Ok(None);
    }
    Ok(Some(Scope {
        matchers: asked,
        without,
    }))
}

/// The matcher for a tenant's series; those without a tenant belong to the default one.
fn own_series(label: &str, settings: &EndpointSettings, tenant: &Tenant) -> Result<Matcher, SelectError> {
    if *tenant != settings.default_tenant {
        return Ok(Matcher::equal(label, tenant.as_str()));
    }
    let pattern = format!("|{}", escaped(tenant.as_str()));
    Matcher::new(MatchOp::Regex, label, &pattern)
        .map_err(|error| SelectError::Unavailable(format!("tenant {tenant}: {error}")))
}

/// A tenant id as a regular expression for itself.
fn escaped(id: &str) -> String {
    let special = |c: char| ".()*".contains(c);
    id.chars()
        .flat_map(|c| special(c).then_some('\\').into_iter().chain([c]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(isolates_tenants: bool, sets: &[&[(&str, &str)]]) -> EndpointInfo {
        EndpointInfo {
            component: "store".into(),
            label_sets: sets
                .iter()
                .map(|set| Labels::new(set.iter().copied()).unwrap())
                .collect(),
            range: TimeRange::new(100, 200),
            serves_series: true,
            serves_exemplars: false,
            serves_metadata: false,
            strips_labels: true,
            isolates_tenants,
        }
    }

    fn ask(info: &EndpointInfo, tenant: &str, matchers: &[Matcher], range: TimeRange) -> Option<Scope> {
        let tenant = Tenant::new(tenant).unwrap();
        scope(info, &EndpointSettings::default(), &tenant, matchers, range).unwrap()
    }

    #[test]
    fn endpoints_are_asked_only_for_what_they_may_hold() {
        let eu = info(true, &[&[("region", "eu")], &[("region", "us")]]);
        let up = Matcher::equal("__name__", "up");
        let region = |value| [up.clone(), Matcher::equal("region", value)];
        assert!(ask(&eu, "a", &region("us"), TimeRange::ALL).is_some());
        assert!(ask(&eu, "a", &region("asia"), TimeRange::ALL).is_none());
        assert!(ask(&eu, "a", &region("us"), TimeRange::new(0, 99)).is_none());
        assert!(ask(&eu, "a", &region("us"), TimeRange::new(200, 300)).is_some());
        assert!(ask(&info(true, &[]), "a", &region("asia"), TimeRange::ALL).is_some());
    }

    #[test]
    fn a_component_without_tenants_is_asked_for_one_tenant_only() {
        let up = [Matcher::equal("__name__", "up")];
        let receive = info(false, &[&[("tenant_id", "a")], &[("tenant_id", "b")]]);
        let asked = ask(&receive, "a", &up, TimeRange::ALL).unwrap();
        assert_eq!(asked.matchers, [up[0].clone(), Matcher::equal("tenant_id", "a")]);
        assert_eq!(asked.without, ["tenant_id"]);
        assert!(ask(&receive, "c", &up, TimeRange::ALL).is_none());
        let sidecar = info(false, &[&[("cluster", "x")]]);
        assert!(ask(&sidecar, "a", &up, TimeRange::ALL).is_none());
        let asked = ask(&sidecar, "default-tenant", &up, TimeRange::ALL).unwrap();
        assert_eq!((asked.matchers.len(), asked.without.len()), (1, 0));
        let mixed = info(false, &[&[("cluster", "x")], &[("tenant_id", "default-tenant")]]);
        let asked = ask(&mixed, "default-tenant", &up, TimeRange::ALL).unwrap();
        let own = &asked.matchers[1];
        assert!(own.matches("") && own.matches("default-tenant") && !own.matches("a"));
        assert_eq!(escaped("a.b(*)"), "a\\.b\\(\\*\\)");
    }
}
