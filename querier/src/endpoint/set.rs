//! The endpoints that somebody listed, as one group of the fan-out.

use super::{Endpoint, EndpointSettings, EndpointStatus};
use crate::fanout::{Fanout, Source};
use futures::{StreamExt as _, stream};
use model::{env::Env, label::Labels, time::TimeRange};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Endpoints asked at the same time what they hold.
const PROBES_IN_FLIGHT: usize = 32;

/// Label sets that one process tells of its endpoints; beyond, it tells none, which means that anything may be there.
const LABEL_SETS_MAX: usize = 1000;

/// Endpoints by address. Whoever finds addresses calls [`Self::update`].
pub struct EndpointSet {
    env: Env,
    settings: EndpointSettings,
    group: &'static str,
    /// Whether every sample of one is also on others.
    replicated: bool,
    fanout: Arc<Fanout>,
    held: Mutex<BTreeMap<String, Endpoint>>,
}

impl EndpointSet {
    /// An empty set that will be the group `group` of `fanout`. With `replicated`, each sample of an endpoint is also on others of the
    /// set, as among the ingesters of a ring.
    pub fn new(
        env: Env,
        settings: EndpointSettings,
        group: &'static str,
        replicated: bool,
        fanout: Arc<Fanout>,
    ) -> Self {
        Self {
            env,
            settings,
            group,
            replicated,
            fanout,
            held: Mutex::default(),
        }
    }

    /// Makes the set hold exactly `addresses`. Those that stay keep their connection. An address that cannot be one is left out and
    /// logged.
    pub fn update(&self, addresses: &BTreeSet<String>) {
        let mut held = self.held.lock();
        let before = held.len();
        held.retain(|address, _| addresses.contains(address));
        let mut changed = held.len() != before;
        for address in addresses {
            if held.contains_key(address) {
                continue;
            }
            match Endpoint::new(address, self.settings.clone(), &self.env) {
                Ok(endpoint) => {
                    tracing::info!(address, "new endpoint");
                    held.insert(address.clone(), endpoint);
                    changed = true;
                }
                Err(error) => tracing::warn!(address, error, "not an endpoint"),
            }
        }
        if changed {
            let source = |(address, endpoint): (&String, &Endpoint)| {
                let select = Arc::new(endpoint.clone());
                match self.replicated {
                    true => Source::replica(address, select),
                    false => Source::sole(address, select),
                }
            };
            self.fanout.set_group(self.group, held.iter().map(source).collect());
        }
    }

    /// Asks every endpoint what it holds.
    pub async fn probe_all(&self) {
        let endpoints: Vec<Endpoint> = self.held.lock().values().cloned().collect();
        let probes = endpoints.into_iter().map(async |endpoint| {
            if let Err(error) = endpoint.probe().await {
                tracing::debug!(address = endpoint.address(), %error, "endpoint does not answer");
            }
        });
        stream::iter(probes)
            .buffer_unordered(PROBES_IN_FLIGHT)
            .collect::<()>()
            .await;
    }

    /// What they are and how they do, by address.
    pub fn statuses(&self) -> Vec<EndpointStatus> {
        self.held.lock().values().map(Endpoint::status).collect()
    }

    /// External labels and span of what all of them hold, for a process that passes them on. No label sets when anything may be
    /// there.
    pub fn holds(&self) -> (Vec<Labels>, TimeRange) {
        let mut sets = BTreeSet::new();
        let mut range = TimeRange::new(i64::MAX, i64::MIN);
        let mut anything = false;
        for status in self.statuses() {
            anything |= status.label_sets.is_empty();
            sets.extend(status.label_sets);
            range.min = range.min.min(status.range.min);
            range.max = range.max.max(status.range.max);
        }
        if anything || sets.len() > LABEL_SETS_MAX {
            sets.clear();
        }
        (sets.into_iter().collect(), range)
    }
}
