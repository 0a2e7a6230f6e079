//! What the gateway knows of the bucket since its last sync.

use super::remote::RemoteBlock;
use crate::bucket::BlockListing;
use model::{tenant::Tenant, time::TimeRange};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use ulid::Ulid;

/// A block that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsideBlock {
    /// Why.
    pub reason: String,
    /// Whose it is, when that is known.
    pub tenant: Option<Tenant>,
    /// Its span, when that is known.
    pub range: Option<TimeRange>,
    /// Whether another try may help although nothing changed in the bucket.
    pub transient: bool,
    /// What lay in the bucket when it was tried.
    pub(super) listing: BlockListing,
}

/// The blocks of the bucket.
#[derive(Default)]
pub(super) struct State {
    /// Of each tenant the blocks that are served, by time.
    pub(super) by_tenant: HashMap<Tenant, Vec<Arc<RemoteBlock>>>,
    /// Blocks that cannot be served.
    pub(super) aside: BTreeMap<Ulid, AsideBlock>,
    /// Downsampled blocks, which raw queries do not use.
    pub(super) left_out: BTreeSet<Ulid>,
    /// Complete blocks outside of the span that is served.
    pub(super) outside: usize,
}

impl State {
    pub(super) fn blocks(&self) -> impl Iterator<Item = &Arc<RemoteBlock>> {
        self.by_tenant.values().flatten()
    }

    pub(super) fn tenants(&self) -> Vec<Tenant> {
        let mut tenants: Vec<Tenant> = self.by_tenant.keys().cloned().collect();
        tenants.sort_unstable();
        tenants
    }

    /// The blocks of a tenant with samples in `range`.
    pub(super) fn overlapping(&self, tenant: &Tenant, range: TimeRange) -> Vec<Arc<RemoteBlock>> {
        let blocks = self.by_tenant.get(tenant).map_or(&[][..], Vec::as_slice);
        blocks
            .iter()
            .filter(|block| block.meta.range().overlaps(range))
            .cloned()
            .collect()
    }

    /// What an answer to `tenant` over `range` may lack.
    pub(super) fn warnings(&self, tenant: &Tenant, range: TimeRange) -> Vec<String> {
        let concerns = |block: &AsideBlock| {
            block.tenant.as_ref().is_none_or(|owner| owner == tenant)
                && block.range.is_none_or(|held| held.overlaps(range))
        };
        // A tenant must not learn what another's block says, so a block of unknown owner is named without its reason.
        let tell = |(ulid, block): (&Ulid, &AsideBlock)| match block.tenant {
            Some(_) => format!("block {ulid} is missing from the answer: {}", block.reason),
            None => format!("block {ulid} cannot be read and may be missing from the answer"),
        };
        self.aside
            .iter()
            .filter(|(_, block)| concerns(block))
            .map(tell)
            .collect()
    }
}
