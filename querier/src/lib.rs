//! From a question to JSON: fan-out, merge, dedup, the Prometheus HTTP API.
//!
//! The node hands in everything that can be asked ([`model::select::SelectTenants`]) and mounts [`http::routes`]. Modules are
//! listed in reading order; a module imports only from those above it.
#![warn(missing_docs)]

pub mod settings;
pub mod metrics;
pub mod status;
pub mod union;
mod penalty;
pub mod replica;
mod reading;
pub mod merge;
mod peeked;
pub mod fanout;
pub mod endpoint;
pub mod gate;
mod evaluate;
mod querier;
pub mod http;

pub use endpoint::{Endpoint, EndpointSet, EndpointSettings};
pub use fanout::{Fanout, Policy, Source, Spare};
pub use querier::Querier;
pub use reading::Reading;
pub use settings::{Dedup, QuerierSettings};
pub use status::StatusProvider;
