//! The tenant taken from a label of the series rather than from the request.

use model::tenant::{Tenant, TenantError};

/// Takes the tenant out of the labels of a series: the value of the label called `name`, if it is there and not empty. The label is
/// removed then, labels with an empty value with it, and the others keep their order. Otherwise nothing is touched and the tenant of the
/// request stands.
pub fn split_tenant(name: &str, labels: &mut Vec<(&str, &str)>) -> Option<Result<Tenant, TenantError>> {
    let tenant = labels
        .iter()
        .find(|(label, _)| *label == name)
        .map(|(_, value)| *value)?;
    if tenant.is_empty() {
        return None;
    }
    labels.retain(|(label, value)| *label != name && !value.is_empty());
    Some(Tenant::new(tenant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_becomes_the_tenant() {
        let mut labels = vec![("tenant_id", "team-a"), ("zz", "1"), ("gone", ""), ("__name__", "up")];
        assert_eq!(split_tenant("tenant_id", &mut labels), Some(Tenant::new("team-a")));
        assert_eq!(labels, [("zz", "1"), ("__name__", "up")]);
    }

    #[test]
    fn without_the_label_nothing_changes() {
        for labels in [vec![("a", ""), ("__name__", "up")], vec![("tenant_id", ""), ("a", "")]] {
            let mut kept = labels.clone();
            assert_eq!(split_tenant("tenant_id", &mut kept), None);
            assert_eq!(kept, labels);
        }
    }

    #[test]
    fn a_hostile_tenant_is_an_error() {
        for hostile in ["a/b", "..", "/"] {
            assert!(split_tenant("t", &mut vec![("t", hostile)]).unwrap().is_err());
        }
    }
}
