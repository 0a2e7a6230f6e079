//! The settings of the process in the words of each part.

use crate::{limits::LimitBook, objstore, settings::Settings};
use ingest::{IngestSettings, OutOfOrderWindows, SeriesLimits, SyncPolicy};
use model::env::Env;
use querier::{Dedup, QuerierSettings};
use receiver::ReceiverSettings;
use std::{sync::Arc, time::Duration};
use storage::gateway::GatewaySettings;

/// What a power loss may take under `--wal.sync interval`.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn gateway(settings: &Settings, env: &Env) -> anyhow::Result<GatewaySettings> {
    let store = &settings.store;
    Ok(GatewaySettings {
        min_time: store.store_min_time,
        max_time: store.store_max_time,
        writes_manifest: store.store_manifest,
        selector: objstore::selector(store, env)?,
        consistency_delay: store.store_consistency_delay,
        deletion_marks_delay: store.store_ignore_deletion_marks_delay,
        cache_memory_bytes: store.store_cache_memory_bytes,
        query_memory_bytes: store.store_query_memory_bytes,
        cache_disk_bytes: store.store_cache_disk_bytes,
        query_series_max: store.store_series_max,
        query_chunks_max: store.store_chunks_max,
        query_bytes_max: store.store_query_bytes_max,
        ..GatewaySettings::new(settings.data_dir.join("gateway"))
    })
}

pub(super) fn ingest(settings: &Settings, book: &Arc<LimitBook>) -> IngestSettings {
    let (windows, series, all) = (book.clone(), book.clone(), book.clone());
    let window = OutOfOrderWindows::all(settings.write_out_of_order_window);
    IngestSettings {
        external_labels: settings.labels.clone(),
        future_max: settings.write_future_max,
        out_of_order: window.with_tenants(move |tenant| windows.window_of(tenant)),
        series_limits: SeriesLimits::new(move |tenant| series.series_of(tenant), move || all.series_of_process()),
        sync: match settings.wal_sync.as_str() {
            "interval" => SyncPolicy::Interval(SYNC_INTERVAL),
            "never" => SyncPolicy::Never,
            _ => SyncPolicy::EveryWrite,
        },
        ..IngestSettings::new(&settings.data_dir)
    }
}

/// Whether a feature was switched on by Prometheus's name of it.
fn enabled(settings: &Settings, feature: &str) -> bool {
    settings.enable_feature.iter().any(|name| name == feature)
}

pub(super) fn receiver(settings: &Settings) -> ReceiverSettings {
    ReceiverSettings {
        body_bytes_max: settings.write_body_bytes_max,
        decoded_bytes_max: settings.write_body_bytes_max,
        type_and_unit_labels: enabled(settings, "type-and-unit-labels"),
        ..ReceiverSettings::default()
    }
}

pub(super) fn querier(settings: &Settings) -> QuerierSettings {
    let enabled = |feature: &str| enabled(settings, feature);
    QuerierSettings {
        queries_max: settings.query_concurrency,
        tenant_requests_max: settings.query_tenant_concurrency,
        remote_reads_max: settings.query_remote_read_concurrency,
        remote_read_samples_max: settings.query_remote_read_samples_max,
        timeout: settings.query_timeout,
        lookback: settings.query_lookback_delta,
        samples_max: settings.query_max_samples,
        partial_response: settings.query_partial_response,
        replica_labels: settings.query_replica_labels.clone(),
        samples_together_max: settings.query_max_samples_together,
        experimental_functions: settings.query_experimental_functions || enabled("promql-experimental-functions"),
        delayed_name_removal: enabled("promql-delayed-name-removal"),
        extended_range_selectors: enabled("promql-extended-range-selectors"),
        fill_modifiers: enabled("promql-binop-fill-modifiers"),
        use_start_timestamps: enabled("use-start-timestamps"),
        type_and_unit_labels: enabled("type-and-unit-labels"),
        stats_by_step: enabled("promql-per-step-stats"),
        dedup: Dedup::named(&settings.query_dedup).unwrap_or_default(),
        cors_origin: settings.web_cors_origin.clone(),
        ..QuerierSettings::default()
    }
}
