//! Thanos's read protocol over gRPC: `thanos.Store`, `thanos.info.Info`, `thanos.Exemplars` and `thanos.Metadata`.
//!
//! It is how processes read from each other, in both directions compatible with Thanos: [`routes`] serves any
//! [`SelectTenants`](model::select::SelectTenants), and [`StoreClient`] asks another process, ours or Thanos's. Chunks pass through as the bytes that
//! they are. The tenant travels in the metadata of a call, under the names that remote write uses for its headers.

mod message;
mod series;
mod convert;
mod server;
mod client;
mod reflect;

pub use client::{ClientTls, EndpointInfo, SeriesStream, StoreClient};
pub use reflect::add_reflection;
pub use series::{SeriesError, WireSeries};
pub use server::{Description, ParseSelectors, StoreService, routes};

/// The metadata key under which the tenant travels, as Thanos writes it.
const TENANT_KEY: &str = "thanos-tenant";

/// Largest message that is taken. Thanos's store gateway puts all chunks of a series into one message, which may be large; ours are
/// about a megabyte.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
