//! From an accepted batch to an uploaded block: WAL, head, cut, ship.
//!
//! A push is committed in memory (head and WAL buffer in one pass), waits for the WAL to be on the disk, and is answered. Every two
//! hours the head's oldest window becomes a Prometheus block, which is uploaded; only then the WAL lets go. Modules are
//! listed in reading order; a module imports only from those above it.

pub mod settings;
mod metrics;
mod codec;
mod head;
mod wal;
mod blocks;
mod core;
mod spill;
mod late;
mod commit;
mod delete;
mod select;
mod image;
mod numbers;
mod decode;
mod restore;
mod restore_image;
mod rebuild;
mod replay;
mod ranks;
mod cut;
mod rewrite;
mod snapshot;
mod ship;
mod maintain;
mod stats;
mod ingester;
#[cfg(test)]
mod any_bytes;
#[cfg(test)]
mod bench;

// What tests in this crate share with those beside it names it as they do.
#[cfg(test)]
extern crate self as ingest;

pub use cut::CutBlock;
pub use head::HeadMemory;
pub use ingester::{Ingester, OpenError, ReplayProgress};
pub use maintain::CutError;
pub use settings::{IngestSettings, OutOfOrderWindows, SeriesLimits, SyncPolicy};
pub use stats::{Cardinality, HeadStats};
