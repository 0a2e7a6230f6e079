//! What the gateway knows of the bucket since its last sync.

use super::{failure::Failure, remote::RemoteBlock};
use crate::bucket::BlockListing;
use model::{tenant::Tenant, time::TimeRange};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use ulid::Ulid;

/// A block that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsideBlock {
    /// Why.
    pub reason: String,
    /// Why, as a word, for metrics.
    pub kind: &'static str,
    /// Whose it is, when that is known.
    pub tenant: Option<Tenant>,
    /// Its span, when that is known.
    pub range: Option<TimeRange>,
    /// Whether another try may help although nothing changed in the bucket.
    pub transient: bool,
    /// What lay in the bucket when it was tried.
    pub(super) listing: BlockListing,
}

impl AsideBlock {
    pub(super) fn new(failure: Failure, listing: BlockListing, owner: Option<(Tenant, TimeRange)>) -> Self {
        let (tenant, range) = owner.unzip();
        Self {
            reason: failure.reason,
            kind: failure.kind,
            tenant,
            range,
            transient: failure.transient,
            listing,
        }
    }
}

/// Why a block that is in order is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hidden {
    /// It was marked for deletion long enough ago.
    Marked,
    /// A mark says that it is not to be read.
    NoQuery,
    /// It is younger than the consistency delay.
    Fresh,
    /// It is downsampled, and raw queries do not use it.
    Downsampled,
    /// It lies outside of the span that is served.
    Outside,
    /// The selector leaves it to another gateway.
    NotSelected,
}

impl Hidden {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Marked,
        Self::NoQuery,
        Self::Fresh,
        Self::Downsampled,
        Self::Outside,
        Self::NotSelected,
    ];

    /// As a word, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Marked => "marked-for-deletion",
            Self::NoQuery => "marked-no-query",
            Self::Fresh => "too-fresh",
            Self::Downsampled => "downsampled",
            Self::Outside => "time-excluded",
            Self::NotSelected => "label-excluded",
        }
    }
}

/// The blocks of the bucket.
#[derive(Default, Clone)]
pub(super) struct State {
    /// Of each tenant the blocks that are served, by time.
    pub(super) by_tenant: HashMap<Tenant, Vec<Arc<RemoteBlock>>>,
    /// Blocks that cannot be served.
    pub(super) aside: BTreeMap<Ulid, AsideBlock>,
    /// How many blocks are not served, by reason.
    pub(super) hidden: BTreeMap<Hidden, usize>,
    /// Whether all this is what the manifest says, and the bucket was not looked at yet.
    pub(super) is_believed: bool,
}

impl State {
    pub(super) fn blocks(&self) -> impl Iterator<Item = &Arc<RemoteBlock>> {
        self.by_tenant.values().flatten()
    }

    pub(super) fn hidden(&self, why: Hidden) -> usize {
        self.hidden.get(&why).copied().unwrap_or(0)
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
        let mut warnings: Vec<String> = self
            .aside
            .iter()
            .filter(|(_, block)| concerns(block))
            .map(tell)
            .collect();
        if self.is_believed {
            let text = "the bucket was not listed yet since the start; blocks newer than its manifest may be missing";
            warnings.push(text.to_owned());
        }
        warnings
    }
}
