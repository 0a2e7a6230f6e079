//! What an operator may set about the receiver, with the defaults and their reasons.

use proto::compression::BODY_BYTES_MAX_DEFAULT;
use std::time::Duration;

/// Settings of a receiver. All bounds hold per process unless they say otherwise.
#[derive(Debug, Clone)]
pub struct ReceiverSettings {
    /// Longest body as it comes over the wire.
    pub body_bytes_max: usize,
    /// Longest body once decompressed.
    pub decoded_bytes_max: usize,
    /// Bytes of all requests in progress, compressed and decompressed; beyond it requests are told to come again.
    pub in_flight_bytes_max: usize,
    /// How long a sender may take to send one body.
    pub body_timeout: Duration,
    /// Length of a remote write 2.0 symbol table.
    pub symbols_max: usize,
    /// Spellings of series that are remembered, over all tenants. One takes 40 to 80 bytes; a series has one for each
    /// way in which its senders encode it, usually one.
    pub spellings_max: usize,
    /// Tenants whose spellings are remembered at the same time.
    pub tenants_max: usize,
    /// Bounds on label sets.
    pub labels: LabelLimits,
    /// Whether type and unit that remote write 2.0 tells become the labels `__type__` and `__unit__`.
    pub type_and_unit_labels: bool,
}

impl Default for ReceiverSettings {
    fn default() -> Self {
        Self {
            body_bytes_max: BODY_BYTES_MAX_DEFAULT,
            decoded_bytes_max: BODY_BYTES_MAX_DEFAULT,
            in_flight_bytes_max: 256 << 20,
            body_timeout: Duration::from_secs(30),
            symbols_max: 1 << 20,
            spellings_max: 8 << 20,
            tenants_max: 10_000,
            labels: LabelLimits::default(),
            type_and_unit_labels: false,
        }
    }
}

/// Bounds on the labels of one series. Generous: they are there against accidents and attacks, not to educate.
#[derive(Debug, Clone)]
pub struct LabelLimits {
    /// Labels of one series. Container labels alone can be some dozens.
    pub labels_max: usize,
    /// Bytes of a label name.
    pub name_bytes_max: usize,
    /// Bytes of a label value.
    pub value_bytes_max: usize,
    /// Bytes of all names and values of a series together.
    pub total_bytes_max: usize,
}

impl Default for LabelLimits {
    fn default() -> Self {
        Self {
            labels_max: 1_024,
            name_bytes_max: 1_024,
            value_bytes_max: 64 << 10,
            total_bytes_max: 128 << 10,
        }
    }
}
