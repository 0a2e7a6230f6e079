//! Load generator, write ledger and side-by-side benchmarks.
//!
//! Everything here speaks to servers as their users do: over public HTTP, to processes it starts by their binaries. So
//! the same code drives Narthex, Prometheus and VictoriaMetrics.
//!
//! Modules are listed in reading order; a module imports only from those above it.
#![warn(missing_docs)]
// A load generator and the tests built on it live in real time with real sockets, threads and processes.
#![expect(clippy::disallowed_methods, reason = "this crate measures real servers from outside")]

pub mod clock;
mod families;
pub mod population;
pub mod fleet;
pub mod wire;
pub mod template;
pub mod http;
pub mod outcome;
pub mod write;
pub mod ledger;
pub mod api;
pub mod verify;
pub mod probe;
pub mod meter;
pub mod process;
pub mod s3;
pub mod questions;
pub mod ask;
pub mod mixed;
pub mod compare;
pub mod page;
pub mod report;
pub mod suite;
pub mod markdown;
pub mod command;

/// Version of this crate, which is that of Narthex.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
