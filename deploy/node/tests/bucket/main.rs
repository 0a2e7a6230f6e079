//! Buckets: one suite of checks for every kind, what happens when a store misbehaves, and what reading costs.

mod certificates;
mod conformance;
mod faults;
mod measures;
mod memory;
mod requests;
mod server;
mod world;
