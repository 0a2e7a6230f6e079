//! Which nodes own a series: the placement that the write path follows.
//!
//! A hash of tenant and labels ([`series_hash`]) is looked up in a table that is made of the ring document ([`placement`]) or of a ring
//! file in Thanos's schema ([`thanos`]). A table is immutable and pure: nodes that have seen the same document place every series alike.
//! [`Placement`] is either of them; whoever writes holds on to one for as long as it counts by its node numbers.

mod circle;
mod owners;
mod spread;
pub mod placement;
pub mod series_hash;
pub mod thanos;

pub use owners::{Node, NodeIndex, OWNERS_MAX, Owners};

use model::tenant::Tenant;
use placement::Ring;
use thanos::Rings;

/// Where series go.
#[derive(Debug)]
pub enum Placement {
    /// By the ring document.
    Document(Ring),
    /// By a static ring file.
    File(Rings),
}

/// Why a tenant's series have no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Nobody takes writes.
    #[error("no member of the ring is active yet")]
    NoMembers,
    /// The ring file leaves the tenant out.
    #[error("no hashring of the ring file is for tenant {0}")]
    NoRing(Tenant),
}

/// Placement for one tenant. Cheap to make, so it is made for each request.
#[derive(Debug, Clone)]
pub enum TenantPlacement<'a> {
    /// By the ring document.
    Document(placement::TenantRing<'a>),
    /// By a static ring file.
    File(thanos::TenantRing<'a>),
}

impl Placement {
    /// Counts the ring documents; 0 for a ring file.
    pub fn epoch(&self) -> u64 {
        match self {
            Placement::Document(ring) => ring.document().epoch,
            Placement::File(_) => 0,
        }
    }

    /// Nodes that take series; their numbers are indices into this list.
    pub fn nodes(&self) -> &[Node] {
        match self {
            Placement::Document(ring) => ring.nodes(),
            Placement::File(rings) => rings.nodes(),
        }
    }

    /// Copies of each series that are wanted. A ring with fewer members gives fewer owners; a quorum is counted by this number all the same.
    pub fn replication_factor(&self) -> usize {
        match self {
            Placement::Document(ring) => ring.document().replication_factor as usize,
            Placement::File(rings) => rings.replication_factor(),
        }
    }

    /// Placement for one tenant.
    pub fn tenant(&self, tenant: &Tenant) -> Result<TenantPlacement<'_>, PlaceError> {
        match self {
            Placement::Document(ring) if ring.nodes().is_empty() => Err(PlaceError::NoMembers),
            Placement::Document(ring) => Ok(TenantPlacement::Document(ring.tenant(tenant))),
            Placement::File(rings) => {
                let view = rings
                    .tenant(tenant.as_str())
                    .ok_or_else(|| PlaceError::NoRing(tenant.clone()))?;
                Ok(TenantPlacement::File(view))
            }
        }
    }
}

impl TenantPlacement<'_> {
    /// The owners of the series with this hash, the first one first: distinct, at least one.
    #[inline]
    pub fn owners(&self, hash: u64) -> Owners {
        match self {
            TenantPlacement::Document(view) => view.owners(hash),
            TenantPlacement::File(view) => view.owners(hash),
        }
    }

    /// The owners of every series, in no particular order, when all have the same: there are no more nodes than copies.
    pub fn everyone(&self) -> Option<Owners> {
        match self {
            TenantPlacement::Document(view) => view.everyone(),
            TenantPlacement::File(_) => None,
        }
    }

    /// The owners for a write while some nodes are not `usable`: each of those is replaced, at its place in the list, by the next usable
    /// node whose zone has the fewest copies. A place that nobody can take keeps its owner.
    pub fn owners_among(&self, hash: u64, usable: impl Fn(NodeIndex) -> bool) -> Owners {
        match self {
            TenantPlacement::Document(view) => view.owners_among(hash, usable),
            TenantPlacement::File(view) => view.owners_among(hash, usable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::document::Document;
    use thanos::Algorithm;

    #[test]
    fn both_kinds_answer_alike() {
        let tenant = Tenant::new("a").unwrap();
        let nobody = Placement::Document(Ring::new(Document::default()));
        assert_eq!(nobody.tenant(&tenant).unwrap_err(), PlaceError::NoMembers);
        let json = r#"{"epoch":7,"replication_factor":2,"members":[{"id":1,"address":"a:1","state":"ACTIVE"}]}"#;
        let one = Placement::Document(Ring::new(Document::from_json(json.as_bytes()).unwrap()));
        assert_eq!((one.epoch(), one.replication_factor(), one.nodes().len()), (7, 2, 1));
        assert_eq!(&*one.tenant(&tenant).unwrap().owners(3), &[0]);

        let rings = Rings::from_json(r#"[{"tenants": ["b"], "endpoints": ["a:1"]}]"#, Algorithm::Hashmod, 1).unwrap();
        let file = Placement::File(rings);
        assert_eq!(file.tenant(&tenant).unwrap_err(), PlaceError::NoRing(tenant.clone()));
        let view = file.tenant(&Tenant::new("b").unwrap()).unwrap();
        assert_eq!(
            (&*view.owners(3), &*view.owners_among(3, |_| false)),
            (&[0][..], &[0][..])
        );
    }
}
