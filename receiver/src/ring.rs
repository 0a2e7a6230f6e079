//! Which nodes own a series: the placement that the write path follows.
//!
//! A hash of tenant and labels ([`series_hash`]) is looked up in a table that is made of the ring document ([`placement`]).
//! A table is immutable and pure: nodes that have seen the same document place every series alike.

mod circle;
mod owners;
pub mod placement;
pub mod series_hash;

pub use owners::{Node, NodeIndex, OWNERS_MAX, Owners};
