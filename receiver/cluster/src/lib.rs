//! Who is in the ring: the membership document and how the members agree on it.
//!
//! [`document`] is the truth that is agreed on, a value with pure transitions. Nothing here is on the path of a sample: placement reads
//! the last document that this node has seen, whether or not the group has a leader.
//!
//! Modules are listed in reading order; a module imports only from those above it.
#![warn(missing_docs)]

pub mod member;
pub mod limits;
pub mod document;
pub mod disk;
#[cfg(test)]
mod testing;
pub mod store;
pub mod peers;
mod network;
mod voters;
mod metrics;
pub mod group;
pub mod follow;
