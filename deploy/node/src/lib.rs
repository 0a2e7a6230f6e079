//! The binary `narthex`: settings, roles, assemble, tools, self-observability.
//!
//! Parts become a process here: only this crate knows the receiver, the ingester and the querier at once, binds sockets,
//! reads settings and touches the real clock, disk and network (see [`env`]).

pub mod role;
pub mod settings;
pub mod env;
pub mod objstore;
pub mod discover;
pub mod metrics;
pub mod watch;
pub mod tls;
pub mod between;
pub mod web;
pub mod serve;
mod calls;
pub mod status;
pub mod banner;
pub mod ring;
pub mod members;
pub mod limits;
pub mod tenancy;
pub mod admin;
pub mod assemble;
pub mod tools;
pub mod cli;
