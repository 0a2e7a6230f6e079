//! The nouns and seams of Narthex, in plain Rust: no input or output, no wire format.
//!
//! Everything that takes samples implements [`push::Push`], everything that gives them back implements
//! [`select::Select`], what takes them away again implements [`admin::Administer`]. What differs between production, tests and
//! simulation is injected through [`env`].
//!
//! Modules are listed in reading order; a module imports only from those above it.
#![warn(missing_docs)]

pub mod time;
pub mod tenant;
pub mod label;
pub mod identity;
pub mod stale;
pub mod histogram;
pub mod sample;
pub mod metadata;
pub mod matcher;
pub mod verdict;
pub mod push;
pub mod select;
pub mod admin;
pub mod env;
