//! What the status pages of the API say about this process.

use crate::{calls, settings::Settings};
use futures::future::BoxFuture;
use ingest::{Cardinality, Ingester};
use model::{admin::Administer, env::Env, select::SelectError, tenant::Tenant, time::Timestamp};
use parking_lot::Mutex;
use querier::status::{HeadStats, OtherCall, StatusProvider};
use std::sync::Arc;

/// Settings, start time and head of this process.
pub struct Status {
    flags: Vec<(String, String)>,
    started: Timestamp,
    env: Env,
    /// `None` in a process without a head.
    ingester: Option<Arc<Ingester>>,
    admin: bool,
}

impl Status {
    /// For a process that starts now.
    pub fn new(settings: &Settings, env: &Env, ingester: Option<Arc<Ingester>>) -> Self {
        Self {
            flags: settings.shown(),
            started: env.clock.now(),
            env: env.clone(),
            ingester,
            admin: settings.web_enable_admin_api,
        }
    }
}

impl StatusProvider for Status {
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn revision(&self) -> String {
        String::new()
    }

    fn flags(&self) -> Vec<(String, String)> {
        self.flags.clone()
    }

    fn config(&self) -> String {
        // Flow strings of JSON are YAML, whatever a value holds.
        self.flags
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", serde_json::json!(value)))
            .collect()
    }

    fn other_calls(&self) -> Vec<OtherCall> {
        calls::other_calls(self.ingester.is_some())
    }

    fn started(&self) -> Timestamp {
        self.started
    }

    fn admin(&self) -> Option<Arc<dyn Administer>> {
        let ingester: Arc<dyn Administer> = self.ingester.clone()?;
        self.admin.then_some(ingester)
    }

    /// Counting walks all series of the tenant, so it happens where computing hurts nobody.
    fn head_stats(&self, tenant: &Tenant, limit: usize) -> BoxFuture<'_, Result<HeadStats, SelectError>> {
        let Some(ingester) = self.ingester.clone() else {
            return Box::pin(async { Ok(HeadStats::default()) });
        };
        let tenant = tenant.clone();
        let result = Arc::new(Mutex::new(None));
        let told = result.clone();
        let count = move || *told.lock() = Some(shown(ingester.stats(&tenant, limit)));
        Box::pin(async move {
            self.env.spawn.blocking("head-stats", Box::new(count)).await;
            let counted = result.lock().take();
            counted.ok_or_else(|| SelectError::Unavailable("the head could not be counted".to_owned()))
        })
    }
}

/// The ingester's numbers in the words of the API.
fn shown(stats: ingest::HeadStats) -> HeadStats {
    let list = |items: Vec<Cardinality>| items.into_iter().map(|item| (item.name, item.count)).collect();
    let (min_time, max_time) = stats.time.unwrap_or_default();
    HeadStats {
        series: stats.series,
        label_pairs: stats.label_pairs,
        chunks: stats.chunks,
        min_time,
        max_time,
        series_by_metric: list(stats.series_by_metric),
        values_by_label: list(stats.values_by_label),
        bytes_by_label: list(stats.bytes_by_label),
        series_by_pair: list(stats.series_by_pair),
    }
}
