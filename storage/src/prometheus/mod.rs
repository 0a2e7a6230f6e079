//! Reading what a Prometheus left in its data folder beside its blocks: the write-ahead log of its head.
//!
//! ```text
//! data/
//!     01J…/                      blocks; [`crate::block`] reads those
//!     wal/checkpoint.00000007/   what segments up to 7 held and was still needed
//!     wal/00000008 …             segments behind the checkpoint
//!     wbl/00000000 …             samples that came out of order, in the same form
//! ```
//!
//! Who moves from Prometheus brings the last hours along by it. Damage costs what is damaged, and is told.

mod frames;
mod records;
mod head;
mod import;

pub use frames::WalCompression;
pub use head::{HeadReport, read_head};
pub use import::{Import, ImportError, Imported};
