//! Settings that every node must agree on: what one tenant may use.
//!
//! The document holds one set for all tenants and overrides for some. A value that is not set leaves it to the setting of the node.

use serde::{Deserialize, Serialize};

/// What one tenant may use. `None` is not set; 0 is without bound. A key that this version does not know is passed over, so that a newer
/// member can set it while older ones still run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Nodes over which the tenant's series spread; 0 is all. Fewer than the replication factor count as many as it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard_size: Option<u32>,
    /// Series with a recent sample, over the whole cluster, each counted once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_series_max: Option<u64>,
    /// Samples in a second, over the whole cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_per_second_max: Option<u64>,
    /// Samples at once, over the whole cluster: how much a sender that was away may catch up in one go. Ten seconds' worth when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_burst_max: Option<u64>,
    /// Samples of one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_samples_max: Option<u64>,
    /// Series of one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_series_max: Option<u64>,
    /// Bytes of one request before decompression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bytes_max: Option<u64>,
    /// Labels of one series.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels_per_series_max: Option<u64>,
    /// Bytes of a label name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_name_bytes_max: Option<u64>,
    /// Bytes of a label value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_value_bytes_max: Option<u64>,
    /// How far behind the newest sample of a series one may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_of_order_window_ms: Option<u64>,
}

impl Limits {
    /// Every key, for readers that take unknown ones for mistakes.
    pub const KEYS: [&str; 11] = [
        "shard_size",
        "active_series_max",
        "samples_per_second_max",
        "samples_burst_max",
        "request_samples_max",
        "request_series_max",
        "request_bytes_max",
        "labels_per_series_max",
        "label_name_bytes_max",
        "label_value_bytes_max",
        "out_of_order_window_ms",
    ];

    /// These limits, and for what they leave open those of `fallback`.
    pub fn or(self, fallback: Limits) -> Limits {
        Limits {
            shard_size: self.shard_size.or(fallback.shard_size),
            active_series_max: self.active_series_max.or(fallback.active_series_max),
            samples_per_second_max: self.samples_per_second_max.or(fallback.samples_per_second_max),
            samples_burst_max: self.samples_burst_max.or(fallback.samples_burst_max),
            request_series_max: self.request_series_max.or(fallback.request_series_max),
            request_samples_max: self.request_samples_max.or(fallback.request_samples_max),
            request_bytes_max: self.request_bytes_max.or(fallback.request_bytes_max),
            labels_per_series_max: self.labels_per_series_max.or(fallback.labels_per_series_max),
            label_name_bytes_max: self.label_name_bytes_max.or(fallback.label_name_bytes_max),
            label_value_bytes_max: self.label_value_bytes_max.or(fallback.label_value_bytes_max),
            out_of_order_window_ms: self.out_of_order_window_ms.or(fallback.out_of_order_window_ms),
        }
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_keys_is_complete() {
        let all = Limits::KEYS.map(|key| (key.to_owned(), serde_json::json!(1)));
        let limits: Limits = serde_json::from_value(serde_json::Value::from_iter(all)).unwrap();
        let written = serde_json::to_value(limits).unwrap();
        assert_eq!(written.as_object().unwrap().len(), Limits::KEYS.len());
        assert_eq!(Limits::default().or(limits), limits);
    }

    #[test]
    fn what_is_not_set_comes_from_the_fallback() {
        let all = Limits {
            shard_size: Some(3),
            active_series_max: Some(10),
            ..Limits::default()
        };
        let one = Limits {
            active_series_max: Some(0),
            ..Limits::default()
        };
        let merged = one.or(all);
        assert_eq!((merged.shard_size, merged.active_series_max), (Some(3), Some(0)));
        assert_eq!(merged.request_bytes_max, None);
        assert_eq!(serde_json::to_string(&one).unwrap(), r#"{"active_series_max":0}"#);
    }
}
